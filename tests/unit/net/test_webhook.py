"""Posting to a webhook: one deadline for all of it, however the receiver trickles."""

import threading
import time

from dfs_lib.net import inherited, webhook

TRICKLES_S = 15.0


def trickle(listening, gone):
    """Answer one request with a head at once and then a body that comes byte by byte, until the asker goes."""
    connection, _address = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 60000\r\n\r\n")
        end_s = time.monotonic() + TRICKLES_S
        try:
            while time.monotonic() < end_s:
                connection.sendall(b".")
                gone.wait(0.05)
        except OSError:
            gone.set()


def test_an_answer_that_trickles_is_cut_off_at_the_deadline():
    gone = threading.Event()
    with inherited.listen("127.0.0.1", 0) as listening:
        receiver = threading.Thread(target=trickle, args=(listening, gone), daemon=True)
        receiver.start()
        began_s = time.monotonic()
        webhook.post(f"http://127.0.0.1:{inherited.port_of(listening)}/hook", b"{}", 0.5)  # it has said 200
        assert time.monotonic() - began_s < TRICKLES_S / 2
        receiver.join(TRICKLES_S)
        assert gone.is_set() and not receiver.is_alive()


def test_an_answer_that_is_reset_after_its_head_has_said_what_counts(monkeypatch):
    def answer(listening):
        connection, _address = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n.")

    def read(_response, _most):
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(webhook.http.client.HTTPResponse, "read", read)
    with inherited.listen("127.0.0.1", 0) as listening:
        receiver = threading.Thread(target=answer, args=(listening,), daemon=True)
        receiver.start()
        webhook.post(f"http://127.0.0.1:{inherited.port_of(listening)}/hook", b"{}", 5.0)
        receiver.join(5)
        assert not receiver.is_alive()
