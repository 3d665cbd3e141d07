"""Pruning: Optuna's own decisions, from what earlier generations left; what a pruned trial is to whom."""

import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from typer.testing import CliRunner

from adapters.faults import InputFault
from study import Study, config
from study.cli.dry_run import describe
from study.cli.main import build
from study.cli.status import _lines
from study.executors.local import LocalExecutor
from study.pruning import Evidence, Past, Pruning, Rule
from study.recommend import recommend
from study.strategies.ask_tell import Settings
from study.strategies.optuna import Optuna
from study.strategies.search import Problem
from study.trial import Pack
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
MEDIAN = Rule("median", (25, 50), 1, startup_trials=2)
RULES = [
    MEDIAN,
    Rule("percentile", (25, 50), startup_trials=1, percentile=30.0),
    Rule("successive_halving", (25, 50), reduction_factor=2),
    Rule("hyperband", (10, 20, 40, 80), reduction_factor=2),
]
PRUNED = {
    "kind": "optuna", "trials": 36, "batch": 4,
    "pruner": {"kind": "median", "at": [0.4, 0.7], "pictures": 1, "startup_trials": 2},
}  # fmt: skip
"""Nine of the fake study's twelve designs, on two tasks with two seeds."""


@pytest.fixture(autouse=True)
def workers_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def done(*scores: float) -> tuple[Past, ...]:
    """Complete trials with these scores after a quarter of their steps."""
    return tuple(Past("done", 0.9, ((25, score),)) for score in scores)


def prunes(rule: Rule, past: tuple[Past, ...], score: float, higher: bool = True) -> bool:
    return Pruning(Evidence(rule, "clip_i", higher, past), 0).prunes({25: score})


def test_the_median_pruner_ends_what_is_worse_than_the_median_of_complete_trials():
    past = done(0.5, 0.9, 0.7, 0.6, 0.8)  # whose median is 0.7
    assert prunes(MEDIAN, past, 0.69) and not prunes(MEDIAN, past, 0.71)
    assert prunes(MEDIAN, past, 0.71, higher=False) and not prunes(MEDIAN, past, 0.69, higher=False)
    # Trials that were pruned or diverged move no median, and one scored elsewhere only neither.
    lost = (Past("pruned", None, ((25, 0.1),)), Past("diverged", None, ((25, 0.1),)), Past("done", 0.1))
    assert prunes(MEDIAN, past + lost, 0.69) and not prunes(MEDIAN, past + lost, 0.71)
    assert not prunes(MEDIAN, done(0.9), 0.1)  # of which there must be two
    assert not prunes(MEDIAN, (), 0.1)


def test_the_percentile_pruner_keeps_the_best_so_many_percent():
    scores = np.random.default_rng(0).random(20)
    limit = np.percentile(scores, 70)  # what the best 30 percent are above of
    assert prunes(RULES[1], done(*scores), limit - 1e-6) and not prunes(RULES[1], done(*scores), limit + 1e-6)


def test_successive_halving_promotes_the_better_half():
    past = done(0.5, 0.6, 0.7)
    assert not prunes(RULES[2], past, 0.65)  # the second of four
    assert prunes(RULES[2], past, 0.55)  # the third


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("higher", [True, False])
def test_decisions_are_those_of_a_live_study_of_optunas(rule, higher):
    # The live study is Optuna's own bookkeeping, one trial after the other; ours is made anew for each of them.
    live = optuna.create_study(
        study_name="adapter-study", direction="maximize" if higher else "minimize", pruner=rule.make()
    )
    rng, past, pruned = random.Random(1), [], 0
    for _ in range(40):
        trial, own = live.ask(), Pruning(Evidence(rule, "clip_i", higher, tuple(past)), 0)
        scores, state = {}, "done"
        for percent in rule.at:
            scores[percent] = rng.random()
            trial.report(scores[percent], percent)
            ended = trial.should_prune()
            assert own.prunes(scores) == ended
            if ended:
                state = "pruned"
                break
        pruned += state == "pruned"
        value = None if state == "pruned" else rng.random()
        live.tell(trial, value, TrialState.PRUNED if state == "pruned" else None)
        past.append(Past(state, value, tuple(scores.items())))
    assert 5 < pruned < 40


def test_evidence_goes_with_a_pack_once_and_is_no_part_of_a_trials_identity(tmp_path):
    study = Study.load(fakes.study_file(tmp_path))
    evidence = Evidence(MEDIAN, "clip_i", True, done(0.5, 0.25))
    plain = study.trials[:2]
    trials = tuple(trial.planned("adaptive", Pruning(evidence, place)) for place, trial in enumerate(plain))
    assert [trial.id for trial in trials] == [trial.id for trial in plain]
    text = Pack(trials, "pipe", {}, {}, "none", "store").to_json()
    assert Pack.from_json(text).trials == trials and text.count('"past"') == 1
    assert len({trial.pruning.by for trial in trials}) == 2


def test_shares_of_the_steps_that_are_none_or_all_of_them_are_left_out():
    own = Pruning(Evidence(Rule("median", (1, 25, 50, 99)), "clip_i", True, ()), 0)
    assert own.steps(100) == {1: 1, 25: 25, 50: 50, 99: 99}
    assert own.steps(10) == {2: 25, 5: 50, 9: 99} and own.steps(2) == {1: 99} and own.steps(1) == {}


DESIGNS = [{"method": "lora", "rank": rank, "alpha": alpha} for rank in range(1, 9) for alpha in range(1, 9)]


def worth(cell: tuple[int, int]) -> float:
    design = DESIGNS[cell[0]]
    return design["rank"] + design["alpha"] / 10 + cell[1]


def searched(strategy: Optuna, replicates: int = 3, final=lambda cell: True):
    """Search where a design's score is its worth, and on the way the worth so far."""

    def past(cell, pruning):
        if not final(cell):
            return None
        scores = {}
        for percent in pruning.evidence.rule.at:
            scores[percent] = worth(cell) * percent / 100
            if pruning.prunes(scores):
                return Past("pruned", None, tuple(scores.items()))
        return Past("done", worth(cell), tuple(scores.items()))

    problem = Problem(
        DESIGNS, [(f"task{k}", 0) for k in range(replicates)], ["rank", "alpha"], ["rank", "alpha"], None, "clip_i",
        {"clip_i": True}, lambda cell: {"clip_i": worth(cell)} if final(cell) else None, past,
    )  # fmt: skip
    return strategy.search(problem)


def test_a_pruned_design_is_not_run_on_the_other_replicates_and_counts_as_one_of_the_budget():
    growth, told = searched(Optuna(60, Settings(batch=4), pruner=MEDIAN))
    first = [cell for generation in growth.generations for cell in generation if cell[1] == 0]
    rest = [cell for generation in growth.generations for cell in generation if cell[1]]
    assert growth.ended and len(first) == 20 and 0 < len(growth.pruned) < 20
    assert set(rest) == {(d, at) for d, _ in first for at in (1, 2) if (d, 0) not in growth.pruned}
    assert growth.cells + growth.skipped == 60
    assert f"{len(growth.pruned)} of 20 designs were pruned" in growth.told
    # Optuna knows which, and what they scored on the way.
    lost = {json.dumps(DESIGNS[d], sort_keys=True, separators=(",", ":")) for d, _ in growth.pruned}
    trials = [trial for trial in told.trials if trial.state == TrialState.PRUNED]
    assert {trial.user_attrs["item"] for trial in trials} == lost
    assert all(set(trial.intermediate_values) in ({25}, {25, 50}) for trial in trials)
    complete = [trial for trial in told.trials if trial.state == TrialState.COMPLETE]
    assert all(t.value == pytest.approx(2 * t.intermediate_values[50] + 1) for t in complete)  # tasks 0, 1, 2: mean 1


def test_a_trial_is_judged_from_earlier_generations_only():
    growth, _ = searched(Optuna(60, Settings(batch=4), pruner=MEDIAN))
    firsts = [[cell for cell in generation if cell[1] == 0] for generation in growth.generations]
    earlier = 0
    for cells in filter(None, firsts):
        for place, cell in enumerate(cells):
            assert len(growth.pruning[cell].evidence.past) == earlier and growth.pruning[cell].place == place
        earlier += len(cells)
    known = {cell for generation in growth.generations[:4] for cell in generation}
    part, _ = searched(Optuna(60, Settings(batch=4), pruner=MEDIAN), final=known.__contains__)
    assert part.generations == growth.generations[:5] and not part.ended
    assert all(growth.pruning[cell] == own for cell, own in part.pruning.items())


def test_designs_that_optuna_repeats_itself_over_are_told_as_pruned_too():
    # Of 64 designs 60: Optuna asks for what it knows so often that designs are drawn at random.
    growth, told = searched(Optuna(60, Settings(batch=10), pruner=MEDIAN), replicates=1)
    items = {t.user_attrs["item"] for t in told.trials if t.state == TrialState.PRUNED}
    assert len(items) == len(growth.pruned) and growth.cells == 60


def driven(study: Study, workers: int = 1, **asked: object):
    return study.run(executor=LocalExecutor(study.store, ["cpu"] * workers, command=fakes.COMMAND), **asked)


def told(study: Study) -> list[tuple[object, ...]]:
    """What the rows of a store say, each attempt's, without times."""
    frame = study.store.attempts().sort_values(["id", "attempt"])
    columns = ["id", "attempt", "status", "clip_i", "intermediate_json", "pruned_by", "plan"]
    return [tuple(map(str, row)) for row in frame[columns].itertuples(index=False)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a search that has run, and its outcome's counts."""
    root = tmp_path_factory.mktemp("pruned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        study = Study.load(fakes.study_file(root, strategy=PRUNED))
        return root, study, driven(study).counts


def test_rows_are_the_same_whatever_the_workers_packs_and_interruptions(home, tmp_path):
    _, study, _ = home
    whole = told(study)
    assert {row[2] for row in whole} == {"done", "pruned"} and {row[1] for row in whole} == {"1"}
    fakes.study_file(tmp_path, strategy=PRUNED)
    for limit in (3, 5, 9, None):  # ends within generations
        driven(Study.load(tmp_path / "fake.yaml"), workers=2, pack=4, limit=limit)
    assert told(Study.load(tmp_path / "fake.yaml")) == whole


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_no_row(home, tmp_path, monkeypatch):
    whole = told(home[1])
    path = fakes.study_file(tmp_path, strategy=PRUNED)
    monkeypatch.setenv("FAKE_DEADLY", "silu")
    outcome = driven(Study.load(path))
    assert outcome.counts.get("failed")
    monkeypatch.delenv("FAKE_DEADLY")
    for _ in range(9):
        if not driven(Study.load(path), only="failed").failed and not driven(Study.load(path)).counts.get("missing"):
            break
    after = [row for row in told(Study.load(path)) if row[2] != "failed"]
    assert [(row[0], *row[2:]) for row in after] == [(row[0], *row[2:]) for row in whole]


def test_a_search_counts_its_pruned_trials_as_over_and_says_how_many(home):
    root, study, counts = home
    status = study.status()
    lost = study.pruned()
    count = len(lost)
    assert count and status["pruned"] == counts["pruned"] == count and status["missing"] == 0
    assert status["done"] + count == status["planned"] == 36 - 3 * count and status["search"]["ended"]
    shown = "\n".join(_lines(status))
    assert f"{count} pruned" in shown and f"{count} of 9 designs were pruned" in shown
    assert lost["clip_i"].isna().all() and set(lost["status"]) == {"pruned"} and set(lost["task"]) == {"subject/rex"}
    assert not set(lost["id"]) & set(study.results()["id"])
    assert "may be pruned on the first replicate (median at 40 %, 70 % of the steps)" in "\n".join(describe(study))
    left_out = f"{count} of {status['planned']} planned trials: they were pruned on their way."
    assert left_out in recommend(study).not_tested
    command = ["anova", str(study.store.folder), "--response", "clip_i", "--factors", "input", "--where",
               "plan=adaptive"]  # fmt: skip
    called = CliRunner().invoke(build("anova"), command)
    assert f"{count} trial" in called.stderr and "left out" in called.stderr
    before = told(study)
    assert driven(Study.load(root / "fake.yaml")).counts == counts and told(study) == before


def test_the_journal_has_pruned_trials_as_such(home):
    _, study, counts = home
    storage = JournalStorage(JournalFileBackend(str(study.store.journal)))
    loaded = optuna.load_study(study_name="fake", storage=storage)
    lost = [trial for trial in loaded.trials if trial.state == TrialState.PRUNED]
    assert len({trial.user_attrs["item"] for trial in lost}) == counts["pruned"]
    scores = {row["design_json"]: json.loads(row["intermediate_json"])["values"]
              for row in study.pruned().to_dict("records")}  # fmt: skip
    for trial in lost:
        assert {str(at): value for at, value in trial.intermediate_values.items()} == scores[trial.user_attrs["item"]]


def test_to_other_strategies_a_pruned_trial_is_unfinished_and_then_it_is_done_to_the_search_too(home, tmp_path):
    _, first, counts = home
    shutil.copytree(first.store.folder, tmp_path / "store")
    whole = Study.load(fakes.study_file(tmp_path))
    assert whole.status()["pruned"] == 0
    assert whole.status()["missing"] == fakes.PLANNED - len(first.results())
    assert driven(whole).counts == {"done": fakes.PLANNED + fakes.REFERENCES}
    attempts = whole.store.attempts()
    again = attempts[attempts["id"].isin(first.pruned()["id"])]
    assert sorted(again["status"]) == sorted(["pruned", "done"] * counts["pruned"])
    assert (again[again["status"] == "done"]["attempt"] == 2).all()
    back = Study.load(fakes.study_file(tmp_path, strategy=PRUNED)).status()
    assert back["pruned"] == 0 and back["search"]["ended"] and back["done"] == back["planned"] == 36


def test_who_would_have_decided_otherwise_runs_a_pruned_trial_again(home, tmp_path):
    _, first, _ = home
    shutil.copytree(first.store.folder, tmp_path / "store")
    other = {**PRUNED, "pruner": {**PRUNED["pruner"], "startup_trials": 3}}
    study = Study.load(fakes.study_file(tmp_path, strategy=other))
    driven(study)
    fresh_root = tmp_path / "fresh"
    fresh_root.mkdir()
    fresh = Study.load(fakes.study_file(fresh_root, strategy=other))
    driven(fresh)
    assert set(study.pruned()["id"]) == set(fresh.pruned()["id"]) and study.status()["missing"] == 0
    # And the first search's own pruned trials are still its own.
    assert set(Study.load(fakes.study_file(tmp_path, strategy=PRUNED)).pruned()["id"]) == set(first.pruned()["id"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pruner": "median"}, "pruner"),
        ({"pruner": {"kind": "median"}}, "strategy.pruner.at"),
        ({"pruner": {"kind": "medium", "at": 0.5}}, "medium"),
        ({"pruner": {"kind": "median", "at": []}}, "at least 1"),
        ({"pruner": {"kind": "median", "at": [0.5, 0.25]}}, "expected shares that ascend"),
        ({"pruner": {"kind": "median", "at": [0.5, 0.5]}}, "expected shares that ascend"),
        ({"pruner": {"kind": "median", "at": [1.0]}}, "less than 1"),
        ({"pruner": {"kind": "median", "at": [math.nan]}}, "nan"),
        ({"pruner": {"kind": "median", "at": [0.333]}}, "whole percent"),
        ({"pruner": {"kind": "median", "at": [0.3]}}, "0.3 of 3 steps is not one"),
        ({"pruner": {"kind": "median", "at": 0.5, "pictures": 3}}, "no more than the 2"),
        ({"pruner": {"kind": "median", "at": 0.5, "picturs": 1}}, "did you mean pictures?"),
        ({"pruner": {"kind": "median", "at": 0.5, "percentile": 20}}, "median does not take"),
        ({"pruner": {"kind": "percentile", "at": 0.5}}, "expected percentile"),
        ({"pruner": {"kind": "percentile", "at": 0.5, "percentile": 100}}, "less than 100"),
        ({"pruner": {"kind": "successive_halving", "at": [0.4, 0.7], "reduction_factor": 2}}, "2, times the one"),
        ({"pruner": {"kind": "hyperband", "at": 0.5}}, "one bracket"),
        ({"pruner": {"kind": "median", "at": 0.5}, "batch": 9}, "would prune nothing"),
        ({"pruner": {"kind": "median", "at": 0.5, "startup_trials": 9}}, "fewer startup_trials"),
        ({"sampler": "nsga2"}, "Optuna prunes no search for several scores"),
        ({"scores": ["clip_i", "dino_i"]}, "Optuna prunes no search for several scores"),
        ({"sampler": "qmc"}, "qmc plans all designs at once"),
        ({"kind": "refine", "start": 1, "trials": 40}, "pruner: unknown key"),
    ],
)
def test_what_cannot_prune_is_one_fault_that_names_its_key(tmp_path, changes, words):
    strategy = {**PRUNED, **changes}
    if strategy["kind"] == "refine":
        del strategy["batch"]
    with pytest.raises(InputFault) as caught:
        config.read(fakes.study_file(tmp_path, strategy=strategy))
    assert "has 1 fault:" in str(caught.value) and "pruner" in str(caught.value) and words in str(caught.value)
