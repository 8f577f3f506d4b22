"""The file of a release: a ZIP of four members, stored as they are, written in one way only.

Unpacked it is a folder that OpenSSF's ``model_signing verify key`` verifies. A ZIP has places that
no signature covers (times, attributes, comments, what lies between members); so a release is read
only where packing its members gives the same bytes again.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

from dripgate.errors import ReleaseError
from dripgate.files import read_whole
from dripgate.gate_info import LARGEST_FILE
from dripgate.release.manifest import LARGEST_GOLDEN, MOST_GOLDEN

MANIFEST, GATE, GOLDEN, SIGNATURE = "manifest.json", "gate.onnx", "golden.msgpack", "model.sig"
#: Members in their order, with the most bytes of each.
_MEMBERS = {
    MANIFEST: 1 << 16, GATE: LARGEST_FILE, GOLDEN: MOST_GOLDEN * (LARGEST_GOLDEN + (1 << 20)),
    SIGNATURE: 1 << 18,
}  # fmt: skip
LARGEST = LARGEST_FILE + (64 << 20)
_TIME = (1980, 1, 1, 0, 0, 0)


class Parts(NamedTuple):
    """The members of a release."""

    manifest: bytes
    gate: bytes
    golden: bytes
    signature: bytes

    @property
    def signed(self) -> dict[str, bytes]:
        """What the signature is about, by name."""
        return {MANIFEST: self.manifest, GATE: self.gate, GOLDEN: self.golden}


def pack(parts: Parts) -> bytes:
    """The bytes of the file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in zip(_MEMBERS, parts, strict=True):
            member = zipfile.ZipInfo(name, _TIME)
            member.create_system, member.external_attr = 3, 0o100644 << 16
            archive.writestr(member, data)
    return file.getvalue()


def unpack(path: Path) -> Parts:
    """The members of a release file; sizes are limited before anything is read.

    Raises ReleaseError where it is none, or was altered.
    """
    try:
        data = read_whole(path, LARGEST)
    except OSError as error:
        raise ReleaseError(
            f"{path}: cannot be read ({error.strerror}); give what 'dripgate release' wrote"
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = Parts(*_members(archive))
        whole = pack(parts) == data
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError, EOFError):
        whole = False
    if not whole:
        raise ReleaseError(
            f"{path}: is not as 'dripgate release' wrote it: no release, or altered on its way; "
            "fetch it again"
        )
    return parts


def _members(archive: zipfile.ZipFile) -> list[bytes]:
    """Raises ValueError where they are not exactly ours; nothing is compressed, so none grows."""
    found = archive.infolist()
    if [one.filename for one in found] != list(_MEMBERS):
        raise ValueError("other members")
    if any(one.compress_type != zipfile.ZIP_STORED or one.file_size > most
           for one, most in zip(found, _MEMBERS.values(), strict=True)):  # fmt: skip
        raise ValueError("compressed, or too large")
    return [archive.read(one) for one in found]
