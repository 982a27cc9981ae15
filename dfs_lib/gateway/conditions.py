"""Conditional and ranged requests (RFC 9110, sections 13 and 14): headers in, a verdict out. A version number is the entity tag.

Never reads a file: whoever asks knows its version, size and time.
"""

from dfs_lib.gateway import http

# More stretches than this in one request are somebody who wants us to work: the whole file is the answer.
MAX_RANGES = 16


def etag(version):
    return f'"{version}"'


def _tags(header):
    return [tag.strip() for tag in header.split(",")]


def verdict(headers, method, version, mtime_at):
    """None when the request goes on, else 304 or 412. version: None when there is no file."""
    tag = etag(version)
    if "if-match" in headers:
        wanted = _tags(headers["if-match"])
        if version is None or "*" not in wanted and tag not in wanted:  # weak tags never match here
            return 412
    elif "if-unmodified-since" in headers and version is not None:
        since_at = http.parse_date(headers["if-unmodified-since"])
        if since_at is not None and int(mtime_at) > since_at:
            return 412
    is_read = method in ("GET", "HEAD")
    if "if-none-match" in headers:
        wanted = _tags(headers["if-none-match"])
        if version is not None and ("*" in wanted or tag in [each.removeprefix("W/") for each in wanted]):
            return 304 if is_read else 412
    elif is_read and version is not None and "if-modified-since" in headers:
        since_at = http.parse_date(headers["if-modified-since"])
        if since_at is not None and int(mtime_at) <= since_at:
            return 304
    return None


def expected_version(headers, version):
    """The version that a change has to find in its place still, when its verdict rests on that; None when any will do.

    Between the verdict and the change somebody else may have been quicker: the master looks again, in the change's own transaction.
    """
    return version if "if-match" in headers or "if-unmodified-since" in headers else None


def ranges(headers, version, size, mtime_at):
    """[(first, end)] of the stretches asked for, in the order asked; None for the whole file, [] when none of them is in it."""
    text = headers.get("range")
    if text is None:
        return None
    unless = headers.get("if-range")
    if unless is not None and unless.strip() != etag(version) and http.parse_date(unless) != int(mtime_at):
        return None
    return parse_ranges(text, size)


def parse_ranges(text, size):
    """The same of a Range header alone. One that is no byte range, or asks for too many, is ignored, as the standard allows."""
    unit, equals, rest = text.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    specs, found = [spec.strip() for spec in rest.split(",") if spec.strip()], []
    if not specs or len(specs) > MAX_RANGES:
        return None
    for spec in specs:
        first, dash, last = spec.partition("-")
        first, last = first.strip(), last.strip()
        if not dash or not (first or last) or not all(part == "" or part.isascii() and part.isdigit() and len(part) < 20 for part in (first, last)):
            return None
        if not first:
            stretch = (max(0, size - int(last)), size)
        elif last and int(last) < int(first):
            return None
        else:
            stretch = (int(first), min(int(last) + 1, size) if last else size)
        if stretch[0] < stretch[1]:
            found.append(stretch)
    if sum(end - first for first, end in found) > size:
        return None  # stretches that overlap: the whole is less
    return found


def content_range(first, end, size):
    return f"bytes {first}-{end - 1}/{size}"


def parse_content_range(text):
    """(first, end, size) of a Content-Range that a PUT goes on with. Raises HttpError."""
    unit, _, rest = text.strip().partition(" ")
    stretch, _, size = rest.partition("/")
    first, _, last = stretch.partition("-")
    if unit.lower() != "bytes" or not all(part.isascii() and part.isdigit() and len(part) < 17 for part in (first, last, size)):
        raise http.HttpError(400, "bad_range", "Content-Range of a PUT is `bytes FIRST-LAST/SIZE`")
    first, end, size = int(first), int(last) + 1, int(size)
    if not first < end <= size:
        raise http.HttpError(400, "bad_range", "Content-Range of a PUT is `bytes FIRST-LAST/SIZE`, with FIRST ≤ LAST < SIZE")
    if end != size:
        raise http.HttpError(400, "bad_range", "a PUT goes on to the end of the file: LAST is SIZE - 1")
    return first, end, size
