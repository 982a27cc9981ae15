"""One request and its answer over one connection: the body in, the head and body out, and whether another request may follow.

Never knows what is asked for. A body is read as it comes (`body.readinto`), an answer is written as it is made; head and first bytes
leave in one system call, or Nagle and delayed acknowledgements would cost 44 ms an answer.
"""

import json

from dfs_lib import errors
from dfs_lib.gateway import http
from dfs_lib.net import foreign

# What comes with every answer; a handler may say otherwise.
SECURITY = (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"), ("X-Frame-Options", "DENY"))
# Read and thrown away to save a connection whose request was refused before its body; more is not worth it.
DRAIN_MOST = 1 << 20
SCRATCH = 1 << 16


class Body:
    """The body of one request as a raw binary file: `readinto` until 0. A body that ends early raises Departed, never 0."""

    def __init__(self, connection, early, request):
        """early: bytearray of what was read behind the head; what is left of it after the body belongs to the next request."""
        self._connection, self._early = connection, early
        self._left = request.length
        self._chunked = http.Chunked() if request.length is None else None
        self._kept = memoryview(b"")  # decoded and not yet handed out
        self._expected = request.expects  # 100 Continue not yet said
        self.length = request.length
        self.n_read = 0

    @property
    def is_done(self):
        return self._left == 0 if self._chunked is None else self._chunked.is_done and not self._kept

    def go_on(self):
        """Say 100 Continue when the client waits for it: from now on it sends."""
        if self._expected:
            self._expected = False
            self._connection.send(http.CONTINUE)

    @property
    def is_awaited(self):
        """Whether the client has not begun to send it, because we have not said 100 Continue."""
        return self._expected

    def readinto(self, view):
        """Bytes of the body into a memoryview; 0 when it has ended as it said it would."""
        if self.is_done:
            return 0
        self.go_on()
        n = self._sized(view) if self._chunked is None else self._from_chunks(view)
        self.n_read += n
        return n

    def _sized(self, view):
        view = view[:self._left]
        if self._early:
            n = min(len(view), len(self._early))
            view[:n] = self._early[:n]
            del self._early[:n]
        else:
            n = self._connection.receive_into(view)
            if not n:
                raise self._cut()
        self._left -= n
        return n

    def _from_chunks(self, view):
        """Fills the view straight from the socket in the middle of a chunk is not worth it: a chunk is small, and a copy cheap."""
        while not self._kept:
            if self._chunked.is_done:
                return 0
            if not self._early:
                scratch = memoryview(bytearray(SCRATCH))
                n = self._connection.receive_into(scratch)
                if not n:
                    raise self._cut()
                self._early += scratch[:n]
            consumed, body = self._chunked.feed(memoryview(bytes(self._early)))
            del self._early[:consumed]
            self._kept = body
        n = min(len(view), len(self._kept))
        view[:n] = self._kept[:n]
        self._kept = self._kept[n:]
        return n

    def _cut(self):
        return foreign.Departed(f"{self._connection.address} left in the middle of a request's body")

    def read_all(self, most):
        """The whole body as bytes. Raises HttpError when it has more than `most`."""
        if self.length is not None and self.length > most:
            raise http.HttpError(413, "too_large", f"the body may have {most} bytes")
        found, view = bytearray(), memoryview(bytearray(min(most + 1, SCRATCH)))
        while n := self.readinto(view):
            found += view[:n]
            if len(found) > most:
                raise http.HttpError(413, "too_large", f"the body may have {most} bytes", fatal=True)
        return bytes(found)

    def drain(self):
        """Read away what is left; False when that is not worth it and the connection has to end."""
        if self._expected:
            return False  # it may send the body or not: nobody can know where the next request starts
        if self._left is not None and self._left > DRAIN_MOST:
            return False
        view, n_read = memoryview(bytearray(SCRATCH)), 0
        try:
            while n := self.readinto(view):
                n_read += n
                if n_read > DRAIN_MOST:
                    return False
        except http.HttpError:
            return False
        return True


class Exchange:
    """What a handler is given: `request`, `body`, and ways to answer. Exactly one answer; a second one is a bug."""

    def __init__(self, request, body, connection, now):
        self.request, self.body, self._connection, self._now = request, body, connection, now
        self.status, self.n_sent = None, 0
        self.keeps = request.keeps
        self._head, self._left, self._is_chunked = b"", 0, False
        self.has_body = request.method != "HEAD"
        self.path = self.query = None  # decoded, once the router has looked

    def header(self, name, default=None):
        return self.request.headers.get(name, default)

    @property
    def peer(self):
        return self._connection.address

    @property
    def is_encrypted(self):
        return self._connection.is_encrypted

    # -- answers ------------------------------------------------------------------------------------------------------
    def answer(self, status, headers=(), body=b""):
        """A whole answer."""
        self.begin(status, headers, len(body))
        if body and self.has_body:
            self.write(body)
        self.end()

    def answer_json(self, status, value, headers=()):
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
        self.answer(status, [("Content-Type", "application/json; charset=utf-8"), ("Cache-Control", "no-store"), *headers], body)

    def answer_error(self, error):
        """An HttpError as JSON, for programs and people alike."""
        if error.fatal or error.status in (400, 408, 413) and not self.body.is_done:
            self.keeps = False
        self.answer_json(error.status, {"error": error.code, "message": error.message, **error.facts}, error.headers)

    def begin(self, status, headers, length):
        """The head of an answer. length: bytes of the body, None when it is not known: then it goes in chunks."""
        if self.status is not None:
            raise errors.Misuse(detail=f"a second answer ({status}) after {self.status}")
        self.status = status
        if not self.body.is_done and (self.body.is_awaited or not self.body.drain()):
            self.keeps = False
        names = {name.lower() for name, _value in headers}
        lines = [("Date", http.date_text(self._now())), ("Server", "dfs"), *(pair for pair in SECURITY if pair[0].lower() not in names), *headers]
        if length is not None:
            if status not in (204, 304):
                lines.append(("Content-Length", length))
            self._left = length
        elif self.request.version == (1, 1):
            lines.append(("Transfer-Encoding", "chunked"))
            self._is_chunked = True
        else:
            self.keeps = False  # the end of the connection is the end of the answer
            self._left = None
        lines.append(("Connection", "keep-alive" if self.keeps else "close"))
        self._head = http.head(status, lines)

    def write(self, *parts):
        """Bytes-like pieces of the body."""
        size = sum(map(len, parts))
        if not size:
            return
        if not self._is_chunked and self._left is not None:
            if size > self._left:
                raise errors.Misuse(detail="more body than the head says")
            self._left -= size
        head, self._head = self._head, b""
        if not self.has_body:
            self._connection.send(head)
        elif self._is_chunked:
            self._connection.send(head, http.chunk_head(size), *parts, b"\r\n")
        else:
            self._connection.send(head, *parts)
        self.n_sent += size

    def flush(self):
        """The head at once, before there is a body."""
        head, self._head = self._head, b""
        self._connection.send(head)

    def end(self):
        """The answer is whole."""
        tail = http.LAST_CHUNK if self._is_chunked and self.has_body else b""
        head, self._head = self._head, b""
        if head or tail:
            self._connection.send(head, tail)
        if self._left and self.has_body:
            raise errors.Misuse(detail=f"{self._left} bytes of the body are missing")

    def without_limit(self):
        """From here on the answer may go out as slowly as it likes (events)."""
        self._connection.begin(0)
