"""Weights before and after tuning: of two pipelines, or of a pipeline and an adapter folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import adapters
from adapters.faults import InputFault
from adapters.files import parts
from adapters.layers import find_layers

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def of_pipelines(before: Any, after: Any, targets: str = "attention") -> Pairs:
    """Pair the matrices of a pipeline, or its denoiser, with those of one that was tuned from it.

    Parameters
    ----------
    targets
        ``attention``, ``ff`` or both, as `adapters.layers.parse_targets` gives them.

    Returns
    -------
    dict of str to (W₀, W)
        float64 (out, in), by the layer's name.

    Raises
    ------
    InputFault
        When the two have other layers or other shapes.
    """
    first, second = (_matrices(pipe, targets) for pipe in (before, after))
    if first.keys() != second.keys():
        other = sorted(first.keys() ^ second.keys())
        raise InputFault(f"the models differ in {len(other)} layers ({', '.join(other[:3])}); expected one backbone")
    for name, weight in first.items():
        if weight.shape != second[name].shape:
            raise InputFault(f"{name} is {weight.shape} in one model and {second[name].shape} in the other")
    return {name: (weight, second[name]) for name, weight in first.items()}


def of_folder(pipe: Any, folder: str | Path, targets: str = "attention") -> Pairs:
    """Pair the matrices of a pipeline with what they are with an adapter folder's weights.

    The pipeline is as before afterwards. Of a method that changes weights by an adapter, W is the merged weight.

    Raises
    ------
    InputFault
        As `adapters.load`; for a method that is no change of weights.
    """
    before = _matrices(pipe, targets)
    insertion = adapters.load(pipe, folder)
    try:
        merged = insertion.merged()
    finally:
        insertion.remove()
    return {
        name: (weight, _array(merged[f"{name}.weight"]) if f"{name}.weight" in merged else weight)
        for name, weight in before.items()
    }


def _matrices(pipe: Any, targets: str) -> dict[str, np.ndarray]:
    if "conv" in targets:
        raise InputFault(f"targets={targets}: a convolution's kernel is no matrix; expected attention, ff or both")
    denoiser, _ = parts(pipe)
    return {layer.name: _array(layer.module.weight) for layer in find_layers(denoiser, targets)}


def _array(weight: Tensor) -> np.ndarray:
    found: np.ndarray = weight.detach().cpu().double().numpy().copy()
    return found
