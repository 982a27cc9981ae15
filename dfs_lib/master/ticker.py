"""The master's clockwork: what must happen as time passes, one `step` at a time.

    each step    (every STEP_S, and at once when a keeper's connection closes, its host refuses one, or its report is in)
                 judge keepers, probe those whose connection has closed, lapse leases, give up orders of the dead, interrupt and
                 collect uploads
    each second  work off the trash a little, have the next file summed

Decides nothing itself: planners and tables do.
"""

import logging

from dfs_lib import errors, model
from dfs_lib.catalog import operations
from dfs_lib.master.balance import Balancer
from dfs_lib.master.draining import Feeder
from dfs_lib.master.summing import Summer
from dfs_lib.plan import liveness

log = logging.getLogger(__name__)

STEP_S = 0.25
COLLECT_EVERY_S = 1.0
# Versions collected and entries purged in one transaction: no reader or writer waits long for it.
COLLECT_BATCH = 200
# Log rows kept for a follower or a late retry; older ones are trimmed now and then.
LOG_KEEP = 500_000
TRIM_EVERY_S = 60.0
# TrimLog forgets 10,000 rows a time: so often at most each time, which is more than any master writes meanwhile.
TRIM_MOST = 50
# Versions of the trash that are watched at once: after a large `rm -r` so many ripen in one grace.
TRASH_WATCHED = 20_000
# Blocks that one transaction of a collection may forget, at a guess: a MiB each.
COLLECT_SIZE = 5_000 * model.MIB


class Ticker:
    """Owned by one thread (or the simulation). `probe(number, host, ports)` starts a connection attempt elsewhere."""

    def __init__(self, tracker, repairer, probe):
        self._t, self._repairer, self._probe = tracker, repairer, probe
        self._watch = liveness.LossWatch()
        self._feeder, self._balancer, self._summer = Feeder(tracker, repairer), Balancer(tracker, repairer), Summer(tracker, repairer)
        self._next_collect_s = self._next_trim_s = 0.0
        self._trash_seen = {}  # version → monotonic seconds when this reign first saw it in the trash (F20: no wall clock decides)
        self._look_at_room()  # the first question of all is answered by what the start has found

    def step(self):
        t = self._t
        now_s = t.clock()
        changes = t.live.tick(now_s)
        for number, old, new, reason in changes:
            self._changed(number, old, new, reason)
        n_counted = sum(1 for keeper in t.live.keepers() if keeper.state != model.DEAD)
        # A keeper whose host refuses connections has proven its death; the others may only be out of our sight.
        unproven = [change for change in changes if not self._is_proven(change)]
        held = self._watch.tick(now_s, unproven, n_counted)
        if t.alarm("mass-loss", held):
            log.error("%s", held or "enough keepers are back: repair goes on")
            self._repairer.hold(held)
        dead = {keeper.number for keeper in t.live.keepers() if keeper.state == model.DEAD}
        t.orders.give_up(now_s, dead)
        doomed, serials = t.uploads.collect(now_s)
        t.live.free_ports(serials)
        self._repairer.drop_unreferenced(doomed)
        self._feeder.step(now_s)
        self._balancer.step(now_s)
        t.copies.step(now_s)
        self._summer.step(now_s)
        for number, host, ports in t.live.disconnected_keepers():
            self._probe(number, host, ports)
        if now_s >= self._next_collect_s:
            self._next_collect_s = now_s + COLLECT_EVERY_S
            self._look_at_room()
            self._collect(now_s)
        if now_s >= self._next_trim_s:
            self._next_trim_s = now_s + TRIM_EVERY_S
            t.forget_readers(now_s)
            self._trim()

    def _look_at_room(self):
        is_tight = self._t.database.is_tight()
        if self._t.alarm("catalog-room", "the master's disk is full: reading and removing go on, nothing new is taken" if is_tight else ""):
            log.log(logging.ERROR if is_tight else logging.INFO, "the master's disk is full" if is_tight else "the master's disk has room")

    def _is_proven(self, change):
        number, _old, new, _reason = change
        keeper = self._t.live.get(number)
        return new == model.DEAD and keeper is not None and keeper.refused

    def _changed(self, number, old, new, reason):
        log.info("keeper state keeper=k%s from=%s to=%s reason=%s", number, old, new, reason)
        if new == model.DEAD:
            self._repairer.keeper_lost(number)
            self._t.live.told(number)
        elif old == model.DEAD:
            self._repairer.keeper_back()

    def _collect(self, now_s):
        """Work off removed trees, then versions whose grace is over and that nobody reads."""
        t = self._t
        if t.safemode():
            return
        try:
            if t.queries().n_detached():
                t.database.apply(operations.PurgeDetached(limit=10 * COLLECT_BATCH, at=t.wall()))
                self._repairer.removed()
            self._collect_trash(now_s)
        except errors.NoRoom as e:
            log.error("collection waits: %s", e.message)

    def _collect_trash(self, now_s):
        t = self._t
        trash = {row.version: row.size for row in t.queries().trash(None, TRASH_WATCHED)}
        for version in [version for version in self._trash_seen if version not in trash]:
            del self._trash_seen[version]
        ripe = [version for version in trash
                if now_s - self._trash_seen.setdefault(version, now_s) >= t.settings.trash_grace and not t.is_read(version, now_s)]
        del ripe[10 * COLLECT_BATCH:]  # the next second brings the next ones: keepers are judged by this thread too
        batch, size = [], 0
        for version in ripe:
            batch.append(version)
            size += trash[version]
            if len(batch) == COLLECT_BATCH or size >= COLLECT_SIZE or version == ripe[-1]:
                t.database.apply(operations.CollectVersions(versions=batch, at=t.wall()))
                batch, size = [], 0
        if ripe:
            self._order_drops()

    def _order_drops(self):
        for keeper in self._t.live.keepers():
            if keeper.state == model.LIVE and keeper.reported:
                self._repairer.order_drops_of(keeper.number)

    def _trim(self):
        """Old rows of the log go; and drops whose order was lost are ordered again."""
        try:
            for _ in range(TRIM_MOST):
                if self._t.database.apply(operations.TrimLog(keep=LOG_KEEP)) < 10_000:
                    break
        except errors.NoRoom as e:
            log.error("trimming the log waits: %s", e.message)
        if not self._t.safemode():
            self._order_drops()
