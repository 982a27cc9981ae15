"""HTTP/1.1 as bytes: heads of requests parsed strictly, heads of answers written, bodies decoded. No socket, clock or file.

What two programs in a row could read differently is refused and never guessed (RFC 9112, sections 5, 6 and 11.2): a folded line, a
space before a colon, a bare CR or LF, NUL, a length twice or beside Transfer-Encoding, an encoding other than `chunked`.
"""

from dfs_lib.records import record

# One line of a request: the longest path that we store, each of its 4,096 bytes percent-encoded, and a query as long; a header: a key.
MAX_LINE, MAX_HEAD, MAX_HEADERS = 32 << 10, 64 << 10, 100
# A chunk's size line with what follows a `;`, and the trailer after the last one.
MAX_CHUNK_LINE, MAX_TRAILER = 256, 8 << 10
MAX_LENGTH = 1 << 50

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS, _HEX = frozenset("0123456789"), frozenset("0123456789abcdefABCDEF")
_REASONS = {
    100: "Continue", 200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently", 303: "See Other",
    304: "Not Modified", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large", 414: "URI Too Long",
    416: "Range Not Satisfiable", 417: "Expectation Failed", 422: "Unprocessable Content", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 507: "Insufficient Storage"}

# method; path: percent-encoded, as sent, without the query; query: text after `?`; headers: {lower-case name: text, several joined by ", "};
# version: (1, 1) or (1, 0); length: bytes of the body, None when it is chunked; keeps: whether another request may follow; expects: the
# client waits for 100 before it sends the body.
Request = record("Request", "method path query headers version length keeps expects")


class HttpError(Exception):
    """A request that gets this status. code: a word as errors have it; fatal: the connection cannot go on."""

    def __init__(self, status, code, message, fatal=False, headers=(), **facts):
        super().__init__(message)
        self.status, self.code, self.message, self.fatal = status, code, message, fatal
        self.headers, self.facts = list(headers), facts


def bad(message, status=400, code="bad_request"):
    """A request that is broken so that where it ends is not known: the connection ends with the answer."""
    return HttpError(status, code, message, fatal=True)


# -- requests ---------------------------------------------------------------------------------------------------------
def head_end(data):
    """Where the head in `data` (bytearray) ends, after its empty line; -1 while it is not all there. Raises HttpError when it grows too long."""
    end = data.find(b"\r\n\r\n")
    if end >= 0 and end + 4 <= MAX_HEAD:
        return end + 4
    if len(data) >= MAX_HEAD or end >= 0:
        first = data.find(b"\r\n")
        if first < 0 or first > MAX_LINE:
            raise bad("the request line is too long", 414, "uri_too_long")
        raise bad("the headers are too long", 431, "headers_too_long")
    bare = data.find(b"\n")
    if bare >= 0 and (bare == 0 or data[bare - 1] != 13):
        raise bad("a line ends without CR")
    return -1


def parse_head(data):
    """The Request in the bytes of a head, its empty line included. Raises HttpError."""
    if b"\0" in data:
        raise bad("there is a NUL in the head")
    lines = bytes(data[:-4]).split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise bad("there is a bare CR or LF in the head")
    if len(lines[0]) > MAX_LINE:
        raise bad("the request line is too long", 414, "uri_too_long")
    method, target, version = _request_line(lines[0])
    headers = _headers(lines[1:])
    if version == (1, 1) and "host" not in headers:
        raise bad("HTTP/1.1 needs a Host header")
    path, query = _split_target(target)
    length = _length(headers, version)
    connection = [word.strip().lower() for word in headers.get("connection", "").split(",")]
    keeps = "close" not in connection and (version == (1, 1) or "keep-alive" in connection)
    return Request(method, path, query, headers, version, length, keeps, _expects(headers, version, length))


def _request_line(line):
    words = line.split(b" ")
    if len(words) != 3 or not words[0] or not _TOKEN.issuperset(words[0]) or not words[1]:
        raise bad("the request line is not METHOD TARGET VERSION")
    if words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        if words[2].startswith(b"HTTP/") and len(words[2]) == 8:
            raise bad("only HTTP/1.1 and HTTP/1.0 are spoken here", 505, "http_version")
        raise bad("the request line is not METHOD TARGET VERSION")
    if any(byte <= 32 or byte >= 127 for byte in words[1]):
        raise bad("the target holds a character that has to be percent-encoded")
    return words[0].decode(), words[1].decode(), (1, 1) if words[2][-1:] == b"1" else (1, 0)


def _headers(lines):
    if len(lines) > MAX_HEADERS:
        raise bad("too many headers", 431, "headers_too_long")
    headers = {}
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            raise bad("a header is folded over two lines")
        if len(line) > MAX_LINE:
            raise bad("a header is too long", 431, "headers_too_long")
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise bad("a header is not NAME: VALUE")
        value = value.strip(b" \t")
        if any(byte < 32 and byte != 9 or byte == 127 for byte in value):
            raise bad("a header holds a control character")
        name, value = name.decode().lower(), value.decode("latin-1")
        if name in headers:
            if name in ("content-length", "transfer-encoding", "host", "content-range", "authorization", "range", "if-range"):
                raise bad(f"{name} stands there twice")
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers


def _split_target(target):
    """(path, query) of a target in origin form, or in the absolute form that proxies use."""
    if target.startswith(("http://", "https://")):
        _scheme, _, rest = target.partition("://")
        _host, slash, rest = rest.partition("/")
        target = "/" + rest if slash else "/"
    if target == "*":
        return "*", ""
    if not target.startswith("/"):
        raise bad("the target does not start with /")
    if "#" in target:
        raise bad("the target holds a fragment")
    path, _, query = target.partition("?")
    return path, query


def _length(headers, version):
    length, encoding = headers.get("content-length"), headers.get("transfer-encoding")
    if encoding is not None:
        if length is not None:
            raise bad("Content-Length and Transfer-Encoding exclude each other")
        if version != (1, 1):
            raise bad("Transfer-Encoding needs HTTP/1.1")
        # As it stands: spaces and tabs around it are gone, and what else Python calls a space the next program may not.
        if encoding.lower() != "chunked":
            raise bad("of transfer encodings only chunked is understood", 501, "not_implemented")
        return None
    if length is None:
        return 0
    if not length or not _DIGITS.issuperset(length) or len(length) > 19:
        raise bad("Content-Length is not a number")
    if int(length) > MAX_LENGTH:
        raise bad("the body is too large", 413, "too_large")
    return int(length)


def _expects(headers, version, length):
    expect = headers.get("expect")
    if expect is None:
        return False
    if expect.lower() != "100-continue":
        raise bad("only 100-continue may be expected", 417, "expectation")
    return version == (1, 1) and length != 0


# -- the parts of a target --------------------------------------------------------------------------------------------
def decode(text):
    """Percent-decoded once, as UTF-8. Raises HttpError for a broken escape and bytes that are not UTF-8. What is no name, such as one
    with a NUL in it, model.clean_path refuses."""
    if "%" not in text:
        return text
    pieces = text.split("%")
    found = bytearray(pieces[0].encode())
    for piece in pieces[1:]:
        if len(piece) < 2 or not _HEX.issuperset(piece[:2]):
            raise HttpError(400, "bad_name", "a % stands there without two hex digits")
        found.append(int(piece[:2], 16))
        found += piece[2:].encode()
    try:
        return found.decode()
    except UnicodeDecodeError as e:
        raise HttpError(400, "bad_name", "the name is not UTF-8") from e


_PLAIN = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~/")


def encode(path):
    """A stored path as it stands in a target."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in path.encode())


def parse_query(text):
    """{name: value} of a query; of a name given twice the last one counts. Raises HttpError."""
    found = {}
    for part in text.split("&") if text else ():
        name, _, value = part.replace("+", " ").partition("=")
        if name:
            found[decode(name)] = decode(value)
    return found


def cookies(header):
    """{name: value} of a Cookie header; of a name that comes twice the first one counts."""
    found = {}
    for part in (header or "").split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and name not in found:
            found[name] = value.strip('"')
    return found


# -- bodies -----------------------------------------------------------------------------------------------------------
class Chunked:
    """Decoder of a chunked body.

        data = decoder.feed(view)   consumes from the front of a memoryview: (bytes consumed, stretch of the view that is body)
    """

    _SIZE, _DATA, _AFTER, _TRAILER = range(4)

    def __init__(self):
        self._state, self._left, self._line, self._n_trailer = self._SIZE, 0, bytearray(), 0
        self.is_done = False

    def feed(self, view):
        """(consumed, body): how many bytes of the view are dealt with, and the memoryview of those of them that are body, maybe empty."""
        at, none = 0, view[:0]
        while at < len(view) and not self.is_done:
            if self._state == self._DATA:
                n = min(self._left, len(view) - at)
                self._left -= n
                if not self._left:
                    self._state = self._AFTER
                return at + n, view[at:at + n]
            at += 1
            self._line.append(view[at - 1])
            if view[at - 1] == 10:
                self._end_line()
            elif len(self._line) > (MAX_TRAILER if self._state == self._TRAILER else MAX_CHUNK_LINE):
                raise bad("a line between chunks is too long")
        return at, none

    def _end_line(self):
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise bad("a line between chunks does not end in CRLF")
        line = line[:-2]
        if self._state == self._AFTER:
            if line:
                raise bad("a chunk is longer than it says")
            self._state = self._SIZE
        elif self._state == self._SIZE:
            digits = line.partition(b";")[0].rstrip(b" \t").decode("latin-1")
            if not digits or not _HEX.issuperset(digits) or len(digits) > 13:
                raise bad("a chunk's size is not a number")
            self._left = int(digits, 16)
            self._state = self._DATA if self._left else self._TRAILER
        else:
            self._n_trailer += len(line) + 2
            if self._n_trailer > MAX_TRAILER:
                raise bad("the trailer is too long")
            self.is_done = not line


# -- answers ----------------------------------------------------------------------------------------------------------
def head(status, headers):
    """The head of an answer as bytes. headers: (name, text) pairs; what could break a line is a bug, refused loudly."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
    for name, value in headers:
        value = str(value)
        if "\r" in value or "\n" in value or "\0" in value:
            raise ValueError(f"the header {name} holds a line break")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk_head(size):
    return b"%x\r\n" % size


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date_text(at):
    """Unix seconds as HTTP writes them; whole seconds, years 1 to 9999."""
    import time

    t = time.gmtime(min(max(int(at), 0), 253402300799))
    return f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"


def parse_date(text):
    """Unix seconds of a date as `date_text` writes it; None for any other text."""
    import calendar

    words = (text or "").replace(",", "").split()
    if len(words) != 6 or words[5] != "GMT" or words[2] not in _MONTHS:
        return None
    try:
        hour, minute, second = (int(part) for part in words[4].split(":"))
        return calendar.timegm((int(words[3]), _MONTHS.index(words[2]) + 1, int(words[1]), hour, minute, second))
    except ValueError:
        return None
