"""The drift alarm: seldom false, soon true, once per change."""

import numpy as np
import pytest

from dripgate.policy.drift import ALARM, WINDOW, DriftAlarm, compare

CLASSES = 4


def draw(rng, n, shift=1.0, weights=(0.25,) * 4):
    return rng.gamma(0.5, size=n) * shift, rng.beta(5, 5, n), rng.choice(4, n, p=weights)


def feed(alarm, found, start=0):
    alarm.note(*found, np.arange(start, start + len(found[0]), dtype=float))


@pytest.mark.parametrize("samples", [200, 1000, 5000])
def test_false_alarms_are_as_rare_as_stated(calibrated, samples):
    """About one in 1,000 windows, on average over calibration sets of any size."""
    rng = np.random.default_rng(samples)
    raised, windows = 0, 0
    for _ in range(100):
        alarm = DriftAlarm(calibrated(*draw(rng, samples)))
        feed(alarm, draw(rng, 40 * WINDOW))
        raised, windows = raised + alarm.state.raised, windows + 40
    assert raised <= 11  # Poisson with mean 4: more in 0.1 % of cases


def test_the_threshold_is_that_of_one_false_alarm_in_a_thousand_windows():
    """Of three statistics that are standard normal where nothing changed."""
    from scipy.stats import norm

    assert 3 * norm.sf(ALARM) == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("split", [1, 64, 999, 2500])
def test_a_change_is_noticed_named_and_dated(calibrated, split):
    rng = np.random.default_rng(1)
    alarm = DriftAlarm(calibrated(*draw(rng, 2000)))
    before, after = draw(rng, 5 * WINDOW), draw(rng, 5 * WINDOW, shift=1.6)
    whole = [np.concatenate(pair) for pair in zip(before, after, strict=True)]
    for start in range(0, 10 * WINDOW, split):
        feed(alarm, [column[start : start + split] for column in whole], start)
    (raised,) = alarm.alarms
    assert raised.what == "score"
    assert raised.since == 5 * WINDOW
    assert raised.windows == 5
    assert raised.statistic > ALARM
    assert raised.psi > 0.02
    assert not raised.over


def test_classes_that_come_or_go_are_noticed(calibrated):
    rng = np.random.default_rng(2)
    alarm = DriftAlarm(calibrated(*draw(rng, 2000)))
    feed(alarm, draw(rng, WINDOW, weights=(0.1, 0.2, 0.3, 0.4)))
    assert [one.what for one in alarm.alarms] == ["classes"]


def test_one_change_is_one_alarm_and_it_ends(calibrated):
    rng = np.random.default_rng(3)
    alarm = DriftAlarm(calibrated(*draw(rng, 2000)))
    for i in range(30):  # a change that comes and goes within an alarm
        feed(alarm, draw(rng, WINDOW, shift=1.6 if i % 2 else 1.0))
    assert alarm.state.raised == 1
    feed(alarm, draw(rng, 6 * WINDOW))
    assert alarm.alarms[0].over
    feed(alarm, draw(rng, WINDOW, shift=2.0))
    assert alarm.state.raised == 2
    assert not alarm.alarms[0].over


def test_a_gate_without_calibration_raises_nothing(make_info):
    from dripgate.gate_info import Calibration, Histogram

    nothing = Histogram(edges=(), counts=())
    alarm = DriftAlarm(Calibration(
        samples=0, accuracy=0, score=nothing, quality=nothing, predicted=(), kept=(), curve=(),
        full=0, why="",
    ))  # fmt: skip
    feed(alarm, draw(np.random.default_rng(0), 3 * WINDOW))
    assert alarm.alarms == []


def test_the_statistic_is_that_of_a_chi_squared_test():
    from scipy.stats import chi2_contingency, norm

    rng = np.random.default_rng(4)
    seen, expected = rng.multinomial(1000, [0.1] * 10), rng.multinomial(3000, [0.1] * 10)
    reference = chi2_contingency([seen, expected], correction=False)
    statistic, _ = compare(seen, expected)
    assert norm.sf(statistic) == pytest.approx(reference.pvalue, abs=0.003)
