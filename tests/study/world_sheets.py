"""Draws the pictures of docs/builtin.md, domains.png and control.png: `python -m tests.study.world_sheets`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from study.world.control_maps import control_picture
from study.world.domains import DOMAINS, domain_pictures, domain_scenes
from study.world.objects import CLASSES
from study.world.scene import draw

DOCS = Path(__file__).resolve().parents[2] / "docs"
SIZE = 96


def main() -> None:
    """A row a domain; and a column a class: drawing, edges, segmentation, landmarks."""
    _save([[picture.pixels for picture in domain_pictures(name, 10, 3, SIZE)] for name in DOMAINS], "domains")
    scenes = [replace(scene, kind=kind) for scene, kind in zip(domain_scenes("outline", 8), CLASSES, strict=True)]
    drawings = [draw(scene, SIZE).pixels for scene in scenes]
    maps = [[control_picture(scene, kind, SIZE) for scene in scenes] for kind in ("edges", "segmentation", "landmarks")]
    _save([drawings, *maps], "control")


def _save(rows: list[list[np.ndarray]], name: str) -> None:
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
    Image.fromarray(sheet).quantize(256).save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
