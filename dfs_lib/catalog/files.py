"""The catalog's files on disk: making them so that a crash leaves none or whole ones, locking, opening.

Never reads or writes a table but through `schema`.

    DIRECTORY/              0700
    ├── catalog.lock        held (flock) by the one master that has the catalog open
    ├── catalog.db          0600, as are the next two; SQLite
    ├── catalog.db-wal      what is committed and not yet moved into catalog.db
    ├── ballast             room for a full disk: ballast.py
    └── catalog.new         a catalog in the making; one left by a crash is thrown away

A new database is made whole as `catalog.new`, then renamed: so an empty `catalog.db` is always damage, never a beginning.
"""

import os
import sqlite3

from dfs_lib import errors
from dfs_lib.catalog import schema

try:
    import fcntl
except ImportError:  # Windows: a second master in the same directory goes unnoticed here
    fcntl = None

DATABASE, _LOCK, _NEW = "catalog.db", "catalog.lock", "catalog.new"
_SIDE_FILES = ("", "-wal", "-shm", "-journal")

# Pages (4 KiB) in the write-ahead log before a commit moves them into the database: pages that change often move once for
# many commits, and the log stays near 8 MiB.
_CHECKPOINT_PAGES = 2_000
_WAL_LIMIT = 64 << 20
# KiB of page cache: the writer has one connection, the readers one a thread.
_WRITER_CACHE, _READER_CACHE = 64 << 10, 4 << 10
# Only a tool of a person can hold the write lock; seconds to wait for it.
_BUSY_S = 10.0


def prepare(directory, create):
    """Make what is missing, and lock. -> (path of the database, open lock file)

    Raises LocalFileError, DirectoryInUse, CatalogDamaged.
    """
    path = os.path.join(directory, DATABASE)
    try:
        if create and not os.path.isdir(directory):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            sync_directory(os.path.dirname(os.path.abspath(directory)))
        lock_file = lock(directory)
    except OSError as e:
        raise errors.LocalFileError(path=directory, detail=e.strerror or str(e)) from e
    try:
        if not os.path.exists(path):
            _make(directory, path, create)
    except BaseException:
        unlock(lock_file)
        raise
    return path, lock_file


def lock(directory):
    """Hold a catalog's directory: an open file for `unlock`. Raises OSError, DirectoryInUse."""
    lock_file = os.open(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(lock_file)
            raise errors.DirectoryInUse(path=directory) from e
    return lock_file


def unlock(lock_file):
    os.close(lock_file)


def _make(directory, path, create):
    if not create:
        raise errors.LocalFileError(path=path, detail="there is no catalog")
    if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
        # Its commits would be mixed into the new database, or lost.
        raise errors.CatalogDamaged(path=path, detail="it is missing, and its write-ahead log is still there")
    new = os.path.join(directory, _NEW)
    for suffix in _SIDE_FILES:
        if os.path.exists(new + suffix):
            os.unlink(new + suffix)
    try:
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = connect_writer(new)
        schema.create(connection)
        connection.close()  # the last one out moves the write-ahead log into the database
        os.rename(new, path)
        sync_directory(directory)
    except OSError as e:
        raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
    except sqlite3.Error as e:
        raise errors.LocalFileError(path=path, detail=str(e)) from e


def size(path):
    """Bytes of the database and its write-ahead log."""
    return sum(os.path.getsize(path + suffix) for suffix in ("", "-wal") if os.path.exists(path + suffix))


def connect_writer(path):
    """The connection that writes. A COMMIT on it returns when the bytes are on the disk (synchronous=FULL)."""
    connection = _connect(path, cached_statements=512)
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}").fetchall()
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}").fetchall()
        connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path):
    """A connection that cannot write."""
    connection = _connect(path, cached_statements=256)
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA cache_size = -{_READER_CACHE}")
    return connection


def _connect(path, cached_statements):
    # Used by one thread at a time, which the callers see to; the thread may change.
    return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False,
                           cached_statements=cached_statements)


def copy(connection, path):
    """A whole, consistent copy of the database behind a reading connection, under its final name only when it is durable.

    Raises LocalFileError.
    """
    part = path + ".part"
    try:
        if os.path.exists(part):
            os.unlink(part)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        target = sqlite3.connect(part, isolation_level=None)
        try:
            connection.backup(target)  # in one step: writers go on beside it, and it need not begin again
            target.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            target.close()
        sync_file(part)
        os.replace(part, path)
        sync_directory(os.path.dirname(os.path.abspath(path)))
    except (OSError, sqlite3.Error) as e:
        raise errors.LocalFileError(path=path, detail=getattr(e, "strerror", None) or str(e)) from e


def sync_file(path):
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_directory(path):
    """A rename or a new file survives a loss of power only when its directory was synced."""
    if os.name == "nt":
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
