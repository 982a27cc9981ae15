"""A master that only listens and remembers, for tests of keepers: takes them in, hears them, hands out orders it is given."""

import secrets
import threading
import time
from collections import defaultdict, deque

from dfs_lib import errors
from dfs_lib.net import datagrams, servers
from dfs_lib.wire import conversation, messages, trust


class FakeMaster:
    """Everything heard is kept by keeper id: registrations, reports ({block: size}, whole ones), events, beats, farewells."""

    def __init__(self, key, cluster_id=None, epoch=1, port=0):
        self.keyring = trust.Keyring.from_cluster_key(key)
        self.cluster_id, self.epoch, self.tick = cluster_id or secrets.token_hex(16), epoch, 50
        self.changed = threading.Condition()
        # All guarded by `changed`.
        self.registrations, self.reports, self.events = defaultdict(list), defaultdict(list), defaultdict(list)
        self.notifies, self.beats, self.farewells = defaultdict(list), defaultdict(list), []
        self._pages, self._orders, self._n_orders = {}, defaultdict(deque), 0
        self.refusal = None  # an error that every registration gets
        self._server = servers.Server(("127.0.0.1", port), self, self._make_talk)
        self.address = ("127.0.0.1", self._server.port)
        self._listener = datagrams.Listener("127.0.0.1", 0, self.keyring.node, self._heard)
        self._stopped = False
        self._server.start()
        self._listener.start()

    def _make_talk(self, port, nonce):
        return conversation.Server(self.keyring.secret_for, self.keyring.auth, "master", self.cluster_id, port, nonce)

    def stop(self):
        """End it; harmless the second time."""
        if not self._stopped:
            self._stopped = True
            self._server.stop(0)
            self._listener.stop()

    # -- what keepers say ---------------------------------------------------------------------------------------------------
    def handle(self, message, exchange):
        answer = getattr(self, "_" + type(message).__name__)(message, exchange, exchange.peer.identity)
        exchange.answer(answer)

    def _Register(self, message, _exchange, keeper):
        if self.refusal is not None:
            raise self.refusal
        with self.changed:
            session = secrets.token_hex(8)
            self.registrations[keeper].append((message, session))
            self.changed.notify_all()
        return messages.Registered(cluster_id=self.cluster_id, epoch=self.epoch, session=session, tick=self.tick,
                                   heartbeat_port=self._listener.port, heartbeat_s=1.0, ticket_key_id=0)

    def _ReportBlocks(self, message, exchange, keeper):
        page = exchange.body()
        with self.changed:
            if message.first:
                self._pages[keeper] = []
            records = [page[at:at + messages.BLOCK_RECORD_SIZE] for at in range(0, len(page), messages.BLOCK_RECORD_SIZE)]
            self._pages[keeper] += [(record[:16].hex(), int.from_bytes(record[16:], "big")) for record in records]
            if message.last:
                self.reports[keeper].append(dict(self._pages.pop(keeper)))
            self.changed.notify_all()
        return messages.Done()

    def _Notify(self, message, _exchange, keeper):
        with self.changed:
            self.notifies[keeper].append(message)
            self.events[keeper] += message.events
            self.changed.notify_all()
        return messages.Notified(epoch=self.epoch, tick=self.tick)

    def _ReportKept(self, message, exchange, keeper):
        return messages.Done()

    def _AwaitOrders(self, message, _exchange, keeper):
        with self.changed:
            self.changed.wait_for(lambda: self._orders[keeper], min(message.wait_s, 0.5))
            orders = list(self._orders[keeper])
            self._orders[keeper].clear()
        return messages.Orders(epoch=self.epoch, orders=orders)

    def _Farewell(self, _message, _exchange, keeper):
        with self.changed:
            self.farewells.append(keeper)
            self.changed.notify_all()
        return messages.Done()

    def _heard(self, heartbeat, _host):
        with self.changed:
            self.beats[heartbeat.keeper].append(heartbeat)
            self.changed.notify_all()

    # -- what tests do ------------------------------------------------------------------------------------------------------
    def order(self, keeper, kind, **fields):
        """Queue an order; returns its id."""
        with self.changed:
            self._n_orders += 1
            self._orders[keeper].append({"order": self._n_orders, "kind": kind, **fields})
            self.changed.notify_all()
            return self._n_orders

    def until(self, condition, seconds=8.0, what=""):
        """Wait until condition() is true, under the lock; returns its value."""
        end_s = time.monotonic() + seconds
        with self.changed:
            while True:
                value = condition()
                if value:
                    return value
                left_s = end_s - time.monotonic()
                assert left_s > 0, f"not within {seconds} s: {what}"
                self.changed.wait(min(left_s, 0.1))

    def outcome(self, keeper, order, seconds=8.0):
        """The order_done event of an order."""
        return self.until(lambda: [e for e in self.events[keeper] if e["kind"] == "order_done" and e["order"] == order],
                          seconds, f"order {order} done")[0]

    def ticket(self, operation, block, keeper, size, user, expires=1000, file=b""):
        ticket = trust.Ticket(operation, self.epoch, block, keeper, size, self.tick + expires, 77, trust.user_digest(user))
        return trust.make_ticket(self.keyring.ticket, ticket, file)


def clone_refusal(keeper):
    return errors.KeeperRefused(keeper=keeper, detail="a keeper of the same id lives elsewhere")
