"""The catalog's door: apply an operation, durable when `apply` returns; read through `queries`; follow the log.

Never decides anything about files, and asks the clock it was given only at the opening. Writes go through `writer`, used by
one thread at a time; each thread that reads has a connection of its own while it does.

Group commit, with no thread of its own:

    apply ──> nobody leads: lead ──> BEGIN, mine, those queued meanwhile, COMMIT ──> answers ──> lead goes to the first queued
          └─> somebody leads: queue, wait for the answer, or for the lead

so a lone caller changes no thread, and callers that come while a COMMIT waits for the disk share the next one.

A disk that is full refuses what adds to the catalog; what removes, repairs or takes note of a keeper has the ballast's room.
"""

from collections import deque, namedtuple
import logging
import os
import sqlite3
import threading

from dfs_lib import errors
from dfs_lib.catalog import files, schema
from dfs_lib.catalog.ballast import SHARE, SIZE, Ballast, room
from dfs_lib.catalog.operations import CreateCluster, StartReign
from dfs_lib.catalog.queries import Queries
from dfs_lib.catalog.writer import MAX_BATCH, Replayed, Writer, no_room

log = logging.getLogger(__name__)

# Reading connections kept for the next thread; one costs about 200 µs to open and up to 4 MiB to keep.
_MAX_IDLE_READERS = 16

# A catalog up to this size is read through before anything is answered: a tenth of a second. Bytes.
SMALL_CATALOG = 64 << 20

# One row of the log; body and result are JSON text, op and result None for operations nobody asks for again.
LogRow = namedtuple("LogRow", "epoch sequence at name op body result")


class _Call:
    """One caller of apply or apply_many. outcomes stays None until its transaction has ended, or it is to lead."""

    __slots__ = ("operations", "outcomes", "wake")

    def __init__(self, operations):
        self.operations, self.outcomes, self.wake = operations, None, None


class Database:
    """The catalog in one directory; `open` makes one. Every method is for any thread.

    cluster_id: text; epoch: this master's reign
    """

    def __init__(self, path, connection, lock_file, ballast=None):
        self.path, self._lock_file, self._ballast = path, lock_file, ballast
        self._writer = Writer(connection, path)
        self._lock = threading.Lock()  # guards the next four
        self._queue = deque()  # of _Call; empty while nobody leads
        self._leading = self._closed = False
        self._readers = set()
        self._rested = threading.Condition(self._lock)  # notified at the end of the last lead
        self._idle_readers = deque()
        self._of_thread = threading.local()
        self.cluster_id = None
        # Whether the file has still to be read through. Until then questions are answered, because a damaged page that one meets is an
        # error and no answer, and what keepers say is taken; but nothing that clients ask for is written into what may be
        # damaged, and nobody may repair or delete by what it says.
        self.unchecked = False
        self._checking = None  # the connection on which `check` runs
        self._learn_cluster_id()

    # -- opening and closing ------------------------------------------------------------------------------------------
    @classmethod
    def open(cls, directory, *, now, new_id, create=True, reign=True, ballast_size=0, check_later=False):
        """The catalog in `directory`, made when missing and `create`; checked whole; a new reign begins.

        check_later: a large one is left to the caller to check whole (`check`) beside its first reads; see `unchecked`.

        now: () -> Unix seconds; new_id: () -> a new cluster's id. reign=False is for a follower, which replays the log of
        another catalog and applies nothing of its own; its cluster_id is None until the first replay. ballast_size: bytes, 0: none.
        Raises CatalogDamaged, DirectoryInUse, LocalFileError.
        """
        path, lock_file = files.prepare(os.fspath(directory), create)
        connection = database = None
        try:
            ballast = Ballast(os.path.dirname(path), ballast_size) if ballast_size else None
            if ballast is not None and ballast.is_needed():
                ballast.release()
            connection = files.connect_writer(path)
            _renew(connection, path)
            unchecked = check_later and files.size(path) > SMALL_CATALOG
            schema.check(connection, path, whole=not unchecked)
            database = cls(path, connection, lock_file, ballast)
            database.unchecked = unchecked
            if reign:
                database._begin_reign(now, new_id)
            database.is_tight()
            files.sync_directory(os.path.dirname(os.path.abspath(path)))
            return database
        except BaseException as e:
            if connection is not None:
                connection.close()
            files.unlock(lock_file)
            if isinstance(e, sqlite3.Error):
                raise errors.CatalogDamaged(path=path, detail=str(e)) from e
            raise

    def _begin_reign(self, now, new_id):
        if self.cluster_id is None:
            self.apply(CreateCluster(new_id(), now()))
            self._learn_cluster_id()
        self.apply(StartReign(self.epoch + 1, now()))

    def _learn_cluster_id(self):
        row = self._writer.connection.execute("SELECT value FROM meta WHERE key = 'cluster_id'").fetchone()
        self.cluster_id = row and row[0]

    def check(self):
        """Read the whole file through; damage fails the catalog. Returns when it is known to be whole, or has failed."""
        self._checking = connection = files.connect_reader(self.path)
        try:
            if not self._closed:
                schema.check_whole(connection, self.path)
                self.unchecked = False
        except errors.CatalogDamaged as e:
            self._writer.fail(e.message)
        except sqlite3.Error as e:
            if not self._closed:  # else `close` has interrupted it
                self._writer.fail(f"it could not be read through: {e}")
        finally:
            self._checking = None
            connection.close()

    def close(self):
        """Wait for the running transaction, move the write-ahead log into the database, close every connection."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            while self._leading:
                self._rested.wait()
            readers, self._readers = self._readers, set()
        checking = self._checking
        if checking is not None:
            try:
                checking.interrupt()  # the write-ahead log could not be emptied before it has ended
            except sqlite3.ProgrammingError:
                pass  # it has ended in this moment
        for reader in readers:
            reader.close()
        try:
            if not self.failed:
                self._writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as e:
            log.warning("catalog checkpoint failed path=%s reason=%s", self.path, e)
        self._writer.connection.close()
        files.unlock(self._lock_file)

    # -- what is so ---------------------------------------------------------------------------------------------------
    @property
    def epoch(self):
        return self._writer.tx.epoch

    @property
    def sequence(self):
        """Place in the log of the last operation; one that is not committed yet may show."""
        return self._writer.tx.sequence - 1

    @property
    def failed(self):
        """Why nothing is written any more, or None."""
        return self._writer.failed

    @property
    def is_short_of_room(self):
        """What `is_tight` found last, at no cost."""
        return self._ballast is not None and not self._ballast.is_whole

    @property
    def n_commits(self):
        return self._writer.n_commits

    @property
    def n_applied(self):
        return self._writer.n_applied

    # -- applying -----------------------------------------------------------------------------------------------------
    def apply(self, operation):
        """Run an operation: its result, durable. Raises its Refusal, NoRoom (disk full), CatalogFailed."""
        outcome, = self._perform((operation,))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def apply_many(self, operations):
        """Run several in one transaction: a list of results, an exception in the place of each that was refused."""
        return self._perform(tuple(operations))

    def answer(self, op):
        """The result of the operation asked for under `op`, durable and not too long ago; None when there is none."""
        return self._writer.answer(op)

    def is_tight(self):
        """Whether the disk has so little room that nothing is added; takes the ballast's room again once there is enough."""
        return self._ballast is not None and not self._ballast.make()

    def replay(self, rows):
        """Apply rows of another catalog's log (log_since), in their places; those that are here already are passed over.

        Raises CatalogDamaged at the first that does not fit; those before it stay.
        """
        for outcome in self._perform(tuple(Replayed(row) for row in rows)):
            if isinstance(outcome, BaseException):
                raise outcome
        if self.cluster_id is None:
            self._learn_cluster_id()

    def _perform(self, operations):
        if self.unchecked and any(operation.asked for operation in operations):
            raise errors.NotReady(detail="the catalog is being read through")
        ballast = self._ballast
        if ballast is None:
            return self._commit(operations)
        had_room = ballast.is_whole
        if not had_room and any(operation.grows for operation in operations):
            if self._writer.failed:
                raise self._writer.damage()
            return [no_room() for _ in operations]
        outcomes = self._commit(operations)
        # A full disk fails a transaction as a whole, so the first outcome speaks for all.
        if had_room and outcomes and isinstance(outcomes[0], errors.NoRoom) and not any(operation.grows for operation in operations):
            ballast.release()
            outcomes = self._commit(operations)
        return outcomes

    def _commit(self, operations):
        call = _Call(operations)
        with self._lock:
            if self.failed:
                raise self._writer.damage()
            if self._closed:
                raise errors.Misuse(detail="the catalog is closed")
            leads = not self._leading
            if leads:
                self._leading = True
            else:
                call.wake = threading.Lock()
                call.wake.acquire()
                self._queue.append(call)
        if not leads:
            call.wake.acquire()
        if call.outcomes is None:
            self._lead(call)
        return call.outcomes

    def _lead(self, mine):
        """One transaction for `mine` and those queued, then the lead goes on."""
        calls = [mine]
        try:
            self._writer.commit_group(calls, self._more)
        except BaseException as e:
            # A bug, or an interrupt from outside in the middle of a transaction: what is in memory is not to be trusted.
            self._writer.fail(f"{type(e).__name__}: {e}")
            for call in calls:
                call.outcomes = [self._writer.damage() for _ in call.operations]
            raise
        finally:
            self._hand_on()
            for call in calls:
                if call is not mine:
                    call.wake.release()

    def _more(self, n_operations):
        """Calls queued meanwhile, up to the ceiling of one transaction."""
        taken = []
        if self._queue:
            with self._lock:
                while self._queue and n_operations < MAX_BATCH:
                    taken.append(self._queue.popleft())
                    n_operations += len(taken[-1].operations)
        return taken

    def _hand_on(self):
        with self._lock:
            if self._queue:
                self._queue.popleft().wake.release()  # its outcomes are None, so it leads
            else:
                self._leading = False
                self._rested.notify_all()

    # -- reading ------------------------------------------------------------------------------------------------------
    def queries(self):
        """This thread's Queries, on a connection of its own until `rest`; given on to another thread then, or when this one ends."""
        loan = getattr(self._of_thread, "loan", None)
        if loan is None or self._closed:
            loan = self._of_thread.loan = _Loan(self._borrow(), self._give_back)
        return loan.queries

    def rest(self):
        """This thread has no question for now: thousands of idle connections' threads share the few reading connections."""
        self._of_thread.loan = None

    def _borrow(self):
        try:
            return self._idle_readers.pop()
        except IndexError:
            queries = Queries(files.connect_reader(self.path))
        with self._lock:
            if not self._closed:
                self._readers.add(queries)
                return queries
        queries.close()
        raise errors.Misuse(detail="the catalog is closed")

    def _give_back(self, queries):
        queries.abandon()
        if len(self._idle_readers) < _MAX_IDLE_READERS and not self._closed:
            self._idle_readers.append(queries)
            return
        queries.close()
        self._readers.discard(queries)

    def do_not_sync(self):
        """Commits no longer wait for the disk: for a catalog in the making, which a crash throws away as a whole."""
        self._writer.connection.execute("PRAGMA synchronous = OFF")

    # -- the log and copies -------------------------------------------------------------------------------------------
    def log_since(self, epoch, sequence, limit):
        """Up to `limit` LogRows after the one at (epoch, sequence); (0, 0) is before the first.

        Raises Refusal when that row is not in this log: trimmed, or written under another master. Then only a copy
        (backup) brings a follower level.
        """
        return [LogRow(*row) for row in self.queries().log_rows(epoch, sequence, limit)]

    def backup(self, path):
        """A whole, consistent, durable copy of the catalog as one file at `path`, in place of what is there.

        Raises NoRoom when there is not room for two of it, lest a copy takes from the catalog what that needs to go on (F10);
        LocalFileError.
        """
        wanted = 2 * files.size(self.path)
        try:
            free, total = room(os.path.dirname(os.path.abspath(path)))
        except OSError as e:
            raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
        if free < wanted + min(SIZE, total // SHARE):
            raise errors.NoRoom(size=wanted, detail=f"the master's disk has {free} bytes for a copy of the catalog")
        connection = files.connect_reader(self.path)
        try:
            files.copy(connection, os.fspath(path))
        finally:
            connection.close()


def _renew(connection, path):
    """Write what the write-ahead log holds into the database and sync it, before anything is built on it.

    After a failed fsync the system may show bytes that never reached the disk and that no later fsync would write (F8); a commit
    behind them in the log would be lost with them. Written anew they are as durable as any.
    """
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as e:
        if getattr(e, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL:
            raise
        log.warning("no room for a checkpoint path=%s", path)


class _Loan:
    """A thread's hold on its Queries: goes away with the thread, and gives them back."""

    def __init__(self, queries, give_back):
        self.queries, self._give_back = queries, give_back

    def __del__(self):
        self._give_back(self.queries)
