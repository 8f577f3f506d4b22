"""What a device asks of a release before it lets it decide about anything."""

import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from dripgate.errors import GateError, ReleaseError
from dripgate.gate import Gate
from dripgate.gate_info import noted
from dripgate.release import golden
from dripgate.release.container import unpack
from dripgate.release.manifest import Manifest, read_golden, read_manifest
from dripgate.release.state import Request, ask, noted_releases
from dripgate.store import Store
from dripgate.stream.force import folder_of, noted_force, unfit

#: Times a gate's file that have to be free on the disk, and of memory.
_ROOM, _MEMORY = 3, 4


class Activated(msgspec.Struct, frozen=True, kw_only=True):
    """manifest: of the release. apart: largest difference of the golden samples' outputs here.
    milliseconds: for a sample; in_force: those of the gate in force, None where it was not there.
    """

    manifest: Manifest
    apart: float
    milliseconds: float
    in_force: float | None


def activate(release: Path, trust: Path, store: Path, *, allow_older: bool = False) -> Activated:
    """Verify a release and try it on this hardware; then ask the store's ``run`` to take it up.

    Raises ReleaseError, GateError or StoreError, and has then changed nothing.
    """
    from dripgate.release.signing import public_key, verify

    parts = unpack(release)
    verify(parts.signature, parts.signed, public_key(trust), str(release))
    manifest = read_manifest(parts.manifest, str(release))
    with Store(store, read_only=True) as opened:
        meta = opened.meta
    force, info = noted_force(meta), noted(meta)
    if force is None or info is None:
        raise ReleaseError(
            f"{store}: no gate is in force yet; start 'dripgate run GATE SOURCE --store {store}'"
        )
    floor = noted_releases(meta).floor
    if manifest.version <= floor and not allow_older:
        raise ReleaseError(
            f"{release}: is release {manifest.version}, and release {floor} was in force here; an "
            "older one, or the same again, needs --allow-older"
        )
    if manifest.replaces and force.id not in manifest.replaces:
        raise ReleaseError(
            f"{release}: is meant to take the place of {', '.join(manifest.replaces)}, and "
            f"{force.id} is in force here"
        )
    if force.id == manifest.gate:
        raise ReleaseError(f"{release}: its gate {force.id} is in force here already")
    _check_room(store, len(parts.gate))
    gate = Gate(parts.gate, f"{release}: gate.onnx")
    if gate.id != manifest.gate:
        raise ReleaseError(f"{release}: its gate is {gate.id}, its manifest says {manifest.gate}")
    if problem := unfit(gate.info, info):
        raise ReleaseError(f"{release}: its gate {problem}")
    samples = read_golden(parts.golden, str(release))
    apart = golden.check(gate, samples, manifest.limits.tolerance, str(release))
    seconds, before = golden.seconds(gate, samples), None
    with suppress(GateError):
        in_force = Gate.load(folder_of(store.resolve()) / f"{force.id}.onnx")
        before = golden.seconds(in_force, samples)
    if before is not None and seconds > manifest.limits.slower * before:
        raise ReleaseError(
            f"{release}: takes {1e3 * seconds:.2f} ms for a sample here, the gate in force "
            f"{1e3 * before:.2f}; {manifest.limits.slower:g} times that is allowed"
        )
    ask(store.resolve(), Request(manifest=manifest), parts.gate)
    return Activated(
        manifest=manifest, apart=apart, milliseconds=1e3 * seconds,
        in_force=None if before is None else 1e3 * before,
    )  # fmt: skip


def _check_room(store: Path, size: int) -> None:
    free = shutil.disk_usage(store.resolve().parent).free
    if free < _ROOM * size:
        raise ReleaseError(
            f"{store}: {free / 1e6:,.0f} MB are free beside it, a release of {size / 1e6:,.0f} MB "
            f"needs {_ROOM * size / 1e6:,.0f}; free some space"
        )
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
        if known.get("MemAvailable", _MEMORY * size) < _MEMORY * size:
            raise ReleaseError(
                f"{known['MemAvailable'] / 1e6:,.0f} MB of memory are available, two gates need "
                f"about {_MEMORY * size / 1e6:,.0f}; stop something else first"
            )
