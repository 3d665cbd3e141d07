"""How many trials a worker trains together: the most that fit into memory with head room and still gain."""

import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

LARGEST = 256
"""Trials that are trained together at most."""

GAIN = 0.03
"""What twice as many trials must save of the time for each, to be worth the memory."""

HEAD_ROOM = 0.15
"""Share of a GPU's memory that is left free, for what pictures and scores need."""

SHARE = 0.5
"""Share of the machine's free memory that a worker on the CPU takes, where others may run beside it."""

Steps = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""Puts so many trials on the denoiser and gives a training step of theirs."""


@dataclass
class _Search:
    """How far the search for a size is: the best size, its seconds for each trial's step, and what was tried last."""

    size: int = 0
    seconds: float = float("inf")
    tried: int = 0
    over: bool = False


class Packing:
    """Finds sizes of packs by trying, and remembers them.

    Parameters
    ----------
    device : where packs are trained.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._searches: dict[str, _Search] = {}
        self._limits: dict[str, int] = {}

    def size(self, kind: str, asked: int | None, count: int, steps: Steps) -> int:
        """Say how many of some trials to train together.

        Parameters
        ----------
        kind : what the trials have in common; sizes are remembered by it.
        asked : how many are wanted; None for as many as fit into memory and still gain.
        count : how many there are, at least 1.
        steps : tries them out.
        """
        if count == 1:
            return 1
        if asked is None:
            search = self._searches.setdefault(kind, _Search())
            self._continue(search, min(count, self._limits.get(kind, LARGEST)), steps)
            asked = max(1, search.size)
        return min(asked, count, self._limits.get(kind, LARGEST))

    def too_large(self, kind: str, size: int) -> None:
        """Remember that so many trials did not fit into memory."""
        self._limits[kind] = max(1, min(size // 2, self._limits.get(kind, LARGEST)))

    def _continue(self, search: _Search, count: int, steps: Steps) -> None:
        """Double the size until memory or gain ends, or there are no more trials to try it with.

        Gain ends when two sizes in a row bring none: of one, a busy machine may be the reason.
        """
        base = _used(self._device)
        while not search.over and (size := max(1, 2 * search.tried)) <= count:
            free(self._device)
            reset_peak(self._device)
            try:
                seconds = self._pace(size, steps)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                search.over = True
                return
            search.tried = size
            if seconds < (1 - GAIN) * search.seconds:
                search.size, search.seconds = size, seconds
            each = max(0, peak_bytes(self._device) - base) / size
            search.over = size >= 4 * search.size or 2 * size * each > _spare(self._device)

    def _pace(self, size: int, steps: Steps) -> float:
        """Seconds of a step, for each of so many trials: the best of three after a first."""
        taken = []
        with steps(size) as step:
            for _ in range(4):
                start = time.perf_counter()
                step()
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                taken.append(time.perf_counter() - start)
        return min(taken[1:]) / size


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory ran out, on a GPU or on the CPU."""
    # On the CPU torch's allocator, oneDNN and C++ raise a plain RuntimeError.
    cpu = isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_WORDS)
    return cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


_CPU_WORDS = "DefaultCPUAllocator", "could not create a primitive", "could not create a memory object", "bad_alloc"


def free(device: torch.device) -> None:
    """Give back what is kept without need: cycles of objects, which a failed step leaves, and memory that is free."""
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Begin to count peak memory anew, where that can be done: on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Peak memory: since `reset_peak` on a GPU; on the CPU of the process so far, which the system counts no finer."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _used(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _spare(device: torch.device) -> float:
    """Bytes that a pack may take."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) - HEAD_ROOM * total
    return SHARE * min(psutil.virtual_memory().available, _left_by_control_group())


def _left_by_control_group() -> float:
    """Bytes that the control groups of this process may still take: of a container, or of a job of a cluster."""
    root, left = Path("/sys/fs/cgroup"), [float("inf")]
    with suppress(OSError):  # another system
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                folder, limit, used = root, "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                folder, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            folder /= path.lstrip("/")
            with suppress(OSError, ValueError):  # out of sight, or no limit ("max")
                left.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
    return min(left)
