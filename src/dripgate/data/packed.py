"""Data sets whose images are packed together: MNIST's idx, CIFAR's binary, scikit-learn's digits.

Each image comes out as a PNG, so that the rest of dripgate sees files, as on a device.
"""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import IO, ClassVar, cast

import numpy as np

from dripgate.data.files import fingerprint, iter_files
from dripgate.data.found import Finding
from dripgate.data.names import LabelledFile, Side
from dripgate.errors import DataError
from dripgate.media import encode_png
from dripgate.types import Array


class Idx:
    """A folder with MNIST's idx files, gzipped or not."""

    def __init__(self, name: str, path: Path, pairs: list[tuple[Path, Path]]) -> None:
        self.name, self.path, self._pairs = name, path, pairs

    def labelled(self, finding: Finding | None = None) -> Iterator[LabelledFile]:
        """Names are ``<split>/<label>/<index>.png``."""
        if finding:
            for path in sorted(self.path.iterdir()):
                if "idx" not in path.name:
                    finding.unused.add("beside the idx files", path.name)
        for images, labels in self._pairs:
            side = _side_of(images.name)
            for i, (image, label) in enumerate(_read_idx_pair(images, labels)):
                name = f"{side or 'all'}/{label}/{i:05d}.png"
                yield LabelledFile(side, str(label), name, encode_png(image))

    def examples(self, each: int) -> Iterator[LabelledFile]:
        """The first ones: all are alike."""
        return islice(self.labelled(), each)

    def fingerprint(self) -> str:
        """Of the listing: names, sizes and times of change."""
        return fingerprint(self.path)


def idx_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Image and label files that belong together, once where they are there with and without gz."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if re.search(r"-(images|labels)[-.]idx[13]-ubyte(\.gz)?$", path.name):
            found.setdefault(path.name.removesuffix(".gz").replace(".idx", "-idx"), path)
    pairs = []
    for name, images in found.items():
        if "-images-idx3" in name:
            labels = found.get(name.replace("-images-idx3", "-labels-idx1"))
            if labels is None:
                raise DataError(f"{images}: its labels file is missing; put it beside the images")
            pairs.append((images, labels))
    return pairs


def _side_of(name: str) -> Side | None:
    if "t10k" in name or "test" in name:
        return "test"
    return "train" if "train" in name else None


def _read_idx_pair(images: Path, labels: Path) -> Iterator[tuple[Array, int]]:
    with _reading(images), _open(images) as pixels, _open(labels) as classes:
        n, height, width = _idx_header(pixels, 3)
        (m,) = _idx_header(classes, 1)
        if n != m or not n or not 0 < height * width <= 1 << 24:
            raise ValueError(f"{n} images of {height} × {width} pixels, {m} labels")
        for _ in range(n):
            image, label = pixels.read(height * width), classes.read(1)
            if len(image) < height * width or not label:
                raise EOFError(f"ends before its {n:,} images")
            yield np.frombuffer(image, np.uint8).reshape(height, width), label[0]


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _idx_header(file: IO[bytes], dimensions: int) -> tuple[int, ...]:
    """The sizes, from an idx header of unsigned bytes: 0, 0, 8, dimensions, big-endian sizes."""
    magic, sizes = file.read(4), file.read(4 * dimensions)
    if magic != bytes([0, 0, 8, dimensions]) or len(sizes) != 4 * dimensions:
        raise ValueError(f"begins with {magic!r}, expected idx{dimensions} of unsigned bytes")
    return tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


class CifarBinary:
    """CIFAR-10's official binary archive: records of a label byte and 3 × 32 × 32 pixels."""

    CLASSES: ClassVar = (
        "airplane", "automobile", "bird", "cat", "deer",
        "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def labelled(self, finding: Finding | None = None) -> Iterator[LabelledFile]:
        """Names are ``<split>/<class>/<index>.png``."""
        index = {"train": count(), "test": count()}
        for member in iter_files(self.path):
            side = _side_of(member.name.replace("data_batch", "train"))
            if not member.name.endswith(".bin") or side is None:
                if finding:
                    finding.unused.add("no batch of images", member.name)
                continue
            with _reading(self.path):
                records = np.frombuffer(member.payload, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                labels = [self.CLASSES[record[0]] for record in records]
            for label, record in zip(labels, records, strict=True):
                pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                name = f"{side}/{label}/{next(index[side]):05d}.png"
                yield LabelledFile(side, label, name, encode_png(np.ascontiguousarray(pixels)))

    def examples(self, each: int) -> Iterator[LabelledFile]:
        """The first ones: all are alike."""
        return islice(self.labelled(), each)

    def fingerprint(self) -> str:
        """Of the archive's name, size and time of change."""
        return fingerprint(self.path)


class Digits:
    """scikit-learn's 1,797 digits, 8 × 8, their 0 … 16 scaled to 0 … 255: part of the package."""

    name = "digits"
    path = None

    def labelled(self, finding: Finding | None = None) -> Iterator[LabelledFile]:
        """Names are ``<label>/<index>.png``."""
        values, labels = read_digits()
        images = np.rint(values * (255 / 16)).astype(np.uint8)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield LabelledFile(None, str(label), f"{label}/{i:05d}.png", encode_png(image))

    def examples(self, each: int) -> Iterator[LabelledFile]:
        """The first ones: all are alike."""
        return islice(self.labelled(), each)

    def fingerprint(self) -> str:
        """Constant: the data set has not changed since 1998."""
        return "digits"


def read_digits() -> tuple[Array, Array]:
    """Images (1797, 8, 8) uint8 of 0 … 16, and labels (1797,) uint8, as in scikit-learn.

    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), CC BY 4.0: NOTICE.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        return file["images"], file["labels"]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What damaged idx and binary files raise becomes a DataError that names the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, IndexError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: truncated or damaged ({error}); get it again") from error
