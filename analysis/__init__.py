"""What the results mean: honest tables, means, figures and pages from plain data frames.

Never opens a store, never imports ``study``; the statistics never import torch. Names are offered lazily.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "AnovaTable": "analysis.anova_table",
    "anova": "analysis.anova_fit",
    "cell_means": "analysis.means",
    "differences": "analysis.means",
    "marginal_means": "analysis.means",
    "ReportContent": "analysis.report.content",
    "render": "analysis.report.page",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
