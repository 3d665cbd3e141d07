"""Noise-difference maps against explicit loops and closed forms; the question about reading against scipy and OLS."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
import torch
from scipy import stats

from adapters.faults import InputFault
from adapters.positions import PAIRS
from analysis.noise_difference import NoiseMaps, noise_maps
from analysis.noise_figures import noise_grid
from analysis.noise_reading import reading_contrast

ROOT = Path(__file__).parents[2]
STEPS = [10, 500, 900]


class Convolution:
    """A small denoiser that is not linear: its text and timestep change every position differently."""

    def __init__(self, seed: int = 0) -> None:
        self.layer = torch.nn.Conv2d(4, 4, 3, padding=1)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draws))
        self.rows: list[int] = []

    def noised(self, latents, noise, timesteps):
        share = (timesteps / 1000).view(-1, 1, 1, 1)
        return (1 - share) * latents + share * noise

    def predict(self, noisy, timesteps, context):
        self.rows.append(len(noisy))
        shift = context.mean(1)[:, :4, None, None] * (1 + timesteps.view(-1, 1, 1, 1) / 1000)
        return torch.tanh(self.layer(noisy) + shift)


class Constant(Convolution):
    """Predicts its text's first number everywhere, times the timestep."""

    def predict(self, noisy, timesteps, context):
        return torch.ones_like(noisy) * context[:, 0, 0].view(-1, 1, 1, 1) * timesteps.view(-1, 1, 1, 1)


def given(count: int = 3, seed: int = 1):
    draws = torch.Generator().manual_seed(seed)
    latents, noise = (torch.randn(count, 4, 5, 6, generator=draws) for _ in range(2))
    subject, plain = (torch.randn(1, 7, 8, generator=draws) for _ in range(2))
    return latents, noise, STEPS, subject, plain


def test_maps_equal_a_loop_over_pictures_timesteps_and_channels():
    model = Convolution()
    latents, noise, steps, subject, plain = given()
    found = noise_maps(model, latents, noise, steps, subject, plain)
    difference, prediction = (np.zeros((len(steps), 5, 6)) for _ in range(2))
    for k, step in enumerate(steps):
        for n in range(3):
            time = torch.tensor([step])
            noisy = model.noised(latents[n : n + 1], noise[n : n + 1], time)
            with_word, without = (model.predict(noisy, time, text)[0].detach().numpy() for text in (subject, plain))
            for channel in range(4):
                difference[k] += (with_word[channel].astype(float) - without[channel]) ** 2
                prediction[k] += without[channel].astype(float) ** 2
    np.testing.assert_allclose(found.difference, np.sqrt(difference / 12), rtol=1e-5)
    np.testing.assert_allclose(found.prediction, np.sqrt(prediction / 12), rtol=1e-5)
    assert found.size == pytest.approx(np.sqrt(difference.sum() / prediction.sum()), rel=1e-5)
    by_step = np.sqrt(difference.sum((1, 2)) / prediction.sum((1, 2)))
    np.testing.assert_allclose(found.relative, by_step, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(np.square(found.relative_maps).mean((1, 2))), by_step, rtol=1e-5)
    assert found.to_frame()["relative"].tolist() == found.relative.tolist()


def test_equal_texts_differ_by_nothing_at_all():
    latents, noise, steps, subject, _ = given()
    found = noise_maps(Convolution(), latents, noise, steps, subject, subject.clone(), at_once=4)
    assert not found.difference.any() and found.size == 0.0 and found.prediction.all()


def test_a_closed_form():
    """Predictions 3 t and 2 t everywhere: they differ by half of the second, at every timestep and position."""
    latents, noise, steps, subject, plain = given()
    found = noise_maps(Constant(), latents, noise, steps, torch.full_like(subject, 3), torch.full_like(plain, 2))
    np.testing.assert_allclose(found.relative, 0.5)
    np.testing.assert_allclose(found.relative_maps, 0.5)
    np.testing.assert_allclose(found.difference, np.array(steps)[:, None, None] * np.ones((3, 5, 6)))
    assert found.size == pytest.approx(0.5)


def test_batches_are_bounded_and_change_nothing():
    one, whole = Convolution(), Convolution()
    found, known = noise_maps(one, *given(), at_once=2), noise_maps(whole, *given(), at_once=1000)
    assert max(one.rows) == 2 and whole.rows == [9, 9]
    np.testing.assert_allclose(found.difference, known.difference, rtol=1e-6)
    assert not any(parameter.grad is not None for parameter in one.layer.parameters())


def test_a_prediction_of_nothing_has_no_size():
    latents, noise, steps, subject, plain = given()
    found = noise_maps(Constant(), latents, noise, steps, subject, torch.zeros_like(plain))
    assert np.isnan(found.size) and np.isnan(found.relative).all()
    assert "cannot be given" in found.explain() and found.to_dict()["size"] is None


@pytest.mark.parametrize(
    "place, value, told",
    [
        (0, torch.zeros(0, 4, 5, 6), "N at least 1"),
        (1, torch.zeros(2, 4, 5, 6), "expected the same"),
        (2, [], "0 timesteps"),
        (4, torch.zeros(1, 7, 9), "expected the same"),
    ],
)
def test_what_does_not_match_is_refused(place, value, told):
    arguments = list(given())
    arguments[place] = value
    with pytest.raises(InputFault, match=told):
        noise_maps(Convolution(), *arguments)


def test_the_figure_has_a_map_a_timestep_and_design_on_one_scale():
    maps = [noise_maps(Convolution(seed), *given()) for seed in (0, 1)]
    figure = noise_grid([("one", maps[0]), ("other", maps[1])])
    images = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(images) == 2 * len(STEPS)
    assert {image.get_clim() for image in images} == {(0.0, max(each.relative_maps.max() for each in maps))}
    np.testing.assert_allclose(images[len(STEPS)].get_array(), maps[1].relative_maps[0])
    assert f"{maps[1].size:.3g}" in " ".join(ax.get_ylabel() for ax in figure.axes)
    other = NoiseMaps(np.array([1, 2, 3]), maps[0].difference, maps[0].prediction, 3)
    with pytest.raises(InputFault, match="same timesteps"):
        noise_grid([("one", maps[0]), ("other", other)])
    assert len(maps[0].plot().axes) == len(STEPS) + 1


TASKS = [f"subject/{k}" for k in range(6)]


def results(effect: float = 0.2, seeds: int = 2, seed: int = 3) -> pd.DataFrame:
    """All valid pairs on six tasks; pairs that read CA_c or CA_out are larger by `effect`, which varies by task."""
    rng = np.random.default_rng(seed)
    tasks = dict(zip(TASKS, rng.normal(0, 0.05, 6), strict=True))
    more = dict(zip(TASKS, effect + rng.normal(0, 0.03, 6), strict=True))
    rows = [
        {
            "input": read, "output": write, "task": task, "seed": k,
            "noise_difference": 0.4 + tasks[task] + more[task] * (read in ("CA_c", "CA_out")) + rng.normal(0, 0.02),
        }
        for read, write in PAIRS for task in TASKS for k in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def by_hand(frame: pd.DataFrame, column: str = "noise_difference") -> pd.Series:
    """The contrast within every task: the mean over reading pairs less that over the others, pairs counted once."""
    pairs = frame.groupby(["task", "input", "output"])[column].mean().reset_index()
    reads = pairs["input"].isin(["CA_c", "CA_out"])
    return pairs[reads].groupby("task")[column].mean() - pairs[~reads].groupby("task")[column].mean()


def test_the_answer_for_new_tasks_is_the_t_test_of_the_tasks_own_differences():
    frame = results()
    found = reading_contrast(frame, blocks=["task", "task:seed"])
    known = stats.ttest_1samp(by_hand(frame), 0)
    low, high = known.confidence_interval(0.95)
    assert (found.estimate, *found.interval) == pytest.approx((by_hand(frame).mean(), low, high), rel=1e-9)
    assert found.table.rows["p"][0] == pytest.approx(known.pvalue, rel=1e-9)
    assert found.answer == "larger" and found.error_block == "task"
    said = found.explain()
    assert said.startswith(
        "Is noise_difference larger for designs that read CA_c or CA_out, on new levels of task? Yes"
    )
    assert "the mean of the 3 pairs that read it" in said and "the 17 other pairs" in said and "240 rows" in said
    lowest, highest = found.means[found.means["reads"]]["mean"].min(), found.means[~found.means["reads"]]["mean"].max()
    assert f"{lowest:.3g}" in said and f"{highest:.3g}" in said


def test_the_answer_for_these_tasks_is_the_contrast_of_least_squares():
    frame = results().drop(index=[3, 100])  # not balanced
    found = reading_contrast(frame, blocks="task", error="residual")
    told = frame.assign(pair=frame["input"] + frame["output"])
    model = smf.ols("noise_difference ~ 0 + C(pair) + C(task)", told).fit()
    weights = np.zeros(len(model.params))
    for k, name in enumerate(model.params.index):
        if name.startswith("C(pair)"):
            weights[k] = 1 / 3 if "[CA_c" in name or "[CA_out" in name else -1 / 17
    known = model.t_test(weights)
    assert found.estimate == pytest.approx(float(known.effect[0]), rel=1e-8)
    assert found.interval == pytest.approx(tuple(known.conf_int()[0]), rel=1e-8)
    assert found.error_block is None and "under the conditions of these runs" in found.explain()


def test_a_ratio_is_that_of_geometric_means():
    frame = results()
    found = reading_contrast(frame, blocks=["task", "task:seed"], ratio=True)
    own = by_hand(frame.assign(log=np.log(frame["noise_difference"])), "log")
    low, high = stats.ttest_1samp(own, 0).confidence_interval(0.95)
    assert (found.estimate, *found.interval) == pytest.approx(tuple(np.exp([own.mean(), low, high])), rel=1e-9)
    assert found.to_frame()["estimate"][0] == pytest.approx(found.estimate)
    assert found.answer == "larger" and "a ratio of" in found.explain()
    with pytest.raises(InputFault, match="1 values of noise_difference are 0 or less"):
        reading_contrast(frame.assign(noise_difference=[0.0, *frame["noise_difference"][1:]]), ratio=True)


@pytest.mark.parametrize("effect, answer", [(0.0, "not shown"), (-0.2, "smaller")])
def test_the_answer_may_be_no(effect, answer):
    found = reading_contrast(results(effect), blocks=["task", "task:seed"])
    assert found.answer == answer
    assert found.explain().split("? ")[1].startswith("The data do not show it" if effect == 0 else "No, it is smaller")


def test_each_position_is_compared_with_the_others_too():
    frame = results()
    frame.loc[frame["input"] == "CA_c", "noise_difference"] += 5
    found = reading_contrast(frame, blocks=["task", "task:seed"])
    rows = found.to_frame().set_index("contrast")
    means = frame.groupby(["input", "output"])["noise_difference"].mean()
    rest = means.drop(["CA_c", "CA_out"], level="input").mean()
    assert rows.loc["CA_c − others", "estimate"] == pytest.approx(means["CA_c"].mean() - rest)
    assert rows.loc["CA_out − others", "estimate"] == pytest.approx(means["CA_out"].mean() - rest)
    alone = reading_contrast(frame, blocks=["task", "task:seed"], reads=["CA_out"])
    assert alone.parts is None and alone.reads == ("CA_out",) and alone.answer == "smaller"


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    """200 draws of results whose effect on a new task is 0.2; the binomial 99.9 % range of coverage is 0.9 to 0.995."""
    inside = 0
    for seed in range(200):
        low, high = reading_contrast(results(seeds=1, seed=seed), blocks="task").interval
        inside += low <= 0.2 <= high
    assert 0.9 <= inside / 200 <= 0.995


def test_what_cannot_be_used_is_left_out_and_told():
    frame = results()
    other = pd.DataFrame([{"input": None, "output": None, "task": TASKS[0], "seed": 0, "noise_difference": 9.0}])
    frame = pd.concat([frame, other], ignore_index=True)
    frame.loc[5, "noise_difference"] = np.nan
    found = reading_contrast(frame, blocks=["task", "task:seed"])
    document = found.to_dict()
    assert (document["n"], document["n_missing"], document["n_other"]) == (239, 1, 1)
    said = found.explain()
    assert "1 rows without a noise_difference" in said and "1 rows of designs without an input" in said
    assert len(found.plot().axes[0].get_yticklabels()) == 20


def test_without_anything_that_measures_the_error_there_is_no_interval():
    frame = results(seeds=1)
    found = reading_contrast(frame[frame["task"] == TASKS[0]])
    assert np.isfinite(found.estimate) and np.isnan(found.interval[0]) and found.answer is None
    assert "It cannot be said" in found.explain() and found.to_dict()["contrasts"][0]["lower"] is None


@pytest.mark.parametrize("keep, told", [(["SA_in"], "No design"), (["CA_c", "CA_out"], "Every design")])
def test_there_must_be_designs_of_both_kinds(keep, told):
    frame = results()
    with pytest.raises(InputFault, match=told):
        reading_contrast(frame[frame["input"].isin(keep)], blocks="task")


def test_the_statistics_need_no_torch():
    modules = "analysis.noise_difference, analysis.noise_figures, analysis.noise_reading"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
