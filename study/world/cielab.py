"""From sRGB to CIELAB under D65, where the distance of two colours is about how different they look."""

import numpy as np

# IEC 61966-2-1: linear sRGB to XYZ. Its rows add up to the white point, D65.
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_EDGE = 6 / 29


def lab(pixels: np.ndarray) -> np.ndarray:
    """Convert sRGB to CIELAB.

    Parameters
    ----------
    pixels : numpy.ndarray of uint8, shape (..., 3)

    Returns
    -------
    numpy.ndarray of float64, shape (..., 3)
        L* from 0 (black) to 100 (white), a* (towards red) and b* (towards yellow); gray has a* = b* = 0. The Euclidean
        distance is the CIE's colour difference of 1976, ΔE*ab. Source: CIE 15:2004, 8.2.1.
    """
    share = np.asarray(pixels, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ (_XYZ / _XYZ.sum(1, keepdims=True)).T
    x, y, z = np.moveaxis(np.where(xyz > _EDGE**3, np.cbrt(xyz), xyz / (3 * _EDGE**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
