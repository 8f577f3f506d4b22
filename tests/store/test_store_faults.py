"""Power that goes, disks that fail: nothing acknowledged is lost.

A library preloaded into a child process (faults.c) records each write, truncation and sync of the
store's files. From that record the disk is rebuilt as a power loss may leave it: what was synced
is there, of the rest any part, torn anywhere. And it makes the n-th of these calls fail.
"""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dripgate.store import Store
from needs import need

#: Disk states of the power loss to try; `make soak` tries many more.
STATES = int(os.environ.get("DRIPGATE_POWER_STATES", "400"))
#: Every how manieth write is made to fail; `make soak` tries each.
STRIDE = int(os.environ.get("DRIPGATE_FAULT_STRIDE", "13"))
LIMIT = 600_000

PRELUDE = """
import json, os, random, sys
from dripgate.errors import StoreError
from dripgate.store import Store, Wanted
from dripgate.store.age import Clocks
from dripgate.types import Decision, Reason, Sample, Verdict

passed = [0.0]
clocks = Clocks(steady=lambda: passed[0])

def pair(seed):
    rng = random.Random(seed)
    size = rng.choice([10, 900, 4050, 9000, 40000])
    chance = rng.choice([1.0, 1.0, 0.5])
    decision = Decision.QUARANTINE if seed % 7 == 0 else Decision.KEEP
    return (
        Sample(payload=b"%d " % seed + rng.randbytes(size), source=f"{seed}.png", time=1.0 * seed),
        Verdict(decision=decision, reason=Reason.BAND, score=1.0 * seed, quality=1.0, predicted=0,
                propensity=chance),
    )

def steps(store, seed):
    "What is done to a store, call by call."
    yield store.put_many([pair(n) for n in range(seed, seed + 9)], counters={"seen": 9})
    yield store.put(*pair(seed + 9))
    yield store.set_labels({pair(n)[0].id: "cat" for n in range(seed, seed + 9, 2)})
    yield store.mark_uploaded([one.id for one in store.pending(4)])
    yield store.set_meta("policy", "%d" % seed * 2000)
    yield store.put_many([pair(n) for n in range(seed + 10, seed + 18)], meta={"policy": "x"})
    if seed % 3 == 0:
        passed[0] += 1000  # by the store's own clock they have been here for long enough
        yield store.expire(120, now=seed)
        yield store.purge(Wanted(decision=Decision.QUARANTINE))
        yield store.shrink()

def held(store):
    return {one.id: repr(one) for one in store} | store.meta
"""

WRITER = (
    PRELUDE
    + """
path, limit, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
told = os.open(path + "-acknowledged", os.O_CREAT | os.O_WRONLY)
snapshots = [{}]
def acknowledge(store):
    snapshots.append(held(store))
    os.write(told, b"%d" % (len(snapshots) - 1))
for reopened in range(2):
    with Store(path, limit, clocks=clocks) as store:
        acknowledge(store)
        for seed in range(1000 * reopened, 1000 * reopened + 18 * rounds, 18):
            for _ in steps(store, seed):
                acknowledge(store)
print(json.dumps(snapshots))
"""
)


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The library that records and fails."""
    need("a C compiler")
    library = tmp_path_factory.mktemp("shim") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def run(shim, script, *arguments, log=""):
    environment = os.environ | {"LD_PRELOAD": str(shim), "DRIPGATE_LOG": str(log)}
    if not log:
        del environment["DRIPGATE_LOG"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Power loss -------------------------------------------------------------------------------------


def entries(log):
    """(op, file name, offset, data) of the record, in order."""
    content, at = log.read_bytes(), 0
    while at < len(content):
        end = content.index(b"\n", at)
        op, offset, size, path = content[at:end].decode().split(" ", 3)
        at = end + 1 + (int(size) if op in {"write", "ack"} else 0)
        yield op, path, int(offset), content[end + 1 : at]


class Disk:
    """What is on the platters, and what only the page cache knows.

    A file that is created under the name of one that was removed is another file: while the folder
    is not synced, the name stands for the one or the other, never for a mixture.
    """

    def __init__(self, folder):
        self.folder = str(folder)
        self.durable = {}  # file → bytes, as of its last sync
        self.pending = {}  # file → [(op, offset, data)], since then
        self.current = {}  # name → file that it stands for in the page cache
        self.names = {}  # name → file, as of the folder's last sync
        self.entries = []  # (name, file or None) since then
        self.count = 0

    def apply(self, op, path, offset, data):
        name = Path(path).name
        if op == "sync" and path == self.folder:
            self.names = self.listed(len(self.entries))
            self.entries = []
        elif op == "unlink":
            self.current.pop(name, None)
            self.entries.append((name, None))
        elif op == "create":
            self.count += 1
            self.current[name] = self.count
            self.entries.append((name, self.count))
        elif name in self.current:
            file = self.current[name]
            if op == "sync":
                pending = self.pending.pop(file, [])
                self.durable[file] = changed(self.durable.get(file, b""), pending)
            elif op in {"write", "cut"}:
                self.pending.setdefault(file, []).append((op, offset, data))

    def listed(self, count):
        names = {**self.names, **dict(self.entries[:count])}
        return {name: file for name, file in names.items() if file is not None}

    def after(self, rng, how):
        """The files after a power loss: of what was not synced nothing, all, or any part."""
        count = {"none": 0, "all": len(self.entries)}.get(how, rng.randint(0, len(self.entries)))
        files = {}
        for name, file in self.listed(count).items():
            pending = self.pending.get(file, [])
            if how == "none":
                pending = []
            elif how == "some":
                pending = [torn(rng, one) for one in pending if rng.random() < 0.6]
            elif how == "last":
                pending = pending[-1:]
            files[name] = changed(self.durable.get(file, b""), pending)
        return files


def torn(rng, operation):
    """A write of which only some sectors arrived."""
    op, offset, data = operation
    if op == "cut" or rng.random() < 0.5:
        return operation
    first, last = sorted(rng.randint(0, len(data) // 512 + 1) * 512 for _ in range(2))
    return op, offset + first, data[first:last]


def changed(content, operations):
    new = bytearray(content)
    for op, offset, data in operations:
        if op == "cut":
            new = new[:offset].ljust(offset, b"\0")
        elif data:
            new = new.ljust(offset, b"\0")
            new[offset : offset + len(data)] = data
    return bytes(new)


def test_after_a_power_loss_at_any_write_everything_acknowledged_is_there(shim, folder, capsys):
    source, log = folder / "source", folder / "log"
    source.mkdir()
    snapshots = run(shim, WRITER, source / "kept.db", LIMIT, 6, log=log)
    record = list(entries(log))
    assert len(snapshots) > 80
    assert {op for op, *_ in record} == {"write", "cut", "sync", "create", "unlink", "ack"}
    rng = random.Random(1)
    hows = ["none", "all", "last", "some", "some", "some", "some"]
    moments = [(k, how) for k in range(1, len(record) + 1) for how in hows]
    chosen = sorted(rng.sample(range(len(moments)), min(STATES, len(moments))))
    disk, acknowledged, position, tried = Disk(source), 0, 0, set()
    for k, how in (moments[n] for n in chosen):
        for entry in record[position:k]:
            if entry[0] == "ack":
                acknowledged = int(entry[3])
            elif "acknowledged" not in entry[1]:
                disk.apply(*entry)
        position = k
        files = disk.after(rng, how)
        state = hash((acknowledged, tuple(sorted(files.items()))))
        if state not in tried:
            tried.add(state)
            check_state(folder / "after", files, snapshots, acknowledged)
    with capsys.disabled():
        print(f"\n  power loss: {len(tried)} disk states from {len(record)} recorded calls")
    assert len(tried) > min(STATES, len(moments)) / 8


def check_state(folder, files, snapshots, acknowledged):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert sum(map(len, files.values())) <= LIMIT
    before = snapshots[acknowledged]
    after = snapshots[min(acknowledged + 1, len(snapshots) - 1)]
    with Store(folder / "kept.db", LIMIT) as store:  # opens at once
        assert store.check() == []
        found = {one.id: repr(one) for one in store} | store.meta
        assert store.disk_bytes <= LIMIT
    for key, value in found.items():  # none half, and in the state before or after the last call
        assert value in (before.get(key), after.get(key)) or (key not in before | after)
    lost = before.keys() - found.keys()
    assert not lost & after.keys()  # what the last call did not itself remove is there


# A disk that fails ------------------------------------------------------------------------------

FAILING = (
    PRELUDE
    + """
import ctypes, shutil
fail = ctypes.CDLL(None).dripgate_fail
folder, limit, code, sticky, torn, stride = sys.argv[1], *map(int, sys.argv[2:])
path = f"{folder}/kept.db"
best = Verdict(decision=Decision.KEEP, reason=Reason.BAND, score=1e9, quality=1.0, predicted=0,
               propensity=1.0)

def begin():  # with some past, so that rows are evicted
    shutil.rmtree(folder)
    os.mkdir(folder)
    with Store(path, limit) as store:
        store.put_many([pair(seed) for seed in range(2000, 2060)])

begin()
with Store(path, limit) as store:
    states = [held(store)] + [held(store) for _ in steps(store, 2100)]
result = []
for n in range(1, 10**6, stride):
    begin()
    told = {"n": n, "errors": [], "done": 0}
    fail(n, code, sticky, torn)
    try:
        with Store(path, limit) as store:
            for _ in steps(store, 2100):
                told["done"] += 1
    except StoreError as error:
        told["errors"].append(str(error))
    calls = fail(0, 0, 0, 0)
    # The disk is well again: nobody repairs anything.
    before, after = states[told["done"]], states[min(told["done"] + 1, len(states) - 1)]
    with Store(path, limit) as store:
        found = held(store)
        told["problems"] = store.check()
        told["usable"] = bool(store.put(Sample(payload=bytes(20_000)), best))
    told["lost"] = [key for key in before.keys() - found.keys() if key in after]
    told["changed"] = [
        key for key in found if key in before and found[key] not in (before[key], after.get(key))
    ]
    told["size"] = sum(os.stat(f"{folder}/{name}").st_size for name in os.listdir(folder))
    result.append(told)
    if calls < n:
        break
print(json.dumps(result))
"""
)


@pytest.mark.parametrize(
    ("code", "sticky", "torn"),
    [(errno.EIO, 0, 0), (errno.ENOSPC, 1, 1), (errno.EIO, 1, 1)],
    ids=["one I/O error", "a disk full from then on", "a disk that dies"],
)
def test_an_error_at_the_nth_write_loses_nothing_acknowledged(
    shim, folder, capsys, code, sticky, torn
):
    told = run(shim, FAILING, folder, LIMIT, code, sticky, torn, STRIDE)
    assert told[-1]["n"] > 100
    *failed, succeeded = told
    assert succeeded["errors"] == []
    assert succeeded["done"] >= max(one["done"] for one in failed[: len(failed) // 2]) > 2
    for one in told:
        assert one["problems"] == one["lost"] == one["changed"] == []
        assert one["usable"]
        assert one["size"] <= LIMIT
        assert all(e.count("\n") == 0 and "kept.db" in e and "; " in e for e in one["errors"])
    # An error of a write that SQLite can do without is none of the user's business.
    assert sum(bool(one["errors"]) for one in failed) > 0.75 * len(failed)
    with capsys.disabled():
        print(f"\n  {len(failed)} failing calls of {succeeded['n'] - 1}: nothing lost")
