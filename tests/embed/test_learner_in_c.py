"""The learner in C, compiled alone for this machine: the same numbers as adapting.step, and
storage that fails.
"""

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dripgate.embed
from dripgate.embed import tables
from dripgate.embed.head import Head
from dripgate.embed.mirror import mirror
from dripgate.embed.rehearse import Event, Kind

SOURCES = Path(dripgate.embed.__file__).parent / "c"
RING = 12
#: Heads whose arithmetic differs: (rows, softmax or sigmoid, (C, D) or (D, C), vectors of memory).
HEADS = {
    "softmax": (4, "softmax", True, 8),
    "softmax, (D, C), no memory": (3, "softmax", False, 0),
    "sigmoid": (3, "sigmoid", True, 3),
    "one row": (1, "softmax", True, 2),
    "one row, (D, C)": (1, "sigmoid", False, 0),
}
SHIM = """
#include "dripgate_adapt.c"
float last[DRIPGATE_FEATURES];
const float *dripgate_last_features(void) { return last; }
const float *the_head(void) { return dripgate_head; }
unsigned size_of_state(void) { return sizeof(dripgate_learner); }
unsigned head_at(void) { return offsetof(dripgate_learner, head); }
unsigned judged_at(void) { return offsetof(dripgate_learner, judged); }
float widened(uint16_t half) { return from_half(half); }
uint16_t narrowed(float value) { return to_half(value); }
"""
READ = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)


class Storage(ctypes.Structure):
    _fields_ = (("read", READ), ("write", READ), ("context", ctypes.c_void_p),
                ("page", ctypes.c_uint32))  # fmt: skip


class Learner:
    """dripgate_adapt.c for one head, with flash in Python that can be made to fail."""

    def __init__(self, made, head, page=1):
        self.c, self.head = made, head
        made.the_head.restype = ctypes.POINTER(ctypes.c_float)
        made.widened.restype = ctypes.c_float
        made.narrowed.restype = ctypes.c_uint16
        self.state = ctypes.create_string_buffer(made.size_of_state())
        self.flash, self.failing = {}, set()
        self.storage = Storage(READ(self._read), READ(self._write), None, page)

    def _read(self, context, slot, out):
        if "read" in self.failing:
            return 7
        ctypes.memmove(out, self.flash[slot], 2 * self.head.width)
        return 0

    def _write(self, context, slot, features):
        if "write" in self.failing:
            return -1
        self.flash[slot] = ctypes.string_at(features, 2 * self.head.width)
        return 0

    def begin(self):
        return self.c.dripgate_adapt(self.state, ctypes.byref(self.storage))

    def resume(self):
        return self.c.dripgate_adapt_resume(self.state, ctypes.byref(self.storage))

    def remember(self, number, features, propensity=1.0):
        last = (ctypes.c_float * self.head.width).in_dll(self.c, "last")
        last[:] = np.asarray(features, np.float32).tolist()
        return self.c.dripgate_remember(number, ctypes.c_double(propensity))

    def numbers(self):
        """Weights and biases that the net reads now."""
        return np.array(self.c.the_head()[: self.head.weight.size + self.head.bias.size])

    def judged(self):
        return np.frombuffer(self.state, np.uint32, 3, self.c.judged_at()).tolist()

    def go(self, features, events):
        """(status and judged by event, heads shown)."""
        assert self.begin() == 0
        coming, rows, heads, last = iter(features), [], [], np.zeros(self.head.width)
        for event in events:
            status = 0
            if event.kind == Kind.DECIDE:
                last = next(coming)
            elif event.kind == Kind.REMEMBER:
                status = self.remember(event.id, last, event.propensity)
            elif event.kind == Kind.LABEL:
                status = self.c.dripgate_label(event.id, event.label)
            elif event.kind == Kind.LEARN:
                status = self.c.dripgate_learn()
            elif event.kind == Kind.UNLEARN:
                self.c.dripgate_unlearn()
            elif event.kind == Kind.RESUME:
                status = self.resume()
            elif event.kind == Kind.SHOW:
                heads.append(self.numbers())
            rows.append((status, self.judged()))
        return rows, np.array(heads)


def random_head(rows, turned, memory, width=5, seed=0):
    rng = np.random.default_rng(seed)
    classes = max(rows, 2)
    return Head(
        rng.normal(size=rows * width).astype(np.float32), rng.normal(size=rows).astype(np.float32),
        turned, "features", 1.7, rng.normal(size=(memory, width)).astype(np.float16),
        (np.arange(memory) % classes).astype(np.int32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def learner(library, tmp_path_factory):
    """Makes the C of one of HEADS, or of another head, and opens it."""
    known = {}

    def made(name, head=None):
        if name not in known:
            rows, kind, turned, memory = HEADS.get(name, (3, "softmax", True, 2))
            head = head or random_head(rows, turned, memory)
            folder = tmp_path_factory.mktemp("learner")
            lines = tables.learning("0123456789ab", kind, head)
            (folder / "dripgate_config.h").write_text("\n".join([
                "#include <stdint.h>", "typedef uint8_t dripgate_sample;",
                f"#define DRIPGATE_CLASSES {max(rows, 2)}", *lines, "#define DRIPGATE_ADAPTS 1", "",
            ]))  # fmt: skip
            (folder / "dripgate_head.c").write_text(tables.deployed(head))
            (folder / "shim.c").write_text(SHIM)
            known[name] = library(
                [folder / "dripgate_head.c", folder / "shim.c"], folder / "learner.so",
                f"-I{folder}", f"-I{SOURCES}", f"-I{SOURCES / 'adapt'}", f"-DDRIPGATE_RING={RING}",
            ), head, kind  # fmt: skip
        return known[name]

    return made


@st.composite
def streams(draw, classes):
    """Events of a device: ids that come once or again, labels early, late, twice or for nobody."""
    step = st.one_of(
        st.builds(Event, st.just(Kind.REMEMBER), id=st.integers(0, 30),
                  propensity=st.sampled_from([1.0, 0.5, 0.02])),
        st.builds(Event, st.just(Kind.LABEL), id=st.integers(0, 30),
                  label=st.integers(0, classes - 1)),
        st.builds(Event, st.sampled_from([Kind.LEARN, Kind.LEARN, Kind.SHOW, Kind.RESUME])),
        st.just(Event(Kind.UNLEARN)),
    )  # fmt: skip
    steps = draw(st.lists(step, min_size=5, max_size=60))
    events = []
    for one in steps:
        events += [Event(Kind.DECIDE), one] if one.kind == Kind.REMEMBER else [one]
    return [*events, Event(Kind.SHOW)]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("page", [1, 4])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_event_has_the_consequence_that_numpy_gives_it(learner, name, page, data):
    made, head, kind = learner(name)
    events = data.draw(streams(max(head.bias.size, 2)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    features = rng.normal(size=(len(events), head.width)).astype(np.float32)
    expected = mirror(head, kind, features, events, slots=RING, page=page)
    rows, heads = Learner(made, head, page).go(features, events)
    assert [status for status, _ in rows] == expected.status.tolist()
    assert [judged for _, judged in rows] == expected.judged.tolist()
    scale = np.abs(expected.heads).max()
    np.testing.assert_allclose(heads, expected.heads, atol=1e-5 * scale)


def test_learning_repairs_and_unlearning_brings_the_old_head_back(learner):
    made, head, _ = learner("softmax")
    one = Learner(made, head)
    assert one.begin() == 0
    before = one.numbers()
    rng = np.random.default_rng(3)
    centres = 2 * rng.normal(size=(4, head.width))
    for i in range(200):
        label = i % 4
        assert one.remember(i, centres[label] + 0.1 * rng.normal(size=head.width)) == 0
        assert made.dripgate_label(i, label) == 0
        assert made.dripgate_learn() == 16
    judged, right, deployed = one.judged()
    assert judged == 200
    assert right > 190 > 150 > deployed
    assert np.abs(one.numbers() - before).max() > 0.1
    made.dripgate_unlearn()
    assert one.numbers().tolist() == before.tolist()
    assert one.judged() == [0, 0, 0]


def test_a_ring_in_ram_needs_no_functions(learner):
    made, head, _ = learner("softmax")
    ring = (ctypes.c_uint16 * head.width * RING)()
    made.dripgate_ram.restype = Storage
    one = Learner(made, head)
    one.storage = made.dripgate_ram(ring)
    assert one.begin() == 0
    features = np.linspace(-3, 3, head.width, dtype=np.float32)
    assert one.remember(5, features) == 0
    assert made.dripgate_label(5, 1) == 0
    assert made.dripgate_learn() == 16
    half = np.frombuffer(ring, np.float16).reshape(RING, -1)[0]
    assert half.tolist() == features.astype(np.float16).tolist()


def test_only_a_remembered_sample_takes_a_label(learner):
    made, head, _ = learner("softmax")
    one = Learner(made, head)
    assert one.begin() == 0
    assert made.dripgate_learn() == 0
    for i in range(RING + 1):
        assert one.remember(100 + i, np.ones(head.width)) == 0
    assert made.dripgate_label(100, 1) == -1  # overwritten
    assert made.dripgate_label(7, 1) == -1  # never there
    assert made.dripgate_label(101, 4) == made.dripgate_label(101, -1) == -1  # no such class
    assert made.dripgate_label(101, 3) == 0


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(learner, broken):
    made, head, _ = learner("softmax")
    one = Learner(made, head)
    one.begin()
    features = np.ones(head.width)
    features[3] = broken
    assert one.remember(1, features) == -1
    assert made.dripgate_label(1, 0) == -1


def test_what_cannot_be_written_or_read_is_forgotten(learner):
    made, head, _ = learner("softmax")
    one = Learner(made, head)
    one.begin()
    one.failing = {"write"}
    assert one.remember(1, np.ones(head.width)) == -1
    assert made.dripgate_label(1, 0) == -1
    one.failing = set()
    for number in (2, 3, 4):
        assert one.remember(number, np.ones(head.width)) == 0
    assert made.dripgate_label(2, 0) == 0
    before = one.numbers()
    one.failing = {"read"}
    assert made.dripgate_learn() == 0
    assert made.dripgate_label(3, 1) == -1
    assert one.numbers().tolist() == before.tolist()
    one.failing = set()
    assert made.dripgate_label(2, 0) == made.dripgate_label(3, 0) == -1
    assert made.dripgate_label(4, 0) == 0  # the others are still there


def test_flash_that_was_erased_teaches_nothing(learner):
    made, head, _ = learner("softmax")
    one = Learner(made, head)
    one.begin()
    for number in (1, 2):
        one.remember(number, np.ones(head.width))
    assert made.dripgate_label(1, 0) == 0
    before = one.numbers()
    one.flash = dict.fromkeys(one.flash, b"\xff" * 2 * head.width)
    assert made.dripgate_label(2, 0) == -1
    assert made.dripgate_learn() == 0
    assert one.numbers().tolist() == before.tolist()


def test_a_page_must_divide_the_ring(learner):
    made, head, _ = learner("softmax")
    assert Learner(made, head, page=5).begin() == -1
    assert Learner(made, head, page=0).begin() == -1
    assert Learner(made, head, page=6).begin() == 0


def test_a_damaged_or_foreign_state_is_not_gone_on_with(learner):
    made, head, _ = learner("softmax")
    one = Learner(made, head)
    one.begin()
    one.remember(1, np.ones(head.width))
    made.dripgate_label(1, 0)
    made.dripgate_learn()
    learned = one.numbers()
    good = bytes(one.state)
    assert one.resume() == 0
    assert one.numbers().tolist() == learned.tolist()
    harm = {
        "gate": (0, b"\x01\x02\x03\x04"), "next slot": (4, b"\xff\xff\xff\xff"),
        "head": (made.head_at(), np.float32(np.nan).tobytes()),
        "label": (len(good) - 2, b"\xff\x7f"),
    }  # fmt: skip
    deployed = np.concatenate([head.weight, head.bias])
    for at, bytes_ in harm.values():
        one.state = ctypes.create_string_buffer(
            good[:at] + bytes_ + good[at + len(bytes_) :], len(good)
        )
        assert one.resume() == -1
        assert one.numbers().tolist() == deployed.tolist()
        assert one.remember(2, np.ones(head.width)) == -1
        assert made.dripgate_learn() == 0


def test_every_16_bit_float_is_read_and_written_as_numpy_does(learner):
    made, head, _ = learner("softmax")
    Learner(made, head)
    halves = np.arange(2**16, dtype=np.uint16)
    finite = halves[np.isfinite(halves.view(np.float16))]
    values = finite.view(np.float16).astype(np.float32)
    assert [made.widened(int(half)) for half in finite] == values.tolist()
    between = (values[:-1].astype(np.float64) + values[1:]) / 2  # ties, and next to them
    for x in (values, between.astype(np.float32), np.nextafter(values, np.float32(9e4))):
        limited = np.clip(x, -65504, 65504).astype(np.float16).view(np.uint16)
        found = [made.narrowed(ctypes.c_float(value)) for value in x.tolist()]
        assert found == limited.tolist()
    assert made.narrowed(ctypes.c_float(1e30)) == np.float16(65504).view(np.uint16)
