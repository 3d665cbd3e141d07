import json
import math

import pytest
import torch
from PIL import Image

import adapters
from adapters.faults import InputFault
from study.config import Protocol
from study.loaded import Worker
from study.pack import run_pack
from study.tasks import resolve_task
from study.trial import Pack, Trial
from tests.study import tiny

PROTOCOL = Protocol(steps=6, sampling_steps=2, pictures=3, prior_pictures=2, batch=1)
POSITION = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2}
OTHER = {"method": "adapter", "input": "SA_in", "output": "SA_in", "width": 2}
CONVOLUTION = {"method": "adapter", "input": "Res_in", "output": "Res_out", "width": 1}
METHODS = [
    {"method": "adaptformer", "width": 2},
    {"method": "lora", "rank": 2},
    {"method": "lora", "rank": 1, "text_encoder": True},
    {"method": "dora", "rank": 1, "targets": "attention+conv"},
    {"method": "krona", "a1": 2, "a2": 2, "text_encoder": True},
    {"method": "tlora", "residual_rank": 1, "regulariser": 0.01},
    {"method": "tlora_star", "rank": 1},
    {"method": "difffit"},
    {"method": "bitfit"},
    {"method": "vpt", "tokens": 2},
    {"method": "oft", "block_size": 4},
    {"method": "ia3"},
    {"method": "full", "part": "cross_attention_kv"},
]
DESIGNS = [{"method": "none"}, POSITION, OTHER, CONVOLUTION, *METHODS, {"method": "full"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("pack")


@pytest.fixture(scope="module")
def models(root):
    return {
        "backbone": str(tiny.pipeline_folder(root)),
        "clip": str(tiny.clip_folder(root)),
        "dino": str(tiny.dino_folder(root)),
    }


@pytest.fixture(scope="module")
def spec(root):
    folder = root / "rex"
    folder.mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(folder / f"{index}.png")
    prompts = ["a photo of a {} on grass", "a red {}"]
    return resolve_task({"name": "rex", "pictures": "rex", "class": "robot", "prompts": prompts}, root)


@pytest.fixture(scope="module")
def worker():
    return Worker("cpu")


@pytest.fixture(scope="module")
def run(root, models, spec, worker):
    """Run designs and give their results in the order they came."""
    tiny_hash = worker.backbone(models["backbone"], "float32").hash

    def go(designs, protocol=PROTOCOL, worker=worker, sink=None, progress=None, together=1, **changes):
        trials = tuple(
            Trial(
                **{
                    "backbone": "tiny",
                    "design": adapters.normalise(design),
                    "task": spec.name,
                    "seed": 0,
                    "protocol": protocol,
                    "backbone_hash": tiny_hash,
                    "task_hash": spec.content_hash(),
                    **changes,
                }
            )
            for design in designs
        )
        scores = {"clip_i": models["clip"], "clip_t": models["clip"], "dino_i": models["dino"]}
        store = str(root / "store")
        pack = Pack(trials, models["backbone"], {spec.name: spec}, scores, "all", store, together=together)
        results = []
        run_pack(Pack.from_json(pack.to_json()), worker, sink or results.append, progress)
        return results

    return go


@pytest.fixture(scope="module")
def results(run):
    return run(DESIGNS)


def same(left, right):
    """Whether two results hold the same numbers, bit for bit."""
    return (
        left.trial.id == right.trial.id
        and left.scores == right.scores
        and left.images == right.images
        and left.curves == right.curves
        and all((one == two).all() for one, two in zip(left.pictures, right.pictures, strict=True))
    )


def test_every_method_ends_with_scores_pictures_and_weights(results, models, worker):
    assert [result.status for result in results] == ["done"] * len(DESIGNS)
    assert [result.error for result in results] == [""] * len(DESIGNS)
    for result in results:
        assert set(result.scores) == {"clip_i", "clip_t", "dino_i", "diversity", "loss_heldout"}
        assert all(math.isfinite(value) for value in result.scores.values())
        assert [image["prompt_index"] for image in result.images] == [0, 1, 0]
        assert result.images[0]["prompt"] == "a photo of a sks robot on grass"
        assert [picture.shape for picture in result.pictures] == [(tiny.SIZE, tiny.SIZE, 3)] * 3
        assert result.columns["pack_size"] == 1
        assert set(json.loads(result.columns["scorer_hashes_json"])) == {"clip_i", "clip_t", "dino_i"}
        assert json.loads(result.columns["versions_json"])["torch"] == torch.__version__
    untuned, *trained = results
    assert untuned.adapter is None
    assert untuned.columns["parameters"] == 0
    assert untuned.curves == []
    for result in trained:
        assert sum(value.numel() for value in result.adapter.values()) == result.columns["parameters"]
        assert result.columns["final_loss"] == pytest.approx(sum(r["loss"] for r in result.curves) / 6, rel=1e-6)
        assert result.scores["loss_heldout"] != untuned.scores["loss_heldout"]
    everything = sum(p.numel() for p in worker.backbone(models["backbone"], "float32").denoiser.parameters())
    assert trained[-1].columns["parameters"] == everything


def test_start_change_says_whether_a_method_starts_at_identity(results):
    changes = {result.trial.label(): result.columns["start_change"] for result in results}
    disturbed = {r.trial.label() for r in results if r.trial.design["method"] in ("adapter", "vpt")}
    for label, change in changes.items():
        # float32: a relative change far above rounding, or not above it
        assert change > 1e-3 if label in disturbed else change < 1e-4, label


def test_a_tuned_text_encoder_is_trained_and_restored(results, models, worker, run):
    encoder = worker.backbone(models["backbone"], "float32").text_encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    (tuned,) = run([{"method": "lora", "rank": 1, "text_encoder": True}])
    of_text = {n: v for n, v in tuned.adapter.items() if n.startswith("text_encoder.") and ".lora_B." in n}
    # query, key, value and output of the one layer start at zero and move
    assert len(of_text) == 4 and all(value.abs().max() > 0 for value in of_text.values())
    after = encoder.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_scores_do_not_depend_on_what_ran_before(run, results):
    backwards = run(DESIGNS[::-1])
    assert all(same(one, two) for one, two in zip(results, backwards[::-1], strict=True))


def test_a_fresh_worker_gives_the_same_bits(run, results):
    (again,) = run([POSITION], worker=Worker("cpu"))
    assert same(again, results[1])


def test_the_backbone_is_left_as_it_was(run, models, worker):
    denoiser = worker.backbone(models["backbone"], "float32").denoiser
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    run([{"method": "full"}, POSITION])
    after = denoiser.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


def test_seeds_differ_and_designs_of_a_seed_start_from_the_same_pictures(run, results):
    (other,) = run([POSITION], seed=1)
    assert other.scores != results[1].scores
    assert [i["picture_seed"] for i in other.images] != [i["picture_seed"] for i in results[1].images]
    assert [i["picture_seed"] for i in results[2].images] == [i["picture_seed"] for i in results[1].images]


def test_designs_of_a_seed_see_the_same_batches(run, results):
    # Oracle: an adapter whose up-projection is zero changes nothing, so its first loss is that of full tuning.
    zeroed = run([{**design, "init": "zero_up"} for design in (POSITION, OTHER, CONVOLUTION)])
    full = results[-1].curves[0]["loss"]
    assert [result.curves[0]["loss"] for result in zeroed] == pytest.approx([full] * 3, rel=1e-5)


def test_float64_repeats_and_agrees_with_float32(run, results):
    (precise,) = run([POSITION], PROTOCOL.model_copy(update={"precision": "float64"}))
    assert precise.status == "done"
    assert precise.curves[0]["loss"] == pytest.approx(results[1].curves[0]["loss"], rel=1e-4)
    assert precise.curves[0]["loss"] != results[1].curves[0]["loss"]


def test_bf16_trains_and_stays_near_float32(run, results):
    (rough,) = run([POSITION], PROTOCOL.model_copy(update={"precision": "bf16"}))
    assert rough.status == "done"
    assert rough.curves[0]["loss"] == pytest.approx(results[1].curves[0]["loss"], rel=0.02)


def test_a_diverged_trial_is_recorded_without_scores(run):
    (diverged,) = run([{"method": "full"}], PROTOCOL.model_copy(update={"learning_rate": 1e30}))
    assert diverged.status == "diverged"
    assert "step" in diverged.error
    assert diverged.scores == {}
    assert diverged.adapter is None
    assert math.isnan(diverged.columns["final_loss"])


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"), "out_of_memory", "Tried to allocate"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "can't allocate"),
        (ZeroDivisionError("division\nby zero"), "failed", "ZeroDivisionError: division by zero"),
        (InputFault("the picture is gone"), "failed", "the picture is gone"),
    ],
)
def test_one_trial_s_misfortune_is_its_own(run, results, monkeypatch, error, status, reason):
    from study import pack

    train, calls = pack.train, []

    def unlucky(*given):
        calls.append(given)
        if len(calls) == 2:
            given[1][0].parameters[0].data.fill_(1)  # it had begun to train
            raise error
        return train(*given)

    monkeypatch.setattr(pack, "train", unlucky)
    first, second, third = run([POSITION, {"method": "full"}, OTHER])
    assert (second.status, second.scores) == (status, {})
    assert reason in second.error
    assert "\n" not in second.error
    assert same(first, results[1])
    assert same(third, results[2])


def test_an_interruption_goes_through_and_leaves_the_backbone_clean(run, results, models, worker):
    def interrupt(trial, step, steps):
        if step:  # in the midst of training
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([POSITION], progress=interrupt)
    assert same(run([OTHER])[0], results[2])


def test_what_the_sink_raises_goes_through(run):
    def full_disk(_):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run([{"method": "none"}], sink=full_disk)


def test_progress_names_trial_and_steps_and_is_told_while_pictures_are_drawn(run):
    told = []
    run([POSITION], progress=lambda trial, step, steps: told.append((trial.design["input"], step, steps)))
    assert told == sorted(told) and set(told) == {("CA_out", 0, 6), ("CA_out", 6, 6)}
    # Once the training, which is looked at every ten steps and at its end; then each of two steps of drawing at least.
    assert told.count(("CA_out", 6, 6)) >= 1 + PROTOCOL.sampling_steps


@pytest.mark.parametrize("change", ["task_hash", "backbone_hash"])
def test_what_changed_after_planning_is_refused(run, change):
    (result,) = run([POSITION], **{change: "0" * 64})
    assert result.status == "failed"
    assert "changed after the study was planned" in result.error
