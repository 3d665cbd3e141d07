"""Scores of a set of generated pictures against a set of real ones, from their features; see docs/tasks.md.

FID and KID are torchmetrics'; improved precision and recall are not in it.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from study.randomness import stream_seed

NEIGHBOURS = 3
"""The k of precision and recall, as in the paper."""

SUBSETS = 100
HALF = 2
LARGEST_SUBSET = 1000


class _Given(nn.Module):
    """The feature extractor that torchmetrics asks for, where features are already there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(real: Tensor, generated: Tensor) -> float:
    """Fréchet distance between normal distributions with the means and covariances of two sets of features.

    With N pictures it is too high, on average, by about c/N, where c depends on the model (Chong & Forsyth 2020,
    1911.07023), so values compare at one N only.

    Parameters
    ----------
    real, generated : (N, D), (M, D); N and M at least 2.

    References
    ----------
    Heusel et al. (2017), GANs trained by a two time-scale update rule, 1706.08500.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_Given(real.shape[1])).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return max(0.0, float(metric.compute()))  # of equal sets rounding leaves -1e-12


class Kid(NamedTuple):
    """A kernel distance and its standard error."""

    value: float
    sd: float


def kid(real: Tensor, generated: Tensor) -> Kid:
    """Squared maximum mean discrepancy of two sets of features under the kernel (x·y/D + 1)³, without bias.

    The mean over 100 random subsets, of half the pictures of the smaller set each but at most 1000. Of halves, the
    standard deviation between subsets estimates the standard error of the whole (the delete-half jackknife, Shao & Wu
    1989), so value ± 1.96 sd is about a 95 % interval. The subsets are the same at every call.

    Parameters
    ----------
    real, generated : (N, D), (M, D); N and M at least 4.

    References
    ----------
    Bińkowski et al. (2018), Demystifying MMD GANs, 1801.01401.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save")
        size = min(LARGEST_SUBSET, min(len(real), len(generated)) // HALF)
        metric = KernelInceptionDistance(_Given(real.shape[1]), SUBSETS, size)
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(0, "", "subsets of the kernel distance"))
        value, sd = metric.compute()
    return Kid(float(value), float(sd))


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall: shares of generated features in the real manifold, and of real in the generated.

    A manifold is the union of balls about a set's features, each as wide as to its k-th neighbour in the set. Its
    size depends on the number of features, so both sets are cut to the smaller's.

    Parameters
    ----------
    real, generated : (N, D), (M, D); N and M above `neighbours`.

    References
    ----------
    Kynkäänniemi et al. (2019), Improved precision and recall metric for assessing generative models, 1904.06991.
    """
    count = min(len(real), len(generated))
    first, second = real[:count].double(), generated[:count].double()
    return _covered(second, first, neighbours), _covered(first, second, neighbours)


def _covered(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    """The share of points (N, D) that lie in the manifold of others (M, D)."""
    exact = "donot_use_mm_for_euclid_dist"  # the faster way loses half of the digits of near neighbours
    radius = torch.cdist(manifold, manifold, compute_mode=exact).kthvalue(neighbours + 1, dim=1).values
    return float((torch.cdist(points, manifold, compute_mode=exact) <= radius).any(1).double().mean())
