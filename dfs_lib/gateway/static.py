"""The page's own files: read once at the start, from the folder beside this module, the frozen program's data, or the zip archive.

Never opens a path that a request names: what is not in the table is not there.
"""

import hashlib
import os
import sys

from dfs_lib.gateway import http

POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
          "frame-ancestors 'none'")
_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml",
          "json": "application/json", "webmanifest": "application/manifest+json", "png": "image/png", "ico": "image/x-icon", "txt": "text/plain; charset=utf-8"}
_FOLDER = ("dfs_lib", "gateway", "static")


def load():
    """{path below /: bytes} of every static file there is."""
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")
    for folder in (os.path.join(getattr(sys, "_MEIPASS", ""), *_FOLDER) if hasattr(sys, "_MEIPASS") else here, here):
        if os.path.isdir(folder):
            return dict(_read_folder(folder))
    loader = globals().get("__loader__")
    if hasattr(loader, "archive"):
        return dict(_read_archive(loader.archive))
    return {}


def _read_folder(folder):
    for directory, _below, names in os.walk(folder):
        for name in names:
            if _extension(name) in _TYPES:
                path = os.path.join(directory, name)
                with open(path, "rb") as source:
                    yield os.path.relpath(path, folder).replace(os.sep, "/"), source.read()


def _read_archive(path):
    import zipfile

    prefix = "/".join(_FOLDER) + "/"
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith(prefix) and _extension(name) in _TYPES:
                yield name[len(prefix):], archive.read(name)


def _extension(name):
    return name.rpartition(".")[2].lower()


class Static:
    """Answers for everything that is neither a file of the store nor an interface."""

    def __init__(self, files=None):
        files = load() if files is None else files
        self._files = {"/" + name: (data, f'"{hashlib.sha256(data).hexdigest()[:32]}"', _TYPES[_extension(name)]) for name, data in files.items()}
        if "/index.html" in self._files:
            self._files["/"] = self._files["/index.html"]

    def serve(self, exchange):
        request = exchange.request
        if request.method not in ("GET", "HEAD"):
            raise http.HttpError(405, "method", f"{request.method} is not done here", headers=[("Allow", "GET, HEAD")])
        found = self._files.get(exchange.path)
        if found is None:
            raise http.HttpError(404, "not_found", "there is nothing of that name; files are below /files/")
        data, tag, kind = found
        # Asked for anew each time, answered by 304: after an upgrade nobody runs half of the old page.
        headers = [("ETag", tag), ("Cache-Control", "no-cache"), ("Content-Security-Policy", POLICY)]
        if tag in [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]:
            return exchange.answer(304, headers)
        exchange.answer(200, [*headers, ("Content-Type", kind)], data)
