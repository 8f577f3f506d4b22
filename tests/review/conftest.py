"""A store that a run with an audit filled, and `dripgate review` as users start it."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from dripgate.policy import Rules
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.types import Sample


@pytest.fixture(scope="session")
def filled(loop, gate, stream, tmp_path_factory):
    """Read only: digits without their folders, about a third of the stream and an audit."""
    path = tmp_path_factory.mktemp("filled") / "kept.db"
    named = [
        Sample(payload, source=f"frame-{i:05}.png", time=1e9 + i)
        for i, (_, payload) in enumerate(stream)
    ]
    with Store(path) as store:
        run(gate, named, store, rules=Rules(keep=0.3, audit=0.1, duplicates=0.0))
    return path


@pytest.fixture
def kept(filled, tmp_path):
    """A copy that a test may label."""
    return Path(shutil.copy(filled, tmp_path / "kept.db"))


class Page:
    """`dripgate review`, running; and its requests, as the page makes them."""

    def __init__(self, process, url):
        self.process, self.url = process, url
        parts = urllib.parse.urlsplit(url)
        self.port, self.root = parts.port, f"http://{parts.netloc}"
        self.token = urllib.parse.parse_qs(parts.query)["token"][0]

    def open(self, path, body=None, *, token=None, **headers):
        """(status, headers, bytes)."""
        given = {"X-Token": self.token if token is None else token}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, given)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def ask(self, path, body=None):
        """The JSON of an answer."""
        return json.loads(self.open(path, body)[2])

    def rows(self, **look):
        """The samples of an order."""
        view = self.ask("/api/view", look)
        return self.ask(f"/api/rows?view={view['view']}&from=0&to=1000")["rows"]

    def label(self, ids, label, who="tester"):
        """Label, and what became of it."""
        return self.ask("/api/label", {"ids": ids, "label": label, "who": who})


@pytest.fixture
def review():
    """Starts `dripgate review` with these arguments; ended with the test."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "dripgate", "review", *map(str, arguments), "--port", "0"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        started.append(process)
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.stderr.read()
        return Page(process, url)

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode in (0, -9)


@pytest.fixture
def labels():
    """The labels of a store by source."""

    def read(path):
        with Store(path, read_only=True) as store:
            return {one.source: one.label for one in store if one.label is not None}

    return read
