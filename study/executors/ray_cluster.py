"""What Ray says of a cluster: which nodes and drivers it has, and how many packs fit. Ray itself is imported late."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.faults import InputFault

INSTALL = "the Ray executor needs ray: pip install 'adapter-study[ray]'"

VARIABLE = "ADAPTER_STUDY_RAY"
"""Environment variable of a worker: where it runs, as `Place` says it."""

_STORE = 80 * 2**20
"""Bytes of the object store of a cluster of one's own, which holds next to nothing; Ray takes no less than 75 MiB."""


@dataclass(frozen=True)
class Place:
    """Where in a Ray cluster a worker runs.

    Attributes
    ----------
    node, job : str
        Ray's ids: of the node, unique among all clusters, and of the driver.
    pack : str
        The handle of the pack it was started for.
    """

    node: str
    job: str
    pack: str

    @classmethod
    def here(cls, pack: str) -> Place:
        """Return the place of the Ray task that calls this."""
        import ray

        context = ray.get_runtime_context()
        return cls(context.get_node_id(), context.get_job_id(), pack)

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """Return the place that `str` made into text; None if it is no such thing."""
        parts = text.split(" ")
        return cls(*parts) if len(parts) == 3 else None

    def __str__(self) -> str:
        return f"{self.node} {self.job} {self.pack}"


@dataclass(frozen=True)
class View:
    """A cluster as it was at one time.

    Attributes
    ----------
    nodes : mapping of str to bool
        Whether each node that ever joined is still there, by its id.
    jobs : frozenset of str
        The drivers that are still there.
    """

    nodes: Mapping[str, bool]
    jobs: frozenset[str]

    def alive(self, place: Place) -> bool | None:
        """Say whether what ran at a place does so still; None if it was in another cluster.

        With its node or its driver it ends. While both are there the driver sees to it that nothing is left of a
        worker that ended in any other way.
        """
        if place.node not in self.nodes:
            return None
        return self.nodes[place.node] and place.job in self.jobs


def view() -> View | None:
    """Return the cluster that this process is connected to; None if there is none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    if through_client():
        nodes, jobs = ray.get(ray.remote(num_cpus=0)(_look).remote())
    else:
        nodes, jobs = _look()
    return View(nodes, frozenset(jobs))


def _look() -> tuple[dict[str, bool], list[str]]:
    import ray
    from ray._private import state  # drivers are told of nowhere else without a dashboard

    nodes = {node["NodeID"]: bool(node["Alive"]) for node in ray.nodes()}
    return nodes, [job["JobID"] for job in state.jobs() if not job["IsDead"]]


def through_client() -> bool:
    """Say whether this process reaches its cluster by an address that begins with ray://."""
    from ray.util.client import ray as client

    return bool(client.is_connected())


def connect(address: str | None, cpus: int) -> bool:
    """Connect to a cluster, unless this process is connected already.

    Parameters
    ----------
    address : str, optional
        `auto` for one that was started on this machine, HOST:PORT or ray://HOST:PORT; by default RAY_ADDRESS, and
        without it a cluster of its own is started on this machine, which ends with this process.
    cpus : int
        Of a cluster of its own.

    Returns
    -------
    bool
        Whether a connection was made.

    Raises
    ------
    InputFault
        If Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise InputFault(INSTALL) from None
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE}
    try:
        if address is None or address == "local":
            ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, **own)
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError, ImportError, ray.exceptions.RayError) as error:
        told = " ".join(str(error).split())[:600]
        where = f"no Ray cluster can be reached at {address}" if address else "no Ray cluster can be started here"
        raise InputFault(
            f"{where} ({type(error).__name__}: {told}); expected auto, HOST:PORT or ray://HOST:PORT of one with "
            "the same versions of Python and Ray"
        ) from error
    return True


def resources() -> list[Mapping[str, float]]:
    """Return what each node of the cluster has, whether it is in use or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(nodes: list[Mapping[str, float]], asked: Mapping[str, float]) -> int:
    """Return how many tasks nodes have room for at once."""
    wanted = {name: amount for name, amount in asked.items() if amount > 0}
    return sum(min(int(node.get(name, 0) // amount) for name, amount in wanted.items()) for node in nodes)
