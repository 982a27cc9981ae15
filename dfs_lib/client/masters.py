"""Talks to the master: any of its addresses in random order, fail-over between them, patience while it restarts.

Never decides what to ask. A request may reach a master twice, so every message that goes through here must be safe to repeat
(operation ids, upload ids).

    first contact   each address once, then the most telling error: a few seconds, whatever is wrong with the address
    patient, later  rounds over the addresses with growing pauses, up to `settings.patience` seconds
"""

import _thread
import os
import time

from dfs_lib import errors
from dfs_lib.net import streams
from dfs_lib.wire import messages

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
# Below this a master on a busy machine would be taken for a dead one; three dead addresses together still cost under 5 s.
SHORTEST_CONNECT_S = 1.5
# What the master may say that another address, or a later moment, may answer otherwise.
_ELSEWHERE_OR_LATER = (errors.NetworkError, errors.NotMaster, errors.NotReady, errors.Busy, errors.NotDfs)


def _shuffle(addresses):
    """Put a list in random order. `random` itself would cost each start a millisecond."""
    addresses.sort(key=lambda _address: os.urandom(4))


class _Ended:
    """What `threading.Event` would be here; importing that would cost each start a millisecond."""

    def __init__(self):
        self._is_set = False
        self._gate = _thread.allocate_lock()  # held until it is set
        self._gate.acquire()

    def is_set(self):
        return self._is_set

    def set(self):
        """Wakes everybody who waits."""
        self._is_set = True
        self._open()

    def wait(self, seconds):
        """Wait up to so long; whether it is set."""
        if self._gate.acquire(True, seconds):
            self._open()  # for the next one who waits
        return self._is_set

    def _open(self):
        try:
            self._gate.release()
        except RuntimeError:
            pass  # somebody else has, in the same moment


class Masters:
    """The master's addresses as one peer; for many threads."""

    def __init__(self, addresses, credentials, settings, insecure=False, shuffle=_shuffle, clock=time.monotonic):
        self._addresses = list(dict.fromkeys(addresses))
        shuffle(self._addresses)  # so that clients spread over the master's ports
        self._credentials, self._insecure, self._clock = credentials, insecure, clock
        self._patience_s = settings.patience
        self._connect_s = max(min(SHORTEST_CONNECT_S, settings.connect_timeout), settings.connect_timeout / len(self._addresses))
        self._pool = streams.Pool(self._dial)
        self._resting = None  # net.resting.Resting, once an address has failed: a start that goes well need not import it
        self._closed = _Ended()
        self.has_spoken = False  # whether a master has ever answered us: only then is its silence worth waiting for
        self.cluster_id = None

    @property
    def address(self):
        """(host, port) that is asked first now."""
        return self._addresses[0]

    def _dial(self, host, port, timeout_s):
        stream = streams.connect(host, port, self._credentials, timeout_s)
        try:
            if stream.talk.peer.role != messages.MASTER:
                # A wrong port, and not a master that has stepped down: the user has to look at the address.
                raise errors.ConnectFailed(f"{stream.address} is a {stream.talk.peer.role}, not a master", address=stream.address)
            if self._credentials.auth == "none" and not self._insecure:
                raise errors.no_key_wanted(stream.address)
        except errors.DfsError:
            stream.close()
            raise
        self.has_spoken = True
        self.cluster_id = stream.talk.cluster_id
        return stream

    def ask(self, message, patient=False, timeout_s=streams.SILENCE_S, stop=None):
        """The master's answer to `message`.

        patient: once a master has been spoken to, wait up to `settings.patience` seconds for it to come back (I12: no longer).
        stop: an Event that ends the waiting. Raises the Refusal the master answers with, or the most telling error of its
        addresses.
        """
        pause_s, end_s = FIRST_PAUSE_S, None
        while True:
            try:
                answer = self._ask_each(message, timeout_s)
                if patient:
                    _raise_not_ready(answer)
                return answer
            except _ELSEWHERE_OR_LATER:
                now_s = self._clock()
                end_s = end_s or now_s + self._patience_s
                if not (patient and self.has_spoken) or now_s >= end_s or self._closed.is_set():
                    raise
                if (stop or self._closed).wait(min(pause_s, end_s - now_s)):
                    raise
            pause_s = min(pause_s * 1.6, LONGEST_PAUSE_S)

    def _ask_each(self, message, timeout_s):
        """One round over the addresses; the one that answered last comes first."""
        failures = []
        for address in list(self._addresses) if self._resting is None else self._resting.last(self._addresses):
            try:
                answer = self._pool.ask(*address, message, timeout_s=timeout_s, connect_timeout_s=self._connect_s)
            except _ELSEWHERE_OR_LATER as e:
                failures.append(e)
                self._pool.forget(*address)
                self._demote(address)
                if isinstance(e, errors.NetworkError):
                    self._rest(address)
            else:
                if self._resting is not None:
                    self._resting.forget(address)
                return answer
        raise min(failures, key=_how_telling)

    def _demote(self, address):
        """Try an address that has failed last next time."""
        rest = [other for other in self._addresses if other != address]
        self._addresses = [*rest, address]  # replaced, never changed in place: other threads walk over it

    def _rest(self, address):
        """Try an address that could not be reached, or fell silent, last for a while: each meeting with it costs a time-out."""
        if self._resting is None:
            from dfs_lib.net import resting

            self._resting = resting.Resting(self._clock)
        self._resting.note(address)

    def close(self):
        self._closed.set()
        self._pool.close()


def _raise_not_ready(answer):
    """A master that has just started may refuse the members of a batch one by one: asking again is safe and helps."""
    for result in getattr(answer, "results", ()):
        refused = result.get("refused")
        if refused and refused["error"] == errors.NotReady.code:
            raise errors.NotReady(refused["message"], **refused["facts"])


def _how_telling(error):
    """Rank of an error among those of several addresses: what somebody said tells more than that nobody was there."""
    ranks = (errors.NotReady, errors.Busy, errors.PeerTimeout, errors.PeerGone, errors.NotMaster, errors.NotDfs,
             errors.ConnectFailed)
    return next((rank for rank, kind in enumerate(ranks) if isinstance(error, kind)), len(ranks))
