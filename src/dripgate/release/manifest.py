"""What a release says: which gate, in place of what, within which limits; its golden samples."""

import math
import time
from typing import Annotated, Literal

import msgspec

from dripgate import __version__
from dripgate.errors import ReleaseError

#: Most golden samples, and most bytes of one of their payloads.
MOST_GOLDEN, LARGEST_GOLDEN = 64, 4 << 20
_Id = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
_Sha = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a release has to hold on a device, or it is not taken, or rolled back.

    tolerance: of golden samples' outputs, as a part of each output's largest value. slower: times
    the gate in force's time for a sample. shadow: samples to decide in the shadow; shadow_seconds
    ends it before that. agreement: share of them with the same predicted class. kept: most by which
    the share kept may differ, and outside: by which the share of alien quality may be larger than
    with the gate in force. psi: population stability index against the release's own calibration,
    of qualities in the shadow and of everything in the watch. watch: samples to be watched for
    after the switch; watch_seconds ends it before that. accuracy: least, by the labels that came
    in; None is any. crashes: ends of the process that nobody asked for, in the shadow or the watch.
    """

    tolerance: _Share = 1e-3
    slower: _Positive = 2.0
    shadow: _Count = 1000
    shadow_seconds: _Positive | None = None
    agreement: _Share = 0.8
    kept: _Share = 0.2
    outside: _Share = 0.1
    psi: _Positive = 0.25
    watch: _Count = 5000
    watch_seconds: _Positive | None = None
    accuracy: _Share | None = None
    crashes: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 2


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """version: of the release, only rising on a device. gate, sha256: what is released. replaces:
    ids of gates that it is meant to take the place of; empty is any. time: seconds since the epoch.
    """

    schema: Literal[1] = 1
    version: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    gate: _Id
    sha256: _Sha
    replaces: Annotated[tuple[_Id, ...], msgspec.Meta(max_length=64)] = ()
    limits: Limits = Limits()
    notes: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    time: float = msgspec.field(default_factory=time.time)
    dripgate: Annotated[str, msgspec.Meta(max_length=64)] = __version__


class Golden(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sample as it was received, and what the gate made of it where it was released."""

    payload: Annotated[bytes, msgspec.Meta(min_length=1, max_length=LARGEST_GOLDEN)]
    logits: Annotated[tuple[float, ...], msgspec.Meta(max_length=1 << 16)]
    score: float
    quality: float
    verdict: Literal[0, 1, 2]


_Goldens = Annotated[tuple[Golden, ...], msgspec.Meta(min_length=1, max_length=MOST_GOLDEN)]


def read_manifest(data: bytes, name: str) -> Manifest:
    """Strictly. Raises ReleaseError."""
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReleaseError(
            f"{name}: its manifest is not one of this dripgate ({error!s:.200}); make the release "
            "again, or update dripgate here"
        ) from None
    if not all(map(math.isfinite, _numbers(found.limits))):
        raise ReleaseError(f"{name}: limits that are no numbers; make the release again")
    return found


def read_golden(data: bytes, name: str) -> tuple[Golden, ...]:
    """Strictly. Raises ReleaseError."""
    try:
        found = msgspec.msgpack.decode(data, type=_Goldens)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReleaseError(
            f"{name}: its golden samples are not what a release has ({error!s:.200}); make the "
            "release again"
        ) from None
    if not all(math.isfinite(v) for one in found for v in (*one.logits, one.score, one.quality)):
        raise ReleaseError(
            f"{name}: golden samples whose expected outputs are no numbers; make the release again"
        )
    return found


def limits_of(texts: list[str] | tuple[str, ...]) -> Limits:
    """Limits from "name=number" texts. Raises ReleaseError."""
    given: dict[str, float | None] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in Limits.__struct_fields__:
            known = ", ".join(Limits.__struct_fields__)
            raise ReleaseError(f"--limit {text}: there is no limit '{name}'; known are {known}")
        try:
            value = float(number)
            given[name] = int(value) if value == int(value) else value
        except (ValueError, OverflowError):
            raise ReleaseError(f"--limit {text}: '{number}' is no number") from None
    try:
        return msgspec.convert(given, Limits)
    except msgspec.ValidationError as error:
        raise ReleaseError(f"--limit: {error}; correct it") from None


def _numbers(limits: Limits) -> list[float]:
    return [value for value in msgspec.structs.astuple(limits) if value is not None]
