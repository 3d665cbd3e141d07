"""FID, KID, precision and recall against the formulas of their papers, written here anew in numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from study.distributions import fid, kid, precision_recall


def features(count, width=6, seed=0, shift=0.0):
    drawn = np.random.default_rng(seed).normal(shift, 1, (count, width))
    return torch.from_numpy(drawn @ np.diag(np.linspace(0.5, 2, width))).float()


def frechet(real, generated):
    """Heusel et al. 2017, eq. 6: |m - n|² + Tr(C + D - 2 (C D)^½)."""
    real, generated = real.double().numpy(), generated.double().numpy()
    c, d = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    away = np.square(real.mean(0) - generated.mean(0)).sum()
    return away + np.trace(c + d - 2 * sqrtm(c @ d).real)


def mmd(real, generated):
    """Bińkowski et al. 2018, eq. 4, with the kernel (x·y/D + 1)³: the U-statistic, without bias."""
    x, y = real.double().numpy(), generated.double().numpy()
    width = x.shape[1]

    def kernel(a, b):
        return (a @ b.T / width + 1) ** 3

    m, n = len(x), len(y)
    own = (kernel(x, x).sum() - np.trace(kernel(x, x))) / (m * (m - 1))
    other = (kernel(y, y).sum() - np.trace(kernel(y, y))) / (n * (n - 1))
    return own + other - 2 * kernel(x, y).mean()


@pytest.mark.parametrize(("count", "width"), [(200, 6), (60, 32), (12, 32)])
def test_fid_is_that_of_the_formula_and_with_fewer_pictures_than_features_too(count, width):
    real, generated = features(count + 7, width), features(count, width, 1, 0.3)
    assert fid(real, generated) == pytest.approx(frechet(real, generated), rel=1e-6)
    assert fid(real, real) == pytest.approx(0, abs=1e-4)


def test_kid_of_one_subset_is_that_of_the_formula(monkeypatch):
    real, generated = features(40), features(40, seed=1, shift=0.3)
    # Subsets of all pictures are all pictures, whatever their order.
    monkeypatch.setattr("study.distributions.SUBSETS", 1)
    monkeypatch.setattr("study.distributions.HALF", 1)
    assert kid(real, generated).value == pytest.approx(mmd(real, generated), rel=1e-9)


def test_kid_is_the_mean_over_subsets_and_their_spread_is_its_standard_error():
    real, generated = features(120, seed=5), features(60, seed=6, shift=0.2)
    found = kid(real, generated)
    state = torch.get_rng_state()
    assert found == kid(real, generated)
    assert torch.equal(state, torch.get_rng_state())  # the streams of others go on as they were
    assert found.value == pytest.approx(mmd(real, generated), abs=found.sd)
    # Oracle: the standard deviation of the statistic over samples drawn anew; the estimate errs to the large side,
    # since subsets of the larger set are less than its half.
    pairs = [(features(120, seed=100 + 2 * n), features(60, seed=101 + 2 * n, shift=0.2)) for n in range(80)]
    spread = np.std([mmd(*pair) for pair in pairs], ddof=1)
    assert 0.7 * spread < np.mean([kid(*pair).sd for pair in pairs[:10]]) < 1.7 * spread


def test_kid_has_no_bias_where_fid_has():
    """Two samples of one distribution: KID is 0 on average; FID is not, and falls with their number."""
    pairs = [(features(40, seed=2 * n), features(40, seed=2 * n + 1)) for n in range(30)]
    values = [kid(*pair).value for pair in pairs]
    assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / np.sqrt(len(values))
    small = np.mean([fid(*pair) for pair in pairs])
    large = np.mean([fid(features(400, seed=2 * n), features(400, seed=2 * n + 1)) for n in range(5)])
    assert small > 5 * large > 0


def covered(points, manifold, k):
    """Kynkäänniemi et al. 2019, eq. 1 and 2: points in a ball about a feature that goes to its k-th neighbour."""
    radii = [sorted(np.linalg.norm(manifold - centre, axis=1))[k] for centre in manifold]
    return np.mean([(np.linalg.norm(manifold - point, axis=1) <= radii).any() for point in points])


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_precision_and_recall_are_those_of_a_search_of_all_pairs(shift):
    real, generated = features(70, seed=2), features(60, seed=3, shift=shift)
    precision, recall = precision_recall(real, generated)
    x, y = real[:60].double().numpy(), generated.double().numpy()
    assert precision == pytest.approx(covered(y, x, 3), abs=1e-6)
    assert recall == pytest.approx(covered(x, y, 3), abs=1e-6)


def test_precision_and_recall_tell_what_is_missing():
    real = torch.cat([features(50, seed=1), features(50, seed=2, shift=20)])[torch.randperm(100)]
    one_mode = features(100, seed=3)
    precision, recall = precision_recall(real, one_mode)
    assert precision > 0.8 and 0.3 < recall < 0.6
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, features(100, seed=4, shift=-50)) == (0, 0)
