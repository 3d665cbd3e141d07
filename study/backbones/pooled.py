"""Text that comes with one vector for all of a prompt, carried as further tokens of the text.

So the vector goes wherever the text goes: repeated, cut into batches, put together and remembered.
"""

import torch
from torch import Tensor


def joined(text: Tensor, pooled: Tensor) -> Tensor:
    """Put vectors (N, P) behind texts (N, tokens, width), in as many tokens as they fill; the last is padded by 0."""
    width = text.shape[-1]
    padded = torch.nn.functional.pad(pooled.to(text.dtype), (0, -pooled.shape[-1] % width))
    return torch.cat([text, padded.unflatten(1, (-1, width))], dim=1)


def parted(context: Tensor, pooled: int) -> tuple[Tensor, Tensor]:
    """Give texts (N, tokens, width) and their vectors (N, pooled) from what `joined` gave."""
    tokens = -(-pooled // context.shape[-1])
    return context[:, :-tokens], context[:, -tokens:].flatten(1)[:, :pooled]
