"""What the processes of one keeper share: a page of counters, the master's reign, a mailbox of events, signals to stop.

Never locks between processes: every cell has one writer, and is one aligned 64-bit word, so that a process killed at any
instruction leaves nothing held and nothing torn.

    anonymous memory, 64-bit cells                                       written by
      0  epoch       the highest master's reign heard of                 reporter
      1  tick        that master's clock, as last heard                  reporter
      2  registered  how often a master has taken this keeper in         reporter
      3  known       1 once the cluster id stands in cells 4 … 7         reporter
      4  cluster id, 32 hex characters
      8  supervisor's process id                                         supervisor
      9  connected   1 while a master has taken this keeper in           reporter
     10  encrypted   1 once a master has taken it in over TLS            reporter
     16  slot 0, 48 cells: one slot a port, the reporter's last
           0  process id                                                 supervisor
           1  transfers under way   2  transfers ended                   its process
           3  bytes in              4  bytes out                         its process
           5  events lost                                                its process
           6  bytes from clients    7  bytes to clients, as they move    its process
           8  puts by the time they took: a cell for each of metrics.SECONDS_BUCKETS, one for longer, microseconds in all
          23  gets, the same                                             its process
          38  what its port has refused: a cell for each of REFUSALS     its process
"""

import bisect
import itertools
import json
import logging
import mmap
import os
import select
import signal
import threading
import time

from dfs_lib import errors
from dfs_lib.keeper import disk
from dfs_lib.keeper.guard import Guard
from dfs_lib.metrics import SECONDS_BUCKETS
from dfs_lib.net import inherited

_EPOCH, _TICK, _REGISTERED, _KNOWN, _CLUSTER, _SUPERVISOR, _CONNECTED, _ENCRYPTED, _FIRST_SLOT, _SLOT_CELLS = 0, 1, 2, 3, 4, 8, 9, 10, 16, 48
_PID, _ACTIVE, _ENDED, _IN, _OUT, _LOST, _FROM_CLIENTS, _TO_CLIENTS = range(8)
# Kinds of transfers whose times are kept, and where in a slot.
PUT, GET = 8, 23
# Counters of a port (net/servers.py) that the master hears of, in the order of their cells.
REFUSALS = ("strangers_refused", "connections_refused", "transfers_too_slow", "requests_out_of_role", "conversations_broken",
            "transfers_refused", "descriptors_short")
_REFUSALS = 38
_N_BUCKETS = len(SECONDS_BUCKETS)
# After a letter found no room, its process does not wait again for so long: transfers go first, a block report repairs the loss.
_MAILBOX_REST_S = 1.0

# An epoch that could not be written is tried again after so long.
_SAVE_AGAIN_S = 10.0

log = logging.getLogger(__name__)

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def reason_of(error):
    """An error's sentence as events carry it: valid Unicode (a path in it may not be), and of bounded length."""
    return error.message[:1000].encode("utf-8", "replace").decode("utf-8")


class Page:
    """The shared memory. Make it before forking; every child sees the same cells."""

    def __init__(self, n_ports):
        self.n_ports = n_ports
        self._memory = mmap.mmap(-1, 8 * (_FIRST_SLOT + _SLOT_CELLS * (n_ports + 1)))
        self._cells = memoryview(self._memory).cast("Q")
        self.guard = Guard(n_ports)

    # -- the master's reign ---------------------------------------------------------------------------------------------
    def reign(self):
        """(epoch, tick) as last heard. Between two reports the tick stands still: a ticket then lives a second longer,
        and while no master can be heard the tickets it gave go on working."""
        cells = self._cells
        return cells[_EPOCH], cells[_TICK]

    def set_reign(self, epoch, tick):
        if epoch != self._cells[_EPOCH]:
            # In between, a reader sees tick 0: lenient for a moment, never an old epoch judged by a later clock.
            self._cells[_TICK] = 0
            self._cells[_EPOCH] = epoch
        self._cells[_TICK] = tick

    @property
    def n_registered(self):
        return self._cells[_REGISTERED]

    def count_registration(self):
        self._cells[_REGISTERED] += 1

    @property
    def is_connected(self):
        return bool(self._cells[_CONNECTED])

    def set_connected(self, is_connected):
        self._cells[_CONNECTED] = int(is_connected)

    @property
    def cluster_id(self):
        """The cluster's id, or None until it is known."""
        if not self._cells[_KNOWN]:
            return None
        return self._memory[8 * _CLUSTER:8 * _CLUSTER + 32].decode("ascii")

    def set_cluster(self, cluster_id):
        if not self._cells[_KNOWN]:
            self._memory[8 * _CLUSTER:8 * _CLUSTER + 32] = cluster_id.encode("ascii")
            self._cells[_KNOWN] = 1

    @property
    def wants_tls(self):
        """Whether this cluster's master is spoken to over TLS: every connection of this keeper then is to be, where its peer can."""
        return bool(self._cells[_ENCRYPTED])

    def want_tls(self):
        self._cells[_ENCRYPTED] = 1

    # -- processes ------------------------------------------------------------------------------------------------------
    def set_pid(self, slot, pid):
        """slot: index of a port, n_ports for the reporter, None for the supervisor."""
        self._cells[_SUPERVISOR if slot is None else self._at(slot) + _PID] = pid

    def pids(self):
        """Process ids of those that run: supervisor, ports in order, reporter."""
        found = [self._cells[_SUPERVISOR]] + [self._cells[self._at(slot) + _PID] for slot in range(self.n_ports + 1)]
        return [pid for pid in found if pid]

    def loads(self):
        """Transfers under way of each port, in order."""
        return [self._cells[self._at(slot) + _ACTIVE] for slot in range(self.n_ports)]

    def n_lost(self):
        """Events lost so far by all processes: when it has grown, only a whole block report tells the truth."""
        return sum(self._cells[self._at(slot) + _LOST] for slot in range(self.n_ports + 1))

    def moved(self):
        """(bytes from clients, bytes to clients, bytes of copies sent to other keepers) since this keeper started; grow, and begin anew at
        2⁵³, the largest count that messages carry."""
        cells, ports = self._cells, [self._at(slot) for slot in range(self.n_ports)]
        totals = sum(cells[at + _FROM_CLIENTS] for at in ports), sum(cells[at + _TO_CLIENTS] for at in ports), cells[self._at(self.n_ports) + _OUT]
        return tuple(total % (1 << 53) for total in totals)

    def refusals(self):
        """{name: count} of what all ports have refused since the keeper's start; of REFUSALS."""
        ports = [self._at(slot) + _REFUSALS for slot in range(self.n_ports)]
        return {name: sum(self._cells[at + which] for at in ports) for which, name in enumerate(REFUSALS)}

    def slot(self, index):
        return Slot(self._cells, self._at(index))

    def _at(self, slot):
        return _FIRST_SLOT + _SLOT_CELLS * slot


class Slot:
    """One process's own cells. Threads of the process share it."""

    def __init__(self, cells, at):
        self._cells, self._at = cells, at
        self._refused_before = [cells[at + _REFUSALS + which] for which in range(len(REFUSALS))]  # by this process's predecessors
        self._lock = threading.Lock()  # adding to a cell is a read and a write

    def reset(self):
        """A process begins: what its predecessor had under way has died with it."""
        self._cells[self._at + _ACTIVE] = 0

    def begin(self):
        """A transfer begins; returns how many are under way."""
        with self._lock:
            self._cells[self._at + _ACTIVE] += 1
            return self._cells[self._at + _ACTIVE]

    def end(self, n_in, n_out, kind=None, seconds=0.0):
        """A transfer has ended, with so many bytes in and out; kind: PUT or GET when its time counts."""
        cells, at = self._cells, self._at
        with self._lock:
            cells[at + _ACTIVE] -= 1
            cells[at + _ENDED] += 1
            cells[at + _IN] += n_in
            cells[at + _OUT] += n_out
            if kind is not None:
                cells[at + kind + bisect.bisect_left(SECONDS_BUCKETS, seconds)] += 1
                cells[at + kind + _N_BUCKETS + 1] += max(0, int(seconds * 1e6))

    def moves(self, n_from_clients, n_to_clients):
        """Bytes are moving between a client and this port."""
        with self._lock:
            self._cells[self._at + _FROM_CLIENTS] += n_from_clients
            self._cells[self._at + _TO_CLIENTS] += n_to_clients

    def copies(self, n):
        """Bytes of a copy are on their way to another keeper; its `end` need not count them again."""
        with self._lock:
            self._cells[self._at + _OUT] += n

    def refused(self, counters):
        """What this process's server has refused so far: {name: count}, of REFUSALS and others."""
        for which, name in enumerate(REFUSALS):
            self._cells[self._at + _REFUSALS + which] = self._refused_before[which] + counters[name]

    def lost(self):
        with self._lock:
            self._cells[self._at + _LOST] += 1

    def times(self, kind):
        """(counts of transfers up to each of SECONDS_BUCKETS, then of all; seconds in all) of PUT or GET."""
        first = self._at + kind
        *counts, microseconds = self._cells[first:first + _N_BUCKETS + 2]
        return list(itertools.accumulate(counts)), microseconds / 1e6

    def counters(self):
        """{name: count} of this slot."""
        names = ("pid", "active", "ended", "bytes_in", "bytes_out", "events_lost")
        return dict(zip(names, self._cells[self._at:self._at + len(names)]))


class Teller:
    """Tells the reporter's process what has happened here. Never raises, and delays a transfer by half a second at most."""

    def __init__(self, mailbox, slot, clock=time.monotonic):
        self._mailbox, self._slot, self._clock = mailbox, slot, clock
        self._patient_from_s = 0.0

    def __call__(self, event):
        """event: a dict as messages.EVENT has it, or {"kind": "sick", "reason": text}."""
        now_s = self._clock()
        patient = now_s >= self._patient_from_s
        if not self._mailbox.post(_encode(event).encode(), wait=patient):
            self._slot.lost()
            if patient:
                self._patient_from_s = self._clock() + _MAILBOX_REST_S


# -- the reign, on disk -------------------------------------------------------------------------------------------------
class HighestEpoch:
    """The highest epoch of a master this keeper has obeyed, kept in DIRECTORY/epoch: an older master finds no obedience,
    also after a restart (I13).

    A disk that takes no writes must not end reading: the epoch is then obeyed from memory, `is_saved` is False, and nothing is
    deleted for its master until it is on disk.
    """

    def __init__(self, directory, clock=time.monotonic):
        self._directory, self._clock = directory, clock
        self._path = os.path.join(directory, "epoch")
        self.value = self._load()
        self.is_saved, self._try_s = True, 0.0

    def _load(self):
        try:
            with open(self._path, encoding="ascii") as source:
                return int(source.read(32))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as e:
            raise errors.DiskFault(path=self._path, detail=f"the highest epoch cannot be read: {e}") from e

    def obey(self, epoch, address):
        """Take note of a master's epoch, durably, before anything it says is done. Raises NotMaster for a lower one."""
        if epoch < self.value:
            said = f"{address} is a master of epoch {epoch}, and this keeper has obeyed one of epoch {self.value}"
            raise errors.NotMaster(said, address=address, epoch=epoch, highest=self.value)
        if epoch > self.value or not self.is_saved and self._clock() >= self._try_s:
            self.value = epoch
            self._try_to_save()

    def _try_to_save(self):
        try:
            self._save(self.value)
            self.is_saved = True
        except errors.DiskFault as e:
            self.is_saved, self._try_s = False, self._clock() + _SAVE_AGAIN_S
            log.error("the master's epoch cannot be kept, so nothing is deleted for it epoch=%s reason=%s", self.value, e.message)

    def _save(self, epoch):
        try:
            self._save_anew(epoch)
        except OSError as e:
            if e.errno not in disk.FULL or not os.path.exists(self._path):
                raise errors.DiskFault(path=self._path, detail=e.strerror or str(e)) from e
            self._save_in_place(epoch)

    def _save_in_place(self, epoch):
        """A full disk has no room for a second file. The number only gets longer, and one sector is written whole or not at all."""
        try:
            fd = os.open(self._path, os.O_WRONLY)
            try:
                disk.write_start(fd, f"{epoch}\n".encode("ascii"))
                disk.fsync(fd)
            finally:
                os.close(fd)
        except OSError as e:
            raise errors.DiskFault(path=self._path, detail=e.strerror or str(e)) from e

    def _save_anew(self, epoch):
        new = self._path + ".new"
        with open(new, "w", encoding="ascii") as out:
            out.write(f"{epoch}\n")
            out.flush()
            disk.fsync(out.fileno())
        os.replace(new, self._path)
        with disk.Directory(self._directory) as top:
            top.sync()


# -- stopping -----------------------------------------------------------------------------------------------------------
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Turns signals into a readable pipe. A handler that set a threading.Event could meet its own thread holding the
    event's lock; a byte in a pipe cannot."""

    def __init__(self):
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self.is_set = False

    def install(self, signals):
        """Handle these from now on (main thread only)."""
        for number in signals:
            signal.signal(number, self._handle)

    def _handle(self, _number, _frame):
        self.is_set = True
        try:
            os.write(self._write, b"x")
        except OSError:
            pass  # the pipe is full: it says stop already

    def wait(self, seconds, also=None):
        """True when a signal has come; waits for it, or for the descriptor `also` to be readable, up to `seconds`."""
        if not self.is_set:
            poll = select.poll()  # not select(): a keeper with many connections has descriptors beyond its 1024
            for fd in (self._read, also):
                if fd is not None:
                    poll.register(fd, select.POLLIN)
            poll.poll(seconds * 1000)
        return self.is_set

    def fileno(self):
        return self._read

    def close(self):
        os.close(self._read)
        os.close(self._write)


def hold_lifeline(read_fd):
    """End this process at once when the supervisor is gone, whose end of the pipe is the only one that can be written (F2)."""

    def wait_for_end():
        while True:
            try:
                if not os.read(read_fd, 1):
                    break
            except InterruptedError:
                continue
            except OSError:
                break
        os._exit(1)

    threading.Thread(target=wait_for_end, name="lifeline", daemon=True).start()


def open_mailbox():
    return inherited.Mailbox()
