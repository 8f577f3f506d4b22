"""The page in a real browser: Debian's chromium, driven by playwright."""

import os
import tempfile
import time

import pytest

from dripgate.store import BROKEN, Labels, Store
from dripgate.types import Decision, Reason, Sample, Verdict
from needs import need, program

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """Chromium with nothing of the user's in it."""
    need("chromium", "playwright")
    from playwright.sync_api import sync_playwright

    path = program("chromium") or program("chromium-browser")
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=path, args=list(FLAGS), env=os.environ | {"HOME": profile}
        )
        yield opened
        opened.close()


@pytest.fixture
def tab(browser):
    """Opens a page in a tab; whatever it complains of, or asks of elsewhere, fails the test."""
    wrong, contexts = [], []

    def open_(url, **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        contexts.append(context)
        return beside(context, url)

    def beside(context, url):
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: told.type == "error" and wrong.append(told.text))
        page.on("request", lambda asked: asked.url.startswith(("http://127.0.0.1:", "data:"))
                or wrong.append(asked.url))  # fmt: skip
        page.goto(url)
        page.wait_for_selector(".cell[data-id]")
        return page

    open_.beside = beside
    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def served(review, kept, loop):
    return review(kept, "--gate", loop / "gate.onnx")


def until(page, expression, *argument):
    """Wait for something to be so. Not by playwright, whose way the page's policy forbids: eval."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression, *argument):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(10)


def settled(page):
    """Until nothing is on its way to the disk."""
    until(page, "waiting.size === 0")


def counted(page, text):
    until(page, "text => $('counts').textContent.includes(text)", text)


def test_a_hundred_are_labelled_by_keys_alone_and_taken_back(served, tab, kept, labels):
    page = tab(served.url)
    page.focus("#grid")
    before = page.evaluate("active")
    for number in range(100):
        page.keyboard.press("Enter" if number % 4 else "7")
        settled(page)
        until(page, "before => active !== before", before)
        before = page.evaluate("active")
    counted(page, "100 of")
    given = labels(kept)
    assert len(given) == 100
    assert sum(label == "7" for label in given.values()) >= 25
    for left in range(99, 49, -1):
        page.keyboard.press("z")
        counted(page, f"{left} of")
    assert len(labels(kept)) == 50
    page.reload()
    counted(page, "50 of")
    page.keyboard.press("z")  # after a reload too
    counted(page, "49 of")


def test_many_are_selected_by_shift_by_dragging_and_by_likeness(served, tab, kept, labels):
    page = tab(served.url)
    page.click("#p3")
    page.click("#p9", modifiers=["Shift"])
    until(page, "selected.size === 7")
    page.keyboard.press("x")
    counted(page, "7 of")
    assert set(labels(kept).values()) == {BROKEN}
    box = page.locator("#p6").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 2.5 * box["width"], box["y"] + 1.5 * box["height"], steps=8)
    page.mouse.up()
    until(page, "selected.size === 6")
    page.keyboard.press("Escape")
    until(page, "selected.size === 0")
    page.keyboard.press("Home")
    until(page, "near.length > 0")
    page.keyboard.press("s")
    alike = page.evaluate("selected.size")
    assert alike >= 15
    page.keyboard.press("n")
    page.fill("#newname", "a new class")
    page.keyboard.press("Enter")
    until(page, "state.tally.label['a new class'] > 10")
    assert sum(label == "a new class" for label in labels(kept).values()) == alike
    assert "a new class" in page.inner_text("#classes")
    page.keyboard.press("Control+a")
    until(page, "selected.size === view.count")


def test_two_tabs_see_each_others_labels(served, tab, kept):
    one = tab(served.url)
    two = tab(served.url)
    one.keyboard.press("3")
    counted(one, "1 of")
    counted(two, "1 of")
    until(two, "rowAt(0).label === '3'")
    with Labels(kept) as other:
        other.relabel({one.evaluate("rowAt(5).id"): "4"}, who="a script")
    counted(one, "2 of")
    two.click("#historybutton")
    two.wait_for_selector("#changes tr:nth-child(2)")
    assert "a script" in two.inner_text("#changes")


def test_filters_search_order_and_a_reload_that_shows_the_same(served, tab):
    page = tab(served.url)
    page.select_option("#pool", "audit")
    until(page, "view.count > 0 && rowAt(0) && rowAt(0).pool === 'audit'")
    audited = page.evaluate("view.count")
    page.fill("#search", "frame-000")
    until(page, "before => view.count < before", audited)
    found = page.evaluate("view.count")
    page.reload()
    until(page, "found => view.count === found", found)
    assert page.input_value("#search") == "frame-000"
    page.fill("#search", "no such name")
    page.wait_for_selector("#empty:visible")


def test_how_far_am_i_is_live(served, tab):
    page = tab(served.url)
    page.keyboard.press("m")
    until(page, "$('order').value === 'measure' && rowAt(0)")
    for _ in range(12):
        page.keyboard.press("Enter")
        settled(page)
    until(page, "$('estimates').textContent.includes('The deployed model is right')")
    until(page, "$('next').textContent.includes('→')")


def test_sound_plays_and_lines_are_drawn(review, tab, tmp_path):
    import io
    import wave

    import numpy as np

    tone = io.BytesIO()
    with wave.open(tone, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes((8000 * np.sin(np.arange(8000) / 3)).astype("<i2").tobytes())
    with Store(tmp_path / "kept.db") as store:
        store.put(Sample(tone.getvalue(), source="tone.wav"), _verdict())
    page = tab(review(tmp_path / "kept.db").url)
    page.wait_for_selector("#player:visible")
    page.evaluate("$('player').load()")
    until(page, "$('player').readyState >= 1 && $('player').duration > 0.9")
    until(page, "$('large').naturalWidth > 100")


HOSTILE = '<img src=x onerror="document.title=1">', "line\nbreak", "\u202egnp.exe", "../../etc"


def test_hostile_names_and_classes_change_nothing(review, tab, tmp_path, png):
    with Store(tmp_path / "kept.db") as store:
        for number, text in enumerate(HOSTILE):
            sample = Sample(png(seed=number), source=text)
            store.put(sample, _verdict(detail=text), label=text)
    page = tab(review(tmp_path / "kept.db").url)
    for number in range(len(HOSTILE)):
        page.click(f"#p{number}")
        until(page, "n => detailFor === rowAt(n).id", number)
    assert page.title() == "kept.db: review"
    assert page.locator("#classes img, #facts img, .tag img").count() == 0
    assert "\u202e" not in page.inner_text("body")
    page.keyboard.press("n")
    page.fill("#newname", HOSTILE[0])
    page.keyboard.press("Enter")
    until(page, "text => state.tally.label[text] === 2 || rowAt(3).label === text",
                           HOSTILE[0])  # fmt: skip
    assert page.title() == "kept.db: review"


def test_a_phone_by_touch(served, tab, kept, labels):
    page = tab(served.url, viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("#p1")
    page.wait_for_selector("#side.open")
    page.tap("#close")
    page.tap("#many")
    page.tap("#p0")
    page.tap("#p2")
    page.tap("#classes button:nth-child(3)")
    counted(page, "2 of")
    assert list(labels(kept).values()) == ["1", "1"]
    page.tap("#undo")
    counted(page, "0 of")


def test_keyboard_alone_contrast_and_names_for_a_screen_reader(served, tab):
    for scheme in ("light", "dark"):
        page = tab(served.url, color_scheme=scheme, reduced_motion="reduce")
        unnamed = page.evaluate(UNNAMED)
        assert unnamed == 0
        low = page.evaluate(CONTRAST)
        assert low == [], scheme
        page.keyboard.press("ArrowRight")
        until(page, "$('grid').getAttribute('aria-activedescendant') === 'p1'")
        assert "predicted" in page.get_attribute("#p1", "aria-label")
        page.keyboard.press("?")
        page.wait_for_selector("#help[open]")
        page.keyboard.press("Escape")


UNNAMED = """
[...document.querySelectorAll('button, select, input, [role=option]')].filter(e =>
  !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).length"""
#: Texts whose contrast with what is behind them is below WCAG AA's 4.5.
CONTRAST = """(() => {
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => .2126 * linear(c[0]) + .7152 * linear(c[1]) + .0722 * linear(c[2]);
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!e.offsetParent || !text) continue;
    if (e.closest('.waiting, :disabled, #status, option, script')) continue;
    let behind = e, ground;
    do {
      ground = parse(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    } while (ground[3] === 0 && behind);
    const found = [light(parse(getComputedStyle(e).color)), light(ground)];
    const [a, b] = found.sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.push(e.outerHTML.slice(0, 80));
  }
  return low;
})()"""


def test_ten_thousand_are_scrolled_without_loading_them_all(review, tab, tmp_path, png):
    with Store(tmp_path / "kept.db") as store:
        data = png(seed=1)
        store.put_many(
            (Sample(data + number.to_bytes(4, "big"), source=f"{number}.png"), _verdict())
            for number in range(10_000)
        )
    page = tab(review(tmp_path / "kept.db").url)
    page.keyboard.press("End")
    page.wait_for_selector("#p9999[data-id]")
    assert page.locator(".cell").count() < 200
    page.keyboard.press("Home")
    page.wait_for_selector("#p0[data-id]")


def _verdict(**changed):
    fields = {"decision": Decision.KEEP, "reason": Reason.BAND, "score": 0.5, "quality": 0.0,
              "predicted": 0, "propensity": 1.0}  # fmt: skip
    return Verdict(**(fields | changed))
