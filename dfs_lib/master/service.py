"""One function a message: read, decide, apply, answer. Sees messages and bodies, no sockets.

`handle` is called by a thread a connection; `left` when a connection has closed.
"""

import logging

from dfs_lib import errors
from dfs_lib.master.cluster import Cluster
from dfs_lib.master.keepers import Keepers
from dfs_lib.master.names import Names
from dfs_lib.master.transfers import Transfers

log = logging.getLogger(__name__)


class Service:
    """What the master answers. One instance for all ports and connections."""

    def __init__(self, tracker, repairer, more_counters=dict):
        """more_counters() → {name: number} of what the daemon counts beside the tracker (connections, heartbeats)."""
        self._t = tracker
        self._keepers = Keepers(tracker, repairer)
        self._table = {}
        for family in (Transfers(tracker, repairer), Names(tracker, repairer), Cluster(tracker, repairer, more_counters), self._keepers):
            self._table.update(family.table())

    def handle(self, message, exchange):
        handler = self._table.get(type(message))
        if handler is None:
            raise errors.BadMessage(detail=f"a master does not answer {type(message).__name__}")
        if log.isEnabledFor(logging.DEBUG):
            log.debug("asked message=%s peer=%s request=%s", type(message).__name__, exchange.peer.identity, exchange.request_id)
        exchange.answer(handler(message, exchange))

    def left(self, stream):
        """A connection has closed: whatever was bound to it ends."""
        self._keepers.left(stream)
        self._t.orders.left(stream)
        self._t.uploads.left(stream, self._t.clock())
