"""The driver: what is pending goes to the engine, what comes back is kept, whoever dies.

A failure of the engine costs what was under way, which is given again. Where it fails again the
samples under way become fewer, down to one: a sample that kills whoever decides it is noted as
unreadable, and the rest goes on.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa

from dripgate import media
from dripgate.archive.decide import Asked, Block
from dripgate.archive.engine import Answer, Engine
from dripgate.archive.listing import Columns, entries, root_of
from dripgate.archive.rows import schema
from dripgate.archive.tally import Tally, tally
from dripgate.archive.work import Manifest, Work
from dripgate.errors import DataError, DripgateError, IncompleteError
from dripgate.gate import Gate
from dripgate.text import one_line
from dripgate.types import AudioInput

#: Blocks that are given to the engine together, for each worker: its start is made worth while.
AHEAD = 512
#: Samples in a row that may kill their worker before the engine is blamed for it.
_SUSPECTS = 8
#: Bytes that are assumed of a file whose size the listing does not say.
_ASSUMED, _ASSUMED_AUDIO = 64 << 10, 1 << 20

OnTurn = Callable[["Progress"], None]


class How(msgspec.Struct, frozen=True, kw_only=True):
    """columns: of a table. times, overlap, embeddings: see ``Asked``. cluster: address of a Ray
    cluster; None is this machine. workers: None is one for each core. anonymous: without
    credentials, for public buckets.
    """

    columns: Columns = Columns()
    times: str = "mtime"
    overlap: float = media.OVERLAP
    embeddings: bool = False
    cluster: str | None = None
    workers: int | None = None
    anonymous: bool = False


class Progress(msgspec.Struct, kw_only=True):
    """Addresses: of the listing, done by earlier runs, done by this one. samples: of this run,
    windows counted each. seconds: since this run began to decide. cpu: seconds of all
    workers, in the end with the driver's own.
    deaths: failures of the engine that were got over.
    """

    addresses: int
    before: int
    done: int = 0
    samples: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    deaths: int = 0


class Sifted(msgspec.Struct, frozen=True, kw_only=True):
    """What is in ``out`` now. skipped: what the listing passed over, in lines. cpu_per_million:
    hours of CPU for a million samples, None where this run decided nothing.
    """

    out: str
    source: str
    gate: str
    where: str
    workers: int
    progress: Progress
    tally: Tally
    skipped: tuple[str, ...]
    cpu_per_million: float | None


def sift(
    source: str,
    gate: Gate,
    out: Path,
    how: How | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[str], object] = lambda _: None,
    on_turn: OnTurn = lambda _: None,
) -> Sifted:
    """Decide about every sample of a source, and go on where an earlier call ended.

    told: is given a line for what is passed over, and for what goes wrong and is got over.
    Raises DataError for what is no source, or an ``out`` begun otherwise; IncompleteError where
    ``stop`` said so: the same call goes on from there.
    """
    how, work = how or How(), Work(out)
    with work.claimed():
        asked = Asked(times=how.times, overlap=how.overlap, embeddings=how.embeddings)
        wanted = Manifest(
            source=source, root=root_of(source), gate=gate.id, columns=how.columns, asked=asked,
            assumed=_ASSUMED_AUDIO if isinstance(gate.info.input, AudioInput) else _ASSUMED,
            addresses=0, skipped=(),
        )  # fmt: skip
        manifest = work.manifest
        if manifest is not None and not manifest.same(wanted):
            raise DataError(_other(out, manifest, wanted))
        engine = Engine(
            gate, asked, cluster=how.cluster, workers=how.workers, anonymous=how.anonymous
        )
        if manifest is None:
            manifest = _listed(work, wanted, engine, told)
        progress = _Run(work, manifest, engine, told, on_turn, stop).all()
        found = tally(work.parts())
    samples = progress.samples
    return Sifted(
        out=str(out), source=source, gate=gate.id, where=engine.where, workers=engine.workers,
        progress=progress, tally=found, skipped=manifest.skipped,
        cpu_per_million=progress.cpu / 3600 / samples * 1e6 if samples else None,
    )  # fmt: skip


def _listed(
    work: Work, wanted: Manifest, engine: Engine, told: Callable[[str], object]
) -> Manifest:
    skipped: list[str] = []

    def passed_over(line: str) -> None:
        skipped.append(one_line(line))
        told(skipped[-1])

    found = entries(wanted.source, wanted.columns, engine.transport, passed_over)
    manifest = work.enlist(found, wanted, skipped)
    told(f"{wanted.source}: {manifest.addresses:,} addresses")
    return manifest


class _Run:
    """One run over what is pending."""

    def __init__(
        self, work: Work, manifest: Manifest, engine: Engine, told: Callable[[str], object],
        on_turn: OnTurn, stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._work, self._manifest, self._engine = work, manifest, engine
        self._told, self._on_turn, self._stop = told, on_turn, stop
        waiting = work.pending()
        left = sum(rows for _, rows in waiting)
        self._waiting = iter([number for number, _ in waiting])
        self._open: dict[int, _Partition] = {}
        self._partition_of: dict[int, int] = {}
        self._ahead = AHEAD * engine.workers
        self._suspects: list[tuple[Block, str]] = []
        self.progress = Progress(addresses=manifest.addresses, before=manifest.addresses - left)

    def all(self) -> Progress:
        """Until nothing is pending. Raises IncompleteError where an end was asked for."""
        started, spent = time.perf_counter(), time.process_time()
        size, alive = self._ahead, False
        while blocks := self._next(size):
            came = 0
            try:
                for answer in self._engine.run(blocks):
                    came += 1
                    self._take(answer, time.perf_counter() - started)
                size = min(size * 4, self._ahead)
            except IncompleteError:
                raise
            except Exception as error:  # the engine's and Ray's errors share no base class
                size = self._got_over(error, blocks, came, size)
            alive = alive or came > 0
            if came:
                self._note_suspects()
        if self._suspects and not alive:
            raise _hopeless(self._suspects[-1][1])
        self._note_suspects()
        self.progress.seconds = time.perf_counter() - started
        self.progress.cpu += time.process_time() - spent
        return self.progress

    def _next(self, size: int) -> list[Block]:
        """The first blocks that wait, those of partitions that are begun before others."""
        blocks = [b for p in self._open.values() for b in p.waiting.values()]
        while len(blocks) < size and (number := next(self._waiting, None)) is not None:
            opened = _Partition(self._work.blocks(number, self._manifest.assumed))
            self._open[number] = opened
            self._partition_of |= dict.fromkeys(opened.waiting, number)
            blocks += opened.waiting.values()
        return blocks[:size]

    def _take(self, answer: Answer, seconds: float) -> None:
        number = self._partition_of.get(answer.block)
        if number is None:
            return  # given twice: the engine had not told that it was done
        partition = self._open[number]
        block = partition.waiting.pop(answer.block, None)
        if block is None:
            return
        del self._partition_of[answer.block]
        partition.rows.append(answer.rows)
        now = self.progress
        now.done += len(block.addresses)
        now.samples += answer.rows.num_rows
        now.cpu += answer.cpu
        now.seconds = seconds
        if not (partition.waiting or partition.aside):
            self._work.finish(number, partition.table())
            del self._open[number]
        self._on_turn(now)
        if self._stop():
            raise IncompleteError(
                f"{self._work.out}: stopped after {now.before + now.done:,} of {now.addresses:,}; "
                "the same command goes on from there"
            )

    # Failures ---------------------------------------------------------------------------------

    def _got_over(self, error: Exception, blocks: list[Block], came: int, size: int) -> int:
        """How many blocks to give next; raises where nothing can be done about it."""
        cause = _cause(error)
        self.progress.deaths += 1
        given = blocks[0]
        if len(blocks) > 1 or len(given.addresses) > 1:
            left = len(blocks) - came
            self._told(f"the engine failed ({cause}); {left:,} blocks are given again")
            if len(blocks) == 1:
                self._split(given)
            return max(1, min(size, len(blocks)) // 4)
        self._suspects.append((given, cause))
        self._set_aside(given)
        if len(self._suspects) >= _SUSPECTS:
            raise _hopeless(cause)
        return 1

    def _split(self, block: Block) -> None:
        """Replace a block by its samples, one by one."""
        number = self._partition_of.pop(block.number)
        waiting = self._open[number].waiting
        del waiting[block.number]
        alone = [
            Block(row, [address], [size], [when])
            for row, address, size, when in zip(block.rows, *block[1:], strict=True)
        ]
        # First in turn, so that those that are well are out of the way soon.
        self._open[number].waiting = {one.number: one for one in alone} | waiting
        self._partition_of |= dict.fromkeys((one.number for one in alone), number)

    def _set_aside(self, block: Block) -> None:
        number = self._partition_of[block.number]
        del self._open[number].waiting[block.number]
        self._open[number].aside += 1

    def _note_suspects(self) -> None:
        """The engine is well, so it was these samples: they are noted as unreadable."""
        for block, cause in self._suspects:
            text = f"whoever decides it dies: {cause}"
            self._told(f"{one_line(block.addresses[0])}: {text}")
            number = self._partition_of[block.number]
            self._open[number].aside -= 1
            self._open[number].waiting[block.number] = block
            rows = _unreadable(block, text, embeddings=self._manifest.asked.embeddings)
            self._take(Answer(block.number, rows, 0.0), self.progress.seconds)
        self._suspects = []


class _Partition:
    """A partition under way. aside: blocks about which nobody knows yet."""

    def __init__(self, blocks: list[Block]) -> None:
        self.waiting = {block.number: block for block in blocks}
        self.rows: list[pa.Table] = []
        self.aside = 0

    def table(self) -> pa.Table:
        """All rows, in the listing's order."""
        rows = pa.concat_tables(sorted(self.rows, key=lambda one: one["row"][0].as_py()))
        return rows.combine_chunks()


def _unreadable(block: Block, cause: str, *, embeddings: bool) -> pa.Table:
    shape = schema(embeddings=embeddings)
    known = {"address": block.addresses, "verdict": ["drop"], "reason": ["unreadable"],
             "cause": [cause], "bytes": [0], "row": [block.number]}  # fmt: skip
    return pa.table([pa.array(known.get(f.name, [None]), f.type) for f in shape], schema=shape)


def _cause(error: Exception) -> str:
    """What an engine's error is about, on one line: the last exception that it names."""
    text = " ".join(str(error).split())
    named = re.findall(r"\b\w+(?:Error|Exception)\b.{0,160}", text)
    return one_line(named[-1] if named else text)[:200]


def _hopeless(cause: str) -> DripgateError:
    return DripgateError(
        f"the engine fails at whatever it is given ({cause}); nothing is lost: once it runs, the "
        "same command goes on"
    )


def _other(out: Path, had: Manifest, wanted: Manifest) -> str:
    for name in ("source", "gate", "columns", "asked"):
        one, two = getattr(had, name), getattr(wanted, name)
        if one != two:
            return (
                f"{out}: was begun with another {'options' if name == 'asked' else name} "
                f"({one_line(str(one))[:100]}, now {one_line(str(two))[:100]}); give another "
                "--out, or the same again"
            )
    return f"{out}: was begun by another dripgate; give another --out"
