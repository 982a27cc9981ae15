"""TCP servers: accept, shake hands, converse, close. One thread a connection, on `socketserver`.

Never knows what a message means: a service does. A service has `handle(message, exchange)`; a Refusal it raises becomes a Refused
answer, a broken conversation is closed, a bug ends one connection with its traceback in the log.
"""

import errno
import logging
import os
import select
import socket
import socketserver
import threading
import time
from collections import namedtuple

from dfs_lib import errors
from dfs_lib.net import streams
from dfs_lib.wire import (
    conversation,
    further_messages,  # noqa: F401 (before the first request comes, and not in the middle of it)
    hmac_sha256,
    messages,
)

log = logging.getLogger(__name__)
hmac_sha256.hurry()  # a server makes thousands of codes a second

# A connection that has asked nothing for so long is closed; clients open a new one when they need it.
IDLE_S = 600.0
# Silence inside a message or body: a client that stalls so long loses its connection, not a slot.
PROGRESS_S = 10.0
# How often a slow operation tells its asker that it is still at it; askers allow silences several times as long.
PULSE_S = 0.5
# An operation that takes longer is stuck (a disk that hangs): Working stops, and the asker's own limit ends its wait (I12).
WORKING_MOST_S = 300.0
# What one port allows: connections in all and from one host, seconds for a handshake and of idleness, bytes a second of a transfer.
Limits = namedtuple("Limits", "connections host_connections handshake_s idle_s least_rate")
# The alert "protocol version", to who begins with TLS where none is spoken: silence would look like a daemon that is just dying.
_NO_TLS = b"\x15\x03\x03\x00\x02\x02\x46"
# One line in the log for each stranger's host in so long (F34).
COMPLAIN_EVERY_S = 60.0


class Exchange:
    """One request as a service sees it: the message, who asks, its body in, an answer out. No socket in sight."""

    answered = False  # or half answered: once an answer has begun there is no other
    _beats = False

    def __init__(self, stream, arrived, pulse):
        self._stream, self._pulse = stream, pulse
        self.message, self.request_id, self.body_length = arrived
        self.peer = stream.talk.peer
        self.peer_host = stream.peer_host
        self.connection = stream  # opaque to services: what `left` will name when it has closed

    def export(self, label, length):
        """Bytes that only this asker and we can make; see conversation.Conversation.export."""
        return self._stream.talk.export(label, length)

    def body_into(self, view):
        self._stream.body_into(view)

    def body(self):
        return self._stream.body()

    def continues(self, wanted):
        """Say whether continuations of this request are expected now."""
        self._stream.talk.continues(wanted)

    def next_chunk(self):
        """(message, body length) of the next continuation."""
        arrived = self._stream.next(read_size=512)
        if arrived is None:
            raise errors.PeerGone(address=self._stream.address, detail="in the middle of a block")
        return arrived.message, arrived.body_length

    def answer(self, message, body=None):
        self._begin_answer()
        self._stream.send(message, body, self.request_id)

    def _begin_answer(self):
        """From here on this thread alone writes to the connection, and a failure can only be told by closing it."""
        if self._beats:
            self._pulse.remove(self)
        self.answered = True

    def answer_file(self, message, fd, offset, count, moved=None):
        """Answer with a stretch of an open file as body. moved(n): so many more bytes have gone."""
        self._begin_answer()
        self._stream.send_file(message, fd, offset, count, self.request_id, moved)

    def working(self, most_s=None):
        """While this context is open, the asker hears Working every PULSE_S, for `most_s` at most (default WORKING_MOST_S): the disk
        may be slow, we are not dead. Silence after that makes it turn elsewhere."""
        self._beats = True
        return self._pulse.during(self, most_s)

    def say_working(self):
        # A peer that does not read would hold up the beats of all others; it has unread ones anyway.
        if _can_send(self._stream.sock):
            self._stream.send(messages.Working(), None, self.request_id)


def _can_send(sock):
    """Whether a short message would leave at once, without waiting for the peer to read."""
    if not hasattr(select, "poll") or not hasattr(sock, "fileno"):
        return True
    try:
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True  # it is closed: sending will say so


class Pulse:
    """One thread that says Working for every exchange in a slow operation."""

    def __init__(self):
        self._lock = threading.Lock()
        self._busy = {}  # guarded by _lock: exchange → (when it began, until when it is said), monotonic seconds
        self._wake = threading.Event()
        self._stopping = False
        self._thread = None

    def during(self, exchange, most_s=None):
        return _Beating(self, exchange, WORKING_MOST_S if most_s is None else most_s)

    def add(self, exchange, most_s):
        now_s = time.monotonic()
        with self._lock:
            self._busy[exchange] = now_s, now_s + most_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
                self._thread.start()

    def remove(self, exchange):
        # Under the lock: after this returns the pulse thread does not write to that connection any more.
        with self._lock:
            self._busy.pop(exchange, None)

    def _run(self):
        while not self._wake.wait(PULSE_S):
            now_s = time.monotonic()
            with self._lock:
                for exchange, (since_s, until_s) in list(self._busy.items()):
                    if not since_s + PULSE_S <= now_s < until_s:
                        continue
                    try:
                        exchange.say_working()
                    except errors.DfsError:
                        self._busy.pop(exchange, None)  # its own thread will find the connection gone
                    except Exception:
                        # This thread serves every connection: one exchange's bug must not silence the others (F39).
                        self._busy.pop(exchange, None)
                        log.exception("bug while saying Working")

    def stop(self):
        self._wake.set()
        if self._thread is not None:
            self._thread.join(2.0)


class _Beating:
    def __init__(self, pulse, exchange, most_s):
        self._pulse, self._exchange, self._most_s = pulse, exchange, most_s

    def __enter__(self):
        self._pulse.add(self._exchange, self._most_s)

    def __exit__(self, *_):
        self._pulse.remove(self._exchange)


def shake_hands(stream, deadline_s=streams.HANDSHAKE_TIMEOUT_S, clock=time.monotonic, refuses=None):
    """The server's handshake. Raises; the caller closes. The deadline is absolute, so that trickled bytes do not stretch it.

    refuses(hello) → how this peer should have encrypted its connection, or "": it is told so, and nothing else; see tls.Gate.
    """
    end_s = clock() + deadline_s
    stream.set_timeout(deadline_s)
    talk = stream.talk
    try:
        hello = stream.next_before(end_s, deadline_s, clock).message
    except errors.NotDfs:
        if talk.heard_tls:
            stream.send_bytes(_NO_TLS)
        raise
    if hello.version != messages.PROTOCOL_VERSION:
        refusal = errors.VersionMismatch(address=stream.address, theirs=hello.version, ours=messages.PROTOCOL_VERSION)
        stream.send(refused(errors.VersionMismatch(
            f"this daemon speaks protocol {messages.PROTOCOL_VERSION}, the program that asks speaks {hello.version}",
            theirs=messages.PROTOCOL_VERSION, ours=hello.version)), None, 0)
        raise refusal
    if how := refuses is not None and refuses(hello):
        stream.send(refused(errors.TlsRequired(address="this daemon", how=how, detail="the connection is a plain one")), None, 0)
        raise errors.BadKey(address=f"{hello.role} {hello.identity!r}", detail="its connection is not encrypted, as --tls requires")
    stream.send_bytes(talk.challenge(hello))
    talk.accept(stream.next_before(end_s, deadline_s, clock).message)


def refused(error):
    """The Refused message for an error of ours, whatever its facts hold: a refusal must not fail for what it says."""
    facts = {}
    for name, value in list(error.facts.items())[:32]:
        if isinstance(value, list) and len(value) <= 1000:
            facts[name] = [_plain_fact(one) for one in value]
        elif value is None or isinstance(value, (str, int, float)):
            facts[name] = _plain_fact(value)
    return messages.Refused(error=error.code, message=_plain_fact(error.message), facts=facts)


def _plain_fact(value):
    """A text that can be sent, cut to its ceiling; a number that JSON has; anything else as text."""
    if value is None or isinstance(value, (bool, int)) or isinstance(value, float) and -1e308 <= value <= 1e308:
        return value
    return str(value)[:8000].encode(errors="backslashreplace").decode()[:8000]


def converse(stream, service, pulse, idle_s=IDLE_S, out_of_role=None):
    """Serve requests until the peer says goodbye or breaks the conversation. out_of_role(error): told of each NoSuchRole."""
    stream.set_timeout(PROGRESS_S)
    while True:
        arrived = _next_request(stream, idle_s)
        if arrived is None:
            return
        exchange = Exchange(stream, arrived, pulse)
        try:
            if exchange.peer.role not in arrived.message.who:
                refusal = errors.NoSuchRole(role=exchange.peer.role, what=type(arrived.message).__name__)
                if out_of_role is not None:
                    out_of_role(refusal)
                raise refusal
            service.handle(arrived.message, exchange)
            if not exchange.answered:
                raise errors.Misuse(detail=f"{type(arrived.message).__name__} was not answered")
        except (errors.NetworkError, errors.ProtocolError):
            raise
        except errors.DfsError as e:
            if exchange.answered:
                raise  # half an answer is on the wire: only closing tells the asker
            exchange.answer(refused(e))
            if stream.talk.body_left or stream.talk.expects_continuation:
                linger(stream)
                return


def _next_request(stream, idle_s):
    """The next request, or None when the peer has gone or has asked nothing for `idle_s`.

    Counts silences of PROGRESS_S rather than change the socket's time-out twice a request.
    """
    n_silences = 0
    while True:
        try:
            return stream.next()
        except errors.PeerTimeout:
            if not stream.is_idle:
                raise
        n_silences += 1
        if n_silences >= round(idle_s / PROGRESS_S):
            return None


def linger(stream, seconds=2.0, most=64 << 20):
    """Read away what a refused asker still sends, so that closing does not destroy the refusal on its way (TCP reset)."""
    scratch = memoryview(bytearray(1 << 16))
    end_s = time.monotonic() + seconds
    try:
        stream.sock.shutdown(socket.SHUT_WR)
        stream.set_timeout(0.5)
        while most > 0 and time.monotonic() < end_s:
            n = stream.sock.recv_into(scratch)
            if not n:
                return
            most -= n
    except OSError:
        return  # the asker has gone: nothing left to be polite to


class Complaints:
    """Which strangers to write about: one line a host and COMPLAIN_EVERY_S; what was held back is counted in the next.

    `most_lines` in that time in all: whoever has a network of addresses (any IPv6 user has) must not fill a disk with our log.
    """

    def __init__(self, clock=time.monotonic, most_hosts=1000, most_lines=300):
        self._clock, self._most_hosts, self._most_lines = clock, most_hosts, most_lines
        self._lock = threading.Lock()
        self._since_s, self._n_lines, self._n_over = clock(), 0, 0  # guarded by _lock: lines since then, complaints beyond most_lines
        self._lines = {}  # guarded by _lock: host → (when the last line was written, complaints held back since)

    def due(self, host):
        """How many were held back before this one, or None when this one is to be held back too."""
        now_s = self._clock()
        with self._lock:
            last_s, n_held = self._lines.get(host, (None, 0))
            if last_s is not None and now_s - last_s < COMPLAIN_EVERY_S:
                self._lines[host] = (last_s, n_held + 1)
                return None
            if now_s - self._since_s >= COMPLAIN_EVERY_S:
                self._since_s, self._n_lines = now_s, 0
            if self._n_lines >= self._most_lines:
                self._n_over += 1
                return None
            self._n_lines += 1
            n_held, self._n_over = n_held + self._n_over, 0
            if len(self._lines) >= self._most_hosts:
                self._lines.clear()  # so many hosts at once: forgetting costs some lines, remembering all costs memory
            self._lines[host] = (now_s, 0)
            return n_held


def limits_of(settings):
    """The Limits that a daemon's settings ask for."""
    return Limits(settings.max_connections, settings.max_connections_host, settings.handshake_timeout, settings.idle_timeout,
                  settings.least_rate)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A listening port with a thread a connection.

    service: has handle(message, exchange) and may have left(stream); make_talk(port) → conversation.Server;
    max_connections: beyond these a connection is closed at once. One host's share of those that have not proved themselves yet
    is a quarter, so that it cannot shut everybody out by connecting and saying nothing (F35). limits: Limits, instead.
    gate: tls.Gate; None: whoever speaks TLS is a stranger.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, address, service, make_talk, max_connections=4000, limits=None, gate=None):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.service, self._make_talk, self._gate = service, make_talk, gate
        self.pulse = Pulse()
        self._handshake_s, self._idle = (limits.handshake_s, {"idle_s": limits.idle_s}) if limits else (streams.HANDSHAKE_TIMEOUT_S, {})
        self._limits = limits = limits or Limits(max_connections, max_connections, streams.HANDSHAKE_TIMEOUT_S, IDLE_S, 0)
        self._slots = threading.BoundedSemaphore(limits.connections)
        self._hosts = {}  # guarded by _open_lock: host → its connections
        self._open_lock = threading.Lock()
        self._open = {}  # guarded by _open_lock: stream → its thread
        self._strangers = {}  # guarded by _open_lock: host → its connections that have not proved themselves yet
        self._most_strangers = max(1, min(limits.connections // 4, limits.host_connections))
        self._stopping = False  # guarded by _open_lock
        self._complaints = Complaints()
        self.n_accepted = self.n_refused = self.n_strangers_refused = self.n_slow = self.n_out_of_role = self.n_broken = self.n_descriptors_short = 0
        self._thread = None
        super().__init__(address, None)
        self.port = self.socket.getsockname()[1]

    # -- socketserver's hooks -------------------------------------------------------------------------------------------
    def get_request(self):
        try:
            return super().get_request()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # Out of descriptors: the backlog stays readable, so without a pause this loop would spin (F12).
                self.n_descriptors_short += 1
                n_held = self._complaints.due("accept")
                if n_held is not None:
                    log.warning("accept failed port=%s error=%s repeated=%s", self.port, e.strerror, n_held)
                time.sleep(0.05)
            raise

    def process_request(self, request, client_address):
        host = client_address[0]
        if not self._stranger_may_enter(host):
            self.n_refused += 1
            self.shutdown_request(request)
            return
        if not self._slots.acquire(blocking=False):
            self._no_longer_a_stranger(host)
            self.n_refused += 1
            self.shutdown_request(request)
            return
        self.n_accepted += 1
        self._entered(host)
        try:
            super().process_request(request, client_address)
        except Exception:
            self._no_longer_a_stranger(host)
            self._left(host)
            raise

    def _stranger_may_enter(self, host):
        with self._open_lock:
            n, n_of_host = self._strangers.get(host, 0), self._hosts.get(host, 0)
            if n >= self._most_strangers or n_of_host >= self._limits.host_connections:
                return False
            self._strangers[host] = n + 1
            return True

    def _entered(self, host):
        with self._open_lock:
            self._hosts[host] = self._hosts.get(host, 0) + 1

    def _left(self, host):
        with self._open_lock:
            n = self._hosts.pop(host, 1) - 1
            if n:
                self._hosts[host] = n
        self._slots.release()

    def counters(self):
        """{name: number} of this port."""
        with self._open_lock:
            n_open = len(self._open)
        return {"connections_accepted": self.n_accepted, "connections_refused": self.n_refused, "connections_open": n_open,
                "strangers_refused": self.n_strangers_refused, "transfers_too_slow": self.n_slow,
                "requests_out_of_role": self.n_out_of_role, "conversations_broken": self.n_broken, "descriptors_short": self.n_descriptors_short}

    def _no_longer_a_stranger(self, host):
        with self._open_lock:
            n = self._strangers.pop(host, 1) - 1
            if n:
                self._strangers[host] = n

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._left(client_address[0])

    def finish_request(self, request, client_address):
        host = client_address[0]
        stream = None
        try:
            try:
                stream = self._opened(request, client_address)
                if stream is None:
                    return
                self._shake_hands(stream)
            finally:
                self._no_longer_a_stranger(host)
            stream.least_rate = self._limits.least_rate
            converse(stream, self.service, self.pulse, out_of_role=lambda error: self._out_of_role(stream, error), **self._idle)
        except errors.Misuse:
            raise  # ours: handle_error logs it with its traceback
        except (errors.BadKey, errors.ProtocolError) as e:
            if stream.talk.peer is None:
                self.n_strangers_refused += 1
                self._complain(host, stream.address, e)
            else:
                self.n_broken += 1
                log.debug("connection ended peer=%s reason=%s", stream.address, e.message)
        except errors.NetworkError as e:
            if stream is not None:
                self.n_slow += stream.was_slow
                self.n_strangers_refused += stream.talk.peer is None
            log.debug("connection ended peer=%s reason=%s", streams.address_text(*client_address[:2]), e.message)
        except errors.DfsError as e:
            log.warning("answer broken off peer=%s code=%s reason=%s", stream.address, e.code, e.message)
        finally:
            self._ended(stream, request)

    def _shake_hands(self, stream):
        gate, end_s = self._gate, time.monotonic() + self._handshake_s
        if gate is None:
            return shake_hands(stream, deadline_s=self._handshake_s)
        gate.admit(stream, self._handshake_s)
        shake_hands(stream, deadline_s=max(0.001, end_s - time.monotonic()), refuses=None if stream.is_encrypted else gate.refuses)
        gate.n_plain += not stream.is_encrypted

    def _opened(self, request, client_address):
        """A Stream for a connection just accepted, or None when this server is stopping. Raises PeerGone."""
        address = streams.address_text(*client_address[:2])
        try:
            request.settimeout(None)
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as e:
            raise errors.PeerGone(address=address, detail="before it said anything") from e
        stream = streams.Stream(request, self._make_talk(self.port, os.urandom(32).hex()), address)
        stream.peer_host = client_address[0]
        with self._open_lock:
            if self._stopping:
                return None
            self._open[stream] = threading.current_thread()
        return stream

    def _complain(self, host, address, error):
        n_held = self._complaints.due(host)
        if n_held is not None:
            log.warning("stranger refused peer=%s reason=%s repeated=%s", address, error.message, n_held)

    def _out_of_role(self, stream, error):
        """Somebody with a good key has asked what is not for its role."""
        self.n_out_of_role += 1
        peer, n_held = stream.talk.peer, self._complaints.due(f"{stream.talk.peer.role} {stream.talk.peer.identity} {stream.peer_host}")
        if n_held is not None:
            log.warning("request refused who=%s %r peer=%s reason=%s repeated=%s", peer.role, peer.identity, stream.address, error.message, n_held)

    def _ended(self, stream, request):
        if stream is not None:
            with self._open_lock:
                self._open.pop(stream, None)
            if stream.sock is not request:
                stream.close()  # socketserver closes what it accepted, and knows nothing of the TLS over it
            left = getattr(self.service, "left", None)
            if left is not None:
                left(stream)

    def handle_error(self, request, client_address):
        log.exception("bug while serving peer=%s", streams.address_text(client_address[0], client_address[1]))

    # -- life -----------------------------------------------------------------------------------------------------------
    def start(self):
        """Accept in a thread of its own."""
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, name=f"listen-{self.port}", daemon=True)
        self._thread.start()

    def stop(self, wait_s=3.0):
        """Stop accepting, let requests under way end within `wait_s`, then close every connection. Returns when all have ended."""
        end_s = time.monotonic() + wait_s
        with self._open_lock:
            self._stopping = True
        if self._thread is not None:  # socketserver's shutdown waits for ever for a loop that never ran
            self.shutdown()
        self.server_close()
        self.close_connections(end_s)
        self.pulse.stop()

    def close_connections(self, end_s):
        """Close idle connections and strangers at once and busy ones at `end_s` (monotonic)."""
        while True:
            with self._open_lock:
                open_now = dict(self._open)
            if not open_now:
                return
            late = time.monotonic() >= end_s
            for stream in open_now:
                if late or stream.is_idle or stream.talk.phase != conversation.OPEN:
                    stream.abort()
            next(iter(open_now.values())).join(0.05)
            if time.monotonic() >= end_s + 1.0:
                return
