"""What a backbone's or a scorer's name stands for, whether its folder is sound, and the hash of what is in it.

Never imports torch. Nothing is downloaded but by `fetch`, and nothing in a folder is executed or unpickled.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from adapters.faults import InputFault
from study.backbones.architectures import ARCHITECTURES
from study.backbones.kinds import KINDS, components, pipeline_of, read_json
from study.backbones.soundness import TO_SAVE_ANEW, TWINS, is_twin, pipeline_faults, weight_faults
from study.paths import place

BUILTIN = Path(__file__).resolve().parent.parent / "builtin"
BACKBONES = ("micro-unet", "micro-dit")
SCORERS = ("micro-clip", "micro-dino")
WORLD = "world"
"""Scores by the truth of the built-in world; no model, so `resolve_scorer` does not know it."""
SEGMENTER = "segmenter"
"""Scores by what the built-in segmenter reads off pictures; no transformers model, so not of `resolve_scorer`."""
OWN = "backbone"
"""Scores by what the trial's own backbone predicts; no other model, so `resolve_scorer` does not know it either."""
READ = (".safetensors", ".json", ".txt", ".model")
"""Ends of the names of the files that are loaded; ``.model`` is a vocabulary of SentencePiece, as T5's."""
_INSTALL = "Run `python -m study.builtin.train`, or install the package again."
_REMEDY = {"micro-dit": "Run `python -m study.builtin.train --only generator-dit`, or install the package again."}


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes
    ----------
    kind : "builtin", "folder", "hub" or "arch".
    name : the name as results show it.
    role : "backbone" or "scorer".
    path : the folder, for "builtin" and "folder".
    id, revision : the hub's id and the pinned revision, for "hub"; `id` is the architecture's name for "arch".
    """

    kind: Literal["builtin", "folder", "hub", "arch"]
    name: str
    role: Literal["backbone", "scorer"]
    path: Path | None = None
    id: str | None = None
    revision: str | None = None


def resolve(name: str | dict[str, Any], root: Path | None = None) -> Source:
    """Say what a backbone's name stands for; a folder is looked at, nothing is loaded or downloaded.

    Parameters
    ----------
    name : a built-in name, a folder, a hub id (org/model or org/model@revision), `arch:…`, or
        `{id: org/model, revision: …}`.
    root : folder that relative paths start from (default: the current one).

    Raises
    ------
    InputFault : an unknown name, or a folder that is no pipeline of a known class with safetensors weights.
    """
    return _resolve(name, root, "backbone", BACKBONES)


def resolve_scorer(name: str | dict[str, Any], root: Path | None = None) -> Source:
    """Say what a scorer's name stands for: built in, a transformers folder, or a hub id; as `resolve`."""
    return _resolve(name, root, "scorer", SCORERS)


def _resolve(
    name: str | dict[str, Any], root: Path | None, role: Literal["backbone", "scorer"], builtin: tuple[str, ...]
) -> Source:
    known = f"built in: {', '.join(builtin)}; or a folder; or a hub id (org/model)"
    revision = None
    if isinstance(name, dict):
        hub, revision = name.get("id"), name.get("revision")
        if set(name) - {"id", "revision"} or not isinstance(hub, str):
            raise InputFault(f"{role} {name!r}: expected {{id: org/model, revision: …}}.")
        name = hub
        if revision is not None and not isinstance(revision, str):
            raise InputFault(f"{role} {name!r}: the revision is to be text, got {revision!r}; put it in quotes.")
    if not isinstance(name, str) or not name.strip():
        raise InputFault(f"{role} {name!r}: expected a name. Known: {known}.")
    if name in builtin and revision is None:
        _check(Source("builtin", name, role), BUILTIN / name)
        return Source("builtin", name, role, path=BUILTIN / name)
    if name.startswith("arch:") and role == "backbone":
        architecture = name.removeprefix("arch:")
        if architecture not in ARCHITECTURES:
            raise InputFault(
                f"Unknown {role} {name!r}. Known: {', '.join(f'arch:{known}' for known in ARCHITECTURES)}."
            )
        return Source("arch", name, role, id=architecture)
    folder = place(root or Path.cwd(), name)
    if revision is None and not folder.is_dir() and "@" in name:
        name, _, revision = name.partition("@")
    if revision is not None and not (name and revision.strip()):
        raise InputFault(f"{role} {f'{name}@{revision}'!r}: expected org/model@revision, as in org/model@0123abc.")
    if folder.is_dir() and revision is None:
        _check(Source("folder", name, role), folder)
        return Source("folder", name, role, path=folder.resolve())
    parts = name.split("/")
    if len(parts) == 2 and all(part and not part.startswith((".", "~")) for part in parts):
        shown = name if revision is None else f"{name}@{revision}"
        return Source("hub", shown, role, id=name, revision=revision)
    raise InputFault(f"Unknown {role} {name!r}: it is no built-in name, no folder and no hub id. Known: {known}.")


def fetch(source: Source) -> Path:
    """Give the folder of a source; a hub model is downloaded when it is not there yet (safetensors and configs only).

    Raises
    ------
    InputFault : the hub does not have it or cannot be reached, or what came is no sound model folder.
    """
    folder = _snapshot(source, download=True)
    _check(source, folder)
    return folder


def content_hash(source: Source) -> str:
    """Hash a model's content: SHA-256 over the names and bytes of the weights and configs that are loaded.

    A hub model has to be on this machine already (see `fetch`): this function never downloads.

    Raises
    ------
    InputFault : a hub model that has not been downloaded, or only half.
    """
    if source.kind == "arch":
        return hashlib.sha256(source.name.encode()).hexdigest()
    folder = source.path or _snapshot(source, download=False)
    if source.kind == "hub":
        _check(source, folder)  # a download that was cut off would have the hash of half a model
    digest = hashlib.sha256()
    for file in _files(folder, source.role):
        state = file.stat()
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(_file_hash(file, state.st_mtime_ns, state.st_size).encode())
    return digest.hexdigest()


def commit_of(source: Source) -> str | None:
    """Return the hub's commit of a model that is on this machine; None of any other, or if it is not."""
    if source.kind != "hub":
        return None
    try:
        folder = _snapshot(source, download=False)
    except InputFault:
        return None
    return folder.name if folder.parent.name == "snapshots" else None


def lacking(source: Source) -> dict[str, str]:
    """Return the positions that a backbone lacks, with the reason; none for a hub model that is not there yet."""
    try:
        kind = KINDS[pipeline_of(source.path or _snapshot(source, download=False))]
    except InputFault:
        return {}
    return {position: f"{source.name} has no {what}" for position, what in kind.lacking.items()}


def wrong_size(source: Source, size: int) -> str:
    """Say why a backbone cannot draw pictures of an edge in pixels, or "".

    The edge must be a multiple of what the autoencoder and the U-Net halve it to, or of the transformer's patches.
    Nothing is said of a hub model that is not there yet.
    """
    try:
        folder = source.path or _snapshot(source, download=False)
        kind = KINDS[pipeline_of(folder)]
        denoiser = read_json(folder / kind.denoiser / "config.json")
        patch = denoiser.get("patch_size")
        unit = (patch if isinstance(patch, int) and patch > 0 else _coarsest(denoiser)) * kind.packs
        unit *= _coarsest(read_json(folder / "vae" / "config.json"))
    except InputFault:
        return ""
    return f"size {size}: {source.name} draws pictures whose edge is a multiple of {unit} pixels" if size % unit else ""


def _coarsest(config: dict[str, Any]) -> int:
    """Say how wide a place is, where a network that halves its input between its blocks sees fewest of them."""
    widths = config.get("block_out_channels")
    return 2 ** max(0, len(widths) - 1) if isinstance(widths, list) else 1


def unknown_words(source: Source, text: str) -> list[str]:
    """List the words of `text` that the model's tokenizer does not know whole (it spells them letter by letter).

    A CLIP vocabulary marks a word's end with `</w>`; a word without such an entry is split. Of other tokenizers, which
    know words in parts by design, nothing is listed.
    """
    folder = source.path or _snapshot(source, download=False)
    tokens = folder / "tokenizer" if source.role == "backbone" else folder
    vocabulary: dict[str, int] = {}
    if (tokens / "vocab.json").is_file():
        vocabulary = read_json(tokens / "vocab.json")
    elif (tokens / "tokenizer.json").is_file():
        vocabulary = read_json(tokens / "tokenizer.json").get("model", {}).get("vocab", {})
    if not any(token.endswith("</w>") for token in vocabulary if isinstance(token, str)):
        return []
    return [word for word in text.lower().split() if f"{word}</w>" not in vocabulary]


def feature_width(source: Source) -> int | None:
    """Say how many features a scorer gives, as its configuration has it; None where that is not on this machine."""
    try:
        config = read_json((source.path or _snapshot(source, download=False)) / "config.json")
    except InputFault:
        return None
    sizes = config.get("hidden_sizes") or [None]
    width = config.get("projection_dim", config.get("hidden_size", sizes[-1]))
    return width if isinstance(width, int) else None


def _snapshot(source: Source, download: bool) -> Path:
    if source.path is not None:
        return source.path
    if source.kind == "arch":
        raise InputFault(f"{source.name} has no weights; it serves for counting parameters only. Name a trained model.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    twins = [f"*.{twin}{end}" for twin in TWINS for end in (".*", "-*")]  # whole files and shards
    if source.role == "backbone":
        folders = dict.fromkeys(name for kind in KINDS.values() for name in kind.components)
        wanted, unwanted = ["model_index.json", *(f"{name}/*{end}" for name in folders for end in READ)], twins
    else:
        wanted, unwanted = [f"*{end}" for end in READ], [*twins, "*/*"]
    try:
        return Path(
            snapshot_download(
                source.id or "",
                revision=source.revision,
                allow_patterns=wanted,
                ignore_patterns=unwanted,
                local_files_only=not download,
            )
        )
    except LocalEntryNotFoundError as error:
        how = "the hub cannot be reached" if download else "it has not been downloaded yet; a run downloads it"
        raise InputFault(f"{source.role} {source.name}: no folder or model on this machine, and {how}.") from error
    except GatedRepoError as error:
        raise InputFault(
            f"{source.role} {source.name}: the hub gives it only to those who agreed to its terms. Agree to them at "
            f"https://huggingface.co/{source.id}, then log in here with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise InputFault(
            f"{source.role} {source.name}: {source.id} has no revision {source.revision!r}; name a branch, a tag or a "
            "commit of it."
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputFault(
            f"{source.role} {source.name}: no folder, and the hub does not give it ({reason}). Check the name."
        ) from error


def _check(source: Source, folder: Path) -> None:
    hint = f" {_REMEDY.get(source.name, _INSTALL)}" if source.kind == "builtin" else ""
    if not folder.is_dir():
        raise InputFault(f"{source.role} {source.name}: there is no folder {folder}.{hint}")
    if source.role == "scorer":
        faults = [] if (folder / "config.json").is_file() else ["config.json is missing"]
        faults += weight_faults(folder, "model")
    else:
        faults = pipeline_faults(folder)
    if faults:
        what = "diffusers pipeline" if source.role == "backbone" else "transformers model"
        if source.kind == "hub":
            hint = (
                " A download that was cut off goes on with the next run; where a repository has nothing but variants "
                f"({', '.join(TWINS)}), {TO_SAVE_ANEW}; where it has nothing but pickled weights "
                "(pytorch_model.bin), name a revision that has safetensors, or a folder with the weights saved anew "
                "(docs/models.md)."
            )
        raise InputFault(f"{source.role} {source.name}: {folder} is no sound {what} folder: {'; '.join(faults)}.{hint}")


def _files(folder: Path, role: str) -> list[Path]:
    """List the files that are loaded, in the order of their names; half-precision twins are not."""
    inside = [folder / name for name in components(folder)] if role == "backbone" else [folder]
    found = [path for place in inside for path in place.iterdir() if path.suffix in READ and path.is_file()]
    found = [path for path in found if not is_twin(path)]
    if role == "backbone":
        found.append(folder / "model_index.json")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


@cache
def _file_hash(path: Path, mtime: int, size: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
