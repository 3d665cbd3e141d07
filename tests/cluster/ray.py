"""A Ray cluster of nodes on this machine, in one folder, with ports and an access token of its own.

As a program: `python tests/cluster/ray.py FOLDER start` prints what to export, `… stop` ends it.
"""

import importlib.metadata
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

NODES = 2
_STORE = 80 * 2**20
"""Bytes of a node's object store; Ray takes no less than 75 MiB."""


def lacking() -> str | None:
    """Say in a sentence why there can be no cluster here; None if there can."""
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return "Ray is not installed: pip install -c constraints.txt -e '.[ray]'"
    return None


class Cluster:
    """Starts and stops the servers.

    Parameters
    ----------
    folder : Path
        Its path should be short: a socket's may have 107 characters.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to find the cluster."""
        return {
            "RAY_ADDRESS": (self.folder / "address").read_text(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
        }

    @property
    def client(self) -> str:
        """The address for a driver outside of the cluster."""
        return (self.folder / "client").read_text()

    def start(self) -> None:
        """Start the servers and wait until they are there; RuntimeError with a log's end if one is not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "token").write_text(secrets.token_hex(32))
        head, client = free_ports(2)
        (self.folder / "address").write_text(f"127.0.0.1:{head}")
        (self.folder / "client").write_text(f"ray://127.0.0.1:{client}")
        self.start_node(0, "--head", f"--port={head}", f"--ray-client-server-port={client}",
                        "--include-dashboard=false", "--disable-usage-stats")  # fmt: skip
        for index in range(1, NODES):
            self.start_node(index)

    def start_node(self, index: int, *words: str, seconds: float = 180) -> None:
        """Start the servers of a node; any but the first joins the cluster."""
        log = self.folder / f"{index}.log"
        own = self.folder / str(index)
        own.mkdir(exist_ok=True)
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1",
            "--num-cpus=1", "--num-gpus=0", f"--object-store-memory={_STORE}", f"--temp-dir={own}",
            *(words or [f"--address={self.environment['RAY_ADDRESS']}"]),
        ]  # fmt: skip
        environ = {**os.environ, **self.environment, "RAY_USAGE_STATS_ENABLED": "0"}
        del environ["RAY_ADDRESS"]
        with log.open("w") as told:
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=told, stderr=told, env=environ, start_new_session=True
            )
        (self.folder / f"{index}.pid").write_text(str(started.pid))
        end = time.monotonic() + seconds
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if started.poll() is not None or time.monotonic() > end:
                text = log.read_text(errors="replace")[-1500:]
                self.stop()
                raise RuntimeError(f"node {index} did not start: {text}")
            time.sleep(0.2)

    def kill_node(self, index: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to all servers and workers of a node at once, and wait until they are gone."""
        try:
            top = psutil.Process(int((self.folder / f"{index}.pid").read_text()))
            doomed = [top, *top.children(recursive=True)]
        except (OSError, ValueError, psutil.NoSuchProcess):
            return
        for each in doomed:
            try:
                each.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(doomed, timeout=15)
        for each in left:
            each.kill()
        (self.folder / f"{index}.pid").unlink()

    def stop(self) -> None:
        """End the servers that were started, by their numbers."""
        for index in reversed(range(NODES)):
            self.kill_node(index, signal.SIGTERM)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[1]).resolve())
    if sys.argv[2] == "start":
        reason = lacking()
        if reason:
            sys.exit(reason)
        cluster.start()
        print("\n".join(f"export {name}={value}" for name, value in cluster.environment.items()))
    else:
        cluster.stop()
