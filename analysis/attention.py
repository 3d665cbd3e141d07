"""Attention maps: where in a picture a denoiser attends to a word, and where its places attend to one another.

    with capture(pipe.unet, pipe.tokenizer, prompts) as maps:
        pipe(prompts)
    maps.word("robot", picture=0).plot()

A map is the mean of probabilities over blocks, heads and steps (Tang et al. 2023, "What the DAAM", arXiv 2210.04885;
there scores of blocks and heads are summed, here they are averaged, so that what all tokens get adds up to 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor, nn
from torch.nn.functional import interpolate

from adapters.faults import InputFault
from analysis.attention_capture import Kind, Layer, Record, recording
from analysis.attention_words import caption_positions, token_positions, words
from analysis.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part = Literal["block", "head", "level"]


@dataclass(frozen=True)
class AttentionMap(Result):
    """One map over a picture.

    Attributes
    ----------
    word : str
        The word; for self-attention the place that is asked about.
    prompt : str
    values : ndarray (height, width)
        Mean probability that a place pays to the word; over a word of several tokens, or one that stands in the prompt
        several times, what they get together.
    tokens : tuple of int
        The tokens' places in the text; empty for self-attention.
    blocks : tuple of str
        The attentions it is the mean of.
    heads, levels : tuple of int
        Heads and levels of noise it is the mean of.
    passes : int
        Passes of the denoiser it is the mean of.
    share : bool
        Whether it is the share of what goes to the prompt's own tokens, instead of to all.
    """

    word: str
    prompt: str
    values: np.ndarray
    tokens: tuple[int, ...]
    blocks: tuple[str, ...]
    heads: tuple[int, ...]
    levels: tuple[int, ...]
    passes: int
    share: bool = False

    @property
    def mean(self) -> float:
        """What a place pays to the word on average, from 0 to 1."""
        return float(self.values.mean())

    @property
    def entropy(self) -> float:
        """Entropy of the map as a distribution over places, as a share of an even map's: 1 is even, 0 is one place."""
        return entropy(self.values)

    def on(self, height: int, width: int) -> np.ndarray:
        """The map on a grid of another size, by linear interpolation between the centres of places."""
        return _resized(self.values, height, width)

    def to_frame(self) -> pd.DataFrame:
        """The map's numbers in one row; `row` and `column` are its largest value's, as shares of the edges."""
        at = np.unravel_index(int(self.values.argmax()), self.values.shape)
        row, column = ((where + 0.5) / size for where, size in zip(at, self.values.shape, strict=True))
        entry = {"word": self.word, "prompt": self.prompt, "height": self.values.shape[0],
                 "width": self.values.shape[1], "tokens": len(self.tokens), "mean": self.mean,
                 "entropy": self.entropy, "row": float(row), "column": float(column), "blocks": len(self.blocks),
                 "heads": len(self.heads), "levels": len(self.levels), "passes": self.passes}  # fmt: skip
        return pd.DataFrame([entry])

    def explain(self) -> str:
        """What the map is a mean of, and how concentrated it is."""
        of = "the prompt's own tokens" if self.share else "all tokens"
        row = self.to_frame().iloc[0]
        return (
            f"The map of {self.word!r} in {self.prompt!r} is the mean over {len(self.blocks)} attentions, "
            f"{len(self.heads)} heads and {self.passes} passes of the denoiser. A place pays the word {self.mean:.1%} "
            f"of what it pays {of} on average. The map's entropy is {self.entropy:.3f} of an even map's, and it is "
            f"largest {row['row']:.0%} down and {row['column']:.0%} across."
        )

    def plot(self, picture: np.ndarray | None = None) -> Figure:
        """The map, over a picture (H, W, 3) if one is given."""
        from analysis.attention_figures import over_picture

        return over_picture(self, picture)


@dataclass(frozen=True)
class AttentionMaps:
    """All that was captured; made by `capture`.

    Attributes
    ----------
    record : Record
        The running means of every attention.
    prompts : tuple of str
        One a picture.
    """

    record: Record
    prompts: tuple[str, ...]
    tokenizer: Any

    def blocks(self, kind: Kind = "cross") -> list[str]:
        """Names of the attentions of a kind, in the order in which they ran."""
        return [layer.name for layer in self.record.layers.values() if layer.kind == kind]

    def heads(self, kind: Kind = "cross") -> list[int]:
        """The heads that every attention of a kind has."""
        return list(range(min((layer.heads for layer in self._layers(kind, None)), default=0)))

    def levels(self, picture: int = 0) -> list[int]:
        """The levels of noise that a picture passed; 0 is nearest to the finished picture."""
        passes = next(iter(self.record.layers.values())).passes[:, picture]
        return [level for level, count in enumerate(passes.tolist()) if count]

    def word(
        self,
        word: str,
        picture: int = 0,
        occurrence: int | None = None,
        blocks: Sequence[str] | None = None,
        heads: Sequence[int] | None = None,
        levels: Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
        share: bool = False,
    ) -> AttentionMap:
        """Map what the places of a picture pay to a word of its prompt.

        Parameters
        ----------
        word : str
            A word of the prompt, or several in a row; of several tokens, their sum.
        occurrence : int, optional
            Of a word that stands in the prompt several times, only this one, from 0; else their sum.
        blocks, heads, levels : optional
            Only these; else the mean of all. Names as in `blocks()`.
        size : (height, width), optional
            Of the map; else that of the largest block. Blocks are interpolated to it before they are averaged.
        share : bool
            Take what goes to begin, end and padding out: the share of what goes to the prompt's own tokens.

        Raises
        ------
        InputFault
            For a word that is not in the prompt or beyond what is read of it, or a block, head, level or picture that
            was not captured.
        """
        prompt = self.prompts[self._picture(picture)]
        self._needs_tokenizer()
        found = token_positions(self.tokenizer, prompt, word, self.record.text_length)
        if occurrence is not None:
            if not 0 <= occurrence < len(found):
                raise InputFault(f"occurrence {occurrence} of {word!r}: {prompt!r} has it {len(found)} times, from 0")
            found = [found[occurrence]]
        tokens = tuple(token for each in found for token in each)
        own = caption_positions(self.tokenizer, prompt, self.record.text_length) if share else None

        def of(probabilities: Tensor, _layer: Layer) -> Tensor:
            paid = probabilities[:, list(tokens)].sum(-1)
            return paid if own is None else paid / probabilities[:, own].sum(-1)

        return self._map("cross", of, word, prompt, picture, tokens, blocks, heads, levels, size, share)

    def words(self, picture: int = 0, **of: Any) -> list[AttentionMap]:
        """Map every word of a picture's prompt; `of` as in `word`."""
        prompt = self.prompts[self._picture(picture)]
        return [self.word(word, picture, **of) for word in words(prompt)]

    def by(self, part: Part, word: str, picture: int = 0, **of: Any) -> dict[str | int, AttentionMap]:
        """Map a word separately by block (each at its own size), by head or by level of noise; `of` as in `word`."""
        if part == "block":
            return {name: self.word(word, picture, blocks=[name], **of) for name in of.pop("blocks", self.blocks())}
        if part == "head":
            return {head: self.word(word, picture, heads=[head], **of) for head in of.pop("heads", self.heads())}
        if part == "level":
            levels = of.pop("levels", self.levels(picture))
            return {level: self.word(word, picture, levels=[level], **of) for level in levels}
        raise InputFault(f"by {part!r}: expected block, head or level")

    def place(
        self,
        row: float,
        column: float,
        picture: int = 0,
        blocks: Sequence[str] | None = None,
        heads: Sequence[int] | None = None,
        levels: Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> AttentionMap:
        """Map what one place of a picture pays to the others: self-attention; the place as shares of the edges.

        Raises
        ------
        InputFault
            As `word`, and for a place outside the picture.
        """
        if not (0 <= row <= 1 and 0 <= column <= 1):
            raise InputFault(f"place ({row}, {column}): expected shares of the picture's height and width, 0 to 1")
        prompt = self.prompts[self._picture(picture)]

        def of(probabilities: Tensor, layer: Layer) -> Tensor:
            down, across = int(row * layer.height), int(column * layer.width)
            return probabilities[min(down, layer.height - 1) * layer.width + min(across, layer.width - 1)]

        where = f"place {row:.0%} down, {column:.0%} across"
        return self._map("self", of, where, prompt, picture, (), blocks, heads, levels, size, False)

    def _map(
        self,
        kind: Kind,
        of: Callable[[Tensor, Layer], Tensor],
        word: str,
        prompt: str,
        picture: int,
        tokens: tuple[int, ...],
        blocks: Sequence[str] | None,
        heads: Sequence[int] | None,
        levels: Sequence[int] | None,
        size: tuple[int, int] | None,
        share: bool,
    ) -> AttentionMap:
        wanted = self._layers(kind, blocks)
        size = size or max((layer.height, layer.width) for layer in wanted)
        known = self.levels(picture)
        levels = known if levels is None else list(levels)
        if not levels or set(levels) - set(known):
            raise InputFault(f"levels {levels} of picture {picture}: captured are {known}")
        used = tuple(range(max(layer.heads for layer in wanted)) if heads is None else heads)
        parts = []
        for layer in wanted:
            if heads is not None and (not used or not set(used) <= set(range(layer.heads))):
                raise InputFault(f"heads {heads}: attention {layer.name} has {layer.heads} heads, from 0")
            weights = layer.passes[levels, picture].to(layer.means)
            means = layer.means[levels, picture]
            mean = (means * weights[:, None, None, None]).sum(0) / weights.sum()
            mean = mean if heads is None else mean[list(used)]
            values = of(mean.mean(0), layer).double().reshape(layer.height, layer.width).cpu().numpy()
            parts.append(_resized(values, *size))
        passes = int(wanted[0].passes[levels, picture].sum())
        names = tuple(layer.name for layer in wanted)
        values = np.mean(parts, axis=0)
        return AttentionMap(word, prompt, values, tokens, names, used, tuple(levels), passes, share)

    def _layers(self, kind: Kind, blocks: Sequence[str] | None) -> list[Layer]:
        known = {name: layer for name, layer in self.record.layers.items() if layer.kind == kind}
        if not known:
            raise InputFault(f"no {kind}-attention was captured; ask for kinds=({kind!r},) when capturing")
        unknown = [name for name in blocks or [] if name not in known]
        if unknown or (blocks is not None and not blocks):
            raise InputFault(f"blocks {unknown or blocks}: expected some of {', '.join(known)}")
        return [known[name] for name in (known if blocks is None else blocks)]

    def _picture(self, picture: int) -> int:
        if not 0 <= picture < len(self.prompts):
            raise InputFault(f"picture {picture}: {len(self.prompts)} were captured, from 0")
        return picture

    def _needs_tokenizer(self) -> None:
        if self.tokenizer is None or not self.record.text_length:
            raise InputFault(
                "words need a tokenizer and a denoiser that is given a text; this capture has only places: use place()"
            )


@contextmanager
def capture(
    denoiser: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    kinds: Sequence[Kind] = ("cross",),
    levels: int = 1,
    timesteps: int = 1000,
) -> Iterator[AttentionMaps]:
    """Capture the attention of a denoiser while pictures are drawn or noisy pictures pass it; changes nothing of it.

    Means run along, so memory does not grow with the steps. One context is for one batch: the same pictures in every
    pass, with their prompts, and under classifier-free guidance as many rows without a prompt before them.

    Parameters
    ----------
    denoiser : Module
        A diffusers U-Net, DiT or PixArt transformer, with or without adapters.
    tokenizer
        The pipeline's; None for a model without a text.
    prompts : sequence of str
        One a picture of the batch.
    kinds : sequence of {"cross", "self"}
        Self-attention over more than 1024 places is left out.
    levels : int
        Keep means for so many equal parts of the schedule apart; level 0 is nearest to the finished picture.
    timesteps : int
        Length of the schedule that `levels` cuts.

    Yields
    ------
    AttentionMaps
        To be asked when the context has ended.

    Raises
    ------
    InputFault
        For a denoiser whose attention is not known, a batch of another size, or when nothing was captured.
    """
    if isinstance(prompts, str):
        raise InputFault(f"prompts={prompts!r}: expected a sequence of prompts, one a picture")
    with recording(denoiser, len(prompts), kinds, levels, timesteps) as record:
        yield AttentionMaps(record, tuple(prompts), tokenizer)


def entropy(values: np.ndarray) -> float:
    """Entropy of a map as a distribution over its places, as a share of an even map's; NaN for a map of zeros."""
    total, places = float(values.sum()), values.size
    if places < 2 or not total > 0:
        return float("nan")
    share = values[values > 0] / total
    return float(-(share * np.log(share)).sum() / np.log(places))


def _resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Linear interpolation between the centres of places; the mean over places where the new grid is coarser."""
    if values.shape == (height, width):
        return values
    import torch

    given = torch.from_numpy(np.ascontiguousarray(values))[None, None]
    return interpolate(given, (height, width), mode="bilinear", align_corners=False, antialias=True)[0, 0].numpy()
