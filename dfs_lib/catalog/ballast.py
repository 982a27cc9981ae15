"""Room held back for a full disk: a file whose bytes nobody needs (F10).

Never decides what may be written when it is gone: `database` does.

    DIRECTORY/ballast    as long as there is room
    a write finds the disk full ── release ──▶ what removes and repairs goes on in its place, what adds is refused
                                ◀── make ───   once as much is free again beside it
"""

import logging
import os

from dfs_lib.catalog.files import sync_directory

log = logging.getLogger(__name__)

NAME = "ballast"
# Two write-ahead logs at their longest before a checkpoint, or this share of a small disk.
SIZE, SHARE = 16 << 20, 8
_PIECE = 1 << 20


def room(directory):
    """(bytes free, bytes in all) of a directory's file system."""
    if not hasattr(os, "statvfs"):
        import shutil

        total, _used, free = shutil.disk_usage(directory)
        return free, total
    facts = os.statvfs(directory)
    return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize


class Ballast:
    """The ballast of a directory. Any thread may ask; one at a time makes."""

    def __init__(self, directory, size=SIZE):
        self._directory, self._path = directory, os.path.join(directory, NAME)
        self.size = min(size, self._facts()[1] // SHARE)
        self.is_whole = os.path.exists(self._path) and os.path.getsize(self._path) >= self.size

    def _facts(self):
        return room(self._directory)

    def is_needed(self):
        """Whether so little is free that not even a start could be written."""
        return self._facts()[0] < self.size // 2

    def make(self):
        """Take the room when there is twice as much; returns whether it is held now."""
        if self.is_whole:
            return True
        new = self._path + ".new"
        try:
            if self._facts()[0] < 2 * self.size:
                return False
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                _allocate(fd, self.size)
            finally:
                os.close(fd)
            os.replace(new, self._path)
            sync_directory(self._directory)
        except OSError as e:
            log.warning("no ballast could be made path=%s reason=%s", self._path, e)
            for path in (new, self._path):
                if os.path.exists(path):
                    os.unlink(path)
            return False
        self.is_whole = True
        return True

    def release(self):
        """Give the room back. A second time there is nothing left to give."""
        self.is_whole = False
        try:
            os.unlink(self._path)
            log.error("the disk is full, the ballast was given up for what removes and repairs path=%s bytes=%s", self._path, self.size)
        except FileNotFoundError:
            pass  # given up already
        except OSError as e:
            log.error("the ballast could not be given up path=%s reason=%s", self._path, e)


def _allocate(fd, size):
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    for at in range(0, size, _PIECE):
        os.write(fd, bytes(min(_PIECE, size - at)))
