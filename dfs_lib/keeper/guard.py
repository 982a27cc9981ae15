"""What a keeper remembers about tickets, for all its processes: the key in use, users whose tickets are void, writes that are spent.

Never reads a ticket: `wire/trust` does, and the service asks here what the ticket itself cannot say.

A ticket for a put is good for one block, put once. While the put has not ended well it may be tried again, because the first try may
have been lost on its way; once it has, it is spent: shown again it is answered from the block that is there, and refused when
that block has gone, so that nothing dropped comes back by an old ticket. (One whose block turned out damaged is good again.)

    cells, in shared memory                                                                         written by
     0        ticket key id                                                                         reporter
     1        n: users whose tickets are void                                                       reporter
     2 …      256 of them, 8 bytes each as tickets know them                                        reporter
     258 …    tickets refused, one cell a port                                                      the port's process
     274 …    the place of the latest spent ticket, one cell a port                                 the port's process
     then     a table of spent tickets for each port: one stands in the cell of its place           the port's process

The master numbers the tickets that it makes for puts at this keeper; a ticket's place is its epoch and that number. A table holds the
last SPENT places. So a cell is taken over only by a ticket that is SPENT numbers later, and from then on the earlier one is refused for
its age, used or not: memory is bounded, and yet none can be used twice. A good ticket meets that refusal when SPENT others were
granted for this keeper and at least one of those spent while it lay unused (at 2,000 puts a second: for two minutes); its owner asks
the master for another. Tickets for reading have no number and take no place. All is forgotten when the keeper is restarted, not when
one of its processes is.
"""

import mmap
import threading

from dfs_lib import errors
from dfs_lib.wire import messages

# Places a port remembers: 2 MiB, of which the system gives what was touched.
SPENT = 1 << 18
_KEY_ID, _N_VOID, _VOID = 0, 1, 2
_REFUSED = _VOID + messages.MAX_REFUSED_USERS
_MOST_PORTS = 16
_LATEST = _REFUSED + _MOST_PORTS
_TABLES = _LATEST + _MOST_PORTS


class Guard:
    """The shared memory. Make it before forking; `at_port` gives a port's process its side of it."""

    def __init__(self, n_ports):
        self._n_ports = n_ports
        self._memory = mmap.mmap(-1, 8 * (_TABLES + SPENT * n_ports))
        self._cells = memoryview(self._memory).cast("Q")
        self._lock = threading.Lock()  # adding to a cell is a read and a write
        self._index = 0

    def at_port(self, index):
        self._index = index
        return self

    def count_refused(self):
        with self._lock:
            self._cells[_REFUSED + self._index] += 1

    def n_refused(self):
        """Tickets refused so far at all ports."""
        return sum(self._cells[_REFUSED:_REFUSED + self._n_ports].tolist())

    # -- from the master ------------------------------------------------------------------------------------------------
    def heard(self, key_id, void):
        """What the master said last. key_id: None leaves it as it is; void: list of 16 hex digits, None for nobody."""
        cells = self._cells
        if key_id is not None:
            cells[_KEY_ID] = key_id
        void = void or ()
        cells[_N_VOID] = min(cells[_N_VOID], len(void))  # a reader in between sees too few for a moment, never a stranger's
        for at, user in enumerate(void):
            cells[_VOID + at] = int(user, 16)
        cells[_N_VOID] = len(void)

    @property
    def key_id(self):
        return self._cells[_KEY_ID]

    def check_user(self, user):
        """Raise BadTicket when tickets of this user (8 bytes) are void."""
        cells = self._cells
        n = cells[_N_VOID]
        if n and int.from_bytes(user, "big") in cells[_VOID:_VOID + n].tolist():
            raise errors.BadTicket(detail="its user was removed or has a newer key")

    # -- puts -----------------------------------------------------------------------------------------------------------
    def spend(self, ticket):
        """A put with this ticket has ended well."""
        place, cells = _place(ticket), self._cells
        with self._lock:
            if self._is_past(place):
                return  # a long put: its cell is a later one's by now, and its age is enough
            # The latest place before the cell, and looked at after it: who finds a cell taken over must find its earlier owner too old.
            cells[_LATEST + self._index] = max(place, cells[_LATEST + self._index])
            cells[_TABLES + SPENT * self._index + place % SPENT] = _mark(ticket)

    def check_unspent(self, ticket):
        """Raise BadTicket when a put with this ticket has ended well before, or when that cannot be told any more."""
        place, mark, cells = _place(ticket), _mark(ticket), self._cells
        if any(cells[at] == mark for at in self._cells_of(place)):
            raise errors.BadTicket(detail="it was used already, and what it stored has gone")
        if self._is_past(place):
            raise errors.BadTicket(detail="so many of later numbers were used since that it is too old")

    def good_again(self, ticket):
        """What the put has stored was found damaged and is out of use: it may be put once more."""
        mark, cells = _mark(ticket), self._cells
        for at in self._cells_of(_place(ticket)):
            if cells[at] == mark:
                cells[at] = 0

    def _cells_of(self, place):
        return range(_TABLES + place % SPENT, _TABLES + SPENT * self._n_ports, SPENT)

    def _is_past(self, place):
        return place + SPENT <= max(self._cells[_LATEST:_LATEST + self._n_ports].tolist())


def _place(ticket):
    """Where a ticket stands among all of its keeper's: later reigns behind earlier ones. In one cell: an epoch has 20 bits (wire/fields), and
    2^44 numbers in one reign are 278 years at 2,000 a second."""
    return ticket.epoch << 44 | ticket.number & (1 << 44) - 1


def _mark(ticket):
    """What stands for a ticket in a cell: its serial and the random half of its block's id."""
    return ticket.serial ^ int(ticket.block[16:], 16)
