"""Files of the form that people have: pictures, recordings, and classifiers of other tools.

The classifiers tell colours, tones or tilts apart, so that they beat a guess without training.
"""

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import soundfile
from PIL import Image
from support import onnx_model

CLASSES = ("delivery", "none", "resident")
#: Red, green and blue stand for three classes.
_EYE = np.eye(3, dtype="f")
#: Days in 2026, at noon, as seconds since 1970.
DAY, NOON = 86_400, 1_777_636_800


def picture(colour: int, rng: np.random.Generator, side: int = 64) -> Image.Image:
    """Clouds with more of one colour, how much is drawn; some are hard to tell."""
    few = side // 8
    clouds = np.clip(rng.normal(90, 25, (few, few, 3)) + rng.normal(0, 10, 3), 0, 255)
    clouds[..., colour] += rng.uniform(0, 1) * 60
    small = Image.fromarray(np.clip(clouds, 0, 255).astype(np.uint8))
    values = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray(np.clip(values + rng.normal(0, 3, values.shape), 0, 255).astype("u1"))


def pictures(folder: str, classes: tuple[str, ...], *, each: int = 30, side: int = 64,
             ending: str = "png", seed: int = 0, flat: bool = False) -> None:  # fmt: skip
    """A folder per class, or all in one, each file an hour after the one before."""
    rng = np.random.default_rng(seed)
    for n in range(each * len(classes)):
        label = n % len(classes)
        place = Path(folder) if flat else Path(folder, classes[label])
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{n:04}.{ending}"
        picture(label, rng, side).save(path)
        os.utime(path, (NOON + n * 3600,) * 2)


def colours(side: int, *, tflite: bool = False, quantised: bool = False) -> onnx.ModelProto:
    """Convolution, pool, two dense layers, softmax: three classes by colour.

    tflite: channels last, as tf2onnx writes it. quantised: bytes in, bytes out, as Frigate has it.
    """
    shape = f"{side}, {side}, 3" if tflite else f"3, {side}, {side}"
    given = f"{'uint8' if quantised else 'float'}[N, {shape}] images"
    begin = "d = DequantizeLinear (images, s, zero) " if quantised else "d = Identity (images) "
    begin += "t = Transpose <perm = [0, 3, 1, 2]> (d)" if tflite else "t = Identity (d)"
    end = "y = QuantizeLinear (p, s, zero)" if quantised else "y = Identity (p)"
    kernel = np.zeros((3, 3, 8, 8), "f")
    kernel[range(3), range(3)] = 1 / 64
    byte = {"s": np.float32(1 / 255), "zero": np.uint8(0)} if quantised else {}
    return onnx_model(
        f"""({given}) => ({"uint8" if quantised else "float"}[N, 3] y) {{ {begin}
        c = Conv <strides = [8, 8]> (t, w, one) r = Relu (c) g = GlobalAveragePool (r)
        f = Flatten (g) h = Gemm (f, m1, b) a = Relu (h) z = Gemm (a, m2, b)
        p = Softmax (z) {end} }}""",
        w=kernel, one=np.ones(3, "f"), m1=_EYE * 2, m2=_EYE * 12, b=np.zeros(3, "f"), **byte,
    )  # fmt: skip


def tone(hertz: float, seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Wind, and over it a call that comes and goes."""
    time = np.arange(int(seconds * rate)) / rate
    loud = rng.uniform(0.02, 0.3) * (0.6 + 0.4 * np.sin(2 * np.pi * time / seconds * 3))
    values = loud * np.sin(2 * np.pi * hertz * time) + rng.normal(0, 0.02, len(time))
    return np.clip(values * 32767, -32768, 32767).astype(np.int16)


def recordings(folder: str, hertz: dict[str, float], *, each: int, seconds: float, rate: int,
               seed: int = 0) -> None:  # fmt: skip
    """A folder per class with WAV files."""
    rng = np.random.default_rng(seed)
    for label, height in hertz.items():
        Path(folder, label).mkdir(parents=True, exist_ok=True)
        for n in range(each):
            path = Path(folder, label, f"202605{n + 1:02}_040000.wav")
            soundfile.write(path, tone(height, seconds, rate, rng), rate)


def tones(hertz: list[float], rate: int, seconds: float) -> onnx.ModelProto:
    """One long row of sound in, a sigmoid per tone out."""
    width, frames = rate // 100, int(seconds * 100)
    turns = 2 * np.pi * np.arange(width) / rate
    kernels = [np.cos(turns * height + phase * np.pi / 2) for height in hertz for phase in range(4)]
    length, count = int(rate * seconds), len(hertz)
    return onnx_model(
        f"""(float[N, {length}] sound) => (float[N, {count}] y) {{
        x = Reshape (sound, split) c = Conv <strides = [{width}]> (x, w) r = Relu (c)
        g = GlobalAveragePool (r) f = Flatten (g) z = Gemm <transB = 1> (f, m, b)
        y = Sigmoid (z) }}""",
        split=np.array([-1, 1, frames * width]),
        w=np.stack(kernels)[:, None].astype("f") * 2 / width,
        m=np.eye(count, dtype="f").repeat(4, axis=1) * 30, b=np.full(count, -2, "f"),
    )  # fmt: skip


def tilt(frames: int = 50, coefficients: int = 13) -> onnx.ModelProto:
    """A row of MFCC in, low or high out: by the second coefficient. As Edge Impulse's net is."""
    kernel = np.zeros((2, coefficients, 3), "f")
    kernel[0, 1], kernel[1, 1] = 0.05, -0.05
    return onnx_model(
        f"""(float[N, {frames * coefficients}] x) => (float[N, 2] y) {{
        s = Reshape (x, split) t = Transpose <perm = [0, 2, 1]> (s) c = Conv (t, w) r = Relu (c)
        g = GlobalAveragePool (r) f = Flatten (g) z = Gemm (f, m, b) y = Softmax (z) }}""",
        split=np.array([-1, frames, coefficients]), w=kernel, m=np.array([[-1, 1], [1, -1]], "f"),
        b=np.zeros(2, "f"),
    )  # fmt: skip


def jpeg_of_a_camera(taken: str, image: Image.Image) -> bytes:
    """With the time in its EXIF data, such as "2026:05:01 06:00:00"."""
    exif, file = Image.Exif(), io.BytesIO()
    exif.get_ifd(0x8769)[0x9003] = taken
    image.save(file, "JPEG", exif=exif, quality=90)
    return file.getvalue()


def hugging_face(folder: Path, classes: tuple[str, ...], side: int) -> None:
    """config.json and preprocessor_config.json, as save_pretrained writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(
        {"id2label": {str(i): name for i, name in enumerate(classes)}}))  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
         "size": {"height": side, "width": side}}))  # fmt: skip


#: Run by $DRIPGATE_TFLITE: what ``colours`` is, from -1 to 1, as Keras and TFLite write it.
_KERAS = """
import sys, numpy as np, tensorflow as tf
side, out = int(sys.argv[1]), sys.argv[2]
x = tf.keras.Input((side, side, 3))
c = tf.keras.layers.Conv2D(3, 8, 8, activation="relu")(x)
z = tf.keras.layers.Dense(3, activation="softmax")(tf.keras.layers.GlobalAveragePooling2D()(c))
model = tf.keras.Model(x, z)
kernel = np.zeros((8, 8, 3, 3), "f")
kernel[:, :, range(3), range(3)] = 1 / 64
model.set_weights([kernel, np.ones(3, "f"), np.eye(3, dtype="f") * 12, np.zeros(3, "f")])
open(out, "wb").write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
"""


def tflite(path: str, side: int) -> None:
    """A real .tflite file, where $DRIPGATE_TFLITE names an interpreter with TensorFlow."""
    if python := os.environ.get("DRIPGATE_TFLITE"):
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(
            [python, "-c", _KERAS, str(side), path], check=True, capture_output=True, env=clean
        )
