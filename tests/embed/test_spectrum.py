"""Log-mel on the device: an FFT where the graph has a matrix, with the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import dripgate.embed
from dripgate.embed import tables
from dripgate.embed.graphs import drop_unused
from dripgate.embed.lower import lower
from dripgate.embed.spectrum import factors, take_spectrum
from dripgate.graph.prepare import mel_filters, waves_and_filters
from dripgate.types import LogMel
from needs import need

C = Path(dripgate.embed.__file__).parent / "c"
RATE, LENGTH = 8000, 2000


def logmel(window, hop):
    return LogMel(window=window, hop=hop, bins=12, low=60.0, high=4000.0, mean=0.0, std=1.0)


def graph(waves, mel, hop):
    """int16 (1, T) → mel power (1, bins, frames), with as little around it as can be."""
    frames = 1 + (LENGTH - waves.shape[2]) // hop
    nodes = [
        helper.make_node("Cast", ["samples"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "one"], ["u"]),
        helper.make_node("Conv", ["u", "waves"], ["parts"], strides=[hop]),
        helper.make_node("Pow", ["parts", "two"], ["squares"]),
        helper.make_node("Conv", ["squares", "mel"], ["power"]),
        helper.make_node("Log", ["power"], ["out"]),
    ]
    constants = {"waves": waves, "mel": mel, "one": np.array([1]), "two": np.float32(2)}
    return helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("samples", TensorProto.INT16, [1, LENGTH])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, len(mel), frames])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip


def constants(window, hop):
    """Waves and mel as training's module has them."""
    waves, mel = waves_and_filters(logmel(window, hop), RATE)
    return waves[:, None], mel[:, :, None]


def exported(window, hop):
    return graph(*constants(window, hop), hop)


@pytest.mark.parametrize(("window", "hop"), [(160, 80), (256, 100), (210, 105), (130, 64)])
def test_the_fft_gives_what_the_definition_gives(window, hop, tmp_path, library):
    found = take_spectrum(exported(window, hop))
    assert (found.hop, found.frames) == (hop, 1 + (LENGTH - window) // hop)
    (tmp_path / "dripgate_spectrum.h").write_text(tables.spectrum(found))
    made = library([C / "dripgate_spectrum.c"], tmp_path / "s.so", f"-I{tmp_path}")
    rng = np.random.default_rng(window)
    pcm = (rng.normal(size=LENGTH) * np.linspace(1, 9000, LENGTH)).astype(np.int16)
    mel = np.zeros((12, found.frames), np.float32)
    scratch = np.zeros(found.scratch, np.uint8)
    arguments = (pcm.ctypes.data, scratch.ctypes.data, mel.ctypes.data)
    made.dripgate_spectrum(*map(_pointer, arguments))

    starts = np.arange(found.frames)[:, None] * hop
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = pcm[starts + np.arange(window)] / 32768 * hann
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    expected = mel_filters(logmel(window, hop), RATE) @ power.T
    np.testing.assert_allclose(mel, expected, rtol=1e-4, atol=1e-7)


def test_it_is_found_in_what_torch_exports():
    need("torch")
    import torch

    from dripgate.training.preprocess import LogMelSpectrogram

    module = LogMelSpectrogram(logmel(160, 80), RATE).eval()
    pcm = torch.from_numpy(np.random.default_rng(0).integers(-9000, 9000, (1, LENGTH), np.int16))
    exported = torch.onnx.export(
        module, (pcm,), dynamo=True, verbose=False, opset_version=20,
        input_names=["samples"], output_names=["out"],
    )  # fmt: skip
    lowered = lower(exported.model_proto.SerializeToString(), ("out",))
    assert lowered.spectrum.frames == 1 + (LENGTH - 160) // 80
    assert max(np.prod(tensor.dims) for tensor in lowered.model.graph.initializer) < 160
    frames = np.stack([pcm[0, i * 80 : i * 80 + 160].numpy() for i in range(24)])
    power = np.abs(np.fft.rfft(frames * lowered.spectrum.window, axis=1)) ** 2
    mel = (lowered.spectrum.mel @ power.T).astype(np.float32)[None]
    (found,) = onnxruntime.InferenceSession(lowered.model.SerializeToString()).run(
        None, {lowered.spectrum.name: mel}
    )
    np.testing.assert_allclose(found, module(pcm).numpy(), rtol=1e-4, atol=1e-4)


def _pointer(address):
    import ctypes

    return ctypes.c_void_p(address)


def test_the_matrix_is_gone_and_the_rest_goes_on_from_mel_power():
    found = exported(160, 80)
    front = take_spectrum(found)
    assert found.input[0].name == front.name
    assert [node.op_type for node in found.node if front.name in node.input] == ["Identity"]
    drop_unused(found)
    assert [node.op_type for node in found.node] == ["Identity", "Log"]


def test_what_is_no_dft_stays_a_convolution():
    waves, mel = (each.copy() for each in constants(160, 80))
    lopsided, moved = mel.copy(), waves.copy()
    lopsided[0, 0] += 1
    moved[3, 0, 17] += 0.01 * np.abs(waves).max()
    rng = np.random.default_rng(0)
    others = [
        graph(rng.normal(size=waves.shape).astype(np.float32), mel, 80),
        graph(moved, mel, 80),
        graph(waves, lopsided, 80),
        exported(166, 83),  # 83 is too large a prime for the FFT
    ]
    biased = exported(160, 80)
    biased.initializer.append(numpy_helper.from_array(np.ones(len(waves), np.float32), "bias"))
    biased.node[2].input.append("bias")
    for found in (*others, biased):
        before = onnx.GraphProto()
        before.CopyFrom(found)
        assert take_spectrum(found) is None
        assert found == before


def test_factors_multiply_to_the_size():
    for half in range(2, 400):
        found = factors(half)
        assert not found or np.prod(found) == half
    assert factors(320) == [4, 4, 4, 5]
    assert factors(83) == []
