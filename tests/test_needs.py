"""What a machine with nothing but Python and make does with the tests that need more."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import needs

TESTS = Path(__file__).parent
#: Files whose tests failed, or could not even be read, without mosquitto, torch or a compiler.
FORMERLY = (
    "uplink/test_broker.py", "graph/test_golden.py", "policy/test_policy_in_c.py",
    "store/test_store_faults.py",
)  # fmt: skip
#: A pytest in which torch and what hangs on it are not installed, whatever is here.
WITHOUT = """
import importlib.util
import sys

GONE = ("torch", "sklearn", "skactiveml", "cv2", "playwright")
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition(".")[0] in GONE else found(name, package)
)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def bare(*arguments, **env):
    """pytest on a machine without programs and without torch."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, "-p", "no:cacheprovider", *arguments], cwd=TESTS.parent,
        env={**os.environ, "PATH": "/nowhere", **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def lax(monkeypatch):
    """What continuous integration asks for is not asked for here."""
    monkeypatch.delenv(needs.STRICT, raising=False)
    # programs are looked for in /usr/sbin too, where not everybody's PATH leads
    monkeypatch.setenv("DRIPGATE_SBIN", "/nowhere")


def test_every_test_can_be_read_there():
    done = bare("--collect-only", "-n0")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert int(re.search(r"(\d+) tests? collected", done.stdout)[1]) > 2000


def test_what_formerly_failed_is_skipped_and_the_end_says_how_to_have_it():
    done = bare("-n0", *(str(TESTS / name) for name in FORMERLY))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    told = done.stdout[done.stdout.index("how to have it") :]
    for line in ("mosquitto: apt-get install mosquitto", "torch: make env-all",
                 "a C compiler: apt-get install gcc libc6-dev"):  # fmt: skip
        assert re.search(rf"^ +\d+  {line}$", told, re.MULTILINE), told
    assert re.search(r"\d+ passed, \d+ skipped", told)


def test_continuous_integration_fails_on_a_skip():
    done = bare("-n0", str(TESTS / "uplink/test_broker.py"), **{needs.STRICT: "1"})
    assert done.returncode == 1
    assert "needs mosquitto: apt-get install mosquitto (DRIPGATE_NO_SKIP is set" in done.stdout
    assert needs.STRICT in (TESTS.parent / ".ci" / "run").read_text("utf-8")


def test_nothing_is_skipped_but_through_the_table():
    """Else it would be skipped in continuous integration too, and nobody told."""
    others = [
        path for path in TESTS.rglob("*.py")
        if re.search(r"pytest\.skip\(|skipif|importorskip|mark\.skip\b", path.read_text("utf-8"))
    ]  # fmt: skip
    assert {path.name for path in others} == {"needs.py", Path(__file__).name}


def test_what_is_asked_for_is_in_the_table():
    asked = set()
    for path in TESTS.rglob("*.py"):
        for call in re.findall(r"\bneeds?\(((?:\"[^\"]+\"(?:, )?)+)\)", path.read_text("utf-8")):
            asked |= set(re.findall(r'"([^"]+)"', call))
    assert asked
    assert asked <= set(needs.NEEDS)
    assert set(needs.NEEDS) >= needs.ELSEWHERE
