"""Optuna's journal of a search, for optuna-dashboard: made from the rows of the store, never read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from study.atomic import write_file

if TYPE_CHECKING:
    import optuna


def write(path: Path, name: str, searched: optuna.Study) -> None:
    """Write a study of Optuna's as a journal, whole or not at all; one that is there is replaced.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        What the study is called in it.
    searched : optuna.Study
        Its trials that wait for results are in it too, as running.
    """
    from optuna import create_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from analysis.hyper_importance import quiet

    def fill(part: Path) -> None:
        storage = JournalStorage(JournalFileBackend(str(part)))
        create_study(study_name=name, storage=storage, directions=searched.directions).add_trials(searched.trials)

    with quiet():
        write_file(path, fill)
