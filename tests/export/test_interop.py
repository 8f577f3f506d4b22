"""Through other people's tools and back: `make interop`, in an environment of its own."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from dripgate.export import FORMATS, read_labels
from dripgate.media import encode_png
from dripgate.store import Labels, Store
from dripgate.types import Decision, Reason, Sample, Verdict

ENVIRONMENT = os.environ.get("DRIPGATE_INTEROP")
pytestmark = pytest.mark.needs("Label Studio")
USER, PASSWORD, TOKEN = "me@example.org", "a long password", "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "kept.db"
    with Store(path) as store:
        for n in range(6):
            png = encode_png(np.random.default_rng(n).integers(0, 256, (8, 8), np.uint8))
            verdict = Verdict(
                decision=Decision.KEEP, reason=Reason.BAND, score=n / 10, quality=0.0,
                predicted=n % 2, propensity=1.0,
            )  # fmt: skip
            store.put(Sample(png, source=f"{n}.png"), verdict, label="cat" if n < 2 else None)
    return path


def labels(path):
    with Store(path, read_only=True) as store:
        return {one.id: one.label for one in store}


@pytest.fixture
def studio(tmp_path):
    """A Label Studio on loopback that serves files below tmp_path; calls its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(tmp_path),
        "LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path / "studio"), "COLLECT_ANALYTICS": "False",
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "LATEST_VERSION_CHECK": "False",
    }  # fmt: skip
    command = [
        str(Path(ENVIRONMENT, "bin", "label-studio")), "start", "--no-browser", "--port", str(port),
        "--internal-host", "127.0.0.1", "--username", USER, "--password", PASSWORD,
        "--user-token", TOKEN,
    ]  # fmt: skip
    log = (tmp_path / "studio.log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def call(path, body=None, *, raw=False):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=120) as answer:
            data = answer.read()
        return data if raw else json.loads(data)

    def answered():
        deadline = time.monotonic() + 240
        while True:
            try:
                return call("/api/version", raw=True)
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, (tmp_path / "studio.log").read_text()[-2000:]
                assert process.poll() is None, (tmp_path / "studio.log").read_text()[-2000:]
                time.sleep(1)

    try:
        answered()
        yield call
    finally:
        process.terminate()
        process.wait()


def test_the_whole_loop_through_label_studio(kept, studio, tmp_path):
    with Store(kept, read_only=True) as store:
        FORMATS["labelstudio"](store, tmp_path / "out")
    config = (tmp_path / "out" / "config.xml").read_text()
    project = studio("/api/projects", {"title": "kept", "label_config": config})["id"]
    storage = {"project": project, "path": str(tmp_path / "out" / "data"), "use_blob_urls": True}
    studio("/api/storages/localfiles", storage | {"title": "ours"})
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    studio(f"/api/projects/{project}/import", tasks)
    found = studio(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
    assert {task["data"]["dripgate_id"] for task in found} == set(labels(kept))
    stored = {one["data"]["dripgate_id"]: one for one in tasks}
    for task in found:
        picture = studio(task["data"]["image"], raw=True)
        name = stored[task["data"]["dripgate_id"]]["data"]["image"].rpartition("/")[2]
        assert picture == (tmp_path / "out" / "data" / name).read_bytes()
    wanted = dict(labels(kept))
    for number, task in enumerate(found):
        if wanted[task["data"]["dripgate_id"]] is None:
            label = f"new {number % 2}"
            wanted[task["data"]["dripgate_id"]] = label
            choice = {"from_name": "label", "to_name": "sample", "type": "choices",
                      "value": {"choices": [label]}}  # fmt: skip
            studio(f"/api/tasks/{task['id']}/annotations", {"result": [choice]})
    for kind, suffix in (("JSON", "json"), ("JSON_MIN", "json"), ("CSV", "csv")):
        with Labels(kept) as desk:
            desk.relabel(dict.fromkeys(wanted))
        data = studio(f"/api/projects/{project}/export?exportType={kind}", raw=True)
        file = tmp_path / f"{kind}.{suffix}"
        file.write_bytes(data)
        with Labels(kept) as desk:
            desk.relabel(read_labels(file).labels)
        assert labels(kept) == wanted, kind


def test_hugging_face_datasets_loads_ours(kept, tmp_path):
    with Store(kept, read_only=True) as store:
        FORMATS["hf"](store, tmp_path / "out")
    code = """
import json, sys
from datasets import load_dataset
found = load_dataset("imagefolder", data_dir=sys.argv[1], cache_dir=sys.argv[2])["train"]
print(json.dumps([[row["id"], row["label"], row["image"].size] for row in found]))
"""
    done = subprocess.run(
        [str(Path(ENVIRONMENT, "bin", "python")), "-c", code, str(tmp_path / "out"),
         str(tmp_path / "cache")],
        capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert {id: label for id, label, _ in rows} == labels(kept)
    assert all(size == [8, 8] for _, _, size in rows)
