"""`/files/PATH`: a file out (whole or in stretches), in, and away. What a directory looks like is `listing.py`'s and `zips.py`'s.

Never holds a file: bytes go from keeper to client and from client to keepers a piece at a time. A PUT is published when all of its body
has come and is durable; one that breaks off leaves nothing to be seen.
"""

import os

from dfs_lib import errors, model
from dfs_lib.client import sources
from dfs_lib.gateway import conditions, http, listing, types, zips

# Blocks of what comes by HTTP are smaller than others: each waits in memory until it is durable, because a body comes once, and is what an
# interrupted upload has to send again. Beyond LARGE a file would have too many of them, and its blocks wait in temporary files.
BLOCK_SIZE, LARGE = 12 * model.MIB, 32 * model.GIB
# Blocks of one upload under way at once, and room for so many of all uploads; the rest wait in temporary files.
JOBS = 3
MEMORY = sources.Memory(JOBS * BLOCK_SIZE)


def block_size_of(size):
    """The block size of a file that comes by HTTP; None for the setting."""
    return BLOCK_SIZE if size is not None and size <= LARGE else None


# A file that somebody else has stored must not do anything in our origin's name: no script, no form, no plug-in.
SANDBOX = ("Content-Security-Policy", "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'")


# Browsers' own PDF viewers do not run in a sandbox of ours; they have one of theirs.
PDF = ("Content-Security-Policy", "frame-ancestors 'none'")


def serve(exchange, client):
    """One request below /files/."""
    method = exchange.request.method
    handler = {"GET": get, "HEAD": get, "PUT": put, "DELETE": delete, "OPTIONS": options}.get(method)
    if handler is None:
        raise http.HttpError(405, "method", f"{method} is not done here", headers=[("Allow", _ALLOW)])
    handler(exchange, client)


_ALLOW = "GET, HEAD, PUT, DELETE, OPTIONS"


def options(exchange, client):
    exchange.answer(204, [("Allow", _ALLOW)])


# -- out --------------------------------------------------------------------------------------------------------------
def get(exchange, client):
    path = model.clean_path(exchange.path)
    if exchange.path.endswith("/") or path == "/":
        # By its name somebody wants a directory; a file of that name is told by the listing's error.
        return directory(exchange, client, path)
    try:
        reading = client.reading(path)
    except errors.IsADirectory:
        return directory(exchange, client, path)
    send_file(exchange, reading)


def directory(exchange, client, path):
    if exchange.query.get("zip") == "1":
        return zips.send(exchange, client, path)
    listing.send(exchange, client, path)


def send_file(exchange, reading):
    headers, method = exchange.request.headers, exchange.request.method
    own = [("ETag", conditions.etag(reading.version)), ("Last-Modified", http.date_text(reading.mtime_at)), ("Accept-Ranges", "bytes"),
           ("Cache-Control", "private, no-cache")]
    status = conditions.verdict(headers, method, reading.version, reading.mtime_at)
    if status == 304:
        return exchange.answer(304, own)
    if status == 412:
        raise changed(reading.path)
    name = model.parent_and_name(reading.path)[1]
    kind = types.content_type(name)
    shows = types.may_show(kind) and exchange.query.get("download") != "1"
    own += [("Content-Disposition", types.disposition(name, shows)), PDF if kind == types.PDF and shows else SANDBOX]
    stretches = conditions.ranges(headers, reading.version, reading.size, reading.mtime_at)
    if stretches is None:
        _send_stretch(exchange, reading, 200, [*own, ("Content-Type", kind)], 0, reading.size)
    elif not stretches:
        raise http.HttpError(416, "range", f"none of the bytes asked for is in {reading.path}, which has {reading.size}",
                             headers=[("Content-Range", f"bytes */{reading.size}")])
    elif len(stretches) == 1:
        first, end = stretches[0]
        own += [("Content-Type", kind), ("Content-Range", conditions.content_range(first, end, reading.size))]
        _send_stretch(exchange, reading, 206, own, first, end)
    else:
        _send_stretches(exchange, reading, own, kind, stretches)


def changed(path):
    return http.HttpError(412, "changed", f"{path} is not the version that the request is about")


def _send_stretch(exchange, reading, status, headers, first, end):
    exchange.begin(status, headers, end - first)
    if exchange.has_body:
        reading.deliver(first, end, exchange.write)
    exchange.end()


def _send_stretches(exchange, reading, headers, kind, stretches):
    boundary = os.urandom(16).hex()
    heads = [(f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {conditions.content_range(first, end, reading.size)}\r\n\r\n").encode()
             for first, end in stretches]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(end - first for first, end in stretches) + len(tail)
    exchange.begin(206, [*headers, ("Content-Type", f"multipart/byteranges; boundary={boundary}")], length)
    if exchange.has_body:
        for part, (first, end) in zip(heads, stretches):
            exchange.write(part)
            reading.deliver(first, end, exchange.write)
        exchange.write(tail)
    exchange.end()


# -- in ---------------------------------------------------------------------------------------------------------------
def put(exchange, client):
    headers, path = exchange.request.headers, model.clean_path(exchange.path)
    if exchange.path.endswith("/"):
        raise http.HttpError(400, "bad_name", "a PUT needs the whole name of a file, and this ends with /")
    if "content-length" not in headers and "transfer-encoding" not in headers:
        raise http.HttpError(411, "length_required", "a PUT says how long it is (Content-Length), or comes in chunks")
    if "content-encoding" in headers:
        raise http.HttpError(400, "bad_request", "files are stored as they come: no Content-Encoding")
    size, start = _size_and_start(exchange)
    known, known_mtime_at = _known(client, path)
    if conditions.verdict(headers, "PUT", known, known_mtime_at) == 412 and headers.get("if-none-match", "").strip() != "*":
        raise changed(path)
    mtime_at = mtime_of(headers.get("x-dfs-mtime"))
    result = client.put(exchange.body, path, size=size, start=start, copies=_number(headers.get("x-dfs-copies"), "x-dfs-copies", settings_copies),
                        mtime_at=mtime_at, mark=mark_of(mtime_at), parents=exchange.query.get("parents") == "1",
                        no_clobber=headers.get("if-none-match", "").strip() == "*", block_size=block_size_of(size), memory=MEMORY, jobs=JOBS,
                        expected_version=conditions.expected_version(headers, known))
    exchange.answer_json(201 if known is None else 200, result, [("ETag", conditions.etag(result["version"])), ("Location", "/files" + http.encode(path))])


def mark_of(mtime_at):
    """What tells a file that comes by HTTP from another of its name and size, when one of them goes on where the other broke off."""
    return "" if mtime_at is None else f"mtime {mtime_at:.6f}"


def _size_and_start(exchange):
    """(size of the whole file or None, where this body begins in it)."""
    text, length = exchange.header("content-range"), exchange.request.length
    if text is None:
        return length, 0
    first, end, size = conditions.parse_content_range(text)
    if length is not None and length != end - first:
        raise http.HttpError(400, "bad_range", f"Content-Range speaks of {end - first} bytes and Content-Length of {length}")
    return size, first


def settings_copies(text):
    copies = int(text)
    if not 1 <= copies <= model.MAX_COPIES:
        raise ValueError(text)
    return copies


def mtime_of(text):
    """Unix seconds as a request gives them, None when it does not."""
    return _number(text, "x-dfs-mtime", float)


def _number(text, name, parse):
    if text is None:
        return None
    try:
        value = parse(text)
    except ValueError as e:
        raise http.HttpError(400, "bad_request", f"{name} is not a number that makes sense: {text[:40]}") from e
    if not 0 <= value < 1e12:
        raise http.HttpError(400, "bad_request", f"{name} is not a number that makes sense: {text[:40]}")
    return value


def _known(client, path):
    """(version, mtime_at) that a path has now; (None, 0) when there is nothing. Raises IsADirectory."""
    try:
        found = client.stat(path)
    except errors.NoSuchFile:
        return None, 0
    if found["type"] == model.DIRECTORY:
        raise errors.IsADirectory(path=path)
    return found["version"], found["mtime_at"] or 0


# -- away -------------------------------------------------------------------------------------------------------------
def delete(exchange, client):
    path = model.clean_path(exchange.path)
    if path == "/":
        raise http.HttpError(403, "root", "the root of the store stays")
    headers, expected = exchange.request.headers, None
    if "if-match" in headers or "if-none-match" in headers or "if-unmodified-since" in headers:
        found = client.stat(path)
        if conditions.verdict(headers, "DELETE", found["version"], found["mtime_at"] or 0) is not None:
            raise changed(path)
        if found["type"] == model.FILE:  # a directory has no versions
            expected = conditions.expected_version(headers, found["version"])
    client.remove(path, recursive=exchange.query.get("recursive") == "1", expected_version=expected)
    exchange.answer(204)
