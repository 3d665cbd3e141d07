"""Slots of one machine: each GPU has its workers, which see no other, and no slot has two packs at once."""

import itertools
import json
from collections import defaultdict
from pathlib import Path

import pytest

import study.running
from study.executors.local import LocalExecutor
from study.study import Study
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]
ALL = (fakes.PLANNED + fakes.REFERENCES) // 2


def run(root: Path, monkeypatch, devices: list[str], workers: int) -> list[dict]:
    """Run a study on a machine that has these devices; return what its workers tell of each pack."""
    spans = root / "spans"
    spans.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_SECONDS", "0.1")
    monkeypatch.setenv("FAKE_SPANS", str(spans))
    monkeypatch.setenv("FAKE_WORKERS", str(len(devices) * workers))
    monkeypatch.setattr(study.running, "devices", lambda: devices)
    loaded = Study.load(fakes.study_file(root, seeds=1))
    runner = LocalExecutor(loaded.store, loaded._devices(workers), command=fakes.COMMAND)
    assert loaded.run(executor=runner).counts == {"done": ALL}
    return [json.loads(file.read_text()) for file in spans.glob("*.json")]


def overlaps(spans: list[dict]) -> bool:
    ordered = sorted(spans, key=lambda span: span["begin"])
    return any(after["begin"] < before["end"] for before, after in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    "own, seen",
    [(None, ["0", "1"]), ("2,5", ["2", "5"]), ("GPU-8f1c, GPU-03aa", ["GPU-8f1c", "GPU-03aa"])],
)
def test_packs_are_spread_evenly_over_gpus_and_never_two_are_on_one(own, seen, tmp_path, monkeypatch):
    if own is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
    spans = run(tmp_path, monkeypatch, ["cuda:0", "cuda:1"], workers=1)
    by_gpu = defaultdict(list)
    for span in spans:
        by_gpu[span["visible"]].append(span)
    assert sorted(by_gpu) == sorted(seen)
    assert {span["device"] for span in spans} == {"cuda"}, "the only GPU that a worker sees"
    assert not any(map(overlaps, by_gpu.values()))
    trials = [sum(span["trials"] for span in by_gpu[gpu]) for gpu in seen]
    # Who is free takes the next pack, so at the end they differ by one pack at most.
    assert sum(trials) == ALL and abs(trials[0] - trials[1]) <= max(span["trials"] for span in spans)


@pytest.mark.parametrize("devices", [["cuda:0", "cuda:1"], ["cpu"]])
def test_several_workers_a_device_are_as_many_on_each_with_one_pack_each(devices, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    spans = run(tmp_path, monkeypatch, devices, workers=2)
    by_worker = defaultdict(list)
    for span in spans:
        by_worker[span["pid"]].append(span)
    places = sorted(str(own[0]["visible"]) for own in by_worker.values())
    assert places == (["None", "None"] if devices == ["cpu"] else ["0", "0", "1", "1"])
    assert not any(map(overlaps, by_worker.values()))
    assert sum(span["trials"] for span in spans) == ALL
