"""The denoiser's own parameters that some methods train, chosen by the type of the module that holds them.

Never by a substring of a name: diffusers' DiT keeps embedders under names with "norm", 300.9 M parameters of XL/2.
No torch at import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from adapters.layers import attentions

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit


def biases(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Give the biases of linear, convolutional and normalisation layers by full name."""
    from torch import nn

    kinds = (nn.Linear, nn.modules.conv._ConvNd, *_norms())
    return _held(denoiser, lambda module, name: name == "bias" and isinstance(module, kinds))


def norm_weights(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Give the affine weights of normalisation layers by full name."""
    kinds = _norms()
    return _held(denoiser, lambda module, name: name == "weight" and isinstance(module, kinds))


def class_embedders(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Give the tables of class embeddings by full name; tables of timesteps and of places are none."""
    from diffusers.models.embeddings import ImagePositionalEmbeddings
    from diffusers.models.normalization import AdaLayerNorm
    from torch import nn

    others = {
        id(table)
        for module in denoiser.modules()
        if isinstance(module, AdaLayerNorm | ImagePositionalEmbeddings)
        for table in module.children()
    }
    return _held(denoiser, lambda module, name: isinstance(module, nn.Embedding) and id(module) not in others)


def own_edits(denoiser: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[Edit]:
    """Compile to one edit a parameter, in their order.

    Parameters
    ----------
    denoiser
        The denoiser.
    parameters
        Biases, weights of norms and class embedders, as the functions above give them.
    """
    from torch import nn

    from adapters.edits.own import Bias, NormWeight, Table

    holders: dict[int, list[nn.Module]] = {}
    for module in denoiser.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(module)
    edits: list[Edit] = []
    for name, parameter in parameters.items():
        modules = holders[id(parameter)]
        weight = Table if isinstance(modules[0], nn.Embedding) else NormWeight
        kind = Bias if name.rpartition(".")[2] == "bias" else weight
        edits.append(kind(name, parameter, modules))
    return edits


def of_attentions(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Give all parameters of all attentions by full name."""
    return only(denoiser, (parameter for _, module in attentions(denoiser) for parameter in module.parameters()))


def only(denoiser: nn.Module, parameters: Iterable[nn.Parameter]) -> dict[str, nn.Parameter]:
    """Give some of a denoiser's parameters by full name, in its order, each once."""
    wanted = {id(parameter) for parameter in parameters}
    return {name: parameter for name, parameter in denoiser.named_parameters() if id(parameter) in wanted}


def _held(denoiser: nn.Module, wanted: Callable[[nn.Module, str], bool]) -> dict[str, nn.Parameter]:
    """Give the parameters for which `wanted` holds of the module that holds them and their name in it."""
    return only(
        denoiser,
        (
            parameter
            for module in denoiser.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if wanted(module, name)
        ),
    )


def _norms() -> tuple[type[nn.Module], ...]:
    from diffusers.models.normalization import MochiRMSNorm, RMSNorm
    from torch import nn

    batch = nn.modules.batchnorm._NormBase
    return nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, batch, RMSNorm, MochiRMSNorm
