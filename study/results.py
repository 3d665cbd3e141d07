"""Results to analyse: those of a store, or of a file that any program may have written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapters.faults import InputFault
from study.store import Store
from study.tables import Damaged, read_table

if TYPE_CHECKING:
    import pandas as pd


def read_results(path: str | Path, tuning: bool = False) -> pd.DataFrame:
    """Read results to analyse: a store, a parquet file or a CSV.

    Parameters
    ----------
    tuning : bool
        Read the trials of a store's tuning instead of those of its study.

    Returns
    -------
    DataFrame
        Of a store: one row a trial of the study's designs; rows of the untuned backbone and of the tuning are left out.
        Of a CSV every value is text, so that "NA" stays a level; `numbers` turns a response into numbers.

    Raises
    ------
    InputFault
        If it is none of these, cannot be read, is a store of an unknown version, or there is no tuning in it.
    """
    import pandas as pd

    path = Path(path)
    if tuning and path.is_file():
        raise InputFault(f"{path} is a file; only of a store can the trials of the tuning be asked for")
    if path.is_dir():
        rows = Store(path).rows()
        if rows.empty:
            raise InputFault(f"{path} holds no results; expected a store (it has trials/*.parquet), or a file")
        if tuning and not (rows["role"] == "tune").any():
            raise InputFault(f"{path} holds no trial of a tuning; run a study that has the section `tune`")
        wanted = rows["role"] == "tune" if tuning else ~rows["role"].isin(["reference", "tune"])
        return rows[wanted].reset_index(drop=True)
    if not path.is_file():
        raise InputFault(f"{path}: no such file or folder; expected a store, a parquet file or a CSV")
    if path.suffix.lower() == ".parquet":
        return _to_pandas(path)
    if path.suffix.lower() == ".csv":
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        except (ValueError, OSError) as error:
            raise InputFault(f"{path}: cannot be read as CSV ({error})") from error
    raise InputFault(f"{path}: expected a store, or a file that ends in .parquet or .csv")


def _to_pandas(file: Path) -> pd.DataFrame:
    """Read a parquet file that may be of any program."""
    import pyarrow as pa

    try:
        table = read_table(file)
        table.validate(full=True)
    except (Damaged, pa.ArrowException) as fault:
        reason = f"{fault}\n".splitlines()[0]
        raise InputFault(f"{file}: cannot be read as parquet ({reason}); delete it, or give another file") from fault
    for column in table.schema:
        if pa.types.is_nested(column.type):
            raise InputFault(f"{file}: the column {column.name!a} holds {column.type}, expected numbers or text")
    try:
        return table.to_pandas()
    except Exception as error:  # whatever pandas raises for types that it does not know
        reason = " ".join(str(error).split())[:200]
        raise InputFault(f"{file}: pandas cannot read its columns ({reason}); give numbers and text") from error
