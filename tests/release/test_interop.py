"""OpenSSF's own model-signing verifies our signatures, and we verify its: make interop."""

import os
import subprocess
from pathlib import Path

import pytest

from dripgate.errors import ReleaseError
from dripgate.release import signing
from dripgate.release.container import unpack

TOOLS = os.environ.get("DRIPGATE_MODEL_SIGNING", "")
pytestmark = pytest.mark.needs("model-signing")


def model_signing(*arguments):
    return subprocess.run(
        [Path(TOOLS) / "bin" / "model_signing", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, better, released):
    """A release as a folder, with its signature."""
    parts, folder = unpack(released(better)), tmp_path / "unpacked"
    folder.mkdir()
    for name, data in parts.signed.items():
        (folder / name).write_bytes(data)
    (folder / "model.sig").write_bytes(parts.signature)
    return folder


def test_the_real_library_verifies_our_signature(folder, keys):
    command = ("verify", "key", folder, "--signature", folder / "model.sig", "--public_key")
    done = model_signing(*command, keys[1])
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "gate.onnx").open("ab") as file:
        file.write(b"x")
    assert model_signing(*command, keys[1]).returncode != 0


def test_we_verify_the_real_library_s_signature(folder, keys):
    (folder / "model.sig").unlink()
    done = model_signing(
        "sign", "key", folder, "--private_key", keys[0], "--signature", folder / "model.sig"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "model.sig"}
    bundle, key = (folder / "model.sig").read_bytes(), signing.public_key(keys[1])
    signing.verify(bundle, files, key, "theirs")
    with pytest.raises(ReleaseError, match=r"gate\.onnx is not what was signed"):
        signing.verify(bundle, files | {"gate.onnx": b""}, key, "theirs")
