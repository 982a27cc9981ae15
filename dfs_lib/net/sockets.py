"""Sockets as the asking side uses them: those of the C module, which `socket` only wraps.

Importing `socket` would cost each start of a client 4 ms: it brings selectors, enum and array along. `plain` has its constants,
errors and functions, and its `socket` the methods that a Stream calls. Servers and datagrams use `socket`. Never reads or writes.
"""

try:
    import _socket as plain
except ImportError:
    import socket as plain


def create_connection(address, timeout_s):
    """A socket connected to (host, port), each call on it limited to `timeout_s` seconds: every address of the host is tried.

    Raises the last OSError, or gaierror for a name nobody knows; UnicodeError or OverflowError for what is no name or port.
    """
    host, port = address
    if host.isascii():
        host = host.encode()  # as bytes it needs no IDNA codec, whose import would cost each start 2 ms
    failure = None
    for family, kind, protocol, _name, place in plain.getaddrinfo(host, port, 0, plain.SOCK_STREAM):
        sock = None
        try:
            sock = plain.socket(family, kind, protocol)
            sock.settimeout(timeout_s)
            sock.connect(place)
            return sock
        except OSError as e:
            failure = e
            if sock is not None:
                sock.close()
    try:
        raise failure or OSError("the name has no address")
    finally:
        failure = None  # or the error and this frame would keep each other alive
