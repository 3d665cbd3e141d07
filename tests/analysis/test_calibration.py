"""The promises about false positives and coverage, by the benchmark whose full table is in docs/statistics.md."""

import numpy as np
import pytest

from benchmarks.calibration import SDS, count, cover

pytestmark = pytest.mark.slow

STUDIES = 2000
BOUND = 3 * np.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize("failures", [False, True])
def test_against_the_residual_five_percent_are_called_significant(failures):
    found = count("no variance by task", failures, None, STUDIES, 1)
    for term, (tested, below, decided) in found.items():
        assert tested == STUDIES and decided == below
        assert abs(below / tested - 0.05) < BOUND, term


@pytest.mark.parametrize("scenario", [name for name in SDS if name != "no variance by task"])
@pytest.mark.parametrize("failures", [False, True])
def test_against_task_the_p_that_decides_is_never_too_small(scenario, failures):
    found = count(scenario, failures, ("task",), STUDIES, 2)
    assert set(found) == {"pair", "component", "input", "output", "input:output", "activation"}
    for term, (tested, _, decided) in found.items():
        assert tested == STUDIES and decided / tested < 0.05 + BOUND, term
    if scenario == "equal variances":  # where theory is exact, p itself is
        tested, below, _ = found["pair"]
        assert abs(below / tested - 0.05) < BOUND


@pytest.mark.parametrize("error", ["residual", "task"])
def test_intervals_hold_the_truth_and_sets_the_best(error):
    intervals, held, studies, best, chosen = cover(False, error, 300, 3)
    assert abs(held / intervals - 0.95) < 0.02  # three standard errors: the 19 intervals of a study go together
    assert best / studies > 0.95 and 1 <= chosen / studies < 20
