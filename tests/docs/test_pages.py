"""What every page of the documentation keeps to."""

import re
from pathlib import Path

import pages
import pytest
import tomllib

import dripgate

PROJECT = tomllib.loads((pages.ROOT / "pyproject.toml").read_text())["project"]
SITE = tomllib.loads((pages.ROOT / "zensical.toml").read_text())["project"]
#: Which file runs a page's commands; what is in none of them has none.
RUN_BY = {
    "test_recipes.py": r"recipes/|start/",
    "test_howto.py": r"(review|models|store|policy|embed|benchmark|index|release)\.md$",
    "../test_readme.py": r"README\.md$",
    "../archive/test_sift.py": r"sift\.md$",
    "../uplink/test_run.py": r"(uplink|fleet)\.md$",
    "../uplink/test_labels.py": r"adapt\.md$",
}


def named(page):
    return str(page.relative_to(pages.ROOT)).removeprefix("docs/")


def navigation(items):
    """All pages of the site's navigation."""
    for item in items:
        if isinstance(item, str):
            yield item
        else:
            for value in item.values():
                yield from [value] if isinstance(value, str) else navigation(value)


def test_every_page_is_in_the_navigation_once_and_every_entry_is_a_page():
    listed = list(navigation(SITE["nav"]))
    there = {str(page.relative_to(pages.DOCS)) for page in pages.DOCS.rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == there


@pytest.mark.parametrize("page", pages.pages(), ids=named)
def test_a_page_says_first_what_it_is_for(page):
    title, first = page.read_text("utf-8").split("\n\n")[:2]
    assert title.startswith("# ")
    assert re.match(r"\*{0,2}[A-Z`]", first), first
    assert "\n\n" not in first


@pytest.mark.parametrize("page", pages.pages(), ids=named)
def test_a_page_s_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", pages.pages(), ids=named)
def test_a_page_s_commands_are_run_by_a_test(page):
    if pages.blocks(page, "bash"):
        by = [file for file, pattern in RUN_BY.items() if re.match(pattern, named(page))]
        assert by, "no test runs its commands: add it to one of RUN_BY"
        tests = (Path(__file__).parent / by[0]).read_text()
        assert page.name in tests or page.stem in tests


def test_nothing_is_installed_by_name_from_an_index_that_does_not_have_it():
    extras = set(PROJECT["optional-dependencies"])
    wheel = f"dripgate-{dripgate.__version__}-py3-none-any.whl"
    for page in pages.pages():
        text = page.read_text("utf-8")
        for line in re.findall(r"pip install [^\n`]*", text):
            assert not re.search(r"""install (-\S+ )*['"]?dripgate(\[|['" ]|$)""", line), page
            for names in re.findall(r"[.l]\[([\w,]+)\]", line):
                assert set(names.split(",")) <= extras, f"{page}: {line}"
        assert set(re.findall(r"dripgate-[\d.]+-py3-none-any\.whl", text)) <= {wheel}


def test_make_targets_exist_and_what_is_listed_is_used():
    makefile = (pages.ROOT / "Makefile").read_text()
    lines = [line for page in pages.pages() for block in pages.blocks(page, "bash")
             for line in block.splitlines()]  # fmt: skip
    for target in {line.split()[1] for line in lines if line.startswith("make ")}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for start in pages.LISTED:
        assert any(line.startswith(start) for line in lines), f"no page shows '{start} …' any more"
