"""Names of folders as files and people write them, made into paths."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from adapters.faults import InputFault


def place(root: Path, name: str) -> Path:
    """Return the path that a name stands for; a relative one starts from `root`, and ~ is one's home.

    Raises
    ------
    InputFault
        If no file could be called so.
    """
    try:
        path = root / Path(name).expanduser()
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputFault(f"{_short(name)} is no path ({os.strerror(error.errno)})") from error
    except (ValueError, RuntimeError) as error:  # a null character; no such user
        raise InputFault(f"{_short(name)} is no path ({error})") from error
    return path


def _short(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}…")
