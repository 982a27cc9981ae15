"""Limits of a port: connections of one host, the least rate of a transfer, idleness."""

import socket
import threading
import time

import pytest
from net_helpers import CLUSTER, HOST, KEY

from dfs_lib import errors
from dfs_lib.net import servers, streams
from dfs_lib.wire import conversation, messages, trust

RING = trust.Keyring.from_cluster_key(KEY)


class Sink:
    """Takes the body of a put and says done; gives any number of bytes."""

    def handle(self, message, exchange):
        if isinstance(message, messages.ReportBlocks):
            exchange.body()
        exchange.answer(messages.Done())


def limits(**changes):
    return servers.Limits(100, 100, 5.0, 600.0, 0)._replace(**changes)


@pytest.fixture
def serve():
    made = []

    def start(service=None, **changes):
        made.append(servers.Server((HOST, 0), service or Sink(), lambda port, nonce: conversation.Server(
            RING.secret_for, RING.auth, "master", CLUSTER, port, nonce), limits=limits(**changes)))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        server.stop(0.2)


def connect(server, role="client"):
    return streams.connect(HOST, server.port, RING.credentials(role, "admin"), 2.0)


def until(holds, seconds=5.0):
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_one_host_has_its_share(serve):
    server = serve(host_connections=3)
    held = [connect(server) for _ in range(3)]
    with pytest.raises(errors.NetworkError):
        connect(server)
    assert server.counters()["connections_refused"] == 1 and server.counters()["connections_open"] == 3
    held.pop().close()
    until(lambda: server.counters()["connections_open"] == 2)
    until(lambda: not _is_refused(server))
    for stream in held:
        stream.close()


def _is_refused(server):
    try:
        connect(server).close()
    except errors.NetworkError:
        return True
    return False


def test_the_handshake_has_a_deadline(serve):
    server = serve(handshake_s=0.2)
    with socket.create_connection((HOST, server.port)) as sock:
        sock.settimeout(3.0)
        assert sock.recv(10) == b""
    until(lambda: server.counters()["strangers_refused"] == 1)


def test_a_body_that_trickles_is_broken_off(serve, monkeypatch):
    monkeypatch.setattr(streams, "SLOW_GRACE_S", 0.2)
    server = serve(least_rate=1 << 20)
    stream = connect(server, "keeper")
    report = messages.ReportBlocks(first=True, last=True, crc=0)
    stream.send_bytes(stream.talk.send(report, 1, 240))
    with pytest.raises(errors.PeerGone):
        for _ in range(100):
            stream.send_bytes(b"x")
            time.sleep(0.02)
    until(lambda: server.counters()["transfers_too_slow"] == 1)
    stream.close()


def test_a_header_that_trickles_is_broken_off(serve, monkeypatch):
    monkeypatch.setattr(streams, "SLOW_GRACE_S", 0.2)
    server = serve(least_rate=1 << 30)
    stream = connect(server)
    data = stream.talk.send(messages.Ping(), 1)
    with pytest.raises(errors.PeerGone):
        for n in range(len(data) - 1):
            stream.send_bytes(data[n:n + 1])
            time.sleep(0.02)
        stream.answer()
    stream.close()


def test_a_reader_that_trickles_is_broken_off(serve, monkeypatch, tmp_path):
    monkeypatch.setattr(streams, "SLOW_GRACE_S", 0.3)
    monkeypatch.setattr(streams, "SEND_AT_ONCE", 1 << 16)
    path = tmp_path / "block"
    path.write_bytes(bytes(64 << 20))

    class Giver:
        def handle(self, message, exchange):
            with open(path, "rb") as file:
                exchange.answer_file(messages.BlockData(size=64 << 20), file.fileno(), 0, 64 << 20)

    server = serve(Giver(), least_rate=1 << 30)
    stream = connect(server)
    stream.send(messages.GetBlock(block="0" * 32, offset=0, count=64 << 20, ticket="t"))
    end_s = time.monotonic() + 10
    while not server.counters()["transfers_too_slow"]:
        assert time.monotonic() < end_s
        stream.sock.recv(1 << 16)
        time.sleep(0.01)
    stream.close()


def test_one_that_is_fast_enough_is_served(serve, monkeypatch):
    monkeypatch.setattr(streams, "SLOW_GRACE_S", 0.2)
    server = serve(least_rate=1000)
    stream = connect(server, "keeper")
    body = bytes(24 * 1000)
    for _ in range(3):
        assert isinstance(stream.ask(messages.ReportBlocks(first=True, last=True, crc=0), body), messages.Done)
        threading.Event().wait(0.3)  # idleness between requests is not slowness
    stream.close()
