"""What an operation sees while it runs: statements, directories by path, the running totals.

Never begins, commits or rolls back: `database` does, and tells this object with `start`, `undo` and `reload`. One thread at a
time uses it (the leader of the group commit), so nothing here is locked.

Remembered between operations, because this is the only writer: ids of directories by path, the keepers' numbers, whether
there are drops, the totals. What an operation changes in them is undone with it: totals from the values at its start, the
rest by forgetting it.
"""

from dfs_lib import errors
from dfs_lib.catalog import paths
from dfs_lib.catalog.schema import NOWHERE, ROOT
from dfs_lib.model import DIRECTORY, parent_and_name

# Ids of directories kept by path; about 200 bytes each.
_MAX_DIRECTORIES = 20_000


class Transaction:
    """The writer's side of the database, handed to `Operation.run`.

    execute, executemany: of the connection
    epoch: the reign; sequence: the number the running operation will have in the log
    files, bytes, directories: totals as they will be; next_entry: the next entry's id
    """

    def __init__(self, connection):
        self.connection = connection
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._directories = {}
        self.reload()

    def reload(self):
        """Read everything remembered from the tables again: at the start, and after the whole transaction was undone."""
        self._forget()
        self._stored = self.execute("SELECT files, bytes, directories, next_entry FROM totals").fetchone()
        self.files, self.bytes, self.directories, self.next_entry = self._stored
        self.epoch = self.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]
        self.sequence = self.execute("SELECT coalesce(max(sequence), 0) FROM log").fetchone()[0] + 1
        self.start()

    def start(self):
        """An operation begins: remember what `undo` goes back to."""
        self._mark = (self.files, self.bytes, self.directories, self.next_entry, self.epoch)

    def undo(self, changed):
        """The running operation is undone: so is what it left here. changed: whether it had changed rows.

        One that had not (a plain refusal) read only what still holds, so what it looked up stays remembered.
        """
        self.files, self.bytes, self.directories, self.next_entry, self.epoch = self._mark
        if changed:
            self._forget()

    def _forget(self):
        self.forget_directories()
        self._keepers = self._drops_wait = None

    def store_totals(self):
        """Write the totals, once a commit, when they changed."""
        now = (self.files, self.bytes, self.directories, self.next_entry)
        if now != self._stored:
            self.execute("UPDATE totals SET files = ?, bytes = ?, directories = ?, next_entry = ?", now)
            self._stored = now

    # -- keepers ------------------------------------------------------------------------------------------------------
    def keeper_numbers(self):
        """Set of every keeper's number."""
        if self._keepers is None:
            self._keepers = {row[0] for row in self.execute("SELECT number FROM keepers")}
        return self._keepers

    def forget_keepers(self):
        """Whoever adds or removes a keeper calls this."""
        self._keepers = None

    def drops_wait(self):
        """Whether any keeper has something to delete: mostly not, and then nobody need look for a certain block."""
        if self._drops_wait is None:
            self._drops_wait = self.execute("SELECT 1 FROM drops LIMIT 1").fetchone() is not None
        return self._drops_wait

    def forget_drops(self):
        """Whoever adds or removes drops calls this."""
        self._drops_wait = None

    # -- names --------------------------------------------------------------------------------------------------------
    def forget_directories(self):
        """Whoever removes or moves a directory calls this: paths below it lead elsewhere now."""
        self._directories.clear()
        self._directories["/"] = ROOT

    def directory(self, path):
        """Id of the directory at `path`. Raises NoSuchFile or NotADirectory."""
        entry = self._directories.get(path)
        if entry is None:
            row = paths.found(self.execute, path)
            if row[1] != DIRECTORY:
                raise errors.NotADirectory(path=path)
            entry = self._remember(path, row[0])
        return entry

    def directory_made(self, path, at):
        """Id of the directory at `path`; it and its parents are made when missing. Raises NotADirectory."""
        absent = []
        while (entry := self._directories.get(path)) is None:
            row = paths.find(self.execute, path)
            if row is not None and row[1] != DIRECTORY:
                raise errors.NotADirectory(path=path)
            if row is not None:
                entry = self._remember(path, row[0])
                break
            absent.append(path)
            path = parent_and_name(path)[0]
        for path in reversed(absent):
            entry = self.make_directory(entry, path, parent_and_name(path)[1], at)
        return entry

    def make_directory(self, parent, path, name, at):
        """A new directory's id; nothing has that name."""
        entry = self.new_entry(parent, name, DIRECTORY, 0, 0, at, 0)
        self.directories += 1
        return self._remember(path, entry)

    def new_entry(self, parent, name, kind, version, size, mtime_at, copies):
        """A new row of entries; its id."""
        entry = self.next_entry
        self.next_entry = entry + 1
        self.execute("INSERT INTO entries (parent, name, id, kind, version, size, mtime_at, copies) VALUES (?,?,?,?,?,?,?,?)",
                     (parent, name, entry, kind, version, size, mtime_at, copies))
        return entry

    def remove_entry(self, entry, kind, size):
        """A file, or a directory that is empty, is no longer there."""
        self.execute("DELETE FROM entries WHERE id = ?", (entry,))
        if kind == DIRECTORY:
            self.directories -= 1
        else:
            self.files -= 1
            self.bytes -= size

    def detach(self, entry, at):
        """Cut a directory off: no path leads to it any more."""
        self.execute("UPDATE entries SET parent = ?, name = ? WHERE id = ?", (NOWHERE, str(entry), entry))
        self.execute("INSERT INTO detached VALUES (?, ?)", (entry, at))

    def child(self, parent, name):
        """(id, kind, version, size, mtime_at, copies) of a name in a directory, or None."""
        return self.execute(f"SELECT {paths.COLUMNS} FROM entries WHERE parent = ? AND name = ?", (parent, name)).fetchone()

    def has_children(self, entry):
        return self.execute("SELECT 1 FROM entries WHERE parent = ? LIMIT 1", (entry,)).fetchone() is not None

    def _remember(self, path, entry):
        if len(self._directories) >= _MAX_DIRECTORIES:
            self.forget_directories()
        self._directories[path] = entry
        return entry
