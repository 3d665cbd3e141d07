"""The strategies `optuna` and `refine`: the same trials whatever the workers, and where a run was interrupted."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import optuna
import pyarrow as pa
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from typer.testing import CliRunner

from adapters.faults import InputFault
from study import Study, config
from study.canonical import canonical_json, digest
from study.cli.dry_run import describe
from study.cli.main import build
from study.executors.local import LocalExecutor
from study.report_rows import analyse, balanced
from study.strategies.ask_tell import Settings
from study.strategies.optuna import Optuna, Tree
from study.strategies.refine import Refine
from study.strategies.search import Problem
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
OPTUNA = {"kind": "optuna", "trials": 24, "batch": 2}
"""Six of the fake study's twelve designs, on two tasks with two seeds, in three generations."""
REFINE = {"kind": "refine", "start": 2, "trials": 40}
DESIGNS = [
    {"method": "adapter", "input": reads, "output": writes, "activation": activation}
    for reads, outputs in (("SA_in", "ABC"), ("CA_out", "BC"), ("FFN_in", "C"))
    for writes in outputs
    for activation in ("identity", "relu", "sigmoid", "silu")
]
"""24 of 3 x 3 x 4: half of the pairs are forbidden."""
GAIN = {"SA_in": 0.0, "CA_out": 0.1, "FFN_in": 0.05, "A": 0.0, "B": 0.1, "C": 0.05, "identity": 0.0, "relu": 0.2}
BEST = {"method": "adapter", "input": "CA_out", "output": "B", "activation": "relu"}
"""By GAIN: 0.1 + 0.1 + 0.2."""


@pytest.fixture(autouse=True)
def workers_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def value(design: Mapping[str, str], replicate: int) -> float:
    """What a design is worth, tasks differing by far more than designs, with a noise that the design decides."""
    noise = int(digest([design, replicate])[:8], 16) / 2**32 * 0.01
    return sum(GAIN.get(level, 0.0) for level in design.values()) + 10 * replicate + noise


def problem(outcome=value, replicates: int = 4) -> Problem:
    def scores(cell):
        found = outcome(DESIGNS[cell[0]], cell[1])
        return None if found is None else {"clip_i": found, "fid": -found}

    factors = ["input", "output", "activation"]
    at = [(f"task{k}", 0) for k in range(replicates)]
    better = {"clip_i": True, "fid": False}
    return Problem(DESIGNS, at, factors, factors, ("input", "output"), "clip_i", better, scores)


def driven(study: Study, workers: int = 1, limit: int | None = None) -> None:
    study.run(limit=limit, executor=LocalExecutor(study.store, ["cpu"] * workers, command=fakes.COMMAND))


def ids(study: Study) -> set[str]:
    return set(study.store.rows()["id"])


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
def test_optuna_asks_for_valid_designs_only_each_once_and_as_many_as_the_budget_has(sampler):
    grown = Optuna(4 * 20 + 3, Settings(sampler, batch=6)).grow(problem())
    asked = [design for generation in grown.generations for design in dict.fromkeys(d for d, _ in generation)]
    assert grown.ended and len(asked) == len(set(asked)) == 20 and grown.cells == 80
    assert grown.fixed == (1 if sampler == "qmc" else 0)


def test_tpe_finds_the_best_of_a_clear_space_more_often_than_chance():
    # 15 of 24 designs at random hold the best in 15/24 of all draws, and 18 of 20 draws or more with probability .007.
    found = [DESIGNS.index(BEST) in {d for g in Optuna(60, Settings("tpe", seed, 4)).grow(problem()).generations
             for d, _ in g} for seed in range(20)]  # fmt: skip
    assert sum(found) >= 18


def test_a_generation_is_planned_from_earlier_ones_only():
    whole = Optuna(80, Settings(batch=4)).grow(problem())
    first = {cell for generation in whole.generations[:2] for cell in generation}
    open_ = problem(lambda design, at: value(design, at) if (DESIGNS.index(dict(design)), at) in first else None)
    part = Optuna(80, Settings(batch=4)).grow(open_)
    assert not part.ended and part.generations == whole.generations[:3]


def test_several_scores_keep_their_directions():
    # fid is -clip_i and lower is better, so the two agree and the Pareto front is one design.
    _, searched = Optuna(80, Settings("nsga2", batch=5), ("clip_i", "fid")).search(problem())
    assert [d.name for d in searched.directions] == ["MAXIMIZE", "MINIMIZE"]
    values = [trial.values[0] for trial in searched.trials]
    assert {trial.values[0] for trial in searched.best_trials} == {max(values)}


def test_a_diverged_trial_counts_as_the_worst_score_seen():
    search = Optuna(40, Settings(batch=10))
    bad = DESIGNS[search.grow(problem()).generations[0][0][0]]
    _, searched = search.search(
        problem(lambda design, at: math.nan if design == bad else value(design, at))
    )
    told = {trial.user_attrs["item"]: trial.value for trial in searched.trials}
    assert told[canonical_json(bad)] == min(v for v in told.values())


def test_tree_walks_to_every_design_and_names_what_is_offered():
    tree = Tree(DESIGNS, ["input", "output", "activation"])
    walked = [tree.steer(place) for place in range(len(DESIGNS))]
    assert len({canonical_json(params) for params, _ in walked}) == len(DESIGNS)
    assert set(walked[0][0]) == {"input", "output", "activation"}  # SA_in has all outputs
    assert "output of B, C" in walked[DESIGNS.index(BEST)][0]


def test_refine_keeps_the_best_and_adds_replicates_to_what_may_be_it_only():
    grown = Refine(2, 80).grow(problem(replicates=6))
    assert sorted(grown.generations[0]) == [(d, at) for d in range(24) for at in (0, 1)] and grown.fixed == 1
    added = [{design for design, _ in generation} for generation in grown.generations[1:]]
    assert all(DESIGNS.index(BEST) in some for some in added)
    assert all(later <= earlier for earlier, later in zip(added, added[1:], strict=False))
    assert all(DESIGNS[d]["activation"] == "relu" for some in added for d in some)  # 0.2 ahead, noise below 0.01
    assert grown.ended and grown.cells <= 80 and grown.told.startswith("Decided: 1 of 24")


@pytest.mark.parametrize("strategy", [OPTUNA, REFINE])
def test_rows_are_the_same_whatever_the_workers_and_interruptions_and_ids_are_the_factorials(tmp_path, strategy):
    every = {trial.id for trial in Study.load(fakes.study_file(tmp_path)).trials}
    whole = Study.load(fakes.study_file(tmp_path, strategy=strategy, store=str(tmp_path / "one")))
    driven(whole)
    parts = Study.load(fakes.study_file(tmp_path, strategy=strategy, store=str(tmp_path / "two")))
    for limit in (3, 9, None):  # ends within a generation
        driven(Study.load(tmp_path / "fake.yaml"), workers=2, limit=limit)
    assert ids(whole) == ids(parts) <= every
    assert len(parts.store.attempts()) == len(ids(parts))  # none twice
    status = parts.status()
    assert status["search"]["ended"] and status["done"] == status["search"]["planned"] <= strategy["trials"]
    assert whole.results()["plan"].to_list() == parts.results()["plan"].to_list()
    assert "search: " in "\n".join(describe(parts)) and "planned so far" in "\n".join(describe(parts))


def test_a_search_that_is_kept_plans_what_one_plans_that_is_made_anew():
    seen, asked = set(), []
    kept = problem(lambda design, at: value(design, at) if (DESIGNS.index(dict(design)), at) in seen else None)
    strategy = Optuna(80, Settings(batch=4))
    for _ in range(6):
        asked.append(strategy.grow(kept).generations)
        seen |= {cell for generation in asked[-1] for cell in generation}
        assert strategy.grow(kept) == strategy.grow(replace(kept, memory={}))
    assert len(asked[-1]) == 5
    assert all(later[: len(earlier)] == earlier for earlier, later in zip(asked, asked[1:], strict=False))


def test_a_search_that_is_kept_begins_anew_where_scores_have_changed():
    worth = {"sign": 1}
    kept = problem(lambda design, at: worth["sign"] * value(design, at))
    strategy = Optuna(80, Settings(batch=4))
    strategy.grow(kept)
    worth["sign"] = -1
    assert strategy.grow(kept) == strategy.grow(problem(lambda design, at: -value(design, at)))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
def test_plans_do_not_depend_on_how_python_hashes_text(sampler):
    code = (
        "from tests.study.test_search import *\n"
        f"print(Optuna(80, Settings({sampler!r}, 3, 5), ('clip_i', 'fid')).grow(problem()).generations)"
    )
    told = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(seed)},
                       capture_output=True, text=True, check=True).stdout for seed in (1, 2)
    }  # fmt: skip
    assert len(told) == 1


def test_looks_are_kept_beside_the_rows_they_are_of(tmp_path, monkeypatch):
    path = fakes.study_file(tmp_path, strategy=REFINE)
    driven(Study.load(path))
    status = Study.load(path).status()
    counted = []
    look = Refine._look
    monkeypatch.setattr(Refine, "_look", lambda *given: counted.append(1) or look(*given))
    assert Study.load(path).status() == status and not counted
    kept = Study.load(path).store.looks
    for damaged in (b"", b"[]", b'{"statistics": 1}', kept.read_bytes()[:50]):
        kept.write_bytes(damaged)
        assert Study.load(path).status() == status
    assert counted
    driven(Study.load(path))  # which has nothing to run, and writes them anew
    counted.clear()
    assert Study.load(path).status() == status and not counted
    # Of other rows nothing is remembered: what was best is now worst, and is looked for anew.
    loaded = Study.load(path)
    rows = loaded.store.rows()
    worse = pa.Table.from_pandas(rows.assign(clip_i=-rows["clip_i"]), preserve_index=False)
    monkeypatch.setattr(type(loaded.store), "table", lambda self, columns=None: worse)
    assert loaded.status()["search"]["ended"] and counted


def test_a_search_whose_tuning_chose_for_no_design_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_RATES", json.dumps({"adapter": 1e-6}))  # all rates that are tried diverge
    task = {"name": "ham", "pictures": "photos", "class": "hamster"}
    tune = {"tasks": [task], "grid": {"learning_rate": [1e-3, 1e-2]}}
    study = Study.load(fakes.study_file(tmp_path, strategy=OPTUNA, tune=tune))
    driven(study)
    found = study.status()
    assert "tuning could choose for none of them" in found["search"]["told"] and found["search"]["planned"] == 0
    assert found["search"]["ended"] and found["impossible"]


def test_journal_is_made_from_rows_and_may_be_deleted(tmp_path):
    study = Study.load(fakes.study_file(tmp_path, strategy=OPTUNA))
    driven(study)
    scores = study.results().groupby("design_json")["clip_i"].mean()
    for _ in range(2):
        (searched,) = optuna.get_all_study_summaries(JournalStorage(JournalFileBackend(str(study.store.journal))))
        loaded = optuna.load_study(
            study_name=searched.study_name, storage=JournalStorage(JournalFileBackend(str(study.store.journal)))
        )
        told = {trial.user_attrs["item"]: trial.value for trial in loaded.trials}
        assert told == pytest.approx(scores.to_dict())
        study.store.journal.unlink()
        before = ids(study)
        study = Study.load(tmp_path / "fake.yaml")
        driven(study)
        assert ids(study) == before


def test_tests_take_the_balanced_part_and_say_so(tmp_path):
    study = Study.load(fakes.study_file(tmp_path, strategy=REFINE))
    driven(study)
    rows, told = balanced(study)
    assert len(rows) == 12 * 2 and len(study.results()) > 24 and "24 trials that were planned before" in told[0]
    assert analyse(study).n == 24
    command = ["anova", str(study.store.folder), "--response", "clip_i", "--factors", "input,output", "--json"]
    refused = CliRunner().invoke(build("anova"), command)
    assert refused.exit_code == 2 and "--where plan=fixed" in refused.stderr
    taken = CliRunner().invoke(build("anova"), [*command, "--where", "plan=fixed"])
    assert json.loads(taken.stdout)["n"] == 24


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"kind": "optuna"}, "trials"),
        ({"kind": "optuna", "trials": 3}, "expected at least the 4 that one design takes"),
        ({"kind": "optuna", "trials": 48}, "all 12 designs take no more than 48"),
        ({"kind": "optuna", "trials": 8, "sampler": "tpee"}, "tpee"),
        ({"kind": "optuna", "trials": 8, "scores": ["clip_t"]}, "expected scores of this study: clip_i, dino_i"),
        ({"kind": "optuna", "trials": 8, "scores": ["clip_i", "clip_i"]}, "clip_i is given twice"),
        ({"kind": "optuna", "trials": 8, "seed": 2**32}, "less than 4294967296"),  # numpy takes no greater one
        ({"kind": "optuna", "trials": 8, "bacth": 2}, "did you mean batch?"),
        ({"kind": "optuna", "trials": 8, "start": 2}, "expected one of batch, kind, pruner, sampler, scores, seed"),
        ({"kind": "optuna", "trials": 0}, "greater than or equal to 1"),
        ({"kind": ["optuna"]}, "expected `factorial` or a subset"),
        ({"kind": "refine", "start": 4, "trials": 24}, "there are 4 replicates"),
        ({"kind": "refine", "start": 2, "trials": 20}, "expected at least the 24 of 12 designs"),
        ({"kind": "refine", "start": 2, "trials": 48}, "whole factorial takes no more than 48"),
        ({"kind": "refine", "start": 2, "trials": 30, "batch": 2}, "expected one of error, kind, level, start, trials"),
    ],
)
def test_what_cannot_be_searched_is_one_fault_that_names_its_key(tmp_path, strategy, words):
    with pytest.raises(InputFault) as caught:
        config.read(fakes.study_file(tmp_path, strategy=strategy))
    assert "has 1 fault:" in str(caught.value) and "strategy" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": fakes.SECTIONS["tasks"][:1], "seeds": 3, "strategy": {**REFINE, "trials": 30, "error": "task"}},
         "there is one task, which says nothing of new ones"),
        ({"factors": {"input": ["SA_in"], "output": ["FFN_in"]}, "strategy": {**REFINE, "start": 1, "trials": 1}},
         "got refine for 1 design"),
    ],
)  # fmt: skip
def test_refine_is_refused_where_it_could_find_nothing(tmp_path, changes, words):
    with pytest.raises(InputFault, match=words):
        config.read(fakes.study_file(tmp_path, **changes))
