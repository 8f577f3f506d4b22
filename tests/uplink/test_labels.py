"""Labels by MQTT to a device whose head learns: taken once, durable, and never in silence."""

import io
import json
import shutil
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pages
import pytest
from PIL import Image

import dripgate as package
from dripgate.errors import IncompleteError, StoreError
from dripgate.export import parse_labels
from dripgate.store import Store
from dripgate.stream.broker import Security, name_of, parse_address
from dripgate.stream.labels import LARGEST, LabelTally, LabelTopic, publish
from dripgate.types import Sample

TOPIC = "farm/labels"
CLASSES = ("cat", "dog")


@contextmanager
def listening(store, broker, told=None, name="d"):
    """A topic that is subscribed to, for the store."""
    with closing(LabelTopic(
        store, parse_address(broker.address(TOPIC)), Security(), name, read=parse_labels,
        classes=lambda: CLASSES, told=(told if told is not None else []).append,
    )) as topic:  # fmt: skip
        topic.link.connect(lambda: False)
        yield topic


def taken(topic, lab, messages):
    """Turn until so many messages were taken."""

    def turned():
        topic.turn()
        return topic.tally.messages >= messages

    lab.eventually(turned)


def labels(path):
    """By id, of a store that a run may be writing."""
    try:
        with Store(path, read_only=True) as store:
            return {one.id: one.label for one in store if one.label is not None}
    except StoreError:
        return {}


def csv(given):
    return "id,label\n" + "".join(f"{id},{label}\n" for id, label in given.items())


def sent(lab, broker, given):
    publish(parse_address(broker.address(TOPIC)), Security(), "x", given, lambda: False)


def test_the_head_of_a_run_learns_from_labels_that_come_by_mqtt(lab, loop, stream):
    broker, truth = lab.broker(), {}
    (lab / "incoming").mkdir()
    for i, (name, payload) in enumerate(stream[:300]):  # as another camera sees it
        pixels = np.asarray(Image.open(io.BytesIO(payload))).astype(float)
        path = lab / "incoming" / f"{i:03d}.png"
        Image.fromarray((200 - 0.6 * pixels).clip(0, 255).astype(np.uint8)).save(path)
        truth[i] = name.split("/")[-2]
    run = lab.command(
        "run", loop / "gate.onnx", lab / "incoming", "--follow", "--settle", "0", "--audit", "1",
        "--store", lab / "kept.db", "--adapt", "0.001s", "--labels", broker.address(TOPIC),
        "--json", lab / "run.json",
    )  # fmt: skip
    lab.eventually(lambda: lab.count("kept.db")[0] == 300, alive=[run])
    named = {s.id: truth[int(s.source[:3])] for s in lab.samples("kept.db").values()}
    shutil.copy(lab / "kept.db", lab / "central.db")  # what an uplink would have brought there
    (lab / "labels.csv").write_text(csv(named | {"ab" * 32: "3"}))
    label = lab.command("label", lab / "central.db", lab / "labels.csv", "--to",
                        broker.address(TOPIC), "--json", lab / "label.json")  # fmt: skip
    assert label.wait() == 0, label.log()
    lab.eventually(lambda: labels(lab / "kept.db") == named, alive=[run])
    assert run.stop() == 0, run.log()  # it learns in the turn that took them
    assert "adapted: 300 labels" in run.log()
    assert json.loads((lab / "label.json").read_text())["sent"] == 301
    assert json.loads((lab / "run.json").read_text())["labels"] == {
        "messages": 1, "labelled": 300, "same": 0, "missing": 1, "without": 0, "strange": 0,
        "refused": 0,
    }  # fmt: skip
    assert f"labels: 300 samples labelled, 0 as they were; 1 of samples that are not here " \
           f"({'ab' * 32})" in run.log()  # fmt: skip
    with Store(lab / "kept.db", read_only=True) as store:
        assert [event.what for event in store.events()] == ["adapted"]
        assert {change.who for change in store.changes()} == {f"mqtt {TOPIC}"}


def test_what_is_of_no_use_is_counted_and_named_and_what_follows_is_taken(lab, publisher):
    broker, told = lab.broker(), []
    one, two, three = sorted(lab.fill("kept.db", 3))
    stranger = "ab" * 32
    with Store(lab / "kept.db") as store, listening(store, broker, told) as topic:
        publisher(
            broker, TOPIC,
            csv({one: "cat", stranger: "cat"}).encode(),
            json.dumps([{"id": one, "label": "cat"}, {"id": two, "label": "kiwi"}]).encode(),
            b"", b"\xff\xfe", b"[[1]]", b'{"a":' * 5000, b"id,label\nx\n", b"no,table\n1,2\n",
            json.dumps([{"id": two, "label": "x" * 300}, {"id": two}, {"label": "cat"}]).encode(),
            csv({one: "dog"}).encode().ljust(LARGEST + 1),
            csv({one: "dog"}).encode().ljust(4 * LARGEST),  # the broker gives it to nobody
            csv({three: "dog"}).encode(),
        )  # fmt: skip
        taken(topic, lab, 11)
        assert topic.tally == LabelTally(
            messages=11, labelled=3, same=1, missing=1, without=4, strange=1, refused=6
        )
    assert labels(lab / "kept.db") == {one: "cat", two: "kiwi", three: "dog"}
    said = "\n".join(told)
    for words in (stranger, "head does not have (kiwi)", "no column 'label'", "262,145 bytes"):
        assert words in said, words
    assert "Traceback" not in said
    assert said.count("\n") < 3  # who floods the topic does not flood the log


def test_a_message_is_acknowledged_once_its_labels_are_on_the_disk_and_not_before(lab, publisher):
    broker = lab.broker()
    one, two = sorted(lab.fill("kept.db", 2))
    with Store(lab / "kept.db") as store:
        with listening(store, broker) as topic:
            publisher(broker, TOPIC, csv({one: "cat"}).encode())
            lab.eventually(lambda: topic.link.news.is_set())  # it is here, and not taken
        with listening(store, broker) as topic:
            taken(topic, lab, 1)
            assert labels(lab / "kept.db") == {one: "cat"}
        with listening(store, broker) as topic:
            publisher(broker, TOPIC, csv({two: "dog"}).encode())
            taken(topic, lab, 1)
            assert (topic.tally.labelled, topic.tally.same) == (
                1,
                0,
            )  # the first did not come again


def test_labels_for_a_device_that_is_killed_again_and_again_all_arrive(lab, loop, publisher):
    broker = lab.broker("allow_anonymous true", "max_queued_messages 0")
    ids = sorted(lab.fill("kept.db", 120))
    (lab / "incoming").mkdir()

    def start():
        return lab.command("run", loop / "gate.onnx", lab / "incoming", "--follow", "--store",
                           lab / "kept.db", "--adapt", "1h", "--labels",
                           broker.address(TOPIC))  # fmt: skip

    run = start()
    lab.eventually(lambda: "SUBACK" in broker.log(), alive=[run])
    for i in range(0, 120, 30):
        part = ids[i : i + 30]
        publisher(broker, TOPIC, *(csv({id: f"c{id[:4]}"}).encode() for id in part[:15]))
        lab.eventually(lambda part=part: part[0] in labels(lab / "kept.db"), alive=[run])
        run.kill()
        publisher(broker, TOPIC, *(csv({id: f"c{id[:4]}"}).encode() for id in part[15:]))
        run = start()
    wanted = {id: f"c{id[:4]}" for id in ids}
    lab.eventually(lambda: labels(lab / "kept.db") == wanted, alive=[run])
    assert run.stop() == 0, run.log()


def test_a_broker_that_comes_back_is_listened_to_again(lab):
    broker, told = lab.broker(), []
    (one,) = lab.fill("kept.db", 1)
    with Store(lab / "kept.db") as store, listening(store, broker, told) as topic:
        topic.turn()
        broker.kill()

        def lost():
            topic.turn()
            return not topic.link.ready

        lab.eventually(lost)
        broker.start()

        def back():
            topic.turn()
            return topic.link.ready

        lab.eventually(back)
        sent(lab, broker, {one: "cat"})
        taken(topic, lab, 1)
    assert labels(lab / "kept.db") == {one: "cat"}
    assert [line for line in told if "was lost" in line or "nothing listens" in line]
    assert "labels: the connection stands" in told


def test_what_a_store_has_is_sent_in_messages_that_are_taken(lab, dripgate):
    broker = lab.broker("allow_anonymous true", "max_packet_size 50000")
    ids = lab.fill("kept.db", 4000, size=1)
    wanted = {id: f"class-{id[:30]}" for id in ids}
    shutil.copy(lab / "kept.db", lab / "central.db")
    with Store(lab / "central.db") as central:
        central.set_labels(wanted)
    with Store(lab / "kept.db") as store, listening(store, broker) as topic:
        would = dripgate("label", lab / "central.db", "--to", broker.address(TOPIC), "--dry-run")
        assert "4,000 labels would be sent" in would[1]
        code, out, err = dripgate("label", lab / "central.db", "--to", broker.address(TOPIC))
        assert code == 0, err
        assert "4,000 labels sent" in out

        def all_taken():
            topic.turn()
            return topic.tally.labelled == 4000

        lab.eventually(all_taken)
        assert topic.tally.messages >= 9  # the broker takes less than we would
        assert topic.tally.refused == 0
    assert labels(lab / "kept.db") == wanted


def test_who_may_not_write_or_has_nobody_to_write_to_is_told(lab, dripgate):
    (lab / "rules").write_text("topic readwrite farm/#\ntopic read deaf/#\n")
    broker = lab.broker("allow_anonymous true", f"acl_file {lab.folder}/rules")
    lab.fill("central.db", 1)
    with Store(lab / "central.db") as store:
        store.set_labels(dict.fromkeys(lab.samples("central.db"), "cat"))
    with pytest.raises(IncompleteError, match=r"nobody subscribed .*--adapt 1h --labels"):
        sent(lab, broker, {"ab" * 32: "cat"})
    assert dripgate("label", lab / "central.db", "--to", broker.address(TOPIC))[0] == 1
    code, _, err = dripgate("label", lab / "central.db", "--to", broker.address("deaf/labels"))
    assert (code, "does not let us write to deaf/labels" in err) == (2, True)
    broker.kill()
    code, _, err = dripgate("label", lab / "central.db", "--to", broker.address(TOPIC))
    assert (code, "nothing listens there" in err) == (2, True)


def test_what_makes_no_sense_is_refused_before_anything_is_done(loop, tmp_path, dripgate):
    run = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", tmp_path / "k.db")
    for options, cause in [
        (("--labels", "mqtt://h/t"), "--labels is for --adapt"),
        (("--adapt", "1h", "--labels", "mqtt://h"), "topic is missing"),
        (("--adapt", "1h", "--labels", "mqtt://a:secret@h/t"), "may hold no credentials"),
        (("--adapt", "1h", "--labels", "mqtt://h/%23"), "the broker's"),
    ]:
        code, _, err = dripgate(*run, *options)
        assert (code, cause in err) == (2, True), err
        assert "secret" not in err
        assert not (tmp_path / "k.db").exists()
    code, _, err = dripgate("label", tmp_path / "k.db", "--undo", "--to", "mqtt://h/t")
    assert (code, "--undo" in err) == (2, True)


def test_the_commands_of_the_page(lab, loop, stream, commands, monkeypatch):
    """All blocks of docs/adapt.md, the broker on another port."""
    broker, page = lab.broker(), pages.DOCS / "adapt.md"
    monkeypatch.chdir(lab.folder)
    for name, given in (("labelled.zip",) * 2, ("model.onnx", "classifier.onnx"),
                        ("stream.zip",) * 2):  # fmt: skip
        shutil.copy(loop / given, name)
    Path("incoming").mkdir()
    truth = {Sample(payload).id: name.split("/")[-2] for name, payload in stream}
    for i, (_, payload) in enumerate(stream[:100]):
        Path("incoming", f"{i}.png").write_bytes(payload)
    Path("labels.csv").write_text(csv(truth))
    (address,) = {word for block in pages.blocks(page, "bash") for word in block.split()
                  if word.startswith("mqtt:")}  # fmt: skip
    commands.stand_ins[address] = broker.address(TOPIC)
    fit, watched, by_mqtt, *rest = pages.blocks(page, "bash")
    commands(fit)
    commands(watched)
    shutil.copy("kept.db", "central.db")
    with Store("kept.db") as store:  # the run of the block may end before it has subscribed
        name = name_of(store)
        with listening(store, broker, name=name):
            pass
    commands(by_mqtt)
    for block in rest:
        commands(block)
    exec(pages.blocks(page, "python")[0], {"dripgate": package})
    with Store("kept.db") as store:
        with listening(store, broker, name=name) as topic:
            taken(topic, lab, 1)
        assert truth.items() >= {one.id: one.label for one in store}.items()
