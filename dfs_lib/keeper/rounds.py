"""The scrub that runs by itself: every block of a keeper read again once in a set time, round after round, between its transfers.

Never decides what a damaged block means: `scrubber.verify` puts it away and tells. Never hurries past a reader: while transfers
are under way it waits, as long as it is not late.

    a round      blocks/00 … ff, in each the ids in order. The directories fill evenly (they are the random end of an id), so each
                 has one 256th of the time, and each block in it an equal share of that: a disk is busy a little all the time
    its end      the whole inventory is told, because a file that has gone is none that could be read; then the next round
    behind       (it was off, or busy) blocks follow each other HURRY times as fast until the round is where it should be

    DIRECTORY/scrub.json   where the round is, one JSON object, written whole every now and then and at the end:
    {"round": 1 …, "bucket": 0 … 255, "after": the last id read there, "began_at": Unix seconds, "n", "size", "n_bad": so far,
     "ended_at", "ended_bad": of the round before, null before the first has ended}
    Lost or not to be read: a new round begins. It is a place and no promise: what was read behind it is read again.

Wall time is used once, at a start: how long this keeper was away. A clock that jumps makes a round hurry, or take its whole time
once more, and nothing else (F20).
"""

import bisect
import json
import logging
import threading
import time
from collections import namedtuple

from dfs_lib import errors
from dfs_lib.keeper import disk, scrubber
from dfs_lib.keeper.home import BUCKETS
from dfs_lib.model import CHUNK_SIZE, MIB

log = logging.getLogger(__name__)

DAY_S = 86_400.0
_NAME, _NEW = "scrub.json", ".scrub.json.new"
# How much faster than evenly a late round goes.
HURRY = 4
# Bytes a second inside one block, or HURRY times what an even pace needs: 64 MiB in 8 s leave a slow disk most of its time.
BLOCK_RATE = 8 * MIB
# Before each chunk: so long for transfers under way to end, looked for so often. Skipped once this share of a period late.
YIELD_S, LOOK_S = 1.0, 0.02
_LATE = 0.05
# The place is written at most so often, and 256 times a round: a crash costs so much reading.
SAVE_EVERY_S = 30.0
# A directory that could not be listed, or an empty store, is looked at again after so long.
_REST_S = 60.0

# Where a round is, for people. share: 0 to 1; left_s: until it ends, at its pace; ended_at, ended_bad: of the one before, or None
State = namedtuple("State", "round share left_s blocks bad ended_at ended_bad")


class Rounds:
    """`run` in a thread of its own until `stop`.

    store: Store; tell(event); is_busy() → whether transfers are under way; report(): have the whole inventory told;
    period_s: seconds for one round; rate: bytes a second that are never exceeded, 0: none
    """

    def __init__(self, store, tell, is_busy, report, period_s, rate=0, clock=time.monotonic, wall=time.time, wait=None):
        self._store, self._tell, self._is_busy, self._report = store, tell, is_busy, report
        self._period_s, self._rate, self._clock, self._wall = period_s, rate, clock, wall
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._save_every_s = min(SAVE_EVERY_S, period_s / len(BUCKETS))
        self._saved_s = clock()
        self._place = self._load()
        self._started_s = clock() - self._elapsed_s()
        self._share, self._last_s = self._place["bucket"] / len(BUCKETS), float("-inf")
        self._block_rate = BLOCK_RATE

    # -- the place --------------------------------------------------------------------------------------------------------
    def _load(self):
        try:
            with disk.Directory(self._store.path) as top, open(top.open(_NAME, disk.READ), "rb") as file:
                place = json.loads(file.read(64 * 1024))
            return _checked(place)
        except FileNotFoundError:
            pass  # the first round of all
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as e:
            log.warning("the scrub begins anew, its place cannot be read reason=%s", e)
        return {"round": 1, "bucket": 0, "after": "", "began_at": self._wall(), "n": 0, "size": 0, "n_bad": 0,
                "ended_at": None, "ended_bad": None}

    def _elapsed_s(self):
        """How much of the round's time has gone: by the clock on the wall, but never so that it would wait for what it has done."""
        done_s = self._period_s * self._place["bucket"] / len(BUCKETS)
        return max(done_s, min(self._wall() - self._place["began_at"], self._period_s))

    def _save(self, now_s):
        self._saved_s = now_s
        try:
            with disk.Directory(self._store.path) as top:
                disk.write_file(top, _NAME, json.dumps(self._place).encode() + b"\n", _NEW)
        except OSError as e:
            log.warning("the place of the scrub could not be written reason=%s", e)

    def state(self):
        """State of now. For any thread: it reads numbers that were whole when they were set."""
        place, left_s = self._place, self._started_s + self._period_s - self._clock()
        return State(place["round"], round(self._share, 4), max(0.0, left_s), place["n"], place["n_bad"], place["ended_at"], place["ended_bad"])

    # -- life ---------------------------------------------------------------------------------------------------------------
    def run(self):
        """Round after round until `stop`."""
        buffer = bytearray(CHUNK_SIZE)
        try:
            while True:
                self._round(buffer)
        except scrubber.Stopped:
            self._save(self._clock())

    def stop(self):
        """Have `run` end soon, with its place written."""
        self._stopping.set()

    def _pause(self, seconds):
        """Wait. Raises Stopped when it is time to stop."""
        while True:
            if self._wait(max(0.0, min(seconds, _REST_S))):
                raise scrubber.Stopped
            seconds -= _REST_S
            if seconds <= 0:
                return

    # -- a round ------------------------------------------------------------------------------------------------------------
    def _round(self, buffer):
        for bucket in range(self._place["bucket"], len(BUCKETS)):
            if bucket != self._place["bucket"]:
                self._place = {**self._place, "bucket": bucket, "after": ""}
            self._bucket(bucket, buffer)
        self._share = 1.0
        self._pause(self._started_s + self._period_s - self._clock())
        self._end()

    def _bucket(self, bucket, buffer):
        try:
            blocks = self._store.ids_in(BUCKETS[bucket])
        except errors.DfsError as e:
            log.error("the scrub passes a directory over directory=%s reason=%s", BUCKETS[bucket], e.message)
            self._pause(min(_REST_S, self._period_s / len(BUCKETS)))
            return
        slot_s = self._period_s / len(BUCKETS) / max(1, len(blocks))
        for at in range(bisect.bisect_right(blocks, self._place["after"]), len(blocks)):
            self._share = (bucket + at / len(blocks)) / len(BUCKETS)
            self._pause(max(self._due_s(), self._last_s + slot_s / HURRY) - self._clock())
            self._last_s = self._clock()
            self._read(blocks[at], slot_s, buffer)

    def _due_s(self):
        return self._started_s + self._share * self._period_s

    def _read(self, block, slot_s, buffer):
        """One block, and where the round is now."""
        told, total, found = [], scrubber.Sum(), None
        try:
            self._block_rate = max(BLOCK_RATE, HURRY * self._store.size_of(block) / slot_s)
            if self._rate:
                self._block_rate = min(self._block_rate, self._rate)
            self._yield()
            found = scrubber.verify(self._store, block, lambda event: (told.append(event), self._tell(event)), self._after_chunk, buffer,
                                    expected=False, total=total)
        except errors.DfsError as e:
            log.warning("the scrub could not read a block block=%s reason=%s", block, e.message)
        n_bad = sum(event["kind"] == "bad" for event in told)
        if found is not None:
            self._tell({"kind": "scrubbed", "block": block, "n": 1, "size": found, "sha256": total.hexdigest()})
        place = self._place
        self._place = {**place, "after": block, "n": place["n"] + (found is not None), "size": place["size"] + (found or 0),
                       "n_bad": place["n_bad"] + n_bad}
        now_s = self._clock()
        if now_s - self._saved_s >= self._save_every_s:
            self._save(now_s)

    def _after_chunk(self, n):
        self._pause(min(n / self._block_rate, scrubber.MAX_PAUSE_S))
        self._yield()

    def _yield(self):
        """Let transfers go first, unless the round is late."""
        end_s = self._clock() + YIELD_S
        while self._is_busy() and self._clock() < min(end_s, self._due_s() + _LATE * self._period_s):
            self._pause(LOOK_S)

    def _end(self):
        place, now_s = self._place, self._clock()
        log.info("scrub round ended round=%s blocks=%s size=%s bad=%s took_s=%.0f", place["round"], place["n"], place["size"], place["n_bad"],
                 now_s - self._started_s)
        self._place = {"round": place["round"] + 1, "bucket": 0, "after": "", "began_at": self._wall(), "n": 0, "size": 0, "n_bad": 0,
                       "ended_at": self._wall(), "ended_bad": place["n_bad"]}
        self._share, self._started_s = 0.0, now_s
        self._save(now_s)
        self._report()


def _checked(place):
    """A place as it was written. Raises ValueError, LookupError or TypeError for anything else."""
    counts = [place[name] for name in ("round", "bucket", "n", "size", "n_bad")]
    if not all(type(one) is int and one >= 0 for one in counts) or place["bucket"] >= len(BUCKETS):
        raise ValueError("its numbers make no sense")
    if not isinstance(place["after"], str) or place["ended_bad"] is not None and type(place["ended_bad"]) is not int:
        raise ValueError("its last block makes no sense")
    for name in ("began_at", "ended_at"):
        if place[name] is not None or name == "began_at":
            place[name] = float(place[name])
    return place
