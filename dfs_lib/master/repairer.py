"""The N-replicates loop: want against have → decisions → operations, then orders. It heals and it spreads, by risk.

Event-driven (`notice`, `keeper_lost`, `keeper_back`) and periodic (`sweep`). Holds no lock over a catalog read that may be long, a
commit, or a wait.

    notice ──▶ queue (by risk, then age) ──▶ plan.repair.plan ──┬─ Copy  → order to a good holder → done → RecordReplicas
                 ▲                                              ├─ Drop  → trimming: proven first, then dropped
                 └──────── order ended, keeper changed ◀────────┤─ Wait  → queued until then
                                                                └─ Leave → gone if healthy, else queued with its reason

What is left when the master dies: before an order, nothing; between an order and RecordReplicas, a replica the keeper reports at its
next registration; between DropReplica and the order, a row in `drops` that is ordered again when the keeper registers.
"""

import logging
import threading

from dfs_lib import errors, model
from dfs_lib.catalog import operations
from dfs_lib.master.balance import Moves
from dfs_lib.master.doubts import Doubts
from dfs_lib.master.trimming import Trimmer
from dfs_lib.plan import repair

log = logging.getLogger(__name__)

# How long a copy may take: connection and fsync, and then bytes at this rate or faster. Then it is planned anew.
COPY_TIMEOUT_S = 30.0
COPY_RATE = 2 * model.MIB
# A block that nobody can help now is looked at again after so long, if no event comes first.
RETRY_S = 30.0
# A copy takes a share of its source's --repair-jobs by its size; a small one at least this much, so that many go at once.
SMALLEST_SHARE = 1 / 32
# Shares that one target may have coming in at once.
MAX_INCOMING = 8.0
# A block whose keepers are busy is planned again when one of their copies ends, or after so long and longer with a long queue.
BUSY_S = 2.0
# Blocks planned in one round, and parked blocks that the end of one copy brings back.
ROUND = 500
PARKED_BACK = 4
# Blocks planned again in a second because nobody could help them before: so few that a long queue costs little.
RETRIES_A_SECOND = 100
# Rows in one step of background work.
BATCH = 500
SWEEP_EVERY_S = 60.0
# After a removal a queue up to this long is planned anew, which ends what is wanted no longer.
LOOKED_THROUGH = 20_000
# More are not queued at once, at some 500 bytes each: lost keepers wait to be scanned, and the sweep finds the others again.
MAX_QUEUED = 200_000


class Repairer:
    """One loop; `start` runs it in a thread, `step` does one round for the simulation."""

    def __init__(self, tracker):
        self._t = tracker
        self.trimmer = Trimmer(tracker, self.notice, self._plan_later, lambda block, number: self.moves.no_longer_leaving(block, {number}))
        self.doubts = Doubts(tracker, self.notice)
        self.moves = Moves(tracker, self)
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._queue = repair.Queue()  # guarded by _lock
        self._running = {}  # guarded by _lock: block → (Copy, size in bytes)
        self._planning = None  # guarded by _lock: the block that is neither queued nor running because it is just being planned
        self._placeless = set()  # guarded by _lock: queued blocks that are short and that no keeper can take
        self._leases = {}  # guarded by _lock: block → serials of the ports leased for its copy
        self._parked = {}  # guarded by _lock: keeper number → {block: None} that wait until it is less busy
        self._outgoing, self._incoming = {}, {}  # guarded by _lock: keeper number → shares under way
        self._avoid = {}  # guarded by _lock: block → {number: until_s} that failed lately for it
        self._to_scan = {}  # guarded by _lock: keeper number whose blocks must all be looked at → the last one seen
        self._next_sweep_s = 0.0
        self._sweep_wanted = False  # look at the indexes of short and surplus blocks anew
        self._rouse_wanted = False  # plan all that waits anew
        self._has_begun = False  # safemode is over, and keepers that never came back are being looked after
        self._stirred = False  # guarded by _lock: something happened since the last round began
        self._held = ""  # guarded by _lock: why nothing is repaired now (mass loss)
        self._budget, self._budget_s = 0.0, tracker.clock()  # bytes that --repair-rate still allows
        self._done_bytes, self._rate, self._rate_s = 0, 0.0, tracker.clock()
        self._thread = None
        self._stopping = False

    # -- events ---------------------------------------------------------------------------------------------------------
    def notice(self, blocks):
        """Something about these blocks changed: plan them."""
        now_s = self._t.clock()
        with self._lock:
            for block in blocks:
                if block in self._queue:
                    self._queue.move(block, now_s, due_s=now_s)
                elif block not in self._running and len(self._queue) < 3 * MAX_QUEUED:
                    self._queue.add(block, 1, now_s, reason="fewer copies than wanted", due_s=now_s)
            self._stir()

    def _stir(self):
        """Have the loop go round. Call it with _lock held. A round that is under way is followed by another."""
        self._stirred = True
        self._wake.notify_all()

    def keeper_lost(self, number):
        """Its replicas do not count any more: every block it had is looked at."""
        with self._lock:
            self._to_scan[number] = ""
            self._stir()

    def keeper_back(self):
        """A keeper's replicas count again, or a new one has room: what waits is planned anew, and surplus is looked for."""
        with self._lock:
            self._sweep_wanted = self._rouse_wanted = True
            self._stir()

    def removed(self):
        """Names went: what waits for copies may be wanted no longer. A long queue finds out by itself, block by block."""
        with self._lock:
            if 0 < len(self._queue) <= LOOKED_THROUGH:
                self._rouse_wanted = True
                self._stir()

    def hold(self, why):
        """Stop repairing while `why` is not empty (F18)."""
        with self._lock:
            self._held = why
            self._stir()

    # -- dropping -------------------------------------------------------------------------------------------------------
    def drop_unreferenced(self, doomed):
        """See Trimmer."""
        self.trimmer.drop_unreferenced(doomed)

    def order_drops_of(self, number):
        """See Trimmer."""
        self.trimmer.order_drops_of(number)

    # -- the loop -------------------------------------------------------------------------------------------------------
    def start(self):
        self._thread = threading.Thread(target=self._run, name="repairer", daemon=True)
        self._thread.start()

    def stop(self):
        with self._lock:
            self._stopping = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)

    def _run(self):
        while not self._stopping:
            with self._lock:
                self._stirred = False
            try:
                busy = self.step()
            except errors.CatalogDamaged:
                log.error("repair stops: the catalog has failed")
                return
            except Exception:
                log.exception("bug in the repair loop")
                self._t.count("repair_bugs")
                busy = False
                self._pause()
            if not busy:
                self._pause()

    def _pause(self):
        with self._lock:
            if not self._stirred and not self._stopping:
                self._wake.wait(0.5)

    def step(self):
        """One round. Returns whether there is more to do at once."""
        t = self._t
        if t.safemode():
            return False
        self._begin()
        now_s = t.clock()
        with self._lock:
            held = self._held
        if held:
            return False
        self._measure(now_s)
        scanned = self._scan()
        if now_s >= self._next_sweep_s or self._sweep_wanted:
            self._next_sweep_s, self._sweep_wanted = now_s + SWEEP_EVERY_S, False
            self._sweep()
        self._rouse(now_s)
        n, idle = 0, False
        try:
            while n < ROUND and not self._is_broke() and not idle:
                idle = not self._repair_one()
                n += not idle
        finally:
            self.trimmer.finish_round()
        if idle:
            self.moves.step()
        return scanned or n == ROUND

    def _begin(self):
        """Once, when safemode is over: keepers that have not come back by now were lost while nobody watched."""
        if not self._has_begun:
            for keeper in self._t.live.keepers():
                if keeper.state == model.DEAD:
                    self.keeper_lost(keeper.number)
                elif keeper.reported:
                    self.order_drops_of(keeper.number)
            self._has_begun = True  # last: see _n_unseen

    def _is_broke(self):
        with self._lock:
            return bool(self._t.settings.repair_rate) and self._budget <= 0

    def _scan(self):
        """Queue blocks of a lost keeper, as many as the queue has room for. Returns whether there are more to be queued at once."""
        with self._lock:
            if not self._to_scan or len(self._queue) >= MAX_QUEUED:
                return False
            number, after = next(iter(self._to_scan.items()))
        queries, n, page = self._t.queries(), 0, True
        while page and n < MAX_QUEUED:
            page = queries.blocks_of_keeper(number, after, BATCH)
            self.notice([block for block, _size in page])
            after, n = page[-1][0] if page else after, n + len(page)
        with self._lock:
            if page:
                self._to_scan[number] = after
            else:
                self._to_scan.pop(number, None)
            more = bool(self._to_scan)
        log.info("repair queued keeper=k%s blocks=%s", number, n)
        return more

    def _sweep(self):
        """Queue what the indexes call short or surplus: what events may have missed. Throw away what time has made void."""
        queries, now_s = self._t.queries(), self._t.clock()
        self._t.guard.look()
        self.trimmer.trim()
        self.doubts.trim(now_s)
        with self._lock:
            for block in [block for block, until_s in self._avoid.items() if max(until_s.values(), default=0.0) <= now_s]:
                del self._avoid[block]
            if not self._queue:
                self._parked.clear()
        for pages in (queries.short, queries.surplus):
            after = ""
            while True:
                page = pages(after, BATCH)
                if not page:
                    break
                now_s = self._t.clock()
                with self._lock:
                    for uneven in page:
                        if not (uneven.block in self._running or uneven.block in self._queue or uneven.block in self.trimmer):
                            risk = repair.RISK_TIDY if uneven.n_replicas > uneven.want else uneven.n_replicas
                            self._queue.add(uneven.block, risk, now_s, reason="found by the sweep")
                    is_full = len(self._queue) >= MAX_QUEUED
                if is_full:
                    break
                after = page[-1].block

    def _rouse(self, now_s):
        """Plan anew all that waits, when something has changed for all: once, however many keepers came back."""
        with self._lock:
            if not self._rouse_wanted:
                return
            self._rouse_wanted = False
            blocks = self._queue.blocks()
        for start in range(0, len(blocks), BATCH):
            with self._lock:
                for block in blocks[start:start + BATCH]:
                    self._queue.move(block, now_s, due_s=now_s)

    def _repair_one(self):
        """Plan and begin the most urgent block that is due. Returns False when there is none."""
        now_s = self._t.clock()
        with self._lock:
            queued = self._queue.pop_due(now_s)
            if queued is None:
                return False
            if queued.block in self._running:
                return True  # planned again when its copy ends
            self._planning = queued.block
            self._placeless.discard(queued.block)
            avoid = self._avoided(queued.block, now_s)
        leaving = self.moves.leaving(queued.block)
        try:
            self._plan(queued, avoid, leaving, now_s)
        finally:
            with self._lock:
                self._planning = None
        return True

    def _plan(self, queued, avoid, leaving, now_s):
        t = self._t
        row = t.queries().block(queued.block)
        if row is None or row.refs == 0:
            self.moves.no_longer_leaving(queued.block, leaving)
            return  # removed meanwhile
        counted = t.live.counted()
        view = repair.BlockView(queued.block, row.size, row.want,
                                {number: number in counted for number in t.queries().replicas(queued.block)}, leaving)
        settings = t.settings
        with t.live.lock:
            views = t.live.views()
            decision = repair.plan(view, views, t.live.field(), t.rng, now_s=now_s, lost_since_s=t.live.lost_since(),
                                   grace_s=settings.repair_grace, clean_stop_grace_s=settings.stop_grace,
                                   clean_stopped=t.live.clean_stopped(), avoid=avoid)
            risk = repair.risk(view, views)
        if risk != repair.RISK_TIDY and self._is_trash(view, views):
            self.moves.no_longer_leaving(queued.block, leaving)
            return
        if isinstance(decision, repair.Copy):
            self._begin_copy(decision, view, queued, now_s)
        elif isinstance(decision, repair.Drop):
            self.trimmer.add(decision, self._stayers(decision, view, views), view.want, view.size)
        elif isinstance(decision, repair.Wait):
            self._put_back(queued, risk, decision.until_s, decision.reason)
        elif risk != repair.RISK_TIDY:
            if risk:
                with self._lock:
                    self._placeless.add(queued.block)
            self._put_back(queued, risk, now_s + RETRY_S, decision.reason, RETRIES_A_SECOND)
        else:
            # A replica that was to leave and is not there to be dropped: the move is over.
            self.moves.no_longer_leaving(queued.block, {number for number in leaving
                                                   if not view.holders.get(number) or views[number].state == model.DEAD})
            if self._is_too_many(view, views):
                # A keeper that is to drop its copy, or whose copy has to be confirmed first, is suspect: that ends without an event.
                self._put_back(queued, risk, now_s + BUSY_S, decision.reason, RETRIES_A_SECOND)

    def _is_trash(self, view, views):
        """Whether only removed versions have it: nothing is copied for them, except to empty a keeper that is drained."""
        return (not any(number in views and views[number].draining for number in view.holders)
                and not self._t.queries().is_named(view.block))

    @staticmethod
    def _is_too_many(view, views):
        """Whether good copies are left to be dropped: more than wanted, or some that are to leave their keeper."""
        good = [number for number, is_confirmed in view.holders.items() if is_confirmed and number in views]
        return len(good) > max(1, view.want) or any(views[number].draining or number in view.leaving for number in good)

    @staticmethod
    def _stayers(drop, view, views):
        """Numbers of the live keepers whose replicas count and are to stay when this drop is made."""
        return {number for number, is_confirmed in view.holders.items()
                if is_confirmed and number in views and number != drop.keeper and number not in view.leaving
                and views[number].state == model.LIVE and not views[number].draining}

    def _plan_later(self, block, due_s, reason):
        """Surplus that cannot be dropped yet."""
        with self._lock:
            if block not in self._running:
                self._queue.add(block, repair.RISK_TIDY, self._t.clock(), reason=reason, due_s=due_s)

    def _put_back(self, queued, risk, due_s, reason, most_a_second=None):
        """Queue it again. most_a_second: of a long queue so many are planned in a second, so it comes later than due_s."""
        with self._lock:
            if most_a_second is not None:
                due_s += len(self._queue) / most_a_second
            self._queue.add(queued.block, risk, self._t.clock(), reason=reason, due_s=due_s, queued_s=queued.queued_s)

    def _avoided(self, block, now_s):
        failed = self._avoid.get(block)
        if not failed:
            return frozenset()
        for number in [number for number, until_s in failed.items() if until_s <= now_s]:
            del failed[number]
        if not failed:
            del self._avoid[block]
        return frozenset(failed)

    # -- for Moves --------------------------------------------------------------------------------------------------------
    def is_copying(self, block):
        with self._lock:
            return block in self._running

    def is_repairing(self):
        """Whether a copy runs for a block that is short: that comes before any move."""
        with self._lock:
            return any(copy.risk != repair.RISK_TIDY for copy, _size in self._running.values())

    def begin_move(self, copy, view, now_s):
        """Copy a block that is not short. What becomes of it is planned as for any other."""
        self._begin_copy(copy, view, repair.Queued(copy.block, repair.RISK_TIDY, now_s, now_s, copy.reason), now_s)

    def go_round(self):
        """There is something new to do."""
        with self._lock:
            self._stir()

    # -- copying --------------------------------------------------------------------------------------------------------
    def _begin_copy(self, copy, view, queued, now_s):
        """Give the order, or put the block back until its keepers are less busy."""
        t, share = self._t, _share(view.size)
        with self._lock:
            busy = [copy.source] if self._outgoing.get(copy.source, 0) >= max(1, t.settings.repair_jobs) else []
            busy += [target for target in copy.targets if self._incoming.get(target, 0) >= MAX_INCOMING]
            if busy:
                self._park(copy, queued, busy[0], now_s)
                return
            self._budget -= view.size * len(copy.targets)
            n_running = len(self._running)
        views = t.live.views()
        hops, serials = t.chain([views[number] for number in copy.targets], copy.block, view.size, views[copy.source].id)
        details = {"block": copy.block, "size": view.size, "chain": hops}
        if t.settings.repair_rate:
            details["rate"] = max(1, t.settings.repair_rate // (n_running + 1))
        with t.live.lock:
            t.live.field().reserve(list(copy.targets), view.size)
        with self._lock:
            self._running[copy.block] = (copy, view.size)
            self._leases[copy.block] = serials
            self._outgoing[copy.source] = self._outgoing.get(copy.source, 0) + share
            for target in copy.targets:
                self._incoming[target] = self._incoming.get(target, 0) + share
        order = t.orders.give(copy.source, "copy", details, self._copied, now_s,
                              COPY_TIMEOUT_S + view.size / min(COPY_RATE, details.get("rate", COPY_RATE)))
        if order is None:
            self._end_copy(copy.block, failed=True, again_s=BUSY_S)
            return
        log.debug("copy ordered block=%s source=k%s targets=%s reason=%s", copy.block, copy.source, copy.targets, copy.reason)

    def _park(self, copy, queued, number, now_s):
        """Its turn comes when a copy of keeper `number` ends; those behind it in the queue may use other keepers. Call it with _lock held."""
        self._parked.setdefault(number, {})[copy.block] = None
        due_s = now_s + BUSY_S + len(self._queue) / RETRIES_A_SECOND
        self._queue.add(copy.block, copy.risk, now_s, reason=f"{copy.reason}; waiting for its turn", due_s=due_s, queued_s=queued.queued_s)

    def _unpark(self, numbers, now_s):
        """These keepers are less busy: some of the blocks that wait for them are due. Call it with _lock held."""
        for number in numbers:
            parked, n = self._parked.get(number), 0
            while parked and n < PARKED_BACK:
                block = next(iter(parked))
                del parked[block]
                n += self._queue.move(block, now_s, due_s=now_s)

    def _copied(self, order, error, event):
        """A copy order has ended. Whoever stored it is recorded; the block is planned again, and done if that was enough."""
        t, block = self._t, order.details["block"]
        stored, recorded = t.live.numbers_of(event["keepers"] or ()) if event else set(), []
        t.live.note_fresh(stored, block)
        try:
            at = t.wall()
            recorded = [number for number in stored if t.database.apply(operations.RecordReplicas(keeper=number, blocks=[block], at=at))]
            for number in stored - set(recorded):
                # The file went while it was copied: what was just made is of no use to anybody (F30).
                self.drop_unreferenced({block: {number}})
        finally:
            if error is not None:
                t.uploads.give_up_blocks((block,))  # if it arrives after all and its file has gone, it is nobody's
                t.count("copies_failed")
                log.info("copy failed block=%s source=k%s error=%s reason=%s", block, order.number, error, (event or {}).get("reason"))
            if recorded:
                for number in (order.number, *recorded):
                    t.proofs.note(number, block)  # every chunk was compared as it was read, and as it came
                t.count("replicas_made", len(recorded))
                t.guard.explain([block], len(recorded))
            with self._lock:
                self._done_bytes += order.details["size"] * len(recorded)
            # One that was stored and not recorded waits for the drop of an earlier replica: not at once again.
            self._end_copy(block, failed=error is not None, again_s=0.0 if recorded or error is not None else BUSY_S)
        draining = {keeper.number for keeper in t.live.keepers() if keeper.draining}
        if recorded and draining:
            t.drained.copied(draining.intersection(t.queries().replicas(block)), order.details["size"])

    def _end_copy(self, block, failed, again_s):
        """The order is over: its shares are free, and the block is planned again, in one step, so that it is never lost from sight."""
        now_s = self._t.clock()
        with self._lock:
            copy, size = self._running.pop(block, (None, 0))
            if copy is None:
                return
            serials = self._leases.pop(block, ())
            share = _share(size)
            self._outgoing[copy.source] -= share
            for target in copy.targets:
                self._incoming[target] -= share
            if failed:
                until_s = now_s + RETRY_S
                self._avoid.setdefault(block, {}).update({number: until_s for number in (copy.source, *copy.targets)})
            reason = copy.reason if failed else f"{copy.reason}; copied, waiting for its turn"
            self._queue.add(block, copy.risk, now_s, reason=reason, due_s=now_s + again_s)
            self._unpark((copy.source, *copy.targets), now_s)
            self._stir()
        self._t.live.free_ports(serials)

    def sweep_in_s(self):
        """Seconds until the indexes of short and surplus blocks are looked at anew."""
        return max(0.0, self._next_sweep_s - self._t.clock())

    # -- what others ask about ------------------------------------------------------------------------------------------
    def outlook(self, block):
        """(repair.Queued or None, repair.Copy under way or None) of one block: what is planned for it, and when next."""
        with self._lock:
            return self._queue.get(block) or self.trimmer.outlook(block), self._running.get(block, (None,))[0]

    def is_placeless(self, block):
        """Whether a block is short and nobody could take another copy when it was last looked at: what is planned is only to look again."""
        with self._lock:
            return block in self._placeless and block in self._queue

    def pending(self, blocks):
        """Those of these blocks that are queued, being copied, or whose other replicas are being read before a drop."""
        with self._lock:
            return {block for block in blocks
                    if block in self._queue or block in self._running or block == self._planning or block in self.trimmer}

    def work_of(self, number):
        """(copies from a keeper under way, copies to it, blocks a rebalance has still to move off it)."""
        with self._lock:
            copies = [copy for copy, _size in self._running.values()]
        return (sum(copy.source == number for copy in copies), sum(number in copy.targets for copy in copies),
                self.moves.n_leaving(number))

    def is_idle(self):
        """Whether no block is being copied, and no lost keeper's blocks have still to be looked at."""
        with self._lock:
            return not (self._held or self._running or self._to_scan or self._planning)

    def held(self):
        """Why nothing is repaired now, or ""."""
        with self._lock:
            return self._held

    def n_at_risk(self):
        """Blocks that are short and have one good copy left: queued, or being copied."""
        with self._lock:
            return self._queue.counts().get(1, 0) + sum(1 for copy, _size in self._running.values() if copy.risk == 1)

    # -- figures --------------------------------------------------------------------------------------------------------
    def _measure(self, now_s):
        """Refill the budget of --repair-rate; keep a sliding rate for the ETA."""
        limit = self._t.settings.repair_rate
        with self._lock:
            self._budget = min(limit, self._budget + (now_s - self._budget_s) * limit)
            self._budget_s = now_s
            passed_s = now_s - self._rate_s
            if passed_s >= 2.0:
                self._rate = 0.5 * self._rate + 0.5 * self._done_bytes / passed_s
                self._done_bytes, self._rate_s = 0, now_s

    def bytes_left(self):
        """About how many bytes repair has still to copy: what runs, and the queue at the size of what runs."""
        with self._lock:
            sizes = [size for _copy, size in self._running.values()]
            n_short = sum(n for risk, n in self._queue.counts().items() if risk != repair.RISK_TIDY)
        return sum(sizes) + n_short * (sum(sizes) // len(sizes) if sizes else 0)

    def by_copies_left(self):
        """{good copies left: blocks} of the blocks known to be short: queued, or being copied."""
        with self._lock:
            found = self._queue.counts()
            for copy, _size in self._running.values():
                found[copy.risk] = found.get(copy.risk, 0) + 1
        return {risk: n for risk, n in found.items() if risk != repair.RISK_TIDY}

    def under_way(self, most):
        """[(block, bytes, keeper number it comes from, numbers it goes to)] of some of the copies that run."""
        with self._lock:
            return [(block, size, copy.source, tuple(copy.targets)) for block, (copy, size) in list(self._running.items())[:most]]

    def _n_unseen(self):
        """Dead keepers whose blocks this loop has not been told to look at: those found dead just now, and at the end of safemode all."""
        n = self._t.live.n_untold()
        if not self._has_begun and not self._t.safemode():
            n += sum(keeper.state == model.DEAD for keeper in self._t.live.keepers())
        return n

    def summary(self):
        """(blocks short, blocks without a good copy, copies running, bytes/s of late, [(block, reason, seconds to the next try)] of some)."""
        now_s, n_unseen = self._t.clock(), self._n_unseen()  # before the queue: who is told meanwhile is counted twice and not never
        with self._lock:
            counts = self._queue.counts()
            n_missing = counts.get(0, 0)
            n_running = sum(1 for copy, _size in self._running.values() if copy.risk != repair.RISK_TIDY)
            # What is just being planned and keepers not yet scanned may be short as well: nobody shall hear "all is well" between two steps.
            n_short = sum(n for risk, n in counts.items() if risk != repair.RISK_TIDY) + n_running
            n_short += n_unseen + len(self._to_scan) + (self._planning is not None and self._planning not in self._queue and self._planning not in self._running)
            some = [self._queue.get(block) for block in self._queue.blocks(16)]
            waiting = [(one.block, one.reason, max(0.0, one.due_s - now_s)) for one in some if one and one.risk != repair.RISK_TIDY]
            waiting += [(block, f"{copy.reason}; copying from k{copy.source} to {', '.join(f'k{n}' for n in copy.targets)}", 0.0)
                        for block, (copy, _size) in list(self._running.items())[:16]]
            return n_short, n_missing, len(self._running), self._rate, waiting, len(self._to_scan)


def _share(size):
    """How much of one of a keeper's repair jobs a copy of so many bytes takes. Exact in binary, so that sums come back to 0."""
    return max(SMALLEST_SHARE, min(1.0, -(-size * 32 // model.BLOCK_SIZE) / 32))
