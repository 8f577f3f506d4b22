"""make demo-size: what a stranger's first command installs and takes, in a fresh environment."""

import os
import sys
import tempfile
import time
from pathlib import Path

from fresh import ROOT, Fresh

MOST_MB, MOST_SECONDS = 350, 60


def main() -> None:
    """Exit code 1 beyond the limits, or where torch or a compiler would be needed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        made = Fresh(folder / "venv")
        made.install("--only-binary", ":all:", "--no-binary", "dripgate", f"{ROOT}[demo]")
        installed = time.monotonic()
        size = made.megabytes()
        made.run(
            "dripgate", "demo", "--out", folder / "demo", env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        seconds = time.monotonic() - installed
        torch = (made.packages / "torch").exists()
    print(f"installed: {size} MB (at most {MOST_MB}) in {installed - began:.0f} s, from wheels")
    print(f"demo: {seconds:.0f} s (at most {MOST_SECONDS}), {'with' if torch else 'without'} torch")
    sys.exit(size > MOST_MB or seconds > MOST_SECONDS or torch)


if __name__ == "__main__":
    main()
