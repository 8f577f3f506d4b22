"""The input that a model for a source should have, guessed from the headers of its first files."""

from collections import Counter
from typing import TypeVar

import numpy as np

from dripgate.data.sources import Source
from dripgate.errors import DataError, UnreadableError
from dripgate.media import ArrayHeader, AudioHeader, ImageHeader, probe
from dripgate.types import ArrayInput, AudioInput, ImageInput, InputSpec

T = TypeVar("T")

#: So many headers are enough, and so many files are tried for them.
PROBED, PATIENCE = 32, 1_000
#: Without a spec: equal sizes up to EQUAL_SIDE stay, everything else becomes at most MIXED_SIDE.
EQUAL_SIDE, MIXED_SIDE = 96, 64
LONGEST_SECONDS = 10


def infer_input(source: Source) -> InputSpec:
    """The input of a model for this source, from its first readable files.

    Images: their common size, or where they differ the median, scaled down to a longest side of
    MIXED_SIDE; grey if all are grey. Audio: the most common rate and length. Arrays: their shape.
    """
    headers: list[ImageHeader | AudioHeader | ArrayHeader] = []
    cause = "there are no files"
    for tried, file in enumerate(source.labelled()):
        if len(headers) == PROBED or tried == PATIENCE:
            break
        try:
            headers.append(probe(file.payload))
        except UnreadableError as error:
            cause = f"{file.name}: {file.problem or error}"
    if not headers:
        raise DataError(f"{source.name}: no file is an image, audio or a .npy array ({cause})")
    kind = Counter(map(type, headers)).most_common(1)[0][0]
    if kind is ImageHeader:
        return _image_input([h for h in headers if isinstance(h, ImageHeader)])
    if kind is AudioHeader:
        return _audio_input([h for h in headers if isinstance(h, AudioHeader)])
    return ArrayInput(shape=_most_common([h.shape for h in headers if isinstance(h, ArrayHeader)]))


def _image_input(headers: list[ImageHeader]) -> ImageInput:
    sides = [(h.height, h.width) for h in headers]
    height, width = np.median(sides, axis=0)
    limit = EQUAL_SIDE if len(set(sides)) == 1 else MIXED_SIDE
    scale = 1 if max(height, width) <= limit else MIXED_SIDE / max(height, width)
    height, width = (max(1, round(side * scale)) for side in (height, width))
    return ImageInput(height=height, width=width, channels=1 if all(h.grey for h in headers) else 3)


def _audio_input(headers: list[AudioHeader]) -> AudioInput:
    rate = _most_common([h.rate for h in headers])
    length = _most_common([round(h.frames * rate / h.rate) for h in headers])
    return AudioInput(rate=rate, length=max(1, min(length, LONGEST_SECONDS * rate)))


def _most_common(values: list[T]) -> T:
    """The most common value, the largest of equally common ones."""
    return max(Counter(values).items(), key=lambda item: (item[1], item[0]))[0]
