"""Pictures that look whole and are not, take too much memory, or have more bits than eight."""

import io
import re
import struct
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dripgate.data import infer, load, open_source
from dripgate.errors import UnreadableError
from dripgate.media import Limits, decode, levels, probe, remarks
from dripgate.types import ImageInput, InputSpec

RGB = ImageInput(height=32, width=32, channels=3)
GREY = ImageInput(height=32, width=32, channels=1)


def saved(image: Image.Image, form="JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def scene(seed=0, size=(320, 240), mode="RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def refused(payload: bytes, spec=RGB) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(payload, spec)
    return str(caught.value)


# Half of a JPEG (case 24) ------------------------------------------------------------------------

JPEGS = [
    {"mode": mode, "subsampling": sub, "optimize": optimize, **restarts}
    for mode in ("RGB", "L")
    for sub in (0, 2)
    for optimize in (False, True)
    for restarts in ({}, {"restart_marker_rows": 2})
]


@pytest.mark.parametrize("options", JPEGS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_that_was_closed_early_is_unreadable(options, share):
    options = dict(options)
    whole = saved(scene(mode=options.pop("mode")), quality=90, **options)
    decode(whole, RGB)
    cut = whole[: int(share * len(whole))].rstrip(b"\xff") + b"\xff\xd9"
    assert refused(cut).startswith("lost in part: its data ends before the picture does")


@pytest.mark.parametrize("side", [20, 320, 2000])
def test_at_every_scale_of_decoding(side):
    whole = saved(scene(size=(2048, 1536)), quality=90)
    spec = ImageInput(height=side, width=side, channels=3)
    decode(whole, spec)
    cut = whole[: len(whole) // 2].rstrip(b"\xff") + b"\xff\xd9"
    assert "lost in part" in refused(cut, spec)


def test_a_jpeg_with_clusters_of_zeros_is_unreadable():
    whole = saved(scene(size=(1024, 768)), quality=90)
    begin = len(whole) // 2
    assert refused(whole[:begin] + bytes(4096) + whole[begin + 4096 :]) == (
        "lost in part: 512 or more zeros within its data, as a card leaves them"
    )
    for size in (len(whole), 4 * len(whole)):
        lost = whole[:begin] + bytes(size - begin)
        assert re.match("lost in part|.*truncated", refused(lost))


@pytest.mark.parametrize("behind", [bytes(4096), bytes(4096) + b"\xff\xd9", saved(scene(1))])
def test_what_lies_behind_a_jpeg_is_no_damage_and_hides_none(behind):
    """Cameras pad to whole sectors, and append a preview or a film."""
    whole = saved(scene(size=(640, 480)), quality=90)
    assert (decode(whole + behind, RGB) == decode(whole, RGB)).all()
    cut = whole[: len(whole) // 2].rstrip(b"\xff") + b"\xff\xd9"
    assert "lost in part" in refused(cut + behind)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 255),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 3]),
    st.sampled_from([(64, 64), (700, 1100)]),
)
def test_what_is_flat_or_grey_is_whole(level, mode, optimize, progressive, restarts, size):
    image = Image.new(mode, size, level if mode == "L" else (level,) * len(mode))
    half = image.copy()
    half.paste(scene(size=(size[0], size[1] // 2), mode=mode))
    options = {"restart_marker_blocks": restarts} if restarts else {}
    for picture in (image, half):
        decode(saved(picture, optimize=optimize, progressive=progressive, **options), RGB)


# Memory (case 34) --------------------------------------------------------------------------------


def test_a_picture_that_takes_too_much_memory_is_refused_before_it_is_decoded():
    payload = saved(Image.new("RGB", (6000, 6000)), "WEBP", lossless=True, method=0)
    assert len(payload) < 10_000
    assert refused(payload) == (
        "612,000,000 bytes to decode 6,000 × 6,000 pixels of WEBP, more than the limit of "
        "268,435,456"
    )
    assert decode(payload, RGB, Limits(decoded_bytes=1 << 30)).shape == (32, 32, 3)


def test_a_large_jpeg_is_decoded_at_a_smaller_scale():
    payload = saved(Image.new("RGB", (7000, 7000)), quality=50)
    assert decode(payload, RGB, Limits(decoded_bytes=8 << 20)).shape == (32, 32, 3)
    large = ImageInput(height=7000, width=7000, channels=3)
    with pytest.raises(UnreadableError, match=r"pixels of JPEG, more than the limit"):
        decode(payload, large, Limits(decoded_bytes=8 << 20))
    progressive = saved(Image.new("RGB", (7000, 7000)), quality=50, progressive=True)
    with pytest.raises(UnreadableError, match="more than the limit"):
        decode(progressive, RGB)


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("PNG", "P"), ("PNG", "I;16"), ("WEBP", "RGB"),
     ("WEBP", "RGBA"), ("TIFF", "RGB"), ("GIF", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK")],
)  # fmt: skip
def test_memory_stays_below_what_the_header_says(tmp_path, form, mode):
    """Of everything that passes the limit: it never takes more than the limit while decoded."""
    image = Image.new(mode, (3000, 3000), 1 if mode in ("L", "P", "I;16") else (1,) * len(mode))
    path = tmp_path / "picture"
    options = {"method": 0} if form == "WEBP" else {}
    path.write_bytes(saved(image, form, **options))
    code = (
        "import resource, sys\n"
        "from dripgate.media import decode, ImageInput, Limits\n"
        "from dripgate.errors import UnreadableError\n"
        "payload = open(sys.argv[1], 'rb').read()\n"
        "spec = ImageInput(height=8, width=8, channels=3)\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "for low in range(0, 40):\n"  # the smallest limit that lets it pass, in bytes per pixel
        "    before = peak()\n"
        "    try: decode(payload, spec, Limits(decoded_bytes=low * 9_000_000))\n"
        "    except UnreadableError: continue\n"
        "    print((peak() - before) / 9_000_000, low); break\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                          check=True)  # fmt: skip
    taken, allowed = map(float, done.stdout.split())
    assert taken < allowed + 1


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded():
    whole = saved(Image.new("L", (500, 500)), progressive=True)
    scan = whole[whole.index(b"\xff\xda") : -2]
    bomb = whole[:-2] + scan * 2000 + b"\xff\xd9"
    assert "scans, more than the limit of 100" in refused(bomb, GREY)


# What is no picture of its own -------------------------------------------------------------------


def tiff(tags: list[tuple[int, int, int]], pixels: bytes = bytes(256)) -> bytes:
    """A grey TIFF of 16 × 16 with more tags (number, type, value)."""
    base = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8),
            (277, 3, 1), (278, 4, 16), (279, 4, 256)]  # fmt: skip
    entries = sorted(base + tags)
    ifd = struct.pack("<H", len(entries))
    for number, kind, value in entries:
        ifd += struct.pack("<HHII", number, kind, 1 if kind != 1 else 4, value)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + ifd + bytes(4)


def test_a_raw_photograph_is_not_its_thumbnail():
    """Case 50: DNG and NEF begin with a small copy of the picture."""
    assert probe(tiff([])).width == 16
    assert probe(tiff([(254, 4, 0)])).width == 16
    for payload in (tiff([(254, 4, 1)]), tiff([(50706, 1, 0x0401)])):
        for read in (probe, lambda payload: decode(payload, GREY)):
            with pytest.raises(UnreadableError, match=r"a raw photograph, .*give its JPEG"):
                read(payload)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_heic_is_called_by_its_name(brand):
    assert refused(b"\0\0\0\x18ftyp" + brand + bytes(40)) == (
        "a HEIC or AVIF picture; convert it to JPEG"
    )


def test_rotations_are_remarked_on():
    """Case 49."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = saved(scene(), exif=exif), saved(scene())
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        there = saved(scene(), form, exif=exif)
        assert remarks(there, RGB) == ["an EXIF rotation, which is not applied"]
        assert remarks(saved(scene(), form), RGB) == []
    assert (decode(turned, RGB) == decode(plain, RGB)).all()
    exif[0x0112] = 1
    for payload in (plain, saved(scene(), exif=exif), b"text"):
        assert remarks(payload, RGB) == []


# More than eight bits (case 22) ------------------------------------------------------------------


def thermal(seed=0, low=29300, high=29520) -> bytes:
    """Counts of a radiometric camera: a small part of 16 bits."""
    values = np.random.default_rng(seed).integers(low, high + 1, (40, 40)).astype(np.uint16)
    return saved(Image.fromarray(values), "PNG")


@pytest.fixture
def hot(tree):
    return tree({f"{c}/{i}.png": thermal(100 * k + i) for k, c in enumerate("ab")
                 for i in range(30)})  # fmt: skip


def test_16_bit_pictures_are_spread_over_the_values_they_use(hot):
    found = infer(open_source(hot))
    assert isinstance(found.spec, ImageInput)
    assert found.spec.range is not None
    low, high = found.spec.range
    assert 29270 <= low < 29301
    assert 29519 < high <= 29550
    (note,) = found.notes
    assert note.startswith("16-bit pictures with values from 29,300 to 29,5")
    assert "--levels LOW,HIGH overrules that" in note
    decoded = decode(thermal(), found.spec)
    assert len(np.unique(decoded)) > 150
    assert len(np.unique(decode(thermal(), GREY))) <= 2
    assert load(hot).input == found.spec


def test_pictures_that_use_most_of_16_bits_keep_their_upper_8(tree):
    files = {f"{c}/{i}.png": thermal(i, 0, 65535) for c in "ab" for i in range(3)}
    found = infer(open_source(tree(files)))
    assert isinstance(found.spec, ImageInput)
    assert found.spec.range is None
    assert "the upper 8 bits are used" in found.notes[0]


@given(st.integers(0, 60_000), st.integers(1, 5_000), st.integers(0, 65_535))
def test_a_range_maps_its_ends_to_black_and_white(low, width, value):
    high = min(low + width, 65_535)
    spec = ImageInput(height=1, width=1, channels=1, range=(low, high))
    payload = saved(Image.fromarray(np.array([[value]], np.uint16)), "PNG")
    expected = np.clip((value - low) / (high - low), 0, 1) * 255
    assert abs(int(decode(payload, spec)[0, 0, 0]) - expected) <= 0.5


def test_a_range_leaves_pictures_of_8_bits_alone():
    payload = saved(scene(mode="L"), "PNG")
    ranged = ImageInput(height=32, width=32, channels=1, range=(100, 200))
    assert (decode(payload, ranged) == decode(payload, GREY)).all()
    assert levels(payload) is None


def test_an_input_without_a_range_is_written_as_before():
    assert msgspec.json.encode(GREY) == b'{"kind":"image","height":32,"width":32,"channels":1}'
    for spec in (GREY, ImageInput(height=1, width=1, channels=1, range=(3, 4))):
        assert msgspec.json.decode(msgspec.json.encode(spec), type=InputSpec) == spec


def test_colour_of_16_bits_is_remarked_on():
    values = np.zeros((4, 4, 3), np.uint8)
    payload = bytearray(saved(Image.fromarray(values), "PNG"))
    assert remarks(bytes(payload), RGB) == []
    payload[24] = 16  # the bit depth in the header
    assert remarks(bytes(payload), RGB) == [
        "colour of 16 bits per channel, of which the upper 8 are used"
    ]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bits_that_a_model_has_no_range_for_are_remarked_on(form):
    values = np.full((9, 9), 29_400, np.uint16)
    payload = saved(Image.fromarray(values), form)
    assert remarks(payload, GREY) == [
        "16 bits per pixel, of which the upper 8 are used (see --levels)"
    ]
    assert remarks(payload, ImageInput(height=9, width=9, channels=1, range=(1, 2))) == []
    assert remarks(saved(Image.new("L", (9, 9)), form), GREY) == []
