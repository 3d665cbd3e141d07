"""Does a learned transform lower the rank of what is left to learn? TLoRA's claim, on changes of real weights.

TLoRA (2501.08727) writes a tuned weight as W = W₀T + Δ and expects T to leave a residual Δ of lower rank than the
change ΔW = W − W₀ that LoRA has to hold. Here W is the end of full tuning, T is fitted to it, and what it leaves is
measured.

Three things keep it a test. A dense T fits anything where W₀ has full row rank, so it is only reported; T is a tensor
ring, as the method has it. A ring fits some of any matrix, so every fit is repeated on a random ΔW with the same
singular values, for which LoRA's error is the same to the last digit: the difference is what T gains from W₀. And T
costs parameters, so structures are held against LoRA of as many parameters, its rank interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from adapters.faults import InputFault
from analysis.plain import records
from analysis.result import Result
from analysis.ring_fits import SWEEPS, TOLERANCE, dense_transform, transform_matrix
from analysis.weight_spectra import measures, same_spectrum, singular_values, truncation_errors
from analysis.weight_structures import Fitter, Structure, default_structures, lora_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Weights = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""W₀ and W by the matrix's name, each (out, in)."""

TUNED, RANDOM = "tuned", "random"
MANY, SAME = "LoRA, as many parameters", "LoRA, same rank"
EXACT = 1e-6
"""A residual smaller than this share of ΔW is called an exact fit: weights come in float32."""

RANKS = ("effective_rank", "stable_rank", "rank_90", "rank_95", "rank_99")


@dataclass(frozen=True)
class WeightChanges(Result):
    """Spectra and fits of the changes of many matrices, of one tuned model or several.

    Attributes
    ----------
    spectra : DataFrame
        A row for each model, matrix, ``of`` (tuned, random) and rank of T (0: no T): ``share`` of ΔW's energy that T
        holds, and measures of what it leaves.
    tails : DataFrame
        Model, of, transform, rank, error: that of the best rank-r approximation of what T leaves, over ‖ΔW‖; the mean
        over matrices, for ranks that all of them have.
    fits : DataFrame
        A row for each model, matrix, of and structure: parameters, error over ‖ΔW‖, ``lora``: that of LoRA with as many
        parameters, ``same_rank``: that of LoRA with the residual's rank, of TLoRA* alone.
    dense : DataFrame
        Model, matrix, error: what the best dense T leaves, over ‖ΔW‖.
    level : float
        Of the intervals: over units where there are several, else over matrices.
    units : dict of str to str
        The unit of each model: its task, say, of which it is one seed's.
    notes : tuple of str
    """

    spectra: pd.DataFrame = field(repr=False)
    tails: pd.DataFrame = field(repr=False)
    fits: pd.DataFrame = field(repr=False)
    dense: pd.DataFrame = field(repr=False)
    level: float
    units: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def parameters_a_rank(self) -> float:
        """Parameters that a rank costs LoRA, the mean for a matrix."""
        return float(self.spectra["parameters_a_rank"].mean())

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return list(dict.fromkeys(self.spectra["model"]))

    def to_frame(self) -> pd.DataFrame:
        """Comparisons, a row each: number, structure, parameters, value, against, reference, difference, lower, upper.

        Values are means over matrices and models, parameters the mean for a matrix. ``against``: ``ΔW`` itself;
        ``random``, the same on random changes of the same spectrum; ``LoRA, as many parameters``; ``LoRA, same rank``.
        """
        return pd.DataFrame([*self._of_transforms(), *self._of_structures()])

    def _of_transforms(self) -> list[dict[str, Any]]:
        rows = []
        keyed = self.spectra.set_index(["model", "matrix", "of", "transform"])
        for rank in sorted(set(self.spectra["transform"]) - {0}):
            named = {"structure": f"T ({rank})", "parameters": keyed["parameters"].xs(rank, level="transform").mean()}
            tuned, random = (keyed.xs((of, rank), level=("of", "transform")) for of in (TUNED, RANDOM))
            rows.append({"number": "share", **named, **self._paired(tuned["share"], random["share"], RANDOM)})
            plain = keyed.xs((TUNED, 0), level=("of", "transform"))
            for number in RANKS:
                rows.append({"number": number, **named, **self._paired(tuned[number], plain[number], "ΔW")})
                rows.append({"number": number, **named, **self._paired(tuned[number], random[number], RANDOM)})
        return rows

    def _of_structures(self) -> list[dict[str, Any]]:
        rows = []
        for structure, found in self.fits.groupby("structure", sort=False):
            keyed = found.set_index(["model", "matrix", "of"])
            tuned, random = (keyed.xs(of, level="of") for of in (TUNED, RANDOM))
            named = {"number": "error", "structure": structure, "parameters": tuned["parameters"].mean()}
            rows.append({**named, **self._paired(tuned["error"], tuned["lora"], MANY)})
            if tuned["same_rank"].notna().all():
                rows.append({**named, **self._paired(tuned["error"], tuned["same_rank"], SAME)})
            rows.append({**named, **self._paired(tuned["error"], random["error"], RANDOM)})
        return rows

    def _paired(self, values: pd.Series, reference: pd.Series, against: str) -> dict[str, Any]:
        """Compare matrix by matrix; the interval is over units, or over the matrices of the only one."""
        difference = values - reference.reindex(values.index)
        each = self._by_unit(difference) if self._count > 1 else difference.groupby("matrix").mean()
        half = float("nan")
        if len(each) > 1:
            half = float(t_distribution.ppf((1 + self.level) / 2, len(each) - 1) * each.std() / np.sqrt(len(each)))
        mean = float(each.mean())
        value, held = (float(self._by_unit(each).mean()) for each in (values, reference))
        return {"value": value, "against": against, "reference": held, "difference": mean, "lower": mean - half,
                "upper": mean + half}  # fmt: skip

    def _by_unit(self, values: pd.Series) -> pd.Series:
        """Mean over matrices, then over the models of each unit."""
        each = values.groupby("model").mean()
        return each.groupby(each.index.map(self.units)).mean()

    @property
    def _count(self) -> int:
        return len(set(self.units.values()))

    def to_dict(self) -> dict[str, Any]:
        """The comparisons and curves as JSON values; what is not there is null."""
        return {
            "models": self.models, "matrices": self._matrices, "level": self.level,
            "comparisons": records(self.to_frame()), "tails": records(self.tails), "notes": list(self.notes),
        }  # fmt: skip

    @property
    def _matrices(self) -> int:
        return self.spectra["matrix"].nunique()

    def explain(self) -> str:
        """What T takes, what it leaves, and whether it pays, each beside its control."""
        rows = self.to_frame().to_dict("records")
        plain = self.spectra[(self.spectra["of"] == TUNED) & (self.spectra["transform"] == 0)]
        exact = int((self.dense["error"] < EXACT).sum())
        lines = [
            f"{len(self.models)} tuned {'model' if len(self.models) == 1 else 'models'}, {self._matrices} changed "
            f"matrices. ΔW itself has an effective rank of {plain['effective_rank'].mean():.3g}, and "
            f"{plain['rank_90'].mean():.3g} singular values hold 90 % of its energy.",
            f"A dense T fits {exact} of {len(self.dense)} changes exactly, with as many parameters as they have: "
            "where W₀ has full row rank it can fit anything, so that says nothing.",
        ]
        lines += [_transform_words(rows, rank) for rank in sorted(set(self.spectra["transform"]) - {0})]
        lines += [
            _structure_words(row)
            for row in rows
            if row["number"] == "error" and row["against"] != RANDOM
        ]
        over = "subjects" if self._count > 1 else "matrices of the one subject"
        lines.append(f"Errors are over ‖ΔW‖; intervals of {self.level:.0%}, over {over}, each on its own.")
        lines.append("Fits of rings are local optima: what they leave is an upper bound of what the best would leave.")
        return "\n".join([*lines, *self.notes])

    def plot(self) -> Figure:
        """Errors against parameters, and against the rank of what T leaves."""
        from analysis.weight_figures import claim

        return claim(self)


def weight_changes(
    models: Mapping[str, Weights],
    transforms: Sequence[int] = (1, 2),
    structures: Sequence[Structure] | None = None,
    units: Mapping[str, str] | None = None,
    seed: int = 0,
    level: float = 0.95,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
    stage: Callable[[str], None] = lambda _: None,
) -> WeightChanges:
    """Measure the changes of matrices and fit structures to them, and to random changes of the same spectrum.

    Parameters
    ----------
    models
        Weights before and after tuning, by the model's name.
    transforms
        Ring ranks of T whose residuals are measured.
    structures
        What is fitted; by default `analysis.weight_structures.default_structures`.
    units
        What each model is of: intervals are over units, and models of one are averaged. By default each is its own.
    seed
        Of the random changes and of the starts of fits.
    sweeps, tolerance
        When a fit ends: `analysis.ring_fits`.
    stage
        Told which model is next.

    Raises
    ------
    InputFault
        For weights of other shapes than matrices, not finite, or none that changed.
    """
    changed = {name: _checked(name, weights) for name, weights in models.items()}
    if not changed:
        raise InputFault("no tuned model was given; expected at least one")
    if any(rank < 1 for rank in transforms) or not transforms:
        raise InputFault(f"transforms={list(transforms)}: expected ring ranks of at least 1")
    if structures is None:
        shapes = [(*before.shape,) for weights in changed.values() for before, _ in weights.values()]
        structures = default_structures([(rows, columns) for rows, columns in shapes])
    spectra: list[dict[str, Any]] = []
    tails: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    dense: list[dict[str, Any]] = []
    for model, weights in changed.items():
        stage(model)
        for matrix, (before, after) in weights.items():
            named = {"model": model, "matrix": matrix}
            left = after - before @ dense_transform(before, after)
            dense.append({**named, "error": float(np.linalg.norm(left) / np.linalg.norm(after - before))})
            key = [seed, crc32(f"{model} {matrix}".encode())]
            change = after - before
            for of in (TUNED, RANDOM):
                target = change if of == TUNED else same_spectrum(change, np.random.default_rng(key))
                fitter = Fitter(before, target, key, sweeps, tolerance)
                found = _Found(fitter, {**named, "of": of})
                spectra += found.spectra(transforms, tails)
                fits += [found.fit(structure) for structure in structures]
    own = {name: (units or {}).get(name, name) for name in changed}
    skipped = sum(len(models[name]) - len(weights) for name, weights in changed.items())
    notes = (f"{skipped} matrices that tuning did not change were left out.",) if skipped else ()
    every = pd.DataFrame(tails)
    every = every[every["rank"] <= every.groupby(["model", "matrix"])["rank"].max().min()]  # ranks that all have
    means = every.groupby(["model", "of", "transform", "rank"], sort=False, as_index=False)["error"].mean()
    return WeightChanges(pd.DataFrame(spectra), means, pd.DataFrame(fits), pd.DataFrame(dense), level, own, notes)


class _Found:
    """What is found of one matrix and one change of it."""

    def __init__(self, fitter: Fitter, named: dict[str, Any]) -> None:
        self._fitter, self._named = fitter, named
        self._transforms: dict[int, Any] = {}
        self._norm = float(np.linalg.norm(fitter.change))
        self._lora = truncation_errors(singular_values(fitter.change))

    def spectra(self, transforms: Sequence[int], tails: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Measure what each T leaves, none of all; errors of its best approximations are put on `tails`."""
        before, change = self._fitter.before, self._fitter.change
        rows = []
        for rank in (0, *transforms):
            left, parameters = change, 0
            if rank:
                cores = self._transforms[rank] = self._fitter.transform(rank)
                left = before + change - before @ transform_matrix(cores)
                parameters = sum(core.size for core in cores)
            values = singular_values(left, EXACT * self._norm)
            relative = float(np.linalg.norm(values)) / self._norm
            told = {**self._named, "transform": rank, "parameters": parameters, "parameters_a_rank": sum(change.shape)}
            rows.append({**told, "share": 1 - relative**2, **measures(values)})
            errors = truncation_errors(values) * relative
            tails += [{**self._named, "transform": rank, "rank": r, "error": e} for r, e in enumerate(errors)]
        return rows

    def fit(self, structure: Structure) -> dict[str, Any]:
        out, features = self._fitter.change.shape
        parameters = structure.parameters(out, features)
        rank = structure.size[-1]
        same = lora_error(self._lora, rank) if structure.method == "tlora_star" else float("nan")
        return {
            **self._named, "structure": structure.label, "method": structure.method, "parameters": parameters,
            "error": self._fitter.error(structure, self._transforms),
            "lora": lora_error(self._lora, parameters / (out + features)), "same_rank": same,
        }  # fmt: skip


def _checked(model: str, weights: Weights) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The matrices that changed, in float64."""
    found = {}
    for name, pair in weights.items():
        before, after = (np.asarray(weight, dtype=np.float64) for weight in pair)
        if before.ndim != 2 or before.shape != after.shape:
            raise InputFault(f"{model}: {name} is {before.shape} before, {after.shape} after; expected one (out, in)")
        if not (np.isfinite(before).all() and np.isfinite(after).all()):
            raise InputFault(f"{model}: {name} holds numbers that are not finite; the tuning diverged")
        if (before != after).any():
            found[name] = before, after
    if not found:
        raise InputFault(f"{model}: none of its {len(weights)} matrices was changed by tuning")
    return found


def _signed(row: Mapping[Any, Any] | pd.Series, form: str) -> str:
    """A difference with its interval."""
    if np.isnan(row["lower"]):
        return f"{row['difference']:{form}}"
    return f"{row['difference']:{form}}, {row['lower']:{form}} to {row['upper']:{form}}"


def _transform_words(rows: Sequence[Mapping[Any, Any]], rank: int) -> str:
    found = {(row["number"], row["against"]): row for row in rows if row["structure"] == f"T ({rank})"}
    share, ranks, chance = found["share", RANDOM], found["effective_rank", "ΔW"], found["effective_rank", RANDOM]
    verdict = _verdict(ranks, "higher than ΔW's", "lower than ΔW's", "not shown to differ from ΔW's")
    return (
        f"T of ring rank {rank} holds {share['value']:.1%} of ΔW's energy and {share['reference']:.1%} of a random "
        f"change's ({_signed(share, '+.1%')}). What it leaves has an effective rank of {ranks['value']:.3g}, {verdict} "
        f"({_signed(ranks, '+.2g')}), and {_signed(chance, '+.2g')} against what it leaves of a random change."
    )


def _structure_words(row: Mapping[Any, Any]) -> str:
    against = {MANY: "LoRA of as many parameters", SAME: "LoRA of the residual's rank, without T"}[row["against"]]
    verdict = _verdict(row, "worse than", "better than", "not shown to differ from")
    return (
        f"{row['structure']}, {row['parameters']:,.0f} parameters a matrix: error {row['value']:.3f}, {verdict} "
        f"{against}, {row['reference']:.3f} ({_signed(row, '+.3f')})."
    )


def _verdict(row: Mapping[Any, Any] | pd.Series, above: str, below: str, between: str) -> str:
    return above if row["lower"] > 0 else below if row["upper"] < 0 else between
