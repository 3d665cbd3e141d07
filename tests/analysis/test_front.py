"""The front of quality against size, against its definition on all pairs."""

import numpy as np
import pandas as pd
import pytest

from analysis.front import on_front


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_nothing_dominates(seed, higher):
    rng = np.random.default_rng(seed)
    size = pd.Series(rng.integers(1, 8, 30), index=rng.permutation(30))
    score = pd.Series(rng.integers(0, 9, 30).astype(float), index=size.index)
    gain = score if higher else -score
    # definition: nothing else is at least as good in both and better in one
    expected = [
        not any(
            size[o] <= size[i] and gain[o] >= gain[i] and (size[o] < size[i] or gain[o] > gain[i]) for o in size.index
        )
        for i in size.index
    ]
    assert on_front(size, score, higher).tolist() == expected


def test_missing_values_are_on_no_front():
    assert on_front(pd.Series([1, 2, 3]), pd.Series([0.5, np.nan, 0.7])).tolist() == [True, False, True]
