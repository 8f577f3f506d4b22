"""How far a device has come with a release: what the store notes, and what is asked of ``run``."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from dripgate.errors import ReleaseError, StoreError
from dripgate.files import read_whole, sync_folder, write_whole
from dripgate.policy import Drift
from dripgate.release.manifest import Manifest
from dripgate.stream.force import RELEASES, folder_of

_REQUEST, _LARGEST = "request.json", 1 << 17
#: Versions of gates that are remembered.
_VERSIONS = 32


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What two gates made of the same samples. In each pair the gate in force comes first.

    samples: readable ones. agreed: with the same predicted class. kept, outside: by the gate
    alone, and of alien quality. seconds: that they took. quality: counts in the cells of each
    gate's own calibration.
    """

    samples: int = 0
    agreed: int = 0
    kept: tuple[int, int] = (0, 0)
    outside: tuple[int, int] = (0, 0)
    seconds: tuple[float, float] = (0.0, 0.0)
    quality: tuple[list[int], list[int]] = ([], [])


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release under way. since: of this phase, seconds since the epoch. samples: that the watch
    has seen. deaths: ends of the process that nobody asked for. before: id of the gate that was
    in force.
    """

    manifest: Manifest
    phase: Literal["shadow", "watch"]
    before: str
    since: float
    samples: int = 0
    deaths: int = 0
    shadow: Shadow = Shadow()
    drift: Drift = msgspec.field(default_factory=Drift)


class Releases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a store notes of releases. trial: None where none is under way. floor: the highest
    version that ever was in force. versions: of gates, by id. last: how the last trial ended.
    """

    trial: Trial | None = None
    floor: int = 0
    versions: dict[str, int] = {}
    last: str = ""

    def note(self) -> dict[str, str]:
        """As the store notes it."""
        return {RELEASES: msgspec.json.encode(self).decode()}

    def entered(self, manifest: Manifest) -> "Releases":
        """With a release that is put in force."""
        versions = dict([*self.versions.items(), (manifest.gate, manifest.version)][-_VERSIONS:])
        return msgspec.structs.replace(
            self, floor=max(self.floor, manifest.version), versions=versions
        )


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``activate`` and ``rollback`` ask ``run`` for. manifest: None asks for a rollback."""

    manifest: Manifest | None = None
    why: str = ""
    time: float = msgspec.field(default_factory=time.time)


def noted_releases(meta: Mapping[str, str]) -> Releases:
    """What a store says. Raises StoreError."""
    try:
        return msgspec.json.decode(meta.get(RELEASES, "{}"), type=Releases)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"what is noted about releases is no dripgate's ({error}); begin anew with another "
            "store"
        ) from None


# Requests: files beside the store, which has one writer alone ----------------------------------


def request_file(store: Path) -> Path:
    """Where a request lies."""
    return folder_of(store) / _REQUEST


def candidate_file(store: Path, gate: str) -> Path:
    """Where the gate of a request lies; not as one that is in use."""
    return folder_of(store) / f"{gate}.candidate"


def ask(store: Path, request: Request, gate: bytes | None = None) -> None:
    """Leave a request for the run that writes to a store, or for the next one; the last counts.

    Durable when this returns. Raises ReleaseError.
    """
    folder = folder_of(store)
    try:
        folder.mkdir(exist_ok=True)
        if gate is not None and request.manifest:
            write_whole(candidate_file(store, request.manifest.gate), gate)
        write_whole(request_file(store), msgspec.json.encode(request))
        sync_folder(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise ReleaseError(
            f"{folder}: cannot be written ({error.strerror}); check rights and free space"
        ) from None


def asked(store: Path) -> Request | None:
    """The request there is; None for none. Raises ReleaseError where it is no request."""
    path = request_file(store)
    try:
        return msgspec.json.decode(read_whole(path, _LARGEST), type=Request)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path}: is no request ({error!s:.200}); passed over") from None


def answered(store: Path) -> None:
    """Forget the request, and candidates."""
    with suppress(OSError):
        request_file(store).unlink(missing_ok=True)
        for path in folder_of(store).glob("*.candidate"):
            path.unlink()
