"""What a run says of itself while it runs."""

from study import progress
from study.study import Study
from tests.study import fakes


def test_signs_of_life_of_a_trial_that_is_over_do_not_count_as_progress(tmp_path, monkeypatch, capsys):
    first, second, third, fourth = Study.load(fakes.study_file(tmp_path)).trials[:4]
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)

    def step(trial, done):
        bar.hear({"event": "step", "trial": trial.id, "step": done, "steps": 3})

    def result(trial):
        bar.hear({"event": "result", "trial": trial.id, "status": "done", "error": "", "scores": {}})

    bar = progress.Bar("clip_i")
    bar.expect([first, second, third, fourth])
    for trial in (first, second, third):
        step(trial, 3)
    result(first)
    for trial in (first, first, second):
        step(trial, 3)  # the pack's others are being scored
    now = 30.0
    result(second)
    # Three of four have been trained: a third of the time so far is left.
    assert capsys.readouterr().err.splitlines()[-1].endswith("10 s left")
