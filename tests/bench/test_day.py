"""A day is what it is said to be, of images and of recordings, and the same for the same seed."""

import numpy as np
import pytest

from dripgate.bench.conditions import Part
from dripgate.bench.day import BROKEN, DAY, IN_A_ROW, LONGEST, day
from dripgate.data import Dataset, Split
from dripgate.errors import DataError
from dripgate.media import decode
from dripgate.types import ArrayInput, AudioInput, ImageInput

CLASSES, FRAMES, INITIAL = 8, 1200, 200


def split(spec, n, seed, suffix):
    """Blobs, or slow tones: what is moved by a cell is still nearer to itself than to others."""
    rng = np.random.default_rng(seed)
    if isinstance(spec, AudioInput):
        turns = rng.uniform(2, 8, (n, 1)) * np.linspace(0, 2 * np.pi, *spec.shape)
        x = (9000 * np.sin(turns + rng.uniform(0, 6, (n, 1)))).astype(np.int16)
    elif isinstance(spec, ImageInput):
        coarse = rng.integers(20, 250, (n, spec.height // 4, spec.width // 4, spec.channels))
        x = coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    else:
        x = rng.normal(size=(n, *spec.shape)).astype(np.float32)
    ids = np.arange(n).astype(str)
    names = [f"{i}{suffix}" for i in range(n)]
    return Split.of(x, rng.integers(0, CLASSES, n), ids, names, np.full(n, 10))


def dataset(spec, suffix=".png"):
    train, test = split(spec, 2000, 0, suffix), split(spec, 300, 1, suffix)
    return Dataset("made", tuple("abcdefgh"), spec, train, test, ())


KINDS = {
    "png": (ImageInput(height=16, width=12, channels=3), ".png", b"\x89PNG"),
    "grey": (ImageInput(height=16, width=12, channels=1), ".png", b"\x89PNG"),
    "jpeg": (ImageInput(height=16, width=16, channels=3), ".JPG", b"\xff\xd8"),
    "flac": (AudioInput(rate=8000, length=1600), ".wav", b"fLaC"),
}


def made(kind="png", seed=0, frames=FRAMES):
    spec, suffix, _ = KINDS[kind]
    data = dataset(spec, suffix)
    return day(data, Part(data.test.x, data.test.y), INITIAL, frames, seed)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def one(kind):
    return made(kind)


def test_the_same_seed_gives_the_same_bytes(kind, one):
    again, other = made(kind), made(kind, seed=1)
    assert again.payloads == one.payloads
    np.testing.assert_array_equal(again.test.x, one.test.x)
    np.testing.assert_array_equal(again.initial.x, one.initial.x)
    assert other.payloads != one.payloads


def test_frames_decode_to_what_the_gate_sees_and_are_counted_by_their_bytes(kind, one):
    spec, _, magic = KINDS[kind]
    assert len(one.payloads) == len(one.x) == FRAMES
    assert all(payload.startswith(magic) for payload in one.payloads)
    assert one.sizes.tolist() == [len(payload) for payload in one.payloads]
    for i in (0, 17, FRAMES - 1):
        np.testing.assert_array_equal(decode(one.payloads[i], spec), one.x[i])


def test_frames_come_evenly_within_a_day(one):
    assert one.times[0] == 0
    assert one.times[-1] < DAY
    np.testing.assert_allclose(np.diff(one.times), DAY / FRAMES)


def test_a_tenth_is_broken_and_some_in_a_row(one):
    assert one.broken.sum() == round(BROKEN * FRAMES)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], one.broken, [0]])))
    runs = edges[1::2] - edges[::2]
    assert runs.max() > 1
    assert len(runs) > one.broken.sum() / (2 * IN_A_ROW)


def test_scenes_stay_for_a_while_and_show_one_thing(one):
    starts = np.flatnonzero(np.diff(one.scene, prepend=-1))
    lengths = np.diff(np.append(starts, FRAMES))
    assert lengths.max() <= 2 * LONGEST  # a class that begins again may follow itself
    assert np.median(lengths) < 8 < lengths.max()
    for scene in np.unique(one.scene)[:20]:
        assert len(set(one.y[one.scene == scene])) == 1


def test_frames_of_a_scene_differ_and_are_nearer_than_others(one):
    x = one.x.reshape(FRAMES, -1).astype(float)
    pairs = [i for i in range(300) if one.scene[i] == one.scene[i + 1]
             and not one.broken[i : i + 2].any()]  # fmt: skip
    near = np.array([np.abs(x[i] - x[i + 1]).mean() for i in pairs])
    far = np.array([np.abs(x[i] - x[i + 300]).mean() for i in pairs])
    assert (near > 0).all()
    assert np.median(near) < np.median(far)


def test_the_new_class_is_there_after_noon_alone(one):
    assert one.new not in one.initial.y
    first = np.flatnonzero(one.y == one.new)[0]
    assert one.times[first] >= DAY / 2
    assert set(one.initial.y) | {one.new} == set(range(CLASSES))


def test_classes_are_a_long_tail_where_they_were_learned_and_where_they_come():
    one = made("grey", frames=6000)
    met = [np.bincount(y, minlength=CLASSES) for y in (one.initial.y, one.y)]
    for counts in met:
        counts = np.delete(counts, one.new)
        assert counts.max() > 6 * counts.min() > 0
    assert np.corrcoef(*(np.delete(counts, one.new) for counts in met))[0, 1] > 0.9


def test_nothing_of_the_beginning_comes_again():
    one, data = made("png"), dataset(*KINDS["png"][:2])
    known = {image.tobytes() for image in one.initial.x}
    source = data.train.x.astype(float)
    for i in np.flatnonzero(~one.broken)[:100]:  # in the morning's light, hardly changed
        nearest = np.abs(source - one.x[i]).mean(axis=(1, 2, 3)).argmin()
        assert data.train.x[nearest].tobytes() not in known
        assert data.train.y[nearest] == one.y[i]


def test_light_falls_and_noise_grows(kind, one):
    sound = ~one.broken
    early, late = (np.flatnonzero(sound)[part] for part in (slice(0, 200), slice(-200, None)))
    x = one.x.reshape(FRAMES, -1).astype(float)
    if kind == "flac":
        rough = np.abs(np.diff(x, axis=1)).mean(axis=1)
        assert rough[late].mean() > 2 * rough[early].mean()
    else:
        assert x[late].mean() < 0.6 * x[early].mean()
    assert (one.test.x != dataset(*KINDS[kind][:2]).test.x).any()


def test_data_of_which_no_day_can_be_made_are_named():
    data = dataset(ArrayInput(shape=(4,)))
    with pytest.raises(DataError, match="images or recordings"):
        day(data, Part(data.test.x, data.test.y), INITIAL, 50, 0)
