"""A folder as a zip file, streamed: members stored, not compressed, sizes after the data, Zip64 where it is needed. No temporary file.

    for each name: local header ─ bytes ─ data descriptor      at the end: central directory, its Zip64 records, its end

Each file is one version, whole, from its first byte to its last. One that cannot be read ends the answer early, so that the client sees
that the zip is not whole; one that was removed meanwhile is left out.
Source: APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3 and 4.5.3.
"""

import struct
import time
from zlib import crc32

from dfs_lib import errors, model
from dfs_lib.gateway import types

_LOCAL, _DESCRIPTOR, _CENTRAL = b"PK\x03\x04", b"PK\x07\x08", b"PK\x01\x02"
_END64, _LOCATOR64, _END = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"
# Sizes follow the data (bit 3), names are UTF-8 (bit 11).
_FLAGS = 1 << 3 | 1 << 11
_MANY, _LARGE = 0xFFFF, 0xFFFFFFFF
_MADE_BY = 3 << 8 | 45  # Unix, so that readers look at the mode; version 4.5 knows Zip64
_FILE_MODE, _DIRECTORY_MODE = 0o100644 << 16, 0o40755 << 16 | 0x10
# A member's line in the central directory is kept until the end: about 150 bytes a name.
MAX_MEMBERS = 500_000


class Zip:
    """Writes a zip: `begin`, `data`, `end` for each member, `close`. write(*parts): where the bytes go."""

    def __init__(self, write):
        self._write, self._at, self._central, self._n = write, 0, [], 0

    def _put(self, *parts):
        self._write(*parts)
        self._at += sum(map(len, parts))

    def begin(self, name, mtime_at, is_directory=False):
        """A member. name: with / between parts; a directory's ends with one."""
        if self._n >= MAX_MEMBERS:
            raise errors.Refusal(detail=f"a zip of more than {MAX_MEMBERS} names is too large: take the folders below it one by one")
        self._name, self._dos, self._is_directory = name.encode(), dos_time(mtime_at), is_directory
        self._start, self._size, self._crc, self._n = self._at, 0, 0, self._n + 1
        flags = 1 << 11 if is_directory else _FLAGS
        # The Zip64 field, zeros as the sizes are unknown, makes the descriptor's sizes 8 bytes long.
        extra = b"" if is_directory else struct.pack("<HHQQ", 1, 16, 0, 0)
        sizes = (0, 0) if is_directory else (_LARGE, _LARGE)
        self._put(_LOCAL + struct.pack("<HHHHHIIIHH", 45, flags, 0, *self._dos, 0, *sizes, len(self._name), len(extra)) + self._name + extra)

    def data(self, view):
        self._crc = crc32(view, self._crc)
        self._size += len(view)
        self._put(view)

    def end(self):
        flags = 1 << 11 if self._is_directory else _FLAGS
        if not self._is_directory:
            self._put(_DESCRIPTOR + struct.pack("<IQQ", self._crc, self._size, self._size))
        size, extra = self._size, b""
        if self._size >= _LARGE or self._start >= _LARGE:
            extra = struct.pack("<HHQQQ", 1, 24, self._size, self._size, self._start)
            size = _LARGE
        start = _LARGE if extra else self._start
        mode = _DIRECTORY_MODE if self._is_directory else _FILE_MODE
        self._central.append(_CENTRAL + struct.pack("<HHHHHHIIIHHHHHII", _MADE_BY, 45, flags, 0, *self._dos, self._crc, size, size, len(self._name),
                                                    len(extra), 0, 0, 0, mode, start) + self._name + extra)

    def close(self):
        start = self._at
        for line in self._central:
            self._put(line)
        size, n = self._at - start, self._n
        if n >= _MANY or size >= _LARGE or start >= _LARGE:
            end64 = self._at
            self._put(_END64 + struct.pack("<QHHIIQQQQ", 44, _MADE_BY, 45, 0, 0, n, n, size, start)
                      + _LOCATOR64 + struct.pack("<IQI", 0, end64, 1))
        self._put(_END + struct.pack("<HHHHIIH", 0, 0, min(n, _MANY), min(n, _MANY), min(size, _LARGE), min(start, _LARGE), 0))


def dos_time(at):
    """(time, date) as MS-DOS counts them, from 1980 on, in two-second steps, UTC."""
    t = time.gmtime(min(max(int(at or 0), 315532800), 4354819198))
    return t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec // 2, (t.tm_year - 1980) << 9 | t.tm_mon << 5 | t.tm_mday


class _Gathered:
    """Small pieces together, so that ten thousand small files are not thirty thousand packets."""

    MOST = 64 << 10

    def __init__(self, write):
        self._write, self._parts, self._size = write, [], 0

    def __call__(self, *parts):
        for part in parts:
            if len(part) > self.MOST:
                self.flush()
                self._write(part)
                continue
            self._parts.append(bytes(part))  # a view is its owner's again when we return
            self._size += len(part)
            if self._size >= self.MOST:
                self.flush()

    def flush(self):
        parts, self._parts, self._size = self._parts, [], 0
        if parts:
            self._write(b"".join(parts))


def send(exchange, client, path):
    """The tree below a directory as a zip named after it."""
    top = model.parent_and_name(path)[1] or "files"
    entries = iter(client.list(path))
    first = next(entries, None)  # what is wrong is said before an answer has begun
    exchange.begin(200, [("Content-Type", "application/zip"), ("Cache-Control", "no-store"), ("Content-Disposition", types.disposition(top + ".zip", False))],
                   None)
    if exchange.has_body:
        write = _Gathered(exchange.write)
        archive = Zip(write)
        if first is not None:
            add_tree(archive, client, path, top)
        archive.close()
        write.flush()
    exchange.end()


def add_tree(archive, client, path, top):
    """Every name below `path`, under the folder `top`."""
    cut = len(path) if path != "/" else 0
    for entry in client.walk(path):
        name = top + entry.path[cut:]
        if entry.kind == model.DIRECTORY:
            archive.begin(name + "/", entry.mtime_at, is_directory=True)
            archive.end()
            continue
        try:
            reading = client.reading(entry.path)
        except (errors.NoSuchFile, errors.IsADirectory):
            continue  # removed since it was listed
        archive.begin(name, reading.mtime_at)
        reading.deliver(0, reading.size, archive.data)
        archive.end()
