import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest

from dripgate.errors import UserError
from dripgate.policy import Estimates, Interval
from dripgate.report import (
    ClassShare,
    Example,
    StreamHistogram,
    Unreadable,
    pictures,
    render,
    write,
)
from dripgate.types import Decision, Reason

VOID = {"meta", "link", "br", "img", "wbr"}


class Page(HTMLParser):
    """Elements with attributes, text, and tables by id as rows of cells; refuses bad nesting."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.tables, self.texts = [], [], {}, []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.texts))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows().append([])
        elif tag in ("th", "td"):
            self.rows()[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "style" in tags or "svg" in tags:
            return
        self.texts.append(data)
        if "td" in tags or "th" in tags:
            self.rows()[-1][-1] += data.strip()

    def rows(self):
        name = next(a["id"] for tag, a in reversed(self.open) if tag == "table")
        return self.tables.setdefault(name, [])

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_headline_and_verdict_show_the_numbers_given(report):
    text = Page(render(report())).text
    assert (
        "Stored 31 % of the stream; accuracy 0.951 against 0.949 for training on everything" in text
    )
    assert "▲ 0.2 points above training on everything" in text
    assert "69 %310 of 1,000 stored" in text
    assert "75 %500.0 kB of 2.0 MB stored" in text
    assert "kept 290 29 %" in text and "quarantined 20 2 %" in text and "dropped 690 69 %" in text
    assert "600 training steps" in text


def test_worse_than_the_baselines_is_said_in_the_same_place(report, outcome):
    worse = outcome(accuracy={"full": 0.95, "dripgate": 0.9, "random": 0.91}, tested=1000)
    html = render(report(outcome=worse))
    place = re.search(r'<div id="verdict">(.*?)</div>', html, re.S)[1]
    assert "accuracy 0.900 against 0.950" in place
    assert "5.0 points below training on everything" in place
    assert "1.0 points below random" in place
    assert "1,000 test samples" in place


def test_tables_show_the_numbers_given(report):
    tables = Page(render(report())).tables
    assert [row[:3] for row in tables["accuracy"][1:]] == [
        ["initial samples only", "0.902", "−4.7"],
        ["training on everything", "0.949", "–"],
        ["dripgate", "0.951", "+0.2"],
        ["random, same count", "0.940", "−0.9"],
        ["softmax margin, same count", "0.947", "−0.2"],
    ]
    assert [row[1] for row in tables["phases"][1:]] == ["20 s", "3.2 s", "1.9 s", "1 min 23 s"]
    assert [[row[0], row[1], *row[3:]] for row in tables["classes"][1:]] == [
        ["dog", "32 %", "600", "190", "8"], ["cat", "25 %", "400", "100", "12"],
        ["owl", "–", "0", "0", "0"],
    ]  # fmt: skip
    assert tables["reasons"][1:] == [
        ["keep", "score inside the band", "290"], ["drop", "score outside the band", "690"],
        ["quarantine", "unlike the calibration samples", "18"],
        ["quarantine", "could not be decoded", "2"],
    ]  # fmt: skip
    assert tables["unreadable"][1:] == [["bad/1.png", "truncated"], ["bad/2.png", "not an image"]]


def test_what_was_dropped_is_shown_with_its_intervals(report):
    some = [Interval(share, share - 0.02, share + 0.05) for share in (0.5, 0.3, 0.2)]
    found = Estimates(
        classes=some, accuracy=Interval(0.931, 0.88, 0.962), dropped_accuracy=some[0],
        dropped_mistakes=some[1], labelled=310, by_chance=1020, covered=0.75,
    )  # fmt: skip
    page = Page(render(report(estimates=found)))
    for part in (
        "93.1 % (88.0 to 96.2) on the whole stream",
        "50.0 % (48.0 to 55.0) of it was classified correctly already",
        "30.0 % (28.0 to 35.0) of the model's mistakes were in it",
        "by chance it would be as much as was dropped of all, 69 %",
        "Scores that the gate alone would keep", "The policy dropped some of them",
        "1,020 samples were kept at random", "310 labelled samples", "for 75 % of the stream",
    ):  # fmt: skip
        assert part in page.text
    assert {row[0]: row[-1] for row in page.tables["classes"][1:]} == {
        "cat": "50.0 % (48.0 to 55.0)", "dog": "30.0 % (28.0 to 35.0)",
        "owl": "20.0 % (18.0 to 25.0)",
    }  # fmt: skip
    alone = Page(render(report())).text
    assert "Scores kept: " in alone
    assert "What was dropped" not in alone and "policy" not in alone


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("decision", Decision)
def test_every_reason_has_words(report, decision, reason):
    rows = Page(render(report(reasons={(decision, reason): 7}))).tables["reasons"]
    assert rows[1][0] == decision
    assert rows[1][2] == "7"
    given = {Decision.KEEP: "band floor audit", Decision.QUARANTINE: "quality audit unreadable",
             Decision.DROP: "band quality unreadable budget duplicate"}  # fmt: skip
    if reason.name.lower() in given[decision].split():
        assert len(rows[1][1].split()) > 2


def test_bands_by_class_get_a_column(report, gate):
    by_class = gate(low=(0.01, 0.02, None), high=(None, 0.5, None))
    rows = Page(render(report(gate=by_class))).tables["classes"]
    assert {row[0]: row[-1] for row in rows[1:]} == {
        "cat": "≥ 0.01",
        "dog": "≥ 0.02, ≤ 0.5",
        "owl": "any",
    }


def test_the_gate_tells_its_layer_band_and_parity(report):
    text = Page(render(report())).text
    for part in (
        "blocks.2.relu, 32 × 4 × 4", "the last layer with a spatial extent", "loss_mean",
        "at least 0.02", "at least 0.05", "score 3.1e-6, heatmap 4.2e-6, logits 2e-6",
        "32 real samples", "smallest fraction expected within one standard error",
        "dripgate demo --data digits --seed 7", "torch 2.13.0",
    ):  # fmt: skip
        assert part in text


def test_samples_show_plain_and_overlaid_side_by_side_with_their_peak(report):
    page = Page(render(report()))
    images = page.all("img")
    assert len(images) == 2 * 6
    assert all(
        image["alt"] and image["src"].startswith("data:image/png;base64,") for image in images
    )
    example = report().examples[0]
    plain, overlaid = images[0]["src"], images[1]["src"]
    assert plain == pictures.plain_uri(pictures.as_rgb(example.array))
    assert overlaid == pictures.overlay_uri(pictures.as_rgb(example.array), example.heatmap)
    assert page.text.count(f"peak{example.heatmap.max():.3g}") == 6
    assert page.text.count("✓ right") == 6


def test_wrong_prediction_unknown_label_and_unreadable_sample(report, verdict):
    examples = [
        Example(source="a.png", label="dog", verdict=verdict()),
        Example(source="b.png", verdict=verdict(predicted=2)),
        Example(
            source="c.png",
            verdict=verdict(
                Decision.QUARANTINE, Reason.UNREADABLE, score=math.nan, quality=math.nan,
                predicted=-1, propensity=1.0, detail="truncated at byte 12",
            ),
        ),
    ]  # fmt: skip
    text = Page(render(report(examples=examples))).text
    assert "cat ✗ is dog" in text
    assert "owl score0.0312" in text
    assert "not classified score–quality–peak– could not be decoded: truncated at byte 12" in text


def test_at_most_twelve_samples_of_a_kind_and_twenty_unreadable(report, verdict):
    examples = [Example(source=f"{i}.png", verdict=verdict()) for i in range(15)]
    unreadable = [Unreadable(f"bad/{i}", "empty") for i in range(25)]
    page = Page(render(report(examples=examples, unreadable=unreadable)))
    assert len([a for a in page.all("figure") if a["class"] == "card"]) == 12
    assert "12 of 15 examples" in page.text
    assert len(page.tables["unreadable"]) == 1 + 20
    assert "The first 20 of 25" in page.text


def test_sound_is_a_waveform_over_its_heatmap(report, verdict):
    wave = (np.sin(np.arange(4000) / 9) * 9000).astype(np.int16)
    heat = np.eye(5, dtype=np.float32)
    page = Page(
        render(
            report(
                examples=[Example(source="yes.wav", array=wave, heatmap=heat, verdict=verdict())]
            )
        )
    )
    assert [a["alt"] for a in page.all("img")] == ["Heatmap of yes.wav, peak 1"]
    assert [a for a in page.all("g") if a.get("class") == "wave"]


NASTY = '<script>alert(1)</script>"><img src=x onerror=alert(1)>{{ 7*7 }}&amp;'


def test_names_are_text_and_never_markup(report, gate, verdict):
    plain = report(
        examples=[
            Example(
                source="s", array=np.zeros((4, 4), np.uint8), label="l", verdict=verdict(detail="d")
            )
        ]
    )
    classes = (NASTY, "dog", "owl")
    info = gate(classes=classes)
    info = msgspec.structs.replace(
        info, layer=msgspec.structs.replace(info.layer, name=NASTY, why=NASTY)
    )
    info = msgspec.structs.replace(
        info, calibration=msgspec.structs.replace(info.calibration, why=NASTY)
    )
    nasty = replace(
        plain, title=NASTY, data=NASTY, command=NASTY, gate=info,
        classes=[plain.classes[0]._replace(name=NASTY), *plain.classes[1:]],
        examples=[
            replace(plain.examples[0], source=NASTY, label=NASTY, verdict=verdict(detail=NASTY))
        ],
        unreadable=[Unreadable(NASTY, NASTY)] * 2,
    )  # fmt: skip
    first, second = Page(render(plain)), Page(render(nasty))
    tags = [[tag for tag, _ in page.elements if tag != "wbr"] for page in (first, second)]
    assert tags[0] == tags[1]
    assert "script" not in tags[1]
    assert not [
        name for _, attributes in second.elements for name in attributes if name.startswith("on")
    ]
    shown = [row[0] for row in second.tables["classes"]]
    assert NASTY[:59] + "…" in shown
    assert second.tables["unreadable"][1] == [NASTY, NASTY]
    assert any(image["alt"] == f"Sample {NASTY}" for image in second.all("img"))


def test_names_that_are_no_text_can_be_written(report, tmp_path, verdict):
    odd = "a\x00\x1b\ud8ff\u202egnp.exe"
    page = report(
        title=odd, classes=[ClassShare(odd, 1, 1, 0)], unreadable=[Unreadable(odd, odd)],
        examples=[
            Example(source=odd, label=odd, array=np.zeros((2, 2), np.uint8), verdict=verdict())
        ],
    )  # fmt: skip
    write(page, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not set(html) & set("\x00\x1b\u202e")
    assert html.count("a\ufffd\ufffd\ufffd\ufffdgnp.exe") >= 5


def test_nothing_is_fetched_and_nothing_runs(report):
    html = render(report())
    page = Page(html)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//", html)
    assert not re.search(r"url\((?!#)|@import|<script|<iframe|<object", html)
    assert set(re.findall(r"https?://[^\"'<\s]*", html)) == {"http://www.w3.org/2000/svg"}
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_table_has_headers_and_every_picture_a_text(report):
    html = render(report())
    page = Page(html)
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    pictures = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    pictures += [a for a in page.all("div") if a.get("class", "").startswith(("bar", "dots"))]
    assert len(pictures) > 8
    assert all(a["role"] == "img" and a["aria-label"] for a in pictures)
    assert page.all("html") == [{"lang": "en"}]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    inner = re.findall(r"url\(#(\w+)\)", html) + [a["href"][1:] for a in page.all("use")]
    assert inner
    assert set(inner) <= set(ids)


def test_same_report_same_bytes(report, tmp_path):
    write(report(), tmp_path / "a.html")
    write(report(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == render(report())


def test_a_full_report_stays_small(report, verdict):
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(200), np.arange(300))

    def photo(i):  # smooth structure and sensor noise, larger than what is shown
        smooth = 128 + 90 * np.sin(x / (9 + i))[..., None] * np.cos(y / 17)[..., None]
        return np.clip(smooth + rng.normal(0, 12, (300, 200, 3)), 0, 255).astype(np.uint8)

    examples = [
        Example(
            source=f"{d}/{i}.jpg", array=photo(i), heatmap=rng.random((8, 8), np.float32),
            verdict=verdict(d),
        )
        for d in Decision for i in range(12)
    ]  # fmt: skip
    classes = [ClassShare(f"class {i}", 100, i, 0) for i in range(60)]
    assert len(render(report(examples=examples, classes=classes)).encode()) < 1_500_000


def of(scores, decision=Decision.DROP):
    return StreamHistogram.of(scores, [decision] * len(scores))


ODD = {
    "nothing kept": lambda r, o, g: r(
        outcome=o(kept=0, quarantined=0, bytes_kept=0), examples=[], scores=of([0.1, 0.2, 0.7])
    ),
    "empty stream": lambda r, o, g: r(
        outcome=o(
            stream=0, kept=0, quarantined=0, bytes_seen=0, bytes_kept=0, accuracy={}, seconds={}
        ),
        scores=of([]), classes=[], examples=[], reasons={}, unreadable=[],
    ),
    "one class": lambda r, o, g: r(gate=g(classes=("cat",)), classes=[ClassShare("cat", 9, 9, 0)]),
    "no score": lambda r, o, g: r(scores=of([math.nan] * 5)),
    "equal scores": lambda r, o, g: r(scores=of([0.25] * 50)),
    "all zero": lambda r, o, g: r(scores=of([0.0] * 50)),
    "no accuracy": lambda r, o, g: r(outcome=o(accuracy={"full": math.nan, "dripgate": math.nan})),
    "threshold off the axis": lambda r, o, g: r(gate=g(low=(9e9,)), scores=of([0.1, 0.2, 0.7])),
    "empty band": lambda r, o, g: r(gate=g(low=(0.5,), high=(0.1,))),
    "single-bin calibration": lambda r, o, g: r(gate=g(score_edges=(0.0, 1.0))),
    "60 classes": lambda r, o, g: r(
        gate=g(classes=tuple(map(str, range(60))), low=tuple(i / 1000 for i in range(60))),
        classes=[ClassShare(str(i), 10, 3, 1) for i in range(60)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_still_give_a_whole_page(name, report, outcome, gate):
    page = Page(render(ODD[name](report, outcome, gate)))
    drawn = [
        str(v)
        for tag, a in page.elements
        for k, v in a.items()
        if k not in ("class", "content", "src")
    ]
    assert not [v for v in drawn if re.search(r"\bnan\b|\binf\b", v)]
    assert not re.search(r"\bnan\b|\bNone\b", page.text)
    assert "Stored " in page.text and "The gate" in page.text


@pytest.mark.parametrize("shape", [(1, 1), (0, 0), (3, 0), (1, 40)])
@pytest.mark.parametrize(
    "array",
    [np.zeros((9, 9, 3), np.uint8), np.zeros(50, np.int16), np.zeros((2, 2, 2), np.float32), None],
)
def test_odd_samples_still_give_a_card(report, verdict, shape, array):
    heat = np.zeros(shape, np.float32)
    page = Page(
        render(
            report(examples=[Example(source="odd", array=array, heatmap=heat, verdict=verdict())])
        )
    )
    assert "peakempty" in page.text


def test_write_makes_folders_and_replaces_the_old_report(report, tmp_path):
    path = tmp_path / "new" / "folder" / "report.html"
    write(report(), path)
    write(report(title="Second"), path)
    assert "<h1>Second</h1>" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_who_is_reading_the_old_report_goes_on_reading_it_whole(report, tmp_path):
    path = tmp_path / "report.html"
    write(report(title="First"), path)
    with path.open(encoding="utf-8") as reader:
        start = reader.read(10)
        write(report(title="Second"), path)
        assert "<h1>First</h1>" in start + reader.read()


def test_a_path_that_cannot_be_written_is_named(report, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "report.html", tmp_path / "folder"):
        with pytest.raises(UserError, match=f"report {path}: cannot be written") as error:
            write(report(), path)
        assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dripgate.errors import UserError
from dripgate.policy import Estimates, Interval
from dripgate.report import page
page.render = lambda report: "x" * 100_000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    page.write(None, Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def test_a_write_that_fails_halfway_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("the old report")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert "cannot be written (File too large)" in done.stdout
    assert path.read_text() == "the old report"
    assert list(tmp_path.iterdir()) == [path]


LIGHT_IMPORT = """
import sys
missing = sys.argv[1]
import dripgate.report
assert not {"jinja2", "torch", "onnxruntime", "matplotlib"} & set(sys.modules), sys.modules
sys.modules[missing] = None
try:
    if missing == "jinja2":
        dripgate.report.render(None)
    else:
        dripgate.report.tradeoff_svg((), 0.9, 0.3)
except dripgate.errors.MissingExtra as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_what_the_extra_brings_is_loaded_late_and_its_absence_names_it(missing):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT_IMPORT, missing], capture_output=True, text=True, check=True
    )
    assert "pip install 'dripgate[report]'" in done.stdout


class Bars(HTMLParser):
    """Every bar and dot: its label, and (class, style in numbers) of its parts."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "div" and given.get("class", "").startswith(("bar", "dots")):
            self.found.append((given["aria-label"], []))
        elif tag == "i":
            numbers = [float(n) for n in re.findall(r"[\d.]+(?=%)", given["style"])]
            self.found[-1][1].append((given["class"], *numbers))


def test_share_bars_are_as_long_as_their_shares(report):
    bars = dict(Bars(render(report(classes=[ClassShare("cat", 400, 100, 12)]))).found)
    assert bars["cat: keep 25 %, quarantine 3 %"] == [("keep", 25), ("quarantine", 3)]
    assert bars["stream: keep 29 %, quarantine 2 %, drop 69 %"] == [
        ("keep", 29), ("quarantine", 2), ("drop", 69),
    ]  # fmt: skip
    assert bars["train: drop 25 %"] == [("drop", 24.58)]  # 20.4 of 83 seconds


def test_dots_share_one_axis(report, outcome):
    measured = outcome(accuracy={"full": 0.9, "dripgate": 0.8, "random": math.nan}, tested=900)
    dots = dict(Bars(render(report(outcome=measured))).found)
    # ± 0.01 and 0.0133, and 0.002 beyond both: the axis is 0.7847 to 0.912
    (_, start, rest), (ours, at) = dots["dripgate: 0.800"]
    assert (ours, start) == ("dot", pytest.approx(3 + 94 * 0.002 / 0.1273, abs=0.02))
    assert at == pytest.approx(3 + 94 * 0.01533 / 0.1273, abs=0.02)
    assert at - start == pytest.approx(100 - rest - at, abs=0.02)
    (_, _, rest), (other, at) = dots["full: 0.900"]
    assert (other, at) == ("hollow", pytest.approx(3 + 94 * 0.1153 / 0.1273, abs=0.02))
    assert rest == pytest.approx(3 + 94 * 0.002 / 0.1273, abs=0.02)
    assert dots["random: –"] == []


def test_a_hostile_name_stays_inside_its_label(report):
    name = '"><script>alert(1)</script><i style="width:9%'
    html = render(report(classes=[ClassShare(name, 4, 1, 0)]))
    assert "<script" not in html
    assert (f"{name}: keep 25 %, quarantine 0 %", [("keep", 25)]) in Bars(html).found
