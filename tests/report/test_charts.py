"""Charts are read back from their SVG: axes from the tick labels, values from the pixels."""

import math
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dripgate.gate_info import CurvePoint, Histogram
from dripgate.report import StreamHistogram, charts, histogram_svg, svg, tradeoff_svg
from dripgate.types import Decision, Thresholds

SVG = "{http://www.w3.org/2000/svg}"
ANY = Thresholds(low=(None,), high=(None,), quality_low=None)


def band(low, high):
    return Thresholds(low=low, high=high, quality_low=None)


def marks(root, tag, kind):
    return [e for e in root.iter(SVG + tag) if kind in e.get("class", "").split()]


def pixels(element):
    return np.array([[float(v) for v in p.split(",")] for p in element.get("points").split()])


def number(text):
    return float(text.removesuffix(" %").replace(",", "")) / (100 if text.endswith("%") else 1)


def read_axis(root, across, log=False):
    """pixel → value, from the first and last tick label of an axis."""
    texts = list(root.iter(SVG + "text"))
    if across:
        floor = marks(root, "line", "axis")[0].get("y1")
        ticks = [
            t
            for t in texts
            if t.get("text-anchor") == "middle" and float(t.get("y")) == float(floor) + 18
        ]
        places = [float(t.get("x")) for t in ticks]
    else:
        ticks = [t for t in texts if t.get("text-anchor") == "end" and t.get("x") == "48"]
        places = [float(t.get("y")) - 4 for t in ticks]
    values = [number(t.text) for t in ticks]
    assert len(values) >= 2
    if log:
        values = np.log(values)
    slope = (values[-1] - values[0]) / (places[-1] - places[0])
    return lambda pixel: (math.exp if log else float)(values[0] + slope * (pixel - places[0]))


STREAM = StreamHistogram(
    edges=(0.0, 1.0, 2.0, 3.0, 4.0),
    kept=(0, 0, 30, 7),
    dropped=(40, 12, 0, 0),
    quarantined=(0, 3, 5, 0),
)


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_histogram_bars_have_the_counts_as_heights(width):
    root = ET.fromstring(histogram_svg(STREAM, None, ANY, width=width))
    count, score = read_axis(root, across=False), read_axis(root, across=True)
    for kind, counts in (
        ("keep", STREAM.kept),
        ("drop", STREAM.dropped),
        ("quarantine", STREAM.quarantined),
    ):
        bars = [r for r in marks(root, "rect", kind) if float(r.get("y")) > 60]  # not the legend
        read = {
            round(score(float(r.get("x")))): count(0) - count(float(r.get("height"))) for r in bars
        }
        assert read == pytest.approx({i: n for i, n in enumerate(counts) if n}, abs=0.05)
        assert {r.get("y") for r in bars} != set()
    # stacked: kept at the bottom, then dropped, then quarantined
    third = [
        r
        for r in root.iter(SVG + "rect")
        if round(score(float(r.get("x") or 0))) == 2 and r.get("y")
    ]
    ends = {
        r.get("class"): (
            count(float(r.get("y")) + float(r.get("height"))),
            count(float(r.get("y"))),
        )
        for r in third
    }
    assert ends["keep"] == pytest.approx((0, 30), abs=0.1)
    assert ends["quarantine"] == pytest.approx((30, 35), abs=0.1)


def test_thresholds_and_band_stand_where_they_belong():
    root = ET.fromstring(histogram_svg(STREAM, None, band((1.5, 1.5), (3.25, 3.25))))
    score = read_axis(root, across=True)
    lines = [
        score(float(line.get("x1")))
        for line in marks(root, "line", "threshold")
        if float(line.get("y2")) > 100
    ]
    assert lines == pytest.approx([1.5, 3.25], abs=0.01)
    (outer, inner) = [r for r in marks(root, "rect", "band") if float(r.get("height")) > 20]
    for box in (outer, inner):
        assert score(float(box.get("x"))) == pytest.approx(1.5, abs=0.01)
        assert score(float(box.get("x")) + float(box.get("width"))) == pytest.approx(3.25, abs=0.01)
    texts = [t.text for t in marks(root, "text", "keep")]
    assert texts == ["low 1.5", "high 3.25"]


def test_bounds_by_class_are_a_range_and_an_open_side_reaches_the_edge():
    root = ET.fromstring(histogram_svg(STREAM, None, band((1.0, 2.0, 1.5), (None, 3.5, 3.0))))
    score = read_axis(root, across=True)
    boxes = [r for r in marks(root, "rect", "band") if float(r.get("height")) > 20]
    sides = [
        (score(float(b.get("x"))), score(float(b.get("x")) + float(b.get("width")))) for b in boxes
    ]
    assert sides[0] == pytest.approx((1.0, 4.0), abs=0.01)  # what some class keeps
    assert sides[1] == pytest.approx((2.0, 3.0), abs=0.01)  # what every class keeps
    assert [t.text for t in marks(root, "text", "keep")] == [
        "low 1 to 2 by class",
        "high 3 to 3.5 by class",
    ]


def test_the_outline_of_an_equal_distribution_runs_along_the_bars():
    totals = np.add(np.add(STREAM.kept, STREAM.dropped), STREAM.quarantined)
    calibration = Histogram(edges=STREAM.edges, counts=tuple((totals * 3).tolist()))
    root = ET.fromstring(histogram_svg(STREAM, calibration, ANY))
    count, score = read_axis(root, across=False), read_axis(root, across=True)
    steps = pixels(marks(root, "polyline", "outline")[0])
    assert [count(y) for y in steps[::2, 1]] == pytest.approx(totals.tolist(), abs=0.1)
    assert [score(x) for x in steps[::2, 0]] == pytest.approx(STREAM.edges[:-1], abs=0.01)


def test_geometric_edges_are_drawn_on_a_logarithmic_axis():
    edges = tuple(np.geomspace(1e-4, 1, 9).tolist())
    stream = StreamHistogram(edges=edges, kept=(1,) * 8, dropped=(0,) * 8, quarantined=(0,) * 8)
    root = ET.fromstring(histogram_svg(stream, None, band((0.003,), (None,))))
    score = read_axis(root, across=True, log=True)
    bars = [r for r in marks(root, "rect", "keep") if float(r.get("y")) > 60]
    assert [score(float(r.get("x"))) for r in bars] == pytest.approx(edges[:-1], rel=0.01)
    (line,) = (m for m in marks(root, "line", "threshold") if float(m.get("y2")) > 100)
    assert score(float(line.get("x1"))) == pytest.approx(0.003, rel=0.01)


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

    close(read(marks(root, "polyline", "ours")[0]), [(0.1, 0.91), (0.5, 0.955), (1, 0.95)])
    close(read(marks(root, "polyline", "random")[0]), [(0.1, 0.9), (0.5, 0.93), (1, 0.95)])
    (around,) = marks(root, "rect", "error")
    high = float(around.get("y"))
    low = high + float(around.get("height"))
    assert [accuracy(low), accuracy(high)] == pytest.approx([0.946, 0.954], abs=1e-4)
    full = marks(root, "line", "full")[-1]  # the first is in the legend
    assert accuracy(float(full.get("y1"))) == pytest.approx(0.95, abs=1e-4)
    (ring,) = marks(root, "circle", "chosen")
    close([(keep(float(ring.get("cx"))), accuracy(float(ring.get("cy"))))], [(0.3, 0.9325)])
    assert marks(root, "text", "keep")[0].text == "chosen: 30 % kept, 0.932"


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
    assert bool(marks(root, "polyline", "ours")) == drawn
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
    steps = pixels(marks(root, "polyline", "outline")[0])
    assert [count(y) for y in steps[::2, 1]] == pytest.approx([12, 4], abs=0.05)


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


def test_share_bars_are_as_long_as_their_shares():
    root = ET.fromstring(
        charts.share_svg([("keep", 0.25), ("quarantine", 0), ("drop", 0.5)], "cat")
    )
    boxes = {r.get("class"): (r.get("x"), r.get("width")) for r in root.iter(SVG + "rect")}
    assert boxes == {
        "track": (None, "100%"),
        "keep": ("0.00%", "25.00%"),
        "drop": ("25.00%", "50.00%"),
    }
    assert root.get("aria-label").startswith("cat: keep 25 %, quarantine 0 %, drop 50 %")


def test_dots_share_one_axis():
    def centre(value):
        root = ET.fromstring(charts.dot_svg(value, 0.8, 1.0, 0.05, "full", "hollow"))
        whisker = marks(root, "line", "whisker")[0]
        return [
            float(e.rstrip("%"))
            for e in (
                marks(root, "circle", "hollow")[0].get("cx"),
                whisker.get("x1"),
                whisker.get("x2"),
            )
        ]

    assert centre(0.9) == pytest.approx([50, 26.5, 73.5])
    assert centre(0.8) == pytest.approx([3, 3, 26.5])


def test_waveform_reaches_its_extremes_and_survives_silence():
    wave = np.zeros(1000, np.int16)
    wave[500], wave[900] = 20000, -10000
    points = pixels(
        marks(ET.fromstring(charts.waveform_svg(wave, columns=100, height=56)), "polygon", "wave")[
            0
        ]
    )
    assert points[points[:, 1].argmin()] == pytest.approx([50, 1.5])  # the peak, upwards
    assert points[points[:, 1].argmax()] == pytest.approx([90, 41.5])  # half as deep
    for odd in (
        np.zeros(5, np.int16),
        np.zeros(0, np.int16),
        np.array([np.nan, 1.0]),
        np.int16([-32768]),
    ):
        assert "nan" not in charts.waveform_svg(odd)


@given(st.floats(-1e6, 1e6), st.floats(1e-5, 1e6), st.integers(2, 8))
def test_ticks_lie_on_the_axis_and_are_told_apart(low, extent, wanted):
    axis = svg.Axis(low, low + extent, 0, 100)
    if axis.high - axis.low < 1e-6 * max(abs(axis.low), abs(axis.high)):
        return  # such axes are widened before they are drawn
    ticks = axis.ticks(wanted)
    slack = 1e-6 * extent
    assert all(axis.low - slack <= value <= axis.high + slack for value, _ in ticks)
    assert 1 <= len(ticks) <= 3 * wanted


def contrast(one, other):
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [svg.LIGHT, svg.DARK])
def test_text_is_legible_and_bars_differ_in_lightness(palette):
    for text in ("ink", "muted", "keep", "drop", "quarantine"):
        assert contrast(palette[text], palette["surface"]) >= 4.5
        assert contrast(palette[text], palette["page"]) >= 4.5
    assert contrast(palette["keep_fill"], palette["drop_fill"]) >= 2
    assert contrast(palette["keep_fill"], palette["surface"]) >= 3
