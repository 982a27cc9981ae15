"""Operations about keepers, blocks and replicas, and those that clear away. `operations` is the door to them.

Never deletes the last trace of a replica on its own: what the catalog forgets on purpose moves from `replicas` to `drops`
in one transaction, and stays there until its keeper says that it is gone.

           PublishFile, RecordReplicas            DropReplica, CollectVersions             ConfirmDrops
    (none) ───────────────────────────> replicas ─────────────────────────────> drops ───────────────────> (none)
                                           └── LoseReplicas, ForgetKeeper ──────────────────────────────────^
"""

import json

from dfs_lib import errors
from dfs_lib.catalog.records import Operation, operation
from dfs_lib.model import DIRECTORY, FILE

# The most copies any live version of a block asks for; of the trash alone, what was wanted last.
WANT = ("coalesce((SELECT max(v.copies) FROM extents x JOIN versions v ON v.version = x.version"
        " WHERE x.block = blocks.block AND v.removed_at IS NULL), want)")


# -- keepers ----------------------------------------------------------------------------------------------------------
@operation
class RegisterKeeper(Operation):
    """A keeper is there, new, again or under a new address. labels: {key: value}. -> its number

    One that runs has not stopped cleanly, so its clean_stop goes back to no.
    """

    keeper: str
    host: str
    ports: list
    labels: dict
    at: float

    def run(self, tx):
        now = (self.host, json.dumps(list(self.ports)), json.dumps(self.labels, sort_keys=True), self.at, 0)
        row = tx.execute("SELECT number, host, ports, labels, last_registered_at, clean_stop FROM keepers WHERE id = ?",
                         (self.keeper,)).fetchone()
        if row is None:
            tx.forget_keepers()
            return tx.execute("INSERT INTO keepers (host, ports, labels, last_registered_at, clean_stop, first_seen_at, id)"
                              " VALUES (?,?,?,?,?,?,?)", (*now, self.at, self.keeper)).lastrowid
        if row[1:] != now:
            tx.execute("UPDATE keepers SET host = ?, ports = ?, labels = ?, last_registered_at = ?, clean_stop = ?"
                       " WHERE number = ?", (*now, row[0]))
        return row[0]


def _number(tx, keeper):
    row = tx.execute("SELECT number FROM keepers WHERE id = ?", (keeper,)).fetchone()
    if row is None:
        raise errors.NoSuchKeeper(keeper=keeper)
    return row[0]


@operation
class SetDraining(Operation):
    """A keeper takes nothing new and is to be emptied, or no longer. Raises NoSuchKeeper. -> its number"""

    keeper: str
    draining: bool
    at: float

    def run(self, tx):
        number, draining = _number(tx, self.keeper), int(self.draining)
        tx.execute("UPDATE keepers SET draining = ? WHERE number = ? AND draining != ?", (draining, number, draining))
        return number


@operation
class NoteCleanStop(Operation):
    """Whether a keeper's last stop was announced. Raises NoSuchKeeper. -> its number"""

    keeper: str
    clean: bool
    at: float

    def run(self, tx):
        number, clean = _number(tx, self.keeper), int(self.clean)
        tx.execute("UPDATE keepers SET clean_stop = ? WHERE number = ? AND clean_stop != ?", (clean, number, clean))
        return number


@operation
class ForgetKeeper(Operation):
    """A keeper that will not come back, with every replica it had. A second time there is nothing left. -> replicas forgotten"""

    keeper: str
    at: float

    def run(self, tx):
        row = tx.execute("SELECT number FROM keepers WHERE id = ?", (self.keeper,)).fetchone()
        if row is None:
            return 0
        tx.execute("UPDATE blocks SET n_replicas = n_replicas - 1"
                   " WHERE block IN (SELECT block FROM replicas WHERE keeper = ?)", row)
        n_forgotten = tx.execute("DELETE FROM replicas WHERE keeper = ?", row).rowcount
        tx.execute("DELETE FROM drops WHERE keeper = ?", row)
        tx.forget_drops()
        tx.execute("DELETE FROM keepers WHERE number = ?", row)
        tx.forget_keepers()
        return n_forgotten


# -- replicas ---------------------------------------------------------------------------------------------------------
@operation
class RecordReplicas(Operation):
    """A keeper has these blocks. -> those of them that are on record now

    Not recorded: blocks the catalog does not know, and those this keeper has been or will be told to delete.
    Raises NoSuchKeeper.
    """

    keeper: int
    blocks: list
    at: float

    def run(self, tx):
        if self.keeper not in tx.keeper_numbers():
            raise errors.NoSuchKeeper(keeper=self.keeper)
        return [block for block in self.blocks if self._record(tx, bytes.fromhex(block))]

    def _record(self, tx, key):
        added = tx.execute("INSERT OR IGNORE INTO replicas SELECT block, ? FROM blocks WHERE block = ?"
                           " AND NOT EXISTS (SELECT 1 FROM drops WHERE keeper = ? AND block = ?)",
                           (self.keeper, key, self.keeper, key)).rowcount
        if added:
            tx.execute("UPDATE blocks SET n_replicas = n_replicas + 1 WHERE block = ?", (key,))
            return True
        return _has(tx, key, self.keeper)


def _has(tx, key, keeper):
    return tx.execute("SELECT 1 FROM replicas WHERE block = ? AND keeper = ?", (key, keeper)).fetchone() is not None


@operation
class LoseReplicas(Operation):
    """A keeper no longer has these blocks, or has them damaged; reason is for the log's reader. -> those that were on record"""

    keeper: int
    blocks: list
    reason: str
    at: float

    def run(self, tx):
        return [block for block in self.blocks if self._lose(tx, bytes.fromhex(block))]

    def _lose(self, tx, key):
        lost = tx.execute("DELETE FROM replicas WHERE block = ? AND keeper = ?", (key, self.keeper)).rowcount
        if lost:
            tx.execute("UPDATE blocks SET n_replicas = n_replicas - 1 WHERE block = ?", (key,))
        return bool(lost)


@operation
class DropReplica(Operation):
    """A keeper is to delete a surplus replica. -> whether one waits to be dropped (False: there is none on record)

    Raises Refusal when fewer replicas than wanted, or none, would stay.
    """

    block: str
    keeper: int
    at: float

    def run(self, tx):
        key = bytes.fromhex(self.block)
        if not _has(tx, key, self.keeper):
            return tx.execute("SELECT 1 FROM drops WHERE keeper = ? AND block = ?", (self.keeper, key)).fetchone() is not None
        want, have = tx.execute("SELECT want, n_replicas FROM blocks WHERE block = ?", (key,)).fetchone()
        if have - 1 < max(1, want):
            raise errors.Refusal(detail=f"block {self.block} has {have} replicas and wants {want}: none is to spare")
        tx.execute("DELETE FROM replicas WHERE block = ? AND keeper = ?", (key, self.keeper))
        tx.execute("INSERT INTO drops VALUES (?, ?, ?)", (self.keeper, key, self.at))
        tx.forget_drops()
        tx.execute("UPDATE blocks SET n_replicas = n_replicas - 1 WHERE block = ?", (key,))
        return True


@operation
class ConfirmDrops(Operation):
    """A keeper has deleted what it was told to. -> how many of them were still open"""

    keeper: int
    blocks: list

    def run(self, tx):
        tx.forget_drops()
        return sum(tx.execute("DELETE FROM drops WHERE keeper = ? AND block = ?", (self.keeper, bytes.fromhex(block))).rowcount
                   for block in self.blocks)


# -- clearing away ----------------------------------------------------------------------------------------------------
@operation
class CollectVersions(Operation):
    """Versions whose grace is over leave the trash; those not in it are passed over. -> {"versions", "blocks"}: counts

    A block nobody refers to any more is forgotten, and each of its replicas waits to be dropped.
    """

    versions: list
    at: float

    def run(self, tx):
        n_versions = n_blocks = 0
        tx.forget_drops()
        for version in self.versions:
            row = tx.execute("SELECT 1 FROM versions WHERE version = ? AND removed_at IS NOT NULL", (version,)).fetchone()
            if row is None:
                continue
            blocks = tx.execute("SELECT block FROM extents WHERE version = ? ORDER BY idx", (version,)).fetchall()
            tx.execute("DELETE FROM extents WHERE version = ?", (version,))
            tx.execute("DELETE FROM versions WHERE version = ?", (version,))
            n_versions += 1
            n_blocks += sum(self._release(tx, block) for block, in blocks)
        return {"versions": n_versions, "blocks": n_blocks}

    def _release(self, tx, key):
        """One reference less. -> whether it was the last."""
        refs, = tx.execute("SELECT refs FROM blocks WHERE block = ?", (key,)).fetchone()
        if refs > 1:
            tx.execute(f"UPDATE blocks SET refs = refs - 1, want = {WANT} WHERE block = ?", (key,))
            return False
        tx.execute("INSERT OR IGNORE INTO drops SELECT keeper, block, ? FROM replicas WHERE block = ?", (self.at, key))
        tx.execute("DELETE FROM replicas WHERE block = ?", (key,))
        tx.execute("DELETE FROM blocks WHERE block = ?", (key,))
        return True


@operation
class PurgeDetached(Operation):
    """Work off up to `limit` entries of trees that `rm -r` cut off. -> entries handled; 0 when nothing is left

    Files' versions go to the trash as of the moment their tree was cut off: since then nobody could open them. Directories
    are cut off in their turn, so that a step never walks deeper than one level, and vanish once they are empty.
    """

    limit: int
    at: float

    def run(self, tx):
        n_left = self.limit
        while n_left > 0:
            top = tx.execute("SELECT entry, at FROM detached ORDER BY entry LIMIT 1").fetchone()
            if top is None:
                break
            children = tx.execute("SELECT id, kind, version, size FROM entries WHERE parent = ? ORDER BY name LIMIT ?",
                                  (top[0], n_left)).fetchall()
            for child in children:
                self._work_off(tx, child, top[1])
            n_left -= len(children)
            if n_left > 0:
                tx.execute("DELETE FROM detached WHERE entry = ?", (top[0],))
                tx.remove_entry(top[0], DIRECTORY, 0)
                n_left -= 1
        return self.limit - n_left

    def _work_off(self, tx, child, at):
        entry, kind, version, size = child
        if kind == DIRECTORY:
            tx.detach(entry, at)
        else:
            tx.execute("UPDATE versions SET removed_at = ? WHERE version = ?", (at, version))
            tx.remove_entry(entry, FILE, size)
