"""What the engine does to the world outside: whom it asks, and a worker that never comes."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from needs import need

need("Daft")

from pyarrow import parquet


def sift(*arguments, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "dripgate", "sift", *map(str, arguments)], env=os.environ | env,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def proxy():
    """A proxy that refuses all, and the hosts that it was asked for."""
    hosts = set()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with suppress(OSError):  # until it is closed
                while True:
                    client, _ = server.accept()
                    with client:
                        hosts.add(client.recv(4096).split()[1].decode())

        threading.Thread(target=serve, daemon=True).start()
        at = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield {"HTTPS_PROXY": at, "HTTP_PROXY": at, "NO_PROXY": "", "no_proxy": ""}, hosts
        server.shutdown(socket.SHUT_RDWR)


def test_nobody_is_told_that_an_archive_is_decided(archive, loop, proxy, tmp_path):
    env, hosts = proxy
    process = sift(archive, "--gate", loop / "gate.onnx", "--out", tmp_path / "out",
                   "--workers", 2, **env)  # fmt: skip
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert hosts == set()


def test_google_s_store_is_asked_and_its_failure_told_in_a_line(loop, proxy, tmp_path):
    """No server stands in for it: Daft's client has one address and its own authorities."""
    env, hosts = proxy
    process = sift("gs://pictures/in/", "--gate", loop / "gate.onnx", "--out", tmp_path / "out",
                   "--anonymous", **env)  # fmt: skip
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 2, said
    assert hosts == {"storage.googleapis.com:443"}
    last = said.splitlines()[-1]
    assert "gs://pictures/in/: cannot be listed" in last
    assert "no other server for gs:// than storage.googleapis.com" in last


#: Before anything else of a worker: the first one dies as by kill -9.
SITE = """
import os, signal, sys
mark = os.environ["DIES_ONCE"]
if "daft.execution.udf_worker" in sys.orig_argv and os.path.exists(mark):
    os.unlink(mark)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_before_it_connects_is_got_over(archive, loop, tmp_path, workers):
    """Daft by itself waits for it for ever."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    (tmp_path / "mark").touch()
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    asked = (archive, "--gate", loop / "gate.onnx", "--workers", workers, "--out")
    process = sift(*asked, tmp_path / "out", PYTHONPATH=path, DIES_ONCE=str(tmp_path / "mark"))
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert not (tmp_path / "mark").exists()
    assert "a worker ended before it reported for work" in said
    assert "was got over" in said
    process = sift(*asked, tmp_path / "expected")
    assert process.wait(300) == 0
    rows = [parquet.read_table(tmp_path / name).to_pylist() for name in ("out", "expected")]
    assert rows[0] == rows[1]
