"""Designs of methods run by peft: what they count, which size meets a budget, and what is refused and why."""

import dataclasses
import json

import pytest
import torch

from adapters import InputFault, count, insert, load, normalise, save
from adapters.designs import METHODS, method_of
from adapters.layers import find_layers
from adapters.methods.peft_kinds import KINDS, REFUSED

# Σ in, Σ out and number of q, k, v and output projections: the published inventories (SD 1.5: Σ(in + out) = 199,296)
SIZES = {"sd15": (99_456, 99_840, 128), "sdxl": (785_920, 665_600, 560), "dit-xl-2": (129_024, 129_024, 112)}


@pytest.mark.parametrize(
    ("design", "closed"),
    [
        ({"method": "loha", "rank": 4}, lambda read, out, n: 2 * 4 * (read + out)),
        ({"method": "hira", "rank": 4}, lambda read, out, n: 4 * (read + out)),
        ({"method": "hra", "rank": 4}, lambda read, out, n: 4 * read),
        ({"method": "ia3"}, lambda read, out, n: out),
        # blocks of b inputs, each a skew-symmetric matrix
        ({"method": "oft", "block_size": 32}, lambda read, out, n: read * 31 // 2),
        ({"method": "boft", "block_size": 8, "butterfly_factor": 3}, lambda read, out, n: 3 * read * 8 + out),
        ({"method": "peft", "kind": "vera", "r": 16}, lambda read, out, n: out + 16 * n),
        ({"method": "peft", "kind": "fourierft"}, lambda read, out, n: 1000 * n),
        ({"method": "peft", "kind": "shira", "r": 2}, lambda read, out, n: 2 * (read + out)),
        ({"method": "peft", "kind": "delora", "r": 2}, lambda read, out, n: 2 * (read + out) + n),
    ],
    ids=lambda value: value.get("kind", value["method"]) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("name", SIZES)
def test_counts_in_closed_form(architectures, name, design, closed):
    random = torch.get_rng_state()
    counted = count(architectures[name], design)
    shapes = {n: s for edit in method_of(design).edits(architectures[name]) for n, s in edit.shapes().items()}
    assert counted.trainable == closed(*SIZES[name]) == sum(torch.Size(shape).numel() for shape in shapes.values())
    assert torch.equal(torch.get_rng_state(), random)


def test_convolutions_are_counted_with_their_kernel(unet):
    layers = find_layers(unet, "conv")
    read, out = sum(9 * layer.inputs for layer in layers), sum(layer.outputs for layer in layers)
    for method, expected in {"loha": 2 * 2 * (read + out), "hira": 2 * (read + out), "hra": 2 * read}.items():
        assert count(unet, {"method": method, "rank": 2, "targets": "conv"}).trainable == expected
    blocks = {"method": "boft", "block_size": 4, "targets": "conv"}
    assert count(unet, blocks).trainable == 4 * read + out
    assert count(unet, {"method": "ia3", "targets": "conv"}).trainable == out


def test_ia3_scales_the_hidden_features_of_a_feed_forward(unet):
    names = {layer.name: layer for layer in find_layers(unet, "ff")}
    (edits,) = [method_of({"method": "ia3", "targets": "ff"}).edits(unet)]
    for edit in edits:
        ((name, shape),) = edit.shapes().items()
        layer = names[name.removesuffix(".ia3_l")]
        assert shape == ((1, layer.inputs) if name.endswith("net.2.ia3_l") else (layer.outputs, 1))


@pytest.mark.parametrize("share", ["0.05%", "4%", "30%"])
@pytest.mark.parametrize(
    ("design", "sizes"),
    [
        ({"method": "loha"}, range(1, 60)),
        ({"method": "lokr", "targets": "attention+ff", "factor": 2}, range(1, 40)),
        ({"method": "lokr", "targets": "conv"}, range(1, 40)),
        ({"method": "hra"}, range(2, 200, 2)),
        ({"method": "hira"}, range(1, 120)),
        ({"method": "oft", "targets": "attention+ff"}, (2, 4)),
        ({"method": "boft"}, (2, 4)),
        ({"method": "boft", "butterfly_factor": 2}, (2,)),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_budget_takes_the_nearest_size(unet, design, sizes, share):
    counted = count(unet, {**design, "budget": share})
    ((key, size),) = counted.resolved.items()
    errors = {n: abs(count(unet, {**design, key: n}).trainable - counted.budget_asked) for n in sizes}
    assert abs(counted.trainable - counted.budget_asked) == errors[size] == min(errors.values())


def test_peft_knows_no_kind_that_is_neither_run_nor_refused():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == KINDS.keys() | REFUSED.keys()
    assert not KINDS.keys() & REFUSED.keys()
    assert {kind for kind in REFUSED if f"method={kind}" in REFUSED[kind]} <= METHODS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_fields_and_defaults_are_those_of_peft(kind):
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    theirs = {f.name: f.default for f in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind.upper())])}
    for name, known in KINDS[kind].fields.items():
        if (kind, name) != ("shira", "random_seed"):  # peft's None is a seed of PyTorch's own
            assert theirs[name] == known.default and type(theirs[name]) is type(known.default)
    filled = normalise({"method": "peft", "kind": kind})
    assert normalise({key: str(value) for key, value in filled.items()}) == filled


CONV = "changes linear layers only"


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"method": "oft", "block_size": 4, "targets": "conv"}, "not the backbone's before training"),
        *[({"method": "peft", "kind": kind, "targets": "ff+conv"}, CONV) for kind in KINDS],
        *[({"method": "peft", "kind": kind}, "the kinds are beft, c3a, .* vera, waveft$") for kind in REFUSED],
        ({"method": "peft"}, "kind=None: a name is needed"),
        ({"method": "peft", "kind": "lora"}, "give method=lora"),
        ({"method": "peft", "kind": "eval"}, "no such adapter"),
        ({"method": "peft", "kind": ["vera"]}, "a name is needed"),
        *[
            ({"method": "peft", "kind": "vera", key: "x"}, f"does not know {key}; its keys are targets, r, ")
            for key in ("target_modules", "modules_to_save", "layers_pattern", "base_model_name_or_path", "bias")
        ],
        *[
            ({"method": "peft", "kind": "waveft", key: "x"}, f"does not know {key}")
            for key in ("auto_mapping", "revision", "exclude_modules", "layers_to_transform", "n_frequency_pattern")
        ],
        ({"method": "peft", "kind": "vera", "vera_dropout": 0.1}, "does not know vera_dropout"),
        ({"method": "peft", "kind": "vera", "r": 0}, "at least 1"),
        ({"method": "peft", "kind": "vera", "r": 1.5}, "no whole number"),
        ({"method": "peft", "kind": "vera", "d_initial": float("nan")}, "d_initial"),
        ({"method": "peft", "kind": "vera", "init_weights": "maybe"}, "neither true nor false"),
        ({"method": "peft", "kind": "peanut", "depth": 10**9}, "at most 64"),
        ({"method": "peft", "kind": "peanut", "act_fn": "os;system"}, "no name such as 'relu'"),
        ({"method": "peft", "kind": "glora", "config_C": "x"}, "allowed are lora, vector, none"),
        ({"method": "peft", "kind": "vblora", "topk": 999}, "more than num_vectors=256"),
        ({"method": "hra", "rank": 3}, "give rank=4"),
        ({"method": "hira", "rank": 3, "alpha": 2}, "does not know alpha"),
        ({"method": "ia3", "budget": "1%"}, "does not know budget"),
        ({"method": "loha"}, "neither rank nor budget"),
        ({"method": "oft", "block_size": 4, "budget": "1%"}, "both block_size and budget"),
        ({"method": "boft", "block_size": 4, "butterfly_factor": 99}, "above 32"),
        ({"method": "lokr", "rank": 2, "factor": 0}, "factor=0"),
        ({"method": "loha", "rank": 2, "alpha": "double"}, "alpha"),
        ({"method": "lokr", "rank": 2, "targets": "all"}, "targets='all'"),
    ],
    ids=lambda value: " ".join(map(str, value.values()))[:60] if isinstance(value, dict) else "",
)
def test_wrong_designs_are_refused(design, message):
    with pytest.raises(InputFault, match=message):
        normalise(design)


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"method": "oft", "block_size": 3}, "those that do are 2, 4$"),
        ({"method": "oft", "block_size": 1}, "those that do are 2, 4$"),
        ({"method": "boft", "block_size": 4, "butterfly_factor": 2}, "those that do are 2$"),
        ({"method": "boft", "budget": "1%", "butterfly_factor": 5}, "no block size"),
        ({"method": "peft", "kind": "vblora", "vector_length": 7}, "must be divisible by `vector_length`"),
        (
            {"method": "peft", "kind": "glora", **dict.fromkeys(("config_A_B", "config_C", "config_D_E"), "none")},
            "trains nothing",
        ),
        ({"method": "peft", "kind": "fourierft", "n_frequency": 10**6}, "less than or equal"),
        ({"method": "peft", "kind": "shira", "r": 99}, "entries in"),
        ({"method": "peft", "kind": "peanut", "act_fn": "os.system"}, "Unsupported `act_fn`"),
    ],
    ids=lambda value: " ".join(map(str, value.values()))[:60] if isinstance(value, dict) else "",
)
def test_designs_that_do_not_fit_the_layers_are_refused(unet, batch, design, message):
    untouched = unet(**batch).sample
    for ask in (count, insert):
        with pytest.raises(InputFault, match=message):
            ask(unet, design)
    assert torch.equal(unet(**batch).sample, untouched)


def test_hostile_description_is_refused(unet, tmp_path):
    insertion = insert(unet, {"method": "peft", "kind": "vera", "r": 4})
    insertion.remove()
    save(tmp_path / "a", {"method": "peft", "kind": "vera", "r": 4}, insertion.state(), {})
    path = tmp_path / "a" / "adapter.json"
    content = json.loads(path.read_text())
    for changes in ({"base_model_name_or_path": "/etc"}, {"kind": "xlora"}, {"kind": "../vera"}, {"r": 5}):
        path.write_text(json.dumps(content | {"design": content["design"] | changes}))
        with pytest.raises(InputFault):
            load(unet, tmp_path / "a")
