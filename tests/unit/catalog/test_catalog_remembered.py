"""What a copy of a catalog remembers, for whoever gives files back without a cluster."""

import os

import pytest

from catalog_helpers import FIRST_VERSION as V, publish, with_keepers
from dfs_lib import errors, log_copy
from dfs_lib.catalog import operations as o, snapshots
from dfs_lib.catalog.remembered import Remembered


def copied(database, tmp_path, later=()):
    """A Remembered of the database as it is, with the operations `later` in a record after the snapshot."""
    head = snapshots.make(database, str(tmp_path / "snapshot"), V + 50, 5.0)
    for operation in later:
        database.apply(operation)
    rows = [list(row[:6]) for row in database.log_since(*head.last, 100)]
    with open(tmp_path / "records", "wb") as out:
        out.write(log_copy.build_record(head.last, rows, V + 60, 6.0) if rows else b"")
    os.mkdir(tmp_path / "work")
    return Remembered(str(tmp_path / "snapshot"), str(tmp_path / "records"), str(tmp_path / "work"))


def test_names_blocks_and_what_is_known(tmp_path):
    database = with_keepers(tmp_path / "catalog")
    first = publish("/a/b", 1, blocks=[(10, (1,)), (5, (2,))], parents=True)
    database.apply(first)
    database.apply(publish("/gone", 70))
    names = copied(database, tmp_path, [o.RenamePath("r", "/a/b", "/a/c", False, 1.0), o.RemovePath("x", "/gone", False, 1.0),
                                        o.CollectVersions([V + 70], 1.0), o.MakeDirectory("m", "/d", False, 1.0)])
    assert [(entry.path, entry.kind) for entry in names.entries()] == [("/a", "dir"), ("/d", "dir"), ("/a/c", "file")]
    assert list(names.blocks(V + 1)) == [row[0] for row in first.blocks]
    assert names.cluster_id == database.cluster_id
    # Known: live, or published and removed by its log, or below what was open when it was made.
    assert [number for number in (1, 2, 59, 60, 61, 70, 71) if names.is_known(V + number)] == [1, 2, 59, 70]
    assert [number for number in (1, 59, 60, 61, 70, 71) if names.may_be_unfinished(V + number)] == [60, 61, 71]
    names.close()
    database.close()


def test_a_damaged_copy_is_refused(tmp_path):
    database = with_keepers(tmp_path / "catalog")
    snapshots.make(database, str(tmp_path / "snapshot"), V, 5.0)
    database.close()
    raw = (tmp_path / "snapshot").read_bytes()
    (tmp_path / "snapshot").write_bytes(raw[:-1])
    (tmp_path / "records").write_bytes(b"")
    os.mkdir(tmp_path / "work")
    with pytest.raises(errors.IntegrityError):
        Remembered(str(tmp_path / "snapshot"), str(tmp_path / "records"), str(tmp_path / "work"))
