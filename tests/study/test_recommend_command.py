"""`adapter-study recommend`: the recipe that a study's results give, and what is refused."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from analysis.compare import best
from study import recipe as recipes
from study import report_code
from study.cli import recommend
from study.cli.main import guarded
from study.recommend import recipe
from study.recommend import recommend as recommended
from study.report import results
from study.study import Study
from study.tasks import resolve_task
from study.trial import TrialResult
from tests.study import fakes, tiny
from tests.study.one_adapter import train

ROOT = Path(__file__).resolve().parents[2]
BEST = {"input": "CA_out", "output": "FFN_in", "activation": "silu"}


def call(*words: object):
    """Run the command in this process."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(guarded(recommend.command))
    return CliRunner().invoke(app, [str(word) for word in words])


def score(trial) -> float:
    """1 for the best design and less for each key in which another differs; trials vary by a hundredth."""
    return 1 - 0.2 * sum(trial.design.get(key) != level for key, level in BEST.items()) + fakes.score(trial.id) / 100


def ran(study: Study, value=score, status=lambda trial: "done", clip_t=lambda trial: 0.5, more=lambda _: {}) -> Study:
    """Give a study the rows of its trials, as if they had been trained; `more` are other scores."""
    unsynced = pytest.MonkeyPatch()
    unsynced.setattr("os.fsync", lambda descriptor: None)  # hundreds of rows, and no kill to survive
    for trial in study.trials:
        ended = status(trial) if trial.role == "study" else "missing"
        if ended == "missing":
            continue
        scores = {"clip_i": value(trial), "clip_t": clip_t(trial), **more(trial)} if ended == "done" else {}
        columns = {"parameters": 1000, "ratio": 0.01, "pack_seconds": 4.0, "pack_size": 2, "device": "cpu",
                   "commit": "c0ffee", "versions_json": '{"torch":"2"}',
                   "scorer_hashes_json": '{"clip_i":"h"}'}  # fmt: skip
        error = "" if ended == "done" else "why"
        study.store.commit(TrialResult(trial, ended, error, scores, columns), study.config.name)
    unsynced.undo()
    return study


@pytest.fixture
def study(tmp_path):
    return ran(Study.load(fakes.study_file(tmp_path)))


def test_the_recipe_is_the_best_design_under_its_protocol_and_can_be_read(study, tmp_path):
    done = call(tmp_path / "fake.yaml", "-o", tmp_path / "out.yaml")
    assert done.exit_code == 0, done.stderr
    read = recipes.read(tmp_path / "out.yaml")
    assert {key: read.design[key] for key in BEST} == BEST and read.design in study.config.space.designs
    assert read.protocol == study.config.protocol and read.backbone.path == (tmp_path / "pipe").resolve()
    said = " ".join(done.stdout.split())
    assert "Recommended: CA_out:FFN_in, silu" in said and "adapter-study train" in said and "Not tested:" in said


def test_the_recipe_says_how_surely_and_what_not(study, tmp_path):
    assert call(tmp_path / "fake.yaml", "-o", tmp_path / "out.yaml", "--error", "residual").exit_code == 0
    data = yaml.safe_load((tmp_path / "out.yaml").read_text())
    evidence, provenance = data["evidence"], data["provenance"]
    assert (evidence["trials"], evidence["failed"], evidence["error"]) == (48, 0, "residual")
    assert evidence["tasks"] == ["subject/rex", "subject/tom"] and evidence["seeds"] == [0, 1]
    pairs = best(results(study), "clip_i", ["input", "output"], ["input", "output", "activation"],
                 ["task", "task:seed"], error="residual", level=0.975)  # fmt: skip
    own = pairs.rows.set_index("level").loc["CA_out:FFN_in"]
    lead = evidence["lead"][0]
    assert (lead["level"], lead["estimate"]) == ("CA_out:FFN_in", pytest.approx(own["estimate"], rel=1e-5))
    assert (lead["lower"], lead["upper"]) == pytest.approx((own["lower"], own["upper"]), rel=1e-5)
    (only,) = evidence["may_be_best"]
    assert only["design"] == evidence["chosen"] and only["parameters"] == 1000 and only["seconds"] == 2
    assert len(evidence["not_the_best"]) == 11
    assert {row["term"] for row in evidence["tests"]} >= {"activation", "pair"}
    assert any("other backbones" in each for each in evidence["not_tested"])
    assert any("method=adapter" in each for each in evidence["not_tested"])
    assert len(evidence["rule"]) == 6
    assert (provenance["study"], provenance["commits"], provenance["devices"]) == ("fake", ["c0ffee"], ["cpu"])
    assert provenance["versions"] == [{"torch": "2"}]
    assert provenance["backbone_hash"] == results(study)["backbone_hash"].iloc[0]


def test_the_same_store_gives_the_same_bytes(study, tmp_path):
    for name in ("one.yaml", "two.yaml"):
        assert call(tmp_path / "fake.yaml", "-o", tmp_path / name).exit_code == 0
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()


def test_json_is_one_document_and_torch_is_not_imported(study, tmp_path):
    code = (
        "import sys; from pathlib import Path; from study.cli import recommend;"
        f"recommend.command({str(tmp_path / 'fake.yaml')!r}, Path({str(tmp_path / 'out.yaml')!r}), as_json=True);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["chosen"] == "CA_out:FFN_in, silu" and document["recipe"].endswith("out.yaml")
    assert len(document["designs"]) == 12 and "adapter-study train" in done.stderr


def test_diverged_trials_count_against_a_design_and_failed_ones_are_still_to_be_run(tmp_path):
    def status(trial) -> str:
        if trial.task == "subject/tom" and all(trial.design[key] == level for key, level in BEST.items()):
            return "diverged"
        if trial.design["input"] == "SA_in" and trial.design["activation"] == "relu" and trial.seed == 1:
            return "failed" if trial.task == "subject/rex" else "missing"
        return "done"

    study = ran(Study.load(fakes.study_file(tmp_path)), status=status)
    found = recommended(study, "residual")
    assert found.n_failed == 2 and found.n == 48 - 4
    assert found.chosen != "CA_out:FFN_in, silu" and "4 of 48 planned trials" in found.explain()


def test_the_prompt_decides_where_the_subject_does_not(tmp_path):
    def flat(trial) -> float:
        return 0.7 + fakes.score(trial.id) / 100

    def prompt(trial) -> float:
        return 0.3 * (trial.design["activation"] == "relu") + fakes.score(trial.id) / 100

    study = ran(Study.load(fakes.study_file(tmp_path)), value=flat, clip_t=prompt)
    found = recommended(study)
    assert found.levels["activation"] == "relu"
    assert "not shown to be worse in clip_t" in dict(found.steps)


def lamps(folder: Path, **keys: str) -> dict[str, str]:
    """A task on a folder of pictures."""
    for name in ("lamps", "maps"):
        (folder / name).mkdir(exist_ok=True)
        for index, picture in enumerate(tiny.pictures(16, 32)):
            Image.fromarray(picture).save(folder / name / f"{index:02d}.png")
    return {"name": "lamps", "pictures": "lamps", "captions": "a lamp", **keys}


def test_on_domains_the_other_distances_decide_and_the_prompt_does_not(tmp_path):
    """Captions need not name a style, so a picture may agree less with its caption the better the style is learned."""

    def scores(trial) -> dict[str, float]:
        relu, noise = trial.design["activation"] == "relu", fakes.score(trial.id) / 100
        return {"kid": noise, "fid": 3 - relu + noise, "recall": 0.5 + 0.3 * (not relu) + noise}

    changes = {"tasks": [lamps(tmp_path, kind="domain")], "scores": dict.fromkeys(("kid", "fid", "recall", "clip_t"),
               "scorer"), "protocol": {"steps": 3, "pictures": 16}}  # fmt: skip
    study = Study.load(fakes.study_file(tmp_path, **changes))
    study = ran(study, clip_t=lambda trial: 0.3 * (trial.design["activation"] == "silu"), more=scores)
    found = recommended(study)
    steps = [step for step, _ in found.steps if step.startswith("not shown")]
    assert found.levels["activation"] == "relu" and steps[0] == "not shown to be worse in fid"
    assert not any("clip_t" in step for step in steps)
    assert f"train recipe.yaml {study.config.tasks[0].own} -o mine" in report_code.train(study, "fake.yaml").code


def test_every_kind_of_task_is_told_how_to_train_it(tmp_path):
    tasks = [fakes.SECTIONS["tasks"][0], lamps(tmp_path, kind="domain"), lamps(tmp_path, kind="control", maps="maps")]
    changes = {"tasks": tasks, "scores": {"clip_t": "scorer"}, "primary": "clip_t"}
    ran(Study.load(fakes.study_file(tmp_path, **changes)), clip_t=score)
    done = call(tmp_path / "fake.yaml", "-o", tmp_path / "out.yaml")
    assert done.exit_code == 0, done.stderr
    told = done.stdout.splitlines()[-3:]
    assert [shlex.split(line)[:2] for line in told] == [["adapter-study", "train"]] * 3
    assert shlex.split(told[0])[3:] == ["--pictures", "photos/mine", "--class", "WORD", "-o", "ADAPTER"]
    own = [shlex.split(line) for line in told[1:]]
    assert [words[3] for words in own] == ["--task", "--task"]
    # As `train` reads them: of folders that are there.
    for words, kind in zip(own, ("domain", "control"), strict=True):
        task = yaml.safe_load(words[4].replace("photos/mine", "lamps").replace("maps/mine", "maps"))
        assert resolve_task({"name": "own", "captions": "a lamp", **task}, tmp_path).kind == kind


def test_designs_with_keys_of_their_own_are_chosen_as_a_whole(tmp_path):
    nested = {
        "factors": {"method": ["adapter", "lora", "full"]},
        "nested": [
            {"when": {"method": ["adapter", "lora"]}, "factors": {"budget": ["1%", "5%"]}},
            {"when": {"method": "adapter"}, "factors": {"input": ["SA_in"], "output": ["FFN_in"]}},
        ],
        "fixed": {},
    }

    def value(trial) -> float:
        return (trial.design["method"] == "lora") + trial.design.get("budget", 0) + fakes.score(trial.id) / 100

    study = ran(Study.load(fakes.study_file(tmp_path, **nested)), value=value)
    found = recommended(study, "residual")
    assert found.chosen == "lora budget 5%"
    assert recipe(study, found)["design"]["budget"] == 0.05 and recipe(study, found)["design"]["method"] == "lora"


def test_of_several_backbones_the_recipe_names_one(tmp_path):
    fakes.folders(tmp_path)
    shutil.copytree(tmp_path / "pipe", tmp_path / "other")
    (tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(fakes.weights("others"))
    sections = {"backbone": ["pipe", "other"], "factors": {"activation": ["relu", "silu"]},
                "fixed": {"method": "adapter", "input": "SA_in", "output": "FFN_in", "width": 2}}  # fmt: skip
    study = Study.load(fakes.study_file(tmp_path, **sections))
    ran(study, value=lambda trial: (trial.backbone == "other") + fakes.score(trial.id) / 100)
    found = recommended(study, "residual")
    # The better backbone is no better design: a recipe is for the one that is asked for, by default the first.
    assert "backbone" not in found.on("other").levels
    assert recipe(study, found)["backbone"] == str((tmp_path / "pipe").resolve())
    assert recipe(study, found, "other")["backbone"] == str((tmp_path / "other").resolve())


def test_train_runs_the_recipe_on_pictures_of_ones_own(tmp_path, monkeypatch):
    model = tiny.pipeline_folder(tmp_path)
    protocol = {"steps": 2, "batch": 1, "prior_pictures": 1, "sampling_steps": 2, "pictures": 2}
    ran(Study.load(fakes.study_file(tmp_path, backbone=model.name, protocol=protocol)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert call("fake.yaml", "-o", "mine.yaml").exit_code == 0
    (tmp_path / "toy").symlink_to(tmp_path / "photos")
    ended = train(recipe="mine.yaml")
    assert ended.exit_code == 0, ended.output
    metadata = json.loads((tmp_path / "new" / "adapter.json").read_text())["metadata"]
    assert metadata["recipe"] == "fake-recommended" and metadata["protocol"]["steps"] == 2


def untrained(folder: Path) -> None:
    fakes.study_file(folder)


def unscored(folder: Path) -> None:
    ran(Study.load(fakes.study_file(folder)), status=lambda trial: "diverged")


def of_one_design(folder: Path) -> None:
    alone = {name: [level] for name, level in BEST.items()}
    ran(Study.load(fakes.study_file(folder, factors=alone)))


def of_one_design_yet(folder: Path) -> None:
    ran(
        Study.load(fakes.study_file(folder)),
        status=lambda trial: "done" if BEST.items() <= trial.design.items() else "missing",
    )


@pytest.mark.parametrize(
    ("make", "words", "said"),
    [
        (untrained, ["-o", "out.yaml"], "holds no results of fake; run the study first"),
        (unscored, ["-o", "out.yaml"], "has the primary score clip_i"),
        (of_one_design, ["-o", "out.yaml"], "no factor of fake varies"),
        (of_one_design_yet, ["-o", "out.yaml"], "Nothing varies"),
        (untrained, ["-o", "nowhere/out.yaml"], "expected a file in a folder that is there"),
        (untrained, ["-o", "."], "expected a file in a folder that is there"),
        (ran, ["-o", "out.yaml", "--error", "seed"], "neither 'auto' nor 'residual' nor a declared block"),
    ],
)
def test_what_cannot_be_recommended_from_is_one_message_and_nothing_is_written(
    tmp_path, monkeypatch, make, words, said
):
    if make is ran:
        ran(Study.load(fakes.study_file(tmp_path)))
    else:
        make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = call("fake.yaml", *words)
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == "" and sorted(path.name for path in tmp_path.iterdir()) == before
