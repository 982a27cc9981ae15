"""The gateway's process: opens its port, starts its threads, stops them. It decides nothing.

Threads: one that listens, one a connection, one that watches the cluster. Order of the start: listen, watch, say ready: the master need
not be there yet. Order of the stop: stop listening, end the streams of events, let requests under way end for STOP_S, close the clients.
"""

import logging
import os
import signal
import threading
import time

from dfs_lib import errors, keyfile
from dfs_lib.client import api as client_api
from dfs_lib.gateway import access, app, events, server, static, telemetry, watch
from dfs_lib.net import foreign, inherited, readiness
from dfs_lib.settings import EVERYWHERE
from dfs_lib.wire import trust

log = logging.getLogger(__name__)

DEFAULT_LISTEN = ("127.0.0.1", 7080)
# Within the 5 s that SIGTERM allows.
STOP_S = 2.5


def own_credentials(settings):
    """The gateway's own trust.Credentials, for status and metrics; None when it was given no key. Raises BadKeyFile."""
    if settings.insecure:
        return trust.client_credentials(None)
    if not settings.key_file:
        return None
    key = keyfile.load(settings.key_file)
    if key.kind not in (keyfile.CLUSTER, keyfile.USER):
        raise errors.BadKeyFile(path=settings.key_file, detail="it holds a keeper's keys, and a gateway needs the cluster's or a user's")
    return access.credentials(keyfile.line(key))


def encryption_of(settings):
    """The tls.Certificate that browsers are shown; None: plain HTTP. Raises BadSetting, BadKeyFile."""
    if not settings.tls_cert:
        return None
    from dfs_lib.net import tls  # ssl takes 15 ms

    return tls.Certificate(settings.tls_cert, settings.tls_key)


class Gateway:
    """A running gateway. `start` returns when it listens; `stop` when nothing of it is left."""

    def __init__(self, settings, listen_fd=None):
        """listen_fd: a listening socket that somebody else has opened, in place of settings.listen."""
        self._settings, self._listen_fd = settings, listen_fd

    def start(self):
        settings = self._settings
        own, encryption = own_credentials(settings), encryption_of(settings)
        if self._listen_fd is None:
            self._listener = inherited.listen(*(settings.listen or DEFAULT_LISTEN), "listen")
        else:
            self._listener = inherited.adopt(self._listen_fd)
        inherited.refuse_insecure(settings, inherited.host_of(self._listener))
        self.host, self.port = inherited.host_of(self._listener), inherited.port_of(self._listener)
        self._telemetry = telemetry.Telemetry()
        self._clients = access.Clients(tuple(settings.master), settings, settings.insecure, make=client_api.Client)
        self._watch = watch.Watch(time.monotonic, time.time)
        happenings = events.Events(self._watch, self._telemetry, time.monotonic)
        # Who says --insecure twice may go by any name, behind a proxy too.
        is_local = settings.insecure != EVERYWHERE and inherited.is_loopback(self.host)
        routes = app.App(self._clients, static.Static(), self._watch, happenings, self._telemetry, app.Options(settings.metrics, is_local),
                         n_refused=lambda: self._server.n_refused)
        limits = foreign.limits(settings.max_connections, settings.max_connections_host, settings.handshake_timeout, settings.idle_timeout)
        service = server.Service(routes.handle, self._telemetry, idle_s=min(settings.idle_timeout, 60.0), first_s=limits.handshake_s)
        self._server = foreign.ForeignServer(self._listener, service, limits, encryption)
        self._own_client = None if own is None else client_api.Client(tuple(settings.master), settings, own, settings.insecure)
        self._clients.use_to_probe(self._own_client)
        self._watch.start(self._own_client)
        self._server.start()

    @property
    def url(self):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http{'s' if self._settings.tls_cert else ''}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def ready(self):
        """The facts of the line that says ready."""
        return {"event": "ready", "role": "gateway", "pid": os.getpid(), "ports": [self.port], "url": self.url}

    def stop(self):
        stopping = threading.Thread(target=self._server.stop, args=(STOP_S,), name="stop")
        self._watch.stop()  # first: the streams of events end by themselves
        stopping.start()
        stopping.join(STOP_S + 1.5)
        self._clients.close()
        if self._own_client is not None:
            self._own_client.close()


def run(settings, listen_fd=None):
    """`dfs gateway`: serve until SIGTERM or SIGINT; the exit status."""
    # A handler must take no lock: the main thread may hold it, when a second signal comes on the heels of the first.
    stops = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stops.append(True))
    inherited.raise_file_limit()
    gateway = Gateway(settings, listen_fd)
    gateway.start()
    if settings.insecure and gateway.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("authentication is off (--insecure): whoever reaches %s can read and delete everything", gateway.url)
    readiness.announce(gateway.ready())
    while not stops:
        time.sleep(0.2)  # ended by the signal itself
    log.info("stopping")
    gateway.stop()
    return 0
