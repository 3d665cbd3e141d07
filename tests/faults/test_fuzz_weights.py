"""Hostile adapter folders and weights: one message and an untouched model, or the very numbers that the file holds."""

from __future__ import annotations

import json
import math
import random
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

import adapters
from adapters import insert
from adapters.designs import normalise
from study.control_encoder import FILE, ControlEncoder, load_encoder
from study.tasks.cache import cached
from study.trained_adapter import Metadata
from tests.faults.fuzzing import THOUSANDS, fuzz
from tests.faults.mutators import json_bytes, safetensors_bytes

DESIGN = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2, "init": "zero_up"}
DESIGNS = [DESIGN, {"method": "lora", "rank": 2}, {"method": "bitfit"}, {"method": "peft", "kind": "vera", "r": 4}]
METADATA = {"backbone": "micro-unet", "backbone_hash": "0" * 64, "protocol": {"steps": 3}, "token": "sks", "size": 64}


@cache
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    made = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
        attention_head_dim=2, **blocks,
    )  # fmt: skip
    return made.eval().requires_grad_(False)


@cache
def saved(place: int) -> tuple[bytes, dict]:
    """Return the weights of a sound adapter, and its description."""
    insertion = insert(unet(), DESIGNS[place], torch.Generator().manual_seed(4))
    state = {name: value.clone().contiguous() for name, value in insertion.state().items()}
    insertion.remove()
    return bytes_of(state), {"format": 1, "design": normalise(DESIGNS[place]), "metadata": METADATA}


def bytes_of(state: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(state)


NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def numbers(data: bytes) -> dict[str, np.ndarray]:
    """Read a safetensors file as its specification says, by code of this test's own."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        part = data[8 + size + begin : 8 + size + end]
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(part, "<u2").astype("<u4") << 16
            found[name] = wide.view("<f4").reshape(entry["shape"])
        else:
            found[name] = np.frombuffer(part, NUMPY[entry["dtype"]]).reshape(entry["shape"])
    return found


def check_numbers(data: bytes, state: dict[str, Tensor]) -> None:
    """Assert that tensors are, in their own type, what a file says, and finite."""
    said = numbers(data)
    assert said.keys() == state.keys()
    for name, value in state.items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, torch.tensor(said[name]).to(value.dtype).reshape(value.shape)), name


def load_adapter(root: Path, rng: random.Random) -> None:
    """Put a hostile adapter folder on a model; the model is as before when it is refused or taken off."""
    place = rng.randrange(len(DESIGNS))
    weights, description = saved(place)
    if rng.random() < 0.4:
        (root / "adapter.json").write_bytes(json_bytes(description, rng))
    else:
        (root / "adapter.json").write_text(json.dumps(description))
        weights = safetensors_bytes(weights, rng)
    (root / "adapter.safetensors").write_bytes(weights)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet().modules())
    before = {name: value.clone() for name, value in unet().state_dict().items()}
    insertion = None
    try:
        insertion = adapters.load(unet(), root)
        check_numbers(weights, insertion.state())
        read = adapters.files.read_description(root)
        assert normalise(read["design"]) == read["design"]
        json.dumps(read["metadata"]).encode("utf-8")
    finally:
        if insertion is not None:
            insertion.remove()
        after = unet().state_dict()
        assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
        assert hooks == sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in unet().modules())


def read_metadata(root: Path, rng: random.Random) -> None:
    """Read what a hostile adapter folder says of itself."""
    from study.trained_adapter import read_metadata

    _, description = saved(0)
    text = json_bytes({**description, "metadata": METADATA}, rng)
    (root / "adapter.json").write_bytes(text)
    found = read_metadata(root)
    assert Metadata.model_validate(found.model_dump()) == found
    assert found.size is None or found.size > 0


def encoder(root: Path, rng: random.Random) -> None:
    """Read a hostile encoder of control maps."""
    state = ControlEncoder(8, 2, torch.Generator().manual_seed(0)).state_dict()
    data = safetensors_bytes(bytes_of(state), rng)
    (root / FILE).write_bytes(data)
    check_numbers(data, dict(load_encoder(root, 8, 2).state_dict()))


def cache_of_a_store(root: Path, rng: random.Random) -> None:
    """Read a damaged file of a store's cache: it is made anew, so what is read is always what was made."""
    true = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    asked = []

    def make() -> Tensor:
        asked.append(True)
        return true

    folder = root / "cache"
    cached(folder, "latents", ["key"], make)
    (file,) = folder.iterdir()
    sound = file.read_bytes()
    file.write_bytes(safetensors_bytes(sound, rng))
    asked.clear()
    assert torch.equal(cached(folder, "latents", ["key"], make), true)
    file.unlink()


TARGETS = {
    "adapter folder": load_adapter,
    "adapter metadata": read_metadata,
    "control encoder": encoder,
    "cached latents": cache_of_a_store,
}


@pytest.mark.parametrize("count", [40, pytest.param(1500, marks=THOUSANDS)])
@pytest.mark.parametrize("kind", TARGETS)
def test_hostile_weights_are_one_message_or_the_numbers_of_the_file(tmp_path, kind, count):
    told = fuzz(kind, range(count), lambda rng: TARGETS[kind](tmp_path, rng))
    print(told)
    assert told.failures == [], told.failures[0]
    assert told.accepted


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_sound_adapter_is_taken_and_one_with_a_number_that_is_none_is_not(tmp_path, number):
    """What the fuzzing above rests on: the files that it starts from are sound, and its own reader is right."""
    weights, description = saved(0)
    state = {name: torch.tensor(value) for name, value in numbers(weights).items()}
    (tmp_path / "adapter.json").write_text(json.dumps(description))
    save_file(state, tmp_path / "adapter.safetensors")
    insertion = adapters.load(unet(), tmp_path)
    check_numbers(weights, insertion.state())
    insertion.remove()
    next(iter(state.values())).view(-1)[0] = number
    save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(adapters.InputFault, match="not finite"):
        adapters.load(unet(), tmp_path)
