"""Signed distance fields of plain shapes on a grid: negative inside, in the grid's own units."""

from collections.abc import Sequence

import numpy as np

Field = np.ndarray
Grid = tuple[np.ndarray, np.ndarray]
"""x (to the right) and y (downwards) of every pixel, in the coordinates of the drawn object."""


def circle(grid: Grid, x: float, y: float, radius: float) -> Field:
    """Disc around (x, y)."""
    return np.hypot(grid[0] - x, grid[1] - y) - radius


def ellipse(grid: Grid, x: float, y: float, rx: float, ry: float) -> Field:
    """Ellipse with half axes rx and ry; first-order distance, exact on the outline."""
    u, v = (grid[0] - x) / rx, (grid[1] - y) / ry
    radius = np.hypot(u, v)
    slope = np.hypot(u / rx, v / ry)
    return np.where(slope > 1e-9, radius * (radius - 1) / np.maximum(slope, 1e-9), -min(rx, ry))


def box(grid: Grid, x: float, y: float, half_width: float, half_height: float, corner: float = 0.0) -> Field:
    """Rectangle around (x, y) with rounded corners."""
    dx = np.abs(grid[0] - x) - (half_width - corner)
    dy = np.abs(grid[1] - y) - (half_height - corner)
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner


def capsule(grid: Grid, start: tuple[float, float], end: tuple[float, float], radius: float) -> Field:
    """Line from start to end with round ends."""
    ax, ay = end[0] - start[0], end[1] - start[1]
    px, py = grid[0] - start[0], grid[1] - start[1]
    along = np.clip((px * ax + py * ay) / max(ax * ax + ay * ay, 1e-12), 0, 1)
    return np.hypot(px - along * ax, py - along * ay) - radius


def polygon(grid: Grid, points: Sequence[tuple[float, float]]) -> Field:
    """Simple polygon, convex or not; exact distance."""
    corners = np.asarray(points, float)
    following = np.roll(corners, -1, axis=0)
    x, y = grid[0][..., None], grid[1][..., None]
    edge_x, edge_y = (following - corners).T
    px, py = x - corners[:, 0], y - corners[:, 1]
    along = np.clip((px * edge_x + py * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
    distance = np.sqrt(((px - along * edge_x) ** 2 + (py - along * edge_y) ** 2).min(-1))
    crosses = (corners[:, 1] > y) != (following[:, 1] > y)
    slope = np.where(edge_y == 0, 1, edge_y)
    left = x < edge_x * (y - corners[:, 1]) / slope + corners[:, 0]
    inside = (crosses & left).sum(-1) % 2 == 1
    return np.where(inside, -distance, distance)


def outline(field: Field, half_width: float) -> Field:
    """A band of the given half width around a field's edge."""
    return np.abs(field) - half_width


def union(*fields: Field) -> Field:
    """Everything inside any of the fields."""
    return np.minimum.reduce(fields)


def without(field: Field, hole: Field) -> Field:
    """The field less the hole."""
    return np.maximum(field, -hole)
