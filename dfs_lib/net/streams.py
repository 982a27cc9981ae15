"""TCP: one connection as messages and bodies, with a deadline on every call, and every OSError turned into one of ours.

Never decides what to say: it moves bytes for a Conversation. A Stream belongs to one thread at a time.
"""

import _thread
import errno
import os
import struct
import sys
import time

from dfs_lib import errors
from dfs_lib.net import sockets
from dfs_lib.net.sockets import plain
from dfs_lib.wire import conversation, frames, messages, trust

# One read of headers: large enough that a small file and its header arrive in one piece.
READ_SIZE = 65536
CONNECT_TIMEOUT_S = 3.0
# Absolute, for the whole handshake: a peer that trickles bytes holds a slot no longer than this (F35, I11).
HANDSHAKE_TIMEOUT_S = 5.0
# A connection's first buffer, and all that a stranger gets: what he may send before he has proved himself fits, and he costs no more
# memory (I11). It is all that an idle one keeps, unless a read has filled it: making a bytearray touches each of its pages.
FIRST_READ_SIZE = 4096
# Silence allowed while waiting for an answer or for the next bytes of a body. A slow disk says Working meanwhile.
SILENCE_S = 10.0
# A transfer may be slower than the least rate for so long before its rate counts, and a header may take so long at any rate (F19, F35).
SLOW_GRACE_S = 10.0
# Sent in one system call at most: within one, only the kernel's silence limit counts.
SEND_AT_ONCE = 1 << 20

_LINUX = sys.platform.startswith("linux")
_GONE = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF, errno.ESHUTDOWN)


def address_text(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Stream:
    """One connection in one conversation.

    sock: a connected socket (or, in the simulation, what stands in for one); address: text for error messages.
    """

    def __init__(self, sock, talk, address):
        self.sock, self.talk, self.address = sock, talk, address
        self._timeout_s = None
        self._chunk = memoryview(bytearray(FIRST_READ_SIZE))  # READ_SIZE once a read has filled it
        self._next_id = 0
        self.peer_host = ""
        self.n_received = self.n_sent = 0
        self.is_idle = False  # a server's connection that waits for the next request
        self.is_encrypted = False
        self.least_rate = 0  # bytes a second below which a body or a header is broken off; 0: silence alone counts
        self.was_slow = False

    def encrypt(self, sock, binding):
        """From here on everything goes through this one, see net/tls.py. Before the handshake, which `binding` then is part of."""
        self.sock, self.talk.binding, self.is_encrypted, self._timeout_s = sock, binding, True, None

    # -- time-outs ------------------------------------------------------------------------------------------------------
    def set_timeout(self, seconds):
        """Silence allowed in each later call, in seconds.

        On Linux the kernel keeps the time (SO_RCVTIMEO), which saves a poll before each read and write.
        """
        if seconds == self._timeout_s:
            return
        self._timeout_s = seconds
        seconds = max(seconds, 0.001)  # to the kernel, zero means for ever
        try:
            if _LINUX and not self.is_encrypted:
                value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
                self.sock.setsockopt(plain.SOL_SOCKET, plain.SO_RCVTIMEO, value)
                self.sock.setsockopt(plain.SOL_SOCKET, plain.SO_SNDTIMEO, value)
            else:
                self.sock.settimeout(seconds)
        except OSError as e:
            raise self._ours(e) from e

    def _ours(self, e):
        """Our error for an OSError on this connection."""
        if isinstance(e, (BlockingIOError, TimeoutError)):
            return errors.PeerTimeout(address=self.address, seconds=round(self._timeout_s or 0, 1))
        if e.errno in _GONE:
            return errors.PeerGone(address=self.address, detail=os.strerror(e.errno).lower())
        return errors.NetworkError(address=self.address, detail=e.strerror or str(e))

    # -- in -------------------------------------------------------------------------------------------------------------
    def next(self, read_size=READ_SIZE):
        """The next Arrived, or None when the peer has said goodbye between two messages."""
        talk, end_s = self.talk, None
        while True:
            arrived = talk.next_message()
            if arrived is not None:
                self.is_idle = False
                return arrived
            self.is_idle = not talk.in_the_middle
            if self.least_rate and not self.is_idle:
                if end_s is None:
                    end_s = self._due_s(frames.MAX_HEADER)
                elif time.monotonic() > end_s:
                    raise self._too_slow()
            if not self.read_some(read_size):
                return None

    def _due_s(self, size):
        """When (monotonic) so many bytes have to be through, None without a least rate."""
        return time.monotonic() + SLOW_GRACE_S + size / self.least_rate if self.least_rate else None

    def _too_slow(self):
        self.was_slow = True
        return errors.PeerGone(address=self.address, detail=f"it moved fewer than {self.least_rate} bytes a second and was broken off")

    def next_before(self, end_s, seconds, clock=time.monotonic):
        """The next Arrived of a handshake, by an absolute moment, so that trickled bytes do not stretch it.

        end_s: on `clock`; seconds: what was allowed in all, for the PeerTimeout's sentence.
        """
        talk = self.talk
        while True:
            try:
                arrived = talk.next_message()
            except errors.BadFrame as e:
                if e.facts.get("magic") is False:
                    raise errors.NotDfs(address=self.address, detail=e.message) from e
                raise
            if arrived is not None:
                return arrived
            left_s = end_s - clock()
            if left_s <= 0:
                raise errors.PeerTimeout(address=self.address, seconds=round(seconds, 1))
            self.set_timeout(left_s)
            try:
                self.read_some(FIRST_READ_SIZE)
            except errors.PeerTimeout:
                raise errors.PeerTimeout(address=self.address, seconds=round(seconds, 1)) from None

    def read_some(self, read_size=READ_SIZE):
        """One read from the socket into the conversation; False when the peer has said goodbye between two messages."""
        talk, chunk = self.talk, self._chunk
        try:
            n = self.sock.recv_into(chunk if read_size >= len(chunk) else chunk[:read_size])
        except OSError as e:
            raise self._ours(e) from e
        if not n:
            if talk.in_the_middle or talk.phase != conversation.OPEN:
                raise errors.PeerGone(address=self.address, detail="in the middle of the conversation")
            return False
        self.n_received += n
        talk.receive(chunk[:n])
        if n == len(chunk) < read_size:
            self._chunk = memoryview(bytearray(read_size))  # its messages are longer than this: the next one comes in one piece
        return True

    def body_into(self, view):
        """Fill `view` (memoryview, at most what is left of the body) with the next bytes of the body."""
        at, total = 0, len(view)
        if total > self.talk.body_left:
            raise errors.Misuse(detail="more asked for than the body has")
        early = self.talk.take_body(total)
        if early:
            at = len(early)
            view[:at] = early
        recv_into, taken = self.sock.recv_into, self.talk.body_taken
        end_s = self._due_s(total) if at < total else None
        while at < total:
            try:
                n = recv_into(view[at:])
            except OSError as e:
                raise self._ours(e) from e
            if not n:
                raise errors.PeerGone(address=self.address, detail="in the middle of a body")
            at += n
            self.n_received += n
            taken(n)
            if end_s is not None and at < total and time.monotonic() > end_s:
                raise self._too_slow()

    def body(self):
        """The rest of the body as bytes; for small bodies only, its ceiling was checked."""
        data = bytearray(self.talk.body_left)
        self.body_into(memoryview(data))
        return bytes(data)

    # -- out ------------------------------------------------------------------------------------------------------------
    def send(self, message, body=None, request_id=None):
        """One message, and its body (bytes-like) in the same system call."""
        if request_id is None:
            self._next_id += 1
            request_id = self._next_id
        if body is None:
            self.send_bytes(self.talk.send(message, request_id))
        else:
            self._send_all([self.talk.send(message, request_id, len(body)), body])
        return request_id

    def send_bytes(self, data):
        try:
            self.sock.sendall(data)
        except OSError as e:
            raise self._ours(e) from e
        self.n_sent += len(data)

    def _send_all(self, parts):
        if not hasattr(self.sock, "sendmsg"):  # Windows
            for part in parts:
                self.send_bytes(part)
            return
        total = len(parts[0]) + len(parts[1])
        try:
            sent = self.sock.sendmsg(parts)
            while sent < total:
                first = len(parts[0])
                rest = [memoryview(parts[0])[sent:], parts[1]] if sent < first else [memoryview(parts[1])[sent - first:]]
                sent += self.sock.sendmsg(rest)
        except OSError as e:
            raise self._ours(e) from e
        self.n_sent += total

    def send_file(self, message, fd, offset, count, request_id, moved=None):
        """One message, and `count` bytes of an open file as its body, by sendfile where there is one. moved(n): so many more have gone."""
        head = self.talk.send(message, request_id, count)
        if self.is_encrypted or not hasattr(os, "sendfile") or not hasattr(self.sock, "fileno"):
            return self._send_file_portably(head, fd, offset, count, moved)
        try:
            self.sock.sendall(head, plain.MSG_MORE if _LINUX else 0)
            out, end, end_s = self.sock.fileno(), offset + count, self._due_s(count)
            while offset < end:
                if end_s is not None and time.monotonic() > end_s:
                    raise self._too_slow()
                n = os.sendfile(out, fd, offset, end - offset if end_s is None and moved is None else min(end - offset, SEND_AT_ONCE))
                if n == 0:
                    raise errors.DiskFault(path="a block file", detail="it ended early")
                offset += n
                if moved is not None:
                    moved(n)
        except OSError as e:
            if e.errno == errno.EIO:  # sockets do not fail so: this is the disk (F11)
                raise errors.DiskFault(path="a block file", detail=e.strerror) from e
            raise self._ours(e) from e
        self.n_sent += len(head) + count

    def _send_file_portably(self, head, fd, offset, count, moved):
        self.send_bytes(head)
        end_s = self._due_s(count)
        while count:
            if end_s is not None and time.monotonic() > end_s:
                raise self._too_slow()
            try:
                os.lseek(fd, offset, os.SEEK_SET)
                data = os.read(fd, min(count, SEND_AT_ONCE))
            except OSError as e:
                raise errors.DiskFault(path="a block file", detail=e.strerror) from e
            if not data:
                raise errors.DiskFault(path="a block file", detail="it ended early")
            self.send_bytes(data)
            offset, count = offset + len(data), count - len(data)
            if moved is not None:
                moved(len(data))

    # -- asking ---------------------------------------------------------------------------------------------------------
    def ask(self, message, body=None, timeout_s=SILENCE_S):
        """Send a request and wait for its answer. Raises the error a Refused stands for; PeerTimeout after `timeout_s` of silence."""
        self.set_timeout(timeout_s)
        try:
            self.send(message, body)
        except errors.PeerGone:
            self.raise_last_words()
            raise
        return self.answer()

    def answer(self):
        """The answer to the oldest request under way; Working is waited through, Refused is raised."""
        while True:
            arrived = self.next()
            if arrived is None:
                raise errors.PeerGone(address=self.address, detail="before it answered")
            message = arrived.message
            if isinstance(message, messages.Working):
                continue
            if isinstance(message, messages.Refused):
                raise _refusal(message)
            return message

    def raise_last_words(self):
        """After a failed send: a server that refuses in the middle of a body says why before it closes. Raise that, if it is there."""
        try:
            self.set_timeout(1.0)
            self.answer()
        except (errors.NetworkError, errors.ProtocolError):
            return

    # -- end ------------------------------------------------------------------------------------------------------------
    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass  # closing is all that was wanted; the kernel has let go of it either way

    def abort(self):
        """Wake a thread that waits on this connection, from another thread."""
        try:
            self.sock.shutdown(plain.SHUT_RDWR)
        except OSError:
            pass  # it was closed already, which is what was wanted

    @property
    def is_clean(self):
        """Whether another request may be sent on it."""
        talk = self.talk
        return talk.phase == conversation.OPEN and not talk.broken and not talk.spent and not talk.in_the_middle


def _refusal(message):
    """The error a Refused stands for."""
    # Facts become keyword arguments, and these two names would collide with a parameter's.
    facts = {name: value for name, value in message.facts.items() if name not in ("self", "message")}
    return errors.from_wire(message.error, message.message, facts)


def _refused_greeting(message, address):
    """What a Refused before any proof stands for.

    Anybody may have sent it, so only the one sentence that is due here counts, in our words: a stranger must not be able to
    tell us that a file is missing or a replica damaged.
    """
    theirs = message.facts.get("theirs")
    if message.error == errors.TlsRequired.code:
        how = trust.CERTIFICATE if message.facts.get("how") == trust.CERTIFICATE else trust.PSK
        return errors.TlsRequired(address=address, how=how, detail=f"by {_HOW_WORDS[how]}, and --tls off is set here")
    if message.error == errors.VersionMismatch.code and type(theirs) is int:
        return errors.VersionMismatch(address=address, theirs=theirs, ours=messages.PROTOCOL_VERSION)
    return errors.OutOfTurn(detail=f"{address} refused before it proved itself")


_HOW_WORDS = {trust.PSK: "TLS with the cluster's keys", trust.CERTIFICATE: "TLS with certificates"}


def connect(host, port, credentials, timeout_s=CONNECT_TIMEOUT_S):
    """A Stream to host:port, handshake done, encrypted when either side requires it, or wants it and both can.

    Raises ConnectFailed, PeerTimeout, PeerGone, NotDfs, BadKey, VersionMismatch, TlsRequired, NoTls.
    """
    tls = credentials.tls
    if tls is None or not tls.is_on:
        try:
            return greet(_dial(host, port, timeout_s), host, port, credentials, timeout_s)
        except errors.TlsRequired as e:
            # Anybody may have said so: it costs a try, and counts from when it has worked.
            if tls is None or tls.mode == trust.OFF:
                raise
            how = e.facts["how"]
    else:
        how = None
    from dfs_lib.net import tls as encryption  # it brings ssl along, and `ls` should not wait for that when nobody asks for it

    context = encryption.asker(credentials, address_text(host, port), how)
    try:
        stream = greet(_dial(host, port, timeout_s), host, port, credentials, timeout_s,
                       lambda stream, seconds: encryption.encrypt(stream, context, credentials, seconds))
    except errors.NoTls:
        if how or tls.mode == trust.REQUIRE:
            raise
        return greet(_dial(host, port, timeout_s), host, port, credentials, timeout_s)  # which a peer that can refuses, see trust.Tls
    tls.turn_on()
    return stream


def _dial(host, port, timeout_s):
    """A connected socket."""
    address = address_text(host, port)
    try:
        sock = sockets.create_connection((host, port), timeout_s)
    except plain.gaierror as e:
        raise errors.ConnectFailed(address=address, detail=f"the name {host} is not known") from e
    except TimeoutError as e:
        raise errors.PeerTimeout(address=address, seconds=round(timeout_s, 1)) from e
    except (OSError, OverflowError, UnicodeError) as e:
        raise errors.ConnectFailed(address=address, detail=(getattr(e, "strerror", None) or str(e)).lower()) from e
    return sock


def greet(sock, host, port, credentials, timeout_s=CONNECT_TIMEOUT_S, encrypt=None):
    """The asker's handshake on a connected socket; returns the Stream, or closes the socket and raises.

    encrypt(stream, seconds): encrypts it before anything is said.
    """
    stream = Stream(sock, conversation.Asker(credentials, port, os.urandom(32).hex()), address_text(host, port))
    try:
        if sock.family != getattr(plain, "AF_UNIX", None):
            sock.setsockopt(plain.IPPROTO_TCP, plain.TCP_NODELAY, 1)
        sock.settimeout(None)
        allowed_s = min(timeout_s, HANDSHAKE_TIMEOUT_S)
        end_s = time.monotonic() + allowed_s
        if encrypt is not None:
            encrypt(stream, allowed_s)
        stream.set_timeout(allowed_s)
        stream.send_bytes(stream.talk.hello())
        message = stream.next_before(end_s, allowed_s).message
        if isinstance(message, messages.Refused):
            raise _refused_greeting(message, stream.address)
        stream.send_bytes(stream.talk.prove(message, stream.address))
    except OSError as e:
        stream.close()
        raise stream._ours(e) from e
    except BaseException:
        stream.close()
        raise
    return stream


class Pool:
    """Kept connections by address, for many threads: `with pool.stream(host, port) as s`, or `pool.ask(…)`.

    dial(host, port, timeout_s) → Stream. At most `keep` idle ones an address; an idle one older than `idle_s` is not reused,
    because its server may have closed it.
    """

    def __init__(self, dial, keep=16, idle_s=60.0, clock=time.monotonic):
        self._dial, self._keep, self._idle_s, self._clock = dial, keep, idle_s, clock
        self._lock = _thread.allocate_lock()  # `threading` would cost each start of a client more than a millisecond
        self._idle = {}  # guarded by _lock: (host, port) → [(stream, since)]
        self._closed = False

    def take(self, host, port, timeout_s=CONNECT_TIMEOUT_S):
        """A connection for one thread's use, and whether it was kept from before (and may be stale)."""
        with self._lock:
            kept = self._idle.get((host, port))
            while kept:
                stream, since = kept.pop()
                if self._clock() - since < self._idle_s:
                    return stream, True
                stream.close()
        return self._dial(host, port, timeout_s), False

    def give(self, host, port, stream):
        """Take a connection back; one in the middle of something is closed."""
        with self._lock:
            kept = self._idle.get((host, port))
            if kept is None:
                kept = self._idle[host, port] = []
            if stream.is_clean and len(kept) < self._keep and not self._closed:
                kept.append((stream, self._clock()))
                return
        stream.close()

    def stream(self, host, port, timeout_s=CONNECT_TIMEOUT_S):
        return _Taken(self, host, port, timeout_s)

    def ask(self, host, port, message, body=None, timeout_s=SILENCE_S, connect_timeout_s=CONNECT_TIMEOUT_S):
        """One request, one answer. A kept connection that turns out to be stale is replaced once: every request may arrive twice."""
        stream, kept = self.take(host, port, connect_timeout_s)
        try:
            try:
                return stream.ask(message, body, timeout_s)
            except errors.PeerGone:
                if not kept:
                    raise
                stream.close()
                stream = self._dial(host, port, connect_timeout_s)
                return stream.ask(message, body, timeout_s)
        finally:
            self.give(host, port, stream)

    def forget(self, host, port):
        """Close what is kept for an address that has failed."""
        with self._lock:
            streams = self._idle.pop((host, port), [])
        for stream, _since in streams:
            stream.close()

    def close(self):
        with self._lock:
            self._closed = True
            streams = [stream for kept in self._idle.values() for stream, _since in kept]
            self._idle.clear()
        for stream in streams:
            stream.close()


class _Taken:
    """A connection for the length of a `with`: back to the pool when it ends well, closed when it does not."""

    def __init__(self, pool, host, port, timeout_s):
        self._pool, self._host, self._port = pool, host, port
        self._stream, self.kept = pool.take(host, port, timeout_s)

    def __enter__(self):
        return self._stream

    def __exit__(self, kind, error, trace):
        if kind is None or issubclass(kind, errors.Refusal):
            self._pool.give(self._host, self._port, self._stream)
        else:
            self._stream.close()
