"""A microphone through PortAudio, cut into windows of the gate's length. Needs the mic extra.

No window reaches over a place where sound was lost: there a new one begins, and it is counted.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from dripgate.errors import DataError, require
from dripgate.media import encode_wav
from dripgate.stream.device import Device, Gone
from dripgate.stream.feed import ROOM, Stop
from dripgate.stream.pcm import check_form, span, windows
from dripgate.types import AudioInput, Sample

#: Seconds of sound that may wait in PortAudio, and that are taken at a time.
_ROOM, _PART = 0.5, 0.1
_LIBRARY = "sudo apt install libportaudio2"


def microphone(
    which: str,
    spec: AudioInput,
    rate: int | None,
    overlap: float,
    stop: Stop,
    *,
    channels: int | None = None,
    told: Callable[[str], object] = lambda _: None,
    room: int = ROOM,
    drop_oldest: bool = True,
    wait: Callable[[float], object] | None = None,
) -> Device:
    """Windows of what a microphone hears: by number, by part of a name, or the default if empty.

    rate: Hz, the gate's if None, else what the microphone offers; then the gate resamples.
    channels: recorded and averaged, 1 if None. overlap: part of a window that is also in the
    next, 0 … 0.95. told, wait: as in ``Device``. Raises DataError where it cannot be.
    """
    check_form(rate, channels, overlap)
    name = _name(which)

    def opened() -> _Recording:
        portaudio = _portaudio(name)
        device = _device(portaudio, which, name)
        wanted = _rate(portaudio, device, rate, channels or 1, spec.rate)
        return _Recording(
            portaudio, device, name, wanted, channels or 1, span(spec, wanted, overlap)
        )

    def again() -> _Recording:
        # What there is, PortAudio looks up when it begins, and sounddevice has no other way.
        portaudio = _portaudio(name)
        portaudio._terminate()
        portaudio._initialize()
        return opened()

    first = opened()
    if first.rate != (rate or spec.rate):
        told(f"{name}: records at {first.rate:,} Hz, not at {rate or spec.rate:,}; it is resampled")
    return Device(
        name, first, again, stop, told=told, room=room, drop_oldest=drop_oldest, wait=wait
    )


class _Recording:
    """A ``Reader`` of an open microphone."""

    def __init__(
        self,
        portaudio: Any,
        device: int,
        name: str,
        rate: int,
        channels: int,
        span: tuple[int, int],
    ) -> None:
        self.rate = rate
        self._error, self._name = portaudio.PortAudioError, name
        self._channels, (self._window, self._hop) = channels, span
        self._given, self._after = 0, b""
        try:
            self._stream = portaudio.RawInputStream(
                samplerate=rate, device=device, channels=channels, dtype="int16", latency=_ROOM
            )
            self._stream.start()
        except self._error as error:
            has = portaudio.query_devices(device)
            raise DataError(
                f"{name}: cannot be opened at {rate:,} Hz and {channels} channels "
                f"({_cause(error)}); it has {has['default_samplerate']:,.0f} Hz and up to "
                f"{has['max_input_channels']} channels (--rate, --channels), and no other program "
                "may record from it meanwhile"
            ) from None

    def samples(self) -> Iterator[Sample | str]:
        """Windows; a string where PortAudio had to throw sound away."""
        while True:
            begun = self._given
            for at, frames in windows(self, self._window, self._hop, self._channels):
                if len(frames) == self._window:
                    when = (begun + at) / self.rate
                    yield Sample(encode_wav(frames, self.rate), f"{self._name}@{when:.3f}s")
            yield "sound was lost before it was read (overflow): this machine has too much to do"

    def read(self, size: int) -> bytes:
        """As a pipe's; nothing once where sound was lost."""
        if not self._after:
            most = max(1, min(size // (2 * self._channels), int(self.rate * _PART)))
            try:
                part, overflowed = self._stream.read(most)
            except self._error as error:
                raise Gone(f"gives no more sound ({_cause(error)})") from None
            self._after = bytes(part)
            if overflowed:
                return b""
        part, self._after = self._after[:size], self._after[size:]
        self._given += len(part) // (2 * self._channels)
        return part

    def close(self) -> None:
        """Let go of it."""
        self._stream.close(ignore_errors=True)


def check_microphone(which: str) -> None:
    """MissingExtra or DataError where no microphone can be read."""
    require("mic:…", "mic", "sounddevice")
    _portaudio(_name(which))


def _name(which: str) -> str:
    return f"mic:{which or 'default'}"


def _portaudio(name: str) -> Any:
    try:
        return import_module("sounddevice")
    except OSError as error:
        raise DataError(f"{name}: needs the library PortAudio ({error}); {_LIBRARY}") from None


def _cause(error: Exception) -> str:
    """PortAudio's words, and the system's where it has some."""
    text, *more = error.args
    system = more[1][2] if len(more) > 1 else ""
    return f"{text}: {system}" if system else str(text)


def _device(portaudio: Any, which: str, name: str) -> int:
    """Its number. Raises DataError with what there is."""
    there = _inputs(portaudio)
    if not there:
        raise DataError(
            f"{name}: no microphone is there; plug one in, see that you may record (sudo adduser "
            "$USER audio), and whether arecord -L lists it"
        )
    if not which:
        default = portaudio.default.device[0]
        return int(default) if default in there else min(there)
    found = [n for n, called in there.items() if which in (str(n), called)]
    found = found or [n for n, called in there.items() if which.lower() in called.lower()]
    if len(found) != 1:
        what = "no microphone has" if not found else f"{len(found)} microphones have"
        raise DataError(f"{name}: {what} this name or number; {_listed(portaudio)}")
    return found[0]


def _inputs(portaudio: Any) -> dict[int, str]:
    return {
        int(one["index"]): str(one["name"])
        for one in portaudio.query_devices()
        if one["max_input_channels"] > 0
    }


def _listed(portaudio: Any) -> str:
    named = ", ".join(f"{n} {called}" for n, called in _inputs(portaudio).items())
    return f"there are: {named}; write mic:NUMBER, or mic:NAME with a part of its name"


def _rate(portaudio: Any, device: int, rate: int | None, channels: int, gate: int) -> int:
    """What was asked for; else the gate's, or the microphone's own where it has not that one."""
    if rate is not None:
        return rate
    try:
        portaudio.check_input_settings(device, channels, "int16", samplerate=gate)
    except portaudio.PortAudioError:
        return int(portaudio.query_devices(device)["default_samplerate"])
    return gate
