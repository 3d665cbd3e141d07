"""What `things_shown` counts and compares."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from study.world.objects import Look
from study.world.scene import Scene, draw
from tests.study.things_shown import kid_gain, things_shown

LOOK = Look((0.5, 0.5, 0.5, 0.5), (0.9, 0.1, 0.1), (0.1, 0.6, 0.2), (0.1, 0.2, 0.8))


def test_things_that_stand_apart_are_counted():
    one = draw(Scene("box", LOOK, "red", "plain", "snow")).pixels
    two = np.concatenate([one, one], 1)
    square = np.concatenate([two, np.full_like(two, 255)])
    assert [things_shown(picture[None]).tolist() for picture in (one, square)] == [[1], [2]]


def test_the_gain_in_kid_is_the_difference_of_two_kids():
    """Oracle: torchmetrics' estimate from each whole set."""
    draws = np.random.default_rng(3)
    real, before, after = (draws.normal(shift, 1, (40, 6)) for shift in (0, 1, 0.2))
    gain, error = kid_gain(real, before, after)
    first, second = (float(poly_mmd(torch.tensor(real), torch.tensor(features))) for features in (before, after))
    assert gain == pytest.approx(first - second)
    assert 0 < error < gain
    assert kid_gain(real, before, before) == (0, 0)
