"""The policy in C: the same decisions as in Python, for the same stream and the same seed."""

from needs import need

need("emx-onnx-cgen")

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dripgate.embed
from dripgate.embed.tables import quality_low
from dripgate.policy import Allowance, Policy, Rules
from dripgate.policy.share import Ranks
from dripgate.types import Decision, Reason

SOURCES = Path(dripgate.embed.__file__).parent / "c"
REASONS = (Reason.BAND, Reason.QUALITY, Reason.BUDGET, Reason.FLOOR, Reason.AUDIT)
DECISIONS = (Decision.DROP, Decision.KEEP, Decision.QUARANTINE)
SHIM = """
#include "dripgate_policy.h"
dripgate_policy *dripgate_last_word_state;
void (*dripgate_last_word)(dripgate_policy *, double, dripgate_verdict *);
unsigned size_of_state(void) { return sizeof(dripgate_policy); }
int decide_all(double keep, double audit, double least, double quarantine, uint64_t seed,
               uint32_t bytes, int budgets, const double *budget, int n, const float *score,
               const float *quality, const int32_t *predicted, const uint8_t *given,
               const double *time, uint8_t *decision, uint8_t *reason, double *propensity)
{
    static dripgate_policy policy;
    dripgate_rules rules = {keep, audit, least, quarantine, seed, bytes, budgets, {{0, 0, 0}}};
    for (int i = 0; i < budgets && i < DRIPGATE_BUDGETS; ++i) {
        rules.budget[i].amount = budget[3 * i];
        rules.budget[i].period = budget[3 * i + 1];
        rules.budget[i].bytes = budget[3 * i + 2] != 0;
    }
    if (dripgate_policy_init(&policy, &rules) != 0) {
        return -1;
    }
    for (int i = 0; i < n; ++i) {
        dripgate_verdict verdict = {(int16_t)predicted[i], given[i], 0, score[i], quality[i], 0};
        dripgate_policy_decide(&policy, time[i], &verdict);
        decision[i] = verdict.decision;
        reason[i] = verdict.reason;
        propensity[i] = verdict.propensity;
    }
    return 0;
}
"""


def built(folder, library, info, share=1):
    """The policy alone, for the gate of ``info``."""
    seeded = ", ".join(f"{float(x).hex()}f" for x in Ranks.seeded(info.calibration.score).recent)
    (folder / "dripgate_config.h").write_text(
        f"#include <stdint.h>\ntypedef uint8_t dripgate_sample;\n"
        f"#define DRIPGATE_CLASSES {len(info.classes)}\n"
        f"#define DRIPGATE_KEEP_EXPECTED {info.keep.hex()}\n"
        f"#define DRIPGATE_QUALITY_LOW {quality_low(info)}\n"
        f"#define DRIPGATE_SEEDED_SCORES {{{seeded}}}\n"
    )
    (folder / "shim.c").write_text(SHIM)
    made = library(
        [SOURCES / "dripgate_policy.c", folder / "shim.c"], folder / "policy.so",
        f"-I{folder}", f"-I{SOURCES}", "-DDRIPGATE_BUDGETS=2", f"-DDRIPGATE_SHARE={share}",
    )  # fmt: skip
    made.decide_all.argtypes = [ctypes.c_double] * 4 + [
        ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int,
    ] + [ctypes.c_void_p, ctypes.c_int] + [ctypes.c_void_p] * 8  # fmt: skip
    return made


@pytest.fixture(scope="module")
def in_c(tmp_path_factory, library, info):
    return built(tmp_path_factory.mktemp("policy"), library, info)


def through_c(made, rules, stream, bytes=100):
    """(status, decisions, reasons, propensities)."""
    n = len(stream)
    columns = [
        np.array([v.score for v in stream.verdicts], np.float32),
        np.array([v.quality for v in stream.verdicts], np.float32),
        np.array([v.predicted for v in stream.verdicts], np.int32),
        np.array([v.decision.code for v in stream.verdicts], np.uint8),
        np.array([sample.time for sample in stream.samples], np.float64),
        np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.float64),
    ]  # fmt: skip
    budget = np.array([[b.amount, b.period, b.bytes] for b in rules.budgets] or [[0.0] * 3])
    status = made.decide_all(
        rules.keep or 0.0, rules.audit, rules.floor, rules.quarantine, rules.seed, bytes,
        len(rules.budgets), budget.ctypes.data, n, *(column.ctypes.data for column in columns),
    )  # fmt: skip
    return status, *columns[5:]


def assert_the_same(made, rules, stream, info):
    expected = stream.through(Policy(rules, info))
    status, decisions, reasons, propensities = through_c(made, rules, stream)
    assert status == 0
    assert [DECISIONS[code] for code in decisions] == [v.decision for v in expected]
    assert [REASONS[code] for code in reasons] == [v.reason for v in expected]
    assert propensities.tolist() == [v.propensity for v in expected]
    return expected


BUDGETS = (Allowance(40, 100.0), Allowance(3_000, 60.0, True))
RULES = [
    Rules(duplicates=0),
    Rules(duplicates=0, floor=0, audit=0.1, seed=7),
    Rules(duplicates=0, keep=0.1, audit=0.05),
    Rules(duplicates=0, keep=0.3, budgets=BUDGETS, quarantine=0.05, seed=3),
    Rules(duplicates=0, budgets=BUDGETS[:1], audit=0.2),
    Rules(duplicates=0, keep=0.5, budgets=BUDGETS[1:], audit=0, quarantine=0),
    Rules(duplicates=0, keep=0.02, budgets=(Allowance(15, 7200.0),), audit=0.3),
    Rules(duplicates=0, keep=0.55),
    Rules(duplicates=0, keep=0.9, budgets=(Allowance(3_333.3, 50.0, True),), audit=0.1),
]


@pytest.mark.parametrize("rules", RULES, ids=range(len(RULES)))
def test_drift_bursts_ties_and_alien_input(rules, in_c, info, stream_of):
    rng = np.random.default_rng(11)
    n = 1500
    scores = rng.gamma(0.5, size=n).round(2) * np.linspace(1, 4, n)
    scores[300:400] = 0.25  # ties
    times = np.cumsum(rng.exponential(2.0, n) * np.where(np.arange(n) % 500 < 250, 0.05, 1))
    times[:3] = times[650] = np.nan
    times[500:650] = times[500:650:10].repeat(10)  # ten at once
    times[700] = -50
    times[900:] += 86_400
    stream = stream_of(scores, times=times, alien=set(range(3, n, 17)))
    expected = assert_the_same(in_c, rules, stream, info)
    assert len({verdict.reason for verdict in expected}) >= 3


@pytest.mark.parametrize("rules", RULES, ids=range(len(RULES)))
def test_quality_that_drifts(rules, tmp_path, library, drifting):
    info, stream = drifting
    expected = assert_the_same(built(tmp_path, library, info), rules, stream, info)
    assert any(v.reason is Reason.QUALITY for v in expected)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**63), st.floats(0.01, 1), st.floats(0, 0.3), st.floats(0, 1),
    st.floats(1, 300), st.floats(1, 1e4),
)  # fmt: skip
def test_any_rules(in_c, info, stream_of, seed, keep, audit, floor, amount, period):
    rules = Rules(
        keep=keep, audit=audit, floor=floor, duplicates=0, seed=seed,
        budgets=(Allowance(amount, period),),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    times = 1.7e9 + np.cumsum(rng.exponential(period / 100, 150))
    assert_the_same(in_c, rules, stream_of(rng.gamma(0.5, size=150), times=times), info)


def test_rules_out_of_range_are_refused(in_c, info, stream_of):
    stream = stream_of([0.1, 0.9])
    good = Rules(keep=0.5, budgets=BUDGETS)
    assert through_c(in_c, good, stream)[0] == 0
    budget = np.array([[40.0, 0.0, 0.0]])
    for keep, audit, budgets in ((1.5, 0, 0), (0.5, -0.1, 0), (0.5, 0, 3), (0.5, 0, 1)):
        status = in_c.decide_all(
            keep, audit, 0.0, 0.0, 0, 1, budgets, budget.ctypes.data, 0, *[None] * 8
        )
        assert status == -1


def test_band_and_audit_alone_fit_in_two_hundred_bytes(tmp_path, library, info, stream_of):
    small = built(tmp_path, library, info, share=0)
    assert small.size_of_state() <= 200
    rng = np.random.default_rng(5)
    stream = stream_of(rng.gamma(0.5, size=600), alien=set(range(3, 600, 17)))
    assert_the_same(small, Rules(floor=0, duplicates=0, audit=0.1), stream, info)
    assert through_c(small, Rules(keep=0.5, floor=0), stream)[0] == -1
