"""Files of weights and labels with intent: one line."""

from needs import need

need("torch")

import json
import os
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, save

from dripgate.errors import DataError, ModelError
from dripgate.text import cell
from dripgate.training.classifier import load_classifier
from dripgate.training.retrain import read_labels


@pytest.fixture
def model(copied):
    return copied / "model.safetensors"


def metadata(path):
    with safe_open(path, "np") as file:
        return file.metadata()


def refused(path, match):
    with pytest.raises(ModelError, match=match) as caught:
        load_classifier(str(path))
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(model, value):
    state = load(model.read_bytes())
    name = next(name for name, values in state.items() if values.dtype == np.float32)
    state[name] = np.full_like(state[name], value)
    model.write_bytes(save(state, metadata(model)))
    refused(model, "no finite numbers")


@pytest.mark.parametrize(
    "shape", [[2**40, 2**40], [0, 2**62], [2**31, 2**31, 0], [1] * 10_000, [-1], [2**64]]
)
def test_monstrous_shapes(model, shape):
    header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]},
              "__metadata__": metadata(model)}  # fmt: skip
    text = json.dumps(header).encode()
    model.write_bytes(struct.pack("<Q", len(text)) + text)
    refused(model, "safetensors file|do not fit|no finite")


def test_a_header_of_a_terabyte(model):
    model.write_bytes(struct.pack("<Q", 10**12) + b"{}")
    refused(model, "not a safetensors file")


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "image", "height": 10**9, "width": 10**9, "channels": 3},
        {"kind": "image", "height": 0, "width": 8, "channels": 1},
        {"kind": "audio", "rate": 16000, "length": 10**15},
        {"kind": "array", "shape": [10**9] * 4},
    ],
)
def test_monstrous_inputs(model, spec):
    said = metadata(model)
    info = json.loads(said["dripgate"])
    info["input"] = spec
    model.write_bytes(save(load(model.read_bytes()), said | {"dripgate": json.dumps(info)}))
    refused(model, "its dripgate metadata|do not fit")


@pytest.mark.parametrize("make", [
    os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir(),
], ids=["pipe", "device", "folder"])  # fmt: skip
def test_what_is_no_file_is_refused_before_it_is_read(tmp_path, make):
    make(tmp_path / "one")
    refused(tmp_path / "one", "it is no plain file|Is a directory")
    with pytest.raises(DataError, match=r"not a table of labels|cannot be read"):
        read_labels(tmp_path / "one")


def test_files_of_a_terabyte(tmp_path):
    for name in ("m.safetensors", "labels.csv"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(10**12)
    refused(tmp_path / "m.safetensors", "more than the 4,294,967,296 that are read")
    with pytest.raises(DataError, match="more than the"):
        read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize("label", ["=1+1", "-1", "+", "@x", "'=x", "''", "'tis", "plain", " =x"])
def test_labels_come_back_from_a_table_as_they_were(tmp_path, label):
    (tmp_path / "labels.csv").write_text(f"id,label\na,{cell(label)}\n")
    assert read_labels(tmp_path / "labels.csv") == {"a": label}
