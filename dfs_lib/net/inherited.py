"""Sockets that one process opens and its children use: listening ports, and a mailbox of datagrams between processes.

Never decides who may use them. The supervisor of a keeper opens them once, so that port 0 means one number for good, and
so that a connection made while a port's process is being restarted waits in the backlog and is not refused.
"""

import errno
import os
import socket
import struct
import sys

from dfs_lib import errors
from dfs_lib.net import servers
from dfs_lib.settings import EVERYWHERE

_BACKLOG = 512
# A datagram holds one event; the largest carries the checksums of a block of 1 GiB, 8 KiB of hex.
MAX_LETTER = 1 << 16
# How long a sender waits for room. The reader only moves letters into memory, so a full mailbox means that it is gone.
_SEND_TIMEOUT_S = 0.5


def listen(host, port, setting="ports"):
    """A listening TCP socket on host:port (0: any free one). Raises BadSetting, about that setting, with the system's reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as e:
        raise cannot_listen(e, host, f"port {port}", setting) from e
    return sock


def cannot_listen(error, host, port, setting, flag=None):
    """The BadSetting for an OSError of a port that cannot be had. port: `port 7000`, `UDP port 7000`; flag: what chooses another, without --."""
    failure = errors.BadSetting(name=setting, origin="the command line or its default", errno=error.errno,
                                detail=f"cannot listen on {host} {port}: {(error.strerror or str(error)).lower()}")
    flag = flag or setting
    if error.errno == errno.EADDRINUSE:
        failure.hint = f"another program has it; --{flag} chooses {'others' if flag == 'ports' else 'another'}"
    elif error.errno == errno.EADDRNOTAVAIL:
        failure.hint = f"this machine has no address {host}: --{'host' if flag in ('ports', 'heartbeat-port') else flag} names one that it has"
    elif error.errno in (errno.EACCES, errno.EPERM):
        failure.hint = f"ports below 1024 are the system's: --{flag} chooses {'others' if flag == 'ports' else 'another'}"
    return failure


def adopt(fd):
    """The listening socket behind a file descriptor that whoever started us has opened. Raises UsageError when it is none."""
    try:
        return socket.socket(fileno=fd)
    except OSError as e:
        raise errors.UsageError(detail=f"file descriptor {fd} is no socket: {(e.strerror or str(e)).lower()}") from e


def host_of(sock):
    """The address a socket is bound to."""
    return sock.getsockname()[0]


def is_loopback(host):
    """Whether an address to listen on can be reached from this machine alone. Raises BadSetting for a name that nobody knows."""
    try:
        found = {place[0] for *_rest, place in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as e:
        raise errors.BadSetting(name="host", origin="the command line or its default", detail=f"the name {host} is not known") from e
    return all(address.startswith("127.") or address == "::1" for address in found)


def refuse_insecure(settings, host):
    """Raise UsageError when authentication is off on an address that others can reach, and only one word says so."""
    if settings.insecure and settings.insecure != EVERYWHERE and not is_loopback(host):
        raise errors.UsageError(detail=f"--insecure on {host}: whoever reaches these ports could read and delete everything. Give "
                                       "--insecure twice (or insecure = \"everywhere\") if that is meant, or listen on 127.0.0.1")


def port_of(sock):
    """The port number a socket is bound to."""
    return sock.getsockname()[1]


def address_towards(addresses):
    """This machine's own address as seen on the way to the first of `addresses` (host, port) that has a way, else None.

    Connecting a UDP socket sends nothing: the kernel only looks up its routes.
    """
    for host, port in addresses:
        try:
            family, kind, _proto, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as sock:
                sock.connect(address)
                return sock.getsockname()[0]
        except (OSError, UnicodeError):
            continue
    return None


class InheritedServer(servers.Server):
    """servers.Server on a socket that listens already."""

    def __init__(self, sock, service, make_talk, **rest):
        self._inherited = sock
        super().__init__(sock.getsockname()[:2], service, make_talk, **rest)

    def server_bind(self):
        self.socket.close()  # the unbound one that TCPServer has just made
        self.socket = self._inherited
        self.server_address = self.socket.getsockname()

    @property
    def is_listening(self):
        return self._thread is not None and self._thread.is_alive()

    def server_activate(self):
        """It listens already."""


class Mailbox:
    """Datagrams from any of several processes to one reader. A letter is whole or not there at all, and no lock is involved
    that a killed process could hold. What is unread when the reader dies waits for its successor."""

    def __init__(self):
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)  # the system cuts it to what it allows
        if sys.platform.startswith("linux"):
            whole, fraction = int(_SEND_TIMEOUT_S), int(_SEND_TIMEOUT_S % 1 * 1e6)
            self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", whole, fraction))

    def post(self, letter, wait=True):
        """Send one letter; False when it could not be (the mailbox is full, or nobody reads any more)."""
        try:
            self._writer.send(letter, 0 if wait else socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def wait(self):
        """Until a letter is there, which stays; False when the mailbox is closed."""
        try:
            self._reader.recv(1, socket.MSG_PEEK)
            return True
        except OSError:
            return False

    def read_now(self):
        """The next letter; None when there is none. (Of a closed mailbox `wait` tells.)"""
        try:
            return self._reader.recv(MAX_LETTER, socket.MSG_DONTWAIT)
        except OSError:
            return None

    def fileno(self):
        return self._reader.fileno()

    def close(self):
        for sock in (self._reader, self._writer):
            sock.close()


def raise_file_limit(most=65536):
    """Let this process and its children open as many files as the system allows it to; returns the limit, None if unknown."""
    if os.name != "posix":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
