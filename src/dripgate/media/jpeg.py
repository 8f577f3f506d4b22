"""What libjpeg does not tell: a JPEG whose file is whole while part of its picture is not.

A camera that closed its file early leaves an end mark behind half of the picture, and libjpeg
fills the rest with grey; a card that lost clusters leaves zeros, which decode to stripes. Found
here in baseline files, the ones that cameras write; of progressive ones only lost clusters are.
"""

import io
import re
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import numpy as np
from PIL import Image

_EOI = b"\xff\xd9"
#: A sector of a card: no coded picture holds so many zeros, unless zeros code what is flat.
_SECTOR = bytes(512)
#: Each scan of a progressive file is a way through the whole picture; cameras write ten.
_SCANS = 100
_BASELINE = (0xC0, 0xC1)
#: Entropy-coded bits of no particular picture, and no marker among them.
_FILL = bytes(range(1, 251)) * 8
_EARLY = "lost in part: its data ends before the picture does, the rest would be grey"


class _Segment(NamedTuple):
    """A marker's second byte, and where its content begins and ends."""

    marker: int
    begin: int
    end: int


def endless(payload: bytes) -> str:
    """Why decoding a JPEG would go on and on; empty where it would not."""
    scans = payload.count(b"\xff\xda")
    return f"{scans:,} scans, more than the limit of {_SCANS}" if scans > _SCANS else ""


def lost(payload: bytes, image: Image.Image, draft: tuple[int, int]) -> str:
    """Why a JPEG is not whole; empty where it is, as far as can be known. draft: the size for
    which ``image`` was decoded from it.
    """
    segments = list(_segments(payload))
    if not segments or segments[-1].marker != 0xDA:
        return ""
    scan = segments[-1].end
    end = payload.find(_EOI, scan)  # what follows, as padding or another picture, is no concern
    end = len(payload) if end < 0 else end
    if payload.find(_SECTOR, scan, end) >= 0 and not _zeros_are_flat(payload, segments):
        return "lost in part: 512 or more zeros within its data, as a card leaves them"
    frame = next((s for s in segments if s.marker in _BASELINE), None)
    if frame is None:
        return ""
    if expected := _restarts(payload, segments, frame):
        found = len(re.findall(rb"\xff[\xd0-\xd7]", payload[scan:end]))
        if found < expected:
            return _EARLY
    if not _ends_in_grey(image):
        return ""
    # Grey may be what was photographed: then nothing changes where more data follows.
    longer = payload[:end] + _FILL + payload[end:]
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as again:
        again.draft(None, draft)
        again.load()
        return "" if _equal(again, image) else _EARLY


def _segments(payload: bytes) -> Iterator[_Segment]:
    """Those before the data of the first scan; its own header is the last."""
    at = 2
    while at + 4 <= len(payload) and payload[at] == 0xFF:
        marker = payload[at + 1]
        if marker in (0xFF, 0x01):  # a fill byte, or a marker without content
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(payload[at + 2 : at + 4], "big")
        yield _Segment(marker, at + 4, end)
        if marker == 0xDA:
            return
        at = end


def _zeros_are_flat(payload: bytes, segments: list[_Segment]) -> bool:
    """Whether the code of zeros alone means "nothing changes" in every table of the file."""
    for segment in segments:
        at = segment.begin
        while segment.marker == 0xC4 and at + 17 < segment.end:
            counts = payload[at + 1 : at + 17]
            if payload[at + 17] != 0:  # the first symbol has the code of zeros
                return False
            at += 17 + sum(counts)
    return True


def _restarts(payload: bytes, segments: list[_Segment], frame: _Segment) -> int:
    """How many restart marks the picture must have; 0 where it has none."""
    interval = 0
    for segment in segments:
        if segment.marker == 0xDD:
            interval = int.from_bytes(payload[segment.begin : segment.begin + 2], "big")
    if not interval:
        return 0
    at = frame.begin
    height = int.from_bytes(payload[at + 1 : at + 3], "big")
    width = int.from_bytes(payload[at + 3 : at + 5], "big")
    sampling = [payload[at + 7 + 3 * i] for i in range(payload[at + 5])]
    across = 8 * max((s >> 4 for s in sampling), default=1) if len(sampling) > 1 else 8
    down = 8 * max((s & 15 for s in sampling), default=1) if len(sampling) > 1 else 8
    units = ceil(width / max(across, 1)) * ceil(height / max(down, 1))
    return ceil(units / interval) - 1


def _ends_in_grey(image: Image.Image) -> bool:
    """Whether the last pixel is what libjpeg fills with where no data is left."""
    width, height = image.size
    last = np.asarray(image.crop((width - 1, height - 1, width, height)))
    return bool((np.abs(last.astype(int) - 128) <= 1).all())


def _equal(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures are the same, a strip at a time: arrays of all would be large."""
    width, height = one.size
    strips = ((0, top, width, min(top + 64, height)) for top in range(0, height, 64))
    return all((np.asarray(one.crop(at)) == np.asarray(other.crop(at))).all() for at in strips)
