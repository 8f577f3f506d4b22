"""WebDataset: numbered tar shards in which the files of one sample share a stem, its id."""

import io
import tarfile
from pathlib import Path

import msgspec

from dripgate.export.facts import classes_of, facts
from dripgate.export.folder import Exported, intact, new_folder
from dripgate.export.names import ending
from dripgate.progress import Progress
from dripgate.store import Store

#: Bytes of payload, and samples, after which a new shard begins.
SHARD_BYTES, SHARD_SAMPLES = 1 << 28, 10_000


def webdataset(
    store: Store, out: Path, *, told: Progress = lambda _: None, samples: int = SHARD_SAMPLES
) -> Exported:
    """shard-000000.tar and on: the payload and a .json with label, prediction and numbers.

    samples: most in a shard. Arguments and errors: as ``imagefolder``.
    """
    classes, damaged, written = classes_of(store), list[str](), 0
    shard: tarfile.TarFile | None = None
    size = held = number = 0
    with new_folder(out) as part:
        try:
            for stored in intact(store, damaged, told):
                written += 1
                if shard is None or size > SHARD_BYTES or held == samples:
                    if shard is not None:
                        shard.close()
                    shard = tarfile.open(part / f"shard-{number:06}.tar", "w")  # noqa: SIM115
                    number, size, held = number + 1, 0, 0
                line = facts(stored, classes) | {"label": stored.label}
                _add(shard, f"{stored.id}{ending(stored.payload)}", stored.payload)
                _add(shard, f"{stored.id}.json", msgspec.json.encode(line))
                size, held = size + len(stored.payload), held + 1
        finally:
            if shard is not None:
                shard.close()
    return Exported(samples=written, damaged=tuple(damaged))


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    """Without owner and time: the same samples give the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))
