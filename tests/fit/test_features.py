"""Feature recipes as people write them down."""

import pytest

from dripgate.errors import ModelError, UserError
from dripgate.fitting.features import Features
from dripgate.types import AudioInput

SECOND = AudioInput(rate=16000, length=16000)


def test_times_in_milliseconds_seconds_or_samples():
    recipes = [
        Features.parse(f"mfcc window={w} hop={h} bins=40 coefficients=10").recipe(
            SECOND, (49, 10, 1)
        )
        for w, h in (("30ms", "20ms"), ("0.03s", "0.02s"), ("480", "320"))
    ]
    assert recipes[0] == recipes[1] == recipes[2]
    assert (recipes[0].window, recipes[0].hop, recipes[0].coefficients) == (480, 320, 10)


def test_ortho_stands_alone():
    text = "mfcc ortho window=30ms hop=20ms bins=40 coefficients=10"
    assert Features.parse(text).recipe(SECOND, (49, 10, 1)).ortho
    assert not Features.parse(text.replace("ortho ", "")).recipe(SECOND, (49, 10, 1)).ortho


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "expected log-mel or mfcc"), ("mfcc windows=3", "'windows' is none of"),
     ("mfcc hop=fast", "hop is 'fast', expected a number"),
     ("log-mel ortho", "ortho is of mfcc"), ("mfcc ortho=1", "ortho stands alone, found ortho=1")],
)  # fmt: skip
def test_what_cannot_be_read(text, words):
    with pytest.raises(UserError, match=words):
        Features.parse(text)


def test_a_recipe_that_gives_another_size():
    with pytest.raises(ModelError, match=r"gives 98 frames of 40 values.*\(49, 10\), 490 in all"):
        Features.parse("log-mel window=25ms hop=10ms bins=40").recipe(SECOND, (49, 10))
