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


def finished(process, code=0, seconds=300):
    try:
        said = process.communicate(timeout=seconds)[0]
    finally:
        killed(process)
    assert process.returncode == code, said[-3000:]
    return said


def killed(process):
    """A process and its session, as by kill -9, where it has not ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(out):
    return parquet.read_table(out).to_pylist()


@pytest.fixture(scope="module")
def cluster():
    """The address of a head without cores of its own, and of two nodes with one core each."""
    folder, nodes = tempfile.mkdtemp(prefix="ray-"), []  # its sockets' names must be short
    try:
        yield clustered(folder, nodes), nodes
    finally:
        for node in reversed(nodes):
            killed(node)
        for entry in Path("/proc").iterdir():  # Ray's own processes have sessions of their own
            if entry.name.isdigit():
                with suppress(OSError):
                    if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                        os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def clustered(folder, nodes):
    """Starts head and nodes, which are appended, and waits for them; the cluster's address."""
    ray, gcs, client = Path(ENVIRONMENT) / "bin" / "ray", port(), port()
    env = os.environ | {"PYTHONPATH": str(SOURCES), "RAY_USAGE_STATS_ENABLED": "0"} | TOKEN
    # Ray forks where gRPC's threads run, whose handlers then end one child in thirty by SIGABRT,
    # and the client is told "Starting Ray client server failed" (ray-project/ray#63202).
    env["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    common = [f"--node-ip-address={HOST}", "--disable-usage-stats", "--block"]
    memory = ["--object-store-memory=200000000"]
    started = [[ray, "start", "--head", f"--port={gcs}", f"--ray-client-server-port={client}",
                "--include-dashboard=false", "--num-cpus=0", f"--temp-dir={folder}", *memory,
                *common]]  # fmt: skip
    started += [[ray, "start", f"--address={HOST}:{gcs}", "--num-cpus=1", *memory, *common]] * 2
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
    return address


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


@pytest.fixture
def table_of_all(archive, held, tmp_path):
    """The archive as a table, the last of which is not answered until ``held`` is told to."""
    shutil.copy(next(archive.glob("*/*.png")), archive / "last.png")
    paths = [*map(str, sorted(archive.glob("*/*.png"))), f"{held.address}last.png"]
    (tmp_path / "all.csv").write_text("\n".join(["path", *paths]))
    yield tmp_path / "all.csv"
    (archive / "last.png").unlink()


def test_sigkill_of_the_driver(table_of_all, held, loop, cluster, tmp_path):
    out, here = tmp_path / "out", tmp_path / "here"
    asked = (table_of_all, "--gate", loop / "gate.onnx", "--out")
    process = sift(*asked, out, "--cluster", cluster[0], script=SMALL)
    assert held.asked.wait(120)
    killed(process)
    held.go.set()
    assert process.returncode == -signal.SIGKILL
    assert len(list(out.glob("part-*"))) < 5
    finished(sift(*asked, out, "--cluster", cluster[0], script=SMALL))
    finished(sift(*asked, here, script=SMALL))
    assert len(table(out)) == 301
    assert table(out) == table(here)


def test_sigkill_of_a_node(table_of_all, held, loop, cluster, tmp_path):
    """The last of the cluster's tests: one worker is left."""
    out, here = tmp_path / "out", tmp_path / "here"
    asked = (table_of_all, "--gate", loop / "gate.onnx", "--out")
    process = sift(*asked, out, "--cluster", cluster[0], script=SMALL)
    assert held.asked.wait(120)
    os.killpg(cluster[1][2].pid, signal.SIGKILL)
    held.go.set()
    finished(process)
    finished(sift(*asked, here, script=SMALL))
    assert len(table(out)) == 301
    assert table(out) == table(here)


@pytest.fixture
def bucket(archive):
    """moto's S3 on loopback with the archive in it: its environment."""
    number = port()
    server = subprocess.Popen(
        [Path(ENVIRONMENT) / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(number)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield filled(number, archive)
    finally:
        server.kill()
        server.wait()


def filled(number, archive):
    """Waits for the server, and puts the archive there."""
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
    return env


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
    said = finished(process, code=2)
    assert "s3://nowhere/x: nothing is there to decide about" in said.splitlines()[-1]
