"""Broken files through `run`, in a process of its own: python mutants.py GATE COUNT SEED.

Writes a JSON object: what was counted, the causes, and how far resident memory rose.
"""

import io
import json
import random
import resource
import struct
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.types import ArrayInput, AudioInput, Reason, Sample


def image_file(format, mode, side=24, **options):
    rng = np.random.default_rng(0)
    shape = (side, side, len(mode)) if len(mode) > 2 else (side, side)
    pixels = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    file = io.BytesIO()
    pixels.convert(mode).save(file, format, **options)
    return file.getvalue()


def images():
    frames = [Image.new("RGB", (20, 20), (n, 0, 0)) for n in range(5)]
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160)
    yield from (image_file("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA"))
    yield from (image_file("JPEG", mode) for mode in ("L", "RGB", "CMYK"))
    yield from (image_file(kind, "RGB") for kind in ("BMP", "WEBP", "TIFF", "GIF", "PPM"))
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        yield file.getvalue()
    for kind in ("PNG", "TIFF"):
        file = io.BytesIO()
        deep.save(file, kind)
        yield file.getvalue()
    file = io.BytesIO()
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(file, "TIFF")
    yield file.getvalue()


def bombs():
    """Small files that say or become something huge."""
    for width, height in ((30_000, 30_000), (65_535, 65_535), (2**31 - 1, 2**31 - 1), (0, 5)):
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        yield (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", head)
            + chunk(b"IDAT", zlib.compress(bytes(10**6), 9))
            + chunk(b"IEND", b"")
        )
    text = b"key\0\0" + zlib.compress(bytes(10**8), 9)
    yield image_file("PNG", "L")[:33] + chunk(b"zTXt", text) + image_file("PNG", "L")[33:]
    yield b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0xF7, 0, 0) + bytes(800)
    yield b"\x93NUMPY\x01\x00" + npy_head("'<f4'", "(100000000000,)")
    yield (
        b"RIFF"
        + struct.pack("<I", 2**31 - 9)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
        + b"data"
        + struct.pack("<I", 2**31 - 60)
    )


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def npy_head(dtype, shape):
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return struct.pack("<H", len(text)) + text.encode()


def sounds():
    tone = np.sin(np.arange(2000) / 9)
    for rate in (1, 7, 4000, 8000, 11_025, 44_100, 48_000, 1_000_000, 2**31 - 1):
        for kind, subtype in (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24")):
            yield sound_file(tone, rate, kind, subtype)
    for subtype in ("PCM_U8", "PCM_24", "PCM_32", "DOUBLE", "ULAW", "MS_ADPCM"):
        yield sound_file(tone, 8000, "WAV", subtype)
    yield sound_file(np.stack([tone, -tone], axis=1), 8000, "WAV", "PCM_16")
    yield sound_file(tone, 8000, "OGG", "VORBIS")
    for value in (np.nan, np.inf, 1e30):
        yield sound_file(np.full(500, value), 8000, "WAV", "FLOAT")
    yield sound_file(tone[:0], 8000, "WAV", "PCM_16")


def sound_file(signal, rate, kind, subtype):
    file = io.BytesIO()
    try:
        soundfile.write(file, signal, rate, subtype, format=kind)
    except soundfile.LibsndfileError:  # FLAC at two gigahertz
        return b"fLaC" + bytes(50)
    return file.getvalue()


def arrays(shape):
    rng = np.random.default_rng(0)
    normal = rng.normal(size=shape)
    for dtype in ("f2", "f4", ">f4", "f8", "i1", "u2", "i8", "?", "c8", "U3", "M8[s]"):
        yield npy(normal.astype("i8").astype(dtype) if dtype[0] == "M" else normal.astype(dtype))
    for value in (np.nan, np.inf, 1e300):
        broken = normal.copy()
        broken.flat[3] = value
        yield npy(broken)
    yield npy(normal[:-1])
    yield npy(np.asfortranarray(normal))
    file = io.BytesIO()
    np.save(file, np.array([{"code": print}], object), allow_pickle=True)  # must never be loaded
    yield file.getvalue()
    yield b"\x93NUMPY\x09\x00" + npy_head("'<f4'", "(3,)")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def mutate(rng, payload, others):
    """One of many ways in which files arrive broken."""
    data = bytearray(payload)
    size = len(data)
    match rng.randrange(9):
        case 0:
            return bytes(data[: rng.randrange(size + 1)])
        case 1 | 2:
            for _ in range(rng.choice([1, 2, 5, 30])):
                data[rng.randrange(size)] ^= 1 << rng.randrange(8)
        case 3:
            start = rng.randrange(size)
            data[start : start + rng.randrange(64)] = bytes(rng.randrange(64))
        case 4:  # a number in the header becomes extreme
            at = rng.randrange(min(size, 64))
            data[at : at + 4] = rng.choice(
                [b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\0\1\0"]
            )
        case 5:
            other = rng.choice(others)
            return bytes(data[: rng.randrange(size)]) + other[rng.randrange(len(other)) :]
        case 6:
            return bytes(data) + rng.randbytes(rng.randrange(200))
        case 7:
            return rng.randbytes(rng.randrange(300))
        case 8:
            return b"" if rng.random() < 0.2 else bytes(rng.randrange(5000))
    return bytes(data)


def stream(originals, count, seed):
    rng = random.Random(seed)
    for name, payload in enumerate(originals):
        yield Sample(payload, f"whole{name}.png")
    for n in range(count):
        suffix = rng.choice(["png", "jpg", "wav", "npy", "tiff", "exe"])  # right or wrong
        yield Sample(mutate(rng, rng.choice(originals), originals), f"{n}.{suffix}")


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    gate, count, seed = Gate.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    spec = gate.info.input
    kinds = [images(), bombs(), sounds(), arrays(getattr(spec, "shape", (3,)))]
    own = arrays(spec.shape) if isinstance(spec, ArrayInput) else images()
    own = list(sounds() if isinstance(spec, AudioInput) else own)
    originals = own * 4 + [one for kind in kinds for one in kind]
    causes, readable, problems = Counter(), set(), []

    def note(pairs):
        for sample, verdict in pairs:
            if verdict.reason is Reason.UNREADABLE:
                causes[verdict.detail.split(":")[0][:40]] += 1
                if not verdict.detail.strip() or "\n" in verdict.detail:
                    problems.append((sample.source, verdict.detail))
            elif sample.source.startswith("whole"):
                readable.add(int(sample.source[5:-4]))

    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "k.db", "2MB") as store:
        run(gate, [Sample(one, "warm-up") for one in own], store)
        before = resident()
        summary = run(gate, stream(originals, count, seed), store, on_verdicts=note)
        problems += store.check()
        counters = store.counters
    json.dump({
        "given": len(originals) + count, "seen": summary.seen, "unreadable": summary.unreadable,
        "accounted": summary.kept + summary.dropped + summary.quarantined,
        "counted": counters["seen"] - len(own), "causes": dict(causes.most_common()),
        "whole_readable": sum(n in readable for n in range(len(own))), "whole": len(own),
        "problems": problems, "memory_rise": resident() - before,
    }, sys.stdout)  # fmt: skip


if __name__ == "__main__":
    main()
