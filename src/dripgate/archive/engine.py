"""Daft at work: blocks go out to workers, each with its own gate; rows come back.

A worker is a process, so that one that dies takes nothing along. On a cluster it is an actor of
Ray's. What passes between them is Daft's affair, pickles included: a cluster must be trusted.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from dripgate.archive import guard
from dripgate.archive.decide import Asked, Block, Decider
from dripgate.archive.needs import daft, transport
from dripgate.archive.rows import schema
from dripgate.errors import DataError
from dripgate.gate import Gate
from dripgate.text import one_line


class Answer(NamedTuple):
    """What came back about the block of this number: its rows, and the CPU seconds they took."""

    block: int
    rows: pa.Table
    cpu: float


class Engine:
    """A process has one, here or on a cluster; ``run`` may be called again after a failure."""

    def __init__(
        self, gate: Gate, asked: Asked, *, cluster: str | None, workers: int | None, anonymous: bool
    ) -> None:
        """Raises DataError where there is no such cluster, MissingExtra without the engine."""
        self._daft = daft()
        guard.install()
        self.transport = transport(anonymous=anonymous)
        self._schema = schema(embeddings=asked.embeddings)
        self.where = "this machine"
        if cluster is None:
            self.workers = workers or os.cpu_count() or 1
        else:
            self.workers = self._join(cluster, workers)
        self._decide = _expression(gate, asked, self.transport, self._schema, self.workers)

    def run(self, blocks: Sequence[Block]) -> Iterator[Answer]:
        """Rows of blocks as they are done, in any order.

        Raises whatever the engine raises where a worker dies; what was not answered until then
        is to be given again.
        """
        frame = self._daft.from_arrow(_outgoing(blocks))
        if self.where != "this machine":
            frame = frame.into_partitions(min(len(blocks), self.workers * 4))
        columns = [frame[name] for name in ("number", "addresses", "sizes", "times")]
        answers = frame.select(self._decide(*columns).alias("answer"))
        for batch in answers.to_arrow_iter(results_buffer_size=self.workers):
            for answer in batch.column("answer"):
                yield self._answer(answer)

    def _answer(self, answer: pa.StructScalar) -> Answer:
        rows = pa.table(
            [column.cast(f.type) for column, f in zip(
                answer["rows"].values.flatten(), self._schema, strict=True)],
            schema=self._schema,
        )  # fmt: skip
        return Answer(answer["block"].as_py(), rows, answer["cpu"].as_py())

    def _join(self, cluster: str, workers: int | None) -> int:
        try:
            import ray
        except ImportError:
            raise DataError(
                f"{cluster}: a cluster needs Ray, of the cluster's own version; "
                "run: pip install 'daft[ray]'"
            ) from None
        try:
            self._daft.set_runner_ray(address=cluster, noop_if_initialized=True)
            cores = int(ray.cluster_resources().get("CPU", 1))
        except Exception as error:  # Ray's errors share no base class
            cause = one_line(" ".join(str(error).split()))[:300]
            # A bug of Ray's: ray-project/ray#63202.
            forked = "Starting Ray client server failed" in cause
            remedy = (
                "try again; it helps to start the head with GRPC_ENABLE_FORK_SUPPORT=0 set"
                if forked
                else "check the address, and that Python and Ray are of the same versions there"
            )
            raise DataError(f"{cluster}: no such cluster ({cause}); {remedy}") from None
        self.where = cluster
        return workers or max(1, cores)


def _outgoing(blocks: Sequence[Block]) -> pa.Table:
    return pa.table(
        {
            "number": pa.array([b.number for b in blocks], pa.int64()),
            "addresses": pa.array([b.addresses for b in blocks], pa.list_(pa.string())),
            "sizes": pa.array([b.sizes for b in blocks], pa.list_(pa.int64())),
            "times": pa.array([b.times for b in blocks], pa.list_(pa.float64())),
        }
    )


def _expression(gate: Gate, asked: Asked, io: Any, shape: pa.Schema, workers: int) -> Any:
    """The step that decides, as the engine has it: a class that each worker makes once."""
    engine = daft()
    answer = pa.struct(
        [("block", pa.int64()), ("cpu", pa.float64()), ("rows", pa.list_(pa.struct(shape)))]
    )
    kind = engine.DataType.from_arrow_type(answer)

    class Worker:
        def __init__(self) -> None:
            self._decider = Decider(gate, asked, io)

        @engine.method.batch(return_dtype=kind, batch_size=1)  # type: ignore[untyped-decorator]
        def decide(self, numbers: Any, addresses: Any, sizes: Any, times: Any) -> Any:
            columns = (numbers, addresses, sizes, times)
            found = []
            for row in zip(*(column.to_pylist() for column in columns), strict=True):
                rows, cpu = self._decider(Block(*row))
                found.append((row[0], cpu, rows))
            return engine.Series.from_arrow(_packed(found, answer))

    made = engine.cls(use_process=True, max_concurrency=workers)(Worker)
    return made().decide


def _packed(found: list[tuple[int, float, pa.RecordBatch]], kind: pa.DataType) -> pa.Array:
    lengths = [0, *(rows.num_rows for _, _, rows in found)]
    structs = pa.concat_arrays([rows.to_struct_array() for _, _, rows in found])
    offsets = pa.array(lengths, pa.int32())
    offsets = pa.array(offsets.to_numpy().cumsum().astype("int32"))
    numbers = pa.array([number for number, _, _ in found], pa.int64())
    cpu = pa.array([spent for _, spent, _ in found], pa.float64())
    return pa.StructArray.from_arrays(
        [numbers, cpu, pa.ListArray.from_arrays(offsets, structs)], fields=list(kind)
    )
