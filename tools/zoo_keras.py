"""Keras classifiers as .onnx files, for the zoo: `$DRIPGATE_TFLITE tools/zoo_keras.py FOLDER`.

Runs where tf2onnx and TensorFlow are (make tflite-tools), by the two lines that docs/models.md
gives. Weights are random, the statistics of batch norms perturbed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import keras
import numpy as np
from keras import layers as L

CLASSES = 5
SIDE = (64, 64, 3)


def application(name: str, side: int = 64, **more: object) -> keras.Model:
    """One of keras.applications, softmax and all."""
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(side, side, 3), classes=CLASSES, **more)


def sequential(*layers: keras.Layer, shape: tuple[int, ...] = (32, 32, 3)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers])


def convs(*last: keras.Layer, shape: tuple[int, ...] = (32, 32, 3)) -> keras.Model:
    return sequential(
        L.Conv2D(8, 3, activation="relu"), L.BatchNormalization(), L.MaxPooling2D(),
        L.Conv2D(16, 3, activation="relu"), *last, shape=shape,
    )  # fmt: skip


def functional(
    run: Callable[[object], object], shape: tuple[int, ...] = (32, 32, 3)
) -> keras.Model:
    given = keras.Input(shape)
    return keras.Model(given, run(given))


def _residual(x: object) -> object:
    x = L.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = L.Add()([x, L.Conv2D(16, 3, padding="same")(x)])
    return L.Dense(CLASSES)(L.GlobalAveragePooling2D()(L.ReLU()(x)))


def _squeeze(x: object) -> object:
    x = L.Conv2D(16, 3, strides=2, activation="swish")(x)
    gate = L.Dense(16, activation="sigmoid")(
        L.Dense(4, activation="relu")(L.GlobalAveragePooling2D()(x))
    )
    return L.Dense(CLASSES, activation="softmax")(
        L.GlobalAveragePooling2D()(L.Multiply()([x, L.Reshape((1, 1, 16))(gate)]))
    )


def _attention(x: object) -> object:
    x = L.Reshape((16, 32))(L.Conv2D(32, 8, strides=8)(x))
    x = L.LayerNormalization()(x + L.MultiHeadAttention(4, 8)(x, x))
    return L.Dense(CLASSES)(L.GlobalAveragePooling1D()(x))


def _softmax() -> keras.Layer:
    return L.Dense(CLASSES, activation="softmax")


MODELS: dict[str, Callable[[], keras.Model]] = {
    "ConvNeXtTiny": lambda: application("ConvNeXtTiny"),
    "DenseNet121": lambda: application("DenseNet121"),
    "EfficientNetB0": lambda: application("EfficientNetB0"),
    "EfficientNetV2B0": lambda: application("EfficientNetV2B0"),
    "InceptionV3": lambda: application("InceptionV3", 96),
    "MobileNet": lambda: application("MobileNet", alpha=0.25),
    "MobileNetV2": lambda: application("MobileNetV2", alpha=0.35),
    "MobileNetV3Small": lambda: application("MobileNetV3Small"),
    "NASNetMobile": lambda: application("NASNetMobile"),
    "ResNet50": lambda: application("ResNet50"),
    "ResNet50V2": lambda: application("ResNet50V2"),
    "VGG16": lambda: application("VGG16"),
    "Xception": lambda: application("Xception", 96),
    "pool and softmax": lambda: convs(L.GlobalAveragePooling2D(), _softmax()),
    "logits": lambda: convs(L.GlobalAveragePooling2D(), L.Dense(CLASSES)),
    "flatten": lambda: convs(L.Flatten(), L.Dense(32, activation="relu"), L.Dropout(0.5), _softmax()),
    "max pool": lambda: convs(L.GlobalMaxPooling2D(), _softmax()),
    "one sigmoid": lambda: convs(L.GlobalAveragePooling2D(), L.Dense(1, activation="sigmoid")),
    "a sigmoid each": lambda: convs(L.GlobalAveragePooling2D(), L.Dense(CLASSES, activation="sigmoid")),
    "softmax layer": lambda: convs(L.GlobalAveragePooling2D(), L.Dense(CLASSES), L.Softmax()),
    "rescales": lambda: sequential(L.Rescaling(1 / 127.5, -1), L.Conv2D(8, 3, 2), L.ReLU(6.0), L.SeparableConv2D(16, 3), L.LeakyReLU(), L.GlobalAveragePooling2D(), _softmax()),
    "normalises, augments": lambda: sequential(L.RandomFlip(), L.RandomRotation(0.1), L.Normalization(mean=[0.5] * 3, variance=[0.1] * 3), L.Conv2D(16, 3, 2, activation="elu"), L.GlobalAveragePooling2D(), _softmax()),
    "residual": lambda: functional(_residual),
    "squeeze and excitation": lambda: functional(_squeeze),
    "attention": lambda: functional(_attention),
    "convolution for the head": lambda: convs(L.Conv2D(CLASSES, 1), L.GlobalAveragePooling2D(), L.Activation("softmax")),
    "keyword spotter": lambda: sequential(L.Conv2D(16, (10, 4), 2, "same"), L.BatchNormalization(), L.ReLU(), L.DepthwiseConv2D(3, padding="same"), L.ReLU(), L.Conv2D(16, 1), L.AveragePooling2D((25, 5)), L.Flatten(), _softmax(), shape=(49, 10, 1)),
    "series": lambda: sequential(L.Conv1D(16, 5, activation="relu"), L.MaxPooling1D(2), L.Conv1D(16, 5, activation="relu"), L.GlobalAveragePooling1D(), _softmax(), shape=(128, 3)),
    "convolutions and LSTM": lambda: sequential(L.Conv1D(16, 5, activation="relu"), L.LSTM(16), _softmax(), shape=(64, 3)),
}  # fmt: skip


def perturb(model: keras.Model) -> None:
    """Statistics as training leaves them, in place of zeros and ones."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights(
                [w + 0.1 * random.random(w.shape, np.float32) for w in layer.get_weights()]
            )


def main() -> None:
    """Write what is not in the folder yet."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    for name, make in MODELS.items():
        target = folder / f"{name}.onnx"
        if target.exists():
            continue
        model = make()
        perturb(model)
        with tempfile.TemporaryDirectory() as kept:
            saved, whole = Path(kept, "saved"), Path(kept, "net.onnx")
            model.export(str(saved), verbose=False)
            command = ["--saved-model", str(saved), "--output", str(whole), "--opset", "17"]
            subprocess.run(
                [sys.executable, "-m", "tf2onnx.convert", *command], check=True, capture_output=True
            )
            shutil.move(whole, target)
        print(name, target.stat().st_size, flush=True)


if __name__ == "__main__":
    main()
