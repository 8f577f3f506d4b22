"""What the file cannot say: how pixels become the numbers that the classifier takes.

The labelled data know. The usual conventions are tried on some of them, and the one with the best
accuracy is taken; a wrong one shows at once.
"""

from typing import Any, NamedTuple

import numpy as np

from dripgate.data import Split
from dripgate.errors import UserError
from dripgate.fitting.names import best_order, other_names
from dripgate.gate_info import INPUT_NAME
from dripgate.graph.measure import run, session
from dripgate.graph.prepare import preparation_model
from dripgate.progress import Progress
from dripgate.types import Array, ImageInput, Normalize

#: Samples that each convention is tried on.
TRIED = 256
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE = (123.68, 116.779, 103.939)


class Layout(NamedTuple):
    """How an image classifier takes its input: which axis is the channel, and which type."""

    height: int
    width: int
    channels: int
    layout: Any  # Normalize.layout
    dtype: Any  # Normalize.dtype

    @property
    def input(self) -> ImageInput:
        """What a decoded sample is then."""
        return ImageInput(height=self.height, width=self.width, channels=self.channels)


class Tried(NamedTuple):
    """A convention and the accuracy that it gave; matched: under the best order of the classes."""

    name: str
    preprocessing: Normalize
    accuracy: float
    matched: float


class Pixels(NamedTuple):
    """What somebody says of the pixels: everything else is guessed or stays as it is.

    mean, std: of pixels from 0 to 1, one number or one per channel. range: what 0 and 255 become.
    layout: "channels_first" or "channels_last". bgr: blue comes first.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    range: tuple[float, float] | None = None
    layout: str | None = None
    bgr: bool = False

    def on(self, layout: Layout) -> Normalize:
        """For a classifier's input. Raises UserError where the numbers do not fit its channels."""
        mean, std = self.mean, self.std
        if self.range is not None:
            low, high = self.range
            mean, std = (-low / (high - low),), (1 / (high - low),)
        each = []
        for name, values in (("--mean", mean), ("--std", std)):
            values = values * layout.channels if len(values) == 1 else values
            if len(values) != layout.channels:
                raise UserError(
                    f"{name} has {len(values)} numbers, expected one, or {layout.channels}"
                )
            each.append(values)
        return Normalize(
            mean=each[0], std=each[1], layout=layout.layout, bgr=self.bgr, dtype=layout.dtype
        )


def image_layout(
    shape: tuple[int, ...], dtype: np.dtype[Any], wanted: str | None = None
) -> Layout | None:
    """How an input (channels, h, w) or (h, w, channels) is laid out; None where it is no image.

    wanted: "channels_first" or "channels_last", where somebody has said so.
    """
    if dtype.name not in ("float32", "float16", "uint8", "int8") or len(shape) != 3:
        return None
    kind = dtype.name if dtype.kind in "iu" else "float32"
    first, last = (wanted in (None, name) for name in ("channels_first", "channels_last"))
    if len(shape) == 3 and first and shape[0] in (1, 3) and min(shape[1:]) > 3:
        return Layout(shape[1], shape[2], shape[0], "channels_first", kind)
    if len(shape) == 3 and last and shape[2] in (1, 3) and min(shape[:2]) > 3:
        return Layout(shape[0], shape[1], shape[2], "channels_last", kind)
    return None


def conventions(layout: Layout) -> dict[str, Normalize]:
    """The usual ones for this input, in order of preference where several do as well."""
    c, fixed = layout.channels, {"layout": layout.layout, "dtype": layout.dtype}
    pixels = (1 / 255,) * c
    if layout.dtype == "uint8":
        return {"0-255": Normalize(mean=(0.0,) * c, std=pixels, **fixed)}
    if layout.dtype == "int8":
        return {"int8": Normalize(mean=(128 / 255,) * c, std=pixels, **fixed)}
    found = {
        "0-1": Normalize(mean=(0.0,) * c, std=(1.0,) * c, **fixed),
        "imagenet": Normalize(mean=_IMAGENET[0], std=_IMAGENET[1], **fixed) if c == 3 else None,
        "tf": Normalize(mean=(0.5,) * c, std=(0.5,) * c, **fixed),
        "0-255": Normalize(mean=(0.0,) * c, std=pixels, **fixed),
    }
    if c == 3:
        mean = tuple(value / 255 for value in reversed(_CAFFE))
        found["caffe"] = Normalize(mean=mean, std=pixels, bgr=True, **fixed)
        for name in ("0-1", "imagenet", "tf", "0-255"):
            spec = found[name]
            if spec is not None:
                mean, std = spec.mean[::-1], spec.std[::-1]
                found[f"{name} bgr"] = Normalize(mean=mean, std=std, bgr=True, **fixed)
    return {name: spec for name, spec in found.items() if spec is not None}


def named_convention(name: str, layout: Layout) -> Normalize:
    """One of them by name. Raises UserError with those that there are."""
    known = conventions(layout)
    if name not in known:
        raise UserError(
            f"--preprocess is '{name}', expected auto or one of {', '.join(known)} for this "
            "classifier's input; or say it by --mean and --std"
        )
    return known[name]


def try_conventions(
    model: bytes, given: str, output: str, samples: Split, labels: Array, layout: Layout,
    *, told: Progress = lambda _: None,
) -> list[Tried]:  # fmt: skip
    """Every convention with the classifier's accuracy under it, best first.

    model: the classifier's file; given, output: the names of its ends. labels: class index (n,)
    of each sample. told: is given the samples run so far, each as often as there are conventions.
    """
    chosen = np.linspace(0, len(samples) - 1, min(TRIED, len(samples))).astype(int)
    pixels, truth = samples.batch(chosen), labels[chosen]
    found = session(model)
    tried = list[Tried]()
    for name, spec in conventions(layout).items():
        prepare = session(preparation_model(spec, layout.input))
        values = run_in_batches(prepare, INPUT_NAME, pixels, "values")
        results = run_in_batches(found, given, values, output)
        told(len(pixels) * (len(tried) + 1))
        tried.append(Tried(name, spec, accuracy(results, truth), _matched(results, truth)))
    best, matched = (max(values) for values in zip(*(one[2:] for one in tried), strict=True))
    guess = 1.5 * max(np.bincount(truth)) / len(truth)
    # They may tell the classes apart under other names alone: no better than a guess, or far worse
    # than under those.
    named = best > guess and not other_names(matched, best)
    return sorted(tried, key=lambda one: -(one.accuracy if named else one.matched))


def _matched(outputs: Array, truth: Array) -> float:
    flat = outputs.reshape(len(outputs), -1)
    return best_order(flat.argmax(axis=1), truth, max(flat.shape[1], 2))[1]


def run_in_batches(
    found: Any, given: str, values: Array, output: str, batch: int | None = None
) -> Array:
    """One output for all of ``values``; batch: the size that a fixed classifier takes."""
    fixed = found.get_inputs()[0].shape[0]
    size = batch or (fixed if isinstance(fixed, int) and fixed > 0 else 32)
    missing = -len(values) % size if isinstance(fixed, int) else 0
    padded = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
    kind = found.get_inputs()[0].type
    wanted = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(kind)
    parts = [
        run(found, {given: part if wanted is None else part.astype(wanted)}, [output])[0]
        for part in (padded[i : i + size] for i in range(0, len(padded), size))
    ]
    return np.concatenate(parts)[: len(values)]


def accuracy(outputs: Array, truth: Array) -> float:
    """Share of samples whose largest output is their class; one output is the second of two."""
    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    if flat.shape[1] == 1:
        middle = 0.5 if flat.min() >= 0 and flat.max() <= 1 else 0.0
        return float(((flat[:, 0] > middle) == (truth == 1)).mean())
    return float((flat.argmax(axis=1) == truth).mean())
