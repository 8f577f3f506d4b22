"""What some tests need beyond Python and `make test`'s packages: one table, and how to have it.

``need("mosquitto")`` skips the test, or the whole file where it stands at its top;
``pytest.mark.needs("mosquitto")`` is the same as a mark. ``DRIPGATE_NO_SKIP=1``, which .ci/run
sets, makes failures of all skips but those of ``ELSEWHERE``. conftest.py sums up at the end.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from ctypes.util import find_library
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

STRICT = "DRIPGATE_NO_SKIP"
_SBIN = "DRIPGATE_SBIN"  # where else programs are looked for
EVERYTHING = "make env-all"


class Need(NamedTuple):
    """here: whether this machine has it. how: to have it."""

    here: Callable[[], bool]
    how: str


def _module(name: str) -> Callable[[], bool]:
    return lambda: find_spec(name) is not None


def program(name: str) -> str | None:
    """Where it is; Debian has servers where not everybody's PATH leads."""
    return shutil.which(name) or shutil.which(name, path=os.environ.get(_SBIN, "/usr/sbin"))


def _programs(*names: str) -> Callable[[], bool]:
    return lambda: all(map(program, names))


@cache
def _may_mount() -> bool:
    """Whether tests may make small disks."""
    if os.geteuid() != 0 or not program("mount"):
        return False
    with TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]
        done = subprocess.run(mount, capture_output=True, check=False)
        return (
            done.returncode == 0 and not subprocess.run(["umount", folder], check=False).returncode
        )


def models_folder() -> Path:
    """Of classifiers as people have them."""
    return Path(
        os.environ.get("DRIPGATE_MODELS") or Path(__file__).parents[2] / "shared" / "models"
    )


_DEBIAN = "apt-get install"
NEEDS = {
    "torch": Need(_module("torch"), EVERYTHING),
    "scikit-learn": Need(_module("sklearn"), EVERYTHING),
    "scikit-activeml": Need(_module("skactiveml"), EVERYTHING),
    "OpenCV": Need(_module("cv2"), EVERYTHING),
    "PortAudio": Need(
        lambda: bool(find_spec("sounddevice") and find_library("portaudio")),
        f"{EVERYTHING} and {_DEBIAN} libportaudio2",
    ),
    "usearch": Need(_module("usearch"), "make env"),
    "emx-onnx-cgen": Need(_module("emx_onnx_cgen"), "make env"),
    "Daft": Need(_module("daft"), EVERYTHING),
    "playwright": Need(_module("playwright"), EVERYTHING),
    "chromium": Need(
        lambda: bool(program("chromium") or program("chromium-browser")), f"{_DEBIAN} chromium"
    ),
    "mosquitto": Need(_programs("mosquitto", "mosquitto_passwd"), f"{_DEBIAN} mosquitto"),
    "SoftHSM": Need(
        lambda: bool(program("softhsm2-util") and find_spec("pkcs11")),
        f"{EVERYTHING}, {_DEBIAN} softhsm2",
    ),
    "openssl": Need(_programs("openssl"), f"{_DEBIAN} openssl"),
    "a C compiler": Need(lambda: bool(program("cc") or program("gcc")), f"{_DEBIAN} gcc libc6-dev"),
    "the Arm compiler": Need(_programs("arm-none-eabi-gcc"), "make embed-tools"),
    "QEMU for Arm": Need(_programs("qemu-system-arm"), "make embed-tools"),
    "bash": Need(_programs("bash"), f"{_DEBIAN} bash"),
    "strace": Need(_programs("strace"), f"{_DEBIAN} strace"),
    "systemd": Need(_programs("systemd-analyze"), f"{_DEBIAN} systemd"),
    "mounts": Need(_may_mount, "run the tests as root on a machine that lets it mount"),
    "no root": Need(lambda: os.geteuid() != 0, "run the tests as a user that is not root"),
    "Label Studio": Need(lambda: "DRIPGATE_INTEROP" in os.environ, "make interop (1.4 GB)"),
    "a Ray cluster": Need(lambda: "DRIPGATE_CLUSTER" in os.environ, "make sift-cluster (0.9 GB)"),
    "model-signing": Need(lambda: "DRIPGATE_MODEL_SIGNING" in os.environ, "make interop"),
    "timm and transformers": Need(lambda: "DRIPGATE_ZOO" in os.environ, "make zoo-models"),
    "public models": Need(
        lambda: models_folder().is_dir(), "set DRIPGATE_MODELS to a folder of classifiers"
    ),
}
#: What .ci/run cannot bring: no user is root and not root, and some machines forbid mounts.
ELSEWHERE = frozenset(
    {
        "mounts",
        "no root",
        "Label Studio",
        "a Ray cluster",
        "model-signing",
        "public models",
        "timm and transformers",
    }
)


def need(*names: str) -> None:
    """Skip what is running, or the file that is being read, unless all of it is here."""
    gone = [name for name in names if not NEEDS[name].here()]
    if not gone:
        return
    reason = "needs " + ", ".join(f"{name}: {NEEDS[name].how}" for name in gone)
    if os.environ.get(STRICT) and not ELSEWHERE & set(gone):
        pytest.fail(f"{reason} ({STRICT} is set: nothing may be skipped)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
