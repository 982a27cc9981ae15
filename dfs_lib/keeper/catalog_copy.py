"""A keeper's copy of its cluster's catalog, on disk: a snapshot, and the log's records since.

Never looks into either: they are kept as the master made them (log_copy.py), and only checked to be whole and to follow each other.
Never opens a block file.

    DIRECTORY/catalog/          0700
      base-SEQUENCE.snap        a snapshot; whole, because it is renamed to this name when it is
      log-SEQUENCE.seg          records that follow the row SEQUENCE; the last one may end torn: what stands before it is true
      incoming                  a snapshot on its way, thrown away by a crash
      past-…                    what was here when the master went back behind it (a catalog restored from an older backup, F26):
                                kept for a human, and used by nobody

    begin a new base:   incoming ─ checked ─ fsync ─ rename ─ fsync of catalog/ ─> older bases and segments it covers go
    one more record:    append ─ fsync ─> the master may be told

A crash at any step leaves the old copy, or the new one with some files too many, which the next opening removes. (Where the old one is
of a longer past, it is put aside first: a crash then leaves it there, and no copy to go on with.)
"""

import hashlib
import logging
import os
import re
from collections import namedtuple

from dfs_lib import errors, log_copy
from dfs_lib.keeper import disk
from dfs_lib.keeper.disk import Directory

log = logging.getLogger(__name__)

SEGMENT_SIZE = 4 << 20
# The log may grow to this, or to the size of its base if that is more; then a new base is due.
LEAST_LOG_SIZE = 16 << 20
NONE = (0, 0)
DIRECTORY, _INCOMING, _PAST = "catalog", "incoming", "past-"
_BASE, _SEGMENT = re.compile(r"base-([0-9a-f]{16})\.snap"), re.compile(r"log-([0-9a-f]{16})\.seg")

# What a copy is: last (epoch, sequence); at: Unix seconds of what came last; bytes of the snapshot, and of the records after it.
Summary = namedtuple("Summary", "last at base_size log_size")


class CatalogCopy:
    """The copy in one keeper's directory. One thread uses it; `read` alone opens one that another process writes.

    last: (epoch, sequence) of the last row that is here durably; NONE when there is nothing to begin with.
    """

    def __init__(self, directory):
        self.path = os.path.join(os.path.abspath(directory), DIRECTORY)
        self._segment = self._segment_size = None
        try:
            with Directory(os.path.abspath(directory)) as top:
                top.make(DIRECTORY)
                top.sync()
                self._directory = top.below(DIRECTORY)
        except OSError as e:
            raise disk.ours(e, self.path) from e
        try:
            self._load()
        except BaseException:
            self._directory.close()  # on a disk that fails it is opened again and again
            raise

    def _load(self):
        """Learn what is here, and remove what it does not need."""
        try:
            found = _Found(self._directory)
            for name in found.superfluous:
                self._directory.unlink(name)
        except OSError as e:
            raise disk.ours(e, self.path) from e
        self._base_size, self._log_size, self.last = found.base_size, found.log_size, found.last

    def close(self):
        self._end_segment()
        self._directory.close()

    @property
    def wants_base(self):
        """Whether a snapshot is due: there is none, or the log since has outgrown it."""
        return self.last == NONE or self._log_size > max(LEAST_LOG_SIZE, self._base_size)

    # -- the log --------------------------------------------------------------------------------------------------------
    def append(self, raw):
        """One more record, durable on return. Raises IntegrityError when it is damaged or does not follow, NoRoom, DiskFault."""
        head = log_copy.check_record(raw)
        if head.before != self.last:
            raise errors.IntegrityError(f"a record after row {head.before} does not follow row {self.last}")
        try:
            if self._segment is None or self._segment_size >= SEGMENT_SIZE:
                self._begin_segment()
            disk.write_all(self._segment, [raw])
            disk.fsync(self._segment)
        except OSError as e:
            self._end_segment()  # what is torn stays at the end of its segment; the next record begins another
            raise disk.ours(e, self.path) from e
        self._segment_size += len(raw)
        self._log_size += len(raw)
        self.last = head.last

    def _begin_segment(self):
        self._end_segment()
        # Over one of that name: it held nothing whole, or `last` would stand behind it.
        self._segment = self._directory.open(f"log-{self.last[1]:016x}.seg", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | disk.SAFE)
        self._segment_size = 0
        self._directory.sync()

    def _end_segment(self):
        if self._segment is not None:
            fd, self._segment = self._segment, None
            os.close(fd)

    # -- a new base -----------------------------------------------------------------------------------------------------
    def replace_base(self, pages):
        """Begin anew with a snapshot. pages: iterable of its bytes, in order. Raises IntegrityError, NoRoom, DiskFault."""
        self._end_segment()
        try:
            fd = self._directory.open(_INCOMING, os.O_RDWR | os.O_CREAT | os.O_TRUNC | disk.SAFE)
            try:
                head = self._receive(fd, pages)
                disk.fsync(fd)
            finally:
                os.close(fd)
            if head.last[0] > self.last[0] and head.last[1] < self.last[1]:  # (a snapshot of the same reign is older now and then)
                self._put_aside()
            self._directory.rename(_INCOMING, self._directory, f"base-{head.last[1]:016x}.snap")
            self._directory.sync()
        except OSError as e:
            raise disk.ours(e, self.path) from e
        self._load()

    def _put_aside(self):
        """The new base knows less than what is here: only a human can tell whether that is to be forgotten."""
        for name in self._directory.names():
            if _BASE.fullmatch(name) or _SEGMENT.fullmatch(name):
                self._directory.rename(name, self._directory, _PAST + name)
        self._directory.sync()
        log.warning("the master has gone back behind this copy of its catalog, which is kept aside path=%s last=%s", self.path, self.last)

    def _receive(self, fd, pages):
        head, start, digest = None, b"", hashlib.sha256()
        for page in pages:
            disk.write_all(fd, [page])
            if head is None:
                start += page
                if len(start) < log_copy.SNAPSHOT_HEAD:
                    continue
                head, page = log_copy.snapshot_head(start[:log_copy.SNAPSHOT_HEAD]), start[log_copy.SNAPSHOT_HEAD:]
            digest.update(page)
        if head is None or digest.digest() != head.sha256:
            raise errors.IntegrityError("a snapshot of the catalog did not arrive whole")
        return head


class _Found:
    """What stands in a catalog directory: the newest base and the records that continue it."""

    def __init__(self, directory):
        names = sorted(directory.names())
        self.base, self.base_size, self.log_size, self.last, self.at = None, 0, 0, NONE, 0.0
        self.segments, self.superfluous = [], [_INCOMING] if _INCOMING in names else []
        for name in filter(_BASE.fullmatch, names):
            self._take_base(directory, name)
        self.superfluous += [name for name in names if _BASE.fullmatch(name) and name != self.base]
        for name in filter(_SEGMENT.fullmatch, names):
            if not self._take_segment(directory, name):
                self.superfluous.append(name)
        if self.base is None:
            self.superfluous = []  # nothing is thrown away for a base that cannot be read

    def _take_base(self, directory, name):
        """Go by it when it is later than the one found before: of a later reign first, whatever the names say."""
        try:
            with open(directory.open(name, disk.READ), "rb") as source:
                head = log_copy.snapshot_head(source.read(log_copy.SNAPSHOT_HEAD))
        except errors.IntegrityError:
            return
        if self.base is None or head.last > self.last:
            self.base, self.base_size, self.last, self.at = name, directory.stat(name).st_size, head.last, head.at

    def _take_segment(self, directory, name):
        """Whether any of its records continues what was found so far. `runs` remembers where in the file they stand."""
        runs, at = [], 0
        with open(directory.open(name, disk.READ), "rb") as source:
            for head, raw in log_copy.read_records(source):
                # One that begins within the base and goes beyond it is as good: who replays it passes over what is there.
                # (One of an earlier reign that goes further than the base is of another past.)
                if self.base and head.last[0] >= self.last[0] and head.last[1] > self.last[1] and head.before[1] <= self.last[1]:
                    runs.append((at, len(raw)))
                    self.last, self.at = head.last, head.at
                    self.log_size += len(raw)
                at += len(raw)
        if runs:
            self.segments.append((name, runs))
        return bool(runs)


def summary(directory):
    """Summary of the copy in a keeper's directory, None when there is none to begin with. Writes nothing. Raises DiskFault."""
    found = _look(directory)
    return Summary(found.last, found.at, found.base_size, found.log_size) if found and found.base else None


def _look(directory):
    try:
        with Directory(os.path.join(os.path.abspath(directory), DIRECTORY)) as inside:
            return _Found(inside)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise disk.ours(e, str(directory)) from e


def pieces(directory, size):
    """The bytes of the copy as one stream: its snapshot, then every record that continues it, in pieces of `size` at most, none of which
    has bytes of both.

    Raises DiskFault; IntegrityError when there is no copy.
    """
    found = _look(directory)
    if found is None or found.base is None:
        raise errors.IntegrityError("this keeper has no copy of the catalog")
    try:
        with Directory(os.path.join(os.path.abspath(directory), DIRECTORY)) as inside:
            with open(inside.open(found.base, disk.READ), "rb") as source:
                while piece := source.read(size):
                    yield piece
            for name, runs in found.segments:
                with open(inside.open(name, disk.READ), "rb") as source:
                    for at, n in runs:
                        source.seek(at)
                        raw = source.read(n)
                        for start in range(0, n, size):
                            yield raw[start:start + size]
    except OSError as e:
        raise disk.ours(e, str(directory)) from e
