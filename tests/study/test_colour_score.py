"""The colour score: right about drawings whose colours are known, refused where they are not, absent in old stores."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from adapters.faults import InputFault
from study import config, plan
from study.config import Protocol
from study.keep import Keeping
from study.loaded import Worker
from study.pack import run_pack
from study.report import content
from study.scoring import TrueColours, score
from study.store import Store
from study.study import Study
from study.tasks import resolve_task
from study.trial import Pack, Trial, TrialResult
from study.world import SUBJECTS, draw
from study.world.cielab import lab
from study.world.colour_fidelity import RADIUS, VERSION, colour_fidelity, keeps_colours, part_colours
from study.world.scene import part_masks
from tests.study import colour_conditions as known
from tests.study import fakes, tiny

SOME = ("boat", "cake-3", "teapot-2", "lamp")


def mean(pictures: np.ndarray, name: str) -> float:
    return float(colour_fidelity(pictures, name).mean())


def test_lab_of_the_primaries_is_as_published():
    """B. Lindbloom's CIE colour calculator: sRGB, D65, 2 degrees, no adaptation."""
    published = {
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (255, 255, 0): (97.14, -21.55, 94.48),
        (0, 255, 255): (91.11, -48.09, -14.13),
        (255, 0, 255): (60.32, 98.23, -60.82),
        (255, 255, 255): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
    }
    found = lab(np.array(list(published), np.uint8))
    np.testing.assert_allclose(found, list(published.values()), atol=0.03)


def test_lab_of_gray_is_its_closed_form_in_both_branches():
    levels = np.arange(256)
    luminance = np.where(levels / 255 <= 0.04045, levels / 255 / 12.92, ((levels / 255 + 0.055) / 1.055) ** 2.4)
    # CIE 15: L* = 903.3 Y below 0.008856, else 116 cbrt(Y) - 16.
    expected = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    found = lab(np.repeat(levels[:, None], 3, 1).astype(np.uint8))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-9)


def test_part_masks_are_those_of_the_drawing():
    for name in SOME:
        scene = SUBJECTS[name].scenes[0]
        drawn = draw(scene).masks
        found = part_masks(scene)
        assert found.keys() == drawn.keys()
        assert all(np.array_equal(found[part], drawn[part]) for part in drawn)


@pytest.mark.parametrize("name", SOME)
def test_the_score_knows_right_colours_from_wrong_ones(name):
    """The bounds are those of the table in docs/builtin.md, which is over all subjects."""
    shown = known.conditions(name)
    found = {what: mean(pictures, name) for what, pictures in shown.items()}
    right = found["new drawings"]
    assert right > 0.97 and found["blur and noise"] > 0.97
    assert found["other proportions"] > 0.85
    turned = [found[f"hue turned by {degrees}"] for degrees in (10, 20, 30)]
    assert right >= turned[0] > turned[1] > turned[2] and turned[2] < right - 0.2
    assert found["two colours swapped"] < 0.65 and found["three colours exchanged"] < 0.55
    assert found["other instances"] < 0.35
    assert all(0 <= value <= 1 for pictures in shown.values() for value in colour_fidelity(pictures, name))


def test_the_autoencoder_costs_little():
    from study.backbones.loading import load

    backbone = load("micro-unet")
    for name in ("boat", "lamp"):
        fresh = known.drawings(name)
        seen = mean(backbone.decode(backbone.encode(fresh)), name)
        assert mean(fresh, name) - 0.1 < seen <= 1


def test_every_colour_counts_alike_however_small_its_parts():
    """One of three colours turned to its opposite leaves two thirds, the small third colour as well as the main one."""
    lost = 0.6, 0.1, 0.9
    for role in ("main", "second", "third"):
        changed = known.drawings("boat", lambda look, rng, role=role: replace(look, **{role: lost}))
        assert mean(changed, "boat") == pytest.approx(2 / 3, abs=0.05)


def test_a_picture_of_one_colour_shows_the_colours_that_are_near_it_and_no_others():
    for name in SOME:
        colours = part_colours(name).colours
        for tone in ((0, 0, 0), (136, 32, 2), (60, 150, 40), (255, 0, 255), (120, 120, 120)):
            picture = np.full((1, 64, 64, 3), tone, np.uint8)
            near = np.linalg.norm(colours - lab(np.array(tone, np.uint8)), axis=1) <= RADIUS
            assert mean(picture, name) == pytest.approx(near.mean(), abs=1e-5)


def test_pictures_of_another_size_are_brought_to_the_world_s_own():
    fresh = known.drawings("boat")
    large = fresh.repeat(2, axis=1).repeat(2, axis=2)
    assert np.array_equal(colour_fidelity(large, "boat"), colour_fidelity(fresh, "boat"))


def test_prompts_that_ask_for_other_looks_are_not_judged():
    prompts = SUBJECTS["robot"].prompts()
    assert [keeps_colours(prompt) for prompt in prompts] == [True] * 8 + [False] * 8
    fresh = known.drawings("boat")[:3]
    single = colour_fidelity(fresh, "boat")
    described = ["a photo of a boat on grass", "a photo of a Red boat", "a photo of a boat at night"]
    totals, each = score(fresh, {}, [0, 1, 2], described, {"colour": TrueColours()}, {}, "boat")
    assert [picture["colour"] for picture in each] == [single[0], None, single[2]]
    assert totals == {"colour": pytest.approx((single[0] + single[2]) / 2)}
    nothing, _ = score(fresh, {}, [1, 1, 1], described[1:2] * 3, {"colour": TrueColours()}, {}, "boat")
    assert math.isnan(nothing["colour"])
    with pytest.raises(InputFault, match="only subjects of the built-in world"):
        score(fresh, {}, [0, 1, 2], described, {"colour": TrueColours()}, {})


@pytest.fixture
def root(tmp_path):
    fakes.folders(tmp_path)
    return tmp_path


def sections(**changes) -> dict:
    made = {**fakes.SECTIONS, "tasks": ["subject/robot"], "scores": {"colour": "world"}, "primary": "colour"}
    return {**made, **changes}


def test_a_study_may_have_colour_as_its_primary_score(root):
    checked = config.check(sections(scores={"clip_i": "scorer", "colour": "world"}, store=str(root / "s")), root)
    pack = plan.packs(checked, plan.trials(checked, [])[:1], {}, "s")[0]
    assert checked.primary == "colour"
    assert Pack.from_json(pack.to_json()).scores["colour"] == "world"


REX = {"name": "rex", "pictures": "photos", "class": "dog"}


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"tasks": ["subject/robot", REX]}, "only subjects of the built-in world have; subject/rex is a folder"),
        ({"tune": {"tasks": [REX], "grid": {"steps": [1, 2]}}}, "built-in world have; subject/rex is a folder"),
        ({"tasks": [{"name": "robot", "prompts": ["a red {}", "a sketch of a {}"]}]}, "every prompt of subject/robot"),
        ({"scores": {"colour": "scorer"}}, "got 'scorer', expected world"),
        ({"scores": {"clip_i": "world", "colour": "world"}}, "Unknown scorer 'world'"),
    ],
)
def test_colour_is_refused_where_the_true_colours_are_not_known(root, changes, told):
    with pytest.raises(InputFault) as caught:
        config.check(sections(**changes), root)
    assert "1 fault" in str(caught.value) and told in str(caught.value)


def test_a_trial_is_scored_and_its_pictures_too(tmp_path):
    protocol = Protocol(steps=1, sampling_steps=1, pictures=9, prior_weight=0, batch=1)
    backbone = str(tiny.pipeline_folder(tmp_path))
    spec, worker, store = resolve_task("subject/robot", tmp_path), Worker("cpu"), Store(tmp_path / "store")
    held = worker.backbone(backbone, protocol.precision)
    design = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2}
    trial = Trial("tiny", design, spec.name, 0, protocol, backbone_hash=held.hash, task_hash=spec.content_hash())
    pack = Pack((trial,), backbone, {spec.name: spec}, {"colour": "world"}, "none", str(store.folder))
    run_pack(pack, worker, store.commit)
    (row,) = store.rows().to_dict("records")
    assert row["status"] == "done", row["error"]
    assert json.loads(row["scorer_hashes_json"]) == {"colour": VERSION}
    images = store.images().sort_values("index")
    judged = images["colour"][:8]
    assert judged.between(0, 1).all() and images["colour"].isna().tolist() == [False] * 8 + [True]
    assert row["colour"] == pytest.approx(judged.mean()) and math.isnan(row["clip_i"])


def without_colour(store: Store) -> None:
    """Take the column out of every file, as earlier versions wrote them."""
    for kind in ("trials", "images"):
        for file in (store.folder / kind).glob("*.parquet"):
            pq.write_table(pq.read_table(file).drop_columns(["colour"]).replace_schema_metadata(), file)


def test_an_old_store_reads_with_the_score_missing(root):
    study = Study(root, **sections(scores={"clip_i": "scorer"}, primary="clip_i", store=str(root / "store")))
    old, new = [trial for trial in study.trials if trial.role == "study"][:2]
    images = [{"prompt": "p", "prompt_index": 0, "picture_seed": 1, "clip_i": 0.5}]
    study.store.commit(TrialResult(old, "done", scores={"clip_i": 0.5}, images=images), "s")
    without_colour(study.store)
    assert "colour" not in pq.read_table(next((study.store.folder / "trials").iterdir())).column_names
    assert study.store.rows()["colour"].isna().all() and study.store.images()["colour"].isna().all()
    assert content(study).scores == []
    study.store.adapter(old.id).mkdir(parents=True)
    Keeping(study.store, "colour", "best").settle()
    assert study.store.adapter(old.id).is_dir(), "a trial without the score is not judged by it"

    study.store.commit(TrialResult(new, "done", scores={"clip_i": 0.4, "colour": 0.9}, images=images), "s")
    for _ in range(2):
        rows = study.store.rows().set_index("id")
        assert math.isnan(rows["colour"][old.id]) and rows["colour"][new.id] == 0.9
        assert content(study).scores == ["colour"]
        study.store.compact()
