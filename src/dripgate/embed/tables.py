"""The generated headers: sizes, names and numbers as C."""

from collections.abc import Iterable

import numpy as np

from dripgate.embed import golden as samples_of
from dripgate.embed.head import Head
from dripgate.embed.net import Net
from dripgate.embed.spectrum import Spectrum, factors
from dripgate.gate import Gate, Outputs
from dripgate.gate_info import GateInfo
from dripgate.policy.share import Ranks
from dripgate.types import Array

_TYPES = {"uint8": "uint8_t", "int16": "int16_t", "float32": "float"}


def config(gate: Gate, net: Net, version: str, head: Head | None = None) -> str:
    """dripgate_config.h: what the hand-written C needs to know about this gate."""
    info = gate.info
    kind = _TYPES[info.input.dtype.name]
    at = net.offsets
    scored = "score" in at
    seeded = Ranks.seeded(info.calibration.score).recent
    lines = [
        f"/* Made by dripgate {version} from gate {gate.id}. Do not edit. */",
        "#ifndef DRIPGATE_CONFIG_H",
        "#define DRIPGATE_CONFIG_H",
        "",
        "#include <stdint.h>",
        "",
        f'#define DRIPGATE_GATE "{gate.id}"',
        f"typedef {kind} dripgate_sample; /* {_layout(gate)} */",
        f"#define DRIPGATE_SAMPLE_LENGTH {int(np.prod(info.input.shape))}",
        f"#define DRIPGATE_CLASSES {len(info.classes)}",
        f"#define DRIPGATE_CLASS_NAMES {{{', '.join(map(_string, info.classes))}}}",
        f"#define DRIPGATE_ARENA {net.arena}",
        f"#define DRIPGATE_KEEP_EXPECTED {float(info.keep).hex()}",
        f"#define DRIPGATE_QUALITY_LOW {quality_low(info)} /* below 0: none */",
        f"#define DRIPGATE_SEEDED_SCORES {{{_floats(seeded)}}}",
        "",
        f"#define DRIPGATE_HAS_SCORE {int(scored)}",
        *(f"#define DRIPGATE_{name.upper()}_AT {offset}" for name, offset in at.items()),
        "",
        *([] if head is None else learning(gate.id, gate.info.head, head)),
        f"#define DRIPGATE_ADAPTS {int(head is not None)}",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def learning(gate: str, kind: str, head: Head) -> list[str]:
    """What the C of a head that learns needs to know; kind: "softmax" or "sigmoid"."""
    rows, width = head.bias.size, head.width
    at = f"((row) * {width} + (d))" if head.turned else f"((d) * {rows} + (row))"
    return [
        f"#define DRIPGATE_GATE_NUMBER 0x{gate[:8]}u",
        f"#define DRIPGATE_ROWS {rows}",
        f"#define DRIPGATE_FEATURES {width}",
        f"#define DRIPGATE_HEAD {rows * width + rows} /* weights, then biases */",
        f"#define DRIPGATE_WEIGHT_AT(row, d) {at}",
        f"#define DRIPGATE_SOFTMAX {int(kind == 'softmax' and rows > 1)}",
        f"#define DRIPGATE_FEATURE_SQUARE {_floats([head.square])}",
        f"#define DRIPGATE_MEMORY {len(head.vectors)}",
    ]


def deployed(head: Head) -> str:
    """dripgate_head.c: the deployed head, which the net reads until one learns, and the memory."""
    numbers = np.concatenate([head.weight, head.bias])
    text = f"""\
#include "dripgate_head.h"

const float dripgate_deployed[DRIPGATE_HEAD] = {{{_floats(numbers)}}};
const float *dripgate_head = dripgate_deployed;
"""
    if not len(head.vectors):
        return text
    halves = head.vectors.view(np.uint16)
    rows = ",\n    ".join(f"{{{_integers(row)}}}" for row in halves)
    return (
        text
        + f"""
const uint16_t dripgate_memory[DRIPGATE_MEMORY][DRIPGATE_FEATURES] = {{
    {rows}}};
const int16_t dripgate_memory_class[DRIPGATE_MEMORY] = {{{_integers(head.classes)}}};
"""
    )


def golden(gate: Gate, out: Outputs, close: Array) -> str:
    """dripgate_golden.h: what onnxruntime gives for the samples of the self-test."""
    rows = ",\n    ".join(f"{{{_floats(row)}}}" for row in out.logits)
    count, classes = out.logits.shape
    return f"""\
#define DRIPGATE_GOLDEN {count}
#define DRIPGATE_TOLERANCE {samples_of.TOLERANCE}f
#define DRIPGATE_SCORE_SCALE {_floats([samples_of.score_scale(gate)])}
#define DRIPGATE_HOLD {samples_of.hold(gate)}
#define DRIPGATE_GOLDEN_VALUE(state) {samples_of.expression(gate)}

static const float golden_logits[{count}][{classes}] = {{
    {rows}}};
#if DRIPGATE_HAS_SCORE
static const float golden_score[] = {{{_floats(out.score)}}};
static const uint8_t golden_verdict[] = {{{_integers(out.verdict)}}};
/* 1: a number lies so near to a threshold that the verdict may be another one here. */
static const uint8_t golden_close[] = {{{_integers(close)}}};
#endif
"""


def spectrum(found: Spectrum) -> str:
    """dripgate_spectrum.h: window, turns of the FFT, and each mel band's weights and bins."""
    size = len(found.window)
    phase = -2 * np.pi * np.arange(size // 2) / size
    radices = factors(size // 2)
    bands = [np.flatnonzero(row) for row in found.mel]
    limits = [(int(b[0]), int(b[-1]) + 1) if len(b) else (0, 0) for b in bands]
    weights = np.concatenate(
        [row[begin:end] for row, (begin, end) in zip(found.mel, limits, strict=True)]
    )
    turns = ", ".join(
        f"{{{_floats(pair)}}}" for pair in zip(np.cos(phase), np.sin(phase), strict=True)
    )
    pairs = ", ".join(f"{{{begin}, {end}}}" for begin, end in limits)
    return f"""\
#include <stdint.h>

#define DRIPGATE_WINDOW {size}
#define DRIPGATE_HOP {found.hop}
#define DRIPGATE_FRAMES {found.frames}
#define DRIPGATE_BANDS {len(bands)}
#define DRIPGATE_FACTORS {{{_integers(radices)}}}
#define DRIPGATE_LARGEST_FACTOR {max(radices)}

void dripgate_spectrum(const int16_t *pcm, void *scratch, float *mel);

static const float spectrum_window[{size}] = {{{_floats(found.window)}}};
static const float spectrum_turns[{size // 2}][2] = {{{turns}}};
static const uint16_t spectrum_bands[{len(bands)}][2] = {{{pairs}}};
static const float spectrum_weights[{len(weights)}] = {{{_floats(weights)}}};
"""


def quality_low(info: GateInfo) -> str:
    """The gate's bound of quality as C writes it, exactly."""
    low = info.thresholds.quality_low
    return "-1.0" if low is None else float(low).hex()


def _layout(gate: Gate) -> str:
    shape = " x ".join(map(str, gate.info.input.shape))
    return {"uint8": f"{shape}: rows, columns, channels", "int16": f"{shape} PCM"}.get(
        gate.info.input.dtype.name, shape
    )


def _floats(values: Iterable[float]) -> str:
    """Exact float32 literals; C99's hexadecimal form."""
    return ", ".join(_float(np.float32(value)) for value in values)


def _float(value: np.float32) -> str:
    if not np.isfinite(value):
        return "(0.0f / 0.0f)" if np.isnan(value) else f"({'-' * bool(value < 0)}1.0f / 0.0f)"
    return f"{float(value).hex()}f"


def _integers(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in values)


def _string(text: str) -> str:
    """A C string of any text, bytes beyond plain letters as octal escapes."""
    plain = "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b" _-.+" else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'
