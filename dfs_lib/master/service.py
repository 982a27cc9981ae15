"""One function a message: read, decide, apply, answer. Sees messages and bodies, no sockets.

`handle` is called by a thread a connection; `left` when a connection has closed.
"""

import logging

from dfs_lib import errors
from dfs_lib.master.cluster import Cluster
from dfs_lib.master.draining import Draining
from dfs_lib.master.examination import Examination
from dfs_lib.master.guards import Guards
from dfs_lib.master.inspection import Inspection
from dfs_lib.master.keepers import Keepers
from dfs_lib.master.measures import Measures
from dfs_lib.master.names import Names
from dfs_lib.master.permissions import Permissions
from dfs_lib.master.reasons import Explainer
from dfs_lib.master.transfers import Transfers
from dfs_lib.master.users import Users
from dfs_lib.wire import messages

log = logging.getLogger(__name__)


class Service:
    """What the master answers. One instance for all ports and connections."""

    def __init__(self, tracker, repairer, more_counters=dict):
        """more_counters() → {name: number} of what the daemon counts beside the tracker (connections, heartbeats)."""
        self._t = tracker
        self._repairer = repairer
        self.measures = Measures()
        self._keepers = Keepers(tracker, repairer)
        self._permissions = Permissions(tracker)
        self._table = {}
        self._cluster = Cluster(tracker, repairer, more_counters)
        draining, inspection = Draining(tracker, repairer), Inspection(tracker, repairer)
        self._transfers = Transfers(tracker, repairer)
        for family in (self._transfers, Names(tracker, repairer), self._cluster, self._keepers,
                       draining, inspection, Explainer(tracker, repairer, draining, inspection), Guards(tracker, repairer), Users(tracker),
                       Examination(tracker, lambda: more_counters().get("heartbeats_dropped", 0))):
            self._table.update(family.table())

    def handle(self, message, exchange):
        handler = self._table.get(type(message))
        if handler is None:
            raise errors.BadMessage(detail=f"a master does not answer {type(message).__name__}")
        if log.isEnabledFor(logging.DEBUG):
            log.debug("asked message=%s peer=%s request=%s", type(message).__name__, exchange.peer.identity, exchange.request_id)
        began_s = self._t.clock()
        try:
            self._permissions.check(message, exchange)
            if exchange.peer.role == messages.CLIENT:
                # Keepers wait here for orders, as many as there are: only clients are counted.
                with self._t.requests:
                    answer = self._answer(handler, message, exchange)
            else:
                answer = self._answer(handler, message, exchange)
        finally:
            self._t.database.rest()
        if type(answer) is tuple:  # with a body
            exchange.answer(*answer)
        else:
            exchange.answer(answer)
        self.measures.took(message, self._t.clock() - began_s)

    def _answer(self, handler, message, exchange):
        try:
            answer = handler(message, exchange)
        except errors.DfsError as e:
            self._permissions.note(message, exchange, None, e)
            raise
        self._permissions.note(message, exchange, answer)
        return answer

    def scrape(self, n_raised=0):
        """The master's numbers in the Prometheus text format. n_raised: alarms that stand."""
        return self.measures.text(self._cluster.status(messages.Status(), None), self._repairer.n_at_risk(), n_raised, self._t.traffic.totals())

    def left(self, stream):
        """A connection has closed: whatever was bound to it ends."""
        self._keepers.left(stream)
        self._transfers.left(stream)
        self._t.orders.left(stream)
        self._t.uploads.left(stream, self._t.clock())
