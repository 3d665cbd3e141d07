"""Whether a study's noise differences are larger for designs that read CA_c or CA_out; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.declared import AUTO
from study.report_rows import DESIGN, terms

if TYPE_CHECKING:
    import pandas as pd

    from analysis.noise_reading import ReadingContrast
    from study.study import Study


def reading(study: Study, frame: pd.DataFrame, error: str = AUTO, ratio: bool = False) -> ReadingContrast | None:
    """Ask a study's results, if every trial that is done has a size: some of the best would say nothing of the others.

    Parameters
    ----------
    frame : DataFrame
        The results, with the column `noise_difference`.
    error, ratio
        As :func:`analysis.noise_reading.reading_contrast` has them.

    Returns
    -------
    ReadingContrast or None
        None where sizes are missing, or no two designs differ in whether they read one of the two.
    """
    from analysis.noise_reading import READS, SCORE, reading_contrast

    done = frame[frame["status"] == "done"]
    if SCORE not in done or done[SCORE].isna().any() or "input" not in done or "output" not in done:
        return None
    reads = done["input"].dropna().isin(READS)
    if not reads.any() or reads.all():
        return None
    factors, blocks, _ = terms(study)
    return reading_contrast(done, factors=[f for f in factors if f != DESIGN], blocks=blocks, error=error, ratio=ratio)
