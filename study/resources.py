"""The section `resources` of a study file: what jobs on a cluster ask for, and how what is in training is watched."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_MINUTES = {"m": 1, "h": 60, "d": 24 * 60}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def minutes(text: str) -> int:
    """Return a time limit in minutes.

    Parameters
    ----------
    text : str
        As people write it, `90m`, `8h`, `2d`, or as SLURM does with its days or hours: `1-12`, `1-12:30:00`,
        `8:00:00`. Seconds count as a whole minute.

    Raises
    ------
    ValueError
        If it is neither, or no time.
    """
    told = f"got {text!r}, expected a time such as 90m, 8h, 2d, 1-12 (days-hours) or '8:00:00'"
    if short := re.fullmatch(r"(\d{1,6})([mhd])", text):
        found = int(short[1]) * _MINUTES[short[2]]
    elif long := re.fullmatch(r"(?:(\d{1,4})-(\d{1,2})(?::(\d{1,2})(?::(\d{1,2}))?)?|(\d{1,4}):(\d{2}):(\d{2}))", text):
        days, hours, mins, secs, own_hours, own_mins, own_secs = (int(part or 0) for part in long.groups())
        found = days * 24 * 60 + (hours + own_hours) * 60 + mins + own_mins + (secs + own_secs > 0)
    else:
        raise ValueError(told)
    if found < 1:
        raise ValueError(told)
    return found


def _time(value: Any) -> Any:
    # YAML reads 8:00:00 without quotes as a number, so a number is never taken for a time.
    if not isinstance(value, str):
        raise ValueError(f"got {value!r}, expected a time such as 90m, 8h, 2d, 1-12 (days-hours) or '8:00:00' (quoted)")
    minutes(value)
    return value


def _every(value: Any) -> Any:
    if value != "never" and not (isinstance(value, str) and re.fullmatch(r"[1-9]\d{0,6}[smhd]", value)):
        raise ValueError(f"got {value!r}, expected the time between two checkpoints, such as 10m or 90s, or never")
    return value


def _word(value: str) -> str:
    # These become lines of a script.
    if not re.fullmatch(r"[A-Za-z0-9_.,:@+*|&()\[\]!<>=%/-]+", value):
        raise ValueError(f"got {value!r}, expected SLURM's own words, without spaces or quotes")
    return value


_Word = Annotated[str, AfterValidator(_word), Field(max_length=500)]


class Resources(BaseModel):
    """What each job of SLURM, or task of Ray, asks for, which runs one pack; and how trials in training are watched.

    Attributes
    ----------
    partition, account, qos, constraint, gres, exclude : str, optional
        As `sbatch` takes them. Ray takes none of them.
    time : str
        Time limit of SLURM's. A job that reaches it goes back into the queue and goes on with the trials that have no
        row.
    gpus : int, optional
        A pack trains on one GPU, or on CPU cores: by default the latter, but on a Ray cluster with GPUs. A kind of GPU
        is asked of SLURM with `gres` instead.
    cpus : int, optional
    memory : str, optional
        Such as 16G.
    parallel : int
        Jobs that run at once at most; tasks that Ray is given at once.
    silence : str
        Time without a step of training or drawing after which a worker is taken to hang, is killed, and its trial is
        tried again. Jobs of SLURM have their time limit instead.
    checkpoint : str
        Time between two checkpoints of a trial in training, anywhere; or `never`.
    tensorboard : bool
        Whether logs for TensorBoard are written, anywhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: _Word | None = None
    account: _Word | None = None
    qos: _Word | None = None
    constraint: _Word | None = None
    gres: _Word | None = None
    exclude: _Word | None = None
    time: Annotated[str, BeforeValidator(_time)] = "4h"
    gpus: int | None = Field(default=None, ge=0, le=1, strict=True)
    cpus: int | None = Field(default=None, ge=1, strict=True)
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[KMGT]$")] | None = None
    parallel: int = Field(default=16, ge=1, strict=True)
    silence: Annotated[str, BeforeValidator(_time)] = "1h"
    checkpoint: Annotated[str, BeforeValidator(_every)] = "10m"
    tensorboard: bool = Field(default=False, strict=True)

    @property
    def bytes(self) -> int:
        """The memory in bytes; 0 if none is asked for."""
        return int(self.memory[:-1]) * 1024 ** (1 + "KMGT".index(self.memory[-1])) if self.memory else 0

    @property
    def minutes(self) -> int:
        """The time limit in minutes."""
        return minutes(self.time)

    @property
    def checkpoint_seconds(self) -> float | None:
        """The time between two checkpoints in seconds; None for never."""
        return None if self.checkpoint == "never" else float(int(self.checkpoint[:-1]) * _SECONDS[self.checkpoint[-1]])
