"""Hostile tables of a store, and files of results: one message, or rows that are sound and stay in the store."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from study import sealed
from tests.faults import hostile_tables
from tests.faults.fuzzing import THOUSANDS
from tests.faults.hostile_tables import trial


@pytest.mark.parametrize("count", [40, pytest.param(2500, marks=THOUSANDS)])
@pytest.mark.parametrize("kind", hostile_tables.KINDS)
def test_hostile_tables_are_one_message_or_sound_and_crash_nothing(tmp_path, kind, count):
    told = hostile_tables.run(tmp_path, kind, count)
    print(told)
    assert told.failures == [], told.failures[0]
    assert told.ran == count and told.accepted and told.refused


def test_every_byte_of_a_row_s_file_is_watched(tmp_path):
    """Whichever byte is another one, the file is refused, or what it says of the trial is the same."""
    store = hostile_tables.store(tmp_path / "store")
    file = store.folder / "trials" / f"{trial(0).id}.1.parquet"
    sound = file.read_bytes()
    before = store.rows()
    taken = []
    for at in range(0, len(sound), 7):
        data = bytearray(sound)
        data[at] ^= 0x20
        if sealed.damaged(bytes(data)):
            continue
        taken.append(at)
        file.write_bytes(data)
        assert store.rows().equals(before)
    assert len(taken) <= len("adapter-study-digest") + 2, "only where the digest is called so, which makes it none"


def test_table_without_a_digest_is_read_as_earlier_versions_and_other_programs_write_it(tmp_path):
    store = hostile_tables.store(tmp_path / "store")
    before = store.rows()
    for file in (store.folder / "trials").iterdir():
        table = pq.read_table(file)
        metadata = {key: value for key, value in table.schema.metadata.items() if b"digest" not in key}
        pq.write_table(table.replace_schema_metadata(metadata), file)
    assert store.rows().equals(before)
    assert store.compact() > 0
    (merged,) = (store.folder / "trials").iterdir()
    data = bytearray(merged.read_bytes())
    assert store.rows().shape == before.shape and not sealed.damaged(bytes(data))
    data[len(data) // 2] ^= 1
    merged.write_bytes(data)
    with pytest.warns(UserWarning, match="not those that were written"):
        assert store.rows().empty


def test_what_a_stranger_tells_pandas_in_a_table_is_not_heard(tmp_path):
    store = hostile_tables.store(tmp_path / "store")
    before = store.rows()
    for file in (store.folder / "trials").iterdir():
        table = pq.read_table(file)
        pq.write_table(table.replace_schema_metadata({b"pandas": b"{not JSON"}), file)
    assert store.rows().equals(before)
