"""Keys that never leave a token: a PKCS#11 URI (RFC 7512) in place of a key file.

    pkcs11:token=fleet;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so

Token and key are found by what the URI says of them: token, serial, object, id. The module is that
of the URI, else of PKCS11_MODULE in the environment. The PIN is never in the URI, since everybody
on a machine can read its command lines.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import Hash
from cryptography.hazmat.primitives.serialization import load_der_public_key

from dripgate.errors import MissingExtra, ReleaseError
from dripgate.release.signing import Signer, hash_of

SCHEME = "pkcs11:"
#: What a URI may say of the token, of the key, and after its "?".
_TOKEN, _KEY, _QUERY = ("token", "serial"), ("object", "id"), ("module-path",)
_MODULE = "PKCS11_MODULE"


@contextmanager
def token_key(uri: str, pin: str | None) -> Iterator[Signer]:
    """The key that a URI names, while the token's session lasts.

    Raises ReleaseError, MissingExtra without python-pkcs11.
    """
    asked = _parsed(uri)
    try:
        import pkcs11
    except ImportError as error:
        raise MissingExtra("a key on a token (PKCS#11)", "pkcs11") from error
    try:
        with _token(pkcs11, asked, uri).open(user_pin=pin) as session:
            yield _signer(pkcs11, session, asked, uri)
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
        raise ReleaseError(
            f"{uri}: the token refuses the PIN; correct DRIPGATE_KEY_PASSWORD in the environment "
            "(a token locks itself after a few wrong ones)"
        ) from None
    except pkcs11.PKCS11Error as error:
        why = f"{type(error).__name__} {error!s:.160}".strip()
        raise ReleaseError(f"{uri}: the token does not do it ({why}); see its manual") from None


def _parsed(uri: str) -> dict[str, bytes]:
    """What the URI says. Raises ReleaseError for what is not used here, a PIN above all."""
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    found: dict[str, bytes] = {}
    for parts, known in ((path.split(";"), (*_TOKEN, *_KEY, "type")), (query.split("&"), _QUERY)):
        for part in filter(None, parts):
            name, _, value = part.partition("=")
            if name in ("pin-value", "pin-source"):
                shown = f"{SCHEME}… {name}"
                raise ReleaseError(
                    f"{shown}: a PIN is not taken from there; put it into the environment as "
                    "DRIPGATE_KEY_PASSWORD"
                )
            if name not in known:
                raise ReleaseError(
                    f"{uri}: '{name}' is not used here; known are {', '.join(known)}, and "
                    f"{', '.join(_QUERY)} after a '?'"
                )
            found[name] = unquote_to_bytes(value)
    if not any(name in found for name in _KEY):
        raise ReleaseError(f"{uri}: names no key; add object=LABEL or id=%01")
    return found


def _token(pkcs11: Any, asked: dict[str, bytes], uri: str) -> Any:
    """The one token that is meant."""
    module = os.fsdecode(asked.get("module-path", b"")) or os.environ.get(_MODULE, "")
    if not module:
        raise ReleaseError(
            f"{uri}: says no module; add ?module-path=/usr/lib/…/libsofthsm2.so, the library of "
            f"your token, or set {_MODULE}"
        )
    try:
        library = pkcs11.lib(module)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise ReleaseError(
            f"{uri}: {module} cannot be loaded as a PKCS#11 module ({error!s:.160}); give the "
            "library that came with your token"
        ) from None
    tokens = list(library.get_tokens())
    wanted = [
        one for one in tokens
        if asked.get("token") in (None, one.label.encode())
        and asked.get("serial") in (None, _bytes(one.serial))
    ]  # fmt: skip
    if len(wanted) != 1:
        there = ", ".join(repr(one.label) for one in tokens) or "none"
        raise ReleaseError(
            f"{uri}: {len(wanted)} tokens fit, expected one; there are: {there}; name it: "
            "pkcs11:token=LABEL;object=…"
        )
    return wanted[0]


def _signer(pkcs11: Any, session: Any, asked: dict[str, bytes], uri: str) -> Signer:
    private = _object(pkcs11, session, asked, uri, pkcs11.ObjectClass.PRIVATE_KEY, "private")
    if private.key_type is not pkcs11.KeyType.EC:
        raise ReleaseError(f"{uri}: is no key on an elliptic curve; a release needs one")
    public = _object(pkcs11, session, asked, uri, pkcs11.ObjectClass.PUBLIC_KEY, "public")
    try:
        key = load_der_public_key(pkcs11.util.ec.encode_ec_public_key(public))
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"{uri}: its public key cannot be read ({error!s:.120})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ReleaseError(f"{uri}: is no key on an elliptic curve; a release needs one")
    algorithm = hash_of(key.curve, uri)

    def sign(data: bytes) -> bytes:
        digest = Hash(algorithm)
        digest.update(data)
        # What every token can: the hash is made here.
        both = private.sign(digest.finalize(), mechanism=pkcs11.Mechanism.ECDSA)
        r, s = both[: len(both) // 2], both[len(both) // 2 :]
        signature = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        key.verify(signature, data, ec.ECDSA(algorithm))
        return signature

    return Signer(key, sign)


def _object(
    pkcs11: Any, session: Any, asked: dict[str, bytes], uri: str, kind: Any, word: str
) -> Any:
    """The one object of a kind that is meant."""
    wanted: dict[Any, Any] = {pkcs11.Attribute.CLASS: kind}
    if "object" in asked:
        wanted[pkcs11.Attribute.LABEL] = asked["object"].decode("utf-8", "replace")
    if "id" in asked:
        wanted[pkcs11.Attribute.ID] = asked["id"]
    found = list(session.get_objects(wanted))
    if len(found) != 1:
        all_of = session.get_objects({pkcs11.Attribute.CLASS: kind})
        there = ", ".join(sorted({repr(one.label) for one in all_of})) or "none"
        raise ReleaseError(
            f"{uri}: {len(found)} {word} keys fit, expected one; there are: {there}; private ones "
            "are seen with the PIN alone, from DRIPGATE_KEY_PASSWORD in the environment"
        )
    return found[0]


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
