"""What the page asks, and what is refused; over HTTP, of a real process."""

import http.client
import io
import signal
import socket
import threading
import wave

import numpy as np
import pytest
from PIL import Image

from dripgate.store import BROKEN, Labels, Store
from dripgate.stream.account import account
from dripgate.types import Decision, Reason, Sample, Verdict


def verdict(**changed):
    fields = {"decision": Decision.KEEP, "reason": Reason.BAND, "score": 0.5, "quality": 0.0,
              "predicted": 0, "propensity": 1.0}  # fmt: skip
    return Verdict(**(fields | changed))


@pytest.fixture
def page(review, kept, loop):
    return review(kept, "--gate", loop / "gate.onnx")


def test_every_order_and_filter_gives_what_it_says(page, kept):
    rows = page.rows(order="newest")
    with Store(kept, read_only=True) as store:
        assert len(rows) == len(store) > 100
    assert [row["key"] for row in rows] == sorted((row["key"] for row in rows), reverse=True)
    assert page.rows(order="oldest") == rows[::-1]
    scores = [row["score"] for row in page.rows(order="highest")]
    assert scores == sorted(scores, reverse=True)
    qualities = [row["quality"] for row in page.rows(order="strangest")]
    assert qualities == sorted(qualities)
    names = [row["source"] for row in page.rows(order="name")]
    assert names == sorted(names)
    for what in ("pool", "reason", "predicted"):
        for value in {row[what] for row in rows}:
            found = page.rows(**{what: value})
            assert found == [row for row in rows if row[what] == value]
    assert page.rows(search="FRAME-0000") == [row for row in rows if "frame-0000" in row["source"]]
    assert page.rows(search="100%_no") == []
    page.label([rows[0]["id"]], "3")
    assert page.rows(first=True)[-1]["id"] == rows[0]["id"]
    assert [row["id"] for row in page.rows(label="3")] == [rows[0]["id"]]
    assert len(page.rows(labelled=False)) == len(rows) - 1


def test_a_label_is_durable_when_it_is_answered(page, kept, labels):
    row = page.rows()[0]
    done = page.label([row["id"]], "7")
    page.process.kill()  # SIGKILL: nothing can be written after the answer
    page.process.wait()
    assert done["labels"] == {row["id"]: [None, "7"]}
    assert labels(kept) == {row["source"]: "7"}


def test_many_are_labelled_accepted_and_taken_back_by_whoever_did_it(page, kept, labels):
    rows = page.rows()
    ids = [row["id"] for row in rows[:50]]
    accepted = page.ask("/api/label", {"ids": ids, "who": "anna", "accept": True})
    assert accepted["labels"] == {row["id"]: [None, str(row["predicted"])] for row in rows[:50]}
    page.label(ids[:3], BROKEN, who="berta")
    assert page.ask("/api/undo", {"who": "carla"}) == {"nothing": True}
    back = page.ask("/api/undo", {"who": "anna"})
    assert sorted(back["kept"]) == sorted(ids[:3])
    assert labels(kept) == {row["source"]: BROKEN for row in rows[:3]}
    history = page.ask("/api/history")
    assert [(one["who"], one["undone"], one["samples"]) for one in history] == [
        ("anna", True, 47), ("berta", False, 3), ("anna", True, 50),
    ]  # fmt: skip
    page.ask("/api/undo", {"who": "anna", "change": history[1]["change"]})
    assert set(labels(kept).values()) == {str(row["predicted"]) for row in rows[:3]}


def test_news_tell_of_others_labels_and_samples_and_a_writer_goes_on_beside(page, kept):
    state = page.ask("/api/state")
    row = page.rows()[0]
    with Store(kept) as writer, Labels(kept) as other:
        assert writer.put(Sample(b"new", source="new.bin"), verdict())
        other.relabel({row["id"]: "cat"}, who="other")
        page.label([row["id"]], "dog")
        news = page.ask(f"/api/news?since={state['version'][2]}")
    assert news["labels"] == {row["id"]: "dog"}
    assert news["version"][0] > state["version"][0]
    assert news["version"][1] == state["version"][1] + 1


def test_a_sample_comes_with_its_pictures_neighbours_and_heatmap(page):
    rows = page.rows()
    detail = page.ask(f"/api/sample/{rows[0]['id']}")
    assert detail["kind"] == "image"
    assert detail["heat"] >= 0
    assert len(detail["near"]) == 24
    distances = [distance for _, distance in detail["near"]]
    assert distances == sorted(distances)
    assert rows[0]["id"] not in [row["id"] for row, _ in detail["near"]]
    alike = [row["predicted"] == rows[0]["predicted"] for row, _ in detail["near"][:8]]
    assert sum(alike) >= 5  # the embedding is the classifier's own
    for kind in ("small", "large", "heat"):
        status, headers, data = page.open(f"/{kind}/{rows[0]['id']}.png")
        assert status == 200
        assert headers["Content-Type"] == "image/png"
        assert Image.open(io.BytesIO(data)).size[0] >= 8
    assert page.open(f"/small/{'ab' * 32}.png")[0] == 404
    assert page.open("/small/../../etc/passwd.png")[0] == 404


def test_audio_arrays_and_what_cannot_be_read(review, tmp_path):
    path = tmp_path / "kept.db"
    tone = io.BytesIO()
    with wave.open(tone, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        wanted = (8000 * np.sin(np.arange(8000) / 3)).astype("<i2")
        out.writeframes(wanted.tobytes())
    array = io.BytesIO()
    np.save(array, np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32))
    payloads = {"audio": tone.getvalue(), "array": array.getvalue(), "none": b"<script>"}
    with Store(path) as store:
        store.put_many([(Sample(data, source=kind), verdict()) for kind, data in payloads.items()])
    page = review(path)
    for row in page.rows():
        detail = page.ask(f"/api/sample/{row['id']}")
        assert detail["kind"] == row["source"]
        status, headers, data = page.open(f"/large/{row['id']}.png")
        if row["source"] == "none":
            assert status == 422
            assert "not an image" in detail["why"]
            continue
        assert status == 200
        assert np.asarray(Image.open(io.BytesIO(data))).std() > 1
        if row["source"] == "audio":
            status, headers, data = page.open(f"/sound/{row['id']}.wav")
            with wave.open(io.BytesIO(data)) as heard:
                assert heard.readframes(8000) == wanted.tobytes()
            part = page.open(f"/sound/{row['id']}.wav", Range="bytes=10-19")
            assert (part[0], part[2]) == (206, data[10:20])
            assert headers["Content-Type"] == "audio/wav"


def test_progress_counts_what_chance_drew_whatever_was_labelled_first(page, kept):
    rows = page.rows(order="strangest")
    before = page.ask("/api/progress")
    assert before["accuracy"] is None
    strange = [row for row in rows if row["id"] != min(r["id"] for r in rows)][:30]
    page.ask("/api/label", {"ids": [row["id"] for row in strange], "who": "a", "accept": True})
    order = page.rows(order="measure")
    for row in order[:60]:
        page.ask("/api/label", {"ids": [row["id"]], "who": "a", "accept": True})
    found = page.ask("/api/progress")
    assert found["stream"]
    assert 20 <= found["counted"] <= 90
    assert found["accuracy"]["value"] == pytest.approx(1.0)
    assert found["next"]["kind"] in ("chance", "certain")
    assert found["next"]["then"] < found["next"]["now"] < 0.5
    for row in order:
        page.ask("/api/label", {"ids": [row["id"]], "who": "a", "accept": True})
    done = page.ask("/api/progress")
    assert done["counted"] == len(rows)
    assert done["next"]["now"] < found["next"]["now"] if done["next"] else True
    with Store(kept, read_only=True) as store:
        assert account(store).estimates.labelled == len(rows)


def test_who_may_not_ask(page):
    body = {"ids": [page.rows()[0]["id"]], "label": "x", "who": "mallory"}
    assert page.open("/", token="")[0] == 403
    assert page.open("/api/state", token="wrong")[0] == 403
    assert page.open("/api/state", token="")[0] == 403
    assert page.open("/api/label", body, Origin="http://evil.example")[0] == 403
    assert page.open("/api/label", body, Sec_Fetch_Site="cross-site")[0] == 403
    assert page.open("/api/label", body, Origin="null")[0] == 403
    assert page.open("/api/state", Host=f"evil.example:{page.port}")[0] == 421
    assert page.open("/api/state", Host=f"127.0.0.1.evil.example:{page.port}")[0] == 421
    large = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    large.putrequest("POST", "/api/label")
    large.putheader("X-Token", page.token)
    large.putheader("Content-Length", "2000000")  # refused before a byte of it is read
    large.endheaders()
    assert large.getresponse().status == 413
    large.close()
    assert page.open("/api/label", body | {"unknown": 1})[0] == 400
    assert page.open("/api/label", body | {"ids": []})[0] == 400
    assert page.open("/api/label", body | {"label": "  "})[0] == 400
    assert page.open("/api/label", body | {"label": "x" * 300})[0] == 409
    assert page.ask("/api/state")["tally"]["labelled"] == 0
    status, headers, text = page.open("/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert b"//cdn" not in text
    assert b"https://" not in text


def test_only_loopback_listens_unless_told_and_then_it_is_said(review, kept):
    page = review(kept)
    assert page.url.startswith("http://127.0.0.1:")
    other = socket.gethostbyname(socket.gethostname())
    if not other.startswith("127."):
        with pytest.raises(OSError, match="refused"), socket.create_connection((other, page.port)):
            pass
    open_to_all = review(kept, "--listen", "0.0.0.0")
    open_to_all.process.send_signal(signal.SIGINT)
    assert "without encryption" in open_to_all.process.stderr.read()
    assert open_to_all.process.wait() == 0


def test_two_at_once_lose_nothing(page, kept, labels):
    rows = page.rows()[:40]
    threads = [
        threading.Thread(
            target=lambda part, who: [page.label([r["id"]], who, who=who) for r in part],
            args=(rows[i::2], f"person {i}"),
        )
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labels(kept) == {row["source"]: f"person {i % 2}" for i, row in enumerate(rows)}
