import hashlib
import resource
import subprocess
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dripgate.data import Split, infer, infer_input, load, open_source
from dripgate.data.named import cache_root
from dripgate.errors import DataError
from dripgate.media import decode
from dripgate.types import ArrayInput, AudioInput, ImageInput, Sample

TINY = ImageInput(height=5, width=6, channels=3)


def same(a: Split, b: Split) -> bool:
    return (
        a.names == b.names
        and a.x.dtype == b.x.dtype
        and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("x", "y", "ids", "sizes"))
    )


# load -------------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_the_files_hold(tree, classes):
    data = load(tree(classes))
    assert (data.name, data.classes, data.input) == ("set", ("cat", "dog"), TINY)
    assert (len(data.train), len(data.test), data.skipped) == (32, 8, ())
    for side, split in [("train", data.train), ("test", data.test)]:
        assert split.names == sorted(name for name in classes if name.startswith(side))
        assert split.y.dtype == split.sizes.dtype == np.int64
        for i, name in enumerate(split.names):
            assert (split.x[i] == decode(classes[name], TINY)).all()
            assert split.ids[i] == Sample(classes[name]).id
            assert data.classes[split.y[i]] == name.split("/")[1]
            assert split.sizes[i] == len(classes[name])


def test_the_second_start_decodes_nothing_and_gives_the_same(tree, classes):
    folder, decoded = tree(classes), []
    first = load(folder, progress=decoded.append)
    assert decoded == list(range(1, 41))
    second = load(folder, progress=lambda n: pytest.fail("decoded again"))
    assert same(first.train, second.train)
    assert same(first.test, second.test)
    assert (first.classes, first.input) == (second.classes, second.input)


def test_the_cache_follows_the_data_and_the_input(tree, classes):
    folder = tree(classes)
    assert load(folder).train.x.shape == (32, 5, 6, 3)
    for height, width in [(3, 4), (4, 3)]:
        spec = ImageInput(height=height, width=width, channels=1)
        assert same(load(folder, spec).train, load(folder, spec, cache=False).train)
    (folder / "train/cat/00.png").unlink()
    assert len(load(folder).train) == 31


def test_no_cache_and_folder_and_archives_are_equal(tree, pack, classes):
    first = load(tree(classes))
    for other in (tree(classes), pack(classes, "set.tar.gz"), pack(classes, "set.zip")):
        data = load(other, cache=False)
        assert same(first.test, data.test)
        assert same(first.train, data.train)


def test_a_damaged_cache_is_made_again(tree, classes):
    folder = tree(classes)
    expected = load(folder, cache=False).train
    load(folder)
    (cached,) = (cache_root() / "decoded").iterdir()
    for name, payload in [("x.bin", b"short"), ("table.json", b'{"ids": 1}'), ("table.json", b"")]:
        (cached / name).write_bytes(payload)
        assert same(expected, load(folder).train), name
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


def test_writing_into_a_split_does_not_reach_the_cache(tree, classes):
    folder = tree(classes)
    load(folder).train.x[:] = 7
    assert (load(folder).train.x != 7).any()


@contextmanager
def file_size_limit(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_cache_not_the_data(tree, classes):
    folder = tree(classes)
    expected = load(folder, cache=False)
    with file_size_limit(1000), pytest.warns(RuntimeWarning, match="the cache cannot be used"):
        data = load(folder)
    assert same(expected.train, data.train)
    assert list((cache_root() / "decoded").iterdir()) == [], "no part is left behind"


def test_a_cache_that_cannot_be_written(tree, classes, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DRIPGATE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(RuntimeWarning, match="DRIPGATE_CACHE"):
        data = load(tree(classes))
    assert len(data.train) == 32


def test_a_killed_start_leaves_no_half_cache(tree, classes):
    folder = tree(classes)
    code = (
        "import os, signal, sys; from dripgate.data import load\n"
        "load(sys.argv[1], progress=lambda n: n == 30 and os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == -9
    assert list((cache_root() / "decoded").iterdir()), "it was in the middle of writing"
    assert same(load(folder).train, load(folder, cache=False).train)


# Damage and errors ------------------------------------------------------------------------------


def test_damaged_files_are_skipped_and_reported(tree, classes):
    folder = tree(classes)
    (folder / "train/cat/text.jpg").write_bytes(b"not a picture")
    (folder / "train/dog/00.png").write_bytes(classes["train/dog/00.png"][:60])
    (folder / "test/dog/zero.png").write_bytes(b"")
    for data in (load(folder), load(folder)):
        causes = {one.name: one.cause for one in data.skipped}
        assert set(causes) == {"train/cat/text.jpg", "train/dog/00.png", "test/dog/zero.png"}
        assert causes["train/cat/text.jpg"].startswith("not an image")
        assert causes["test/dog/zero.png"] == "empty file"
        assert len(data.train) == 31
        assert "train/dog/00.png" not in data.train.names


def test_mostly_unreadable_is_an_error(tree, classes):
    files = {
        name: payload if i % 3 else b"text" for i, (name, payload) in enumerate(classes.items())
    }
    assert len(load(tree(files)).skipped) == 14
    files = {
        name: b"text" if i % 3 else payload for i, (name, payload) in enumerate(classes.items())
    }
    with pytest.raises(DataError, match=r"26 of 40 files cannot be read.*not an image"):
        load(tree(files))
    with pytest.raises(DataError, match="no file is an image, audio or a"):
        load(tree(dict.fromkeys(classes, b"text")))


def test_one_class_only(tree, picture):
    with pytest.raises(DataError, match="one class only"):
        load(tree({f"cat/{i}.png": picture(i) for i in range(5)}))


def test_a_class_that_is_only_in_test(tree, classes, picture):
    with pytest.raises(DataError, match=r"1 classes are in test but not in train \(eel\)"):
        load(tree(classes | {"test/eel/1.png": picture(999)}))


def test_too_few_samples_for_a_test_part(tree, picture):
    files = {"cat/1.png": picture(1), "dog/1.png": picture(2)}
    with pytest.raises(DataError, match="too few samples"):
        load(tree(files))


# Splits -----------------------------------------------------------------------------------------


def test_without_a_test_part_a_fifth_of_the_contents_is_test(tree, picture):
    files = {f"{c}/{i}.png": picture(1000 * k + i) for k, c in enumerate("ab") for i in range(200)}
    data = load(tree(files))
    assert 50 < len(data.test) < 110
    assert len(data.train) + len(data.test) == 400
    side = dict.fromkeys(data.train.ids, "train") | dict.fromkeys(data.test.ids, "test")
    assert len(side) == 400
    fewer = load(tree({k: v for k, v in files.items() if k > "a/150"}, "fewer"))
    assert all(side[id_] == "test" for id_ in fewer.test.ids)
    assert all(side[id_] == "train" for id_ in fewer.train.ids)


def test_duplicates_are_kept_on_one_side(tree, picture):
    files = {f"{c}/{i}-{copy}.png": picture(1000 * k + i)
             for k, c in enumerate("ab") for i in range(40) for copy in range(2)}  # fmt: skip
    data = load(tree(files))
    assert len(data.train) + len(data.test) == 160
    assert not set(data.train.ids) & set(data.test.ids)


def test_a_tiny_class_stays_in_train(tree, picture):
    files = {f"big/{i}.png": picture(i) for i in range(100)}
    tiny = next(seed for seed in range(5000, 6000) if in_test(picture(seed)))
    data = load(tree(files | {"tiny/1.png": picture(tiny)}))
    assert "tiny/1.png" in data.train.names


def in_test(payload: bytes) -> bool:
    digest = hashlib.sha256(b"test\0" + hashlib.sha256(payload).hexdigest().encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 < 0.2


def numbered(values) -> Split:
    values = np.asarray(values, np.int64)
    ids = np.array([f"{v:064x}" for v in values])
    x = np.repeat(values[:, None], 3, axis=1)
    return Split.of(x, values % 2, ids, [str(v) for v in values], values + 10)


def consistent(split: Split) -> bool:
    values = split.x[:, 0] if len(split) else np.zeros(0, int)
    return same(split, numbered(values)) if len(split) else len(split.names) == 0


@given(st.lists(st.integers(0, 50), unique=True, min_size=1), st.floats(0, 1), st.text(max_size=4))
def test_by_hash_parts_depend_on_content_alone(values, share, salt):
    inside, outside = numbered(values).by_hash(share, salt)
    assert consistent(inside)
    assert consistent(outside)
    assert sorted([*inside.names, *outside.names], key=int) == [str(v) for v in sorted(values)]
    backwards, _ = numbered([*values[::-1], 99]).by_hash(share, salt)
    assert set(backwards.names) - {"99"} == set(inside.names)


def test_by_hash_shares_and_salts():
    split = numbered(range(4000))
    inside, outside = split.by_hash(0.3)
    assert abs(len(inside) / 4000 - 0.3) < 0.03
    other, _ = split.by_hash(0.3, "other")
    both = len(set(other.names) & set(inside.names))
    assert abs(both / 4000 - 0.09) < 0.02, "independent"
    nested, _ = outside.by_hash(0.3, "third")
    assert abs(len(nested) / len(outside) - 0.3) < 0.03
    assert (len(split.by_hash(0)[0]), len(split.by_hash(1)[1])) == (0, 0)


@given(st.data())
def test_take_batch_and_concat_keep_columns_together(data):
    split = numbered(data.draw(st.lists(st.integers(0, 99), min_size=2, max_size=9)))
    some = split.take(np.array(data.draw(st.lists(st.integers(0, len(split) - 1), min_size=1))))
    assert consistent(some)
    order = np.array(data.draw(st.lists(st.integers(0, len(some) - 1), min_size=1)))
    assert (some.batch(order) == some.x[order]).all()
    assert consistent(some.take(some.y == some.y[0]))
    joined = Split.concat(some, split, numbered([7, 8]))
    assert consistent(joined)
    assert joined.names == [*some.names, *split.names, "7", "8"]
    kin = Split.concat(some, split)
    assert consistent(kin)
    assert kin.stock is split.stock, "no sample was copied"


# infer_input ------------------------------------------------------------------------------------


def inferred(tree, files):
    return infer_input(open_source(tree(files)))


def test_equal_images_keep_their_size_up_to_a_limit(tree, picture):
    sizes = {(6, 5): (5, 6), (96, 80): (80, 96), (200, 100): (32, 64)}
    for size, (height, width) in sizes.items():
        files = {f"a/{i}.png": picture(i, size=size) for i in range(3)}
        assert inferred(tree, files) == ImageInput(height=height, width=width, channels=3)


def test_mixed_images_become_their_median_and_grey_only_if_all_are(tree, picture):
    files = {f"a/{i}.png": picture(i, size=(10 * i, 20 * i), mode="L") for i in (1, 2, 3)}
    assert inferred(tree, files) == ImageInput(height=40, width=20, channels=1)
    files["b/text.png"] = b"text"
    files["b/1.png"] = picture(size=(1000, 2000))
    assert inferred(tree, files) == ImageInput(height=50, width=25, channels=3)


def test_audio_has_the_rate_of_its_classes_and_their_most_common_length(tree, recording):
    files = {f"{c}/{i}.wav": recording(frames=800) for c in "ac" for i in range(3)}
    files |= {"b/1.wav": recording(rate=16000, frames=900)}
    files |= {f"b/{i}.wav": recording(frames=5000) for i in (2, 3)}
    assert inferred(tree, files) == AudioInput(rate=8000, length=800)


@pytest.mark.parametrize("background", ["a_background", "z_background"])
@pytest.mark.parametrize("form", ["folder", "set.tar", "set.zip"])
def test_every_class_is_asked_not_the_first_alone(tree, pack, recording, background, form):
    """Case 20: 40 short recordings of one class at a low rate, in front or at the end."""
    quiet, call = recording(rate=8000, frames=8000), recording(rate=48000, frames=72000)
    files = {f"{background}/{i}.wav": quiet for i in range(40)}
    files |= {f"{label}/{i}.wav": call for label in ("high", "low") for i in range(3)}
    path = tree(files) if form == "folder" else pack(files, form)
    found = infer(open_source(path))
    assert found.spec == AudioInput(rate=48000, length=72000)
    rates, lengths = found.notes
    assert rates == (
        "recordings of several rates (8 at 8,000 Hz, 6 at 48,000 Hz looked at): 48,000 Hz is chosen"
    )
    assert lengths.startswith("recordings of 1 to 1.5 s: windows of 1.5 s")


def test_the_input_of_an_archive_is_remembered_until_it_changes(pack, picture):
    files = {f"{c}/{i}.png": picture(i, size=(6, 5)) for c in "ab" for i in range(3)}
    first = infer(open_source(pack(files, "set.tar.gz")))
    (kept,) = (cache_root() / "inferred").iterdir()
    assert infer(open_source(kept.parents[2] / "set.tar.gz")) == first
    other = {f"{c}/{i}.png": picture(i, size=(8, 9)) for c in "ab" for i in range(3)}
    assert infer(open_source(pack(other, "set.tar.gz"))).spec.shape == (9, 8, 3)
    kept.write_bytes(b"{")
    assert infer(open_source(pack(files, "set.tar.gz"))).spec == first.spec


def test_arrays_have_their_shape(tree, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    payload = (tmp_path / "x.npy").read_bytes()
    assert inferred(tree, {"a/1.npy": payload, "b/1.npy": payload}) == ArrayInput(shape=(3, 4))


def test_recordings_are_loaded_and_other_rates_resampled(tree, recording):
    files = {f"{c}/{i}.wav": recording(i) for c in "ab" for i in range(20)}
    files["a/other.wav"] = recording(7, rate=16000, frames=1600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(tree(files))
    assert data.input == AudioInput(rate=8000, length=800)
    assert data.skipped == ()
    assert data.train.x.dtype == np.int16
    assert data.train.x.any(axis=1).all()
