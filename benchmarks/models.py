"""What a training step of the true architectures takes, with random weights: nothing is downloaded.

    python -m benchmarks.models --backbone arch:sd15 --size 512 --device cuda --packs 1 4 > sd15.json
    python -m benchmarks.models --backbone arch:sdxl --size 1024 --device cuda --gradient_checkpointing > sdxl.json

A trial is one row a step through a bottleneck of width 64 at SA_in → Trans_out, or LoRA of rank 4; a pack has several.
Weights are in bfloat16 unless told otherwise. Prints one JSON document: the median seconds of a step without the
optimiser's, and torch's peak bytes, which on a CPU are not known.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch

from benchmarks.common import machine

DESIGNS: dict[str, dict[str, Any]] = {
    "position": {"method": "adapter", "input": "SA_in", "output": "Trans_out", "width": 64},
    "lora": {"method": "lora", "rank": 4},
}
STEPS, WARM_UP = 7, 2
TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def inputs(denoiser: Any, rows: int, size: int) -> dict[str, Any]:
    """Draw what a denoiser is given for pictures of an edge in pixels, under texts of the pipeline's length."""
    kind, config = type(denoiser).__name__, denoiser.config
    parameter = next(denoiser.parameters())

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=parameter.device, dtype=parameter.dtype)

    edge = size // 8
    times = torch.full((rows,), 500.0, device=parameter.device)
    if kind == "FluxTransformer2DModel":
        places = torch.zeros((edge // 2) ** 2, 3, device=parameter.device)
        guidance = {"guidance": torch.full((rows,), 3.5, device=parameter.device)} if config.guidance_embeds else {}
        return {"hidden_states": draw(rows, len(places), config.in_channels), "timestep": times / 1000,
                "encoder_hidden_states": draw(rows, 512, config.joint_attention_dim), "img_ids": places,
                "pooled_projections": draw(rows, config.pooled_projection_dim), "txt_ids": places.new_zeros(512, 3),
                **guidance}  # fmt: skip
    pictures = draw(rows, config.in_channels, edge, edge)
    if kind == "SD3Transformer2DModel":
        return {"hidden_states": pictures, "timestep": times,
                "encoder_hidden_states": draw(rows, 77 + 256, config.joint_attention_dim),
                "pooled_projections": draw(rows, config.pooled_projection_dim)}  # fmt: skip
    if kind == "DiTTransformer2DModel":
        return {"hidden_states": pictures, "timestep": times, "class_labels": times.long()}
    if kind == "PixArtTransformer2DModel":
        return {"hidden_states": pictures, "timestep": times, "encoder_hidden_states": draw(rows, 120, 4096),
                "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}  # fmt: skip
    given = {"sample": pictures, "timestep": times, "encoder_hidden_states": draw(rows, 77, config.cross_attention_dim)}
    if config.addition_embed_type == "text_time":
        sizes = torch.tensor([size, size, 0, 0, size, size], device=parameter.device, dtype=parameter.dtype)
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given["added_cond_kwargs"] = {"text_embeds": draw(rows, pooled), "time_ids": sizes.expand(rows, -1)}
    return given


def measure(denoiser: Any, design: dict[str, Any], pack: int, size: int) -> dict[str, float | None]:
    """Time training steps of a pack on a denoiser; give their median seconds and the peak of memory."""
    import adapters
    from study.packing import peak_bytes, reset_peak

    device = next(denoiser.parameters()).device
    insertion = adapters.insert(denoiser, [design] * pack)
    given = inputs(denoiser, pack, size)
    taken = []
    reset_peak(device)
    try:
        for _ in range(STEPS):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            autocast = torch.autocast(device.type, torch.bfloat16, next(denoiser.parameters()).dtype == torch.bfloat16)
            with insertion.rows(range(pack)):
                with autocast:
                    predicted = denoiser(**given, return_dict=False)[0]
                predicted.float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start)
    finally:
        insertion.remove()
    return {"seconds": statistics.median(taken[WARM_UP:]),
            "peak_bytes": peak_bytes(device) if device.type == "cuda" else None}  # fmt: skip


def main() -> None:
    """Measure every pack of every design and print the numbers."""
    from study.backbones.architectures import architecture

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="arch:sd15", help="arch:…, as `adapter-study params` knows them")
    parser.add_argument("--size", type=int, default=512, help="edge of the pictures, in pixels")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", default="bfloat16", choices=list(TYPES))
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--gradient_checkpointing", action="store_true")
    given = parser.parse_args()
    denoiser: Any = architecture(given.backbone.removeprefix("arch:")).to(TYPES[given.weights])
    denoiser = denoiser.to_empty(device=given.device).requires_grad_(False).eval()
    generator = torch.Generator(given.device).manual_seed(0)
    for tensor in [*denoiser.parameters(), *denoiser.buffers()]:
        if tensor.is_floating_point():
            tensor.normal_(0, 0.02, generator=generator)
    if given.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    found: dict[str, Any] = {"machine": machine(), **vars(given)}
    for name, design in DESIGNS.items():
        found[name] = {str(pack): measure(denoiser, design, pack, given.size) for pack in given.packs}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
