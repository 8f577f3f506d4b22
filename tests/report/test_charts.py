"""Charts are read back from their SVG: axes from the tick labels, values from the pixels."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.gate_info import CurvePoint, Histogram
from dripgate.report import StreamHistogram, charts, colours, histogram_svg, tradeoff_svg
from dripgate.types import Decision, Thresholds

SVG = "{http://www.w3.org/2000/svg}"
ANY = Thresholds(low=(None,), high=(None,), quality_low=None)


def band(low, high):
    return Thresholds(low=low, high=high, quality_low=None)


def marks(root, kind, tag="path"):
    """Elements of the groups of a class."""
    return [
        e
        for group in root.iter(SVG + "g")
        if group.get("class") == kind
        for e in group.iter(SVG + tag)
    ]


def pixels(element):
    """The corners of a path, or the place of a mark."""
    if element.tag == SVG + "use":
        return np.array([[float(element.get("x")), float(element.get("y"))]])
    numbers = re.findall(r"-?[\d.]+", element.get("d"))
    return np.array(numbers, float).reshape(-1, 2)


def extent(element):
    """left, right, top, bottom"""
    x, y = pixels(element).T
    return x.min(), x.max(), y.min(), y.max()


def notes(root):
    return [t.text for t in marks(root, "note", "text")]


def number(text):
    value = float(text.removesuffix(" %").replace(",", "").replace("\u2212", "-"))
    return value / (100 if text.endswith("%") else 1)


def read_axis(root, across, log=False):
    """pixel → value, from the first and last tick label of an axis."""
    kind = "xtick" if across else "ytick"
    texts = [number(t.text) for t in marks(root, kind, "text")]
    if across:
        places = [float(u.get("x")) for u in marks(root, kind, "use")]
    else:
        places = [pixels(p)[0, 1] for p in marks(root, kind)]
    assert len(texts) == len(places) >= 2
    if log:
        texts = np.log(texts)
    slope = (texts[-1] - texts[0]) / (places[-1] - places[0])
    return lambda pixel: (math.exp if log else float)(texts[0] + slope * (pixel - places[0]))


def heights(root, kind):
    """The layer's lower and upper edge in the middle of every bin of STREAM, in samples."""
    count, score = read_axis(root, across=False), read_axis(root, across=True)
    (layer,) = marks(root, kind)
    corners = pixels(layer)
    found = []
    for middle in (0.5, 1.5, 2.5, 3.5):
        ends = []
        for (x0, y0), (x1, _) in pairwise(corners):
            left, right = sorted((score(x0), score(x1)))
            if left < middle < right:
                ends.append(count(y0))
        found.append((min(ends, default=0), max(ends, default=0)))
    return found


STREAM = StreamHistogram(
    edges=(0.0, 1.0, 2.0, 3.0, 4.0),
    kept=(0, 0, 30, 7),
    dropped=(40, 12, 0, 0),
    quarantined=(0, 3, 5, 0),
)


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_histogram_layers_have_the_counts_as_heights_one_upon_the_other(width):
    root = ET.fromstring(histogram_svg(STREAM, None, ANY, width=width))
    base = np.zeros(4)
    for kind in ("keep", "drop", "quarantine"):
        counts = {"keep": STREAM.kept, "drop": STREAM.dropped, "quarantine": STREAM.quarantined}
        found = np.array(heights(root, kind))
        drawn = np.array(counts[kind]) > 0
        assert found[drawn, 0] == pytest.approx(base[drawn], abs=0.1)
        base = base + counts[kind]
        assert found[drawn, 1] == pytest.approx(base[drawn], abs=0.1)
        assert np.ptp(found[~drawn], axis=1) == pytest.approx(0, abs=0.1)


def test_what_is_quarantined_is_striped_too():
    root = ET.fromstring(histogram_svg(STREAM, None, ANY))
    (layer,) = marks(root, "quarantine")
    (pattern,) = root.iter(SVG + "pattern")
    assert f"url(#{pattern.get('id')})" in layer.get("style")
    colours_used = {e.get("style").split(";")[0] for e in pattern}
    assert colours_used == {
        f"fill: {colours.LIGHT['quarantine_fill']}", f"fill: {colours.LIGHT['surface']}",
    }  # fmt: skip


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_every_label_lies_within_the_chart(width):
    calibration = Histogram(edges=STREAM.edges, counts=(1, 2, 3, 4))
    for drawn in (
        histogram_svg(STREAM, calibration, band((0.1,), (3.9,)), width=width),
        tradeoff_svg(CURVE, 0.95, 0.05, error=0.01, width=width),
        tradeoff_svg(CURVE, 0.95, 0.99, error=0.01, width=width),
    ):
        root = ET.fromstring(drawn)
        for text in root.iter(SVG + "text"):
            style, at, long = text.get("style"), float(text.get("x")), 6.3 * len(text.text)
            start = at - long * (1 if "end" in style else 0.5 if "middle" in style else 0)
            assert start >= -2, text.text
            assert start + long <= width + 2, text.text


def test_thresholds_and_band_stand_where_they_belong():
    root = ET.fromstring(histogram_svg(STREAM, None, band((1.5, 1.5), (3.25, 3.25))))
    score = read_axis(root, across=True)
    lines = [score(extent(line)[0]) for line in marks(root, "threshold")]
    assert lines == pytest.approx([1.5, 3.25], abs=0.01)
    outer, inner = marks(root, "band")
    for box in (outer, inner):
        left, right, *_ = extent(box)
        assert [score(left), score(right)] == pytest.approx([1.5, 3.25], abs=0.01)
    assert notes(root) == ["low 1.5", "high 3.25"]


def test_bounds_by_class_are_a_range_and_an_open_side_reaches_the_edge():
    root = ET.fromstring(histogram_svg(STREAM, None, band((1.0, 2.0, 1.5), (None, 3.5, 3.0))))
    score = read_axis(root, across=True)
    sides = [tuple(map(score, extent(box)[:2])) for box in marks(root, "band")]
    assert sides[0] == pytest.approx((1.0, 4.0), abs=0.01)  # what some class keeps
    assert sides[1] == pytest.approx((2.0, 3.0), abs=0.01)  # what every class keeps
    assert notes(root) == ["low 1 to 2 by class", "high 3 to 3.5 by class"]


def test_a_bound_beyond_the_scores_is_drawn_at_their_end():
    root = ET.fromstring(histogram_svg(STREAM, None, band((-7.0,), (90.0,))))
    score = read_axis(root, across=True)
    lines = [score(extent(line)[0]) for line in marks(root, "threshold")]
    assert lines == pytest.approx([0, 4], abs=0.01)
    assert notes(root) == ["low -7", "high 90"]


def test_the_outline_of_an_equal_distribution_runs_along_the_bars():
    totals = np.add(np.add(STREAM.kept, STREAM.dropped), STREAM.quarantined)
    calibration = Histogram(edges=STREAM.edges, counts=tuple((totals * 3).tolist()))
    root = ET.fromstring(histogram_svg(STREAM, calibration, ANY))
    assert [high for _, high in heights(root, "outline")] == pytest.approx(totals, abs=0.1)


def test_geometric_edges_are_drawn_on_a_logarithmic_axis():
    edges = tuple(np.geomspace(1e-4, 1, 9).tolist())
    stream = StreamHistogram(
        edges=edges, kept=tuple(range(1, 9)), dropped=(0,) * 8, quarantined=(0,) * 8
    )
    root = ET.fromstring(histogram_svg(stream, None, band((0.003,), (None,))))
    score = read_axis(root, across=True, log=True)
    (layer,) = marks(root, "keep")
    steps = sorted({score(x) for x in pixels(layer)[:, 0]})
    assert steps == pytest.approx(edges, rel=0.01)
    (line,) = marks(root, "threshold")
    assert score(extent(line)[0]) == pytest.approx(0.003, rel=0.01)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=30).filter(any),
    st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=30, unique=True),
)
def test_outline_holds_all_calibration_samples_whatever_the_bins(counts, edges):
    calibration = Histogram(edges=tuple(np.linspace(-2, 2, len(counts) + 1)), counts=tuple(counts))
    outline = charts._outline(calibration, np.sort(np.array(edges, np.float64)), 1000.0)
    assert outline.sum() == pytest.approx(1000)
    assert (outline >= 0).all()


CURVE = tuple(CurvePoint(keep=k, expected=e, random=r, signal=k)
              for k, e, r in ((1.0, 0.95, 0.95), (0.1, 0.91, 0.9), (0.5, 0.955, 0.93)))  # fmt: skip


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_tradeoff_lines_show_the_points_given(width):
    root = ET.fromstring(tradeoff_svg(CURVE, 0.95, 0.3, error=0.004, width=width))
    keep, accuracy = read_axis(root, across=True), read_axis(root, across=False)

    def read(element):
        return [(keep(x), accuracy(y)) for x, y in pixels(element)]

    def close(found, expected):
        assert np.array(found) == pytest.approx(np.array(expected), abs=2e-3)
        assert np.array(found)[:, 1] == pytest.approx(np.array(expected)[:, 1], abs=1e-4)

    ours = [(0.1, 0.91), (0.5, 0.955), (1, 0.95)]
    close(read(marks(root, "ours")[0]), ours)
    close(read(marks(root, "random")[0]), [(0.1, 0.9), (0.5, 0.93), (1, 0.95)])
    dots = marks(root, "dot", "use")
    close([read(dot)[0] for dot in dots], ours)
    assert [dot.find(SVG + "title").text for dot in dots] == [
        "10 % kept: 0.910, random 0.900",
        "50 % kept: 0.955, random 0.930",
        "100 % kept: 0.950, random 0.950",
    ]
    _, _, high, low = extent(marks(root, "error")[0])
    assert [accuracy(low), accuracy(high)] == pytest.approx([0.946, 0.954], abs=1e-4)
    _, _, full, _ = extent(marks(root, "full")[0])
    assert accuracy(full) == pytest.approx(0.95, abs=1e-4)
    (ring,) = marks(root, "chosen", "use")
    close(read(ring), [(0.3, 0.9325)])
    assert notes(root) == ["chosen: 30 % kept, 0.932"]


@pytest.mark.parametrize(
    "curve",
    [
        (),
        CURVE[:1],
        (CurvePoint(keep=0.5, expected=math.nan, random=0.5, signal=0.1),),
        CURVE[:1] * 3,
    ],
)
@pytest.mark.parametrize("full", [0.95, math.nan])
def test_tradeoff_of_little_or_nothing_is_still_a_picture(curve, full):
    root = ET.fromstring(tradeoff_svg(curve, full, 0.3))
    assert "nan" not in ET.tostring(root, encoding="unicode")
    drawn = any(math.isfinite(point.expected) for point in curve)
    assert bool(marks(root, "ours")) == drawn
    assert drawn or "no trade-off curve was recorded" in root.find(SVG + "desc").text


def test_every_chart_has_a_title_a_description_and_only_alone_a_style():
    for make in (
        lambda **k: histogram_svg(STREAM, None, ANY, **k),
        lambda **k: tradeoff_svg(CURVE, 0.95, 0.3, **k),
        lambda **k: histogram_svg(None, None, ANY, **k),
    ):
        alone, inline = ET.fromstring(make()), ET.fromstring(make(standalone=False))
        assert "prefers-color-scheme: dark" in alone.find(SVG + "style").text
        assert inline.find(SVG + "style") is None
        for root in (alone, inline):
            assert root.find(SVG + "title").text in root.get("aria-label")
            assert root.find(SVG + "desc").text
            assert root.get("role") == "img"


def test_a_histogram_without_extent_says_so():
    flat = Histogram(edges=(0.25, 0.25), counts=(9,))
    root = ET.fromstring(histogram_svg(None, flat, ANY))
    assert root.find(SVG + "desc").text == "every score is 0.25"


def test_inspect_draws_the_calibration_alone():
    calibration = Histogram(edges=(0.0, 1.0, 2.0), counts=(12, 4))
    root = ET.fromstring(histogram_svg(None, calibration, band((1.0,), (None,))))
    count = read_axis(root, across=False)
    steps = {round(count(y), 1) for y in pixels(marks(root, "outline")[0])[:, 1]}
    assert {12, 4} <= steps <= {12, 4, 0}
    assert not marks(root, "keep")


scores = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(scores, st.sampled_from(Decision)), max_size=40))
def test_every_sample_is_in_the_histogram_or_counted_as_unscored(samples):
    values = [score for score, _ in samples]
    histogram = StreamHistogram.of(values, [decision for _, decision in samples], bins=7)
    finite = [decision for score, decision in samples if math.isfinite(score)]
    assert sum(histogram.kept) == finite.count(Decision.KEEP)
    assert sum(histogram.dropped) == finite.count(Decision.DROP)
    assert sum(histogram.quarantined) == finite.count(Decision.QUARANTINE)
    assert histogram.unscored == len(samples) - len(finite)
    assert (np.diff(histogram.edges) > 0).all()
    drawn = histogram_svg(histogram, None, ANY)
    ET.fromstring(drawn)
    assert "nan" not in drawn.lower().replace("quarantine", "")


def test_a_long_tail_gets_geometric_bins_and_a_bell_linear_ones():
    rng = np.random.default_rng(0)
    kept = [Decision.KEEP] * 4000
    tail = StreamHistogram.of(rng.lognormal(0, 3, 4000), kept)
    bell = StreamHistogram.of(rng.normal(5, 1, 4000), kept)
    ratios, steps = np.divide(tail.edges[1:], tail.edges[:-1]), np.diff(bell.edges)
    assert ratios == pytest.approx(np.full_like(ratios, ratios[0]))
    assert steps == pytest.approx(np.full_like(steps, steps[0]))
    assert max(tail.kept) < 400  # linear bins would put nearly all of them into the first


def test_histogram_refuses_counts_that_do_not_fit_the_edges():
    with pytest.raises(ValueError, match="3 counts in 'kept' for 3 edges"):
        StreamHistogram(edges=(0.0, 1.0, 2.0), kept=(1, 2, 3), dropped=(0, 0), quarantined=(0, 0))


def test_waveform_reaches_its_extremes_and_survives_silence():
    wave = np.zeros(1000, np.int16)
    wave[500], wave[900] = 20000, -10000
    root = ET.fromstring(charts.waveform_svg(wave, columns=100, height=55))
    points = pixels(marks(root, "wave")[0])  # the peak is 25 from the middle, and 0.5 thick
    assert points[points[:, 1].argmin()] == pytest.approx([50, 2], abs=0.1)  # the peak, upwards
    assert points[points[:, 1].argmax()] == pytest.approx([90, 40.5], abs=0.1)  # half as deep
    for odd in (
        np.zeros(5, np.int16),
        np.zeros(0, np.int16),
        np.array([np.nan, 1.0]),
        np.int16([-32768]),
    ):
        assert "nan" not in charts.waveform_svg(odd)


def test_a_chart_is_text_and_lines_alone_and_the_same_every_time():
    drawn = histogram_svg(STREAM, Histogram(STREAM.edges, (1, 2, 3, 4)), band((1.0,), (3.0,)))
    assert drawn == histogram_svg(
        STREAM, Histogram(STREAM.edges, (1, 2, 3, 4)), band((1.0,), (3.0,))
    )
    assert not re.search(r"font-family|metadata|<!|<\?|xlink|<script|url\((?!#)", drawn)
    assert set(re.findall(r"https?://[^\"'<\s]*", drawn)) == {"http://www.w3.org/2000/svg"}
    said = {t.text for t in ET.fromstring(drawn).iter(SVG + "text")}
    assert {"kept", "dropped", "quarantined", "kept band", "DRIP score"} <= said
    assert "calibration, scaled to the stream" in said
    assert len(drawn) < 10_000


def test_a_dark_screen_finds_every_colour_that_a_chart_has():
    calibration = Histogram(STREAM.edges, (1, 2, 3, 4))
    for drawn in (
        histogram_svg(STREAM, calibration, band((1.0,), (3.0,)), standalone=False),
        tradeoff_svg(CURVE, 0.95, 0.3, error=0.01, standalone=False),
        charts.waveform_svg(np.arange(9)),
    ):
        used = set(re.findall(r"(?:fill|stroke): #\w+", drawn))
        assert used
        assert all(f'[style*="{colour}"]' in colours.chart_css() for colour in used)
        # what a <use> shows is out of reach for the style sheet, so it brings no colour itself
        assert not re.search(r"<defs><path[^>]*#", drawn)


def contrast(one, other):
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [colours.LIGHT, colours.DARK])
def test_text_is_legible_and_bars_differ_in_lightness(palette):
    for text in ("ink", "muted", "keep", "drop", "quarantine"):
        assert contrast(palette[text], palette["surface"]) >= 4.5
        assert contrast(palette[text], palette["page"]) >= 4.5
    assert contrast(palette["keep_fill"], palette["drop_fill"]) >= 2
    assert contrast(palette["keep_fill"], palette["surface"]) >= 3
