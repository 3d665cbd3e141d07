"""Picture files: which of a folder's files are pictures, and reading them. Never imports torch."""

import hashlib
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from adapters.faults import InputFault

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
EXPECTED = f"expected {', '.join(sorted(SUFFIXES))}"
SMALLEST = 16
CENTRE, WHOLE = "centre", "none"
CROPS = (CENTRE, WHOLE)
"""How a picture becomes a square: cut to its middle, or kept whole, with white beside it."""
FORMATS = ("JPEG", "PNG", "WEBP")
"""What a file is read as, whatever its name says: Pillow knows formats that it gives to other programs, such as EPS."""

_NAMED = 20


def is_picture(path: Path) -> bool:
    """Say whether a file is a picture by its name; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and os.path.isfile(path)


def picture_files(folder: Path) -> list[Path]:
    """List the pictures that lie directly in a folder, by name."""
    return sorted((path for path in folder.iterdir() if is_picture(path)), key=lambda path: path.name)


def read(file: Path) -> Image.Image:
    """Read a picture: turned as the camera said, what is transparent laid on white.

    Raises
    ------
    InputFault : the file is no picture, is broken, or is smaller than 16 pixels; the message begins with its name.
    """
    try:
        with _opened(file) as opened:
            image = _upright(opened)
    except Exception as error:  # whatever Pillow raises for a file that is broken, something else, or absurdly large
        raise InputFault(f"{file.name} ({' '.join(str(error).split())[:120]})") from error
    if min(image.size) < SMALLEST:
        raise InputFault(f"{file.name} ({image.width}x{image.height}; at least {SMALLEST} pixels, please)")
    return image


def broken(files: Iterable[Path]) -> list[str]:
    """Describe the files that cannot be read, as `read` does; every picture is decoded, the large ones coarsely."""
    return [fault for file in files if (fault := _fault(file, file.stat().st_mtime_ns, file.stat().st_size))]


@cache
def _fault(file: Path, mtime: int, size: int) -> str:
    try:
        with _opened(file) as opened:
            if min(opened.size) < SMALLEST:
                return f"{file.name} ({opened.width}x{opened.height}; at least {SMALLEST} pixels, please)"
            opened.draft("RGB", (SMALLEST, SMALLEST))  # a JPEG is decoded at an eighth: as much is seen, much faster
            opened.load()
    except Exception as error:  # as above
        return f"{file.name} ({' '.join(str(error).split())[:120]})"
    return ""


def upright_size(file: Path) -> tuple[int, int]:
    """Give the width and height of a picture that can be read, turned as the camera said; it is not decoded."""
    with _opened(file) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # 5 to 8 turn by a quarter
        return (opened.height, opened.width) if turned else opened.size


def listed(names: Sequence[str]) -> str:
    """Name the first twenty, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def fitted(image: Image.Image, size: int, crop: str = CENTRE) -> np.ndarray:
    """Scale a picture to a square and crop it to its middle, or lay all of it on white: uint8 (size, size, 3).

    Parameters
    ----------
    crop : of `CROPS`.
    """
    if image.size == (size, size):
        return np.asarray(image)
    if crop == CENTRE:
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    width, height = (max(1, round(edge * size / max(image.size))) for edge in image.size)  # of 1:200 something is left
    square = Image.new("RGB", (size, size), "white")
    square.paste(image.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes; a file that has not changed since is read once."""
    state = file.stat()
    return _hash(file, state.st_mtime_ns, state.st_size)


@cache
def _hash(file: Path, mtime: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def array_hash(picture: np.ndarray) -> str:
    """SHA-256 of a drawn picture's shape and bytes."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open a picture; one of absurdly many pixels raises. Not for several threads: filters of warnings are global."""
    if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for
        raise ValueError("it is no ordinary file")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=FORMATS) as opened:
            yield opened


def _upright(opened: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255 rather than scale
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
