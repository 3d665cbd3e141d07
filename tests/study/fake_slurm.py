"""SLURM's commands in one file: sbatch, srun, squeue, scancel, scontrol, sacct, each a copy under its name.

Jobs run at once, in the background; FAKE_SLURM is the folder that holds a file for each: its name, state and process.
FAKE_SLURM/hold, if it is there, keeps new jobs waiting; FAKE_SLURM/down makes every command fail.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ.get("FAKE_SLURM", "."))
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sacct", "job")


def install(folder: Path) -> Path:
    """Write the commands into a folder; return the one of the jobs."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        file = folder / "bin" / name
        file.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
        file.chmod(0o755)
    return folder / "jobs"


def put(id: str, **changes: object) -> None:
    file = HOME / f"{id}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    part = file.with_suffix(".new")
    part.write_text(json.dumps({**known, **changes}))
    os.replace(part, file)


def jobs() -> dict[str, dict]:
    found = {}
    for file in sorted(HOME.glob("*.json")):
        try:
            found[file.stem] = json.loads(file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue
    return found


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    if "--partition=none" in text:
        sys.exit("sbatch: error: invalid partition specified: none")
    name = re.search(r"--job-name=(\S+)", text)[1]
    count = re.search(r"--array=0-(\d+)", text)
    number = 1 + max((int(id.split("_")[0]) for id in jobs()), default=0)
    ids = [f"{number}_{place}" for place in range(int(count[1]) + 1)] if count else [str(number)]
    state = "PENDING" if (HOME / "hold").exists() else "RUNNING"
    for id in ids:
        put(id, name=name, state=state, script=text, reason="Resources" if state == "PENDING" else "None")
        if state == "RUNNING":
            begin(id)
    print(f"Submitted batch job {number}")


def begin(id: str) -> None:
    """Run a job in the background, as a program of its own that outlives the caller."""
    subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("job")), id],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def job(id: str) -> None:
    number, _, place = id.partition("_")
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_CLUSTER_NAME": "fake", "SLURM_PROCID": "0"}
    if place:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": place}
    put(id, state="RUNNING", pid=os.getpid())
    code = subprocess.run(["bash", "-c", jobs()[id]["script"]], env=environment, check=False).returncode
    put(id, state="COMPLETED" if code == 0 else "FAILED", reason="None" if code == 0 else "NonZeroExitCode")


def srun(*words: str) -> None:
    number, place = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID")
    files, left = {}, list(words)
    while left and left[0].startswith("--"):
        option = left.pop(0)
        if option in ("--output", "--error"):
            files[option] = left.pop(0).replace("%A_%a", f"{number}_{place}").replace("%j", number).replace("%t", "0")
    with open(files["--output"], "a") as out, open(files["--error"], "a") as err:
        sys.exit(subprocess.run(left, stdout=out, stderr=err, check=False).returncode)


def squeue(*words: str) -> None:
    names = words[words.index("-n") + 1].split(",") if "-n" in words else None
    for id, told in jobs().items():
        if names is None or told["name"] in names:
            print(f"{id}|{told['name']}|{told['state']}|{told['reason']}")


def scancel(*ids: str) -> None:
    for id in ids:
        told = jobs()[id]
        if told["state"] == "RUNNING" and "pid" in told:
            os.killpg(told["pid"], signal.SIGKILL)
        if told["state"] in ("RUNNING", "PENDING"):
            put(id, state="CANCELLED")


def scontrol(*words: str) -> None:
    if words == ("show", "config"):
        print("ClusterName             = fake")
    elif words[0] == "release":
        for id, told in jobs().items():
            if told["state"] == "PENDING":
                begin(id)
    else:
        sys.exit(f"unknown: {words}")


def sacct(*words: str) -> None:
    sys.exit("Slurm accounting storage is disabled")


if __name__ == "__main__":
    if (HOME / "down").exists():
        time.sleep(0.01)
        sys.exit("Unable to contact slurm controller")
    globals()[Path(sys.argv[0]).name](*sys.argv[1:])
