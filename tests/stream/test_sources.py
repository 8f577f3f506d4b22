import os
import re
import shutil
import tarfile
import time
import tracemalloc
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from dripgate.data import iter_files
from dripgate.errors import DataError, UnreadableError
from dripgate.media import decode
from dripgate.stream import growing, tree
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

    def __init__(self, *events, step=3.0):
        self.now = time.time() + 100  # all that was written before has settled
        self.passed, self.step = 0.0, step  # between two looks a file can settle
        self.events = [*events, nothing, nothing]

    def clock(self):
        return self.now

    def steady(self):
        return self.passed

    def wait(self, seconds):
        self.passed += self.step
        self.now += self.step
        self.events.pop(0)()

    def over(self):
        return not self.events

    def watch(self, folder, **options):
        return watch(
            folder,
            follow=True,
            clock=self.clock,
            steady=self.steady,
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


@pytest.mark.parametrize("packed", ["", "tar", "zip"])
def test_a_sample_s_time_is_when_it_was_taken(tmp_path, packed):
    """By the file; and by the picture, where it says so."""
    folder, march = tmp_path / "card", 1_772_352_000
    folder.mkdir()
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2026:03:02 06:00:00", 0x9011: "+01:00"})
    for name, tags in (("plain.jpg", b""), ("told.jpg", exif.tobytes())):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / name, exif=tags or b"")
        os.utime(folder / name, (march, march))
    (folder / "future.jpg").write_bytes((folder / "plain.jpg").read_bytes() + b" ")
    os.utime(folder / "future.jpg", (march * 2, march * 2))
    source = folder
    if packed:
        source = shutil.make_archive(str(tmp_path / "packed"), packed, folder)
    times = {
        how: {sample.source: sample.time for sample in watch(source, times=how)}
        for how in ("read", "mtime", "exif")
    }
    now = time.time()
    assert all(now - 300 < one <= now for one in times["read"].values())
    assert times["mtime"]["plain.jpg"] == times["mtime"]["told.jpg"] == march
    assert now - 300 < times["mtime"]["future.jpg"] <= now, "no such time yet"
    assert times["exif"]["plain.jpg"] == march
    assert times["exif"]["told.jpg"] == march + 21 * 3600


def test_where_the_file_says_the_time_the_oldest_comes_first(folder):
    put(folder, a=b"1", b=b"2", c=b"3")
    for name, at in (("a", 1.5e9), ("b", 1.7e9), ("c", 1.2e9)):
        os.utime(folder / name, (at, at))
    assert [s.source for s in watch(folder, times="mtime")] == ["c", "a", "b"]
    assert [s.source for s in watch(folder)] == ["a", "b", "c"]


# Growing ----------------------------------------------------------------------------------------


def test_each_file_is_given_once_in_the_order_of_arrival(folder):
    put(folder, z=b"1")
    put(folder, a=b"2")
    world = World(lambda: put(folder / "sub", new=b"3"), lambda: put(folder, b=b"4"))
    assert [s.source for s in world.watch(folder)] == ["z", "a", "sub/new", "b"]


@pytest.mark.parametrize("ahead", [0, 100, 1e9])
def test_a_file_being_written_is_left_alone_until_it_has_settled(folder, ahead):
    """By its time of change, and by a clock of our own where the file system has another."""
    put(folder, a=b"half")
    world = World(step=0.8)
    world.now = (folder / "a").stat().st_ctime - ahead

    def go_on():
        assert samples == []
        put(folder, a=b"half and half")

    def look():
        assert samples == []

    world.events = [look, go_on, look, look, look, nothing, nothing]
    samples = []
    samples.extend(world.watch(folder, settle=2))
    assert [s.payload for s in samples] == [b"half and half"]


def test_a_file_that_never_settles_is_named(folder):
    put(folder, rests=b"1")
    world, told = World(step=1.0), []
    world.events = [lambda i=i: put(folder, latest=b"%d" % i) for i in range(70)]
    assert [s.source for s in world.watch(folder, told=told.append)] == ["rests"]
    assert len(told) == 1
    assert re.search(r"latest: has been changing for 60 s .* --settle", told[0])


def test_a_file_may_be_taken_as_soon_as_it_is_there(folder):
    world = World(*(lambda i=i: put(folder, latest=b"x" * i) for i in range(5)), step=0.1)
    assert len(list(world.watch(folder, settle=0))) == 5


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


def test_a_clock_set_back_or_forward_loses_nothing_and_gives_nothing_twice(folder):
    put(folder, a=b"1")
    world = World()

    def set_clock(by):
        world.now += by
        put(folder, **{f"b{by}": b"%d" % by})

    world.events = [
        lambda: set_clock(-1000), nothing, lambda: set_clock(10**9), nothing, nothing, nothing,
    ]  # fmt: skip
    assert [s.source for s in world.watch(folder)] == ["a", "b-1000", "b1000000000"]


def test_what_is_moved_in_with_times_of_long_ago_is_given(folder, tmp_path):
    """A renamed folder leaves the times of the files in it as they were."""
    (tmp_path / "day1" / "deep").mkdir(parents=True)
    put(tmp_path / "day1", old=b"2")
    put(tmp_path / "day1" / "deep", older=b"3")
    put(folder, first=b"1")
    world = World(lambda: (tmp_path / "day1").rename(folder / "day1"))
    assert [s.source for s in world.watch(folder)] == ["first", "day1/old", "day1/deep/older"]


def test_a_folder_that_goes_and_comes_back_is_looked_at_again(folder, tmp_path):
    put(folder, a=b"1")
    told, away = [], tmp_path / "away"

    def put_another():
        away.rename(folder)
        put(folder, b=b"2")

    world = World(lambda: folder.rename(away), nothing, put_another, nothing)
    assert [s.source for s in world.watch(folder, told=told.append)] == ["a", "b"]
    assert told == [f"{folder}: is gone; waiting for it"]


def test_old_files_are_not_looked_at_again_and_again(folder, monkeypatch):
    """Where a look at everything takes long, it is done rarely; folders that did not change are
    not listed for it.
    """
    for day in range(20):
        (folder / f"{day:02}").mkdir()
        put(folder / f"{day:02}", **{f"f{i}": b"%d %d" % (day, i) for i in range(50)})
    listed, seconds = [], [0.0]
    real = tree.Tree.list

    def slow(self, name):
        seconds[0] += 0.1  # two seconds for all
        listed.append(name)
        return real(self, name)

    monkeypatch.setattr(tree.Tree, "list", slow)
    monkeypatch.setattr(growing.time, "thread_time", lambda: seconds[0])
    world = World(*[nothing] * 30, lambda: put(folder / "07", new=b"new"), nothing, nothing,
                  step=4.0)  # fmt: skip
    given = [s.source for s in world.watch(folder)]
    assert len(given) == 1001
    assert given[-1] == "07/new"
    assert set(listed[22:]) == {"07"}  # the first 22 are all there are
    assert len(listed[22:]) <= 2


def test_what_is_no_file_is_named_and_passed_over(folder, tmp_path):
    (tmp_path / "outside").write_bytes(b"x")
    (folder / "leads-out").symlink_to(tmp_path / "outside")
    (folder / "circle").symlink_to("circle")
    (folder / "folder").symlink_to("sub")
    (folder / "sub" / "inside").symlink_to("../real")
    (folder / "to-itself").symlink_to(".")
    os.mkfifo(folder / "pipe")
    (folder / "line\nbreak").symlink_to("/etc/passwd")
    put(folder, real=b"1", **{".hidden": b"2"})
    for follow in (False, True):
        told = []
        feed = World().watch(folder, told=told.append) if follow else (
            watch(folder, told=told.append))  # fmt: skip
        assert [s.source for s in feed] == ["real"], "one file under two names is given once"
        assert len(told) == 6
        assert all("\n" not in line for line in told)


@pytest.mark.needs("no root")
def test_folders_that_cannot_be_listed_are_named(folder):
    put(folder / "sub", a=b"1")
    (folder / "sub").chmod(0)
    told = []
    assert list(watch(folder, told=told.append)) == []
    (folder / "sub").chmod(0o700)
    assert len(told) == 1
    assert "cannot be listed (Permission denied)" in told[0]


def test_names_that_are_no_utf8_are_kept_apart(folder):
    for i, name in enumerate([b"caf\xe9", b"caf\xe8"]):
        (folder / os.fsdecode(name)).write_bytes(b"%d" % i)
    assert [s.source for s in watch(folder)] == ["caf\\xe8", "caf\\xe9"]


def test_more_new_files_than_are_held_at_once(folder, monkeypatch):
    monkeypatch.setattr(growing, "BATCH", 3)
    put(folder, **{f"f{i}": b"" for i in range(10)})
    given = [s.source for s in World(nothing).watch(folder)]
    assert sorted(given) == sorted(f"f{i}" for i in range(10))


def test_memory_does_not_grow_with_the_stream(folder):
    world = World()
    written = iter(range(10**9))

    def replace():
        # Not by pathlib: what it names is interned, and stays for ever in Python 3.12.
        for entry in list(os.scandir(folder)):
            if entry.name.startswith("f"):
                os.unlink(entry.path)  # noqa: PTH108
        for number in islice(written, 20):
            with open(f"{folder}/f{number}", "wb") as file:  # noqa: PTH123
                file.write(b"x")

    class Forever(list):
        def pop(self, _):
            return replace

        def __bool__(self):
            return True

    world.events = Forever([replace])
    stream = world.watch(folder, settle=0)
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
