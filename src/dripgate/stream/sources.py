"""Where samples come from on the device, opened by name.

    incoming/          a folder; with follow also what arrives in it later
    stream.zip         an archive
    pcm:-              a microphone: 16-bit PCM on standard input, raw or as a WAV
    camera:0           a camera, by number or address; camera:film.mp4 a film
    mqtt://host/topic  messages, one sample each

All give the same samples. Sizes are limited before anything is decoded; pixels and durations when
it is.
"""

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dripgate.data.files import check
from dripgate.errors import DataError, require
from dripgate.store import Store
from dripgate.stream.broker import Security, is_address, name_of, parse_address
from dripgate.stream.feed import ROOM, Feed, Stop
from dripgate.stream.folder import Folder
from dripgate.types import AudioInput, ImageInput, InputSpec, Sample

_LIVE = ("pcm", "camera")


class How(NamedTuple):
    """follow, processed, unreadable, times, again, own, settle, told: of a ``Folder``. rate (Hz),
    channels, overlap (of a window): of PCM. every: seconds between two frames of a camera. room,
    drop_oldest: of the queue of what does not wait.
    security: of a broker. wait: how a followed folder passes the time, as in ``Folder``.
    """

    follow: bool = False
    processed: str = "keep"
    unreadable: str = "keep"
    times: str = "read"
    again: bool = False
    own: tuple[Path, ...] = ()
    settle: float = 2.0
    told: Callable[[str], object] = lambda _: None
    rate: int | None = None
    channels: int | None = None
    overlap: float = 0.5
    every: float = 0.0
    room: int = ROOM
    drop_oldest: bool | None = None
    security: Security = Security()
    wait: Callable[[float], object] = time.sleep


#: Kinds of sources, and where what of ``How`` is used. A "grown" folder is followed.
_USED = {
    "rate": "pcm", "channels": "pcm", "overlap": "pcm", "every": "camera", "settle": "grown",
    "processed": "folder grown", "unreadable": "folder grown", "times": "folder grown archive",
    "again": "folder grown archive", "follow": "folder grown archive",
    "queue": "pcm camera mqtt", "when_full": "pcm camera mqtt",
}  # fmt: skip


def unused_options(source: str, follow: bool, given: Collection[str]) -> list[str]:
    """Those of the options of ``run`` that mean nothing to this source."""
    kind, _, rest = source.partition(":")
    if is_address(source):
        kind = "mqtt"
    elif not (kind in _LIVE and rest):
        kind = "archive" if not Path(source).expanduser().is_dir() else "folder"
        kind = "grown" if follow else kind
    return sorted(name for name in given if kind not in _USED.get(name, kind).split())


def watch(path: str | Path, *, follow: bool = False, **options: Any) -> Iterator[Sample]:
    """Samples from a folder or an archive; with ``follow`` from a folder, until ``stop()``.

    A file that cannot be read, or has more than ``limit`` bytes, comes as a sample without
    payload whose ``problem`` says why: decoding it raises UnreadableError, so it is counted as
    any other broken one. options: limit, stop, poll, settle, clock, wait of ``Folder``.
    Raises DataError at once for what is no folder or archive; later for a damaged archive.
    """
    feed = Folder(path, follow=follow, **options)
    return (sample for sample in feed if sample is not None)


def check_source(source: str) -> None:
    """DataError, UplinkError or MissingExtra where this can be no source, before anything is made
    for it.
    """
    kind, _, rest = source.partition(":")
    if is_address(source):
        parse_address(source, wildcards=True)
        require(f"{kind}://…", "mqtt", "paho")
    elif kind == "camera" and rest:
        require("camera:…", "camera", "cv2")
    elif not (kind in _LIVE and rest):
        check(Path(source).expanduser())


def open_source(source: str, spec: InputSpec, store: Store, stop: Stop, how: How) -> Feed:
    """The feed of a source, for a gate that takes ``spec`` and a store that notes how far it came.

    Raises DataError, and UplinkError for a broker.
    """
    kind, _, rest = source.partition(":")
    if kind in _LIVE and rest:
        return _pcm(rest, spec, stop, how) if kind == "pcm" else _camera(rest, spec, stop, how)
    if is_address(source):
        from dripgate.stream.topic import Topic

        drop = bool(how.drop_oldest)
        name = name_of(store)
        address = parse_address(source, wildcards=True)
        return Topic(address, how.security, name, stop, room=how.room, drop_oldest=drop)
    return Folder(
        source, follow=how.follow, processed=how.processed, unreadable=how.unreadable, spec=spec,
        times=how.times, again=how.again, own=how.own, settle=how.settle, told=how.told, stop=stop,
        wait=how.wait,
    )  # fmt: skip


def _pcm(rest: str, spec: InputSpec, stop: Stop, how: How) -> Feed:
    from dripgate.stream.pcm import microphone

    if rest != "-":
        raise DataError(f"pcm:{rest}: PCM is read from standard input only; write pcm:-")
    if not isinstance(spec, AudioInput):
        raise DataError(f"pcm:-: this gate takes {spec.shape} {spec.dtype}, not audio; fit one on "
                        "recordings, or give another source")  # fmt: skip
    drop = how.drop_oldest is not False
    return microphone(
        spec, how.rate, how.overlap, stop, channels=how.channels, room=how.room, drop_oldest=drop
    )


def _camera(rest: str, spec: InputSpec, stop: Stop, how: How) -> Feed:
    from dripgate.stream.camera import camera

    if not isinstance(spec, ImageInput):
        raise DataError(f"camera:{rest}: this gate takes {spec.shape} {spec.dtype}, not images; "
                        "fit one on pictures, or give another source")  # fmt: skip
    return camera(rest, how.every, stop, room=how.room, drop_oldest=how.drop_oldest)
