"""Real files to read: small pictures and recordings, as trees and as archives."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import settings
from PIL import Image

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIPGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DRIPGATE_DATA", raising=False)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Encoded smooth noise, the same for a seed."""

    def make(seed=0, size=(12, 10), mode="RGB", form="PNG", **options) -> bytes:
        channels = len(Image.new(mode, (1, 1)).getbands())
        noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], channels), np.uint8)
        buffer = io.BytesIO()
        image = Image.fromarray(noise.squeeze(), mode if channels != 2 else None)
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def recording() -> Callable[..., bytes]:
    """An encoded tone with noise."""

    def make(seed=0, rate=8000, frames=800, channels=1, form="WAV", **options) -> bytes:
        tone = np.sin(np.arange(frames) * 0.2)[:, None] * np.ones(channels)
        noisy = 0.5 * tone + 0.1 * np.random.default_rng(seed).normal(size=tone.shape)
        buffer = io.BytesIO()
        soundfile.write(buffer, noisy.clip(-1, 0.999), rate, format=form, **options)
        return buffer.getvalue()

    return make


@pytest.fixture
def tree(tmp_path) -> Callable[..., Path]:
    """Write {name: bytes} below a folder."""

    def make(files: dict[str, bytes], name="set") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for relative, payload in files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(payload)
        return folder

    return make


@pytest.fixture
def pack(tmp_path) -> Callable[..., Path]:
    """Write {name: bytes} into an archive whose kind its name tells."""

    def make(files: dict[str, bytes], name: str) -> Path:
        path = tmp_path / name
        if name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                for member, payload in files.items():
                    archive.writestr(member, payload)
        else:
            with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
                for member, payload in files.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(payload)
                    archive.addfile(info, io.BytesIO(payload))
        return path

    return make


@pytest.fixture
def classes(picture) -> dict[str, bytes]:
    """Two classes of twenty pictures, with a train and a test side."""
    return {
        f"{side}/{label}/{i:02d}.png": picture(seed=100 * s + 50 * c + i, size=(6, 5))
        for s, (side, n) in enumerate([("test", 4), ("train", 16)])
        for c, label in enumerate(["cat", "dog"])
        for i in range(n)
    }
