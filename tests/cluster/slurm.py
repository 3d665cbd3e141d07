"""A SLURM cluster of two nodes on this machine, in one folder: munged, slurmctld, two slurmd; nothing in /etc is read.

As a program: `python tests/cluster/slurm.py FOLDER start` prints what to export, `… stop` ends it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")


def lacking() -> str | None:
    """Say in a sentence why there can be no cluster here; None if there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)} missing): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd starts jobs as root only"
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
        self.config = folder / "slurm.conf"
        self.nodes = NODES

    @property
    def environment(self) -> dict[str, str]:
        """What SLURM's commands need to find the cluster."""
        return {"SLURM_CONF": str(self.config)}

    def start(self, seconds: float = 60) -> None:
        """Start the servers and wait until the nodes are there; RuntimeError with the logs' ends if they are not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key, sock = self.folder / "munge.key", self.folder / "munge.sock"
        self._call("mungekey", "--create", "--force", f"--keyfile={key}")
        self._call(
            "munged", "--force", f"--key-file={key}", f"--socket={sock}", f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        self.config.write_text(self._configuration(sock))
        (self.folder / "state").mkdir(exist_ok=True)
        self._call("slurmctld", "-c")
        for node in self.nodes:
            (self.folder / node).mkdir(exist_ok=True)
            self.begin(f"slurmd-{node}")
        end = time.monotonic() + seconds
        while (told := self._states()) != ["idle"] * len(self.nodes):
            if time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"the nodes are {told}, expected idle; {self._logs()}")
            time.sleep(0.5)

    def stop(self) -> None:
        """End the servers that were started, by their numbers, and the jobs' own daemons with them."""
        subprocess.run(["scancel", "-u", str(os.getuid())], env=self._env(), check=False, timeout=30)
        time.sleep(1)
        for name in (*(f"slurmd-{node}" for node in self.nodes), "slurmctld", "munged"):
            self.kill(name, signal.SIGTERM)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a server by name: munged, slurmctld, slurmd-n1."""
        try:
            pid = int((self.folder / f"{name}.pid").read_text())
            os.kill(pid, number)
        except (OSError, ValueError):
            return
        end = time.monotonic() + 15
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.1)

    def begin(self, name: str) -> None:
        """Start slurmctld or a node's daemon, also after it was killed, by the names of `kill`."""
        program, _, node = name.partition("-")
        self._call(program, *(("-N", node) if node else ()))

    def _configuration(self, sock: Path) -> str:
        ports = free_ports(1 + len(self.nodes))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // (2 * len(self.nodes))
        host = socket.gethostname()
        cores = max(1, (os.cpu_count() or 1) // len(self.nodes))
        lines = [
            "ClusterName=tests",
            f"SlurmctldHost={host}(127.0.0.1)",
            "SlurmUser=root",
            "SlurmdUser=root",
            f"SlurmctldPort={ports[0]}",
            "AuthType=auth/munge",
            f"AuthInfo=socket={sock}",
            "CredType=cred/munge",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd-%n.pid",
            f"SlurmctldLogFile={self.folder}/slurmctld.log",
            f"SlurmdLogFile={self.folder}/slurmd-%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "JobCompType=jobcomp/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "MpiDefault=none",
            "SchedulerParameters=sched_interval=5,bf_interval=5",
            "KillWait=3",
            "SlurmctldTimeout=30",
            "SlurmdTimeout=20",
            "ReturnToService=2",
            "MinJobAge=300",
            "SwitchType=switch/none",
        ]
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory={memory}"
            for node, port in zip(self.nodes, ports[1:], strict=True)
        ]
        lines.append(f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP")
        return "\n".join(lines) + "\n"

    def _states(self) -> list[str]:
        asked = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env=self._env(), capture_output=True, text=True, check=False
        )
        return asked.stdout.split()

    def _call(self, *command: str) -> None:
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}; {self._logs()}")

    def _env(self) -> dict[str, str]:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return {**os.environ, **self.environment, "PATH": path}

    def _logs(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "; ".join(f"{log.name}: {log.read_text(errors='replace')[-400:]}" for log in logs)


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
