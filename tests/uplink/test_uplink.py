"""Through a real mosquitto: what a device kept arrives, once, whoever is interrupted."""

import json

from dripgate.store import Store


def test_what_is_pending_arrives_with_its_verdict_and_is_marked(lab):
    broker = lab.broker()
    sent = lab.fill("device.db", 120)
    with Store(lab / "device.db") as store:
        store.set_labels({next(iter(sent)): "cat"})
        expected = {stored.id: stored for stored in store}
    receive = lab.command("receive", broker.address(), "--store", lab / "central.db")
    send = lab.command(
        "send", lab / "device.db", "--to", broker.address(), "--device", "north-1",
        "--json", lab / "send.json",
    )  # fmt: skip
    assert send.wait() == 0, send.log()
    assert receive.stop() == 0, receive.log()
    found = lab.samples("central.db")
    assert found.keys() == sent
    for id, stored in found.items():
        assert stored.source == f"north-1/{expected[id].source}"
        for field in ("payload", "time", "label", "verdict"):
            assert getattr(stored, field) == getattr(expected[id], field)
    assert lab.count("device.db") == (120, 0)
    said = json.loads((lab / "send.json").read_text())
    assert (said["left"], said["uplink"]["confirmed"]) == (0, 120)
