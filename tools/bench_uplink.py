"""What a device sends instead of its whole stream, measured on the wire: docs/results/uplink.json.

    dripgate demo --data cifar10 --out demo/cifar10
    python tools/bench_uplink.py demo/cifar10/gate.onnx demo/cifar10/stream.zip [FIRST]

FIRST: only so many samples of the stream.

Runs the gate with an uplink to a mosquitto on loopback and a receiver behind it. The bytes on the
wire are those that a counting relay between device and broker forwards, both directions, MQTT's
own packets and receipts included, TCP's headers not.
"""

import json
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from dripgate.store import Store

OUT = Path(__file__).parents[1] / "docs" / "results" / "uplink.json"


class Relay(threading.Thread):
    """Forwards connections to a port and counts what goes through."""

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self.target, self.bytes = target, {"to_broker": 0, "to_device": 0}
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.start()

    def run(self) -> None:
        """Serve one connection after the other."""
        while True:
            device, _ = self.server.accept()
            with device, socket.create_connection(("127.0.0.1", self.target)) as broker:
                self._forward(device, broker)

    def _forward(self, device: socket.socket, broker: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(device, selectors.EVENT_READ, (broker, "to_broker"))
            ready.register(broker, selectors.EVENT_READ, (device, "to_device"))
            while True:
                for key, _ in ready.select():
                    to, direction = key.data
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    self.bytes[direction] += len(data)
                    to.sendall(data)


def beginning(source: Path, folder: Path, count: int) -> Path:
    """An archive of the first samples of another."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(folder / "part.zip", "w") as part:
        for name in whole.namelist()[:count]:
            part.writestr(name, whole.read(name))
    return folder / "part.zip"


def dripgate(*arguments: object) -> subprocess.Popen[bytes]:
    """A command in the background."""
    command = [sys.executable, "-m", "dripgate", *map(str, arguments)]
    return subprocess.Popen(command)  # noqa: S603 - our own command


def measure(gate: Path, source: Path, folder: Path, *options: str) -> dict[str, object]:
    """One run, from an empty store to the last receipt."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n")
    mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    broker = subprocess.Popen(  # noqa: S603 - a path of ours
        [mosquitto, "-c", folder / "m.conf"], stderr=subprocess.DEVNULL
    )
    relay = Relay(port)
    receiver = dripgate("receive", f"mqtt://127.0.0.1:{port}/bench", "--store", folder / "c.db")
    try:
        run = dripgate("run", gate, source, "--store", folder / "k.db", "--uplink",
                       f"mqtt://127.0.0.1:{relay.port}/bench", "--patience", "2",
                       "--json", folder / "run.json", *options)  # fmt: skip
        if run.wait() != 0:
            raise SystemExit("the run failed")
    finally:
        receiver.terminate()
        receiver.wait()
        broker.terminate()
    said = json.loads((folder / "run.json").read_text())
    with Store(folder / "c.db", read_only=True) as store:
        arrived = len(store)
    seen, wire = said["summary"]["bytes_seen"], sum(relay.bytes.values())
    return {
        "source": "",
        "options": list(options),
        "samples_seen": said["summary"]["seen"],
        "bytes_seen": seen,
        "samples_kept": said["summary"]["stored"],
        "bytes_kept": said["summary"]["bytes_stored"],
        "samples_confirmed": said["uplink"]["confirmed"],
        "samples_arrived": arrived,
        "messages": said["uplink"]["messages"],
        "message_bytes": said["uplink"]["bytes"],
        "wire_bytes": relay.bytes,
        "transmission_saved": round(1 - wire / seen, 4),
    }


if __name__ == "__main__":
    rows = json.loads(OUT.read_text()) if OUT.exists() else []
    gate, source = map(Path, sys.argv[1:3])
    for options in ((), ("--send-embeddings",), ("--metadata-only",)):
        with tempfile.TemporaryDirectory() as folder:
            part = beginning(source, Path(folder), int(sys.argv[3])) if sys.argv[3:] else source
            row = measure(gate, part, Path(folder), *options)
            row["source"] = source.parent.name
        rows = [r for r in rows if (r["source"], r["options"]) != (row["source"], list(options))]
        rows.append(row)
        print(json.dumps(row))
    OUT.write_text(json.dumps(rows, indent=1) + "\n")
