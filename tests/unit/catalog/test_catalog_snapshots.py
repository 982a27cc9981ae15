"""A snapshot gives the same catalog back, with the end of its log alone, and a damaged one gives nothing."""

import os

import pytest

from dfs_lib import errors
from dfs_lib.catalog import database, files, operations, snapshots
from dfs_lib.catalog.database import Database


def filled(directory, n):
    database = Database.open(directory, now=lambda: 1.0, new_id=lambda: "c" * 32)
    database.apply_many([operations.MakeDirectory(op=f"o{i}", path=f"/d{i}", parents=False, at=2.0) for i in range(n)])
    return database


def test_it_comes_back_whole_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "LOG_ROWS", 3)
    database = filled(tmp_path / "one", 10)
    path = str(tmp_path / "s.snap")
    head = snapshots.make(database, path, 77, 5.0)
    assert (head.last, head.open_from, head.at) == ((1, database.sequence), 77, 5.0)
    assert os.listdir(tmp_path) == ["one", "s.snap"] or sorted(os.listdir(tmp_path)) == ["one", "s.snap"]
    database.apply(operations.MakeDirectory(op="later", path="/later", parents=False, at=3.0))
    rows = database.log_since(*head.last, 100)
    os.mkdir(tmp_path / "two")
    assert snapshots.restore(path, str(tmp_path / "two" / "catalog.db")) == head
    other = Database.open(tmp_path / "two", now=None, new_id=None, reign=False, create=False)
    assert other.cluster_id == "c" * 32 and other.sequence == head.last[1]
    assert len(other.queries().log_rows(1, head.last[1] - 2, 10)) == 2  # three rows were kept
    other.replay(rows)
    assert [entry.path for entry in other.queries().listing("/", "", 20)[0]] == [entry.path for entry in database.queries().listing("/", "", 20)[0]]
    other.close()
    database.close()


def test_a_damaged_one_gives_nothing(tmp_path):
    database = filled(tmp_path / "one", 3)
    path = str(tmp_path / "s.snap")
    snapshots.make(database, path, 1, 5.0)
    database.close()
    raw = open(path, "rb").read()
    for bad in (raw[:-1], raw[:100], b"", raw[:200] + bytes([raw[200] ^ 1]) + raw[201:]):
        with open(path, "wb") as out:
            out.write(bad)
        with pytest.raises(errors.IntegrityError):
            snapshots.restore(path, str(tmp_path / "new.db"))
        assert not os.path.exists(tmp_path / "new.db")


def test_a_copy_is_not_begun_where_it_would_fill_the_disk(tmp_path, monkeypatch):
    found = filled(tmp_path / "one", 10)
    size = files.size(found.path)
    monkeypatch.setattr(database, "room", lambda directory: (2 * size + (1 << 20) - 1, 8 << 20))
    with pytest.raises(errors.NoRoom):
        snapshots.make(found, str(tmp_path / "s.snap"), 1, 5.0)
    assert os.listdir(tmp_path) == ["one"]
    monkeypatch.setattr(database, "room", lambda directory: (2 * size + (1 << 20), 8 << 20))
    snapshots.make(found, str(tmp_path / "s.snap"), 1, 5.0)
    found.close()
