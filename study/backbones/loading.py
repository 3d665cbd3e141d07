"""Load a pipeline folder and offer what training and sampling need: encode, embed, predict, decode.

Weights come from safetensors only and nothing of a folder is executed, so a stranger's folder is safe to load.
The safety checker is left out: it sees photographs of 224 pixels and blanks drawings at random.
"""

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch

from adapters.faults import InputFault
from adapters.files import parts
from study.backbones.kinds import KINDS, Kind, components, pipeline_of, read_json
from study.backbones.names import Source, content_hash, fetch, resolve, wrong_size
from study.backbones.samplers import diffusion_sampler
from study.saving import NOTHING, Saving


class Backbone:
    """A frozen StableDiffusionPipeline and its content hash; what other kinds do otherwise their subclasses say.

    Attributes
    ----------
    pipeline : the diffusers pipeline.
    denoiser : its U-Net or transformer; no parameter of it requires a gradient.
    source, name, hash : as `resolve`, `Source.name` and `content_hash` give them.
    size : edge of a picture, in pixels.
    device, dtype : where the weights are, and in what latents are.
    """

    predictions: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction")
    """What schedulers of pipelines of this kind may say that denoisers predict."""

    def __init__(
        self,
        pipeline: Any,
        source: Source,
        digest: str,
        device: torch.device,
        dtype: torch.dtype,
        saving: Saving = NOTHING,
    ) -> None:
        self.pipeline = pipeline
        self.denoiser = cast(Any, parts(pipeline)[0])
        self.source = source
        self.name = source.name
        self.hash = digest
        self.device = device
        self.dtype = torch.promote_types(torch.float32, dtype)
        self._saving = saving
        self.size: int = self._edge * self._factor
        self.noiser = self._noise_schedule()
        self._embedded: dict[str, torch.Tensor] = {}
        self._text_is_tuned = False
        self._sizes: dict[int, Backbone] = {self.size: self}
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                module.requires_grad_(False).eval()
                module.to("cpu" if saving.offload and module is not self.denoiser else device)
        if dtype is not self.dtype:
            pipeline.vae.to(torch.float32)  # an autoencoder's numbers may be too large or too fine for less
            self.denoiser.register_forward_pre_hook(_as_weights, with_kwargs=True)
        if saving.gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()  # diffusers' own default is the non-reentrant kind

    @contextmanager
    def _there(self, *names: str) -> Iterator[None]:
        """Have components of the pipeline on the device while the context lasts."""
        modules = [getattr(self.pipeline, name, None) for name in names] if self._saving.offload else []
        for module in filter(None, modules):
            module.to(self.device)
        try:
            yield
        finally:
            for module in filter(None, modules):
                module.to("cpu")

    @property
    def _edge(self) -> int:
        """How many latents wide pictures are, unless another size is asked for."""
        return int(self.denoiser.config.sample_size)

    def _noise_schedule(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config({"clip_sample": False, **self.pipeline.scheduler.config})

    @property
    def _factor(self) -> int:
        """How many pixels wide a latent is."""
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of one picture's latents."""
        edge = self.size // self._factor
        return self.denoiser.config.in_channels, edge, edge

    def at(self, size: int | None) -> "Backbone":
        """Give this backbone for pictures of another size; weights and what is put on the denoiser are shared.

        Raises
        ------
        InputFault : the size is no multiple of what the autoencoder and the denoiser halve pictures to.
        """
        if size is None or size == self.size:
            return self
        if fault := wrong_size(self.source, size):
            raise InputFault(f"{fault}.")
        if size not in self._sizes:  # one for all tasks of a size, so that they are tuned together
            self._sizes[size] = copy.copy(self)
            self._sizes[size].size = size
        return self._sizes[size]

    @property
    def timesteps(self) -> int:
        """Number of diffusion timesteps the backbone was trained with."""
        return int(self.noiser.config.num_train_timesteps)

    def times(self, indices: torch.Tensor) -> torch.Tensor:
        """Give the timesteps, as the denoiser is told them, that are so many from the least noise on."""
        return indices

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> torch.Tensor:
        """Encode pictures, uint8 (N, H, W, 3), to latents (N, C, h, w): the distribution's mean, scaled."""
        pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device, self.dtype)
        pixels = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        vae = self.pipeline.vae
        with self._there("vae"):
            latents = torch.cat([vae.encode(p).latent_dist.mean for p in pixels.split(16)])
        if (shift := vae.config.get("shift_factor")) is not None:
            latents = latents - shift
        return latents * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Decode latents (N, C, h, w) to pictures, uint8 (N, H, W, 3)."""
        vae = self.pipeline.vae
        latents = latents.to(self.device, self.dtype) / vae.config.scaling_factor
        if (shift := vae.config.get("shift_factor")) is not None:
            latents = latents + shift
        with self._there("vae"):
            pixels = torch.cat([vae.decode(part).sample for part in latents.split(16)])
        pixels = ((pixels.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    @property
    def text_encoder(self) -> torch.nn.Module | None:
        """The pipeline's text encoder, which can be tuned; None where it has none, or several."""
        return parts(self.pipeline)[1]

    @contextmanager
    def tuned_text(self, tuned: bool = True) -> Iterator[None]:
        """Embed every prompt anew, with gradients, while the context lasts: the text encoder is being tuned."""
        if tuned and self._saving.offload:
            raise InputFault("text_encoder=true needs the text encoder at every step; run it without --offload")
        former, self._text_is_tuned = self._text_is_tuned, tuned
        try:
            yield
        finally:
            self._text_is_tuned = former

    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embed prompts: (N, tokens, width). With a frozen text encoder a prompt is embedded once and remembered."""
        if self._text_is_tuned:
            distinct = list(dict.fromkeys(prompts))
            embedded = self._encode_prompts(distinct)
            return embedded[[distinct.index(prompt) for prompt in prompts]]
        if new := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embedded]:
            with torch.no_grad(), self._there("text_encoder", "text_encoder_2", "text_encoder_3"):
                for prompt in new:
                    self._embedded[prompt] = self._encode_prompts([prompt])
        return torch.cat([self._embedded[prompt] for prompt in prompts])

    def _encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        embedded: torch.Tensor = self.pipeline.encode_prompt(prompts, self.device, 1, False)[0]
        return embedded

    def _empty(self) -> torch.Tensor:
        """Give what stands for no prompt, (1, tokens, width)."""
        return self.embed([""])

    def guided(self, context: torch.Tensor, guidance: float) -> tuple[torch.Tensor, ...]:
        """Give the texts under which pictures of prompts (N, tokens, width) are predicted: none and theirs, or theirs.

        With classifier-free guidance, which a scale of 1 or less is not, there are predictions without a prompt too.
        """
        return (self._empty().expand_as(context), context) if guidance > 1 else (context,)

    def scheduler(self, sampler: str) -> Any:
        """Make the diffusers scheduler of a sampler from the backbone's own noise schedule.

        Raises
        ------
        InputFault : an unknown sampler.
        """
        return diffusion_sampler(self.pipeline.scheduler.config, sampler)

    def set_steps(self, scheduler: Any, steps: int) -> None:
        """Set the steps in which a scheduler that `scheduler` made draws pictures of this size."""
        scheduler.set_timesteps(steps, device=self.device)

    @property
    def _reader(self) -> Any:
        """The tokenizer whose limit is the prompts'."""
        return self.pipeline.tokenizer

    @property
    def tokens(self) -> int:
        """How many tokens of a prompt are read; the end of a longer one is cut off."""
        return int(self._reader.model_max_length)

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """List the prompts that have more tokens than are read; their ends are cut off."""
        lengths = [len(self._reader(prompt, truncation=False)["input_ids"]) for prompt in prompts]
        return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > self.tokens]

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Add noise to latents as at the given timesteps (N,)."""
        return self.noiser.add_noise(latents, noise, timesteps)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Give what the denoiser should predict: the noise, or the velocity for a v-prediction backbone."""
        if self.noiser.config.prediction_type == "epsilon":
            return noise
        return self.noiser.get_velocity(latents, noise, timesteps)

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the denoiser on (N, C, h, w) noisy latents, (N,) timesteps or one for all, and text as `embed` gives it.

        A condition changes nothing: what was never trained with conditions takes no notice of them; see
        `study.conditioning`.
        """
        return self.denoiser(noisy, timesteps, encoder_hidden_states=context, return_dict=False)[0]


def load(
    name: str | dict[str, Any],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    saving: Saving = NOTHING,
) -> Backbone:
    """Load a backbone by name (see `study.backbones.names.resolve`); a hub id is downloaded if need be.

    Parameters
    ----------
    dtype : of the weights. In bfloat16 and float16 the autoencoder stays in float32, and latents too.
    saving : how memory is saved.

    Raises
    ------
    InputFault : an unknown name, or a folder that is broken, has no safetensors weights, or is of an unknown kind.
    """
    source = resolve(name)
    folder = fetch(source)
    pipeline = _pipeline(folder, source.name, dtype)
    family = _family(KINDS[type(pipeline).__name__])
    _check_known(pipeline, source.name, family.predictions)
    target = torch.device(device)
    return family(pipeline, source, content_hash(source), target, dtype, saving)


def _family(kind: Kind) -> type[Backbone]:
    module, name = kind.family.split(".")
    family: type[Backbone] = getattr(import_module(f"study.backbones.{module}"), name)
    return family


def _check_known(pipeline: Any, name: str, predictions: Sequence[str]) -> None:
    """Refuse what would be trained or drawn wrongly: targets, noise, latents or inputs other than those known."""
    schedule, told = pipeline.scheduler.config, f"backbone {name}: "
    if predictions:
        if (prediction := schedule.get("prediction_type")) not in predictions:
            raise InputFault(f"{told}it predicts {prediction!r}, expected {' or '.join(predictions)}.")
        if "sigma_data" in schedule:
            raise InputFault(f"{told}its noise schedule is EDM's ({schedule['_class_name']}), which is not known here.")
    elif "shift" not in schedule:
        raise InputFault(f"{told}its scheduler is {type(pipeline.scheduler).__name__}, expected one of flow matching.")
    for key in ("stochastic_sampling", "invert_sigmas"):
        if schedule.get(key):
            raise InputFault(f"{told}its scheduler has {key}=true, which is not known here; expected false.")
    if pipeline.vae.config.get("latents_mean") is not None:
        raise InputFault(f"{told}its latents have a mean for each channel, which is not known here.")
    denoiser: Any = parts(pipeline)[0]
    if denoiser.config.get("time_cond_proj_dim") is not None:
        raise InputFault(f"{told}its U-Net is told the guidance (a latent consistency model), which is not known here.")
    packed = KINDS[type(pipeline).__name__].packs ** 2
    taken, given = denoiser.config.in_channels, pipeline.vae.config.latent_channels * packed
    if taken != given:
        raise InputFault(
            f"{told}its denoiser takes {taken} channels, expected the {given} of the latents; one that is given more, "
            "such as a picture to fill in, is not known here."
        )


def _as_weights(denoiser: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Bring pictures and text to the type of the denoiser's weights; times and places keep theirs."""
    dtype = next(denoiser.parameters()).dtype
    named = ("hidden_states", "encoder_hidden_states", "pooled_projections")
    cast = {name: kwargs[name].to(dtype) for name in named if isinstance(kwargs.get(name), torch.Tensor)}
    return (tuple(each.to(dtype) if place == 0 else each for place, each in enumerate(args)), {**kwargs, **cast})


def _pipeline(folder: Path, name: str, dtype: torch.dtype) -> Any:
    named = pipeline_of(folder)
    kind, index = pipeline_class(named), read_json(folder / "model_index.json")
    there = components(folder)
    given = {**KINDS[named].unused, **{part: None for part in KINDS[named].optional if part not in there}}
    safe: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    try:
        given |= {part: _model(folder / part, *index[part], **safe) for part, stem in there.items() if stem is not None}
        pipeline = kind.from_pretrained(folder, trust_remote_code=False, **safe, **given)
    except Exception as error:  # whatever a broken file makes the libraries raise, the folder is at fault
        reason = " ".join(str(error).split())[:300]
        told = reason if isinstance(error, InputFault) else f"{type(error).__name__}: {reason}"
        raise InputFault(
            f"backbone {name}: {folder} cannot be loaded ({told}). "
            f"Expected a {named} saved by save_pretrained; save or download it again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _model(folder: Path, library: str, name: str, **safe: Any) -> Any:
    """Load a model of a pipeline; what its file lacks the libraries would draw at random, with a warning."""
    made = getattr(import_module(library), name)
    if library == "transformers":
        safe["trust_remote_code"] = False
    model, told = made.from_pretrained(folder, output_loading_info=True, **safe)
    refuse_missing(folder.name, told["missing_keys"])
    return model


def refuse_missing(name: str, keys: Iterable[str]) -> None:
    """Refuse a model whose file lacks tensors.

    Raises
    ------
    InputFault
    """
    if lost := sorted(keys):
        more = f" and {len(lost) - 1} more" if lost[1:] else ""
        raise InputFault(f"the weights of {name} lack {lost[0]}{more}")


def pipeline_class(name: str = "StableDiffusionPipeline") -> Any:
    """Import a pipeline's class, quietly. All of diffusers and transformers comes with it, which takes seconds."""
    quiet()
    import diffusers

    return getattr(diffusers, name)


def quiet() -> None:
    """Silence what the libraries print while they load: progress bars, hints about torchvision, and that a pipeline's
    text encoder is of another class than diffusers declares, which a PixArt pipeline with a CLIP is told each time.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("diffusers.pipelines.pipeline_utils").addFilter(_is_no_hint_of_types)


def _is_no_hint_of_types(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Expected types for")
