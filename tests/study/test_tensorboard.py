"""Logs for TensorBoard, where they are asked for."""

import sys
from pathlib import Path

import pytest

from adapters.faults import InputFault
from study import tensorboard
from study.executors.local import LocalExecutor
from study.study import Study
from tests.study import fakes

ROOT = Path(__file__).resolve().parents[2]


def test_each_trial_has_its_curve_and_scores_and_no_number_changes(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    small = {"seeds": 1, "factors": {"input": ["CA_out"], "output": "all"}, "tasks": fakes.SECTIONS["tasks"][:1]}
    small["fixed"] = {**fakes.SECTIONS["fixed"], "activation": "relu"}
    small["protocol"] = {"steps": 3, "pictures": 2, "learning_rate": 2e-3}
    rows = {}
    for asked in (False, True):
        study = Study.load(fakes.study_file(tmp_path, resources={"tensorboard": asked}, **small), tmp_path / str(asked))
        study.run(executor=LocalExecutor(study.store, ["cpu"], command=fakes.COMMAND))
        rows[asked] = study.store.rows().drop(columns="log").sort_values("id").reset_index(drop=True)
    assert rows[False].equals(rows[True])
    assert not (tmp_path / "False" / "tensorboard").exists()
    logs = sorted((tmp_path / "True" / "tensorboard").iterdir())
    assert len(logs) == len(rows[True]) > 1
    for log in logs:
        shown = EventAccumulator(str(log)).Reload()
        (id,) = [id for id in rows[True]["id"] if log.name.endswith(id[:12])]
        # Oracle: the fake runtime's only loss and score are a function of the id.
        for tag, value, step in (("loss", fakes.score(id), 0), ("scores/clip_i", fakes.score(id), 3),
                                 ("learning_rate", 2e-3, 0)):  # fmt: skip
            (event,) = shown.Scalars(tag)
            assert event.value == pytest.approx(value, rel=1e-6) and event.step == step
    assert any(log.name.startswith("CA_out-FFN_in") for log in logs)


def test_without_tensorboard_one_sentence_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputFault, match=r"pip install 'adapter-study\[tensorboard\]'"):
        tensorboard.check()
    study = Study.load(fakes.study_file(tmp_path, resources={"tensorboard": True}))
    with pytest.raises(InputFault, match="tensorboard"):
        study.run()
    assert not study.store.folder.exists()
