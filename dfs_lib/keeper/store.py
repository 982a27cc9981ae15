"""Block files on one keeper's disk: here alone they come, go and are opened, and the directory is the index.

Never talks to a network, reads a clock or judges whether a block is wanted. Several processes (a port each, one for
orders) use one directory at once: each has its own Store and its own `slot`, a text that keeps their temporary names
apart. Threads of a process share its Store; one Incoming or Stored belongs to one thread at a time.

    DIRECTORY/            0700
      keeper.json         who this keeper is and whose: written whole or not at all
      scrub.json          where its scrub is: rounds.py
      lock                flock, held by the daemon's first process
      counters            bytes and number of blocks, a hint that is counted anew at each start
      incoming/           SLOT~N: half-written, nobody reads them, swept after a crash
      blocks/00 … ff/     one file a block, by the last two digits of its id (the random end: they fill evenly)
      quarantine/ aside/  ID.N and ID.N.reason: damaged blocks, and blocks the catalog does not know, kept for a human

    begin → write … → finish:  incoming/x ─ fsync ─ rename ─> blocks/xx/ID ─ fsync of blocks/xx ─> the caller may say so
    restore:                   aside/ID.N ─ read and compared ─ rename ─> blocks/xx/ID ─ fsync of blocks/xx
    A crash at any step leaves the block whole under its name, or absent (invariant I10).

Its parts: disk.py the system's calls, home.py the directory and its keeper.json, block_file.py one file in or out, kept.py
what lies in quarantine/ and aside/, counters.py.
"""

import errno
import heapq
import itertools
import logging
import os
import re
import threading
from collections import namedtuple

from dfs_lib import errors
from dfs_lib.keeper import disk, kept
from dfs_lib.keeper.block_file import Incoming, StoredAlready, open_file
from dfs_lib.keeper.counters import Counters
from dfs_lib.keeper.disk import Directory
# Only passed on: the daemon calls them store.prepare(…) and so on.
from dfs_lib.keeper.home import BUCKETS, load_identity, lock, prepare, read_identity, save_cluster  # noqa: F401

log = logging.getLogger(__name__)

_BLOCK_ID = re.compile(r"[0-9a-f]{32}")
# No "~", which ends the slot in a temporary name, and no leading dot.
_SLOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

Space = namedtuple("Space", "used free n_blocks")


class Store:
    """The blocks in one prepared directory, as one process sees them. Close it, or use `with`.

    reserve: bytes of the disk that blocks never take; slot: names this process in temporary names ([A-Za-z0-9_.-], <= 64).
    """

    def __init__(self, directory, cluster_id, reserve=0, slot="main"):
        if not _SLOT.fullmatch(slot):
            raise errors.Misuse(detail=f"{slot!r} cannot name a slot")
        self.path, self.cluster_id, self.reserve, self.slot = os.path.abspath(directory), cluster_id, reserve, slot
        self.numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards _promised and _buckets
        self._promised = 0  # bytes of blocks begun and not yet ended
        self._buckets = {}
        self._counters = None
        self._opened = []
        try:
            self._top = self._keep(Directory(self.path))
            self._blocks = self._keep(self._top.below("blocks"))
            self.incoming = self._keep(self._top.below("incoming"))
            self._counters = Counters(self._top)
        except OSError as e:
            self.close()
            raise disk.ours(e, self.path) from e

    def _keep(self, directory):
        self._opened.append(directory)
        return directory

    def close(self):
        with self._lock:
            self._buckets.clear()
            while self._opened:
                self._opened.pop().close()
            if self._counters is not None:
                self._counters.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _bucket(self, block):
        """The directory a block's file is in, under the block's own id: the one road from an id to a path."""
        if not isinstance(block, str) or not _BLOCK_ID.fullmatch(block):
            raise errors.BadName(path=str(block)[:80], detail="a block id is 32 lower-case hex digits")
        name = block[-2:]
        bucket = self._buckets.get(name)
        if bucket is None:
            with self._lock:
                bucket = self._buckets.get(name)
                if bucket is None:
                    try:
                        bucket = self._buckets[name] = self._keep(self._blocks.below(name))
                    except OSError as e:
                        raise disk.ours(e, os.path.join(self._blocks.path, name)) from e
        return bucket

    def sync(self, directory):
        """Make the names in a bucket durable. Raises DiskFault."""
        try:
            directory.sync()
        except OSError as e:
            # The fd has told its error and would now say all is well: the next user must open the directory anew.
            with self._lock:
                if self._buckets.get(os.path.basename(directory.path)) is directory:
                    del self._buckets[os.path.basename(directory.path)]
            raise disk.ours(e, directory.path) from e

    # -- in and out
    def begin(self, block, metadata, size):
        """Incoming for a new block of `size` bytes; `metadata` goes into its trailer, with cluster, block and size.

        Raises FileExists when the block is there already, whole and as long (its name is durable then, so a retried put
        may be answered with success); NoRoom when the disk would eat into the reserve; BadName for a bad id; DiskFault.
        A damaged file of that name is no obstacle: it goes to quarantine when the new one is complete.
        """
        bucket = self._bucket(block)
        if size < 0:
            raise errors.Misuse(detail=f"a block cannot have {size} bytes")
        replaces = self._is_there(bucket, block, size)
        self._promise(size)
        return Incoming(self, bucket, block, metadata, size, replaces)

    def begin_or_compare(self, block, metadata, size):
        """As `begin`; for a block that is there already a StoredAlready, which compares and writes nothing."""
        try:
            return self.begin(block, metadata, size)
        except errors.FileExists:
            return StoredAlready(self, block)

    def _is_there(self, bucket, block, size):
        """False when there is no such file, True when one has to make way. Raises FileExists when it is what is wanted."""
        if not bucket.has(block):  # nearly always, and far cheaper than an exception
            return False
        try:
            with open_file(bucket, block, block) as stored:
                same = stored.size == size
                stored.trailer()
        except errors.BlockMissing:
            return False
        except errors.IntegrityError:
            return True
        if not same:
            return True
        # Its writer may be between rename and sync, or have died there: "exists" must mean durable.
        self.sync(bucket)
        raise errors.FileExists(path=f"block {block}", block=block, size=size)

    def has(self, block):
        """Whether a file of that name is in use; says nothing of what is in it."""
        return self._bucket(block).has(block)

    def open(self, block):
        """Stored, for reading: footer, id and lengths agree. Raises BlockMissing, IntegrityError, DiskFault, BadName."""
        return open_file(self._bucket(block), block, block)

    def trailer(self, block):
        """(metadata, crcs) of a block, checked against the trailer's checksum. Raises as `open`."""
        with self.open(block) as stored:
            return stored.trailer()

    def verify(self, block, buffer=None, pause=None, cold=False, total=None):
        """Read all of a block again; see Stored.verify. Raises ChecksumMismatch, and as `open`."""
        with self.open(block) as stored:
            return stored.verify(buffer, pause, cold, total)

    def size_of(self, block):
        """Bytes of a block's file, trailer and all, without opening it; 0 when it has gone. Raises DiskFault, BadName."""
        bucket = self._bucket(block)
        try:
            return bucket.stat(block).st_size
        except FileNotFoundError:
            return 0
        except OSError as e:
            raise disk.ours(e, os.path.join(bucket.path, block)) from e

    # -- away
    def drop(self, block):
        """Delete a block, durably; False when it was not there (also then its absence is durable)."""
        bucket = self._bucket(block)
        try:
            file_size = bucket.stat(block).st_size
            bucket.unlink(block)
            self._counters.add(-file_size, -1)
            found = True
        except FileNotFoundError:
            found = False
        except OSError as e:
            raise disk.ours(e, bucket.path) from e
        self.sync(bucket)
        return found

    def quarantine(self, block, reason):
        """Take a damaged block out of use and keep it, with the reason, for a human. False when it was not there."""
        return self._move(block, "quarantine", reason)

    def set_aside(self, block, reason="the catalog does not know it"):
        """Take a block that nobody knows out of use and keep it. False when it was not there."""
        return self._move(block, "aside", reason)

    def _move(self, block, name, reason):
        bucket = self._bucket(block)
        try:
            file_size = bucket.stat(block).st_size
            with self._top.below(name) as target:
                new_name = kept.claim(target, block, file_size, reason)
                try:
                    bucket.rename(block, target, new_name)
                except OSError:  # also when another process was quicker: a reason without its block says nothing
                    kept.forget_reason(target, new_name)
                    raise
                self._counters.add(-file_size, -1)
                # The new name first: a crash between the two may show the file twice, never nowhere.
                target.sync()
        except FileNotFoundError:
            return False
        except OSError as e:
            raise disk.ours(e, os.path.join(self.path, name)) from e
        self.sync(bucket)
        return True

    def restore(self, block):
        """Bring a block back into use from aside/ or quarantine/, after reading all of it. The caller tells the master.

        Returns True when the block is in use afterwards, whole and durably; when it was so before, nothing is moved. False
        when no whole copy is here: then it is not in use either, for a damaged one found under blocks/ goes to quarantine.
        aside/ comes first, where no damage was seen, and in each the copy that came last (the highest number). Copies that
        are damaged stay where they are. Reads the names in both directories, and each copy up to the first whole one.
        Of several that restore one damaged block at the same moment, one may get False while another brings it back.
        Raises DiskFault when the one in use cannot be read, when a kept one cannot and no other is whole, or when a rename or
        sync fails (a later try then finds the block where it is); Busy, BadName.
        """
        bucket, faults = self._bucket(block), []
        if self._is_whole(bucket, block):
            return True
        for name in ("aside", "quarantine"):
            try:
                with self._top.below(name) as directory:
                    if self._bring_back(directory, bucket, block, faults):
                        return True
            except OSError as e:
                raise disk.ours(e, os.path.join(self.path, name)) from e
        if self._is_whole(bucket, block):  # another process was quicker
            return True
        if faults:
            raise faults[0]
        return False

    def _is_whole(self, bucket, block):
        """Whether the block is in use, all of it read and good, its name durable. A damaged one is taken out of use."""
        try:
            self.verify(block, cold=True)
        except errors.BlockMissing:
            return False
        except errors.IntegrityError as e:
            self.quarantine(block, e.message)
            return False
        self.sync(bucket)
        return True

    def _bring_back(self, directory, bucket, block, faults):
        """Move the first whole copy in `directory` under blocks/; False when there is none. Raises OSError, DiskFault, Busy."""
        for name, file_size in kept.whole(directory, block, faults):
            if bucket.has(block):  # stored or restored while this one was being read; it must not be replaced unseen
                return False
            try:
                directory.rename(name, bucket, block)
            except FileNotFoundError:
                continue
            self.count_in(file_size)
            # The new name first: a crash between the two may show the file twice, never nowhere.
            self.sync(bucket)
            kept.forget_reason(directory, name)
            directory.sync()
            log.info("block restored block=%s from=%s", block, os.path.join(directory.path, name))
            return True
        return False

    def quarantined(self):
        """[Kept, …] in quarantine/, sorted by name."""
        return self._kept("quarantine")

    def aside(self):
        """[Kept, …] in aside/, sorted by name."""
        return self._kept("aside")

    def kept_since(self):
        """A value that changes when quarantine/ or aside/ does: two stats, so it may be asked each second."""
        try:
            return tuple(self._top.stat(name).st_mtime_ns for name in ("aside", "quarantine"))
        except OSError as e:
            raise disk.ours(e, self.path) from e

    def _kept(self, name):
        try:
            with self._top.below(name) as directory:
                return kept.listed(directory)
        except OSError as e:
            raise disk.ours(e, os.path.join(self.path, name)) from e

    # -- all of them
    def ids(self):
        """Every block id as 16 bytes, sorted: names alone, no file is opened.

        Each of the 256 directories is read once, sorted and kept packed (16 bytes a block: 16 MB a million), then all are
        merged. One list of Python objects would be as fast and take four times the memory.
        """
        packed = []
        try:
            for name in BUCKETS:
                packed.append(bytes.fromhex("".join(self._names_in(name))))
        except OSError as e:
            raise disk.ours(e, self._blocks.path) from e
        return heapq.merge(*map(_sixteens, packed))

    def ids_in(self, bucket):
        """The block ids in one of BUCKETS, sorted. Raises DiskFault."""
        try:
            return self._names_in(bucket)
        except OSError as e:
            raise disk.ours(e, os.path.join(self._blocks.path, bucket)) from e

    def _names_in(self, bucket):
        return sorted(filter(_BLOCK_ID.fullmatch, os.listdir(os.path.join(self._blocks.path, bucket))))

    def list(self, damaged=None):
        """(block id, bytes of data) of every block, sorted by id, one at a time.

        The size stands in the footer alone (the trailer's length varies), so each is read when its turn comes: a caller
        that streams the list does not wait for a million of them, and a file cut short since the last start shows here.
        A caller that wants names only takes `ids`. Blocks that vanish meanwhile are left out; those made meanwhile may be.
        damaged: called with (block, error) for a file whose footer cannot be believed; it is not listed.
        """
        for raw in self.ids():
            block = raw.hex()
            try:
                with self.open(block) as stored:
                    size = stored.size
            except errors.BlockMissing:
                continue
            except (errors.IntegrityError, errors.DiskFault) as e:
                log.warning("block not listed block=%s detail=%s", block, e)
                if damaged is not None:
                    damaged(block, e)
                continue
            yield block, size

    def sweep(self, slot=None):
        """Remove what crashes left in incoming/; returns how many files.

        slot: only that slot's, when its process is about to start again. None: all, at the daemon's start, before any
        other process of it runs; the counters are then forgotten too, so that the next `space` counts anew.
        """
        n = 0
        try:
            for name in self.incoming.names():
                if slot is None or name.startswith(slot + "~"):
                    n += self._remove(name)
            if slot is None:
                self._counters.forget()
        except OSError as e:
            raise disk.ours(e, self.incoming.path) from e
        return n

    def _remove(self, name):
        try:
            self.incoming.unlink(name)
        except (FileNotFoundError, IsADirectoryError, PermissionError):  # a directory is none of ours
            return 0
        except OSError as e:
            if e.errno != errno.EROFS:  # a read-only disk serves what it has: the next start sweeps
                raise
            return 0
        return 1

    # -- room
    def space(self):
        """Space(used, free, n_blocks): bytes of files under blocks/, free bytes without the reserve, number of blocks.

        The first call after a start counts all files; later ones read the counters that all processes keep.
        """
        try:
            counted, used, n_blocks = self._counters.read()
        except OSError:
            counted = 0
        if not counted:
            used, n_blocks = self.count()
        return Space(max(0, used), max(0, self._free() - self.reserve), max(0, n_blocks))

    def count(self):
        """(bytes, number) of all block files, from the directories; sets the counters. One stat a block."""
        used = n_blocks = 0
        try:
            for name in BUCKETS:
                with os.scandir(os.path.join(self._blocks.path, name)) as entries:
                    for entry in entries:
                        if _BLOCK_ID.fullmatch(entry.name):
                            used, n_blocks = used + _size(entry), n_blocks + 1
        except OSError as e:
            raise disk.ours(e, self._blocks.path) from e
        self._counters.set(used, n_blocks)
        return used, n_blocks

    def _free(self):
        try:
            if hasattr(os, "statvfs"):
                facts = os.statvfs(self._top.fd if self._top.fd is not None else self.path)
                return facts.f_bavail * facts.f_frsize
            import shutil  # Windows

            return shutil.disk_usage(self.path).free
        except OSError as e:
            raise disk.ours(e, self.path) from e

    def _promise(self, size):
        """Hold room for a block. Bytes already written count twice until it ends: near the brim that errs on the safe side."""
        free = self._free()
        with self._lock:
            room = free - self.reserve - self._promised
            if room < size:
                raise errors.NoRoom(size=size, detail=f"{max(0, room)} bytes are free in {self.path} beside the reserve")
            self._promised += size

    def end_promise(self, size):
        """The block that `begin` held room for has ended, one way or the other."""
        with self._lock:
            self._promised -= size

    def count_in(self, file_size, n_blocks=1):
        """Block files of so many bytes have come under blocks/."""
        self._counters.add(file_size, n_blocks)


def _sixteens(packed):
    for at in range(0, len(packed), 16):
        yield packed[at:at + 16]


def _size(entry):
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # dropped since it was listed
        return 0
