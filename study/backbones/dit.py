"""DiT: a diffusion transformer that is told a class and reads no text."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.faults import InputFault
from study.backbones.loading import Backbone


class DiT(Backbone):
    """A frozen DiTPipeline.

    Captions are class labels: the number of a class ("class 207"), or words in which one of the pipeline's labels
    stands ("a photo of a golden retriever"); of several labels the longest is meant. The empty caption is no class.
    `embed` gives their numbers, (N, 1, 1).
    """

    @property
    def tokens(self) -> int:
        """As `Backbone.tokens`: a caption is one class."""
        return 1

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """List nothing: captions are classes, not read word by word."""
        return []

    def _encode_prompts(self, prompts: list[str]) -> Tensor:
        # in float32 always: bfloat16 knows no odd number above 256
        numbers = [float(self._class(prompt)) for prompt in prompts]
        return torch.tensor(numbers, device=self.device)[:, None, None]

    def _class(self, prompt: str) -> int:
        classes: int = self.denoiser.config.num_embeds_ada_norm
        if not prompt.strip():
            return classes  # the embedding that stands for no class comes after the classes'
        if (number := re.fullmatch(r"(?:class )?0*(\d{1,9})", prompt.strip())) and int(number[1]) < classes:
            return int(number[1])
        text = f" {_words(prompt)} "
        labels = {_words(label): own for label, own in self.pipeline.labels.items()}
        found = [label for label in labels if label and f" {label} " in text]
        if not found:
            known = ", ".join(list(self.pipeline.labels)[:5]) or "none: its model_index.json has no id2label"
            raise InputFault(
                f"{self.name} knows classes and no text, and {prompt!r} names none of them. Captions are to name a "
                f"class by its label ({known} …) or its number (class 0 to class {classes - 1})."
            )
        return int(labels[max(found, key=len)])

    def predict(self, noisy: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor | None = None) -> Tensor:
        """As `Backbone.predict`; of a denoiser that predicts a variance too, only the target."""
        predicted: Tensor = self.denoiser(
            noisy,
            timestep=timesteps.expand(len(noisy)),
            class_labels=context[:, 0, 0].round().long(),
            return_dict=False,
        )[0]
        return predicted[:, : noisy.shape[1]]


def _words(text: str) -> str:
    """Give a text's words in small letters, a blank between them."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
