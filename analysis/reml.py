"""Restricted maximum likelihood for models with crossed random intercepts, and Satterthwaite's degrees of freedom.

The model is y = Xβ + Σᵢ Zᵢuᵢ + e with independent uᵢ ~ N(0, σᵢ²) and e ~ N(0, σ²). As in lme4 (Bates et al. 2015, J.
Stat. Softw. 67(1)), σ² is profiled out and the criterion minimised over the ratios γᵢ = σᵢ²/σ² ≥ 0. All algebra is on
matrices of the random levels' size (Woodbury): with A = Z'(I − XX')Z and D the ratios, only I + D^½ A D^½ is ever
factorised. Once the rows are summed up, the cost does not depend on how many there are.

Nothing here knows columns or names: `analysis.mixed_model` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack

# A relative standard deviation (σᵢ/σ) below which a variance counts as 0, as lme4's isSingular does.
_SINGULAR = 1e-4
_STARTS = (1.0, 0.1)
# Ratios beyond this mean that the residual is 0 for all that rounding lets one see.
_LARGEST = 1e12


class NoResidual(Exception):
    """The residual variance tends to 0, so that the criterion has no minimum."""


@dataclass(frozen=True)
class _Point:
    """The criterion at some ratios, with what its derivatives are made of.

    With P the matrix for which y'Py is the residual sum of squares of generalised least squares (σ² = 1): `size` is
    y'Py, `inner` Z'PZ and `score` Z'Py.
    """

    ratios: np.ndarray
    value: float
    size: float
    inner: np.ndarray
    score: np.ndarray


class Reml:
    """The fit.

    Parameters
    ----------
    y : array (n,)
        The response.
    x : array (n, p)
        Orthonormal columns of the fixed effects, the mean among the space they span.
    codes : sequence of int arrays (n,)
        For each random term the level of every row, 0 … counts − 1.
    counts : sequence of int
        Number of levels of each random term.

    Attributes
    ----------
    variances : array (m + 1,)
        Of the random terms, then of the residual. One at its boundary is exactly 0.
    criterion : float
        −2 log of the restricted likelihood of orthonormal error contrasts. lme4 adds log|X'X| of its coding of the
        fixed effects, which does not depend on the variances.
    df : int
        n − p.
    """

    def __init__(self, y: np.ndarray, x: np.ndarray, codes: Sequence[np.ndarray], counts: Sequence[int]) -> None:
        self.n, self.p = x.shape
        self.df = self.n - self.p
        self._x = x
        self._ends = np.cumsum([0, *counts])
        self._of = np.repeat(np.arange(len(counts)), counts)
        ones, rows = np.ones(self.n), np.arange(self.n)
        parts = [csr_array((ones, (rows, c)), shape=(self.n, k)) for c, k in zip(codes, counts, strict=True)]
        self._z = csr_array(hstack(parts)) if parts else csr_array((self.n, 0))
        self._zx = self._z.T @ x
        self._zz = (self._z.T @ self._z).toarray()
        self._inside = self._zz - self._zx @ self._zx.T
        self._first = x.T @ y
        self._left = y - x @ self._first
        again = x.T @ self._left  # what rounding left of the fixed effects
        self._first, self._left = self._first + again, self._left - x @ again
        self._right = self._z.T @ self._left
        self._best: _Point | None = None

    @property
    def terms(self) -> int:
        """Number of random terms."""
        return len(self._ends) - 1

    @property
    def residual_sum_sq(self) -> float:
        """Sum of squares that ordinary least squares leaves, the random terms ignored."""
        return float(self._left @ self._left)

    def overlap(self) -> np.ndarray:
        """How alike the covariances of the random terms and the residual are, fixed effects taken out.

        Returns
        -------
        array (m + 1, m + 1)
            Inner products of the covariance matrices, tr(PVᵢPVⱼ) at ratios 0; singular if and only if the rows cannot
            tell the variances apart.
        """
        out = self._squares(self._inside)
        traces = self._traces(self._inside)
        return np.block([[out, traces[:, None]], [traces[None, :], np.full((1, 1), float(self.df))]])

    def fit(self, near: np.ndarray | None = None) -> Reml:
        """Minimise the criterion; returns itself.

        Parameters
        ----------
        near : array (m + 1,), optional
            Variances known to be near the best, which saves the search for them; negative ones count as 0.

        Raises
        ------
        NoResidual
            The residual variance tends to 0, so that there is no minimum.
        """
        free = np.ones(self.terms, dtype=bool)
        if near is not None and near[-1] > 0:
            self._best = self._newton(self._at(np.maximum(near[:-1] / near[-1], 0.0)), free)
            return self
        starts = [np.full(self.terms, s) for s in (_STARTS if self.terms else (0.0,))]
        self._best = min((self._minimise(s, free) for s in starts), key=lambda p: p.value)
        return self

    @property
    def best(self) -> _Point:
        """The fitted point."""
        if self._best is None:
            raise RuntimeError("fit() comes first")
        return self._best

    @property
    def criterion(self) -> float:
        """As the class says."""
        return self.best.value

    @property
    def sigma_sq(self) -> float:
        """The residual variance."""
        return self.best.size / self.df

    @property
    def variances(self) -> np.ndarray:
        """As the class says."""
        return self.sigma_sq * np.append(self.best.ratios, 1.0)

    @property
    def active(self) -> np.ndarray:
        """Which random terms have a variance above 0: bool (m,)."""
        return self.best.ratios > 0

    def criterion_without(self, term: int) -> float:
        """Criterion of the model without a random term."""
        free = np.arange(self.terms) != term
        start = np.where(free, np.sqrt(np.maximum(self.best.ratios, 0.01)), 0.0)
        return self._minimise(start, free).value

    def _at(self, ratios: np.ndarray) -> _Point:
        root = np.sqrt(ratios)[self._of]
        on = np.flatnonzero(root)
        half = root[on]
        inner = np.eye(len(on)) + half[:, None] * self._inside[np.ix_(on, on)] * half
        lower = np.linalg.cholesky(inner)
        wide = solve_triangular(lower, half[:, None] * self._inside[on], lower=True, check_finite=False)
        effects = solve_triangular(lower, half * self._right[on], lower=True, check_finite=False)
        score = self._right - wide.T @ effects
        pulled = ratios[self._of] * score
        # Sums of squares only, since y'y − explained loses its digits when the random terms explain nearly all.
        errors = self._left - (self._z @ pulled - self._x @ (self._zx.T @ pulled))
        size = float(errors @ errors + pulled @ score)
        value = 2 * np.log(np.diag(lower)).sum() + self.df * (1 + np.log(2 * np.pi * size / self.df))
        return _Point(ratios, float(value), size, self._inside - wide.T @ wide, score)

    def _gradient(self, point: _Point) -> np.ndarray:
        return self._traces(point.inner) - self.df * self._sums(np.square(point.score)) / point.size

    def _hessian(self, point: _Point) -> np.ndarray:
        own = self._sums(np.square(point.score)) / point.size
        cross = self._sums(self._sums(point.score[:, None] * point.inner * point.score).T) / point.size
        return -self._squares(point.inner) + self.df * (2 * cross - np.outer(own, own))

    def _minimise(self, start: np.ndarray, free: np.ndarray) -> _Point:
        """Search over relative standard deviations, then Newton steps in the ratios, where 0 is no stationary point."""

        def both(root: np.ndarray) -> tuple[float, np.ndarray]:
            point = self._at(np.square(root))
            return point.value, 2 * root * self._gradient(point)

        if not free.any():
            return self._at(np.zeros(self.terms))
        bounds = [(0.0, np.sqrt(_LARGEST) if f else 0.0) for f in free]
        found = minimize(both, np.where(free, start, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
        ratios = np.where(found.x > _SINGULAR, np.square(found.x), 0.0)
        return self._newton(self._at(ratios), free)

    def _newton(self, point: _Point, free: np.ndarray) -> _Point:
        for _ in range(100):
            gradient = self._gradient(point)
            on = free & ((point.ratios > 0) | (gradient < 0))
            if not on.any():
                break
            hessian = self._hessian(point)[np.ix_(on, on)]
            scale = np.sqrt(np.abs(np.diag(hessian))) + 1e-300
            values, vectors = np.linalg.eigh(hessian / scale[:, None] / scale)
            # Where the criterion is not convex, the step still goes down.
            values = np.maximum(np.abs(values), 1e-8)
            step = np.zeros(self.terms)
            step[on] = -(vectors @ ((vectors.T @ (gradient[on] / scale)) / values)) / scale
            if -(step @ gradient) < 1e-12:
                break
            better = self._downhill(point, step)
            if better is None:
                break
            point = better
        if (point.ratios > _LARGEST / 100).any():
            raise NoResidual
        tiny = (point.ratios > 0) & (point.ratios < _SINGULAR**2)
        return self._at(np.where(tiny, 0.0, point.ratios)) if tiny.any() else point

    def _downhill(self, point: _Point, step: np.ndarray) -> _Point | None:
        for k in range(40):
            trial = np.maximum(point.ratios + step / 2**k, 0.0)
            if (trial > _LARGEST).any():
                continue
            other = self._at(trial)
            if other.value < point.value:
                return other
        return None

    def covariance_of_variances(self) -> np.ndarray:
        """Asymptotic covariance (m + 1, m + 1) of the variances, from the observed information; 0 at a boundary.

        Directions in which the criterion is flat or falls are left out, as lmerTest does.
        """
        point, sigma_sq = self.best, self.sigma_sq
        ratios = point.ratios
        on = np.append(self.active, True)
        inner, score = point.inner, point.score
        pulled = ratios[self._of] * score
        twice = inner - (inner * ratios[self._of]) @ inner  # Z'PPZ
        again = score - inner @ pulled  # Z'PPy
        trace = np.zeros((self.terms + 1, self.terms + 1))
        slope = np.zeros_like(trace)
        trace[:-1, :-1] = self._squares(inner)
        trace[:-1, -1] = trace[-1, :-1] = self._traces(twice)
        trace[-1, -1] = self.df - ratios @ self._traces(inner) - ratios @ trace[:-1, -1]
        slope[:-1, :-1] = self._sums(self._sums(score[:, None] * inner * score).T)
        slope[:-1, -1] = slope[-1, :-1] = self._sums(score * again)
        slope[-1, -1] = point.size - pulled @ score - pulled @ again
        hessian = (2 * slope / sigma_sq - trace) / sigma_sq**2
        scale = np.sqrt(np.abs(np.diag(hessian)))[on]
        values, vectors = np.linalg.eigh(hessian[np.ix_(on, on)] / scale[:, None] / scale)
        keep = values > 1e-8
        inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T / scale[:, None] / scale
        out = np.zeros_like(trace)
        out[np.ix_(on, on)] = 2 * inverse
        return out

    def functions(self, rows: np.ndarray) -> Functions:
        """Estimate linear functions of the fixed effects.

        Parameters
        ----------
        rows : array (k, n)
            The functions, as weights of the rows' expectations.
        """
        ratios = self.best.ratios
        root = np.sqrt(ratios)[self._of]
        on = np.flatnonzero(root)
        half = root[on]
        lower = np.linalg.cholesky(np.eye(len(on)) + half[:, None] * self._zz[np.ix_(on, on)] * half)
        wide = solve_triangular(lower, half[:, None] * self._zx[on], lower=True, check_finite=False)
        covariance = np.linalg.inv(np.eye(self.p) - wide.T @ wide)
        effects = solve_triangular(lower, half * self._right[on], lower=True, check_finite=False)
        beta = self._first - covariance @ (wide.T @ effects)
        back = solve_triangular(lower, half[:, None] * self._zz[on], lower=True, check_finite=False)
        whitened = (self._zx - back.T @ wide) @ covariance  # Z'V⁻¹X(X'V⁻¹X)⁻¹
        weights = rows @ self._x
        known = weights @ covariance @ weights.T
        parts = [whitened[a:b] @ weights.T for a, b in zip(self._ends[:-1], self._ends[1:], strict=True)]
        slopes = [part.T @ part for part in parts]
        slopes.append(known - sum((r * s for r, s in zip(ratios, slopes, strict=True)), np.zeros_like(known)))
        return Functions(weights @ beta, self.sigma_sq * known, np.stack(slopes), self.covariance_of_variances())

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over each term's levels, along the first axis."""
        out = np.zeros((self.terms, *values.shape[1:]))
        for k, (a, b) in enumerate(zip(self._ends[:-1], self._ends[1:], strict=True)):
            out[k] = values[a:b].sum(axis=0)
        return out

    def _traces(self, matrix: np.ndarray) -> np.ndarray:
        return self._sums(np.diag(matrix))

    def _squares(self, matrix: np.ndarray) -> np.ndarray:
        """Sums of squares of the blocks of a matrix of the random levels: (m, m)."""
        return self._sums(self._sums(np.square(matrix)).T)


@dataclass(frozen=True)
class Functions:
    """Estimated linear functions of the fixed effects.

    Attributes
    ----------
    value : array (k,)
    covariance : array (k, k)
    slopes : array (m + 1, k, k)
        Derivatives of `covariance` by the variances of the random terms and the residual.
    covariance_of_variances : array (m + 1, m + 1)
    """

    value: np.ndarray
    covariance: np.ndarray
    slopes: np.ndarray
    covariance_of_variances: np.ndarray

    def df(self, directions: np.ndarray) -> np.ndarray:
        """Satterthwaite's degrees of freedom of the functions combined by `directions` (k, j): (j,).

        2v²/Var(v), where v is the estimated variance and Var(v) = g'Cg with its gradient g by the variances and their
        covariance C (Giesbrecht & Burns 1985, Biometrics 41, 477–486).
        """
        v = np.einsum("kj,kl,lj->j", directions, self.covariance, directions)
        gradient = np.einsum("kj,mkl,lj->mj", directions, self.slopes, directions)
        spread = np.einsum("mj,mo,oj->j", gradient, self.covariance_of_variances, gradient)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 2 * np.square(v) / spread

    def f_test(self) -> tuple[float, int, float]:
        """F of the hypothesis that all functions are 0, with its numerator and denominator degrees of freedom.

        The functions are made independent by the eigenvectors of their covariance, and F's mean is matched to that of
        the sum of their squared t (Fai & Cornelius 1996, J. Stat. Comput. Simul. 54, 363–378), as lmerTest does
        (Kuznetsova et al. 2017, J. Stat. Softw. 82(13)). Functions that depend on each other count once.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        keep = values > 1e-8 * values[-1]
        values, vectors = values[keep], vectors[:, keep]
        squared_t = np.square(vectors.T @ self.value) / values
        return float(squared_t.mean()), len(values), _joint_df(self.df(vectors))


def _joint_df(each: np.ndarray) -> float:
    if len(each) == 1 or np.ptp(each) < 1e-8:
        return float(each.mean())
    if (each <= 2).any():
        return 2.0
    mean = float((each / (each - 2)).sum())
    return 2 * mean / (mean - len(each))
