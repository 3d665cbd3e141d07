"""The command line: exit codes, what is written and what is not, what is imported, and how fast help is."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.executors.local import LocalExecutor
from study.store import Store
from study.study import Study
from tests.study import fakes
from tests.study.test_kills import workers_of

ROOT = Path(__file__).resolve().parents[2]
RUN = "from study.cli.main import main\ntry:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"


@pytest.fixture(autouse=True)
def commands_find_the_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


def call(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "study.cli.main", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """The folder of a study that ran to its end with fake workers."""
    root = tmp_path_factory.mktemp("finished")
    command = [*fakes.COMMAND, "drive", str(fakes.study_file(root)), "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(ended.stdout)["done"] == fakes.PLANNED + fakes.REFERENCES
    return root


@pytest.fixture
def finished(run_once, tmp_path):
    """A study of its own for each test that ran to its end; ids do not depend on folders."""
    shutil.copytree(run_once, tmp_path, dirs_exist_ok=True)
    return fakes.study_file(tmp_path)


FAULTS = {
    "backbone": ({"backbone": "nowhere"}, "nowhere"),
    "no picture": ({"tasks": [{"name": "rex", "pictures": "pipe", "class": "dog"}]}, "no picture"),
    "broken picture": ({"tasks": [{"name": "rex", "pictures": "broken", "class": "dog"}]}, "cannot be read"),
    "scorer": ({"scores": {"clip_i": "nowhere"}}, "nowhere"),
    "two": ({"stors": 1, "seeds": 0}, "2 faults"),
}
OTHERS = [(("run", "--dry-run"), "two"), (("status",), "two"), (("report", "-o", "r.html"), "two")]


@pytest.mark.parametrize("command, fault", [*((("run",), fault) for fault in FAULTS), *OTHERS])
def test_wrong_input_is_one_message_exit_code_2_and_nothing_written(tmp_path, command, fault):
    changes, word = FAULTS[fault]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    study = fakes.study_file(tmp_path, **changes)
    before = sorted(tmp_path.rglob("*"))
    ended = call(command[0], str(study), *command[1:])
    assert ended.returncode == 2, ended.stderr
    assert word in ended.stderr and "Traceback" not in ended.stderr and ended.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_study_command_and_option_exit_with_2():
    for words in (("run", "quik"), ("rnu",), ("status", "quick", "--jsn"), ("compact", "."), ("gc", "nowhere")):
        assert call(*words).returncode == 2


def test_dry_run_says_levels_forbidden_cells_components_trials_and_time(tmp_path):
    ended = call("run", str(fakes.study_file(tmp_path)), "--dry-run")
    assert ended.returncode == 0, ended.stderr
    # Of 3 x 2 pairs all are valid; 12 designs, 2 tasks, 2 seeds.
    for said in ("input: SA_in, CA_out, FFN_in", "forbidden cells:\n  none", "components", "designs: 12",
                 f"trials: {fakes.PLANNED} (12 designs × 2 tasks × 2 seeds)", "estimated time"):  # fmt: skip
        assert said in ended.stdout
    assert not (tmp_path / "store").exists()


def test_dry_run_estimates_from_the_trials_that_are_there(finished):
    store = Study.load(finished).store
    for file in list((store.folder / "trials").iterdir())[:3]:
        file.unlink()
    said = call("run", str(finished), "--dry-run").stdout
    assert f"already in the store: {fakes.PLANNED + fakes.REFERENCES - 3} of" in said
    assert "from the trials in the store" in said


def test_status_counts_the_plan(finished):
    store = Study.load(finished).store
    missing = Study.load(finished).trials[0]
    (store.folder / "trials" / f"{missing.id}.1.parquet").unlink()
    status = json.loads(call("status", str(finished), "--json").stdout)
    lost = missing.role == "study"
    assert status["planned"] == fakes.PLANNED and status["done"] == fakes.PLANNED - lost
    assert status["reference"]["planned"] == fakes.REFERENCES
    assert status["next"]["id"] == missing.id
    assert {level: counts["planned"] for level, counts in status["by_factor"]["activation"].items()} == {
        "relu": 24,
        "silu": 24,
    }
    assert call("status", str(finished)).returncode == 0


def test_finished_study_prints_its_anova_and_failed_trials_exit_with_1(finished):
    ended = call("run", str(finished))
    assert ended.returncode == 0 and "activation" in ended.stdout and "residual" in ended.stdout, ended.stderr
    study = Study.load(finished)
    from study.trial import TrialResult

    failed = next(trial for trial in study.trials if trial.role == "study")
    (study.store.folder / "trials" / f"{failed.id}.1.parquet").unlink()
    study.store.commit(TrialResult(failed, "failed", "it broke"), "fake")
    ended = call("run", str(finished))
    assert ended.returncode == 1 and "it broke" in ended.stderr and "--only failed" in ended.stderr


@pytest.mark.parametrize(
    "words, told",
    [
        (["best"], "got --only best, expected missing, failed, or levels such as design=input=SA_in"),
        (["design=SA_in"], "got --only design=SA_in, expected missing, failed, or levels"),
        (["design="], "got --only design=, expected"),
        (["design=input=SA_in,input=CA_out"], "each key once"),
        (["failed", "missing"], "only one of missing and failed"),
        (["design=rank=4"], "no design of this study has the key 'rank'; expected one of method, input"),
        (["design=input=SA_out"], "no design of this study has input=SA_out; the levels of input are SA_in, CA_out"),
        (["design=method=none,input=SA_in"], "no design of this study has all of method=none, input=SA_in"),
    ],
)
def test_only_that_says_nothing_of_this_study_is_refused(words, told, tmp_path):
    ended = call("run", str(fakes.study_file(tmp_path)), *(part for word in words for part in ("--only", word)))
    assert ended.returncode == 2 and told in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert not (tmp_path / "store").exists()


def test_status_shows_how_a_trial_failed_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAILING", "silu")
    loaded = Study.load(fakes.study_file(tmp_path, seeds=1))
    loaded.run(executor=LocalExecutor(loaded.store, ["cpu"], command=fakes.COMMAND))
    failures = loaded.status()["failures"]
    assert len(failures) == fakes.PLANNED // 4
    by_id = {trial.id: trial for trial in loaded.trials}
    for failure in failures:
        label = by_id[failure["id"]].label()
        assert failure["error"] == "no luck" and Path(failure["log"]).is_file()
        assert failure["lines"][0].endswith(f"{label} failed") and failure["lines"][1] == "Traceback of it"
    shown = call("status", str(tmp_path / "fake.yaml")).stdout
    assert f"log {failures[0]['log']}:" in shown and "    Traceback of it" in shown
    logs = loaded.store.rows()["log"]
    assert all((loaded.store.folder / log).is_file() for log in logs), "every trial names its log, done ones too"


def test_study_results_are_of_its_plan_only(finished, tmp_path):
    part = Study.load(fakes.study_file(tmp_path, seeds=[1]))
    assert len(part.results()) == fakes.PLANNED // 2
    assert set(part.results("reference")["method"]) == {"none"}
    assert len(part.store.rows()) == fakes.PLANNED + fakes.REFERENCES


def test_report_is_one_page_with_the_pictures_in_it(finished, tmp_path):
    ended = call("report", str(finished), "-o", "report.html")
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "report.html").read_text()
    assert "untuned backbone" in page and "subject/tom" in page and "data:image/png;base64," in page
    assert 'src="http' not in page and list(tmp_path.glob("*.part")) == []


def test_report_without_results_is_refused(tmp_path):
    ended = call("report", str(fakes.study_file(tmp_path)), "-o", "report.html")
    assert ended.returncode == 2 and "holds no results" in ended.stderr
    assert not (tmp_path / "report.html").exists()


def test_compact_and_gc_keep_the_results(finished):
    study = Study.load(finished)
    assert call("compact", str(study.store.folder)).returncode == 0
    assert call("gc", str(study.store.folder)).stdout.splitlines()[-1] == "0 deleted"
    assert len(study.results()) == fakes.PLANNED


def test_interrupt_ends_the_run_and_its_workers_with_exit_code_130(tmp_path):
    study = fakes.study_file(tmp_path)
    running = subprocess.Popen(
        [sys.executable, "-m", "study.cli.main", "run", str(study), "--workers", "1"], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 20
    while not workers_of(Path(tmp_path / "store")) and time.monotonic() < end:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=20)
    assert running.returncode == 130, told
    assert "interrupted" in told and "Traceback" not in told
    assert workers_of(tmp_path / "store") == [] and Store(tmp_path / "store").rows().empty
    assert list((tmp_path / "store").glob("packs/*")) == []


@pytest.mark.parametrize("command", ["--help", "status --help", "status", "run --dry-run", "anova"])
def test_light_commands_never_import_torch(finished, command):
    words = command.split()
    if "--help" not in words:
        words.insert(1, str(finished))
    if command == "anova":
        words[1:] = [
            str(finished.parent / "store"),
            "--response",
            "clip_i",
            "--factors",
            "input,output",
            "--blocks",
            "task",
        ]
    code = RUN + "import sys, json\nprint(json.dumps([code, sorted({'torch', 'diffusers'} & set(sys.modules))]))"
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert json.loads(ended.stdout.splitlines()[-1]) == [0, []], ended.stderr


def test_status_imports_neither_pandas_nor_rich(finished):
    """Their import is a good part of the two seconds in which it is to answer of a hundred thousand trials."""
    code = RUN + "import sys, json\nprint(json.dumps(sorted({'pandas', 'rich'} & set(sys.modules))))"
    words = [sys.executable, "-c", code, "status", str(finished)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout.splitlines()[-1]) == [], ended.stderr


def test_help_answers_in_half_a_second():
    def seconds() -> float:
        begin = time.perf_counter()
        assert call("--help").returncode == 0
        return time.perf_counter() - begin

    # The best of five: what the command needs, whatever else the machine is doing.
    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize(("command", "folder"), [("run", "studies"), ("train", "recipes")])
def test_help_names_all_that_is_shipped(command, folder):
    told = " ".join(call(command, "--help").stdout.split())
    assert f": {', '.join(sorted(file.stem for file in (ROOT / 'study' / folder).glob('*.yaml')))}." in told


def test_another_distribution_named_adapters_is_told_in_one_sentence(tmp_path):
    package = tmp_path / "elsewhere" / "adapters"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    path = os.pathsep.join([str(package.parent), str(ROOT)])
    command = [sys.executable, "-c", "from study.cli.main import main; main()", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and "pip uninstall adapters" in ended.stderr


def imports(package: str) -> dict[str, set[str]]:
    """Top-level names that each file of a package imports, anywhere in it."""
    found = {}
    for file in (ROOT / package).rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
        found[str(file.relative_to(ROOT))] = names
    return found


LOOKS_AT_A_DENOISER = (
    "analysis/attention.py", "analysis/attention_capture.py", "analysis/noise_difference.py",
    "analysis/weight_sources.py",
)  # fmt: skip
"""Files of `analysis` that need torch; statistics never do."""


@pytest.mark.parametrize("package, forbidden", [("adapters", {"study", "analysis"}), ("analysis", {"study", "torch"})])
def test_arrows_point_down(package, forbidden):
    found = imports(package)
    assert len(found) > 3
    for file in set(LOOKS_AT_A_DENOISER) & set(found):
        found[file].discard("torch")
    assert {file: names & forbidden for file, names in found.items() if names & forbidden} == {}
