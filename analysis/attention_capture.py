"""Read the attention of a denoiser while it runs, without changing anything of it.

Nothing is computed twice and no module or processor is replaced: hooks say which attention is running, and the query
and key that it hands to scaled dot-product attention, or the softmax of processors that write it out, are read on their
way. So whatever changes query or key is in them: norms, masks, an adapter's deltas and tokens. When the context ends
the hooks are gone, after an error too.

Known are the attentions of diffusers' U-Nets and of transformers built of the same blocks (DiT, PixArt). Attention
over text and picture at once (SD3, Flux) is not, nor are processors with a kernel of their own (xformers, flash).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adapters.faults import InputFault

Kind = Literal["cross", "self"]
Grid = tuple[int, int]

KINDS: tuple[Kind, ...] = ("cross", "self")

LARGEST_SELF = 32 * 32
"""Self-attention over more places than this is left out: its maps grow with the square of the places."""

_SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax)


@dataclass
class Layer:
    """What one attention paid, as running means over the passes of the denoiser.

    Attributes
    ----------
    name : str
        Dotted path of the attention in the denoiser.
    kind : {"cross", "self"}
    height, width : int
        The grid of the picture's places in this block.
    means : Tensor (levels, pictures, heads, height · width, keys)
        Probabilities: what each place pays to each token of the text, or to each place.
    passes : Tensor (levels, pictures)
        How many passes each mean is over.
    """

    name: str
    kind: Kind
    height: int
    width: int
    means: Tensor
    passes: Tensor

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.means.shape[2]


@dataclass
class Record:
    """The running means of every attention, bounded by the sizes of the layers and not by the number of steps.

    Attributes
    ----------
    pictures : int
        Rows of the batch that are kept: one a prompt.
    kinds : tuple of {"cross", "self"}
    levels, timesteps : int
        The schedule's timesteps are cut into so many equal levels of noise.
    layers : dict of str to Layer
        By the attention's name, in the order in which they run.
    passes : int
        How often the denoiser ran.
    text_length : int
        Places of the text that the denoiser was given; 0 without a text.
    too_large : set of str
        Self-attentions that are left out for their size.
    """

    pictures: int
    kinds: tuple[Kind, ...]
    levels: int
    timesteps: int
    layers: dict[str, Layer] = field(default_factory=dict)
    passes: int = 0
    text_length: int = 0
    too_large: set[str] = field(default_factory=set)
    _kept: slice = field(default_factory=lambda: slice(0))
    _level_of_picture: list[int] = field(default_factory=list)

    def begin(self, rows: int, timestep: Any, text: Any) -> None:
        """Begin a pass of the denoiser over a batch."""
        if rows not in (self.pictures, 2 * self.pictures):
            raise InputFault(
                f"the denoiser got a batch of {rows} rows, but there are {self.pictures} prompts; expected a row for "
                "each, or two with classifier-free guidance (those without a prompt first); use a context for each "
                "batch"
            )
        # With guidance the rows without a prompt come first, in diffusers and here.
        self._kept = slice(rows - self.pictures, rows)
        self._level_of_picture = self._levels_of(timestep, rows)[self._kept]
        self.text_length = text.shape[1] if isinstance(text, Tensor) else 0

    def wants(self, name: str, kind: Kind, grid: Grid) -> bool:
        """Say whether an attention is to be added; notes those that are too large."""
        if kind == "self" and kind in self.kinds and grid[0] * grid[1] > LARGEST_SELF:
            self.too_large.add(name)
            return False
        return kind in self.kinds

    def kept(self, tensor: Tensor) -> Tensor:
        """Give the kept rows of a batch."""
        return tensor[self._kept]

    def add(self, name: str, kind: Kind, grid: Grid, probabilities: Tensor) -> None:
        """Add an attention's probabilities of the kept rows (pictures, heads, places, keys) to its means."""
        height, width = grid
        extra = probabilities.shape[2] - height * width
        if extra < 0:
            raise InputFault(
                f"attention {name} has {probabilities.shape[2]} queries, but its block has {height}x{width} places; "
                "maps are known for attention over the places of a picture"
            )
        # An adapter's own tokens stand before the places of the picture.
        probabilities = probabilities[:, :, extra:, extra if kind == "self" else 0 :]
        layer = self.layers.get(name)
        if layer is None:
            means = probabilities.new_zeros((self.levels, *probabilities.shape))
            layer = Layer(name, kind, height, width, means, torch.zeros(self.levels, self.pictures))
            self.layers[name] = layer
        if layer.means.shape[1:] != probabilities.shape or (layer.height, layer.width) != grid:
            raise InputFault(
                f"attention {name} had (pictures, heads, places, keys) = {tuple(layer.means.shape[1:])} at first and "
                f"{tuple(probabilities.shape)} now; use a context for each size of picture and text"
            )
        for picture, level in enumerate(self._level_of_picture):
            layer.passes[level, picture] += 1
            layer.means[level, picture].lerp_(probabilities[picture], 1 / float(layer.passes[level, picture]))

    def _levels_of(self, timestep: Any, rows: int) -> list[int]:
        if self.levels == 1:
            return [0] * rows
        if timestep is None:
            raise InputFault("the denoiser was called without a timestep, so noise levels cannot be told; use levels=1")
        times = torch.as_tensor(timestep).detach().flatten().tolist()
        times = times * rows if len(times) == 1 else times
        return [min(self.levels - 1, max(0, int(time * self.levels / self.timesteps))) for time in times]


class _Reader(TorchFunctionMode):
    """Reads the probabilities of the attention that runs between `start` and `stop`."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record
        self._now: tuple[str, Kind, Grid] | None = None
        self._found: list[Tensor] = []

    def start(self, name: str, kind: Kind, grid: Grid) -> None:
        """Begin to read an attention, if it is wanted."""
        self._found = []
        self._now = (name, kind, grid) if self._record.wants(name, kind, grid) else None

    def stop(self, finished: bool, heads: int) -> None:
        """Add what was read, unless the attention ended with an error."""
        now, found = self._now, self._found
        self._now, self._found = None, []
        if now is None or not finished or not found:
            return
        if found[0].ndim == 3:
            # Written out as (batch · heads, places, keys), perhaps some rows of it at a time.
            found = [self._record.kept(torch.cat(found).unflatten(0, (-1, heads)))]
        if len(found) > 1:
            raise InputFault(
                f"attention {now[0]} attends {len(found)} times in one pass, as with an IP-adapter; which of them is "
                "the text's cannot be told: take that off"
            )
        self._record.add(*now, found[0])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what is called; within an attention, read it."""
        given = kwargs or {}
        result = func(*args, **given)
        if self._now is not None and func is F.scaled_dot_product_attention:
            self._found.append(_probabilities(self._record, *args, **given))
        elif self._now is not None and func in _SOFTMAX:
            self._found.append(_wide(result))
        return result


def _probabilities(
    record: Record,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Give the probabilities (pictures, heads, places, keys) that scaled dot-product attention weighs values with."""
    with torch.autocast(query.device.type, enabled=False):
        q, k = _wide(record.kept(query)), _wide(record.kept(key))
        if enable_gqa:
            k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu_(1), -torch.inf)
        if attn_mask is not None:
            mask = record.kept(attn_mask.expand(*query.shape[:-2], *attn_mask.shape[-2:]).detach())
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        # Not softmax: another context around this one would take it for an attention.
        return (scores - scores.logsumexp(-1, keepdim=True)).exp()


def _wide(tensor: Tensor) -> Tensor:
    """Give a tensor without its graph, in float32 at least."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def recording(
    denoiser: nn.Module, pictures: int, kinds: Sequence[Kind] = ("cross",), levels: int = 1, timesteps: int = 1000
) -> Iterator[Record]:
    """Record a denoiser's attention while the context lasts.

    Parameters
    ----------
    denoiser : Module
        A diffusers U-Net, DiT or PixArt transformer.
    pictures : int
        Rows of its batch, or half of them under classifier-free guidance.
    kinds, levels, timesteps
        As `Record` has them.

    Raises
    ------
    InputFault
        For a denoiser whose attention is not known, a batch of another size, or when the context ends without an error
        and nothing was recorded.
    """
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or not kinds:
        raise InputFault(f"kinds={tuple(kinds)!r}: expected some of {', '.join(KINDS)}")
    if levels < 1 or pictures < 1:
        raise InputFault(f"got {levels} levels of noise and {pictures} pictures; expected at least one of each")
    attentions = _attentions(denoiser)
    record = Record(pictures, tuple(kinds), levels, timesteps)
    reader = _Reader(record)
    handles = _hooks(denoiser, attentions, record, reader)
    try:
        with reader:
            yield record
    finally:
        for handle in handles:
            handle.remove()
    _check_found(record, denoiser, len(attentions))


def _hooks(denoiser: nn.Module, attentions: Mapping[str, Any], record: Record, reader: _Reader) -> list[Any]:
    signature = inspect.signature(denoiser.forward)
    grids: dict[str, Grid] = {}

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        sample = given.get("sample", given.get("hidden_states"))
        assert isinstance(sample, Tensor)  # of the denoisers that are known
        record.begin(len(sample), given.get("timestep"), given.get("encoder_hidden_states"))

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        record.passes += 1

    handles = [denoiser.register_forward_pre_hook(enter, with_kwargs=True), denoiser.register_forward_hook(leave)]
    for name, module in _pictures(denoiser).items():

        def measure(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            height, width = (args[0] if args else kwargs["hidden_states"]).shape[-2:]
            patch = _patch(module)
            grids[name] = (height // patch, width // patch)

        handles.append(module.register_forward_pre_hook(measure, with_kwargs=True))
    for name, module in attentions.items():
        parent = _nearest(name, _pictures(denoiser))

        def start(
            _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name, parent: str | None = parent
        ) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            text = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
            if states.ndim == 4:
                grid = (states.shape[2], states.shape[3])
            elif parent is not None:
                grid = grids[parent]
            else:
                raise InputFault(f"attention {name} is in no block that knows the picture's height and width")
            reader.start(name, "self" if text is None else "cross", grid)

        def stop(module: Any, _args: Any, output: Any) -> None:
            reader.stop(output is not None, module.heads)

        handles.append(module.register_forward_pre_hook(start, with_kwargs=True))
        handles.append(module.register_forward_hook(stop, always_call=True))
    return handles


def _attentions(denoiser: nn.Module) -> dict[str, Any]:
    from diffusers.models.attention_processor import Attention

    found = {name: module for name, module in denoiser.named_modules() if isinstance(module, Attention)}
    joint = [name for name, module in found.items() if module.added_kv_proj_dim is not None]
    if joint or not found:
        what = f"{joint[0]} attends to text and picture at once" if joint else "it has none of diffusers' Attention"
        raise InputFault(
            f"attention of {type(denoiser).__name__} cannot be read: {what}; maps are known for U-Nets, DiT and PixArt"
        )
    return found


def _pictures(denoiser: nn.Module) -> dict[str, nn.Module]:
    """The modules that turn a picture (B, C, H, W) into a sequence."""
    from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel, Transformer2DModel

    kinds = (Transformer2DModel, DiTTransformer2DModel, PixArtTransformer2DModel)
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, kinds)}


def _patch(module: Any) -> int:
    """The edge of a patch; a U-Net's transformers take every place by itself."""
    return module.config.patch_size if getattr(module, "is_input_patches", True) else 1


def _nearest(name: str, parents: Collection[str]) -> str | None:
    around = [parent for parent in parents if parent == "" or name.startswith(f"{parent}.")]
    return max(around, key=len, default=None)


def _check_found(record: Record, denoiser: nn.Module, attentions: int) -> None:
    kind = type(denoiser).__name__
    if not record.passes:
        raise InputFault(f"no attention was recorded: the {kind} did not run; draw pictures within the context")
    missing = [kind for kind in record.kinds if not any(layer.kind == kind for layer in record.layers.values())]
    if not missing:
        return
    if record.too_large:
        reason = f"{len(record.too_large)} self-attentions have more than {LARGEST_SELF} places; draw smaller pictures"
    else:
        reason = "use diffusers' own attention processors, and kinds=('self',) for a model without cross-attention"
    raise InputFault(
        f"no {'- or '.join(missing)}-attention was recorded: none of the {attentions} attentions of the {kind} could "
        f"be read; {reason}"
    )
