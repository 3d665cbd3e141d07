"""The command `adapter-study`: finds the command's file and runs it; knows nothing of what commands do.

Only the file of the command that was called is imported, so that `--help` is fast and light commands stay light.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

COMMANDS = {
    "run": "Train and score every trial of a study that has no result yet, then print the ANOVA.",
    "status": "Say how far a study is.",
    "cancel": "End the jobs of a study that wait or run on a cluster.",
    "params": "Count the trainable parameters of a design on a backbone.",
    "anova": "Print the analysis of variance of results.",
    "means": "Print means of factor levels or of their combinations.",
    "compare": "Compare levels: all pairs, with a reference, with the best, or along a trend.",
    "importance": "Say which factor matters most.",
    "variance": "Say where the variance comes from, and what to buy more of.",
    "sensitivity": "Say how much a method depends on its hyper-parameters.",
    "robust": "Check the assumptions of the ANOVA, and repeat it without them.",
    "power": "Say which differences a study can see, before it is run.",
    "recommend": "Recommend a design of a study, and write it as a recipe.",
    "confirm": "Compare a recipe with other methods on tasks that nothing used.",
    "attention": "Show what trained trials attend to, beside the untuned model.",
    "noise-difference": "Map what the subject's word changes in the predicted noise.",
    "weights": "Ask of full tuning's changes whether TLoRA's transform lowers their rank.",
    "report": "Write a study's report as an HTML page or as Markdown.",
    "train": "Train a recipe on a folder of pictures and keep the adapter.",
    "export": "Write a trained adapter in a format that other programs read.",
    "generate": "Draw pictures with a trained adapter.",
    "compact": "Merge a store's many small files into few.",
    "gc": "Delete what interrupted runs left in a store.",
}
"""Each is the function `command` of the file `study/cli/<name>.py`, with `_` for `-`."""


def shadowed() -> str | None:
    """Return one sentence if another distribution owns the import name `adapters`, else None."""
    spec = importlib.util.find_spec("adapters")
    ours = Path(__file__).resolve().parents[2] / "adapters"
    found = Path(spec.origin).resolve().parent if spec and spec.origin else None
    owner = "another package"
    if found == ours:
        try:
            other = importlib.metadata.distribution("adapters")
        except importlib.metadata.PackageNotFoundError:
            return None
        if Path(str(other.locate_file("adapters"))).resolve() != ours:
            return None
        owner = "the distribution 'adapters'"
    return (
        f"The import name `adapters` belongs to {owner} at {found}, not to adapter-study: "
        "run `pip uninstall adapters` and install adapter-study again, or use a fresh environment."
    )


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return `command` with faults of the input as one message and exit code 2, and Ctrl-C as exit code 130.

    Warnings are told in one line each.
    """

    from adapters.faults import InputFault  # not before `shadowed` has looked whose `adapters` this is
    from study.cli.told import plain_warnings

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with plain_warnings():
                return command(*args, **kwargs)
        except InputFault as fault:
            print(f"adapter-study: {fault}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("adapter-study: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def build(called: str | None) -> typer.Typer:
    """Return the application: the command that was `called` in full, the others by name and help only."""
    app = typer.Typer(
        name="adapter-study",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="Find out which choice in the design of an adapter matters on a diffusion model.",
    )
    app.callback()(lambda: None)
    for name, text in COMMANDS.items():
        if name == called:
            module = importlib.import_module(f"study.cli.{name.replace('-', '_')}")
            app.command(name, help=text + _details(module.command))(guarded(module.command))
        else:
            app.command(name, help=text)(lambda: None)
    return app


def main() -> None:
    """Run the command line."""
    problem = shadowed()
    if problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
    # A plan may have hundreds of thousands of trials, none of them garbage: to search so many often takes long.
    gc.set_threshold(100_000, 20, 20)
    called = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    build(called)()


def _details(command: Callable[..., Any]) -> str:
    """Return what the command's docstring says beyond its first line."""
    _, _, rest = (command.__doc__ or "").partition("\n")
    return f"\n\n{rest.strip()}" if rest.strip() else ""


if __name__ == "__main__":
    main()
