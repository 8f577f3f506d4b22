"""Where a broker is and who we are to it; nothing here connects.

Credentials are read from a file or from the environment, never from an address, because a command
line can be read by everybody on the machine. TLS is checked against the system's authorities, or
one that is given; it cannot be switched off.
"""

import os
import re
import secrets
import socket
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from dripgate.errors import UplinkError
from dripgate.files import read_whole
from dripgate.store import Store

_PORTS = {"mqtt": 1883, "mqtts": 8883}
USER, PASSWORD = "DRIPGATE_MQTT_USERNAME", "DRIPGATE_MQTT_PASSWORD"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Address(NamedTuple):
    """mqtt[s]://host[:port]/topic"""

    host: str
    port: int
    tls: bool
    topic: str

    @property
    def broker(self) -> str:
        """host:port, for messages."""
        return f"{self.host}:{self.port}"


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who we are to the broker."""

    username: str
    password: str = ""


class Security(NamedTuple):
    """login: None is anonymous. ca: file of the authority that signed the broker's certificate,
    None is the system's. certificate, key: files of our own certificate, where the broker asks.
    """

    login: Login | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def is_address(text: str) -> bool:
    """Whether this is meant as the address of a topic."""
    return text.startswith(("mqtt:", "mqtts:"))


def parse_address(text: str, *, wildcards: bool = False) -> Address:
    """From mqtt://host/topic or mqtts://host:8883/topic. Raises UplinkError.

    wildcards: whether + and # (written %23) may be in it, as in what is subscribed to.
    """
    expected = "expected mqtt://host/topic, or mqtts://host/topic for TLS"
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise UplinkError(f"{text}: not the address of a topic; {expected}") from None
    if parts.username or parts.password:
        raise UplinkError(
            f"{parts.scheme}://…@{parts.hostname}: an address may hold no credentials, everybody "
            f"on this machine could read them; use --credentials FILE, or {USER} and {PASSWORD}"
        )
    topic = unquote(parts.path).strip("/")
    if not parts.hostname or not topic or parts.query or parts.fragment:
        raise UplinkError(f"{text}: host or topic is missing; {expected}")
    special = r"[\x00-\x1f]" if wildcards else r"[+#\x00-\x1f]"
    if topic.startswith("$") or len(topic.encode()) > 1024 or re.search(special, topic):
        raise UplinkError(
            f"{text}: no topic to publish to: $, + and # are the broker's; {expected}"
        )
    return Address(parts.hostname, port, parts.scheme == "mqtts", topic)


def read_login(path: Path | None, environment: Mapping[str, str] = os.environ) -> Login | None:
    """From a TOML file with username and password, else from the environment, else None.

    Raises UplinkError, for a file that others may read too.
    """
    if path is None:
        user = environment.get(USER)
        return Login(user, environment.get(PASSWORD, "")) if user else None
    form = 'expected two lines: username = "…" and password = "…"'
    try:
        if path.stat().st_mode & stat.S_IROTH:
            raise UplinkError(f"{path}: everybody may read these credentials; run chmod 600 {path}")
        return msgspec.toml.decode(read_whole(path, 1 << 16), type=Login)
    except OSError as error:
        raise UplinkError(f"{path}: cannot be read ({error.strerror}); {form}") from None
    except msgspec.DecodeError as error:
        raise UplinkError(f"{path}: no credentials ({error}); {form}") from None


def name_of(store: Store, given: str | None = None) -> str:
    """What this machine is called at the broker: given, or found once and noted in the store.

    Machines of one image share name and machine-id, so eight random digits are part of it.
    Raises UplinkError for a name that no topic can hold.
    """
    name = given or store.meta.get("device")
    if name is None:
        host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())[:48] or "device"
        name = f"{host}-{secrets.token_hex(4)}"
    if not is_name(name):
        raise UplinkError(f"{name!r} cannot name a device; use up to 64 of A-Z a-z 0-9 _ . -")
    if not store.read_only:
        store.set_meta("device", name)
    return name


def is_name(text: str) -> bool:
    """Whether this may be a level of a topic that names a device."""
    return _NAME.fullmatch(text) is not None


def tls_context(security: Security) -> ssl.SSLContext:
    """What TLS is done with. Raises UplinkError for files that are no PEM."""
    try:
        context = ssl.create_default_context(cafile=security.ca)
        if security.certificate:
            context.load_cert_chain(security.certificate, security.key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(f) for f in security[1:] if f)
        raise UplinkError(
            f"{files}: cannot be used for TLS ({error.strerror or error}); expected PEM files"
        ) from None
    return context
