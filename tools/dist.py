"""make dist: wheel and sdist into dist/, checked, and the wheel shown by the demo.

What ships is held against what must: data, licences, and no file of the tests or of a build.
"""

import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from fresh import ROOT, Fresh

DIST = ROOT / "dist"
MUST = (
    "dripgate/py.typed", "dripgate/data/digits.npz", "dripgate/demo/classifier.onnx",
    "dripgate/report/report.html", "dripgate/review/page.html", "dripgate/embed/c/dripgate.h",
    "licenses/LICENSE", "licenses/NOTICE",
)  # fmt: skip
MOST = 1_500_000  # bytes of a wheel


def main() -> None:
    """Exit code 1, and what is wrong, where anything is."""
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would ship what was once
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = Fresh(folder / "tools")
        tools.install("build", "twine")
        tools.run("python", "-m", "build", "--outdir", DIST, ROOT)
        wheel, sdist = next(DIST.glob("*.whl")), next(DIST.glob("*.tar.gz"))
        tools.run("twine", "check", "--strict", wheel, sdist)
        _contents(wheel, sdist)
        user = Fresh(folder / "user")
        user.install(f"{wheel}[demo]")
        user.run("pip", "check")
        user.run("dripgate", "demo", "--out", folder / "demo", cwd=folder)
    for path in (wheel, sdist):
        print(f"{path}: {path.stat().st_size:,} bytes")


def _contents(wheel: Path, sdist: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    missing = [must for must in MUST if not any(name.endswith(must) for name in names)]
    ours = ("dripgate/", "dripgate-")
    strange = [name for name in names if not name.startswith(ours) or "__pycache__" in name]
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    missing += [n for n in ("pyproject.toml", "NOTICE", "src/dripgate/data/digits.npz")
                if n not in packed]  # fmt: skip
    large = wheel.stat().st_size > MOST
    if missing or strange or large:
        sys.exit(f"missing: {missing}; strange: {strange}; wheel of {wheel.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
