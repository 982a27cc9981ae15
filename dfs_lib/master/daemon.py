"""The master's process: opens the catalog, starts the threads, stops them. It decides nothing.

Threads: one that listens a port, one a connection, one for heartbeats, one ticker, one repairer, and a short-lived one a probe.
Order of the start: lock and check the catalog, begin a new reign (durable), listen, say ready. Order of the stop: stop listening, end
connections, stop the loops, close the catalog.
"""

import errno
import logging
import os
import random
import secrets
import signal
import socket
import sys
import threading
import time

from dfs_lib import errors, keyfile, metrics
from dfs_lib.catalog import ballast, operations, rebuilding
from dfs_lib.catalog.database import Database
from dfs_lib.master import rebuilder
from dfs_lib.master.alarming import Alarming
from dfs_lib.master.repairer import Repairer
from dfs_lib.master.service import Service
from dfs_lib.master.ticker import STEP_S, Ticker
from dfs_lib.master.tracker import Tracker
from dfs_lib.net import datagrams, inherited, pages, readiness, servers
from dfs_lib.settings import OFF
from dfs_lib.wire import conversation, messages, trust

log = logging.getLogger(__name__)

DEFAULT_PORTS = (7000, 7001, 7002)
# Within the 5 s that SIGTERM allows: requests under way get this long, then their connections are closed.
STOP_S = 2.0
PROBE_TIMEOUT_S = 1.0
# How many free TCP ports are let go because their number is taken for UDP, where the heartbeats come in.
PORT_TRIES = 16
OPEN_TO_ALL = "authentication is off (--insecure): whoever reaches these ports can read and delete everything"


def new_id():
    """A 128-bit id, 32 hex digits: 6 bytes of time in ms, so that b-trees grow at their end, and 10 random ones."""
    return (int(time.time() * 1000) & (1 << 48) - 1).to_bytes(6, "big").hex() + secrets.token_hex(10)


def load_key(settings, directory):
    """The cluster key's bytes, made at the first start; None under --insecure."""
    if settings.insecure:
        return None
    if settings.key_file:
        return keyfile.read(settings.key_file)
    path = os.path.join(directory, "cluster.key")
    if not os.path.exists(path):
        if settings.rebuild:
            raise errors.BadKeyFile(path=path, detail="a rebuild needs the key of the cluster that was lost: name it with --key-file")
        if os.path.exists(os.path.join(directory, "catalog.db")):
            raise errors.BadKeyFile(path=path, detail="it is gone, and a catalog is there: a new key would shut every keeper out")
        keyfile.make(path)
        log.info("made a cluster key file=%s", path)
    return keyfile.read(path)


class Master:
    """A running master. `start` returns when it listens; `stop` when nothing of it is left."""

    def __init__(self, settings):
        self._settings = settings
        self._stopping = threading.Event()
        self.failed = threading.Event()
        self._probing = set()
        self._servers, self._ticker_thread, self._heartbeats, self._pages = [], None, None, None

    def start(self):
        settings = self._settings
        directory = os.path.abspath(settings.data)
        _make_private(directory)
        self._is_first = not settings.insecure and not settings.key_file and not os.path.exists(os.path.join(directory, "cluster.key"))
        keyring = trust.Keyring.from_cluster_key(load_key(settings, directory))
        self._database = Database.open(directory, now=time.time, new_id=new_id, ballast_size=ballast.SIZE, check_later=True)
        try:
            self._take_over(settings.epoch_above)
            self._tracker = Tracker(settings, self._database, keyring, clock=time.monotonic, wall=time.time, rng=random.Random(), new_id=new_id)
            self._tracker.alarm("insecure", OPEN_TO_ALL if settings.insecure else "")
            self._repairer = Repairer(self._tracker)
            self._alarming = Alarming(self._tracker, self._repairer)
            self._service = service = Service(self._tracker, self._repairer, self._counters)
            self._listen(settings, keyring, service)
            if settings.monitor != OFF:
                self._pages = pages.PageServer(inherited.listen(*settings.monitor, "monitor"), {
                    "/metrics": lambda: (200, metrics.CONTENT_TYPE, service.scrape(len(self._alarming.raised()))),
                    "/healthz": pages.text_page(self._health), "/readyz": pages.text_page(self._readiness)})
        except BaseException:
            self._close_sockets()
            self._database.close()
            raise
        if self._database.unchecked:
            threading.Thread(target=self._check_catalog, name="check-catalog", daemon=True).start()
        self._repairer.start()
        self._ticker = Ticker(self._tracker, self._repairer, self._probe)
        self._alarming.start()
        self._ticker_thread = threading.Thread(target=self._run_ticker, name="ticker", daemon=True)
        self._ticker_thread.start()
        self._heartbeats.start()
        for server in self._servers:
            server.start()
        if self._pages is not None:
            self._pages.start()

    def _health(self):
        """(whether this process works, a sentence)."""
        if self._database.failed:
            return False, f"the catalog has failed: {self._database.failed}"
        if self.failed.is_set() or not self._ticker_thread.is_alive():
            return False, "the ticker has ended"
        return True, "ok"

    def _readiness(self):
        """(whether it serves clients fully, a sentence)."""
        is_well, sentence = self._health()
        starting = is_well and self._tracker.safemode()
        return (False, starting) if starting else (is_well, sentence)

    def announce(self, sentence):
        """Show this in `status` until the master's next start."""
        self._tracker.alarm("rebuilt", sentence)

    def _listen(self, settings, keyring, service):
        host = settings.host or "127.0.0.1"
        t = self._tracker

        def make_talk(port, nonce):
            return conversation.Server(secret_for, keyring.auth, "master", t.cluster_id, port, nonce)

        def secret_for(role, identity):
            if keyring.auth == "none":
                return keyring.secret_for(role, identity)
            if role == trust.JOINER:
                found = t.invitations.secret_for(identity)
            elif role == "client" and identity != trust.ADMIN and t.users.known(identity) is None:
                found = None  # removed, or never there: a stranger
            else:
                found = keyring.secret_for(role, identity)
            # A secret that nobody has, rather than none: the answer must not tell strangers which users and codes there are.
            return found or secrets.token_bytes(trust.KEY_SIZE)

        gate = gate_of(settings, keyring, secret_for)
        t.is_encrypted = lambda: gate is not None and gate.is_tight
        refused = []
        try:
            while self._heartbeats is None:
                listen(settings, service, make_talk, self._servers, gate)
                self.ports = [server.port for server in self._servers]
                self._heartbeats = self._heartbeat_listener(host, keyring, may_refuse=len(refused) < PORT_TRIES)
                if self._heartbeats is None:  # kept open until another is found, or the system could give the same ones again
                    refused.append(self._servers[:])
                    self._servers.clear()
        finally:
            for server in [server for group in refused for server in group]:
                server.server_close()
        t.heartbeat_port = self._heartbeats.port

    def _heartbeat_listener(self, host, keyring, may_refuse):
        """Where heartbeats come in: at the number of the first TCP port, unless another was set. Raises BadSetting.

        None when another program has that number for UDP, and any other number would do as well: any free TCP port was asked for.
        """
        settings, t = self._settings, self._tracker
        is_any = settings.heartbeat_port is None and (settings.ports or DEFAULT_PORTS)[0] == 0
        port = self.ports[0] if settings.heartbeat_port is None else settings.heartbeat_port
        try:
            return datagrams.Listener(host, port, keyring.node, lambda beat, _host: t.live.heard(beat, t.clock()))
        except OSError as e:
            if is_any and may_refuse and e.errno == errno.EADDRINUSE:
                return None
            raise inherited.cannot_listen(e, host, f"UDP port {port}", "host or heartbeat-port",
                                          "ports" if settings.heartbeat_port is None else "heartbeat-port") from e

    def _take_over(self, epoch_above):
        """A catalog from a backup reigns above every epoch that a keeper has obeyed, when its operator says which: never by itself, because an old
        master that comes back looks the same. In one transaction: the epoch, a log that goes on above every number that is lost, and no order
        to delete that is older than what keepers hold. One that is above it already, at a later start by the same words, does nothing.
        """
        if self._database.epoch <= epoch_above:
            log.warning("this catalog takes over above epoch %s: what was stored after its backup was made stays at the keepers, set aside", epoch_above)
            self._database.apply(operations.BeginRebuilt(self._database.cluster_id, epoch_above + 1, False, time.time()))

    def ready(self):
        """The facts of the line that says ready."""
        return {"event": "ready", "role": "master", "pid": os.getpid(), "ports": self.ports, "heartbeat_port": self._heartbeats.port,
                "data": os.path.abspath(self._settings.data), "cluster_id": self._tracker.cluster_id, "epoch": self._tracker.epoch,
                "monitor_port": self._pages.port if self._pages is not None else None}

    def invitation(self):
        """The command by which one keeper joins, when this start has made the cluster's key; else None."""
        if not self._is_first:
            return None
        host = self._settings.host or "127.0.0.1"
        shown = "HOST" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"dfs keeper --data DIR --master {shown}:{self.ports[0]} --join {trust.join_code(*self._tracker.invitations.make())}"

    def _counters(self):
        totals = {}
        for server in self._servers:
            for name, n in server.counters().items():
                totals[name] = totals.get(name, 0) + n
        return {**totals, **self._heartbeats.counters}

    def why_failed(self):
        return self._database.failed or "unknown"

    def _check_catalog(self):
        """Beside the first reads: a catalog that turns out damaged ends the master as any failure of it does."""
        began_s = time.monotonic()
        self._database.check()
        log.info("catalog read through took_s=%.1f failed=%s", time.monotonic() - began_s, self._database.failed)

    # -- loops ----------------------------------------------------------------------------------------------------------
    def _run_ticker(self):
        while not self._stopping.is_set():
            self._tracker.stirred.wait(STEP_S)
            self._tracker.stirred.clear()  # before the step: what comes during it is followed by another
            try:
                self._ticker.step()
                self._alarming.step(time.monotonic())
            except errors.CatalogDamaged as e:
                log.error("the master stops: %s", e.message)
                self.failed.set()
                return
            except Exception:
                log.exception("bug in the ticker")
                self._tracker.count("ticker_bugs")
            if self._database.failed:
                log.error("the master stops: the catalog has failed: %s", self._database.failed)
                self.failed.set()
                return

    def _probe(self, number, host, ports):
        """Try to reach a keeper whose control connection has closed, in a thread of its own: a refusal proves that it is dead."""
        if number in self._probing:
            return
        self._probing.add(number)

        def probe():
            refused = False
            try:
                refused = all(_refuses(host, port) for port in ports)
            finally:
                self._tracker.live.probed(number, refused)
                self._probing.discard(number)
                if refused:
                    self._tracker.stirred.set()

        threading.Thread(target=probe, name=f"probe-k{number}", daemon=True).start()

    # -- stop -----------------------------------------------------------------------------------------------------------
    def stop(self):
        self._stopping.set()
        self._tracker.stirred.set()
        self._tracker.orders.close()
        self._tracker.copies.close()
        end_s = time.monotonic() + STOP_S
        stoppers = [threading.Thread(target=server.stop, args=(STOP_S,)) for server in self._servers]
        for thread in stoppers:
            thread.start()
        if self._pages is not None:
            self._pages.stop()
        for thread in stoppers:
            thread.join(max(0.1, end_s + 1.5 - time.monotonic()))
        self._repairer.stop()
        self._ticker_thread.join(2.0)
        self._alarming.stop()
        self._heartbeats.stop()
        self._database.close()

    def _close_sockets(self):
        for server in self._servers:
            server.server_close()
        if self._pages is not None:
            self._pages.server_close()
        if self._heartbeats is not None:
            self._heartbeats.stop()


def _refuses(host, port):
    """Whether a host says that nobody listens there. Silence proves nothing: the heartbeats' clock decides."""
    try:
        socket.create_connection((host, port), PROBE_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def gate_of(settings, keyring, secret_for):
    """tls.Gate of the TCP ports, or None for plain ones alone. Raises BadSetting when it cannot be what it was told to be."""
    is_local = settings.tls == trust.AUTO and not settings.tls_cert and inherited.is_loopback(settings.host or "127.0.0.1")
    if settings.tls == trust.OFF or is_local:
        return None
    from dfs_lib.net import tls

    return tls.gate_of(settings, keyring.auth != "none", secret_for, lambda: settings.tls)


def listen(settings, service, make_talk, opened, gate):
    """Open a server on each of the ports, appended to `opened`; they begin when they are started. Raises BadSetting, UsageError."""
    host = settings.host or "127.0.0.1"
    inherited.refuse_insecure(settings, host)
    for port in settings.ports or DEFAULT_PORTS:
        try:
            opened.append(servers.Server((host, port), service, make_talk, limits=servers.limits_of(settings), gate=gate))
        except OSError as e:
            raise inherited.cannot_listen(e, host, f"port {port}", "host or ports", "ports") from e


def _make_private(directory):
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)
    except OSError as e:
        raise errors.LocalFileError(path=directory, detail=e.strerror or str(e)) from e


def run(settings, beside=None):
    """`dfs master`: serve until SIGTERM or SIGINT; the exit status.

    beside(facts of the ready line): starts what runs beside the master and gives it back, or None; it has `url` and `stop()`.
    """
    if not settings.data:
        raise errors.UsageError(detail="dfs master needs --data DIR, the directory that holds the catalog")
    _raise_descriptor_limit()
    # A handler must take no lock: the main thread may hold it, when a second signal comes on the heels of the first.
    stops = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stops.append(True))
    rebuilt = None
    if settings.rebuild:
        settings, rebuilt = rebuild(settings, lambda: bool(stops))
        if stops:
            return 0
        _keep_key(settings)
    master = Master(settings)
    master.start()
    if rebuilt is not None:
        master.announce(rebuilder.summary(rebuilt))
    if settings.insecure:
        log.warning(OPEN_TO_ALL)
    companion = beside(master.ready()) if beside is not None else None
    readiness.announce({**master.ready(), "web": companion and companion.url})
    if invitation := master.invitation():
        print(f"a keeper joins this cluster by this command, once, within 15 minutes (`dfs admin invite` prints another):\n  {invitation}",
              file=sys.stderr, flush=True)
    while not stops and not master.failed.wait(0.2):
        pass
    log.info("stopping")
    if companion is not None:
        companion.stop()
    master.stop()
    if master.failed.is_set():
        raise errors.CatalogFailed(path=settings.data, detail=master.why_failed())
    return 0


def _keep_key(settings):
    """After a rebuild: the key beside the new catalog, where the old start line, without --key-file, looks for it.

    Not before: an empty directory with the cluster's key would start as another cluster. A start that dies in between comes by here again.
    """
    path = os.path.join(os.path.abspath(settings.data), "cluster.key")
    if not settings.insecure and settings.key_file and not os.path.exists(path):
        keyfile.write(path, keyfile.load(settings.key_file))
        log.info("kept the cluster's key file=%s", path)


def rebuild(settings, stopping):
    """`--rebuild`: make a new catalog from the keepers, listening where the master will; (settings with its ports, report or None).

    The report is None when stopping() came true, or when a rebuild has given this directory its catalog already: so it may be started
    again, by a service manager too. Raises Refusal when the catalog there is another one.
    """
    directory = os.path.abspath(settings.data)
    _make_private(directory)
    if all(rebuilding.has_catalog(directory)):
        log.info("the catalog was rebuilt already: starting on it (see %s)", rebuilding.REPORT)
        return settings, None
    keyring = trust.Keyring.from_cluster_key(load_key(settings, directory))
    work, listening = rebuilder.Rebuilder(settings, directory, new_id=new_id), []

    def make_talk(port, nonce):
        return conversation.Server(secret_for, keyring.auth, "master", messages.NO_CLUSTER, port, nonce)

    def secret_for(role, identity):
        # Which users and join codes there are nobody knows now. Users get no further than to hear how far it is.
        return secrets.token_bytes(trust.KEY_SIZE) if role == trust.JOINER and keyring.auth != "none" else keyring.secret_for(role, identity)

    try:
        listen(settings, work.gathering, make_talk, listening, gate_of(settings, keyring, secret_for))
        ports = tuple(server.port for server in listening)
        for server in listening:
            server.start()
        log.warning("no catalog here: making a new one from what the keepers hold ports=%s data=%s", list(ports), directory)
        return settings.but(ports=ports), work.run(stopping)
    finally:
        for server in listening:
            server.stop(STOP_S)
        work.close()


def _raise_descriptor_limit():
    """A connection costs a descriptor: use all that the machine allows (F12)."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, OSError, ValueError):
        log.debug("the limit on open files stays as it is")
    sys.setswitchinterval(0.005)
