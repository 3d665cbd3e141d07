"""What a report is made of: frames, arrays and strings; nothing that knows a store or a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.confirmation_result import Confirmation
from analysis.declared import across_interactions
from analysis.figures import PictureRow
from analysis.recommended import Recommendation
from analysis.recommended_across import RecommendedAcross


@dataclass(frozen=True)
class Gallery:
    """Pictures of one task: the real ones, (H, W, 3) uint8, and those of some designs, best first."""

    task: str
    real: Sequence[np.ndarray] = field(repr=False)
    rows: Sequence[PictureRow]


@dataclass(frozen=True)
class Tuning:
    """How settings of the training were tuned before the trials of the report ran.

    Attributes
    ----------
    frame : DataFrame
        One row a group and grid point: the columns of ``groups`` and ``grid`` (missing where a group does not try the
        key), the mean in the report's response (missing where a trial has none), the numbers of trials ``planned``,
        ``done`` and ``diverged``, and the truth of ``chosen`` and ``at_edge``.
    groups, grid : tuple of str
        Columns that name the group, and those that name the grid point.
    tasks : sequence of str
        What it was tuned on.
    """

    frame: pd.DataFrame = field(repr=False)
    groups: tuple[str, ...]
    grid: tuple[str, ...]
    tasks: Sequence[str] = ()


@dataclass(frozen=True)
class Snippet:
    """Code that runs as it is shown: what it does, in words, its language ("shell", "python"), and the code."""

    words: str
    language: str
    code: str


@dataclass(frozen=True)
class Recommended:
    """What is recommended, or why nothing is.

    Attributes
    ----------
    result : Recommendation or None
    fault : str
        Why there is none.
    code : sequence of Snippet
        How to get the recipe and use it.
    recipe : Snippet or None
        The recipe itself.
    design : mapping
        Every key of the design with its value, those that all designs share included.
    across : RecommendedAcross or None
        Of a study with several backbones: all that is recommended. ``result`` is then the recommendation for all of
        them, None where each has its own; ``code``, ``recipe`` and ``design`` are those of ``each``.
    each : mapping of str to Recommended
        Backbone → what is recommended on it.
    """

    result: Recommendation | None
    fault: str = ""
    code: Sequence[Snippet] = ()
    recipe: Snippet | None = None
    design: Mapping[str, object] = field(default_factory=dict)
    across: RecommendedAcross | None = None
    each: Mapping[str, Recommended] = field(default_factory=dict)

    @property
    def named(self) -> bool:
        """Whether a design is recommended."""
        return self.result is not None or bool(self.each)

    def design_on(self, backbone: str) -> Mapping[str, object]:
        """The design that is recommended on a backbone; empty where none is."""
        if self.across is None:
            return self.design
        return self.each[backbone].design if backbone in self.each else {}


@dataclass(frozen=True)
class Confirmed:
    """What became of a recipe on tasks that nothing used.

    Attributes
    ----------
    recipe : str
        What the recipe is called; empty where none was asked for.
    result : Confirmation or None
    fault : str
        Why there is none yet.
    parameters : mapping
        What is compared → how many parameters it trained.
    notes : sequence of str
        What to know before reading.
    evidence : mapping
        What the recipe's file says of itself: names and values.
    code : Snippet or None
        How to confirm.
    """

    recipe: str
    result: Confirmation | None
    fault: str = ""
    parameters: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    evidence: Mapping[str, str] = field(default_factory=dict)
    code: Snippet | None = None


@dataclass(frozen=True)
class Maps:
    """A figure of maps with its words and numbers.

    Attributes
    ----------
    heading, alt, caption : str
    draw : callable
        Makes the figure.
    said : str
        What the numbers say, in short.
    words : sequence of str
        The same at length.
    table : DataFrame or None
        The numbers; ``numbers`` says what they are.
    """

    heading: str
    alt: str
    caption: str
    draw: Callable[[], Figure] = field(repr=False)
    said: str = ""
    words: Sequence[str] = ()
    table: pd.DataFrame | None = field(default=None, repr=False)
    numbers: str = ""


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows.

    Attributes
    ----------
    title : str
    frame : DataFrame
        One row a trial: response, factors, blocks, other scores, and where known ``task``, ``seed``, ``parameters``,
        ``train_seconds``. Trials without a result have no response.
    response : str
        The score the report is about.
    factors, blocks : sequence of str
        As :func:`analysis.anova` takes them, the two of ``pair`` included.
    pair : (str, str) or None
        Two of the factors whose valid combinations are the designs compared; None: the first factor is.
    across : str
        The factor that is a condition of the others, such as the backbone: their interactions with it are in the model.
        Empty where there is none.
    scores : sequence of str
        Columns to list beside the response.
    cautions : sequence of str
        What scores cannot say, a sentence each.
    higher_is_better : bool
        Whether a larger response is a better one.
    order : sequence of str
        Order of the pair's levels in tables and figures.
    references : DataFrame or None
        Rows to compare with: ``name`` (such as "untuned backbone"), ``task``, and the score columns.
    galleries : sequence of Gallery
    failures : DataFrame or None
        One row a trial that failed or diverged, columns as they shall be printed.
    tuning : Tuning or None
    counts : mapping
        State → number of trials, ``planned`` among them.
    coverage : DataFrame or None
        One row a level of a factor, task or seed: ``factor``, ``level``, and the numbers of trials in each state. None:
        counted from ``frame``.
    forbidden : mapping
        Reason → number of combinations of levels that are no designs.
    design : sequence of str
        Sentences about how the designs were chosen.
    recommended : Recommended or None
        The answer; shown first.
    confirmed : Confirmed or None
        Shown right after it.
    maps : sequence of Maps
        Attention and noise maps.
    maps_fault : str
        Why there are none, or not more.
    reuse : sequence of Snippet
        How to repeat the study, read its results and use its designs.
    backbone : str
        What was tuned, in words, for the first paragraph.
    provenance : mapping
        Name → value: versions, hashes, commit, protocol, the command that repeats the study.
    """

    title: str
    frame: pd.DataFrame = field(repr=False)
    response: str
    factors: Sequence[str]
    blocks: Sequence[str] = ()
    pair: tuple[str, str] | None = None
    across: str = ""
    scores: Sequence[str] = ()
    cautions: Sequence[str] = ()
    higher_is_better: bool = True
    order: Sequence[str] = ()
    references: pd.DataFrame | None = field(default=None, repr=False)
    galleries: Sequence[Gallery] = ()
    failures: pd.DataFrame | None = field(default=None, repr=False)
    tuning: Tuning | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    coverage: pd.DataFrame | None = field(default=None, repr=False)
    forbidden: Mapping[str, int] = field(default_factory=dict)
    design: Sequence[str] = ()
    recommended: Recommended | None = None
    confirmed: Confirmed | None = None
    maps: Sequence[Maps] = ()
    maps_fault: str = ""
    reuse: Sequence[Snippet] = ()
    backbone: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def interactions(self) -> list[str]:
        """The interactions that are in the model besides that of the pair."""
        return across_interactions(self.factors, self.across) if self.across else []
