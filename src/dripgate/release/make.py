"""Making a release on the workstation."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from dripgate.data.files import iter_files
from dripgate.errors import ReleaseError
from dripgate.files import write_whole
from dripgate.gate import Gate
from dripgate.release import signing, token
from dripgate.release.container import GATE, GOLDEN, MANIFEST, Parts, pack
from dripgate.release.golden import MADE_UP, made_up, record
from dripgate.release.manifest import LARGEST_GOLDEN, Limits, Manifest


def make(
    gate: Gate,
    key: str | Path,
    out: Path,
    *,
    version: int,
    golden: Sequence[bytes] = (),
    replaces: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 - immutable
    notes: str = "",
    password: str | None = None,
) -> Manifest:
    """Write a signed release of a gate, whole or not at all.

    key: a PEM file, or the URI of a key on a token (``token``). golden: payloads of samples; noise
    is made up where none are given. password: of the key, or the token's PIN. Raises ReleaseError.
    """
    with _opened(key, password) as secret:
        return _made(gate, secret, out, version, golden, replaces, limits, notes)


@contextmanager
def _opened(key: str | Path, password: str | None) -> Iterator[signing.Signer]:
    if str(key).startswith(token.SCHEME):
        with token.token_key(str(key), password) as found:
            yield found
    else:
        yield signing.private_key(Path(key), password.encode() if password else None)


def _made(
    gate: Gate, secret: signing.Signer, out: Path, version: int, golden: Sequence[bytes],
    replaces: Sequence[str], limits: Limits, notes: str,
) -> Manifest:  # fmt: skip
    samples = record(gate, golden or made_up(gate.info.input))
    manifest = Manifest(
        version=version, gate=gate.id, sha256=gate.sha256,
        replaces=tuple(replaces), limits=limits, notes=notes,
    )  # fmt: skip
    files = {
        MANIFEST: msgspec.json.format(msgspec.json.encode(manifest), indent=1),
        GATE: gate.data,
        GOLDEN: msgspec.msgpack.encode(samples),
    }
    signature = signing.sign(files, secret, out.name)
    try:
        write_whole(out, pack(Parts(files[MANIFEST], files[GATE], files[GOLDEN], signature)))
    except OSError as error:
        raise ReleaseError(f"{out}: cannot be written ({error.strerror})") from None
    return manifest


def golden_from(path: Path, count: int = MADE_UP) -> list[bytes]:
    """The payloads of so many files of a folder or an archive, evenly from all of it.

    Raises ReleaseError where there is none that fits.
    """
    found: list[bytes] = []
    step = 1
    for place, file in enumerate(iter_files(path)):
        if file.payload and len(file.payload) <= LARGEST_GOLDEN and place % step == 0:
            found.append(file.payload)
        if len(found) == 2 * count:  # twice as far apart from here on
            found, step = found[::2], 2 * step
    if not found:
        raise ReleaseError(f"{path}: no file of at most {LARGEST_GOLDEN:,} bytes; give samples")
    return found[:count]


def version_of(out: Path) -> int | None:
    """The number that a file's name ends in: 17 of gate-17.release; None where there is none."""
    found = re.search(r"(\d{1,15})$", out.stem)
    return int(found.group(1)) or None if found else None
