"""What a keeper remembers about tickets, for all its processes: the key in use, users whose tickets are void, writes that are spent.

Never reads a ticket: `wire/trust` does, and the service asks here what the ticket itself cannot say.

A write ticket is good for one block, put once. While the put has not ended well it may be tried again, because the first try may have
been lost on its way; once it has, the serial is spent: shown again it is answered from the block that is there, and refused when
that block has gone, so that nothing dropped comes back by an old ticket. (One whose block turned out damaged is good again.)

    cells, in shared memory                                                                         written by
     0        ticket key id                                                                         reporter
     1        n: users whose tickets are void                                                       reporter
     2 …      256 of them, 8 bytes each as tickets know them                                        reporter
     258 …    tickets refused, one cell a port                                                      the port's process
     then     a table of spent serials for each port: a serial stands in the cell of its remainder  the port's process

A cell taken by a later serial forgets the earlier one: that is one with the same remainder, 65,536 tickets older at least. All
is forgotten when the keeper is restarted, not when one of its processes is.
"""

import mmap
import threading

from dfs_lib import errors
from dfs_lib.wire import messages

SPENT = 1 << 16
_KEY_ID, _N_VOID, _VOID = 0, 1, 2
_REFUSED = _VOID + messages.MAX_REFUSED_USERS
_MOST_PORTS = 16
_TABLES = _REFUSED + _MOST_PORTS


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

    # -- writes ---------------------------------------------------------------------------------------------------------
    def spend(self, ticket):
        """A put with this ticket has ended well."""
        self._cells[_TABLES + SPENT * self._index + ticket.serial % SPENT] = _mark(ticket)

    def is_spent(self, ticket):
        at, cells, mark = _TABLES + ticket.serial % SPENT, self._cells, _mark(ticket)
        return any(cells[at + SPENT * port] == mark for port in range(self._n_ports))

    def good_again(self, ticket):
        """What the put has stored was found damaged and is out of use: it may be put once more."""
        at, cells, mark = _TABLES + ticket.serial % SPENT, self._cells, _mark(ticket)
        for port in range(self._n_ports):
            if cells[at + SPENT * port] == mark:
                cells[at + SPENT * port] = 0


def _mark(ticket):
    """What stands for a ticket in a cell: its serial and the random half of its block's id."""
    return ticket.serial ^ int(ticket.block[16:], 16)
