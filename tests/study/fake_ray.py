"""Ray in one module, as far as the executor uses it: tasks run in two threads of this process.

FAULTS names what becomes of the next tasks, one each: `lost` (the cluster gives it up), `raises` (the function could
not be called); a task without one runs.
"""

import sys
import types
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import psutil

FAULTS: list[str] = []
NODES = [{"NodeID": "n1", "Alive": True, "Resources": {"CPU": 2.0, "memory": 2.0**34}}]
JOBS = [{"JobID": "j1", "IsDead": False}]


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class NodeDiedError(RayError):
    pass


class Remote:
    def __init__(self, module: types.ModuleType, function) -> None:
        self.module, self.function, self.asked = module, function, {}

    def options(self, **asked):
        self.asked = asked
        self.module.asked.append(asked)
        return self

    def remote(self, *arguments):
        fault = FAULTS.pop(0) if FAULTS else ""
        return self.module.pool.submit(self._call, fault, arguments)

    def _call(self, fault: str, arguments):
        if fault == "lost":
            raise NodeDiedError("the node is dead")
        try:
            if fault == "raises":
                raise ModuleNotFoundError("No module named 'study'")
            return self.function(*arguments)
        except Exception as error:
            raise RayTaskError(error) from error


def install(monkeypatch) -> types.ModuleType:
    """Put the module where `import ray` finds it."""
    FAULTS.clear()
    ray = types.ModuleType("ray")
    ray.on, ray.inits, ray.asked, ray.cancelled = False, [], [], []
    ray.pool = ThreadPoolExecutor(2)

    def init(**given):
        if given.get("address") == "nowhere:1":
            raise ConnectionError("Could not find any running Ray instance")
        ray.inits.append(given)
        ray.on = True

    def shutdown():
        ray.on = False

    def cancel(task: Future, force: bool) -> None:
        ray.cancelled.append(force)
        task.cancel()
        for worker in psutil.Process().children():
            worker.kill()

    def wait(tasks, num_returns=1, timeout=None):
        over = wait_for(tasks, timeout, FIRST_COMPLETED).done
        return [task for task in tasks if task in over], [task for task in tasks if task not in over]

    context = types.SimpleNamespace(get_node_id=lambda: "n1", get_job_id=lambda: "j1")
    ray.init, ray.shutdown, ray.cancel, ray.wait = init, shutdown, cancel, wait
    ray.is_initialized = lambda: ray.on
    ray.get = lambda task: task.result()
    ray.nodes = lambda: NODES
    ray.remote = lambda function: Remote(ray, function)
    ray.get_runtime_context = lambda: context
    ray.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    private = types.SimpleNamespace(state=types.SimpleNamespace(jobs=lambda: JOBS))
    client = types.SimpleNamespace(ray=types.SimpleNamespace(is_connected=lambda: False))
    modules = {"ray": ray, "ray._private": private, "ray.util": types.ModuleType("ray.util"), "ray.util.client": client}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return ray
