"""Every result is a table in Markdown, LaTeX and HTML, and sentences; text from the data is escaped."""

from html import escape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import analysis
from tests.analysis import oracles

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
    shown = result.shown()
    assert len(shown) >= len(table) and "<th>" + escape(str(shown.columns[-1]), quote=False) in result._repr_html_()


def test_an_anova_is_shown_with_the_degrees_of_freedom_that_can_be_estimated():
    """The numbers are R's; of the nine df of a:b three are left by the ten cells that there are."""
    table = analysis.anova(oracles.data("statsmodels_breaker"), "y", ["a", "b", "f"], ["t"], ["a:b"])
    shown = table.shown().set_index("term")
    known = {row["term"]: row for row in oracles.expected("statsmodels_breaker")["type2"]}
    assert list(shown.index) == ["t", "a", "b", "f", "a:b", "residual"]
    assert shown.loc["a:b", "df"] == "3 of 9" and shown.loc["a", "df"] == "3"
    for term in ("t", "a", "b", "f", "a:b"):
        assert shown.loc[term, "p"] == f"{known[term]['Pr(>F)']:.4f}".lstrip("0")
        assert shown.loc[term, "F"] == f"{known[term]['F value']:.3f}"
    assert shown.loc["residual", "df"] == "107"


def test_a_large_table_is_scrolled_and_truth_is_a_word():
    found = analysis.best(_frame(), "y", ["a", "b"], **MODEL)
    page = found._repr_html_()
    assert "overflow: auto" in page and "<td>yes</td>" in page and "True" not in page
    assert set(found.to_frame()) - set(found.shown()) == {"a", "b", "component", "critical", "error", "estimable"}


def test_all_names_are_offered():
    for name in analysis.__all__:
        assert callable(getattr(analysis, name)), name
