"""Trials that train an encoder of conditions beside their design: each slot its own, in a pack as alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from adapters.designs import normalise
from adapters.faults import InputFault
from study.backbones import load
from study.conditioning import Conditioned, entry
from study.config import Protocol
from study.evaluation import evaluate
from study.mounting import Ready, mount
from study.pack import _slot
from study.randomness import stream
from study.sampling import start_latents
from study.tasks import Task
from study.tasks.subject_spec import SubjectSpec
from study.tasks.task import Evaluation, Rows, Wanted
from study.training import joined, train, unpacked
from study.trial import Trial
from tests.study import tiny

MAP = (1, 8, 8)


@dataclass
class Following(Task[SubjectSpec]):
    """Latents that are to follow a map of their own."""

    maps: Tensor

    @property
    def key(self) -> str:
        return "following"

    def batches(self, seed, protocol, begin=0):
        return self.drawn(seed, [Rows(self.latents, ["a dog"] * len(self.latents), 2, condition=self.maps)])

    def held_out(self):
        return self.noised_evenly(self.latents, ["a dog"] * len(self.latents), self.maps)

    def wanted(self, seed, protocol):
        start, seeds = start_latents(self.backbone, seed, self.key, "picture", 2)
        return Wanted(["a dog"] * 2, ["a dog"] * 2, [0, 0], start, seeds, self.maps[:2])

    def judge(self, wanted, pictures, features, scorers):
        return Evaluation({}, [], list(pictures))

    def trainables(self, seed):
        encoder = nn.Conv2d(1, 16, 3, padding=1)
        with torch.no_grad():
            encoder.weight.normal_(generator=stream(seed, self.key, "encoder"))
            encoder.bias.zero_()
        return encoder


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    backbone = load(str(tiny.pipeline_folder(tmp_path_factory.mktemp("models"))))
    spec = SubjectSpec("subject/rex", "dog", "sks", ("a {}",), folder="none")
    return Following(spec, backbone, torch.randn(3, 4, 8, 8), torch.randn(3, *MAP))


def ready(task, seed, method="bitfit"):
    protocol = Protocol(steps=3, sampling_steps=2)
    trial = Trial("tiny", normalise({"method": method}), task.spec.name, seed, protocol)
    return Ready(trial, task, {})


def run(part):
    with mount(part) as mounted:
        slots = [_slot(each, slot, mounted) for slot, each in enumerate(part)]
        trained = train(mounted.backbone, slots, 3, "float32", mounted.rows)
        seeds = [each.trial.seed for each in part]
        found = evaluate(mounted.backbone, range(len(part)), [each.task for each in part], seeds,
                         part[0].trial.protocol, {}, mounted.rows)  # fmt: skip
        weights = [encoder and encoder.weight.detach().clone() for encoder in mounted.encoders]
    return trained, found, weights


def test_each_slot_trains_its_own_encoder_and_a_pack_gives_what_each_gets_alone(task):
    part = [ready(task, 0), ready(task, 1), ready(task, 0, "none")]
    trained, found, weights = run(part)
    for slot, each in enumerate(part[:2]):
        (alone,), (own,), (weight,) = run([each])
        assert trained[slot].final_loss == pytest.approx(alone.final_loss, rel=1e-4)
        torch.testing.assert_close(weights[slot], weight, rtol=1e-3, atol=1e-4)
        assert own.scores["loss_heldout"] == pytest.approx(found[slot].scores["loss_heldout"], rel=1e-4)
        assert not torch.equal(weight, task.trainables(each.trial.seed).weight)
        assert np.abs(np.stack(own.pictures).astype(int) - np.stack(found[slot].pictures)).max() <= 1
    assert weights[2] is None  # of the untuned backbone nothing is trained
    assert trained[2].curve == []


def test_what_an_encoder_makes_of_a_row_is_added_to_its_first_features(task):
    # Oracle: the first convolution is linear, so to add what it makes of c is to add c to the noisy latents.
    backbone, first = task.backbone, task.backbone.denoiser.conv_in
    encoders = [nn.Conv2d(4, 16, 3, padding=1, bias=False) for _ in range(2)]
    with torch.no_grad():
        for factor, encoder in enumerate(encoders, 1):
            encoder.weight.copy_(factor * first.weight)
    batch = joined([next(task.batches(0, Protocol())), next(task.batches(1, Protocol()))])
    given = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioned = Conditioned(backbone, [encoders[0], None, encoders[1]], unpacked)
    with torch.no_grad(), conditioned.rows([2, 1, 0, 0]):
        got = conditioned.predict(batch.latents, batch.timesteps, batch.context, given)
        added = given * torch.tensor([2.0, 0, 1, 1])[:, None, None, None]
        expected = backbone.predict(batch.latents + added, batch.timesteps, batch.context)
        plain = backbone.predict(batch.latents, batch.timesteps, batch.context)
        without = conditioned.predict(batch.latents, batch.timesteps, batch.context)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(without, plain) and not torch.allclose(got, plain)
    assert conditioned.latent_shape == backbone.latent_shape


def test_a_transformer_s_first_convolution_is_the_one_into_patches():
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "norm_num_groups": 4, "patch_size": 2,
             "cross_attention_dim": 16, "caption_channels": 16, "sample_size": 16}  # fmt: skip
    first = entry(PixArtTransformer2DModel(in_channels=8, out_channels=8, **sizes))
    assert (first.in_channels, first.out_channels, first.stride) == (8, 16, (2, 2))


def test_a_denoiser_without_a_first_convolution_is_refused():
    with pytest.raises(InputFault, match="Linear has no first convolution"):
        entry(nn.Linear(2, 2))


def test_a_size_that_does_not_halve_evenly_is_refused(task):
    with pytest.raises(InputFault, match="multiple of 8"):
        task.backbone.at(36)
    assert task.backbone.at(None) is task.backbone
