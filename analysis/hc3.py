"""Wald tests with a covariance that lets every row have a spread of its own (HC3), at any rank.

The squared residual of a row, over (1 − leverage)², stands for its variance (MacKinnon & White 1985, Journal of
Econometrics 29, 305–325; Long & Ervin 2000, The American Statistician 54, 217–224). No coefficients are needed: what
the model has over a smaller one gets an orthonormal basis, and the response's coordinates in it are tested.
"""

from __future__ import annotations

import numpy as np

from analysis.basis import FULL_LEVERAGE, beyond, leverages
from analysis.model import Design, Space

# A covariance whose smallest eigenvalue is this much smaller than the largest has no inverse worth its name.
_SINGULAR = 1e-12


class Wald:
    """The Wald statistics of a model.

    Parameters
    ----------
    full
        The model whose residuals are used.
    y
        The response (n,), centred.
    """

    def __init__(self, design: Design, full: Space, y: np.ndarray) -> None:
        self.full, self.y = full, y
        leverage = leverages(design, full)
        self._alone = leverage > FULL_LEVERAGE
        self._errors = np.divide(full.residuals(y), 1 - leverage, out=np.zeros_like(y), where=~self._alone)

    def F(self, small: Space, large: Space) -> tuple[float | None, str]:
        """F of what `large` has over `small`, or None and why there is none.

        The difference of the Wald statistics of the full model against `small` and against `large`, over the
        difference of their ranks.
        """
        df = large.rank - small.rank
        if not df:
            return None, ""
        below, reason = self._statistic(small)
        if below is None:
            return None, reason
        above, reason = self._statistic(large)
        return (None, reason) if above is None else (max(0.0, below - above) / df, "")

    def _statistic(self, small: Space) -> tuple[float | None, str]:
        basis = beyond(self.full, small)
        if not basis.shape[1]:
            return 0.0, ""
        alone = int((np.square(basis[self._alone]).sum(axis=1) > 1e-8).sum())
        if alone:
            rows = "row decides a parameter" if alone == 1 else "rows each decide a parameter"
            return None, f"no HC3, since {alone} {rows} alone (leverage 1) and so show no error"
        weighted = basis * self._errors[:, None]
        covariance = weighted.T @ weighted
        values = np.linalg.eigvalsh(covariance)
        if values[0] <= _SINGULAR * values[-1]:
            return None, "no HC3, since the residuals are too few or too equal for a covariance of their own"
        effect = basis.T @ self.y
        return float(effect @ np.linalg.solve(covariance, effect)), ""
