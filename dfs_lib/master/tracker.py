"""What the master's threads share: the catalog, the live tables, uploads and orders, with the clock and chance they were given.

Decides nothing by itself. `clock` is monotonic seconds (leases, liveness, ticks), `wall` Unix seconds (only for display and `at`).
"""

from collections import deque
import itertools
import threading

from dfs_lib import errors, model
from dfs_lib.master.copies import Copies
from dfs_lib.master.draining import Measured
from dfs_lib.master.guards import Guard
from dfs_lib.master.live import LiveTables
from dfs_lib.master.orders import Orders
from dfs_lib.master.traffic import Traffic
from dfs_lib.master.trimming import Proofs
from dfs_lib.master.uploads import Uploads
from dfs_lib.master.users import Invitations, UserTable
from dfs_lib.wire import trust

# Tickets outlive any healthy block transfer by far; the master's word is asked for again long before.
TICKET_TICKS = 900
# The key that signs tickets is another one after so many ticks (10 h); the one before stays good, far longer than any ticket lives.
TICKET_KEY_TICKS = 36_000
# A port lease that nobody frees lapses after so long: a client that died holds no port for ever.
PORT_LEASE_S = 60.0
# Versions that are remembered as being read; the longest ago are forgotten first. About 150 bytes each.
MAX_READERS = 200_000
# After a start with known keepers: nothing is repaired or deleted until all have reported, or for this long.
SAFEMODE_S = 20.0


class Requests:
    """Requests of clients at work, up to a ceiling: `with requests:` raises Busy beyond it."""

    def __init__(self, most, count):
        self._free, self._most, self._count = deque(range(most)), most, count  # one step each way, so it needs no lock

    def __enter__(self):
        try:
            self._free.pop()
        except IndexError:
            self._count("requests_refused")
            raise errors.Busy(address="the master", detail=f"{self._most} requests are at work") from None

    def __exit__(self, *_):
        self._free.append(None)


class Tracker:
    """The master's state. One instance, shared by handler threads, the ticker and the repairer."""

    def __init__(self, settings, database, keyring, *, clock, wall, rng, new_id):
        self.settings, self.database, self.keyring = settings, database, keyring
        self.clock, self.wall, self.rng, self.new_id = clock, wall, rng, new_id
        self.epoch, self.cluster_id = database.epoch, database.cluster_id
        self.started_s = clock()
        self.live = LiveTables(settings, rng)
        self.uploads = Uploads(settings.upload_keep)
        self.orders = Orders(self.epoch << 32)
        self.heartbeat_port = 0
        self.is_encrypted = bool  # () → whether all connections since the start were encrypted; set by whoever opens the ports
        self.users = UserTable(self.queries().users(), TICKET_TICKS)
        self.invitations = Invitations(clock)
        self.requests = Requests(settings.max_requests, self.count)
        self.tickets_refused = {}  # keeper's number → tickets it has refused since it started, as it said last
        self.refusals = {}  # keeper's number → {name: what its ports have refused since it started}, as it said last
        self._n_rolled = 0  # guarded by _lock: ticket keys put out of use before their time
        self.stirred = threading.Event()  # something about a keeper has changed: it is judged now, and not at the next step
        self._lock = threading.Lock()
        self.last_version = self.epoch << 32  # a little old, now and then: two threads may take one at once
        self._versions = itertools.count(self.last_version + 1)
        self._serials = itertools.count((self.epoch << 32) + 1)
        self._put_numbers = {}  # keeper id → count of its tickets for puts in this reign
        self._counters = {}  # guarded by _lock
        self._alarms = {}  # guarded by _lock: key → (sentence, the same without any path)
        self._readers = {}  # guarded by _lock: version → monotonic seconds until which its blocks stay
        self._safemode_over = False
        self.guard = Guard(self.live, clock, self.alarm)
        self.proofs = Proofs(self.live, clock)
        self.traffic = Traffic(clock())
        self.copies = Copies(self)
        self.drained = Measured()
        self.live.load([(k.number, k.id, k.host, k.ports, k.labels, k.draining, k.clean_stop) for k in self.queries().keepers()],
                       self.started_s)

    def queries(self):
        """This thread's reads of the catalog."""
        return self.database.queries()

    def next_version(self):
        version = self.last_version = next(self._versions)
        return version

    def next_serial(self):
        return next(self._serials)

    @property
    def tick(self):
        """Whole seconds of this reign: the only clock that tickets know (F20)."""
        return int(self.clock() - self.started_s)

    # -- safemode -------------------------------------------------------------------------------------------------------
    def safemode(self):
        """Why nothing is repaired or deleted yet, or "" (F4)."""
        if self._safemode_over:
            return ""
        if self.database.unchecked:
            return "the catalog is being read through"
        # One that has reported is dead until the next tick has judged it: too early to refuse anybody for want of keepers.
        waiting = [k.name for k in self.live.keepers() if not k.reported or k.state == model.DEAD]
        left_s = self.started_s + SAFEMODE_S - self.clock()
        if waiting and left_s > 0:
            return f"waiting for block reports of {', '.join(waiting[:8])}, {left_s:.0f} s more at most"
        self._safemode_over = True
        return ""

    # -- ticket keys ----------------------------------------------------------------------------------------------------
    @property
    def ticket_key_id(self):
        """Which of this reign's ticket keys signs now."""
        return self.tick // TICKET_KEY_TICKS + self._n_rolled

    def roll_ticket_key(self, n=1):
        """Sign with a later key from now on. By two: what was signed before is void as soon as keepers hear of it."""
        with self._lock:
            self._n_rolled += n

    # -- tickets --------------------------------------------------------------------------------------------------------
    def read_ticket(self, block, keeper_id, size, identity):
        """(ticket text, its serial) to read one block on one keeper, for the peer of that identity."""
        return self._ticket(trust.READ, block, keeper_id, size, identity, b"", 0)

    def _put_ticket(self, operation, block, keeper_id, size, identity, file):
        """… to put it there, once: those of a keeper are numbered, which is what lets it tell spent ones for certain."""
        numbers = self._put_numbers.get(keeper_id)
        if numbers is None:
            numbers = self._put_numbers.setdefault(keeper_id, itertools.count(1))
        return self._ticket(operation, block, keeper_id, size, identity, file, next(numbers))

    def _ticket(self, operation, block, keeper_id, size, identity, file, number):
        serial = self.next_serial()
        return trust.make_ticket(self.keyring.ticket, trust.Ticket(
            operation, self.epoch, block, keeper_id, size, self.tick + TICKET_TICKS, serial, trust.user_digest(identity),
            self.ticket_key_id, number), file), serial

    def chain(self, keepers, block, size, identity, file=None):
        """Hops for a chain through these KeeperViews, and the serials of the ports it leases.

        Each hop's ticket is made for who will show it: the asker at the first, the keeper before it at the others.
        file: (path, version) that the block's trailer has to say; None for a copy, whose trailer is its source's.
        """
        hops, serials, holder = [], [], identity
        until_s = self.clock() + PORT_LEASE_S
        operation, said = (trust.COPY, b"") if file is None else (trust.WRITE, trust.file_of(*file))
        for keeper in keepers:
            ticket, serial = self._put_ticket(operation, block, keeper.id, size, holder, said)
            hops.append({"keeper": keeper.id, "host": keeper.host, "ports": self.live.lease_port(keeper.number, serial, until_s),
                         "ticket": ticket})
            serials.append(serial)
            holder = keeper.id
        return hops, serials

    # -- readers --------------------------------------------------------------------------------------------------------
    def reading(self, version, until_s):
        """Somebody reads a version: its blocks stay until then, even when its name goes (F28)."""
        with self._lock:
            self._readers[version] = max(until_s, self._readers.pop(version, 0.0))  # popped: the latest stands last
            if len(self._readers) > MAX_READERS:
                del self._readers[next(iter(self._readers))]

    def is_read(self, version, now_s):
        with self._lock:
            until_s = self._readers.get(version)
            if until_s is not None and until_s <= now_s:
                del self._readers[version]
                return False
            return until_s is not None

    def forget_readers(self, now_s):
        with self._lock:
            for version in [version for version, until_s in self._readers.items() if until_s <= now_s]:
                del self._readers[version]

    # -- numbers and alarms ---------------------------------------------------------------------------------------------
    def count(self, name, n=1):
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + n

    def counters(self):
        with self._lock:
            found = {**self._counters, "tickets_refused": sum(self.tickets_refused.copy().values())}
        for said in self.refusals.copy().values():
            for name, n in said.items():
                found[f"keepers_{name}"] = found.get(f"keepers_{name}", 0) + n
        return found

    def alarm(self, key, sentence, nameless=None):
        """Raise, change or (sentence "") end an alarm. Returns True when it is news.

        nameless: what those hear who may not know every path; to be given when the sentence names one.
        """
        with self._lock:
            news = self._alarms.get(key, ("",))[0] != sentence
            if sentence:
                self._alarms[key] = sentence, nameless or sentence
            else:
                self._alarms.pop(key, None)
            return news

    def alarms(self, nameless=False):
        with self._lock:
            return [told[nameless] for told in self._alarms.values()]

    def alarms_by_key(self):
        """{key: sentence} of the alarms that stand."""
        with self._lock:
            return {key: told[0] for key, told in self._alarms.items()}
