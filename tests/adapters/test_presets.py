"""AdaptFormer and the sequential bottleneck: points of the adapter design space under names of their own."""

import pytest
import torch

from adapters import InputFault, count, insert, normalise
from adapters.budget import bottleneck_cost

EQUALS = [
    (
        {"method": "adaptformer", "width": 3},
        {"input": "FFN_in", "output": "Trans_out", "scale": 0.1, "init": "zero_up", "width": 3},
    ),
    (
        {"method": "adaptformer", "budget": "5%", "scale": 2},
        {"input": "FFN_in", "output": "Trans_out", "scale": 2, "init": "zero_up", "budget": "5%"},
    ),
    (
        {"method": "sequential", "width": 4},
        {"input": "FFN_out", "output": "Trans_out", "init": "zero_up", "width": 4},
    ),
    (
        {"method": "sequential", "width": 4, "activation": "silu"},
        {"input": "FFN_out", "output": "Trans_out", "activation": "silu", "init": "zero_up", "width": 4},
    ),
]


def test_canonical_design_keeps_the_name_and_fills_defaults():
    assert normalise({"method": "adaptformer", "width": "3"}) == {"method": "adaptformer", "scale": 0.1, "width": 3}
    assert normalise({"method": "adaptformer", "budget": "0.75%", "scale": "1.0"}) == {
        "method": "adaptformer",
        "scale": 1,
        "budget": 0.0075,
    }
    assert normalise({"method": "sequential", "budget": 5000, "width": None}) == {
        "method": "sequential",
        "activation": "relu",
        "budget": 5000,
    }


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"method": "adaptformer"}, "neither width nor budget"),
        ({"method": "adaptformer", "width": 3, "budget": "3%"}, "both width and budget"),
        ({"method": "adaptformer", "width": 3, "activation": "silu"}, "activation; its keys are width, budget, scale"),
        ({"method": "adaptformer", "width": 3, "scale": 0}, "scale"),
        ({"method": "adaptformer", "width": 0}, "width"),
        ({"method": "sequential", "width": 3, "scale": 2}, "scale; its keys are width, budget, activation"),
        ({"method": "sequential", "width": 3, "activation": "gelu"}, "relu, sigmoid, silu, identity"),
        ({"method": "sequential", "budget": "0%"}, "budget"),
    ],
    ids=str,
)
def test_wrong_values_are_refused(design, message):
    with pytest.raises(InputFault, match=message):
        normalise(design)


@pytest.mark.parametrize(("preset", "adapter"), EQUALS, ids=str)
def test_presets_compute_what_the_adapter_computes(unets, batch, preset, adapter):
    unet = unets["deep"]
    assert count(unet, preset) == count(unet, {"method": "adapter", **adapter})
    outputs, states = [], []
    untouched = unet(**batch).sample
    for design in (preset, {"method": "adapter", **adapter}):
        insertion = insert(unet, design, torch.Generator().manual_seed(3))
        states.append(insertion.state())
        assert torch.equal(unet(**batch).sample, untouched)  # the last layer starts at zero
        with torch.no_grad():
            for parameter in insertion.parameters():
                parameter += 0.1
        outputs.append(unet(**batch).sample)
        insertion.remove()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(*outputs) and (outputs[0] - untouched).abs().max() > 1e-3


def test_adaptformer_is_the_papers_formula(unets, batch):
    # 2205.13535, eq. 3: x' + MLP(LN(x')) + s · ReLU(x' W_down) W_up, for one block
    unet = unets["plain"]
    name, block = next((n, m) for n, m in unet.named_modules() if n.endswith("transformer_blocks.0"))
    insertion = insert(unet, {"method": "adaptformer", "width": 3, "scale": 0.5}, torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in insertion.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    own = {key.removeprefix(f"{name}."): value for key, value in insertion.state().items() if key.startswith(name)}
    tensor = torch.randn(2, 9, block.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    text = batch["encoder_hidden_states"][:2]
    got = block(tensor, encoder_hidden_states=text)
    insertion.remove()
    trunk = tensor + block.attn1(block.norm1(tensor))
    trunk = trunk + block.attn2(block.norm2(trunk), encoder_hidden_states=text)
    hidden = torch.relu(trunk @ own["down.weight"].T + own["down.bias"])
    expected = trunk + block.ff(block.norm3(trunk)) + 0.5 * (hidden @ own["up.weight"].T + own["up.bias"])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_counts_are_those_of_the_literature(architectures):
    # PAPERS §2: bottleneck 64 in the 28 blocks of DiT-XL/2 and a new class embedder of 102 × 1152
    assert 28 * bottleneck_cost(1152, 1152).at(64) + 102 * 1152 == 4_280_320
    # closed form on Stable Diffusion 1.5: 16 blocks whose widths sum to 12,480
    for method in ("adaptformer", "sequential"):
        got = count(architectures["sd15"], {"method": method, "width": 64})
        assert got.trainable == 64 * (2 * 12_480 + 16) + 12_480 and got.widths == (64,) * 16
