"""Confirming a recipe: what it is compared with and at which rates, on tasks that nothing used, safe to interrupt."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from typer.testing import CliRunner

from adapters.faults import InputFault
from study import Study, config
from study.cli import main
from study.confirm import Confirming
from study.executors.local import LocalExecutor
from study.results import read_results
from study.trial import Trial, TrialResult
from tests.study import fakes, tiny
from tests.study.test_commands import call

ROOT = Path(__file__).resolve().parents[2]
BEST = {"adapter": 1e-3, "lora": 3e-3, "full": 1e-3}
"""The rates that the tune trials of this file favour."""
RATES = [3e-4, 1e-3, 3e-3, 1e-2]
NEW = [{"name": name, "pictures": "photos", "class": name} for name in ("owl", "elk", "eel")]
CHANGES = {
    "factors": {"method": ["adapter", "lora", "full"]},
    "nested": [
        {
            "when": {"method": "adapter"},
            "factors": {"input": ["SA_in", "CA_out"], "output": ["FFN_in"], "activation": ["relu"], "budget": ["5%"]},
        },
        {"when": {"method": "lora"}, "factors": {"budget": ["5%", "1%"]}},
    ],
    "fixed": {},
    "seeds": 1,
    "tune": {"tasks": [{"name": "ham", "pictures": "photos", "class": "hamster"}], "grid": {"learning_rate": RATES}},
    "confirm": {
        "tasks": NEW,
        "seeds": 2,
        "margin": 0.02,
        "against": ["lora", "bitfit", "full"],
        "learning_rates": {"bitfit": 0.02},
    },
}
RECIPE = {
    "name": "best",
    "backbone": "pipe",
    "design": {"method": "adapter", "input": "SA_in", "output": "FFN_in", "activation": "relu", "budget": "5%"},
    "protocol": {"steps": 3, "pictures": 2, "learning_rate": 5e-3},
    "evidence": {"clip_i": 0.9},
}
PLANNED = 4 * 3 * 2
"""The recipe and three methods, three tasks, two seeds."""


@pytest.fixture(autouse=True)
def the_command_is_known_and_processes_find_the_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def study_of(root: Path, **changes) -> Study:
    """The study with some sections changed; None leaves one out."""
    sections = {**CHANGES, **changes}
    return Study.load(fakes.study_file(root, **{name: value for name, value in sections.items() if value is not None}))


def section(**changes) -> dict:
    return {**CHANGES["confirm"], **changes}


def recipe_file(root: Path, **changes) -> Path:
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def commit(study: Study, trial: Trial, score: float | None, status: str = "done", **columns) -> None:
    scores = {} if score is None else {"clip_i": score}
    result = TrialResult(trial, status, "" if status == "done" else "as told", scores, columns)
    study.store.commit(result, study.config.name)


def tuned(root: Path, **changes) -> Study:
    """A study whose tuning has ended: each method's best rate is that of BEST."""
    study = study_of(root, **changes)
    for trial in study.tune_trials:
        commit(study, trial, fakes.score_at(trial.protocol.learning_rate, BEST[trial.design["method"]]))
    return study


def of(study: Study, root: Path, **changes) -> Confirming:
    return Confirming(study, recipe_file(root, **changes))


def run(confirming: Confirming, **how):
    return confirming.run(executor=LocalExecutor(confirming.study.store, ["cpu"], command=fakes.COMMAND), **how)


def fill(confirming: Confirming, score=None) -> None:
    """Store a result of every trial; None stands for divergence."""
    numbers = np.random.default_rng(0)
    for trial in confirming.trials:
        value = score(trial) if score else float(numbers.normal(0.5, 0.1))
        commit(confirming.study, trial, value, "diverged" if value is None else "done", parameters=1000)


def command(*words: object):
    called = ["confirm", *map(str, words)]
    return CliRunner().invoke(main.build("confirm"), called)


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


def test_the_command_prints_the_table_and_one_json_document(tmp_path):
    study = tuned(tmp_path)
    confirming = of(study, tmp_path)
    file, recipe = tmp_path / "fake.yaml", tmp_path / "recipe.yaml"
    dry = command(file, recipe, "--dry-run")
    assert dry.exit_code == 0, dry.output
    for words in (
        "tasks: subject/owl, subject/elk, subject/eel",
        "margin to full tuning: 0.02 clip_i",
        "learning rate 0.003 (tuned by fake)",
        "learning rate 0.02 (declared in `confirm.learning_rates`)",
        "best: adapter input SA_in",
        "trials: 24 (4 compared × 3 tasks × 2 seeds)",
        "estimated time: unknown",
    ):
        assert words in dry.stdout, words
    assert confirming.status()["missing"] == PLANNED, "a dry run runs nothing"
    fill(confirming)
    shown = command(file, recipe)
    assert shown.exit_code == 0, shown.output
    assert "clip_i: best less each other method, paired by task" in shown.stdout and "bitfit" in shown.stdout
    assert "own evidence (chosen because it was the best: expected to shrink): clip_i 0.9." in shown.stdout
    assert f"trials of the confirmation: {PLANNED} done" in shown.stderr and "warning: 3 tasks" in shown.stderr
    data = json.loads(command(file, recipe, "--json").stdout)
    assert data["trials"]["done"] == PLANNED and data["evidence"] == {"clip_i": 0.9}
    assert [entry["name"] for entry in data["compared"]] == ["best", "lora", "bitfit", "full"]
    assert data["compared"][1]["learning_rate"] == 3e-3 and data["compared"][1]["parameters"] == 1000
    assert data["result"] == json.loads(confirming.analyse().to_json())


def test_faults_of_the_command_are_one_message_and_exit_code_2(tmp_path):
    tuned(tmp_path, confirm=section(against=["dora"], margin=None, learning_rates={}))
    recipe_file(tmp_path)
    for words, told in (
        (("fake.yaml", "recipe.yaml"), "no learning rate for dora"),
        (("fake.yaml", "nowhere.yaml"), "nowhere.yaml"),
        (("nowhere.yaml", "recipe.yaml"), "nowhere.yaml"),
        (("fake.yaml", "recipe.yaml", "--pack", "0"), "--pack 0"),
        (("fake.yaml", "recipe.yaml", "--address", "auto"), "--executor ray"),
    ):
        ended = command(*words)
        assert ended.exit_code == 2 and told in ended.stderr and ended.stdout == "", ended.output


def test_failed_trials_are_named_with_exit_code_1(tmp_path):
    confirming = of(tuned(tmp_path), tmp_path)
    fill(confirming)
    trial = confirming.trials[0]
    (confirming.study.store.folder / "trials" / f"{trial.id}.1.parquet").unlink()
    commit(confirming.study, trial, None, "failed")
    ended = command(tmp_path / "fake.yaml", tmp_path / "recipe.yaml")
    assert ended.exit_code == 1 and f"failed: {trial.label()} ({trial.id[:12]}): as told" in ended.stderr
    assert "--only failed" in ended.stderr and "1 of 24 trials have no clip_i" in ended.stdout


def test_planning_a_confirmation_never_imports_torch(tmp_path):
    fill(of(tuned(tmp_path), tmp_path))
    code = (
        "import sys\nfrom study import Study\nfrom study.confirm import Confirming\n"
        f"confirming = Confirming(Study.load({str(tmp_path / 'fake.yaml')!r}), {str(tmp_path / 'recipe.yaml')!r})\n"
        "confirming.describe(), confirming.warnings(), confirming.analyse().explain()\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


HEAD = """\
name: s
backbone: pipe
tasks: [{name: rex, pictures: photos, class: dog}]
scores: {clip_i: scorer}
factors:
  input: [CA_out, SA_in]
  output: [FFN_in]
fixed: {method: adapter, width: 2}
tune: {tasks: [{name: ham, pictures: photos, class: hamster}], grid: {learning_rate: [1e-3, 1e-2]}}
confirm:
"""
TASK = "  tasks: [{name: owl, pictures: photos, class: owl}]\n"


@pytest.mark.parametrize(
    "text, line, word",
    [
        ("  margin: 0.02\n", 10, "confirm.tasks"),
        (TASK, 10, "no margin: say how much worse"),
        (TASK + "  margin: 0\n", 12, "greater than 0"),
        (TASK + "  margin: .inf\n", 12, "finite"),
        (TASK + "  margin: 0.1\n  sead: 1\n", 13, "did you mean seeds?"),
        (TASK + "  margin: 0.1\n  seeds: 0\n", 13, "got 0"),
        (TASK + "  margin: 0.1\n  against: [lora, vpt, full]\n", 13, "got 'vpt': input should be 'lora', 'dora'"),
        (TASK + "  margin: 0.1\n  against: [full, full]\n", 13, "full is given twice"),
        (TASK + "  margin: 0.1\n  against: lora\n", 12, "`against` leaves out"),
        (TASK + "  margin: 0.1\n  learning_rates:\n    lora: -1\n", 14, "greater than 0"),
        (TASK + "  margin: 0.1\n  learning_rates:\n    vpt: 1\n", 14, "'vpt'"),
        (TASK + "  margin: 0.1\n  against: full\n  learning_rates: {lora: 1}\n", 14, "leaves this method out"),
        ("  margin: 0.1\n  tasks: [{name: rex, pictures: photos, class: cat}]\n", 12, "rex is a task of the study:"),
        ("  margin: 0.1\n  tasks: [{name: rat, pictures: photos, class: dog}]\n", 12, "study by the name subject/rex"),
        ("  margin: 0.1\n  tasks: [{name: ham, pictures: photos, class: x}]\n", 12, "is a task of the tuning"),
        (
            "  margin: 0.1\n  tasks:\n    - {name: owl, pictures: photos, class: owl}\n"
            "    - {name: owl2, pictures: photos, class: owl}\n", 14, "owl2 is given twice, by the name subject/owl",
        ),
        ("  margin: 0.1\n  tasks: [subject/nobody]\n", 12, "no subject 'nobody'"),
        (TASK + "  margin: 0.1\n", 0, ""),
        (TASK + "  against: lora\n", 0, ""),
    ],
)  # fmt: skip
def test_fault_of_the_section_names_its_line_and_what_to_do(tmp_path, text, line, word):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(HEAD + text)
    if not word:  # the text all the others change is right
        assert config.read(path).confirm.seeds == (0, 1)
        return
    with pytest.raises(InputFault) as caught:
        config.read(path)
    told = str(caught.value)
    assert f"line {line}:" in told and word in told and "1 fault" in told, told


def test_colours_are_known_of_the_tasks_to_confirm_on_too(tmp_path):
    fakes.folders(tmp_path)
    path = tmp_path / "study.yaml"
    text = HEAD.replace("[{name: rex, pictures: photos, class: dog}]", "[subject/robot]")
    text = text.replace("[{name: ham, pictures: photos, class: hamster}]", "[subject/lamp]")
    path.write_text(text.replace("scorer}", "scorer, colour: world}") + TASK + "  margin: 0.1\n")
    with pytest.raises(InputFault, match="subject/owl is a folder of photographs"):
        config.read(path)


@pytest.mark.slow
def test_a_tiny_model_is_trained_by_the_recipe_and_by_what_it_is_compared_with(tmp_path):
    """True workers, packs and scores: ten trials of two steps."""
    model, scorer = tiny.pipeline_folder(tmp_path), tiny.clip_folder(tmp_path)
    fakes.folders(tmp_path)
    short = {"steps": 2, "batch": 1, "prior_pictures": 2, "sampling_steps": 2, "pictures": 2, "guidance": 3}
    tasks = [{"name": name, "pictures": "photos", "class": "robot", "token": name} for name in ("one", "two", "three")]
    confirm = {"tasks": tasks, "seeds": 1, "margin": 0.5, "against": ["lora", "full"]}
    study = study_of(
        tmp_path, backbone=model.name, scores={"clip_i": scorer.name}, protocol=short,
        factors={"input": ["SA_in", "CA_out"], "output": ["FFN_in"]}, nested=[],
        fixed={"method": "adapter", "width": 3},
        tune=None, confirm={**confirm, "learning_rates": {"lora": 1e-2, "full": 1e-3}},
    )  # fmt: skip
    design = {"method": "adapter", "input": "SA_in", "output": "FFN_in", "width": 3}
    confirming = of(study, tmp_path, backbone=model.name, design=design, protocol={**short, "learning_rate": 1e-2})
    outcome = confirming.run(workers=1)
    assert outcome.counts == {"done": 9}, outcome.failed
    sizes = confirming.parameters()
    # A LoRA of rank 1 is the smallest there is on this model.
    assert sizes["full"] > 20 * sizes["best"] and sizes["best"] < sizes["lora"] < 3 * sizes["best"]
    found = confirming.analyse()
    assert found.rows["tasks"].tolist() == [3, 3] and found.rows["difference"].notna().all()
    assert os.listdir(study.store.folder / "trials") and not (study.store.folder / "adapters").exists()
