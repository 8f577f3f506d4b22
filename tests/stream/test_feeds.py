"""Feeds in the loop: batches of what is there, runs that go on, files that go when decided."""

import io
import shutil
import tarfile
import threading
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from dripgate.errors import DataError, StoreError
from dripgate.media import decode
from dripgate.policy import Rules
from dripgate.store import Store
from dripgate.stream import loop as the_loop
from dripgate.stream.feed import Feed, Live
from dripgate.stream.folder import Folder
from dripgate.stream.loop import run
from dripgate.stream.pcm import microphone, windows
from dripgate.stream.sources import How, check_source, open_source
from dripgate.types import AudioInput, ImageInput, Sample
from needs import need


@pytest.fixture
def incoming(tmp_path, stream):
    """A folder with sixty images that have settled."""
    folder = tmp_path / "incoming"
    (folder / "sub").mkdir(parents=True)
    for i, (_, payload) in enumerate(stream[:60]):
        (folder / ("sub" if i % 2 else ".") / f"{i:03d}.png").write_bytes(payload)
    return folder


def follow(folder, stop, **options):
    """Follows as if all that is there had settled."""
    return Folder(
        folder, follow=True, stop=stop, poll=0.1, wait=lambda _: None,
        clock=lambda: time.time() + 100, **options,
    )  # fmt: skip


class Until:
    """Says stop once so many samples were decided."""

    def __init__(self, count):
        self.count, self.sizes = count, []

    def __call__(self):
        return sum(self.sizes) >= self.count

    def note(self, pairs):
        self.sizes.append(len(pairs))


# Batches ----------------------------------------------------------------------------------------


def test_a_followed_folder_is_decided_by_batches_of_what_is_there(gate, incoming, tmp_path):
    until = Until(60)
    with Store(tmp_path / "k.db") as store:
        run(gate, follow(incoming, until), store, batch=25, on_verdicts=until.note)
    assert until.sizes == [25, 25, 10]


def test_the_loop_has_its_turn_where_nothing_comes(gate, tmp_path):
    turns = []
    with Store(tmp_path / "k.db") as store:
        run(gate, [None, Sample(b"x", "a"), None, None], store,
            on_turn=lambda summary: turns.append(summary.seen))  # fmt: skip
    assert turns == [0, 1, 1]


def test_samples_wait_for_others_until_the_latency_is_over(gate, tmp_path, monkeypatch):
    """A sample a second, and a pause of the source after each: three seconds are three samples."""
    now = [100.0]
    monkeypatch.setattr(the_loop.time, "monotonic", lambda: now[0])

    def slowly():
        for i in range(10):
            yield Sample(b"x", str(i))
            yield None
            now[0] += 1

    until, turns = Until(10), []
    with Store(tmp_path / "k.db") as store:
        run(gate, slowly(), store, latency=3, on_verdicts=until.note, on_turn=turns.append)
    assert until.sizes == [4, 4, 2]
    assert len(turns) > 6  # whoever waits does not keep the loop from what else there is to do


def test_large_samples_end_a_batch_before_memory_does(gate, tmp_path, monkeypatch):
    monkeypatch.setattr(the_loop, "BATCH_BYTES", 1000)
    until = Until(10)
    with Store(tmp_path / "k.db") as store:
        run(gate, [Sample(b"x" * 400, str(i)) for i in range(10)], store, on_verdicts=until.note)
    assert until.sizes == [3, 3, 3, 1]


# Going on where a run stopped -------------------------------------------------------------------


def test_a_followed_folder_goes_on_after_the_last_commit(gate, incoming, tmp_path):
    decided = []
    for goal in (20, 60):
        until = Until(goal - len(decided))
        with Store(tmp_path / "k.db") as store:
            feed = follow(incoming, until)
            run(gate, feed, store, batch=10, on_verdicts=lambda pairs, until=until: (
                until.note(pairs), decided.extend(s.source for s, _ in pairs)))  # fmt: skip
            seen = store.counters["seen"]
    assert len(decided) == len(set(decided)) == seen == 60


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_read_once_goes_on_after_an_interruption_and_is_not_decided_again(
    gate, incoming, tmp_path, packed
):
    path = incoming
    if packed:
        path = tmp_path / "in.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(incoming, ".")
    seen, known = [], []
    for goal in (25, 60, 60, 60):  # interrupted, to the end, once more, and asked to
        until = Until(goal)
        with Store(tmp_path / "k.db") as store:
            feed = Folder(path, stop=until, again=len(seen) == 3)
            summary = run(gate, feed, store, batch=5, on_verdicts=until.note)
            seen.append(summary.seen)
            known.append(summary.known)
    assert seen == [25, 35, 0, 60]
    assert known == [0, 25, 60, 0]


def test_what_is_new_in_a_folder_that_was_read_is_decided(gate, incoming, tmp_path, png):
    with Store(tmp_path / "k.db") as store:
        run(gate, Folder(incoming), store)
        (incoming / "new.png").write_bytes(png(seed=1))
        (incoming / "000.png").write_bytes(png(seed=2))
        shutil.copytree(incoming, tmp_path / "again")  # other inodes and times, the same content
        (incoming / "002.png").rename(incoming / "sub" / "renamed.png")
        named = []
        for path in (incoming, tmp_path / "again"):
            run(gate, Folder(path), store, on_verdicts=lambda pairs: named.extend(
                sample.source for sample, _ in pairs))  # fmt: skip
    assert sorted(named) == ["000.png", "new.png"]


@pytest.mark.parametrize("rules", [None, Rules(keep=0.1)])
def test_another_gate_or_other_rules_decide_anew(gate, incoming, tmp_path, rules):
    with Store(tmp_path / "k.db") as store:
        seen = [
            run(other, Folder(incoming), store, rules=how).seen
            for other, how in ((gate, rules), (gate, Rules(keep=0.2)), (gate, rules))
        ]
        assert seen == [60, 60, 0]
        assert store.counters["seen"] == 120


# Processed files --------------------------------------------------------------------------------


def test_processed_files_are_removed(gate, incoming, tmp_path):
    with Store(tmp_path / "k.db") as store:
        summary = run(gate, Folder(incoming, processed="remove"), store, batch=7)
    assert summary.seen == 60
    assert [path for path in incoming.rglob("*") if path.is_file()] == []


def test_processed_files_are_moved_and_none_overwrites_another(gate, incoming, tmp_path):
    done = tmp_path / "done"
    done.mkdir()
    (done / "000.png").write_bytes(b"an older one of this name")
    before = {path.read_bytes() for path in incoming.rglob("*.png")}
    with Store(tmp_path / "k.db") as store:
        run(gate, Folder(incoming, processed=f"move:{done}"), store)
    after = {path.read_bytes() for path in done.rglob("*.png")}
    assert after == before | {b"an older one of this name"}
    assert not list(incoming.rglob("*.png"))


def test_a_file_that_was_written_again_or_not_read_is_left_alone(gate, incoming, tmp_path):
    (incoming / "large.png").write_bytes(b"x" * 100_000)

    def write_again(pairs):
        (incoming / "000.png").write_bytes(b"new")

    class Writing(Folder):
        def done(self, samples):
            write_again(samples)
            super().done(samples)

    with Store(tmp_path / "k.db") as store:
        run(gate, Writing(incoming, processed="remove", limit=50_000), store)
    assert {path.name for path in incoming.rglob("*.png")} == {"000.png", "large.png"}


def test_no_file_is_touched_before_its_verdict_is_durable(gate, incoming, tmp_path):
    Store(tmp_path / "k.db").close()
    with Store(tmp_path / "k.db", read_only=True) as store, pytest.raises(StoreError):
        run(gate, Folder(incoming, processed="remove"), store)
    assert len(list(incoming.rglob("*.png"))) == 60


@pytest.mark.parametrize(
    ("processed", "cause"),
    [
        ("burn", "keep, remove or move:FOLDER"),
        ("move:", "keep, remove or move:FOLDER"),
        ("move:{incoming}/done", "not inside"),
        ("move:/dev/shm/dripgate-test", "same file system"),
    ],
)
def test_processing_that_cannot_be_is_refused_at_once(incoming, processed, cause):
    with pytest.raises(DataError, match=cause):
        Folder(incoming, processed=processed.format(incoming=incoming))
    assert not (incoming / "done").exists()


# What does not wait -----------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [True, False])
def test_a_slow_scorer_loses_the_oldest_counted_or_makes_the_source_wait(gate, tmp_path, drop):
    """The source gives all it has while the first batch is decided."""
    given, room = threading.Event(), 20 * 1500

    def produce(put):
        for i in range(200):
            put(Sample(b"x" * 995, f"{i:05d}"))
            if i == (199 if drop else 19):
                given.set()

    decided = []

    def slow(pairs):
        assert given.wait(30)
        decided.extend(sample.source for sample, _ in pairs)

    with Store(tmp_path / "k.db") as store:
        feed = Live(produce, lambda: False, room=room, drop_oldest=drop)
        summary = run(gate, feed, store, batch=1, on_verdicts=slow)
        assert store.counters.get("lost", 0) == summary.lost == feed.lost
    assert summary.seen + summary.lost == 200
    assert decided == sorted(decided)
    assert decided[-1] == "00199"
    assert summary.lost in ((179, 180) if drop else (0,))  # twenty find room, one may be under way


def test_what_breaks_a_source_is_told_after_what_came_before(gate, tmp_path):
    def produce(put):
        put(Sample(b"x", "a"))
        raise DataError("the cable")

    with Store(tmp_path / "k.db") as store, pytest.raises(DataError, match="the cable"):
        run(gate, Live(produce, lambda: False), store)
    with Store(tmp_path / "k.db") as store:
        assert store.counters["seen"] == 1


# Microphone -------------------------------------------------------------------------------------


class Trickle(io.BytesIO):
    """A pipe that gives a little at a time."""

    def read(self, size=-1):
        return super().read(min(size, 7) if size > 0 else size)


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_windows_cover_every_frame_and_overlap_as_they_should(frames, window, hop, odd):
    hop = min(hop, window)
    pcm = np.arange(frames, dtype="<i2").tobytes() + b"x" * odd
    found = list(windows(io.BytesIO(pcm), window, hop))
    for at, part in found:
        assert part.tobytes() == pcm[2 * at : 2 * (at + len(part))]
    assert [at for at, _ in found] == [hop * i for i in range(len(found))]
    assert all(len(part) == window for _, part in found[:-1])
    assert {at + i for at, part in found for i in range(len(part))} == set(range(frames))
    slowly = list(windows(Trickle(pcm), window, hop))
    assert [(at, part.tolist()) for at, part in slowly] == [(at, p.tolist()) for at, p in found]


def test_a_microphone_gives_what_the_decoder_reads(tmp_path):
    spec = AudioInput(rate=8000, length=800)
    sound = np.random.default_rng(0).integers(-9000, 9000, 2300).astype("<i2")
    feed = microphone(spec, None, 0.5, lambda: False, pipe=io.BytesIO(sound.tobytes()))
    samples = [sample for sample in feed if sample]
    assert [sample.source for sample in samples] == [
        f"pcm@{at:.3f}s" for at in (0, 0.05, 0.1, 0.15, 0.2)
    ]
    for i, sample in enumerate(samples):
        part = sound[400 * i : 400 * i + 800]
        assert np.array_equal(decode(sample.payload, spec)[: len(part)], part)
    assert soundfile.info(io.BytesIO(samples[0].payload)).samplerate == 8000


def test_a_microphone_of_another_rate_fills_the_gate_s_window():
    spec = AudioInput(rate=8000, length=800)
    pcm = io.BytesIO(bytes(2 * 44100))
    samples = [s for s in microphone(spec, 44100, 0.0, lambda: False, pipe=pcm) if s]
    assert len(samples) == 10
    assert decode(samples[0].payload, spec).shape == (800,)


def heard(pcm: bytes, spec, rate=None, channels=None) -> list[np.ndarray]:
    pipe = io.BytesIO(pcm)
    feed = microphone(spec, rate, 0.0, lambda: False, channels=channels, pipe=pipe)
    return [decode(sample.payload, spec) for sample in feed if sample]


def a_wav(frames: np.ndarray, rate: int, told: int | None = None) -> bytes:
    """16-bit WAV (n, channels) whose header says ``told`` bytes of data."""
    file = io.BytesIO()
    soundfile.write(file, frames, rate, format="WAV")
    whole = bytearray(file.getvalue())
    if told is not None:
        whole[4:8], whole[40:44] = (
            (told and 2**31 - 1).to_bytes(4, "little"),
            told.to_bytes(4, "little"),
        )
    return bytes(whole)


def test_several_channels_are_averaged():
    spec = AudioInput(rate=8000, length=800)
    sound = np.random.default_rng(0).integers(-9000, 9000, (2000, 2)).astype("<i2")
    parts = heard(sound.tobytes(), spec, channels=2)
    expected = np.rint(sound.mean(axis=1))
    assert len(parts) == 3
    assert (np.concatenate(parts)[:2000] == expected).all()


@pytest.mark.parametrize("told", [None, 0, 2**31 - 1, 2**32 - 1])
def test_a_wav_on_the_pipe_says_its_rate_and_channels(told):
    spec = AudioInput(rate=8000, length=800)
    sound = np.random.default_rng(0).integers(-9000, 9000, (6000, 2)).astype(np.int16)
    parts = heard(a_wav(sound, 24000, told), spec)
    expected = [decode(a_wav(sound[at : at + 2400], 24000), spec) for at in (0, 2400, 4800)]
    assert len(parts) == 3
    for part, right in zip(parts, expected, strict=True):
        assert np.abs(part.astype(int) - right).max() <= 1


def test_what_comes_behind_a_wav_s_samples_is_no_sound():
    spec = AudioInput(rate=8000, length=800)
    sound = np.ones((800, 1), np.int16)
    assert len(heard(a_wav(sound, 8000) + b"LIST" + bytes(5000), spec)) == 1


@pytest.mark.parametrize(
    ("rate", "channels", "wav", "cause"),
    [
        (48000, None, True, "--rate is 48000, but the WAV on it says 8000"),
        (None, 1, True, "--channels is 1, but the WAV on it says 2"),
        (None, None, False, "--channels 2, or --channels 1 if it is one"),
    ],
)
def test_pcm_that_is_not_what_was_said_is_refused(rate, channels, wav, cause):
    spec = AudioInput(rate=8000, length=800)
    sound = np.repeat(np.random.default_rng(0).integers(-9, 9, (800, 1)), 2, 1).astype(np.int16)
    with pytest.raises(DataError, match=cause):
        heard(a_wav(sound, 8000) if wav else sound.tobytes(), spec, rate, channels)
    assert len(heard(sound.tobytes(), spec, channels=1)) == 2


@pytest.mark.parametrize("form", ["FLAC", "OGG", "AU", "AIFF"])
def test_other_formats_on_the_pipe_are_no_pcm(form):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format=form)
    with pytest.raises(DataError, match=r"begins as .*; write 16-bit PCM"):
        heard(file.getvalue(), AudioInput(rate=8000, length=800))


def test_a_wav_of_floats_is_refused():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(DataError, match="format 3 with 32 bits; write 16-bit PCM"):
        heard(file.getvalue(), AudioInput(rate=8000, length=800))


# Camera -----------------------------------------------------------------------------------------


@pytest.fixture
def film(tmp_path):
    """Thirty frames, ten per second, brighter and brighter."""
    need("OpenCV")
    import cv2

    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(30):
        writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("every", "frames"), [(0.0, range(30)), (0.5, range(0, 30, 5))])
def test_a_film_gives_its_frames(film, every, frames):
    from dripgate.stream.camera import Camera
    from dripgate.stream.frames import look

    name = f"camera:{film}"
    feed = look(name, lambda: Camera(str(film), name), every, lambda: False)
    samples = [sample for sample in feed if sample]
    spec = ImageInput(height=48, width=64, channels=1)
    means = [decode(sample.payload, spec).mean() for sample in samples]
    assert means == pytest.approx([8 * i for i in frames], abs=3)
    assert samples[0].source == f"camera:{film}@0.000s"


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "spec", "cause"),
    [
        ("pcm:hw0", AudioInput(rate=8000, length=800), "standard input only"),
        ("pcm:-", ImageInput(height=8, width=8, channels=1), "not audio"),
        pytest.param(
            "camera:no-such-film.mp4",
            ImageInput(height=8, width=8, channels=1),
            "cannot be opened",
            marks=pytest.mark.needs("OpenCV"),
        ),
        pytest.param(
            "camera:0",
            AudioInput(rate=8000, length=800),
            "not images",
            marks=pytest.mark.needs("OpenCV"),
        ),
    ],
)
def test_a_source_that_cannot_be_opened_says_why(tmp_path, source, spec, cause):
    with Store(tmp_path / "k.db") as store, pytest.raises(DataError, match=cause):
        open_source(source, spec, store, lambda: False, How())


def test_a_source_that_cannot_be_is_refused_before_anything_is_made():
    with pytest.raises(DataError, match="no such file or folder"):
        check_source("incomming")
    check_source("pcm:-")
    check_source("mqtt://host/farm/+/camera")


def test_a_feed_of_plain_samples_notes_the_gate_alone(gate, tmp_path):
    with Store(tmp_path / "k.db") as store:
        run(gate, Feed([Sample(b"x", "a")]), store)
        assert set(store.meta) == {"gate", "gate_id", "run", "force", "figures"}
