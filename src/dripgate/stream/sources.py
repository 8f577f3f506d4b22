"""Where samples come from on the device, opened by name.

    incoming/          a folder; with follow also what arrives in it later
    stream.zip         an archive
    mic:               a microphone: the default one, mic:1 or mic:USB by number or name
    pcm:-              16-bit PCM on standard input, raw or as a WAV
    camera:0           a camera, by number; camera:film.mp4 a film
    rtsp://host/path   a network camera; rtsps, http and https too
    picamera:0         a Raspberry Pi's own camera
    mqtt://host/topic  messages, one sample each

All give the same samples. Sizes are limited before anything is decoded; pixels and durations when
it is.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from dripgate.data.files import check
from dripgate.errors import DataError, require
from dripgate.store import Store
from dripgate.stream.broker import Login, Security, is_address, name_of, parse_address
from dripgate.stream.feed import ROOM, Feed, Stop
from dripgate.stream.folder import Folder
from dripgate.types import AudioInput, ImageInput, InputSpec, Sample

#: What a login may be called in the path of a camera's address.
_LOGIN = re.compile(r"(?i)\b(user\w*|login|pass\w*|pwd|auth|token|key)=[^&;/]*")


class How(NamedTuple):
    """follow, processed, unreadable, times, again, own, settle, told: of a ``Folder``. rate (Hz),
    channels, overlap (of a window): of PCM and microphones. every: seconds between two frames of a
    camera. login: of a network camera. room, drop_oldest: of the queue of what does not wait.
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
    login: Login | None = None
    room: int = ROOM
    drop_oldest: bool | None = None
    security: Security = Security()
    wait: Callable[[float], object] = time.sleep


#: Kinds of sources, and where what of ``How`` is used. A "grown" folder is followed.
_USED = {
    "rate": "pcm mic", "channels": "pcm mic", "overlap": "pcm mic", "settle": "grown",
    "every": "camera picamera network", "source_credentials": "network",
    "processed": "folder grown", "unreadable": "folder grown", "times": "folder grown archive",
    "again": "folder grown archive", "follow": "folder grown archive",
    "queue": "pcm mic camera picamera network mqtt",
    "when_full": "pcm mic camera picamera network mqtt",
}  # fmt: skip


def live(source: str) -> str:
    """What kind of source it is that gives samples by itself; empty for files."""
    kind, colon, rest = source.partition(":")
    if is_address(source):
        return "mqtt"
    if kind in ("rtsp", "rtsps", "http", "https") and rest.startswith("//"):
        return "network"
    if kind == "camera" and rest:
        return "network" if "://" in rest else kind
    return kind if (kind == "pcm" and rest) or (kind in ("mic", "picamera") and colon) else ""


def shown(source: str) -> str:
    """The source as it may be written down: a camera's address without what may be a login."""
    if live(source) != "network":
        return source
    scheme, _, rest = source.partition("://")
    host, slash, path = rest.partition("/")
    path, question, _ = path.partition("?")
    path = _LOGIN.sub(r"\1=…", path)
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{question and '?…'}"


def unused_options(source: str, follow: bool, given: Collection[str]) -> list[str]:
    """Those of the options of ``run`` that mean nothing to this source."""
    kind = live(source)
    if not kind:
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
    kind = live(source)
    if kind == "mqtt":
        parse_address(source, wildcards=True)
        require(f"{source.partition(':')[0]}://…", "mqtt", "paho")
    elif kind in ("camera", "network"):
        require("camera:…", "camera", "cv2")
        if kind == "network":
            _with_login(source.removeprefix("camera:"), None)
    elif kind == "mic":
        from dripgate.stream.mic import check_microphone

        check_microphone(source.removeprefix("mic:"))
    elif not kind:
        check(Path(source).expanduser())


def open_source(source: str, spec: InputSpec, store: Store, stop: Stop, how: How) -> Feed:
    """The feed of a source, for a gate that takes ``spec`` and a store that notes how far it came.

    Raises DataError, and UplinkError for a broker.
    """
    kind = live(source)
    if kind in ("pcm", "mic"):
        return _heard(source, spec, stop, how)
    if kind in ("camera", "network", "picamera"):
        return _looked_at(source, spec, stop, how)
    if kind == "mqtt":
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


def _heard(source: str, spec: InputSpec, stop: Stop, how: How) -> Feed:
    if source.startswith("pcm:") and source != "pcm:-":
        raise DataError(f"{source}: PCM is read from standard input only; write pcm:-, or mic: for "
                        "a microphone")  # fmt: skip
    if not isinstance(spec, AudioInput):
        raise DataError(f"{source}: this gate takes {spec.shape} {spec.dtype}, not audio; fit one "
                        "on recordings, or give another source")  # fmt: skip
    drop = how.drop_oldest is not False
    if source == "pcm:-":
        from dripgate.stream import pcm

        return pcm.microphone(
            spec, how.rate, how.overlap, stop, channels=how.channels, room=how.room,
            drop_oldest=drop,
        )  # fmt: skip
    from dripgate.stream import mic

    return mic.microphone(
        source.removeprefix("mic:"), spec, how.rate, how.overlap, stop, channels=how.channels,
        told=how.told, room=how.room, drop_oldest=drop,
    )  # fmt: skip


def _looked_at(source: str, spec: InputSpec, stop: Stop, how: How) -> Feed:
    from dripgate.stream.frames import Eye, look

    name = shown(source)
    if not isinstance(spec, ImageInput):
        raise DataError(f"{name}: this gate takes {spec.shape} {spec.dtype}, not images; "
                        "fit one on pictures, or give another source")  # fmt: skip

    def opened() -> Eye:
        if live(source) == "picamera":
            from dripgate.stream.picamera import Picamera

            return Picamera(source.removeprefix("picamera:") or "0", name)
        from dripgate.stream.camera import Camera

        which = source.removeprefix("camera:")
        return Camera(_with_login(which, how.login) if live(source) == "network" else which, name)

    if live(source) == "network" and name != source:
        how.told(f"{name}: its login can be read by everybody on this machine who lists the "
                 "commands that run; --source-credentials FILE hides it")  # fmt: skip
    return look(name, opened, how.every, stop, told=how.told, room=how.room,
                drop_oldest=how.drop_oldest)  # fmt: skip


def _with_login(address: str, login: Login | None) -> str:
    """A camera's address as it is opened. Raises DataError, which does not tell a password."""
    scheme = address.partition("://")[0]
    try:
        parts = urlsplit(address)
        sound = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or ("@" in address and not parts.username):
        raise DataError(
            f"{scheme}://…: not the address of a camera; expected {scheme}://host:port/path; in a "
            "login or a path @ is written %40, / is %2F, # is %23; or give the login with "
            "--source-credentials FILE"
        )
    if login is None:
        return address
    if parts.username:
        raise DataError(f"{shown(address)}: has a login, and --source-credentials too; leave one "
                        "out")  # fmt: skip
    user, password = (quote(text, safe="") for text in (login.username, login.password))
    return address.replace("://", f"://{user}:{password}@", 1)
