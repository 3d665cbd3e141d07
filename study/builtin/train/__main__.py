"""Rebuild the built-in models: `python -m study.builtin.train [--out DIR] [--work DIR] [--seed N] [--only STAGE …]`.

Hours on two CPU cores. The drawings and each stage's checkpoints are kept in the work folder, so a rebuild that was
stopped goes on where it was when the same command runs again. The first five stages need nothing of each other and may
run side by side; both generators need the autoencoder. micro-dit's wants a GPU: `--only generator-dit --device cuda`.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from study.builtin import architecture
from study.builtin.segmenter import PartSegmenter
from study.builtin.train import autoencoder, measure, scorers, segmenter
from study.builtin.train.generator import train_generator
from study.builtin.train.pool import Pool, draw_pool, held_out_pool
from study.builtin.train.transformer import train_transformer

PICTURES = {"micro-dit": 48_000, "others": 24_000}
STEPS = {"autoencoder": 1600, "generator": 9000, "clip": 4800, "dino": 900, "classifier": 1600, "segmenter": 600,
         "generator-dit": 2700}
SEGMENTED = 4_000
"""Drawings that the segmenter learns from."""


class Build:
    """One rebuild: what was asked for, and the drawings that its stages share."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.out: Path = asked.out
        self.work: Path = asked.work
        self.seed: int = asked.seed
        self.steps = STEPS
        self.words = architecture.tokenizer(self.out / "micro-unet" / "tokenizer")
        self.words.save_pretrained(self.out / "micro-unet" / "tokenizer")

    @cached_property
    def pool(self) -> Pool:
        """The drawings that all models but the transformer learn from."""
        return draw_pool(PICTURES["others"], self.seed, self.asked.workers, self.work)

    @cached_property
    def test(self) -> Pool:
        """Drawings of what was kept from training."""
        return held_out_pool(500, self.seed)

    def autoencoder(self) -> None:
        """Train and write the pipeline's autoencoder."""
        torch.manual_seed(self.seed)
        vae = architecture.vae()
        autoencoder.train_vae(vae, self.pool.pixels, self.steps["autoencoder"], self.seed, self.work)
        vae.half().save_pretrained(self.out / "micro-unet" / "vae")

    def generator(self) -> None:
        """Train denoiser and text encoder on the autoencoder's latents; write the whole pipeline."""
        vae = self._vae()
        torch.manual_seed(self.seed + 3)
        unet, text_encoder = architecture.unet(), architecture.text_encoder(self.words)
        scheduler = architecture.scheduler()
        train_generator(unet, text_encoder, self.words, scheduler, self._latents(vae, self.pool), self.pool.scenes,
                        self.steps["generator"], self.seed, self.work)
        StableDiffusionPipeline(vae.half(), text_encoder.half(), self.words, unet.half(), scheduler, None, None,
                                requires_safety_checker=False).save_pretrained(self.out / "micro-unet")
        architecture.declare_float32(self.out / "micro-unet" / "text_encoder")

    def generator_dit(self) -> None:
        """Train transformer and text encoder on latents of the autoencoder of micro-unet; write the whole pipeline."""
        vae, asked = self._vae(), self.asked
        pool = draw_pool(asked.pictures, self.seed, asked.workers, self.work)
        latents = self._latents(vae, pool)
        torch.manual_seed(self.seed + 6)
        transformer = architecture.transformer()
        text_encoder = architecture.text_encoder(self.words, architecture.PIXART_TOKENS)
        scheduler = architecture.scheduler()
        train_transformer(transformer, text_encoder, self.words, scheduler, latents, pool.scenes,
                          self.steps["generator-dit"], self.seed, self.work, asked.batch, asked.minutes,
                          asked.workers if asked.device != "cpu" else 0, asked.device)
        words = architecture.tokenizer(self.out / "micro-dit" / "tokenizer")
        PixArtAlphaPipeline(words, text_encoder.cpu().half(), vae.half(), transformer.cpu().half(),
                            scheduler).save_pretrained(self.out / "micro-dit")
        architecture.declare_float32(self.out / "micro-dit" / "text_encoder")

    def _vae(self) -> AutoencoderKL:
        vae = AutoencoderKL.from_pretrained(self.out / "micro-unet" / "vae", torch_dtype=torch.float32)
        vae.register_to_config(_name_or_path="")
        return vae

    def _latents(self, vae: AutoencoderKL, pool: Pool) -> torch.Tensor:
        """Latents of a pool; minutes of work, so they are kept under the hash of the weights that made them."""
        weights = (self.out / "micro-unet" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
        digest = hashlib.sha256(weights).hexdigest()[:16]
        file = self.work / f"latents-{digest}-{len(pool)}-{self.seed}.safetensors"
        if not file.exists():
            making = file.with_suffix(".making")
            save_file({"latents": autoencoder.encode(vae.to(self.asked.device), pool.pixels)}, making)
            vae.cpu()
            making.replace(file)
        return load_file(file)["latents"]

    def clip(self) -> None:
        """Train and write the small CLIP."""
        torch.manual_seed(self.seed + 1)
        clip = architecture.clip(self.words)
        scorers.train_clip(clip, self.words, self.pool, self.steps["clip"], self.seed, self.work)
        architecture.write_scorer(clip, self.out / "micro-clip", self.words)

    def dino(self) -> None:
        """Train and write the wordless encoder."""
        torch.manual_seed(self.seed + 4)
        dino = architecture.dino()
        scorers.train_dino(dino, scorers.instance_pairs(6000, self.seed), self.steps["dino"], self.seed, self.work)
        architecture.write_scorer(dino, self.out / "micro-dino")

    def classifier(self) -> None:
        """Train and write the attribute classifier that tests the generator."""
        torch.manual_seed(self.seed + 2)
        classifier = scorers.AttributeClassifier()
        scorers.train_classifier(classifier, self.pool, self.steps["classifier"], self.seed, self.work)
        save_file({name: value.half() for name, value in classifier.state_dict().items()},
                  self.out / "attributes.safetensors")

    def segmenter(self) -> None:
        """Train and write the segmenter that reads control maps off pictures."""
        torch.manual_seed(self.seed + 5)
        model = PartSegmenter()
        pool = draw_pool(SEGMENTED, self.seed, self.asked.workers, self.work)
        segmenter.train_segmenter(model, pool, self.steps["segmenter"], self.seed, self.work)
        save_file({name: value.half() for name, value in model.state_dict().items()},
                  self.out / "segmenter.safetensors")

    def _classifier(self) -> scorers.AttributeClassifier:
        classifier = scorers.AttributeClassifier()
        classifier.load_state_dict(load_file(self.out / "attributes.safetensors"))
        return classifier

    def measure(self) -> None:
        """Measure everything on held-out drawings and captions; write model card and sample grid."""
        from transformers import CLIPModel, ResNetModel

        from study.backbones import load

        backbone = load(str(self.out / "micro-unet"))
        transformer = load(str(self.out / "micro-dit"))
        classifier = self._classifier()
        clip = CLIPModel.from_pretrained(self.out / "micro-clip", dtype=torch.float32)
        dino = ResNetModel.from_pretrained(self.out / "micro-dino", dtype=torch.float32)
        captioned = Pool(self.test.scenes[:400], self.test.pixels[:400])
        drawn = scorers.accuracy(classifier, self.test.pixels, self.test.scenes)
        unet_drew = measure.generator_accuracy(backbone, classifier, captioned, self.seed)
        transformer_drew = measure.generator_accuracy(transformer, classifier, captioned, self.seed)
        measured = {
            "autoencoder PSNR, dB": autoencoder.psnr(backbone.pipeline.vae, self.test.pixels),
            "micro-clip: own caption first among 500": scorers.retrieval(clip, self.words, self.test),
            "micro-dino: same instance nearest among 800":
                measure.instance_recall(dino, scorers.instance_pairs(400, self.seed + 1)),
            **{f"classifier on 500 drawings: {name}": value for name, value in drawn.items()},
            **{f"micro-unet on 400 captions: {name}": value for name, value in unet_drew.items()},
            **{f"micro-dit on 400 captions: {name}": value for name, value in transformer_drew.items()},
            **measure.control_floor(backbone, self.test),
        }
        measure.write_grid(backbone, self.out / "samples.png", self.seed)
        measure.write_grid(transformer, self.out / "samples-dit.png", self.seed)
        measure.write_card(self.out, measured)
        print(json.dumps(measured, indent=1))


STAGES: dict[str, Callable[[Build], None]] = {
    "classifier": Build.classifier, "clip": Build.clip, "dino": Build.dino, "autoencoder": Build.autoencoder,
    "segmenter": Build.segmenter, "generator": Build.generator, "generator-dit": Build.generator_dit,
    "measure": Build.measure,
}


def main() -> None:
    """Run the stages asked for, in order."""
    parser = argparse.ArgumentParser(prog="python -m study.builtin.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent, help="where to write")
    parser.add_argument("--work", type=Path, default=Path("runs/builtin"), help="drawings and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw pictures and captions")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE",
                        help=", ".join(STAGES))
    dit = parser.add_argument_group("micro-dit")
    dit.add_argument("--device", default="cpu", help="cpu or cuda")
    dit.add_argument("--minutes", type=float, help="time to train; the schedule is fitted to it")
    dit.add_argument("--batch", type=int, default=256, help="pictures a step")
    dit.add_argument("--pictures", type=int, default=PICTURES["micro-dit"], help="drawings to learn from")
    asked = parser.parse_args()
    build = Build(asked)
    for name, stage in STAGES.items():
        if name in asked.only:
            stage(build)


if __name__ == "__main__":
    main()
