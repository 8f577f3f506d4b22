"""TFLite files are converted by tf2onnx, which lives in an environment of its own (2.2 GB)."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from platformdirs import user_cache_path

from dripgate.errors import ModelError
from dripgate.gate_info import LARGEST_FILE

VARIABLE = "DRIPGATE_TFLITE"
_PATIENCE = 600  # seconds


def tools() -> Path:
    """Where ``make tflite-tools`` puts them."""
    return user_cache_path("dripgate") / "tflite-tools"


def convert(path: Path) -> bytes:
    """The same model as ONNX. Raises ModelError with what to do where that is not possible."""
    python = _converter(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give a .tflite file")
    if path.stat().st_size > LARGEST_FILE:
        raise ModelError(f"{path}: larger than the {LARGEST_FILE / 1e6:.0f} MB a gate may have")
    with path.open("rb") as file:
        if file.read(8)[4:] != b"TFL3":
            raise ModelError(f"{path}: no TFLite file (it does not say TFL3 where those do)")
    with TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        command = [python, "-m", "tf2onnx.convert", "--tflite", str(path.absolute()),
                   "--output", str(out), "--opset", "17"]  # fmt: skip
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("PYTHONPATH", None)  # what is ours is not for that interpreter
        try:
            done = subprocess.run(  # noqa: S603 - the user's own converter
                command, capture_output=True, text=True, timeout=_PATIENCE, env=environment,
                check=False, cwd=folder,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"{path}: the converter {python} cannot be run ({error})") from None
        if done.returncode or not out.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()] or [
                "no reason given"
            ]
            raise ModelError(f"{path}: tf2onnx cannot convert it ({lines[-1][:300]})")
        return out.read_bytes()


def _converter(path: Path) -> str:
    """The interpreter that has tf2onnx: $DRIPGATE_TFLITE, this one, or make tflite-tools'."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    if find_spec("tf2onnx") is not None:
        return sys.executable
    made = tools() / "bin" / "python"
    if made.is_file():
        return str(made)
    raise ModelError(
        f"{path}: a .tflite file needs tf2onnx, which is not here. Convert it once, anywhere: "
        "python3 -m venv tflite && tflite/bin/pip install tf2onnx==1.17.0 tensorflow; "
        f"tflite/bin/python -m tf2onnx.convert --tflite {path.name} --output {path.stem}.onnx; "
        f"then give {path.stem}.onnx. Or set {VARIABLE} to tflite/bin/python (in a checkout: "
        "make tflite-tools)"
    )
