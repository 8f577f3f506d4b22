"""A key on a token: SoftHSM, through PKCS#11. The key is made there or imported, and signs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dripgate.release import signing
from dripgate.release.activate import activate
from dripgate.release.container import unpack
from dripgate.store import Store
from dripgate.stream.force import InForce
from needs import need, program

need("SoftHSM")

MODULE = next(
    (str(one) for one in (Path("/usr/lib/softhsm/libsofthsm2.so"),
                          *Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")) if one.exists()),
    "libsofthsm2.so",
)  # fmt: skip


class Token:
    """A token in a folder of its own; commands run beside it, each in its own process."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tokens").mkdir()
        (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
        self.env = os.environ | {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
        self.tool("--init-token", "--free", "--label", "fleet", "--pin", "1234", "--so-pin", "8765")

    def tool(self, *arguments):
        subprocess.run([program("softhsm2-util"), *map(str, arguments)], env=self.env, check=True,
                       capture_output=True)  # fmt: skip

    def holds(self, label, key, id="01"):
        """Import a key; returns the file of its public half."""
        secret, public = self.folder / f"{label}.p8", self.folder / f"{label}.pub"
        secret.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))  # fmt: skip
        public.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.tool("--import", secret, "--token", "fleet", "--label", label, "--id", id,
                  "--pin", "1234")  # fmt: skip
        secret.unlink()
        return public

    def release(self, gate, out, key, pin="1234", **env):
        env = self.env | ({"DRIPGATE_KEY_PASSWORD": pin} if pin else {}) | env
        return subprocess.run(
            [sys.executable, "-m", "dripgate", "release", str(gate), "--key", key,
             "--out", str(out)], env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def token(tmp_path):
    return Token(tmp_path)


def uri(label, module=MODULE, token="fleet"):
    return f"pkcs11:token={token};object={label}?module-path={module}"


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_a_release_signed_on_a_token_is_activated(token, loop, gate, better, tmp_path, curve):
    public = token.holds("release", ec.generate_private_key(curve()))
    better.save(tmp_path / "better.onnx")
    out = tmp_path / "gate-4.release"
    done = token.release(tmp_path / "better.onnx", out, uri("release"))
    assert done.returncode == 0, done.stderr
    assert "release 4 of gate" in done.stdout
    parts = unpack(out)
    signing.verify(parts.signature, parts.signed, signing.public_key(public), str(out))
    with Store(tmp_path / "kept.db") as store:
        InForce(store, gate)
    assert activate(out, public, tmp_path / "kept.db").manifest.version == 4


def test_a_key_is_found_by_its_id_and_the_module_by_the_environment(token, loop, tmp_path):
    public = token.holds("one", ec.generate_private_key(ec.SECP256R1()), id="0a")
    token.holds("two", ec.generate_private_key(ec.SECP256R1()), id="0b")
    out = tmp_path / "gate-1.release"
    key = "pkcs11:token=fleet;id=%0A;type=private"
    done = token.release(loop / "gate.onnx", out, key, PKCS11_MODULE=MODULE)
    assert done.returncode == 0, done.stderr
    parts = unpack(out)
    signing.verify(parts.signature, parts.signed, signing.public_key(public), str(out))


def test_what_does_not_fit_is_said_in_one_line_and_nothing_is_written(token, loop, tmp_path):
    token.holds("release", ec.generate_private_key(ec.SECP256R1()))
    token.holds("rsa", rsa.generate_private_key(65537, 2048), id="02")
    token.holds("odd", ec.generate_private_key(ec.SECP256K1()), id="03")
    out = tmp_path / "gate-1.release"
    for key, pin, said in (
        (uri("release"), "9999", "refuses the PIN"),
        (uri("release"), None, "seen with the PIN alone"),
        (uri("other"), "1234", "there are: 'odd', 'release', 'rsa'"),
        (uri("rsa"), "1234", "no key on an elliptic curve"),
        (uri("odd"), "1234", "no key on P-256, P-384 or P-521"),
        (uri("release", token="gone"), "1234", "0 tokens fit, expected one; there are: 'fleet'"),
        (uri("release", module=tmp_path / "none.so"), "1234", "cannot be loaded"),
        (uri("release", module=loop / "gate.onnx"), "1234", "cannot be loaded"),
        ("pkcs11:token=fleet;object=release", "1234", "says no module"),
        (f"pkcs11:token=fleet?module-path={MODULE}", "1234", "names no key"),
        (f"{uri('release')}&pin-value=1234", None, "a PIN is not taken from there"),
        (f"{uri('release')}&colour=red", "1234", "'colour' is not used here"),
    ):
        done = token.release(loop / "gate.onnx", out, key, pin)
        assert (done.returncode, said in done.stderr) == (2, True), (key, done.stderr)
        lines = [line for line in done.stderr.splitlines() if "note:" not in line]
        assert len(lines) == 1, done.stderr
        assert "1234" not in done.stderr
        assert not out.exists()
