import io
import struct
import subprocess
import sys
import zlib
from fractions import Fraction

import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dripgate.errors import UnreadableError
from dripgate.media import (
    ArrayHeader,
    AudioHeader,
    ImageHeader,
    Limits,
    Window,
    decode,
    encode_png,
    probe,
    resample,
    windows,
)  # fmt: skip
from dripgate.types import ArrayInput, AudioInput, ImageInput

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest undoes what media asks for

RGB = ImageInput(height=10, width=12, channels=3)
GREY = ImageInput(height=10, width=12, channels=1)
SOUND = AudioInput(rate=8000, length=800)
NUMBERS = ArrayInput(shape=(2, 3))


def saved(image: Image.Image, form="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def wav(samples, rate=8000, subtype="PCM_16", form="WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


# Images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("spec", [RGB, GREY])
def test_lossless_formats_give_the_pixels(form, spec):
    grey = np.random.default_rng(0).integers(0, 256, (10, 12), np.uint8)
    options = {"lossless": True} if form == "WEBP" else {}
    array = decode(saved(Image.fromarray(grey), form, **options), spec)
    assert array.shape == spec.shape
    assert array.dtype == np.uint8
    assert (array == grey[..., None]).all()


def test_jpeg_is_close_and_huge_jpegs_are_reduced_while_decoding(picture):
    x, y = np.meshgrid(np.arange(480), np.arange(400))
    smooth = np.stack([x // 2, y // 2, (x + y) // 4], axis=2).astype(np.uint8)
    array = decode(saved(Image.fromarray(smooth), "JPEG", quality=95), RGB)
    expected = np.asarray(Image.fromarray(smooth).resize((12, 10), Image.Resampling.BILINEAR))
    assert np.abs(array.astype(int) - expected).max() <= 4


def test_another_size_is_resized_with_antialiasing():
    stripes = np.zeros((100, 120), np.uint8)
    stripes[:, ::2] = 255
    inner = decode(saved(Image.fromarray(stripes)), GREY)[:, 1:-1]
    assert (np.abs(inner.astype(int) - 127) <= 2).all()


def test_16_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 120).astype(np.uint16).reshape(10, 12)
    for form in ("PNG", "TIFF", "PPM"):
        array = decode(saved(Image.fromarray(ramp), form), GREY)
        assert (array[..., 0] == ramp >> 8).all(), form


@pytest.mark.parametrize("value", [-1, 70_000])
def test_32_bit_and_float_pixels_have_no_agreed_range(value):
    image = Image.fromarray(np.full((10, 12), value, np.int32))
    with pytest.raises(UnreadableError, match="32-bit"):
        decode(saved(image, "TIFF"), GREY)
    with pytest.raises(UnreadableError, match="floating-point"):
        decode(saved(Image.fromarray(np.zeros((10, 12), np.float32)), "TIFF"), GREY)


def test_transparency_is_composited_on_black():
    rgba = np.zeros((10, 12, 4), np.uint8)
    rgba[:, :6] = (200, 100, 50, 255)
    rgba[:, 6:] = (200, 100, 50, 0)
    array = decode(saved(Image.fromarray(rgba)), RGB)
    assert (array[:, :6] == (200, 100, 50)).all()
    assert (array[:, 6:] == 0).all()


def test_palette_with_a_transparent_colour_and_cmyk():
    palette = Image.new("P", (12, 10), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert (decode(saved(palette), RGB) == (10, 200, 30)).all()
    assert (decode(saved(palette, transparency=1), RGB) == 0).all()
    red = Image.new("CMYK", (12, 10), (0, 255, 255, 0))
    assert (decode(saved(red, "TIFF"), RGB) == (255, 0, 0)).all()


def test_of_a_moving_picture_the_first_frame():
    frames = [Image.new("L", (12, 10), value) for value in (40, 90)]
    moving = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(moving, GREY) == 40).all()


def huge_png(width: int, height: int) -> bytes:
    """A header alone: whoever decodes it finds nothing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + b"\0" * 8


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (b"", "empty file"),
        (b"a text file named .jpg", "not an image: begins with b'a text f'"),
        (huge_png(12_000, 9_000), "12,000 × 9,000 pixels, more than the limit of 50 million"),
        (huge_png(60_000, 60_000), "more than the limit of 50 million"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    ],
)
def test_what_is_no_image_says_so(payload, cause):
    with pytest.raises(UnreadableError) as caught:
        decode(payload, RGB)
    assert cause in str(caught.value)


def test_the_byte_limit_goes_first(picture):
    with pytest.raises(UnreadableError, match="bytes, more than the limit of 100"):
        decode(picture(), RGB, Limits(payload_bytes=100))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_truncated_images_are_unreadable_or_whole_but_never_half_grey(picture, form):
    whole = picture(size=(40, 30), form=form)
    expected = decode(whole, RGB)
    outcomes = []
    for cut in range(1, len(whole), max(1, len(whole) // 150)):
        try:
            outcomes.append((decode(whole[:cut], RGB) == expected).all())
        except UnreadableError:
            outcomes.append(None)
    assert False not in outcomes
    assert outcomes.count(None) > 0.9 * len(outcomes)


def test_decoding_says_nothing_and_leaves_the_warning_filters_to_their_owner():
    # warnings.catch_warnings swaps them for the whole process, under the feet of other threads.
    code = (
        "import warnings\n"
        "from dripgate.media import decode, ImageInput\n"
        "from dripgate.errors import UnreadableError\n"
        "before, own = warnings.filters, list(warnings.filters)\n"
        f"for payload in ({huge_png(12_000, 9_000)!r}, b'II*\\0' + bytes(40)):\n"
        "    try: decode(payload, ImageInput(height=8, width=8, channels=3))\n"
        "    except UnreadableError as error: print(str(error).isascii())\n"
        "    assert warnings.filters is before and list(warnings.filters) == own\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stderr == ""


def test_encode_png_is_read_back():
    for shape, spec in [((10, 12), GREY), ((10, 12, 1), GREY), ((10, 12, 3), RGB)]:
        pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        assert (decode(encode_png(pixels), spec) == pixels.reshape(spec.shape)).all()


# Audio ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["WAV", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_16_bit_audio_comes_back_bit_for_bit(form):
    pcm = np.random.default_rng(0).integers(-32768, 32768, 800).astype(np.int16)
    pcm[:2] = -32768, 32767
    array = decode(wav(pcm, form=form), SOUND)
    assert array.dtype == np.int16
    assert (array == pcm).all()


def test_channels_are_averaged_and_floats_clipped():
    left, right = np.full(800, 0.5), np.full(800, 0.25)
    assert (decode(wav(np.stack([left, right], 1)), SOUND) == 0.375 * 32768).all()
    assert (decode(wav(np.full(800, 3.0), subtype="FLOAT"), SOUND) == 32767).all()


def test_short_is_padded_and_long_is_cut_at_the_end():
    pcm = np.arange(1, 1001, dtype=np.int16)
    assert (decode(wav(pcm), SOUND) == pcm[:800]).all()
    short = decode(wav(pcm[:300]), SOUND)
    assert (short[:300] == pcm[:300]).all()
    assert (short[300:] == 0).all()


@pytest.mark.parametrize("rates", [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 11025)])
def test_resampling_matches_scipy(rates):
    signal = np.random.default_rng(2).normal(size=3000)
    ratio = Fraction(*rates)
    expected = scipy.signal.resample_poly(signal, ratio.denominator, ratio.numerator)
    mine = resample(signal, ratio)
    assert mine.shape == expected.shape
    assert np.abs(mine - expected).max() < 2e-3 * np.abs(expected).max()


def test_another_rate_is_resampled_to_the_same_tone():
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    array = decode(wav(tone, 44100), AudioInput(rate=16000, length=16000)) / 32768
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(array - expected)[50:-50].max() < 2e-3


def test_a_long_recording_is_resampled_only_as_far_as_it_is_taken():
    tone = 0.5 * np.sin(np.arange(40_000) * 0.05)
    spec = AudioInput(rate=4000, length=500)
    whole = resample(np.rint(tone * 32767) / 32768, Fraction(2))[:500]
    assert np.abs(decode(wav(tone), spec) / 32768 - whole).max() < 1e-4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_audio_is_unreadable(bad):
    samples = np.zeros(800)
    samples[400] = bad
    with pytest.raises(UnreadableError, match="NaN or infinite"):
        decode(wav(samples, subtype="FLOAT"), SOUND)


def test_audio_limits_and_causes(recording):
    with pytest.raises(UnreadableError, match="10 s of audio, more than the limit of 5"):
        decode(recording(frames=80_000), SOUND, Limits(seconds=5))
    with pytest.raises(UnreadableError, match="no audio"):
        decode(wav(np.zeros(0)), SOUND)
    with pytest.raises(UnreadableError, match="100 Hz, expected 1,000 to 768,000"):
        decode(wav(np.zeros(10), 100), SOUND)
    with pytest.raises(UnreadableError, match="not audio: begins with b'RIFF"):
        decode(b"RIFF\0\0\0\0WEBPVP8 ", SOUND)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("WAV", {}),
        ("WAV", {"endian": "BIG"}),
        ("AIFF", {}),
        ("FLAC", {}),
        ("OGG", {"subtype": "VORBIS"}),
        ("OGG", {"subtype": "OPUS"}),
    ],
)
def test_truncated_recordings_are_unreadable(recording, form, options):
    whole = recording(frames=40_000, form=form, **options)
    spec = AudioInput(rate=8000, length=40_000)
    assert decode(whole, spec)[-100:].any()
    ends = {*range(1, len(whole) - 1, max(1, len(whole) // 60)), whole.rfind(b"OggS")} - {-1}
    for end in ends:
        with pytest.raises(UnreadableError):
            decode(whole[:end], spec)


def test_a_wav_written_to_a_pipe_says_no_length_and_is_read(recording):
    whole = bytearray(recording())
    whole[4:8] = b"\xff\xff\xff\xff"
    assert (decode(bytes(whole), SOUND) == decode(recording(), SOUND)).all()


def test_a_wav_whose_sizes_were_never_written_is_read_to_its_end(recording):
    """Case 26: a recorder that lost power, or wrote to a pipe."""
    expected = decode(recording(), SOUND)
    for riff, data in [(0, 0), (36, 0), (36, 2**32 - 1), (0, 2**31 - 1), (2**32 - 1, 2**32 - 1)]:
        whole = bytearray(recording())
        whole[4:8], whole[40:44] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
        assert (decode(bytes(whole), SOUND) == expected).all()
        assert probe(bytes(whole)) == AudioHeader(8000, 800, 1)


@pytest.mark.parametrize("told", [0, 2**64 - 1])
def test_the_same_of_a_wav_for_more_than_4_gb(told):
    pcm = np.arange(800, dtype=np.int16)
    whole = bytearray(wav(pcm, form="RF64"))
    whole[20:28] = whole[28:36] = told.to_bytes(8, "little")
    assert (decode(bytes(whole), SOUND) == pcm).all()


def test_a_riff_size_that_counts_its_own_header_is_no_truncation(recording):
    whole = bytearray(recording())
    whole[4:8] = len(whole).to_bytes(4, "little")
    assert (decode(bytes(whole), SOUND) == decode(recording(), SOUND)).all()
    with pytest.raises(UnreadableError, match="truncated audio"):
        decode(bytes(whole[:-2]), SOUND)


def test_a_wav_without_samples_but_with_a_note_stays_empty():
    empty = bytearray(wav(np.zeros(0)))
    empty += b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    empty[4:8] = (len(empty) - 8).to_bytes(4, "little")
    with pytest.raises(UnreadableError, match="no audio"):
        decode(bytes(empty), SOUND)


def test_a_flac_that_was_written_to_a_pipe_does_not_tell_its_length(recording):
    known = recording(frames=2000, form="FLAC")
    whole = bytearray(known)
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)  # the number of samples in STREAMINFO: 0 is "unknown"
    assert (decode(bytes(whole), SOUND) == decode(known, SOUND)).all()
    assert probe(bytes(whole)) == AudioHeader(8000, 0, 1)
    assert [window.at for window in windows(bytes(whole), SOUND)] == [0.0, 0.05, 0.1, 0.15]
    with pytest.raises(UnreadableError, match=r"s of audio, more than the limit of 0\.1"):
        list(windows(bytes(whole), SOUND, Limits(seconds=0.1)))


# Windows of long recordings ----------------------------------------------------------------------


@given(frames=st.integers(1, 5000), length=st.integers(50, 1200), overlap=st.sampled_from([0, 0.5]))
@example(frames=800, length=800, overlap=0.5)
@example(frames=801, length=800, overlap=0.5)
def test_windows_hear_every_frame_and_end_where_the_recording_does(frames, length, overlap):
    pcm = np.random.default_rng(frames).integers(-30000, 30000, frames).astype(np.int16)
    payload, spec = wav(pcm), AudioInput(rate=8000, length=length)
    found, heard = list(windows(payload, spec, overlap=overlap)), set()
    if frames <= length:
        assert found == [Window(0.0, payload, whole=True)]
        return
    for window in found:
        at = round(window.at * 8000)
        assert (decode(window.payload, spec) == pcm[at : at + length]).all()
        heard |= set(range(at, at + length))
    assert heard == set(range(frames))
    assert len({window.at for window in found}) == len(found)
    assert found[0].name("owl.wav") == "owl.wav@0.000s"


def test_windows_of_stereo_at_another_rate_are_mono_at_the_recording_s_rate(recording):
    payload = recording(rate=16000, frames=40_000, channels=2)
    found = list(windows(payload, SOUND))
    assert {probe(window.payload) for window in found} == {AudioHeader(16000, 1600, 1)}
    assert np.abs(decode(found[0].payload, SOUND)[:-20].astype(int)
                  - decode(payload, SOUND)[:-20]).max() <= 1  # fmt: skip


def test_what_is_no_long_recording_is_one_window(picture):
    for payload, spec in [(picture(), RGB), (npy(np.zeros((2, 3))), NUMBERS)]:
        (only,) = windows(payload, spec)
        assert only == Window(0.0, payload, whole=True)
        assert only.name("cat.png") == "cat.png"


def test_windows_before_the_damage_are_given():
    samples = np.zeros(400_000)
    samples[390_000] = np.nan
    found = windows(wav(samples, subtype="FLOAT"), SOUND)
    assert next(found).at == 0
    with pytest.raises(UnreadableError, match="NaN or infinite"):
        list(found)


# Arrays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_become_float32(dtype, order):
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype, order=order)
    array = decode(npy(values), NUMBERS)
    assert array.dtype == np.float32
    assert (array == values).all()


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        (npy(np.zeros((3, 2))), "shape (3, 2), expected (2, 3)"),
        (npy(np.full((2, 3), np.nan)), "NaN or infinite"),
        (npy(np.full((2, 3), 1e300)), "NaN or infinite"),
        (npy(np.zeros((2, 3), complex)), "dtype complex128"),
        (npy(np.full((2, 3), None, object)), "dtype object"),
        (npy(np.zeros((2, 3)))[:-1], "cannot be decoded"),
        (b"PK\x03\x04 an npz", "not a NumPy array"),
    ],
)
def test_other_arrays_are_unreadable(payload, cause):
    with pytest.raises(UnreadableError) as caught:
        decode(payload, NUMBERS)
    assert cause in str(caught.value)


# Headers, and hostile bytes ---------------------------------------------------------------------


def test_probe_reads_headers(picture, recording):
    assert probe(picture(size=(7, 5))) == ImageHeader(7, 5, grey=False)
    assert probe(picture(size=(7, 5), mode="L", form="JPEG")) == ImageHeader(7, 5, grey=True)
    assert probe(recording(channels=2)) == AudioHeader(8000, 800, 2)
    assert probe(npy(np.zeros((2, 3), "f4"))) == ArrayHeader((2, 3), np.dtype("f4"))
    with pytest.raises(UnreadableError):
        probe(b"neither")


def whole_or_unreadable(payload: bytes) -> None:
    """The property of promise 3: an array of the right kind, or UnreadableError in one line."""
    for spec in (RGB, GREY, SOUND, NUMBERS):
        try:
            array = decode(payload, spec)
            cut = [window.payload for window in windows(payload, spec)]
        except UnreadableError as error:
            assert str(error)
            assert "\n" not in str(error)
            assert "0x7f" not in str(error)
        else:
            assert array.shape == spec.shape
            assert array.dtype == spec.dtype
            assert array.dtype != np.float32 or np.isfinite(array).all()
            assert all(decode(part, spec).shape == spec.shape for part in cut)


@given(st.binary(max_size=300))
def test_random_bytes_never_escape(payload):
    whole_or_unreadable(payload)


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"P5\n",
       b"RIFF\xff\0\0\0WEBP", b"RIFF\xff\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"\x93NUMPY\x01\0"]),
       st.binary(max_size=200))  # fmt: skip
def test_random_bytes_after_a_true_beginning_never_escape(magic, payload):
    whole_or_unreadable(magic + payload)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_never_escape(picture, recording, data):
    kinds = ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "WAV", "FLAC", "OGG", "NPY"]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "NPY":
        payload = npy(np.ones((2, 3), "f4"))
    elif kind in ("WAV", "FLAC", "OGG"):
        payload = recording(form=kind, channels=2)
    else:
        payload = picture(form=kind)
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(0, 8))):
        position = data.draw(st.integers(0, min(len(damaged) - 1, 400)))
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(damaged)))
    whole_or_unreadable(bytes(damaged[:cut] if data.draw(st.booleans()) else damaged))
