"""The far ends of a client: the master, kept connections to keepers, a watch over slow ones, and reused buffers.

Never knows what a transfer is for. One Peers belongs to one Client and is shared by its threads.
"""

import threading
import time
from collections import deque

from dfs_lib import errors, model
from dfs_lib.net import streams
from dfs_lib.net.resting import Resting
from dfs_lib.wire import hmac_sha256, messages

# Kept buffers of 1 MiB each; more are made when more are in use, and dropped afterwards.
KEPT_BUFFERS = 16
# A report must not hold up the transfer that found the damage.
REPORT_TIMEOUT_S = 2.0
# Nor may the names of keepers, which only make a sentence better, hold up that sentence for long.
NAMES_TIMEOUT_S = 2.0
WATCH_EVERY_S = 0.25

hmac_sha256.hurry()  # files move: each block has several codes, and each keeper a handshake


class Peers:
    """What every transfer needs: masters, keepers, settings, watch, buffers."""

    def __init__(self, masters, credentials, settings):
        self.masters, self.settings = masters, settings
        self.keepers = streams.Pool(lambda host, port, timeout_s: streams.connect(host, port, credentials, timeout_s))
        self.watch = Watch()
        self._resting = Resting()
        self._names = {}  # keeper id → its name; replaced, never changed in place
        self._buffers = deque(maxlen=KEPT_BUFFERS)

    # -- connections to keepers -----------------------------------------------------------------------------------------
    def reach(self, hop, timeout_s, fresh=False):
        """A connection to a keeper: (stream, whether it was kept from before and may be stale, port).

        hop: {keeper, host, ports, …}. A refused port means a port process is being restarted: the keeper's next port is tried.
        Silence means the machine: its other ports are not tried, but come first the next time, lest each file waits for the same
        port that hangs. fresh: not one that was kept.
        """
        host, failure = hop["host"], None
        for _host, port in self._resting.last([(host, port) for port in hop["ports"]]):
            if fresh:
                self.keepers.forget(host, port)
            try:
                return *self.keepers.take(host, port, timeout_s), port
            except (errors.ConnectFailed, errors.PeerGone) as e:
                self._resting.note((host, port))
                failure = e
            except errors.NetworkError:
                self._resting.note((host, port))
                raise
        raise failure

    def was_silent(self, hop, port):
        """A connection to this port fell silent in the middle of an exchange: try it last for a while."""
        self.keepers.forget(hop["host"], port)
        self._resting.note((hop["host"], port))

    def give(self, hop, port, stream):
        """Take back a connection whose last exchange ended well."""
        self.keepers.give(hop["host"], port, stream)

    @staticmethod
    def new_stop():
        """An Event, not set, that ends one transfer's waiting."""
        return threading.Event()

    # -- buffers --------------------------------------------------------------------------------------------------------
    def take_buffer(self):
        """A memoryview of one chunk, for one thread, until `give_buffer`."""
        try:
            return self._buffers.pop()
        except IndexError:
            return memoryview(bytearray(model.CHUNK_SIZE))

    def give_buffer(self, buffer):
        self._buffers.append(buffer)

    # -- names ----------------------------------------------------------------------------------------------------------
    def names_of(self, keepers):
        """The names of these keepers (ids) as `dfs status` has them: `k3`. The beginning of an id does where no master tells it.

        Asked for when one is not known: for sentences, never on the way of bytes.
        """
        if any(keeper not in self._names for keeper in keepers):
            for _attempt in range(2):  # the second time on a new connection: the master may have been restarted meanwhile
                try:
                    answer = self.masters.ask(messages.Status(), timeout_s=NAMES_TIMEOUT_S)
                except errors.DfsError:
                    continue
                self._names = {keeper["keeper_id"]: keeper["name"] for keeper in answer.keepers}
                break
        return [self._names.get(keeper, keeper[:8]) for keeper in keepers]

    # -- damage ---------------------------------------------------------------------------------------------------------
    def report_bad(self, block, keeper, reason):
        """Tell the master of a bad replica. A report that gets lost is made again by the next reader or scrubber."""
        try:
            self.masters.ask(messages.ReplicaBad(block=block, keeper=keeper, reason=reason[:1000]), timeout_s=REPORT_TIMEOUT_S)
        except errors.DfsError:
            pass  # as said above; the read goes on with another replica

    def close(self):
        self.watch.stop()
        self.masters.close()
        self.keepers.close()


class Watch:
    """Cuts off connections whose present step takes longer than it may, e.g. a peer that trickles (F19).

    The silence limits of a Stream start anew with every byte; these do not. One thread, started when first needed.
    """

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._due = {}  # guarded by _lock: stream → monotonic seconds at which it is cut off
        self._stop = threading.Event()
        self._thread = None

    def until(self, stream, seconds):
        """The step that begins now may take so long; replaces what was said of the step before."""
        with self._lock:
            self._due[stream] = self._clock() + seconds
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="client-watch", daemon=True)
                self._thread.start()

    def done(self, stream):
        # Under the lock: after this returns the connection may go back to the pool and is not cut off any more.
        with self._lock:
            self._due.pop(stream, None)

    def _run(self):
        while not self._stop.wait(WATCH_EVERY_S):
            with self._lock:
                now_s = self._clock()
                for stream in [stream for stream, due_s in self._due.items() if due_s < now_s]:
                    del self._due[stream]
                    stream.abort()

    def stop(self):
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
