"""Raw PCM, as ``arecord -t raw -f S16_LE -c 1`` writes it, cut into windows that overlap.

A window is as long as the gate's input. It becomes a WAV payload, so that what is stored says its
rate and can be listened to. The last one may be shorter: the decoder fills it with silence.
"""

import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from io import BytesIO
from math import ceil
from typing import BinaryIO
from wave import open as open_wave

from dripgate.errors import DataError
from dripgate.stream.feed import ROOM, Live, Stop
from dripgate.types import AudioInput, Sample

_RATES = (1_000, 768_000)


def microphone(
    spec: AudioInput,
    rate: int | None,
    overlap: float,
    stop: Stop,
    *,
    room: int = ROOM,
    drop_oldest: bool = True,
    pipe: BinaryIO | None = None,
) -> Live:
    """Windows of what comes through a pipe, standard input if none is given.

    rate: of the PCM in Hz, the gate's if none is given. overlap: part of a window that is also in
    the next, 0 … 0.95. Raises DataError for a rate or an overlap that cannot be.
    """
    rate = spec.rate if rate is None else rate
    if not _RATES[0] <= rate <= _RATES[1]:
        raise DataError(f"a rate of {rate} Hz; expected {_RATES[0]} to {_RATES[1]}")
    if not 0 <= overlap <= 0.95:
        raise DataError(f"an overlap of {overlap}; expected 0 to 0.95 of a window")
    window = ceil(spec.length * Fraction(rate, spec.rate))
    hop = max(1, round(window * (1 - overlap)))
    source = pipe or sys.stdin.buffer

    def produce(put: Callable[[Sample], bool]) -> None:
        for at, frames in windows(source, window, hop):
            if not put(Sample(_wav(frames, rate), f"pcm@{at / rate:.3f}s")):
                return

    return Live(produce, stop, room=room, drop_oldest=drop_oldest)


def windows(pipe: BinaryIO, window: int, hop: int) -> Iterator[tuple[int, bytes]]:
    """Where a window begins, in frames, and its bytes; two bytes are a frame.

    All frames are in a window, the last ones in a shorter one; half a frame at the end is none.
    """
    held, begin, new = b"", 0, 0
    while part := pipe.read(2 * min(window - len(held) // 2, hop)):
        held += part
        new += len(part) // 2
        if len(held) == 2 * window:
            yield begin, held
            held, begin, new = held[2 * hop :], begin + hop, 0
    if new:
        yield begin, held[: len(held) // 2 * 2]


def _wav(frames: bytes, rate: int) -> bytes:
    file = BytesIO()
    with open_wave(file, "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate)
        wav.writeframes(frames)
    return file.getvalue()
