"""Connecting: each address of a name is tried, and the last failure is told."""

import socket

import pytest

from dfs_lib.net import sockets


def test_connects_to_a_number_or_a_name():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            sock = sockets.create_connection((host, server.getsockname()[1]), 5.0)
            assert sock.gettimeout() == 5.0 and sock.getpeername() == server.getsockname()
            sock.close()


def test_the_next_address_is_tried(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # does not listen
        places = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", each.getsockname()) for each in (bound, server)]
        plain = type("Plain", (), {"getaddrinfo": staticmethod(lambda *_: places), "socket": sockets.plain.socket,
                                   "SOCK_STREAM": sockets.plain.SOCK_STREAM})
        monkeypatch.setattr(sockets, "plain", plain)
        sock = sockets.create_connection(("lab", 1), 5.0)
        assert sock.getpeername() == server.getsockname()
        sock.close()
        del places[1]
        with pytest.raises(ConnectionRefusedError):
            sockets.create_connection(("lab", 1), 5.0)
        places.clear()
        with pytest.raises(OSError):
            sockets.create_connection(("lab", 1), 5.0)


def test_a_name_nobody_knows():
    with pytest.raises(socket.gaierror):
        sockets.create_connection(("no-such-host.invalid", 1), 1.0)
