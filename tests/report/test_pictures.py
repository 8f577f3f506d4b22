import base64
import io

import numpy as np
import pytest
from PIL import Image

from dripgate.heatmap import EMPTY
from dripgate.report import pictures


def decode(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), np.int16)


def grey(value, height=48, width=48):
    return np.full((height, width, 3), value, np.uint8)


def test_plain_picture_is_the_sample_pixel_for_pixel():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert (decode(pictures.plain_uri(rgb)) == rgb).all()


def test_large_pictures_are_reduced_and_keep_their_aspect():
    for uri in (
        pictures.plain_uri(grey(9, 600, 300)),
        pictures.overlay_uri(grey(9, 600, 300), np.eye(4)),
    ):
        assert decode(uri).shape == (pictures.SIDE, pictures.SIDE // 2, 3)


def test_heatmap_lies_where_its_cells_are_and_leaves_the_rest():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 0.02
    changed = np.abs(decode(pictures.overlay_uri(grey(0), heat))).sum(axis=2)
    top_right, rest = changed[:20, -20:], changed[48:]
    assert top_right.max() > 300
    assert changed.max() == top_right.max()
    assert rest.max() <= 6  # the palette rounds


def test_overlay_does_not_depend_on_the_heatmaps_magnitude():
    heat = np.random.default_rng(1).random((5, 5)).astype(np.float32)
    assert pictures.overlay_uri(grey(80), heat) == pictures.overlay_uri(grey(80), heat * 1024)


@pytest.mark.parametrize(
    "heat",
    [
        np.zeros((4, 4)),
        np.zeros((0, 0)),
        np.zeros((0, 5)),
        np.full((3, 3), np.nan),
        np.full((2, 2), EMPTY / 2),
    ],
)
def test_empty_heatmap_leaves_the_sample_as_it_is(heat):
    assert (decode(pictures.overlay_uri(grey(80), heat.astype(np.float32))) == 80).all()


def test_small_samples_are_enlarged_in_whole_pixels_under_the_heatmap():
    rgb = np.random.default_rng(4).integers(0, 256, (8, 8, 3), np.uint8)
    empty = np.zeros((4, 4), np.float32)
    found = decode(pictures.overlay_uri(rgb, empty))
    assert (
        np.abs(found - rgb.repeat(12, axis=0).repeat(12, axis=1)).max() <= 4
    )  # the palette rounds


def test_one_cell_and_not_finite_cells():
    assert (
        (decode(pictures.overlay_uri(grey(0), np.ones((1, 1), np.float32))) > 0).any(axis=2).all()
    )
    heat = np.array([[np.nan, 2.0], [np.inf, 0.5]], np.float32)
    assert pictures.peak(heat) == 2.0
    assert decode(pictures.overlay_uri(grey(0), heat)).shape == (96, 96, 3)
    assert pictures.peak(np.zeros((0, 0), np.float32)) is None


def test_sound_has_time_to_the_right_and_low_bins_below():
    heat = np.zeros((10, 6), np.float32)
    heat[9, 0] = 1  # the last frame, the lowest bin
    lit = decode(pictures.heat_uri(heat)).sum(axis=2)
    row, column = np.unravel_index(lit.argmax(), lit.shape)
    assert row > 0.8 * lit.shape[0]
    assert column > 0.9 * lit.shape[1]


def test_channels():
    rng = np.random.default_rng(2)
    four = rng.integers(0, 256, (5, 6, 4), np.uint8)
    assert (pictures.as_rgb(four) == four[..., :3]).all()
    for grey_one in (four[..., 0], four[..., :1], four[..., :2]):
        assert (pictures.as_rgb(grey_one) == four[..., :1]).all()
    for other in (
        np.zeros((5, 5), np.float32),
        np.zeros(5, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ):
        assert pictures.as_rgb(other) is None
