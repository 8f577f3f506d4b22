"""A real mosquitto on loopback, with whatever a test wants of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from dripgate.errors import StoreError
from dripgate.store import Store
from dripgate.types import Decision, Reason, Sample, Verdict
from needs import need, program

TOPIC = "farm/north"


def eventually(what, *, within=300.0, alive=()):
    """Wait until ``what()`` is true; processes in ``alive`` must not end meanwhile."""
    end = time.monotonic() + within
    while not (found := what()):
        for process in alive:
            assert process.poll() is None, process.log()
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
    return found


class Broker:
    """mosquitto on a port of its own; it can be killed, and started again on the same port."""

    def __init__(self, folder: Path, *settings: str, tls: tuple[str, ...] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        folder.mkdir(exist_ok=True)
        settings = settings or ("allow_anonymous true",)
        lines = ["user root", f"listener {self.port} 127.0.0.1", *tls, *settings]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.process = None

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [program("mosquitto"), "-c", self.folder / "mosquitto.conf", "-v"],
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, alive=[self])
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def poll(self):
        return self.process.poll()

    def log(self):
        return (self.folder / "log").read_text()

    def address(self, topic=TOPIC, scheme="mqtt", host="127.0.0.1"):
        return f"{scheme}://{host}:{self.port}/{topic}"

    def _answers(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Command:
    """A dripgate command in a process of its own."""

    def __init__(self, folder: Path, *arguments, env=None, stdin=None) -> None:
        self.log_path = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dripgate", *map(str, arguments)],
                stdin=stdin, stdout=log, stderr=log, env=os.environ | (env or {}),
            )  # fmt: skip

    def poll(self):
        return self.process.poll()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, number=signal.SIGTERM):
        """End it as systemd would; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def wait(self):
        return self.process.wait(120)

    def log(self):
        return self.log_path.read_text()


class Lab:
    """A folder with brokers, commands and stores, which are named."""

    eventually = staticmethod(eventually)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = []

    def __truediv__(self, name):
        return self.folder / name

    def broker(self, *settings, **options):
        """A mosquitto that runs."""
        need("mosquitto")
        broker = Broker(self / f"broker{len(self._made)}", *settings, **options)
        self._made.append(broker)
        return broker.start()

    def command(self, *arguments, **options):
        """A dripgate command that runs."""
        self._made.append(Command(self.folder, *arguments, **options))
        return self._made[-1]

    def clean(self):
        for one in self._made:
            if one.poll() is None:
                one.kill()

    # Stores -------------------------------------------------------------------------------------

    def fill(self, name, count, *, start=0, size=300, **options):
        """Put so many samples into a store; returns their ids."""
        with Store(self / name, **options) as store:
            pairs = [
                (Sample(b"%08d" % i + b"x" * size, f"class{i % 3}/{i}.png", 1000.0 + i), verdict(i))
                for i in range(start, start + count)
            ]
            store.put_many(pairs)
        return {sample.id for sample, _ in pairs}

    def samples(self, name):
        """What a store holds, by id; nothing while there is none."""
        with suppress(StoreError), Store(self / name, read_only=True) as store:
            return {stored.id: stored for stored in store}
        return {}

    def count(self, name):
        """How many samples a store holds, and how many are pending; none before it is one."""
        with suppress(StoreError), Store(self / name, read_only=True) as store:
            summary = store.summary()
            return summary.samples, summary.samples - summary.uploaded
        return 0, 0


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    yield lab
    lab.clean()


@pytest.fixture
def publisher(lab):
    """Publishes with QoS 1 to the topic below, and waits until the broker has it."""
    clients = []

    def publish(broker, topic, *payloads):
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        clients.append(client)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for payload in payloads:
            client.publish(topic, payload, qos=1).wait_for_publish(60)

    yield publish
    for client in clients:
        client.disconnect()
        client.loop_stop()


def verdict(score=1.0, **changes):
    values = {
        "decision": Decision.KEEP, "reason": Reason.BAND, "score": score, "quality": 0.5,
        "predicted": 3, "propensity": 1.0,
    }  # fmt: skip
    return Verdict(**values | changes)
