"""What the catalog's tests share: opening one, drawing blocks, comparing tables, and the invariants that always hold."""

import itertools

from dfs_lib.catalog import schema
from dfs_lib.catalog.database import Database
from dfs_lib.catalog.operations import PublishFile, RegisterKeeper

FIRST_VERSION = 1 << 32


def open_database(directory, **options):
    ids = itertools.count(1)
    return Database.open(directory, now=lambda: 1.0, new_id=lambda: f"{next(ids):032x}", **options)


def with_keepers(directory, n=4):
    database = open_database(directory)
    for number in range(1, n + 1):
        assert database.apply(RegisterKeeper(f"{number:032x}", f"host{number}", [8000], {"room": "1"}, 1.0)) == number
    return database


def block_id(number):
    return f"{number:032x}"


def publish(path, number, *, blocks=((10, (1, 2)),), copies=3, no_clobber=False, parents=False, op=None, at=100.0):
    """A PublishFile of version FIRST_VERSION + number. blocks: (size, keeper numbers) of each; their ids follow from number."""
    rows = [[block_id(number * 1000 + index), size, "00000001", list(keepers)] for index, (size, keepers) in enumerate(blocks)]
    return PublishFile(op or f"publish-{number}", path, FIRST_VERSION + number, sum(size for size, _ in blocks), 64 << 20, copies,
                       at, no_clobber, parents, rows, at)


def tables(database):
    """Every row of every table, as text of one committed state."""
    execute = database.queries()._execute
    return {name: sorted(map(repr, execute(f"SELECT * FROM {name}").fetchall())) for name in schema.NAMES}


def check_invariants(database):
    """What every committed state keeps, whatever was applied."""
    execute = database.queries()._execute

    def none(sql):
        assert execute(sql).fetchall() == [], sql

    none("SELECT block FROM blocks b WHERE n_replicas != (SELECT count(*) FROM replicas r WHERE r.block = b.block)")
    none("SELECT block FROM blocks b WHERE refs != (SELECT count(*) FROM extents x WHERE x.block = b.block) OR refs < 1")
    none("SELECT block FROM blocks b WHERE want < (SELECT max(v.copies) FROM extents x JOIN versions v USING (version)"
         " WHERE x.block = b.block AND v.removed_at IS NULL)")
    none("SELECT block FROM extents WHERE block NOT IN (SELECT block FROM blocks)")
    none("SELECT version FROM extents WHERE version NOT IN (SELECT version FROM versions)")
    none("SELECT block FROM replicas WHERE block NOT IN (SELECT block FROM blocks)")
    none("SELECT keeper FROM replicas WHERE keeper NOT IN (SELECT number FROM keepers)")
    none("SELECT block FROM replicas JOIN drops USING (block, keeper)")
    none("SELECT id FROM entries WHERE parent != 0 AND parent NOT IN (SELECT id FROM entries WHERE kind = 'dir')")
    none("SELECT id FROM entries WHERE parent = 0 AND id != 1 AND id NOT IN (SELECT entry FROM detached)")
    none("SELECT e.id FROM entries e LEFT JOIN versions v ON v.version = e.version AND v.entry = e.id AND v.removed_at IS NULL"
         " AND v.size = e.size AND v.copies = e.copies AND v.mtime_at = e.mtime_at WHERE e.kind = 'file' AND v.version IS NULL")
    none("SELECT version FROM versions WHERE removed_at IS NULL AND version NOT IN (SELECT version FROM entries)")
    none("SELECT version FROM versions v WHERE size !="
         " (SELECT coalesce(sum(b.size), 0) FROM extents x JOIN blocks b USING (block) WHERE x.version = v.version)")
    counted = execute("SELECT coalesce(sum(kind = 'file'), 0), coalesce(sum(size), 0), coalesce(sum(kind = 'dir'), 0) - 1"
                      " FROM entries").fetchone()
    assert tuple(database.queries().totals()) == counted
