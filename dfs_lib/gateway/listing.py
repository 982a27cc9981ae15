"""A directory as JSON or as plain HTML that needs no script. Sent page by page: a directory of a million names costs no memory.

Names are what other people chose: in HTML they are text and nothing else, in links they are percent-encoded.
"""

import html
import itertools
import json

from dfs_lib import model
from dfs_lib.gateway import http
from dfs_lib.gateway.shapes import entry_record, iso

MAX_LIMIT = 1000
# A plain listing runs nothing and loads nothing; its little style stands in it, allowed by its hash alone.
_STYLE = ("body{font:16px/1.5 system-ui,sans-serif;margin:2rem;color-scheme:light dark}table{border-collapse:collapse}"
          "td,th{padding:.15rem 1rem .15rem 0;text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}")


def _style_hash():
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def page(client, path, after, limit, have=True):
    """(entries, name to go on after or None) of one page."""
    found = list(itertools.islice(client.list(path, have=have, after=after, page=min(limit, MAX_LIMIT) + 1), limit + 1))
    return found[:limit], model.parent_and_name(found[limit - 1].path)[1] if len(found) > limit else None


def accepts_html(header):
    """Whether a client would rather have HTML than JSON: a browser says so, programs have to ask for either."""
    best = {"text/html": -1.0, "application/json": -1.0}
    for part in (header or "").split(","):
        kind, *rest = (word.strip().lower() for word in part.split(";"))
        weight = next((word[2:] for word in rest if word.startswith("q=")), "1")
        if kind in best:
            try:
                best[kind] = float(weight)
            except ValueError:
                best[kind] = 0.0
    return best["text/html"] > best["application/json"]


def send(exchange, client, path):
    """The listing of a directory, in the form that is asked for."""
    entries = client.list(path, have=True)
    first = next(entries, None)  # what is wrong is said before an answer has begun
    entries = itertools.chain([] if first is None else [first], entries)
    if not accepts_html(exchange.header("accept")):
        return _send(exchange, "application/json; charset=utf-8", _as_json(path, entries), ())
    if not exchange.path.endswith("/"):
        return exchange.answer(301, [("Location", "/files" + http.encode(path) + "/")])
    policy = f"default-src 'none'; style-src 'sha256-{_style_hash()}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    _send(exchange, "text/html; charset=utf-8", _as_html(path, entries), [("Content-Security-Policy", policy)])


def _send(exchange, kind, pieces, headers):
    exchange.begin(200, [("Content-Type", kind), ("Cache-Control", "no-store"), ("Vary", "Accept"), *headers], None)
    if exchange.has_body:
        gathered = []
        for piece in pieces:
            gathered.append(piece)
            if len(gathered) >= 500:
                exchange.write("".join(gathered).encode(errors="replace"))
                gathered.clear()
        if gathered:
            exchange.write("".join(gathered).encode(errors="replace"))
    exchange.end()


def _as_json(path, entries):
    yield '{"path":' + json.dumps(path) + ',"entries":['
    comma = ""
    for entry in entries:
        yield comma + json.dumps(entry_record(entry), ensure_ascii=False)
        comma = ",\n"
    yield "]}\n"


def _as_html(path, entries):
    title = html.escape(path)
    yield (f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
           f"<title>{title}</title><style>{_STYLE}</style><h1><bdi>{title}</bdi></h1>"
           "<table><tr><th>name<th>size<th>changed")
    if path != "/":
        parent = model.parent_and_name(path)[0]
        yield f'<tr><td><a href="/files{http.encode(parent).rstrip("/")}/">..</a><td><td>'
    for entry in entries:
        name, is_directory = model.parent_and_name(entry.path)[1], entry.kind == model.DIRECTORY
        slash = "/" if is_directory else ""
        size = "" if is_directory else model.size_text(entry.size)
        yield (f'<tr><td><a href="/files{http.encode(entry.path)}{slash}"><bdi>{html.escape(name)}{slash}</bdi></a>'
               f'<td class="n">{size}<td>{iso(entry.mtime_at) or ""}')
    yield "</table>"
    yield '<p><a href="?zip=1">all of it as a zip</a></html>\n'
