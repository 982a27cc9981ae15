"""The live look-up tables: keepers' status and ports under lease. Lost with the process and learnt again from the keepers.

Never durable, never logged, never asks a clock: every call that needs the time is given `now_s`, the master's monotonic clock.
One lock guards both tables; no call waits while it holds it.

    keeper status    number → what its registration, heartbeats and notices said last
    port leases      ticket serial → (keeper, port, until): taken at a grant, freed by the keeper's word, or lapsed by themselves
"""

import contextlib
import heapq
import threading

from dfs_lib import errors, model
from dfs_lib.plan import liveness, placement


class KeeperStatus:
    """What is known of one keeper now. Fields are guarded by the table's lock."""

    __slots__ = ("number", "id", "host", "ports", "labels", "draining", "incarnation", "session", "beat", "last_heard_s", "last_word_s",
                 "n_hearing", "connected", "closed_since_s", "refused", "free", "used", "n_blocks", "loads", "pids", "sick", "is_full", "scrub",
                 "reported", "state", "reason",
                 "lost_since_s", "clean_stop", "granted")

    def __init__(self, number, id_, host, ports, labels, draining, clean_stop):
        self.number, self.id, self.host, self.ports, self.labels = number, id_, host, tuple(ports), dict(labels)
        self.draining, self.clean_stop = draining, clean_stop
        self.incarnation = self.session = None
        self.beat = 0  # number of the last heartbeat accepted in this session
        self.last_heard_s = self.closed_since_s = None
        self.last_word_s = None  # when a message on its control connection came, or was answered
        self.n_hearing = 0  # messages of it that are being worked on: it waits for us, not we for it
        self.connected = self.refused = self.reported = False
        self.free = self.used = self.n_blocks = 0
        self.granted = 0  # bytes granted to uploads and not yet reported used
        self.loads, self.pids, self.sick = {}, [], ""
        self.is_full = False  # its last notice told of no free byte
        self.scrub = None  # a SCRUB_STATE, as it said last
        self.state, self.reason = model.DEAD, "never heard since this master started"
        self.lost_since_s = None  # since when its replicas do not count

    @property
    def name(self):
        return f"k{self.number}"


class LiveTables:
    """Both tables and what is derived from them: views for planners, the placement field, the order of readers."""

    def __init__(self, settings, rng):
        self._settings, self._rng = settings, rng
        self.lock = threading.RLock()
        self._keepers = {}  # number → KeeperStatus
        self._by_id = {}  # keeper id → number
        self._untold = set()  # numbers of keepers that were found dead a moment ago, see n_untold
        self._leases = {}  # serial → (number, port)
        self._lease_ends = []  # heap of (until_s, serial)
        self._port_load = {}  # (number, port) → leases
        self._views = self._field = self._counted = self._n_taking = None  # rebuilt when a keeper changes, and by the tick when figures did
        self._is_stale = False
        self._fresh = {}  # number → (session, blocks stored since it registered and before its report was compared)
        self.counters = {"heartbeats_stale": 0, "leases_lapsed": 0}

    # -- keepers --------------------------------------------------------------------------------------------------------
    def load(self, rows, now_s):
        """Known keepers from the catalog at start: dead until they speak. rows: (number, id, host, ports, labels, draining, clean_stop)."""
        with self.lock:
            for row in rows:
                keeper = KeeperStatus(*row)
                keeper.lost_since_s = now_s
                self._keepers[keeper.number] = keeper
                self._by_id[keeper.id] = keeper.number
            self._changed()

    def register(self, number, register, host, session, draining, now_s):
        """A keeper's process has registered: a new session, nothing confirmed yet."""
        with self.lock:
            keeper = self._keepers.get(number)
            if keeper is None:
                keeper = self._keepers[number] = KeeperStatus(number, register.keeper, host, register.ports, register.labels, draining, False)
                self._by_id[keeper.id] = number
            keeper.host, keeper.ports, keeper.labels = host, tuple(register.ports), dict(register.labels)
            keeper.incarnation, keeper.session, keeper.beat = register.incarnation, session, 0
            keeper.free, keeper.used, keeper.n_blocks, keeper.pids = register.free, register.used, register.n_blocks, register.pids
            keeper.last_heard_s = keeper.last_word_s = now_s
            keeper.connected, keeper.closed_since_s = True, None
            keeper.refused = keeper.reported = keeper.clean_stop = False
            keeper.lost_since_s = now_s if keeper.lost_since_s is None else keeper.lost_since_s
            self._changed()
            return keeper

    def refuse_clone(self, register, now_s):
        """Raise KeeperRefused when this id is alive and heard under another incarnation (F23)."""
        with self.lock:
            keeper = self._of_id(register.keeper)
            if keeper is None or not keeper.connected or keeper.incarnation == register.incarnation:
                return
            if now_s - keeper.last_heard_s < self._settings.suspect_after:
                raise errors.KeeperRefused(keeper=register.keeper, detail=f"a keeper of the same id lives at {keeper.host}, ports {list(keeper.ports)}: "
                                           "its data directory was copied")

    def heard(self, heartbeat, now_s):
        """Take a heartbeat; one of another session or not newer than the last is counted and dropped (F21)."""
        with self.lock:
            keeper = self._of_id(heartbeat.keeper)
            if keeper is None or heartbeat.session != keeper.session or heartbeat.number <= keeper.beat:
                self.counters["heartbeats_stale"] += 1
                return False
            keeper.beat, keeper.last_heard_s = heartbeat.number, now_s
            keeper.free, keeper.used, keeper.n_blocks, keeper.loads = heartbeat.free, heartbeat.used, heartbeat.n_blocks, heartbeat.loads
            keeper.granted = 0  # the figures include by now what was written; what is under way is granted anew below its size
            self._is_stale = True
            return True

    @contextlib.contextmanager
    def hearing(self, number, session, clock):
        """While a message of its control connection is worked on. clock: seconds now, at the beginning and at the end."""
        self._word(number, session, clock(), 1)
        try:
            yield
        finally:
            self._word(number, session, clock(), -1)

    def _word(self, number, session, now_s, n):
        with self.lock:
            keeper = self._keepers.get(number)
            if keeper is not None:
                keeper.n_hearing += n
                if keeper.session == session:
                    keeper.last_word_s = now_s

    def notified(self, number, notify):
        """Take a notice's figures. Returns whether the keeper takes blocks again, which it did not at the last notice."""
        with self.lock:
            keeper = self._keepers[number]
            was_able = not keeper.sick and not keeper.is_full
            keeper.is_full = notify.free == 0
            keeper.free, keeper.used, keeper.n_blocks, keeper.pids = notify.free, notify.used, notify.n_blocks, notify.pids
            keeper.scrub = notify.scrub
            if keeper.sick != notify.sick:
                keeper.sick = notify.sick
                self._changed()
            return not was_able and not keeper.sick and not keeper.is_full

    def reported(self, number, session):
        """The keeper's whole inventory of this session has been compared: its replicas count. Returns False for a session that is over."""
        with self.lock:
            keeper = self._keepers[number]
            if keeper.session != session:
                return False
            keeper.reported = True
            self._changed()
            return True

    def disconnected(self, number, session, now_s):
        with self.lock:
            keeper = self._keepers.get(number)
            if keeper is not None and keeper.session == session:
                keeper.connected, keeper.closed_since_s = False, now_s

    def stopped_cleanly(self, number):
        with self.lock:
            self._keepers[number].clean_stop = True

    def probed(self, number, refused):
        """The outcome of a connection attempt to a keeper without control connection; it may have come back meanwhile."""
        with self.lock:
            keeper = self._keepers.get(number)
            if keeper is not None:
                keeper.refused = refused and not keeper.connected

    def set_draining(self, number, draining):
        with self.lock:
            self._keepers[number].draining = draining
            self._changed()

    def forget(self, number):
        """It will never return: its id is unknown from now on."""
        with self.lock:
            keeper = self._keepers.pop(number)
            self._by_id.pop(keeper.id, None)
            self._fresh.pop(number, None)
            self._changed()

    def tick(self, now_s):
        """Judge every keeper. Returns [(number, from, to, reason)] of those whose state has changed."""
        with self.lock:
            table = {k.number: liveness.Heard(k.last_heard_s, k.connected, k.refused, k.closed_since_s, now_s if k.n_hearing else k.last_word_s)
                     for k in self._keepers.values()}
            after = liveness.judge_all(now_s, table, suspect_after_s=self._settings.suspect_after, dead_after_s=self._settings.dead_after)
            changes = liveness.transitions({k.number: k.state for k in self._keepers.values()}, after)
            for number, _old, new, _reason in changes:
                keeper = self._keepers[number]
                keeper.state = new
                if new == model.DEAD:
                    self._untold.add(number)
                    keeper.lost_since_s, keeper.reported, keeper.session = now_s, False, None
            for keeper in self._keepers.values():
                keeper.reason = after[keeper.number][1]
                if keeper.state != model.DEAD and keeper.reported:
                    keeper.lost_since_s = None
            if changes or self._is_stale:
                self._changed()
            self._lapse(now_s)
            return changes

    def told(self, number):
        """Repair knows that this keeper is dead."""
        with self.lock:
            self._untold.discard(number)

    def n_untold(self):
        """How many keepers are dead of which repair has not been told yet: their blocks may be short, and nobody has counted them."""
        with self.lock:
            return len(self._untold)

    def _of_id(self, keeper_id):
        return self._keepers.get(self._by_id.get(keeper_id))

    def number_of(self, keeper_id):
        """A keeper's number. Raises NoSuchKeeper."""
        with self.lock:
            number = self._by_id.get(keeper_id)
        if number is None:
            raise errors.NoSuchKeeper(keeper=keeper_id)
        return number

    def numbers_of(self, keeper_ids):
        """The numbers of those ids that are known."""
        with self.lock:
            return {self._by_id[each] for each in keeper_ids if each in self._by_id}

    def ids_of(self, numbers):
        """The ids of these keepers, in the order of their numbers."""
        with self.lock:
            return [self._keepers[number].id for number in sorted(numbers) if number in self._keepers]

    def keepers(self):
        """A copy of the list of KeeperStatus; read single fields only."""
        with self.lock:
            return list(self._keepers.values())

    def get(self, number):
        with self.lock:
            return self._keepers.get(number)

    def disconnected_keepers(self):
        """[(number, host, ports)] of keepers not dead whose control connection has closed: worth a probe."""
        with self.lock:
            return [(k.number, k.host, k.ports) for k in self._keepers.values() if not k.connected and k.state != model.DEAD]

    # -- what arrives while a block report is on its way -------------------------------------------------------------------
    def expect_report(self, number, session):
        """From now on remember what this keeper stores: its report may be older than that."""
        with self.lock:
            if self._fresh.get(number, (None,))[0] != session:
                self._fresh[number] = (session, set())

    def note_fresh(self, numbers, block):
        with self.lock:
            for number in numbers:
                if number in self._fresh:
                    self._fresh[number][1].add(block)

    def is_fresh(self, number, session, block):
        with self.lock:
            expected, blocks = self._fresh.get(number, (None, ()))
            return expected == session and block in blocks

    def take_fresh(self, number, session):
        """The blocks remembered; the report has been compared. Call it after the comparison has read the catalog."""
        with self.lock:
            if self._fresh.get(number, (None,))[0] != session:
                return set()
            return self._fresh.pop(number)[1]

    # -- derived --------------------------------------------------------------------------------------------------------
    def _changed(self):
        self._views = self._field = self._counted = self._n_taking = None
        self._is_stale = False

    def views(self):
        """{number: KeeperView} for planners."""
        with self.lock:
            if self._views is None:
                self._views = {k.number: self._view(k) for k in self._keepers.values()}
            return self._views

    def _view(self, keeper):
        leases = sum(self._port_load.get((keeper.number, port), 0) for port in keeper.ports)
        return model.KeeperView(keeper.number, keeper.id, keeper.host, keeper.ports, keeper.labels, keeper.state, keeper.draining,
                                max(0, keeper.free - keeper.granted), keeper.used, max(leases, sum(keeper.loads.values())), keeper.sick)

    def field(self):
        """The placement.Field of now. Use it under `lock`."""
        if self._field is None:
            views = self.views()
            self._field = placement.Field(views.values(), self._settings.spread)
        return self._field

    def choose(self, size, want, *, exclude=frozenset(), near=None, existing=()):
        """Keepers for one block of `size` bytes: tuple of KeeperView. Raises NoRoom. The space counts as taken until the next heartbeat."""
        with self.lock:
            field = self.field()
            chosen = field.choose(size, want, self._rng, exclude=exclude, near=near, existing=existing).chosen
            field.reserve([keeper.number for keeper in chosen], size)
            for keeper in chosen:
                self._keepers[keeper.number].granted += size
            return chosen

    def choose_again(self, chosen, size):
        """The keepers that were chosen a moment ago, as they are now, for one more block of `size` bytes; () when one would not do."""
        numbers = [keeper.number for keeper in chosen]
        with self.lock:
            field = self.field()
            if not field.still_fit(numbers, size):
                return ()
            field.reserve(numbers, size)
            for number in numbers:
                self._keepers[number].granted += size
            return tuple(field.keepers[number] for number in numbers)

    def n_taking(self, reported=False):
        """Keepers that may take new blocks now; with `reported`, only those whose block report has been compared."""
        n_taking = self._n_taking  # both numbers; asked for twice a file
        if n_taking is None:
            with self.lock:
                taking = [k for k in self._keepers.values() if k.state == model.LIVE and not k.draining and not k.sick]
                n_taking = self._n_taking = len(taking), sum(k.reported for k in taking)
        return n_taking[reported]

    def returning(self, now_s, has_just_started):
        """[(name, why)] of the keepers that take no new blocks at this moment and will, as far as anybody can tell, within seconds.

        Those are: one that has registered and is being judged or compared; a suspect one; one that is dead for want of heartbeats since
        no longer than it takes to say so (a busy machine or a switch that restarts silences a keeper that is well); and, while the
        master has just started, whoever it knows and has not heard. Not one that said goodbye or whose host refuses connections,
        because nobody runs there; nor one that is drained or sick, because waiting changes nothing about those.
        """
        with self.lock:
            found = []
            for k in self._keepers.values():
                if k.draining or k.sick or (k.state == model.LIVE and not (has_just_started and not k.reported)):
                    continue
                if k.last_heard_s is None:
                    returns = has_just_started
                elif k.clean_stop or k.refused:
                    returns = False
                else:
                    returns = k.state != model.DEAD or k.session is not None or now_s - k.lost_since_s < self._settings.dead_after
                if returns:
                    found.append((k.name, "its block report is on its way" if k.state == model.LIVE else k.reason))
            return found

    def counted(self):
        """Numbers whose replicas count: not dead, and confirmed since their start."""
        counted = self._counted
        if counted is None:
            with self.lock:
                counted = self._counted = frozenset(k.number for k in self._keepers.values() if k.state != model.DEAD and k.reported)
        return counted

    def lost_since(self):
        with self.lock:
            return {k.number: k.lost_since_s for k in self._keepers.values() if k.lost_since_s is not None}

    def clean_stopped(self):
        with self.lock:
            return {k.number for k in self._keepers.values() if k.clean_stop}

    def reading_order(self, numbers, client_host):
        """KeeperViews of these numbers in the order a reader should try them."""
        with self.lock:
            views = self.views()
            return placement.order([views[number] for number in numbers if number in views], client_host, self._rng)

    # -- port leases ----------------------------------------------------------------------------------------------------
    def lease_port(self, number, serial, until_s):
        """Lease the least loaded port of a keeper. Returns its ports, the leased one first."""
        with self.lock:
            ports = self._keepers[number].ports
            port = placement.port({port: self._port_load.get((number, port), 0) for port in ports})
            self._leases[serial] = (number, port)
            heapq.heappush(self._lease_ends, (until_s, serial))
            self._port_load[number, port] = self._port_load.get((number, port), 0) + 1
            return [port, *(other for other in ports if other != port)]

    def ports_of(self, number):
        """A keeper's ports, the least loaded first, without a lease."""
        with self.lock:
            return sorted(self._keepers[number].ports, key=lambda port: self._port_load.get((number, port), 0))

    def leased_on(self, serial):
        """The number of the keeper that this lease is for; None when it is over."""
        with self.lock:
            return self._leases.get(serial, (None, None))[0]

    def free_ports(self, serials):
        """Transfers are over: their leases end. Unknown serials have lapsed already."""
        with self.lock:
            for serial in serials:
                self._free(serial)

    def _free(self, serial):
        place = self._leases.pop(serial, None)
        if place is None:
            return False
        left = self._port_load[place] - 1
        if left:
            self._port_load[place] = left
        else:
            del self._port_load[place]
        return True

    def _lapse(self, now_s):
        while self._lease_ends and self._lease_ends[0][0] <= now_s:
            _until_s, serial = heapq.heappop(self._lease_ends)
            if self._free(serial):
                self.counters["leases_lapsed"] += 1

    def n_leases(self):
        with self.lock:
            return len(self._leases)
