"""Orders to keepers: handed out when a keeper asks, followed until it says how they ended.

Never decides what to order. An order is handed out again when the connection that took it breaks, and given up when its keeper
dies or its time is over: whoever gave it then plans anew. Keepers do each order once, whatever arrives twice.

    give ──▶ pending ── AwaitOrders ──▶ out ── order_done ──▶ ended(error or None)
               ▲                         │ connection lost
               └─────────────────────────┘      keeper dead, time over ──▶ ended("lost")

The word of its end is taken in either place: a keeper may have done an order whose connection broke.
"""

import itertools
import logging
import threading
from collections import Counter, deque

from dfs_lib import errors

log = logging.getLogger(__name__)

# The most orders in one answer, and the most that wait for one keeper before `give` says no.
BATCH = 64
MAX_PENDING = 4096


class Order:
    """One order. number: the keeper's; kind and details as on the wire; done(order, error, event) is called once, outside any lock."""

    __slots__ = ("id", "number", "kind", "details", "done", "deadline_s", "connection", "given_s")

    def __init__(self, id_, number, kind, details, done, given_s, deadline_s):
        self.id, self.number, self.kind, self.details, self.done = id_, number, kind, details, done
        self.given_s, self.deadline_s = given_s, deadline_s
        self.connection = None  # who took it; None while pending

    def to_wire(self):
        return {"order": self.id, "kind": self.kind, **self.details}


class _Keeper:
    """The pending orders of one keeper, and the condition its handler thread waits on: an order wakes nobody else's."""

    __slots__ = ("pending", "came")

    def __init__(self, lock):
        self.pending, self.came = deque(), threading.Condition(lock)


class Orders:
    """All orders under way, by keeper."""

    def __init__(self, first_id):
        self._lock = threading.Lock()
        self._ids = itertools.count(first_id)  # starts above those of an earlier reign, so that ids never mean two things
        # All guarded by _lock.
        self._orders = {}  # id → Order, pending or out
        self._keepers = {}  # number → _Keeper
        self._taken = {}  # connection → ids of orders out on it
        self._closed = False

    def _keeper(self, number):
        keeper = self._keepers.get(number)
        if keeper is None:
            keeper = self._keepers[number] = _Keeper(self._lock)
        return keeper

    def give(self, number, kind, details, done, now_s, timeout_s):
        """Queue an order; `timeout_s` counts from now. Returns the Order, or None when too many wait for that keeper."""
        with self._lock:
            keeper = self._keeper(number)
            if len(keeper.pending) >= MAX_PENDING:
                return None
            order = Order(next(self._ids), number, kind, details, done, now_s, now_s + timeout_s)
            self._orders[order.id] = order
            keeper.pending.append(order)
            keeper.came.notify()
            return order

    def take(self, number, connection, wait_s):
        """Orders for a keeper that asks, waiting up to wait_s for some. They are handed out on `connection`."""
        with self._lock:
            keeper = self._keeper(number)
            if not keeper.pending:
                keeper.came.wait_for(lambda: self._closed or keeper.pending, wait_s)
            taken = [keeper.pending.popleft() for _ in range(min(BATCH, len(keeper.pending)))]
            for order in taken:
                order.connection = connection
                self._taken.setdefault(connection, set()).add(order.id)
            return taken

    def renew(self, id_, number, now_s, timeout_s):
        """A keeper goes on with an order: its time counts from now. Returns the Order, None when it has ended or is another keeper's."""
        with self._lock:
            order = self._orders.get(id_)
            if order is None or order.number != number:
                return None
            order.deadline_s = now_s + timeout_s
            return order

    def ended(self, id_, number, error, event):
        """A keeper says how an order ended. Unknown ones (given up, or of another keeper) are passed over."""
        with self._lock:
            order = self._orders.get(id_)
            if order is None or order.number != number:
                return
            self._forget((order,))
        _tell(order, error, event)

    def _forget(self, orders):
        numbers = set()
        for order in orders:
            del self._orders[order.id]
            if order.connection is None:
                numbers.add(order.number)
                continue
            taken = self._taken.get(order.connection)
            if taken is not None:
                taken.discard(order.id)
                if not taken:
                    del self._taken[order.connection]
        for number in numbers:
            keeper = self._keepers[number]
            keeper.pending = deque(order for order in keeper.pending if order.id in self._orders)

    def left(self, connection):
        """What was handed out on a connection that has closed may never have arrived: it is handed out again."""
        with self._lock:
            for id_ in sorted(self._taken.pop(connection, ())):
                order = self._orders[id_]
                order.connection = None
                keeper = self._keepers[order.number]
                keeper.pending.append(order)
                keeper.came.notify()

    def give_up(self, now_s, dead=frozenset()):
        """End with "lost" what belongs to dead keepers (numbers) or took too long."""
        with self._lock:
            lost = [order for order in self._orders.values() if order.number in dead or order.deadline_s <= now_s]
            if lost:
                self._forget(lost)
        for order in lost:
            _tell(order, "lost", None)

    def out(self, ids, number):
        """The orders of this keeper among these ids that have not ended."""
        with self._lock:
            found = [self._orders.get(id_) for id_ in ids]
            return [order for order in found if order is not None and order.number == number]

    def counts(self):
        """{kind: orders pending or out}."""
        totals = {}
        with self._lock:
            for order in self._orders.values():
                totals[order.kind] = totals.get(order.kind, 0) + 1
        return totals

    def counts_of(self, number):
        """{kind: orders pending or out} of one keeper."""
        with self._lock:
            return Counter(order.kind for order in self._orders.values() if order.number == number)

    def close(self):
        with self._lock:
            self._closed = True
            for keeper in self._keepers.values():
                keeper.came.notify_all()


def _tell(order, error, event):
    """Whoever gave the order hears how it ended. What goes wrong there must neither break a keeper's Notify nor the ticker's step."""
    try:
        order.done(order, error, event)
    except errors.DfsError as e:
        log.error("the end of an order was not taken in order=%s kind=%s keeper=k%s code=%s reason=%s", order.id, order.kind, order.number,
                  e.code, e.message)
    except Exception:
        log.exception("bug at the end of an order order=%s kind=%s", order.id, order.kind)
