"""How many replicas a keeper may be told to delete in a while before somebody has to say that it is meant.

Knows no file, socket or clock; master and keeper count with it each for themselves. What is approved is not counted.
"""

from collections import deque

# Fewer than these are never improbable: a small keeper's blocks are soon a large share.
FLOOR = 1000
# This share of what a keeper had, within so many seconds: more than ordinary tidying, less than a disk lost to a mistake.
SHARE, WINDOW_S = 0.20, 600.0


class Window:
    """What one keeper has been told to delete lately, without approval. The caller's lock."""

    def __init__(self):
        self._drops, self._n = deque(), 0  # (monotonic seconds, n), and their sum

    @property
    def recent(self):
        return self._n

    def add(self, n, now_s):
        if n:
            self._drops.append((now_s, n))
            self._n += n

    def room(self, n_blocks, now_s):
        """How many more may go now; n_blocks: what the keeper has now."""
        while self._drops and self._drops[0][0] <= now_s - WINDOW_S:
            self._n -= self._drops.popleft()[1]
        return max(0, int(max(FLOOR, SHARE * (n_blocks + self._n))) - self._n)
