"""What the benchmarks share: on what and with what they ran, and how the runs of a round become one number."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version


def machine() -> dict[str, object]:
    """Say on what and with what this ran."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "peft")},
    }


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Give the median of every number over runs that measured the same."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}
