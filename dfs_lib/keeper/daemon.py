"""The keeper's supervisor: opens the directory and the ports, starts a process a port and the reporter, restarts what dies.

Never moves a byte of a file and never starts a thread, so that it may fork at any time. Nothing here decides about blocks.

    run ──┬─ key, directory (flock), identity, sweep, listening sockets, shared page, mailbox, lifeline
          └─ fork ─┬─ port 0 … n-1: net server + service.Service on its socket
                   └─ reporter: registration, heartbeats, reports, orders
    a child dies   → again after 0.1 s, 0.2 s … 5 s (from the start again once it has lived 30 s)
    we die         → the lifeline's end closes, every child ends at once
    SIGTERM/SIGINT → children get SIGTERM, five seconds, then SIGKILL; exit 0

Forking is right here and spawning is not: the children use sockets and memory that only a fork hands down, and a frozen
program without PyInstaller's hook would run itself again (PACKAGING.md, A3).
"""

import encodings.idna  # noqa: F401 - looked up by name when a host name is resolved; a swept unpacking folder may be gone by then
import errno
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import secrets
import signal
import sys
import time

from dfs_lib import errors, metrics
from dfs_lib.keeper import disk, follower, joining, measures, onward, orders, reporter, rounds, service, shared, store, summing
from dfs_lib.net import inherited, pages, readiness, servers
from dfs_lib.settings import OFF
from dfs_lib.wire import conversation, messages, trust

log = logging.getLogger(__name__)

DEFAULT_PORTS = (8000, 8001, 8002)
STOP_S = 5.0
_PORT_STOP_S = 3.0
_PAUSES_S = (0.1, 5.0)  # before a restart: first and longest, doubled each time
_LIVED_S = 30.0
# Between tries to start on a disk that is full or failing: first and longest, doubled each time.
_DISK_PAUSES_S = (1.0, 30.0)
# Processes of a keeper that was just killed may hold its ports a moment longer.
_BIND_PATIENCE_S = 4.0
_FLUSH_EVERY_S = 0.2


def run(settings):
    """Run a keeper until SIGTERM or SIGINT; returns the exit status 0. Main thread only; logging is the caller's.

    Prints one JSON line on stdout once a master has taken the keeper in.
    Raises BadKeyFile, UsageError, DirectoryInUse, WrongCluster, BadKey, KeeperRefused, BadSetting (a port that is taken),
    DiskFault, IntegrityError: whatever keeps a keeper from working at all. A disk that is full or failing is waited for.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        raise errors.UsageError(detail="dfs keeper needs a system that can fork (Linux, macOS, WSL)")
    if not settings.data:
        raise errors.UsageError(detail="a keeper needs --data DIR, the directory that holds its blocks")
    keyring = _keyring(settings)
    stop = shared.StopSignal()
    stop.install(shared.STOP_SIGNALS)
    supervisor = None
    try:
        supervisor = _as_soon_as_the_disk_allows(lambda: Supervisor(settings, keyring, stop), stop)
        if supervisor is not None:
            supervisor.run()
        return 0
    finally:
        if supervisor is not None:
            supervisor.close()


def _as_soon_as_the_disk_allows(make, stop):
    """What make() gives, tried again while the disk is full or failing; None when told to stop meanwhile."""
    pause_s = _DISK_PAUSES_S[0]
    while not stop.is_set:
        try:
            return make()
        except errors.DfsError as e:
            if not disk.may_pass(e):
                raise
            log.error("the disk does not let this keeper start again_in_s=%.0f reason=%s", pause_s, e.message)
        stop.wait(pause_s)
        pause_s = min(2 * pause_s, _DISK_PAUSES_S[1])
    return None


def _keyring(settings):
    """What this keeper can prove and check."""
    if settings.insecure:
        log.warning("authentication is off (--insecure): whoever reaches these ports can read and delete everything here")
        return trust.Keyring.from_cluster_key(None)
    path = settings.key_file or joining.own_key_file(settings.data)
    if path is None:
        own = os.path.join(settings.data, joining.CLUSTER_KEY)
        raise errors.BadKeyFile(f"a keeper needs its cluster's key: give --key-file FILE, or put it into {own} (mode 600)", path=own)
    return joining.keyring(path)


class Child:
    """One process of the keeper: what it runs, and when it is to run again."""

    def __init__(self, name, slot, target, args):
        self.name, self.slot, self.target, self.args = name, slot, target, args
        self.process = None
        self.started_s = self.due_s = 0.0
        self.pause_s = _PAUSES_S[0]

    def plan_restart(self, now_s):
        """After its end: when to start it again."""
        if now_s - self.started_s >= _LIVED_S:
            self.pause_s = _PAUSES_S[0]
        self.due_s = now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, _PAUSES_S[1])
        self.process = None


class Supervisor:
    """Holds everything that children inherit. Single-threaded for ever."""

    def __init__(self, settings, keyring, stop):
        self._settings, self._keyring, self._stop = settings, keyring, stop
        self._fork = multiprocessing.get_context("fork")
        self._directory = os.path.abspath(settings.data)
        self._sockets, self._children, self._lock_fd, self._pages_socket, self._gate = [], [], None, None, None
        store.prepare(self._directory)
        self._lock_fd = store.lock(self._directory)
        try:
            self._identity = store.load_identity(self._directory, lambda: secrets.token_hex(16))
            with store.Store(self._directory, None, settings.reserve) as whole:
                whole.sweep()
            inherited.raise_file_limit()
            self._listen()
        except BaseException:
            self.close()
            raise
        ports = [inherited.port_of(sock) for sock in self._sockets]
        if self._pages_socket is not None:
            self._sockets.append(self._pages_socket)  # from here on like the others: inherited by children, closed at the end
        self.page = shared.Page(len(ports))
        self.page.set_pid(None, os.getpid())
        if settings.tls != trust.OFF:
            from dfs_lib.net import tls  # before any fork, and before the folder that it is unpacked in may be swept

            self._gate = tls.gate_of(settings, keyring.auth != "none", keyring.secret_for, self._wanted_tls)
        if self._identity.cluster_id:
            self.page.set_cluster(self._identity.cluster_id)
        self._mailbox = shared.open_mailbox()
        self._lifeline = os.pipe()
        self._status = os.pipe()
        os.set_blocking(self._status[0], False)
        self._heard = b""
        self._ready = False
        self._ports = ports
        self._parent = _watched_parent()
        self._make_children(ports)

    def _wanted_tls(self):
        """How strict the ports are, see tls.Gate: those of a cluster that does without take what comes."""
        mode = self._settings.tls
        return trust.ALLOW if mode == trust.AUTO and not self.page.wants_tls else mode

    def _listen(self):
        host = self._settings.host or self._own_address()
        inherited.refuse_insecure(self._settings, host)
        end_s = time.monotonic() + _BIND_PATIENCE_S
        for port in self._settings.ports or DEFAULT_PORTS:
            while not self._stop.is_set:
                try:
                    self._sockets.append(inherited.listen(host, port))
                    break
                except errors.BadSetting as e:
                    if e.facts.get("errno") != errno.EADDRINUSE or time.monotonic() > end_s:
                        raise
                    self._stop.wait(0.05)
        if self._settings.monitor != OFF:
            self._pages_socket = inherited.listen(*self._settings.monitor, "monitor")

    def _own_address(self):
        """This machine's address on the way to the master: reachable for its peers, and not open to every network."""
        warned = False
        while not self._stop.is_set:
            address = inherited.address_towards(self._settings.master)
            if address is not None:
                return address
            if not warned:
                warned = True
                log.warning("no way to a master yet addresses=%s; --host names the address to listen on",
                            ",".join(f"{host}:{port}" for host, port in self._settings.master))
            self._stop.wait(1.0)
        return "127.0.0.1"

    def _make_children(self, ports):
        settings, keeper_id = self._settings, self._identity.keeper_id
        common = _Common(self._directory, self._keyring, keeper_id, self.page, self._mailbox, self._lifeline, self._lock_fd, self._sockets,
                         servers.limits_of(settings), settings, self._gate,
                         trust.Tls(settings.tls, settings.tls_ca, told=lambda: self.page.wants_tls), self._pages_socket)
        told_host = settings.host if settings.host not in ("0.0.0.0", "::") else None
        facts = reporter.Facts(
            keeper_id, self._identity.cluster_id, secrets.token_hex(16), told_host, tuple(ports), dict(settings.label),
            tuple(settings.master), settings.heartbeat_every, settings.connect_timeout, settings.disk_timeout)
        for index in range(len(ports)):
            self._children.append(Child(f"port {ports[index]}", index, port_process, (common, index)))
        self._children.append(Child("reporter", len(ports), reporter_process, (common, facts, self._status)))

    # -- life -----------------------------------------------------------------------------------------------------------
    def run(self):
        """Until told to stop. Raises what the reporter found to be final."""
        # It has its key and its directory, and its ports listen. The ready line waits for the master, a machine's start must not.
        readiness.tell_manager()
        try:
            while not self._stop.is_set:
                now_s = time.monotonic()
                for child in self._children:
                    if child.process is None and child.due_s <= now_s:
                        self._start(child)
                self._wait(now_s)
                self._read_status()
                self._bury()
                if self._parent is not None and os.getppid() != self._parent:
                    log.error("the program that unpacked this keeper is gone, stopping")
                    return
        finally:
            self._end_children()

    def _start(self, child):
        """Fork one child. Signals wait meanwhile, lest the child meets them with our handler and tells us to stop."""
        if child.started_s:
            self._sweep_after(child)
        child.process = self._fork.Process(target=child.target, args=child.args, name=f"dfs keeper {child.name}")
        signal.pthread_sigmask(signal.SIG_BLOCK, shared.STOP_SIGNALS)
        try:
            child.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, shared.STOP_SIGNALS)
        child.started_s = time.monotonic()
        self.page.set_pid(child.slot, child.process.pid)

    def _sweep_after(self, child):
        """Remove what the child's predecessor left half-written."""
        try:
            with store.Store(self._directory, None, self._settings.reserve) as whole:
                whole.sweep(_slot_name(child.slot))
        except errors.DfsError as e:
            log.error("sweep failed process=%s reason=%s", child.name, e.message)

    def _wait(self, now_s):
        waiting = [self._stop.fileno(), self._status[0]] + [child.process.sentinel for child in self._children if child.process]
        due_s = [child.due_s for child in self._children if child.process is None]
        timeout_s = min([1.0] + [max(0.0, due - now_s) for due in due_s])
        multiprocessing.connection.wait(waiting, timeout_s)

    def _bury(self):
        """Take note of children that have ended."""
        for child in self._children:
            process = child.process
            if process is None or process.is_alive() or self._stop.is_set:
                continue
            process.join()
            self.page.set_pid(child.slot, 0)
            if child.slot < self.page.n_ports:
                # It may have stored a block and died before it could tell: only a whole report finds that one.
                self.page.slot(child.slot).lost()
            child.plan_restart(time.monotonic())
            log.warning("process ended process=%s pid=%s status=%s again_in_s=%.1f", child.name, process.pid, process.exitcode,
                        child.due_s - time.monotonic())
            process.close()

    def _read_status(self):
        """Lines from the reporter."""
        try:
            self._heard += os.read(self._status[0], 65536)
        except BlockingIOError:
            return
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "error" in said:
                raise errors.from_wire(said["error"], said["message"], said["facts"])
            self._announce(said["registered"])

    def _announce(self, cluster_id):
        if self._ready:
            return
        self._ready = True
        print(json.dumps({"event": "ready", "role": "keeper", "pid": os.getpid(), "ports": self._ports, "heartbeat_port": None,
                          "data": self._directory, "cluster_id": cluster_id, "keeper_id": self._identity.keeper_id,
                          "monitor_port": inherited.port_of(self._pages_socket) if self._pages_socket else None}), flush=True)

    def _end_children(self):
        """Ask, wait, insist."""
        for sock in self._sockets:
            sock.close()  # with the children's own gone too, a connection is refused at once and not left waiting
        alive = [child.process for child in self._children if child.process is not None]
        for process in alive:
            process.terminate()
        end_s = time.monotonic() + STOP_S - 0.5
        for process in alive:
            process.join(max(0.0, end_s - time.monotonic()))
            if process.is_alive():
                log.warning("process killed pid=%s", process.pid)
                process.kill()
                process.join(1.0)

    def close(self):
        for sock in self._sockets:
            sock.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def _watched_parent():
    """The pid of the onefile bootloader above us, which must not be outlived (F2); None when there is none."""
    if not getattr(sys, "frozen", False):
        return None
    parent = os.getppid()
    try:
        return parent if os.readlink(f"/proc/{parent}/exe") == os.readlink("/proc/self/exe") else None
    except OSError:
        return None


# -- in the children ----------------------------------------------------------------------------------------------------
class _Common:
    """What every child gets from its parent's memory."""

    def __init__(self, directory, keyring, keeper_id, page, mailbox, lifeline, lock_fd, sockets, limits, settings, gate, tls,
                 pages_socket=None):
        self.directory, self.keyring, self.keeper_id = directory, keyring, keeper_id
        self.page, self.mailbox, self.lifeline, self.lock_fd, self.sockets = page, mailbox, lifeline, lock_fd, sockets
        self.limits, self.reserve, self.disk_timeout_s, self.pages_socket = limits, settings.reserve, settings.disk_timeout, pages_socket
        self.scrub_rate, self.scrub_days, self.gate, self.tls = settings.scrub_rate, settings.scrub_days, gate, tls
        self.max_transfers = settings.max_transfers


def _slot_name(slot):
    return f"slot{slot}"


def _settle(common, keep=None):
    """First thing in a child: its own signals, and nothing of the supervisor's or its siblings' kept open."""
    os.close(common.lifeline[1])
    shared.hold_lifeline(common.lifeline[0])
    os.close(common.lock_fd)
    for sock in common.sockets:
        if sock is not keep:
            sock.close()
    stop = shared.StopSignal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all; the supervisor ends us in order
    stop.install((signal.SIGTERM,))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, shared.STOP_SIGNALS)
    return stop


def port_process(common, index):
    """Serve one port until told to stop."""
    sock = common.sockets[index]
    stop = _settle(common, keep=sock)
    page, slot = common.page, common.page.slot(index)
    slot.reset()
    peers = onward.Peers(common.keyring.credentials("keeper", common.keeper_id, common.tls))
    try:
        blocks = store.Store(common.directory, page.cluster_id, common.reserve, _slot_name(index))
    except errors.DfsError as e:
        log.error("the port cannot be opened reason=%s", e.message)
        sys.exit(e.status)
    answers = service.Service(blocks, common.keyring, common.keeper_id, page.reign, shared.Teller(common.mailbox, slot), slot,
                              lambda: page.cluster_id, peers, page.guard.at_port(index), common.disk_timeout_s, common.max_transfers)

    def make_talk(port, nonce):
        keyring = common.keyring
        return conversation.Server(keyring.secret_for, keyring.auth, "keeper", page.cluster_id or messages.NO_CLUSTER, port, nonce)

    server = inherited.InheritedServer(sock, answers, make_talk, limits=common.limits, gate=common.gate)
    server.start()
    log.info("port open port=%s pid=%s", server.port, os.getpid())
    while not stop.wait(_FLUSH_EVERY_S):
        answers.flush()
        answers.watch_disk(time.monotonic())
        slot.refused({**server.counters(), "transfers_refused": answers.n_transfers_refused()})
        if not server.is_listening:
            raise errors.Misuse(detail="the listening thread has ended")
    server.stop(_PORT_STOP_S)
    answers.flush()
    peers.close()


def _serve_pages(common, ports, disk):
    """The PageServer for monitors, started; None when nobody asked for one."""
    if common.pages_socket is None:
        return None
    told = measures.Measures(common.page, ports, disk)
    server = pages.PageServer(common.pages_socket, {
        "/metrics": lambda: (200, metrics.CONTENT_TYPE, told.text()),
        "/healthz": pages.text_page(told.health), "/readyz": pages.text_page(told.readiness)})
    server.start()
    return server


def reporter_process(common, facts, status):
    """Speak with the master until told to stop; a final failure is told to the supervisor."""
    stop = _settle(common, keep=common.pages_socket)
    page, slot = common.page, common.page.slot(common.page.n_ports)
    slot.reset()
    page.set_connected(False)

    def say(line):
        os.write(status[1], json.dumps(line).encode() + b"\n")

    try:
        epoch = shared.HighestEpoch(common.directory)
        blocks = store.Store(common.directory, page.cluster_id, common.reserve, _slot_name(common.page.n_ports))
        known = store.read_identity(common.directory)
        speaker = reporter.Reporter(
            facts._replace(cluster_id=known.cluster_id), common.keyring, blocks, page, common.mailbox, epoch, stop, say,
            lambda cluster_id: store.save_cluster(common.directory, cluster_id), common.tls)
        peers = onward.Peers(common.keyring.credentials("keeper", common.keeper_id, common.tls))

        def is_busy():
            return any(page.loads())

        summer = summing.Summer(blocks, common.keeper_id, peers, speaker.another_connection, speaker.tell, is_busy, common.scrub_rate)
        speaker.orders = orders.Orders(blocks, peers, speaker.tell, speaker.want_report, slot, common.scrub_rate, summer)
        if common.scrub_days:
            speaker.rounds = rounds.Rounds(blocks, speaker.tell, is_busy, speaker.want_report, common.scrub_days * rounds.DAY_S, common.scrub_rate)
        speaker.follower = follower.Follower(common.directory, speaker.another_connection, lambda: epoch.value, lambda: blocks.space().free)
        watched = _serve_pages(common, facts.ports, speaker.disk)
        speaker.run()
        if watched is not None:
            watched.stop()
        speaker.orders.stop()
        peers.close()
    except errors.DfsError as e:
        log.error("the reporter cannot go on reason=%s", e.message)
        if page.n_registered or disk.may_pass(e):
            sys.exit(e.status)  # it has worked before, or the disk may work again: the next one may find things better
        facts = {name: value for name, value in e.facts.items() if isinstance(value, (str, int, float))}
        say({"error": e.code, "message": e.message, "facts": facts})
        sys.exit(e.status)
