"""Which request goes where, and with whose key. The one table of what the gateway is.

    /files/…  files.py      /api/…  api.py, events.py      /metrics  telemetry.py      /healthz  /readyz      anything else  static.py
"""

from dfs_lib import errors
from dfs_lib.gateway import access, api, faults, files, http
from dfs_lib.records import record
from dfs_lib.wire import trust

# Settings of the gateway that requests meet. metrics: "open", or "key" when a scraper has to show one; is_local: without keys only names
# of this machine are answered.
Options = record("Options", "metrics is_local", defaults=(False,))


class App:
    """Routes one Exchange to its handler."""

    def __init__(self, clients, static, watch, events, telemetry, options, n_refused=lambda: 0):
        self._clients, self._static, self._watch, self._events = clients, static, watch, events
        self._telemetry, self._options, self._n_refused = telemetry, options, n_refused

    def handle(self, exchange):
        """Answer a request. Raises HttpError or one of our errors, which the server tells."""
        request = exchange.request
        if request.path == "*":
            if request.method != "OPTIONS":
                raise http.HttpError(400, "bad_request", "only OPTIONS may ask about *")
            return exchange.answer(204, [("Allow", "GET, HEAD, PUT, POST, DELETE, OPTIONS")])
        exchange.path, exchange.query = http.decode(request.path), http.parse_query(request.query)
        # Routed by the path as sent: %2e or %2f in it is part of a name, and never a way from one place to another.
        head, slash, rest = request.path[1:].partition("/")
        if head == "files":
            if not slash:
                return exchange.answer(301, [("Location", "/files/")])
            exchange.path = http.decode("/" + rest)
            return self._with_client(exchange, files.serve)
        if head == "api":
            return self._api(exchange, rest)
        plain = {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}.get(request.path)
        if plain is None:
            return self._static.serve(exchange)
        if request.method not in ("GET", "HEAD"):
            raise http.HttpError(405, "method", f"{request.method} is not done here", headers=[("Allow", "GET, HEAD")])
        plain(exchange)

    # -- whose key ----------------------------------------------------------------------------------------------------
    def _credentials(self, exchange):
        """trust.Credentials of whoever asks. Raises HttpError 401 or 403."""
        if self._clients.insecure:
            access.check_same_site(exchange, None)
            access.check_fetch_site(exchange)
            if self._options.is_local:
                access.check_own_name(exchange)
            return trust.client_credentials(None)
        try:
            given = access.given(exchange)
            if given is None:
                raise http.HttpError(401, "key_needed", "this needs a key: that of your key file", hint=access.HINT)
            access.check_same_site(exchange, given.way)
            return access.credentials(given.line)
        except http.HttpError as e:
            if e.status == 401:
                e.headers += self._challenge(exchange)
            raise

    @staticmethod
    def _challenge(exchange):
        """WWW-Authenticate: Basic, but not to our own page, where the browser would put its own question in front of ours."""
        is_page = exchange.header("x-dfs") is not None or exchange.header("sec-fetch-mode", "navigate") != "navigate"
        return [] if is_page or not exchange.request.path.startswith("/files") else [("WWW-Authenticate", 'Basic realm="dfs", charset="UTF-8"')]

    def _with_client(self, exchange, handler):
        own = self._credentials(exchange)
        try:
            with self._clients.of(own) as client:
                handler(exchange, client)
        except errors.BadKey as e:
            refused = faults.as_http(e)
            refused.headers += self._challenge(exchange)
            raise refused from e

    # -- interfaces ---------------------------------------------------------------------------------------------------
    def _api(self, exchange, name):
        method = exchange.request.method
        if name == "session" and method == "POST" and not self._clients.insecure:
            access.check_same_site(exchange, None)
            access.check_fetch_site(exchange)
            return api.begin_session(exchange, self._clients)
        if name == "session" and method in ("GET", "HEAD") and exchange.query.get("optional") == "1" and not self._clients.insecure \
                and access.given(exchange) is None:
            return exchange.answer_json(200, {"auth": "hmac", "user": None, "role": None, "home": None})  # a page asks whether it has to ask
        if name == "session" and method == "DELETE":
            access.check_same_site(exchange, "cookie")
            return api.end_session(exchange)
        if name == "events" and method in ("GET", "HEAD"):
            return self._with_client(exchange, self._events.serve)
        if name == "throughput" and method in ("GET", "HEAD"):
            return self._with_client(exchange, self._throughput)
        methods = api.ROUTES.get(name)
        if methods is None:
            raise http.HttpError(404, "not_found", "there is no such question below /api/")
        handler = methods.get("GET" if method == "HEAD" else method) or (methods.get("GET") if method == "POST" and name == "session" else None)
        if handler is None:
            allowed = ", ".join(methods)
            raise http.HttpError(405, "method", f"{method} is not done here", headers=[("Allow", allowed)])
        self._with_client(exchange, handler)

    def _throughput(self, exchange, client):
        client.ask_identity()  # whoever may look at all
        exchange.answer_json(200, self._watch.throughput(client))

    # -- monitoring ---------------------------------------------------------------------------------------------------
    def _metrics(self, exchange):
        if self._options.metrics == "key":
            return self._with_client(exchange, lambda exchange, client: (client.ask_identity(), self._send_metrics(exchange)))
        self._send_metrics(exchange)

    def _send_metrics(self, exchange):
        from dfs_lib import metrics

        text = self._telemetry.text(self._n_refused(), self._watch.status)
        exchange.answer(200, [("Content-Type", metrics.CONTENT_TYPE), ("Cache-Control", "no-store")], text.encode())

    @staticmethod
    def _healthz(exchange):
        exchange.answer_json(200, {"status": "ok"})

    def _readyz(self, exchange):
        """Whether a master can be reached: with the gateway's own key if it has one, else by its greeting alone."""
        problem = self._clients.probe()
        if problem is None:
            return exchange.answer_json(200, {"status": "ok"})
        exchange.answer_json(503, {"error": problem.code, "message": "the master cannot be reached"}, [("Retry-After", "2")])
