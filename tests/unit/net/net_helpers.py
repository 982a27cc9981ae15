"""A server over loopback with a service made of functions, and the threads it leaves behind: none."""

import contextlib
import socket
import threading
import time

from dfs_lib.net import servers, streams
from dfs_lib.wire import conversation, messages, trust

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
CLUSTER = "c1" * 16
HOST = "127.0.0.1"


class Service:
    """handle(message, exchange) by message class; everything else is answered Done."""

    def __init__(self, **handlers):
        self.handlers, self.n_left = handlers, 0

    def handle(self, message, exchange):
        handler = self.handlers.get(type(message).__name__)
        if handler is None:
            return exchange.answer(messages.Done())
        return handler(message, exchange)

    def left(self, stream):
        self.n_left += 1


def wait_until(condition, seconds=5.0):
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "not reached in time"
        time.sleep(0.005)


@contextlib.contextmanager
def serving(service=None, key=KEY, role="master", **more):
    """A started Server; on leaving it is stopped, and no thread of it may be left."""
    before = set(threading.enumerate())
    ring = trust.Keyring.from_cluster_key(key)
    server = servers.Server((HOST, 0), service or Service(),
                            lambda port, nonce: conversation.Server(ring.secret_for, ring.auth, role, CLUSTER, port, nonce), **more)
    server.start()
    try:
        yield server
    finally:
        server.stop(wait_s=0.5)
        wait_until(lambda: set(threading.enumerate()) <= before)


def connect(server, key=KEY, timeout_s=3.0, identity="admin"):
    return streams.connect(HOST, server.port, trust.Keyring.from_cluster_key(key).credentials("client", identity), timeout_s)


def raw(server):
    """A socket to it that has said nothing."""
    sock = socket.create_connection((HOST, server.port), 5)
    sock.settimeout(5)
    return sock


def closed_by_peer(sock):
    """Whether the peer closes within the socket's time-out, whatever it says first."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


@contextlib.contextmanager
def listening(handler):
    """A plain TCP listener that hands each connection to handler(sock) in a thread."""
    listener = socket.create_server((HOST, 0))
    threads = []

    def accept():
        while True:
            try:
                sock, _address = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=run, args=(sock,))
            thread.start()
            threads.append(thread)

    def run(sock):
        with sock, contextlib.suppress(OSError):
            handler(sock)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(5)
            assert not thread.is_alive()
