"""The raw references: what plain sockets and files of this Python, on this machine, give for the same promise.

Imports nothing of dfs_lib but for `bare`.

Each has the same end-to-end check and the same durability as dfs, and nothing else: no names, tickets, leases, catalog, time-outs.

    pair    client: read 1 MiB, crc32, send ──▶ server: recv_into, crc32, write … fsync, rename ──▶ one acknowledgement
    chain   the same, and the server passes each chunk on to a second one before it writes; both are durable before the acknowledgement
    get     client: name ──▶ server: read, crc32, send ──▶ client: recv_into, crc32, write … fsync, rename
    small   the same messages, a file each, over one kept connection: one request with name, checksum and 4 KiB in one send; each server
            checks, passes on, writes, fsyncs, renames; one byte back. Eight streams are eight connections of one client's threads.
    bare    one framed, sealed request answered with Done, over dfs_lib's net and wire: what a message costs when nothing is done for it

    request   operation 1 · name length 2 · size 8 · name, then for each chunk: crc 4 · bytes; all big-endian
    answer    put: one byte. get: size 8, then chunks as above; `PLAIN` get: size 8, then the bytes by sendfile, checked by nobody but the client

    python3 benchmarks/raw.py serve DIRECTORY [HOST PORT of the next]     prints its port, ends with its standard input
    python3 benchmarks/raw.py bare KEY_FILE                               the same
"""

import os
import socket
import struct
import sys
import threading
from zlib import crc32

CHUNK = 1 << 20
PUT, GET, PLAIN = 1, 2, 3
_REQUEST, _SIZE, _CRC = struct.Struct(">BHQ"), struct.Struct(">Q"), struct.Struct(">I")
_READ = 65536


class Wire:
    """A socket with the few bytes that came in before they were asked for."""

    def __init__(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self._early, self._at = sock, b"", 0

    def exactly(self, n):
        while len(self._early) - self._at < n:
            more = self.sock.recv(_READ)
            if not more:
                raise EOFError
            self._early, self._at = self._early[self._at:] + more, 0
        self._at += n
        return self._early[self._at - n:self._at]

    def into(self, view):
        at = min(len(view), len(self._early) - self._at)
        if at:
            view[:at] = self._early[self._at:self._at + at]
            self._at += at
        while at < len(view):
            n = self.sock.recv_into(view[at:])
            if not n:
                raise EOFError
            at += n

    def send(self, head, view=b""):
        left = len(head) + len(view)
        left -= self.sock.sendmsg([head, view])
        if left:
            self.sock.sendall(view[len(view) - left:] if left <= len(view) else head[len(head) + len(view) - left:] + view)


def connect(address):
    return Wire(socket.create_connection(address))


def _check(view, crc):
    if crc32(view) != crc:
        raise ValueError("wrong checksum")


def _write(fd, view):
    while len(view):
        view = view[os.write(fd, view):]


def _durable(fd, temporary, path):
    os.fsync(fd)
    os.close(fd)
    os.rename(temporary, path)


def _create(path):
    temporary = f"{path}~{threading.get_ident()}"
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), temporary


def _sizes(size):
    for at in range(0, size, CHUNK):
        yield min(CHUNK, size - at)


# -- client -----------------------------------------------------------------------------------------------------------
def put(wire, local, name, buffer):
    """Send a local file; returns when it is durable there."""
    fd, head = os.open(local, os.O_RDONLY), b""
    try:
        size = os.fstat(fd).st_size
        head = _REQUEST.pack(PUT, len(name), size) + name.encode()
        for n in _sizes(size):
            view = buffer[:n]
            if os.readv(fd, [view]) != n:
                raise EOFError
            wire.send(head + _CRC.pack(crc32(view)), view)
            head = b""
    finally:
        os.close(fd)
    wire.exactly(1)


def get(wire, name, local, buffer, plain=False):
    """Fetch a file into a local one, durable."""
    wire.send(_REQUEST.pack(PLAIN if plain else GET, len(name), 0) + name.encode())
    size, = _SIZE.unpack(wire.exactly(8))
    fd, temporary = _create(local)
    for n in _sizes(size):
        view = buffer[:n]
        crc = None if plain else _CRC.unpack(wire.exactly(4))[0]
        wire.into(view)
        if plain:
            crc32(view)
        else:
            _check(view, crc)
        _write(fd, view)
    _durable(fd, temporary, local)


# -- server -----------------------------------------------------------------------------------------------------------
def serve(directory, following=None):
    """Accept for ever, a thread a connection, each with a connection of its own to the server that follows."""
    listener = _listen()

    def converse(sock):
        wire, buffer = Wire(sock), memoryview(bytearray(CHUNK))
        onward = connect(following) if following else None
        try:
            while True:
                operation, length, size = _REQUEST.unpack(wire.exactly(_REQUEST.size))
                name = wire.exactly(length)
                path = os.path.join(directory, name.decode())
                if operation == PUT:
                    _take(wire, onward, name, path, size, buffer)
                else:
                    _give(wire, path, buffer, operation == PLAIN)
        except (EOFError, ConnectionError):
            sock.close()

    while True:
        threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()


def _take(wire, onward, name, path, size, buffer):
    fd, temporary = _create(path)
    head = _REQUEST.pack(PUT, len(name), size) + name
    for n in _sizes(size):
        view, packed = buffer[:n], wire.exactly(4)
        wire.into(view)
        _check(view, _CRC.unpack(packed)[0])
        if onward is not None:
            onward.send(head + packed, view)
            head = b""
        _write(fd, view)
    _durable(fd, temporary, path)
    if onward is not None:
        onward.exactly(1)
    wire.send(b"k")


def _give(wire, path, buffer, plain):
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        head = _SIZE.pack(size)
        if plain:
            wire.send(head)
            at = 0
            while at < size:
                at += os.sendfile(wire.sock.fileno(), fd, at, size - at)
            return
        for n in _sizes(size):
            view = buffer[:n]
            if os.readv(fd, [view]) != n:
                raise EOFError
            wire.send(head + _CRC.pack(crc32(view)), view)
            head = b""
    finally:
        os.close(fd)


def _listen():
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    _announce(listener.getsockname()[1])
    return listener


def _announce(port):
    """Say the port, and end when whoever started us has gone."""
    print(port, flush=True)

    def wait_for_end():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait_for_end, daemon=True).start()


def serve_bare(key_file):
    """A server of dfs_lib's own framing whose service answers Done to anything."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from dfs_lib import keyfile
    from dfs_lib.net import servers
    from dfs_lib.wire import conversation, messages, trust

    keyring = trust.Keyring.from_cluster_key(keyfile.read(key_file))

    class Service:
        def handle(self, message, exchange):
            exchange.answer(messages.Done())

    def make_talk(port, nonce):
        return conversation.Server(keyring.secret_for, keyring.auth, "keeper", "0" * 32, port, nonce)

    server = servers.Server(("127.0.0.1", 0), Service(), make_talk)
    _announce(server.port)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        serve_bare(sys.argv[2])
    else:
        serve(sys.argv[2], (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else None)
