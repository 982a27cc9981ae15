"""The gateway's numbers for Prometheus: what it has done, and how the cluster is. Labels are bounded: methods, status classes, keepers."""

from dfs_lib import __version__, metrics
from dfs_lib.cluster_gauges import ClusterGauges

_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"))


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
        self._known = registry.gauge("dfs_master_up", "Whether the master answers this gateway.")
        self._cluster = ClusterGauges(registry)
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

    def text(self, n_refused=0, status=None):
        """All numbers. status: a ClusterStatus or None, when none is known."""
        self._refused.set(n_refused)
        self._known.set(status is not None)
        self._cluster.take(status)
        return self.registry.text()
