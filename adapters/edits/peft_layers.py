"""PeftLayers: layers are replaced by peft's own, which wrap them; taking them off puts the very same modules back.

peft never sees the denoiser. It is given a tree of the layers alone, so that its matching of suffixes finds nothing
else, and nothing of it but the wrapped layers gets into the denoiser.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adapters.draws import Draws
from adapters.edits.edit import Weights
from adapters.edits.stack import Stack
from adapters.faults import InputFault
from adapters.layers import Layer

ALONE = "layer"
"""What a layer is called that is wrapped alone; ``feedforward_modules`` of ``ia3`` names it so."""

_ADAPTER = "default"
_BASE = "base_layer"  # what peft's layers call the layer they wrap

Key = TypeVar("Key")
Settings = tuple[tuple[str, Any], ...]
_Size = tuple[type[nn.Module], int, int, tuple[int, ...], bool]


class PeftLayers:
    """Layers that peft changes, one or, where a kind shares tensors among them, all.

    Parameters
    ----------
    denoiser
        The module that the layers are in.
    layers
        Which.
    kind
        peft's name of what it makes, such as ``loha``.
    settings
        Fields of its configuration.
    """

    def __init__(self, denoiser: nn.Module, layers: Sequence[Layer], kind: str, settings: Mapping[str, Any]):
        self.denoiser = denoiser
        self.layers = list(layers)
        self.kind = kind
        self.settings: Settings = tuple(settings.items())
        # a lone layer's own name would say nothing to peft, and hide that others of its size are counted alike
        self._named = {ALONE: self.layers[0]} if len(self.layers) == 1 else {layer.name: layer for layer in self.layers}
        self.parameters: dict[str, nn.Parameter] = {}
        self._placed: list[tuple[Layer, nn.Module]] = []

    @property
    def like(self) -> Hashable:
        """Nothing: it is never stacked."""
        return id(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shape of every trained parameter by its full name: the layer's, and peft's without the adapter's.

        Raises
        ------
        InputFault
            When peft does not take the settings for a layer of this size.
        """
        sizes = tuple((name, _size(layer)) for name, layer in self._named.items())
        found = _shapes(self.kind, self.settings, sizes)
        return {f"{self._named[name].name}.{own}": shape for name, own, shape in found}

    def start(self, draws: Draws) -> dict[str, nn.Parameter]:
        """Let peft wrap the layers, and put what it made in their places.

        The parameters lie on the layers' devices, in float32, or float64 on a float64 denoiser.
        """
        bare = [parameter for layer in self.layers for parameter in layer.module.parameters()]
        flags = [parameter.requires_grad for parameter in bare]
        try:
            with _drawing(draws.stream(self.layers[0].name).initial_seed(), {p.device for p in bare}):
                wrapped = _wrap({n: layer.module for n, layer in self._named.items()}, self.kind, self.settings)
        finally:
            for parameter, flag in zip(bare, flags, strict=True):
                parameter.requires_grad_(flag)
        for name, layer in self._named.items():
            wrapper = wrapped[name]
            weight = layer.module.weight
            _move(wrapper, weight.device, torch.promote_types(torch.float32, weight.dtype))
            wrapper.train(layer.module.training)
            self._place(layer, wrapper)
            self._placed.append((layer, wrapper))
        self.parameters = {f"{layer.name}.{own}": parameter for layer, own, parameter in _trained(self._placed)}
        return dict(self.parameters)

    def attach(self, stack: Stack) -> None:
        """Do nothing: the layers are replaced, for a pack of one."""

    def merge(self, weights: Weights) -> None:
        """Let peft merge a copy of each layer.

        Raises
        ------
        InputFault
            When peft cannot merge the kind, or not into a layer like these.
        """
        for layer, wrapper in self._placed:
            merged = copy.deepcopy(wrapper)
            base = merged.get_submodule(_BASE)
            base.to(torch.promote_types(torch.float32, layer.module.weight.dtype))
            try:
                merged.merge()  # type: ignore[operator]
            except (NotImplementedError, ValueError) as error:
                raise InputFault(
                    f"peft's {self.kind} cannot be merged into the denoiser's weights at {layer.name}: {error}; "
                    "put it on a pipeline with adapters.load(pipe, path)"
                ) from error
            for name, before in layer.module.named_parameters():
                after = base.get_parameter(name).detach().to(before.dtype)
                if name == "weight" or not torch.equal(after, before):
                    weights[f"{layer.name}.{name}"] = after

    def detach(self) -> None:
        """Put the layers back."""
        while self._placed:
            layer, _ = self._placed.pop()
            self._place(layer, layer.module)

    def _place(self, layer: Layer, module: nn.Module) -> None:
        parent, _, name = layer.name.rpartition(".")
        setattr(self.denoiser.get_submodule(parent), name, module)


def parameters_of(layer: Layer, kind: str, settings: Mapping[str, Any]) -> int:
    """Count what peft trains on a layer of a kind that shares nothing.

    Raises
    ------
    InputFault
        See `PeftLayers.shapes`.
    """
    found = _shapes(kind, tuple(settings.items()), ((ALONE, _size(layer)),))
    return sum(torch.Size(shape).numel() for _, _, shape in found)


def _size(layer: Layer) -> _Size:
    """Give all that the parameters' shapes depend on.

    Raises
    ------
    InputFault
        For a layer that peft has wrapped already.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(layer.module, BaseTunerLayer) or layer.name.endswith(f".{_BASE}"):
        raise InputFault(f"{layer.name} is changed by another adapter that peft runs; remove that one first")
    return (
        nn.Linear if isinstance(layer.module, nn.Linear) else nn.Conv2d,
        layer.inputs,
        layer.outputs,
        tuple(layer.module.weight.shape[2:]),
        layer.module.bias is not None,
    )


@lru_cache(maxsize=4096)
def _shapes(
    kind: str, settings: Settings, layers: tuple[tuple[str, _Size], ...]
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """Let peft wrap stand-ins without memory, and see what it would train: layer, own name, shape."""
    if kind in _ENTRY_BY_ENTRY:
        return tuple(
            (name, part, shape)
            for name, size in layers
            for part, shape in _ENTRY_BY_ENTRY[kind](dict(settings), size).items()
        )
    shown = ", ".join(f"{key}={value}" for key, value in settings)
    try:
        with torch.device("meta"), _drawing(0, set()):
            bare: dict[str, nn.Module] = {
                name: made(inputs, outputs, *[kernel] if kernel else [], bias=bias)
                for name, (made, inputs, outputs, kernel, bias) in layers
            }
            wrapped = _wrap(bare, kind, settings)
    except Exception as error:  # peft checks settings with whatever its code runs into
        raise InputFault(f"peft's {kind} does not take {shown} for these layers: {error}") from error
    found = tuple((name, own, tuple(parameter.shape)) for name, own, parameter in _trained(wrapped.items()))
    if not found:
        raise InputFault(f"peft's {kind} with {shown} trains nothing")
    return found


def _butterfly_shapes(settings: Mapping[str, Any], size: _Size) -> dict[str, tuple[int, ...]]:
    _, inputs, outputs, kernel, _ = size
    block = settings["boft_block_size"]
    blocks = inputs * torch.Size(kernel).numel() // block
    scale = (1, outputs) if kernel else (outputs, 1)
    return {"boft_R": (settings["boft_n_butterfly_factor"], blocks, block, block), "boft_s": scale}


def _sparse_shapes(settings: Mapping[str, Any], size: _Size) -> dict[str, tuple[int, ...]]:
    _, inputs, outputs, _, _ = size
    entries = settings["r"] * (inputs + outputs)
    if not 0 < entries <= inputs * outputs:
        raise InputFault(f"peft's shira with r={settings['r']} has {entries} entries in {inputs} × {outputs} weights")
    return {"shira_weight": (entries,)}


_ENTRY_BY_ENTRY = {"boft": _butterfly_shapes, "shira": _sparse_shapes}
"""Kinds whose permutations or masks peft computes entry by entry, which it cannot do without memory."""


def _wrap(layers: Mapping[str, nn.Module], kind: str, settings: Settings) -> dict[str, nn.Module]:
    """Let peft wrap layers, in a tree with nothing else in it.

    This is what ``peft.inject_adapter_in_model`` does. That refuses kinds with tensors that layers share, since it
    gives back the tree alone; but every layer holds what it needs of them.
    """
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    if kind == "boft":
        _without_cuda_kernel()
    root = nn.Module()
    for name, layer in layers.items():
        *path, last = name.split(".")
        parent = root
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, layer)
    named = PeftType(kind.upper())
    config = PEFT_TYPE_TO_CONFIG_MAPPING[named](**{"target_modules": sorted(map(_suffix, layers)), **dict(settings)})
    PEFT_TYPE_TO_TUNER_MAPPING[named](root, config, _ADAPTER)
    return {name: root.get_submodule(name) for name in layers}


def _suffix(name: str) -> str:
    """Give the end of a layer's name that tells it from the others of its block: ``to_q``, ``to_out.0``."""
    *_, last = parts = name.split(".")
    return ".".join(parts[-2:]) if last.isdigit() else last


def _trained(wrapped: Iterable[tuple[Key, nn.Module]]) -> Iterator[tuple[Key, str, nn.Parameter]]:
    """Give the parameters that peft trains, each once, with the layer's key and peft's name without the adapter's."""
    seen: set[int] = set()
    for key, wrapper in wrapped:
        for name, parameter in wrapper.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen and not name.startswith(f"{_BASE}."):
                seen.add(id(parameter))
                yield key, ".".join(part for part in name.split(".") if part != _ADAPTER), parameter


def _move(wrapper: nn.Module, device: torch.device, kept: torch.dtype) -> None:
    """Put all that peft made on a device and its numbers in one type; the wrapped layer stays as it is."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, kept) if tensor.is_floating_point() else tensor.to(device)

    parts = [wrapper, *(part for name, child in wrapper.named_children() if name != _BASE for part in child.modules())]
    for part in parts:
        for parameter in part._parameters.values():
            if parameter is not None:
                parameter.data = moved(parameter.data)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = moved(buffer)


@contextmanager
def _drawing(seed: int, devices: set[torch.device]) -> Iterator[None]:
    """Draw from a seed for as long as the context lasts; the global streams are then where they were."""
    cards = sorted({device.index for device in devices if device.type == "cuda"})
    with torch.random.fork_rng(devices=cards):
        torch.default_generator.manual_seed(seed)
        for card in cards:
            with torch.cuda.device(card):
                torch.cuda.manual_seed(seed)
        yield


class _Blocks:
    """What BOFT's CUDA kernel computes: the block-diagonal matrix of blocks (N, D, H, H), and its gradient."""

    def forward(self, blocks: Tensor) -> list[Tensor]:
        number, count, size, _ = blocks.shape
        spread = torch.diag_embed(blocks.permute(0, 2, 3, 1)).permute(0, 3, 1, 4, 2)
        return [spread.reshape(number, count * size, count * size)]

    def backward(self, gradient: Tensor, blocks: Tensor) -> list[Tensor]:
        diagonal = gradient.reshape(*blocks.shape[:3], *blocks.shape[1:3]).diagonal(dim1=1, dim2=3)
        return [diagonal.permute(0, 3, 1, 2).contiguous()]


def _without_cuda_kernel() -> None:
    """Give BOFT its block-diagonal matrices in PyTorch, on every device and in every type.

    Else peft compiles a kernel when a layer is made, and where it cannot, it silently takes one butterfly factor
    whatever was asked for.
    """
    from peft.tuners.boft import layer

    if not isinstance(layer._FBD_CUDA, _Blocks):
        layer._FBD_CUDA = _Blocks()  # type: ignore[assignment]
