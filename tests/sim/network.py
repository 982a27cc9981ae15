"""The network of a world: what stands in for `socket`, and what can go wrong between machines.

Never looks into the bytes. TCP delivers in order, late, in pieces of any size, or not at all; UDP loses, repeats and
reorders. A path from one machine to another can be closed in either direction: TCP then waits (the sender retransmits, and
may lose patience), UDP is lost. A connection can be reset; a machine can be down, and answers nothing.

    send ─▶ wire (one a direction): bytes, end, reset, in order, each with its time of arrival ─▶ inbox ─▶ recv_into
"""

import collections
import errno
import os
import socket
import struct

from tests.sim.world import WorldEnded

# Bytes that may be under way and unread in one direction before the sender has to wait.
WINDOW = 1 << 20
# What a blocked sender can always get rid of: a short message does not wait (servers._can_send says so of the kernel's buffer).
ALWAYS_FITS = 4096
BACKLOG = 128


class Network:
    """Paths between machines, and everybody's sockets."""

    def __init__(self, world):
        self.world = world
        self.rng = world.child_rng("network")
        self.latency_s = self.rng.choice((0.0001, 0.0005, 0.003))
        self.bytes_a_second = self.rng.choice((30e6, 120e6, 1e9))
        self.split = self.rng.choice((0.0, 0.05, 0.5))  # share of reads that get only a part of what is there
        self.loss = self.repeat = 0.0  # of UDP
        self.flip = 0.0  # share of TCP segments in which one bit turns (and TCP does not notice)
        self.blocked = set()  # (machine, machine): nothing goes that way
        self.tcp_blocked, self.udp_blocked = set(), set()  # the same, of one protocol alone (F17)
        self.slow = {}  # machine → factor
        self._listeners, self._datagrams = {}, {}
        self._by_ip = {}
        self.connections = []

    # -- machines and paths -----------------------------------------------------------------------------------------------
    def machine_at(self, ip):
        for machine in self.world.machines.values():
            if machine.ip == ip:
                return machine
        return None

    def is_open(self, one, other, more=None):
        """Whether anything of TCP (or of UDP: `more` = udp_blocked) gets from one machine to another."""
        way = one, other
        return way not in self.blocked and way not in (self.tcp_blocked if more is None else more) and not one.is_down and not other.is_down

    def delay(self, one, other):
        if one is other:
            return 20e-6
        delay = self.latency_s * (0.5 + self.rng.random())
        if self.rng.random() < 0.002:
            delay += self.rng.random() * 0.3  # a lost segment
        return delay * max(self.slow.get(one, 1.0), self.slow.get(other, 1.0))

    def transfer_s(self, n, one, other):
        return n / self.bytes_a_second * max(self.slow.get(one, 1.0), self.slow.get(other, 1.0))

    def here(self):
        return self.world.current.process.machine

    # -- connecting -------------------------------------------------------------------------------------------------------
    def create_connection(self, address, timeout=None, source_address=None):
        world, here = self.world, self.here()
        host, port = address[0], address[1]
        if world.ended:
            raise WorldEnded
        end_s = None if timeout is None else world.now + timeout
        there = self.machine_at(host)
        while True:
            if there is not None and self.is_open(here, there) and self.is_open(there, here):
                world.sleep(self.delay(here, there))
                listener = self._listeners.get((host, port))
                if listener is None:
                    world.sleep(self.delay(here, there))
                    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
                if len(listener.backlog) < BACKLOG and self.is_open(there, here):
                    return self._connected(here, there, host, port, listener)
            # The first segment is sent again after a while; whoever has no patience gives up.
            pause_s = 0.3 + 0.7 * self.rng.random()
            if end_s is not None and world.now + pause_s >= end_s:
                world.sleep(max(0.0, end_s - world.now))
                raise TimeoutError("timed out")
            world.sleep(pause_s)
            there = self.machine_at(host)

    def _connected(self, here, there, host, port, listener):
        world = self.world
        here.next_port += 1
        mine = Connection(self, here, (here.ip, here.next_port), (host, port))
        theirs = Connection(self, there, (host, port), (here.ip, here.next_port))
        mine.attach(theirs)
        theirs.attach(mine)
        self.connections.append(mine)
        if len(self.connections) > 400:
            self.connections = [one for one in self.connections if not one.is_over]
        mine.held_by(world.current.process)
        listener.backlog.append(theirs)
        world.wake_one(listener.waiters)
        world.sleep(self.delay(there, here))
        return mine

    def reset(self, connection):
        """Both ends find the connection broken."""
        connection.broken()
        connection.peer.broken()

    # -- the module's names -----------------------------------------------------------------------------------------------
    def names(self):
        """What stands in for names of the module `socket`."""
        return {"socket": self.new_socket, "create_connection": self.create_connection, "getaddrinfo": self.getaddrinfo,
                "socketpair": self.socketpair}

    def new_socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0, fileno=None):
        return Datagram(self, family) if kind == socket.SOCK_DGRAM else Listener(self, family)

    def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        return [(socket.AF_INET, type or socket.SOCK_STREAM, 0, "", (host, port))]

    def socketpair(self, family=socket.AF_UNIX, kind=socket.SOCK_STREAM, proto=0):
        letters = _Letters()
        return Letterbox(self, letters), Letterbox(self, letters)


class Base:
    """What all sockets have: who holds them, and how long they wait."""

    family = socket.AF_INET

    def __init__(self, network):
        self.network, self.world = network, network.world
        self.holders = set()
        self.timeout = None
        self.waits_like_kernel = False  # SO_RCVTIMEO: BlockingIOError in place of TimeoutError
        self.closed = False
        self.waiters = []
        self.writers = []

    def held_by(self, process):
        self.holders.add(process)
        process.sockets[self] = None

    def setsockopt(self, _level, option, value):
        if option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO) and isinstance(value, bytes):
            seconds, micros = struct.unpack("ll", value)
            self.timeout, self.waits_like_kernel = seconds + micros * 1e-6 or None, True

    def getsockopt(self, *_):
        return 0

    def settimeout(self, seconds):
        self.timeout, self.waits_like_kernel = seconds, False

    def setblocking(self, blocking):
        self.timeout, self.waits_like_kernel = None if blocking else 0.0, False

    def set_inheritable(self, _yes):
        """All are."""

    def too_late(self):
        if self.waits_like_kernel or self.timeout == 0:
            return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return TimeoutError("timed out")

    def wait(self, waiters, end_s):
        """Wait for an entry of `waiters` to be woken; raises when the time is over."""
        left_s = None if end_s is None else end_s - self.world.now
        if left_s is not None and left_s <= 0:
            raise self.too_late()
        self.world.wait(waiters, left_s)

    def end_s(self):
        return None if self.timeout is None else self.world.now + self.timeout

    def check_open(self):
        if self.world.ended:
            raise WorldEnded
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def close(self):
        if self.world.ended:
            return
        self.let_go(self.world.current.process)

    def let_go(self, process, killed=False):
        """A process does not hold it any more; the last one closes it."""
        process.sockets.pop(self, None)
        self.holders.discard(process)
        if not self.holders and not self.closed:
            self.closed = True
            self.on_close(killed)
            self.world.wake_all(self.waiters)
            self.world.wake_all(self.writers)

    def on_close(self, killed):
        """The last holder has let go."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Listener(Base):
    """A TCP socket that waits for others."""

    def __init__(self, network, family=socket.AF_INET):
        super().__init__(network)
        self.family = family
        self.address = None
        self.backlog = collections.deque()
        self.held_by(self.world.current.process)

    def bind(self, address):
        host, port = address[:2]
        machine = self.network.here()
        if not port:
            machine.next_port += 1
            port = machine.next_port
        other = self.network._listeners.get((host, port))
        if other is not None:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        if host != machine.ip:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        self.address = host, port

    def listen(self, _backlog=128):
        if self.address in self.network._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.network._listeners[self.address] = self

    def getsockname(self):
        return self.address or ("0.0.0.0", 0)

    def is_readable(self):
        return bool(self.backlog) or self.closed

    def accept(self):
        self.check_open()
        end_s = self.end_s()
        while not self.backlog:
            self.wait(self.waiters, end_s)
            self.check_open()
        connection = self.backlog.popleft()
        connection.held_by(self.world.current.process)
        self.world.maybe_give_way()
        return connection, connection.remote

    def shutdown(self, _how):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    def on_close(self, killed):
        if self.network._listeners.get(self.address) is self:
            del self.network._listeners[self.address]
        for connection in self.backlog:
            connection.closed = True
            connection.wire.put("reset", None, 0)
        self.backlog.clear()


class Connection(Base):
    """One end of a TCP connection. It has no fileno, so that nobody goes past it."""

    def __init__(self, network, machine, local, remote):
        super().__init__(network)
        self.machine, self.local, self.remote = machine, local, remote
        self.peer = self.wire = None
        self.inbox = collections.deque()  # memoryviews
        self.n_unread = 0
        self.ended = False  # the peer sends no more
        self.error = None
        self.is_shut = False  # we send no more
        self.is_deaf = False  # we receive no more

    def attach(self, peer):
        self.peer = peer
        self.wire = Wire(self.network, self, peer)

    @property
    def is_over(self):
        return self.closed and self.peer.closed

    def getsockname(self):
        return self.local

    def getpeername(self):
        return self.remote

    def is_readable(self):
        return bool(self.inbox) or self.ended or self.closed or self.error is not None

    # -- in ---------------------------------------------------------------------------------------------------------------
    def recv_into(self, view, nbytes=0, flags=0):
        self.check_open()
        view = memoryview(view)
        if nbytes:
            view = view[:nbytes]
        self.world.maybe_give_way()
        end_s = self.end_s()
        while not self.inbox:
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
            if self.ended or self.is_deaf:
                return 0
            self.wait(self.waiters, end_s)
            self.check_open()
        network = self.network
        n_most = len(view)
        if network.split and network.rng.random() < network.split:
            n_most = max(1, int(n_most * network.rng.random()))
        n = 0
        while self.inbox and n < n_most:
            piece = self.inbox[0]
            take = min(len(piece), n_most - n)
            view[n:n + take] = piece[:take]
            n += take
            if take == len(piece):
                self.inbox.popleft()
            else:
                self.inbox[0] = piece[take:]
        self.n_unread -= n
        if self.peer.writers:
            self.world.wake_all(self.peer.writers)
        return n

    def recv(self, n, flags=0):
        buffer = bytearray(n)
        return bytes(buffer[:self.recv_into(buffer)])

    # -- out --------------------------------------------------------------------------------------------------------------
    def _room(self):
        return WINDOW - self.wire.n_under_way - self.peer.n_unread

    def _check_sendable(self):
        self.check_open()
        if self.error is not None:
            error = errno.EPIPE if self.error == errno.ECONNRESET and self.is_shut else self.error
            raise OSError(error, os.strerror(error))
        if self.is_shut:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def sendmsg(self, parts, *_):
        self._check_sendable()
        total = sum(len(part) for part in parts)
        end_s = self.end_s()
        while total > ALWAYS_FITS and self._room() <= 0:
            self.wait(self.writers, end_s)
            self._check_sendable()
        n = total if total <= ALWAYS_FITS else min(total, self._room())
        data = b"".join(bytes(part) for part in parts) if n == total else b"".join(bytes(part) for part in parts)[:n]
        self.wire.put("data", data, n)
        self.world.maybe_give_way()
        return n

    def send(self, data, flags=0):
        return self.sendmsg([data])

    def sendall(self, data, flags=0):
        view = memoryview(data)
        while len(view):
            view = view[self.sendmsg([view]):]

    # -- ends -------------------------------------------------------------------------------------------------------------
    def shutdown(self, how):
        self.check_open()
        if self.error is not None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        if how in (socket.SHUT_WR, socket.SHUT_RDWR) and not self.is_shut:
            self.is_shut = True
            self.wire.put("end", None, 0)
            self.world.wake_all(self.writers)
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self.is_deaf = True
            self.world.wake_all(self.waiters)

    def on_close(self, killed):
        if self.error is None:
            if self.inbox:
                self.wire.put("reset", None, 0)
            elif not self.is_shut:
                self.wire.put("end", None, 0)
        self.is_shut = True
        self.inbox.clear()
        self.n_unread = 0

    def broken(self):
        """A reset has arrived."""
        if self.error is None and not self.closed:
            self.error = errno.ECONNRESET
            self.inbox.clear()
            self.n_unread = 0
            self.world.wake_all(self.waiters)
            self.world.wake_all(self.writers)

    def arrived(self, kind, data):
        """Something has come over the wire."""
        if self.closed or self.error is not None:
            if kind == "data" and self.closed:
                self.wire.put("reset", None, 0)  # nobody is here any more
            return
        if kind == "data":
            if self.is_deaf:
                return
            self.inbox.append(memoryview(data))
            self.n_unread += len(data)
        elif kind == "end":
            self.ended = True
        else:
            self.broken()
            return
        self.world.wake_all(self.waiters)


class Wire:
    """One direction of a connection."""

    def __init__(self, network, source, target):
        self.network, self.world, self.source, self.target = network, network.world, source, target
        self._queue = collections.deque()  # (arrival, kind, data, n)
        self._last_s = 0.0
        self._is_awaited = False
        self.n_under_way = 0

    def put(self, kind, data, n):
        network, one, other = self.network, self.source.machine, self.target.machine
        start_s = max(self._last_s, self.world.now + network.delay(one, other))
        self._last_s = start_s + network.transfer_s(n, one, other)
        if kind == "data" and network.flip and network.rng.random() < network.flip:
            turned = bytearray(data)
            at = network.rng.randrange(len(turned))
            turned[at] ^= 1 << network.rng.randrange(8)
            data = bytes(turned)
            self.world.stats["bits_flipped"] += 1
        self._queue.append((self._last_s, kind, data, n))
        self.n_under_way += n
        if not self._is_awaited:
            self._is_awaited = True
            self.world.at(self._last_s, self._deliver)

    def _deliver(self, _):
        one, other = self.source.machine, self.target.machine
        if not self.network.is_open(one, other):
            if self.source.closed and self.target.closed:
                self._queue.clear()
                self._is_awaited = False
                return
            self.world.after(0.2 + 0.4 * self.network.rng.random(), self._deliver)
            return
        queue = self._queue
        while queue and queue[0][0] <= self.world.now:
            _at, kind, data, n = queue.popleft()
            self.n_under_way -= n
            self.target.arrived(kind, data)
        if self.source.writers:
            self.world.wake_all(self.source.writers)
        if queue:
            self.world.at(max(queue[0][0], self.world.now + 1e-6), self._deliver)
        else:
            self._is_awaited = False


class Datagram(Base):
    """A UDP socket."""

    def __init__(self, network, family=socket.AF_INET):
        super().__init__(network)
        self.family = family
        self.address = None
        self.machine = network.here()
        self.inbox = collections.deque()
        self.held_by(self.world.current.process)

    def bind(self, address):
        host, port = address[:2]
        if not port:
            self.machine.next_port += 1
            port = self.machine.next_port
        if (host, port) in self.network._datagrams:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.address = host, port
        self.network._datagrams[self.address] = self

    def connect(self, _address):
        """Only asks for the way."""

    def getsockname(self):
        return self.address or (self.machine.ip, 0)

    def is_readable(self):
        return bool(self.inbox) or self.closed

    def sendto(self, data, address):
        self.check_open()
        network = self.network
        there = network.machine_at(address[0])
        if there is None:
            return len(data)
        here = self.machine
        n_times = 2 if network.rng.random() < network.repeat else 1
        for _ in range(n_times):
            if network.rng.random() >= network.loss:
                late_s = network.rng.random() * 3.0 if network.rng.random() < network.repeat else 0.0
                self.world.after(network.delay(here, there) + late_s, self._arrive, (here, there, data, address, here.ip))
        return len(data)

    def _arrive(self, letter):
        here, there, data, address, sender_ip = letter
        target = self.network._datagrams.get(address)
        if target is None or not self.network.is_open(here, there, self.network.udp_blocked) or len(target.inbox) > 1000:
            return
        target.inbox.append((data, (sender_ip, 40_000)))
        self.world.wake_all(target.waiters)

    def recvfrom(self, n):
        self.check_open()
        end_s = self.end_s()
        while not self.inbox:
            self.wait(self.waiters, end_s)
            self.check_open()
        data, address = self.inbox.popleft()
        return data[:n], address

    def on_close(self, killed):
        if self.network._datagrams.get(self.address) is self:
            del self.network._datagrams[self.address]


class _Letters:
    """What two ends of a socketpair share: letters from either to the other's reader."""

    def __init__(self):
        self.queue = collections.deque()
        self.readers = []


class Letterbox(Base):
    """One end of a local socketpair; used one way only, from the second to the first or the other way round."""

    family = socket.AF_UNIX
    MOST = 200

    def __init__(self, network, letters):
        super().__init__(network)
        self.letters = letters
        self.waiters = letters.readers
        self.held_by(self.world.current.process)

    def is_readable(self):
        return bool(self.letters.queue) or self.closed

    def send(self, data, flags=0):
        self.check_open()
        end_s = self.world.now if flags & socket.MSG_DONTWAIT else self.end_s()
        while len(self.letters.queue) >= self.MOST:
            self.wait(self.writers, end_s if end_s is not None else self.world.now)
            self.check_open()
        self.letters.queue.append(bytes(data))
        self.world.wake_one(self.letters.readers)
        self.world.maybe_give_way()
        return len(data)

    sendall = send

    def recv(self, n, flags=0):
        self.check_open()
        end_s = self.end_s()
        while not self.letters.queue:
            if flags & socket.MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "no letter")
            self.wait(self.letters.readers, end_s)
            self.check_open()
        return self.letters.queue[0][:n] if flags & socket.MSG_PEEK else self.letters.queue.popleft()[:n]

