"""run with a broker at both ends: what is kept is sent, and messages can be the samples."""

import json
import re
import shlex
import shutil
import signal
import zipfile
from pathlib import Path

from dripgate.errors import StoreError
from dripgate.store import Store
from dripgate.stream.broker import Security, parse_address
from dripgate.stream.message import encode, encode_receipt
from dripgate.stream.receive import Receiver
from dripgate.stream.uplink import Options, Uplink
from dripgate.types import Decision, Sample
from needs import need

TOPIC = "farm/north"
_FILES = ("central.db", "kept.db", "gate.onnx", "incoming")


def counters(path):
    try:
        with Store(path, read_only=True) as store:
            return store.counters
    except StoreError:
        return {}


def test_a_run_sends_what_it_keeps_and_ends_cleanly(lab, loop, stream, gate):
    broker = lab.broker()
    (lab / "incoming").mkdir()
    for i, (_, payload) in enumerate(stream[:300]):
        (lab / "incoming" / f"{i:03d}.png").write_bytes(payload)
    receiver = lab.command("receive", broker.address(), "--store", lab / "central.db")
    run = lab.command(
        "run", loop / "gate.onnx", lab / "incoming", "--follow", "--processed", "remove",
        "--store", lab / "k.db", "--uplink", broker.address(), "--device", "north-1",
        "--patience", "0.3", "--metrics", lab / "m.prom", "--json", lab / "run.json",
    )  # fmt: skip
    lab.eventually(lambda: counters(lab / "k.db").get("seen") == 300, alive=[run])
    lab.eventually(lambda: lab.count("k.db")[1] == 0, alive=[run])
    assert run.stop(signal.SIGTERM) == 0, run.log()
    assert receiver.stop() == 0, receiver.log()
    samples = [Sample(payload) for _, payload in stream[:300]]
    kept = {s.id for s in samples if gate.decide(s).decision is not Decision.DROP}
    assert lab.samples("central.db").keys() == kept
    assert not list((lab / "incoming").iterdir())
    said = json.loads((lab / "run.json").read_text())
    assert said["uplink"]["confirmed"] == len(kept) == counters(lab / "k.db")["sent"]
    payloads = sum(len(s.payload) for s in samples if s.id in kept)
    assert payloads < said["uplink"]["bytes"] < payloads + 600 * len(kept)  # and what is said of it
    assert f"dripgate_sent_total {len(kept)}.0\n" in (lab / "m.prom").read_text()
    with Store(lab / "central.db", read_only=True) as store:  # which gate the device runs
        assert json.loads(store.devices()["north-1"][1])["gate"] == gate.id
        assert {stored.gate for stored in store} == {gate.id}
    report = [line for line in run.log().splitlines() if line.startswith('{"time"')][-1]
    assert json.loads(report)["pending"] == 0


def test_embeddings_go_where_they_are_asked_for(lab, loop, dripgate):
    """Then two devices that saw the same are told; else it is said how to have it."""
    need("usearch")
    broker = lab.broker()
    receiver = lab.command("receive", broker.address(), "--store", lab / "central.db")
    for device, first in (("north", 0), ("south", 1)):
        (lab / device).mkdir()
        with zipfile.ZipFile(loop / "stream.zip") as archive:
            for name in archive.namelist()[first::2]:
                payload = archive.read(name)
                (lab / device / f"{Sample(payload).id}.png").write_bytes(payload)
        run = lab.command(
            "run", loop / "gate.onnx", lab / device, "--store", lab / f"{device}.db",
            "--uplink", broker.address(), "--device", device, "--send-embeddings",
            "--patience", "0.3",
        )  # fmt: skip
        assert run.wait() == 0, run.log()
    assert receiver.stop() == 0, receiver.log()
    with Store(lab / "central.db", read_only=True) as store:
        came = {one.key: one for one in store.embedded()}
        assert len(came) == len(store)
        for device in ("north", "south"):
            with Store(lab / f"{device}.db", read_only=True) as own:
                for key in came:
                    row = store.rows([key])[0]
                    if row.source.startswith(f"{device}/"):
                        assert own.embedding_of(row.id) == came[key].numbers
    code, out, err = dripgate("inspect", lab / "central.db")
    assert code == 0, err
    assert re.search(r"scenes +[\d,]+ of [\d,]+ were seen by several devices", out), out
    code, _, err = dripgate("run", loop / "gate.onnx", lab / "north", "--store", lab / "n.db",
                            "--uplink", broker.address(), "--send-embeddings",
                            "--embeddings", "off")  # fmt: skip
    assert code == 2
    assert "--embeddings off does not keep" in err
    code, _, err = dripgate("send", lab / "north.db", "--to", broker.address(), "--metadata-only",
                            "--send-embeddings")  # fmt: skip
    assert code == 2
    assert "kept beside payloads" in err


def test_a_run_decides_while_no_broker_is_there(lab, loop):
    broker = lab.broker()
    broker.kill()
    run = lab.command(
        "run", loop / "gate.onnx", loop / "stream.zip", "--store", lab / "k.db",
        "--uplink", broker.address(), "--patience", "0.3",
    )  # fmt: skip
    lab.eventually(lambda: lab.count("k.db")[0] == lab.count("k.db")[1] > 20, alive=[run])
    lab.eventually(lambda: "nothing listens there" in run.log(), alive=[run])
    broker.start()
    receiver = lab.command("receive", broker.address(), "--store", lab / "central.db")
    assert run.wait() == 0, run.log()
    receiver.stop()
    assert lab.samples("central.db").keys() == lab.samples("k.db").keys()


def test_messages_as_samples_are_all_decided_whatever_is_killed(lab, loop, stream, publisher):
    broker = lab.broker("allow_anonymous true", "max_queued_messages 0")
    payloads = [payload for _, payload in stream[:400]]

    def start():
        return lab.command("run", loop / "gate.onnx", broker.address("cam"), "--store",
                           lab / "k.db", "--batch", "16", "--json", lab / "run.json")  # fmt: skip

    run = start()
    lab.eventually(lambda: "SUBACK" in broker.log(), alive=[run])
    publisher(broker, "cam", *payloads[:200])
    run.kill()
    publisher(broker, "cam", *payloads[200:], b"no image")  # the broker keeps them
    run = start()
    ends = Sample(payloads[-1]).id
    lab.eventually(lambda: counters(lab / "k.db").get("unreadable", 0) == 1, alive=[run])
    assert run.stop() == 0, run.log()
    assert counters(lab / "k.db")["seen"] >= 401
    shutil.copy(lab / "k.db", lab / "a.db")
    alone = lab.command("run", loop / "gate.onnx", loop / "stream.zip", "--store", lab / "b.db")
    assert alone.wait() == 0
    wanted = {Sample(payload).id for payload in payloads} & lab.samples("b.db").keys()
    assert lab.samples("a.db").keys() == wanted
    assert ends in {Sample(payload).id for payload in payloads}


def test_a_receiver_takes_nothing_that_is_not_a_sample(lab, publisher):
    broker = lab.broker()
    lab.fill("device.db", 3)
    good, other, third = (encode(stored) for stored in lab.samples("device.db").values())
    refused = []
    with Store(lab / "central.db") as store, Receiver(
        store, parse_address(broker.address()), Security(), "r",
        on_refused=lambda topic, cause: refused.append(cause),
    ) as receiver:  # fmt: skip
        receiver.link.connect(lambda: False)
        publisher(broker, f"{TOPIC}/samples/a", b"", b"\xff" * 50, good[:-1], good[:-1] + b"?")
        publisher(broker, f"{TOPIC}/samples/a b", other)
        publisher(broker, f"{TOPIC}/samples/a", good, good, third)

        def arrived():
            receiver.turn(0.1)
            return receiver.tally.messages == 8

        lab.eventually(arrived)
        assert (receiver.tally.invalid, receiver.tally.stored, receiver.tally.present) == (5, 2, 1)
        assert len(store) == 2
    assert sum("not a message" in cause for cause in refused) == 3
    assert sum("damaged or forged" in cause for cause in refused) == 1
    assert sum("names no device" in cause for cause in refused) == 1


def test_bandwidth_is_kept_to_and_noise_on_the_topic_of_receipts_does_nothing(lab, publisher):
    """By a clock of its own: never more than the rate, a second's worth and one message."""
    broker = lab.broker()
    lab.fill("device.db", 200, size=1000)
    now = [1000.0]
    receiver = lab.command("receive", broker.address(), "--store", lab / "central.db")
    lab.eventually(lambda: "SUBACK" in broker.log(), alive=[receiver])
    with Store(lab / "device.db") as store:
        uplink = Uplink(store, parse_address(broker.address()), Security(), "north-1",
                        Options(rate=5000), clock=lambda: now[0])  # fmt: skip
        uplink.link.connect(lambda: False)
        publisher(broker, f"{TOPIC}/receipts/north-1", b"noise", encode_receipt(["00" * 32]))

        def turned():
            uplink.turn()
            assert uplink.state.bytes <= 5000 * (now[0] - 1000) + 5000 + 1500
            now[0] += 0.2
            uplink.link.wait(0.01)
            return uplink.done

        lab.eventually(turned)
        uplink.close()
        assert now[0] - 1000 > 200 * 1000 / 5000 - 2
    receiver.stop()
    assert lab.samples("central.db").keys() == lab.samples("device.db").keys()


def test_what_is_evicted_on_its_way_is_forgotten(lab):
    from dripgate.store import Wanted

    broker = lab.broker()
    lab.fill("device.db", 10)
    with Store(lab / "device.db") as store:
        uplink = Uplink(store, parse_address(broker.address()), Security(), "north-1",
                        Options(patience=0.05))  # fmt: skip
        uplink.link.connect(lambda: False)

        def asked():
            uplink.turn()
            return "nobody subscribed" in uplink.state.trouble

        lab.eventually(asked)
        store.purge(Wanted(uploaded=False))
        assert len(store) == 0

        def over():
            uplink.turn()
            return uplink.done

        lab.eventually(over)
        uplink.close()


def test_the_commands_of_the_fleet_page(lab, loop, stream, dripgate, monkeypatch):
    """docs/fleet.md: what sends comes second on the page, and first here."""
    need("usearch")
    page = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()
    shows, sends = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    broker = lab.broker()
    monkeypatch.chdir(lab.folder)
    shutil.copy(loop / "gate.onnx", lab / "gate.onnx")
    (lab / "incoming").mkdir()
    for i, (_, payload) in enumerate(stream[:100]):
        (lab / "incoming" / f"{i}.png").write_bytes(payload)
    receiver = lab.command("receive", broker.address("farm"), "--store", lab / "central.db")
    for line in sends.splitlines():
        words = shlex.split(line.replace("mqtt://127.0.0.1/", broker.address("")))
        sent = lab.command(*words[1:])
        assert sent.wait() == 0, sent.log()
    assert receiver.stop() == 0, receiver.log()
    for line in shows.splitlines():
        code, _, err = dripgate(*shlex.split(line, comments=True)[1:])
        assert code == 0, err
    assert (lab / "fleet.html").exists()


def test_the_commands_of_the_page(lab, loop, stream):
    """The block of commands in docs/uplink.md, with another port."""
    page = (Path(__file__).parents[2] / "docs" / "uplink.md").read_text()
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1]
    broker = lab.broker()
    shutil.copy(loop / "gate.onnx", lab / "gate.onnx")
    (lab / "incoming").mkdir()
    for i, (_, payload) in enumerate(stream[:100]):
        (lab / "incoming" / f"{i}.png").write_bytes(payload)
    started = {}
    for line in block.splitlines():
        words = shlex.split(line.replace("mqtt://127.0.0.1/", broker.address("")), comments=True)
        assert words[0] == "dripgate"
        words = [str(lab / word) if word in _FILES else word for word in words]
        if words[1] == "send":
            lab.eventually(lambda: counters(lab / "kept.db").get("seen") == 100)
            assert started["run"].stop() == 0
        started[words[1]] = lab.command(*words[1:])
    assert started["send"].wait() == 0, started["send"].log()
    assert started["receive"].stop() == 0
    assert lab.samples("central.db").keys() == lab.samples("kept.db").keys()
    assert lab.count("kept.db")[1] == 0
