"""Every command and every line of Python in the README, run as a reader would run them."""

import re
from pathlib import Path

import made
import onnx
import pages
import pytest

import dripgate

README = pages.ROOT / "README.md"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working directory with what the README's readers have."""
    monkeypatch.chdir(tmp_path)
    onnx.save(made.colours(64), "net.onnx")
    made.pictures("labelled", made.CLASSES)
    made.pictures("incoming", made.CLASSES, seed=1, flat=True)


def test_commands(desk, commands):
    done = [words for block in pages.blocks(README, "bash") for words in commands(block)]
    assert [words[1] for words in done if words[0] == "dripgate"] == [
        "fit", "run", "review", "export",
    ]  # fmt: skip
    assert any(path.suffix == ".png" for path in Path("labelled-more").rglob("*"))


def test_python(desk, capsys):
    (code,) = pages.blocks(README, "python")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 5
    dripgate.fit("net.onnx", "labelled").save("gate.onnx")
    exec(code, {})
    kept, seen = re.fullmatch(r"(\d+) of (\d+)\n", capsys.readouterr().out).groups()
    assert 0 < int(kept) < int(seen) == 90


def test_it_is_short_and_begins_with_one_sentence():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 600
    sentence = text.split("\n\n")[1]
    assert sentence.startswith("**")
    assert sentence.count(". ") == 0


def test_its_numbers_are_those_of_the_results():
    """Storage, broken frames and the price, as they stand in the committed tables."""
    docs = README.parent / "docs"
    bench = (docs / "results" / "bench.md").read_text(encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    header, _, *rows = re.search(
        r"## Storage saved at equal accuracy\n\n(.*?)\n\n", bench, re.DOTALL
    )[1].splitlines()
    (_, *names), *table = [[cell.strip() for cell in row.strip("|").split("|")]
                           for row in (header, *rows)]  # fmt: skip
    saved = {rule: dict(zip(names, cells, strict=True)) for rule, *cells in table}
    order = ["mnist", "plantvillage", "speechcommands", "cifar10"]
    ours = re.search(r"equal accuracy[^|]*\| ([^(|]*)\(at random: ([^)]*)\)", text)
    assert re.findall(r"\d+ %", ours[1]) == [saved["dripgate"][name] for name in order]
    assert re.findall(r"\d+", ours[2]) == [saved["random"][name][:-2] for name in order]
    for rule, shown in (("**dripgate**", "0.6 %"), ("margin", "instead: 39 %"),
                        ("random", "random: 28 %")):  # fmt: skip
        found = re.findall(rf"^\| broken30 \| auto \| {re.escape(rule)} \|.*\| ([\d.]+) \| \d+ \|$",
                           bench, re.MULTILINE)  # fmt: skip
        mean = sum(map(float, found)) / len(found)
        assert f"{mean:.1f} %" == shown if mean < 1 else shown.endswith(f" {mean:.0f} %")
        assert shown in text
    price = (docs / "performance.md").read_text(encoding="utf-8")
    row = re.search(r"^\| gate, verdict only \|(.*)\|$", price, re.MULTILINE)[1]
    ratios = dict(zip(["resnet8", "lenet", "dscnn", "mobilenet", "resnet18"],
                      map(float, re.findall(r"[\d.]+", row)), strict=False))  # fmt: skip
    tiny = ratios.pop("lenet")
    assert f"{min(ratios.values())} to {max(ratios.values())} times" in text
    assert f"{tiny:.1f} times for tiny LeNet" in text


def test_the_field_cases_of_the_documents_are_one_table_and_each_has_its_test():
    tests = README.parent / "tests"
    text = (README.parent / "docs" / "raw" / "field.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) [^|]", text, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 36
    for row in re.findall(r"^\| \d\d [^|].*$", text, re.MULTILINE):
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (tests / file).read_text(encoding="utf-8"), test
