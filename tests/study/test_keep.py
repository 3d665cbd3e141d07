"""Weights and pictures that `keep` leaves in a store, while a study runs and after it."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.faults import InputFault
from study.cli import main
from study.executors.local import LocalExecutor
from study.keep import PICTURES, Keep, Keeping
from study.report import content
from study.space import REFERENCE
from study.store import Store
from study.study import Study
from study.trained_adapter import read_metadata
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def workers_find_the_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(study: Study):
    return study.run(executor=LocalExecutor(study.store, ["cpu"] * 2, command=fakes.COMMAND))


def kept(study: Study, kind: str) -> set[str]:
    folder = study.store.folder / kind
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def best(study: Study, count: int, by_seed: bool) -> set[str]:
    """The oracle: rows sorted by pandas, in each group the first by score and id."""
    keys = ["backbone_hash", "task_hash", "seed"][: 3 if by_seed else 2]
    rows = study.results().sort_values(["clip_i", "id"], ascending=[False, True])
    return set(rows.groupby(keys).head(count)["id"])


def test_a_word_is_said_of_the_weights(tmp_path):
    assert Study.load(fakes.study_file(tmp_path, keep="best")).config.keep_pictures == "all"
    both = Study.load(fakes.study_file(tmp_path, keep={"adapters": "all", "pictures": "best"})).config
    assert (both.keep, both.keep_pictures) == ("all", "best")
    assert Keep(pictures="none") == Keep(adapters="none", pictures="none")
    for wrong in ("some", {"pictures": "some"}, {"weights": "all"}, ["best"], None):
        with pytest.raises(InputFault, match="keep"):
            Study.load(fakes.study_file(tmp_path, keep=wrong))


def test_keep_is_no_part_of_an_identity(tmp_path):
    ids = [
        [trial.id for trial in Study.load(fakes.study_file(tmp_path, keep=keep)).trials]
        for keep in ("all", "none", {"pictures": "best"})
    ]
    assert ids[0] == ids[1] == ids[2]


def test_best_pictures_of_each_task_and_seed_and_the_untuned_backbone_s_stay(tmp_path):
    study = Study.load(fakes.study_file(tmp_path, keep={"pictures": "best"}))
    assert run(study).counts == {"done": fakes.PLANNED + fakes.REFERENCES}
    untuned = set(study.results("reference")["id"])
    assert kept(study, "pictures") == best(study, PICTURES, True) | untuned
    assert len(best(study, PICTURES, True)) == 3 * 2 * 2, "three of each of two tasks and two seeds"
    # The report shows what there is: of each task the three best of one seed, and the untuned backbone.
    galleries = content(study).galleries
    assert [len(gallery.rows) for gallery in galleries] == [4, 4]
    assert all(len(row.pictures) == 2 for gallery in galleries for row in gallery.rows)


def test_without_pictures_rows_and_report_are_there(tmp_path):
    study = Study.load(fakes.study_file(tmp_path, keep={"pictures": "none"}))
    run(study)
    assert kept(study, "pictures") == set()
    images = study.store.images()
    assert len(images) == 2 * (fakes.PLANNED + fakes.REFERENCES) and images["file"].isna().all()
    found = content(study)
    assert found.galleries == [] and len(found.frame) == fakes.PLANNED


def test_all_pictures_stay_by_default(tmp_path):
    study = Study.load(fakes.study_file(tmp_path))
    run(study)
    assert len(kept(study, "pictures")) == fakes.PLANNED + fakes.REFERENCES
    # Later they may be thinned to the best, without a trial run again.
    study.config = replace(study.config, keep_pictures="best")
    run(study)
    assert kept(study, "pictures") == best(study, PICTURES, True) | set(study.results("reference")["id"])


def folders(store: Store, ids: list[str]) -> None:
    for kind in ("adapters", "pictures"):
        for id in ids:
            (store.folder / kind / id).mkdir(parents=True)


def test_what_stays_is_bounded_at_every_moment_and_the_best_is_never_deleted(tmp_path):
    """Two drivers that hear of different results; scores have ties."""
    study = Study.load(fakes.study_file(tmp_path))
    chance = random.Random(3)
    trials = [trial for trial in study.trials if trial.design != REFERENCE]
    scores = {trial.id: chance.choice([0.1, 0.2, 0.3]) for trial in trials}
    drivers = [Keeping(study.store, "clip_i", "best", "best") for _ in range(2)]
    for driver in drivers:
        driver.expect(study.trials)
    chance.shuffle(trials)
    seen = []
    for trial in trials:
        folders(study.store, [trial.id])
        seen.append(trial)
        chance.choice(drivers).hear({"event": "result", "trial": trial.id, "scores": {"clip_i": scores[trial.id]}})
        for kind, size, by_seed in (("adapters", 1, False), ("pictures", PICTURES, True)):

            def group(one, by_seed=by_seed):
                return (one.task_hash, one.seed) if by_seed else one.task_hash

            there = kept(study, kind)
            counts = Counter(group(one) for one in seen if one.id in there)
            assert max(counts.values()) <= 2 * size
            for name in counts:
                ranked = sorted((-scores[one.id], one.id) for one in seen if group(one) == name)
                assert {id for _, id in ranked[:size]} <= there


def test_what_has_no_score_and_what_another_study_ran_stays(tmp_path):
    study = Study.load(fakes.study_file(tmp_path))
    run(study)
    rows = study.results()
    folders(Store(tmp_path / "adapters only"), [])
    for id in rows["id"]:
        study.store.adapter(id).mkdir(parents=True)
    Keeping(study.store, "dino_i", "best").settle()  # the fake runtime gives no such score
    assert kept(study, "adapters") == set(rows["id"])
    Keeping(study.store, "clip_i", "best").settle("another")
    assert kept(study, "adapters") == set(rows["id"])
    Keeping(study.store, "clip_i", "best").settle("fake")
    assert kept(study, "adapters") == best(study, 1, False)


def test_weights_that_were_not_kept_are_told_as_such(tmp_path):
    study = Study.load(fakes.study_file(tmp_path, keep="none"))
    run(study)
    with pytest.raises(InputFault, match="were not kept.*--keep all --store DIR"):
        read_metadata(study.store.adapter(study.trials[0].id))
    with pytest.raises(InputFault, match=r"adapter\.json is missing"):
        read_metadata(tmp_path / "nothing")


def test_gc_deletes_weights_pictures_and_checkpoints_when_asked(tmp_path):
    study = Study.load(fakes.study_file(tmp_path))
    run(study)
    store, count = study.store, fakes.PLANNED + fakes.REFERENCES
    for id in study.results()["id"]:
        store.adapter(id).mkdir(parents=True)
    store.checkpoints.folder.mkdir()

    def call(*words):
        done = CliRunner().invoke(main.build("gc"), ["gc", str(store.folder), *words])
        assert done.exit_code == 0, done.output
        return done.output.splitlines()[-1]

    assert call() == "0 deleted"
    assert call("--adapters") == f"{fakes.PLANNED} deleted" and kept(study, "adapters") == set()
    assert call("--pictures", "--checkpoints") == f"{count} deleted" and kept(study, "pictures") == set()
    assert len(store.rows()) == count and len(store.images()) == 2 * count


def test_compact_and_gc_leave_what_is_kept(tmp_path):
    study = Study.load(fakes.study_file(tmp_path, keep={"pictures": "best"}))
    run(study)
    before, rows = kept(study, "pictures"), study.results().sort_values("id").reset_index(drop=True)
    assert study.store.compact() > 0 and study.store.gc() == []
    assert kept(study, "pictures") == before
    assert study.results().sort_values("id").reset_index(drop=True).equals(rows)
    run(study)
    assert kept(study, "pictures") == before
