"""The one writing connection: a group of calls becomes one transaction, and each call gets its outcomes.

Never used by two threads at once (`database` sees to that), and never retries a COMMIT.

    BEGIN IMMEDIATE
      SAVEPOINT  operation, log row  RELEASE      a Refusal, or a bug of that operation: undone, the others go on
      …                                           callers that come meanwhile are taken in
    COMMIT                                        durable: now there are answers
    disk full                                     all is undone, and read back: NoRoom for all, the next may succeed
    any other error of SQLite                     the state is unknown: `failed`. Only a new opening reads what holds
"""

from collections import OrderedDict
import json
import logging
import sqlite3

from dfs_lib import errors
from dfs_lib.catalog.records import encode, from_log
from dfs_lib.catalog.transaction import Transaction

log = logging.getLogger(__name__)

# Operations in one transaction: bounds how long the first in it waits for the last.
MAX_BATCH = 256
# Answers remembered for those that ask again under the same op; some 300 bytes each.
MAX_ANSWERS = 20_000
# What SQLite raises for an operation's own mistake: a broken rule of the tables, a value of a wrong type or too large.
_OWN_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


class Writer:
    """The writing connection with what belongs to it.

    failed: the first reason after which nothing is written any more, or None
    n_commits, n_applied: transactions with a change, and operations, since the opening
    """

    def __init__(self, connection, path):
        self.connection, self.path = connection, path
        self.tx = Transaction(connection)
        self.failed = None
        self.n_commits = self.n_applied = 0
        self._n_changes_before = 0  # the connection's count of changed rows when the transaction began
        self._answers = OrderedDict()  # op -> (operation's name, result), oldest first
        self._recall()

    def _recall(self):
        """Those who asked before a restart may ask again after it."""
        rows = self.connection.execute("SELECT op, name, result FROM log WHERE op IS NOT NULL ORDER BY sequence DESC LIMIT ?",
                                       (MAX_ANSWERS,)).fetchall()
        for op, name, result in reversed(rows):
            self._answers[op] = (name, json.loads(result))

    def answer(self, op):
        """What the operation that carried `op` gave, or None. For any thread: one look-up in a dict."""
        known = self._answers.get(op)
        return known and known[1]

    def damage(self):
        return errors.CatalogFailed(path=self.path, detail=self.failed)

    def fail(self, reason):
        if not self.failed:
            self.failed = reason
            log.error("catalog failed path=%s reason=%s", self.path, reason)

    def commit_group(self, calls, more):
        """One transaction for the operations of `calls`; fills their outcomes.

        calls: list of objects with operations and outcomes; more: (n operations so far) -> further calls to take in, which
        are appended to it. After an error that left the state unknown, `failed` is set and every outcome is CatalogFailed.
        """
        if self.failed:
            return _answer(calls, self.damage)
        first, fresh, n_run = self.tx.sequence, {}, 0
        outcomes, taken = [], list(calls)
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self._n_changes_before = self.connection.total_changes
            while taken:
                for call in taken:
                    outcomes.append([self._run(operation, fresh) for operation in call.operations])
                    n_run += len(call.operations)
                taken = more(n_run) if n_run < MAX_BATCH else None
                calls += taken or ()
            self.tx.store_totals()
            self.connection.execute("COMMIT")
        except sqlite3.Error as e:
            return self._give_up(calls, first, e)
        self._remember(fresh)
        self.n_commits += self.tx.sequence != first
        for call, of_call in zip(calls, outcomes):
            call.outcomes = of_call

    def _run(self, operation, fresh):
        """One operation inside the transaction: its result, or the exception it ended in, undone."""
        connection, tx = self.connection, self.tx
        op = getattr(operation, "op", None)
        if op is not None and operation.asked and (known := fresh.get(op) or self._answers.get(op)):
            return known[1] if known[0] == operation.kind else errors.Misuse(detail=f"op {op} was a {known[0]} before")
        n_changes = connection.total_changes
        tx.start()
        # The first of a transaction, mostly the only one, needs no savepoint: the beginning is where it goes back to.
        first = n_changes == self._n_changes_before
        if not first:
            connection.execute("SAVEPOINT one")
        try:
            result = operation.run(tx)
            if connection.total_changes != n_changes and operation.logged:
                self._log(operation, result)
        except Exception as e:
            if isinstance(e, sqlite3.Error) and not isinstance(e, _OWN_MISTAKES):
                raise
            self._undo(first, connection.total_changes != n_changes)
            return errors.Misuse(detail=f"{operation.kind}: {e}") if isinstance(e, sqlite3.Error) else e
        if not first:
            connection.execute("RELEASE one")
        if op is not None and (operation.asked or connection.total_changes != n_changes):
            fresh[op] = (operation.kind, result)
        self.n_applied += 1
        return result

    def _undo(self, first, changed):
        """The running operation said no. first: nothing was changed before it; changed: it changed rows itself."""
        if changed and first:
            self.connection.execute("ROLLBACK")
            self.connection.execute("BEGIN IMMEDIATE")
            self._n_changes_before = self.connection.total_changes
        elif not first:
            self.connection.execute("ROLLBACK TO one")
            self.connection.execute("RELEASE one")
        self.tx.undo(changed)

    def _log(self, operation, result):
        op = getattr(operation, "op", None)
        self.connection.execute("INSERT INTO log (sequence, epoch, at, name, op, body, result) VALUES (?,?,?,?,?,?,?)",
                                (self.tx.sequence, self.tx.epoch, operation.at if operation.timed else None,
                                 operation.kind, op, operation.body(), None if op is None else encode(result)))
        self.tx.sequence += 1

    def _remember(self, fresh):
        self._answers.update(fresh)
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)

    def _give_up(self, calls, first, error):
        """The transaction failed with `error`; `first` is the log place it began at."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self.tx.reload()
        except sqlite3.Error as e:
            code, error = sqlite3.SQLITE_ERROR, e
        # SQLite says FULL only when a write fell short, which is before the fsync of a COMMIT: so it was undone. What was
        # read back has the last word.
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY) and self.tx.sequence == first:
            return _answer(calls, no_room if code == sqlite3.SQLITE_FULL else _busy)
        self.fail(f"{type(error).__name__}: {error}")
        return _answer(calls, self.damage)


def no_room():
    return errors.NoRoom(size="the catalog's", detail="the master's disk is full")


def _busy():
    return errors.Busy(address="the catalog", detail="another program holds its lock")


def _answer(calls, new_error):
    for call in calls:
        call.outcomes = [new_error() for _ in call.operations]


class Replayed:
    """An operation from another catalog's log, to be applied here in the same place and to the same effect."""

    logged, asked, grows = True, False, False  # asked: its answer is not looked up, because the log says that it was run

    def __init__(self, row):
        self.epoch, self.sequence, self.at, self.kind, self.op, self._body = row[:6]
        self.timed = self.at is not None
        self._operation = from_log(self.kind, self._body)

    def body(self):
        return self._body

    def run(self, tx):
        if self.sequence < tx.sequence:
            return None
        if self.sequence > tx.sequence:
            raise errors.CatalogDamaged(path="log", detail=f"row {self.sequence} came when {tx.sequence} was due")
        n_changes = tx.connection.total_changes
        try:
            result = self._operation.run(tx)
        except errors.DfsError as e:
            raise errors.CatalogDamaged(path="log", detail=f"row {self.sequence} was refused here: {e}") from e
        if tx.epoch != self.epoch or tx.connection.total_changes == n_changes:
            raise errors.CatalogDamaged(path="log", detail=f"row {self.sequence} has another effect here")
        return result
