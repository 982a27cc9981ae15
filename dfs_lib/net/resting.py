"""Addresses that failed lately: tried last for a while, because each meeting with one that hangs costs a time-out.

Never forbids an address: where all have failed they are tried in the order given. Opens no socket.
"""

import time

REST_S = 10.0


class Resting:
    """For many threads: each change is one step of a dict. Addresses are (host, port); there are as many as a cluster has ports."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._until_s = {}  # (host, port) → monotonic seconds until which it is tried last

    def note(self, address):
        """It could not be reached, or fell silent."""
        self._until_s[address] = self._clock() + REST_S

    def forget(self, address):
        """It has answered."""
        self._until_s.pop(address, None)

    def last(self, addresses):
        """The same addresses in the same order, those that rest behind the others."""
        if not self._until_s:
            return list(addresses)
        now_s = self._clock()
        return sorted(addresses, key=lambda address: self._until_s.get(address, now_s) > now_s)
