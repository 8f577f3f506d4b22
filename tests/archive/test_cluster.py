"""A Ray cluster of two workers, and an S3 server, both on loopback: `make sift-cluster`."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from needs import need

need("a Ray cluster")
from pyarrow import parquet

ENVIRONMENT = os.environ["DRIPGATE_CLUSTER"]
SOURCES = Path(__file__).parents[2] / "src"
DRIVER = "import sys; from dripgate.cli import main; sys.argv[0] = 'dripgate'; main()"
#: Loopback by a number that Ray does not replace by the machine's own address.
HOST = "127.0.0.2"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
SMALL = "from dripgate.archive import work; work.PARTITION, work.BLOCK = 64, 16; " + DRIVER


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def sift(*arguments, env=None, script=DRIVER):
    command = [Path(ENVIRONMENT) / "bin" / "python", "-c", script, "sift", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(SOURCES)} | TOKEN | (env or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finished(process, seconds=300):
    said = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, said[-3000:]
    return said


def table(out):
    return parquet.read_table(out).to_pylist()


@pytest.fixture(scope="module")
def cluster():
    """The address of a head without cores of its own, and of two nodes with one core each."""
    folder = tempfile.mkdtemp(prefix="ray-")  # its sockets' names must be short
    ray, gcs, client = Path(ENVIRONMENT) / "bin" / "ray", port(), port()
    env = os.environ | {"PYTHONPATH": str(SOURCES), "RAY_USAGE_STATS_ENABLED": "0"} | TOKEN
    env["RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S"] = "240"  # 30 are few on a busy machine
    common = [f"--node-ip-address={HOST}", "--disable-usage-stats", "--block"]
    memory = ["--object-store-memory=200000000"]
    started = [[ray, "start", "--head", f"--port={gcs}", f"--ray-client-server-port={client}",
                "--include-dashboard=false", "--num-cpus=0", f"--temp-dir={folder}", *memory,
                *common]]  # fmt: skip
    started += [[ray, "start", f"--address={HOST}:{gcs}", "--num-cpus=1", *memory, *common]] * 2
    nodes = []
    for command in started:
        nodes.append(
            subprocess.Popen(
                list(map(str, command)),
                env=env,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        reached(gcs if len(nodes) == 1 else client, host=HOST)
    address = f"ray://{HOST}:{client}"
    waiting = f"""
import ray, time
ray.init({address!r})
while ray.cluster_resources().get("CPU") != 2:
    time.sleep(0.2)
"""
    python = Path(ENVIRONMENT) / "bin" / "python"
    subprocess.run([python, "-c", waiting], env=env, check=True, timeout=300)
    yield address, nodes
    for node in reversed(nodes):
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
    for entry in Path("/proc").iterdir():  # Ray's own processes have sessions of their own
        if entry.name.isdigit():
            with suppress(OSError):
                if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def reached(number, seconds=90, host="127.0.0.1"):
    """Waits until something listens there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as one:
            if one.connect_ex((host, number)) == 0:
                return
    raise AssertionError(f"nothing listens on {number}")


def test_a_cluster_gives_the_same_rows(archive, loop, cluster, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    asked = (archive, "--gate", loop / "gate.onnx", "--out")
    finished(sift(*asked, here, script=SMALL))
    said = finished(sift(*asked, there, "--cluster", cluster[0], script=SMALL))
    assert f"on {cluster[0]}, 2 workers" in said
    assert table(here) == table(there)


def test_sigkill_of_a_node(archive, loop, cluster, tmp_path):
    out, asked = tmp_path / "out", (archive, "--gate", loop / "gate.onnx", "--out")
    process = sift(*asked, out, "--cluster", cluster[0], script=SMALL)
    while process.poll() is None and not list(out.glob("part-*")):
        pass
    os.killpg(cluster[1][2].pid, signal.SIGKILL)
    finished(process)
    finished(sift(*asked, tmp_path / "here", script=SMALL))
    assert table(out) == table(tmp_path / "here")


@pytest.fixture
def bucket(archive):
    """moto's S3 on loopback with the archive in it: its environment."""
    number = port()
    server = subprocess.Popen(
        [Path(ENVIRONMENT) / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(number)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    reached(number)
    env = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
           "AWS_ENDPOINT_URL": f"http://127.0.0.1:{number}"}  # fmt: skip
    filling = f"""
import boto3, pathlib
s3 = boto3.client("s3", endpoint_url={env["AWS_ENDPOINT_URL"]!r}, region_name="us-east-1")
s3.create_bucket(Bucket="pictures")
root = pathlib.Path({str(archive)!r})
for path in root.rglob("*.png"):
    key = "in/" + str(path.relative_to(root))
    s3.put_object(Bucket="pictures", Key=key, Body=path.read_bytes())
s3.put_object(Bucket="pictures", Key="in/huge.png", Body=bytes(65 << 20))
"""
    subprocess.run(
        [Path(ENVIRONMENT) / "bin" / "python", "-c", filling], env=os.environ | env, check=True
    )
    yield env
    server.kill()
    server.wait()


def test_a_bucket_gives_the_rows_of_the_folder(archive, loop, bucket, tmp_path):
    asked = ("--gate", loop / "gate.onnx", "--workers", 1, "--out")
    finished(sift(archive, *asked, tmp_path / "here"))
    finished(
        sift(
            "s3://pictures/in/",
            *asked,
            tmp_path / "there",
            "--keep",
            0.2,
            "--copy-to",
            tmp_path / "kept.db",
            "--json",
            tmp_path / "said.json",
            env=bucket,
        )
    )
    here = {row["id"]: row for row in table(tmp_path / "here")}
    rows = {row["address"]: row for row in table(tmp_path / "there")}
    assert "more than the limit" in rows.pop("s3://pictures/in/huge.png")["cause"]
    assert {row["id"] for row in rows.values()} == set(here)
    for row in rows.values():
        same = here[row["id"]]
        assert row["address"].removeprefix("s3://pictures/in/") in same["address"]
        assert row["score"] == (same["score"] and pytest.approx(same["score"], rel=1e-4, abs=1e-7))
    value = json.loads((tmp_path / "said.json").read_text())
    assert value["copied"]["stored"] == value["choice"]["wanted"]
    assert value["copied"]["gone"] == 0


def test_a_bucket_that_is_not_there_is_told_in_a_line(loop, bucket, tmp_path):
    process = sift("s3://nowhere/x", "--gate", loop / "gate.onnx", "--out", tmp_path / "out",
                   env=bucket)  # fmt: skip
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 2, said
    assert "s3://nowhere/x: nothing is there to decide about" in said.splitlines()[-1]
