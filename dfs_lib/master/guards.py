"""What waits for a human: drops that nobody can explain, and the word that a keeper will never return.

The planner drops only what is surplus by the catalog's account. A catalog that is wrong, or a fault in the planner, must not empty a
disk before somebody has looked, so a surplus replica goes at once only when this reign knows why there is one too many:

    explained   its keeper is being drained; repair or a rebalance made another copy of that block; somebody has lowered `--copies`
    counted     anything else, such as surplus found after a restart of the master: up to dropping.FLOOR blocks, or dropping.SHARE of
                the keeper's blocks, within dropping.WINDOW_S; what is beyond stays where it is, counts as a copy, and is pending

Blocks that no version refers to (files that users removed, uploads given up) are no surplus and never held: the catalog has let go of
them in a transaction that a user asked for. Each drop order says whether it is explained or approved; keepers count the others for
themselves and refuse what is too much.
"""

import logging
import threading
from collections import Counter

from dfs_lib import dropping, errors, model
from dfs_lib.catalog import operations
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

# Blocks whose surplus is explained, and those vouched for or held, that are remembered: the oldest go first, some 200 bytes each.
MOST = 200_000
# A held drop that the planner has not asked for again for so long has become moot: every sweep asks again.
STALE_S = 200.0
# How long an approval is good for.
APPROVAL_S = 3600.0
BATCH = 1000


class Guard:
    """Asked before surplus is dropped. One instance, part of the tracker."""

    def __init__(self, live, clock, alarm):
        self._live, self._clock, self._alarm = live, clock, alarm
        self._lock = threading.Lock()
        # All guarded by _lock.
        self._explained = {}  # block → drops of it that are explained
        self._vouched = {}  # (number, block) → None: explained or approved, until confirmed
        self._windows = {}  # number → dropping.Window
        self._held = {}  # block → (number, when the planner last asked); one place a block, although it may choose another each time
        self._n_held = Counter()  # of these, by number
        self._refused = {}  # number → {block: when its keeper last refused}
        self._approved = {}  # number → (drops that are still approved, until_s)

    def explain(self, blocks, n=1):
        """There will be up to n replicas too many of these: a copy was made, or fewer are wanted."""
        with self._lock:
            for block in blocks:
                self._explained[block] = min(model.MAX_COPIES, self._explained.pop(block, 0) + n)
            _trim(self._explained)

    def admit(self, drops):
        """Those of these repair.Drop that may be made now; the others are held."""
        now_s, admitted, news = self._clock(), [], set()
        draining = {keeper.number: keeper.draining for keeper in self._live.keepers()}
        with self._lock:
            for drop in drops:
                if self._is_explained(drop, draining.get(drop.keeper)):
                    self._vouched[drop.keeper, drop.block] = None
                elif self._room(drop.keeper, now_s):
                    self._windows[drop.keeper].add(1, now_s)
                elif self._use_approval(drop.keeper, now_s):
                    self._vouched[drop.keeper, drop.block] = None
                else:
                    self._hold(drop, now_s)
                    news.add(drop.keeper)
                    continue
                self._let_go(drop.block)
                admitted.append(drop)
            _trim(self._vouched)
        self._tell(news)
        return admitted

    def sift(self, drops):
        """Those of these repair.Drop that `admit` would now have a reason to let through; the others are held, and not worth more work."""
        now_s, hopeful, news, asked = self._clock(), [], set(), Counter()
        draining = {keeper.number: keeper.draining for keeper in self._live.keepers()}
        with self._lock:
            for drop in drops:
                if draining.get(drop.keeper) or self._explained.get(drop.block, 0) > 0:
                    hopeful.append(drop)
                    continue
                n, until_s = self._approved.get(drop.keeper, (0, 0.0))
                if asked[drop.keeper] < self._room(drop.keeper, now_s) + (n if now_s < until_s else 0):
                    asked[drop.keeper] += 1
                    hopeful.append(drop)
                else:
                    self._hold(drop, now_s)
                    news.add(drop.keeper)
        self._tell(news)
        return hopeful

    def _hold(self, drop, now_s):
        self._let_go(drop.block)
        self._held[drop.block] = drop.keeper, now_s
        self._n_held[drop.keeper] += 1
        while len(self._held) > MOST:
            self._let_go(next(iter(self._held)))

    def _is_explained(self, drop, is_draining):
        if is_draining:
            return True
        n = self._explained.pop(drop.block, 0)
        if n > 1:
            self._explained[drop.block] = n - 1
        return n > 0

    def _room(self, number, now_s):
        keeper = self._live.get(number)
        return self._windows.setdefault(number, dropping.Window()).room(keeper.n_blocks if keeper else 0, now_s)

    def _use_approval(self, number, now_s):
        n, until_s = self._approved.pop(number, (0, 0.0))
        if n > 1 and now_s < until_s:
            self._approved[number] = (n - 1, until_s)
        return n > 0 and now_s < until_s

    def _let_go(self, block):
        number, _at_s = self._held.pop(block, (None, None))
        if number is not None:
            self._n_held[number] -= 1

    def vouched(self, number, blocks):
        """Those of these blocks whose drop on that keeper is explained or approved."""
        with self._lock:
            return {block for block in blocks if (number, block) in self._vouched}

    def dropped(self, number, blocks):
        """The keeper has done it."""
        with self._lock:
            for block in blocks:
                self._vouched.pop((number, block), None)
                self._refused.get(number, {}).pop(block, None)

    def refused(self, number, blocks):
        """The keeper wants an approval."""
        with self._lock:
            waiting, now_s = self._refused.setdefault(number, {}), self._clock()
            for block in blocks:
                waiting.pop(block, None)
                waiting[block] = now_s
            _trim(waiting)
        self._tell({number})

    def pending(self):
        """[(number, held blocks, blocks refused by the keeper)] of what waits for an approval."""
        now_s, found = self._clock(), []
        with self._lock:
            for block in [block for block, (_number, at_s) in self._held.items() if now_s - at_s >= STALE_S]:
                self._let_go(block)
            for number in list(self._refused):
                self._refused[number] = {block: at_s for block, at_s in self._refused[number].items() if now_s - at_s < STALE_S}
            held = {}
            for block, (number, _at_s) in self._held.items():
                held.setdefault(number, []).append(block)
            for number in sorted({*held, *self._refused}):
                found.append((number, held.get(number, []), list(self._refused.get(number, ()))))
        return [each for each in found if (each[1] or each[2]) and self._live.get(each[0]) is not None]

    def approve(self, number):
        """(held blocks, refused ones) that may go now."""
        with self._lock:
            held, refused = [block for block, place in self._held.items() if place[0] == number], list(self._refused.pop(number, ()))
            for block in held:
                self._let_go(block)
            if held:
                self._approved[number] = (len(held), self._clock() + APPROVAL_S)
            for block in refused:
                self._vouched[number, block] = None
        self._tell({number})
        return held, refused

    def _tell(self, numbers):
        for number in numbers:
            with self._lock:
                n = self._n_held[number] + len(self._refused.get(number, ()))
            said = "" if not n else (f"replicas on k{number} that nobody can explain are to be dropped: `dfs admin pending` shows them, "
                                     "none goes before `dfs admin approve`")
            if self._alarm(f"drops-{number}", said) and said:
                log.error("drops held keeper=k%s n=%s", number, n)

    def look(self):
        """Now and then: end alarms about what has become moot."""
        with self._lock:
            before = {number for number, n in self._n_held.items() if n} | {number for number, blocks in self._refused.items() if blocks}
        if before:
            self._tell(before - {number for number, _held, _refused in self.pending()})


def _trim(table):
    while len(table) > MOST:
        del table[next(iter(table))]


class Guards:
    """Handlers of Pending and Forget."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer

    def table(self):
        return {messages.Pending: self.pending, messages.Forget: self.forget}

    def pending(self, message, exchange):
        """List what waits, and approve what is asked for: it is planned again, so it goes only if it is still surplus."""
        for each in message.approve:
            number = self._t.live.number_of(each)
            held, refused = self._t.guard.approve(number)
            log.warning("drops approved keeper=k%s n=%s by=%s", number, len(held) + len(refused), exchange.peer.identity)
            for start in range(0, len(held), BATCH):
                self._repairer.notice(held[start:start + BATCH])
            if refused:
                self._repairer.order_drops_of(number)
        return messages.PendingListed(pending=[self._entry(*each) for each in self._t.guard.pending()])

    def _entry(self, number, held, refused):
        keeper, blocks = self._t.live.get(number), held + refused
        places = self._t.queries().paths_of_block(blocks[0])
        why = "surplus by the catalog, and nothing in this reign says why" if held else "the keeper itself asks whether it is meant"
        return {"keeper_id": keeper.id, "name": keeper.name, "n": len(blocks), "n_blocks": keeper.n_blocks, "reason": why,
                "path": places[0][0] if places else None}

    # -- a keeper that will never return --------------------------------------------------------------------------------
    def forget(self, message, exchange):
        """Let go of a dead keeper and of every replica it had. Refused while that would lose the last trace of a block."""
        t, number = self._t, self._t.live.number_of(message.keeper)
        keeper = t.live.get(number)
        if keeper.state != model.DEAD or keeper.connected or t.safemode():
            why = t.safemode() or f"it is {keeper.state}: stop it first, or `dfs drain {keeper.name}` empties it without any risk"
            raise errors.Refusal(detail=f"{keeper.name} is not forgotten: {why}")
        with exchange.working():
            n_last, example = (0, None) if message.force else self._last_copies(number)
            if n_last:
                raise errors.Refusal(detail=f"{keeper.name} has the only copy, or the only one on a keeper that lives, of {n_last} block(s), "
                                     f"such as one of {example}: bring it back, or let go of them with --force")
            n = self._lose_all(number)
            t.orders.give_up(t.clock(), {number})
            t.database.apply(operations.ForgetKeeper(keeper=keeper.id, at=t.wall()))
            t.live.forget(number)
            t.traffic.forget(number)
            t.uploads.forget_strays_of(number)
        log.warning("keeper forgotten keeper=k%s id=%s replicas=%s by=%s", number, keeper.id, n, exchange.peer.identity)
        self._repairer.keeper_back()  # what waited for its return waits no more
        return messages.Done(facts={"name": keeper.name, "replicas": n})

    def _pages(self, number):
        queries, after = self._t.queries(), ""
        while page := queries.blocks_of_keeper(number, after, BATCH):
            yield [block for block, _size in page]
            after = page[-1][0]

    def _last_copies(self, number):
        """(blocks without a good copy elsewhere, the path of one)."""
        queries, counted, n, example = self._t.queries(), self._t.live.counted(), 0, None
        for blocks in self._pages(number):
            for block in blocks:
                if not counted.intersection(queries.replicas(block)):
                    n += 1
                    if example is None:
                        example = next((path for path, _version, _index in queries.paths_of_block(block)), None)
        return n, example or "a removed file"

    def _lose_all(self, number):
        """In steps, so that no transaction is long. -> replicas forgotten"""
        n = 0
        for blocks in self._pages(number):
            n += len(self._t.database.apply(operations.LoseReplicas(keeper=number, blocks=blocks, reason="keeper forgotten", at=self._t.wall())))
            self._repairer.notice(blocks)
        return n
