"""What pyproject.toml promises of Pythons and versions, tried in fresh environments.

    python tools/try_install.py pythons          # each Python from 3.10 to 3.13 that is found here
    python tools/try_install.py pythons 13 12    # 3.13 and 3.12 alone
    python tools/try_install.py lowest           # the lowest version of every dependency

Of each: the demo (fit, run, report), then the tests of data, fit, gate, policy, store and stream.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fresh import ROOT, Fresh

MINORS = range(10, 14)
WORKERS = os.environ.get("WORKERS", "2")
#: What of the extras is tried, and what the tests need beside it; of that the version is no matter.
EXTRAS = "demo,review,mqtt"
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "scipy")
TESTS = (
    "data", "fit", "policy", "report", "review", "store", "stream", "test_cli.py", "test_demo.py",
    "test_gate.py", "test_gate_crafted.py", "test_imports.py",
)  # fmt: skip


def interpreter(minor: int) -> str | None:
    """Where Python 3.minor is: on the PATH, or among pyenv's."""
    name = f"python3.{minor}"
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [*root.glob(f"versions/3.{minor}.*/bin/{name}")]
    places = [shutil.which(name), *map(str, found)]
    for place in filter(None, places):
        done = subprocess.run([place, "-c", ""], capture_output=True, check=False)  # noqa: S603
        if not done.returncode:  # pyenv's shims are there for Pythons that are not chosen
            return place
    return None


def tried(python: str, constraints: Path | None, what: str) -> bool:
    """Whether demo and tests pass under it."""
    print(f"== {what}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            made = Fresh(folder / "venv", python)
            made.install(f"{ROOT}[{EXTRAS}]", *TOOLS, constraints=constraints)
            made.run("dripgate", "demo", "--days", 1, "--out", folder / "demo", cwd=folder)
            tests = [ROOT / "tests" / test for test in TESTS]
            made.run("python", "-m", "pytest", "-n", WORKERS, *tests, cwd=ROOT)
        except subprocess.CalledProcessError as error:
            print(f"== {what}: failed ({error})", flush=True)
            return False
    print(f"== {what}: passed", flush=True)
    return True


def lowest(folder: Path) -> Path:
    """A constraints file with the lowest version of each dependency that pyproject.toml allows.

    Of several lower bounds the one whose marker is that of the youngest Python.
    """
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    text = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    found = re.findall(r'"([\w-]+)>=([\d.]+)[^"]*"', text)
    skipped = {"pytest", "pytest-xdist", "hypothesis", "scipy", "ruff", "mypy", "import-linter"}
    path = folder / "lowest.txt"
    path.write_text("".join(f"{n}=={v}\n" for n, v in dict(found).items() if n not in skipped))
    print(path.read_text())
    return path


def main() -> None:
    """Exit code 1 where anything failed."""
    if sys.argv[1:] == ["lowest"]:
        with tempfile.TemporaryDirectory() as name:
            python = interpreter(11) or interpreter(10) or sys.exit("no Python 3.10 or 3.11 here")
            sys.exit(not tried(python, lowest(Path(name)), f"lowest versions, {python}"))
    passed = []
    for minor in map(int, sys.argv[2:] or MINORS):
        if (python := interpreter(minor)) is None:
            print(f"== Python 3.{minor}: not tried, none is found here (PATH, ~/.pyenv)")
        else:
            passed.append(tried(python, ROOT / "constraints.txt", f"Python 3.{minor}: {python}"))
    sys.exit(not passed or not all(passed))


if __name__ == "__main__":
    main()
