"""The page of a master: a gateway as a child process, so that it never slows the tracker; and the link that logs in.

The master's process opens the port and the child inherits it: the address is known before the child runs, stays while it is restarted,
and connections made meanwhile wait. A child that dies is started again after a growing pause; when we die it sees its standard input end.

The first child starts with the first connection, and after LATEST_S in any case: a cluster that is just starting needs the processors for
its keepers.

    port taken ──▶ one of the next ports, with a warning        no port at all ──▶ a warning: a master without a page is a master
"""

import logging
import os
import subprocess
import threading
import time

from dfs_lib import settings

log = logging.getLogger(__name__)

DEFAULT = ("127.0.0.1", 7080)
# How many ports are tried after one that is taken; and how long the first one is waited for: the page of a master that was killed a
# moment ago lets go of it within that.
NEXT_PORTS, HANDOVER_S = 20, 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0
# One that has lived so long was well: the next pause is the first one again.
WELL_AFTER_S = 60.0
LATEST_S = 3.0
STOP_S = 4.0


def listen(address):
    """A listening socket for the page at (host, port) or near it; None, with a warning in the log, when there is none to be had."""
    from dfs_lib import errors
    from dfs_lib.net import inherited

    host, port = address
    end_s = time.monotonic() + HANDOVER_S
    candidates = [port, *range(port + 1, min(port + 1 + NEXT_PORTS, 65536)), 0] if port else [0]
    for candidate in candidates:
        while True:
            try:
                sock = inherited.listen(host, candidate)
            except errors.BadSetting as e:
                if candidate == port and time.monotonic() < end_s:
                    time.sleep(0.02)
                    continue
                log.debug("no page at %s port %s: %s", host, candidate, e.facts.get("detail"))
                break
            if candidate != port:
                log.warning("port %s of %s is taken: the page is at port %s (--web names another, --web off none)", port, host, inherited.port_of(sock))
            return sock
    log.warning("no page: no port of %s can be listened on (--web ADDR:PORT names another address)", host)
    return None


def url(host, port, scheme="http"):
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


def login_link(address, key_file):
    """The address with the key behind a #, which browsers never send: the page takes it from there. The bare address without a key."""
    from dfs_lib import keyfile

    return address if key_file is None else f"{address}#key={keyfile.line(keyfile.load(key_file)).replace(' ', '+')}"


class Page:
    """The child under way. `start` when the master listens; `stop` leaves no process behind."""

    def __init__(self, sock, master_ports, master_host, key_words, command, scheme="http"):
        """key_words: ["--key-file", FILE] or ["--insecure"], and those of TLS; command: the program; scheme: what it will speak."""
        from dfs_lib.net import inherited

        self._scheme = scheme
        self._sock, self.host, self.port = sock, sock.getsockname()[0], inherited.port_of(sock)
        host = f"[{master_host}]" if ":" in master_host else master_host
        self._words = [*command, "gateway", "--master", ",".join(f"{host}:{port}" for port in master_ports), *key_words, "--config", os.devnull,
                       "--lifeline", "0", "--listen-fd", str(sock.fileno())]
        self._stopping = threading.Event()
        self._wake, self._woken = os.pipe()
        self._lock = threading.Lock()
        self._process = self._lifeline = None  # guarded by _lock
        self._thread = threading.Thread(target=self._keep, name="web", daemon=True)

    @property
    def url(self):
        return url(self.host, self.port, self._scheme)

    def start(self):
        self._thread.start()

    def _keep(self):
        """Start it again whenever it ends."""
        import select

        select.select([self._sock, self._wake], [], [], LATEST_S)
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                process = self._spawn()
            except OSError as e:
                log.warning("the page cannot be started: %s", e.strerror or e)
            else:
                if process is None:
                    return
                status = process.wait()
                if self._stopping.is_set():
                    return
                log.warning("the page has ended status=%s, next try in %s s", status, pause_s)
            if time.monotonic() - began_s > WELL_AFTER_S:
                pause_s = FIRST_PAUSE_S
            self._stopping.wait(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _spawn(self):
        from dfs_lib import local

        with self._lock:
            if self._stopping.is_set():
                return None
            self._close_lifeline()
            read_end, self._lifeline = os.pipe()
            try:
                # A group of its own: a Ctrl-C reaches the master alone, which stops it in its turn.
                self._process = subprocess.Popen(self._words, stdin=read_end, stdout=subprocess.DEVNULL, pass_fds=(self._sock.fileno(),),
                                                 env=local.program_environment())
            finally:
                os.close(read_end)
            return self._process

    def _close_lifeline(self):
        """Call with _lock held."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def stop(self):
        """SIGTERM by way of the lifeline; what has not ended in time is killed."""
        self._stopping.set()
        os.close(self._woken)  # its other end becomes readable
        with self._lock:
            self._close_lifeline()
            process = self._process
        if process is not None:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._thread.join(1.0)
        os.close(self._wake)
        self._sock.close()


def beside(own):
    """What `master.daemon.run` starts beside the master: a function of its ready facts that gives a started Page or None."""
    if own.web == settings.OFF or os.name != "posix":
        return None
    if own.insecure:
        from dfs_lib.net import inherited

        inherited.refuse_insecure(own, (own.web or DEFAULT)[0])

    def start(ready):
        from dfs_lib import local

        sock = listen(own.web or DEFAULT)
        if sock is None:
            return None
        key_words = ["--insecure"] * (1 + (own.insecure == settings.EVERYWHERE)) if own.insecure else ["--key-file", own.key_file or os.path.join(ready["data"], "cluster.key")]
        key_words += ["--tls", own.tls]
        if authority := own.tls_ca or own.tls_cert:  # a certificate that signs itself is its own authority
            key_words += ["--tls-ca", os.path.abspath(authority)]
        if own.tls_cert:
            key_words += ["--tls-cert", os.path.abspath(own.tls_cert)]
            key_words += ["--tls-key", os.path.abspath(own.tls_key)] if own.tls_key else []
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(own.host or "127.0.0.1", own.host or "127.0.0.1")
        page = Page(sock, ready["ports"], host, key_words, local.program(), "https" if own.tls_cert else "http")
        page.start()
        return page

    return start
