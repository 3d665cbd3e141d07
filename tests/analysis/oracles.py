"""Reading the oracles: data (CSV) and what R 4.2.2 with car, emmeans and effectsize says of them (JSON)."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parents[1] / "data" / "anova_oracles"
NIST = Path(__file__).parents[3] / "shared" / "data" / "anova_oracles"

# The picture score of each of the 20 valid pairs, read off a published figure to ±0.003 (arXiv 2303.18181).
PUBLISHED = {
    "SA_in": {"SA_in": 0.709, "CA_in": 0.749, "FFN_in": 0.717, "Trans_out": 0.724},
    "SA_out": {"CA_in": 0.757, "FFN_in": 0.700, "Trans_out": 0.685},
    "CA_in": {"CA_in": 0.689, "FFN_in": 0.745, "Trans_out": 0.694},
    "CA_out": {"FFN_in": 0.870, "Trans_out": 0.848},
    "FFN_in": {"FFN_in": 0.821, "Trans_out": 0.831},
    "FFN_out": {"Trans_out": 0.756},
    "Trans_out": {"Trans_out": 0.840},
    "CA_c": {"CA_c": 0.869},
    "Res_in": {"Res_in": 0.768, "Res_out": 0.745},
    "Res_out": {"Res_out": 0.725},
}


def data(name: str) -> pd.DataFrame:
    """The data of an oracle."""
    return pd.read_csv(FOLDER / f"{name}.csv")


def expected(name: str) -> dict[str, Any]:
    """What the oracle says."""
    return json.loads((FOLDER / f"{name}.json").read_text())["expected"]


def published() -> pd.DataFrame:
    """The published heat map, one row a valid pair."""
    rows = [(i, o, v) for i, cells in PUBLISHED.items() for o, v in cells.items()]
    return pd.DataFrame(rows, columns=["input", "output", "score"])
