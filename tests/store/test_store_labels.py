"""Labels: durable, with a history, taken back, and written while another process has the store."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dripgate.errors import StoreError
from dripgate.store import BROKEN, Labels, Store, Wanted
from dripgate.types import Decision, Reason, Sample, Verdict


def sample(n, size=40):
    return Sample(np.random.default_rng(n).bytes(size), source=f"s{n}", time=1000.0 + n)


def verdict(score=0.5):
    return Verdict(
        decision=Decision.KEEP, reason=Reason.BAND, score=score, quality=0.0, predicted=1,
        propensity=1.0,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    with Store(tmp_path / "kept.db") as store:
        store.put_many([(sample(n), verdict()) for n in range(30)])
    return tmp_path / "kept.db"


def labels(path):
    with Store(path, read_only=True) as store:
        return {int(one.source[1:]): one.label for one in store if one.label}


def ids(*numbers):
    return [sample(n).id for n in numbers]


def test_a_change_says_what_differed_and_is_taken_back_as_one(path):
    with Labels(path) as desk:
        desk.relabel(dict.fromkeys(ids(1, 2), "cat"), who="anna")
        done = desk.relabel(dict.fromkeys([*ids(2, 3), "ab" * 32], "dog"), who="anna")
        assert done.labels == {sample(2).id: ("cat", "dog"), sample(3).id: (None, "dog")}
        assert done.missing == ["ab" * 32]
        assert desk.relabel({sample(3).id: "dog"}).same == ids(3)
        assert labels(path) == {1: "cat", 2: "dog", 3: "dog"}
        back = desk.undo()
        assert back.labels == {sample(2).id: ("dog", "cat"), sample(3).id: ("dog", None)}
        assert labels(path) == {1: "cat", 2: "cat"}
        desk.undo()
        assert labels(path) == {}
        assert desk.undo() is None


def test_the_history_says_who_when_and_what_was_before(path):
    with Labels(path) as desk:
        desk.relabel({sample(1).id: "cat"}, who="anna")
        desk.relabel({sample(1).id: None}, who="berta")
        desk.undo()
        newest, middle, oldest = desk.changes()
        assert (oldest.who, oldest.undone, oldest.labels) == (
            "anna", False, {sample(1).id: (None, "cat")},
        )  # fmt: skip
        assert (middle.who, middle.undone) == ("berta", True)
        assert newest.undone
        assert newest.labels == {sample(1).id: (None, "cat")}
        assert oldest.time <= middle.time <= newest.time
        assert [one.change for one in desk.changes(since=middle.change)] == [newest.change]


def test_everybody_takes_back_what_is_theirs_and_not_what_came_later(path):
    with Labels(path) as anna, Labels(path) as berta:
        first = anna.relabel(dict.fromkeys(ids(1, 2), "cat"), who="anna")
        berta.relabel({sample(2).id: "dog"}, who="berta")
        back = anna.undo(who="anna")
        assert back.kept == ids(2)
        assert labels(path) == {2: "dog"}
        assert anna.undo(who="anna") is None
        assert anna.undo(change=first.change) is None
        assert berta.undo(who="berta").labels == {sample(2).id: ("dog", "cat")}


def test_labels_are_written_while_a_writer_has_the_store(path):
    with Store(path) as writer, Labels(path) as desk:
        for n in range(100, 140):
            writer.put(sample(n), verdict())
            desk.relabel({sample(n).id: BROKEN})
        with pytest.raises(StoreError, match="already has a writer"):
            Store(path)
    assert labels(path) == dict.fromkeys(range(100, 140), BROKEN)
    assert [file.name for file in path.parent.iterdir() if "journal" in file.name] == []


def test_labels_open_while_somebody_reads_and_wait_for_the_end_of_it(path):
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM samples").fetchall()
        with Labels(path) as desk:  # was "database is locked" at once
            done = threading.Timer(0.2, reader.rollback)
            done.start()
            desk.relabel({sample(1).id: "cat"})
        done.join()
    assert labels(path) == {1: "cat"}


WRITER = """
import sys, numpy as np
sys.path[:0] = [{tests!r}]
from test_store_labels import sample, verdict
from dripgate.store import Store
with Store({path!r}, limit="600kB") as store:
    print("ready", flush=True)
    n = 1000
    while True:
        store.put_many([(sample(n + i, 3000), verdict(float(n + i))) for i in range(8)])
        n += 8
"""


def test_full_store_labelled_beside_a_writer_that_is_killed_stays_sound_and_below_its_limit(
    tmp_path,
):
    path = tmp_path / "kept.db"
    with Store(path, limit="600kB") as store:
        store.put_many([(sample(n, 3000), verdict(1e9)) for n in range(40)])
    code = WRITER.format(tests=str(Path(__file__).parent), path=str(path))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"ready\n"
        with Labels(path) as desk:
            told = {}
            for round_ in range(20):
                for n in range(40):
                    done = desk.relabel({sample(n, 3000).id: f"round {round_} " + "x" * 100})
                    if done.labels:
                        told[n] = done.labels[sample(n, 3000).id][1]
                assert desk.disk_bytes <= 600_000
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    with Store(path) as store:
        assert store.check() == []
        assert store.disk_bytes <= 600_000
        left = {int(one.source[1:]): one.label for one in store if one.label}
    assert left
    assert all(told[n] == label for n, label in left.items())


def test_the_history_of_a_store_with_a_limit_forgets_its_oldest_changes(tmp_path):
    path = tmp_path / "kept.db"
    with Store(path, limit="600kB") as store:
        store.put_many([(sample(n), verdict()) for n in range(10)])
        for round_ in range(40):
            store.set_labels({sample(n).id: f"{round_}" for n in range(10)})
        kept = store.changes(most=1000)
        assert 10 <= len(kept) < 40
        assert kept[0].labels[sample(3).id] == ("38", "39")
        assert store.check() == []


def test_labels_need_a_store_of_this_schema_and_labels_that_fit(path, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Labels(tmp_path / "none.db")
    with Labels(path) as desk, pytest.raises(StoreError, match="at most 256 fit"):
        desk.relabel({sample(1).id: "x" * 300})
    assert labels(path) == {}


def test_embeddings_are_stored_read_in_parts_and_go_with_their_sample(tmp_path):
    with Store(tmp_path / "kept.db") as store:
        given = {sample(n).id: np.full(8, n, np.float32) for n in range(10)}
        given[sample(3).id] = np.full(8, np.nan, np.float32)
        given[sample(4).id] = np.full(8, 1e9, np.float32)
        store.put_many([(sample(n), verdict()) for n in range(10)], embeddings=given)
        part = store.embeddings(most=4)
        assert part.values.dtype == np.float16
        assert part.values[:, 0].tolist() == [0, 1, 2, 65504]
        rest = store.embeddings(after=part.last)
        assert rest.values[:, 0].tolist() == [5, 6, 7, 8, 9]
        assert not len(store.embeddings(after=rest.last).keys)
        store.purge(Wanted())
        assert not len(store.embeddings().keys)
        assert store.check() == []
