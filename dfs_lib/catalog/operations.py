"""Every mutation of the catalog, named: frozen records that carry their own ids, times and choices.

Never asks a clock, chance or the network, so two catalogs that run the same log hold the same tables. What is here is about
names and versions; `block_operations` holds those about keepers, blocks and replicas, `user_operations` those about users, and
this module is the door to all.

    run(tx)   tx: transaction.Transaction -> the result, of JSON types; a Refusal means no, and then nothing is changed
    body()    the fields as JSON, for the log; `from_log(name, body)` is the way back

Running one a second time changes nothing and gives a result of the same kind; what changes nothing is not logged. `path`s
are clean (model.clean_path), `at` is Unix seconds, versions are integers, blocks 32 lower-case hex.
"""

from dfs_lib import errors
from dfs_lib.catalog import paths
from dfs_lib.catalog.block_operations import (
    WANT, CollectVersions, ConfirmDrops, DropReplica, ForgetKeeper, LoseReplicas, NoteCleanStop, PurgeDetached,
    RecordReplicas, RegisterKeeper, SetDraining)
from dfs_lib.catalog.records import Operation, from_log, operation
from dfs_lib.catalog.schema import NOWHERE, ROOT
from dfs_lib.catalog.user_operations import AddUser, RemoveUser, RotateUser
from dfs_lib.model import DIRECTORY, FILE, parent_and_name

__all__ = ["Operation", "from_log", "CreateCluster", "StartReign", "BeginRebuilt", "TrimLog", "PublishFile", "CopyFile", "SetCopies", "RecordSum",
           "MakeDirectory", "RemovePath", "RenamePath", "RegisterKeeper", "SetDraining", "NoteCleanStop", "ForgetKeeper",
           "AddUser", "RemoveUser", "RotateUser", "RecordReplicas", "LoseReplicas", "DropReplica", "ConfirmDrops", "CollectVersions", "PurgeDetached"]


# -- the whole --------------------------------------------------------------------------------------------------------
@operation
class CreateCluster(Operation):
    """The first operation of every log: the cluster's id and its root. -> None"""

    cluster_id: str
    at: float

    def run(self, tx):
        row = tx.execute("SELECT value FROM meta WHERE key = 'cluster_id'").fetchone()
        if row is not None:
            if row[0] != self.cluster_id:
                raise errors.WrongCluster(what="the catalog", theirs=row[0], ours=self.cluster_id)
            return
        tx.execute("INSERT INTO meta VALUES ('cluster_id', ?)", (self.cluster_id,))
        tx.execute("INSERT INTO entries (parent, name, id, kind, version, size, mtime_at, copies) VALUES (?,?,?,?,?,?,?,?)",
                   (NOWHERE, "", ROOT, DIRECTORY, 0, 0, self.at, 0))


@operation
class StartReign(Operation):
    """A master begins under a higher epoch. Raises Refusal for a lower one. -> None"""

    epoch: int
    at: float

    def run(self, tx):
        if self.epoch < tx.epoch:
            raise errors.Refusal(detail=f"epoch {self.epoch} is over: the catalog is in epoch {tx.epoch}")
        if self.epoch > tx.epoch:
            tx.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (self.epoch,))
            tx.epoch = self.epoch


@operation
class BeginRebuilt(Operation):
    """A catalog made anew, or put back from a backup, begins under a higher epoch, on a copy of the old one or empty. Raises Refusal, WrongCluster. -> None

    What keepers were still to delete is forgotten: since the copy was made, one of those replicas may have become the last good one.
    has_copy: whether it is on a copy that is seconds old. One that is not knows nothing of versions of earlier epochs that it does not have (`knows_from` in meta):
    blocks of them may be on a keeper that was away, and a later rebuild must not take them for removed.
    The log goes on far above every number of the old one, of which the end was lost: no row, and no user's serial, means two things.
    """

    cluster_id: str
    epoch: int
    has_copy: bool
    at: float

    def run(self, tx):
        if self.epoch <= tx.epoch:
            raise errors.Refusal(detail=f"epoch {self.epoch} is not above {tx.epoch}, which the catalog's copy has seen")
        CreateCluster(self.cluster_id, self.at).run(tx)
        StartReign(self.epoch, self.at).run(tx)
        if not self.has_copy:
            tx.execute("INSERT OR REPLACE INTO meta VALUES ('knows_from', ?)", (self.epoch << 32,))
        tx.execute("DELETE FROM drops")
        tx.forget_drops()
        tx.sequence = max(tx.sequence, self.epoch << 32)


@operation
class TrimLog(Operation):
    """Forget all but the last `keep` log rows (at least one), 10,000 a time. Not logged itself. -> rows forgotten"""

    keep: int
    logged = False

    def run(self, tx):
        last = tx.sequence - 1 - max(1, self.keep)
        first = tx.execute("SELECT coalesce(min(sequence), 0) FROM log").fetchone()[0]
        return tx.execute("DELETE FROM log WHERE sequence <= ?", (min(last, first + 9_999),)).rowcount


# -- files ------------------------------------------------------------------------------------------------------------
@operation
class PublishFile(Operation):
    """A name gets a version, new or instead of its old one. -> {"version", "replaced": old version or None}

    blocks: [[block, size, crcs hex, [keeper numbers]], …] in order of index; numbers of forgotten keepers are passed over.
    parents: missing directories above are made. A version that was published already, even if removed since, is left as it
    is and gives the same success: a late duplicate must not overwrite what came after it.
    expected: the version that the name must have now; None: any, or none.
    Raises NoSuchFile, NotADirectory, IsADirectory, FileExists (no_clobber), VersionChanged (expected); LeaseLapsed when a block was collected
    meanwhile; NoLiveReplica when every keeper of a block was forgotten; Misuse when the blocks do not add up to size.
    """

    op: str
    path: str
    version: int
    size: int
    block_size: int
    copies: int
    mtime_at: float
    no_clobber: bool
    parents: bool
    blocks: list
    at: float
    expected: int | None = None
    grows = True

    def run(self, tx):
        if tx.execute("SELECT 1 FROM versions WHERE version = ?", (self.version,)).fetchone() is not None:
            return {"version": self.version, "replaced": None}
        parent_path, name = parent_and_name(self.path)
        if not name:
            raise errors.IsADirectory(path=self.path)
        parent = tx.directory_made(parent_path, self.at) if self.parents else tx.directory(parent_path)
        if self.expected is not None:
            old = tx.child(parent, name)
            check_expected(self.path, self.expected, *(old[1:3] if old is not None else (None, None)))
        extents, blocks, replicas = self._rows(tx)
        entry, replaced = put_version(tx, parent, name, self, self.size, self.copies, self.mtime_at)
        tx.execute("INSERT INTO versions (version, entry, size, block_size, copies, mtime_at, published_sequence)"
                   " VALUES (?,?,?,?,?,?,?)",
                   (self.version, entry, self.size, self.block_size, self.copies, self.mtime_at, tx.sequence))
        tx.executemany("INSERT INTO extents VALUES (?,?,?)", extents)
        tx.executemany("INSERT INTO blocks (block, size, crcs, want, refs, n_replicas) VALUES (?,?,?,?,1,?)", blocks)
        tx.executemany("INSERT INTO replicas VALUES (?,?)", replicas)
        return {"version": self.version, "replaced": replaced}

    def _rows(self, tx):
        known, total = tx.keeper_numbers(), 0
        extents, blocks, replicas = [], [], []
        for index, (block, size, crcs, named) in enumerate(self.blocks):
            key = bytes.fromhex(block)
            keepers = known.intersection(named)
            if named and not keepers:
                raise errors.NoLiveReplica(index=index, path=self.path, keepers=list(named))
            extents.append((self.version, index, key))
            blocks.append((key, size, bytes.fromhex(crcs), self.copies, len(keepers)))
            replicas += [(key, keeper) for keeper in keepers]
            total += size
        if total != self.size:
            raise errors.Misuse(detail=f"the blocks of {self.path} hold {total} bytes, the file {self.size}")
        for key, keeper in replicas if tx.drops_wait() else ():
            # A keeper is about to delete it: the upload took so long that its blocks were collected.
            if tx.execute("SELECT 1 FROM drops WHERE keeper = ? AND block = ?", (keeper, key)).fetchone() is not None:
                raise errors.LeaseLapsed(path=self.path)
        return extents, blocks, replicas


@operation
class CopyFile(Operation):
    """A second name for the same bytes: a new version that shares the source's blocks. -> {"version", "replaced"}

    Raises as PublishFile does, IsADirectory for a directory as source, IntoItself for one name twice.
    """

    op: str
    source: str
    target: str
    version: int
    no_clobber: bool
    at: float
    grows = True

    def run(self, tx):
        if tx.execute("SELECT 1 FROM versions WHERE version = ?", (self.version,)).fetchone() is not None:
            return {"version": self.version, "replaced": None}
        _, kind, source, size, _, copies = paths.found(tx.execute, self.source)
        if kind == DIRECTORY:
            raise errors.IsADirectory(path=self.source)
        if self.source == self.target:
            raise errors.IntoItself(path=self.source)
        parent_path, name = parent_and_name(self.target)
        if not name:
            raise errors.IsADirectory(path=self.target)
        entry, replaced = put_version(tx, tx.directory(parent_path), name, self, size, copies, self.at, self.target)
        tx.execute("INSERT INTO versions (version, entry, size, block_size, copies, mtime_at, published_sequence, sha256)"
                   " SELECT ?, ?, size, block_size, copies, ?, ?, sha256 FROM versions WHERE version = ?",
                   (self.version, entry, self.at, tx.sequence, source))
        tx.execute("INSERT INTO extents SELECT ?, idx, block FROM extents WHERE version = ?", (self.version, source))
        tx.execute("UPDATE blocks SET refs = refs + 1, want = max(want, ?)"
                   " WHERE block IN (SELECT block FROM extents WHERE version = ?)", (copies, source))
        return {"version": self.version, "replaced": replaced}


def check_expected(path, expected, kind, version):
    """Raise VersionChanged unless a path names a file of the version expected. kind: FILE, DIRECTORY or None for nothing."""
    if kind != FILE or version != expected:
        found = {None: "nothing is there", DIRECTORY: "a directory is there"}.get(kind, f"version {version} is there")
        raise errors.VersionChanged(path=path, expected=expected, found=found)


def put_version(tx, parent, name, operation, size, copies, mtime_at, path=None):
    """Point a name at operation.version; what it named goes to the trash. -> (entry id, replaced version or None)"""
    old = tx.child(parent, name)
    if old is None:
        tx.files += 1
        tx.bytes += size
        return tx.new_entry(parent, name, FILE, operation.version, size, mtime_at, copies), None
    entry, kind, version, old_size, _, _ = old
    if kind == DIRECTORY:
        raise errors.IsADirectory(path=path or operation.path)
    if operation.no_clobber:
        raise errors.FileExists(path=path or operation.path)
    tx.execute("UPDATE versions SET removed_at = ? WHERE version = ?", (operation.at, version))
    tx.execute("UPDATE entries SET version = ?, size = ?, mtime_at = ?, copies = ? WHERE parent = ? AND name = ?",
               (operation.version, size, mtime_at, copies, parent, name))
    tx.bytes += size - old_size
    return entry, version


@operation
class SetCopies(Operation):
    """How many copies of a file are wanted from now on. Raises NoSuchFile, IsADirectory. -> {"version", "copies"}"""

    op: str
    path: str
    copies: int
    at: float

    def run(self, tx):
        entry, kind, version, _, _, copies = paths.found(tx.execute, self.path)
        if kind == DIRECTORY:
            raise errors.IsADirectory(path=self.path)
        if copies != self.copies:
            tx.execute("UPDATE entries SET copies = ? WHERE id = ?", (self.copies, entry))
            tx.execute("UPDATE versions SET copies = ? WHERE version = ?", (self.copies, version))
            tx.execute(f"UPDATE blocks SET want = {WANT} WHERE block IN (SELECT block FROM extents WHERE version = ?)",
                       (version,))
        return {"version": version, "copies": self.copies}


@operation
class RecordSum(Operation):
    """The SHA-256 of a version's bytes, hex. Raises NoSuchFile for a version that is gone. -> None"""

    version: int
    sha256: str
    grows = True

    def run(self, tx):
        row = tx.execute("SELECT sha256 FROM versions WHERE version = ?", (self.version,)).fetchone()
        if row is None:
            raise errors.NoSuchFile(path=f"version {self.version}")
        if row[0] != self.sha256:
            tx.execute("UPDATE versions SET sha256 = ? WHERE version = ?", (self.sha256, self.version))


# -- names ------------------------------------------------------------------------------------------------------------
@operation
class MakeDirectory(Operation):
    """A directory; with `parents` also those above, and one that exists is fine. -> {"made": count}

    Raises FileExists, NoSuchFile, NotADirectory.
    """

    op: str
    path: str
    parents: bool
    at: float
    grows = True

    def run(self, tx):
        before = tx.directories
        row = paths.find(tx.execute, self.path)
        if row is not None and (row[1] != DIRECTORY or not self.parents):
            raise errors.FileExists(path=self.path)
        if self.parents:
            tx.directory_made(self.path, self.at)
        else:
            parent_path, name = parent_and_name(self.path)
            tx.make_directory(tx.directory(parent_path), self.path, name, self.at)
        return {"made": tx.directories - before}


@operation
class RemovePath(Operation):
    """A name goes; a file's version waits in the trash. -> {"kind", "version": that of a file, or None}

    A directory must be empty, or `recursive` cuts its tree off whole, however large; PurgeDetached works it off later.
    expected: the version that the file must have now; None: any.
    Raises NoSuchFile, NotADirectory, DirectoryNotEmpty, VersionChanged (expected); Refusal for the root.
    """

    op: str
    path: str
    recursive: bool
    at: float
    expected: int | None = None

    def run(self, tx):
        entry, kind, version, size, _, _ = paths.found(tx.execute, self.path)
        if entry == ROOT:
            raise errors.Refusal(detail="the root directory cannot be removed")
        if self.expected is not None:
            check_expected(self.path, self.expected, kind, version)
        if kind == FILE:
            tx.execute("UPDATE versions SET removed_at = ? WHERE version = ?", (self.at, version))
            tx.remove_entry(entry, kind, size)
            return {"kind": FILE, "version": version}
        if not tx.has_children(entry):
            tx.remove_entry(entry, kind, 0)
        elif not self.recursive:
            raise errors.DirectoryNotEmpty(path=self.path)
        else:
            tx.detach(entry, self.at)
        tx.forget_directories()
        return {"kind": DIRECTORY, "version": None}


@operation
class RenamePath(Operation):
    """One name becomes another, `target` being the whole new path; a file there is replaced, at once. -> {"replaced"}

    A directory there is replaced only by a directory, and only when it is empty. A name onto itself changes nothing.
    Raises NoSuchFile, NotADirectory, IsADirectory, FileExists (no_clobber), DirectoryNotEmpty, IntoItself.
    """

    op: str
    source: str
    target: str
    no_clobber: bool
    at: float

    def run(self, tx):
        entry, kind, _, _, _, _ = paths.found(tx.execute, self.source)
        if self.source == self.target:
            return {"replaced": None}
        if entry == ROOT or self.target.startswith(self.source + "/"):
            raise errors.IntoItself(path=self.source)
        if self.target == "/":
            raise errors.DirectoryNotEmpty(path=self.target)
        parent_path, name = parent_and_name(self.target)
        parent = tx.directory(parent_path)
        replaced = self._make_way(tx, kind, tx.child(parent, name))
        tx.execute("UPDATE entries SET parent = ?, name = ? WHERE id = ?", (parent, name, entry))
        if kind == DIRECTORY:
            tx.forget_directories()
        return {"replaced": replaced}

    def _make_way(self, tx, kind, old):
        if old is None:
            return None
        entry, old_kind, version, size, _, _ = old
        if self.no_clobber:
            raise errors.FileExists(path=self.target)
        if old_kind == FILE and kind == DIRECTORY:
            raise errors.NotADirectory(path=self.target)
        if old_kind == DIRECTORY and kind == FILE:
            raise errors.IsADirectory(path=self.target)
        if old_kind == DIRECTORY and tx.has_children(entry):
            raise errors.DirectoryNotEmpty(path=self.target)
        tx.remove_entry(entry, old_kind, size)
        if old_kind == DIRECTORY:
            return None
        tx.execute("UPDATE versions SET removed_at = ? WHERE version = ?", (self.at, version))
        return version
