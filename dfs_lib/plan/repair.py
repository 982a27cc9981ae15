"""What to copy, what to drop, what to leave and why: want against have, one block at a time.

Knows one block's replicas, the keepers as liveness judged them, and a Field to place on. Never scans all blocks, gives an
order or touches the catalog: `master/repairer` does, and it plans a block again when something about it changed.

    a replica on a keeper that is …                 good source   counts towards want
      live or suspect, and confirmed it since boot      yes            yes
      the same, but draining, or asked to leave         yes            no: dropped once `want` others are confirmed
      live or suspect, not confirmed yet                no             no; its block report is waited for, shortly
      dead                                              no             no; its return is waited for, one grace

    no good copy ──▶ Leave      fewer than want ──▶ Copy, or Wait      more ──▶ Drop, or Leave      want ──▶ Leave, or move

A move is a Copy to the better place and, when that is confirmed, a Drop here: never the other way round (I3).
"""

import heapq
from collections import Counter, namedtuple
from itertools import islice

from dfs_lib import errors
from dfs_lib.model import DEAD, LIVE, STOPPED, SUSPECT, duration_text, size_text, state_word
from dfs_lib.plan import placement

# A keeper that has just started sends its block report within seconds; copying all it holds meanwhile would be for nothing.
REPORT_GRACE_S = 10.0
# Behind every block that is short (their risk is the number of good copies left): moves and drops only tidy up.
RISK_TIDY = 99

# One block as the planner sees it. block: 32 hex; size: bytes; want: replicas; holders: {keeper number: confirmed since
# that keeper's boot}; leaving: numbers whose replica shall go when it is safe (a rebalance chose them).
BlockView = namedtuple("BlockView", "block size want holders leaving", defaults=(frozenset(),))

# Decisions. source, keeper: keeper numbers; targets: numbers in chain order; risk: good copies left, or RISK_TIDY.
Copy = namedtuple("Copy", "block source targets risk reason")
Drop = namedtuple("Drop", "block keeper reason")
Wait = namedtuple("Wait", "block until_s reason")
Leave = namedtuple("Leave", "block reason")

_Standing = namedtuple("_Standing", "staying going unconfirmed dead forgotten clean_stopped")


def plan(block, keepers, field, rng, *, now_s, lost_since_s, grace_s, clean_stop_grace_s, clean_stopped=frozenset(),
         spread=None, avoid=frozenset(), report_grace_s=REPORT_GRACE_S):
    """The next step for one block.

    block: BlockView; keepers: {number: KeeperView}; field: placement.Field of the same keepers; rng: random.Random
    now_s: monotonic; lost_since_s: {number: when that keeper stopped counting: died, or came back unconfirmed}; a number
    that is missing there counts as long gone
    grace_s, clean_stop_grace_s: how long a dead keeper is waited for; the latter for the numbers in clean_stopped
    spread: label keys that are failure domains (default: the field's); avoid: numbers that failed lately for this block as
    source or target, used again only when nobody else is left (F16)
    Returns Copy (several targets: a chain) | Drop (one replica) | Wait (plan again at until_s) | Leave (plan again when its
    keepers or replicas change). Orders under way are the caller's to remember: it plans such a block when they end.
    """
    ask = _Ask(block, field, rng, field.spread if spread is None else tuple(spread), avoid)
    standing = _standing(block, keepers, clean_stopped)
    if not standing.staying and not standing.going:
        return Leave(block.block, _why_lost(standing))
    missing = block.want - len(standing.staying)
    if missing > 0:
        deadlines = _deadlines(standing, now_s, lost_since_s, report_grace_s,
                               lambda number: clean_stop_grace_s if number in clean_stopped else grace_s)
        return _fill(ask, standing, missing, *deadlines)
    if missing < 0 or standing.going:
        return _trim(ask, standing)
    return _move_apart(ask, standing)


def risk(block, keepers):
    """Good copies left of a block that is short, RISK_TIDY of one that is not: the order of the queue."""
    standing = _standing(block, keepers)
    return RISK_TIDY if len(standing.staying) >= block.want else len(standing.staying) + len(standing.going)


def move(block, source, target, keepers, spread=()):
    """Copy(…) of one block from keeper `source` to `target` for a rebalance, or Leave with what speaks against it.

    The caller adds `source` to the block's `leaving`, so that `plan` drops it there once the copy is confirmed.
    """
    standing = _standing(block, keepers)
    others = [keeper for keeper in standing.staying if keeper.number != source]
    taker = keepers.get(target)
    if source not in {keeper.number for keeper in standing.staying} or len(standing.staying) != block.want:
        return Leave(block.block, "repair has to do with this block first")
    if taker is None or taker.state != LIVE or taker.draining or taker.sick or taker.free < block.size:
        return Leave(block.block, f"k{target} cannot take it")
    if target in block.holders:
        return Leave(block.block, f"k{target} has it already")
    if placement.crowding(taker, others, spread) > placement.crowding(keepers[source], others, spread):
        return Leave(block.block, f"k{target} {placement.shared(taker, others, spread)}")
    return Copy(block.block, source, (target,), RISK_TIDY, f"k{source} is fuller than k{target}")


# -- one block --------------------------------------------------------------------------------------------------------
class _Ask(namedtuple("_Ask", "block field rng spread avoid")):
    """What every branch of `plan` needs to choose a source and a target."""

    def source(self, good):
        """The number to copy from: live and idle first; those that failed lately last."""
        tried = placement.order(good, None, self.rng)
        return min(tried, key=lambda keeper: keeper.number in self.avoid).number  # min keeps the order among equals

    def targets(self, n, existing):
        """(up to n numbers, "") or ((), why nobody takes it). Suspect keepers are no targets: repair can wait for them."""
        holders = frozenset(self.block.holders) | self.block.leaving
        existing = [keeper.number for keeper in existing]
        for exclude in (holders | self.avoid, holders) if self.avoid else (holders,):
            try:
                found = self.field.choose(self.block.size, n, self.rng, exclude=exclude, existing=existing, suspects=False)
            except errors.NoRoom as e:
                why = e.message
                continue
            if found.chosen:
                return tuple(keeper.number for keeper in found.chosen), ""
            why = "no other live keeper can take it"
        return (), why


def _standing(block, keepers, clean_stopped=frozenset()):
    """The holders of a block, sorted by what their replica is worth now (the table at the top)."""
    standing = _Standing([], [], [], [], [], clean_stopped)
    for number, is_confirmed in block.holders.items():
        keeper = keepers.get(number)
        if keeper is None:
            standing.forgotten.append(number)
        elif keeper.state == DEAD:
            standing.dead.append(keeper)
        elif not is_confirmed:
            standing.unconfirmed.append(keeper)
        elif keeper.draining or number in block.leaving:
            standing.going.append(keeper)
        else:
            standing.staying.append(keeper)
    # A keeper that would not count if it came back is not worth waiting for.
    for absent in (standing.dead, standing.unconfirmed):
        gone = [keeper for keeper in absent if keeper.draining or keeper.number in block.leaving]
        standing.forgotten.extend(keeper.number for keeper in gone)
        absent[:] = [keeper for keeper in absent if keeper not in gone]
    return standing


def _why_lost(standing):
    places = [f"k{keeper.number} ({_word(keeper, standing)})" for keeper in standing.dead]
    places += [f"k{keeper.number} (has yet to confirm it)" for keeper in standing.unconfirmed]
    places += [f"k{number} (gone or leaving)" for number in standing.forgotten]
    return f"no good copy is left; it was on {', '.join(places) or 'no keeper'}"


def _deadlines(standing, now_s, lost_since_s, report_grace_s, grace_of):
    """(when each dead keeper's grace ends, when each block report is overdue): sorted, only what is yet to come."""
    never = float("-inf")
    dead = [lost_since_s.get(keeper.number, never) + grace_of(keeper.number) for keeper in standing.dead]
    reports = [lost_since_s.get(keeper.number, never) + report_grace_s for keeper in standing.unconfirmed]
    return sorted(at for at in dead if at > now_s), sorted(at for at in reports if at > now_s)


def _fill(ask, standing, missing, returns, reports):
    """Too few copies: what nobody can be expected to bring back is copied now, the rest is waited for."""
    block = ask.block
    good = standing.staying + standing.going
    expected = sorted(returns + reports)
    n_now = missing - len(expected)
    is_last = len(good) <= 1 < block.want
    if is_last and not reports:
        n_now = max(1, n_now)
    have = f"{len(standing.staying)} of {block.want} copies are good"
    if n_now <= 0:
        until_s = expected[len(expected) - missing]  # then fewer are expected than are missing
        return Wait(block.block, min(until_s, reports[-1]) if is_last else until_s,
                    f"{have}: {_why_wait(standing)}; copied again unless it returns in time")
    targets, why_none = ask.targets(n_now, standing.staying)
    why = _why_now(standing, is_last, len(returns))
    if not targets:
        return Leave(block.block, f"{have} ({why}), and {why_none}")
    return Copy(block.block, ask.source(good), targets, len(good), f"{have}: {why}")


def _who(keepers, what):
    return f"{', '.join(f'k{keeper.number}' for keeper in keepers)} {what}"


def _word(keeper, standing):
    return state_word(keeper.state, keeper.number in standing.clean_stopped)


def _who_is_gone(standing, what=""):
    """`k3 dead, k4 stopped`, with `what` behind each."""
    words = {word: [keeper for keeper in standing.dead if _word(keeper, standing) == word] for word in (DEAD, STOPPED)}
    return [_who(keepers, word + what) for word, keepers in words.items() if keepers]


def _why_wait(standing):
    return ", ".join(_who_is_gone(standing) + ([_who(standing.unconfirmed, "yet to report")] if standing.unconfirmed else []))


def _why_now(standing, is_last, n_in_grace):
    """In words, the reason not to wait."""
    why = ["one good copy is left"] if is_last else []
    if standing.going:
        why.append(_who(standing.going, "draining or leaving"))
    if len(standing.dead) > n_in_grace:
        why += _who_is_gone(standing, " longer than the grace")
    return ", ".join(why) or "fewer copies than wanted"


def _trim(ask, standing):
    """Too many copies, or some on keepers that are being emptied: one goes, if `want` others are proven (I3).

    Only a live keeper's replica is dropped (the order must arrive) and only live keepers prove one.
    """
    block = ask.block
    proven = [keeper for keeper in standing.staying if keeper.state == LIVE]
    going = [keeper for keeper in standing.going if keeper.state == LIVE]
    needed = max(1, block.want)
    if going and len(proven) >= needed:
        keeper = _most_crowded(going, going + standing.staying, ask)
        return Drop(block.block, keeper.number,
                    f"k{keeper.number} is draining or leaving, and {len(proven)} other copies are confirmed")
    if len(standing.staying) > block.want and len(proven) > needed:
        keeper = _most_crowded(proven, standing.staying, ask)
        others = [other for other in standing.staying if other is not keeper]
        why = placement.shared(keeper, others, ask.spread) or "it is the fullest"
        return Drop(block.block, keeper.number,
                    f"{len(standing.staying)} copies and {block.want} wanted; of k{keeper.number}: {why}")
    if standing.going and len(proven) >= needed:
        return Leave(block.block, f"the copy to drop is on {_who(standing.going, 'suspect')}: the order waits for it")
    return Leave(block.block, f"a copy too many stays until {needed} others are confirmed on live keepers")


def _most_crowded(candidates, replicas, ask):
    """Whose replica to give up: it shares most with the others, its keeper is sick, its disk is the fullest."""
    def badness(keeper):
        others = [other for other in replicas if other is not keeper]
        return (placement.crowding(keeper, others, ask.spread), bool(keeper.sick), fill(keeper), ask.rng.random())

    return max(candidates, key=badness)


def _move_apart(ask, standing):
    """As many copies as wanted: are two of them in one place while another place has room?

    Each move leaves fewer pairs that share something than before, so moves come to an end.
    """
    block, replicas = ask.block, standing.staying
    healthy = Leave(block.block, f"{len(replicas)} of {block.want} copies are good")
    if len(replicas) < 2 or any(keeper.state == SUSPECT for keeper in replicas):
        return healthy
    worst = _most_crowded(replicas, replicas, ask)
    others = [keeper for keeper in replicas if keeper is not worst]
    crowding = placement.crowding(worst, others, ask.spread)
    if not any(crowding):
        return healthy
    targets, _ = ask.targets(1, others)
    if not targets or placement.crowding(ask.field.keepers[targets[0]], others, ask.spread) >= crowding:
        return healthy
    return Copy(block.block, ask.source(replicas), targets, RISK_TIDY,
                f"k{worst.number} {placement.shared(worst, others, ask.spread)}; k{targets[0]} is a better place")


# -- the queue --------------------------------------------------------------------------------------------------------
Queued = namedtuple("Queued", "block risk queued_s due_s reason")


class Queue:
    """Blocks that repair has to see, lowest risk number first, then the longest queued; each not before it is due.

    add, move, remove and pop_due cost O(log n). Two heaps hold keys, `_entries` the truth: a key that no longer agrees with
    its entry is skipped when it surfaces, and a heap of mostly such keys is built anew. Not locked: the caller's lock.

        waiting: (due_s, block) ── due ──▶ ready: (risk, queued_s, block) ── pop_due ──▶ out
    """

    def __init__(self):
        self._entries = {}  # block: (risk, queued_s, due_s, reason, is_ready)
        self._ready = []
        self._waiting = []
        self._n_by_risk = Counter()

    def __len__(self):
        return len(self._entries)

    def __contains__(self, block):
        return block in self._entries

    def add(self, block, risk, now_s, *, reason="", due_s=None, queued_s=None):
        """Queue a block, or say anew what is known of one that is queued: it keeps its place in time.

        due_s: not before then (default: now); queued_s: when it was first queued, if it was taken out meanwhile
        """
        old = self._entries.get(block)
        if old is not None:
            queued_s = old[1]
            self._count(old[0], -1)
        self._put(block, risk, now_s if queued_s is None else queued_s, now_s if due_s is None else due_s, reason, now_s)
        self._count(risk, 1)

    def move(self, block, now_s, *, risk=None, due_s=None, reason=None):
        """Change what is given of a queued block. Returns False when it is not queued."""
        old = self._entries.get(block)
        if old is None:
            return False
        self.add(block, old[0] if risk is None else risk, now_s, due_s=old[2] if due_s is None else due_s,
                 reason=old[3] if reason is None else reason)
        return True

    def remove(self, block):
        """Forget a block. Returns False when it was not queued."""
        old = self._entries.pop(block, None)
        if old is None:
            return False
        self._count(old[0], -1)
        return True

    def get(self, block):
        """Queued(…) for `why`, or None."""
        entry = self._entries.get(block)
        return None if entry is None else Queued(block, *entry[:4])

    def pop_due(self, now_s):
        """Take out the most urgent block that is due: Queued(…), or None."""
        self._wake(now_s)
        while self._ready:
            risk, queued_s, block = heapq.heappop(self._ready)
            entry = self._entries.get(block)
            if entry is not None and entry[4] and entry[:2] == (risk, queued_s):
                self.remove(block)
                return Queued(block, *entry[:4])
        return None

    def next_due_s(self, now_s):
        """When pop_due will have something: now_s if it has, None for an empty queue."""
        self._wake(now_s)
        while self._ready and not self._is_current(self._ready[0]):
            heapq.heappop(self._ready)
        if self._ready:
            return now_s
        return self._waiting[0][0] if self._waiting else None

    def blocks(self, limit=None):
        """The ids of what is queued, in no order; at most `limit` of them."""
        return list(self._entries if limit is None else islice(self._entries, limit))

    def counts(self):
        """{risk: blocks queued}."""
        return dict(self._n_by_risk)

    def _put(self, block, risk, queued_s, due_s, reason, now_s):
        is_ready = due_s <= now_s
        self._entries[block] = (risk, queued_s, due_s, reason, is_ready)
        if is_ready:
            heapq.heappush(self._ready, (risk, queued_s, block))
        else:
            heapq.heappush(self._waiting, (due_s, block))
        if len(self._ready) + len(self._waiting) > 2 * len(self._entries) + 64:
            self._rebuild()

    def _wake(self, now_s):
        """Move what has come due; leaves a current key, or none, on top of the waiting heap."""
        while self._waiting:
            due_s, block = self._waiting[0]
            entry = self._entries.get(block)
            is_current = entry is not None and not entry[4] and entry[2] == due_s
            if is_current and due_s > now_s:
                return
            heapq.heappop(self._waiting)
            if is_current:
                self._put(block, *entry[:4], now_s)

    def _is_current(self, key):
        entry = self._entries.get(key[2])
        return entry is not None and entry[4] and entry[:2] == key[:2]

    def _rebuild(self):
        self._ready = [(entry[0], entry[1], block) for block, entry in self._entries.items() if entry[4]]
        self._waiting = [(entry[2], block) for block, entry in self._entries.items() if not entry[4]]
        heapq.heapify(self._ready)
        heapq.heapify(self._waiting)

    def _count(self, risk, n):
        self._n_by_risk[risk] += n
        if not self._n_by_risk[risk]:
            del self._n_by_risk[risk]


# -- many blocks ------------------------------------------------------------------------------------------------------
# size: bytes that should go from keeper number `source` to `target`.
Move = namedtuple("Move", "source target size reason")


def fill(keeper):
    """The share of a keeper's space that is used, 0 to 1."""
    total = keeper.used + keeper.free
    return keeper.used / total if total else 1.0


def rebalance(keepers, *, threshold=0.10, at_most=None):
    """Who should give how much to whom, so that no keeper's fill is further than `threshold` from the mean.

    keepers: iterable of KeeperView, only live ones that take new blocks are moved to or from; threshold: share of a disk
    at_most: bytes that one keeper gives or takes in this plan, or None
    Gentle: nothing moves inside the threshold; who is over it gives down to half of it, to keepers under the mean; who is
    under it takes up to half of it, from keepers over the mean. Returns [Move], largest first; empty when all is even.
    Source: the HDFS balancer's four groups (over-utilised, above and below average, under-utilised).
    """
    able = [keeper for keeper in keepers if keeper.state == LIVE and not keeper.draining and keeper.used + keeper.free > 0]
    total = sum(keeper.used + keeper.free for keeper in able)
    if not total:
        return []
    mean = sum(keeper.used for keeper in able) / total
    over = {keeper.number: _bytes_over(keeper, mean) for keeper in able}
    high = {keeper.number: _bytes_over(keeper, mean + threshold / 2) for keeper in able if fill(keeper) > mean + threshold}
    low = {keeper.number: -_bytes_over(keeper, mean - threshold / 2)
           for keeper in able if fill(keeper) < mean - threshold and not keeper.sick}
    takers = {keeper.number: -over[keeper.number] for keeper in able if over[keeper.number] < 0 and not keeper.sick}
    books = _Books(at_most, f"the mean fill is {mean:.0%}")
    books.match(high, takers)
    books.match({number: size for number, size in over.items() if size > 0}, low)
    return sorted((Move(source, target, size, books.reason) for (source, target), size in books.moves.items()),
                  key=lambda one: -one.size)


def _bytes_over(keeper, share):
    return int(keeper.used - share * (keeper.used + keeper.free))


class _Books:
    """Who has given and taken what in one rebalance plan."""

    def __init__(self, at_most, reason):
        self.moves = Counter()
        self.reason = reason
        self._at_most = at_most
        self._moved = Counter()

    def match(self, givers, takers):
        """Pair the largest giver with the largest taker until one side is done; the sizes count from the start."""
        for source in sorted(givers, key=givers.get, reverse=True):
            for target in sorted(takers, key=lambda number: self._left(number, takers), reverse=True):
                size = min(self._left(source, givers), self._left(target, takers))
                if size <= 0:
                    break
                self.moves[source, target] += size
                self._moved[source] += size
                self._moved[target] += size

    def _left(self, number, sizes):
        most = sizes[number] if self._at_most is None else min(sizes[number], self._at_most)
        return most - self._moved[number]


DrainProgress = namedtuple("DrainProgress", "text eta_s")


def drain_progress(n_blocks_left, bytes_left, rate, to_copy):
    """DrainProgress(text for a person, eta_s or None) of a keeper that is being emptied; rate: bytes a second of late; to_copy: of the
    bytes left, those that have yet to be copied: the others have only to be dropped, which takes no time."""
    if n_blocks_left == 0:
        return DrainProgress("empty: every block is elsewhere, it may be stopped", 0.0)
    text = f"{n_blocks_left} block{'s' if n_blocks_left != 1 else ''}, {size_text(bytes_left)} to go"
    if not to_copy:
        return DrainProgress(f"{text}; all of it has been copied, what is here is dropped next", None)
    if rate <= 0:
        return DrainProgress(f"{text}; nothing moves at present", None)
    eta_s = to_copy / rate
    text += f" ({size_text(to_copy)} to be copied)" if to_copy < bytes_left else ""
    return DrainProgress(f"{text}, about {duration_text(eta_s)} at {size_text(rate)}/s", eta_s)
