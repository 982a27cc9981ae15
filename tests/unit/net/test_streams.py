"""Connecting to what is not dfs, silence, pools, datagrams, and what a client's start-up imports."""

import http.server
import logging
import socket
import subprocess
import sys
import threading
import time

import pytest
from net_helpers import HOST, KEY, Service, closed_by_peer, connect, listening, serving, wait_until

import dfs_lib
from dfs_lib import errors
from dfs_lib.net import datagrams, servers, streams
from dfs_lib.wire import frames, heartbeats, messages, trust

CREDENTIALS = trust.client_credentials(KEY)


def dial(port, timeout_s=3.0, host=HOST):
    return streams.connect(host, port, CREDENTIALS, timeout_s)


# -- not a dfs daemon ---------------------------------------------------------------------------------------------------
class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_an_http_server_is_recognised_at_once():
    server = http.server.ThreadingHTTPServer((HOST, 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    started_s = time.monotonic()
    with pytest.raises(errors.NotDfs, match=f"{HOST}:{server.server_address[1]} does not speak dfs"):
        dial(server.server_address[1])
    assert time.monotonic() - started_s < 2.5
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9\r\n", b"220 mail ESMTP\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b"\0", b"HTTP/1.0 400 Bad\r\n\r\n"])
def test_other_servers_are_recognised_by_their_first_byte(banner):
    with listening(lambda sock: (sock.sendall(banner), sock.recv(1000), closed_by_peer(sock))) as port:
        started_s = time.monotonic()
        with pytest.raises(errors.NotDfs):
            dial(port)
        assert time.monotonic() - started_s < 2.5


def test_a_port_that_says_nothing():
    with listening(closed_by_peer) as port:
        started_s = time.monotonic()
        with pytest.raises(errors.PeerTimeout, match=f"{HOST}:{port} did not answer within 0.3 s"):
            dial(port, 0.3)
        assert 0.25 < time.monotonic() - started_s < 2.5


def test_a_server_that_trickles_is_left_by_the_absolute_deadline():
    def trickle(sock):
        for byte in frames.pack(2, 0, 4000, 0, False) + b" " * 4000:
            sock.sendall(bytes((byte,)))
            time.sleep(0.02)

    with listening(trickle) as port:
        started_s = time.monotonic()
        with pytest.raises(errors.PeerTimeout):
            dial(port, 0.4)
        assert 0.3 < time.monotonic() - started_s < 2.5


def test_a_port_that_closes_at_once():
    with listening(lambda sock: None) as port, pytest.raises(errors.PeerGone):
        dial(port)


def test_nothing_there():
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(errors.ConnectFailed, match="connection refused"):
        dial(port)
    with pytest.raises(errors.ConnectFailed, match="is not known"):
        dial(7000, host="no-such-host.invalid")
    for host in ("a" * 300, "ä" * 100, "a..b", "\0"):
        with pytest.raises((errors.ConnectFailed, ValueError)):
            dial(7000, host=host)


@pytest.mark.parametrize("error, wanted", [
    ("no_such_file", errors.OutOfTurn), ("checksum", errors.OutOfTurn), ("bug", errors.OutOfTurn), ("version_mismatch", errors.VersionMismatch)])
def test_what_a_stranger_claims_before_he_has_proved_himself(error, wanted):
    """Anybody on the network could send it: it must not become a missing file or a damaged replica."""
    refusal = messages.Refused(error=error, message="rm -rf \x1b[2J", facts={"theirs": 2, "message": "x", "path": "/etc"})

    def claim(sock):
        header = refusal.to_header()
        sock.sendall(frames.pack(refusal.code, 0, len(header), 0, False) + header)
        closed_by_peer(sock)

    with listening(claim) as port, pytest.raises(wanted) as caught:
        dial(port)
    assert "\x1b" not in caught.value.message and "rm -rf" not in caught.value.message


def test_sockets_are_closed_whatever_fails(monkeypatch):
    with serving() as server:
        sock = socket.create_connection((HOST, server.port), 3)
        monkeypatch.setattr(streams.conversation.Asker, "prove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            streams.greet(sock, HOST, server.port, CREDENTIALS)
        assert sock.fileno() == -1


def test_a_timeout_near_zero_is_not_for_ever():
    over = threading.Event()
    with serving(Service(Ping=lambda message, exchange: (over.wait(10), exchange.answer(messages.Done())))) as server:
        stream = connect(server)
        with pytest.raises(errors.PeerTimeout):
            stream.ask(messages.Ping(), timeout_s=1e-9)
        assert not over.is_set()
        over.set()
        stream.close()


def test_an_answer_of_the_wrong_kind_ends_the_conversation():
    with serving(Service(Ping=lambda message, exchange: exchange.answer(messages.BlockData(size=0)))) as server:
        stream = connect(server)
        with pytest.raises(errors.OutOfTurn):
            stream.ask(messages.Ping())
        assert not stream.is_clean
        stream.close()


def test_a_peer_that_goes_before_it_answers():
    with serving(Service(Ping=lambda message, exchange: exchange.connection.abort())) as server:
        stream = connect(server)
        with pytest.raises(errors.PeerGone):
            stream.ask(messages.Ping())
        stream.close()
        stream.close()
        with pytest.raises(errors.PeerGone):
            stream.ask(messages.Ping())


def test_only_a_connection_of_long_messages_keeps_a_long_buffer():
    """An idle connection costs its server what it keeps here."""
    seen = []

    def ping(message, exchange):
        seen.append(len(exchange.connection._chunk))
        exchange.answer(messages.Done())

    with serving(Service(Ping=ping, Stat=lambda message, exchange: exchange.answer(messages.Stats(results=[{}])))) as server:
        stream = connect(server)
        stream.ask(messages.Ping())
        stream.ask(messages.Stat(paths=["/" + "a" * 3000] * 4, blocks=False))
        stream.ask(messages.Ping())
        stream.close()
    assert seen == [streams.FIRST_READ_SIZE, streams.READ_SIZE]


# -- pools --------------------------------------------------------------------------------------------------------------
def pool_for(**more):
    return streams.Pool(lambda host, port, timeout_s: streams.connect(host, port, CREDENTIALS, timeout_s), **more)


def test_pool_reuses_a_connection():
    with serving() as server:
        pool = pool_for()
        for _ in range(20):
            assert pool.ask(HOST, server.port, messages.Ping()) == messages.Done()
        with pool.stream(HOST, server.port) as stream:
            assert stream.ask(messages.Ping()) == messages.Done()
        assert server.n_accepted == 1
        pool.close()


def test_pool_replaces_a_stale_connection_once():
    pool = pool_for()
    with serving() as server:
        for _ in range(3):
            assert pool.ask(HOST, server.port, messages.Ping()) == messages.Done()
            with server._open_lock:
                open_now = list(server._open)
            for stream in open_now:
                stream.abort()
            wait_until(lambda: not server._open)
        assert server.n_accepted == 3
        port = server.port
    with pytest.raises(errors.ConnectFailed):
        pool.ask(HOST, port, messages.Ping())
    pool.close()


def test_a_fresh_connection_that_fails_is_not_tried_again():
    n_asked = []
    with serving(Service(Ping=lambda message, exchange: (n_asked.append(1), exchange.connection.abort()))) as server:
        pool = pool_for()
        with pytest.raises(errors.PeerGone):
            pool.ask(HOST, server.port, messages.Ping())
        assert len(n_asked) == 1 and not pool._idle.get((HOST, server.port))
        pool.close()


def test_pool_keeps_no_connection_that_is_old_dirty_or_too_many():
    now = [0.0]
    with serving() as server:
        pool = pool_for(keep=2, idle_s=10, clock=lambda: now[0])
        taken = [pool.take(HOST, server.port)[0] for _ in range(4)]
        for stream in taken:
            pool.give(HOST, server.port, stream)
        assert len(pool._idle[(HOST, server.port)]) == 2
        wait_until(lambda: len(server._open) == 2)
        now[0] = 11.0
        fresh, kept = pool.take(HOST, server.port)
        assert not kept
        wait_until(lambda: len(server._open) == 1)
        fresh.send(messages.Ping())  # unanswered: dirty
        pool.give(HOST, server.port, fresh)
        assert fresh.sock.fileno() == -1 and not pool._idle[(HOST, server.port)]
        with pytest.raises(errors.PeerTimeout), pool.stream(HOST, server.port) as stream:
            raise errors.PeerTimeout(address="x", seconds=1)
        assert stream.sock.fileno() == -1
        with pytest.raises(errors.NoSuchFile), pool.stream(HOST, server.port) as stream:
            raise errors.NoSuchFile(path="/x")
        assert pool.take(HOST, server.port) == (stream, True)
        pool.give(HOST, server.port, stream)
        pool.forget(HOST, server.port)
        assert stream.sock.fileno() == -1
        late = pool.take(HOST, server.port)[0]
        pool.close()
        pool.give(HOST, server.port, late)
        assert late.sock.fileno() == -1


def test_pool_for_many_threads():
    failures = []
    with serving() as server:
        pool = pool_for(keep=8)

        def run():
            try:
                for _ in range(50):
                    assert pool.ask(HOST, server.port, messages.Ping()) == messages.Done()
            except Exception as e:
                failures.append(e)

        threads = [threading.Thread(target=run) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures and len(pool._idle[(HOST, server.port)]) <= 8
        pool.close()


# -- datagrams ----------------------------------------------------------------------------------------------------------
BEAT = heartbeats.Heartbeat("ab" * 8, "cd" * 16, 1, 2, 3, 4, {8000: 1})


def test_heartbeats_are_heard_and_bad_ones_counted():
    heard = []

    def hear(heartbeat, host):
        heard.append((heartbeat, host))
        if heartbeat.number == 3:
            raise ZeroDivisionError("a bug of the hearer")

    listener = datagrams.Listener(HOST, 0, KEY, hear)
    listener.start()
    sender = datagrams.Sender(HOST, listener.port)
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for data in (b"", b"x", b"x" * 2000, heartbeats.pack(BEAT, b"y" * 32), heartbeats.pack(BEAT, KEY)[:-1], b"\x89DHB" + bytes(100)):
        raw.sendto(data, (HOST, listener.port))
    for number in range(1, 6):
        sender.send(BEAT._replace(number=number), KEY)
    wait_until(lambda: len(heard) == 5)
    assert [heartbeat.number for heartbeat, _host in heard] == [1, 2, 3, 4, 5] and heard[0][1] == HOST
    assert listener.counters == {"heartbeats_received": 5, "heartbeats_dropped": 6} and sender.n_sent == 5
    listener.stop()
    assert not listener._thread.is_alive()
    sender.close()
    sender.send(BEAT, KEY)
    assert sender.n_failed == 1
    raw.close()


def test_bad_heartbeats_make_one_line_and_stale_ones_another(caplog):
    caplog.set_level(logging.INFO)
    listener = datagrams.Listener(HOST, 0, KEY, lambda heartbeat, host: heartbeat.number < 3)
    for number in range(5):
        for host in ("10.0.0.1", "10.0.0.2"):  # any sender can be named in a datagram
            listener.take(heartbeats.pack(BEAT._replace(number=number), b"y" * 32), host)
            listener.take(heartbeats.pack(BEAT._replace(number=number), KEY), host)
    listener.stop()
    assert listener.counters == {"heartbeats_received": 10, "heartbeats_dropped": 10}
    dropped, stale = (record for record in caplog.records if record.name == datagrams.log.name)
    assert dropped.getMessage().startswith("heartbeat dropped from=10.0.0.1") and dropped.levelno == logging.WARNING
    assert stale.getMessage().startswith("heartbeat stale from=10.0.0.1") and stale.levelno == logging.INFO


def test_a_listener_with_a_high_descriptor():
    """select() cannot watch descriptors over 1023, and a master with many connections has such."""
    import os
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("no descriptors that high here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        heard = []
        listener = datagrams.Listener(HOST, 0, KEY, lambda *beat: heard.append(beat))
        listener.start()
        sender = datagrams.Sender(HOST, listener.port)
        sender.send(BEAT, KEY)
        wait_until(lambda: heard)
        sender.close()
        listener.stop()
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- what a client pays for ---------------------------------------------------------------------------------------------
def test_importing_streams_pulls_in_nothing_heavy():
    root = dfs_lib.__path__[0].rpartition("/")[0]
    code = f"import sys; sys.path.insert(0, {root!r}); import dfs_lib.net.streams; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout.split())
    heavy = {"re", "json", "secrets", "random", "hashlib", "hmac", "base64", "logging", "inspect", "dataclasses", "typing", "pathlib", "ssl",
             "urllib", "email", "traceback", "unicodedata", "socketserver", "subprocess", "tempfile", "sqlite3", "dfs_lib.settings", "dfs_lib.net.servers"}
    assert not loaded & heavy
