"""Dropping replicas: surplus only after the ones that stay were read again, and each drop order exactly once.

Never decides what is surplus: `plan/repair` does, by the catalog's account, and that account knows nothing of bits that rotted unseen.

    Drop decision ─▶ add ─▶ enough others proven? ── no ──▶ `verify` orders, few at once ── ended ──▶ the block is planned again
                                   │ yes                        a bad one is told of as `bad`, and repaired by that
                                   ▼
                     guard.admit ─▶ DropReplica ─▶ looked at once more ─▶ drop order        (or taken back: nobody has ordered it)

Proven is a replica that its keeper has read whole and found good, in this reign, in the keeper's present session, not long ago: by a
`verify` order, or as source or target of a copy (I3).
"""

import logging
import threading
from collections import namedtuple

from dfs_lib import errors, model
from dfs_lib.catalog import operations
from dfs_lib.plan import repair

log = logging.getLogger(__name__)

# How long the word of a keeper that a replica is good is good for: scrubs find rot in weeks, so minutes are lately.
PROOF_S = 600.0
# Proofs that are remembered, some 250 bytes each; the oldest are forgotten first, and made again when needed.
MOST_PROOFS = 200_000
# One verify order: so few blocks and bytes that the drops and checks behind it wait for seconds only.
VERIFY_BLOCKS, VERIFY_BYTES = 200, 256 * model.MIB
# Verify orders of one keeper under way: the next one is there when one ends, and its disk has never more than one at a time to read.
VERIFY_ORDERS = 2
# How long one may take: disks that are busy with copies read this much at least.
VERIFY_TIMEOUT_S, VERIFY_RATE = 60.0, 4 * model.MIB
# Blocks whose other replicas are being verified; the rest of a long list waits for its turn, without being planned meanwhile.
MOST_WAITING, MOST_LATER = 4000, 200_000
# Blocks that come back from there at once.
ROUND = 500
# A replica that was asked about and not proven (its keeper was too busy, or failed) is not asked about again for so long.
AGAIN_S = 30.0
# A keeper has so long for an order to drop; one whose disk cannot keep the master's epoch deletes nothing for it, and is asked again then.
ORDER_S = 120.0
# Blocks in one drop order.
BATCH = 500

# A drop that was decided. stayers: numbers of live keepers whose replicas would be left; needed: so many of them must be proven.
_Surplus = namedtuple("_Surplus", "drop stayers needed size")


class Proofs:
    """When each replica was last proven to be good by its content. One instance, part of the tracker."""

    def __init__(self, live, clock):
        self._live, self._clock = live, clock
        self._lock = threading.Lock()
        self._proven = {}  # guarded by _lock: (number, block) → (when_s, session of the keeper), the oldest first

    def note(self, number, block):
        """That keeper has read that block whole, and it was good."""
        keeper = self._live.get(number)
        if keeper is None or keeper.session is None:
            return
        with self._lock:
            self._proven.pop((number, block), None)
            self._proven[number, block] = self._clock(), keeper.session
            if len(self._proven) > MOST_PROOFS:
                del self._proven[next(iter(self._proven))]

    def forget(self, number, block):
        """There is doubt about it, or it is gone."""
        with self._lock:
            self._proven.pop((number, block), None)

    def proven(self, block, numbers):
        """Those of these keepers that are live, and whose replica was proven lately."""
        since_s, found = self._clock() - PROOF_S, set()
        with self._lock:
            known = {number: self._proven[number, block] for number in numbers if (number, block) in self._proven}
        for number, (when_s, session) in known.items():
            keeper = self._live.get(number)
            if when_s > since_s and keeper is not None and keeper.session == session and keeper.state == model.LIVE and keeper.reported:
                found.add(number)
        return found

    def trim(self):
        """Now and then: forget what is too old to count."""
        since_s = self._clock() - PROOF_S
        with self._lock:
            while self._proven:
                oldest = next(iter(self._proven))
                if self._proven[oldest][0] > since_s:
                    break
                del self._proven[oldest]


class Trimmer:
    """The dropping half of the repairer. `add` and `finish_round` belong to its loop, the rest to any thread."""

    def __init__(self, tracker, notice, put_back, left):
        """notice(blocks): have them planned; put_back(block, due_s, reason): plan it then; left(block, number): the drop is done."""
        self._t, self._notice, self._put_back, self._left = tracker, notice, put_back, left
        self._found = {}  # the loop's own: block → _Surplus of this round
        self._lock = threading.Lock()
        # All guarded by _lock.
        self._waiting = {}  # block → {numbers that are still to verify it}
        self._later = {}  # block → None: planned again when there is room in _waiting
        self._to_verify = {}  # number → {block: size} to be ordered
        self._verifying = {}  # number → verify orders under way
        self._asked = {}  # (number, block) → until_s: did not lead to a proof
        self._marked = {}  # number → {blocks}: just being decided about, or ordered away and the order not yet ended
        self._readers = []  # (number, blocks whose mark went while somebody read that keeper's list of drops)

    def __contains__(self, block):
        return block in self._waiting or block in self._later

    def outlook(self, block):
        """repair.Queued for `why` of a block whose other replicas are being verified, or None."""
        if block not in self:
            return None
        now_s = self._t.clock()
        return repair.Queued(block, repair.RISK_TIDY, now_s, now_s, "a copy too many; it goes when the others have been read again")

    def trim(self):
        """Now and then: throw away what time has made void."""
        now_s = self._t.clock()
        self._t.proofs.trim()
        with self._lock:
            for place in [place for place, until_s in self._asked.items() if until_s <= now_s]:
                del self._asked[place]

    def returned(self, number):
        """A keeper has reported: what it could not prove before it died, it can now."""
        with self._lock:
            for place in [place for place in self._asked if place[0] == number]:
                del self._asked[place]

    # -- surplus --------------------------------------------------------------------------------------------------------
    def add(self, drop, stayers, want, size):
        """The planner's decision about one block; stayers: the numbers of live keepers whose replicas would be left."""
        if drop.block not in self:
            self._found[drop.block] = _Surplus(drop, frozenset(stayers) - {drop.keeper}, max(1, want), size)

    def finish_round(self):
        """What this round found: drop what may be dropped, have the others' replicas verified."""
        found, self._found = self._found, {}
        proven = {block: one for block, one in found.items() if self._is_proven(one)}
        hoped = self._t.guard.sift([one.drop for block, one in found.items() if block not in proven])
        for drop in hoped:
            self._want_verified(found[drop.block])
        admitted = self._t.guard.admit([one.drop for one in proven.values()])
        if admitted:
            self._drop([proven[drop.block] for drop in admitted])
        self._order_verifies()
        with self._lock:
            back = [block for block, _ in zip(self._later, range(ROUND))] if len(self._waiting) <= MOST_WAITING - ROUND else []
            for block in back:
                del self._later[block]
        if back:
            self._notice(back)

    def _is_proven(self, surplus):
        return len(self._t.proofs.proven(surplus.drop.block, surplus.stayers)) >= surplus.needed

    def _drop(self, surpluses):
        """The catalog forgets them, all in one transaction; then they are looked at again; then keepers delete.

        Marked from before the commit on: until it is settled here nobody else orders one of them away.
        """
        t, at, marked, by_keeper = self._t, self._t.wall(), {}, {}
        for one in surpluses:
            marked.setdefault(one.drop.keeper, []).append(one.drop.block)
        for number, blocks in marked.items():
            self._mark(number, blocks)
        try:
            outcomes = t.database.apply_many([operations.DropReplica(block=one.drop.block, keeper=one.drop.keeper, at=at) for one in surpluses])
            for one, outcome in zip(surpluses, outcomes):
                drop = one.drop
                if isinstance(outcome, errors.Refusal):
                    log.info("surplus kept block=%s keeper=k%s reason=%s", drop.block, drop.keeper, outcome.message)
                elif isinstance(outcome, BaseException):
                    raise outcome
                elif not outcome:
                    self._left(drop.block, drop.keeper)  # it went by itself
                elif self._is_still_surplus(one):
                    log.debug("surplus dropped block=%s keeper=k%s reason=%s", drop.block, drop.keeper, drop.reason)
                    by_keeper.setdefault(drop.keeper, []).append(drop.block)
                    t.proofs.forget(drop.keeper, drop.block)
                    self._left(drop.block, drop.keeper)
        except BaseException:
            by_keeper.clear()  # what is on record as a drop is ordered by the ticker
            raise
        finally:
            for number, blocks in marked.items():
                self._unmark(number, set(blocks).difference(by_keeper.get(number, ())))
        for number, blocks in by_keeper.items():
            self._give(number, blocks)
        self._notice([block for blocks in by_keeper.values() for block in blocks])

    def _is_still_surplus(self, surplus):
        """Whether enough good copies are left without it. If one was lost since this was planned, the catalog takes the dropped one back (I3)."""
        t, drop = self._t, surplus.drop
        row = t.queries().block(drop.block)
        if row is None:
            return True
        staying = t.live.counted().intersection(t.queries().replicas(drop.block))
        if len(staying) >= max(1, row.want) and len(t.proofs.proven(drop.block, staying)) >= max(1, row.want):
            return True
        log.warning("surplus taken back block=%s keeper=k%s reason=%s", drop.block, drop.keeper, "another copy was lost meanwhile")
        t.database.apply_many([operations.ConfirmDrops(keeper=drop.keeper, blocks=[drop.block]),
                               operations.RecordReplicas(keeper=drop.keeper, blocks=[drop.block], at=t.wall())])
        self._notice([drop.block])
        return False

    # -- verifying what stays -------------------------------------------------------------------------------------------
    def _want_verified(self, surplus):
        """Queue what must be read before this drop. Those that failed to answer lately are left alone for a while."""
        block, now_s = surplus.drop.block, self._t.clock()
        proven = self._t.proofs.proven(block, surplus.stayers)
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                if len(self._later) < MOST_LATER:
                    self._later[block] = None  # else the sweep finds it again
                return
            able = [number for number in surplus.stayers - proven if self._asked.get((number, block), 0.0) <= now_s]
            able.sort(key=lambda number: (len(self._to_verify.get(number, ())), number))
            chosen = able[:surplus.needed - len(proven)]
            if len(proven) + len(chosen) >= surplus.needed and chosen:
                self._waiting[block] = set(chosen)
                for number in chosen:
                    self._to_verify.setdefault(number, {})[block] = surplus.size
                return
        self._put_back(block, now_s + AGAIN_S, "a copy too many stays until the others have been read again")

    def _order_verifies(self):
        """Keep every keeper's few verify orders going; what waits for one that lives no more is planned again."""
        with self._lock:
            numbers = list(self._to_verify)
        for number in numbers:
            keeper = self._t.live.get(number)
            if keeper is None or keeper.state != model.LIVE or not keeper.reported:
                with self._lock:
                    blocks = self._to_verify.pop(number, {})
                self._done_with(number, blocks)
            else:
                while self._order_verify(number):
                    pass

    def _order_verify(self, number):
        """Give one verify order. Returns whether it could."""
        t = self._t
        rate = t.settings.repair_rate or 0
        most = min(VERIFY_BYTES, 10 * rate) if rate else VERIFY_BYTES
        with self._lock:
            waiting, blocks, size = self._to_verify.get(number), [], 0
            if not waiting or self._verifying.get(number, 0) >= VERIFY_ORDERS:
                return False
            for block, its_size in waiting.items():
                if len(blocks) == VERIFY_BLOCKS or blocks and size + its_size > most:
                    break
                blocks.append(block)
                size += its_size
            for block in blocks:
                del waiting[block]
            if not waiting:
                del self._to_verify[number]
            self._verifying[number] = self._verifying.get(number, 0) + 1
        order = t.orders.give(number, "verify", {"blocks": blocks, **({"rate": rate} if rate else {})}, self._verified, t.clock(),
                              VERIFY_TIMEOUT_S + VERIFY_ORDERS * size / min(VERIFY_RATE, rate or VERIFY_RATE))
        if order is None:
            self._ended(number, blocks)
        return order is not None

    def _verified(self, order, _error, _event):
        """What was good has been told block by block, and what was bad as well: here it is only over."""
        self._ended(order.number, order.details["blocks"])

    def _ended(self, number, blocks):
        with self._lock:
            left = self._verifying.get(number, 0) - 1
            if left > 0:
                self._verifying[number] = left
            else:
                self._verifying.pop(number, None)
        self._done_with(number, blocks)

    def _done_with(self, number, blocks):
        """Nothing more is to be heard of that keeper about these: those that wait for nobody else are planned again."""
        until_s, ready = self._t.clock() + AGAIN_S, []
        unproven = [block for block in blocks if not self._t.proofs.proven(block, (number,))]
        with self._lock:
            self._asked.update({(number, block): until_s for block in unproven})
            for block in blocks:
                waits_for = self._waiting.get(block)
                if waits_for is not None:
                    waits_for.discard(number)
                    if not waits_for:
                        del self._waiting[block]
                        ready.append(block)
        self._notice(ready)  # also with none: the next order is to be given

    # -- drop orders ----------------------------------------------------------------------------------------------------
    def drop_unreferenced(self, doomed):
        """Order away blocks of uploads that were given up. doomed: {block: keeper numbers}. A block that the catalog knows stays (I4)."""
        if not doomed:
            return
        known = self._t.queries().known(list(doomed))
        by_keeper = {}
        for block, numbers in doomed.items():
            if block not in known:
                for number in numbers:
                    by_keeper.setdefault(number, []).append(block)
        for number, blocks in by_keeper.items():
            self.order(number, blocks)

    def order_drops_of(self, number):
        """Order what a keeper has still to delete (at its registration, after a collection, now and then).

        Not what it is under order to delete: a second order may come when the block is there again, and wanted. And not what the loop
        may yet take back: what was settled while the list was read is not trusted either.
        """
        if self._t.safemode():
            return  # all are ordered when it is over (F4)
        reader = number, set()
        with self._lock:
            if len(self._marked.get(number, ())) >= 20 * BATCH:
                return
            self._readers.append(reader)
        try:
            self.order(number, self._t.queries().drops(number, 40 * BATCH), reader[1])
        finally:
            with self._lock:
                self._readers = [each for each in self._readers if each is not reader]

    def order(self, number, blocks, gone=frozenset()):
        """Order these away, but for what is marked, or has been since it was looked up (`gone`)."""
        mine = self._mark(number, blocks, gone)
        if mine:
            self._give(number, mine)

    def _mark(self, number, blocks, gone=frozenset()):
        """Take these for oneself. Returns those that nobody had, nor has had since (`gone`)."""
        with self._lock:
            marked = self._marked.setdefault(number, set())
            mine = [block for block in blocks if block not in marked and block not in gone]
            marked.update(mine)
            if not marked:
                del self._marked[number]
        return mine

    def _unmark(self, number, blocks):
        with self._lock:
            marked = self._marked.get(number, set())
            marked.difference_update(blocks)
            if not marked:
                self._marked.pop(number, None)
            for at, gone in self._readers:
                if at == number:
                    gone.update(blocks)

    def _give(self, number, blocks):
        """Order marked ones; what the catalog has let go of, and what is explained or approved, says so: of the rest a keeper takes so much only."""
        left = set(blocks)  # whose mark nobody will take off but we
        try:
            known = self._t.queries().known(blocks)
            doubtful = known - self._t.guard.vouched(number, known)
            for some, words in (([block for block in blocks if block not in doubtful], {"approved": True}),
                                ([block for block in blocks if block in doubtful], {})):
                for start in range(0, len(some), BATCH):
                    batch = some[start:start + BATCH]
                    if self._t.orders.give(number, "drop", {"blocks": batch, **words}, self._dropped, self._t.clock(), ORDER_S) is not None:
                        left.difference_update(batch)
        finally:
            self._unmark(number, left)

    def _dropped(self, order, error, _event):
        t, number, blocks = self._t, order.number, order.details["blocks"]
        try:
            if error is None:
                t.database.apply(operations.ConfirmDrops(keeper=number, blocks=blocks))
        finally:
            self._unmark(number, blocks)
        if error == "lost":
            # A dead keeper reports when it returns. One that lives and was too busy is told again; for what the catalog knows of,
            # the ticker sees to that.
            keeper = t.live.get(number)
            if keeper is not None and keeper.state != model.DEAD:
                self.drop_unreferenced({block: {number} for block in blocks})
        elif error == errors.NeedsApproval.code:
            t.guard.refused(number, blocks)
        elif error is None:
            t.guard.dropped(number, blocks)
            with self._lock:
                busy = number in self._marked
            if not busy:
                self.order_drops_of(number)
