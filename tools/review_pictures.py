"""The pictures of the review page in the README and docs/review.md: `make review-pictures`.

A store of digits as `dripgate review --demo` makes it, some labels, Debian's chromium.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dripgate.demo.first_look import first_look

DOCS = Path(__file__).parents[1] / "docs"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


def main() -> None:
    """Make docs/review.png, docs/review-dark.png and docs/review-phone.png."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(os.environ.get("REVIEW_DEMO", name))
        if not (folder / "kept.db").exists():
            first_look(folder, log=print)
        store = shutil.copy(folder / "kept.db", Path(name, "labelled.db"))
        process = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-m", "dripgate", "review", str(store), "--gate",
             str(folder / "gate.onnx"), "--port", "0"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        output = process.stdout or sys.exit("no output")
        url = output.readline().strip()
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(url)
            label(page)
            page.screenshot(path=DOCS / "review.png")
            page.emulate_media(color_scheme="dark")
            page.screenshot(path=DOCS / "review-dark.png")
            phone = browser.new_page(viewport={"width": 390, "height": 780}, is_mobile=True,
                                     has_touch=True)  # fmt: skip
            phone.goto(url)
            phone.wait_for_selector(".cell[data-id]")
            phone.tap("#p1")
            phone.wait_for_selector("#side.open")
            phone.wait_for_timeout(1500)
            phone.screenshot(path=DOCS / "review-phone.png")
        finally:
            browser.close()
            process.terminate()
            process.wait()


def label(page: Page) -> None:
    """As somebody would who has been at it for a minute."""
    page.wait_for_selector(".cell[data-id]")
    page.keyboard.press("m")
    page.wait_for_timeout(1000)
    for _ in range(60):
        page.keyboard.press("Enter")
        page.wait_for_timeout(60)
    page.uncheck("#first")
    page.select_option("#order", "newest")
    page.wait_for_timeout(800)
    for key in ("ArrowDown", "ArrowRight", "h"):
        page.keyboard.press(key)
    page.wait_for_timeout(2000)
    page.keyboard.press("s")
    page.wait_for_timeout(4000)


if __name__ == "__main__":
    main()
