"""Every read of the catalog outside its operations: one object a thread, on a connection that cannot write.

Never changes a row, and never scans what grows with the store: each question is answered from a key or an index, in pages.
(usage walks the subtree it is asked about.) Each call sees one committed state; several see the same one inside `snapshot`.

Blocks are 32 lower-case hex, keepers the catalog's small numbers, paths clean (model.clean_path).
"""

from collections import namedtuple
from contextlib import contextmanager
import json
import sqlite3

from dfs_lib import errors
from dfs_lib.catalog import paths
from dfs_lib.model import DIRECTORY, Block, Entry, join

# One version of a file. sha256: hex or None; removed_at: Unix seconds since when it is in the trash, None while it is live.
Version = namedtuple("Version", "version entry size block_size copies mtime_at published_sequence sha256 removed_at")
# A file as its reader needs it; version 0: a directory. blocks: [model.Block].
Located = namedtuple("Located", "version size block_size copies mtime_at blocks")
# What the catalog has on a keeper. ports: tuple of int; labels: dict.
Keeper = namedtuple("Keeper", "number id host ports labels draining first_seen_at last_registered_at clean_stop")
# What a block is and should be. crcs: bytes; refs: extents that name it, of the trash too.
BlockRow = namedtuple("BlockRow", "size crcs want refs n_replicas")
# A user; its identity is NAME.SERIAL.
User = namedtuple("User", "name serial role home changed_at")
# A block with too few or too many replicas; keepers: tuple of numbers.
Uneven = namedtuple("Uneven", "block size want n_replicas keepers")
Trashed = namedtuple("Trashed", "version removed_at size")
Totals = namedtuple("Totals", "files bytes directories")
# stored: bytes times replicas on record, of the blocks of each file.
Usage = namedtuple("Usage", "files directories bytes stored")
# Both sorted lists of block ids. In both: the keeper has it with another size, so what it has there is damaged.
Comparison = namedtuple("Comparison", "missing unknown")

_KEEPERS = "(SELECT group_concat(keeper) FROM replicas r WHERE r.block = {}.block)"
_KEEPER_COLUMNS = ", ".join(Keeper._fields)
_KNOWN_AT_ONCE = 64
_KNOWN = f"SELECT block FROM blocks WHERE block IN ({','.join('?' * _KNOWN_AT_ONCE)})"
# Later than any Unix time.
_EVER = 1e18
# Rows fetched at a time while a report is compared.
_MERGE_ROWS = 1_000


class Queries:
    """The questions. Made by Database.queries(), for the thread that asked."""

    def __init__(self, connection):
        self._connection = connection
        self._execute = connection.execute
        self._depth = 0

    def close(self):
        self._connection.close()

    def abandon(self):
        """The thread is gone: so is its snapshot, if it died inside one."""
        self._depth = 0
        try:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
        except sqlite3.ProgrammingError:
            pass  # closed already

    @contextmanager
    def snapshot(self):
        """One committed state for every question inside; may be nested. Keep it short: the write-ahead log waits for it."""
        if self._depth == 0:
            self._execute("BEGIN")
        self._depth += 1
        try:
            if self._depth == 1:
                self._execute("SELECT 1 FROM totals").fetchone()  # BEGIN alone pins nothing: the first read does
            yield self
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._execute("ROLLBACK")

    # -- names --------------------------------------------------------------------------------------------------------
    def entry(self, path):
        """model.Entry of a path; copies_have None, and a directory has version, size and copies 0.

        Raises NoSuchFile, NotADirectory.
        """
        _, kind, version, size, mtime_at, copies = paths.find(self._execute, path) or self._found(path)
        return Entry(path, kind, size, version, mtime_at, copies, None)

    def entry_with_copies(self, path, counted):
        """As `entry`, with copies_have: the fewest replicas on keepers in `counted` (a set of numbers) any block of it has. An empty
        file needs none and has what is wanted; of a directory it is None."""
        rows = paths.with_replicas(self._execute, path)
        if not rows:
            self._found(path)  # raises, unless it has come this moment
            return self.entry_with_copies(path, counted)
        _, kind, version, size, mtime_at, copies, index, _keeper = rows[0]
        if kind == DIRECTORY:
            return Entry(path, kind, size, version, mtime_at, copies, None)
        have = {}
        for row in rows:
            have[row[6]] = have.get(row[6], 0) + (row[7] in counted)
        return Entry(path, kind, size, version, mtime_at, copies, copies if index is None else min(have.values()))

    def located(self, path, first, n):
        """Located: the version that `path` names now, with up to `n` blocks from index `first`. Raises NoSuchFile, NotADirectory."""
        rows = paths.with_blocks(self._execute, path, first, first + n)
        if not rows:
            self._found(path)  # raises, unless it has come this moment
            return self.located(path, first, n)
        _, _kind, version, size, mtime_at, copies, block_size, *_ = rows[0]
        return Located(version, size, block_size, copies, mtime_at, [
            Block(block.hex(), index, size, crcs, _numbers(keepers))
            for _, _, _, _, _, _, _, block, index, size, crcs, keepers in rows if block is not None])

    def find_kind(self, path):
        """model.FILE or DIRECTORY, None when nothing is at `path`."""
        row = paths.find(self._execute, path)
        return row and row[1]

    def _found(self, path):
        with self.snapshot():
            return paths.found(self._execute, path)

    def listing(self, path, after, limit):
        """(entries of a directory by name, up to `limit` after the name `after` ("": from the start); whether more follow).

        Raises NoSuchFile, NotADirectory.
        """
        directory, kind, *_ = paths.find(self._execute, path) or self._found(path)
        if kind != DIRECTORY:
            raise errors.NotADirectory(path=path)
        rows = self._execute("SELECT name, kind, size, version, mtime_at, copies FROM entries WHERE parent = ? AND name > ?"
                             " ORDER BY name LIMIT ?", (directory, after, limit + 1)).fetchall()
        prefix = join(path, "")
        entries = [Entry(prefix + name, kind, size, version, mtime_at, copies, None)
                   for name, kind, size, version, mtime_at, copies in rows[:limit]]
        return entries, len(rows) > limit

    def path_of_entry(self, entry):
        """The path of an entry id, or None when no path leads to it."""
        with self.snapshot():
            return paths.path_of(self._execute, entry)

    def entry_of_version(self, version):
        """The path that names a version now, or None."""
        with self.snapshot():
            row = self._execute("SELECT entry FROM versions WHERE version = ? AND removed_at IS NULL", (version,)).fetchone()
            return row and paths.path_of(self._execute, row[0])

    def usage(self, path):
        """Usage of a file, or of all below a directory (itself not counted), which it walks. Raises NoSuchFile, NotADirectory."""
        with self.snapshot():
            entry, kind, version, *_ = paths.found(self._execute, path)
            if kind == DIRECTORY:
                return Usage(*self._execute(_USAGE_OF_TREE, (entry,)).fetchone())
            return Usage(*self._execute(_USAGE_OF_FILE, (version,)).fetchone())

    # -- versions and blocks ------------------------------------------------------------------------------------------
    def version(self, version):
        """Version, live or in the trash; None when it is unknown."""
        row = self._execute(f"SELECT {', '.join(Version._fields)} FROM versions WHERE version = ?", (version,)).fetchone()
        return row and Version(*row)

    def blocks(self, version, first, n):
        """Up to `n` model.Block of a version from index `first`, in order, with the keepers on record."""
        rows = self._execute(_BLOCKS, (version, first, n))
        return [Block(block.hex(), index, size, crcs, _numbers(keepers)) for block, index, size, crcs, keepers in rows]

    def copies_have(self, version, counted):
        """The fewest replicas on keepers in `counted` (a set of numbers) any block of it has; None when it has no block."""
        have = {}
        for index, keeper in self._execute("SELECT x.idx, r.keeper FROM extents x LEFT JOIN replicas r ON r.block = x.block"
                                           " WHERE x.version = ?", (version,)):
            have[index] = have.get(index, 0) + (keeper in counted)
        return min(have.values(), default=None)

    def block(self, block):
        """BlockRow, or None when the catalog does not know it."""
        row = self._execute("SELECT size, crcs, want, refs, n_replicas FROM blocks WHERE block = ?",
                            (bytes.fromhex(block),)).fetchone()
        return row and BlockRow(*row)

    def replicas(self, block):
        """Numbers of the keepers on record for a block, ascending."""
        rows = self._execute("SELECT keeper FROM replicas WHERE block = ? ORDER BY keeper", (bytes.fromhex(block),))
        return [keeper for keeper, in rows]

    def paths_of_block(self, block):
        """[(path, version, index)]: every name whose present version has this block."""
        with self.snapshot():
            rows = self._execute("SELECT v.entry, v.version, x.idx FROM extents x JOIN versions v ON v.version = x.version"
                                 " WHERE x.block = ? AND v.removed_at IS NULL ORDER BY x.version, x.idx",
                                 (bytes.fromhex(block),)).fetchall()
            named = [(paths.path_of(self._execute, entry), version, index) for entry, version, index in rows]
        return [name for name in named if name[0] is not None]

    def whole_files_of(self, block):
        """[(version, sha256 or None)] of the versions that are not removed and consist of this one block."""
        return self._execute("SELECT v.version, v.sha256 FROM extents x JOIN versions v ON v.version = x.version JOIN blocks b ON b.block = x.block"
                             " WHERE x.block = ? AND x.idx = 0 AND v.size = b.size AND v.size <= v.block_size AND v.removed_at IS NULL"
                             " ORDER BY v.version", (bytes.fromhex(block),)).fetchall()

    def unsummed(self, after, upto, limit):
        """Up to `limit` versions above `after`, `upto` at most, that are not removed, have several blocks and no SHA-256 on record."""
        return [version for version, in self._execute(_UNSUMMED, (after, upto, limit))]

    def known(self, blocks):
        """The set of those block ids the catalog knows."""
        known, keys = set(), [bytes.fromhex(block) for block in blocks]
        for start in range(0, len(keys), _KNOWN_AT_ONCE):
            some = keys[start:start + _KNOWN_AT_ONCE]
            some += [None] * (_KNOWN_AT_ONCE - len(some))  # one statement for every length
            known.update(row[0].hex() for row in self._execute(_KNOWN, some))
        return known

    # -- keepers ------------------------------------------------------------------------------------------------------
    def keepers(self):
        """Every Keeper, by number."""
        return [_keeper(row) for row in self._execute(f"SELECT {_KEEPER_COLUMNS} FROM keepers ORDER BY number")]

    def keeper_of_id(self, id):
        """Keeper, or None."""
        row = self._execute(f"SELECT {_KEEPER_COLUMNS} FROM keepers WHERE id = ?", (id,)).fetchone()
        return row and _keeper(row)

    def blocks_of_keeper(self, number, after, limit):
        """[(block, size)] on record for a keeper, up to `limit` after the id `after` ("": from the start), by id."""
        rows = self._execute("SELECT r.block, b.size FROM replicas r INDEXED BY replicas_keeper"
                             " JOIN blocks b ON b.block = r.block WHERE r.keeper = ? AND r.block > ? ORDER BY r.block LIMIT ?",
                             (number, bytes.fromhex(after), limit))
        return [(block.hex(), size) for block, size in rows]

    def n_blocks_of_keeper(self, number):
        """Replicas on record for a keeper; counts one index range, some 10 ms for each million."""
        return self._execute("SELECT count(*) FROM replicas INDEXED BY replicas_keeper WHERE keeper = ?", (number,)).fetchone()[0]

    def compare_report(self, number, records):
        """A keeper's block report against the record. records: iterable of (block, size), sorted by id; read once, as it comes.

        -> Comparison(missing: on record and not in the report; unknown: in the report and not on record, for this keeper).
        A block with another size there is in both lists. Raises BadMessage when the records are not sorted.
        """
        missing, unknown = [], []
        ours = self._on_record(number)
        mine, last = next(ours, None), ""
        for block, size in records:
            if block <= last:
                raise errors.BadMessage(detail="a block report is not sorted")
            last = block
            while mine is not None and mine[0] < block:
                missing.append(mine[0])
                mine = next(ours, None)
            if mine is None or mine[0] != block:
                unknown.append(block)
                continue
            if mine[1] != size:
                missing.append(block)
                unknown.append(block)
            mine = next(ours, None)
        while mine is not None:
            missing.append(mine[0])
            mine = next(ours, None)
        return Comparison(missing, unknown)

    def _on_record(self, number):
        """(block, size) of a keeper, page by page: no transaction stays open while a report trickles in."""
        after = ""
        while page := self.blocks_of_keeper(number, after, _MERGE_ROWS):
            yield from page
            after = page[-1][0]

    def drops(self, number, limit):
        """Up to `limit` blocks a keeper has still to delete."""
        rows = self._execute("SELECT block FROM drops WHERE keeper = ? ORDER BY block LIMIT ?", (number, limit))
        return [block.hex() for block, in rows]

    # -- users --------------------------------------------------------------------------------------------------------
    def users(self):
        """Every User, by name."""
        return [User(*row) for row in self._execute("SELECT name, serial, role, home, changed_at FROM users ORDER BY name")]

    # -- what is to be done -------------------------------------------------------------------------------------------
    def is_named(self, block):
        """Whether a version that is no trash has this block. The trash keeps what it has, for readers under way, and gets no new copy."""
        return self._execute(f"SELECT EXISTS (SELECT 1 {_NAMING.format('?')})", (bytes.fromhex(block),)).fetchone()[0] == 1

    def short(self, after, limit):
        """[Uneven]: up to `limit` blocks after the id `after` ("": from the start) with fewer replicas on record than wanted, but not
        those of the trash alone."""
        return self._uneven(_SHORT, after, limit)

    def surplus(self, after, limit):
        """[Uneven]: those with more replicas than wanted, of the trash too."""
        return self._uneven(_SURPLUS, after, limit)

    def _uneven(self, sql, after, limit):
        rows = self._execute(sql, (bytes.fromhex(after), limit))
        return [Uneven(block.hex(), size, want, have, _numbers(keepers)) for block, size, want, have, keepers in rows]

    def n_short(self):
        """Blocks with fewer replicas on record than wanted, counted in their own index; those of the trash alone are left out as long
        as there are few enough to look at each."""
        n = self._execute("SELECT count(*) FROM blocks INDEXED BY blocks_short WHERE n_replicas < want").fetchone()[0]
        return self._execute(_N_SHORT_NAMED).fetchone()[0] if 0 < n <= _LOOKED_AT else n

    def trash(self, before_at, limit):
        """[Trashed] up to `limit`, oldest first, removed at or before `before_at` (None: all)."""
        rows = self._execute("SELECT version, removed_at, size FROM versions WHERE removed_at IS NOT NULL AND removed_at <= ?"
                             " ORDER BY removed_at, version LIMIT ?", (_EVER if before_at is None else before_at, limit))
        return [Trashed(*row) for row in rows]

    def n_detached(self):
        """Trees cut off by `rm -r` that PurgeDetached has still to work off."""
        return self._execute("SELECT count(*) FROM detached").fetchone()[0]

    def totals(self):
        """Totals of the whole store; trees cut off count until they are worked off."""
        return Totals(*self._execute("SELECT files, bytes, directories FROM totals").fetchone())

    def knows_from(self):
        """Versions below this that are not here may still be on a keeper: the catalog was made from blocks alone. 0: it was not."""
        row = self._execute("SELECT value FROM meta WHERE key = 'knows_from'").fetchone()
        return row[0] if row else 0

    def published_since(self, version):
        """The set of versions from that one on which the log, as far as it goes back, saw published. Reads the whole log."""
        rows = self._execute("SELECT body FROM log WHERE name IN ('PublishFile', 'CopyFile')")
        return {found for body, in rows if (found := json.loads(body)["version"]) >= version}

    # -- the log ------------------------------------------------------------------------------------------------------
    def log_rows(self, epoch, sequence, limit):
        """Tuples (epoch, sequence, at, name, op, body, result) after a place in the log. Raises Refusal when it is not there."""
        with self.snapshot():
            if (epoch, sequence) == (0, 0):
                first = self._execute("SELECT min(sequence) FROM log").fetchone()[0]
                there = first in (None, 1)
            else:
                there = self._execute("SELECT epoch FROM log WHERE sequence = ?", (sequence,)).fetchone() == (epoch,)
            if not there:
                raise errors.Refusal(detail=f"the log has no row at epoch {epoch}, sequence {sequence}")
            return self._execute("SELECT epoch, sequence, at, name, op, body, result FROM log WHERE sequence > ?"
                                 " ORDER BY sequence LIMIT ?", (sequence, limit)).fetchall()


def _numbers(text):
    return tuple(map(int, text.split(","))) if text else ()


def _keeper(row):
    number, id, host, ports, labels, draining, first_seen_at, last_registered_at, clean_stop = row
    return Keeper(number, id, host, tuple(json.loads(ports)), json.loads(labels), bool(draining), first_seen_at,
                  last_registered_at, bool(clean_stop))


_BLOCKS = (f"SELECT x.block, x.idx, b.size, b.crcs, {_KEEPERS.format('x')} FROM extents x JOIN blocks b ON b.block = x.block"
           " WHERE x.version = ? AND x.idx >= ? ORDER BY x.idx LIMIT ?")

# Of a block: that a version which is no trash has it.
_NAMING = "FROM extents x JOIN versions v ON v.version = x.version WHERE x.block = {} AND v.removed_at IS NULL"
# Short blocks that a `status` looks at one by one, some microseconds each.
_LOOKED_AT = 20_000
_N_SHORT_NAMED = ("SELECT count(*) FROM blocks b INDEXED BY blocks_short WHERE n_replicas < want"
                  f" AND EXISTS (SELECT 1 {_NAMING.format('b.block')})")

_UNSUMMED = ("SELECT version FROM versions INDEXED BY versions_unsummed WHERE sha256 IS NULL AND removed_at IS NULL AND size > block_size"
             " AND version > ? AND version <= ? ORDER BY version LIMIT ?")

# INDEXED BY: without it SQLite, which has no statistics here, walks the table's own key instead of the small index.
_UNEVEN = (f"SELECT block, size, want, n_replicas, {_KEEPERS.format('b')} FROM blocks b INDEXED BY {{}}"
           " WHERE n_replicas {} want AND block > ? {} ORDER BY block LIMIT ?")
_SHORT = _UNEVEN.format("blocks_short", "<", f"AND EXISTS (SELECT 1 {_NAMING.format('b.block')})")
_SURPLUS = _UNEVEN.format("blocks_surplus", ">", "")

_STORED = ("coalesce((SELECT sum(b.size * b.n_replicas) FROM extents x JOIN blocks b ON b.block = x.block"
           " WHERE x.version = {}.version), 0)")
_USAGE_OF_FILE = f"SELECT 1, 0, v.size, {_STORED.format('v')} FROM versions v WHERE v.version = ?"
_USAGE_OF_TREE = f"""
    WITH RECURSIVE tree (id, kind, version, size) AS (
        SELECT ?, '{DIRECTORY}', 0, 0
        UNION ALL
        SELECT e.id, e.kind, e.version, e.size FROM tree t JOIN entries e ON e.parent = t.id WHERE t.kind = '{DIRECTORY}')
    SELECT coalesce(sum(kind != '{DIRECTORY}'), 0), coalesce(sum(kind = '{DIRECTORY}'), 0) - 1, coalesce(sum(size), 0),
           coalesce(sum(CASE WHEN kind = '{DIRECTORY}' THEN 0 ELSE {_STORED.format('tree')} END), 0) FROM tree"""
