"""Exported adapters do elsewhere what they do here: in diffusers' own loader, in peft, as a plain change of weights."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from adapters import InputFault, insert, save
from adapters.export import export


@pytest.fixture
def trained(unet, tmp_path):
    """Make an adapter folder whose weights provably change the output; give the folder and the output."""

    def make(design, batch, text_encoder=None):
        insertion = insert(unet, design, torch.Generator().manual_seed(1), text_encoder)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in insertion.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            tuned = unet(**batch).sample
        save(tmp_path / "adapter", design, insertion.state(), {})
        insertion.remove()
        with torch.no_grad():
            assert (unet(**batch).sample - tuned).abs().max() > 1e-3
        return tmp_path / "adapter", tuned

    return make


LOW_RANK = [
    {"method": "lora", "rank": 2},
    {"method": "lora", "rank": 2, "alpha": 6, "rslora": True, "targets": "attention+ff"},
    {"method": "lora", "rank": 2, "targets": "conv"},
    {"method": "dora", "rank": 2, "alpha": 3},
]


@pytest.mark.parametrize("design", LOW_RANK, ids=lambda d: " ".join(map(str, d.values())))
def test_peft_loads_what_was_exported(unet, batch, trained, tmp_path, design):
    from peft import PeftModel

    folder, tuned = trained(design, batch)
    export(folder, "peft", tmp_path / "out", unet)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    loaded = PeftModel.from_pretrained(copy.deepcopy(unet), tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).sample, tuned, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "design",
    [
        {"method": "lora", "rank": 2},
        {"method": "krona", "a1": 2, "a2": 2},
        {"method": "tlora", "residual_rank": 2},
        {"method": "difffit"},
        {"method": "full"},
        {"method": "oft", "block_size": 4},
    ],
    ids=lambda d: d["method"],
)
def test_delta_added_to_the_weights_is_the_adapter(unet, batch, trained, tmp_path, design):
    folder, tuned = trained(design, batch)
    export(folder, "delta", tmp_path / "out", unet)
    delta = load_file(tmp_path / "out" / "delta.safetensors")
    assert json.loads((tmp_path / "out" / "delta.json").read_text())["design"]["method"] == design["method"]
    bare = copy.deepcopy(unet)
    weights = dict(bare.named_parameters())
    with torch.no_grad():
        for name, value in delta.items():
            weights[name] += value
        torch.testing.assert_close(bare(**batch).sample, tuned, rtol=1e-9, atol=1e-9)


def test_approximation_of_full_rank_is_exact_and_a_lower_one_says_its_error(unet, batch, trained, tmp_path):
    folder, tuned = trained({"method": "krona", "a1": 2, "a2": 2}, batch)
    exact = export(folder, "diffusers", tmp_path / "exact", unet, approximate=16)
    assert exact.error < 1e-12
    coarse = export(folder, "diffusers", tmp_path / "coarse", unet, approximate=1)
    weights = load_file(tmp_path / "coarse" / "pytorch_lora_weights.safetensors")
    export(folder, "delta", tmp_path / "delta", unet)
    missed = whole = 0.0
    for name, value in load_file(tmp_path / "delta" / "delta.safetensors").items():
        layer = "unet." + name.removesuffix(".weight")
        rebuilt = weights[f"{layer}.lora_B.weight"] @ weights[f"{layer}.lora_A.weight"]
        missed += (value - rebuilt).square().sum().item()
        whole += value.square().sum().item()
    # definition: the share of the change's norm that is missed
    assert coarse.error == pytest.approx((missed / whole) ** 0.5) and coarse.error > 0.05
    with safe_open(tmp_path / "coarse" / "pytorch_lora_weights.safetensors", "pt") as opened:
        label = opened.metadata()
    assert float(label["relative_error"]) == pytest.approx(coarse.error, rel=1e-5)
    assert json.loads(label["approximation_of"])["method"] == "krona"


@pytest.mark.parametrize(
    ("design", "format", "approximate", "message"),
    [
        ({"method": "krona", "a1": 2, "a2": 2}, "diffusers", None, r"adapters\.load\(pipe, path\)"),
        ({"method": "krona", "a1": 2, "a2": 2}, "peft", None, r"adapters\.load\(pipe, path\)"),
        ({"method": "adaptformer", "width": 2}, "delta", None, r"adapters\.load\(pipe, path\)"),
        ({"method": "adaptformer", "width": 2}, "diffusers", 4, r"adapters\.load\(pipe, path\)"),
        ({"method": "difffit"}, "diffusers", 4, "vectors such as"),
        ({"method": "lora", "rank": 2}, "delta", 4, "approximation is a LoRA for format diffusers"),
        ({"method": "krona", "a1": 2, "a2": 2}, "diffusers", 0, "rank 0"),
        ({"method": "lora", "rank": 2}, "onnx", None, "diffusers, peft, delta"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(unet, batch, trained, tmp_path, design, format, approximate, message):
    folder, _ = trained(design, batch)
    with pytest.raises(InputFault, match=message):
        export(folder, format, tmp_path / "out", unet, approximate)
    assert not (tmp_path / "out").exists()
