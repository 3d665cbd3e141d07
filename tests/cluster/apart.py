"""A worker of faked trials that seems to run on a machine of its own for every Ray node, as it does on a true cluster.

Others can then not tell by its number whether it still runs.
"""

import os

import study.process
from study.executors.ray_cluster import VARIABLE
from study.worker import main
from tests.study import fakes

_true = study.process._read


def _read(path: str) -> str:
    return _true(path) if path.startswith("/proc/") and "boot_id" not in path else os.environ[VARIABLE].split()[0]


study.process._read = _read
main(fakes.runtime)
