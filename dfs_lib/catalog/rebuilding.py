"""A new catalog in the making: what keepers' trailers say, gathered in tables of their own, and the catalog that becomes the real one.

Never decides what a file is or where it goes: master/rebuilder does. Until `finish` nothing of it is a catalog: a crash leaves a
directory that the next rebuild throws away.

    DIRECTORY/catalog.lock     held all the time, as by a master at work
    DIRECTORY/rebuild/         thrown away at the beginning and at the end
    ├── found.db               trailers by path, version and index
    ├── copy.*                 copies of the old catalog, as keepers sent them
    └── new/catalog.db         the new catalog, written without fsync

    finish:  new/catalog.db whole and synced ─ report written and synced ─ rename to DIRECTORY/catalog.db ─ fsync of DIRECTORY
"""

import json
import os
import shutil
import sqlite3
import zlib

from dfs_lib import errors
from dfs_lib.catalog import files, snapshots
from dfs_lib.catalog.database import Database

REPORT = "rebuild.json"
_WORK = "rebuild"
_TABLES = """
-- "What is there of this path?" One row a replica; meta: the trailer's JSON, packed.
CREATE TABLE found (path TEXT NOT NULL, version INTEGER NOT NULL, idx INTEGER NOT NULL, block BLOB NOT NULL, keeper INTEGER NOT NULL,
                    size INTEGER NOT NULL, crcs BLOB NOT NULL, meta BLOB NOT NULL,
                    PRIMARY KEY (path, version, idx, block, keeper)) WITHOUT ROWID;
-- "Is this block anywhere?"
CREATE INDEX found_block ON found (block);
-- Blocks whose trailer is whole and does not tell a place.
CREATE TABLE placeless (block BLOB NOT NULL, keeper INTEGER NOT NULL, size INTEGER NOT NULL, crcs BLOB NOT NULL, why TEXT NOT NULL,
                        PRIMARY KEY (block, keeper)) WITHOUT ROWID;
-- "Which versions are to be placed?" Filled once all is there.
CREATE TABLE wanted (path TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (path, version)) WITHOUT ROWID;
"""


def has_catalog(directory):
    """Whether a catalog is there already, and whether it came from a rebuild: (bool, bool)."""
    there = os.path.exists(os.path.join(directory, files.DATABASE))
    return there, there and os.path.exists(os.path.join(directory, REPORT))


class Rebuilding:
    """The rebuild of one directory's catalog; `finish` or `close` ends it. The handlers' and the conductor's threads use it in turns."""

    def __init__(self, directory):
        """Raises Refusal when a catalog is there, DirectoryInUse, LocalFileError."""
        self._directory = os.path.abspath(directory)
        self.work = os.path.join(self._directory, _WORK)
        self._found = self._database = None
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._lock_file = files.lock(self._directory)
        except OSError as e:
            raise errors.LocalFileError(path=self._directory, detail=e.strerror or str(e)) from e
        try:
            self._refuse_catalog()
            shutil.rmtree(self.work, ignore_errors=True)
            os.mkdir(self.work, 0o700)
            self._found = sqlite3.connect(os.path.join(self.work, "found.db"), isolation_level=None, check_same_thread=False)
            self._found.execute("PRAGMA journal_mode = OFF").fetchall()
            self._found.execute("PRAGMA synchronous = OFF")
            self._found.executescript(_TABLES)
        except OSError as e:
            self.close()
            raise errors.LocalFileError(path=self.work, detail=e.strerror or str(e)) from e
        except BaseException:
            self.close()
            raise

    def _refuse_catalog(self):
        for name in (files.DATABASE, files.DATABASE + "-wal"):
            path = os.path.join(self._directory, name)
            if os.path.exists(path):
                raise errors.Refusal(detail=f"{path} is there: a rebuild begins where no catalog is. Start the master without --rebuild to use it, "
                                            "or move catalog.db and its side files away first")

    def close(self):
        """End without a catalog, or after `finish`."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._found is not None:
            self._found.close()
            self._found = None
        if self._lock_file is not None:
            files.unlock(self._lock_file)
            self._lock_file = None

    # -- what keepers say -----------------------------------------------------------------------------------------------
    def add(self, keeper, placed, placeless):
        """One page of trailers of the keeper of that number; coming twice changes nothing.

        placed: [(path, version, index, block, size, crcs, metadata)]; placeless: [(block, size, crcs, why)]; blocks in hex.
        """
        execute = self._found.executemany
        self._found.execute("BEGIN")
        execute("INSERT OR REPLACE INTO found VALUES (?,?,?,?,?,?,?,?)", (
            (path, version, index, bytes.fromhex(block), keeper, size, crcs, zlib.compress(json.dumps(metadata).encode(), 1))
            for path, version, index, block, size, crcs, metadata in placed))
        execute("INSERT OR REPLACE INTO placeless VALUES (?,?,?,?,?)",
                ((bytes.fromhex(block), keeper, size, crcs, why) for block, size, crcs, why in placeless))
        self._found.execute("COMMIT")

    def newest_block(self):
        """The greatest block id found, hex; "" when there is none. Ids begin with the time they were made at."""
        row = self._found.execute("SELECT max(block) FROM found").fetchone()
        return row[0].hex() if row[0] else ""

    def versions(self):
        """(path, version) of all that was found."""
        return self._pages("SELECT DISTINCT path, version FROM found WHERE (path, version) > (?, ?) ORDER BY path, version LIMIT 1000")

    def want(self, versions):
        """These [(path, version)] are to be placed."""
        self._found.execute("BEGIN")
        self._found.executemany("INSERT OR IGNORE INTO wanted VALUES (?,?)", versions)
        self._found.execute("COMMIT")

    def wanted(self):
        """(path, [(version, index, block, size, crcs, metadata, keeper)]) of each path with wanted versions, in path order."""
        last = ""
        while (row := self._found.execute("SELECT path FROM wanted WHERE path > ? ORDER BY path LIMIT 1", (last,)).fetchone()) is not None:
            last, = row
            rows = self._found.execute("SELECT f.version, f.idx, f.block, f.size, f.crcs, f.meta, f.keeper FROM wanted w"
                                       " JOIN found f ON f.path = w.path AND f.version = w.version WHERE w.path = ?"
                                       " ORDER BY f.version, f.idx, f.block, f.keeper", (last,)).fetchall()
            yield last, [(version, index, block.hex(), size, crcs, json.loads(zlib.decompress(meta)), keeper)
                         for version, index, block, size, crcs, meta, keeper in rows]

    def n_wanted(self):
        """Paths with versions that are to be placed."""
        return self._found.execute("SELECT count(DISTINCT path) FROM wanted").fetchone()[0]

    def is_above(self, path):
        """Whether another path that is to be placed lies below this one."""
        return self._found.execute("SELECT 1 FROM wanted WHERE path > ? AND path < ? LIMIT 1", (path + "/", path + "0")).fetchone() is not None

    def placeless(self):
        """[(block, size, crcs, why, [keepers])] of blocks whose place cannot be told."""
        found = {}
        for block, keeper, size, crcs, why in self._found.execute("SELECT * FROM placeless ORDER BY block, keeper"):
            found.setdefault((block.hex(), size, crcs), (why, []))[1].append(keeper)
        return [(*key, why, keepers) for key, (why, keepers) in found.items()]

    def _pages(self, sql):
        last = ("", -1)
        while page := self._found.execute(sql, last).fetchall():
            yield from page
            last = page[-1]

    # -- the catalog in the making --------------------------------------------------------------------------------------
    def begin(self, snapshot=None):
        """The Database that is to become the catalog: empty, or unpacked from the snapshot at that path. One begun before is thrown away.

        Raises IntegrityError, CatalogDamaged, LocalFileError.
        """
        if self._database is not None:
            self._database.close()
            self._database = None
        new = os.path.join(self.work, "new")
        shutil.rmtree(new, ignore_errors=True)
        os.mkdir(new, 0o700)
        if snapshot is not None:
            snapshots.restore(snapshot, os.path.join(new, files.DATABASE))
        self._database = Database.open(new, now=None, new_id=None, create=True, reign=False)
        self._database.do_not_sync()  # what is made here is thrown away by a crash, and `finish` syncs it
        return self._database

    def missing(self, limit):
        """(number of live versions with a block that was found nowhere, [paths of the first])."""
        queries = self._database.queries()
        self._found.execute("ATTACH ? AS new", (self._database.path,))
        try:
            entries = [entry for entry, in self._found.execute(
                "SELECT v.entry FROM new.versions v WHERE v.removed_at IS NULL AND EXISTS (SELECT 1 FROM new.extents x"
                " WHERE x.version = v.version AND NOT EXISTS (SELECT 1 FROM main.found f WHERE f.block = x.block))")]
        finally:
            self._found.execute("DETACH new")
        return len(entries), [path for entry in entries[:limit] if (path := queries.path_of_entry(entry)) is not None]

    def finish(self, report):
        """The new catalog becomes the real one. report: JSON values, written beside it. Raises LocalFileError, CatalogDamaged."""
        path = self._database.path
        self._database.close()
        self._database = None
        try:
            if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
                raise errors.CatalogDamaged(path=path, detail="its write-ahead log could not be moved into it")
            files.sync_file(path)
            self._write_report(report)
            os.rename(path, os.path.join(self._directory, files.DATABASE))
            files.sync_directory(self._directory)
        except OSError as e:
            raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
        self._found.close()
        self._found = None
        shutil.rmtree(self.work, ignore_errors=True)

    def _write_report(self, report):
        path = os.path.join(self._directory, REPORT)
        with open(path + ".new", "w", encoding="utf-8") as out:
            json.dump(report, out, indent=1, ensure_ascii=False)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(path + ".new", path)
