"""Devices that mean no good: a name that cannot be cut off, a limit for all that arrives."""

import hashlib
import json

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from dripgate.errors import StoreError
from dripgate.store import Store
from dripgate.stream.broker import Security, parse_address
from dripgate.stream.receive import Receiver

TOPIC = "farm/north"


def message(n, *, payload=True, source="a.png", **changes):
    data = b"sample %d" % n
    values = {
        "version": 1, "id": hashlib.sha256(data).digest(), "size": len(data), "source": source,
        "time": 1.0, "decision": "keep", "reason": "band", "score": float(n), "quality": 1.0,
        "predicted": 1, "propensity": 1.0, "payload": data if payload else None,
    }  # fmt: skip
    return msgspec.msgpack.encode(values | changes)


@pytest.fixture
def publish():
    """Publishes with QoS 1 and waits until the broker has it."""

    def published(broker, device, *payloads):
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        for payload in payloads:
            client.publish(f"{TOPIC}/samples/{device}", payload, qos=1).wait_for_publish(60)
        client.disconnect()
        client.loop_stop()

    return published


def received(lab, broker, store, count, publish, device, payloads):
    """A receiver that takes so many messages."""
    with Receiver(store, parse_address(broker.address()), Security(), "r") as receiver:
        receiver.link.connect(lambda: False)
        publish(broker, device, *payloads)

        def arrived():
            receiver.turn(0.1)
            return receiver.tally.messages == count

        lab.eventually(arrived, within=60)


def test_a_long_source_does_not_cut_off_the_device_s_name(lab, publish):
    broker = lab.broker()
    long = "other-device/" + "x" * 4000 + "/leaf.png"
    with Store(lab / "central.db") as store:
        received(lab, broker, store, 2, publish, "north-1",
                 [message(1, source=long[-4096:]), message(2, source="y" * 4096)])  # fmt: skip
        sources = [one.source for one in store]
    assert all(source.startswith("north-1/") for source in sources)
    assert all(len(source) <= 4096 for source in sources)
    assert sources[0].endswith("/leaf.png")


def test_records_without_payload_obey_the_limit(lab, publish):
    broker = lab.broker("allow_anonymous true", "max_queued_messages 0")
    limit = 600_000
    with Store(lab / "central.db", limit) as store:
        messages = [message(n, payload=False, source="s" * 2000) for n in range(300)]
        received(lab, broker, store, 300, publish, "north-1", messages)
        counted = store.counters["evicted_metadata"]
    path = lab / "central.db.metadata.jsonl"
    assert path.stat().st_size <= limit // 9
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) + counted == 300
    assert [r["score"] for r in records] == [float(n) for n in range(300 - len(records), 300)]


def test_the_limit_of_the_command_is_for_all_its_files(lab, publish):
    broker = lab.broker()
    receiver = lab.command("receive", broker.address(), "--store", lab / "central.db", "--limit",
                           "1MB")  # fmt: skip
    lab.eventually(lambda: "SUBACK" in broker.log(), alive=[receiver])
    publish(broker, "north-1", message(1, payload=False), message(2))
    lab.eventually(lambda: lab.count("central.db")[0] == 1, alive=[receiver])
    assert receiver.stop() == 0
    with Store(lab / "central.db", read_only=True) as store:
        assert store.limit == 900_000


def test_stores_whose_names_differ_in_their_ending_share_no_file(lab, publish):
    broker = lab.broker()
    for n, name in enumerate(["farm.north", "farm.south", "farm"]):
        with Store(lab / name) as store:
            received(lab, broker, store, 1, publish, "d", [message(n, payload=False)])
    for n, name in enumerate(["farm.north", "farm.south", "farm"]):
        (line,) = (lab / f"{name}.metadata.jsonl").read_text().splitlines()
        assert json.loads(line)["score"] == n


def test_a_file_of_records_that_is_a_link_is_not_written_to(lab):
    (lab / "theirs.txt").write_text("mine")
    (lab / "central.db.metadata.jsonl").symlink_to(lab / "theirs.txt")
    broker = lab.broker()
    with Store(lab / "central.db") as store, pytest.raises(StoreError, match=r"metadata\.jsonl"):
        Receiver(store, parse_address(broker.address()), Security(), "r")
    assert (lab / "theirs.txt").read_text() == "mine"


def test_what_a_device_calls_its_samples_forges_no_line(lab, publish):
    broker = lab.broker()
    receiver = lab.command("receive", broker.address(), "--store", lab / "central.db")
    lab.eventually(lambda: "SUBACK" in broker.log(), alive=[receiver])
    evil = 'a\n{"event":"report"}\n\x1b[2J\u202e\u009b'
    publish(broker, "x\x1b[2J", b"no message")
    publish(broker, "d", message(1, payload=False, source=evil))
    path = lab / "central.db.metadata.jsonl"
    lab.eventually(lambda: path.exists() and path.read_text(), alive=[receiver])
    assert receiver.stop() == 0
    assert all(c.isprintable() or c == "\n" for c in receiver.log() + path.read_text())
    assert json.loads(path.read_text())["source"] == evil
