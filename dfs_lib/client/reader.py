"""A stored file as a seekable raw file object; `io.BufferedReader` around it does the rest.

Never hands out an unchecked byte: it fetches whole chunks and keeps the last one. One version from open to close, whatever
happens to the name meanwhile.
"""

import io
import threading

from dfs_lib import model
from dfs_lib.client import download


class StoredFile(io.RawIOBase):
    """Reads one version; for many threads, one at a time."""

    def __init__(self, plan):
        """plan: an opened download.Plan."""
        self.plan = plan
        self.size = plan.size
        self._at = 0
        self._lock = threading.Lock()
        self._buffer = plan.peers.take_buffer()
        self._kept = (0, 0)  # bytes [first, end) of the file that are in the buffer

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        self._check_open()
        return self._at

    def seek(self, offset, whence=io.SEEK_SET):
        self._check_open()
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if at < 0:
            raise ValueError(f"negative position {at}")
        self._at = at
        return at

    def readinto(self, target):
        """Up to one chunk; 0 at the end."""
        self._check_open()
        target = memoryview(target).cast("B")
        with self._lock:
            n = min(len(target), self.size - self._at)
            if n <= 0:
                return 0
            if not self._kept[0] <= self._at < self._kept[1]:
                self._fetch()
            first, end = self._kept
            n = min(n, end - self._at)
            target[:n] = self._buffer[self._at - first:self._at - first + n]
            self._at += n
            return n

    def _fetch(self):
        """The chunk at the position into the buffer."""
        index, inside = divmod(self._at, self.plan.block_size)
        chunk = inside // model.CHUNK_SIZE
        self._kept = (0, 0)
        got = []
        self.plan.fetch(index, download.Cursor(chunk, chunk + 1), self._buffer, lambda view, offset: got.append(len(view)))
        first = index * self.plan.block_size + chunk * model.CHUNK_SIZE
        self._kept = (first, first + got[0])

    def _check_open(self):
        if self.closed:
            raise ValueError("the file is closed")

    def close(self):
        if not self.closed:
            self.plan.peers.give_buffer(self._buffer)
        super().close()
