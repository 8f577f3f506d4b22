"""dripgate sift through its own interface: Daft itself, on this machine."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from needs import need

need("Daft")
import pyarrow as pa
from pyarrow import parquet

from dripgate.archive.listing import Columns
from dripgate.archive.sift import How, sift
from dripgate.errors import DataError, IncompleteError
from dripgate.media import encode_wav
from dripgate.types import Reason, Sample


def of(table, address):
    """The one row of an address that ends so."""
    found = [row for row in table.to_pylist() if row["address"].endswith(address)]
    assert len(found) == 1, address
    return found[0]


def test_a_row_says_what_the_gate_says(archive, sifted, gate):
    table = parquet.read_table(sifted)
    assert table.num_rows == 301
    for row in table.to_pylist()[:80]:
        payload = Path(row["address"]).read_bytes()
        verdict = gate.decide(Sample(payload))
        assert row["verdict"] == verdict.decision
        assert row["reason"] == verdict.reason
        assert row["bytes"] == len(payload)
        assert row["id"] == hashlib.sha256(payload).hexdigest()
        assert row["time"].timestamp() == pytest.approx(
            Path(row["address"]).stat().st_mtime, abs=1e-3
        )
        if verdict.reason is Reason.UNREADABLE:
            assert row["cause"] == verdict.detail
            assert row["score"] is row["predicted"] is row["embedding"] is None
            continue
        outputs = gate(gate.decode(Sample(payload))[None])
        odds = np.exp(outputs.logits[0] - outputs.logits[0].max())
        assert row["score"] == pytest.approx(verdict.score, rel=1e-4, abs=1e-7)
        assert row["quality"] == pytest.approx(verdict.quality, rel=1e-3)
        assert row["predicted"] == gate.info.classes[verdict.predicted]
        assert row["probability"] == pytest.approx(odds.max() / odds.sum(), rel=1e-4)
        assert row["embedding"] == pytest.approx(outputs.embedding[0], rel=2e-3, abs=2e-3)


def test_other_readers_take_the_folder(sifted):
    import daft

    assert parquet.read_table(sifted).num_rows == 301
    assert daft.read_parquet(str(sifted)).count_rows() == 301


def test_what_cannot_be_read_is_counted_with_its_cause(sifting, archive, tmp_path):
    table = tmp_path / "files.csv"
    good = next(archive.glob("*/*.png"))
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 65 << 20)
    os.mkfifo(tmp_path / "pipe.png")
    lines = ["url", good, "gone.png", "huge.png", "pipe.png", "/dev/zero", ".", "", "a,b"]
    table.write_text("\n".join(map(str, lines)))
    found, got, told = sifting(table)
    causes = {Path(row["address"]).name: row["cause"] for row in got.to_pylist()}
    assert causes[good.name] is None
    assert causes["gone.png"] == "cannot be read: No such file or directory"
    assert "more than the limit" in causes["huge.png"]
    assert causes["pipe.png"] == causes["zero"] == "no regular file"
    assert found.tally.unreadable == got.num_rows - 1 == 5
    assert {one.source for one in found.tally.named} == {
        row["address"] for row in got.to_pylist() if row["cause"]
    }
    assert any("another number of columns" in line for line in told)
    assert any("addresses are in the column 'url'" in line for line in told)


def test_a_damaged_corner_of_a_table_does_not_lose_the_rest(sifting, archive, tmp_path):
    paths = [str(one) for one in sorted(archive.glob("*/*.png"))[:90]]
    table, shot = (
        pa.table({"path": paths, "when": [1.6e9 + i for i in range(90)]}),
        tmp_path / "t.parquet",
    )
    parquet.write_table(table, shot, row_group_size=30, compression="none", use_dictionary=False)
    group = parquet.ParquetFile(shot).metadata.row_group(1).column(0)
    data = bytearray(shot.read_bytes())
    at = group.data_page_offset
    data[at : at + 60] = b"\xff" * 60
    shot.write_bytes(data)
    found, got, told = sifting(shot, columns=Columns("path", "when"))
    assert sorted(set(got["address"].to_pylist())) == sorted(paths[:30] + paths[60:])
    assert got["time"].to_pylist()[0].timestamp() == 1.6e9
    assert any("group 1 are damaged" in line and "30 not seen" in line for line in told)
    assert any("group 1" in line for line in found.skipped)


def test_long_recordings_become_windows(sifting, tmp_path, hearing):
    rate, length = hearing.info.input.rate, hearing.info.input.length
    sound = np.random.default_rng(0).integers(-9000, 9000, 3 * length).astype(np.int16)
    folder = tmp_path / "sounds"
    folder.mkdir()
    (folder / "long.wav").write_bytes(encode_wav(sound, rate))
    (folder / "short.wav").write_bytes(encode_wav(sound[: length // 2], rate))
    _, got, _ = sifting(folder, gate=hearing, overlap=0.5)
    seconds = length / rate
    at = [row["at"] for row in got.to_pylist() if row["address"].endswith("long.wav")]
    assert at == pytest.approx(np.arange(5) * seconds / 2, abs=1e-3)
    assert of(got, "short.wav")["at"] is None


def test_names_that_are_no_text_are_kept_apart(sifting, archive, tmp_path):
    payload = next(archive.glob("*/*.png")).read_bytes()
    (tmp_path / "odd").mkdir()
    names = [b"caf\xe9.png", b"caf\xe8.png", b"new\nline.png", "ünï.png".encode(), b"-rf.png"]
    for name in names:
        (tmp_path / "odd" / os.fsdecode(name)).write_bytes(payload)
    _, got, _ = sifting(tmp_path / "odd")
    assert got["cause"].null_count == len(names)
    assert len(set(got["address"].to_pylist())) == len(names)


def test_sources_are_refused_in_one_line(sifting, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    for source, said in (
        (tmp_path / "nowhere", "no such folder"), (tmp_path / "empty", "nothing is there"),
        (tmp_path / "a.csv", "Say --column"),
        (tmp_path / "b.parquet", "cannot be read as a table"),
        (tmp_path / "c.csv", "no such table"), (tmp_path / "d.zip", "archive file"),
        ("http://127.0.0.1:9/x/", "cannot be listed"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said) as error:
            sifting(source, tmp_path / "out.parquet")
        assert "\n" not in str(error.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="not from sift"):
        sifting(tmp_path, tmp_path / "mine")


def test_a_listing_on_a_server(sifting, served, archive, sifted):
    _, got, _ = sifting(served)
    mine = {row["id"]: row for row in parquet.read_table(sifted).to_pylist()}
    assert got.num_rows == 301
    for row in got.to_pylist():
        assert row["address"].startswith(served)
        score = mine[row["id"]]["score"]
        assert row["score"] == (score and pytest.approx(score, rel=1e-4, abs=1e-7))


# Whoever dies ------------------------------------------------------------------------------------


class Stopping:
    """Says stop after so many answers."""

    def __init__(self, after):
        self.left = after

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture
def small_partitions(monkeypatch):
    from dripgate.archive import work

    monkeypatch.setattr(work, "PARTITION", 64)
    monkeypatch.setattr(work, "BLOCK", 16)


@pytest.mark.usefixtures("small_partitions")
def test_a_stopped_sift_goes_on_and_decides_nothing_twice(sifting, archive, gate, tmp_path):
    whole, expected, _ = sifting(archive)
    out = tmp_path / "again.parquet"
    with pytest.raises(IncompleteError, match="the same command goes on"):
        sift(str(archive), gate, out, How(workers=1), stop=Stopping(9))
    done = {one: one.stat().st_mtime_ns for one in out.glob("part-*")}
    assert 0 < len(done) < 5
    found, got, _ = sifting(archive, out)
    assert {one: one.stat().st_mtime_ns for one in done} == done
    assert found.progress.samples == 301 - 64 * len(done)
    assert got.equals(expected)
    assert found.tally == whole.tally
    third, _, _ = sifting(archive, out)
    assert third.progress.samples == 0
    assert third.cpu_per_million is None


def test_another_question_is_not_mixed_in(sifting, archive, sifted, hearing, tmp_path):
    with pytest.raises(DataError, match="another source"):
        sifting(tmp_path, sifted)
    with pytest.raises(DataError, match="another options"):
        sifting(archive, sifted)  # without embeddings
    with pytest.raises(DataError, match="another gate"):
        sifting(archive, sifted, gate=hearing, embeddings=True)


# Small partitions, so that some are done when somebody dies.
DRIVER = """
import sys
from dripgate.archive import work
work.PARTITION, work.BLOCK = 64, 16
from dripgate.cli import main
sys.argv[0] = "dripgate"
main()
"""


def driver(table, loop, out):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "sift", str(table), "--gate", str(loop / "gate.onnx"),
         "--out", str(out), "--workers", "2"],
        start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def workers_of(process):
    """Processes of the driver's session that decide."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != process.pid:
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[3]) == process.pid and fields[0] != "Z" and b"udf_worker" in line:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_sigkill_changes_no_row(archive, loop, held, tmp_path, victim):
    shutil.copy(next(archive.glob("*/*.png")), archive / "last.png")
    paths = [str(one) for one in sorted(archive.glob("*/*.png"))] + [f"{held.address}last.png"]
    table, out, expected = (tmp_path / name for name in ("all.csv", "out", "expected"))
    table.write_text("path\n" + "\n".join(paths))
    process = driver(table, loop, out)
    assert held.asked.wait(120)
    if victim == "worker":
        for worker in workers_of(process):
            os.kill(worker, signal.SIGKILL)
        held.go.set()
        said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "was got over" in said[0]
    else:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        held.go.set()
        assert len(list(out.glob("part-*"))) < 5
        process = driver(table, loop, out)
        assert "301 samples" in process.communicate(timeout=120)[0]
    assert driver(table, loop, expected).wait(120) == 0
    parts = sorted(one.name for one in expected.glob("part-*"))
    assert parts == sorted(one.name for one in out.glob("part-*"))
    for name in parts:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name
    assert not list(out.glob(".*"))


def test_a_sample_that_kills_whoever_decides_it_is_noted(archive, loop, held, tmp_path):
    table, out = tmp_path / "all.csv", tmp_path / "out"
    paths = [str(one) for one in sorted(archive.glob("*/*.png"))[:70]]
    table.write_text("\n".join(["path", f"{held.address}poison.png", *paths]))
    running = []

    def kill():
        for worker in workers_of(running[0]):
            os.kill(worker, signal.SIGKILL)

    held.poison = kill
    running.append(driver(table, loop, out))
    said = running[0].communicate(timeout=300)
    assert running[0].returncode == 0, said
    rows = parquet.read_table(out).to_pylist()
    assert len(rows) == 71
    assert "whoever decides it dies" in rows[0]["cause"]
    assert not any(row["cause"] for row in rows[1:])


def test_two_drivers_do_not_work_in_one_folder(archive, gate, sifting, tmp_path):
    from dripgate.archive.work import Work

    out = tmp_path / "scores.parquet"
    with Work(out).claimed(), pytest.raises(DataError, match="another sift is at work"):
        sifting(archive, out)


# A listing, and the page ------------------------------------------------------------------------


def test_links_that_lead_elsewhere_are_not_followed(monkeypatch):
    from dripgate.archive import index

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/in/away/":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            text = {
                "/in/": "<a href=a.png>a</a><a href='../up.png'>u</a><a href='?C=N'>sort</a>"
                "<a href='//other/x.png'>o</a><a href='javascript:x'>j</a><a href='sub/'>s</a>"
                "<a href='away/'>w</a><a href='big/'>b</a><a href='a.png'>again</a>",
                "/in/sub/": "<a href='/in/'>top</a><A HREF='b%20c.png'>b</A><a href='./'>self</a>",
                "/in/big/": "<a href='x.png'>" * 300,
            }
            self.wfile.write(text[self.path].encode())

        def log_message(self, *_):
            pass

    monkeypatch.setattr(index, "LARGEST_PAGE", 2000)
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        top, told = f"http://127.0.0.1:{server.server_port}/in/", []
        found = list(index.links(top, told.append))
        server.shutdown()
    assert found == [f"{top}a.png", f"{top}sub/b%20c.png"]
    assert any("away/: cannot be listed" in line and "another server" in line for line in told)
    assert any("big/: cannot be listed" in line and "2,000 bytes" in line for line in told)


def test_the_page_s_commands(loop, archive, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "sift.md").read_text(encoding="utf-8")
    block = page.split("```bash\n")[1].split("```")[0]
    shutil.copytree(archive, tmp_path / "incoming")
    shutil.copy(loop / "gate.onnx", tmp_path)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", block], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "there already" in done.stdout
    assert "all was decided before" in done.stdout
    assert "keep: audit" in done.stdout
