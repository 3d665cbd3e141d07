"""The benchmark of true architectures gives every kind of denoiser what it takes; here on small ones."""

import pytest

from benchmarks.models import DESIGNS, measure
from study.backbones import load
from tests.study.tiny_models import MODELS


@pytest.mark.parametrize("name", ["sd2", "sdxl", "dit", "sd3", "flux dev", "flux schnell"])
def test_a_step_of_every_architecture_is_timed(tmp_path, name):
    denoiser = load(str(MODELS[name](tmp_path))).denoiser
    found = measure(denoiser, DESIGNS["lora"], 2, 64)
    assert found["seconds"] > 0 and found["peak_bytes"] is None
