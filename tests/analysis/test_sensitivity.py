"""Sensitivity against closed forms, emmeans-checked means, optuna called directly, and simulations."""

import json

import numpy as np
import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution

from adapters.faults import InputFault
from analysis import hyper_importance
from analysis.anova_fit import anova
from analysis.hyper_importance import Trials, encoded
from analysis.importance_shares import importance
from analysis.means import cell_means
from analysis.sample import read_sample
from analysis.sensitivity_fit import sensitivity

RATES, RANKS = (1e-4, 1e-3, 1e-2), (2, 4, 8, 16)


def _grid(
    seed: int = 0, tasks: int = 5, seeds: int = 3, by_task: float = 0.1, residual: float = 0.2, methods: tuple = ("m",)
) -> pd.DataFrame:
    """A full grid in which the learning rate matters much and the rank little."""
    rng = np.random.default_rng(seed)
    rows = [
        (m, lr, r, t, s) for m in methods for lr in RATES for r in RANKS for t in range(tasks) for s in range(seeds)
    ]
    frame = pd.DataFrame(rows, columns=["method", "lr", "rank", "task", "seed"])
    setting = frame.groupby(["method", "lr", "rank", "task"], sort=False).ngroup().to_numpy()
    block = frame.groupby(["task", "seed"], sort=False).ngroup().to_numpy()
    y = 0.2 * np.log10(frame["lr"]) + 0.03 * np.log2(frame["rank"])
    y += by_task * rng.normal(size=setting.max() + 1)[setting] + rng.normal(size=block.max() + 1)[block]
    return frame.assign(y=y + residual * rng.normal(size=len(frame)))


def _quick(frame: pd.DataFrame, **options):
    return sensitivity(frame, "y", ["lr", "rank"], **{"draws": 200, "evaluator_draws": 0, **options})


def test_on_balanced_rows_means_spread_range_and_best_are_plain():
    frame = _grid()
    found = _quick(frame, within=0.1)["m"]
    plain = frame.groupby(["lr", "rank"])["y"].mean()
    assert (found.settings, found.n) == (12, 180)
    assert found.sd_measured == pytest.approx(plain.std(), rel=1e-9)
    assert found.range_measured == pytest.approx(plain.max() - plain.min(), rel=1e-9)
    best = plain.idxmax()
    assert found.best == {"lr": str(best[0]), "rank": str(best[1])}
    assert found.best_mean == pytest.approx(plain.max(), rel=1e-9)
    assert found.share_within_measured == pytest.approx((plain >= plain.max() - 0.1).mean())
    assert sum(s.best_often for s in found.means) == pytest.approx(1)


def test_spread_without_noise_is_the_variance_component_of_the_anova():
    """Balanced: σ²(setting) = (MS(setting) − MS(setting:task)) / (tasks · seeds), mean squares by pandas."""
    frame = _grid(tasks=6, seeds=2, by_task=0.3)
    by_task = frame.groupby(["lr", "rank", "task"])["y"].mean().unstack("task").to_numpy()
    centred = by_task - by_task.mean(axis=0)
    means = centred.mean(axis=1)
    between = 6 * 2 * means @ means / 11
    varying = 2 * np.square(centred - means[:, None]).sum() / (11 * 5)
    assert _quick(frame)["m"].sd == pytest.approx(np.sqrt((between - varying) / 12), rel=1e-9)


def test_without_blocks_the_noise_is_the_residual_s():
    """One-way, unbalanced: the mean of the settings' variances MS(residual)/n, by pandas."""
    frame = _grid().sample(frac=0.7, random_state=1)
    cells = frame.groupby(["lr", "rank"])["y"]
    mean_sq = (cells.var() * (cells.count() - 1)).sum() / (len(frame) - 12)
    # means less their mean: their covariance is centred, so its trace over k − 1 is the mean of the variances
    expected = cells.mean().var() - mean_sq * (1 / cells.count()).mean()
    found = _quick(frame, blocks=[])["m"]
    assert found.sd == pytest.approx(np.sqrt(max(expected, 0)), abs=1e-9)
    assert found.sd_interval is None and found.share_within_interval is None and found.best_often is None
    assert "No interval" in _quick(frame, blocks=[]).explain()


def test_with_failed_runs_means_are_least_squares_means():
    """Against cell_means, which is held to R's emmeans; both up to the mean over the grid."""
    frame = _grid(tasks=3).sample(frac=0.75, random_state=2)
    ours = _quick(frame).means()
    theirs = cell_means(frame, "y", ["lr", "rank"], ["task", "task:seed"], error="residual")
    both = ours.merge(theirs, on=["lr", "rank"])
    assert len(both) == 12
    apart = both["mean_x"] - both["mean_y"]
    assert (apart - apart.mean()).abs().max() < 1e-9


def test_distance_is_the_pooled_sd_between_seeds():
    frame = _grid(methods=("m", "n"))
    pooled = np.sqrt(frame.groupby(["method", "lr", "rank", "task"])["y"].var().mean())
    found = _quick(frame)
    assert found.within == pytest.approx(pooled, rel=1e-12)
    assert "between seeds" in found.within_source
    alone = _quick(frame[frame["seed"] == 0], blocks=["task"])
    assert alone.within is None and alone["m"].share_within is None
    assert "--within" in alone.explain()


def test_hyper_parameters_stand_beside_the_anova_s_and_lmg_shares():
    frame = _grid()
    found = sensitivity(frame, "y", ["lr", "rank"], draws=100, evaluator_draws=5)["m"]
    table = anova(frame, "y", ["lr", "rank"], ["task", "task:seed"])
    lmg = importance(frame, "y", ["lr", "rank"], ["task", "task:seed"], draws=100).components[0]
    for row in found.importances:
        assert row.omega_sq == table[row.name].omega_sq
        assert (row.share, row.corrected, row.interval) == (
            lmg[row.name].share, lmg[row.name].corrected, lmg[row.name].interval
        )  # fmt: skip
    assert [row.name for row in found.importances] == ["lr", "rank"]
    assert found.importances[0].share > 0.8 and found.importances[0].ped_anova > 0.5


def _direct(frame: pd.DataFrame, evaluator) -> dict[str, float]:
    """Optuna by itself: rows as trials, the mean of each task × seed taken off, half a step beyond the grid."""
    value = frame["y"] - frame.groupby(["task", "seed"])["y"].transform("mean") + frame["y"].mean()
    spaces = {
        "lr": FloatDistribution(-4.5, -1.5),
        "rank": FloatDistribution(1, 20),
        "form": CategoricalDistribution("ab"),
    }
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for row, own in zip(frame.itertuples(), value, strict=True):
        params = {"lr": float(np.log10(row.lr)), "rank": float(row.rank), "form": row.form}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=own))
    return optuna.importance.get_param_importances(study, evaluator=evaluator, params=["lr", "rank", "form"])


def _with_forms() -> pd.DataFrame:
    frame = pd.concat([_grid(seed=k, tasks=3, seeds=2).assign(form=form) for k, form in enumerate("ab")])
    return frame.assign(y=frame["y"] + 0.1 * (frame["form"] == "a"))


def test_ped_anova_is_optuna_s():
    frame = _with_forms()
    found = sensitivity(frame, "y", ["lr", "rank", "form"], draws=10, evaluator_draws=0)["m"]
    known = _direct(frame, optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.1))
    assert {row.name: row.ped_anova for row in found.importances} == pytest.approx(known, rel=1e-9)


def test_fanova_is_optuna_s_and_its_order_is_the_anova_s():
    pytest.importorskip("sklearn", reason="optuna's fANOVA needs scikit-learn")
    frame = _with_forms()
    found = sensitivity(frame, "y", ["lr", "rank", "form"], draws=10, evaluator_draws=0, seed=3)["m"]
    known = _direct(frame, optuna.importance.FanovaImportanceEvaluator(n_trees=64, seed=3))
    assert {row.name: row.fanova for row in found.importances} == pytest.approx(known, rel=1e-9)
    by_share, by_forest = (sorted(found.importances, key=key) for key in (lambda h: h.share, lambda h: h.fanova))
    assert by_share == by_forest


def test_without_scikit_learn_fanova_is_left_out_and_it_is_said(monkeypatch):
    def missing(**options):
        raise ImportError("sklearn")

    monkeypatch.setattr(optuna.importance, "FanovaImportanceEvaluator", missing)
    found = _quick(_grid())
    assert all(row.fanova is None and row.ped_anova is not None for row in found["m"].importances)
    assert "fANOVA is left out: optuna's needs scikit-learn" in found.explain()


@pytest.mark.parametrize(
    ("levels", "space", "values"),
    [
        (["0.0001", "0.001", "0.01"], FloatDistribution(-4.5, -1.5), [-4, -3, -2]),
        (["1", "2", "4"], FloatDistribution(0.5, 5), [1, 2, 4]),
        (["2", "20"], FloatDistribution(-7, 29), [2, 20]),  # a factor of ten exactly is not more than ten
        (["0", "100"], FloatDistribution(-50, 150), [0, 100]),
        (["relu", "silu"], CategoricalDistribution(["relu", "silu"]), ["relu", "silu"]),
        (["NA", "4"], CategoricalDistribution(["NA", "4"]), ["NA", "4"]),
        (["nan", "inf"], CategoricalDistribution(["nan", "inf"]), ["nan", "inf"]),
    ],
)
def test_numbers_that_span_more_than_a_factor_of_ten_are_taken_as_logarithms(levels, space, values):
    assert encoded(levels) == (space, values)


def test_importances_of_a_draw_are_those_of_the_repeated_rows():
    frame = _grid(tasks=3)
    sample = read_sample(frame, "y", ["lr", "rank"])
    rows = np.concatenate([np.arange(len(frame)), np.arange(0, len(frame), 3)])
    twice = frame.iloc[rows]
    again = read_sample(twice, "y", ["lr", "rank"])
    ours = Trials(sample, ["lr", "rank"], frame["y"].to_numpy(), True).importances(rows, 0)
    theirs = Trials(again, ["lr", "rank"], twice["y"].to_numpy(), True).importances(np.arange(len(rows)), 0)
    assert ours[hyper_importance.PED_ANOVA] == pytest.approx(theirs[hyper_importance.PED_ANOVA], rel=1e-12)


def test_optuna_says_nothing_and_keeps_its_verbosity(capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        _quick(_grid(tasks=3, seeds=1), evaluator_draws=3)
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""


def test_intervals_hold_the_truth_and_the_share_is_not_pulled_down_by_noise():
    """40 studies of 5 tasks whose noise is as large as the effects; nominal 95 %."""
    frame = _grid()
    plain = frame.groupby(["lr", "rank"], as_index=False)[["y"]].first()
    effect = 0.05 * np.log10(plain["lr"]) + 0.01 * np.log2(plain["rank"])
    truth, good = effect.std(), (effect >= effect.max() - 0.1).mean()
    inside = within = 0
    shares, measured = [], []
    for seed in range(40):
        noisy = _grid(seed, by_task=0.15, residual=0.1, seeds=1)
        noisy["y"] -= 0.15 * np.log10(noisy["lr"]) + 0.02 * np.log2(noisy["rank"])
        found = sensitivity(
            noisy, "y", ["lr", "rank"], blocks=["task"], within=0.1, draws=200, evaluator_draws=0, seed=seed
        )["m"]
        inside += found.sd_interval[0] <= truth <= found.sd_interval[1]
        within += found.share_within_interval[0] <= good <= found.share_within_interval[1]
        shares.append(found.share_within)
        measured.append(found.share_within_measured)
    assert inside >= 34 and within >= 30
    assert abs(np.mean(shares) - good) < abs(np.mean(measured) - good)


def test_with_two_tasks_blocks_are_drawn_and_it_is_said():
    found = _quick(_grid(tasks=2))
    assert found["m"].resampled == "task:seed"
    assert "the intervals speak about these tasks only" in found.explain()


def test_each_method_has_its_own_grid_and_what_cannot_be_compared_is_said():
    frame = _grid(methods=("m", "n"))
    bare = frame[(frame["method"] == "n") & (frame["rank"] == 2)].assign(method="bare", rank=np.nan)
    one = bare[bare["lr"] == RATES[0]].assign(method="one")
    none = one.assign(method="none", lr=np.nan)
    flat = bare.assign(method="flat", y=bare["task"] * 0.1)
    apart = bare[bare["task"] % 3 == np.searchsorted(RATES, bare["lr"])].assign(method="apart")
    found = _quick(pd.concat([frame, bare, one, none, flat, apart], ignore_index=True))
    assert [m.method for m in found.methods] == ["m", "n", "bare", "one", "none", "flat", "apart"]
    assert (found["m"].settings, found["bare"].settings) == (12, 3)
    assert [h.name for h in found["bare"].importances] == ["lr"]
    assert found["bare"].importances[0].ped_anova is None
    assert "single setting" in found["one"].message
    assert "none of lr, rank exists" in found["none"].message
    assert "does not vary" in found["flat"].message
    assert "not run on common" in found["apart"].message
    assert all(found[m].sd is None for m in ("one", "none", "flat", "apart"))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["methods"][3]["sd"] is None
    assert isinstance(found.plot(), Figure) and len(found.to_frame()) == 7


def test_all_rows_together_and_the_lowest_as_best():
    frame = _grid()
    together = _quick(frame, by=None)
    assert [m.method for m in together.methods] == ["all"] and together["all"].sd == _quick(frame)["m"].sd
    lowest = _quick(frame, higher_is_better=False)["m"]
    plain = frame.groupby(["lr", "rank"])["y"].mean()
    assert lowest.best_mean == pytest.approx(plain.min(), rel=1e-9)
    mirrored = _quick(frame.assign(y=-frame["y"]))["m"]
    assert (lowest.best, lowest.share_within, lowest.best_often) == (
        mirrored.best, mirrored.share_within, mirrored.best_often
    )  # fmt: skip


def test_a_setting_that_varies_by_nothing_but_noise_has_no_spread():
    frame = _grid(by_task=0.0)
    frame["y"] -= 0.2 * np.log10(frame["lr"]) + 0.03 * np.log2(frame["rank"])
    found = _quick(frame)["m"]
    assert found.sd < 0.05 and found.sd_interval[0] == 0
    assert found.sd_measured > 0.02
    assert found.share_within == 1


def test_the_same_seed_gives_the_same_numbers():
    frame = _grid(tasks=3)
    assert _quick(frame, seed=1, evaluator_draws=5) == _quick(frame, seed=1, evaluator_draws=5)


def test_words_name_the_spread_the_share_the_best_and_the_importances():
    found = sensitivity(_grid(), "y", ["lr", "rank"], draws=100, evaluator_draws=5)
    words = found.explain()
    parts = [
        "m (12 settings, 180 rows)",
        "95% interval over task",
        "of its settings",
        "Its best setting here is lr=0.01",
    ]
    for part in [*parts, "LMG share", "partial omega²", "PED-ANOVA"]:
        assert part in words
    columns = ["ped_anova", "ped_anova_lower", "ped_anova_upper", "fanova"]
    assert set(columns) <= set(found.importances().columns)


def test_wrong_calls_say_what_is_wrong():
    frame = _grid(tasks=3, seeds=1)
    with pytest.raises(InputFault, match="no column 'nope'"):
        sensitivity(frame, "y", ["nope"])
    with pytest.raises(InputFault, match="distance of 0 or more"):
        _quick(frame, within=-1)
    with pytest.raises(InputFault, match="one draw or more"):
        _quick(frame, draws=0)
    with pytest.raises(InputFault, match="cannot be what methods are told apart by"):
        _quick(frame, by="lr")
    with pytest.raises(InputFault, match="has no value in 9 of the 36 rows"):
        _quick(frame.assign(rank=frame["rank"].where(frame["rank"] > 2)))
