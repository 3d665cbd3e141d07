"""Files that are named by a path, or by the name of one that comes with the package."""

from __future__ import annotations

from pathlib import Path

from adapters.faults import InputFault


def find(name: str | Path, folder: Path, kind: str) -> Path:
    """Return a YAML file: the path that is given, or the shipped file of that name.

    Parameters
    ----------
    folder : Path
        Holds the shipped files; its own name is the plural of `kind`.
    kind : str
        What the file is, for the message.

    Raises
    ------
    InputFault
        If it is neither; lists the shipped names.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = names(folder)
    if str(name) in shipped:
        return folder / f"{name}.yaml"
    raise InputFault(
        f"no {kind} {str(name)!r}: it is no file, and the shipped {folder.name} are {', '.join(shipped)}; "
        f"give one of these names or the path of a {kind} file"
    )


def names(folder: Path) -> list[str]:
    """Return the names of the files that a folder ships, in order."""
    return sorted(file.stem for file in folder.glob("*.yaml"))
