"""Data sets by name: where they are looked for, and from where they are downloaded.

A bare name is looked for under ``$DRIPGATE_DATA``, then in the user's cache (``$DRIPGATE_CACHE``,
else the platform's), as a folder, an archive or the official file; then it is downloaded into
that cache. A download is checked against the publisher's checksum before it gets its name.
"""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import platformdirs

from dripgate.data.names import ARCHIVES
from dripgate.errors import DataError
from dripgate.progress import Progress

TIMEOUT_SECONDS = 30
CIFAR_BINARY = "cifar-10-binary.tar.gz"
SPEECH_COMMANDS = "speech_commands_v0.02.tar.gz"


class Remote(NamedTuple):
    """Official files: ``address`` + file name, and each file's MD5 as its publisher gives it.

    folder is where several files that belong together are put; empty for a single archive.
    """

    address: str
    folder: str
    md5: Mapping[str, str]


REMOTES: Mapping[str, Remote] = {
    "mnist": Remote(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "mnist",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    # The Python version of CIFAR-10 is pickle, which can execute code: this one is bytes.
    "cifar10": Remote(
        "https://www.cs.toronto.edu/~kriz/",
        "",
        {CIFAR_BINARY: "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
    "speechcommands": Remote(
        "https://storage.googleapis.com/download.tensorflow.org/data/",
        "",
        {SPEECH_COMMANDS: "6b74f3901214cb2c2934e98196829835"},
    ),
}
KNOWN = ("digits", "mnist", "cifar10", "plantvillage", "speechcommands")


def cache_root() -> Path:
    """``$DRIPGATE_CACHE``, else the platform's folder for caches."""
    chosen = os.environ.get("DRIPGATE_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("dripgate")


def find(
    name: str, progress: Progress | None = None, remotes: Mapping[str, Remote] = REMOTES
) -> Path | None:
    """The folder or archive of a bare name, downloaded where need be; None for unknown names.

    ``progress`` is given the bytes downloaded so far. Raises DataError where a known data set
    can be neither found nor downloaded.
    """
    cache = cache_root() / "data"
    given = os.environ.get("DRIPGATE_DATA")
    folders = [Path(given).expanduser(), cache] if given else [cache]
    remote = remotes.get(name)
    for folder in folders:
        if found := _look(folder, name, remote):
            return found
    if remote:
        return _fetch_all(name, remote, cache, folders, progress)
    if name in KNOWN:
        raise DataError(
            f"{name}: not in {_listed(folders)}, and there is no official address to download it "
            f"from; put {name}.tar.gz or {name}.zip, with one sub-folder per class, into {cache}, "
            "or set DRIPGATE_DATA to the folder that holds it"
        )
    return None


def _look(folder: Path, name: str, remote: Remote | None) -> Path | None:
    official = list(remote.md5) if remote and not remote.folder else []
    for candidate in (name, *(name + ending for ending in ARCHIVES), *official):
        path = folder / candidate
        if path.is_dir() and remote and remote.folder and not _complete(path, remote):
            continue  # a download was interrupted between two files
        if path.exists():
            return path
    return None


def _complete(path: Path, remote: Remote) -> bool:
    """Whether a folder holds every official file, or is the user's own in another form."""
    files = {file.name for file in path.iterdir() if file.suffix != ".part"}
    return bool(files) and (files.isdisjoint(remote.md5) or files >= remote.md5.keys())


def _fetch_all(
    name: str, remote: Remote, cache: Path, folders: list[Path], progress: Progress | None
) -> Path:
    target = cache / remote.folder
    for file, md5 in remote.md5.items():
        try:
            if not (target / file).exists():
                fetch(remote.address + file, md5, target / file, progress)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DataError(
                f"{name}: not in {_listed(folders)}, and {remote.address}{file} could not be "
                f"downloaded ({error}); put {', '.join(remote.md5)} into {target}, or set "
                "DRIPGATE_DATA to the folder that holds the data set"
            ) from error
    return target if remote.folder else target / next(iter(remote.md5))


def fetch(address: str, md5: str, path: Path, progress: Progress | None = None) -> None:
    """Download to ``path``: to a temporary name beside it, checked, synced and then renamed.

    Raises OSError or HTTPException where it cannot be had, ValueError for a wrong checksum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            # The addresses are the constants above.
            with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                while block := response.read(1 << 20):
                    part.write(block)
                    digest.update(block)
                    done += len(block)
                    if progress:
                        progress(done)
            if digest.hexdigest() != md5:
                raise ValueError(f"checksum {digest.hexdigest()}, expected {md5}")
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _listed(folders: list[Path]) -> str:
    return " or ".join(map(str, folders))
