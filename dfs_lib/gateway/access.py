"""Who asks: the key that a request comes with, the one place that refuses changes from other sites, and the client for each key.

Never stores a key: it lives in the requests, and in the clients of the moment. What a key may do, the master decides.
"""

import base64
import binascii
import ipaddress
import threading
from collections import OrderedDict

from dfs_lib import errors, keyfile
from dfs_lib.client import api
from dfs_lib.gateway import http
from dfs_lib.records import record
from dfs_lib.wire import messages, trust

# Clients of so many keys are kept ready; each holds a few connections.
MAX_CLIENTS = 64
HINT = "the page takes the line of a key file; curl takes it as -u :KEYLINE"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

# line: the key's line of text; way: cookie, bearer or basic.
Given = record("Given", "line way")


def given(exchange):
    """What the request says about who asks: a Given, or None. Raises HttpError for what is no way of saying it."""
    authorization = exchange.header("authorization")
    if authorization is not None:
        kind, _, rest = authorization.strip().partition(" ")
        if kind.lower() == "bearer":
            return Given(plain(rest), "bearer")
        if kind.lower() == "basic":
            return Given(plain(_basic_password(rest)), "basic")
        raise http.HttpError(401, "bad_key", "Authorization is either Bearer or Basic, with a key's line as token or password", hint=HINT)
    line = http.cookies(exchange.header("cookie")).get(cookie_name(exchange))
    return Given(plain(line), "cookie") if line else None


def cookie_name(exchange):
    """The name of our cookie. A browser keeps cookies by host alone, so the port it dialled is in the name: two gateways on one host, or at the
    ends of two tunnels, do not end each other's sessions."""
    port = exchange.header("host", "").rpartition("]")[2].partition(":")[2].strip()
    return f"dfs_key_{port}" if port.isascii() and port.isdigit() and len(port) <= 5 else "dfs_key"


def plain(text):
    """A key's line with spaces, of one whose spaces are written as +."""
    return text.strip().replace("+", " ")


def _basic_password(text):
    try:
        decoded = base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, ValueError) as e:
        raise http.HttpError(401, "bad_key", "Basic is not user:password in base64", hint=HINT) from e
    return decoded.partition(":")[2]


def credentials(line):
    """trust.Credentials of a key's line. Raises HttpError 401 when it is none."""
    key = keyfile.parse(line)
    if key is None or key.kind not in (keyfile.USER, keyfile.CLUSTER):
        raise http.HttpError(401, "bad_key", "this is no key: it is the one line of a key file, `dfs-user-key-1 …` or `dfs-cluster-key-1 …`", hint=HINT)
    if key.kind == keyfile.CLUSTER:
        return trust.client_credentials(key.key)
    return trust.Credentials("client", key.identity, key.key, "hmac")


def check_same_site(exchange, way):
    """Refuse a change that another site's page has sent with our cookie: a page of ours says X-Dfs, which other sites cannot make a browser
    send without asking us first. Raises HttpError 403."""
    if exchange.request.method in SAFE_METHODS:
        return
    origin, host = exchange.header("origin"), exchange.header("host", "")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise http.HttpError(403, "cross_site", "a page of another site may not change anything here")
    if way == "cookie" and exchange.header("x-dfs") != "1":
        raise http.HttpError(403, "cross_site", "a change that comes with the cookie needs the header X-Dfs: 1")


def check_fetch_site(exchange):
    """Without keys nothing but the browser's own word tells our page from another site's: refuse changes that it calls foreign."""
    if exchange.request.method not in SAFE_METHODS and exchange.header("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise http.HttpError(403, "cross_site", "a page of another site may not change anything here")


def check_own_name(exchange):
    """Without keys, on loopback: refuse a request under a foreign name. To a browser a page of evil.example is one of ours as soon as its
    owner has that name mean 127.0.0.1 (DNS rebinding), and none of the checks above sees it. Raises HttpError 403."""
    host = (exchange.header("host") or "localhost").strip().lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        is_own = name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        is_own = False
    if not is_own:
        raise http.HttpError(403, "cross_site", "without keys this is for localhost and 127.0.0.1 alone, and not under another name")


# Somebody without a right key: a master that is there refuses it, and that is what we want to know.
_NOBODY = trust.Credentials("client", trust.ADMIN, bytes(trust.KEY_SIZE), "hmac")


def _problem(client):
    try:
        client.ask(messages.Ping())
    except errors.BadKey:
        return None
    except errors.DfsError as e:
        return e
    return None


class Clients:
    """A connected client for each key, for many threads: `with clients.of(credentials) as client`. The least lately used ones are closed."""

    def __init__(self, addresses, settings, insecure, most=MAX_CLIENTS, make=api.Client):
        self._addresses, self._settings, self.insecure, self._most, self._make = addresses, settings, insecure, most, make
        self._lock = threading.Lock()
        self._kept = OrderedDict()  # guarded by _lock: credentials → _Kept, the least lately used first
        self._is_closed, self._prober = False, None

    def of(self, own):
        """The client of these trust.Credentials for the length of a `with`."""
        with self._lock:
            if self._is_closed:
                raise errors.Busy(address="this gateway", detail="it is stopping")
            kept = self._kept.get(own)
            if kept is None:
                kept = self._kept[own] = _Kept(self, own, self._make(self._addresses, self._settings, own, self.insecure))
            kept.n_users += 1
            self._kept.move_to_end(own)
            doomed = self._surplus()
        for each in doomed:
            each.client.close()
        return kept

    def use_to_probe(self, client):
        """The client that `probe` asks with; None: without a key."""
        self._prober = client

    def probe(self):
        """None when a master answers, else the error. Without a key of our own, its refusing ours is an answer."""
        if self._prober is not None:
            return _problem(self._prober)
        client = self._make(self._addresses, self._settings, _NOBODY, False)
        try:
            return _problem(client)
        finally:
            client.close()

    def _surplus(self):
        """Idle clients beyond the limit, taken out. Call with _lock held."""
        doomed = []
        for own in list(self._kept):
            if len(self._kept) <= self._most:
                break
            if not self._kept[own].n_users:
                doomed.append(self._kept.pop(own))
        return doomed

    def done(self, kept, error):
        with self._lock:
            kept.n_users -= 1
            # A key that opens nothing is not worth a place that a good one may need.
            is_useless = not kept.n_users and (isinstance(error, errors.BadKey) or self._is_closed)
            doomed = [kept] if is_useless else self._surplus()
            if is_useless:
                self._kept.pop(kept.credentials, None)
        for each in doomed:
            each.client.close()

    def close(self):
        """Close all; requests under way fail."""
        with self._lock:
            self._is_closed = True
            doomed = list(self._kept.values())
            self._kept.clear()
        for kept in doomed:
            kept.client.close()


class _Kept:
    def __init__(self, clients, own, client):
        self._clients, self.credentials, self.client, self.n_users = clients, own, client, 0

    def __enter__(self):
        return self.client

    def __exit__(self, kind, error, trace):
        self._clients.done(self, error)
