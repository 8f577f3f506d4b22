"""Signatures in OpenSSF Model Signing's format, with a bare elliptic-curve key.

The format is that of model-signing 1.1: a sigstore bundle around a DSSE envelope around an in-toto
statement, which names every file with its SHA-256. What it names is written and read here with
``cryptography`` alone: 18 MB on the device in place of 95. tests/release/test_interop.py lets the
real library verify ours, and verifies its.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dripgate.errors import ReleaseError
from dripgate.files import read_whole

MEDIA_TYPE: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = (
    "application/vnd.dev.sigstore.bundle.v0.3+json"
)
PAYLOAD_TYPE: Literal["application/vnd.in-toto+json"] = "application/vnd.in-toto+json"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
#: The curves that the format knows, with the hash of each.
_CURVES: dict[str, Any] = {
    "secp256r1": hashes.SHA256, "secp384r1": hashes.SHA384, "secp521r1": hashes.SHA512
}  # fmt: skip
_LARGEST_KEY = 1 << 16


class _Strict(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    pass


class _PublicKey(_Strict, frozen=True):
    hint: str


class _Material(_Strict, frozen=True):
    public_key: _PublicKey
    tlog_entries: Annotated[list[str], msgspec.Meta(max_length=0)]


class _Signature(_Strict, frozen=True):
    sig: str
    keyid: Literal[""] = ""


class _Envelope(_Strict, frozen=True):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[list[_Signature], msgspec.Meta(min_length=1, max_length=1)]


class _Bundle(_Strict, frozen=True):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: Literal["sha256"]
    digest: str


class _Method(msgspec.Struct, frozen=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Method
    resources: list[_Resource]


class _Digest(msgspec.Struct, frozen=True):
    sha256: str


class _Subject(msgspec.Struct, frozen=True):
    name: str
    digest: _Digest


class _Statement(msgspec.Struct, frozen=True, rename={"kind": "_type", "of": "predicateType"}):
    kind: Literal["https://in-toto.io/Statement/v1"]
    of: Literal["https://model_signing/signature/v1.0"]
    subject: Annotated[list[_Subject], msgspec.Meta(min_length=1, max_length=1)]
    predicate: _Predicate


class Signer(NamedTuple):
    """A private key, wherever it lies. sign: gives the signature over bytes, in DER."""

    public: ec.EllipticCurvePublicKey
    sign: Callable[[bytes], bytes]


def sign(files: Mapping[str, bytes], key: Signer, name: str) -> bytes:
    """The bundle that signs these files, as ``model.sig`` of a folder that holds them.

    name: what the statement calls the whole.
    """
    payload = json.dumps(_statement(files, name), indent=2).encode()
    signature = key.sign(_pae(payload))
    bundle = _Bundle(
        media_type=MEDIA_TYPE,
        verification_material=_Material(
            public_key=_PublicKey(hint=hint(key.public)), tlog_entries=[]
        ),
        dsse_envelope=_Envelope(
            payload=base64.b64encode(payload).decode(), payload_type=PAYLOAD_TYPE,
            signatures=[_Signature(sig=base64.b64encode(signature).decode())],
        ),
    )  # fmt: skip
    return msgspec.json.encode(bundle)


def verify(
    bundle: bytes, files: Mapping[str, bytes], key: ec.EllipticCurvePublicKey, name: str
) -> None:
    """Return where the key's owner signed exactly these files. Raises ReleaseError.

    name: of the release, for messages.
    """
    try:
        found = msgspec.json.decode(bundle, type=_Bundle)
        payload = _unpacked(found.dsse_envelope.payload)
        signature = _unpacked(found.dsse_envelope.signatures[0].sig)
        if msgspec.json.encode(found) != bundle:
            raise ValueError("not in its shortest form")
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ReleaseError(
            f"{name}: its signature is none of a release ({error!s:.160}); it was altered, or "
            "signed by another way than with a key: fetch it again, or make it again"
        ) from None
    if (other := found.verification_material.public_key.hint) != hint(key):
        raise ReleaseError(
            f"{name}: signed by the key {other:.16}…, not by the trusted one ({hint(key):.16}…); "
            "not activated: ask where it came from, or give the right --trust"
        )
    try:
        key.verify(signature, _pae(payload), ec.ECDSA(hash_of(key.curve, name)))
    except InvalidSignature:
        raise ReleaseError(
            f"{name}: its signature is not the trusted key's; it was altered or forged: fetch it "
            "again"
        ) from None
    _check_files(payload, files, name)


def _check_files(payload: bytes, files: Mapping[str, bytes], name: str) -> None:
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReleaseError(f"{name}: signs no files ({error!s:.160}); make it again") from None
    signed = {one.name: one.digest for one in statement.predicate.resources}
    there = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    if signed != there or len(signed) != len(statement.predicate.resources):
        differing = sorted(n for n in signed | there if signed.get(n) != there.get(n))
        raise ReleaseError(
            f"{name}: {', '.join(differing)[:200] or 'a file'} is not what was signed; it was "
            "altered: fetch it again"
        )


def _statement(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """As model-signing makes it: the root digest is over the files' digests, by name."""
    digests = {path: hashlib.sha256(files[path]) for path in sorted(files)}
    root = hashlib.sha256(b"".join(one.digest() for one in digests.values())).hexdigest()
    resources = [
        {"name": path, "digest": one.hexdigest(), "algorithm": "sha256"}
        for path, one in digests.items()
    ]
    method = {
        "hash_type": "sha256", "ignore_paths": ["model.sig"], "allow_symlinks": False,
        "method": "files",
    }  # fmt: skip
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": method, "resources": resources},
    }


def _pae(payload: bytes) -> bytes:
    """What DSSE signs: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _unpacked(text: str) -> bytes:
    """Base64 that is written in one way only. Raises ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 with something in its last bits")
    return data


# Keys -------------------------------------------------------------------------------------------


def private_key(path: Path, password: bytes | None = None) -> Signer:
    """From a PEM file. Raises ReleaseError."""
    try:
        key = serialization.load_pem_private_key(_read(path), password)
    except TypeError:
        raise ReleaseError(
            f"{path}: has a password; put it into the environment as DRIPGATE_KEY_PASSWORD"
            if password is None else f"{path}: has no password, and one was given"
        ) from None  # fmt: skip
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ReleaseError(f"{path}: is no private key in PEM ({error!s:.120}); {_MAKE}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ReleaseError(f"{path}: is no key on P-256, P-384 or P-521; {_MAKE}")
    algorithm = ec.ECDSA(hash_of(key.curve, str(path)))
    return Signer(key.public_key(), lambda data: key.sign(data, algorithm))


def public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """From a PEM file. Raises ReleaseError."""
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ReleaseError(
            f"{path}: is no public key in PEM ({error!s:.120}); openssl pkey -in KEY -pubout "
            "makes it"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ReleaseError(f"{path}: is no key on P-256, P-384 or P-521; {_MAKE}")
    hash_of(key.curve, str(path))
    return key


def hash_of(curve: ec.EllipticCurve, name: str) -> hashes.HashAlgorithm:
    """The hash that goes with a curve. Raises ReleaseError for a curve that the format lacks."""
    if curve.name not in _CURVES:
        raise ReleaseError(f"{name}: is no key on P-256, P-384 or P-521; {_MAKE}")
    algorithm: hashes.HashAlgorithm = _CURVES[curve.name]()
    return algorithm


def hint(key: ec.EllipticCurvePublicKey) -> str:
    """What a bundle calls a key: the SHA-256 of its PEM, 64 hex digits."""
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


_MAKE = "make one: openssl ecparam -name prime256v1 -genkey -noout -out KEY"


def _read(path: Path) -> bytes:
    try:
        return read_whole(path, _LARGEST_KEY)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read ({error.strerror}); give a PEM file") from None
