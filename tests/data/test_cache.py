"""The decoded cache: bounded, and what was used last stays (case 44)."""

import os
import time

import pytest

from dripgate.data import cache, load
from dripgate.data.named import cache_root
from dripgate.errors import DataError
from dripgate.types import ImageInput


def sizes() -> list[int]:
    return [sum(f.stat().st_size for f in folder.iterdir())
            for folder in (cache_root() / "decoded").iterdir()]  # fmt: skip


def spec(side: int) -> ImageInput:
    return ImageInput(height=side, width=side, channels=1)


def test_data_that_changes_again_and_again_leaves_few_copies(tree, classes, picture):
    folder = tree(classes)
    for i in range(8):
        (folder / f"train/cat/new{i}.png").write_bytes(picture(1000 + i))
        load(folder)
        assert len(sizes()) <= cache.KEPT
    load(folder, progress=lambda n: pytest.fail("the newest is gone"))


def test_other_data_does_not_push_out_what_fits(tree, classes):
    one, two = tree(classes, "one"), tree(classes, "two")
    for folder in (one, two):
        for side in range(3, 3 + cache.KEPT):
            load(folder, spec(side))
    assert len(sizes()) == 2 * cache.KEPT
    load(one, spec(3), progress=lambda n: pytest.fail("decoded again"))


def test_all_together_stay_within_the_limit_and_the_oldest_use_goes_first(
    tree, classes, monkeypatch
):
    folders = [tree(classes, f"set{i}") for i in range(4)]
    load(folders[0])
    (each,) = sizes()
    monkeypatch.setenv("DRIPGATE_CACHE_LIMIT", f"{3.5 * each / 1000}KB")
    for i, folder in enumerate(folders[1:3]):
        load(folder)
        os.utime(next_to(folder), (100 + i, 100 + i))
    os.utime(next_to(folders[0]), (50, 50))
    load(folders[0])  # used again: the second is the oldest now
    load(folders[3])
    assert sum(sizes()) <= 3.5 * each
    load(folders[0], progress=lambda n: pytest.fail("decoded again"))
    seen: list[int] = []
    load(folders[1], progress=seen.append)
    assert seen


def next_to(folder):
    (found,) = (cache_root() / "decoded").glob(f"{folder.name}-*")
    return found


def test_one_that_is_larger_than_the_limit_is_used_all_the_same(tree, classes, monkeypatch):
    monkeypatch.setenv("DRIPGATE_CACHE_LIMIT", "1KB")
    folder = tree(classes)
    assert len(load(folder).train) == 32
    load(tree(classes, "other"))
    assert len(sizes()) == 1


def test_what_killed_starts_left_goes_after_a_day(tree, classes):
    root = cache_root() / "decoded"
    old, new = root / ".part-old", root / ".part-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "x.bin").write_bytes(bytes(100))
    os.utime(old, (time.time() - 90_000,) * 2)
    load(tree(classes))
    assert not old.exists()
    assert new.exists()


def test_a_limit_that_is_no_size_is_refused(tree, classes, monkeypatch):
    monkeypatch.setenv("DRIPGATE_CACHE_LIMIT", "much")
    with pytest.raises(DataError, match="DRIPGATE_CACHE_LIMIT is 'much', expected a size such as"):
        load(tree(classes))
