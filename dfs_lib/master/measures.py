"""The master's numbers for Prometheus, made anew at each scrape from what its tables and counters say.

Never measures the way a request takes: service.py tells how long each took. Labels are bounded: keepers, states, kinds of message,
names of counters in our own source.
"""

import dfs_lib
from dfs_lib import metrics
from dfs_lib.cluster_gauges import ClusterGauges
from dfs_lib.wire import messages

# A keeper that waits, for orders or for the log to grow, is no work.
_NO_WORK = frozenset((messages.AwaitOrders, messages.FollowCatalog))
# counters of the tracker, the live tables, the ports and the heartbeat listener → (name, help)
_COUNTERS = {
    "heartbeats_received": ("dfs_heartbeats_received_total", "Heartbeats taken."),
    "heartbeats_dropped": ("dfs_heartbeats_dropped_total", "Datagrams that were no heartbeat of this cluster."),
    "heartbeats_stale": ("dfs_heartbeats_stale_total", "Heartbeats that came late, twice or from an earlier session."),
    "connections_accepted": ("dfs_connections_accepted_total", "Connections accepted on all ports."),
    "connections_refused": ("dfs_connections_refused_total", "Connections closed at once, because there were too many."),
    "strangers_refused": ("dfs_strangers_refused_total", "Connections that ended without having proved themselves."),
    "transfers_too_slow": ("dfs_transfers_too_slow_total", "Transfers broken off because they trickled."),
    "requests_refused": ("dfs_requests_refused_total", "Requests refused because too many were at work."),
    "requests_not_permitted": ("dfs_requests_not_permitted_total", "Requests beyond what their user may do."),
    "requests_out_of_role": ("dfs_requests_out_of_role_total", "Requests that are not for the role of whoever asked."),
    "tickets_refused": ("dfs_tickets_refused_total", "Tickets that keepers have refused."),
    "conversations_broken": ("dfs_conversations_broken_total", "Connections of known peers that ended because they broke the protocol."),
    "descriptors_short": ("dfs_descriptors_short_total", "Connections that had to wait because the process may open no more files."),
    "keepers_transfers_refused": ("dfs_keepers_transfers_refused_total", "At all keepers: transfers beyond --max-transfers."),
    "keepers_descriptors_short": ("dfs_keepers_descriptors_short_total", "At all keepers: connections that had to wait for an open file to be closed."),
    "keepers_strangers_refused": ("dfs_keepers_strangers_refused_total", "The same at all keepers: connections without a proof."),
    "keepers_connections_refused": ("dfs_keepers_connections_refused_total", "At all keepers: connections beyond a ceiling."),
    "keepers_transfers_too_slow": ("dfs_keepers_transfers_too_slow_total", "At all keepers: transfers broken off because they trickled."),
    "keepers_requests_out_of_role": ("dfs_keepers_requests_out_of_role_total", "At all keepers: requests that are not for their asker's role."),
    "keepers_conversations_broken": ("dfs_keepers_conversations_broken_total", "At all keepers: known peers that broke the protocol."),
    "uploads_committed": ("dfs_uploads_committed_total", "Files published."),
    "bytes_committed": ("dfs_committed_bytes_total", "Bytes of the files published."),
    "replicas_made": ("dfs_replicas_made_total", "Copies that repair, drains and rebalancing have made."),
    "replicas_bad": ("dfs_replicas_bad_total", "Copies found damaged and set aside."),
    "replicas_missing": ("dfs_replicas_missing_total", "Copies on record that a keeper's report did not list."),
    "replicas_doubted": ("dfs_replicas_doubted_total", "Copies that a reader complained about."),
    "copies_failed": ("dfs_copies_failed_total", "Copy orders that failed and were planned anew."),
    "blocks_verified": ("dfs_blocks_verified_total", "Copies that were read again and found good."),
    "bytes_verified": ("dfs_verified_bytes_total", "Bytes of those copies."),
    "alarms_raised": ("dfs_alarms_raised_total", "Alarms told."),
    "alarms_cleared": ("dfs_alarms_cleared_total", "All-clears told."),
    "alarms_lost": ("dfs_alarms_lost_total", "Alarms and all-clears that a command or webhook did not take."),
    "leases_lapsed": ("dfs_leases_lapsed_total", "Port leases that nobody gave back."),
}


class Measures:
    """One scrape is `text(status)`; `took` is called for each request that was answered."""

    def __init__(self):
        self.registry = registry = metrics.Registry()
        gauge, counter = registry.gauge, registry.counter
        gauge("dfs_build_info", "Always 1; the labels say what runs here.", ["version", "role"]).set(1, dfs_lib.__version__, "master")
        self._cluster = ClusterGauges(registry)
        self._plain = {
            "strays": gauge("dfs_strays", "Blocks of uploads given up that keepers have still to drop."),
            "epoch": gauge("dfs_epoch", "This master's reign; it grows with every start."),
        }
        self._at_risk = gauge("dfs_blocks_at_risk", "Blocks that want more copies and have one good one left.")
        self._starting = gauge("dfs_master_starting", "1 while a master that has just started waits for its keepers' reports.")
        self._connections = {"connections_open": gauge("dfs_connections_open", "Connections that are open."),
                             "port_leases": gauge("dfs_port_leases", "Ports of keepers lent to transfers.")}
        self._counted = {key: counter(name, help) for key, (name, help) in _COUNTERS.items()}
        self._moved = counter("dfs_moved_bytes_total", "Bytes that clients have read and written on all keepers, and that repair, drains and "
                              "rebalancing have copied, as keepers have told since this master began.", ["direction"])
        self._bugs = counter("dfs_bugs_total", "Bugs met and survived, by the loop that met them; please report them.", ["where"])
        self._others = counter("dfs_events_total", "Other counters of the master, by name.", ["event"])
        self._seconds = registry.histogram("dfs_request_duration_seconds", "Time from a request's arrival to its answer, by kind of message.",
                                           ["request"])
        for family in self._counted.values():
            family.set(0)
        for where in ("repair", "ticker"):
            self._bugs.set(0, where)

    def took(self, message, seconds):
        """A request was answered."""
        kind = type(message)
        if kind not in _NO_WORK:
            self._seconds.observe(seconds, kind.__name__)

    def text(self, status, n_at_risk, n_alarms, moved):
        """All numbers. status: the ClusterStatus of now; moved: bytes (read, written, copied) in all."""
        for direction, n in zip(("read", "written", "copied"), moved):
            self._moved.set(n, direction)
        for name, family in self._plain.items():
            family.set(getattr(status, name))
        self._at_risk.set(n_at_risk)
        self._starting.set(bool(status.safemode))
        self._cluster.take(status, n_alarms)
        for key, value in status.counters.items():
            self._count(key, value)
        return self.registry.text()

    def _count(self, key, value):
        if key in self._counted:
            self._counted[key].set(value)
        elif key in self._connections:
            self._connections[key].set(value)
        elif key.endswith("_bugs"):
            self._bugs.set(value, key.removesuffix("_bugs"))
        else:
            self._others.set(value, key)
