"""Arrays as data: one .npy per sample in class folders (issue 12)."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dripgate.data import infer_input, load, open_source
from dripgate.errors import DataError, UnreadableError
from dripgate.media import ArrayHeader, decode, probe
from dripgate.types import ArrayInput


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.fixture
def waves() -> dict[str, bytes]:
    """Two classes of (3, 16): of three accelerometers, say."""
    rng = np.random.default_rng(0)
    return {f"{c}/{i}.npy": npy(rng.normal(k, 1, (3, 16)).astype("f4"))
            for k, c in enumerate(["idle", "shake"]) for i in range(20)}  # fmt: skip


@pytest.mark.parametrize("form", ["folder", "set.tar.gz", "set.zip"])
def test_arrays_in_class_folders_are_a_data_set(tree, pack, waves, form):
    data = load(tree(waves) if form == "folder" else pack(waves, form))
    assert data.input == ArrayInput(shape=(3, 16))
    assert data.train.x.dtype == np.float32
    assert len(data.train) + len(data.test) == 40
    first = data.train.names[0]
    assert (data.train.x[0] == np.load(io.BytesIO(waves[first]))).all()


@pytest.mark.parametrize("dtype", ["f8", "i2", "u1", "?", ">f4"])
def test_all_real_numbers_become_float32(dtype):
    values = np.ones((2, 3), dtype)
    assert decode(npy(values), ArrayInput(shape=(2, 3))).dtype == np.float32


def test_one_array_of_another_shape_is_skipped_and_says_what_differs(tree, waves):
    waves["idle/long.npy"] = npy(np.zeros((3, 17)))
    waves["shake/code.npy"] = npy(np.array([{"a": 1}], object), allow_pickle=True)
    data = load(tree(waves))
    causes = {one.name: one.cause for one in data.skipped}
    assert causes == {
        "idle/long.npy": "shape (3, 17), expected (3, 16)",
        "shake/code.npy": "dtype object, expected real numbers",
    }


def test_arrays_without_a_common_shape_are_an_error_that_names_them(tree):
    files = {f"{c}/{i}.npy": npy(np.zeros((3, 10 + i))) for c in "ab" for i in range(4)}
    with pytest.raises(DataError, match=r"arrays of different shapes \(\(3, 10\) in a/0.npy, .*"):
        infer_input(open_source(tree(files)))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_arrays_of_nothing_are_no_samples(tree, shape):
    files = {f"{c}/{i}.npy": npy(np.zeros(shape)) for c in "ab" for i in range(4)}
    with pytest.raises(DataError, match="without values"):
        infer_input(open_source(tree(files)))


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_is_unpickled(capsys):
    for payload in (pickle.dumps(Evil()), npy(np.array([Evil()], object), allow_pickle=True)):
        for read in (lambda p: decode(p, ArrayInput(shape=(1,))), probe):
            with pytest.raises(UnreadableError):
                read(payload)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(-5, -5)", "(3, 18446744073709551616)"])
def test_sizes_are_checked_before_anything_is_read(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    payload = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(100)
    for read in (lambda p: decode(p, ArrayInput(shape=(5,))), probe):
        with pytest.raises(UnreadableError, match=r"cannot be decoded|expected"):
            read(payload)


@given(npst.arrays(st.sampled_from([np.float32, np.int16]), npst.array_shapes(max_dims=4)))
def test_what_is_saved_is_what_is_decoded(array):
    spec = ArrayInput(shape=array.shape)
    payload = npy(array)
    assert probe(payload) == ArrayHeader(array.shape, array.dtype)
    if np.isfinite(array).all():
        assert (decode(payload, spec) == array.astype(np.float32)).all()
    else:
        with pytest.raises(UnreadableError, match="NaN or infinite"):
            decode(payload, spec)
