"""How the keeper's disk is: room, sickness, and whether it answers at all. Everything here waits for the disk in one thread of its own.

Never touches a block. The rest of the reporter asks for what was last found out, so that a disk that hangs silences no notice: the
master hears that it hangs.

    well ── a write, a sync or a read failed (fault) ──▶ sick ── after SICK_S a small write is tried ──▶ well, or sick again
    well ── no room although the system speaks of some (full) ──▶ shows no free byte for FULL_S
    well ── the disk's thread has had no answer for `timeout_s` ──▶ hangs ── it answers ──▶ well

The try is a new file with its own descriptor: a failed fsync is never repeated on the descriptor that told of it (F8).
"""

import logging
import threading
import time

from dfs_lib import errors
from dfs_lib.keeper import scrubber, shared

log = logging.getLogger(__name__)

# A fault makes the keeper refuse new blocks for so long; then a small write decides.
SICK_S = 10.0
# A write met a full disk where the system's figures speak of room (a quota does that): no new blocks for so long.
FULL_S = 30.0
# How often room is looked at.
LOOK_S = 1.0


class Health:
    """store: the reporter's Store; changed(): something happened that the master should hear soon; timeout_s: as above.

    Begins with one try of the disk, so that a keeper that starts on a sick disk says so from the first moment.
    """

    def __init__(self, store, changed, timeout_s, clock=time.monotonic):
        self._store, self._changed, self._timeout_s, self._clock = store, changed, timeout_s, clock
        self._lock = threading.Lock()
        self._sick, self._try_s = scrubber.probe(store), clock() + SICK_S  # guarded by _lock: why, and when it is tried again
        self._full_until_s = float("-inf")  # guarded by _lock
        self._asked_s = None  # since when the disk's thread waits for an answer
        self._space = store.space()
        self._wake = threading.Event()
        if self._sick:
            log.error("the disk is sick from the start reason=%s", self._sick)

    # -- what others say and ask --------------------------------------------------------------------------------------------
    def fault(self, reason):
        """A write, sync or read has failed."""
        with self._lock:
            is_news, self._sick, self._try_s = self._sick != reason, reason, self._clock() + SICK_S
        if is_news:
            log.error("the disk failed reason=%s", reason)
            self._changed()

    def full(self):
        """A write found no room."""
        with self._lock:
            is_news = self._full_until_s < self._clock()
            self._full_until_s = self._clock() + FULL_S
        if is_news:
            self._changed()

    def look_soon(self):
        """Have room looked at now: much has changed."""
        self._wake.set()

    @property
    def space(self):
        """store.Space as last seen; no free byte while writes find none."""
        with self._lock:
            is_full = self._clock() < self._full_until_s
        return self._space._replace(free=0) if is_full else self._space

    def sickness(self):
        """Why no new blocks should come here, or ""."""
        asked_s = self._asked_s
        if asked_s is not None and (waited_s := self._clock() - asked_s) > self._timeout_s:
            return f"the disk has not answered for {waited_s:.0f} s"[:1000]
        with self._lock:
            return self._sick

    # -- the disk's thread --------------------------------------------------------------------------------------------------
    def run(self):
        """For ever; a thread's."""
        while True:
            self.look()
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def look(self):
        """Ask the disk what is to be asked now."""
        with self._lock:
            is_due = self._sick and self._clock() >= self._try_s
        self._asked_s = self._clock()
        try:
            self._space = self._store.space()
            if is_due:
                self._try()
        except errors.DfsError as e:
            self.fault(shared.reason_of(e))
        finally:
            self._asked_s = None

    def _try(self):
        before_s, found = self._clock(), scrubber.probe(self._store)
        with self._lock:
            if self._try_s > before_s:
                return  # another fault came meanwhile: it is the newer word
            self._sick, self._try_s = found, self._clock() + SICK_S
        if not found:
            log.info("the disk takes writes again")
            self._changed()
