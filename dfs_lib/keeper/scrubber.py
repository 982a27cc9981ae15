"""Reads blocks again and compares checksums: one on demand, or the whole store at once (rounds.py: over days, by itself).

Never deletes: what is damaged goes to quarantine with its reason, and the master is told, which has it made again.
"""

import hashlib
import logging
import os
import time

from dfs_lib import errors
from dfs_lib.keeper import disk, shared
from dfs_lib.model import CHUNK_SIZE, KIB

log = logging.getLogger(__name__)

# What has been verified is told about so often, in sums.
TELL_EVERY_S = 1.0
# A pause is never longer: somebody at the other end of a paced copy waits for the next bytes.
MAX_PAUSE_S = 5.0
_PROBE = b"dfs" + bytes(4 * KIB)


class Stopped(Exception):
    """The keeper stops; what was under way is given up. Not an error of ours: nobody sees it."""


class Pace:
    """Holds a loop back to `rate` bytes a second (0: none); `wait(seconds)` → True when it is time to stop."""

    def __init__(self, rate, wait, clock=time.monotonic):
        self._rate, self._wait, self._clock = rate, wait, clock
        self._done, self._since_s = 0, clock()

    def __call__(self, n):
        """`n` more bytes have been moved."""
        self._done += n
        ahead_s = self._done / self._rate - (self._clock() - self._since_s) if self._rate else 0.0
        if self._wait(min(ahead_s, MAX_PAUSE_S) if ahead_s > 0.001 else 0):
            raise Stopped


class Sum:
    """SHA-256 of a file, taken while its block is read. Only of a file that is one block: a sum goes through a file in order,
    and the other blocks are elsewhere."""

    def __init__(self):
        self._hash = None

    def begin(self, metadata):
        """A block's trailer has been read: is it the whole of its file?"""
        self._hash = hashlib.sha256() if metadata.get("index") == 0 and metadata.get("last") is True else None

    def __call__(self, view):
        if self._hash is not None:
            self._hash.update(view)

    def hexdigest(self):
        """64 hex digits, or None for a part of a file."""
        return self._hash and self._hash.hexdigest()


def verify(store, block, tell, pause=None, buffer=None, expected=True, total=None):
    """Read one block again. Returns its bytes, or None when it was bad and the master has been told (tell(event)).

    expected: whether the master believes that it is here; when not, a block that is missing is no news.
    total: a Sum that takes the bytes.
    """
    try:
        return store.verify(block, buffer, pause, cold=True, total=total)
    except errors.BlockMissing as e:
        if expected:
            tell({"kind": "bad", "block": block, "reason": shared.reason_of(e)})
        return None
    except errors.IntegrityError as e:
        return _is_bad(store, block, e, tell)
    except errors.DiskFault as e:
        # A sector that cannot be read is a bad block; a disk that takes no writes either is a bad disk, left as it is.
        sick = probe(store)
        if sick:
            tell({"kind": "sick", "reason": sick})
            tell({"kind": "bad", "block": block, "reason": shared.reason_of(e)})
            return None
        return _is_bad(store, block, e, tell)


def _is_bad(store, block, error, tell):
    """Out of use first, then told: the other way round, a new copy could arrive and find the bad one in its place."""
    log.warning("damage found block=%s reason=%s", block, error.message)
    try:
        store.quarantine(block, error.message)
    except errors.DfsError as e:
        log.error("block could not be put into quarantine block=%s reason=%s", block, e.message)
    tell({"kind": "bad", "block": block, "reason": shared.reason_of(error)})


def scrub(store, tell, wait, rate=0, order=None, clock=time.monotonic):
    """Verify every block of the store, at most `rate` bytes a second. Returns (blocks, bytes) that were good.

    wait(seconds): see Pace. Progress is told each second as {"kind": "scrubbed", "n", "size"} of the blocks since the last.
    Raises Stopped when `wait` says so.
    """
    pause, buffer = Pace(rate, wait, clock), bytearray(CHUNK_SIZE)
    n_all = size_all = n = size = 0
    told_s = clock()
    for raw in store.ids():
        # One that an order has dropped since it was listed is no damage.
        found = verify(store, raw.hex(), tell, pause, buffer, expected=False)
        if found is not None:
            n, size = n + 1, size + found
        if clock() - told_s >= TELL_EVERY_S:
            tell({"kind": "scrubbed", "order": order, "n": n, "size": size})
            n_all, size_all, n, size, told_s = n_all + n, size_all + size, 0, 0, clock()
    tell({"kind": "scrubbed", "order": order, "n": n, "size": size})
    return n_all + n, size_all + size


def probe(store):
    """"" when the disk takes a small file and syncs it, else why not. Full is no sickness: its figures tell of that."""
    path = os.path.join(store.incoming.path, f"{store.slot}~probe")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            disk.write_all(fd, [_PROBE])
            disk.fsync(fd)
        finally:
            os.close(fd)
            os.unlink(path)
    except OSError as e:
        if e.errno in disk.FULL:
            return ""
        return shared.reason_of(errors.DiskFault(path=store.path, detail=e.strerror or str(e)))
    return ""
