"""Hostile parquet and CSV files, read in a process of their own, so that a crash of a library in C can be seen.

Run as a program (`python hostile_tables.py FOLDER KIND FIRST LAST`) it prints what became of them as one JSON object;
the number of the file that it is at stands in `FOLDER/at`.
"""

from __future__ import annotations

import datetime
import decimal
import json
import random
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from adapters.faults import InputFault  # noqa: E402
from analysis import anova  # noqa: E402
from study.activity import activity  # noqa: E402
from study.cli.rows import rows  # noqa: E402
from study.columns import ROW  # noqa: E402
from study.config import Protocol  # noqa: E402
from study.keep import Keeping  # noqa: E402
from study.results import read_results  # noqa: E402
from study.store import Store  # noqa: E402
from study.trial import STATUSES, Trial, TrialResult  # noqa: E402
from tests.faults.fuzzing import fuzz  # noqa: E402
from tests.faults.mutators import NUMBERS, TEXTS, damaged  # noqa: E402

MEMORY = 8 * 2**30
"""Bytes that the process may take at most."""
DESIGN = {"method": "adapter", "input": "CA_out", "output": "FFN_in", "scale": 0.5, "width": 2}
OTHERS: list[pa.Array] = [
    pa.array([None, None]), pa.array([True, False]), pa.array([b"\xff", b""]), pa.array([[1], []]),
    pa.array([{"a": 1}, {"a": 2}]), pa.array([datetime.date(2026, 1, 1)] * 2), pa.array([decimal.Decimal("1.5")] * 2),
    pa.array([2**62, -(2**62)], pa.timestamp("ns")), pa.array([2**40, -(2**40)], pa.timestamp("s")),
    pa.array([1, 2], pa.int8()), pa.array([2**64 - 1, 1], pa.uint64()), pa.array(["x", "x"]).dictionary_encode(),
    pa.array([1, 2], pa.duration("s")), pa.array([1.5, np.nan], pa.float32()), pa.array(["a", "b"], pa.large_string()),
]  # fmt: skip


def trial(seed: int) -> Trial:
    return Trial("b", DESIGN, "subject/rex", seed, Protocol(), backbone_hash="b", task_hash="t")


def result(seed: int, status: str = "done") -> TrialResult:
    made = TrialResult(trial(seed), status, "" if status == "done" else "no luck", columns={"log": "logs/w.log"})
    made.scores = {"clip_i": seed / 8}
    made.images = [{"prompt": "a dog", "prompt_index": 0, "picture_seed": n, "clip_i": 0.5} for n in (1, 2)]
    made.pictures = [np.full((16, 16, 3), 20 * seed, np.uint8)] * 2
    made.curves = [{"step": step, "loss": 1 / (step + 1)} for step in (0, 10)]
    return made


def store(folder: Path) -> Store:
    """Make a sound store of five trials."""
    made = Store(folder)
    for seed in range(4):
        made.commit(result(seed))
    made.commit(result(4, "failed"))
    for seed in (0, 1):
        weights = made.adapter(trial(seed).id)
        weights.mkdir(parents=True)
        (weights / "adapter.json").write_text("{}")
    made.logs.mkdir()
    (made.logs / "w.log").write_text("it ended\n")
    return made


def changed(table: pa.Table, rng: random.Random) -> pa.Table:
    """Return a table with other columns, types, names or values; some of them of a store that leads out of itself."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        names = table.column_names
        at = rng.randrange(len(names))
        how = rng.randrange(8)
        if how == 0 and len(names) > 1:
            table = table.remove_column(at)
        elif how == 1:
            name = rng.choice(
                [*(text for text in TEXTS if text.isascii() or text == "²"), *names, "pair", "__fragment_index"]
            )
            table = table.rename_columns([name if n == at else each for n, each in enumerate(names)])
        elif how == 2:
            values = rng.choice(OTHERS).take(pa.array([n % 2 for n in range(len(table))], pa.int64()))
            table = table.set_column(at, names[at], values)
        elif how == 3:
            metadata = rng.choice(
                [{"pandas": "{"}, {"adapter-study-schema": rng.choice(["2", "", "é", "1 "])}, {"a": "b"}]
            )
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
        elif how == 4:
            table = rng.choice(
                [table.slice(0, 0), pa.concat_tables([table] * 3), table.append_column(names[at], table[at])]
            )
        else:
            table = table.set_column(at, names[at], _other_values(table[at], rng))
    return table


def _other_values(column: pa.ChunkedArray, rng: random.Random) -> pa.Array:
    if not len(column) or not (pa.types.is_string(column.type) or column.type in (pa.int64(), pa.float64())):
        return column
    values = column.to_pylist()
    at = rng.randrange(len(values))
    if pa.types.is_string(column.type):
        texts = ["../../outside/victim", "/etc/passwd", "pictures/../../outside/secret.webp", "{}", "[]", "done",
                 "logs/../../outside/secret.log", '{"method": 1}', '{"steps": -1}', "[" * 5000, *TEXTS]  # fmt: skip
        values[at] = rng.choice([text for text in texts if text != "\ud800"])
    elif pa.types.is_integer(column.type):
        values[at] = rng.choice([0, -1, 1, 2**31, 2**62, -(2**62), None])
    elif pa.types.is_floating(column.type):
        values[at] = rng.choice([float(number) for number in NUMBERS if abs(number) < 1e308])
    return pa.array(values, column.type)


def check_rows(frame: pd.DataFrame) -> None:
    """Assert that rows are such as a store writes, by this test's own words."""
    assert not frame["id"].duplicated().any()
    assert frame["id"].map(lambda id: len(id) == 64 and set(id) <= set("0123456789abcdef")).all()
    assert set(frame["status"]) <= set(STATUSES) and (frame["attempt"] >= 1).all()
    for name, kind in ROW.items():
        if kind == "double":
            assert frame[name].dtype == np.float64, name
        elif kind == "string":
            assert frame[name].map(lambda value: pd.isna(value) or isinstance(value, str)).all(), name


def of_store(root: Path, rng: random.Random) -> None:
    """Damage or change a table of a store; it is left out, or everything that is done to stores keeps within it."""
    folder = root / "store"
    if not folder.exists():
        store(folder)
        (root / "outside" / "victim").mkdir(parents=True)
        for name in ("secret.log", "secret.webp", "victim/file"):
            (root / "outside" / name).write_text("secret")
    kind = rng.choice(["trials", "trials", "images", "curves"])
    at = trial(rng.randrange(5)).id
    file = folder / kind / f"{at}.1.parquet"
    sound, table = file.read_bytes(), pq.read_table(file)
    metadata = {key: value for key, value in table.schema.metadata.items() if b"digest" not in key}
    bytes_only = rng.random() < 0.5
    try:
        if bytes_only:
            file.write_bytes(damaged(sound, rng))
        else:
            pq.write_table(changed(table.replace_schema_metadata(metadata), rng), file)
        opened = Store(folder)
        found = {"trials": opened.attempts, "images": opened.images, "curves": opened.curves}[kind]()
        check_rows(opened.rows())
        damaged_files = opened._read(kind)[1]
        if damaged_files:
            assert set(damaged_files) == {file} and set(found["id"]) == {trial(seed).id for seed in range(5)} - {at}
            Keeping(opened, "clip_i", "best", "best").settle()
            raise InputFault("it was left out")
        if bytes_only:  # any byte may be another one only where it changes nothing
            file.write_bytes(sound)
            again = {"trials": opened.attempts, "images": opened.images, "curves": opened.curves}[kind]()
            pd.testing.assert_frame_equal(found, again)
            return
        told = activity(opened, [trial(seed) for seed in range(5)], opened.table())
        assert "secret" not in json.dumps(told)
        read_results(folder)
        Keeping(opened, "clip_i", "best", "best").settle()
    finally:
        outside = sorted(path.name for path in (root / "outside").rglob("*"))
        assert outside == ["file", "secret.log", "secret.webp", "victim"], outside
        file.write_bytes(sound)


def of_user(root: Path, rng: random.Random) -> None:
    """Analyse a hostile file of results."""
    frame = pd.DataFrame(
        [
            (a, b, t, s, 0.5 + 0.1 * (a == "x") + rng.gauss(0, 0.1))
            for a in "xyz"
            for b in "pq"
            for t in "tu"
            for s in "01"
        ],
        columns=["a", "b", "task", "seed", "score"],
    )
    table = pa.Table.from_pandas(frame)
    file = root / rng.choice(["results.parquet", "results.csv"])
    if file.suffix == ".csv":
        text = (frame if rng.random() < 0.5 else changed(table, rng).replace_schema_metadata().to_pandas()).to_csv(
            index=False
        )
        file.write_bytes(damaged(text.encode("utf-8", "surrogatepass"), rng) if rng.random() < 0.7 else text.encode())
    else:
        pq.write_table(changed(table, rng) if rng.random() < 0.7 else table, file)
        if rng.random() < 0.5:
            file.write_bytes(damaged(file.read_bytes(), rng))
    found = rows(file, ["score"], ["a", "b", "task", "seed"])
    answer = anova(found, "score", ["a", "b"], ["task"])
    json.loads(answer.to_json())
    assert answer.n + answer.n_missing == len(found)


KINDS: dict[str, Callable[[Path, random.Random], None]] = {"tables of a store": of_store, "results": of_user}


def main(folder: str, kind: str, first: str, last: str) -> None:
    """Read the files of some numbers, and print what became of them."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    root, done = Path(folder), None
    for seed in range(int(first), int(last)):
        (root / "at").write_text(str(seed))
        one = fuzz(kind, range(seed, seed + 1), lambda rng: KINDS[kind](root, rng))
        done = one if done is None else replace(
            done, accepted=done.accepted + one.accepted, refused=done.refused + one.refused,
            failures=done.failures + one.failures,
        )  # fmt: skip
    print(json.dumps(asdict(done)) if done else "{}")


def run(folder: Path, kind: str, count: int) -> Any:
    """Run so many files in a process; return its tally, with a crash as a failure."""
    import os
    import subprocess

    from tests.faults.fuzzing import Tally

    command = [sys.executable, str(Path(__file__).resolve()), str(folder), kind, "0", str(count)]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    if ended.returncode:
        at = (folder / "at").read_text()
        return Tally(kind, failures=[f"seed {at}: the process ended with {ended.returncode}: {ended.stderr[-1500:]}"])
    return Tally(**json.loads(ended.stdout))


if __name__ == "__main__":
    main(*sys.argv[1:])
