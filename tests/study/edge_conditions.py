"""How well two readers of outlines find the true ones of drawings: `python -m tests.study.edge_conditions`.

Canny's detector (1986) with the best of its thresholds and blurs, against the segmenter: the reason why control scores
use the latter. Gradients see textures, shadows and the place as well as the thing.
"""

from itertools import product

import numpy as np
from scipy.ndimage import gaussian_filter, label, sobel

from study.builtin.segmenter import read_parts
from study.builtin.train.pool import held_out_pool
from study.control_scores import edge_error, label_edges
from study.world.control_maps import edge_map


def canny(picture: np.ndarray, blur: float, high: float) -> np.ndarray:
    """Find edges of a picture (H, W, 3) uint8: gradient ridges above `high`, or connected and above half."""
    smooth = gaussian_filter(picture / 255.0, (blur, blur, 0))
    slopes = np.stack([sobel(smooth, 1), sobel(smooth, 0)])
    channel = np.hypot(*slopes).argmax(-1)
    across, down = (np.take_along_axis(slope, channel[..., None], -1)[..., 0] for slope in slopes)
    size = np.hypot(across, down)
    sector = np.round(np.arctan2(down, across) / (np.pi / 4)).astype(int) % 4
    padded = np.pad(size, 1)
    rows, columns = size.shape
    y, x = np.mgrid[1 : rows + 1, 1 : columns + 1]
    step_x, step_y = np.array([1, 1, 0, -1])[sector], np.array([0, 1, 1, 1])[sector]
    ridge = (size >= padded[y + step_y, x + step_x]) & (size >= padded[y - step_y, x - step_x])
    weak = ridge & (size > high / 2)
    pieces, count = label(weak, np.ones((3, 3)))
    strong = np.unique(pieces[ridge & (size > high)])
    return np.isin(pieces, strong[strong > 0]) & (count > 0)


def main() -> None:
    """Print both readers' mean edge errors on 200 held-out drawings."""
    pool = held_out_pool(200, 0)
    wanted = [edge_map(scene) for scene in pool.scenes]
    for blur, high in product((0.7, 1.0, 1.5), (0.6, 0.9, 1.3, 1.8, 2.4)):
        found = [canny(picture, blur, high) for picture in pool.pixels]
        errors = [edge_error(edges, true) for edges, true in zip(found, wanted, strict=True)]
        print(f"Canny, blur {blur}, threshold {high}: {np.mean(errors):.3f}")
    found = [label_edges(labels) for labels in read_parts(pool.pixels)[0]]
    errors = [edge_error(edges, true) for edges, true in zip(found, wanted, strict=True)]
    print(f"segmenter: {np.mean(errors):.3f}")


if __name__ == "__main__":
    main()
