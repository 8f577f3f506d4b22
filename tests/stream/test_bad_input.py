"""Bad input stops nothing: thousands of broken files, each counted with its cause."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dripgate.types import ArrayInput, AudioInput, Identity, ImageInput, LogMel, Normalize

#: Broken files per kind of gate; `make soak` gives many more.
COUNT = int(os.environ.get("DRIPGATE_MUTANTS", "3500"))

SPECS = {
    "images": (
        ImageInput(height=12, width=12, channels=3), Normalize(mean=(0.5,) * 3, std=(0.5,) * 3), 3,
    ),
    "audio": (
        AudioInput(rate=8000, length=2000),
        LogMel(window=256, hop=128, bins=16, low=20, high=4000, mean=0, std=1), 1,
    ),
    "arrays": (ArrayInput(shape=(2, 9, 9)), Identity(), 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECS)
def test_broken_files_are_counted_with_their_cause_and_stop_nothing(kind, gate, tmp_path, capsys):
    path = tmp_path / "gate.onnx"
    path.write_bytes(small_gate(gate.info, *SPECS[kind]))
    script = Path(__file__).with_name("mutants.py")
    done = subprocess.run(
        [sys.executable, script, path, str(COUNT), "1"],
        capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["given"] == found["seen"] == found["accounted"] == found["counted"]
    assert sum(found["causes"].values()) == found["unreadable"]
    assert 0.4 < found["unreadable"] / found["seen"] < 0.99
    assert len(found["causes"]) > 5
    assert found["whole_readable"] >= 0.5 * found["whole"]  # 16-bit, CMYK, animated, odd rates
    assert found["memory_rise"] < 400e6
    with capsys.disabled():
        print(
            f"\n  {kind}: {found['seen']:,} files, {found['unreadable']:,} unreadable of "
            f"{len(found['causes'])} causes, memory +{found['memory_rise'] / 1e6:.0f} MB"
        )


def small_gate(info, spec, preprocessing, channels):
    """A gate of two layers for any input; its thresholds keep everything."""
    import support

    from dripgate.graph.build import with_info
    from dripgate.types import Thresholds

    size = {"image": (channels, 12, 12), "audio": (1, 14, 16), "array": (2, 9, 9)}
    given = size[type(spec).__name__.removesuffix("Input").lower()]
    model = support.onnx_model(
        f"""(float[N, {", ".join(map(str, given))}] x) => (float[N, 10] y) {{
        c = Conv (x, w) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p)
        y = Gemm (f, m) }}""",
        w=support.floats(4, channels, 3, 3), m=support.floats(4, 10),
    )  # fmt: skip
    bounds = Thresholds(low=(None,) * 10, high=(None,) * 10, quality_low=None)
    graph = support.gate_of(
        model, given, score=info.score, preprocessing=preprocessing, spec=spec, thresholds=bounds
    )
    return with_info(
        graph,
        msgspec.structs.replace(info, input=spec, preprocessing=preprocessing, thresholds=bounds),
    )


def test_arrays_with_code_in_them_are_never_loaded(gate, tmp_path):
    from dripgate.errors import UnreadableError
    from dripgate.media import decode

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.save(tmp_path / "trap.npy", np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(UnreadableError):
        decode((tmp_path / "trap.npy").read_bytes(), ArrayInput(shape=(1,)))
    assert not (tmp_path / "sprung").exists()
