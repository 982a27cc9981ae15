"""A catalog as one packed file and back: what keepers hold a copy of, and what a rebuild begins with.

Never reads the catalog row by row: SQLite copies it whole while writers go on. log_copy.py has the file's layout.

    make:     backup to PATH.db ─ forget most of the log ─ pack into PATH.part ─ fsync ─ rename to PATH      a crash leaves no PATH
    restore:  head and checksum first ─ unpack into TARGET ─ fsync
"""

import hashlib
import os
import sqlite3
import zlib

from dfs_lib import errors, log_copy
from dfs_lib.catalog import files

# Log rows that stay in a snapshot: answers for those that ask again, and which versions were published lately.
LOG_ROWS = 20_000
_PIECE = 1 << 20
_LEVEL = 3


def make(database, path, open_from, at):
    """Write a snapshot of an open Database to `path`; returns its SnapshotHead. open_from was read before. Raises NoRoom, LocalFileError."""
    plain, part = path + ".db", path + ".part"
    try:
        database.backup(plain)
        last = _trim(plain)
        with open(plain, "rb") as source, open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
            target.write(bytes(log_copy.SNAPSHOT_HEAD))
            digest, pack = hashlib.sha256(), zlib.compressobj(_LEVEL)
            while piece := source.read(_PIECE):
                _put(target, digest, pack.compress(piece))
            _put(target, digest, pack.flush())
            raw_size = source.tell()
            target.seek(0)
            target.write(log_copy.build_snapshot_head(last, open_from, at, raw_size, digest.digest()))
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, path)
        files.sync_directory(os.path.dirname(os.path.abspath(path)))
    except (OSError, sqlite3.Error) as e:
        raise errors.LocalFileError(path=path, detail=getattr(e, "strerror", None) or str(e)) from e
    finally:
        for leftover in (plain, part):
            if os.path.exists(leftover):
                os.unlink(leftover)
    return log_copy.SnapshotHead(last, open_from, at, raw_size, digest.digest())


def _put(target, digest, packed):
    digest.update(packed)
    target.write(packed)


def _trim(path):
    """Forget what a snapshot need not carry; -> (epoch, sequence) of its last row."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # what is made here is read once, and thrown away by a crash
        last = connection.execute("SELECT epoch, sequence FROM log ORDER BY sequence DESC LIMIT 1").fetchone()
        first = connection.execute("SELECT sequence FROM log ORDER BY sequence DESC LIMIT 1 OFFSET ?", (LOG_ROWS - 1,)).fetchone()
        if first is not None and connection.execute("DELETE FROM log WHERE sequence < ?", first).rowcount:
            connection.execute("VACUUM")
        return last
    finally:
        connection.close()


def restore(path, target):
    """Unpack a snapshot into the database file `target`, durably; returns its SnapshotHead. Raises IntegrityError, LocalFileError."""
    try:
        with open(path, "rb") as source:
            head = log_copy.snapshot_head(source.read(log_copy.SNAPSHOT_HEAD))
            digest = hashlib.sha256()
            while piece := source.read(_PIECE):
                digest.update(piece)
            if digest.digest() != head.sha256:
                raise errors.IntegrityError(f"the snapshot {path} does not match its checksum")
            source.seek(log_copy.SNAPSHOT_HEAD)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                unpack = zlib.decompressobj()
                while piece := source.read(_PIECE):
                    out.write(unpack.decompress(piece))
                out.write(unpack.flush())
                out.flush()
                os.fsync(out.fileno())
                if out.tell() != head.raw_size:
                    raise errors.IntegrityError(f"the snapshot {path} has {out.tell()} bytes, not {head.raw_size}")
    except zlib.error as e:
        raise errors.IntegrityError(f"the snapshot {path} cannot be unpacked") from e
    except OSError as e:
        raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
    return head


def replay_records(database, path, open_from):
    """Apply the records in a file to a Database unpacked from the snapshot they follow; -> the last one's open_from, or the one given.

    Raises CatalogDamaged, IntegrityError, LocalFileError. What is torn at the end was never said to be there.
    """
    try:
        with open(path, "rb") as source:
            for head, raw in log_copy.read_records(source):
                database.replay([tuple(row) for row in log_copy.rows_of(raw)])
                open_from = head.open_from
    except OSError as e:
        raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
    return open_from
