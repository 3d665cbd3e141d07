"""Method ``adapter``: a bottleneck that reads one position of every block and is added to another.

The design space of arXiv 2303.18181: input and output position, activation, scale and size. The function form follows
from the component: a bottleneck on transformer positions, a convolutional bottleneck on ResNet positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adapters import levels
from adapters.budget import Cost, Count, asked, bottleneck_cost, convolutional_cost, solve
from adapters.designs import backbone_parameters, refuse_unknown_keys
from adapters.faults import InputFault
from adapters.methods.sizes import size_or_budget
from adapters.positions import Block, blocks, check_pair, component

if TYPE_CHECKING:
    from torch import nn

    from adapters.edits.edit import Edit

ACTIVATIONS = ("relu", "sigmoid", "silu", "identity")
INITS = ("default", "zero_up")
KEYS = ("input", "output", "activation", "scale", "init", "width", "budget")


@dataclass(frozen=True)
class Adapter:
    """A position adapter.

    Attributes
    ----------
    input, output
        One of the 20 valid pairs (`adapters.positions.PAIRS`).
    activation
        relu, sigmoid, silu or identity.
    scale
        Factor on the bottleneck's output.
    init
        ``default``: PyTorch's, as the paper's code has it, so that the network is disturbed at step 0; ``zero_up``:
        the same with the last layer zero, so that it is not.
    width
        Bottleneck width of every block; or None, and then
    budget
        the share of the denoiser's parameters (float) or the number of parameters (int) that the widths must meet.
    """

    input: str
    output: str
    activation: str = "relu"
    scale: int | float = 1
    init: str = "default"
    width: int | None = None
    budget: int | float | None = None

    alone: ClassVar[bool] = False

    @classmethod
    def from_design(cls, design: Mapping[str, Any]) -> Adapter:
        """Validate a design.

        Raises
        ------
        InputFault
            For an unknown key or level, an invalid pair, or not exactly one of width and budget.
        """
        refuse_unknown_keys(design, KEYS)
        given = {key: value for key, value in design.items() if value is not None}
        if "input" not in given or "output" not in given:
            raise InputFault("method=adapter needs input and output, for instance input=CA_out, output=FFN_in")
        check_pair(given["input"], given["output"])
        activation = levels.level("activation", given.get("activation", "relu"), ACTIVATIONS)
        scale = levels.positive_number("scale", given.get("scale", 1))
        init = levels.level("init", given.get("init", "default"), INITS)
        return cls(given["input"], given["output"], activation, scale, init, *size_or_budget(given, "width"))

    def to_design(self) -> dict[str, Any]:
        """Give the canonical design."""
        size = {"width": self.width} if self.width is not None else {"budget": self.budget}
        return {
            "method": "adapter",
            "input": self.input,
            "output": self.output,
            "activation": self.activation,
            "scale": self.scale,
            "init": self.init,
            **size,
        }

    def count(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> Count:
        """Count the adapters' parameters in closed form."""
        costs = self._costs(blocks(denoiser, self.input, self.output))
        backbone = backbone_parameters(denoiser)
        budget = asked(self.budget, backbone)
        widths = self._widths(costs, budget)
        trainable = sum(cost.at(width) for cost, width in zip(costs, widths, strict=True))
        return Count(trainable, backbone, widths=widths, budget_asked=budget)

    def edits(self, denoiser: nn.Module, text_encoder: nn.Module | None = None) -> list[Edit]:
        """Compile to one branch a block."""
        from adapters.edits.branch import Branch
        from adapters.forms import Bottleneck, ConvolutionalBottleneck

        found = blocks(denoiser, self.input, self.output)
        widths = self._widths(self._costs(found), asked(self.budget, backbone_parameters(denoiser)))
        edits: list[Edit] = []
        for block, width in zip(found, widths, strict=True):
            form: Bottleneck | ConvolutionalBottleneck
            if component(self.input) == "resnet":
                form = ConvolutionalBottleneck(
                    block.read, block.write, width, self.activation, self.scale, self.init, block.groups
                )
            else:
                form = Bottleneck(block.read, block.write, width, self.activation, self.scale, self.init)
            edits.append(Branch(block, self.input, self.output, form))
        return edits

    def _costs(self, found: list[Block]) -> list[Cost]:
        cost = convolutional_cost if component(self.input) == "resnet" else bottleneck_cost
        return [cost(block.read, block.write) for block in found]

    def _widths(self, costs: list[Cost], budget: int | None) -> tuple[int, ...]:
        if budget is None:
            assert self.width is not None  # from_design: exactly one of the two
            return (self.width,) * len(costs)
        return solve(costs, budget)
