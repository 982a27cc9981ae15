"""The HTTP answerer for monitors: what it says, and that slow, long and foreign clients cost it nothing."""

import errno
import socket
import time
import urllib.error
import urllib.request

import pytest

from dfs_lib.net import inherited, pages


def bug():
    raise RuntimeError("on purpose")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(pages, "HEAD_S", 0.5)
    made = pages.PageServer(inherited.listen("127.0.0.1", 0), {
        "/metrics": lambda: (200, "text/plain; version=0.0.4", "a_total 1\n"), "/bug": bug,
        "/readyz": pages.text_page(lambda: (False, "not yet")), "/healthz": pages.text_page(lambda: (True, "ok"))})
    made.start()
    yield made
    made.stop()


def ask(server, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, dict(e.headers), e.read().decode()


def raw(server, data, wait_s=5.0):
    with socket.create_connection(("127.0.0.1", server.port), wait_s) as sock:
        sock.sendall(data)
        found = b""
        while more := sock.recv(65536):
            found += more
        return found


def test_pages(server):
    status, headers, text = ask(server, "/metrics?x=1")
    assert (status, text, headers["Content-Type"]) == (200, "a_total 1\n", "text/plain; version=0.0.4")
    assert headers["Connection"] == "close" and headers["X-Content-Type-Options"] == "nosniff"
    assert ask(server, "/healthz")[::2] == (200, "ok\n") and ask(server, "/readyz")[::2] == (503, "not yet\n")
    status, headers, text = ask(server, "/metrics", "HEAD")
    assert (status, text, headers["Content-Length"]) == (200, "", "10")
    assert ask(server, "/../etc/passwd")[0] == ask(server, "/")[0] == 404 and "/metrics" in ask(server, "/")[2]
    assert ask(server, "/metrics", "POST")[0] == 405


def test_a_bug_in_a_page_is_told_as_one(server, caplog):
    assert ask(server, "/bug")[0] == 500 and "on purpose" in caplog.text
    assert ask(server, "/healthz")[0] == 200


@pytest.mark.parametrize("data, status", [
    (b"\x16\x03\x01 hello\r\n\r\n", b"400"), (b"GET /metrics\r\n\r\n", b"400"), (b"GET /metrics HTTP/1.1\n\n", b"200"),
    (b"GET /" + b"x" * 9000, b"400"), (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000, b"431")])
def test_what_is_no_request(server, data, status):
    assert raw(server, data).split(b" ", 2)[1] == status


def test_a_client_that_trickles_or_says_nothing_is_closed_in_time(server):
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 5) as silent, socket.create_connection(("127.0.0.1", server.port), 5) as slow:
        try:
            while time.monotonic() - began_s < 4.0:
                slow.sendall(b"G")
                time.sleep(0.05)
        except OSError:
            pass  # closed, which is what is waited for
        assert time.monotonic() - began_s < 3.0
        assert silent.recv(10) == b""


def test_more_than_a_few_at_once_are_closed_and_counted(server):
    held = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(pages.MAX_CONNECTIONS)]
    with socket.create_connection(("127.0.0.1", server.port), 5) as one_more:
        assert one_more.recv(10) == b"" and server.n_refused >= 1
    for sock in held:
        sock.close()
    end_s = time.monotonic() + 5
    while True:
        try:
            assert ask(server, "/healthz")[0] == 200
            break
        except OSError:
            assert time.monotonic() < end_s


def test_an_accept_that_fails_is_followed_by_a_pause(monkeypatch):
    pauses = []

    class Empty:
        def accept(self):
            raise OSError(errno.EMFILE, "on purpose")

    made = object.__new__(pages.PageServer)
    made.socket = Empty()
    monkeypatch.setattr(pages.time, "sleep", pauses.append)
    with pytest.raises(OSError):
        made.get_request()
    assert pauses and pauses[0] > 0
