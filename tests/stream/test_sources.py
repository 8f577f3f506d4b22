import os
import tarfile
import time
import tracemalloc
from itertools import islice

import pytest

from dripgate.data import iter_files
from dripgate.errors import DataError, UnreadableError
from dripgate.media import decode
from dripgate.stream import folder as followed
from dripgate.stream.sources import watch
from dripgate.types import ImageInput


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    return tmp_path / "in"


def put(folder, **files: bytes) -> None:
    for name, payload in files.items():
        (folder / name).write_bytes(payload)


class World:
    """Time that passes only when told, and what happens while the watcher waits."""

    def __init__(self, *events):
        self.now = time.time() + 100  # all that was written before has settled
        self.events = list(events)

    def clock(self):
        return self.now

    def wait(self, seconds):
        self.events.pop(0)()

    def over(self):
        return not self.events

    def watch(self, folder, **options):
        return watch(
            folder,
            follow=True,
            clock=self.clock,
            wait=self.wait,
            stop=self.over,
            poll=0.1,
            **options,
        )


def nothing():
    pass


# Once -------------------------------------------------------------------------------------------


def test_a_folder_and_an_archive_give_the_same_samples(folder, tmp_path):
    put(folder, b=b"2", a=b"1")
    put(folder / "sub", c=b"3")
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
        archive.add(folder, ".")
    before = time.time()
    for path in (folder, str(tmp_path / "in.tar.gz")):
        samples = list(watch(path))
        assert sorted((s.source, s.payload) for s in samples) == [
            ("a", b"1"), ("b", b"2"), ("sub/c", b"3"),
        ]  # fmt: skip
        assert all(before <= s.time <= time.time() for s in samples)
        assert {s.problem for s in samples} == {""}


def test_what_is_not_a_source_is_refused_at_once(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    for path, cause in [("mnist", "no such"), (tmp_path / "a.jpg", "not a folder or an archive")]:
        with pytest.raises(DataError, match=cause):
            watch(path)
    with pytest.raises(DataError, match="an archive does not grow"):
        watch(tmp_path / "a.tar", follow=True)


def test_stop_is_asked_before_every_sample(folder):
    put(folder, a=b"1", b=b"2", c=b"3")
    answers = iter([False, False, True])
    assert [s.source for s in watch(folder, stop=lambda: next(answers))] == ["a", "b"]


@pytest.mark.parametrize("follow", [False, True])
def test_too_large_is_a_sample_that_decodes_to_its_cause(folder, follow):
    put(folder, big=b"x" * 101, fits=b"x" * 100)
    world = World(nothing)
    path = world.watch(folder, limit=100) if follow else watch(folder, limit=100)
    big, fits = sorted(path, key=lambda s: s.source)
    assert (big.payload, big.problem) == (b"", "101 bytes, more than the limit of 100")
    with pytest.raises(UnreadableError):
        decode(big.payload, ImageInput(height=1, width=1, channels=1))
    assert (fits.payload, fits.problem) == (b"x" * 100, "")


# Growing ----------------------------------------------------------------------------------------


def test_each_file_is_given_once_in_the_order_of_arrival(folder):
    put(folder, z=b"1")
    put(folder, a=b"2")
    world = World(lambda: put(folder / "sub", new=b"3"), nothing, lambda: put(folder, b=b"4"),
                  nothing)  # fmt: skip
    assert [s.source for s in world.watch(folder)] == ["z", "a", "sub/new", "b"]


def test_a_file_being_written_is_left_alone_until_it_has_settled(folder):
    world = World()

    def begin():
        world.now = time.time()
        put(folder, a=b"half")

    def go_on():
        world.now += 1.5
        assert samples == []

    def pass_time():
        assert samples == []
        put(folder, a=b"half and half")
        world.now = time.time() + 1.9

    def end():
        assert samples == []
        world.now += 0.2

    world.events = [begin, go_on, pass_time, end, nothing]
    samples = []
    samples.extend(world.watch(folder, settle=2))
    assert [s.payload for s in samples] == [b"half and half"]


def test_files_moved_in_with_old_dates_are_not_missed(folder, tmp_path):
    put(folder, first=b"1")

    def move_in():
        put(tmp_path, old=b"2")
        os.utime(tmp_path / "old", (1, 1))
        (tmp_path / "old").rename(folder / "old")

    assert [s.source for s in World(move_in, nothing).watch(folder)] == ["first", "old"]


def test_a_name_used_again_is_a_new_sample(folder):
    put(folder, latest=b"1")
    world = World(lambda: put(folder, latest=b"2"), nothing)
    assert [s.payload for s in world.watch(folder)] == [b"1", b"2"]


def test_files_and_folders_may_vanish(folder):
    put(folder, a=b"1", b=b"2", c=b"3")
    world = World(nothing, lambda: folder.rename(folder.with_name("gone")), nothing)
    samples = world.watch(folder)
    assert next(samples).source == "a"
    (folder / "b").unlink()
    assert [s.source for s in samples] == ["c"]


def test_a_clock_set_back_loses_nothing(folder):
    put(folder, a=b"1")
    world = World()

    def set_back_and_write():
        world.now -= 1000
        put(folder, b=b"2")

    def go_on():
        world.now += 1000

    world.events = [set_back_and_write, nothing, go_on, nothing]
    given = [s.source for s in world.watch(folder)]
    assert given == ["a", "a", "b"], "what was lived twice is given twice"


def test_more_new_files_than_are_held_at_once(folder, monkeypatch):
    monkeypatch.setattr(followed, "BATCH", 3)
    put(folder, **{f"f{i}": b"" for i in range(10)})
    given = [s.source for s in World(nothing).watch(folder)]
    assert sorted(given) == sorted(f"f{i}" for i in range(10))


def test_memory_does_not_grow_with_the_stream(folder):
    world = World()
    written = iter(range(10**9))

    def replace():
        for path in folder.glob("f*"):
            path.unlink()
        put(folder, **{f"f{next(written)}": b"x" for _ in range(20)})

    class Forever(list):
        def pop(self, _):
            return replace

        def __bool__(self):
            return True

    world.events = Forever([replace])
    stream = world.watch(folder)
    assert sum(1 for _ in islice(stream, 200)) == 200
    tracemalloc.start()
    grown = []
    for _ in range(3):  # once in a while Python enlarges its table of names; a leak is in each part
        before = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in islice(stream, 1000)) == 1000
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert min(grown) < 25_000


def test_memory_of_a_tar_does_not_grow_with_its_members(tmp_path):
    with tarfile.open(tmp_path / "long.tar", "w") as archive:
        for i in range(3000):
            archive.addfile(tarfile.TarInfo(f"a/{i}"))
    files = iter_files(tmp_path / "long.tar")
    assert sum(1 for _ in islice(files, 200)) == 200
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    assert sum(1 for _ in islice(files, 2700)) == 2700
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 50_000
