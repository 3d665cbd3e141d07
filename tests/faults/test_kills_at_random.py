"""Drivers and workers are killed at random moments, one driver on a study or several, until every trial has a row."""

import json
import random
import time
from pathlib import Path

import pytest

from study.driver import TRIES
from study.store import Store
from tests.faults.injection import INJECTED, kill
from tests.study import fakes
from tests.study.test_kills import check_whole, start, wait_until, workers_of

ROOT = Path(__file__).resolve().parents[2]
KILLS = 102

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes through /proc")


@pytest.fixture(autouse=True)
def trials_take_a_moment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_SECONDS", "0.1")


def kill_at_random(study: Path, store: Path, drivers: int, chance: random.Random, most: int) -> int:
    """Run a study by so many drivers at once, which are killed, and whose workers are, until it ends; count the kills.

    A driver counts a trial as failed when its workers died of it TRIES times, so it is killed itself before that.
    """
    running = {start(study, 2): 0 for _ in range(drivers)}
    kills = 0
    while running and kills < most:
        time.sleep(chance.expovariate(0.4))
        for driver in [driver for driver in running if driver.poll() is not None]:
            told = driver.communicate()
            assert driver.returncode == 0, told
            del running[driver]
        spared = [driver for driver, deaths in running.items() if deaths < TRIES - 1]
        workers = workers_of(store)
        if spared and workers and chance.random() < 0.6:
            if kill(chance.choice(workers)):
                kills += 1
                running = {driver: deaths + 1 for driver, deaths in running.items()}
            continue
        doomed = [driver for driver in running if driver not in spared]
        if running and not doomed:
            doomed = list(running) if chance.random() < 0.2 else [chance.choice(list(running))]
        for driver in doomed:
            kills += kill(driver.pid)
            driver.communicate()
            del running[driver]
            running[start(study, 2)] = 0
    for driver in running:
        told = driver.communicate(timeout=300)
        assert driver.returncode == 0, told
    return kills


def check(study: Path, store: Path) -> None:
    assert wait_until(lambda: not workers_of(store)), "workers outlived their drivers"
    ended = start(study, 2)
    out, told = ended.communicate(timeout=300)
    assert ended.returncode == 0, told
    assert json.loads(out) == {"done": fakes.PLANNED + fakes.REFERENCES}
    check_whole(study)
    Store(store).gc()
    check_whole(study)
    assert {file.suffix for file in store.rglob("*") if file.is_file()} == {".parquet", ".webp", ".log"}


@pytest.mark.slow
def test_a_few_kills(tmp_path):
    study, store = fakes.study_file(tmp_path), tmp_path / "store"
    assert kill_at_random(study, store, 1, random.Random(5), most=4)
    check(study, store)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_kills_of_one_driver_or_of_several_at_once(tmp_path):
    chance, kills, rounds, went_on = random.Random(6), 0, 0, 0
    while kills < KILLS:
        root = tmp_path / str(rounds)
        root.mkdir()
        study, store = fakes.study_file(root), root / "store"
        kills += kill_at_random(study, store, 1 + rounds % 3, chance, most=KILLS // 3)
        went_on += len(Store(store).rows())
        check(study, store)
        rounds += 1
    assert rounds >= 3, "one, two and three drivers"
    assert went_on > fakes.PLANNED, "the kills came while trials were running"
    assert INJECTED["kill -9 at a random moment"] >= KILLS
