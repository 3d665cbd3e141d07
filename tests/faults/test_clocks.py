"""Clocks that jump by years, and times of files from the past and the future: no decision depends on them."""

import json
import os
import random
import re
import time
from pathlib import Path

import pytest

from tests.faults.injection import INJECTED, kill
from tests.study import fakes
from tests.study.test_kills import check_whole, start, wait_until, workers_of

ROOT = Path(__file__).resolve().parents[2]
YEARS = 20 * 365 * 86_400.0
JUMPING = f"""
import random, sys, time
true, true_ns, chance = time.time, time.time_ns, random.Random()
time.time = lambda: true() + chance.uniform(-{YEARS}, {YEARS})
time.time_ns = lambda: true_ns() + int(chance.uniform(-{YEARS}, {YEARS})) * 10**9
print("the year is", time.gmtime(time.time()).tm_year, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")
def test_kills_under_clocks_that_jump_lose_and_double_nothing(tmp_path, monkeypatch):
    study, store, chance = fakes.study_file(tmp_path), tmp_path / "store", random.Random(11)
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(JUMPING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'clock'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("FAKE_SECONDS", "0.05")
    years = []
    for left in (1, 0):
        driver = start(study, 2)
        if left:
            assert wait_until(lambda: list(store.glob("trials/*.parquet")))
            time.sleep(chance.uniform(0, 0.5))
            kill(driver.pid)
        out, told = driver.communicate(timeout=300)
        years += re.findall(r"the year is (\d+)", told)
        for file in store.rglob("*"):
            moment = time.time() + chance.uniform(-YEARS, YEARS)
            os.utime(file, (moment, moment))
            INJECTED["jump of a file's time"] += 1
        assert wait_until(lambda: not workers_of(store))
    assert driver.returncode == 0, told
    assert json.loads(out) == {"done": fakes.PLANNED + fakes.REFERENCES}
    check_whole(study)
    years += [year for log in store.glob("logs/*") for year in re.findall(r"the year is (\d+)", log.read_text())]
    INJECTED["process whose clock jumps at every look"] += len(years)
    assert len(set(years)) > 2, "drivers and workers saw other clocks"
