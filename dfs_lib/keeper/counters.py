"""How many bytes and blocks a store holds, as a few bytes in a file that all its processes change.

Never counts by itself and never fails a transfer: the numbers are a hint, counted anew at each start.

    DIRECTORY/counters    three signed 64-bit numbers, little-endian: 1 once all was counted, bytes, blocks
"""

import errno
import logging
import os
import struct
import threading

from dfs_lib.keeper import disk

log = logging.getLogger(__name__)

_COUNTERS = struct.Struct("<qqq")


class Counters:
    """The counters' file, open. Threads of a process share it; each process has its own."""

    def __init__(self, top):
        """top: the store's Directory. Raises OSError."""
        self._lock = threading.Lock()  # guards changes among threads, which a lock on the one fd does not keep apart
        self._top = top
        self._fd = disk.open_changeable(top.open, "counters")

    def read(self):
        """(counted, bytes, blocks); counted is 0 until `set` was called since the last `forget`. Raises OSError."""
        raw = disk.read_at(self._fd, _COUNTERS.size, 0)
        return _COUNTERS.unpack(raw) if len(raw) == _COUNTERS.size else (0, 0, 0)

    def add(self, n_bytes, n_blocks):
        self._change(lambda now: (now[0], now[1] + n_bytes, now[2] + n_blocks))

    def set(self, n_bytes, n_blocks):
        """All was counted."""
        self._change(lambda _: (1, n_bytes, n_blocks))

    def forget(self):
        """Nothing was counted yet. Written over and not cut off: on a full disk the file must keep its place."""
        self._change(lambda _: (0, 0, 0))

    def _change(self, change):
        """Read, change and write as one step among all processes. No failure matters."""
        with self._lock:
            try:
                try:
                    self._write(change)
                except OSError as e:
                    if e.errno != errno.EBADF:
                        raise
                    # Opened when the disk was read-only: it may be otherwise by now.
                    old, self._fd = self._fd, disk.open_changeable(self._top.open, "counters")
                    os.close(old)
                    self._write(change)
            except OSError as e:
                log.warning("the block counters could not be kept detail=%s", e)

    def _write(self, change):
        with disk.locked(self._fd):
            disk.write_start(self._fd, _COUNTERS.pack(*change(self.read())))

    def close(self):
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
