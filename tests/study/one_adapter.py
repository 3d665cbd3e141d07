"""A recipe, a tiny backbone and three pictures in a folder, and the command line in this process."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from study.cli.main import build
from tests.study import tiny

PROMPT = "a photo of a sks robot on grass"
RECIPE = """\
name: small
backbone: {backbone}
design: {{method: adapter, input: SA_in, output: FFN_in, width: 3}}
protocol: {{steps: 12, learning_rate: 2e-1, batch: 1, prior_pictures: 2, sampling_steps: 2, guidance: 3}}
"""


def adapter_study(*words: object):
    """Run the command line in this process."""
    called = [str(word) for word in words]
    return CliRunner().invoke(build(called[0]), called)


def train(*more: object, recipe: str = "small.yaml", out: str = "new"):
    return adapter_study("train", recipe, "--pictures", "toy", "--class", "robot", "-o", out, *more)


def generate(*more: object, adapter: str = "my", prompt: str = PROMPT, out: str = "out.png"):
    return adapter_study("generate", adapter, "--prompt", prompt, "-o", out, *more)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def make_home(root: Path) -> Path:
    """Write what `train` needs to a folder, and train the adapter `my` in it; `said.txt` is what that printed."""
    model = tiny.pipeline_folder(root)
    (root / "small.yaml").write_text(RECIPE.format(backbone=model.name))
    (root / "toy").mkdir()
    for index, picture in enumerate(tiny.pictures()):
        Image.fromarray(picture).save(root / "toy" / f"{index}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.chdir(root)
        before = files(root / "toy")
        ended = train(out="my")
        assert ended.exit_code == 0, ended.output
        (root / "said.txt").write_text(ended.stdout)
        assert files(root / "toy") == before
    return root


def make_place(home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with links to the recipe, the backbone and the pictures, and a copy of the adapter."""
    for name in ("small.yaml", "toy", "tiny-epsilon-0"):
        (folder / name).symlink_to(home / name)
    shutil.copytree(home / "my", folder / "my")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.chdir(folder)
    return folder
