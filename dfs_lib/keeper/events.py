"""The queue of what has happened on a keeper and its master has not heard yet.

Never loses one unseen: beyond its ceiling the oldest go, and are counted, which has the whole inventory sent.
"""

import collections
import json
import os
import threading

# What the master can wait for; the rest wakes the reporter at once.
_ROUTINE = frozenset(("stored", "transfer_done"))
_EVENTS_A_NOTIFY = 500
# Well under the ceiling of a header (1 MiB), in bytes of JSON.
_NOTIFY_BYTES = 512 << 10
# Events kept while no master can be heard; beyond it the oldest go and a whole report makes up for them.
_MAX_EVENTS = 50_000
_SERIALS_AN_EVENT = 1000


class Events:
    """What has happened and is not yet known to the master, in order."""

    def __init__(self):
        self._lock = threading.Lock()
        self._waiting = collections.deque()  # guarded by _lock: (event, bytes of its JSON)
        self._n_on_the_way = 0  # guarded by _lock: of these, the first so many are in a Notify under way
        self._is_awaited = False  # guarded by _lock: the main thread sleeps until something comes
        self._is_pressing = False  # guarded by _lock: something has come since the last batch that is not routine
        # A pipe and not a condition: the main thread must also wake for a signal.
        self._bell_read, self._bell_write = os.pipe()
        self._gathers = False  # guarded by _lock: the main thread sleeps, and only what presses wakes it
        self.n_lost = 0

    def add(self, event, size=None):
        """One more event, a dict; `size`: bytes of its JSON when known."""
        with self._lock:
            size = size or len(json.dumps(event))
            if event["kind"] == "transfer_done" and self._joined(event, size):
                return
            if len(self._waiting) >= _MAX_EVENTS:
                self._waiting.popleft()
                self.n_lost += 1
                self._n_on_the_way = max(0, self._n_on_the_way - 1)
            self._waiting.append((event, size))
            if event["kind"] not in _ROUTINE or len(self._waiting) >= _EVENTS_A_NOTIFY:
                self._is_pressing = True
                self._ring()
            elif not self._gathers:
                self._ring()

    def _joined(self, event, size):
        """Append its serials to the last event's, when that is one of the same kind and not under way."""
        if len(self._waiting) <= self._n_on_the_way:
            return False
        last, last_size = self._waiting[-1]
        if last["kind"] != "transfer_done" or len(last["serials"]) + len(event["serials"]) > _SERIALS_AN_EVENT:
            return False
        last["serials"].extend(event["serials"])
        # Or a Notify after a long silence would be longer than a header may be, and never leave.
        self._waiting[-1] = last, last_size + size
        return True

    def wait(self, seconds, stop):
        """Wait up to so long for something to be there, for a `wake`, or for the StopSignal."""
        with self._lock:
            if self._waiting:
                return
            self._gathers, self._is_awaited = False, True
        self._sleep(seconds, stop)

    def gather(self, seconds, stop):
        """Let routine events come together for so long; whatever presses ends it at once."""
        with self._lock:
            if self._is_pressing or not self._waiting:
                return
            self._gathers = self._is_awaited = True
        self._sleep(seconds, stop)

    def _sleep(self, seconds, stop):
        stop.wait(seconds, self._bell_read)
        with self._lock:
            if not self._is_awaited:
                os.read(self._bell_read, 1)
            self._is_awaited = self._gathers = False

    def wake(self):
        with self._lock:
            self._is_pressing = True
            self._ring()

    def _ring(self):
        if self._is_awaited:
            self._is_awaited = False
            os.write(self._bell_write, b"x")

    def first(self):
        """The oldest events, as many as one Notify takes; they stay until `forget`."""
        batch, size = [], 0
        with self._lock:
            for event, n in self._waiting:
                size += n
                if batch and (len(batch) == _EVENTS_A_NOTIFY or size > _NOTIFY_BYTES):
                    break
                batch.append(event)
            self._n_on_the_way, self._is_pressing = len(batch), len(batch) < len(self._waiting)
        return batch

    def forget(self, batch):
        """The master has heard these."""
        with self._lock:
            for event in batch:
                # What the queue's ceiling has pushed out meanwhile is not there to be forgotten.
                if self._waiting and self._waiting[0][0] is event:
                    self._waiting.popleft()
            self._n_on_the_way = 0

    def __len__(self):
        return len(self._waiting)
