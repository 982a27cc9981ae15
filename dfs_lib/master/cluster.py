"""The cluster as people see it: status, scrub, rebalance. Reads tables and asks the repairer; changes nothing in the catalog."""

import os
import threading

from dfs_lib import errors
from dfs_lib.master import traffic
from dfs_lib.master.permissions import home_of, name_within
from dfs_lib.wire import messages


# Copies under way that a status names: each costs a look for its path.
MOST_REPAIRS = 16
# An end further away than this is a rate that has just fallen to nothing: it says nothing about the end.
LONGEST_ETA_S = 30 * 86400.0


class Cluster:
    """Handlers of the messages about the cluster."""

    def __init__(self, tracker, repairer, more_counters):
        self._t, self._repairer, self._more_counters = tracker, repairer, more_counters
        self._lock = threading.Lock()
        self._scrubs = {}  # guarded by _lock: keeper number → order id of the scrub under way
        self._verified_before = (0, 0)  # guarded by _lock: counters when the last scrub began

    def table(self):
        return {messages.Ping: self.ping, messages.Status: self.status, messages.MeasureTraffic: self.measure_traffic,
                messages.Scrub: self.scrub, messages.Rebalance: self.rebalance}

    def ping(self, message, exchange):
        return messages.Done()

    # -- status ---------------------------------------------------------------------------------------------------------
    def status(self, message, exchange):
        t = self._t
        queries, now_s, home = t.queries(), t.clock(), home_of(self._t, exchange)
        totals = queries.totals()
        # First: whoever is told as dead, and what safemode has kept repair from looking at, is counted in what is short.
        safemode, keepers = t.safemode(), [self._keeper(keeper, now_s) for keeper in t.live.keepers()]
        n_short, n_missing, n_running, rate, waiting, _n_scans = self._repairer.summary()
        counters = {**t.live.counters, **t.counters(), **self._more_counters(), "port_leases": t.live.n_leases()}
        return messages.ClusterStatus(
            cluster_id=t.cluster_id, epoch=t.epoch, files=totals.files, directories=totals.directories, bytes=totals.bytes,
            under_replicated=max(n_short, queries.n_short()), missing=n_missing, repairs_running=n_running, repair_bytes_left=self._repairer.bytes_left(),
            repair_rate=rate, uploads=len(t.uploads), strays=len(t.uploads.strays), safemode=safemode, copies=t.settings.copies,
            safe=t.settings.safe, alarms=t.alarms(nameless=home != "/")[:64], waiting=self._waiting(queries, waiting, home), counters=counters,
            keepers=keepers, pid=os.getpid(), catalog_copies=t.copies.status(now_s),
            encrypted=t.is_encrypted(),
            short=[{"have": n, "blocks": n_blocks} for n, n_blocks in sorted(self._repairer.by_copies_left().items())[:64]],
            repairs=self._repairs(queries, rate, n_running, home))

    def measure_traffic(self, message, exchange):
        t, now_s = self._t, self._t.clock()
        history = t.traffic.history(now_s) if message.history else []
        wall_ahead_s = t.wall() - now_s
        by_keeper = t.traffic.rates(now_s)
        ids = {keeper.number: keeper.id for keeper in t.live.keepers()}
        return messages.TrafficMeasured(
            step_s=traffic.STEP_S, points=[[round(end_s + wall_ahead_s, 1), *_as_told(rates)] for end_s, rates in history],
            **dict(zip(_RATES, _as_told(map(sum, zip((0, 0, 0), *by_keeper.values()))))),
            keepers=[{"keeper_id": ids[number], **dict(zip(_RATES, _as_told(rates)))}
                     for number, rates in sorted(by_keeper.items()) if number in ids and any(rates)])

    def _repairs(self, queries, rate, n_running, home):
        """Some of the copies under way, by paths in `home`. eta_s: if they go on sharing the rate of late evenly, and have just begun."""
        shown = []
        for block, size, source, targets in self._repairer.under_way(MOST_REPAIRS):
            path = name_within(queries, block, home)
            if path is not None:
                shown.append({"path": path, "block": block, "source": f"k{source}", "targets": [f"k{number}" for number in targets], "bytes": size,
                              "eta_s": _eta_s(size * n_running, rate)})
        return shown

    def _waiting(self, queries, waiting, home):
        """Blocks that wait for repair, by paths in `home`: some of them, enough for a person to see why."""
        shown = []
        for block, reason, next_s in waiting[:16]:
            path = name_within(queries, block, home)
            if path is not None:
                shown.append({"path": path, "reason": reason[:1000], "next_try_s": round(next_s, 1),
                              "placeless": self._repairer.is_placeless(block)})
        return shown

    def _keeper(self, keeper, now_s):
        state = "draining" if keeper.draining and keeper.state == "live" else keeper.state
        age_s = None if keeper.last_heard_s is None else round(max(0.0, now_s - keeper.last_heard_s), 2)
        return {"keeper_id": keeper.id, "name": keeper.name, "host": keeper.host, "ports": list(keeper.ports), "state": state,
                "reason": keeper.reason, "used": keeper.used, "free": keeper.free, "blocks": keeper.n_blocks,
                "load": sum(keeper.loads.values()), "heartbeat_age_s": age_s, "labels": keeper.labels, "pids": list(keeper.pids),
                "reported": keeper.reported, "sick": keeper.sick, "scrub": keeper.scrub,
                "stopped": keeper.clean_stop and keeper.state in ("dead", "suspect")}

    # -- scrub ----------------------------------------------------------------------------------------------------------
    def scrub(self, message, exchange):
        t = self._t
        if message.start:
            numbers = [t.live.number_of(each) for each in message.keepers] or [k.number for k in t.live.keepers() if k.state == "live"]
            if not numbers:
                raise errors.NoSuchKeeper(keeper="(none is live)")
            self._begin_scrub(numbers)
        verified, verified_bytes = self._verified()
        with self._lock:
            return messages.ScrubReport(running=len(self._scrubs), verified=verified - self._verified_before[0],
                                        verified_bytes=verified_bytes - self._verified_before[1], bad=self._repairer.doubts.damage())

    def _verified(self):
        counters = self._t.counters()
        return counters.get("blocks_verified", 0), counters.get("bytes_verified", 0)

    def _begin_scrub(self, numbers):
        with self._lock:
            if not self._scrubs:
                self._verified_before = self._verified()
                self._repairer.doubts.clear_damage()
            for number in numbers:
                if number not in self._scrubs:
                    order = self._t.orders.give(number, "scrub", {"rate": 0}, self._scrubbed, self._t.clock(), 7 * 86400.0)
                    if order is not None:
                        self._scrubs[number] = order.id

    def _scrubbed(self, order, _error, _event):
        with self._lock:
            if self._scrubs.get(order.number) == order.id:
                del self._scrubs[order.number]

    # -- rebalance ------------------------------------------------------------------------------------------------------
    def rebalance(self, message, exchange):
        moves = []
        if message.dry_run:
            moves = self._repairer.moves.plan()
        elif message.start:
            moves = self._repairer.moves.begin()
        ids = {keeper.number: keeper.id for keeper in self._t.live.keepers()}
        return messages.RebalancePlan(running=self._repairer.moves.n_moving(),
                                      moves=[{"source": ids[move.source], "target": ids[move.target], "size": move.size} for move in moves[:1000]])


# The rates of a TrafficMeasured in the order in which Traffic has them, and the highest that fits into one: a keeper's numbers are its own word.
_RATES, HIGHEST_RATE = ("read", "write", "copied"), 1e15


def _as_told(rates):
    return [min(round(rate), HIGHEST_RATE) for rate in rates]


def _eta_s(n_bytes, rate):
    """Seconds for so many bytes at `rate` bytes/s, None when that cannot be said."""
    seconds = n_bytes / rate if rate > 0 else LONGEST_ETA_S
    return round(seconds, 1) if seconds < LONGEST_ETA_S else None
