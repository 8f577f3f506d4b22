import gzip
import io
import tarfile

import numpy as np
import pytest

from dripgate.data import open_source
from dripgate.data.packed import read_digits
from dripgate.errors import DataError
from dripgate.media import decode
from dripgate.types import ImageInput


def labels(path) -> list[tuple]:
    return sorted((f.split, f.label, f.name) for f in open_source(path).labelled())


@pytest.mark.parametrize("wrapper", ["", "plants-v2/"])
def test_class_folders_with_sides(tree, wrapper):
    files = ["README", "train/cat/1", "Test/cat/2", "val/dog/sub/3", "extra/dog/4", "train/loose"]
    folder = tree({wrapper + name: b"x" for name in files})
    assert labels(folder) == [
        ("test", "cat", f"{wrapper}Test/cat/2"),
        ("train", "cat", f"{wrapper}train/cat/1"),
        ("train", "dog", f"{wrapper}val/dog/sub/3"),
    ]


@pytest.mark.parametrize("wrapper", ["", "plants-v2/"])
def test_class_folders_without_sides(tree, wrapper):
    folder = tree({wrapper + name: b"x" for name in ["LICENSE", "cat/1", "dog/2", "dog/sub/3"]})
    assert labels(folder) == [
        (None, "cat", f"{wrapper}cat/1"),
        (None, "dog", f"{wrapper}dog/2"),
        (None, "dog", f"{wrapper}dog/sub/3"),
    ]


def test_a_class_may_be_called_train(tree):
    folder = tree(dict.fromkeys(["bus/1", "car/2", "train/3"], b"x"))
    assert [label for _, label, _ in labels(folder)] == ["bus", "car", "train"]


@pytest.mark.parametrize("kind", ["set.tar", "set.tar.gz", "set.zip"])
def test_archives_are_labelled_as_folders_are(tree, pack, classes, kind):
    assert labels(pack(classes, kind)) == labels(tree(classes))
    assert open_source(pack(classes, kind)).name == open_source(tree(classes)).name == "set"


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({}, "empty; expected one sub-folder per class"),
        ({"1.png": b"", "2.png": b""}, "2 files but"),
    ],
)
def test_nothing_to_label(tree, files, cause):
    with pytest.raises(DataError, match=cause):
        list(open_source(tree(files)).labelled())


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such file, folder or data set; .*mnist"):
        open_source("nowhere")
    with pytest.raises(DataError, match="none: no such file or folder"):
        open_source(tmp_path / "none")


def test_the_fingerprint_follows_the_data(tree, pack, classes):
    folder = tree(classes)
    before = open_source(folder).fingerprint()
    assert open_source(folder).fingerprint() == before
    (folder / "train/cat/new.png").write_bytes(b"x")
    assert open_source(folder).fingerprint() != before
    before = open_source(folder).fingerprint()
    (folder / "train/cat/new.png").rename(folder / "train/cat/other.png")
    assert open_source(folder).fingerprint() != before
    archive = pack(classes, "set.zip")
    before = open_source(archive).fingerprint()
    pack(dict(list(classes.items())[:-1]), "set.zip")
    assert open_source(archive).fingerprint() != before


# idx, CIFAR, digits -----------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5), np.uint8)
CLASSES = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def test_idx_files_are_read_gzipped_or_not(tree):
    folder = tree({
        "train-images-idx3-ubyte.gz": gzip.compress(idx(IMAGES)),
        "train-labels-idx1-ubyte.gz": gzip.compress(idx(CLASSES)),
        "train-images-idx3-ubyte": idx(IMAGES),  # the same, unpacked: read once
        "t10k-images.idx3-ubyte": idx(IMAGES[:2]),
        "t10k-labels.idx1-ubyte": idx(CLASSES[:2]),
    })  # fmt: skip
    files = sorted(open_source(folder).labelled())
    assert [f.name for f in files[:3]] == [
        "test/0/00000.png", "test/1/00001.png", "train/0/00000.png",
    ]  # fmt: skip
    assert [f.label for f in files if f.split == "train"] == ["0", "0", "1", "1", "2", "2"]
    spec = ImageInput(height=4, width=5, channels=1)
    by_name = {f.name: decode(f.payload, spec)[..., 0] for f in files}
    assert len(by_name) == 8
    assert (by_name["train/2/00005.png"] == IMAGES[5]).all()


@pytest.mark.parametrize(
    ("images", "classes", "cause"),
    [
        (idx(IMAGES)[:-1], idx(CLASSES), "ends before its 6 images"),
        (idx(IMAGES), idx(CLASSES)[:-1], "ends before its 6 images"),
        (idx(IMAGES), idx(CLASSES[:5]), "6 images of 4 × 5 pixels, 5 labels"),
        (b"\x89PNG" + bytes(20), idx(CLASSES), "expected idx3"),
        (idx(IMAGES[:0]), idx(CLASSES[:0]), "0 images"),
        (idx(IMAGES), None, "labels file is missing"),
    ],
)
def test_damaged_idx_files_are_named(tree, images, classes, cause):
    files = {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": classes}
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte: .*{cause}"):
        list(open_source(tree({k: v for k, v in files.items() if v is not None})).labelled())


def cifar(path, *batches: tuple[str, bytes]):
    with tarfile.open(path, "w:gz") as archive:
        for name, payload in batches:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
    return path


def test_cifars_binary_archive(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    record = bytes([3]) + pixels.tobytes()
    path = cifar(
        tmp_path / "cifar-10-binary.tar.gz",
        ("data_batch_1.bin", record + bytes([9]) + bytes(3072)),
        ("readme.html", b"<html>"),
        ("test_batch.bin", record),
    )
    files = list(open_source(path).labelled())
    assert [f.name for f in files] == [
        "train/cat/00000.png", "train/truck/00001.png", "test/cat/00000.png",
    ]  # fmt: skip
    decoded = decode(files[0].payload, ImageInput(height=32, width=32, channels=3))
    assert (decoded == pixels.transpose(1, 2, 0)).all()
    for damaged in (record[:-1], bytes([10]) + record[1:]):
        cifar(path, ("data_batch_1.bin", damaged))
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: truncated or damaged"):
            list(open_source(path).labelled())


def test_the_official_speech_commands_are_split_by_speaker(pack, recording):
    speakers = [f"{i:08x}" for i in range(200)]
    files = {f"./{word}/{s}_nohash_{n}.wav": b"x" for word, n in [("yes", 0), ("no", 1)]
             for s in speakers}  # fmt: skip
    files["./_background_noise_/pink.wav"] = files["./testing_list.txt"] = b"x"
    found = list(open_source(pack(files, "speech_commands_v0.02.tar.gz")).labelled())
    assert {f.label for f in found} == {"yes", "no"}
    sides = {s: {f.split for f in found if s in f.name} for s in speakers}
    assert all(len(side) == 1 for side in sides.values())
    assert 5 < sum(side == {"test"} for side in sides.values()) < 40


def test_digits_need_no_download():
    files = list(open_source("digits").labelled())
    assert len(files) == 1797
    assert {f.split for f in files} == {None}
    spec = ImageInput(height=8, width=8, channels=1)
    values = np.unique([decode(file.payload, spec) for file in files])
    assert (values == np.rint(np.arange(17) / 16 * 255)).all()


@pytest.mark.needs("scikit-learn")
def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    known = load_digits()
    images, labels = read_digits()
    assert (images == known.images).all()
    assert (labels == known.target).all()
