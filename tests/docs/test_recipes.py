"""Every command and every line of Python of the recipes and of the three roads to start.

Each runs on files of the form that its readers have. What cannot be run here is listed in
pages.LISTED, with the reason.
"""

import io
import re
import shutil
import sys
import zipfile
from pathlib import Path

import made
import numpy as np
import onnx
import pages
import pytest
import soundfile

from dripgate.store import Store
from dripgate.types import Reason
from needs import need

BIRDS = {"Parus major_Great Tit": 4000.0, "Strix aluco_Tawny Owl": 800.0,
         "Turdus merula_Blackbird": 2000.0}  # fmt: skip


@pytest.fixture
def recipe(commands, tmp_path, monkeypatch):
    """Runs a page's blocks in an empty folder, once ``arrange`` has put the files there."""
    monkeypatch.chdir(tmp_path)

    def follow(name, arrange, change=lambda text: text):
        arrange()
        for block in pages.blocks(pages.DOCS / name, "bash"):
            commands(change(block))
        return commands

    return follow


def kept(name="kept.db"):
    """(stored samples, samples seen by ``run``) of a store."""
    with Store(name, read_only=True) as store:
        return list(store.samples()), store.counters.get("seen", 0)


def gate(ending="png"):
    """gate.onnx for pictures, as a reader of a page on sources has it."""
    import dripgate

    made.pictures("some", made.CLASSES, each=20, ending=ending)
    dripgate.fit(made.colours(64), "some").save("gate.onnx")


def test_frigate(recipe):
    def arrange():
        onnx.save(made.colours(224, tflite=True, quantised=True), "model.onnx")
        Path("labelmap.txt").write_text("\n".join(made.CLASSES) + "\n")
        made.pictures("dataset", made.CLASSES, each=14, side=224)
        made.pictures("train", made.CLASSES, each=10, side=96, ending="webp", seed=1, flat=True)

    recipe("recipes/frigate.md", arrange)
    samples, seen = kept()
    assert 0 < len(samples) < seen == 30
    assert len(list(Path("train").iterdir())) == 30  # the files are Frigate's
    assert Path("labelled-crops").is_dir()


def test_birds(recipe):
    def arrange():
        onnx.save(made.tones(list(BIRDS.values()), 48000, 3), "birds.onnx")
        Path("labels.txt").write_text("\n".join(BIRDS) + "\n")
        made.recordings("labelled", BIRDS, each=5, seconds=6, rate=48000)
        rng = np.random.default_rng(1)
        Path("night").mkdir()
        for hour in range(3):
            calls = made.tone(4000, 9, 48000, rng) // 2 + made.tone(800, 9, 48000, rng) // 2
            soundfile.write(f"night/20260501_0{hour}0000.wav", calls, 48000)

    recipe("recipes/birdnet.md", arrange)
    samples, seen = kept()
    assert seen == 15  # three recordings of nine seconds, in windows that overlap
    assert all("@" in sample.source for sample in samples)


def test_ultralytics(recipe):
    def arrange():
        model = made.colours(64)
        onnx.helper.set_model_props(model, {
            "task": "classify", "imgsz": "[64, 64]", "author": "Ultralytics", "stride": "1",
            "names": str(dict(enumerate(made.CLASSES))),
        })  # fmt: skip
        onnx.save(model, "best.onnx")
        for split in ("train", "val"):
            made.pictures(f"dataset/{split}", made.CLASSES, each=20, seed=len(split))
        made.pictures("incoming", made.CLASSES, seed=9, flat=True)

    recipe("recipes/ultralytics.md", arrange)
    from dripgate import Gate

    opened = Gate.load("gate.onnx")
    assert opened.info.classes == made.CLASSES
    assert kept()[1] == 90


def test_timm_and_hugging_face(recipe):
    need("torch")

    def arrange():
        made.pictures("labelled", made.CLASSES, each=20)
        made.pictures("incoming", made.CLASSES, seed=1, flat=True)
        for folder in ("my-model", "exported"):
            made.hugging_face(Path(folder), made.CLASSES, 64)
        onnx.save(made.colours(64), "exported/model.onnx")

    recipe("recipes/timm-and-hugging-face.md", arrange)
    assert kept()[1] == 90
    (code,) = pages.blocks(pages.DOCS / "recipes/timm-and-hugging-face.md", "python")
    exec(code, {})


def test_tflite(recipe):
    def arrange():
        onnx.save(made.colours(96, tflite=True), "model.onnx")
        made.tflite("model_unquant.tflite", 96)  # then the page's command writes model.onnx
        Path("labels.txt").write_text(
            "".join(f"{i} {name}\n" for i, name in enumerate(made.CLASSES))
        )
        made.pictures("pictures", made.CLASSES, each=20, side=96)
        made.pictures("incoming", made.CLASSES, side=96, seed=1, flat=True)
        Path("keywords").mkdir()
        onnx.save(made.tilt(), "keywords/model.onnx")
        made.recordings("sounds", {"high": 5000, "low": 300}, each=20, seconds=1, rate=16000)
        rng = np.random.default_rng(0)
        for sign, label in enumerate(("high", "low")):
            Path("features", label).mkdir(parents=True)
            for n in range(20):
                row = rng.normal(0, 5, (50, 13))
                row[:, 1] += (2 * sign - 1) * rng.uniform(2, 20)
                np.save(f"features/{label}/{n}.npy", row.reshape(-1).astype("f"))

    recipe("recipes/tflite.md", arrange)
    assert kept()[1] == 90


def test_a_camera_trap(recipe):
    def arrange():
        onnx.save(made.colours(64), "animals.onnx")
        made.pictures("labelled", ("boar", "empty", "fox"), each=20)
        rng = np.random.default_rng(1)
        for n in range(40):
            folder = Path(f"card/DCIM/{100 + n // 20}RECNX")
            folder.mkdir(parents=True, exist_ok=True)
            taken = f"2026:05:{1 + n // 24:02} {n % 24:02}:00:00"
            (folder / f"IMG_{n:04}.JPG").write_bytes(
                made.jpeg_of_a_camera(taken, made.picture(n % 3, rng, 128))
            )
        (folder / "IMG_0040.JPG").write_bytes((folder / "IMG_0039.JPG").read_bytes()[:900])
        (folder / "VID_0041.MP4").write_bytes(b"\0\0\0\x18ftypmp42")

    recipe("recipes/camera-trap.md", arrange)
    samples, seen = kept()
    assert seen == 42  # the half picture and the film are counted, and named
    assert {sample.time // made.DAY for sample in samples} <= {20574.0, 20575.0, 20576.0}
    assert len(list(Path("card").rglob("*.*"))) == 42


def test_a_camera(recipe, commands, tmp_path):
    need("OpenCV")
    import cv2

    own = "dripgate run gate.onnx picamera:0 --every 1 --store kept.db --limit 2GB --keep 0.02"
    # picamera2 is on Raspberry Pis alone; tests/stream/test_devices.py has its calls.
    commands.instead[own] = lambda: pages.parsed(own.split()[1:])

    def arrange():
        gate("jpg")
        rng = np.random.default_rng(1)
        film = cv2.VideoWriter("film.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
        for n in range(60):
            film.write(np.asarray(made.picture(n // 7 % 3, rng)))
        film.release()
        made.pictures("upload", made.CLASSES, each=3, seed=2, flat=True, ending="jpg")
        commands.stand_ins |= {
            "camera:0": "camera:film.avi",
            "rtsp://192.168.1.20/stream1": "camera:film.avi",
        }
        Path("camera.toml").write_text('username = "me"\npassword = "secret"\n')
        Path("camera.toml").chmod(0o600)  # fmt: skip

    recipe("recipes/camera.md", arrange)
    assert 0 < len(kept("film.db")[0]) < kept("film.db")[1] == 12
    assert list(Path("upload").iterdir()) == []


def test_a_microphone(recipe, commands, alsa, monkeypatch):
    def arrange():
        import dripgate

        tones = {"bell": 3000.0, "door": 300.0}
        made.recordings("some", tones, each=20, seconds=1, rate=16000)
        dripgate.fit(made.tones(list(tones.values()), 16000, 1), "some").save("gate.onnx")
        file = io.BytesIO()
        sound = made.tone(3000, 8, 16000, np.random.default_rng(1))
        soundfile.write(file, sound, 16000, format="WAV")
        commands.piped = file.getvalue()
        for name, value in alsa(sound).items():
            monkeypatch.setenv(name, value)

    recipe("recipes/microphone.md", arrange)
    samples, seen = kept()
    assert seen > 15  # eight seconds of the pipe are 15 windows; the microphone gave others
    assert any(sample.source.startswith("mic:default@") for sample in samples)


def test_a_quota(recipe, loop, capsys):
    def arrange():
        shutil.copy(loop / "gate.onnx", ".")
        with (
            zipfile.ZipFile(loop / "stream.zip") as stream,
            zipfile.ZipFile("line.zip", "w") as out,
        ):
            for n, name in enumerate(stream.namelist()):
                time = (2026, 5, 1, n // 60 % 24, n % 60, 0)
                out.writestr(zipfile.ZipInfo(name, time), stream.read(name))

    recipe("recipes/quota.md", arrange)
    samples, seen = kept()
    assert len(samples) <= 0.25 * seen
    (shown,) = pages.blocks(pages.DOCS / "recipes/quota.md", "text")
    reasons = {f"{sample.verdict.decision}: {sample.verdict.reason}" for sample in samples}
    assert {"keep: band", "keep: audit"} <= reasons
    told = set(re.findall(r"^  (\w+: [a-z ]+?) +\d+$", shown, re.MULTILINE))
    assert {"keep: band", "keep: audit", "drop: band", "drop: budget"} <= told
    assert {words.partition(": ")[2] for words in told} <= set(Reason)


def test_a_raspberry_pi(recipe):
    def arrange():
        gate()
        shutil.move("some", "labelled")
        onnx.save(made.colours(64), "net.onnx")
        made.pictures("spool", made.CLASSES, seed=1, flat=True)
        Path("var").mkdir()
        Path("etc").mkdir()
        shutil.copy("gate.onnx", "etc")
        import dripgate

        with Store("var/kept.db") as store:
            dripgate.run(dripgate.Gate.load("gate.onnx"), dripgate.watch("spool"), store)

    def here(text):
        words = {
            "sudo -u dripgate /opt/dripgate/bin/dripgate": "dripgate",
            "/var/lib/dripgate/": "var/",
            "/etc/dripgate/gate": "etc/gate",
        }
        for there, word in words.items():
            text = text.replace(there, word)
        return text

    recipe("recipes/raspberry-pi.md", arrange, here)
    assert Path("var/labelled").is_dir()


def test_start_with_an_onnx_file(recipe):
    def arrange():
        onnx.save(made.colours(64), "net.onnx")
        made.pictures("labelled", made.CLASSES)
        made.pictures("incoming", made.CLASSES, seed=1, flat=True)

    recipe("start/onnx.md", arrange)
    assert Path("more").is_dir()
    for path in (Path("kept.db"), Path("gate.onnx")):
        path.unlink()
    (code,) = pages.blocks(pages.DOCS / "start/onnx.md", "python")
    exec(code, {})
    assert 0 < len(kept()[0]) < 90


def test_start_with_a_torch_model(recipe, monkeypatch, tmp_path):
    need("torch")
    import torch
    from safetensors.torch import save_file
    from torch import nn

    def arrange():
        made.pictures("labelled", made.CLASSES)
        Path("ournet.py").write_text(
            "from torch import nn\n\n\ndef make():\n    return nn.Sequential(\n"
            "        nn.Conv2d(3, 3, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
            "        nn.Linear(3, 3))\n"
        )
        net = nn.Sequential(nn.Conv2d(3, 3, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                            nn.Flatten(), nn.Linear(3, 3))  # fmt: skip
        kernel = torch.zeros(3, 3, 8, 8)
        kernel[range(3), range(3)] = 1 / 64
        weights = {"0.weight": kernel, "0.bias": torch.ones(3), "4.weight": torch.eye(3) * 12,
                   "4.bias": torch.zeros(3)}  # fmt: skip
        net.load_state_dict(weights)
        save_file(net.state_dict(), "best.safetensors")

    monkeypatch.syspath_prepend(tmp_path)
    recipe("start/torch.md", arrange)
    (code,) = pages.blocks(pages.DOCS / "start/torch.md", "python")
    exec(code, {})
    sys.modules.pop("ournet", None)


def test_start_with_no_model(recipe, commands, trained):
    need("torch")

    def demo():  # tests of the demo run that command
        shutil.copytree(trained, "demo")
        Path("demo.json").touch()

    commands.instead["dripgate demo --data digits --out demo --json demo.json"] = demo
    recipe("start/no-model.md", lambda: None)
    there = {path.name for path in Path().iterdir()}
    assert {"demo.json", "tradeoff.svg", "to-label"} <= there
