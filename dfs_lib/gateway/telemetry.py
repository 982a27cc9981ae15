"""The gateway's numbers for Prometheus: what it has done, and how the cluster is. Labels are bounded: methods, status classes, keepers."""

from dfs_lib import __version__, metrics

_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"))
_STATES = ("live", "suspect", "dead", "draining")


class Telemetry:
    """Counts as it is told; `text` is one scrape."""

    def __init__(self):
        self.registry = registry = metrics.Registry()
        registry.gauge("dfs_build_info", "Always 1; the labels say what runs here.", ["role", "version"]).set(1, "gateway", __version__)
        self._requests = registry.counter("dfs_gateway_requests_total", "Requests answered, by method and class of status.", ["method", "status"])
        self._seconds = registry.histogram("dfs_gateway_request_duration_seconds", "Time from the end of a request's head to the end of its answer.", ["method"])
        self._bytes = registry.counter("dfs_transfer_bytes_total", "Bytes of bodies through the gateway; in: from its clients.", ["direction"])
        self._open = registry.gauge("dfs_gateway_connections", "Connections that are open.")
        self._refused = registry.counter("dfs_gateway_connections_refused_total", "Connections closed at once, because there were too many.")
        self._watchers = registry.gauge("dfs_gateway_event_streams", "Pages that listen for events.")
        self._cluster = Cluster(registry)
        for direction in ("in", "out"):
            self._bytes.add(0, direction)
        for family in (self._open, self._refused, self._watchers):
            family.set(0)

    def connected(self, n):
        self._open.add(n)

    def watched(self, n):
        self._watchers.add(n)

    def answered(self, method, status, seconds):
        method = method if method in _METHODS else "other"
        self._requests.add(1, method, f"{status // 100}xx")
        self._seconds.observe(seconds, method)

    def moved(self, n_in, n_out):
        self._bytes.add(n_in, "in")
        self._bytes.add(n_out, "out")

    def text(self, n_refused=0, status=None, age_s=None):
        """All numbers. status: a ClusterStatus or None, when none is known; age_s: how old it is."""
        self._refused.set(n_refused)
        self._cluster.take(status, age_s)
        return self.registry.text()


class Cluster:
    """How the cluster is, as gauges; names as the master's own metrics have them."""

    def __init__(self, registry):
        gauge = registry.gauge
        self._known = gauge("dfs_master_up", "Whether the master answers this gateway.")
        self._plain = {
            "files": gauge("dfs_files", "Files in the store."),
            "directories": gauge("dfs_directories", "Directories in the store."),
            "bytes": gauge("dfs_file_bytes", "Bytes of the files in the store, each counted once."),
            "under_replicated": gauge("dfs_blocks_under_replicated", "Blocks with fewer copies than are wanted."),
            "missing": gauge("dfs_blocks_missing", "Blocks of which no live keeper has a copy."),
            "repairs_running": gauge("dfs_repairs_running", "Copies being made by repair."),
            "repair_bytes_left": gauge("dfs_repair_left_bytes", "Bytes that repair has still to copy."),
            "uploads": gauge("dfs_uploads_open", "Uploads under way or interrupted."),
        }
        self._alarms = gauge("dfs_alarms", "Things that somebody has to look at.")
        self._up = gauge("dfs_keeper_up", "Whether a keeper counts: live, suspect or draining, and not dead.", ["keeper"])
        self._states = gauge("dfs_keepers", "Keepers by state.", ["state"])
        self._used = gauge("dfs_keeper_used_bytes", "Bytes that a keeper holds.", ["keeper"])
        self._free = gauge("dfs_keeper_free_bytes", "Bytes that a keeper could still take.", ["keeper"])
        self._age = gauge("dfs_keeper_heartbeat_age_seconds", "Seconds since a keeper was heard.", ["keeper"])

    def take(self, status, age_s):
        for family in (self._alarms, self._up, self._states, self._used, self._free, self._age, *self._plain.values()):
            family.clear()
        self._known.set(status is not None)
        if status is None:
            return
        for name, family in self._plain.items():
            family.set(getattr(status, name))
        self._alarms.set(len(status.alarms))
        for state in _STATES:
            self._states.set(sum(keeper["state"] == state for keeper in status.keepers), state)
        for keeper in status.keepers:
            name = keeper["name"]
            self._up.set(keeper["state"] != "dead", name)
            self._used.set(keeper["used"], name)
            self._free.set(keeper["free"], name)
            if keeper["heartbeat_age_s"] is not None:
                self._age.set(keeper["heartbeat_age_s"], name)
