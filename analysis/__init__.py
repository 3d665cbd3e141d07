"""What the results mean: honest tables, means, figures and pages from plain data frames.

Never opens a store, never imports ``study``; the statistics never import torch. Names are offered lazily.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "agreement": "analysis.attention_scores",
    "anova": "analysis.anova_fit",
    "AnovaTable": "analysis.anova_table",
    "attention_change": "analysis.attention_scores",
    "AttentionMap": "analysis.attention",
    "best": "analysis.compare",
    "capture": "analysis.attention",
    "cell_means": "analysis.means",
    "check": "analysis.checks",
    "confirm": "analysis.confirmation",
    "contrasts": "analysis.compare",
    "differences": "analysis.means",
    "failures": "analysis.failed_trials",
    "friedman": "analysis.robust_tests",
    "games_howell": "analysis.oneway",
    "importance": "analysis.importance_shares",
    "marginal_means": "analysis.means",
    "mixed": "analysis.mixed_model",
    "near_best": "analysis.settings_near_best",
    "noise_maps": "analysis.noise_difference",
    "pairwise": "analysis.compare",
    "pareto": "analysis.pareto_optimal",
    "power": "analysis.power_design",
    "reading_contrast": "analysis.noise_reading",
    "recommend": "analysis.recommend_rule",
    "recommend_across": "analysis.recommend_across_rule",
    "render": "analysis.report.page",
    "ReportContent": "analysis.report.content",
    "robust": "analysis.robust_tests",
    "sensitivity": "analysis.sensitivity_fit",
    "several": "analysis.several_scores",
    "size_trend": "analysis.size_slopes",
    "subset": "analysis.optimal",
    "trend": "analysis.trend_contrasts",
    "variance_components": "analysis.variance",
    "with_pictures": "analysis.variance",
    "weight_changes": "analysis.weights",
    "welch": "analysis.oneway",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
