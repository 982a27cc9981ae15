"""Keepers that are to be emptied: which blocks are looked at when, how far it has come, and what still blocks it.

Never copies or drops: `plan/repair` does not count a draining keeper's replicas, so repair makes them elsewhere and drops them here.
Feeder hands repair the blocks of draining keepers, a few thousand of each at a time, so that one that is stuck fills no queue and
stops no other.

    Drain ─▶ catalog (durable), live table        Feeder, each step: blocks of each draining keeper ─▶ Repairer.notice
    a block that nobody can take stays queued with its reason; the Feeder goes on with the ones behind it
"""

import re
import threading
from collections import Counter

from dfs_lib import model
from dfs_lib.catalog import operations
from dfs_lib.plan import repair
from dfs_lib.wire import messages

# Blocks of one keeper that repair has before it at once, those fed in one step, and the rest after all have been looked at.
OPEN_MOST = 4000
PAGE = 500
ROUND_S = 30.0
# Without any change for so long, those that wait are stuck: the next ones are looked at.
STUCK_S = 30.0
# Blocks that a report looks at: enough for its reasons, and for the size of what is left.
SAMPLE = 500
# Blocks that are looked at for one that a present file has.
EXAMPLES = 20
# What the planner says of a block that stays where it is; other reasons are those for which it was queued.
_is_planned = re.compile(r"good|others are confirmed|the order waits").search
# What is left is measured so often; a rate goes over at least so long, and over this at most.
MEASURE_EVERY_S, RATE_LEAST_S, RATE_MOST_S = 0.5, 1.0, 60.0


class Measured:
    """What draining keepers had left and what was copied of it, and when: measured by the clock and not by who asks, so that the first
    question gets a rate. Copies count, and not only what has gone: repair makes all copies before it lets go of the replicas here."""

    def __init__(self):
        self._lock = threading.Lock()
        self._samples = {}  # guarded by _lock: number → [(monotonic seconds, blocks left, bytes left, bytes copied)], the oldest first
        self._begun = {}  # guarded by _lock: number → (blocks, bytes) at its first sample
        self._copied = {}  # guarded by _lock: number → [blocks, bytes] copied since

    def note(self, number, now_s, n_left, bytes_left):
        with self._lock:
            if number not in self._begun:
                self._begun[number], self._copied[number], self._samples[number] = (n_left, bytes_left), [0, 0], []
            samples = self._samples[number]
            while len(samples) > 1 and now_s - samples[1][0] > RATE_MOST_S:
                samples.pop(0)
            samples.append((now_s, n_left, bytes_left, self._copied[number][1]))

    def copied(self, numbers, size):
        """A block of `size` bytes that these keepers have has another copy now."""
        with self._lock:
            for number in numbers:
                if number in self._copied:
                    self._copied[number][0] += 1
                    self._copied[number][1] += size

    def keep(self, numbers):
        """Forget all keepers but these."""
        with self._lock:
            for number in self._begun.keys() - numbers:
                del self._begun[number], self._copied[number], self._samples[number]

    def pace(self, number, now_s, n_left, bytes_left):
        """(bytes a second over the last minute, None when that is not known yet; bytes still to be copied)."""
        with self._lock:
            if number not in self._begun:
                return None, bytes_left
            (n_begun, bytes_begun), (n_copied, bytes_copied) = self._begun[number], self._copied[number]
            then_s, n_then, bytes_then, copied_then = self._samples[number][0]
        # Of many blocks the bytes are a guess that wavers by more than goes in a minute: their number is exact.
        mean = bytes_left / max(1, n_left)
        to_copy = bytes_begun - bytes_copied if n_begun <= SAMPLE else int((n_begun - n_copied) * mean)
        to_copy = max(0, min(bytes_left, to_copy))
        if now_s - then_s < RATE_LEAST_S:
            return None, to_copy
        gone = bytes_then - bytes_left if n_then <= SAMPLE else (n_then - n_left) * mean
        return max(0.0, gone, bytes_copied - copied_then) / (now_s - then_s), to_copy


def _left(queries, number):
    """(blocks left, bytes left, a guess when they are many, [(block, size)] of the first of them)."""
    n_left, sample = queries.n_blocks_of_keeper(number), queries.blocks_of_keeper(number, "", SAMPLE)
    return n_left, sum(size for _block, size in sample) * max(1, n_left) // max(1, len(sample)), sample


class _Feed:
    """Where the feeder stands with one keeper."""

    def __init__(self, now_s):
        self.after, self.open, self.next_round_s, self.moved_s = "", set(), now_s, now_s


class Feeder:
    """Owned by the ticker."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._feeds = {}  # number → _Feed
        self._measure_s = 0.0

    def step(self, now_s):
        """Hand repair the next blocks of each draining keeper."""
        draining = {keeper.number for keeper in self._t.live.keepers() if keeper.draining}
        self._t.drained.keep(draining)
        if draining and now_s >= self._measure_s:
            self._measure_s = now_s + MEASURE_EVERY_S
            for number in draining:
                n_left, bytes_left, _sample = _left(self._t.queries(), number)
                self._t.drained.note(number, now_s, n_left, bytes_left)
        for number in [number for number in self._feeds if number not in draining]:
            del self._feeds[number]
        if draining and not self._t.safemode() and not self._repairer.held():
            for number in draining:
                feed = self._feeds.get(number)
                if feed is None:
                    feed = self._feeds[number] = _Feed(now_s)
                self._feed(number, feed, now_s)

    def _feed(self, number, feed, now_s):
        n_before = len(feed.open)
        feed.open = self._repairer.pending(feed.open)
        if len(feed.open) < n_before:
            feed.moved_s = now_s
        elif now_s - feed.moved_s >= STUCK_S:
            feed.open, feed.moved_s = set(), now_s
        if now_s < feed.next_round_s or len(feed.open) > OPEN_MOST - PAGE:
            return
        page = self._t.queries().blocks_of_keeper(number, feed.after, PAGE)
        blocks = {block for block, _size in page}
        new = blocks - self._repairer.pending(blocks)  # what waits keeps its time
        if new:
            self._repairer.notice(new)
            feed.open |= new
        if len(page) == PAGE:
            feed.after = page[-1][0]
        else:
            feed.after, feed.next_round_s = "", now_s + ROUND_S


class Draining:
    """Handler of Drain."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer

    def table(self):
        return {messages.Drain: self.drain}

    def drain(self, message, exchange):
        t = self._t
        numbers = [t.live.number_of(each) for each in message.keepers]
        if message.draining is not None:
            for number in numbers:
                self._set(t.live.get(number), message.draining)
        elif not numbers:
            numbers = [keeper.number for keeper in t.live.keepers() if keeper.draining]
        return messages.DrainReport(keepers=[self.report(t.live.get(number)) for number in numbers])

    def _set(self, keeper, draining):
        t = self._t
        if keeper.draining == draining:
            return
        t.database.apply(operations.SetDraining(keeper=keeper.id, draining=draining, at=t.wall()))
        t.live.set_draining(keeper.number, draining)
        # What waits for a place may have one now; copies made meanwhile are surplus when its own count again.
        self._repairer.keeper_back()
        t.stirred.set()

    def report(self, keeper):
        """One keeper as DrainReport has it."""
        queries, now_s = self._t.queries(), self._t.clock()
        n_left, bytes_left, sample = _left(queries, keeper.number)
        rate, to_copy = self._t.drained.pace(keeper.number, now_s, n_left, bytes_left) if keeper.draining else (0.0, bytes_left)
        outlooks = [(block, *self._repairer.outlook(block)) for block, _size in sample] if keeper.draining else []
        progress = repair.drain_progress(n_left, bytes_left, rate or 0.0, to_copy)
        text = progress.text if keeper.draining else f"not draining: it has {n_left} block{'' if n_left == 1 else 's'}"
        why = self._why_nothing(keeper) or ("it has just begun" if rate is None else "")
        if not why and rate == 0 and any(running is not None for _block, _queued, running in outlooks):
            why = "its first blocks are being copied"
        if keeper.draining and n_left and why:
            text = f"{progress.text.partition(';')[0]}; {why}"
        return {"keeper_id": keeper.id, "name": keeper.name, "state": keeper.state, "draining": keeper.draining, "blocks_left": n_left,
                "bytes_left": bytes_left, "eta_s": progress.eta_s if keeper.draining else None, "text": text[:1000],
                "blockers": self._blockers(queries, outlooks)}

    def _why_nothing(self, keeper):
        """What holds the whole keeper up, or ""."""
        if why := self._t.safemode() or self._repairer.held():
            return why
        if keeper.state == model.DEAD:
            word = model.state_word(keeper.state, keeper.clean_stop)
            return (f"it is {word}: its blocks are copied from their other keepers, and it can drop none; "
                    "if it will never return, `dfs admin forget` lets go of it")
        return ""

    def _blockers(self, queries, outlooks):
        """Reasons why blocks do not move now, the most frequent first, each with an example by path: "/" when only removed files have them."""
        reasons, examples = Counter(), {}
        for block, queued, running in outlooks:
            if queued is None or running is not None or queued.reason.endswith("waiting for its turn") or not _is_planned(queued.reason):
                continue  # it moves, or has yet to be planned
            reasons[queued.reason] += 1
            examples.setdefault(queued.reason, []).append(block)
        found = []
        for reason, n in reasons.most_common(8):
            named = (places[0][0] for block in examples[reason][:EXAMPLES] if (places := queries.paths_of_block(block)))
            found.append({"reason": reason[:1000], "n": n, "path": next(named, "/")})
        return found


def whose(blocker):
    """Of which files its blocks are, for a sentence."""
    return f"such as {blocker['path']}" if blocker["path"] != "/" else "of removed files"
