"""Through a real mosquitto: what a device kept arrives, once, whoever is interrupted."""

import json
import os
import random

import pytest
from paho.mqtt import publish
from tests.uplink.conftest import TOPIC

from dripgate.store import Store

#: Kills of sender, receiver and broker; ``make soak`` sets more.
KILLS = int(os.environ.get("DRIPGATE_UPLINK_KILLS", "6"))


def send(lab, broker, *options, store="device.db", **env):
    return lab.command(
        "send", lab / store, "--to", broker.address(), "--device", "north-1",
        "--patience", "0.3", "--json", lab / "send.json", *options, **env,
    )  # fmt: skip


def receive(lab, broker, *options, **env):
    return lab.command(
        "receive", broker.address(), "--store", lab / "central.db", *options, **env
    )  # fmt: skip


def said(lab):
    return json.loads((lab / "send.json").read_text())


def test_what_is_pending_arrives_with_its_verdict_and_is_marked(lab):
    broker = lab.broker()
    sent = lab.fill("device.db", 300)
    with Store(lab / "device.db") as store:
        store.set_labels({next(iter(sent)): "cat"})
    expected = lab.samples("device.db")
    receiver = receive(lab, broker)
    sender = send(lab, broker)
    assert sender.wait() == 0, sender.log()
    assert receiver.stop() == 0, receiver.log()
    found = lab.samples("central.db")
    assert found.keys() == sent
    for id, stored in found.items():
        assert stored.source == f"north-1/{expected[id].source}"
        for field in ("payload", "time", "label", "verdict"):
            assert getattr(stored, field) == getattr(expected[id], field)
    assert lab.count("device.db") == (300, 0)
    assert (said(lab)["left"], said(lab)["uplink"]["confirmed"]) == (0, 300)


def test_nothing_is_lost_or_doubled_whoever_is_killed(lab):
    """A week's backlog, and kill -9 of sender, receiver and broker (which has nothing on disk)."""
    chance = random.Random(5)
    broker = lab.broker()
    sent = lab.fill("device.db", 300 * (KILLS + 1), size=100)
    slowly = ("--bandwidth", "150kB")
    running = {"receive": receive(lab, broker), "send": send(lab, broker, *slowly)}
    for number in range(KILLS):
        goal = lab.count("central.db")[0] + chance.randrange(1, 120)
        lab.eventually(lambda goal=goal: lab.count("central.db")[0] >= goal, alive=running.values())
        assert lab.count("device.db")[1] > 0, "this kill would come too late"
        victim = ("broker", "receive", "send")[number % 3]
        if victim == "broker":
            broker.kill()
            broker.start()
        elif victim == "receive":
            running["receive"].kill()
            running["receive"] = receive(lab, broker)
        else:
            running["send"].kill()
            running["send"] = send(lab, broker, *slowly)
    lab.eventually(lambda: lab.count("device.db")[1] == 0)
    assert running["send"].wait() == 0, running["send"].log()
    assert running["receive"].stop() == 0, running["receive"].log()
    assert lab.samples("central.db").keys() == sent
    with Store(lab / "central.db", read_only=True) as store:
        assert store.check() == []
        assert store.counters["received"] >= len(sent)


def test_what_the_broker_acknowledged_and_forgot_is_sent_again(lab):
    """A receipt confirms, not the broker's word: the control shows what that would lose."""
    broker = lab.broker()
    receiver = receive(lab, broker)
    lab.eventually(lambda: "SUBACK" in broker.log(), alive=[receiver])
    receiver.stop()  # the broker queues for it now, in memory
    for store, confirm in (("device.db", "receiver"), ("control.db", "broker")):
        lab.fill(store, 50)
        sender = send(lab, broker, "--confirm", confirm, "--give-up", "3", store=store)
        assert sender.wait() == (1 if confirm == "receiver" else 0), sender.log()
    assert lab.count("device.db") == (50, 50)
    assert lab.count("control.db") == (50, 0)
    broker.kill()
    broker.start()
    receiver, sender = receive(lab, broker), send(lab, broker)
    assert sender.wait() == 0, sender.log()
    receiver.stop()
    assert lab.samples("central.db").keys() == lab.samples("device.db").keys()


def test_a_receiver_starts_into_a_backlog(lab):
    """Which the broker pours out before it confirms the subscription."""
    broker = lab.broker("allow_anonymous true", "queue_qos0_messages true")
    receiver = receive(lab, broker)
    lab.eventually(lambda: "SUBACK" in broker.log(), alive=[receiver])
    receiver.stop()
    messages = [(f"{TOPIC}/samples/north-1", b"no message")] * 900
    publish.multiple(messages, "127.0.0.1", broker.port)
    receiver = receive(lab, broker)
    lab.eventually(lambda: receiver.log().count("refused") == 900, alive=[receiver])
    assert receiver.stop() == 0, receiver.log()


def test_where_nobody_listens_everything_stays_pending(lab):
    broker = lab.broker()
    sent = lab.fill("device.db", 30)
    sender = send(lab, broker, "--give-up", "2")
    assert sender.wait() == 1
    assert "nobody subscribed to farm/north/samples/north-1" in sender.log()
    assert "start 'dripgate receive'" in sender.log()
    assert lab.count("device.db") == (30, 30)
    assert said(lab)["uplink"]["messages"] < 30, "it asks with one sample, it does not send all"
    sender = send(lab, broker)
    lab.eventually(lambda: "nobody subscribed" in sender.log(), alive=[sender])
    receiver = receive(lab, broker)
    assert sender.wait() == 0, sender.log()
    receiver.stop()
    assert lab.samples("central.db").keys() == sent


@pytest.mark.parametrize("setting", ["max_packet_size 20000", "message_size_limit 20000"])
def test_what_is_too_large_for_the_broker_stays_and_stops_nothing(lab, setting):
    broker = lab.broker("allow_anonymous true", setting)
    small = lab.fill("device.db", 40)
    large = lab.fill("device.db", 2, start=100, size=50_000)
    small |= lab.fill("device.db", 40, start=200)
    receiver, sender = receive(lab, broker), send(lab, broker, "--give-up", "20")
    assert sender.wait() == 1
    receiver.stop()
    assert "2 are more than the broker takes" in sender.log()
    assert said(lab)["left"] == said(lab)["uplink"]["skipped"] == 2
    assert lab.samples("central.db").keys() == small
    with Store(lab / "device.db", read_only=True) as store:
        assert {stored.id for stored in store.pending(10)} == large


def test_metadata_only_sends_no_payload_and_each_record_once(lab):
    broker = lab.broker()
    lab.fill("device.db", 60, size=5000)
    receiver, sender = receive(lab, broker), send(lab, broker, "--metadata-only")
    assert sender.wait() == 0, sender.log()
    receiver.kill()
    records = lab / "central.db.metadata.jsonl"
    with records.open("a") as file:
        file.write('{"device": "north-1", "id": "half a li')  # as a crash would leave it
    again = lab.fill("again.db", 70, size=5000)  # the same sixty, and ten more
    receiver, sender = receive(lab, broker), send(lab, broker, "--metadata-only", store="again.db")
    assert sender.wait() == 0, sender.log()
    assert receiver.stop() == 0, receiver.log()
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert len(lines) == 70
    assert {line["id"] for line in lines} == again
    assert {(line["device"], line["size"], line["decision"]) for line in lines} == {
        ("north-1", 5008, "keep")
    }
    assert lab.samples("central.db") == {}
    assert said(lab)["uplink"]["bytes"] < 70 * 500


def test_the_same_bytes_from_two_devices_are_one_sample(lab):
    broker = lab.broker()
    sent = lab.fill("device.db", 20)
    assert sent == lab.fill("other.db", 20)
    receiver = receive(lab, broker)
    assert send(lab, broker).wait() == 0
    assert send(lab, broker, "--device", "south-1", store="other.db").wait() == 0
    assert receiver.stop() == 0
    assert lab.samples("central.db").keys() == sent
    assert lab.count("other.db") == (20, 0)
    assert "20 stored, 20 were there already" in receiver.log()
