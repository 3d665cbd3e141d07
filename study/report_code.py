"""The code on a report's page: it runs as shown, where the study's file and store are."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.declared import RESIDUAL, across_interactions
from analysis.report.content import Snippet
from study.columns import higher_is_better
from study.report_rows import DESIGN, terms
from study.strategies.search import searches

if TYPE_CHECKING:
    import pandas as pd

    from study.study import Study
    from study.tasks.specs import TaskSpec

WHAT_TRAINS = ("name", "backbone", "design", "protocol")
"""The keys of a recipe that say what is trained; the others say how it was found."""


def named(study: Study, address: str) -> str:
    """Return the words by which commands name a study and, where it is not the study's own, its store."""
    store = str(study.store.folder)
    elsewhere = "" if store == study.config.store else f" --store {shlex.quote(store)}"
    return f"{shlex.quote(address)}{elsewhere}"


def reuse(study: Study, frame: pd.DataFrame, address: str) -> list[Snippet]:
    """Return code that repeats the study, reads its results, and draws pictures by an adapter that it kept."""
    factors, blocks, pair = terms(study)
    own = named(study, address)
    found = [
        Snippet(
            "Go on with the study, or see that it is complete, and write this page again:",
            "shell",
            f"adapter-study run {own}\nadapter-study status {own}\nadapter-study report {own} -o report.html\n",
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
    found.append(Snippet("The same in Python:", "python", _python(study, address)))
    return [*found, *_kept(study, frame)]


def train(study: Study, address: str, backbone: str | None = None) -> Snippet:
    """Return code that writes the recommended recipe (for one of several backbones), trains it and draws."""
    where = f" --backbone {shlex.quote(backbone)}" if backbone else ""
    spec = study.config.tasks[0]
    own = spec.own.replace("WORD", shlex.quote(spec.words))
    said = ", where --class says what they show" if "--class" in own else ""
    return Snippet(
        f"Write it as a recipe, train it on pictures of your own in photos/mine{said}:",
        "shell",
        f"adapter-study recommend {named(study, address)}{where} -o recipe.yaml\n"
        f"adapter-study train recipe.yaml {own} -o mine\n"
        f"adapter-study generate mine --prompt {_prompt(spec)} -o out.png\n",
    )


def _prompt(spec: TaskSpec) -> str:
    """A prompt for `generate`, and a map where one is needed."""
    return shlex.quote(spec.example) + (" --map map.png" if spec.kind == "control" else "")


def recipe_file(recipe: Mapping[str, Any]) -> Snippet:
    """Return code that writes what a recipe trains, for those who have the page and not the store."""
    import yaml

    content = {key: recipe[key] for key in WHAT_TRAINS}
    content["protocol"] = {key: value for key, value in content["protocol"].items() if value != []}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    end = "END"
    while end in text.splitlines():
        end += "D"
    return Snippet(
        "What it trains, for those who have this page and not the store:",
        "shell",
        f"cat > recipe.yaml <<'{end}'\n{text}{end}\n",
    )


def confirm(study: Study, address: str, recipe: str = "recipe.yaml") -> Snippet:
    """Return code that confirms a recipe, by default the recommended one, and shows that in the report."""
    own, file = named(study, address), shlex.quote(recipe)
    return Snippet(
        "Compare the recipe with other methods on tasks that nothing used, and show that here:",
        "shell",
        f"adapter-study confirm {own} {file}\nadapter-study report {own} --recipe {file} -o report.html\n",
    )


def _kept(study: Study, frame: pd.DataFrame) -> list[Snippet]:
    config, primary = study.config, study.config.primary
    kept = frame[frame["id"].map(lambda id: study.store.adapter(id).is_dir()).astype(bool) & frame[primary].notna()]
    if kept.empty:
        return []
    best = kept.sort_values(primary, ascending=not higher_is_better(primary)).iloc[0]
    own = next((task for task in config.tasks if task.name == best["task"]), config.tasks[0])
    folder = shlex.quote(str(study.store.adapter(best["id"])))
    return [
        Snippet(
            f"Pictures of {own.name} by the adapter of this study that scored best on it:",
            "shell",
            f"adapter-study generate {folder} --prompt {_prompt(own)} -o out.png\n",
        )
    ]


def _commands(study: Study, factors: list[str], blocks: list[str], pair: tuple[str, str] | None) -> str:
    own = ["pair", *(f for f in factors if f not in pair)] if pair else factors
    rows = f"{shlex.quote(str(study.store.folder))} --response {study.config.primary}"
    out = f" --blocks {','.join(blocks)}" if blocks else ""
    asked, apart = f"{rows} --factors {','.join(own)}{out}", f"{rows} --factors {','.join(factors)}{out}"
    crossed = [":".join(pair), *across_interactions(factors)] if pair else []
    lines = [
        f"anova {asked} --error residual",
        f"compare {asked} --error residual --of {own[0]} --method best",
        f"importance {asked} --error residual",
        f"robust {apart}" + (f" --interactions {','.join(crossed)}" if crossed else ""),
    ]
    if blocks:
        lines.append(f"variance {apart}")
    return "".join(f"adapter-study {line}\n" for line in lines)


def _python(study: Study, address: str) -> str:
    factors, blocks, pair = terms(study)
    config = study.config
    folder = str(study.store.folder)
    store = f", store={folder!r}" if folder != config.store else ""
    of = list(pair) if pair else factors[:1]
    model = f"factors={factors}, blocks={blocks}, error={RESIDUAL!r}"
    crossed = across_interactions(factors)
    told = (f", interactions={crossed}" if crossed else "") + (f", pair={pair}" if pair else "")
    lower = "" if higher_is_better(config.primary) else ", higher_is_better=False"
    rows = ["frame = study.results()"]
    if searches(config.space.strategy):
        rows.append("frame = frame[frame.plan == 'fixed']  # planned before any score was known")
    if DESIGN in factors:
        rows = ["frame = results(study)  # with a column that names each design"]
    return "\n".join([
        "from analysis import anova, best",
        "from study import Study",
        *(["from study.report import results"] if DESIGN in factors else []),
        "",
        f"study = Study.load({address!r}{store})",
        *rows,
        f"table = anova(frame, {config.primary!r}, {model}{told})",
        "print(table.explain())",
        f"print(best(frame, {config.primary!r}, of={of}, {model}{lower}).explain())",
        "",
    ])  # fmt: skip
