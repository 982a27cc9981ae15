"""A tiny HTTP answerer for monitors: GET and HEAD of a few fixed pages, such as /metrics, /healthz and /readyz.

Never reads a body, keeps a connection or knows what a page says: a function does. Each connection has one deadline for its question
and one for the answer, and there are few at once, so that slow or half-open clients cost a daemon nothing that it needs.

    GET /metrics HTTP/1.1 ──▶ pages["/metrics"]() → (status, content type, text) ──▶ HTTP/1.1 200 OK … and the end of the connection
"""

import logging
import socketserver
import threading
import time

log = logging.getLogger(__name__)

# Connections at once; a monitor needs one or two.
MAX_CONNECTIONS = 16
MAX_HEAD = 8 << 10
# Seconds for a whole request head to arrive, however it trickles, and for the whole answer to be taken.
HEAD_S, ANSWER_S = 5.0, 10.0
PLAIN = "text/plain; charset=utf-8"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Request Header Fields Too Large",
            500: "Internal Server Error", 503: "Service Unavailable"}


class PageServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves `pages` on a socket that listens already (net.inherited.listen), a thread a connection.

    pages: {path: function → (status, content type, text)}; a function that fails is a bug, logged, and answered with 500.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, sock, pages):
        self._pages, self._listening = pages, sock
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._thread = None
        self.n_refused = 0
        self.address_family = sock.family
        super().__init__(sock.getsockname()[:2], None)
        self.port = sock.getsockname()[1]

    def server_bind(self):
        self.socket.close()  # the unbound one that TCPServer has just made
        self.socket = self._listening
        self.server_address = self.socket.getsockname()

    def server_activate(self):
        """It listens already."""

    def get_request(self):
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.05)  # out of descriptors: the backlog stays readable, so without a pause this loop would spin (F12)
            raise

    def process_request(self, request, client_address):
        if not self._slots.acquire(blocking=False):
            self.n_refused += 1
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def finish_request(self, request, client_address):
        try:
            head = _head(request)
            if head is not None:
                request.settimeout(ANSWER_S)
                request.sendall(self._answer(head))
        except OSError as e:  # it went away, or is too slow: nothing of ours depends on it
            log.debug("monitor's connection ended peer=%s reason=%s", client_address[0], e)

    def _answer(self, head):
        """The bytes of the whole answer to a request's head (None: it was too long)."""
        method, path = _asked(head)
        if method is None:
            status, kind, text = 400, PLAIN, "this is no HTTP request\n"
        elif len(head) > MAX_HEAD:
            status, kind, text = 431, PLAIN, "the request's head is too long\n"
        elif method not in ("GET", "HEAD"):
            status, kind, text = 405, PLAIN, "only GET and HEAD\n"
        elif path not in self._pages:
            status, kind, text = 404, PLAIN, "there are: " + " ".join(self._pages) + "\n"
        else:
            try:
                status, kind, text = self._pages[path]()
            except Exception:
                log.exception("bug in page %s", path)
                status, kind, text = 500, PLAIN, "this is a bug in dfs; the log has more\n"
        body = text.encode()
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Type: {kind}", f"Content-Length: {len(body)}",
                 "Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Connection: close"]
        if status == 405:
            lines.append("Allow: GET, HEAD")
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)

    def handle_error(self, request, client_address):
        log.exception("bug while serving a monitor peer=%s", client_address[0])

    # -- life -----------------------------------------------------------------------------------------------------------
    def start(self):
        """Accept in a thread of its own."""
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.2}, name="pages", daemon=True)
        self._thread.start()

    def stop(self):
        """Stop accepting. Answers under way are short, and end with the process."""
        if self._thread is not None:
            self.shutdown()
        self.server_close()


def _head(request):
    """A request's bytes up to the empty line (or more than MAX_HEAD of them), None when it ends before. Raises OSError (too slow)."""
    end_s, head = time.monotonic() + HEAD_S, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= MAX_HEAD:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request did not come in time")
        request.settimeout(left_s)
        more = request.recv(4096)
        if not more:
            return None
        head += more
    return head


def _asked(head):
    """(method, path without its query) of a request's head; (None, "") when it is none."""
    words = head.split(b"\n", 1)[0].strip().split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return None, ""
    return words[0].decode("latin-1"), words[1].decode("latin-1").partition("?")[0]


def text_page(say):
    """A page from say() → (whether all is well, sentence): 200 or 503 and the sentence."""
    def page():
        is_well, sentence = say()
        return (200 if is_well else 503), PLAIN, sentence + "\n"
    return page
