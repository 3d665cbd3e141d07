"""Confirming a recipe: what it is compared with and at which rates, on tasks that nothing used, safe to interrupt."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from adapters.faults import InputFault
from study import Study
from study.cli import main
from study.confirm import Confirming
from study.executors.local import LocalExecutor
from study.results import read_results
from tests.study import fakes
from tests.study.confirmations import (
    BEST,
    CHANGES,
    NEW,
    PLANNED,
    RECIPE,
    commit,
    fill,
    of,
    prepared,
    section,
    study_of,
    tuned,
)
from tests.study.test_commands import call


@pytest.fixture(autouse=True)
def the_command_is_known_and_processes_find_the_packages(monkeypatch, tmp_path):
    yield from prepared(monkeypatch, tmp_path)


def run(confirming: Confirming, **how):
    return confirming.run(executor=LocalExecutor(confirming.study.store, ["cpu"], command=fakes.COMMAND), **how)


def test_every_method_is_planned_on_every_new_task_and_seed_under_the_recipes_protocol(tmp_path):
    confirming = of(tuned(tmp_path), tmp_path)
    trials = confirming.trials
    assert len(trials) == PLANNED == len({trial.id for trial in trials})
    assert {trial.role for trial in trials} == {"confirm"}
    assert {trial.task for trial in trials} == {"subject/owl", "subject/elk", "subject/eel"}
    assert {trial.seed for trial in trials} == {0, 1}
    # Rates: the recipe's own, the study's tuned ones, the declared one; all else is the recipe's.
    rates = {trial.design["method"]: trial.protocol.learning_rate for trial in trials}
    assert rates == {"adapter": 5e-3, "lora": 3e-3, "full": 1e-3, "bitfit": 0.02}
    others = {trial.protocol.model_copy(update={"learning_rate": 1.0}) for trial in trials}
    assert others == {confirming.recipe.protocol.model_copy(update={"learning_rate": 1.0})}
    # Methods of a chosen size get the recipe's budget, the others have their own.
    designs = {entrant.name: entrant.design for entrant in confirming.entrants}
    assert designs["lora"]["budget"] == 0.05 and designs["full"] == {"method": "full"}
    assert designs["bitfit"] == {"method": "bitfit", "part": "all"}
    # In order of seed, then task, so that a part of it is whole replicates.
    assert [(t.seed, t.task) for t in trials[:: len(designs)]] == [
        (seed, f"subject/{task['name']}") for seed in (0, 1) for task in NEW
    ]


def test_all_seven_methods_are_compared_by_default(tmp_path):
    rates = dict.fromkeys(["dora", "krona", "tlora", "difffit", "bitfit"], 1e-3)
    without = {key: value for key, value in section(learning_rates=rates).items() if key != "against"}
    confirming = of(tuned(tmp_path, confirm=without), tmp_path)
    names = ["best", "lora", "dora", "krona", "tlora", "difffit", "bitfit", "full"]
    assert [entrant.name for entrant in confirming.entrants] == names
    budgets = {entrant.name: entrant.design.get("budget") for entrant in confirming.entrants}
    assert budgets == {name: None if name in ("difffit", "bitfit", "full") else 0.05 for name in names}


def test_a_method_without_a_rate_is_named_with_the_reason_and_nothing_is_guessed(tmp_path):
    study = tuned(tmp_path, confirm=section(against=["lora", "dora", "bitfit", "full"]))
    with pytest.raises(InputFault) as caught:
        of(study, tmp_path, name="r")
    told = str(caught.value)
    assert "dora (the study does not tune its learning rate)" in told and "{learning_rates: {dora: …}}" in told
    assert "lora (" not in told.replace("dora (", "") and "bitfit (" not in told
    # Tuning that has not ended gives no rate, even where one is declared: it would be replaced later.
    (tmp_path / "other").mkdir()
    fresh = study_of(tmp_path, store=str(tmp_path / "other"), confirm=section(learning_rates={"lora": 1, "bitfit": 1}))
    with pytest.raises(InputFault, match=r"lora \(its tuning has trials that are missing or failed") as caught:
        of(fresh, tmp_path)
    assert "full (its tuning" in str(caught.value)
    for trial in fresh.tune_trials:
        commit(fresh, trial, None, "diverged")
    with pytest.raises(InputFault, match="nothing to choose from"):
        of(fresh, tmp_path)


def test_rates_that_differ_between_sizes_are_not_guessed_from(tmp_path):
    tune = {**CHANGES["tune"], "by": ["method", "budget"]}
    study = study_of(tmp_path, tune=tune)
    best = {0.05: 1e-3, 0.01: 1e-2, None: 1e-3}
    for trial in study.tune_trials:
        commit(study, trial, fakes.score_at(trial.protocol.learning_rate, best[trial.design.get("budget")]))
    # The same design was tuned: its rate is taken.
    confirming = of(study, tmp_path)
    assert {e.name: e.protocol.learning_rate for e in confirming.entrants}["lora"] == 1e-3
    # At a third size there are two answers.
    design = {**RECIPE["design"], "budget": "2%"}
    with pytest.raises(InputFault, match=r"other sizes, with different rates: .*0.001.*0.01"):
        of(study, tmp_path, design=design)


def test_doubtful_rates_are_told(tmp_path):
    study = study_of(tmp_path)
    for trial in study.tune_trials:
        best = {**BEST, "full": 1e-2}[trial.design["method"]]
        commit(study, trial, fakes.score_at(trial.protocol.learning_rate, best))
    design = {**RECIPE["design"], "budget": "2%"}
    told = "\n".join(of(study, tmp_path, design=design, protocol={**RECIPE["protocol"], "steps": 9}).warnings())
    assert "rate of full, 0.01, lies on the edge" in told and "rate of lora, 0.003" not in told
    assert "rate of lora was tuned on lora budget 5%" in told and "trains lora budget 2%" in told
    assert "another protocol than the recipe's (lora, full): steps 3 there, 9 here" in told
    assert "3 tasks to confirm on" in told and "6 or more" in told
    quiet = "\n".join(of(study, tmp_path).warnings())
    assert "protocol" not in quiet and "tuned on" not in quiet


def test_a_declared_rate_that_is_not_used_is_told(tmp_path):
    confirming = of(tuned(tmp_path, confirm=section(learning_rates={"bitfit": 0.02, "lora": 9})), tmp_path)
    told = "\n".join(confirming.warnings())
    assert "confirm.learning_rates.lora is not used: its rate 0.003 is tuned by fake" in told and "bitfit" not in told


def test_a_recipe_is_not_compared_with_itself(tmp_path):
    study = tuned(tmp_path)
    confirming = of(study, tmp_path, name="lora", design={"method": "lora", "budget": "5%"})
    assert [entrant.name for entrant in confirming.entrants] == ["recipe lora", "bitfit", "full"]
    assert any("the recipe is itself lora" in told for told in confirming.warnings())
    alone = tuned(tmp_path, confirm={"tasks": NEW, "against": ["lora"]})
    with pytest.raises(InputFault, match="itself lora, all that"):
        of(alone, tmp_path, design={"method": "lora", "budget": "5%"})


def test_a_recipe_for_another_backbone_is_refused(tmp_path):
    study = tuned(tmp_path)
    shutil.copytree(tmp_path / "pipe", tmp_path / "same")
    assert of(study, tmp_path, backbone="same").backbone.name == "pipe", "what counts is the content"
    (tmp_path / "same" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(fakes.weights("other"))
    with pytest.raises(InputFault, match="is for the backbone same, the study fake for pipe"):
        of(study, tmp_path, backbone="same")


def test_a_study_without_the_section_says_what_to_add(tmp_path):
    study = Study.load(fakes.study_file(tmp_path))
    with pytest.raises(InputFault, match="has no section `confirm`"):
        of(study, tmp_path)


def test_a_recipe_without_a_budget_gives_its_number_of_parameters(tmp_path):
    """Counted on the built-in backbone, by configuration only; the oracle is the command `params`."""
    confirm = {"tasks": ["subject/kite"], "against": ["lora", "krona"], "learning_rates": {"lora": 1e-3, "krona": 1e-3}}
    factors = {"input": ["SA_in"], "output": ["FFN_in", "Trans_out"]}
    study = Study(tmp_path, tmp_path / "store", name="s", backbone="micro-unet", factors=factors,
                  fixed={"method": "adapter", "width": 8}, tasks=["subject/robot"], confirm=confirm)  # fmt: skip
    design = {"method": "adapter", "input": "SA_in", "output": "FFN_in", "width": 8}
    confirming = of(study, tmp_path, backbone="micro-unet", design=design)
    asked = [
        "params",
        "--backbone",
        "micro-unet",
        "--design",
        "method=adapter,input=SA_in,output=FFN_in,width=8",
        "--json",
    ]
    expected = json.loads(CliRunner().invoke(main.build("params"), asked).stdout)["trainable"]
    assert [entrant.design["budget"] for entrant in confirming.entrants[1:]] == [expected] * 2


def test_tasks_that_the_store_has_seen_are_refused_whatever_the_file_says_today(tmp_path):
    study = tuned(tmp_path)
    # A task of the study is moved to `confirm` after its trials ran.
    for trial in study.trials[:3]:
        commit(study, trial, 0.5)
    moved = fakes.SECTIONS["tasks"][0]
    assert {t.task for t in study.trials[:3]} == {"subject/rex"}
    later = study_of(tmp_path, tasks=fakes.SECTIONS["tasks"][1:], confirm=section(tasks=[*NEW, moved]))
    with pytest.raises(InputFault, match="3 trials of the study or its tuning on subject/rex"):
        of(later, tmp_path)


def test_it_runs_to_the_end_stops_at_a_limit_and_goes_on(tmp_path):
    confirming = of(tuned(tmp_path), tmp_path)
    before = len(confirming.study.store.rows())
    assert run(confirming, limit=5).counts == {"done": 5, "missing": PLANNED - 5}
    with pytest.raises(InputFault, match=f"{PLANNED - 5} of {PLANNED} trials of the confirmation have not run"):
        confirming.analyse()
    assert run(confirming, pack=2).counts == {"done": PLANNED}
    assert confirming.status() == {
        "planned": PLANNED, "done": PLANNED, "diverged": 0, "pruned": 0, "failed": 0, "out_of_memory": 0, "missing": 0,
    }  # fmt: skip
    attempts = confirming.study.store.attempts()
    assert len(attempts) == before + PLANNED and set(attempts["attempt"]) == {1}
    rows = confirming.results()
    assert len(rows) == PLANNED and set(rows["role"]) == {"confirm"} and set(rows["study"]) == {"fake"}
    # Nothing runs again, and a new object reads the same.
    again = of(Study.load(tmp_path / "fake.yaml"), tmp_path)
    assert run(again).counts == {"done": PLANNED} and len(again.study.store.attempts()) == before + PLANNED


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")
def test_a_worker_that_dies_costs_its_trial_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DEADLY", "relu")
    confirming = of(tuned(tmp_path, confirm=section(tasks=NEW[:1], seeds=1)), tmp_path)
    outcome = run(confirming)
    # The recipe's own trial has that activation: it is tried three times.
    assert outcome.counts == {"done": 3, "failed": 1}
    assert [trial.design["method"] for trial, _ in outcome.failed] == ["adapter"]
    monkeypatch.delenv("FAKE_DEADLY")
    assert run(confirming).counts == {"done": 3, "failed": 1}, "a plain run leaves what failed"
    assert run(confirming, only="failed").counts == {"done": 4}


def test_rows_of_a_confirmation_stay_out_of_the_studys_own_results(tmp_path):
    study = tuned(tmp_path)
    for trial in study.trials:
        commit(study, trial, 0.5)
    before = study.results()
    fill(of(study, tmp_path))
    assert study.results()[before.columns].equals(before) and study.status()["missing"] == 0
    rows = read_results(study.store.folder)
    assert set(rows["role"]) == {"study", "confirm"}
    told = call("anova", str(study.store.folder), "--response", "clip_i", "--factors", "method")
    assert told.returncode == 2 and "several values of role" in told.stderr and "--where role=" in told.stderr


def test_the_comparison_is_paired_by_task_and_the_studys_estimate_stands_beside(tmp_path):
    study = tuned(tmp_path)
    numbers = np.random.default_rng(1)
    scores = {}
    for trial in study.trials:
        scores[trial.id] = float(numbers.normal(0.6, 0.1))
        commit(study, trial, scores[trial.id])
    confirming = of(study, tmp_path)
    fill(confirming)
    found = confirming.analyse()
    assert found.chosen == "best" and found.noninferior.margin == 0.02 and found.noninferior.reference == "full"
    means = confirming.results().groupby(["task", "compared"])["clip_i"].mean().unstack()
    for row in found.rows.to_dict("records"):
        oracle = stats.ttest_rel(means["best"], means[row["against"]])
        assert (row["t"], row["p"]) == pytest.approx((oracle.statistic, oracle.pvalue), rel=1e-9)

    # Beside: the study's own rows of the very same designs; bitfit is not among them.
    def there(**wanted) -> float:
        return float(np.mean([
            scores[t.id] for t in study.trials
            if t.role == "study" and all(t.design.get(key) == value for key, value in wanted.items())
        ]))  # fmt: skip

    own = there(method="adapter", input="SA_in")
    assert found.earlier.mean == pytest.approx(own) and found.earlier.tasks == 2
    expected = {"lora": own - there(method="lora", budget=0.05), "full": own - there(method="full")}
    assert found.earlier.differences == pytest.approx(expected)
    told = found.explain()
    assert "chosen because it was the best: expected to shrink" in told
    # The recipe trains at 5e-3, the study's designs at 1e-3: that is no other protocol.
    assert "another protocol" not in told


def test_the_plan_tells_how_likely_non_inferiority_would_be_shown(tmp_path):
    tasks = [*fakes.SECTIONS["tasks"], {"name": "pip", "pictures": "photos", "class": "bird"}]
    study = tuned(tmp_path, tasks=tasks)
    numbers = np.random.default_rng(2)
    assert "probability" not in "\n".join(of(study, tmp_path).describe())
    for trial in study.trials:
        commit(study, trial, float(numbers.normal(0.6, 0.01)))
    confirming = of(study, tmp_path)
    rows = study.results().set_index("id")
    own = rows[(rows["method"] == "adapter") & (rows["input"] == "SA_in")].set_index("task")["clip_i"]
    d = (own - rows[rows["method"] == "full"].set_index("task")["clip_i"]).to_numpy()
    # Closed form: the noncentral t of three new tasks, with the spread on the study's three.
    power = stats.nct.sf(stats.t.ppf(0.95, 2), 2, 0.02 * np.sqrt(3) / d.std(ddof=1))
    assert f"non-inferior with probability {power:.2f}, " in "\n".join(confirming.describe())


def test_a_study_without_the_recipes_design_says_so(tmp_path):
    study = tuned(tmp_path)
    confirming = of(study, tmp_path, design={**RECIPE["design"], "activation": "silu"})
    fill(confirming)
    found = confirming.analyse()
    assert found.earlier is None and "has no trial of the recipe's design" in found.explain()


def test_sizes_that_differ_and_earlier_looks_at_the_tasks_are_told(tmp_path):
    study = tuned(tmp_path)
    first = of(study, tmp_path)
    sizes = {"adapter": 1000, "lora": 1020, "bitfit": 40, "full": 20000}
    for trial in first.trials:
        score = 0.5 + len(trial.task) * trial.seed / 100
        commit(study, trial, score, parameters=sizes[trial.design["method"]])
    told = first.analyse().explain()
    assert "best trains 1,000 parameters; more than 3% away are bitfit 40, full 20,000." in told
    assert "other confirmation trials" not in told
    second = of(study, tmp_path, design={**RECIPE["design"], "activation": "silu"}, name="next")
    assert len(second.trials) - second.status()["missing"] == PLANNED * 3 // 4, "what was run is not run again"
    (told,) = (line for line in second.warnings() if "other confirmation trials" in line)
    assert told.startswith("The store has 6 other confirmation trials on these tasks (adapter activation relu")


def test_diverged_trials_count_as_failures(tmp_path):
    confirming = of(tuned(tmp_path), tmp_path)
    numbers = np.random.default_rng(0)
    fill(confirming, lambda t: None if (t.design["method"], t.task, t.seed) == ("full", "subject/elk", 1)
         else float(numbers.normal(0.5, 0.1)))  # fmt: skip
    found = confirming.analyse()
    assert found.n_failed == 1 and found.noninferior.shown is None, "two tasks are left"
    assert found.noninferior_worst.shown is not None
    assert "(full 1)" in found.explain()
