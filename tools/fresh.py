"""Fresh environments with nothing but what is asked for, by any Python: standard library alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"


class Fresh:
    """A virtual environment in ``folder``, made by the interpreter ``python``."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        subprocess.run([python, "-m", "venv", folder], check=True)  # noqa: S603

    def install(self, *what: str, constraints: Path | None = CONSTRAINTS) -> None:
        """By pip; PIP_ARGS of the environment reaches it, as in the Makefile."""
        given = ["-c", str(constraints)] if constraints else []
        extra = os.environ.get("PIP_ARGS", "").split()
        self.run("pip", "install", "--quiet", "--disable-pip-version-check", *extra, *given, *what)

    def run(self, program: str, *arguments: object, **options: Any) -> None:
        """One of its programs; an error of it ends us."""
        command = [str(self.folder / "bin" / program), *map(str, arguments)]
        print("$", " ".join(command), flush=True)
        subprocess.run(command, check=True, **options)  # noqa: S603

    @property
    def packages(self) -> Path:
        """Where what is installed lies."""
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def megabytes(self) -> int:
        """On the disk, of all that is installed, pip included."""
        blocks = sum(path.lstat().st_blocks for path in self.packages.rglob("*"))
        return blocks * 512 // 1_000_000
