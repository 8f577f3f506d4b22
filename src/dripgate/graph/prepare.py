"""What happens to a raw sample before the classifier sees it, as operators of the gate's graph."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from dripgate.errors import ModelError
from dripgate.gate_info import INPUT_NAME
from dripgate.graph.builder import Builder
from dripgate.graph.read import OPSET
from dripgate.types import (
    Array,
    AudioInput,
    ImageInput,
    InputSpec,
    LogMel,
    Normalize,
    Preprocessing,
    Waveform,
)

#: Added to the mel power before the logarithm, so that digital silence stays finite.
FLOOR = 1e-6


class Prepared(NamedTuple):
    """values: what the classifier takes. planes: the same as floats (N, …) for the quality."""

    values: ir.Value
    planes: ir.Value


def add_preparation(
    build: Builder, samples: ir.Value, preprocessing: Preprocessing, spec: InputSpec
) -> Prepared:
    """From samples (N, *spec.shape) to the classifier's input.

    Raises ModelError where the two do not fit, such as three means for one channel.
    """
    if isinstance(preprocessing, Normalize):
        check_normalize(preprocessing, spec)
        return _normalized(build, samples, preprocessing)
    if isinstance(preprocessing, LogMel):
        if not isinstance(spec, AudioInput):
            raise ModelError(f"log-mel needs audio, found {spec}; choose another preprocessing")
        features = _log_mel(build, samples, preprocessing, spec.rate)
        return Prepared(features, features)
    if isinstance(preprocessing, Waveform):
        wave = _waveform(build, samples, preprocessing)
        return Prepared(wave, wave)
    return Prepared(samples, samples)


def check_normalize(spec: Normalize, given: InputSpec) -> None:
    """Raises ModelError where there is not one mean and one deviation per channel."""
    channels = given.channels if isinstance(given, ImageInput) else None
    if not len(spec.mean) == len(spec.std) == channels:
        raise ModelError(
            f"normalize: found {len(spec.mean)} means and {len(spec.std)} deviations for "
            f"{given}; give one of each per image channel"
        )
    if min(spec.std) <= 0:
        raise ModelError(f"normalize: deviations must be above 0, found {spec.std}")


def scale_and_shift(spec: Normalize) -> tuple[Array, Array]:
    """(pixel / 255 - mean) / std as pixel · scale + shift, float32 (C,) each."""
    std = np.array(spec.std)
    return _float(1 / (255 * std)), _float(-np.array(spec.mean) / std)


def _normalized(build: Builder, samples: ir.Value, spec: Normalize) -> Prepared:
    n, height, width, channels = build.shapes[samples]
    if spec.bgr:
        samples = _as(build, "Gather", samples, build.numbers([2, 1, 0]), axis=3)
    first = spec.layout == "channels_first"
    if first and channels == 1:  # the same order in memory: nothing is moved
        samples = _as(build, "Reshape", samples, build.numbers([-1, 1, height, width]),
                      shape=(n, 1, height, width))  # fmt: skip
    elif first:
        samples = _as(build, "Transpose", samples, perm=[0, 3, 1, 2],
                      shape=(n, channels, height, width))  # fmt: skip
    x = build.unary("Cast", samples, to=ir.DataType.FLOAT)
    sizes = (1, channels, 1, 1) if first else (1, 1, 1, channels)
    scale, shift = scale_and_shift(spec)
    if not np.allclose(scale, 1, atol=1e-7):
        x = build.mul(x, build.constant(scale.reshape(sizes)))
    if shift.any():
        x = build.add(x, build.constant(shift.reshape(sizes)))
    planes = x if first else build.transpose(x, [0, 3, 1, 2])
    if spec.dtype == "float32":
        return Prepared(x, planes)
    if spec.dtype == "uint8" and x.producer() is not None and not shift.any():
        return Prepared(samples, planes)
    kind = ir.DataType.UINT8 if spec.dtype == "uint8" else ir.DataType.INT8
    return Prepared(build.unary("Cast", build.unary("Round", x), to=kind), planes)


def _as(
    build: Builder, operator: str, x: ir.Value, *others: ir.Value,
    shape: tuple[int, ...] | None = None, **attributes: object,
) -> ir.Value:  # fmt: skip
    """An operator on integer samples, whose type its result has."""
    value = build(operator, x, *others, shape=shape or build.shapes[x], **attributes)
    build.declare(value, build.shapes[value], x.dtype or ir.DataType.UINT8)
    return value


def _waveform(build: Builder, samples: ir.Value, spec: Waveform) -> ir.Value:
    x = build.mul(build.unary("Cast", samples, to=ir.DataType.FLOAT), 1 / 32768)
    if spec.standardise:
        x = build.sub(x, build.reduce("ReduceMean", x, [1]))
        power = build.reduce("ReduceMean", build.mul(x, x), [1])
        x = build.div(x, build.unary("Sqrt", build.add(power, 1e-7)))
    return build.reshape(x, (build.shapes[x][0], *(spec.shape or build.shapes[x][1:])))


def _log_mel(build: Builder, samples: ir.Value, spec: LogMel, rate: int) -> ir.Value:
    """int16 (N, T) → float32 features, frames = 1 + (T - window) // hop, of ``spec.shape``.

    Frames are not padded. The DFT is a convolution with windowed waves, because ONNX's own STFT
    was measured ten times slower in onnxruntime.
    """
    n, length = build.shapes[samples]
    check_log_mel(spec, rate, length)
    waves, mel = waves_and_filters(spec, rate)
    frames = 1 + (length - spec.window) // spec.hop
    x = build.unary("Cast", samples, to=ir.DataType.FLOAT)
    x = build.reshape(x, (n, 1, length))
    parts = build("Conv", x, build.constant(waves[:, None]), shape=(n, len(waves), frames),
                  strides=[spec.hop])  # fmt: skip
    power = build.mul(parts, parts)
    bins = spec.coefficients or spec.bins
    floor = build.constant(np.full(spec.bins, spec.floor, np.float32))
    if spec.magnitude:  # |X| of each frequency before the filters
        half = len(waves) // 2
        pairs = build("Conv", power, build.constant(np.tile(np.eye(half), 2)[:, :, None]),
                      shape=(n, half, frames))  # fmt: skip
        power, mel = build.unary("Sqrt", pairs), mel[:, :half]
    levels = build("Conv", power, build.constant(mel[:, :, None]), floor,
                   shape=(n, spec.bins, frames))  # fmt: skip
    features = build.unary("Log", levels)
    if spec.coefficients:
        features = build.matmul(build.constant(cosines(spec)), features)
    if spec.mean:
        features = build.sub(features, spec.mean)
    if spec.std != 1:
        features = build.div(features, spec.std)
    features = build.transpose(features, [0, 2, 1])
    return build.reshape(features, (n, *(spec.shape or (1, frames, bins))))


def check_log_mel(spec: LogMel, rate: int, length: int) -> None:
    """Raises ModelError where window, hop, frequencies or shape do not fit the recording."""
    if not 0 < spec.window <= length or spec.hop < 1 or spec.std <= 0:
        raise ModelError(
            f"log-mel: window {spec.window}, hop {spec.hop} and std {spec.std:g} do not fit "
            f"{length} samples; the window must fit in them, hop and std be above 0"
        )
    if not 0 <= spec.low < spec.high <= rate / 2:
        raise ModelError(
            f"log-mel: {spec.low:g} to {spec.high:g} Hz is not inside 0 to {rate / 2:g} Hz, "
            "half the rate"
        )
    frames, bins = 1 + (length - spec.window) // spec.hop, spec.coefficients or spec.bins
    if spec.shape and np.prod(spec.shape) != frames * bins:
        raise ModelError(
            f"log-mel: {frames} frames of {bins} values are not the {spec.shape} that the "
            "classifier takes; window, hop, bins or coefficients are others"
        )


def waves_and_filters(spec: LogMel, rate: int) -> tuple[Array, Array]:
    """Windowed cosines and sines (2F, window) and mel filters (bins, 2F), float32.

    F are the frequencies on which a filter listens; the window is a periodic Hann.
    """
    mel = mel_filters(spec, rate)
    used = np.flatnonzero(mel.any(axis=0))  # the DFT is only taken where a filter listens
    n = np.arange(spec.window)
    phase = 2 * np.pi * np.outer(used, n) / (spec.fft or spec.window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / spec.window)
    waves = np.concatenate([np.cos(phase), np.sin(phase)]) * hann / 32768
    return _float(waves), _float(np.tile(mel[:, used], 2))


def mel_filters(spec: LogMel, rate: int) -> Array:
    """Triangular filters of peak 1, evenly spaced on the HTK mel scale, (bins, fft // 2 + 1).

    Source: Young et al., "The HTK Book" (2006), 5.4: mel = 2595 log10(1 + f / 700).
    Raises ModelError where a filter is so narrow that no DFT bin falls into it.
    """
    points = spec.fft or spec.window
    low, high = 2595 * np.log10(1 + np.array([spec.low, spec.high]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, spec.bins + 2) / 2595) - 1)
    frequencies = np.arange(points // 2 + 1) * rate / points
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - lower) / (centre - lower)
    falling = (upper - frequencies) / (upper - centre)
    filters = np.maximum(0, np.minimum(rising, falling))
    empty = int((~filters.any(axis=1)).sum())
    if empty:
        raise ModelError(
            f"log-mel: {empty} of {spec.bins} filters between {spec.low:g} and {spec.high:g} Hz "
            f"hold no frequency of a {points}-sample window at {rate} Hz; "
            "use fewer bins or a longer window"
        )
    return filters


def cosines(spec: LogMel) -> Array:
    """The first coefficients of the DCT-II of log-mel levels, (coefficients, bins).

    All with the factor sqrt(2 / bins), as in the HTK book; ortho makes the transform orthonormal.
    """
    k, n = np.arange(spec.coefficients or 0)[:, None], np.arange(spec.bins)
    rows = np.sqrt(2 / spec.bins) * np.cos(np.pi * k * (2 * n + 1) / (2 * spec.bins))
    if spec.ortho:
        rows[0] /= np.sqrt(2)
    return _float(rows)


def _float(values: Array) -> Array:
    return np.ascontiguousarray(values, np.float32)


def preparation_model(preprocessing: Preprocessing, spec: InputSpec) -> bytes:
    """The preparation alone as an ONNX model: ``samples`` in, ``values`` and ``planes`` out."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="preparation")
    build = Builder(graph, {})
    samples = samples_input(build, spec, -1)
    prepared = add_preparation(build, samples, preprocessing, spec)
    outputs = []
    for name, value in prepared._asdict().items():
        out = build.unary("Identity", value)
        build.declare(out, build.shapes[value], value.dtype or ir.DataType.FLOAT)
        out.name = name
        outputs.append(out)
    graph.inputs.append(samples)
    graph.outputs.extend(outputs)
    return bytes(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())


def samples_input(build: Builder, spec: InputSpec, batch: int) -> ir.Value:
    """The input ``samples`` (N, *spec.shape) of a gate; batch -1 is any."""
    samples = ir.val(INPUT_NAME)
    build.declare(samples, (batch, *spec.shape), ir.DataType.from_numpy(spec.dtype))
    return samples
