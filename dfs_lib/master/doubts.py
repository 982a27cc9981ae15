"""Doubted and damaged replicas: what readers complain about is verified by its keeper, what was found bad is forgotten and made again.

Never serves, copies or drops: a lost replica is handed to repair, and until a keeper has looked readers try the doubted one last.

    reader: trouble ─▶ doubt ─▶ verify order ─┬─ it was good ─▶ no doubt any more
    scrub, report, reader: damage ────────────┴─▶ LoseReplicas, one line of damage ─▶ repair
"""

import logging
import threading

from dfs_lib.catalog import operations

log = logging.getLogger(__name__)

# A reader's complaint that no keeper has answered counts for so long.
DOUBT_S = 30.0
# Lines of damage that are kept for reports.
MOST_DAMAGE = 1000


class Doubts:
    """For any thread."""

    def __init__(self, tracker, notice):
        """notice(blocks): have them planned."""
        self._t, self._notice = tracker, notice
        self._lock = threading.Lock()
        self._doubts = {}  # guarded by _lock: block → {keeper id: until_s} a reader complained about
        self._damage = []  # guarded by _lock: what scrubs and readers found, newest last

    def doubt(self, block, number, keeper_id):
        """A reader met trouble: the keeper itself checks; until it has, readers try that replica last."""
        now_s = self._t.clock()
        if number not in self._t.queries().replicas(block):
            return  # nothing to doubt; and a client that makes blocks up fills no table
        with self._lock:
            doubts = self._doubts.setdefault(block, {})
            news = doubts.get(keeper_id, 0.0) <= now_s
            doubts[keeper_id] = now_s + DOUBT_S
        if news:
            self._t.proofs.forget(number, block)
            self._t.orders.give(number, "verify", {"block": block}, self._verified, now_s, 120.0)

    def _verified(self, order, error, _event):
        if error is None:  # it was good after all; a bad one has been reported as `bad` and is repaired by that
            with self._lock:
                self._doubts.pop(order.details["block"], None)

    def is_any_doubted(self, block):
        return block in self._doubts

    def is_doubted(self, block, keeper_id):
        with self._lock:
            until_s = self._doubts.get(block, {}).get(keeper_id)
            if until_s is not None and until_s < self._t.clock():
                del self._doubts[block]
                return False
            return until_s is not None

    def replica_bad(self, block, number, reason):
        """A keeper found its replica damaged or missing, and set it aside: the catalog forgets it, a good copy replaces it."""
        self._t.proofs.forget(number, block)
        lost = self._t.database.apply(operations.LoseReplicas(keeper=number, blocks=[block], reason=reason, at=self._t.wall()))
        if lost:
            log.warning("replica lost block=%s keeper=k%s reason=%s", block, number, reason)
            self._t.count("replicas_bad")
            places, keeper_id = self._t.queries().paths_of_block(block), self._t.live.get(number).id
            with self._lock:
                self._damage.append({"path": places[0][0] if places else "/", "block": block, "keeper": keeper_id, "reason": reason[:1000]})
                del self._damage[:-MOST_DAMAGE]
                self._doubts.pop(block, None)
            self._notice([block])

    def damage(self):
        with self._lock:
            return list(self._damage)

    def clear_damage(self):
        with self._lock:
            self._damage.clear()

    def trim(self, now_s):
        """Now and then: throw away what time has made void."""
        with self._lock:
            for block in [block for block, until_s in self._doubts.items() if max(until_s.values(), default=0.0) <= now_s]:
                del self._doubts[block]
