"""A day of a device, made of any labelled data set: what the condition ``day`` streams.

One scene after the other stays in view for 1 to 30 frames, most for a few. From frame to frame it
moves a little, brightens a little and is noisy; light falls over the day, or noise grows. Classes
are as rare as 1 : 20, one of them comes for the first time at noon, and a tenth of the frames is
broken, some in a row. Every frame is encoded as the data set's files are, and what a device
decides about is decoded from those bytes: storage is counted in bytes that somebody would store.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from dripgate.bench.conditions import (
    AUDIO_FAULTS,
    IMAGE_FAULTS,
    RAREST,
    Fault,
    Part,
    drifted,
    jitter,
)  # fmt: skip
from dripgate.data import Dataset
from dripgate.errors import DataError
from dripgate.media import decode
from dripgate.types import Array, ArrayInput, AudioInput, InputSpec

#: Frames of a scene: between these, and as often short by a factor as long by it.
SHORTEST, LONGEST = 1, 30
#: Share of broken frames, and how many of them come in a row at most.
BROKEN, IN_A_ROW = 0.1, 9
#: Seconds of a day; frames come evenly.
DAY = 86_400.0

Encode = Callable[[Array], bytes]


@dataclass(frozen=True, eq=False)
class Day:
    """The labelled beginning, a day's n frames as they come, and the test part of all its times.

    payloads: n files as a device receives them; ``x`` (n, …) is what they decode to. sizes (n,):
    their bytes. times (n,): seconds since midnight. y (n,): the true classes, which no rule is
    told. broken (n,): whether nothing can be seen of the scene. scene (n,): frames of the same
    number show the same thing. new: the class that the beginning lacks.
    """

    initial: Part
    payloads: list[bytes]
    x: Array
    y: Array
    sizes: Array
    times: Array
    broken: Array
    scene: Array
    test: Part
    new: int


def day(dataset: Dataset, test: Part, initial: int, frames: int, seed: int) -> Day:
    """A day of about so many ``frames``, after ``initial`` labelled samples; the same for a seed.

    test: undisturbed samples, to be seen at any time of the day. Raises DataError for data that
    are neither images nor recordings, and for too few of them.
    """
    rng = np.random.default_rng([seed, 29])
    classes = len(dataset.classes)
    shares = RAREST ** (rng.permutation(classes) / (classes - 1))
    new = int(np.argsort(-shares)[classes // 4])  # of the commoner ones: it has to be found
    pool = [rng.permutation(np.flatnonzero(dataset.train.y == c)) for c in range(classes)]
    beginning = _beginning(pool, np.where(np.arange(classes) == new, 0, shares), initial)
    pool = [rng.permutation(np.setdiff1d(rows, beginning)) for rows in pool]
    if not all(len(rows) for rows in pool):
        raise DataError(f"{dataset.name}: a class has too few samples for a day; give more data")
    scene, shown = _scenes(pool, shares, new, frames, rng)
    broken, bursts = _bursts(frames, rng)
    payloads, x = _frames(dataset, shown[scene], broken, bursts, rng)
    first = dataset.train.take(beginning)
    return Day(
        initial=Part(first.x, first.y), payloads=payloads, x=x, y=dataset.train.y[shown[scene]],
        sizes=np.array([len(payload) for payload in payloads]),
        times=np.arange(frames) * (DAY / frames), broken=broken,
        scene=np.unique(shown[scene], return_inverse=True)[1],
        test=Part(drifted(test.x, rng.random(len(test.y)), rng), test.y), new=new,
    )  # fmt: skip


def _beginning(pool: list[Array], shares: Array, count: int) -> Array:
    """About ``count`` rows by the shares of classes (C,), at most half of what a class has."""
    wanted = np.ceil(count * shares / shares.sum()).astype(int)
    return np.concatenate(
        [rows[: min(n, len(rows) // 2)] for rows, n in zip(pool, wanted, strict=True)]
    )


def _scenes(
    pool: list[Array], shares: Array, new: int, frames: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """(the number of the scene of each frame, the row that each scene shows).

    A class whose samples have all been shown begins again.
    """
    scene: list[int] = []
    shown: list[int] = []
    met = np.zeros(len(pool), int)
    while len(scene) < frames:
        now = np.where(np.arange(len(pool)) == new, len(scene) >= frames / 2, True) * shares
        c = int(rng.choice(len(pool), p=now / now.sum()))
        span = int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST + 1))))
        scene += [len(shown)] * span
        shown.append(int(pool[c][met[c] % len(pool[c])]))
        met[c] += 1
    return np.array(scene[:frames]), np.array(shown)


def _bursts(frames: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """(whether a frame is broken, the number of its burst): exactly BROKEN of all frames."""
    total = round(BROKEN * frames)
    lengths: list[int] = []
    while (left := total - sum(lengths)) > 0:
        lengths.append(min(int(rng.integers(1, IN_A_ROW + 1)), left))
    gaps = np.sort(rng.integers(0, frames - total + 1, len(lengths)))
    burst = np.full(frames, -1)
    done = 0
    for number, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
        burst[gap + done : gap + done + length] = number
        done += length
    return burst >= 0, burst


def _frames(
    dataset: Dataset, rows: Array, broken: Array, bursts: Array, rng: np.random.Generator
) -> tuple[list[bytes], Array]:
    """Each frame's file, and what is decoded from it."""
    encode = encoder(dataset.input, dataset.train.names)
    heard = isinstance(dataset.input, AudioInput)
    faults = list((AUDIO_FAULTS if heard else IMAGE_FAULTS).values())
    kinds: list[Fault] = [faults[i] for i in rng.integers(len(faults), size=bursts.max() + 1)]
    payloads, x = [], np.empty((len(rows), *dataset.input.shape), dataset.input.dtype)
    for i, row in enumerate(rows.tolist()):
        seen = jitter(dataset.train.batch(np.array([row]))[0], rng)
        seen = drifted(seen[None], np.array([i / len(rows)]), rng)[0]
        if broken[i]:
            seen = kinds[bursts[i]](seen, rng)
        payloads.append(encode(seen))
        x[i] = decode(payloads[i], dataset.input)
    return payloads, x


def encoder(spec: InputSpec, names: list[str]) -> Encode:
    """FLAC for recordings; JPEG for images whose files are, by their ``names``; PNG for others."""
    if isinstance(spec, ArrayInput):
        raise DataError("a day is made of images or recordings, and these data are arrays")
    if isinstance(spec, AudioInput):
        return partial(_flac, rate=spec.rate)
    jpeg = sum(name.lower().endswith((".jpg", ".jpeg")) for name in names)
    return partial(_image, kind="JPEG" if 2 * jpeg > len(names) else "PNG")


def _image(pixels: Array, kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _flac(audio: Array, rate: int) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, "PCM_16", format="FLAC")
    return buffer.getvalue()
