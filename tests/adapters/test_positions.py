"""Each pair reads from and writes to the true tensors.

The oracle is a plain re-implementation of the forward pass of a transformer and a ResNet block, written here from the
definition (x += SA(norm1 x); x += CA(norm2 x, text); x += FFN(norm3 x)), with the adapter as plain arithmetic.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D

from adapters import PAIRS, READS, WRITES, InputFault, check_pair, component, insert
from adapters.positions import SAME_POINT

PLAIN_ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "identity": lambda x: x,
}


class PlainAdapter:
    """Records the tensors of a block as they pass, and adds the adapter's value where it writes."""

    def __init__(self, design, state, name, groups):
        self.input, self.output = design["input"], design["output"]
        self.activation, self.scale = PLAIN_ACTIVATIONS[design["activation"]], design["scale"]
        self.p = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        self.groups = groups
        self.values = {}

    def at(self, position, value):
        self.values[position] = value
        return value + self.adapter(self.values[self.input]) if position == self.output else value

    def adapter(self, x):
        p = self.p
        if not self.output.startswith("Res_"):
            return self.scale * (
                self.activation(x @ p["down.weight"].T + p["down.bias"]) @ p["up.weight"].T + p["up.bias"]
            )
        n, c = x.shape[:2]
        grouped = x.reshape(n, self.groups, -1)
        mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, unbiased=False, keepdim=True)
        x = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        x = x * p["norm.weight"].reshape(1, c, 1, 1) + p["norm.bias"].reshape(1, c, 1, 1)
        hidden = conv3x3(PLAIN_ACTIVATIONS["silu"](x), p["down.weight"], p["down.bias"])
        return self.scale * conv3x3(self.activation(hidden), p["up.weight"], p["up.bias"])


def conv3x3(x, weight, bias):
    """The sum over nine shifted pictures that a padded 3×3 convolution is."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    parts = [
        torch.einsum("oc,nchw->nohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    ]
    return sum(parts) + bias.reshape(1, -1, 1, 1)


def plain_attention(attention, x, context):
    n, tokens, _ = x.shape
    heads = attention.heads
    q, k, v = (
        layer(tensor).reshape(n, -1, heads, attention.to_q.out_features // heads).transpose(1, 2)
        for layer, tensor in ((attention.to_q, x), (attention.to_k, context), (attention.to_v, context))
    )
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return attention.to_out[0]((weights @ v).transpose(1, 2).reshape(n, tokens, -1))


def plain_transformer_block(block, adapter):
    def forward(hidden_states, attention_mask=None, encoder_hidden_states=None, **_):
        x = adapter.at("SA_in", hidden_states)
        branch = block.norm1(x)
        x = adapter.at("CA_in", x + adapter.at("SA_out", plain_attention(block.attn1, branch, branch)))
        context = adapter.at("CA_c", encoder_hidden_states)
        x = adapter.at("FFN_in", x + adapter.at("CA_out", plain_attention(block.attn2, block.norm2(x), context)))
        value, gate = block.ff.net[0].proj(block.norm3(x)).chunk(2, dim=-1)
        x = adapter.at("Trans_out", x + adapter.at("FFN_out", block.ff.net[2](value * F.gelu(gate))))
        return x

    return forward


def plain_resnet_block(block, adapter):
    def forward(input_tensor, temb):
        x = adapter.at("Res_in", input_tensor)
        hidden = block.conv1(F.silu(block.norm1(x))) + block.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden = block.conv2(F.silu(block.norm2(hidden)))
        skip = x if block.conv_shortcut is None else block.conv_shortcut(x)
        return adapter.at("Res_out", (skip + hidden) / block.output_scale_factor)

    return forward


def plain_unet(unet, design, state):
    """A copy of the U-Net whose adapted blocks run the plain forward pass."""
    unet = copy.deepcopy(unet)
    kind = ResnetBlock2D if design["input"].startswith("Res_") else BasicTransformerBlock
    for name, module in unet.named_modules():
        if isinstance(module, kind):
            adapter = PlainAdapter(design, state, name, groups=4)
            plain = plain_resnet_block if kind is ResnetBlock2D else plain_transformer_block
            module.forward = plain(module, adapter)
    return unet


@pytest.mark.parametrize("backbone", ["plain", "deep"])
@pytest.mark.parametrize("pair", PAIRS, ids="→".join)
def test_pair_equals_plain_forward(unets, batch, pair, backbone):
    design = {
        "method": "adapter",
        "input": pair[0],
        "output": pair[1],
        "activation": list(PLAIN_ACTIVATIONS)[PAIRS.index(pair) % 4],
        "scale": 2,
        "init": "default",
        "width": 3,
    }
    unet = unets[backbone]
    untouched = unet(**batch).sample
    insertion = insert(unet, design, torch.Generator().manual_seed(1))
    try:
        got = unet(**batch).sample
        expected = plain_unet_output(unet, insertion, design, batch)
    finally:
        insertion.remove()
    assert (got - untouched).abs().max() > 1e-4
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def plain_unet_output(unet, insertion, design, batch):
    state = insertion.state()
    insertion.remove()
    return plain_unet(unet, design, state)(**batch).sample


# Where a position's value can be seen from outside once it is written: (submodule, what of it).
SEEN = {
    "SA_in": ("norm1", "input"),
    "SA_out": ("attn1", "output"),
    "CA_in": ("norm2", "input"),
    "CA_c": ("attn2", "context"),
    "CA_out": ("attn2", "output"),
    "FFN_in": ("norm3", "input"),
    "FFN_out": ("ff", "output"),
    "Trans_out": ("", "output"),
    "Res_in": ("norm1", "input"),
    "Res_out": ("", "output"),
}
ORDER = ("SA_in", "CA_in", "CA_c", "FFN_in", "Trans_out")


def watch(unet, block, positions, batch):
    seen, handles = {}, []
    for position in positions:
        module, kind = block.get_submodule(SEEN[position][0]), SEEN[position][1]
        if kind == "output":
            hook = module.register_forward_hook(lambda _m, _a, out, position=position: seen.update({position: out}))
        else:

            def before(_module, args, kwargs, position=position, kind=kind):
                seen[position] = args[0] if kind == "input" else kwargs["encoder_hidden_states"]

            hook = module.register_forward_pre_hook(before, with_kwargs=True)
        handles.append(hook)
    unet(**batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("pair", PAIRS, ids="→".join)
def test_zero_up_is_identity_and_a_bias_moves_exactly_the_written_tensor(unet, batch, pair):
    positions = ("Res_in", "Res_out") if pair[0].startswith("Res_") else ORDER
    kind = ResnetBlock2D if pair[0].startswith("Res_") else BasicTransformerBlock
    name, block = next((name, module) for name, module in unet.named_modules() if isinstance(module, kind))
    before, untouched = watch(unet, block, positions, batch), unet(**batch).sample
    design = {"method": "adapter", "input": pair[0], "output": pair[1], "scale": 4, "init": "zero_up", "width": 2}
    insertion = insert(unet, design)
    try:
        assert torch.equal(unet(**batch).sample, untouched)
        with torch.no_grad():
            dict(insertion.named_parameters())[f"{name}.up.bias"].fill_(0.25)
        after = watch(unet, block, positions, batch)
        assert not torch.equal(unet(**batch).sample, untouched)
    finally:
        insertion.remove()
    # with the up weights zero, the form's value is scale · bias = 1 everywhere
    torch.testing.assert_close(after[pair[1]], before[pair[1]] + 1, rtol=0, atol=1e-12)
    for earlier in positions[: positions.index(pair[1])]:
        assert torch.equal(after[earlier], before[earlier])


def test_res_in_reaches_branch_and_skip(unet, batch):
    block = next(m for m in unet.modules() if isinstance(m, ResnetBlock2D) and m.conv_shortcut is not None)
    insertion = insert(unet, {"method": "adapter", "input": "Res_in", "output": "Res_in", "width": 2})
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda _m, args, key=key: seen.update({key: args[0]}))
        for key, module in (("branch", block.norm1), ("skip", block.conv_shortcut))
    ]
    unet(**batch)
    for handle in handles:
        handle.remove()
    insertion.remove()
    assert torch.equal(seen["branch"], seen["skip"])


def test_every_combination_is_a_pair_or_refused_with_the_choice():
    valid = []
    for input in READS:
        for output in READS:
            try:
                check_pair(input, output)
                valid.append((input, output))
            except InputFault as fault:
                for allowed in (write for read, write in PAIRS if read == input):
                    assert allowed in str(fault)
                if output in SAME_POINT:
                    assert f"same point as output={SAME_POINT[output]}" in str(fault)
    assert sorted(valid) == sorted(PAIRS) and len(PAIRS) == 20
    assert {read for read, _ in PAIRS} == set(READS) and {write for _, write in PAIRS} == set(WRITES)
    assert all(component(read) == component(write) for read, write in PAIRS)
    with pytest.raises(InputFault, match="SA_in, SA_out"):
        check_pair("nowhere", "CA_in")


def test_denoisers_without_the_position_are_refused_by_name(architectures):
    from adapters import count

    with pytest.raises(InputFault, match=r"no cross-attention; .*read at SA_in, SA_out, FFN_in, FFN_out, Trans_out"):
        count(architectures["dit-xl-2"], {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2})
    with pytest.raises(InputFault, match="no ResNet blocks"):
        count(architectures["dit-xl-2"], {"method": "adapter", "input": "Res_in", "output": "Res_in", "width": 2})
