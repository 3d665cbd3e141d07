"""Every result is a table in Markdown, LaTeX and HTML, and sentences; text from the data is escaped."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import analysis

WILD = "a|b & <i>_%$"


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    levels = [WILD, "plain", "other"]
    rows = [(a, b, f"t{t}", s) for a in levels for b in (1, 2, 4) for t in range(4) for s in range(2)]
    frame = pd.DataFrame(rows, columns=["a", "b", "task", "seed"])
    frame["y"], frame["z"] = rng.normal(size=(2, len(frame)))
    frame.loc[3, "y"] = np.nan
    return frame.assign(parameters=10 ** frame["b"])


MODEL = {"factors": ["a", "b"], "blocks": ["task", "task:seed"]}
RESULTS = {
    "anova": lambda f: analysis.anova(f, "y", **MODEL),
    "pairwise": lambda f: analysis.pairwise(f, "y", "a", **MODEL),
    "best": lambda f: analysis.best(f, "y", ["a", "b"], **MODEL),
    "trend": lambda f: analysis.trend(f, "y", "b", **MODEL),
    "welch": lambda f: analysis.welch(f, "y", "a"),
    "games_howell": lambda f: analysis.games_howell(f, "y", "a"),
    "importance": lambda f: analysis.importance(f, "y", **MODEL, draws=100),
    "check": lambda f: analysis.check(f, "y", **MODEL),
    "robust": lambda f: analysis.robust(f, "y", **MODEL, permutations=99),
    "friedman": lambda f: analysis.friedman(f, "z", ["a", "b"], ["task", "task:seed"]),
    "failures": lambda f: analysis.failures(f, "y", **MODEL, permutations=99),
    "several": lambda f: analysis.several(f, ["y", "z"], **MODEL),
    "pareto": lambda f: analysis.pareto(f, {"y": "higher", "z": "lower"}, ["a"], draws=100),
    "size_trend": lambda f: analysis.size_trend(f, "y", ["a", "b"]),
    "variance_components": lambda f: analysis.variance_components(f, "y", ["a", "b"], ["task", "task:seed"]),
    "mixed": lambda f: analysis.mixed(f, "y", ["a", "b"], ["task", "a:task"]),
    "sensitivity": lambda f: analysis.sensitivity(f, "y", ["b"], by="a", draws=50, evaluator_draws=2),
    "power": lambda f: analysis.power(f[["a", "b"]].drop_duplicates(), ["a", "b"], 5, 2, sd=1, sd_task=0.5),
    "subset": lambda f: analysis.subset(f[["a", "b"]].drop_duplicates(), 7),
}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_shows_itself(name):
    result = RESULTS[name](_frame())
    table = result.to_frame()
    assert isinstance(table, pd.DataFrame) and len(table)
    lines = result.to_markdown().splitlines()
    assert len(lines) == len(table) + 2
    # As many cells in every row, whatever the levels are called.
    assert {line.replace("\\|", "").count("|") for line in lines} == {table.shape[1] + 1}
    latex = result.to_latex()
    assert "\\toprule" in latex and "a|b & <i>" not in latex
    page = _Tags()
    page.feed(result._repr_html_())
    assert "table" in page.tags and "i" not in page.tags
    assert len(result.explain()) > 40


def test_all_names_are_offered():
    for name in analysis.__all__:
        assert callable(getattr(analysis, name)), name
