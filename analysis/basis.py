"""Orthonormal bases of models: what one model has over another, and the leverage of rows.

Projections alone (:meth:`analysis.model.Space.residuals`) give sums of squares. Covariances that differ by row, and
thousands of permuted responses, need a basis; it is found at any rank, so empty cells are no special case.
"""

from __future__ import annotations

import numpy as np

from analysis.model import Design, Space

# A leverage this close to 1 means that the row alone decides one parameter, and its residual is rounding.
FULL_LEVERAGE = 1 - 1e-8


def beyond(large: Space, small: Space) -> np.ndarray:
    """Orthonormal columns (n, rank of large − rank of small) of what a model has over one that it contains."""
    sample, df = large.sample, large.rank - small.rank
    if df <= 0:
        return np.zeros((sample.n, 0))
    columns = []
    for term in large.terms:
        cells = sample.cells(term)
        for code in range(cells.count):
            column = (cells.codes == code).astype(float)
            columns.append(small.residuals(column / np.sqrt(column.sum())))
    own = np.column_stack(columns)
    values, vectors = np.linalg.eigh(own.T @ own)
    # Eigenvectors alone are orthonormal to rounding over the smallest eigenvalue; QR makes them so to rounding.
    return np.asarray(np.linalg.qr(own @ (vectors[:, -df:] / np.sqrt(values[-df:])))[0])


def whole(design: Design, space: Space) -> np.ndarray:
    """Orthonormal columns (n, rank) of a model, the mean included."""
    mean = np.full((design.sample.n, 1), design.sample.n**-0.5)
    return np.hstack([mean, beyond(space, design.space([]))])


def leverages(design: Design, space: Space) -> np.ndarray:
    """How much each row (n,) decides its own fitted value: the diagonal of the model's projection, 0 … 1."""
    return np.square(whole(design, space)).sum(axis=1)
