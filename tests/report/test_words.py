import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dripgate.report import verdict, words


def test_verdict_states_what_was_stored_and_both_baselines(outcome):
    assert verdict(outcome()) == (
        "Stored 31 % of the stream; accuracy 0.951 against 0.949 for training on everything and "
        "0.940 for random at the same count. That is 0.2 points above training on everything and "
        "1.1 points above random at the same count."
    )


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (
            {"dripgate": 0.93, "full": 0.95, "random": 0.92},
            "2.0 points below training on everything",
        ),
        ({"dripgate": 0.93, "full": 0.93, "random": 0.94}, "1.0 points below random"),
        (
            {"dripgate": 0.93, "full": 0.9302, "random": 0.92},
            "is level with training on everything",
        ),
        ({"dripgate": 0.93, "random": 0.94}, "accuracy 0.930 against 0.940 for random"),
        ({"dripgate": 0.93, "full": math.nan}, "accuracy 0.930 with no baseline beside it"),
        ({"full": 0.95, "random": 0.92}, "accuracy after retraining was not measured"),
        ({"dripgate": math.nan, "full": 0.95}, "accuracy after retraining was not measured"),
    ],
)
def test_verdict_is_as_plain_about_what_is_worse_or_missing(outcome, accuracy, said):
    assert said in verdict(outcome(accuracy=accuracy))


def test_verdict_warns_of_chance_only_where_a_difference_is_that_small(outcome):
    # two binomials at 0.951 with 1000 samples: 1.96 * sqrt(2 * 0.951 * 0.049 / 1000) = 1.89 points
    assert "With 1,000 test samples, differences under about 1.9 points" in verdict(
        outcome(tested=1000)
    )
    assert "chance" not in verdict(outcome(tested=1_000_000))
    assert "chance" not in verdict(outcome(tested=0))


def test_stored_counts_what_is_quarantined_and_nothing_is_nothing(outcome):
    assert outcome(stream=100, kept=20, quarantined=5).samples_saved == 0.75
    assert verdict(outcome(kept=0, quarantined=0)).startswith("Stored nothing of the stream;")
    assert verdict(outcome(kept=1, quarantined=0)).startswith("Stored 0.1 % of the stream;")
    empty = outcome(stream=0, kept=0, quarantined=0, bytes_seen=0, bytes_kept=0)
    assert (empty.samples_saved, empty.bytes_saved) == (0, 0)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (words.share, 0.314, "31 %"), (words.share, 0, "0 %"), (words.share, 1, "100 %"),
        (words.share, 0.004, "0.4 %"), (words.share, 0.996, "99.6 %"), (words.share, math.nan, "–"),
        (words.size, 0, "0 B"), (words.size, 999, "999 B"), (words.size, 12_345_678, "12.3 MB"),
        (words.size, 999_600, "1.0 MB"),
        (words.duration, 0.84, "0.8 s"), (words.duration, 59.6, "1 min 00 s"),
        (words.duration, 83, "1 min 23 s"),
        (words.number, 0.0123456, "0.0123"), (words.number, 3.1e-6, "3.1e-6"),
        (words.number, 2e9, "2e9"), (words.number, math.nan, "–"), (words.number, None, "–"),
        (words.points, -1.24, "−1.2"), (words.points, 0.04, "0.0"), (words.points, 2, "+2.0"),
        (words.span, (0.5, 0.5), "0.5"), (words.span, (0.5, 0.2), "0.2 to 0.5 by class"),
        (words.span, (0.5, None), "0.5 by class"), (words.span, (None,), "–"),
    ],
)  # fmt: skip
def test_numbers_read_well(function, value, text):
    assert function(value) == text


def test_band_in_words():
    assert words.band((0.1, 0.1), (None, None)) == "at least 0.1"
    assert words.band((0.1, 0.2), (3.0, 3.0)) == "at least 0.1 to 0.2 by class and at most 3"
    assert words.band((None,), (None,)) == "any"


@given(st.text(st.characters()) | st.sampled_from(["a\x00b", "\ud800", "gnp.\u202eexe"]))
def test_cleaned_text_can_be_written_and_keeps_its_length(text):
    cleaned = words.clean(text)
    cleaned.encode()
    assert len(cleaned) == len(text)
    assert not set(cleaned) & set("\x00\x1b\u202e\ud800")
    assert all(a == b for a, b in zip(cleaned, text, strict=True) if b.isalnum())
