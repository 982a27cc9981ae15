"""Where a new block goes, and in which order a reader tries.

Knows only KeeperViews that liveness has judged. Never asks a keeper, reads a clock or remembers a block.

    keepers ──▶ who may take it?          live, not draining, not sick; suspect ones in a second pool, used last
                     │                    dead, draining, sick: barred, with the reason
                     ▼
                draw by weight            free space / (1 + transfers under way): emptier first on average, and a
                     │                    hundred clients that ask at once do not meet on the emptiest one
                     ▼
                crowding (host, label…)   how many of the block's other replicas share its host, its room…;
                                          the least crowded wins, compared in that order
"""

from bisect import bisect
from collections import Counter, namedtuple
from itertools import accumulate

from dfs_lib import errors
from dfs_lib.model import DEAD, LIVE, SUSPECT

# Draws before the exact search: with half of the weight unfit, one search in 250 is exact; a draw costs under 1 µs.
TRIES = 8
# A keeper on the client's own host goes first unless it is this much worse off than the average: else one busy
# client fills the disk of its own machine.
NEAR_SHARE = 0.5

# One keeper a pool may draw. domain: one value for each spread key; weight > 0.
_Member = namedtuple("_Member", "number host domain weight keeper")


class Placement:
    """A decision: where a block goes. chosen and spares are tuples of KeeperView, in the order of the draw."""

    __slots__ = ("chosen", "spares", "_explain")

    def __init__(self, chosen, spares, explain):
        self.chosen = chosen
        self.spares = spares
        self._explain = explain

    @property
    def passed_over(self):
        """{number: reason} for every other keeper. Worked out when asked: an upload of many blocks does not pay for it."""
        return self._explain(self)

    def __repr__(self):
        return f"Placement(chosen={[k.number for k in self.chosen]}, spares={[k.number for k in self.spares]})"


def choose(keepers, size, want, rng, *, exclude=frozenset(), near=None, existing=(), spread=(), spares=0):
    """Pick keepers for one block; `Field.choose` for many on the same snapshot is the same without the preparation."""
    return Field(keepers, spread).choose(size, want, rng, exclude=exclude, near=near, existing=existing, spares=spares)


class Field:
    """Keepers prepared for many choices: built once when the snapshot changes, 1,000 keepers in a few milliseconds.

    keepers: iterable of KeeperView; spread: label keys whose values are failure domains, most important first. A keeper
    without such a label is a domain of its own host.
    Only `reserve` changes it: one thread at a time, or under the caller's lock.
    """

    def __init__(self, keepers, spread=()):
        self.spread = tuple(spread)
        self.keepers = {keeper.number: keeper for keeper in keepers}
        self._free = {number: keeper.free for number, keeper in self.keepers.items()}
        pools = {LIVE: [], SUSPECT: []}
        for keeper in self.keepers.values():
            if not _barred(keeper):
                pools[keeper.state].append(_Member(keeper.number, keeper.host, domain(keeper, self.spread),
                                                   weight(keeper), keeper))
        self._live = _Pool(pools[LIVE])
        self._suspect = _Pool(pools[SUSPECT])

    def choose(self, size, want, rng, *, exclude=frozenset(), near=None, existing=(), spares=0, suspects=True):
        """Pick keepers for one block.

        size: bytes; want: replicas; spares: keepers more, for when one of the chosen fails; rng: random.Random
        exclude: numbers not to be chosen; existing: numbers that hold the block: not chosen, and nobody crowds them
        near: the host of the client; a keeper there goes first unless it is far worse off than the average
        suspects: False to leave suspect keepers out altogether
        Returns Placement: never two on one keeper; none that shares a host, then a failure domain, while others last;
        suspect ones only when the live ones are used up. Fewer than `want` is an answer.
        Raises NoRoom when live keepers could be asked and none of them has room, or may take anything at all.
        Source: Ghemawat, Gobioff, Leung, SOSP 2003, sections 4.2 and 4.3 (spread over hosts, even out disk use).
        """
        barred = {*exclude, *existing}
        crowd = _Crowd((self.keepers[number] for number in existing if number in self.keepers), self.spread)
        draw = _Draw(self._free, size, barred, crowd, rng)
        picked = []
        if near is not None and want > 0 and not crowd.has_host(near):
            picked = draw.take_from(self._live.at_host(near), 1)
        for pool in (self._live, self._suspect) if suspects else (self._live,):
            picked += draw.take_from(pool, want + spares - len(picked))
        if not picked and want > 0:
            self._refuse_if_full(size, {*exclude, *existing})
        return Placement(tuple(picked[:want]), tuple(picked[want:]),
                         lambda placement: self._passed_over(placement, size, set(exclude), set(existing)))

    def still_fit(self, numbers, size):
        """Whether each of these, chosen a moment ago, would do for one more block of `size` bytes: live, willing, not full."""
        for number in numbers:
            keeper = self.keepers.get(number)
            if keeper is None or keeper.state != LIVE or _barred(keeper) or self._free[number] < size:
                return False
        return True

    def reserve(self, numbers, size):
        """Take `size` bytes off the free space of these keepers until the next snapshot: the blocks of one large file
        are chosen on one Field, and a full keeper must show."""
        for number in numbers:
            if number in self._free:
                self._free[number] -= size

    def _refuse_if_full(self, size, barred):
        """Nobody was picked: was anybody there to be asked? If not, the answer is an empty Placement."""
        asked = [keeper for keeper in self.keepers.values() if keeper.state == LIVE and keeper.number not in barred]
        if asked:
            why = Counter(_barred(keeper) or "too full" for keeper in asked)
            if "too full" not in why:  # their disks may be empty: room is not what is missing
                names = [f"k{keeper.number} is {_barred(keeper)}" for keeper in sorted(asked, key=lambda keeper: keeper.number)]
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                cure = "undrain one or add a keeper" if any(keeper.draining for keeper in asked) else "add a keeper"
                raise errors.NoRoom(f"no other keeper may take a copy: {', '.join(names[:5])}{more}; {cure}", size=size)
            detail = ", ".join(f"{n} {reason}" for reason, n in sorted(why.items()))
            raise errors.NoRoom(size=size, detail=f"of {len(asked)} live keeper(s) {detail}")

    def _passed_over(self, placement, size, exclude, existing):
        picked = placement.chosen + placement.spares
        near = picked + tuple(self.keepers[number] for number in existing if number in self.keepers)
        taken = {keeper.number for keeper in picked}
        return {keeper.number: self._reason(keeper, size, exclude, existing, near)
                for keeper in self.keepers.values() if keeper.number not in taken}

    def _reason(self, keeper, size, exclude, existing, others):
        if keeper.number in existing:
            return "has it already"
        if keeper.number in exclude:
            return "ruled out by the asker"
        if _barred(keeper):
            return _barred(keeper)
        if self._free[keeper.number] < size:
            return f"too full: {max(0, self._free[keeper.number])} bytes free"
        if keeper.state == SUSPECT:
            return "suspect: chosen last"
        return shared(keeper, others, self.spread) or "another was drawn"


def weight(keeper):
    """How readily a keeper is drawn: free bytes over the transfers it has under way. Above 0."""
    return max(1, keeper.free) / (1 + max(0, keeper.load))


def domain(keeper, spread):
    """The failure domains of a keeper: one value for each key of `spread`; its host where the label is missing."""
    return tuple((key, keeper.labels[key]) if key in keeper.labels else ("host", keeper.host) for key in spread)


def crowding(keeper, others, spread):
    """(how many of `others` share its host, its first failure domain, its second …); compared in that order.

    The host comes first: keepers on one machine fall together, whatever their labels claim.
    """
    return _Crowd(others, spread).of(keeper.host, domain(keeper, spread))


def shared(keeper, others, spread):
    """What `keeper` shares with one of `others`, in words, or ""."""
    for other in others:
        if other.host == keeper.host:
            return f"shares host {keeper.host} with k{other.number}"
    for key in spread:
        for other in others:
            if key in keeper.labels and keeper.labels[key] == other.labels.get(key):
                return f"shares {key}={keeper.labels[key]} with k{other.number}"
    return ""


def order(replicas, client_host, rng):
    """The keepers of a block in the order in which a reader tries them.

    replicas: list of KeeperView; client_host: text or None
    Same host first, then live by load (ties by chance, so that readers spread), then draining or sick, then suspect; dead
    last, because a heartbeat can be late and a reader has nothing to lose.
    """
    return sorted(replicas, key=lambda keeper: (_rank(keeper, client_host), keeper.load, rng.random()))


def _rank(keeper, client_host):
    if keeper.state != LIVE:
        return 4 if keeper.state == DEAD else 3
    if keeper.host == client_host:
        return 0
    return 2 if keeper.draining or keeper.sick else 1


def port(ports_load):
    """The least loaded port of {port: leases}; of several the first, whose process has just worked and has at hand what it needs.

    Raises Misuse when there is none.
    """
    if not ports_load:
        raise errors.Misuse(detail="a keeper without ports was asked for one")
    return min(ports_load, key=ports_load.get)


def _barred(keeper):
    """Why a keeper takes nothing new, whatever the block, or ""."""
    if keeper.state == DEAD:
        return "dead"
    if keeper.draining:
        return "draining"
    return f"sick: {keeper.sick}" if keeper.sick else ""


class _Crowd:
    """The hosts and failure domains that a block's replicas occupy."""

    def __init__(self, keepers, spread):
        # Plain dicts: a Counter's answer for a missing key costs a method call, and most keys are missing.
        self._hosts = {}
        self._domains = [{} for _ in spread]
        for keeper in keepers:
            self.add(keeper.host, domain(keeper, spread))

    def add(self, host, values):
        self._hosts[host] = self._hosts.get(host, 0) + 1
        for counts, value in zip(self._domains, values):
            counts[value] = counts.get(value, 0) + 1

    def has_host(self, host):
        return host in self._hosts

    def has_hosts(self, hosts):
        """All of them have a replica."""
        return len(hosts) <= len(self._hosts) and hosts <= self._hosts.keys()

    def is_clear(self, host, values):
        """Nobody shares anything."""
        if host in self._hosts:
            return False
        for counts, value in zip(self._domains, values):
            if value in counts:
                return False
        return True

    def of_domain(self, values):
        return tuple([counts.get(value, 0) for counts, value in zip(self._domains, values)])

    def of(self, host, values):
        return (self._hosts.get(host, 0), *self.of_domain(values))


class _Pool:
    """Members that are drawn by weight: one bisection in the running sum."""

    def __init__(self, members):
        self.members = members
        self.hosts = {member.host for member in members}
        self._sums = list(accumulate(member.weight for member in members))
        self.total = self._sums[-1] if members else 0
        self._groups = {}

    def draw(self, rng):
        # hi: random() * total can round up to total, which lies past the last sum
        return self.members[bisect(self._sums, rng.random() * self.total, 0, len(self._sums) - 1)]

    def by_domain(self):
        """{(failure domains): pool of its members}"""
        return self._grouped("domain", lambda member: member.domain, self.members)

    def by_place(self):
        """{(host, failure domains): pool of its members}"""
        return self._grouped("place", lambda member: (member.host, member.domain), self.members)

    def at_host(self, host):
        """The pool of the members on `host` that are not far worse off than the average."""
        enough = NEAR_SHARE * self.total / max(1, len(self.members))
        well_off = (member for member in self.members if member.weight >= enough)
        return self._grouped("host", lambda member: member.host, well_off).get(host, _NOBODY)

    def _grouped(self, name, key, members):
        """Made when first needed, because most draws never do."""
        if name not in self._groups:
            groups = {}
            for member in members:
                groups.setdefault(key(member), []).append(member)
            self._groups[name] = {value: _Pool(group) for value, group in groups.items()}
        return self._groups[name]


_NOBODY = _Pool([])


class _Draw:
    """One choice in the making: what is barred and crowded grows with each keeper taken."""

    def __init__(self, free, size, barred, crowd, rng):
        self._free, self._size, self._barred, self._crowd, self._rng = free, size, barred, crowd, rng

    def take_from(self, pool, n):
        """Up to n KeeperViews, the least crowded first, by weight among equals."""
        taken = []
        while len(taken) < n and pool.members:
            member = None
            if not self._crowd.has_hosts(pool.hosts):
                member = self._lucky(pool) or self._least_crowded_domain(pool)
            member = member or self._least_crowded(pool)
            if member is None:
                break
            self._barred.add(member.number)
            self._crowd.add(member.host, member.domain)
            taken.append(member.keeper)
        return taken

    def _fits(self, member):
        return self._free[member.number] >= self._size and member.number not in self._barred

    def _lucky(self, pool):
        """The common case in microseconds: a few draws meet a keeper that shares nothing."""
        for _ in range(TRIES):
            member = pool.draw(self._rng)
            if self._crowd.is_clear(member.host, member.domain) and self._fits(member):
                return member
        return None

    def _least_crowded_domain(self, pool):
        """A keeper on a host of its own, in the least crowded failure domain that has one; exact."""
        ranked = sorted((self._crowd.of_domain(values), self._rng.expovariate(part.total), values)
                        for values, part in pool.by_domain().items() if not self._crowd.has_hosts(part.hosts))
        for _, _, values in ranked:
            member = self._one_of(pool.by_domain()[values], lambda m: not self._crowd.has_host(m.host) and self._fits(m))
            if member is not None:
                return member
        return None

    def _least_crowded(self, pool):
        """Every host has one by now: the least crowded that fits; exact."""
        ranked = sorted((self._crowd.of(*place), self._rng.expovariate(part.total), place)
                        for place, part in pool.by_place().items())
        for _, _, place in ranked:
            member = self._one_of(pool.by_place()[place], self._fits)
            if member is not None:
                return member
        return None

    def _one_of(self, part, is_fit):
        """A member of `part` that is fit, by weight; None only when there is none."""
        if len(part.members) > TRIES:
            for _ in range(TRIES):
                member = part.draw(self._rng)
                if is_fit(member):
                    return member
        fit = [member for member in part.members if is_fit(member)]
        return self._rng.choices(fit, [member.weight for member in fit])[0] if fit else None
