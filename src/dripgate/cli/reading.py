"""Reading DATA for a command: with progress, and with what was skipped."""

import msgspec

from dripgate.cli.common import progress, say
from dripgate.data import Dataset, infer_input, load, open_source
from dripgate.types import ImageInput, InputSpec

_SHOWN = 5


def read(data: str, size: int | None = None, spec: InputSpec | None = None) -> Dataset:
    """The decoded data set; says which files were skipped and why.

    size: the side that images are resized to. spec: what the model takes; it goes before size.
    """
    source = open_source(data)
    spec = spec or infer_input(source)
    if size and isinstance(spec, ImageInput):
        spec = msgspec.structs.replace(spec, height=size, width=size)
    with progress(None, f"reading {data}:") as seen:
        dataset = load(source, spec, progress=seen)
    say(
        f"{dataset.name}: {len(dataset.train):,} train and {len(dataset.test):,} test samples in "
        f"{len(dataset.classes)} classes, {len(dataset.skipped)} files skipped"
    )
    for name, cause in dataset.skipped[:_SHOWN]:
        say(f"  skipped {name}: {cause}")
    if len(dataset.skipped) > _SHOWN:
        say(f"  … and {len(dataset.skipped) - _SHOWN} more")
    return dataset
