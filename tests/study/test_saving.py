"""Saving memory changes no numbers: checkpointed gradients are the plain ones, what is offloaded comes back."""

import pytest
import torch

import adapters
from adapters.faults import InputFault
from study.backbones import load
from study.config import Protocol
from study.loaded import Worker
from study.saving import VARIABLE, Saving
from study.training import Batch, Slot, train
from tests.study import tiny
from tests.study.tiny_models import MODELS
from tests.study.together import EXACT, METHODS, runner

FOLDERS = {
    "sd1": tiny.pipeline_folder,
    "pixart": tiny.pixart_folder,
    **{name: MODELS[name] for name in ("sdxl", "sd3", "flux dev")},
}
DESIGNS = [
    {"method": "adapter", "input": "SA_in", "output": "Trans_out", "width": 2},
    {"method": "adapter", "input": "FFN_in", "output": "Trans_out", "width": 2},
    {"method": "lora", "rank": 1},
]


def trained(folder, saving, dtype=torch.float64, precision="float64"):
    backbone = load(str(folder), dtype=dtype, saving=saving).at(tiny.SIZE)
    insertion = adapters.insert(
        backbone.denoiser, DESIGNS, [torch.Generator().manual_seed(slot) for slot in range(len(DESIGNS))]
    )
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 2, *backbone.latent_shape, generator=generator)  # in float32: other numbers in float64
    latents, noise = drawn.to(backbone.dtype)
    times = backbone.times(torch.tensor([124, 749]))  # to Flux 0.125 and 0.75, which no precision rounds
    batch = Batch(latents, noise, times, backbone.embed(["a dog", "a robot"]), latents.new_full((2,), 0.5))
    slots = [Slot(insertion.parameters(slot), iter([batch] * 3), 1e-3) for slot in range(len(DESIGNS))]
    ended = train(backbone, slots, 3, precision, insertion.rows)
    return ended, [insertion.state(slot) for slot in range(len(DESIGNS))]


@pytest.mark.parametrize("name", FOLDERS)
def test_checkpointing_trains_as_without_it(tmp_path, name, monkeypatch):
    folder = FOLDERS[name](tmp_path)
    plain, states = trained(folder, Saving())
    calls, checkpoint = [], torch.utils.checkpoint.checkpoint

    def counted(*given, **named):
        calls.append(named["use_reentrant"])
        return checkpoint(*given, **named)

    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", counted)
    saved, others = trained(folder, Saving(gradient_checkpointing=True, offload=True))
    assert calls and not any(calls)
    for one, other in zip(plain, saved, strict=True):
        assert one.final_loss == pytest.approx(other.final_loss, rel=1e-12)
    for one, other in zip(states, others, strict=True):
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])  # of 8 and of 11 bits
@pytest.mark.parametrize("name", [*FOLDERS, "flux schnell"])
def test_weights_of_half_the_bytes_train_parameters_in_float32(tmp_path, name, dtype, rel):
    if name == "flux dev":
        pytest.skip("a thousand times the guidance, 3500, is 3504 in bfloat16, as in diffusers' pipeline")
    folder = {**FOLDERS, "flux schnell": MODELS["flux schnell"]}[name](tmp_path)
    exact, _ = trained(folder, Saving())
    half, states = trained(folder, Saving(), dtype, str(dtype).removeprefix("torch."))
    assert {value.dtype for state in states for value in state.values()} == {torch.float32}
    for one, other in zip(exact, half, strict=True):
        assert not other.diverged
        # Of the first step: in float16 the first updates may be left out, until the scale of the loss fits.
        assert other.curve[0]["loss"] == pytest.approx(one.curve[0]["loss"], rel=rel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_full_tuning_trains_in_float32_and_puts_the_same_bits_back(tmp_path, dtype):
    folder, precision = tiny.pipeline_folder(tmp_path), str(dtype).removeprefix("torch.")
    backbone = load(str(folder), dtype=dtype)
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    insertion = adapters.insert(backbone.denoiser, {"method": "full"})
    assert {parameter.dtype for parameter in insertion.parameters(0)} == {torch.float32}
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(latents, noise, torch.tensor([100, 800]), backbone.embed(["a dog", "a robot"]), torch.ones(2))
    # A step of AdamW begins with the learning rate, 1e-5: below half the distance of bfloat16's numbers at 0.01 and up.
    train(backbone, [Slot(insertion.parameters(0), iter([batch] * 2), 1e-5)], 2, precision)
    state = insertion.state(0)
    moved = [(state[name] - value.float()).abs().max().item() for name, value in before.items()]
    assert sum(0 < each < 3e-5 for each in moved) > 0.9 * len(moved)
    insertion.remove()
    after = backbone.denoiser.state_dict()
    assert all(after[name].dtype == dtype and torch.equal(after[name], value) for name, value in before.items())


def test_what_is_offloaded_is_on_the_device_while_it_is_used(tmp_path, monkeypatch):
    backbone = load(str(FOLDERS["sdxl"](tmp_path)), saving=Saving(offload=True))
    moved = []
    for name in ("vae", "text_encoder", "text_encoder_2", "unet"):
        module = getattr(backbone.pipeline, name)
        monkeypatch.setattr(module, "to", lambda where, name=name: moved.append((name, str(where))))
    backbone.device = torch.device("cpu:0")
    backbone.embed(["a dog", "a dog"])
    backbone.embed(["a dog"])  # remembered
    backbone.decode(backbone.encode(tiny.pictures()))
    text = [(name, where) for where in ("cpu:0", "cpu") for name in ("text_encoder", "text_encoder_2")]
    assert moved == [*text, *[("vae", "cpu:0"), ("vae", "cpu")] * 2]


def test_a_tuned_text_encoder_is_not_offloaded(tmp_path):
    backbone = load(str(tiny.pipeline_folder(tmp_path)), saving=Saving(offload=True))
    with pytest.raises(InputFault, match="without --offload"), backbone.tuned_text():
        pass


def test_workers_are_told_by_the_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    assert Saving.of_environment() == Saving()
    Saving(offload=True).to_environment()
    Saving(gradient_checkpointing=True).to_environment()
    assert Saving.of_environment() == Saving(True, True)
    monkeypatch.setenv(VARIABLE, "magic")
    with pytest.raises(InputFault, match="'magic'; known are gradient_checkpointing and offload"):
        Saving.of_environment()


def test_mixed_precision_is_read_as_diffusers_scripts_mean_it():
    assert Protocol(mixed_precision="bf16").precision == "bfloat16"
    assert Protocol(mixed_precision="fp16").precision == "float16"
    assert Protocol(mixed_precision="no").precision == Protocol(mixed_precision=False).precision == "float32"
    assert Protocol(mixed_precision="no").model_dump() == Protocol().model_dump()  # the same trial
    for wrong in ({"mixed_precision": "fp8"}, {"mixed_precision": "bf16", "precision": "float32"}):
        with pytest.raises(ValueError, match="expected no, bf16 or fp16"):
            Protocol(**wrong)


def test_a_pack_in_float16_goes_from_training_to_scores_as_its_trials_alone(tmp_path):
    protocol = EXACT.model_copy(update={"precision": "float16"})
    run = runner(tmp_path, Worker("cpu"), str(tiny.pipeline_folder(tmp_path)))
    together, alone = run(METHODS, 100, protocol), run(METHODS, 1, protocol)
    for one, other in zip(together, alone, strict=True):
        assert one.columns["pack_size"] == len(METHODS) and one.status == other.status == "done", one.error
        # float16 has 11 bits, and kernels for more rows round otherwise.
        losses = [[row["loss"] for row in result.curves] for result in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=2e-2)
        assert one.scores["clip_i"] == pytest.approx(other.scores["clip_i"], abs=0.05)
