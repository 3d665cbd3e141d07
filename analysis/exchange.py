"""The search for a D-optimal subset: rows of a matrix are exchanged as long as that raises the determinant of X'X.

Fedorov's exchange in turn (Cook and Nachtsheim 1980, Technometrics 22, 315–324), from several random starts. Its end is
a local optimum: no exchange of one row betters it, and nothing proves that it is the global one. The same seed ends in
the same rows on every machine: nothing is decided by differences that rounding could make.
"""

from __future__ import annotations

import numpy as np

_ZERO = 1e-9  # an eigenvalue that is 0 but for rounding, as in `analysis.model`
# Exchanges that gain less, and differences between gains that are less, are rounding: the first of equals is taken.
_GAIN = 1e-8
_APART = 1e-6  # least squared size, on average about the number of columns, of a row that is independent of others
_REFRESH = 32  # exchanges after which the updated inverse is computed anew


def log_det(values: np.ndarray) -> float:
    """Logarithm of the determinant of X'X/n of the rows (n, p); −inf if it is singular but for rounding."""
    eigenvalues = np.linalg.eigvalsh(values.T @ values / len(values))
    return float(np.log(eigenvalues).sum()) if eigenvalues[0] > _ZERO else -np.inf


def shuffled(count: int, *key: int) -> np.ndarray:
    """A random order of so many rows: of the raw numbers of a bit generator, which no version of numpy may change."""
    return np.argsort(np.random.PCG64(list(key)).random_raw(count), kind="stable")


def search(values: np.ndarray, size: int, starts: int, seed: int) -> np.ndarray:
    """Choose rows whose X'X has a large determinant.

    Parameters
    ----------
    values : array (n, p)
        Columns that are orthonormal over all rows, X'X/n = I.
    size : int
        How many rows to choose, p to n.

    Returns
    -------
    int array (size,)
        Row numbers, ascending: the best of the ends of all starts.
    """
    best, most = np.arange(0), -np.inf
    for start in range(starts):
        found = exchanged(values, spanning(values, shuffled(len(values), seed, 0, start), size))
        reached = log_det(values[found])
        if reached > most + _GAIN:
            best, most = found, reached
    return np.sort(best)


def spanning(values: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """Return the first rows of an order that are independent, as many as columns, and then the first of the others."""
    columns, width, first = values.shape[1], 0, np.arange(0)
    while len(first) < columns:
        width = min(len(order), max(4 * size, 4 * width))
        first = _independent(values[order[:width]])
    others = np.setdiff1d(np.arange(len(order)), first)[: size - columns]
    return order[np.concatenate([first, others])]


def _independent(values: np.ndarray) -> np.ndarray:
    """Numbers of the rows that are each the first independent one of those before."""
    left, found = values.copy(), []
    for _ in range(values.shape[1]):
        sizes = np.einsum("ij,ij->i", left, left)
        apart = np.flatnonzero(sizes > _APART)
        if not len(apart):
            break
        row = left[apart[0]] / np.sqrt(sizes[apart[0]])
        left -= np.outer(left @ row, row)
        found.append(int(apart[0]))
    return np.array(found, dtype=np.int64)


def exchanged(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Exchange chosen rows, in turn and each for the best other one, until none of them can be bettered.

    With M the inverse of the chosen rows' X'X and d(a, b) = a'Mb, exchanging row i for j multiplies the determinant by
    (1 + d(j, j))(1 − d(i, i)) + d(i, j)² (Fedorov 1972, Theory of Optimal Experiments, §3.2).
    """
    chosen = chosen.copy()
    inside = np.zeros(len(values), dtype=bool)
    inside[chosen] = True
    idle = exchanges = place = 0
    inverse, leverage = _inverse(values, chosen)
    while idle < len(chosen):
        i = chosen[place]
        u = inverse @ values[i]
        toward = values @ u
        gain = (1 + leverage) * (1 - leverage[i]) + toward**2 - 1
        gain[inside] = -np.inf
        most = gain.max(initial=-np.inf)
        if most > _GAIN:
            j = int(np.argmax(gain > most - _GAIN))
            inverse, leverage = _swapped(values, inverse, leverage, i, j, u, toward)
            chosen[place], inside[i], inside[j] = j, False, True
            idle, exchanges = 0, exchanges + 1
            if exchanges % _REFRESH == 0:
                inverse, leverage = _inverse(values, chosen)
        else:
            idle += 1
        place = (place + 1) % len(chosen)
    return chosen


def _inverse(values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of X'X of the chosen rows, and every row's d(a, a)."""
    inverse = np.linalg.inv(values[chosen].T @ values[chosen])
    return inverse, np.einsum("ij,ij->i", values @ inverse, values)


def _swapped(
    values: np.ndarray, inverse: np.ndarray, leverage: np.ndarray, i: int, j: int, u: np.ndarray, toward: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add row j and take row i away, each by the formula of Sherman and Morrison; `u` is Mi and `toward` d(·, i)."""
    added = inverse @ values[j]
    near = values @ added
    grown = 1 + leverage[j]
    share = near[i] / grown
    shrunk = 1 - leverage[i] + share * near[i]
    u, toward = u - share * added, toward - share * near
    inverse = inverse - np.outer(added, added) / grown + np.outer(u, u) / shrunk
    return inverse, leverage - near**2 / grown + toward**2 / shrunk
