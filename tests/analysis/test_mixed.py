"""Mixed models against R's lme4 and lmerTest, the analysis of variance, statsmodels and data whose truth is known.

R's optimiser stops within some 1e-5 of the optimum, which the comparisons allow for.
"""

import time
from collections.abc import Callable
from itertools import product

import numpy as np
import oracles
import pandas as pd
import pytest
import statsmodels.api as sm

from adapters.faults import InputFault
from analysis import anova
from analysis.mixed_model import mixed
from analysis.mixed_result import MixedResult
from analysis.model import sum_coded
from analysis.sample import read_sample

MACHINES = oracles.data("machines_mixed")
KNOWN = oracles.expected("machines_mixed")
UNBALANCED = MACHINES.drop(index=[row - 1 for row in KNOWN["unbalanced_dropped_rows"]])
ADAPTERS = {
    "full": (oracles.data("adapter_empty_blocks"), oracles.expected("adapter_mixed_full")),
    "failed": (oracles.data("adapter_failed"), oracles.expected("adapter_mixed_failed")),
}
FACTORS = ["in_pos", "out_pos", "form"]
RANDOM = {"random_intercept": ["task"], "random_interactions": ["task", "task:in_pos", "task:form"]}


def _coding(frame: pd.DataFrame, response: str, factors: list[str]) -> float:
    """log|X'X| of sum coding, which lme4 adds to the criterion."""
    sample = read_sample(frame, response, factors)
    x = np.hstack([np.ones((sample.n, 1)), *(sum_coded(sample, (f,)) for f in factors)])
    return float(np.linalg.slogdet(x.T @ x)[1])


def _same_variances(ours: MixedResult, theirs: list[dict], rel: float = 1e-4) -> None:
    found = {frozenset(name.split(":")): value for name, value in ours.variances.items()}
    assert len(found) == len(theirs)
    for row in theirs:
        key = frozenset(("residual" if row["grp"] == "Residual" else row["grp"]).split(":"))
        assert found[key] == pytest.approx(row["vcov"], rel=rel)


def _same_tests(ours: MixedResult, theirs: list[dict], df: float = 2e-4) -> None:
    for row in theirs:
        own = ours[row["term"]]
        assert (own.df, own.F) == pytest.approx((row["NumDF"], row["F value"]), rel=1e-4)
        assert own.df_error == pytest.approx(row["DenDF"], rel=df)
        assert own.p == pytest.approx(row["Pr(>F)"], rel=max(1e-3, 3 * df))


@pytest.mark.parametrize("type", [2, 3])
@pytest.mark.parametrize(
    ("frame", "random", "known", "tests"),
    [
        (MACHINES, ["Worker"], KNOWN["intercept_only"], "anova"),
        (MACHINES, ["Worker", "Worker:Machine"], KNOWN["with_interaction"], "anova_satt"),
        (UNBALANCED, ["Worker", "Worker:Machine"], KNOWN["unbalanced"], "anova_satt"),
    ],
)
def test_machines_equal_lmertest(frame, random, known, tests, type):
    ours = mixed(frame, "score", "Machine", random, type=type)
    _same_variances(ours, known["varcorr"])
    _same_tests(ours, known[tests])
    assert ours.criterion + _coding(frame, "score", ["Machine"]) == pytest.approx(known["REML"], abs=1e-6)
    assert ours.singular is None


@pytest.mark.parametrize("name", ["full", "failed"])
@pytest.mark.parametrize("model", list(RANDOM))
def test_adapters_with_empty_cells_equal_lmertest_singular_fits_included(name, model):
    frame, known = ADAPTERS[name]
    known = known[model]
    ours = mixed(frame, "score", FACTORS, RANDOM[model])
    _same_variances(ours, known["varcorr"])
    _same_tests(ours, known["type2_satterthwaite"])
    assert ours.criterion + _coding(frame, "score", FACTORS) == pytest.approx(known["REML"], abs=1e-6)
    assert (ours.singular is not None) == known["singular"]


@pytest.mark.parametrize("name", ["full", "failed"])
def test_type_3_has_r_s_f_and_nearly_its_df(name):
    """The hypothesis is lmerTest's, coded otherwise: several df of Fai and Cornelius differ by less than 1 %."""
    frame, known = ADAPTERS[name]
    ours = mixed(frame, "score", FACTORS, RANDOM["random_interactions"], type=3)
    _same_tests(ours, known["random_interactions"]["type3_satterthwaite"], df=0.01)


def test_crossed_random_terms_equal_lme4():
    known = oracles.expected("penicillin_crossed")
    ours = mixed(oracles.data("penicillin_crossed"), "diameter", [], ["plate", "sample"])
    _same_variances(ours, known["varcorr"])
    assert ours.criterion + np.log(144) == pytest.approx(known["REML"], abs=1e-6)  # |X'X| of the mean alone is n
    assert ours.to_frame().empty and ours.fixed == ()


def test_means_and_differences_equal_emmeans():
    """Balanced: Kenward-Roger's, which emmeans gives there, is Satterthwaite's."""
    ours = mixed(MACHINES, "score", "Machine", ["Worker", "Worker:Machine"])
    for got, row in zip(ours.means("Machine").itertuples(), KNOWN["with_interaction"]["emm"], strict=True):
        want = [row[c] for c in ("emmean", "SE", "df", "lower.CL", "upper.CL")]
        assert [got.mean, got.se, got.df, got.lower, got.upper] == pytest.approx(want, rel=1e-5)
    for got, row in zip(ours.differences("Machine").itertuples(), KNOWN["with_interaction"]["pairs"], strict=True):
        assert f"{got.a} - {got.b}" == row["contrast"]
        assert [got.difference, got.se, got.df] == pytest.approx([row["estimate"], row["SE"], row["df"]], rel=1e-5)
    for frame, known in ADAPTERS.values():
        ours = mixed(frame, "score", FACTORS, RANDOM["random_interactions"])
        rows = known["random_interactions"]
        for got, row in zip(ours.means("form", over="levels").itertuples(), rows["emm_form_satt"], strict=True):
            assert [got.mean, got.se, got.df] == pytest.approx([row["emmean"], row["SE"], row["df"]], rel=2e-4)
        for got, row in zip(
            ours.differences("form", over="levels").itertuples(), rows["pairs_form_satt_tukey"], strict=True
        ):
            assert [got.difference, got.se] == pytest.approx([row["estimate"], row["SE"]], rel=1e-5)
            assert got.df == pytest.approx(row["df"], rel=1e-5)


def test_likelihood_ratios_of_random_terms_equal_ranova():
    ours = mixed(MACHINES, "score", "Machine", ["Worker", "Worker:Machine"])
    for own, row in zip(ours.random, KNOWN["with_interaction"]["ranova"][1:], strict=False):
        assert f"(1 | {own.term})" == row["term"]
        assert own.lrt == pytest.approx(row["LRT"], abs=1e-6)
        assert own.p == pytest.approx(row["Pr(>Chisq)"], rel=1e-6)


def test_on_balanced_rows_f_is_that_against_the_interaction_with_tasks():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame([(f, t, s) for f in "abcd" for t in range(6) for s in range(3)], columns=["f", "task", "seed"])
    f, t, seed = frame["f"].map("abcd".index), frame["task"], frame["seed"]
    frame["y"] = rng.normal(size=(4, 6))[f, t] + rng.normal(size=6)[t] + rng.normal(size=(6, 3))[t, seed]
    frame["y"] += rng.normal(size=len(frame)) * 0.5
    fit = mixed(frame, "y", "f", ["task", "task:seed", "f:task"])
    assert all(v > 0 for v in fit.variances.values())
    ours = fit["f"]
    table = anova(frame, "y", ["f"], blocks=["task", "task:seed"], error="task")["f"]
    assert (ours.F, ours.df_error) == pytest.approx((table.F, 15), rel=1e-5) and table.error.df == 15


def test_forbidden_cells_and_an_interaction_of_any_rank_equal_least_squares_when_nothing_is_random():
    """With the variance of the random term 0, the tests are those of the linear model, Type II."""
    frame = oracles.data("statsmodels_breaker")
    rng = np.random.default_rng(0)
    frame["noise"] = rng.permutation(np.arange(len(frame)) % 20)
    ours = mixed(frame, "y", ["a", "b", "f"], ["noise"], blocks=["t"], interactions=["a:b"])
    known = {row["term"]: row for row in oracles.expected("statsmodels_breaker")["type2"]}
    assert ours.variances["noise"] == 0 and ours.singular is not None
    for term, row in known.items():
        if term == "Residuals":
            continue
        assert (ours[term].df, ours[term].F) == pytest.approx((row["Df"], row["F value"]), rel=1e-6)
        assert ours[term].df_error == pytest.approx(known["Residuals"]["Df"], rel=1e-6)
    assert (ours["a:b"].df, ours["a:b"].df_nominal, ours["a:b"].estimable) == (3, 9, False)


def test_variances_equal_statsmodels():
    frame, _ = ADAPTERS["failed"]
    frame = frame.dropna(subset=["score"])
    x = pd.get_dummies(frame[FACTORS], drop_first=True).astype(float).assign(one=1.0)
    theirs = sm.MixedLM(frame["score"], x, groups=frame["task"]).fit(reml=True)
    ours = mixed(frame, "score", FACTORS, "task")
    assert ours.variances["task"] == pytest.approx(float(theirs.cov_re.iloc[0, 0]), rel=3e-4)
    assert ours.variances["residual"] == pytest.approx(theirs.scale, rel=1e-6)


def _dense(fit: MixedResult) -> Callable[[np.ndarray], float]:
    """−2 log of the restricted likelihood by the variances, written out with matrices of the rows."""
    sample = fit.fitted.sample
    factor = fit.fitted.factors[0]
    x = np.linalg.qr(np.hstack([np.ones((sample.n, 1)), sum_coded(sample, (factor,))]))[0]
    cells = [sample.cells(tuple(row.term.split(":"))).codes for row in fit.random[:-1]]
    parts = [*((c[:, None] == c[None, :]).astype(float) for c in cells), np.eye(sample.n)]

    def criterion(v: np.ndarray) -> float:
        inverse = np.linalg.inv(sum(a * b for a, b in zip(v, parts, strict=True)))
        inner = x.T @ inverse @ x
        left = inverse - inverse @ x @ np.linalg.solve(inner, x.T @ inverse)
        likelihood = -np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(inner)[1] + sample.y @ left @ sample.y
        return likelihood + (sample.n - x.shape[1]) * np.log(2 * np.pi)

    return criterion


def test_information_is_the_curvature_of_the_criterion():
    ours = mixed(UNBALANCED, "score", "Machine", ["Worker", "Worker:Machine"])
    criterion = _dense(ours)
    v = np.array(list(ours.variances.values()))
    step = np.diag(1e-3 * v)
    hessian = np.array(
        [
            [
                (criterion(v + a + b) - criterion(v + a - b) - criterion(v - a + b) + criterion(v - a - b))
                / (4 * a.max() * b.max())
                for b in step
            ]
            for a in step
        ]
    )
    ours_inverse = np.linalg.inv(ours.fitted.reml.covariance_of_variances()) * 2
    assert ours_inverse == pytest.approx(hessian, rel=1e-3, abs=1e-4 * np.abs(hessian).max())


@pytest.mark.parametrize("seed", range(12))
def test_no_other_variances_fit_better(seed):
    """Unbalanced rows with variances from 0 to 100: the criterion is the written-out one, and moving any variance a
    little up or down, or setting all to other values, raises it."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6), rng.integers(3, 7), rng.integers(2, 5)
    frame = pd.DataFrame(list(product(*map(range, sizes))), columns=["a", "task", "seed"])
    a, t, s = frame.to_numpy().T
    sd = rng.choice([0, 0.1, 1, 10], 3)
    y = sd[0] * rng.normal(size=sizes[1])[t] + sd[1] * rng.normal(size=sizes[1:])[t, s]
    frame["y"] = 1000 + y + sd[2] * rng.normal(size=sizes[:2])[a, t] + rng.normal(size=len(frame))
    ours = mixed(frame[rng.random(len(frame)) > 0.15], "y", "a", ["task", "task:seed", "a:task"])
    criterion, v = _dense(ours), np.array(list(ours.variances.values()))
    assert criterion(v) == pytest.approx(ours.criterion, abs=1e-6)
    for k in range(4):
        for factor in (0.97, 1.03):
            moved = v.copy()
            moved[k] = v[k] * factor if v[k] > 0 else 1e-3 * v[-1]
            assert criterion(moved) > ours.criterion
    for other in 10 ** rng.uniform(-2, 2, (20, 4)):
        assert criterion(other) > ours.criterion


@pytest.mark.slow
@pytest.mark.parametrize(("sd", "low", "high"), [(0, 0.01, 0.06), (0.3, 0.025, 0.07), (0.6, 0.03, 0.075)])
def test_false_positives_are_what_is_promised(sd, low, high):
    """4 levels, 5 tasks, 5 seeds, residual SD .6, no effect on average: 600 studies, 5 % nominal.

    The limits are about 2.5 standard errors around .05; below 5 % where the effect does not vary by task, since a
    variance cannot be estimated below 0.
    """
    rng = np.random.default_rng(17)
    frame = pd.DataFrame(list(product(range(4), range(5), range(5))), columns=["a", "task", "seed"])
    a, t, s = frame.to_numpy().T
    rejected = 0
    for _ in range(600):
        y = rng.normal(size=5)[t] + 0.3 * rng.normal(size=(5, 5))[t, s] + 0.6 * rng.normal(size=len(frame))
        frame["y"] = y + sd * rng.normal(size=(4, 5))[a, t]
        p = mixed(frame, "y", "a", ["task", "task:seed", "a:task"])["a"].p
        rejected += p is not None and p < 0.05
    assert low <= rejected / 600 <= high


def test_scale_and_mean_of_the_response_change_nothing_but_the_scale():
    ours = mixed(UNBALANCED, "score", "Machine", ["Worker", "Worker:Machine"])
    far = mixed(
        UNBALANCED.assign(score=UNBALANCED["score"] * 1e-3 + 1e4), "score", "Machine", ["Worker", "Worker:Machine"]
    )
    assert (far["Machine"].F, far["Machine"].df_error) == pytest.approx(
        (ours["Machine"].F, ours["Machine"].df_error), rel=1e-5
    )
    assert np.array(list(far.variances.values())) == pytest.approx(
        1e-6 * np.array(list(ours.variances.values())), rel=1e-5
    )


def test_simulated_variances_are_recovered():
    """Ten designs, eight tasks, three seeds, one cell in eight failed: means over 60 studies within 3.5 standard
    errors.

    Truth: task 1, task:seed .25, design:task .16, residual .36.
    """
    rng = np.random.default_rng(11)
    cells = [(d, t, s) for d in range(10) for t in range(8) for s in range(3)]
    frame = pd.DataFrame(cells, columns=["design", "task", "seed"])
    d, t, s = frame.to_numpy().T
    found = []
    for _ in range(60):
        y = rng.normal(0, 1, 8)[t] + rng.normal(0, 0.5, (8, 3))[t, s] + rng.normal(0, 0.4, (10, 8))[d, t]
        frame["y"] = y + rng.normal(0, 0.6, len(frame)) + 0.1 * d
        kept = frame[rng.random(len(frame)) > 1 / 8]
        found.append(list(mixed(kept, "y", "design", ["task", "task:seed", "design:task"]).variances.values()))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(60)
    assert (np.abs(mean - [1, 0.25, 0.16, 0.36]) < 3.5 * error).all()


def test_two_thousand_rows_and_five_hundred_levels_take_seconds():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        [(d, t, s) for d in range(66) for t in range(6) for s in range(5)], columns=["design", "task", "seed"]
    )
    y = rng.normal(size=(66, 6))[frame["design"], frame["task"]] + rng.normal(size=6)[frame["task"]]
    frame["y"] = y + rng.normal(size=len(frame))
    before = time.process_time()
    ours = mixed(frame, "y", "design", ["task", "task:seed", "design:task"])
    assert sum(row.levels or 0 for row in ours.random) == 432
    assert time.process_time() - before < 60  # a few seconds on one core; a dense matrix of the rows would take minutes
    assert ours["design"].df_error == pytest.approx(65 * 5, rel=0.02)


def test_what_is_assumed_is_said():
    ours = mixed(ADAPTERS["failed"][0], "score", FACTORS, RANDOM["random_interactions"])
    text = ours.explain()
    for words in (
        "The fit is singular: the variance of task:form is estimated as 0",
        "out_pos:task is no random term",
        "form is tested as if it did not vary with task",
        "task 4 levels",
        "45 rows without a score",
        "F(4, 13.6) = 6.38, p = .0041",
    ):
        assert words in text, words
    assert ours.to_dict()["random"][2]["variance"] == 0 and ours.to_dict()["random"][2]["se"] is None
    assert "out_pos" in ours.to_markdown()


def test_wrong_calls_say_what_is_wrong():
    frame = MACHINES.assign(row=np.arange(54), alias=MACHINES["Worker"], one="x")
    calls = {
        "No random term": [],
        "named twice": ["Worker", "Worker"],
        "fixed factors": ["Machine"],
        "a single level": ["one"],
        "cannot tell the variances of 'row' and the residual": ["row"],
        "variances of 'Worker' and 'alias'": ["Worker", "alias"],
    }
    for words, random in calls.items():
        with pytest.raises(InputFault, match=words):
            mixed(frame, "score", "Machine", random)
    with pytest.raises(InputFault, match="hold all its levels"):
        mixed(frame, "score", "Machine", "alias", blocks="Worker")
    with pytest.raises(InputFault, match="2 or 3"):
        mixed(frame, "score", "Machine", "Worker", type=1)
    with pytest.raises(InputFault, match="Type III needs"):
        mixed(oracles.data("statsmodels_breaker"), "y", ["a", "b"], "t", interactions="all", type=3)
    with pytest.raises(InputFault, match="no residual is left"):
        exact = frame.groupby("Worker")["score"].transform("mean")
        mixed(frame.assign(score=exact), "score", "Machine", "Worker")
    with pytest.raises(InputFault, match="not among the factors"):
        mixed(frame, "score", "Machine", "Worker").means("Worker")
