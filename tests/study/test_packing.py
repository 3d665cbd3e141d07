"""Trials trained together give what each gives alone; one's misfortune is its own; the size of packs is found."""

import contextlib
import json
import math

import pytest
import torch

import adapters
from study import packing
from study.loaded import Worker
from study.packing import GAIN, Packing
from tests.study import tiny
from tests.study.together import EXACT, METHODS, assert_same, runner

DESIGNS = [
    {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2},
    {"method": "adapter", "input": "CA_out", "output": "FFN_in", "width": 2, "activation": "silu"},
    {"method": "adapter", "input": "SA_in", "output": "Trans_out", "width": 1},
    {"method": "adapter", "input": "CA_c", "output": "CA_c", "width": 1},
    {"method": "adapter", "input": "Res_in", "output": "Res_out", "width": 1},
    *METHODS[:3],
    {"method": "lora", "rank": 2},
    {"method": "lora", "rank": 1, "targets": "attention+conv"},
    *METHODS[3:],
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("packing")


@pytest.fixture(scope="module")
def worker():
    return Worker("cpu")


@pytest.fixture(scope="module")
def run(root, worker):
    return runner(root, worker, str(tiny.pipeline_folder(root)))


@pytest.fixture(scope="module")
def alone(run):
    return run(DESIGNS, 1)


@pytest.mark.parametrize("together", [5, 100])
def test_packed_equals_alone_in_float64(run, alone, together):
    packed = run(DESIGNS, together)
    sizes = {result.columns["pack_size"] for result in packed}
    assert sizes == ({17} if together == 100 else {4, 5}) and {r.columns["pack_size"] for r in alone} == {1}
    for one, other in zip(packed, alone, strict=True):
        assert_same(one, other, 1e-9)
        # Scores come from pictures of 8 bits a colour and from judges in float32.
        assert one.scores == pytest.approx(other.scores, rel=1e-4)
        assert one.columns["start_change"] == pytest.approx(other.columns["start_change"], rel=1e-4, abs=1e-6)
    trained = [result for result in packed if result.adapter]
    assert len({tuple(row["loss"] for row in result.curves) for result in trained}) == len(trained)


def test_packed_losses_equal_alone_in_float32_for_twenty_steps(run):
    protocol = EXACT.model_copy(update={"precision": "float32", "steps": 20})
    designs = DESIGNS[2:12:3]
    for one, other in zip(run(designs, 100, protocol), run(designs, 1, protocol), strict=True):
        assert [r["loss"] for r in one.curves] == pytest.approx([r["loss"] for r in other.curves], rel=1e-4)


def test_a_slot_that_diverges_is_left_out_and_the_others_go_on_untouched(run, alone):
    rates = [1e-3 * (1 + index) for index in range(len(DESIGNS))]
    rates[2] = 1e300
    packed = run(DESIGNS, 100, rates=rates)
    for one, other in zip(packed, alone, strict=True):
        if one.trial.protocol.learning_rate < 1:
            assert_same(one, other, 1e-9)
    wild = packed[2]
    assert wild.status == "diverged" and "step" in wild.error
    assert wild.scores == {} and wild.adapter is None and math.isnan(wild.columns["final_loss"])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_when_memory_runs_out_the_pack_is_halved_and_nothing_is_lost(run, alone, monkeypatch, error):
    from study import pack

    train, sizes = pack.train, []

    def short(backbone, slots, *given):
        sizes.append(len(slots))
        if len(slots) > 3:
            raise error
        return train(backbone, slots, *given)

    monkeypatch.setattr(pack, "train", short)
    worker = Worker("cpu")
    packed = run(DESIGNS[:8], 8, worker=worker)
    for one, other in zip(packed, alone, strict=False):
        assert_same(one, other, 1e-9)
        assert (one.columns["pack_asked"], one.columns["pack_size"]) == (8, 2)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    # What did not fit is not tried again by this worker.
    sizes.clear()
    run(DESIGNS[:4], 8, worker=worker)
    assert sizes == [2, 2]


def test_one_trial_without_memory_is_judged_by_a_worker_that_had_no_larger_pack(run, monkeypatch):
    """After a larger pack took all memory, what is left to this process says nothing about a single trial."""
    from study import pack

    def short(*given):
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(pack, "train", short)
    with pytest.raises(RuntimeError, match="primitive"):
        run(DESIGNS[:2], 2, worker=Worker("cpu"))
    (result,) = run(DESIGNS[:1], 2, worker=Worker("cpu"))
    assert (result.status, result.columns["pack_asked"]) == ("out_of_memory", 1)


def test_a_trial_that_fails_fails_alone(run, alone, monkeypatch):
    from study import pack

    train = pack.train

    def picky(backbone, slots, *given):
        if any(slot.learning_rate == 3e-3 for slot in slots):
            raise ZeroDivisionError("no luck")
        return train(backbone, slots, *given)

    monkeypatch.setattr(pack, "train", picky)
    packed = run(DESIGNS, 100)
    assert [r.trial.design["output"] for r in packed if r.status == "failed"] == ["Trans_out"]
    for one, other in zip(packed, alone, strict=True):
        if one.status == "failed":
            assert "no luck" in one.error and one.columns["pack_asked"] == 17
        else:
            assert_same(one, other, 1e-9)


def test_a_design_that_does_not_fit_the_backbone_keeps_none_from_training(run):
    results = run([DESIGNS[0], {"method": "krona", "a1": 5, "a2": 2}, DESIGNS[1]], 100)
    assert [result.status for result in results] == ["failed", "done", "done"]
    assert {result.columns["pack_size"] for result in results if result.status == "done"} == {2}


def test_when_the_size_cannot_be_tried_the_trials_run_one_by_one(run, alone, monkeypatch):
    from study import pack

    def broken(alike, count):
        raise KeyError("a bug")

    monkeypatch.setattr(pack, "_steps", broken)
    results = run(DESIGNS[:2], None, worker=Worker("cpu"))
    for one, other in zip(results, alone, strict=False):
        assert_same(one, other, 1e-9)
        assert one.columns["pack_size"] == 1


def test_methods_are_not_mixed_on_a_cpu_unless_a_size_is_asked_for(run, monkeypatch):
    mixed = [DESIGNS[0], {"method": "lora", "rank": 2}, DESIGNS[1], {"method": "lora", "rank": 1}, {"method": "bitfit"}]
    own = Worker("cpu")
    monkeypatch.setattr(own.packing, "size", lambda kind, asked, count, steps: min(asked or count, count))

    def sizes(together):
        return {json.dumps(r.trial.design): r.columns["pack_size"] for r in run(mixed, together, worker=own)}

    automatic, asked = sizes(None), sizes(5)
    assert [automatic[json.dumps(adapters.normalise(design))] for design in mixed] == [2, 2, 2, 2, 1]
    assert set(asked.values()) == {5}


class Machine:
    """A device on which a step of n trials takes `seconds(n)` and needs `each` bytes for each of them."""

    def __init__(self, monkeypatch, seconds, each=0, spare=math.inf, fits=math.inf):
        self.now, self.peak, self.tried = 0.0, 0, []
        self.seconds, self.each, self.fits = seconds, each, fits
        monkeypatch.setattr(packing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(packing, "_used", lambda device: 0)
        monkeypatch.setattr(packing, "_spare", lambda device: spare)
        monkeypatch.setattr(packing, "peak_bytes", lambda device: self.peak)

    @contextlib.contextmanager
    def steps(self, count):
        def step():
            if count > self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.now += self.seconds(count)
            self.peak = self.each * count

        self.tried.append(count)
        yield step


CPU = torch.device("cpu")


def test_size_grows_while_it_gains(monkeypatch):
    # Half of a step of one trial is the same for any number of them; what twice as many save falls below GAIN.
    machine = Machine(monkeypatch, lambda count: 0.5 + 0.5 * count)
    found = Packing(CPU)
    gains = [1 - (0.5 / 2 / n + 0.5) / (0.5 / n + 0.5) for n in (8, 16)]
    assert gains[0] > GAIN > gains[1]
    # 32 saves too little over 16, but 64 enough.
    saved = 1 - (0.5 / 64 + 0.5) / (0.5 / 16 + 0.5)
    assert saved > GAIN
    assert found.size("kind", None, 100, machine.steps) == 64
    assert machine.tried == [1, 2, 4, 8, 16, 32, 64]
    assert found.size("kind", None, 100, machine.steps) == 64 and found.size("kind", None, 10, machine.steps) == 10
    assert len(machine.tried) == 7  # remembered
    assert found.size("other", 7, 100, machine.steps) == 7 and found.size("other", 7, 3, machine.steps) == 3


def test_size_stays_where_two_larger_ones_gain_nothing(monkeypatch):
    machine = Machine(monkeypatch, lambda count: count * (1.0 if count < 4 else 0.8))
    assert Packing(CPU).size("kind", None, 100, machine.steps) == 4
    assert machine.tried == [1, 2, 4, 8, 16]


def test_size_stops_where_memory_would_run_out(monkeypatch):
    machine = Machine(monkeypatch, lambda count: 1.0, each=100, spare=1000)
    assert Packing(CPU).size("kind", None, 100, machine.steps) == 8
    assert machine.tried == [1, 2, 4, 8]


def test_size_stops_where_memory_runs_out(monkeypatch):
    machine = Machine(monkeypatch, lambda count: 1.0, fits=5)
    assert Packing(CPU).size("kind", None, 100, machine.steps) == 4


def test_search_goes_on_when_there_are_more_trials_to_try(monkeypatch):
    machine, found = Machine(monkeypatch, lambda count: 1.0), Packing(CPU)
    assert [found.size("kind", None, count, machine.steps) for count in (1, 3, 9)] == [1, 2, 8]
    assert machine.tried == [1, 2, 4, 8]
    found.too_large("kind", 8)
    assert found.size("kind", None, 64, machine.steps) == 4 and found.size("kind", 64, 64, machine.steps) == 4


def test_what_else_goes_wrong_is_not_taken_for_a_lack_of_memory(monkeypatch):
    @contextlib.contextmanager
    def broken(count):
        raise KeyError("a bug")
        yield

    with pytest.raises(KeyError, match="a bug"):
        Packing(CPU).size("kind", None, 2, broken)


def test_spare_memory_is_a_share_of_what_is_free():
    assert 0 < packing._spare(CPU) <= packing.SHARE * packing.psutil.virtual_memory().total
