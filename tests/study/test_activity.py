"""What goes on in a store: which trials of a pack have no result yet."""

import pytest

from study import activity as of
from study.activity import activity
from study.store import Store
from study.trial import TrialResult
from tests.study.test_store import trial


@pytest.mark.parametrize("backwards", [False, True])
def test_a_job_has_the_trials_whose_attempt_in_it_has_no_result(backwards, tmp_path, monkeypatch):
    store, trials = Store(tmp_path / "store"), [trial(seed) for seed in range(3)]
    store.commit(TrialResult(trials[0], "failed", "why"), attempt=1)
    store.commit(TrialResult(trials[1], "done"), attempt=1)

    def jobs(store):
        old = {"state": "lost", "job": "1", "attempts": {each.id: 1 for each in trials}}
        new = {"state": "running", "job": "2", "attempts": {trials[0].id: 2}}
        return [new, old] if backwards else [old, new]

    monkeypatch.setattr(of, "_jobs", jobs)
    told = activity(store, trials, store.table())
    # Of the old one's trials the first has failed, and the second is done; the new one tries the first again.
    assert {job["job"]: job["trials"] for job in told["jobs"]} == {"1": 1, "2": 1}
    assert (told["running"], told["queued"], told["lost"]) == (1, 0, 1)
    (failure,) = told["failures"]
    assert failure["id"] == trials[0].id and failure["error"] == "why"
