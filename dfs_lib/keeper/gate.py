"""What every transfer at a keeper's port passes: its ticket, the count of transfers under way, what is told of its end.

Never opens a file. Before `check` has let a request through no file is touched.
"""

import logging
import threading
import time

from dfs_lib import errors
from dfs_lib.keeper import shared
from dfs_lib.keeper.guard import Guard
from dfs_lib.net import servers
from dfs_lib.wire import messages, trust

log = logging.getLogger(__name__)

# Ended transfers and small blocks stored are told in batches; this many at the latest.
_SERIALS = _STORED = 100
# How often a disk that hangs is told of: more often than the keeper takes to think it well again.
HANG_EVERY_S = 3.0


class Gate:
    """One port's. Threads of its server share it.

    keyring: trust.Keyring; reign() → (epoch, tick) of the master as last heard; tell(event): see shared.Teller; slot: begin() and
    end(n_in, n_out) of each transfer, moves() of what clients send and get; has(block) → whether the block is in use here; guard: Guard of all this keeper's processes
    (default: one for this port alone); disk_timeout_s: what one write or sync may take; max_transfers: at once, see settings.
    """

    def __init__(self, keyring, keeper_id, reign, tell, slot, has, guard=None, disk_timeout_s=15.0, max_transfers=256):
        self.disk_timeout_s, self._max_transfers = disk_timeout_s, max_transfers
        self.n_refused = 0  # transfers beyond max_transfers
        self._on_disk = {}  # thread id → since when it waits for the disk (monotonic seconds); each thread has its own key
        self._hang_told_s = float("-inf")
        self.keeper_id, self.tell, self._has, self._ticket_key = keeper_id, tell, has, keyring.ticket
        self._reign, self._slot = reign, slot
        self.guard = guard or Guard(1)
        self._complaints = servers.Complaints()
        self._lock = threading.Lock()
        self._serials = []  # guarded by _lock: tickets whose transfers have ended, not yet told
        self._stored = []  # guarded by _lock: [block, size, checksums] of small blocks, not yet told

    def check_put(self, text, block, size, file, exchange):
        """The ticket in `text`, when it allows whoever asks to put this block. Raises BadTicket.

        file: {"path", "version"} as the trailer will say them. What a rebuild of the catalog will believe is what the master gave out.
        """
        return self._check(text, trust.WRITE, block, size, exchange, trust.file_of(file["path"], file["version"]))

    def check_get(self, text, block, size, exchange):
        """… to read so much of it."""
        return self._check(text, trust.READ, block, size, exchange)

    def _check(self, text, operation, block, size, exchange, file=b""):
        try:
            ticket = trust.read_ticket(self._ticket_key, text, file)
            if operation == trust.WRITE and ticket.operation == trust.COPY and exchange.peer.role == messages.KEEPER:
                operation = trust.COPY
            epoch, tick = self._reign()
            trust.check_ticket(ticket, operation=operation, block=block, keeper=self.keeper_id, size=size,
                               user=trust.user_digest(exchange.peer.identity), epoch=epoch, tick=tick, key_id=self.guard.key_id)
            self.guard.check_user(ticket.user)
        except errors.BadTicket as e:
            self.refused(block, exchange, e)
            raise
        return ticket

    def refused(self, block, exchange, error):
        """A ticket was refused: counted, and told once a minute for each who shows such."""
        self.guard.count_refused()
        n_held = self._complaints.due(f"{exchange.peer.identity} {exchange.peer_host}")
        if n_held is not None:
            log.warning("ticket refused who=%s from=%s block=%s reason=%s repeated=%s", exchange.peer.identity, exchange.peer_host,
                        block, error.message, n_held)

    def check_unspent(self, ticket, block, exchange):
        """Raise BadTicket when a put with this ticket has ended well before: what it stored has gone."""
        try:
            self.guard.check_unspent(ticket)
        except errors.BadTicket as e:
            self.refused(block, exchange, e)
            raise

    # -- transfers ------------------------------------------------------------------------------------------------------
    def begin(self):
        """A transfer begins; returns when (monotonic seconds), for `end`."""
        if self._slot.begin() > self._max_transfers:
            self._slot.end(0, 0)
            with self._lock:
                self.n_refused += 1
            raise errors.Busy(address="this port", detail=f"{self._max_transfers} transfers are under way")
        return time.monotonic()

    def end(self, tickets, n_in, n_out, kind, began_s):
        """One transfer under these tickets is over. kind: shared.PUT or GET."""
        self._slot.end(n_in, n_out, kind, time.monotonic() - began_s)
        with self._lock:
            self._serials += [ticket.serial for ticket in tickets]
            if len(self._serials) < _SERIALS:
                return
        self.flush()

    def came(self, exchange, n):
        """So many bytes of a body have come; of an upload each byte counts once, at the keeper that the client sends it to."""
        if exchange.peer.role == messages.CLIENT:
            self._slot.moves(n, 0)

    def went(self, exchange, n):
        """So many bytes of an answer have gone."""
        if exchange.peer.role == messages.CLIENT:
            self._slot.moves(0, n)

    def stored(self, rows):
        """These blocks are durable here: [[block, size, checksums in hex], …]. Told at once: a resume wants to know of them, and a
        copy may be dropped again by the next order, which must not be heard of before it."""
        self.tell({"kind": "stored", "stored": rows})

    def stored_for_uploads(self, rows):
        """The same of small blocks of uploads, told with the next `flush`: the client's commit brings the news, this is for strays.

        When this process is killed before that, its supervisor has the whole inventory reported.
        """
        with self._lock:
            self._stored += rows
            if len(self._stored) < _STORED:
                return
        self.flush()

    def flush(self):
        """Tell what has ended and what was stored since the last time. The port's process calls it a few times a second."""
        if not self._serials and not self._stored:
            return
        with self._lock:
            serials, self._serials = self._serials, []
            stored, self._stored = self._stored, []
        if serials:
            self.tell({"kind": "transfer_done", "serials": serials})
        # Another process may have dropped one since, and have said so before us: a replica must not be put on record again by old news.
        stored = [row for row in stored if self._has(row[0])]
        for start in range(0, len(stored), _STORED):
            self.tell({"kind": "stored", "stored": stored[start:start + _STORED]})
        # … or in between. Whoever takes one away after this second look says so after what we have just told.
        for block, _size, _crcs in stored:
            if not self._has(block):
                self.tell({"kind": "dropped", "block": block})

    # -- damage ---------------------------------------------------------------------------------------------------------
    def bad(self, block, error):
        """The catalog believes in a replica that is not (wholly) here: say so, that it be made again."""
        log.warning("replica bad block=%s reason=%s", block, error.message)
        self.flush()  # what was stored before is told before
        self.tell({"kind": "bad", "block": block, "reason": shared.reason_of(error)})
        if isinstance(error, errors.DiskFault):
            self.sick(error)

    def sick(self, error):
        self.tell({"kind": "sick", "reason": shared.reason_of(error)})

    def no_room(self, error):
        """A put met NoRoom. When the disk itself said so, whatever its figures are (a quota, or others are quicker), that is told."""
        if isinstance(error.__cause__, OSError):
            self.tell({"kind": "full"})

    # -- a disk that hangs ------------------------------------------------------------------------------------------------
    def on_disk(self, more_s=0.0):
        """While this context is open, the thread waits for the disk; more_s: beyond what one write or sync may take."""
        return _Waiting(self._on_disk, more_s)

    def watch_disk(self, now_s):
        """Tell when a thread waits for the disk too long. The port's process calls it a few times a second.

        Its asker has heard no Working since then and goes elsewhere; the thread stays until the system answers it.
        """
        since_s = min(list(self._on_disk.values()), default=now_s)
        if now_s - since_s > self.disk_timeout_s and now_s - self._hang_told_s > HANG_EVERY_S:
            self._hang_told_s = now_s
            self.tell({"kind": "sick", "reason": f"the disk has left something unanswered for over {self.disk_timeout_s:g} s"})


class _Waiting:
    """`table` is thread id → since when it waits for the disk."""

    __slots__ = ("_table", "_key", "_more_s")

    def __init__(self, table, more_s):
        self._table, self._key, self._more_s = table, threading.get_ident(), more_s

    def __enter__(self):
        self._table[self._key] = time.monotonic() + self._more_s

    def __exit__(self, *_):
        del self._table[self._key]
