"""A release on a device: refused in one line, or tried, watched and kept, or rolled back."""

import json
import os
import random
import signal
import subprocess
import sys

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dripgate.errors import ReleaseError
from dripgate.release import signing
from dripgate.release.activate import activate
from dripgate.release.container import Parts, pack, unpack
from dripgate.release.golden import made_up, record
from dripgate.release.manifest import Golden
from dripgate.release.state import noted_releases
from dripgate.release.trial import Trials, count_death
from dripgate.store import Store
from dripgate.stream.force import InForce, noted_force
from dripgate.stream.loop import run
from dripgate.types import Sample

from .conftest import EASY, write_keys


@pytest.fixture
def samples(stream):
    return [Sample(payload, name, float(i)) for i, (name, payload) in enumerate(stream[:800])]


@pytest.fixture
def device(gate, tmp_path):
    """The store of a device on which a gate is in force."""
    with Store(tmp_path / "kept.db") as store:
        InForce(store, gate)
    return tmp_path / "kept.db"


def ran(device, gate, samples, batch=32):
    said = []
    with Store(device) as store:
        count_death(store)
        force = InForce(store, gate, told=said.append)
        trials = Trials(store, force, told=said.append)
        run(force, samples, store, batch=batch, observers=[trials])
    return said


def state(device):
    with Store(device, read_only=True) as store:
        meta = store.meta
        return noted_force(meta).id, noted_releases(meta), [e.what for e in store.events()]


def test_a_release_is_tried_in_the_shadow_takes_over_and_is_kept(
    device, gate, better, released, keys, samples
):
    done = activate(released(better, 17), keys[1], device)
    assert done.apart < 1e-6
    ran(device, gate, samples)
    force, releases, what = state(device)
    assert force == better.id
    assert what == ["shadow", "switched", "kept"]
    assert (releases.floor, releases.trial) == (17, None)
    with Store(device, read_only=True) as store:
        assert store.counters["seen"] == len(samples)
        seen = json.loads(store.meta["figures"])
    assert sum(one["seen"] for one in seen.values()) == len(samples)
    assert set(seen) == {gate.id, better.id}


def test_a_gate_that_disagrees_never_leaves_the_shadow(
    device, gate, worse, released, keys, samples
):
    activate(released(worse), keys[1], device)
    ran(device, gate, samples)
    force, releases, what = state(device)
    assert (force, what) == (gate.id, ["shadow", "refused"])
    assert "agrees on" in releases.last
    assert releases.floor == 0


def test_a_worse_gate_is_rolled_back_by_itself(device, gate, worse, released, keys, samples):
    limits = msgspec.structs.replace(EASY, agreement=0.0, accuracy=0.7, watch=5000)
    activate(released(worse, limits=limits), keys[1], device)
    ran(device, gate, samples)
    force, releases, what = state(device)
    assert (force, what) == (gate.id, ["shadow", "switched", "rolled back"])
    assert "accuracy is" in releases.last
    assert releases.trial is None


def test_a_stream_that_drifts_in_the_watch_rolls_back(
    device, gate, better, released, keys, samples, png
):
    limits = msgspec.structs.replace(EASY, psi=0.25, watch=50_000)
    activate(released(better, limits=limits), keys[1], device)
    strange = [Sample(png(seed=i), f"{i}.png", float(i)) for i in range(1200)]
    ran(device, gate, samples[:256] + strange)
    force, releases, what = state(device)
    assert (force, what[-1]) == (gate.id, "rolled back")
    assert "drift of the" in releases.last


def test_people_roll_back(device, gate, better, released, keys, samples, dripgate):
    activate(released(better, 3), keys[1], device)
    ran(device, gate, samples)
    code, out, _ = dripgate("rollback", "--store", device, "--why", "it looks odd")
    assert code == 0, out
    ran(device, gate, samples[:32])
    assert state(device)[0] == gate.id
    code, out, _ = dripgate("inspect", device, "--releases")
    assert code == 0
    assert "it looks odd" in out
    code, _, err = dripgate("rollback", "--store", device)
    assert code == 2
    assert "no gate before the one in force" in err


# Refused, and nothing is changed ----------------------------------------------------------------


def refused(match, *arguments, **options):
    with pytest.raises(ReleaseError, match=match) as error:
        activate(*arguments, **options)
    assert "\n" not in str(error.value)


def test_refused_by_key_age_and_place(device, gate, better, released, keys, samples, tmp_path):
    release = released(better, 5)
    _, other = write_keys(tmp_path, "other")
    refused("not by the trusted one", release, other, device)
    activate(release, keys[1], device)
    ran(device, gate, samples)
    refused("needs --allow-older", released(gate, 4), keys[1], device)
    assert activate(released(gate, 4), keys[1], device, allow_older=True)
    refused("take the place of", released(gate, 9, replaces=["0" * 12]), keys[1], device)


@pytest.fixture(scope="module")
def sealed(gate, tmp_path_factory):
    """A small release as parts and bytes, its key, and a place for altered ones."""
    folder = tmp_path_factory.mktemp("sealed")
    from dripgate.release.make import make

    secret, public = write_keys(folder)
    make(gate, secret, folder / "gate-1.release", version=1)
    return folder, (folder / "gate-1.release").read_bytes(), signing.public_key(public)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.integers(0, 1 << 40), flip=st.integers(1, 255))
def test_one_altered_byte_anywhere_is_refused(sealed, place, flip):
    folder, data, key = sealed
    altered = bytearray(data)
    altered[place % len(data)] ^= flip
    path = folder / "altered.release"
    path.write_bytes(altered)
    with pytest.raises(ReleaseError):
        parts = unpack(path)
        signing.verify(parts.signature, parts.signed, key, str(path))


def test_every_byte_of_signature_and_directory_is_covered(sealed):
    """Where the gate's bytes are not: all places, a few flips each."""
    folder, data, key = sealed
    parts = unpack(folder / "gate-1.release")
    start, rng = data.index(parts.signature), random.Random(0)
    path = folder / "altered.release"
    for place in range(start, len(data)):
        altered = bytearray(data)
        altered[place] ^= rng.randrange(1, 256)
        path.write_bytes(altered)
        with pytest.raises(ReleaseError):
            found = unpack(path)
            signing.verify(found.signature, found.signed, key, str(path))


def resealed(path, keys, **members):
    parts = unpack(path)._replace(**members)
    secret = signing.private_key(keys[0])
    path.write_bytes(pack(parts._replace(signature=signing.sign(parts.signed, secret, path.name))))
    return path


@pytest.mark.parametrize(
    ("hostile", "match"),
    [
        (lambda one: {"payload": b"no picture"}, "cannot be decoded"),
        (lambda one: {"logits": (0.0,) * 3}, "another number of classes"),
        (lambda one: {"logits": (float("nan"),) * 10}, "no numbers"),
        (lambda one: {"score": 1e9}, "come out otherwise"),
        (lambda one: {"logits": one.logits[::-1]}, "come out otherwise"),
    ],
)
def test_hostile_golden_samples_are_refused(device, better, gate, released, keys, hostile, match):
    golden = record(better, made_up(better.info.input, 4))
    bad = [msgspec.structs.replace(golden[0], **hostile(golden[0])), *golden[1:]]
    path = resealed(released(better), keys, golden=msgspec.msgpack.encode(bad))
    refused(match, path, keys[1], device)
    assert state(device) == (gate.id, noted_releases({}), [])


def test_golden_samples_that_ask_for_much_are_refused(device, better, released, keys):
    golden = record(better, made_up(better.info.input, 1))
    for bad in (golden * 65, b"\x91" * 10_000, [], [{"payload": b""}]):
        data = bad if isinstance(bad, bytes) else msgspec.msgpack.encode(bad)
        refused("golden samples are not", resealed(released(better), keys, golden=data),
                keys[1], device)  # fmt: skip


def test_a_container_that_is_another_is_refused(tmp_path):
    import zipfile

    whole = pack(Parts(b"{}", b"g", b"s", b"s"))
    path = tmp_path / "x.release"
    for data in (b"", b"PK", whole + b"x", b"x" + whole, whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(ReleaseError, match="is not as 'dripgate release' wrote it"):
            unpack(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("manifest.json", "gate.onnx", "golden.msgpack", "model.sig"):
            archive.writestr(name, b"0" * 1_000_000)
    with pytest.raises(ReleaseError):
        unpack(path)


# Commands, and kills ------------------------------------------------------------------------------


def test_the_commands(dripgate, loop, gate, better, keys, tmp_path):
    better.save(tmp_path / "better.onnx")
    store, release = tmp_path / "kept.db", tmp_path / "gate-17.release"
    run_it = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", store)
    options = ["--limit", "shadow=200", "--limit", "watch=300", "--limit", "slower=50",
               "--limit", "kept=1", "--limit", "psi=100"]  # fmt: skip
    code, _, err = dripgate("activate", release, "--trust", keys[1], "--store", store)
    assert code == 2, err
    code, out, err = dripgate(
        "release", tmp_path / "better.onnx", "--key", keys[0], "--out", release, *options
    )
    assert (code, "release 17 of gate" in out) == (0, True), err
    assert dripgate(*run_it)[0] == 0
    code, out, err = dripgate("activate", release, "--trust", keys[1], "--store", store)
    assert code == 0, err
    metrics = tmp_path / "m.prom"
    code, _, err = dripgate(*run_it, "--again", "--metrics", metrics)
    assert code == 0, err
    assert state(store)[0] == better.id
    assert "dripgate_release_version 17.0\n" in metrics.read_text()
    assert "dripgate_switched_total 1.0\n" in metrics.read_text()


_RUN = """
import os, signal, sys
from dripgate.gate import Gate
from dripgate.release.trial import Trials, count_death
from dripgate.store import Store
from dripgate.stream.force import InForce
from dripgate.stream.loop import run
from dripgate.stream.sources import watch
from dripgate.stream.folder import Folder
gate, archive, path, at = sys.argv[1:]
commits = 0
with Store(path) as store:
    real = store._write
    def write(*given, **named):
        global commits
        commits += 1
        if commits == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*given, **named)
        if commits == -int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    store._write = write
    count_death(store)
    force = InForce(store, Gate.load(gate))
    run(force, Folder(archive), store, batch=64, observers=[Trials(store, force)])
print(commits)
"""


def test_killed_at_every_step_one_gate_is_in_force_and_the_step_is_taken_up_again(
    gate, better, released, keys, loop, tmp_path
):
    release = released(better, 2, msgspec.structs.replace(EASY, shadow=128, watch=128, crashes=100))

    def go(path, at):
        return subprocess.run(
            [sys.executable, "-c", _RUN, loop / "gate.onnx", loop / "stream.zip", path, str(at)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def begun(name):
        path = tmp_path / name
        with Store(path) as store:
            InForce(store, gate)
        activate(release, keys[1], path)
        return path

    whole = begun("whole.db")
    done = go(whole, 0)
    assert done.returncode == 0, done.stderr
    steps = min(int(done.stdout), 14)  # shadow, switch, watch and kept lie in these
    with Store(whole, read_only=True) as store:
        total = store.counters["seen"]
    assert state(whole)[2] == ["shadow", "switched", "kept"]
    for at in [*range(1, steps), *range(-steps + 1, 0)]:
        path = begun(f"{at}.db")
        assert go(path, at).returncode == -signal.SIGKILL
        force, _, what = state(path)
        assert force == (better.id if "switched" in what else gate.id)
        after = go(path, 0)
        assert after.returncode == 0, after.stderr
        with Store(path, read_only=True) as store:
            assert store.counters["seen"] == total  # none lost, none decided twice
        assert state(path)[0] == better.id
        assert state(path)[2] == ["shadow", "switched", "kept"]


def test_a_gate_at_which_the_process_dies_is_rolled_back(
    device, gate, better, released, keys, samples
):
    limits = msgspec.structs.replace(EASY, crashes=1, watch=50_000)
    activate(released(better, limits=limits), keys[1], device)
    ran(device, gate, samples[:320])
    assert state(device)[0] == better.id
    for deaths in (1, 2):
        with Store(device) as store:
            store.set_meta("run", '{"running": 64}')  # as a run leaves it that was killed
            count_death(store)
        assert (state(device)[0] == gate.id) is (deaths == 2)
    assert state(device)[2][-1] == "rolled back"
    ran(device, gate, samples[320:352])
    assert state(device)[0] == gate.id


def test_golden_is_strict():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"payload": b"x", "logits": [1.0], "score": 0.0, "quality": 0.0,
                         "verdict": 7}, Golden)  # fmt: skip
