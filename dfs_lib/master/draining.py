"""Keepers that are to be emptied: which blocks are looked at when, how far it has come, and what still blocks it.

Never copies or drops: `plan/repair` does not count a draining keeper's replicas, so repair makes them elsewhere and drops them here.
Feeder hands repair the blocks of draining keepers, a few thousand of each at a time, so that one that is stuck fills no queue and
stops no other.

    Drain ─▶ catalog (durable), live table        Feeder, each step: blocks of each draining keeper ─▶ Repairer.notice
    a block that nobody can take stays queued with its reason; the Feeder goes on with the ones behind it
"""

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
# A rate is measured over at least so long, and over this at most.
RATE_LEAST_S, RATE_MOST_S = 0.5, 60.0


class _Feed:
    """Where the feeder stands with one keeper."""

    def __init__(self, now_s):
        self.after, self.open, self.next_round_s, self.moved_s = "", set(), now_s, now_s


class Feeder:
    """Owned by the ticker."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._feeds = {}  # number → _Feed

    def step(self, now_s):
        """Hand repair the next blocks of each draining keeper."""
        draining = {keeper.number for keeper in self._t.live.keepers() if keeper.draining}
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
        self._lock = threading.Lock()
        self._samples = {}  # guarded by _lock: number → [(monotonic seconds, bytes left)], the oldest first

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
        with self._lock:
            self._samples.pop(keeper.number, None)
        # What waits for a place may have one now; copies made meanwhile are surplus when its own count again.
        self._repairer.keeper_back()

    def report(self, keeper):
        """One keeper as DrainReport has it."""
        queries = self._t.queries()
        n_left = queries.n_blocks_of_keeper(keeper.number)
        sample = queries.blocks_of_keeper(keeper.number, "", SAMPLE)
        bytes_left = sum(size for _block, size in sample) * max(1, n_left) // max(1, len(sample))
        rate = self._rate(keeper.number, bytes_left) if keeper.draining else 0.0
        progress = repair.drain_progress(n_left, bytes_left, rate or 0.0)
        text = progress.text if keeper.draining else f"not draining: it has {n_left} block{'' if n_left == 1 else 's'}"
        why = self._why_nothing(keeper) or ("it has just begun" if rate is None else "")
        if keeper.draining and n_left and why:
            text = f"{progress.text.partition(';')[0]}; {why}"
        return {"keeper_id": keeper.id, "name": keeper.name, "state": keeper.state, "draining": keeper.draining, "blocks_left": n_left,
                "bytes_left": bytes_left, "eta_s": progress.eta_s if keeper.draining else None, "text": text[:1000],
                "blockers": self._blockers(queries, sample) if keeper.draining else []}

    def _why_nothing(self, keeper):
        """What holds the whole keeper up, or ""."""
        if why := self._t.safemode() or self._repairer.held():
            return why
        if keeper.state == model.DEAD:
            word = model.state_word(keeper.state, keeper.clean_stop)
            return (f"it is {word}: its blocks are copied from their other keepers, and it can drop none; "
                    "if it will never return, `dfs admin forget` lets go of it")
        return ""

    def _rate(self, number, bytes_left):
        """Bytes a second that have left since the oldest sample, None when that is not known yet."""
        now_s = self._t.clock()
        with self._lock:
            samples = self._samples.setdefault(number, [(now_s, bytes_left)])
            while len(samples) > 1 and now_s - samples[1][0] > RATE_MOST_S:
                samples.pop(0)
            if now_s - samples[-1][0] >= RATE_LEAST_S:
                samples.append((now_s, bytes_left))
            then_s, then_left = samples[0]
        return max(0.0, (then_left - bytes_left) / (now_s - then_s)) if now_s - then_s >= RATE_LEAST_S else None

    def _blockers(self, queries, sample):
        """Reasons why blocks do not move now, the most frequent first, each with an example by path: "/" when only removed files have them."""
        reasons, examples = Counter(), {}
        for block, _size in sample:
            queued, running = self._repairer.outlook(block)
            if queued is None or running is not None or queued.reason.endswith("waiting for its turn") or "good" not in queued.reason:
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
