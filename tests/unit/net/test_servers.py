"""Servers over loopback: strangers, slow ones, crowds, refusals in the middle, and stopping."""

import errno
import functools
import http.client
import logging
import os
import socket
import threading
import time

import pytest
from net_helpers import HOST, KEY, OTHER_KEY, Service, closed_by_peer, connect, raw, serving, wait_until

from dfs_lib import errors
from dfs_lib.net import servers, streams
from dfs_lib.wire import frames, messages, trust

BLOCK = "ab" * 16
META = {"path": "/a", "version": 1, "index": 0, "file_size": 5, "block_size": 1 << 26, "mtime_at": 0, "copies": 3, "last": True}


def put_block(size):
    return messages.PutBlock(block=BLOCK, size=size, meta=META, ticket="t", chain=[], crc=1)


def get_block(count):
    return messages.GetBlock(block=BLOCK, offset=0, count=count, ticket="t")


@pytest.mark.parametrize("key", [KEY, None], ids=["keyed", "insecure"])
def test_ping(key):
    service = Service()
    with serving(service, key) as server:
        stream = connect(server, key)
        for _ in range(50):
            assert stream.ask(messages.Ping()) == messages.Done()
        assert stream.is_clean and stream.talk.peer.role == "master"
        stream.close()
        wait_until(lambda: service.n_left == 1)
    assert server.n_accepted == 1


def test_wrong_key(caplog):
    with serving() as server:
        with pytest.raises(errors.BadKey, match=f"the key does not open {HOST}:{server.port}"):
            connect(server, OTHER_KEY)
        assert connect(server).ask(messages.Ping()) == messages.Done()


@pytest.mark.parametrize("ours, theirs, words", [(None, KEY, "it wants a key and none was given"), (KEY, None, "runs with --insecure: it asks nobody")])
def test_insecure_meets_keyed(ours, theirs, words):
    with serving(key=theirs) as server, pytest.raises(errors.BadKey, match=words):
        connect(server, ours)


def test_another_version_is_told_both(monkeypatch):
    with serving() as server:
        sock = raw(server)
        ring = trust.Keyring.from_cluster_key(KEY)
        talk = servers.conversation.Asker(ring.credentials("client", "admin"), server.port, "11" * 32)
        talk._hello.version = 7
        stream = streams.Stream(sock, talk, f"{HOST}:{server.port}")
        stream.send_bytes(talk.hello())
        refusal = stream.next().message
        assert refusal.error == "version_mismatch" and f"protocol {messages.PROTOCOL_VERSION}" in refusal.message and "speaks 7" in refusal.message
        assert closed_by_peer(sock)
        sock.close()
        # And the program that asks says so, with the daemon's address and number.
        real = streams.conversation.Asker

        def of_version_7(*args):
            asker = real(*args)
            asker._hello.version = 7
            return asker

        monkeypatch.setattr(streams.conversation, "Asker", of_version_7)
        with pytest.raises(errors.VersionMismatch, match=f"{HOST}:{server.port} speaks protocol {messages.PROTOCOL_VERSION}, this program speaks") as caught:
            connect(server)
        assert caught.value.facts["theirs"] == messages.PROTOCOL_VERSION


def test_an_http_client_is_let_go_at_once():
    with serving() as server:
        started_s = time.monotonic()
        client = http.client.HTTPConnection(HOST, server.port, timeout=5)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            client.request("GET", "/")
            client.getresponse()
        client.close()
        assert time.monotonic() - started_s < 2.5


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02", b"SSH-2.0-OpenSSH\r\n", b"\0", b"\x89DFS" + b"\xff" * 28,
                                   frames.pack(7, 1, 2, 0, False) + b"{}", frames.pack(1, 0, 4097, 0, False), frames.pack(1, 0, 4, 0, False) + b"[[[[",
                                   frames.pack(1, 0, 2, 1 << 30, False) + b"{}"])
def test_garbage_from_a_stranger_is_closed_without_a_word(first):
    with serving() as server:
        sock = raw(server)
        sock.sendall(first)
        try:
            assert sock.recv(100) == b""
        except ConnectionError:
            pass
        sock.close()
        assert connect(server).ask(messages.Ping()) == messages.Done()


def test_a_strangers_complaints_make_one_line(caplog):
    caplog.set_level(logging.INFO)
    with serving() as server:
        for _ in range(30):
            sock = raw(server)
            sock.sendall(b"garbage\x1b[2J\nERROR forged")
            closed_by_peer(sock)
            sock.close()
        wait_until(lambda: not server._open)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and lines[0].startswith("stranger refused") and lines[0].isprintable()


def test_what_is_not_for_a_role_is_counted_and_makes_one_line(caplog):
    with serving() as server:
        stream = connect(server)
        for _ in range(3):
            with pytest.raises(errors.NoSuchRole):
                stream.ask(messages.Farewell())
        assert stream.ask(messages.Ping()) == messages.Done() and server.counters()["requests_out_of_role"] == 3
        stream.close()
    line, = caplog.messages
    assert line.startswith("request refused who=client 'admin'") and line.endswith("repeated=0")


def test_complaints_count_what_they_hold_back():
    now = [0.0]
    complaints = servers.Complaints(clock=lambda: now[0], most_hosts=3)
    assert complaints.due("a") == 0 and complaints.due("a") is None and complaints.due("a") is None and complaints.due("b") == 0
    now[0] = servers.COMPLAIN_EVERY_S
    assert complaints.due("a") == 2 and complaints.due("a") is None
    for n in range(1000):
        complaints.due(str(n))
    assert len(complaints._lines) <= 3


def test_complaints_about_many_hosts_are_bounded_too():
    now = [0.0]
    complaints = servers.Complaints(clock=lambda: now[0], most_lines=5)
    assert [complaints.due(f"2001:db8::{n:x}") for n in range(100)] == [0] * 5 + [None] * 95
    now[0] = servers.COMPLAIN_EVERY_S
    assert complaints.due("another") == 95 and complaints.due("one more") == 0


# -- time ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def quick_handshake(monkeypatch):
    monkeypatch.setattr(streams, "HANDSHAKE_TIMEOUT_S", 0.4)


@pytest.mark.parametrize("already", [0, 10, 40])
def test_slow_loris_is_closed_by_the_absolute_deadline(quick_handshake, already):
    """Bytes that keep coming do not stretch the time: after 0.4 s it is over, though none was ever 0.4 s late."""
    ring = trust.Keyring.from_cluster_key(KEY)
    with serving() as server:
        hello = servers.conversation.Asker(ring.credentials("client", "admin"), server.port, "11" * 32).hello()
        sock = raw(server)
        started_s = time.monotonic()
        with pytest.raises((ConnectionError, TimeoutError)):
            sock.sendall(hello[:already])
            for at in range(already, len(hello)):
                sock.sendall(hello[at:at + 1])
                time.sleep(0.03)
                assert time.monotonic() - started_s < 3
        assert 0.3 < time.monotonic() - started_s < 2.5
        sock.close()


def test_a_silent_stranger_is_closed(quick_handshake):
    with serving() as server:
        sock = raw(server)
        started_s = time.monotonic()
        assert closed_by_peer(sock)
        assert 0.3 < time.monotonic() - started_s < 2.5
        sock.close()


def test_a_stranger_who_stops_after_his_hello(quick_handshake):
    ring = trust.Keyring.from_cluster_key(KEY)
    with serving() as server:
        sock = raw(server)
        started_s = time.monotonic()
        sock.sendall(servers.conversation.Asker(ring.credentials("client", "admin"), server.port, "11" * 32).hello())
        assert closed_by_peer(sock)
        assert 0.3 < time.monotonic() - started_s < 2.5
        sock.close()


def test_idle_connections_are_closed(monkeypatch):
    monkeypatch.setattr(servers, "PROGRESS_S", 0.1)
    monkeypatch.setattr(servers, "converse", functools.partial(servers.converse, idle_s=0.3))
    with serving() as server:
        stream = connect(server)
        assert stream.ask(messages.Ping()) == messages.Done()
        started_s = time.monotonic()
        assert closed_by_peer(stream.sock)
        assert 0.2 < time.monotonic() - started_s < 2.5
        with pytest.raises(errors.PeerGone):
            stream.ask(messages.Ping())
        stream.close()


def test_a_stall_in_the_middle_of_a_message_or_body_is_closed(monkeypatch):
    monkeypatch.setattr(servers, "PROGRESS_S", 0.2)
    with serving(Service(PutBlock=lambda message, exchange: exchange.body())) as server:
        for cut in (10, 40):
            stream = connect(server)
            stream.send_bytes(stream.talk.send(messages.Ping(), 1)[:cut])
            started_s = time.monotonic()
            assert closed_by_peer(stream.sock)
            assert time.monotonic() - started_s < 2.5
            stream.close()
        stream = connect(server)
        stream.send_bytes(stream.talk.send(put_block(5), 1, 5) + b"he")
        started_s = time.monotonic()
        assert closed_by_peer(stream.sock)
        assert time.monotonic() - started_s < 2.5
        stream.close()


def test_working_keeps_an_asker_waiting_past_its_silence_limit(monkeypatch):
    monkeypatch.setattr(servers, "PULSE_S", 0.05)

    def slow(message, exchange):
        with exchange.working():
            time.sleep(0.6)
            exchange.answer(messages.Done())  # within: from here on the pulse keeps quiet
            time.sleep(0.2)

    with serving(Service(Ping=slow)) as server:
        stream = connect(server)
        for _ in range(2):
            assert stream.ask(messages.Ping(), timeout_s=0.3) == messages.Done()
        assert stream.is_clean
        stream.close()


def test_without_working_the_silence_limit_holds():
    over = threading.Event()
    with serving(Service(Ping=lambda message, exchange: (over.wait(10), exchange.answer(messages.Done())))) as server:
        stream = connect(server)
        with pytest.raises(errors.PeerTimeout, match="within 0.2 s"):
            stream.ask(messages.Ping(), timeout_s=0.2)
        assert not over.is_set() and not stream.is_clean
        over.set()
        stream.close()


def test_working_has_an_end(monkeypatch):
    """A disk that hangs for ever must not hold its asker for ever (I12)."""
    monkeypatch.setattr(servers, "PULSE_S", 0.05)
    monkeypatch.setattr(servers, "WORKING_MOST_S", 0.3)
    over = threading.Event()

    def stuck(message, exchange):
        with exchange.working():
            over.wait(5)
        exchange.answer(messages.Done())

    with serving(Service(Ping=stuck)) as server:
        stream = connect(server)
        started_s = time.monotonic()
        with pytest.raises(errors.PeerTimeout):
            stream.ask(messages.Ping(), timeout_s=0.2)
        assert 0.3 < time.monotonic() - started_s < 1.5
        over.set()
        stream.close()


def test_one_that_does_not_read_does_not_silence_the_others(monkeypatch):
    """The pulse never waits for a full connection."""
    monkeypatch.setattr(servers, "PULSE_S", 0.05)
    over = threading.Event()

    def slow(message, exchange):
        sock = exchange.connection.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setblocking(False)
        try:
            while True:
                sock.send(b"x" * 4096)  # fill it; this connection is of no use afterwards
        except BlockingIOError:
            sock.setblocking(True)
        with exchange.working():
            over.wait(5)
        exchange.answer(messages.Done())

    def patient(message, exchange):
        with exchange.working():
            time.sleep(0.8)
        exchange.answer(messages.Done())

    with serving(Service(Ping=slow, Farewell=patient, Status=patient)) as server:
        full = connect(server)
        full.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        full.send(messages.Ping())
        wait_until(lambda: server.pulse._busy)
        stream = connect(server)
        stream.send(messages.Status())
        stream.set_timeout(0.4)
        n_working = 0
        with pytest.raises(errors.OutOfTurn):  # Done is not Status' answer: it tells that the wait was survived
            while True:
                n_working += isinstance(stream.next().message, messages.Working)
        assert n_working >= 5
        over.set()
        full.close()
        stream.close()


# -- crowds -------------------------------------------------------------------------------------------------------------
def enters(server, kept):
    try:
        kept.append(connect(server))
    except errors.NetworkError:
        return False
    return True


def test_max_connections():
    with serving(max_connections=8) as server:
        kept = []
        for _ in range(8):
            kept.append(connect(server))
            kept[-1].ask(messages.Ping())  # now it is known here: only two of eight may be strangers at once
        with pytest.raises(errors.NetworkError):
            connect(server)
        assert server.n_refused == 1
        for stream in kept:
            assert stream.ask(messages.Ping()) == messages.Done()
        kept.pop().close()
        wait_until(lambda: enters(server, kept))  # its place is free a little after its stream is closed
        assert kept[-1].ask(messages.Ping()) == messages.Done()
        for stream in kept:
            stream.close()


def test_silent_strangers_of_one_host_do_not_shut_the_others_out():
    with serving(max_connections=40) as server:
        idlers = [raw(server) for _ in range(60)]
        wait_until(lambda: server.n_refused >= 50)
        assert len(server._open) <= 10
        # Another host finds the door open (127.0.0.2 is another host to a server on 127.0.0.1).
        sock = socket.create_connection((HOST, server.port), 3, source_address=("127.0.0.2", 0))
        stream = streams.greet(sock, HOST, server.port, trust.Keyring.from_cluster_key(KEY).credentials("client", "admin"))
        assert stream.ask(messages.Ping()) == messages.Done()
        stream.close()
        for sock in idlers:
            sock.close()
        wait_until(lambda: not server._strangers)
        assert connect(server).ask(messages.Ping()) == messages.Done()


def test_two_hundred_threads_pinging():
    failures = []
    with serving() as server:
        start = threading.Barrier(200)

        def run():
            try:
                start.wait(20)
                stream = connect(server, timeout_s=20)
                for _ in range(20):
                    assert stream.ask(messages.Ping(), timeout_s=20) == messages.Done()
                stream.close()
            except Exception as e:
                failures.append(e)

        threads = [threading.Thread(target=run) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert server.n_accepted == 200 and server.n_refused == 0
        wait_until(lambda: not server._strangers and not server._open)


# -- refusals, bodies, bugs ---------------------------------------------------------------------------------------------
def test_roles():
    with serving() as server:
        stream = connect(server)
        with pytest.raises(errors.NoSuchRole, match="client may not ask for Farewell"):
            stream.ask(messages.Farewell())
        assert stream.ask(messages.Ping()) == messages.Done() and stream.is_clean
        stream.close()


@pytest.mark.parametrize("facts, message", [
    ({"path": "/x", "n": 5, "ok": True, "share": 0.5, "names": ["a", 1], "none": None}, None),
    ({"path": os.fsdecode(b"/\xff"), "share": float("inf"), "set": {1}, "bytes": b"x", "names": [b"x", float("nan")], "long": "ü" * 20000}, None),
    ({}, "surrogate \udcff and long " + "x" * 20000), ({f"f{n}": n for n in range(100)}, "many"),
])
def test_any_refusal_can_be_sent(facts, message):
    def refuse(_message, exchange):
        raise errors.LocalFileError(message, detail="d", **facts)

    with serving(Service(Ping=refuse)) as server:
        stream = connect(server)
        for _ in range(2):
            with pytest.raises(errors.LocalFileError) as caught:
                stream.ask(messages.Ping())
        caught.value.message.encode()
        assert stream.is_clean
        if "n" in facts:
            assert {**facts, "detail": "d"} == caught.value.facts
        stream.close()


def test_facts_named_like_parameters_do_not_break_the_asker():
    def refuse(_message, exchange):
        exchange.answer(messages.Refused(error="no_such_file", message="no", facts={"message": 1, "self": 2, "path": "/x"}))

    with serving(Service(Ping=refuse)) as server:
        stream = connect(server)
        with pytest.raises(errors.NoSuchFile, match="^no$"):
            stream.ask(messages.Ping())
        stream.close()


def test_refusal_in_the_middle_of_a_body_reaches_the_asker():
    def refuse(message, exchange):
        exchange.continues(True)
        view = memoryview(bytearray(1000))
        exchange.body_into(view)
        raise errors.NoRoom(size=message.size, detail="disk full")

    for n_chunks in (0, 1, 40):  # what is still under way: less and more than the socket buffers hold
        with serving(Service(PutBlock=refuse)) as server:
            stream = connect(server)
            chunk = bytes(1 << 20)
            stream.set_timeout(5)
            with pytest.raises(errors.NoRoom, match="disk full"):
                try:
                    request_id = stream.send(put_block(50 << 20), chunk)
                    for _ in range(n_chunks):
                        stream.send(messages.BlockChunk(crc=1), chunk, request_id)
                except errors.PeerGone:
                    stream.raise_last_words()
                    raise
                stream.answer()
            assert not stream.is_clean  # the server closes it: it must not go back to a pool
            stream.close()


def test_refusal_of_a_request_whose_body_was_read_keeps_the_connection():
    def refuse(message, exchange):
        assert exchange.body() == b"hello"
        raise errors.BadTicket(detail="no")

    with serving(Service(PutBlock=refuse)) as server:
        stream = connect(server)
        with pytest.raises(errors.BadTicket):
            stream.ask(put_block(5), b"hello")
        assert stream.ask(messages.Ping()) == messages.Done()
        stream.close()


def test_chunks_and_a_file(tmp_path):
    got = []

    def put(message, exchange):
        got.append(exchange.body())
        exchange.continues(True)
        while sum(map(len, got)) < message.size:
            chunk, length = exchange.next_chunk()
            view = memoryview(bytearray(length))
            exchange.body_into(view)
            got.append(bytes(view))
        exchange.continues(False)
        exchange.answer(messages.BlockWritten(receipts=[{"keeper": BLOCK, "proof": "0" * 32}], failed=[]))

    path = tmp_path / "file"
    content = os.urandom(3_000_000)
    path.write_bytes(content)

    def get(message, exchange):
        with open(path, "rb") as source:
            exchange.answer_file(messages.BlockData(size=message.count), source.fileno(), message.offset, message.count)

    with serving(Service(PutBlock=put, GetBlock=get)) as server:
        stream = connect(server)
        request_id = stream.send(put_block(len(content)), content[:1 << 20])
        for at in range(1 << 20, len(content), 1 << 20):
            stream.send(messages.BlockChunk(crc=1), content[at:at + (1 << 20)], request_id)
        assert isinstance(stream.answer(), messages.BlockWritten) and b"".join(got) == content
        answer = stream.ask(messages.GetBlock(block=BLOCK, offset=1000, count=2_000_000, ticket="t"))
        assert answer.size == 2_000_000 and stream.body() == content[1000:2_001_000]
        assert stream.ask(messages.Ping()) == messages.Done() and stream.is_clean
        stream.close()


@pytest.mark.parametrize("portable", [False, True])
def test_a_file_that_ends_early_never_becomes_bytes_of_a_body(tmp_path, portable, monkeypatch, caplog):
    """Once the head is out a refusal would be read as the body: only closing tells the asker."""
    if portable:
        monkeypatch.delattr(os, "sendfile")
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)

    def get(message, exchange):
        with open(path, "rb") as source:
            exchange.answer_file(messages.BlockData(size=message.count), source.fileno(), 0, message.count)

    with serving(Service(GetBlock=get)) as server:
        stream = connect(server)
        assert stream.ask(get_block(1000)).size == 1000 and stream.body() == b"x" * 1000
        assert stream.ask(get_block(5000)).size == 5000
        with pytest.raises(errors.PeerGone, match="in the middle of a body"):
            stream.body()
        assert not stream.is_clean
        stream.close()
    assert "answer broken off" in caplog.text


def test_an_error_of_the_disk_is_not_taken_for_one_of_the_network(monkeypatch, tmp_path):
    import errno
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    with serving() as server:
        stream = connect(server)
        monkeypatch.setattr(os, "sendfile", broken)
        with pytest.raises(errors.DiskFault):
            stream.send_file(messages.BlockChunk(crc=1), fd, 0, 10, 1)
        stream.close()
    os.close(fd)


def test_a_bug_ends_one_connection_with_its_traceback(caplog):
    def bug(message, exchange):
        raise ZeroDivisionError("a bug")

    def silent(message, exchange):
        return None

    with serving(Service(Ping=bug, Status=silent)) as server:
        for request, words in ((messages.Ping(), "ZeroDivisionError"), (messages.Status(), "Status was not answered")):
            stream = connect(server)
            with pytest.raises(errors.PeerGone):
                stream.ask(request)
            stream.close()
            wait_until(lambda: words in caplog.text)
        assert caplog.text.count("Traceback") == 2


# -- stopping -----------------------------------------------------------------------------------------------------------
def test_stop_ends_idle_strange_and_busy_connections_and_their_threads():
    before = set(threading.enumerate())
    entered = threading.Event()

    def busy(message, exchange):
        entered.set()
        exchange.body()

    with serving(Service(PutBlock=busy)) as server:
        idle = [connect(server) for _ in range(20)]
        strangers = [raw(server) for _ in range(5)]
        stuck = connect(server)
        stuck.send_bytes(stuck.talk.send(put_block(5), 1, 5))
        assert entered.wait(5)
        wait_until(lambda: len(server._open) == 26)
        started_s = time.monotonic()
        server.stop(wait_s=0.4)
        took_s = time.monotonic() - started_s
        assert 0.3 < took_s < 1.5
        wait_until(lambda: set(threading.enumerate()) <= before)
        for stream in idle:
            assert closed_by_peer(stream.sock)
            stream.close()
        for sock in strangers:
            assert closed_by_peer(sock)
            sock.close()
        stuck.close()
        with pytest.raises(errors.ConnectFailed):
            connect(server)


def test_stop_is_quick_when_nobody_is_busy_and_lets_a_busy_one_end():
    def slow(message, exchange):
        time.sleep(0.3)
        exchange.answer(messages.Done())

    with serving(Service(Ping=slow)) as server:
        stream = connect(server)
        stream.send(messages.Ping())
        wait_until(lambda: any(not each.is_idle and each.talk.phase == "open" for each in server._open))
        started_s = time.monotonic()
        server.stop(wait_s=5)
        assert time.monotonic() - started_s < 2
        assert stream.answer() == messages.Done()
        stream.close()


def test_stop_of_a_server_that_never_started():
    server = servers.Server((HOST, 0), Service(), None)
    done = threading.Thread(target=server.stop, daemon=True)
    done.start()
    done.join(5)
    assert not done.is_alive()


def test_out_of_descriptors_does_not_kill_the_accept_loop(monkeypatch, caplog):
    import errno
    real, left = servers.socketserver.TCPServer.get_request, [3]

    def scarce(self):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self)

    monkeypatch.setattr(servers.socketserver.TCPServer, "get_request", scarce)
    with serving() as server:
        assert connect(server).ask(messages.Ping()) == messages.Done()
    assert caplog.text.count("accept failed") == 1


def test_connections_that_wait_for_a_descriptor_are_counted(monkeypatch):
    class Full:
        def accept(self):
            raise OSError(errno.EMFILE, "too many open files")

    pauses = []
    with serving(Service()) as server:
        monkeypatch.setattr(server, "socket", Full())
        monkeypatch.setattr(servers.time, "sleep", pauses.append)
        with pytest.raises(OSError):
            server.get_request()
        monkeypatch.undo()
        assert server.counters()["descriptors_short"] == 1 and pauses and pauses[0] > 0
