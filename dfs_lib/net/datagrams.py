"""UDP: heartbeats out, heartbeats in. Never answers, never raises for a bad datagram: it counts and drops, and writes a line a minute."""

import logging
import selectors
import socket
import threading

from dfs_lib import errors
from dfs_lib.net import servers
from dfs_lib.wire import heartbeats

log = logging.getLogger(__name__)


class Sender:
    """Sends datagrams to one address; a network that is away for the moment is not an error, the next beat may get through."""

    def __init__(self, host, port):
        family, _type, _proto, _name, self._address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self.n_sent = self.n_failed = 0

    def send(self, heartbeat, key):
        try:
            self._sock.sendto(heartbeats.pack(heartbeat, key), self._address)
            self.n_sent += 1
        except OSError:
            self.n_failed += 1

    def close(self):
        self._sock.close()


class Listener:
    """Receives heartbeats in a thread of its own and hands each good one to `heard(heartbeat, host)`, which returns False when it is stale.

    One line a minute for all hosts together: whoever sends datagrams can name any sender he likes.
    """

    def __init__(self, host, port, key, heard):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # 1,000 keepers' beats in one second, and room
        try:
            self._sock.bind((host, port))
        except OSError:
            self._sock.close()
            raise
        self._sock.setblocking(False)
        self.port = self._sock.getsockname()[1]
        self._key, self._heard = key, heard
        self.counters = {"heartbeats_received": 0, "heartbeats_dropped": 0}
        self._complaints = servers.Complaints()
        self._stop_read, self._stop_write = socket.socketpair()
        self._thread = None

    def start(self):
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def _run(self):
        ready = selectors.DefaultSelector()  # not select(): that fails for descriptors over 1023
        ready.register(self._sock, selectors.EVENT_READ)
        ready.register(self._stop_read, selectors.EVENT_READ)
        while True:
            if any(key.fileobj is self._stop_read for key, _events in ready.select()):
                ready.close()
                return
            try:
                data, address = self._sock.recvfrom(heartbeats.MAX_SIZE + 1)
            except OSError:
                continue  # a datagram that vanished between select and here, or an ICMP error of one we never answer
            self.take(data, address[0])

    def take(self, data, host):
        """Judge one datagram."""
        try:
            heartbeat = heartbeats.unpack(data, self._key)
        except errors.DfsError as e:
            self.counters["heartbeats_dropped"] += 1
            n_held = self._complaints.due("dropped")
            if n_held is not None:
                log.warning("heartbeat dropped from=%s reason=%s repeated=%s", host, e.message, n_held)
            return
        self.counters["heartbeats_received"] += 1
        try:
            is_stale = self._heard(heartbeat, host) is False
        except Exception:
            log.exception("bug while hearing a heartbeat keeper=%s", heartbeat.keeper)
            return
        if is_stale and (n_held := self._complaints.due("stale")) is not None:
            # A restart on either side leaves some on their way: no reason to warn.
            log.info("heartbeat stale from=%s keeper=%s reason=late, repeated or of no session repeated=%s", host, heartbeat.keeper, n_held)

    def stop(self):
        self._stop_write.send(b"x")
        if self._thread is not None:
            self._thread.join(2.0)
        for sock in (self._sock, self._stop_read, self._stop_write):
            sock.close()
