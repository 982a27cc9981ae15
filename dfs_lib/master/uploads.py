"""Open uploads: what was granted, what is durable, and until when the lease holds. Live only: lost with the process.

Never touches the catalog or a keeper. A restarted master learns of stored blocks from the keepers' reports (`strays`), and a
client that goes on shows the receipts it holds.

    open ── commit ──▶ gone (published)
      │ connection lost, lease lapsed, abandoned
      ▼
    interrupted ── same path, size (and mark) put again ──▶ its stored blocks move to the new upload
      │ upload_keep over
      ▼
    collected: its blocks are dropped; a commit that comes after that is refused with LeaseLapsed (F6)

While a commit is on its way to the disk, nothing gives the upload up: either its blocks are published or they are dropped, never both.
"""

import threading
from collections import Counter, OrderedDict

from dfs_lib import errors

# Renewed by every message about the upload; a client that says nothing for so long has gone or hangs.
LEASE_S = 30.0
# Blocks given up that are remembered, so that one which is stored late is dropped too; about 150 bytes each.
# Published blocks whose keepers' own notices may still come; a notice of one forgotten here costs a look into the catalog.
MAX_PUBLISHED = 20_000
MAX_GONE = 100_000


class Stored:
    """One block of an upload that is durable somewhere. keepers: numbers that said so."""

    __slots__ = ("block", "size", "crcs", "keepers")

    def __init__(self, block, size, crcs, keepers):
        self.block, self.size, self.crcs, self.keepers = block, size, crcs, set(keepers)


class Upload:
    """Fields are guarded by the lock of Uploads."""

    __slots__ = ("id", "path", "size", "version", "copies", "safe", "block_size", "mtime_at", "no_clobber", "parents", "identity",
                 "mark", "expected", "granted", "stored", "found", "serials", "connections", "deadline_s", "interrupted_s", "n_committing")

    def __init__(self, id_, path, size, version, copies, safe, block_size, mtime_at, no_clobber, parents, identity, mark=None, expected=None):
        self.id, self.path, self.size, self.version, self.copies, self.safe = id_, path, size, version, copies, safe
        self.block_size, self.mtime_at, self.no_clobber, self.parents, self.identity = block_size, mtime_at, no_clobber, parents, identity
        self.mark = mark  # what its client says of the source, if it said anything; it then goes on without comparing what is stored
        self.expected = expected  # the version that its path must have when it is published
        self.granted = {}  # index → block id
        self.stored = {}  # index → Stored
        self.found = {}  # block id → {number: size} of keepers that have it by their reports, which carry no checksums: not proven
        self.serials = []  # port leases taken for it
        self.connections = set()
        self.deadline_s = 0.0
        self.interrupted_s = None  # since when nobody works on it
        self.n_committing = 0  # commits under way; while there is one, nobody gives it up

    def block_bytes(self, index):
        """The most bytes block `index` may have."""
        return self.block_size if self.size is None else min(self.block_size, self.size - index * self.block_size)


class Uploads:
    """The table of open and interrupted uploads, and of blocks that no version refers to."""

    def __init__(self, keep_s):
        self.lock = threading.RLock()
        self._keep_s = keep_s
        self._uploads = {}  # id → Upload
        self._by_connection = {}  # connection → ids
        self._interrupted = {}  # (path, size, identity) → id
        self._of_block = {}  # block id → (upload id, index), for notices
        self._published = OrderedDict()  # block id → keeper numbers on record at its publishing, oldest first
        self._gone = OrderedDict()  # block id → None: granted in this reign and given up, oldest first
        self.strays = {}  # block id → {keeper number: size}: on a keeper, in no version, in no upload of this reign

    def __len__(self):
        with self.lock:
            return len(self._uploads)

    def add(self, upload, connection, now_s, resume=False):
        """A new upload; with `resume` it takes over what an interrupted one has stored. Returns how many blocks that is."""
        with self.lock:
            n_stored = self._take_interrupted(upload) if resume else 0
            self._uploads[upload.id] = upload
            self._touch(upload, connection, now_s)
            return n_stored

    def has_version(self, version):
        """Whether an open upload is to become this version."""
        with self.lock:
            return any(upload.version == version for upload in self._uploads.values())

    def least_version(self, default):
        """The least version that an open or interrupted upload may still become; `default` when that is less."""
        with self.lock:
            return min([default, *(upload.version for upload in self._uploads.values())])

    def _touch(self, upload, connection, now_s):
        upload.deadline_s = now_s + LEASE_S
        if upload.interrupted_s is not None:
            upload.interrupted_s = None
            self._no_longer_interrupted(upload)
        if connection not in upload.connections:
            upload.connections.add(connection)
            self._by_connection.setdefault(connection, set()).add(upload.id)

    def get(self, id_, identity, connection, now_s):
        """The upload, its lease renewed. Raises LeaseLapsed when it is unknown or somebody else's."""
        with self.lock:
            upload = self._uploads.get(id_)
            if upload is None or upload.identity != identity:
                raise errors.LeaseLapsed(path="this upload")
            self._touch(upload, connection, now_s)
            return upload

    def grant(self, upload, index, block):
        """Remember that `block` was granted for `index`; one granted before is let go. Returns {block: numbers} that this leaves to drop.

        Raises LeaseLapsed when the upload was given up meanwhile.
        """
        with self.lock:
            if upload.id not in self._uploads:
                raise errors.LeaseLapsed(path=upload.path)
            old, stored = upload.granted.get(index), upload.stored.pop(index, None)
            if old is not None:
                self._of_block.pop(old, None)
            upload.granted[index] = block
            self._of_block[block] = (upload.id, index)
            if old is None or upload.n_committing:
                return {}  # the commit that is under way may be about to publish the old one
            self.give_up_blocks((old,))
            return {stored.block: set(stored.keepers)} if stored is not None else {}

    def give_up_blocks(self, blocks):
        """Nobody waits for these any more; one of them may still be on its way to a disk, and is dropped unless the catalog knows it."""
        with self.lock:
            for block in blocks:
                self._gone[block] = None
            while len(self._gone) > MAX_GONE:
                self._gone.popitem(last=False)

    def was_published_on(self, block, number):
        """Whether this block was put on record for that keeper a moment ago: its own notice of it is no news.

        Only of a block that the catalog still knows: this memory outlives removals.
        """
        return number in self._published.get(block, ())

    def forget_published(self, block, number):
        """That keeper has lost the replica: a later notice of it is news."""
        with self.lock:
            numbers = self._published.get(block)
            if numbers is not None and number in numbers:
                self._published[block] = tuple(other for other in numbers if other != number)

    def gone(self, blocks):
        """Those of the blocks that were granted in this reign and given up: wherever they show, they are to be dropped."""
        with self.lock:
            return {block for block in blocks if block in self._gone}

    def _take_interrupted(self, upload):
        """Move the stored blocks of an interrupted upload of the same path, size and user here."""
        id_ = self._interrupted.get((upload.path, upload.size, upload.identity))
        old = self._uploads.get(id_) if upload.size is not None else None
        if old is None or old.block_size != upload.block_size or old.n_committing:
            return 0
        if upload.mark is not None and upload.mark != old.mark:
            return 0  # another source of the same size: half of each would be neither
        self._forget(old)
        upload.version = old.version  # its blocks say so on disk
        upload.granted, upload.stored, upload.serials = dict(old.granted), dict(old.stored), old.serials
        upload.found = old.found
        for index, block in upload.granted.items():
            self._of_block[block] = (upload.id, index)
        return len(upload.stored)

    def note_stored(self, block, size, crcs, number):
        """A keeper says that it holds a block. Returns True when the block belongs to an upload of this reign."""
        with self.lock:
            place = self._of_block.get(block)
            upload = self._uploads.get(place[0]) if place else None
            if upload is None:
                return False
            self._store(upload, place[1], block, size, crcs, number)
            return True

    def note_found(self, sizes, number):
        """A keeper reports these, {block: size}. Returns those that are wanted by an upload of this reign."""
        with self.lock:
            wanted = set()
            for block, size in sizes.items():
                place = self._of_block.get(block)
                upload = self._uploads.get(place[0]) if place else None
                if upload is not None:
                    upload.found.setdefault(block, {})[number] = size
                    wanted.add(block)
            return wanted

    def note_bad(self, block, number):
        """A keeper no longer has a good copy of a block, or has deleted it."""
        with self.lock:
            self.forget_published(block, number)
            self._unstore(block, number)
            self.remove_stray(block, number)

    def _unstore(self, block, number):
        place = self._of_block.get(block)
        upload = self._uploads.get(place[0]) if place else None
        if upload is not None:
            upload.found.get(block, {}).pop(number, None)
        stored = upload.stored.get(place[1]) if upload else None
        if stored is not None and stored.block == block:
            stored.keepers.discard(number)

    def stored_on(self, number):
        """The blocks of open uploads that this keeper said it holds."""
        with self.lock:
            return {stored.block for upload in self._uploads.values() for stored in upload.stored.values() if number in stored.keepers}

    def reported(self, number, has):
        """A keeper's whole inventory: what it said to have stored and `has(block)` denies does not count (F22).

        `has` must be true of what was stored while the report was on its way.
        """
        with self.lock:
            for upload in self._uploads.values():
                for stored in upload.stored.values():
                    if number in stored.keepers and not has(stored.block):
                        stored.keepers.discard(number)

    def _store(self, upload, index, block, size, crcs, number):
        stored = upload.stored.get(index)
        if stored is None or stored.block != block:
            upload.stored[index] = Stored(block, size, crcs, {number})
        elif (stored.size, stored.crcs) == (size, crcs):
            stored.keepers.add(number)

    def record(self, upload, stored, numbers):
        """Take a client's word that is backed by good receipts of these keepers. Returns whether the block is this upload's, and stored.

        A block of an earlier reign is taken when a keeper's own report shows it (strays): then it was not collected.
        """
        with self.lock:
            index, block = stored["index"], stored["block"]
            if upload.id not in self._uploads or block in self._gone:
                return False
            if upload.granted.get(index) != block:
                if index in upload.stored or not numbers or not numbers <= set(self.strays.get(block, ())):
                    return False
                old = upload.granted.get(index)
                if old is not None:
                    self._of_block.pop(old, None)
                    self.give_up_blocks((old,))
                self.strays.pop(block)
                upload.granted[index] = block
                self._of_block[block] = (upload.id, index)
            for number in numbers:
                self._store(upload, index, block, stored["size"], stored["crcs"], number)
            known = upload.stored.get(index)
            return known is not None and known.block == block and (known.size, known.crcs) == (stored["size"], stored["crcs"])

    def begin_commit(self, upload):
        """From here to `end_commit` nobody gives the upload up. Raises LeaseLapsed when somebody has."""
        with self.lock:
            if upload.id not in self._uploads:
                raise errors.LeaseLapsed(path=upload.path)
            upload.n_committing += 1

    def end_commit(self, upload):
        with self.lock:
            upload.n_committing -= 1

    def finish(self, upload, published):
        """It is published with these {block: keeper numbers on record}: forget it.

        Returns its port leases, and {block: numbers} that it stored for nothing.
        """
        with self.lock:
            if upload.id not in self._uploads:
                return [], {}
            self._forget(upload)
            self._published.update(published)
            while len(self._published) > MAX_PUBLISHED:
                self._published.popitem(last=False)
            self.give_up_blocks(block for block in upload.granted.values() if block not in published)
            return upload.serials, {block: numbers for block, numbers in self._places(upload).items() if block not in published}

    def _places(self, upload):
        """{block: numbers} of all that was stored for it, proven or not."""
        places = {block: set(numbers) for block, numbers in upload.found.items()}
        for stored in upload.stored.values():
            places.setdefault(stored.block, set()).update(stored.keepers)
        return places

    def _forget(self, upload):
        self._uploads.pop(upload.id, None)
        self._no_longer_interrupted(upload)
        for block in upload.granted.values():
            self._of_block.pop(block, None)
        for connection in upload.connections:
            known = self._by_connection.get(connection)
            if known is not None:
                known.discard(upload.id)

    def _no_longer_interrupted(self, upload):
        if self._interrupted.get((upload.path, upload.size, upload.identity)) == upload.id:
            del self._interrupted[upload.path, upload.size, upload.identity]

    def interrupt(self, upload, now_s):
        """Nobody works on it any more; it waits for a resume."""
        with self.lock:
            if upload.id in self._uploads and upload.interrupted_s is None and not upload.n_committing:
                upload.interrupted_s = now_s
                self._interrupted[upload.path, upload.size, upload.identity] = upload.id

    def left(self, connection, now_s):
        """A connection has closed: uploads that nobody else works on are interrupted at once."""
        with self.lock:
            for id_ in self._by_connection.pop(connection, ()):
                upload = self._uploads.get(id_)
                if upload is not None:
                    upload.connections.discard(connection)
                    if not upload.connections:
                        self.interrupt(upload, now_s)

    def drop(self, upload):
        """Give it up now, unless a commit is under way. Returns {block: keepers' numbers} to be dropped."""
        with self.lock:
            if upload.id not in self._uploads or upload.n_committing:
                return {}
            self._forget(upload)
            self.give_up_blocks(upload.granted.values())
            return self._places(upload)

    def collect(self, now_s):
        """Interrupt what has lapsed, give up what was kept long enough. Returns ({block: numbers} to drop, port serials to free)."""
        doomed, serials = {}, []
        with self.lock:
            for upload in list(self._uploads.values()):
                if upload.n_committing:
                    continue
                if upload.interrupted_s is None and upload.deadline_s <= now_s:
                    self.interrupt(upload, now_s)
                if upload.interrupted_s is not None and now_s - upload.interrupted_s >= self._keep_s:
                    doomed.update(self.drop(upload))
                    serials += upload.serials
        return doomed, serials

    # -- blocks that nobody refers to -----------------------------------------------------------------------------------
    def add_stray(self, block, size, number):
        with self.lock:
            if block not in self._of_block:
                self.strays.setdefault(block, {})[number] = size

    def remove_stray(self, block, number):
        with self.lock:
            places = self.strays.get(block)
            if places is not None:
                places.pop(number, None)
                if not places:
                    del self.strays[block]

    def forget_strays_of(self, number):
        """The keeper reports anew: what it holds will be said again."""
        with self.lock:
            for block in [block for block, places in self.strays.items() if number in places]:
                self.remove_stray(block, number)

    def strays_by_keeper(self):
        """{keeper number: blocks on it that nobody knows}."""
        with self.lock:
            all_places = list(self.strays.values())
        return Counter(number for places in all_places for number in list(places))

    def owns(self, block):
        """Whether an upload of this reign wants this block."""
        with self.lock:
            return block in self._of_block
