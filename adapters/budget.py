"""Parameters in closed form, and the widths that meet a budget. No torch.

A bottleneck costs ``width · slope + constant`` parameters, so a budget is met by widths that differ by at most one
between blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

TOLERANCE = 0.03  # a realised budget further than this share from the asked one is flagged


@dataclass(frozen=True)
class Cost:
    """Parameters of one block's form: ``slope · width + constant``."""

    slope: int
    constant: int

    def at(self, width: int) -> int:
        """Give the number of parameters at a width."""
        return self.slope * width + self.constant


@dataclass(frozen=True)
class Count:
    """What a design trains on a denoiser.

    Attributes
    ----------
    trainable
        Parameters trained.
    backbone
        Parameters of the denoiser.
    widths
        Bottleneck width of every block, in module order; empty for methods without widths.
    resolved
        The size that met the budget or was given, by its key (``rank``, ``a1`` and ``a2``, …); empty for widths and for
        methods of a fixed size.
    budget_asked
        Parameters asked for, or None where the design gives no budget.
    """

    trainable: int
    backbone: int
    widths: tuple[int, ...] = ()
    resolved: Mapping[str, int] = field(default_factory=dict)
    budget_asked: int | None = None

    @property
    def ratio(self) -> float:
        """Trained parameters over the denoiser's."""
        return self.trainable / self.backbone

    @property
    def budget_met(self) -> bool:
        """False where a budget was asked and what is trained is further than 3 % from it."""
        return self.budget_asked is None or abs(self.trainable - self.budget_asked) <= TOLERANCE * self.budget_asked


def bottleneck_cost(read: int, write: int) -> Cost:
    """Count ``Linear(read, m)`` and ``Linear(m, write)``, biases included."""
    return Cost(read + write + 1, write)


def convolutional_cost(read: int, write: int) -> Cost:
    """Count ``GroupNorm(read)``, ``Conv3x3(read, m)`` and ``Conv3x3(m, write)``, biases included."""
    return Cost(9 * (read + write) + 1, 2 * read + write)


def solve(costs: Sequence[Cost], budget: int) -> tuple[int, ...]:
    """Find the widths whose parameters come closest to a budget.

    Every block gets the largest common width that fits (at least 1), and a subset of the blocks gets one more: the
    subset whose extra parameters come closest to what is left over. It is found exactly, by the sums that subsets of
    the first 0, 1, 2, … blocks can reach (bit s of an integer stands for the sum s). Ties go to the smaller sum and
    to earlier blocks, so the answer is one.

    Parameters
    ----------
    costs
        One per block.
    budget
        Parameters of all blocks together.

    Returns
    -------
    tuple of int
        A width per block, of at most two adjacent values, all at least 1.
    """
    fixed, step = sum(cost.constant for cost in costs), sum(cost.slope for cost in costs)
    common = max(1, (budget - fixed) // step)
    widths = [common] * len(costs)
    left = budget - sum(cost.at(common) for cost in costs)
    if left <= 0:
        return tuple(widths)
    reachable = [1]
    for cost in costs:
        reachable.append(reachable[-1] | reachable[-1] << cost.slope)
    below = (reachable[-1] & ((1 << (left + 1)) - 1)).bit_length() - 1
    higher = reachable[-1] >> left
    above = left + (higher & -higher).bit_length() - 1
    extra = below if left - below <= above - left else above
    for index in reversed(range(len(costs))):
        if not reachable[index] >> extra & 1:
            widths[index] += 1
            extra -= costs[index].slope
    return tuple(widths)


def nearest(candidates: Iterable[int], parameters: Callable[[int], int], budget: int) -> int:
    """Find the size whose parameters come closest to a budget; of equals the one tried first.

    Raises
    ------
    ValueError
        When there are no candidates.
    """
    return min(candidates, key=lambda size: abs(parameters(size) - budget))


def nearest_rank(parameters: Callable[[int], int], budget: int) -> int:
    """Find the whole number of at least 1 whose parameters, which must grow with it, come closest to a budget."""
    high = 1
    while parameters(high) < budget:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) < budget else (low, middle)
    return nearest((size for size in (low, high) if size >= 1), parameters, budget)


def asked(budget: int | float | None, backbone: int) -> int | None:
    """Turn a budget into parameters: a share (float) of the denoiser's, or a number (int) as it is."""
    return round(budget * backbone) if isinstance(budget, float) else budget
