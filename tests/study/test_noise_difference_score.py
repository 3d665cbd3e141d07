"""The score `noise_difference`: asked for in a study, the same number packed and alone, absent in old stores."""

import json
import math

import pyarrow.parquet as pq
import pytest
from PIL import Image

import adapters
from adapters.faults import InputFault
from study import config, plan
from study.config import Protocol
from study.loaded import Worker
from study.noise_difference import subject_maps
from study.pack import run_pack
from study.scoring import PredictedNoise
from study.store import Store
from study.study import Study
from study.tasks import resolve_task
from study.trial import Pack, Trial, TrialResult
from tests.study import fakes, tiny

PROTOCOL = Protocol(steps=4, sampling_steps=1, pictures=2, prior_pictures=3, batch=1, learning_rate=1e-2)
DESIGNS = [
    {"method": "none"},
    {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2},
    {"method": "adapter", "input": "SA_in", "output": "SA_in", "width": 2},
    {"method": "lora", "rank": 1, "text_encoder": True},
]


@pytest.fixture
def root(tmp_path):
    fakes.folders(tmp_path)
    return tmp_path


def sections(**changes) -> dict:
    return {**fakes.SECTIONS, "scores": {"clip_i": "scorer", "noise_difference": "backbone"}, **changes}


def test_a_study_may_ask_for_it(root):
    checked = config.check(sections(store=str(root / "s")), root)
    pack = plan.packs(checked, plan.trials(checked, [])[:1], {}, "s")[0]
    assert Pack.from_json(pack.to_json()).scores["noise_difference"] == "backbone"
    assert Worker("cpu").scorer("backbone") == PredictedNoise()


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"scores": {"clip_i": "scorer", "noise_difference": "scorer"}}, "got 'scorer', expected backbone"),
        ({"scores": {"clip_i": "backbone"}}, "Unknown scorer 'backbone'"),
        ({"primary": "noise_difference"}, "primary"),
    ],
)
def test_what_it_is_not_is_refused(root, changes, told):
    with pytest.raises(InputFault) as caught:
        config.check(sections(**changes), root)
    assert "1 fault" in str(caught.value) and told in str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("score")
    (root / "rex").mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(root / "rex" / f"{index}.png")
    spec = resolve_task({"name": "rex", "pictures": "rex", "class": "robot"}, root)
    backbone, clip, worker = str(tiny.pipeline_folder(root)), str(tiny.clip_folder(root)), Worker("cpu")
    held = worker.backbone(backbone, "float32")

    def go(together, protocol=PROTOCOL, scores=("clip_i", "noise_difference")):
        hashes = {"backbone_hash": held.hash, "task_hash": spec.content_hash()}
        designs = map(adapters.normalise, DESIGNS)
        trials = tuple(Trial("tiny", design, spec.name, 0, protocol, **hashes) for design in designs)
        asked = {name: {"clip_i": clip, "noise_difference": "backbone"}[name] for name in scores}
        store = str(root / "store")
        pack = Pack(trials, backbone, {spec.name: spec}, asked, "all", store, together=together)
        results = []
        run_pack(pack, worker, results.append)
        assert [result.error for result in results] == [""] * len(DESIGNS)
        return {result.trial.id: result for result in results}

    go.worker, go.backbone, go.spec, go.store = worker, held, spec, str(root / "store")
    return go


@pytest.fixture(scope="module")
def alone(run):
    return run(1)


def test_a_trial_s_score_is_the_size_of_its_maps(run, alone):
    task = run.worker.task(run.spec, run.backbone, PROTOCOL, run.store)
    for result in alone.values():
        insertion = adapters.insert(run.backbone.denoiser, result.trial.design, None, run.backbone.text_encoder)
        try:
            insertion.load(0, result.adapter or {})
            with run.backbone.tuned_text(insertion.tunes_text):
                size = subject_maps(task, task.prior).size
        finally:
            insertion.remove()
        assert result.scores["noise_difference"] == pytest.approx(size, rel=1e-6)
        assert json.loads(result.columns["scorer_hashes_json"])["noise_difference"] == PredictedNoise().hash
    assert len({round(result.scores["noise_difference"], 6) for result in alone.values()}) == len(DESIGNS)


def test_a_pack_gives_the_same_number(run, alone):
    for id, packed in run(4).items():
        assert packed.scores["noise_difference"] == pytest.approx(alone[id].scores["noise_difference"], rel=1e-4)


def test_other_scores_do_not_depend_on_it(run, alone):
    for id, without in run(1, scores=("clip_i",)).items():
        assert without.scores == {k: v for k, v in alone[id].scores.items() if k != "noise_difference"}


def test_it_needs_no_prior_in_the_training(run, alone):
    protocol = PROTOCOL.model_copy(update={"prior_weight": 0.0})
    found = {result.trial.design["method"]: result.scores for result in run(1, protocol).values()}
    known = {result.trial.design["method"]: result.scores for result in alone.values()}
    assert found["none"] == known["none"] and math.isfinite(found["adapter"]["noise_difference"])


def test_an_old_store_reads_with_the_score_missing(root):
    study = Study(root, **sections(scores={"clip_i": "scorer"}, store=str(root / "store")))
    old, new = study.trials[:2]
    study.store.commit(TrialResult(old, "done", scores={"clip_i": 0.5}), "s")
    for file in (study.store.folder / "trials").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["noise_difference"]).replace_schema_metadata(), file)
    assert study.store.rows()["noise_difference"].isna().all()
    study.store.commit(TrialResult(new, "done", scores={"clip_i": 0.4, "noise_difference": 0.3}), "s")
    for _ in range(2):
        rows = Store(study.store.folder).rows().set_index("id")
        assert math.isnan(rows["noise_difference"][old.id]) and rows["noise_difference"][new.id] == 0.3
        study.store.compact()
