"""Pages of the documentation as their readers meet them: their blocks, and their commands run."""

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click

from dripgate.cli import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
Command = Callable[..., tuple[int, str, str]]

#: What no test can run, by its first words, and why. Each has to be used by some page.
LISTED = {
    "openssl ecparam": "makes keys; the test of the page runs it",
    "pip install": "installs; the extras that it names are checked",
    "pip wheel": "builds a wheel; needs the package index",
    "make": "the target's existence is checked; CI runs demo and test themselves",
    "python3 -m venv tflite": "installs TensorFlow, 2.2 GB",
    "tflite/bin/python -m tf2onnx.convert": "needs that environment; $DRIPGATE_TFLITE runs it",
    "yolo export": "needs ultralytics and torch; the file that it writes is made by the test",
    "sudo": "changes the system; the unit and its options are checked by test_deploy.py",
    "ssh": "needs a second machine",
    "scp": "needs a second machine",
    "journalctl": "needs a running systemd",
}

#: What takes hours: its options are parsed, and no more.
PARSED = ("bench",)
#: Commands of a library that the tests' environment lacks: they must end with a line that names it.
LACKING = {"timm:": "timm", "hf:": "transformers"}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, also those within a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text("utf-8"),
                       re.DOTALL | re.MULTILINE)  # fmt: skip
    return [text for _, text in found]


def pages() -> list[Path]:
    """README and every page that people write; results are written by commands."""
    return [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md"))
                                  if "results" not in page.relative_to(DOCS).parts)]  # fmt: skip


class Shell:
    """Runs the lines of bash blocks in the current folder: dripgate's own, and no others.

    stand_ins: words that are exchanged, such as a camera by a film. piped: what the first
    command of a pipe would write. instead: whole lines that a function does, since another test
    runs them. ``listed`` collects which of LISTED were met.
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        self.stand_ins: dict[str, str] = {}
        self.piped = b""
        self.instead: dict[str, Callable[[], object]] = {}
        self.listed: set[str] = set()

    def __call__(self, block: str) -> list[list[str]]:
        """The words of each line, once all have done what they should."""
        return [self._line(line) for line in block.splitlines() if line.strip()]

    def _line(self, line: str) -> list[str]:
        words = [self.stand_ins.get(word, word) for word in shlex.split(line, comments=True)]
        if line in self.instead:
            self.instead[line]()
        elif "|" in words:
            self._piped(words[words.index("|") + 1 :], line)
        elif words[0] == "tflite/bin/python" and self._converts(words):
            python = os.environ["DRIPGATE_TFLITE"]
            clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            subprocess.run([python, *words[1:]], check=True, capture_output=True, env=clean)
        elif words[0] != "dripgate":
            self.listed.add(self._reason(line))
        elif words[1] in PARSED:
            parsed(words[1:])
        elif words[1] == "review":
            _looked_at(words)
        elif "--follow" in words or "mic:" in words:
            _followed(words)
        elif "pcm:-" in words:
            self._piped(words, line)
        else:
            code, out, err = self._command(*words[1:])
            lacking = [name for start, name in LACKING.items() if start in line]
            if lacking:
                assert code == 2 and lacking[0] in err, f"{line}\n{out}\n{err}"
            else:
                assert code == 0, f"{line}\n{out}\n{err}"
        return words

    def _converts(self, words: list[str]) -> bool:
        """Whether the converter is on this machine, and the test has made a file for it."""
        return "DRIPGATE_TFLITE" in os.environ and Path(words[words.index("--tflite") + 1]).exists()

    def _reason(self, line: str) -> str:
        for start in LISTED:
            if line.startswith(start):
                return start
        raise AssertionError(f"no test runs it, and it is not listed: {line}")

    def _piped(self, words: list[str], line: str) -> None:
        assert words[0] == "dripgate", line
        done = subprocess.run(_python(words), input=self.piped, capture_output=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout.decode()}\n{done.stderr.decode()}"


def parsed(words: list[str]) -> None:
    """Raises click.UsageError where the command line does not take these words."""
    group, rest, context = cli, words, None
    while isinstance(group, click.Group):
        context = group.make_context(None, list(rest), parent=context)
        name, *rest = [*context._protected_args, *context.args]
        group = group.get_command(context, name)
    group.make_context(name, rest, parent=context)


def _python(words: list[str]) -> list[str]:
    return [sys.executable, "-m", *words]


def _looked_at(words: list[str]) -> None:
    """The command prints an address, and there is the page."""
    process = subprocess.Popen([*_python(words), "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"dripgate review" in page.read()
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0


def _followed(words: list[str]) -> None:
    """It goes on until it is told to end: when two reports running have seen as much, or once
    something was heard of a microphone, which never falls silent.
    """
    process = subprocess.Popen(
        [*_python(words), "--settle", "0", "--interval", "0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said, before = [], ""
    try:
        for line in process.stdout:
            said.append(line)
            seen = re.search(r'"seen": ?([1-9]\d*)', line)
            if seen and ("mic:" in words or seen[1] == before):
                break
            before = seen[1] if seen else before
        else:
            raise AssertionError("".join(said))
    finally:
        process.terminate()
        rest, _ = process.communicate()
    assert process.returncode == 0, "".join(said) + rest
