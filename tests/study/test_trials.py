"""Identity of trials, their order, packs."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from adapters.faults import InputFault
from study import Study, plan
from study.config import Protocol
from study.trial import Pack, Trial
from tests.study import fakes

DESIGN = {
    "method": "adapter",
    "input": "CA_out",
    "output": "FFN_in",
    "activation": "relu",
    "scale": 1,
    "init": "default",
    "budget": 0.0075,
}
TRIAL = Trial("micro-unet", DESIGN, "subject/robot", 0, Protocol(), backbone_hash="b" * 64, task_hash="t" * 64)
CLIP_T = {"clip_t": "micro-clip"}

GOLDEN = {
    # Frozen: a change here makes every stored result unknown. Raise TRIAL_VERSION only when the numbers change.
    "default": "c91f18444019784a0daa5c6d6100872a8c4d86b0925bbbdf307482aa30898561",
    "other": "b10098597f5a63e12ebb0f8988644f0b5271b9df4bdb77b161b6888c19ba1346",
}


def test_ids_are_frozen():
    other = Trial(
        "x",
        {"method": "none"},
        "y",
        7,
        Protocol(steps=60, learning_rate=5e-3, batch=1, prior_weight=0.5, guidance=4, pictures=8, precision="float64"),
        backbone_hash="0" * 64,
        task_hash="1" * 64,
    )
    assert {"default": TRIAL.id, "other": other.id} == GOLDEN


def test_id_is_the_hash_of_the_canonical_json_it_is_documented_to_be():
    import hashlib

    content = {
        "version": 1,
        "backbone": "b" * 64,
        "design": DESIGN,
        "task": "t" * 64,
        "seed": 0,
        "protocol": {"steps": 200, "learning_rate": 0.001, "batch": 2, "prior_weight": 1, "prior_batch": 2,
                     "prior_pictures": 32, "precision": "float32", "sampler": "dpmsolver++", "sampling_steps": 25,
                     "guidance": 7, "pictures": 16, "checkpoints": []},
    }  # fmt: skip
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert TRIAL.id == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"design": {**DESIGN, "activation": "silu"}},
        {"seed": 1},
        {"protocol": Protocol(pictures=8)},
        {"protocol": Protocol(precision="float64")},
        {"backbone_hash": "c" * 64},
        {"task_hash": "u" * 64},
    ],
)
def test_whatever_decides_the_numbers_changes_the_id(change):
    assert replace(TRIAL, **change).id != TRIAL.id


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "another name"},
        {"task": "subject/other"},
        {"role": "reference"},
        {"design": dict(reversed(DESIGN.items()))},
        {"design": {**DESIGN, "scale": 1.0}},
        {"protocol": Protocol(guidance=7, learning_rate="1e-3")},
    ],
)
def test_names_order_and_spelling_do_not_change_the_id(change):
    assert replace(TRIAL, **change).id == TRIAL.id


def test_trial_without_content_hashes_has_no_id():
    with pytest.raises(InputFault, match="content hashes"):
        _ = replace(TRIAL, task_hash="").id


@pytest.fixture
def study(tmp_path):
    return Study.load(fakes.study_file(tmp_path))


def test_plan_is_in_order_of_seed_task_and_design_hash_and_has_the_untuned_backbone_once_each(study):
    trials = study.trials
    assert len(trials) == fakes.PLANNED + fakes.REFERENCES == len({trial.id for trial in trials})
    cells = [(trial.seed, trial.task) for trial in trials]
    each = len(trials) // 4
    assert cells[::each] == [(0, "subject/rex"), (0, "subject/tom"), (1, "subject/rex"), (1, "subject/tom")]
    assert all(len(set(cells[start : start + each])) == 1 for start in range(0, len(cells), each))
    orders = [[trial.design for trial in trials[start : start + each]] for start in range(0, len(trials), each)]
    assert all(order == orders[0] for order in orders)
    references = [trial for trial in trials if trial.role == "reference"]
    assert [trial.design for trial in references] == [{"method": "none"}] * fakes.REFERENCES


def test_untuned_backbone_that_is_a_design_of_the_study_is_not_planned_twice(tmp_path):
    study = Study.load(
        fakes.study_file(
            tmp_path,
            factors={"method": ["none", "full"]},
            fixed={},
        )
    )
    assert [trial.role for trial in study.trials] == ["study"] * 2 * 4


def test_pack_survives_json(study):
    for pack in plan.packs(study.config, study.trials, {study.trials[0].id: 1}, "/store", workers=3, together=5):
        again = Pack.from_json(pack.to_json())
        assert again == pack
        assert [trial.id for trial in again.trials] == [trial.id for trial in pack.trials]
        assert again.together == 5


@pytest.mark.parametrize("together", [None, 1, 3, 100])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_packs_hold_each_trial_once_in_order_and_its_task(study, workers, together):
    packs = plan.packs(study.config, study.trials, {study.trials[0].id: 2}, "/store", workers, together)
    assert [trial.id for pack in packs for trial in pack.trials] == [trial.id for trial in study.trials]
    assert all(set(pack.tasks) == {trial.task for trial in pack.trials} for pack in packs)
    assert packs[0].attempts[study.trials[0].id] == 3
    assert packs[0].attempts[study.trials[1].id] == 1


def test_several_workers_get_ever_smaller_packs_and_one_gets_all(study):
    def sizes(workers, together=None):
        return [len(pack.trials) for pack in plan.packs(study.config, study.trials, {}, "/s", workers, together)]

    assert len(study.trials) == 52
    assert sizes(1) == [52]
    # By hand: a fourth of what is left, rounded up, and never fewer than four.
    assert sizes(2) == [13, 10, 8, 6, 4, 4, 4, 3]
    # Whole packs of the size that was asked for, the last aside.
    assert sizes(2, together=5) == [10, 10, 5, 5, 5, 5, 5, 5, 2]
    assert sizes(2, together=40) == [40, 12]


def test_how_large_pictures_are_is_the_task_s_to_say_and_not_its_name_s(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "0.png")
    named = {"pictures": "photos", "class": "robot"}
    tasks = [{"name": "rex@2", **named}, {"name": "rex", **named}, "domain/photo", "domain/photo@128"]
    sections = {"fixed": {"method": "lora", "rank": 2}, "factors": {"targets": ["attention"]}, "scores": CLIP_T}
    sections |= {"backbone": "micro-unet", "tasks": tasks, "primary": "clip_t"}
    study = Study(tmp_path, tmp_path / "store", name="sizes", **sections)
    first = {trial.task: trial for trial in study.trials if trial.role == "study"}
    names, rows = [task.name for task in study.config.tasks], study.store.rows()
    at_2, plain, photo, large = (plan.seconds(study.config, [first[name]], rows) for name in names)
    assert at_2 == plain == photo and large == pytest.approx(4 * photo)  # 128 pixels squared are 4 times 64 squared
