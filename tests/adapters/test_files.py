"""Adapter folders come back as they were saved; folders from strangers are refused before anything is changed."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from adapters import InputFault, insert, load, save

DESIGN = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "budget": "10%"}


@pytest.fixture
def folder(unet, tmp_path):
    insertion = insert(unet, DESIGN, torch.Generator().manual_seed(4))
    insertion.remove()
    save(tmp_path / "a", DESIGN, insertion.state(), {"backbone": "tiny", "scores": {"clip_i": 0.5}})
    return tmp_path / "a"


@pytest.mark.parametrize("method", ["adapter", "full"])
def test_round_trip(unet, batch, tmp_path, method):
    design = DESIGN if method == "adapter" else {"method": "full"}
    untouched = unet(**batch).sample
    insertion = insert(unet, design, torch.Generator().manual_seed(4))
    with torch.no_grad():
        for parameter in insertion.parameters():
            parameter.add_(0.05)
    tuned = unet(**batch).sample
    save(tmp_path / "a", design, insertion.state(), {})
    insertion.remove()
    loaded = load(SimpleNamespace(unet=unet), tmp_path / "a")
    # saved as kept: float64 on this float64 denoiser
    assert torch.equal(unet(**batch).sample, tuned) and not torch.equal(tuned, untouched)
    loaded.remove()
    assert torch.equal(unet(**batch).sample, untouched)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_description_says_what_was_saved(folder):
    content = json.loads((folder / "adapter.json").read_text())
    assert content["format"] == 1 and content["metadata"] == {"backbone": "tiny", "scores": {"clip_i": 0.5}}
    assert content["design"] == {
        "method": "adapter",
        "input": "CA_out",
        "output": "FFN_in",
        "activation": "relu",
        "scale": 1,
        "init": "default",
        "budget": 0.1,
    }


def good(**changes):
    return {"format": 1, "design": {**DESIGN, "init": "default"}, "metadata": {}} | changes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json {", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (" " * 1_000_001, "larger than"),
        ([], "must be an object"),
        ({}, "must be an object"),
        (good(code="import os"), "must be an object"),
        (good(format=2), "format 2"),
        (good(format=True), "format True"),
        (good(metadata="x"), "metadata must be an object"),
        (good(design=None), "mapping"),
        (good(design={"method": "../../evil"}), "unknown method"),
        (good(design={"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 10**15}), "needs"),
        (good(design={**DESIGN, "scale": float("nan")}), "scale"),
        (good(design={**DESIGN, "hook": "os.system"}), "hook"),
        (good(design={**DESIGN, "input": "Res_in", "output": "Res_in"}), "do not belong"),
        (good(design={**DESIGN, "budget": "20%"}), "needs"),
        (good(design={"method": "none"}), "unknown"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_descriptions_are_refused(unet, batch, folder, content, message):
    before = unet(**batch).sample
    path = folder / "adapter.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputFault, match=message):
        load(unet, folder)
    assert torch.equal(unet(**batch).sample, before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in unet.modules())


@pytest.mark.parametrize("damage", ["garbage", "gone", "extra", "missing", "shape", "integer", "nan"])
def test_damaged_weights_are_refused(unet, folder, damage):
    from safetensors.torch import load_file

    path = folder / "adapter.safetensors"
    state = load_file(path)
    first = next(iter(state))
    if damage == "garbage":
        path.write_bytes(b"\x80\x04 not a tensor" * 100)
    elif damage == "gone":
        path.unlink()
    else:
        if damage == "extra":
            state["evil"] = torch.zeros(1)
        elif damage == "missing":
            del state[first]
        elif damage == "shape":
            state[first] = state[first][..., :-1].contiguous()
        elif damage == "integer":
            state[first] = state[first].long()
        else:
            state[first] = torch.full_like(state[first], float("nan"))
        save_file(state, path)
    with pytest.raises(InputFault):
        load(unet, folder)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in unet.modules())


def test_loading_a_state_checks_it_first(unet):
    insertion = insert(unet, DESIGN, torch.Generator().manual_seed(4))
    insertion.remove()
    state = insertion.state()
    wrong = {name: torch.zeros_like(value) for name, value in state.items()}
    wrong[next(reversed(wrong))] = torch.zeros(1)
    with pytest.raises(InputFault, match="has shape"):
        insertion.load(0, wrong)
    assert all(torch.equal(value, insertion.state()[name]) for name, value in state.items())


def test_what_cannot_be_saved_or_is_not_there_is_said(unet, tmp_path):
    with pytest.raises(InputFault, match="must be JSON"):
        save(tmp_path / "a", DESIGN, {}, {"when": object()})
    with pytest.raises(InputFault, match="unknown method"):
        save(tmp_path / "a", {"method": "x"}, {}, {})
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputFault, match="adapter.json is missing"):
        load(unet, tmp_path)
    with pytest.raises(InputFault, match="no unet or transformer"):
        load(SimpleNamespace(), tmp_path)
