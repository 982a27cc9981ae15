"""TCP for programs that do not speak our protocol: browsers, curl, scrapers of metrics. Bytes in, bytes out.

Never knows what the bytes mean: whoever serves has `serve(connection)`, and says `connection.is_known()` once a peer has said
something sensible; until then it is a stranger, of whom one host may have few. Each wait has an end: silence, and a least rate.
With a certificate (`tls.Certificate`) it is TLS 1.3, and one who speaks plain HTTP to it is told so in plain HTTP.
"""

import logging
import socket
import struct
import sys
import time

from dfs_lib.net import inherited, servers, streams

log = logging.getLogger(__name__)

# Silence allowed in the middle of something, and the bytes a second below which a peer is given up after so many seconds of waiting for it.
SILENCE_S = 30.0
LEAST_RATE = 4096
SLOW_GRACE_S = 20.0

# What is encrypted at once: small enough that a slow peer, who takes it within the timeout of one call, is not broken off.
_ENCRYPTED_PART = 64 << 10
_LINUX = sys.platform.startswith("linux")


# The whole answer to who speaks plain HTTP where TLS is wanted; other plain bytes get it too, and are closed as well.
_USE_TLS = b"this port is encrypted: its address begins with https\n"
PLAIN_TO_TLS = (b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (len(_USE_TLS), _USE_TLS))


class Departed(Exception):
    """The peer has gone, has fallen silent or was too slow. None of our errors: those that move bytes between a peer and the cluster must
    not take it for a keeper's failure and try the next one."""


class Silent(Departed):
    """Nothing came, or nothing could be sent, for as long as is allowed."""


class Connection:
    """One accepted connection; it belongs to one thread, but for `abort`."""

    def __init__(self, sock, address, host, known, accepted_s, is_encrypted=False):
        """known(): it is no stranger any more; accepted_s: when it came, by the monotonic clock."""
        self._sock, self.address, self.host, self._known = sock, address, host, known
        self.is_encrypted, self._accepted_s = is_encrypted, accepted_s
        self._timeout_s = None
        self.is_idle = True  # between two requests: a server that stops closes it at once
        # What slow peers are judged by: seconds waited for this peer since `begin`, and bytes moved meanwhile.
        self._waited_s, self._moved, self._rate = 0.0, 0, LEAST_RATE
        self.n_received = self.n_sent = 0

    def is_known(self):
        """It has said something sensible: no stranger any more."""
        self._known()

    def age_s(self):
        """Seconds since it was accepted, the TLS handshake among them."""
        return time.monotonic() - self._accepted_s

    def begin(self, rate=LEAST_RATE):
        """A new stretch: what was slow before does not count. rate: least bytes a second after the grace, 0 for none."""
        self._waited_s, self._moved, self._rate = 0.0, 0, rate

    def set_timeout(self, seconds):
        """Silence allowed in each later call, in seconds."""
        if seconds == self._timeout_s:
            return
        self._timeout_s, seconds = seconds, max(seconds, 0.001)  # to the kernel, zero means for ever
        try:
            # The kernel keeps the time, which saves a poll before each read and write; ssl would take its word for a reason to try again.
            if _LINUX and not self.is_encrypted:
                value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            else:
                self._sock.settimeout(seconds)
        except OSError as e:
            raise self._ours(e) from e

    def _ours(self, e):
        if isinstance(e, (BlockingIOError, TimeoutError)):
            return Silent(f"{self.address} was silent for {self._timeout_s or 0:.1f} s")
        return Departed(f"{self.address}: {(e.strerror or str(e)).lower()}")

    def _count(self, n, began_s):
        """Whether a peer that was waited for is quick enough; only waiting for it counts, not what we do with its bytes."""
        self._waited_s += time.monotonic() - began_s
        self._moved += n
        if self._rate and self._waited_s > SLOW_GRACE_S + self._moved / self._rate:
            raise Departed(f"{self.address} moved fewer than {self._rate} bytes a second and was broken off")

    def receive_into(self, view):
        """Bytes read into `view`, at least one; 0 at the end of the stream. Raises Silent, Departed."""
        began_s = time.monotonic()
        try:
            n = self._sock.recv_into(view)
        except OSError as e:
            raise self._ours(e) from e
        self.n_received += n
        self._count(n, began_s)
        return n

    def send(self, *parts):
        """All parts (bytes-like), in one system call where they fit. Raises Silent, Departed."""
        parts = [memoryview(part).cast("B") for part in parts if len(part)]
        while parts:
            began_s = time.monotonic()
            try:
                n = self._send_some(parts)
            except OSError as e:
                raise self._ours(e) from e
            self.n_sent += n
            self._count(n, began_s)
            while parts and n >= len(parts[0]):
                n -= len(parts.pop(0))
            if n:
                parts[0] = parts[0][n:]

    def _send_some(self, parts):
        if self.is_encrypted:
            if len(parts) > 1 and len(parts[0]) + len(parts[1]) <= _ENCRYPTED_PART:  # a head and a small body: one record
                return self._sock.send(b"".join(parts[:2]))
            return self._sock.send(parts[0][:_ENCRYPTED_PART])
        return self._sock.sendmsg(parts) if hasattr(self._sock, "sendmsg") else self._sock.send(parts[0])

    def linger(self, seconds=2.0, most=16 << 20):
        """Before closing: say that nothing more comes, and read away what the peer still sends, so that a reset does not destroy our answer."""
        scratch, end_s = memoryview(bytearray(1 << 16)), time.monotonic() + seconds
        try:
            self._close_notify()
            self._shutdown(socket.SHUT_WR)
            while most > 0 and (left_s := end_s - time.monotonic()) > 0:
                self.set_timeout(min(left_s, 0.5))
                n = self._sock.recv_into(scratch)
                if not n:
                    return
                most -= n
        except (OSError, Departed):
            return  # the peer has gone: nothing left to be polite to

    def _close_notify(self):
        """TLS's own word that nothing more comes: an answer without a length is else taken for one that was cut off."""
        if not self.is_encrypted:
            return
        self._timeout_s = None
        self._sock.settimeout(0)  # it is sent; that the peer says it too is not waited for
        try:
            self._sock.unwrap()
        except (OSError, ValueError):
            pass  # the peer has not answered yet, or has gone

    def abort(self):
        """Wake the thread that waits on this connection, from another one."""
        try:
            self._shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was closed already, which is what was wanted

    def _shutdown(self, how):
        # Of the connection below: ssl's own would let another thread, in the middle of reading, go on without decrypting.
        socket.socket.shutdown(self._sock, how)


class ForeignServer(inherited.InheritedServer):
    """A listening socket with a thread a connection.

    service: has serve(connection), which returns when the connection shall be closed; it handles its own errors, and a Departed
    that passes through is a peer that has gone. limits: servers.Limits; a stranger is one that is not known yet. encryption: a
    tls.Certificate, or None for plain TCP.
    """

    def __init__(self, sock, service, limits, encryption=None):
        super().__init__(sock, service, None, limits=limits)
        self._encryption = encryption

    def finish_request(self, request, client_address):
        host = client_address[0]
        waiting = [host]

        def known():
            if waiting:
                self._no_longer_a_stranger(waiting.pop())

        address, connection, accepted_s = streams.address_text(*client_address[:2]), None, time.monotonic()
        try:
            request.settimeout(None)
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._encryption is not None:
                request = self._encryption.admit(request, self._handshake_s, PLAIN_TO_TLS)
                if request is None:
                    return
            connection = Connection(request, address, host, known, accepted_s, is_encrypted=self._encryption is not None)
            if self._admit(connection):
                self.service.serve(connection)
        except (Departed, OSError) as e:
            log.debug("connection ended peer=%s reason=%s", address, e)
        finally:
            known()
            with self._open_lock:
                self._open.pop(connection, None)
            if self._encryption is not None and request is not None:
                request.close()  # what came in was given up for it

    def _admit(self, connection):
        import threading

        with self._open_lock:
            if not self._stopping:
                self._open[connection] = threading.current_thread()
            return not self._stopping

    def close_connections(self, end_s):
        """Close idle connections at once and busy ones at `end_s` (monotonic)."""
        while True:
            with self._open_lock:
                open_now = dict(self._open)
            if not open_now:
                return
            late = time.monotonic() >= end_s
            for connection in open_now:
                if late or connection.is_idle:
                    connection.abort()
            next(iter(open_now.values())).join(0.05)
            if time.monotonic() >= end_s + 1.0:
                return


def limits(connections=2000, host_connections=500, handshake_s=10.0, idle_s=60.0, least_rate=LEAST_RATE):
    """What one listening socket allows: see servers.Limits."""
    return servers.Limits(connections, host_connections, handshake_s, idle_s, least_rate)
