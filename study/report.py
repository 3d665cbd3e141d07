"""What a study's results say: gathers rows, pictures and the untuned backbone; `analysis` does the thinking."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.faults import InputFault
from adapters.positions import READS, WRITES
from analysis.anova_fit import anova
from analysis.declared import RESIDUAL
from study.canonical import canonical_json
from study.columns import SCORES, higher_is_better
from study.progress import duration
from study.space import text
from study.tasks.subject_spec import SubjectSpec
from study.trial import design_words

if TYPE_CHECKING:
    import pandas as pd

    from analysis.anova_table import AnovaTable
    from analysis.report.blocks import Page
    from analysis.report.content import Gallery, ReportContent, Snippet, Tuning
    from study.study import Study

PAIR = ("input", "output")
DESIGN = "design"
"""The factor of a study whose designs are told apart only by all of their keys together."""
PICTURES = 8
"""Pictures of a design in a gallery."""
STATES = ("planned", "done", "diverged", "failed", "out_of_memory", "missing")


def terms(study: Study) -> tuple[list[str], list[str], tuple[str, str] | None]:
    """Return the factors, blocks and pair that a study's results are analysed by.

    Factors are those that every design has and that vary. Where they do not tell all designs apart, because some have
    factors of their own, the design as a whole is the one factor. Blocks are the tasks, and the seeds within each task,
    where there are several; input and output, where both vary, are a pair.

    Raises
    ------
    InputFault
        If no factor varies.
    """
    designs = study.config.space.designs
    factors = [name for name in study.factors if name == "backbone" or all(name in design for design in designs)]
    if len({tuple(text(design.get(name)) for name in factors) for design in designs}) < len(designs):
        factors = ["backbone", DESIGN] if "backbone" in factors else [DESIGN]
    if not factors:
        raise InputFault(f"no factor of {study.config.name} varies over all its designs; expected at least one")
    blocks = ["task"] * (len(study.config.tasks) > 1) + ["task:seed"] * (len(study.config.seeds) > 1)
    return factors, blocks, PAIR if set(PAIR) <= set(factors) else None


def results(study: Study) -> pd.DataFrame:
    """Return a study's results with the column `design`: the method, and the keys in which its designs differ."""
    designs, frame = study.config.space.designs, study.results()
    words = {}
    for design in designs:
        alike = [other for other in designs if other["method"] == design["method"]]
        keys = {key for key in design if len({text(other.get(key)) for other in alike}) > 1}
        words[canonical_json(design)] = design_words(design, keys)
    return frame.assign(**{DESIGN: frame["design_json"].map(words)})


def analyse(study: Study, error: str = RESIDUAL) -> AnovaTable:
    """Return the analysis of variance of a study's primary score: for its own tasks, unless another error is asked for.

    Raises
    ------
    InputFault
        If there are too few rows, or no factor that varies.
    """
    factors, blocks, pair = terms(study)
    return anova(results(study), study.config.primary, factors, blocks, error=error, pair=pair)


def page(study: Study, address: str | None = None) -> str:
    """Return a study's report as one self-contained HTML page.

    Parameters
    ----------
    address : str, optional
        How the study was named, for the commands on the page; by default its own name.

    Raises
    ------
    InputFault
        If the store has no results of the study.
    """
    from analysis.report.page import to_html

    return to_html(built(study, address))


def built(study: Study, address: str | None = None) -> Page:
    """Return a study's report before it is written as HTML or Markdown; parameters and faults as `page`."""
    from analysis.report.sections import compose

    return compose(content(study, address))


def content(study: Study, address: str | None = None) -> ReportContent:
    """Gather all that a report shows; parameters and faults as `page`."""
    from analysis.report.content import ReportContent

    frame, untuned = results(study), study.results("reference")
    if frame.empty:
        raise InputFault(f"{study.store.folder} holds no results of {study.config.name}; run the study first")
    factors, blocks, pair = terms(study)
    status = study.status()
    lost = frame[frame["status"] != "done"]
    references = untuned.assign(name="untuned backbone")[["name", "task", "seed", *_scores(study, frame)]]
    named = address or study.config.name
    return ReportContent(
        title=f"Study {study.config.name}",
        frame=frame,
        response=study.config.primary,
        higher_is_better=higher_is_better(study.config.primary),
        factors=factors,
        blocks=blocks,
        pair=pair,
        scores=[name for name in _scores(study, frame) if name != study.config.primary],
        order=[*READS, *WRITES],
        references=references if len(references) else None,
        galleries=_galleries(study, frame, untuned, factors),
        failures=lost[[*factors, "task", "seed", "status", "error"]] if len(lost) else None,
        tuning=_tuning(study),
        counts={name: status[name] for name in STATES},
        coverage=_coverage(status),
        forbidden=study.config.left_out,
        design=_chosen(study),
        reuse=_reuse(study, frame, named),
        backbone=", ".join(source.name for source in study.config.backbones),
        provenance=_provenance(study, frame, named),
    )


def _coverage(status: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {"factor": factor, "level": level, **{state: counts[state] for state in STATES}}
        for factor, levels in status["by_factor"].items()
        for level, counts in levels.items()
    ]
    return pd.DataFrame(rows, columns=["factor", "level", *STATES])


def _chosen(study: Study) -> list[str]:
    """Say how many designs, tasks and seeds make the trials, and how the designs were chosen."""
    space, config = study.config.space, study.config
    on = {source.name: len(config.designs_on(source)) for source in config.backbones}
    counts = {"design": len(space.designs), "task": len(config.tasks), "seed": len(config.seeds)}
    if len(on) > 1:
        counts["backbone"] = len(on)
    of = " × ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
    if len(set(on.values())) > 1:
        of += f" ({', '.join(f'{name} has the positions of {count} designs' for name, count in on.items())})"
    told = [f"The plan: {of}. Tasks: {', '.join(task.name for task in config.tasks)}."]
    if not space.complete:
        told.append(
            f"Of the {space.size} combinations of levels {space.looked_at} were drawn at random to choose from."
        )
    return [*told, *space.chosen.told]


def _reuse(study: Study, frame: pd.DataFrame, address: str) -> list[Snippet]:
    """Code that repeats the study, reads its results, and trains its leader on other pictures."""
    from analysis.report.content import Snippet

    config, store = study.config, study.store.folder
    factors, blocks, pair = terms(study)
    elsewhere = "" if str(store) == config.store else f" --store {shlex.quote(str(store))}"
    named = f"{shlex.quote(address)}{elsewhere}"
    found = [
        Snippet(
            "Go on with the study, or see that it is complete, and write this page again:",
            "shell",
            f"adapter-study run {named}\nadapter-study status {named}\nadapter-study report {named} -o report.html\n",
        )
    ]
    if DESIGN not in factors:  # which is no column of the store
        found.append(
            Snippet(
                "The statistics of this page; every command takes --json too:",
                "shell",
                _commands(study, factors, blocks, pair),
            )
        )
    found.append(Snippet("The same in Python:", "python", _python(study, address, elsewhere != "")))
    return [*found, *_leader(study, frame)]


def _commands(study: Study, factors: list[str], blocks: list[str], pair: tuple[str, str] | None) -> str:
    own = ["pair", *(f for f in factors if f not in pair)] if pair else factors
    rows = f"{shlex.quote(str(study.store.folder))} --response {study.config.primary}"
    out = f" --blocks {','.join(blocks)}" if blocks else ""
    asked, apart = f"{rows} --factors {','.join(own)}{out}", f"{rows} --factors {','.join(factors)}{out}"
    lines = [
        f"anova {asked} --error residual",
        f"compare {asked} --error residual --of {own[0]} --method best",
        f"importance {asked} --error residual",
        f"robust {apart}" + (f" --interactions {':'.join(pair)}" if pair else ""),
    ]
    if blocks:
        lines.append(f"variance {apart}")
    return "".join(f"adapter-study {line}\n" for line in lines)


def _python(study: Study, address: str, elsewhere: bool) -> str:
    factors, blocks, pair = terms(study)
    config = study.config
    store = f", store={str(study.store.folder)!r}" if elsewhere else ""
    of = list(pair) if pair else factors[:1]
    model = f"factors={factors}, blocks={blocks}, error={RESIDUAL!r}"
    rows = ["frame = study.results()"]
    if DESIGN in factors:
        rows = ["frame = results(study)  # with a column that names each design"]
    return "\n".join([
        "from analysis import anova, best",
        "from study import Study",
        *(["from study.report import results"] if DESIGN in factors else []),
        "",
        f"study = Study.load({address!r}{store})",
        *rows,
        f"table = anova(frame, {config.primary!r}, {model}{f', pair={pair}' if pair else ''})",
        "print(table.explain())",
        f"print(best(frame, {config.primary!r}, of={of}, {model}).explain())",
        "",
    ])  # fmt: skip


def _leader(study: Study, frame: pd.DataFrame) -> list[Snippet]:
    """Code that trains the design with the best mean on other pictures, and that uses an adapter of the study."""
    import yaml

    from analysis.report.content import Snippet
    from study.plan import address

    config, primary = study.config, study.config.primary
    grouped = frame.groupby("design_json")[primary]
    means = grouped.mean()[grouped.apply(lambda scores: bool(scores.notna().all()))].dropna()
    if means.empty:
        means = grouped.mean().dropna()
    spec = config.tasks[0]
    if means.empty or not isinstance(spec, SubjectSpec):
        return []  # `train` learns subjects
    leader = means.idxmax() if higher_is_better(primary) else means.idxmin()
    row = frame[frame["design_json"] == leader].iloc[0]
    source = next(each for each in config.backbones if each.name == row["backbone"])
    protocol = {key: value for key, value in json.loads(row["protocol_json"]).items() if value != []}
    recipe = {
        "name": "leader", "backbone": address(source), "design": json.loads(row["design_json"]), "protocol": protocol
    }  # fmt: skip
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    train = "adapter-study train leader.yaml --pictures photos/mine"
    found = [
        Snippet(
            f"The design with the best mean {primary} as a recipe. It trains on pictures of your own in photos/mine, "
            "and --class says what they show:",
            "shell",
            f"cat > leader.yaml <<'END'\n{text}END\n{train} --class {shlex.quote(spec.class_word)} -o leader\n",
        )
    ]
    kept = frame[frame["id"].map(lambda id: study.store.adapter(id).is_dir()) & frame[primary].notna()]
    if len(kept):
        best = kept.sort_values(primary, ascending=not higher_is_better(primary)).iloc[0]
        own = next((task for task in config.tasks if task.name == best["task"]), spec)
        folder = shlex.quote(str(study.store.adapter(best["id"])))
        prompt = shlex.quote(own.example)
        found.append(
            Snippet(
                f"Pictures of {own.name} by the adapter of this study that scored best on it:",
                "shell",
                f"adapter-study generate {folder} --prompt {prompt} -o out.png\n",
            )
        )
    return found


def _tuning(study: Study) -> Tuning | None:
    from analysis.report.content import Tuning

    tune = study.config.tune
    if tune is None:
        return None
    backbone = ("backbone",) if len(study.config.backbones) > 1 else ()
    return Tuning(study.tuned(), (*backbone, *tune.by), tuple(tune.grid), [task.name for task in tune.tasks])


def _scores(study: Study, frame: pd.DataFrame) -> list[str]:
    return [name for name in SCORES if name == study.config.primary or frame[name].notna().any()]


def _galleries(study: Study, frame: pd.DataFrame, untuned: pd.DataFrame, factors: list[str]) -> list[Gallery]:
    """Return for each task the pictures of some designs from best to worst, and of the untuned backbone.

    All of them are of one seed, the first that most designs have, so that they start from the same noise.
    """
    from analysis.figures import PictureRow
    from analysis.report.content import Gallery

    images, primary = study.store.images(), study.config.primary
    galleries = []
    for task in study.config.tasks:
        there = frame[(frame["task"] == task.name) & frame[primary].notna()]
        if there.empty:
            continue
        seed = there["seed"].value_counts(sort=False).sort_index().idxmax()
        ranked = there[there["seed"] == seed].sort_values(primary, ascending=not higher_is_better(primary))
        ranked = ranked.drop_duplicates(factors)
        chosen = ranked.iloc[_spread(len(ranked))]
        rows = [
            PictureRow(
                " ".join(str(row[name]) for name in factors), float(row[primary]), _pictures(study, images, row["id"])
            )
            for _, row in chosen.iterrows()
        ]
        for _, row in untuned[(untuned["task"] == task.name) & (untuned["seed"] == seed)].iterrows():
            rows.append(PictureRow("untuned backbone", float(row[primary]), _pictures(study, images, row["id"])))
        rows = [row for row in rows if len(row.pictures)]
        if rows:
            real = task.load_pictures(rows[0].pictures[0].shape[0], PICTURES)
            galleries.append(Gallery(task.name, list(real), rows))
    return galleries


def _spread(count: int) -> list[int]:
    """Return which of so many ranked designs to show: the first three, one in the middle, the last two."""
    return sorted({0, 1, 2, count // 2, count - 2, count - 1} & set(range(count)))


def _pictures(study: Study, images: pd.DataFrame, id: str) -> list[np.ndarray]:
    from PIL import Image

    files = images[images["id"] == id].sort_values("index")["file"].head(PICTURES)
    paths = [study.store.folder / file for file in files.dropna()]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths if path.exists()]


def _provenance(study: Study, frame: pd.DataFrame, address: str) -> dict[str, str]:
    protocols = [json.loads(text) for text in frame["protocol_json"].unique()]
    told = "; ".join(", ".join(f"{key} {value}" for key, value in protocol.items()) for protocol in protocols)

    def several(column: str) -> str:
        return ", ".join(str(value) for value in frame[column].dropna().unique() if value != "")

    versions = [json.loads(text) for text in frame["versions_json"].dropna().unique() if text]
    return {
        "repeat": f"adapter-study run {shlex.quote(address)}",
        "protocol": told,
        "trained and scored in": duration(float((frame["pack_seconds"] / frame["pack_size"].fillna(1)).sum())),
        "device": several("device"),
        "backbone hash": several("backbone_hash"),
        "scorer hashes": several("scorer_hashes_json"),
        "versions": "; ".join(", ".join(f"{name} {v}" for name, v in version.items()) for version in versions),
        "commit": several("commit"),
    }
