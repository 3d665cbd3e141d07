"""`adapter-study recommend`: from a study's results to a recipe that `train` runs; never imports torch."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from adapters.faults import InputFault
from study.cli.shared import StudyFile
from study.study import Study

_SHOWN = 20


def command(
    study: StudyFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The recipe to write, such as recipe.yaml.")],
    store: Annotated[str | None, typer.Option(help="Folder of the store, instead of the study's own.")] = None,
    error: Annotated[
        str, typer.Option(help="What standard errors come from: auto, residual, or a block such as task.")
    ] = "auto",
    backbone: Annotated[
        str | None, typer.Option(help="Which backbone the recipe is for, of a study with several; default: its first.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Recommend a design of a study, and write it as a recipe.

    The recipe says how surely the design is the best, which others may be, what was excluded and why, and what was not
    tested. With --error task, the default where there are several tasks, that is about new tasks; with residual about
    those that were run. Of a study with several backbones one design is recommended for all of them or, where effects
    are shown to depend on the backbone, one for each; a recipe is for one backbone.
    """
    from study import recommend

    if output.is_dir() or not output.absolute().parent.is_dir():
        raise InputFault(f"-o {output}: expected a file in a folder that is there")
    loaded = Study.load(study, store)
    found = recommend.recommend(loaded, error)
    named, own = recommend.on_backbone(loaded, found, backbone)
    recommend.write(output, recommend.recipe(loaded, found, named))
    kinds = {task.kind: task.own for task in loaded.config.tasks}
    follow = "\n".join(f"adapter-study train {shlex.quote(str(output))} {words} -o ADAPTER" for words in kinds.values())
    others = [source.name for source in loaded.config.backbones if source.name != named]
    if others:
        follow = f"{output} is for {named}; --backbone {'|'.join(others)} writes another.\n{follow}"
    if as_json:
        print(json.dumps({"recipe": str(output), "backbone": named, **found.to_dict()}, indent=1, allow_nan=False))
        print(follow, file=sys.stderr)
        return
    from analysis.recommended_across import RecommendedAcross
    from study.cli.means import print_table

    where = f" on {named}" if isinstance(found, RecommendedAcross) and found.apart else ""
    shown = own.shown()
    title = f"{loaded.config.name}: designs{where} by {found.response}"
    title += f", the first {_SHOWN} of {len(shown)}" if len(shown) > _SHOWN else ""
    print_table(title, shown.head(_SHOWN), found.explain())
    print()
    print(follow)
