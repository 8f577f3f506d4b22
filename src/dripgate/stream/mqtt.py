"""One MQTT 5 connection that comes back by itself, for all that speaks to a broker. Needs paho.

paho's thread does the network: it connects, comes back after an interruption (waiting 1 s, then
twice as long each time, at most a minute), and calls back. Callbacks here only note what happened
and wake who waits; they touch no store. What goes wrong becomes one line with a remedy, in
``trouble``.
"""

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dripgate.errors import UplinkError
from dripgate.stream.broker import PASSWORD, USER, Address, Security, tls_context

#: Messages sent and not yet acknowledged by the broker; many brokers allow no more.
IN_FLIGHT = 20
#: Longest wait for a broker that takes the connection and says nothing, in seconds.
SILENCE = 10.0
#: Bytes of the largest message that MQTT can carry.
_MOST = (1 << 28) - 1


class Received(NamedTuple):
    """A message. epoch, mid and qos are for ``Link.acknowledge``; epoch counts the connections."""

    topic: str
    payload: bytes
    epoch: int
    mid: int
    qos: int


class Link:
    """A connection to a broker that is kept up until ``close``.

    client: id at the broker, one connection each. subscribe: topic filter or None. session:
    seconds that the broker keeps our subscription, and what came for it, while we are away.
    largest: bytes of one message that we take. on_message may block: then the broker waits.

    ready, trouble: how it stands. epoch, losses: connections that were made, and lost again.
    most_in_flight, most_bytes: what the broker takes at a time, and in one message.
    """

    def __init__(
        self,
        address: Address,
        client: str,
        security: Security,
        *,
        subscribe: str | None = None,
        session: int = 0,
        largest: int = 1 << 20,
        on_message: Callable[[Received], object] = lambda _: None,
        on_published: Callable[[int, int], None] = lambda _mid, _code: None,
    ) -> None:
        self.address = address
        self._closing = self._answered = False
        self.trouble = self._unanswered = f"no answer from {address.broker} yet"
        self.news = threading.Event()
        self.most_in_flight, self.most_bytes = IN_FLIGHT, _MOST
        self.epoch = self.losses = 0
        self._name, self._security, self._subscribe = client, security, subscribe
        self._session, self._largest = session, largest
        self._on_message, self._on_published = on_message, on_published
        self._client = self._open()

    @property
    def ready(self) -> bool:
        """Whether messages may be published now."""
        return not self.trouble

    def publish(self, topic: str, payload: bytes) -> int:
        """Send with QoS 1; returns the number that ``on_published`` is called with."""
        return self._client.publish(topic, payload, qos=1).mid

    def acknowledge(self, message: Received) -> None:
        """Tell the broker that it may forget a message, if this is the connection it came by.

        Otherwise it comes again, and its number may by now be that of another message.
        """
        if message.epoch == self.epoch and message.qos:
            self._client.ack(message.mid, message.qos)

    def wait(self, seconds: float) -> bool:
        """Until something happens, at most so long; returns whether it did."""
        happened = self.news.wait(seconds)
        self.news.clear()
        return happened

    def connect(self, stopped: Callable[[], bool]) -> None:
        """Wait until the connection stands. Raises UplinkError at the first trouble."""
        end = time.monotonic() + SILENCE
        while (trouble := self.trouble) == self._unanswered and time.monotonic() < end:
            if stopped():
                return
            self.wait(0.1)  # or less: messages may come before the subscription is confirmed
        if trouble:
            raise UplinkError(trouble)

    def renew(self) -> None:
        """Connect anew and forget what was published and not acknowledged."""
        self.close()
        self.trouble, self._closing = self._unanswered, False
        self._client = self._open()

    def close(self) -> None:
        """Say goodbye and end the thread."""
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    # In paho's thread ---------------------------------------------------------------------------

    def _open(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._name, protocol=paho.MQTTv5, manual_ack=True
        )
        client.reconnect_delay_set(1, 60)
        if login := self._security.login:
            client.username_pw_set(login.username, login.password)
        if self.address.tls:
            client.tls_set_context(tls_context(self._security))
        client.on_connect = self._connected
        client.on_connect_fail = self._unreachable
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        client.on_publish = self._published
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = self._session
        wanted.ReceiveMaximum = IN_FLIGHT
        wanted.MaximumPacketSize = self._largest
        host, port = self.address.host, self.address.port
        client.connect_async(host, port, clean_start=not self._session, properties=wanted)
        client.loop_start()
        return client

    def _connected(
        self, client: paho.Client, _: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        self.epoch += 1
        self._answered = True
        if reason.is_failure:
            return self._note(_refusal(self.address, reason.value, str(reason)))
        self.most_in_flight = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        self.most_bytes = min(_MOST, getattr(properties, "MaximumPacketSize", _MOST))
        if self._subscribe:
            client.subscribe(self._subscribe, qos=1)
        else:
            self._note("")
        return None

    def _subscribed(
        self, client: paho.Client, _: Any, mid: int, reasons: list[Any], properties: Any
    ) -> None:
        refused = [reason for reason in reasons if reason.is_failure]
        self._note(
            f"{self.address.broker} does not let us read {self._subscribe} ({refused[0]}); allow "
            "it in the broker's access list, or give the topic you may read"
            if refused else ""
        )  # fmt: skip

    def _unreachable(self, client: paho.Client, _: Any) -> None:
        self._note(_cause(self.address, sys.exc_info()[1]))

    def _disconnected(
        self, client: paho.Client, _: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if self._closing:
            return
        self.losses += self.ready
        answered, self._answered = self._answered, False
        lost = (
            f"the connection to {self.address.broker} was lost ({reason}) and is being made again; "
            "if that repeats, see whether another client has our name (--device)"
        )
        if self.ready or flags.is_disconnect_packet_from_server:
            self._note(lost)
        elif self.trouble == self._unanswered:  # anything else says more
            self._note(lost if answered else (
                f"{self.address.broker} closes the connection without an answer; if it expects "
                "TLS write mqtts://, and check that it speaks MQTT 5"
            ))  # fmt: skip

    def _message(self, client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        payload = bytes(message.payload)
        self._on_message(Received(topic, payload, self.epoch, message.mid, message.qos))
        self.news.set()

    def _published(
        self, client: paho.Client, _: Any, mid: int, reason: Any, properties: Any
    ) -> None:
        self._on_published(mid, reason.value)
        self.news.set()

    def _note(self, trouble: str) -> None:
        self.trouble = trouble
        self.news.set()


def _refusal(address: Address, code: int, text: str) -> str:
    """What a broker means that answers and refuses."""
    if code in (0x86, 0x87):
        return (
            f"{address.broker} refuses our user name or password ({text}); correct the file given "
            f"with --credentials, or {USER} and {PASSWORD}"
        )
    if code in (0x84, 0x01):
        return f"{address.broker} does not speak MQTT 5 ({text}); use a newer broker"
    return f"{address.broker} refuses the connection ({text}); see the broker's log"


def _cause(address: Address, error: BaseException | None) -> str:
    """Why a connection could not be made, and what to do."""
    where = f"cannot reach the broker at {address.broker}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {address.broker} is not trusted ({error.verify_message}); give "
            "its authority with --ca FILE, and the host as the certificate names it"
        )
    if isinstance(error, socket.gaierror):
        return f"{where}: there is no host of this name; check the address and the name server"
    if isinstance(error, ConnectionRefusedError):
        return f"{where}: nothing listens there; check host and port, and that the broker runs"
    if isinstance(error, TimeoutError):
        return f"{where}: no answer; check the network and the firewall"
    if address.tls:  # some answer what they do not understand by hanging up
        return (
            f"no TLS with {address.broker} ({error}); check the port, and whether the broker wants "
            "a certificate of ours (--cert, --key), or no TLS at all (mqtt://)"
        )
    return f"{where} ({error}); check the network"
