"""Greenhouse and Geisser's ε: how far variances of effects from block to block are from equal.

A term with several degrees of freedom that is tested against its interaction with blocks follows F only if all
contrasts of it vary equally from block to block. ε (1/df … 1) is estimated from the blocks' own effects, and both
degrees of freedom of F are multiplied by it (Greenhouse & Geisser 1959, Psychometrika 24, 95–112).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.model import Design, Space, Term, contains
from analysis.sample import Sample

_RANK = 1e-9


def epsilon(
    design: Design, y: np.ndarray, term: Term, small: Space, df: int, declared: Sequence[Term], block: Term
) -> float | None:
    """Estimate ε of a term.

    Parameters
    ----------
    y
        The response (n,), centred.
    small
        The model that the term is compared with; the term adds `df` dimensions to it.
    declared
        The terms of the model without their interactions with the block.
    block
        The block; its cells are the blocks.

    Returns
    -------
    float or None
        None where it cannot be estimated: a block lacks cells that the term's effects need, or there are fewer blocks
        than degrees of freedom and one.
    """
    found = design.once(
        ("sphericity", term, small.terms, block, tuple(declared)),
        lambda: _projections(design.sample, term, small, df, declared, block),
    )
    if found is None:
        return None
    parts, groups = found
    effects = np.stack([projection @ y[rows] for rows, projection in parts])
    effects -= groups @ (groups.T @ effects)
    covariance = effects.T @ effects
    return float(np.trace(covariance) ** 2 / (df * np.square(covariance).sum()))


def _projections(
    sample: Sample, term: Term, small: Space, df: int, declared: Sequence[Term], block: Term
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray] | None:
    """Give each block's rows and the matrix (df, rows) of the term's effects there, and what differs between blocks.

    None where a block does not determine the effects.
    """
    blocks = sample.cells(block)
    groups = _between(sample, term, declared, block)
    if blocks.count - groups.shape[1] < df:
        return None
    basis = _basis(sample, term, small, df)
    inside = [each for each in declared if not contains(each, term) and not set(each) <= set(block)]
    parts = []
    for number in range(blocks.count):
        rows = np.flatnonzero(blocks.codes == number)
        space = Design(_part(sample, rows)).space(inside)
        own = np.column_stack([space.residuals(column) for column in basis[rows].T])
        gram = own.T @ own
        values = np.linalg.eigvalsh(gram)
        if values[0] <= _RANK * max(values[-1], 1e-300):
            return None
        parts.append((rows, np.linalg.solve(gram, own.T)))
    return parts, groups


def _basis(sample: Sample, term: Term, small: Space, df: int) -> np.ndarray:
    """Orthonormal columns (n, df) of what a term adds to a model."""
    cells = sample.cells(term)
    own = np.column_stack([small.residuals((cells.codes == k).astype(float)) for k in range(cells.count)])
    values, vectors = np.linalg.eigh(own.T @ own)
    return own @ (vectors[:, -df:] / np.sqrt(values[-df:]))


def _part(sample: Sample, rows: np.ndarray) -> Sample:
    codes = {column: values[rows] for column, values in sample.codes.items()}
    return replace(sample, y=sample.y[rows], codes=codes, _cells={})


def _between(sample: Sample, term: Term, declared: Sequence[Term], block: Term) -> np.ndarray:
    """Orthonormal columns (blocks, k) of what differs between blocks and changes the term's effects.

    The mean, and the cells of the rest of every declared term that contains it, where that rest is the same within each
    block.
    """
    blocks = sample.cells(block)
    first = np.unique(blocks.codes, return_index=True)[1]
    columns = [np.ones((blocks.count, 1))]
    for other in declared:
        rest = tuple(column for column in other if column not in term)
        if rest and contains(other, term) and constant_within(sample, rest, block):
            cells = sample.cells(rest)
            columns.append(np.eye(cells.count)[cells.codes[first]])
    stacked = np.hstack(columns)
    left, values, _ = np.linalg.svd(stacked, full_matrices=False)
    return left[:, values > 1e-9 * values[0]]


def constant_within(sample: Sample, term: Term, block: Term) -> bool:
    """Whether every block has a single cell of a term."""
    both = sample.cells(tuple(dict.fromkeys((*block, *term))))
    return both.count == sample.cells(block).count
