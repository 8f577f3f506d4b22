"""Files that go when they are decided: exactly the bytes that were read, and no others."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
import soundfile

from dripgate.errors import DataError, StoreError
from dripgate.policy import Rules
from dripgate.store import Store, Wanted
from dripgate.stream.folder import Folder
from dripgate.stream.leaving import Leaving
from dripgate.stream.loop import run
from dripgate.stream.reading import Read
from dripgate.stream.tree import Found
from dripgate.types import AudioInput, Decision, Sample


@pytest.fixture
def incoming(tmp_path, stream):
    """A folder with sixty images that have settled."""
    folder = tmp_path / "incoming"
    (folder / "sub").mkdir(parents=True)
    for i, (_, payload) in enumerate(stream[:60]):
        (folder / ("sub" if i % 2 else ".") / f"{i:03d}.png").write_bytes(payload)
    return folder


def left(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# What stays -------------------------------------------------------------------------------------


def test_what_cannot_be_decoded_stays_or_goes_where_it_is_asked_to(gate, incoming, tmp_path):
    broken = {"half.png": (incoming / "000.png").read_bytes()[:90], "notes.txt": b"site 4",
              "empty.jpg": b"", "large.png": b"x" * 100_000}  # fmt: skip
    for name, payload in broken.items():
        (incoming / name).write_bytes(payload)
    with Store(tmp_path / "k.db") as store:
        feed = Folder(incoming, processed="remove", limit=50_000)
        assert run(gate, feed, store).unreadable == 4
        assert left(incoming) == sorted(broken)
        again = run(gate, Folder(incoming, processed="remove", limit=50_000), store)
        assert (again.seen, again.known) == (0, 4), "named once"
        (incoming / "half.png").write_bytes(payload_of(incoming, tmp_path, gate))
        assert run(gate, Folder(incoming, processed="remove", limit=50_000), store).seen == 1
        assert "half.png" not in left(incoming), "the upload was finished"
    with Store(tmp_path / "l.db") as store:
        apart = tmp_path / "unreadable"
        run(gate, Folder(incoming, processed="remove", unreadable=f"move:{apart}"), store)
    assert left(incoming) == []
    assert left(apart) == ["empty.jpg", "large.png", "notes.txt"]
    assert (apart / "notes.txt").read_bytes() == b"site 4"


def payload_of(incoming, tmp_path, gate):
    """A whole image that the gate has not seen."""
    from PIL import Image

    path = tmp_path / "whole.png"
    shape = gate.info.input.shape
    Image.fromarray(np.full(shape, 77, np.uint8).squeeze()).save(path)
    return path.read_bytes()


def test_what_is_unreadable_is_never_removed(incoming):
    with pytest.raises(DataError, match="never removed"):
        Folder(incoming, unreadable="remove")


def test_a_kept_sample_without_room_keeps_its_file(gate, incoming, tmp_path):
    for path in incoming.rglob("*.png"):
        path.write_bytes(path.read_bytes() + os.urandom(20_000))
    told = []
    with Store(tmp_path / "k.db", "600kB") as store:
        feed = Folder(incoming, processed="remove", told=told.append)
        summary = run(gate, feed, store, batch=7, rules=Rules(keep=0.9, duplicates=0))
        stored = {one.id for one in store}
    there = {Sample((incoming / name).read_bytes()).id for name in left(incoming)}
    assert summary.stayed == len(there) > 10
    assert not there & stored
    assert len(there) >= summary.refused > 10  # others were in the store, and gave way later
    assert len(told) <= 2  # a folder each
    assert all("decided, but stays: found no room in the store" in line for line in told)


def test_what_left_the_store_before_its_file_did_keeps_the_file(gate, incoming, tmp_path):
    class Killed(Folder):
        def done(self, samples):
            raise KeyboardInterrupt

    with Store(tmp_path / "k.db") as store:
        with pytest.raises(KeyboardInterrupt):
            run(gate, Killed(incoming, processed="remove"), store)
        gone = len(store)
        store.purge(Wanted(decision=Decision.KEEP))
        gone -= len(store)
        summary = run(gate, Folder(incoming, processed="remove"), store)
    assert summary.seen == 0
    assert len(left(incoming)) == summary.stayed == gone > 0


def test_what_cannot_be_removed_is_decided_once_and_named_once_a_run(
    gate, incoming, tmp_path, monkeypatch
):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    real, seen = os.rename, []
    with Store(tmp_path / "k.db") as store:
        for _ in range(3):
            told = []
            monkeypatch.setattr(os, "rename", refuse)
            feed = Folder(incoming, processed="remove", told=told.append)
            summary = run(gate, feed, store)
            seen.append(summary.seen)
            assert summary.stayed == 60
            assert len(told) == 2  # for each of the folders
            assert all("Permission denied; check who may write" in line for line in told)
        monkeypatch.setattr(os, "rename", real)
        assert seen == [60, 0, 0]
        assert run(gate, Folder(incoming, processed="remove"), store).seen == 0
        assert store.counters["seen"] == 60
    assert left(incoming) == []


# What is not what was read ----------------------------------------------------------------------


def test_names_that_look_alike_are_two_files(gate, incoming, tmp_path, stream):
    names = [b"caf\xe9.png", b"caf\xe8.png", "cafe\u0301.png".encode(), "café.png".encode(),
             b"line\nbreak.png"]  # fmt: skip
    for name, (_, payload) in zip(names, stream[100:], strict=False):
        (incoming / os.fsdecode(name)).write_bytes(payload)
    decided = []
    done = tmp_path / "done"
    with Store(tmp_path / "k.db") as store:
        run(gate, Folder(incoming, processed=f"move:{done}"), store,
            on_verdicts=lambda pairs: decided.extend(sample.id for sample, _ in pairs))  # fmt: skip
    assert left(incoming) == []
    moved = {Sample(path.read_bytes()).id for path in done.rglob("*") if path.is_file()}
    assert moved == set(decided)
    assert len(decided) == 65
    assert {os.fsdecode(name) for name in names} <= {path.name for path in done.iterdir()}


SWAPPER = """
import ctypes, os, sys
from pathlib import Path
latest, spool, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rename, here, exchange = ctypes.CDLL(None).renameat2, -100, 2
pictures = [path.read_bytes() for path in sorted((spool / "pictures").iterdir())]
part = spool / "part"
with (spool / "taken back").open("wb") as back:
    for i in range(count):
        picture = pictures[i % len(pictures)] + b"%06d" % i
        part.write_bytes(picture)
        if rename(here, bytes(part), here, bytes(latest), exchange):
            try:
                os.link(part, latest)  # nothing was there
            except FileExistsError:
                back.write(b"%06d" % i)
        else:
            back.write(part.read_bytes()[-6:])
        part.unlink()  # the next picture gets its inode
"""


def test_a_picture_that_was_put_over_the_one_read_is_not_lost(gate, tmp_path, stream):
    """A writer swaps pictures under one name as fast as it can, and knows which it took back."""
    spool, latest, decided = tmp_path / "spool", tmp_path / "cam" / "latest.png", []
    (spool / "pictures").mkdir(parents=True)
    latest.parent.mkdir()
    for i, (_, payload) in enumerate(stream[:50]):
        (spool / "pictures" / f"{i}").write_bytes(payload.ljust(2000, b" "))  # all of one size
    writer = subprocess.Popen([sys.executable, "-c", SWAPPER, latest, spool, "6000"])
    with Store(tmp_path / "k.db") as store:
        feed = Folder(latest.parent, follow=True, processed="remove", settle=0, poll=0.001,
                      stop=lambda: writer.poll() is not None)  # fmt: skip
        run(gate, feed, store, batch=2, on_verdicts=lambda pairs: decided.extend(
            sample.payload[-6:] for sample, _ in pairs))  # fmt: skip
    assert writer.returncode == 0
    back = (spool / "taken back").read_bytes()
    taken_back = {back[i : i + 6] for i in range(0, len(back), 6)}
    there = {path.read_bytes()[-6:] for path in latest.parent.iterdir()}
    lost = {b"%06d" % i for i in range(6000)} - taken_back - set(decided) - there
    assert lost == set()
    assert len(decided) > 0
    assert max(Counter(decided).values()) == 1


def test_a_file_of_the_same_inode_size_and_times_is_not_taken_for_the_one_read(incoming):
    """Within a moment a new file often gets them all; only the bytes tell."""
    path = incoming / "000.png"
    payload, status = path.read_bytes(), path.stat()
    other = Read(Found("000.png", str(path), status), status, b"?" + payload[1:], "")
    assert Leaving("remove", incoming)(other) == "written again since it was read"
    assert path.read_bytes() == payload
    assert len(left(incoming)) == 60
    again = path.stat()
    assert Leaving("remove", incoming)(Read(other.found, again, payload, "")) == ""
    assert len(left(incoming)) == 59


def test_a_link_goes_and_what_it_leads_to_goes_as_itself(gate, incoming, tmp_path):
    (incoming / "a-link.png").symlink_to("sub/001.png")
    os.link(incoming / "002.png", incoming / "hard.png")
    with Store(tmp_path / "k.db") as store:
        for _ in range(2):
            run(gate, Folder(incoming, processed="remove"), store)
        assert store.counters["seen"] == 60
    assert left(incoming) == []


# Kills ------------------------------------------------------------------------------------------


def test_whenever_it_is_killed_each_file_is_decided_once_and_goes(loop, tmp_path, stream):
    """kill -9 at random moments, between commit and removal among them."""
    folder, rng = tmp_path / "incoming", random.Random(0)
    folder.mkdir()
    for i, (_, payload) in enumerate(stream[:400]):
        (folder / f"{i:03d}.png").write_bytes(payload)
    command = [sys.executable, "-m", "dripgate", "run", loop / "gate.onnx", folder, "--store",
               tmp_path / "k.db", "--processed", "remove", "--batch", "4",
               "--keep", "0.3"]  # fmt: skip

    def seen():
        try:
            with Store(tmp_path / "k.db", read_only=True) as store:
                return store.counters.get("seen", 0)
        except StoreError:
            return 0

    kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before, goal = seen(), seen() + rng.randrange(1, 80)
        while process.poll() is None and kills < 8 and seen() < goal:
            time.sleep(0)
        if process.poll() is None and kills < 8:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            assert seen() >= before
            continue
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        break
    assert kills > 3
    assert left(folder) == []
    with Store(tmp_path / "k.db") as store:
        assert store.counters["seen"] == 400
        assert store.counters["keep"] + store.counters["quarantine"] == len(store)
        assert store.check() == []


# Several samples from one file ------------------------------------------------------------------


@pytest.fixture
def hearing(gate):
    """Decides about one second of 8 kHz: what is quiet is dropped."""
    return Hearing(gate)


class Hearing:
    """A gate for sound, as far as a loop uses one."""

    id, sha256 = "hearing", "hearing"

    def __init__(self, gate):
        self.info = gate.info
        self._gate = gate

    def observe_features(self, samples):
        from dripgate.errors import UnreadableError
        from dripgate.gate import unreadable
        from dripgate.media import decode
        from dripgate.types import Reason, Verdict

        verdicts = []
        for sample in samples:
            try:
                if sample.problem:
                    raise UnreadableError(sample.problem)
                loud = abs(decode(sample.payload, SECOND)).max() > 1000
            except UnreadableError as error:
                verdicts.append(unreadable(str(error)))
                continue
            verdicts.append(Verdict(
                decision=Decision.KEEP if loud else Decision.DROP, reason=Reason.BAND, score=1.0,
                quality=1.0, predicted=0, propensity=float(loud),
            ))  # fmt: skip
        nothing = np.full((len(samples), 2), np.nan, np.float32)
        return verdicts, nothing, nothing


SECOND = AudioInput(rate=8000, length=8000)


@pytest.fixture
def night(tmp_path):
    """A recording of ten seconds with a call in the eighth, and one that is half lost."""
    folder = tmp_path / "night"
    folder.mkdir()
    sound = np.random.default_rng(0).normal(0, 1e-3, 80_000)
    sound[60_000:60_800] = 0.5
    soundfile.write(folder / "owl.wav", sound, 8000)
    soundfile.write(folder / "short.wav", sound[60_000:66_000], 8000)
    return folder


def test_a_long_recording_is_heard_to_its_end_and_goes_when_all_of_it_is_decided(
    hearing, night, tmp_path
):
    commits = []

    def look(pairs):
        commits.append((len(pairs), left(night)))

    with Store(tmp_path / "k.db") as store:
        feed = Folder(night, processed="remove", spec=SECOND)
        summary = run(hearing, feed, store, batch=8, on_verdicts=look)
        assert [one.source for one in store] == ["owl.wav@7.000s", "owl.wav@7.500s", "short.wav"]
    assert summary.seen == 20
    assert [there for _, there in commits] == [["owl.wav", "short.wav"], ["owl.wav", "short.wav"],
                                               []]  # fmt: skip


def test_a_recording_that_was_decided_in_part_goes_on_where_it_stopped(hearing, night, tmp_path):
    decided = []
    with Store(tmp_path / "k.db") as store:
        for most in (5, 7, 100):
            stopped = len(decided) + most

            class Until(Folder):
                def done(self, samples, stopped=stopped):
                    super().done(samples)
                    if len(decided) + len(samples) >= stopped:
                        decided.extend(sample.source for sample in samples)
                        raise KeyboardInterrupt

            with suppress(KeyboardInterrupt):
                feed = Until(night, processed="remove", spec=SECOND)
                run(hearing, feed, store, batch=1, on_verdicts=lambda pairs: decided.extend(
                    sample.source for sample, _ in pairs))  # fmt: skip
        assert len(decided) == len(set(decided)) == 20
    assert left(night) == []


def test_a_recording_that_is_damaged_further_on_stays(hearing, tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    sound = np.random.default_rng(0).normal(0, 0.1, 480_000)
    soundfile.write(folder / "owl.flac", sound, 8000)
    whole = (folder / "owl.flac").read_bytes()
    middle = len(whole) // 2
    (folder / "owl.flac").write_bytes(whole[:middle] + os.urandom(5000) + whole[middle + 5000 :])
    with Store(tmp_path / "k.db") as store:
        summary = run(hearing, Folder(folder, processed="remove", spec=SECOND), store)
        assert (summary.unreadable, run(hearing, Folder(folder, spec=SECOND), store).seen) == (1, 0)
    assert summary.seen > 5
    assert left(folder) == ["owl.flac"]
