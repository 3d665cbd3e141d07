"""What looks at a search's rows have found, in a file beside them, so that `status` need not wait for it again.

A look stands under the digest of the very rows that it was found from, and only for the statistics that found it, so
the rows stay the only truth: a file that is missing, damaged or of other rows changes nothing but the time it takes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from adapters.reading import read_json
from study.atomic import write_file


def read(path: Path) -> dict[str, list[int]]:
    """Read the looks of a file; none where it cannot be read, or other statistics found them."""
    try:
        content = read_json(path)
        if content["statistics"] != _statistics():
            return {}
        return {str(asked): [int(place) for place in found] for asked, found in content["looks"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {}


def write(path: Path, looks: Mapping[str, list[int]]) -> None:
    """Write looks, whole or not at all."""
    text = json.dumps({"statistics": _statistics(), "looks": dict(looks)}, indent=0)

    def fill(part: Path) -> None:
        part.write_text(text + "\n", encoding="utf-8")

    write_file(path, fill)


@cache
def _statistics() -> str:
    """Hash the code that looks."""
    digest = hashlib.sha256()
    for file in sorted((Path(__file__).resolve().parents[1] / "analysis").glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
