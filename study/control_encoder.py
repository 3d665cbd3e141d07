"""The encoder of control maps, trained beside a design: what it makes of a map is added to the first features.

So a map is followed by a model that never saw one, as with the small encoder of OFT's control experiments (2306.07280);
`study.conditioning` adds it.
The last layer starts at zero, so training starts at the model as it was. Its weights lie in an adapter folder's
`control.safetensors`; widths and strides follow from the shapes in there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from adapters.faults import InputFault
from adapters.files import DESCRIPTION, WEIGHTS, read_weights, save

FILE = "control.safetensors"
PARTS = {DESCRIPTION, WEIGHTS, FILE}
"""Files of an adapter folder."""

WIDTH, MOST = 16, 32
"""Channels of the first layer, and of the wider ones after it."""


class ControlEncoder(nn.Module):
    """Maps (N, 3, H, W), uint8, to (N, channels, H / 2^halvings, W / 2^halvings); zero before it is trained.

    A convolution at the maps' size, one of stride 2 for every halving, one more, and one that starts at zero, all of
    3 x 3 and SiLU between them: ControlNet's encoder of conditions (2302.05543), narrower.

    Parameters
    ----------
    channels : of the denoiser's first features.
    halvings : how often the autoencoder halves a picture.
    generator : draws the weights (He et al. 2015); None leaves them to be loaded.
    """

    def __init__(self, channels: int, halvings: int, generator: Generator | None = None) -> None:
        super().__init__()
        widths = [3, WIDTH, *[MOST] * (halvings + 1)]
        strides = [1, *[2] * halvings, 1]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride, 1)
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
            else:
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.last.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Give what is added to the first features."""
        features = maps.to(self.last.weight.dtype) / 255
        for layer in self.layers:
            features = nn.functional.silu(layer(features))
        return self.last(features)


def save_encoder(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write an encoder's weights into an adapter folder."""
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / FILE)


def save_adapter(
    folder: Path,
    design: Mapping[str, Any],
    state: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    encoder: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter folder as `adapters.save` does, with the encoder that was trained beside it, if one was.

    Its metadata then have `control`. The description is written last, so that a folder with one is whole.
    """
    if encoder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save_encoder(folder, encoder)
        metadata = {**metadata, "control": True}
    save(folder, design, state, metadata)


def load_encoder(folder: Path, channels: int, halvings: int) -> ControlEncoder:
    """Read the encoder of an adapter folder that follows maps, in float32.

    Raises
    ------
    InputFault : the file is missing, damaged, or is for another backbone.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputFault(f"{path} is missing; an adapter that follows control maps has its encoder there")
    encoder = ControlEncoder(channels, halvings)
    expected = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    try:
        encoder.load_state_dict(read_weights(path, expected))
    except InputFault as fault:
        raise InputFault(
            f"{path} is not what a denoiser of {channels} first features, and pictures halved {halvings} times, need: "
            f"{fault}"
        ) from fault
    return encoder
