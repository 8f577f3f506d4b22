"""Releases as the commands carry them out: a gate that fails, and what arrives at a receiver."""

import json
import re

import msgspec

from dripgate.store import Store

from .conftest import EASY


def test_a_release_s_steps_arrive_and_are_shown(
    lab, loop, gate, better, released, keys, dripgate
):  # fmt: skip
    """Activated, taken over, rolled back: told as they come, noted once, with figures by gate."""
    broker = lab.broker()
    receiver = lab.command(
        "receive", broker.address(), "--store", lab / "central.db", "--json", lab / "r.json"
    )
    release = released(better, 3, msgspec.structs.replace(EASY, watch=50_000))
    ran = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", lab / "k.db", "--again",
           "--uplink", broker.address(), "--device", "north-1", "--patience", "0.3")  # fmt: skip

    def run():
        command = lab.command(*ran)
        assert command.wait() == 0, command.log()

    run()
    code, _, err = dripgate("activate", release, "--trust", keys[1], "--store", lab / "k.db")
    assert code == 0, err
    run()
    assert dripgate("rollback", "--store", lab / "k.db", "--why", "it looks odd")[0] == 0
    run()
    assert receiver.stop() == 0, receiver.log()
    log = receiver.log()
    for what in ("shadow", "switched", "rolled back"):
        assert log.count(f"north-1: {what} at ") == 1, log
    assert "it looks odd" in log
    assert f"north-1: gate {gate.id}, no release" in log
    assert re.search(rf"by {better.id}: [\d,]+ seen, [\d.]+ % kept", log)
    said = json.loads((lab / "r.json").read_text())
    assert said["devices"]["north-1"]["gate"] == gate.id
    with Store(lab / "central.db", read_only=True) as store:
        assert [one.what for one in store.events()][-3:] == ["shadow", "switched", "rolled back"]
