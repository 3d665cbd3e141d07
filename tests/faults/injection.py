"""Injects faults: kills a process at a chosen file-system call of its own, damages files, makes workers misbehave.

Run as a program it is a fake worker with a fault (`python injection.py STORE --device cpu`): trials of the activation
silu meet what FAULT says, as often as FAULT_TIMES says, counted by files in FAULT_FOLDER.
"""

import ctypes
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import tests.study.fakes as fakes
from study.trial import Claim, Pack, Progress, Sink, Trial
from study.worker import Runtime, main

COMMAND = (sys.executable, str(Path(__file__).resolve()))
INJECTED: Counter[str] = Counter()
"""How many faults of each kind this process has injected; `conftest.py` prints them."""

CALLS = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir")
"""Audit events of Python that come before a change of files; `os.replace` is a rename, `touch` and `fsync` open."""


def killed_at(call: int, folder: Path, action: Callable[[], object]) -> bool:
    """Run an action in a process of its own that is killed just before its n-th call, from 0, on a file of a folder.

    Returns
    -------
    bool
        False if it ended before it came to that call; what it raises is raised here.
    """
    child = os.fork()
    if child == 0:
        left = [call]

        def hook(event: str, arguments: tuple) -> None:
            if event in CALLS and str(arguments[0]).startswith(str(folder)):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

        code = 1
        try:
            sys.addaudithook(hook)
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        INJECTED["kill -9 before a file-system call"] += 1
        return True
    assert os.WEXITSTATUS(status) == 0, "the action failed"
    return False


def kill(process: int) -> bool:
    """Kill a process; say whether it was there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    INJECTED["kill -9 at a random moment"] += 1
    return True


def damaged(content: bytes, how: str, chance: random.Random) -> bytes:
    """Return what a disk made of a file's content."""
    INJECTED[f"{how} file"] += 1
    if how == "empty":
        return b""
    if how == "torn":  # its end never reached the disk
        return content[: chance.randrange(1, max(2, len(content)))]
    if how == "zeroed":  # its length did, its content did not
        return bytes(len(content))
    if how == "garbage":
        return chance.randbytes(max(16, len(content)))
    changed = bytearray(content)
    for begin in range(0, len(content), 50):
        changed[min(begin + chance.randrange(50), len(content) - 1)] ^= 1 << chance.randrange(8)
    return bytes(changed)


DAMAGE = ("empty", "torn", "zeroed", "garbage", "flipped")
"""What `damaged` does; `flipped` is a bit in every 50 bytes."""


def strike(trial: Trial) -> None:
    """Do to a worker what its environment says, if this trial is to meet it and has not often enough."""
    folder, times = Path(os.environ["FAULT_FOLDER"]), int(os.environ["FAULT_TIMES"])
    if trial.design.get("activation") != "silu" or len(list(folder.iterdir())) >= times:
        return
    (folder / f"{os.getpid()}-{trial.id}").touch()
    fault = os.environ["FAULT"]
    print(f"here comes: {fault}")
    if fault == "hangs":
        time.sleep(10_000)
    elif fault == "hangs in C":  # with Python's lock held, so that no thread of it runs either
        ctypes.PyDLL(None).sleep(10_000)
    elif fault == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "may take no more memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))
        bytearray(2**28)
    elif fault == "is killed for memory":
        (Path(os.environ["FAULT_GROUP"]) / "cgroup.procs").write_text(str(os.getpid()))
        while True:
            bytearray(b"x" * 2**30)
    else:
        raise ValueError(fault)


def runtime(device: str | None) -> Runtime:
    """The fakes' runtime; a fault strikes when a trial has been claimed."""
    inner = fakes.runtime(device)

    def run(pack: Pack, sink: Sink, progress: Progress, claim: Claim) -> None:
        def claim_and_strike(trial: Trial) -> bool:
            if not claim(trial):
                return False
            strike(trial)
            return True

        inner(pack, sink, progress, claim_and_strike)

    return run


if __name__ == "__main__":
    main(runtime)
