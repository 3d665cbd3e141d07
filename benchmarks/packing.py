"""What training trials together gains: against one at a time, and against the most that the frozen backbone allows.

    python -m benchmarks.packing [--json] [--backbone micro-unet] [--packs 1 2 4 8 20] [--rounds 3] [--device cpu]

The limit is the frozen backbone alone: forward, and backward to its input, no weight gradients, same precision, the
best batch of a sweep. Three mixes of trials, all with the quick study's rows, prior rows included: its position pairs;
LoRA, KronA and DiffFit, each in packs of its own, as a worker on the CPU packs them; and these three within one pack.
All of it is measured in as many processes as a study has workers (on the CPU one a core, of one thread; on a GPU one),
which do the same thing at the same time; samples a second are sums over them. Limit, one at a time and packs take
turns, round after round, and medians are printed.

`speedup_trial` is that of whole trials of the quick study's length, from the measured seconds of a training step and of
an evaluation. With `--backbone arch:sd15` (any name that `adapter-study params` knows) the denoiser has random weights,
and there is no evaluation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.common import machine

ROWS = {"batch": 4, "prior_batch": 1, "prior_weight": 0.05}
WARM_UP, STEPS = 2, 4


def mixes() -> dict[str, list[dict[str, Any]]]:
    """Name the mixes of designs."""
    from adapters import PAIRS

    position = {"method": "adapter", "activation": "relu", "init": "zero_up", "budget": "5%"}
    others = [{"method": "lora", "budget": "5%"}, {"method": "krona", "budget": "5%"}, {"method": "difffit"}]
    interleaved = [others[index % 3] for index in range(len(PAIRS))]
    return {
        "pairs": [{**position, "input": read, "output": write} for read, write in PAIRS],
        "methods": sorted(interleaved, key=others.index),
        "interleaved": interleaved,
    }


def parted(name: str, designs: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    """Part a mix into packs of at most so many; those of "methods" are of one method each."""
    groups = [list(own) for _, own in groupby(designs, lambda each: name == "methods" and each["method"])]
    return [own[begin : begin + size] for own in groups for begin in range(0, len(own), size)]


class Bench:
    """One process's measurements.

    Parameters
    ----------
    backbone : a name that `study.backbones.load` takes, or `arch:…`.
    device, precision : where and how.
    """

    def __init__(self, backbone: str, device: str, precision: str) -> None:
        import torch

        from study.config import Protocol
        from study.loaded import Worker
        from study.tasks.specs import resolve_task

        self.precision = precision
        self.worker = Worker(device)
        self.task = None
        if backbone.startswith("arch:"):
            self.backbone: Any = _Random(backbone.removeprefix("arch:"), self.worker.device, precision)
            return
        quick = {"steps": 100, "sampling_steps": 12, "guidance": 4, "pictures": 8, "prior_pictures": 16}
        self.protocol = Protocol(**quick, **ROWS, precision=precision)
        self.backbone = self.worker.backbone(backbone, precision)
        self.scorers = {"clip_i": self.worker.scorer("micro-clip"), "dino_i": self.worker.scorer("micro-dino")}
        with tempfile.TemporaryDirectory() as store:
            spec = resolve_task("subject/boat", Path())
            self.task = self.worker.task(spec, self.backbone, self.protocol, store)
        torch.manual_seed(0)

    def limit(self, rows: int) -> dict[str, float]:
        """Run the frozen backbone on so many rows, and back to its input."""
        from study.training import autocast, row_losses

        batch = self._batch(rows)
        batch.latents.requires_grad_()
        taken = []
        for _ in range(WARM_UP + STEPS):
            start = self._now()
            batch.latents.grad = None
            with autocast(self.worker.device, self.precision):
                loss = row_losses(self.backbone, batch).sum()
            loss.backward()
            taken.append(self._now() - start)
        return {"rows": rows, "seconds": statistics.median(taken[WARM_UP:])}

    def train(self, designs: list[dict[str, Any]]) -> dict[str, float]:
        """Train a pack for some steps."""
        import torch

        import adapters
        from study.training import Slot, train

        moments: list[float] = []
        rows = ROWS["batch"] + ROWS["prior_batch"]

        def batches(first: bool) -> Iterator[Any]:
            given = self.task.batches(0, self.protocol) if self.task else iter(lambda: self._batch(int(rows)), None)
            for batch in given:
                if first:
                    moments.append(self._now())
                yield batch

        if self.worker.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        generators = [torch.Generator().manual_seed(slot) for slot in range(len(designs))]
        insertion = adapters.insert(self.backbone.denoiser, designs, generators)
        try:
            slots = [Slot(insertion.parameters(slot), batches(slot == 0), 1e-4) for slot in range(len(designs))]
            train(self.backbone, slots, WARM_UP + STEPS, self.precision, insertion.rows)
        finally:
            insertion.remove()
        moments.append(self._now())
        taken = [after - before for before, after in zip(moments, moments[1:], strict=False)]
        from study.packing import peak_bytes

        return {
            "rows": rows * len(designs),
            "seconds": statistics.median(taken[WARM_UP:]),
            "peak_bytes": peak_bytes(self.worker.device),
        }

    def evaluate(self, designs: list[dict[str, Any]]) -> dict[str, float]:
        """Draw and score the pictures of a pack; rows are trials."""
        import adapters
        from study.evaluation import evaluate

        if self.task is None:
            return {"rows": len(designs), "seconds": 0.0}
        insertion = adapters.insert(self.backbone.denoiser, designs)
        try:
            start = self._now()
            count = len(designs)
            tasks, seeds = [self.task] * count, [0] * count
            slots = list(range(count))
            evaluate(self.backbone, slots, tasks, seeds, self.protocol, self.scorers, insertion.rows)
            return {"rows": count, "seconds": self._now() - start}
        finally:
            insertion.remove()

    def _batch(self, rows: int) -> Any:
        import torch

        from study.training import Batch

        backbone, device = self.backbone, self.worker.device
        latents, noise = torch.randn(2, rows, *backbone.latent_shape, device=device, dtype=backbone.dtype).unbind()
        times = torch.randint(backbone.timesteps, (rows,), device=device)
        return Batch(latents, noise, times, backbone.embed(["a photo of a boat"] * rows), latents.new_ones(rows))

    def _now(self) -> float:
        import torch

        if self.worker.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class _Random:
    """A denoiser of a known architecture with random weights, and random texts."""

    def __init__(self, name: str, device: Any, precision: str) -> None:
        import torch
        from diffusers import DDPMScheduler

        from study.backbones.architectures import architecture
        from study.training import PRECISIONS

        self.device, self.dtype = device, PRECISIONS[precision]
        self.denoiser = architecture(name).to_empty(device=device).to(self.dtype).requires_grad_(False).eval()
        generator = torch.Generator(device).manual_seed(0)
        for parameter in self.denoiser.parameters():
            parameter.normal_(0, 0.02, generator=generator)
        config = self.denoiser.config
        self.latent_shape = config.in_channels, config.sample_size, config.sample_size
        self.noiser = DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False)
        self.timesteps = self.noiser.config.num_train_timesteps
        self._text = torch.randn(1, 77, config.cross_attention_dim, generator=generator, device=device)

    def embed(self, prompts: list[str]) -> Any:
        return self._text.to(self.dtype).expand(len(prompts), -1, -1)

    def noised(self, latents: Any, noise: Any, timesteps: Any) -> Any:
        return self.noiser.add_noise(latents, noise, timesteps)

    def target(self, latents: Any, noise: Any, timesteps: Any) -> Any:
        return noise

    def predict(self, noisy: Any, timesteps: Any, context: Any) -> Any:
        return self.denoiser(noisy, timesteps, encoder_hidden_states=context, return_dict=False)[0]


def serve(given: argparse.Namespace) -> None:
    """Measure what standard input asks for, one JSON object a line, until it closes."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    bench = Bench(given.backbone, given.device, given.precision)
    print(json.dumps({"ready": True}), file=out, flush=True)
    from study.packing import is_out_of_memory

    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(bench, asked["what"])(asked["given"])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            answer = {"rows": 0, "seconds": 0.0}
        print(json.dumps(answer), file=out, flush=True)


class Processes:
    """The processes, which do the same thing at the same time."""

    def __init__(self, given: argparse.Namespace) -> None:
        from study.executors.local import MEMORY, cores

        count = cores() if given.device == "cpu" else 1
        environment = {**os.environ, "GLIBC_TUNABLES": MEMORY}
        if given.device == "cpu":
            environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", "benchmarks.packing", "--serve", "--backbone", given.backbone]
        command += ["--device", given.device, "--precision", given.precision]
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(count)
        ]
        self._answers()

    def ask(self, what: str, given: Any) -> dict[str, float]:
        """Let all do it; give rows a second of all together, and the largest of the rest."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"what": what, "given": given}) + "\n")
            process.stdin.flush()
        answers = self._answers()
        most = {key: max(answer[key] for answer in answers) for key in answers[0]}
        return {**most, "rate": sum(answer["rows"] / answer["seconds"] for answer in answers if answer["seconds"])}

    def _answers(self) -> list[dict[str, float]]:
        found = []
        for process in self.processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                sys.exit("a process of the benchmark ended; see its message above")
            found.append(json.loads(line))
        return found


def rates(processes: Processes, what: str, parts: list[Any]) -> dict[str, float]:
    """Do something for each of several parts; rows a second over all of them."""
    answers = [processes.ask(what, part) for part in parts]
    if not all(answer["rate"] for answer in answers):
        return {"rate": 0.0, "peak_bytes": 0}
    seconds = sum(answer["rows"] / answer["rate"] for answer in answers)
    peak = max(answer.get("peak_bytes", 0) for answer in answers)
    return {"rate": sum(answer["rows"] for answer in answers) / seconds, "peak_bytes": peak}


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything in turns, and give medians."""
    processes = Processes(given)
    seen: dict[Any, list[dict[str, float]]] = {}

    def measure(key: Any, what: str, parts: list[Any]) -> None:
        seen.setdefault(key, []).append(rates(processes, what, parts))
        print(f"{' '.join(map(str, key))}: {seen[key][-1]['rate']:.2f} a second", file=sys.stderr)

    for _ in range(given.rounds):
        for rows in given.limit_rows:
            measure(("limit", rows), "limit", [rows])
        for name, designs in mixes().items():
            for size in (1, *given.packs):
                parts = parted(name, designs, size)
                measure((name, "train", size), "train", parts)
                measure((name, "evaluate", size), "evaluate", parts[:: -(-len(parts) // 3)])

    def middle(*key: Any, of: str = "rate") -> float:
        return statistics.median(answer[of] for answer in seen[key])

    limit = max(middle("limit", rows) for rows in given.limit_rows)
    rows = ROWS["batch"] + ROWS["prior_batch"]

    def trial(name: str, size: int) -> float:
        evaluating = middle(name, "evaluate", size)
        return 100 * rows / middle(name, "train", size) + (1 / evaluating if evaluating else 0)

    found: dict[str, Any] = {"samples_per_second_limit": limit}
    found["limit"] = {str(rows): middle("limit", rows) for rows in given.limit_rows}
    for name in mixes():
        fit = [size for size in given.packs if middle(name, "train", size)]
        best = max(fit, key=lambda size: middle(name, "train", size))
        alone, packed = middle(name, "train", 1), middle(name, "train", best)
        found[name] = {
            "pack": best,
            "samples_per_second_alone": alone,
            "samples_per_second_packed": packed,
            "samples_per_second_limit": limit,
            "share_of_limit": packed / limit,
            "share_of_limit_alone": alone / limit,
            "speedup_training": packed / alone,
            "speedup_trial": trial(name, 1) / trial(name, best),
            "trials_per_hour": 3600 / trial(name, best),
            "packs": {
                str(size): {
                    "samples_per_second": middle(name, "train", size),
                    "evaluations_per_second": middle(name, "evaluate", size),
                    "peak_bytes": middle(name, "train", size, of="peak_bytes"),
                }
                for size in (1, *fit)
            },
        }
    return {**found["pairs"], **found, "machine": machine() | {"processes": len(processes.processes)}}


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="micro-unet")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--packs", type=int, nargs="+", default=[2, 4, 10, 20])
    parser.add_argument("--limit-rows", type=int, nargs="+", default=[5, 10, 20, 40, 80])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print everything, as JSON, and not only the outcome")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given)
        return
    found = compare(given)
    if given.json:
        settings = {name: value for name, value in vars(given).items() if name not in ("serve", "json")}
        print(json.dumps({**found, "settings": settings}, indent=1))
        return
    for name in mixes():
        told = found[name]
        print(f"{name}: packs of {told['pack']} reach {told['share_of_limit']:.0%} of the limit,", end=" ")
        print(f"one at a time {told['share_of_limit_alone']:.0%};", end=" ")
        print(f"training × {told['speedup_training']:.2f}, whole trials × {told['speedup_trial']:.2f}")


if __name__ == "__main__":
    main()
