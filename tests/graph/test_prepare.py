"""What happens to raw samples before the classifier, against NumPy and torch's own STFT."""

import math

import msgspec
import numpy as np
import pytest

from dripgate.errors import ModelError
from dripgate.graph.measure import run, session
from dripgate.graph.prepare import mel_filters, preparation_model
from dripgate.types import (
    ArrayInput,
    AudioInput,
    Identity,
    ImageInput,
    LogMel,
    Normalize,
    Waveform,
)
from needs import need

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
COLOUR = ImageInput(height=4, width=5, channels=3)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)


def prepared(preprocessing, spec, samples):
    found = session(preparation_model(preprocessing, spec))
    return run(found, {"samples": samples}, ["values", "planes"])


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_normalize_is_pixel_over_255_minus_mean_over_std(layout, bgr):
    spec = Normalize(mean=MEAN, std=STD, layout=layout, bgr=bgr)
    values, planes = prepared(spec, COLOUR, PIXELS)
    pixels = PIXELS[..., ::-1] if bgr else PIXELS
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    first = expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(planes, first, atol=1e-5)
    np.testing.assert_allclose(values, first if layout == "channels_first" else expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_integers_are_the_pixels_and_the_pixels_less_128(layout):
    pixel = {"std": (1 / 255,) * 3, "layout": layout}
    moved = PIXELS.transpose(0, 3, 1, 2) if layout == "channels_first" else PIXELS
    values, _ = prepared(Normalize(mean=(0.0,) * 3, dtype="uint8", **pixel), COLOUR, PIXELS)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, moved)
    values, _ = prepared(Normalize(mean=(128 / 255,) * 3, dtype="int8", **pixel), COLOUR, PIXELS)
    assert values.dtype == np.int8
    np.testing.assert_array_equal(values, moved.astype(int) - 128)


SPEECH = LogMel(window=640, hop=320, bins=10, low=20, high=4000, mean=-4.0, std=2.5)
RATE, LENGTH = 16000, 8000


@pytest.fixture(scope="module")
def pcm():
    time = np.arange(LENGTH) / RATE
    tone = 9000 * np.sin(2 * np.pi * 700 * time * (1 + time))
    noise = np.random.default_rng(0).normal(size=LENGTH) * 300
    return np.stack([tone, noise, np.zeros(LENGTH)]).astype(np.int16)


def _filters_one_by_one(spec, rate, points):
    """The HTK filterbank as its book draws it: a triangle for each three neighbouring edges."""
    low, high = (1127.01048 * math.log(1 + f / 700) for f in (spec.low, spec.high))
    mels = [low + i * (high - low) / (spec.bins + 1) for i in range(spec.bins + 2)]
    edges = [700 * (math.exp(mel / 1127.01048) - 1) for mel in mels]
    frequencies = np.arange(points // 2 + 1) * rate / points
    return np.stack([
        np.interp(frequencies, edges[b : b + 3], [0, 1, 0], left=0, right=0)
        for b in range(spec.bins)
    ])  # fmt: skip


def test_log_mel_is_torch_stft_and_an_htk_filterbank(pcm):
    need("torch")
    import torch

    from dripgate.training.preprocess import build

    spec = AudioInput(rate=RATE, length=LENGTH)
    values, _ = prepared(SPEECH, spec, pcm)
    bank = _filters_one_by_one(SPEECH, RATE, SPEECH.window)
    np.testing.assert_allclose(mel_filters(SPEECH, RATE), bank, atol=1e-6)
    spectrum = torch.stft(
        torch.from_numpy(pcm / 32768), SPEECH.window, SPEECH.hop, center=False,
        window=torch.hann_window(SPEECH.window, dtype=torch.float64), return_complex=True,
    )  # fmt: skip
    power = np.einsum("bf,nft->ntb", bank, spectrum.abs().square().numpy())
    expected = (np.log(power + 1e-6) - SPEECH.mean) / SPEECH.std
    assert values.shape == (3, 1, 24, 10)
    np.testing.assert_allclose(values[:, 0], expected, atol=5e-4)
    module = build(SPEECH, spec)(torch.from_numpy(pcm)).numpy()  # what training sees
    np.testing.assert_allclose(values, module, atol=5e-4)


def test_mfcc_of_magnitudes_with_a_longer_dft(pcm):
    recipe = LogMel(
        window=480, hop=320, bins=20, low=20, high=4000, mean=0.0, std=1.0, fft=512,
        magnitude=True, floor=1e-3, coefficients=8, shape=(24, 8, 1),
    )  # fmt: skip
    values, _ = prepared(recipe, AudioInput(rate=RATE, length=LENGTH), pcm)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(480) / 480)
    frames = np.stack([pcm[:, i * 320 : i * 320 + 480] / 32768 * hann for i in range(24)], 1)
    levels = np.abs(np.fft.rfft(frames, 512)) @ _filters_one_by_one(recipe, RATE, 512).T
    log = np.log(levels + 1e-3)
    n = np.arange(20)
    dct = np.stack([
        math.sqrt(2 / 20) * (log * np.cos(np.pi * k * (n + 0.5) / 20)).sum(-1) for k in range(8)
    ], -1)  # fmt: skip
    assert values.shape == (3, 24, 8, 1)
    # The HTK form, whose first coefficient has the others' factor.
    np.testing.assert_allclose(values[..., 0], dct, atol=2e-3)


def test_mfcc_with_scipys_orthonormal_transform(pcm):
    from scipy.fft import dct

    audio = AudioInput(rate=RATE, length=LENGTH)
    plain = LogMel(window=480, hop=320, bins=20, low=20, high=4000, mean=0.0, std=1.0)
    levels, _ = prepared(plain, audio, pcm)
    recipe = msgspec.structs.replace(plain, coefficients=8, ortho=True)
    values, _ = prepared(recipe, audio, pcm)
    expected = dct(levels.astype(np.float64), norm="ortho", axis=-1)[..., :8]
    np.testing.assert_allclose(values, expected, atol=2e-3)
    htk, _ = prepared(msgspec.structs.replace(recipe, ortho=False), audio, pcm)
    np.testing.assert_allclose(htk[..., 0], expected[..., 0] * math.sqrt(2), atol=2e-3)


def test_the_waveform_is_scaled_and_standardised(pcm):
    spec = AudioInput(rate=RATE, length=LENGTH)
    plain, _ = prepared(Waveform(), spec, pcm)
    np.testing.assert_allclose(plain, pcm / 32768, atol=1e-7)
    found, _ = prepared(Waveform(standardise=True, shape=(1, LENGTH)), spec, pcm)
    wave = pcm / 32768
    expected = (wave - wave.mean(1, keepdims=True)) / np.sqrt(wave.var(1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)


def test_identity_changes_nothing():
    x = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_array_equal(prepared(Identity(), ArrayInput(shape=(5,)), x)[0], x)


AUDIO, GREY = AudioInput(rate=8000, length=4000), ImageInput(height=8, width=8, channels=1)


@pytest.mark.parametrize("way", ["module", "graph"])
@pytest.mark.parametrize(
    ("preprocessing", "given", "message"),
    [
        (Normalize(mean=(0, 0, 0), std=(1, 1, 1)), GREY, "3 means and 3 deviations for ImageInput"),
        (Normalize(mean=(0.5,), std=(0.0,)), GREY, "above 0"),
        (Normalize(mean=(0.5,), std=(1.0,)), AUDIO, "one of each per image channel"),
        (SPEECH, GREY, "needs audio"),
        (SPEECH, AudioInput(rate=16000, length=600), r"window 640.* do not fit 600 samples"),
        (SPEECH, AudioInput(rate=6000, length=6000), "20 to 4000 Hz is not inside 0 to 3000 Hz"),
        (
            LogMel(window=64, hop=32, bins=40, low=20, high=4000, mean=0, std=1), AUDIO,
            r"of 40 filters .* use fewer bins or a longer window",
        ),
    ],
)  # fmt: skip
def test_preprocessing_that_does_not_fit_is_refused(way, preprocessing, given, message):
    made = preparation_model
    if way == "module":
        need("torch")
        from dripgate.training.preprocess import build as made
    with pytest.raises(ModelError, match=message):
        made(preprocessing, given)
