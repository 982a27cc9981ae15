"""Rebalancing: moves from fuller keepers to emptier ones, and when they begin by themselves (`--rebalance`).

Never decides what goes where, which is `plan.repair.rebalance`, and never drops: a move is a copy, and a mark that the block is to leave
its source, which repair acts on once the copy is confirmed. Moves come behind every repair. They are lost with the process: copies
without their drops are surplus then, and the next look begins the rest anew.

    off      never: only `dfs rebalance` does it
    gentle   when a keeper is far emptier than the mean, as a new or wiped one is, and nothing is short of copies
    now      whenever the planner finds keepers uneven, and nothing is short of copies
"""

import logging
import threading

from dfs_lib import model
from dfs_lib.plan import repair

log = logging.getLogger(__name__)

# Seconds between looks. After a keeper came, went, or changed what it takes, and while something else has to be done first, the next look
# comes sooner: what a restart of the master or a death has interrupted goes on as soon as nothing is short any more.
EVERY_S, SOON_S = 30.0, 3.0
# Far emptier: less than this share of how full the others are, and so much of a disk below it.
FAR_SHARE, FAR_BELOW = 0.5, 0.10

# Blocks that are on the move at once: few, so that a repair that comes up waits for none of them for long.
MOST_LEAVING = 4
# Blocks of the source looked at for one to move.
PAGE = 50


class Moves:
    """Part of the repairer; `step` belongs to its loop, the rest to any thread."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._lock = threading.Lock()
        self._moves = []  # guarded by _lock: still to be made: [source, target, bytes left, after]
        self._leaving = {}  # guarded by _lock: block → {number} that a rebalance empties

    def plan(self):
        """[repair.Move] that would even out how full keepers are."""
        return repair.rebalance(self._t.live.views().values())

    def begin(self):
        """Make what `plan` says now, which it returns; what was still to be made is planned anew by that."""
        moves = self.plan()
        with self._lock:
            self._moves = [[move.source, move.target, move.size, ""] for move in moves]
        self._repairer.go_round()
        return moves

    def n_moving(self):
        with self._lock:
            return len(self._moves) + len(self._leaving)

    def leaving(self, block):
        """Numbers of the keepers that a block is to leave."""
        with self._lock:
            return frozenset(self._leaving.get(block, ()))

    def n_leaving(self, number):
        """Blocks that are still to be moved off a keeper, of those begun."""
        with self._lock:
            return sum(number in numbers for numbers in self._leaving.values())

    def no_longer_leaving(self, block, numbers):
        with self._lock:
            leaving = self._leaving.get(block)
            if leaving is not None:
                leaving.difference_update(numbers)
                if not leaving:
                    del self._leaving[block]

    def step(self):
        """Begin a move when repair has nothing to do now: it comes first."""
        with self._lock:
            if not self._moves or len(self._leaving) >= MOST_LEAVING:
                return
            move = self._moves[0]
            source, target, _left, after = move
        if self._repairer.is_repairing():
            return
        page = self._t.queries().blocks_of_keeper(source, after, PAGE)
        for block, size in page:
            move[3] = block
            if self._repairer.is_copying(block) or self.leaving(block):
                continue
            if self._begin_one(block, source, target):
                move[2] -= size
                break
        with self._lock:
            if (not page or move[2] <= 0) and self._moves and self._moves[0] is move:
                self._moves.pop(0)
            is_more = bool(self._moves and page)
        if is_more:
            self._repairer.go_round()

    def _begin_one(self, block, source, target):
        t = self._t
        row = t.queries().block(block)
        if row is None:
            return False
        counted = t.live.counted()
        view = repair.BlockView(block, row.size, row.want, {number: number in counted for number in t.queries().replicas(block)})
        copy = repair.move(view, source, target, t.live.views(), t.settings.spread)
        if not isinstance(copy, repair.Copy):
            return False
        with self._lock:
            self._leaving.setdefault(block, set()).add(source)
        self._repairer.begin_move(copy, view, t.clock())
        return True


class Balancer:
    """Owned by the ticker."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._next_s = tracker.clock() + EVERY_S
        self._members = None  # what was seen of the keepers last: a change is looked into

    def step(self, now_s):
        """Begin moves if it is time and there is a reason."""
        mode = self._t.settings.rebalance
        if mode == "off":
            return
        members = {(keeper.number, keeper.state, keeper.draining, keeper.sick) for keeper in self._t.live.views().values()}
        if members != self._members:
            self._members, self._next_s = members, min(self._next_s, now_s + SOON_S)  # never later: one that comes and goes stops nothing
        if now_s < self._next_s:
            return
        if self._t.safemode() or self._repairer.held() or self._repairer.moves.n_moving() or self._is_short():
            self._next_s = now_s + SOON_S
            return
        self._next_s = now_s + EVERY_S
        why = far_emptier(self._t.live.views().values()) if mode == "gentle" else "keepers are uneven"
        if not why:
            return
        moves = self._repairer.moves.begin()
        if moves:
            log.info("rebalance begins mode=%s pairs=%s size=%s reason=%s", mode, len(moves), sum(move.size for move in moves), why)

    def _is_short(self):
        n_short, n_missing, n_running, *_rest = self._repairer.summary()
        return bool(n_short or n_missing or n_running or self._t.queries().n_short())


def far_emptier(keepers):
    """Which live keeper is far emptier than the others are on the whole, in words, or "". (One large new keeper must not be its own mean.)"""
    able = [keeper for keeper in keepers if keeper.state == model.LIVE and not keeper.draining and not keeper.sick and keeper.used + keeper.free > 0]
    used, total = sum(keeper.used for keeper in able), sum(keeper.used + keeper.free for keeper in able)
    for keeper in able:
        share, others_total = repair.fill(keeper), total - keeper.used - keeper.free
        mean = (used - keeper.used) / others_total if others_total else 0.0
        if share < FAR_SHARE * mean and mean - share > FAR_BELOW:
            return f"k{keeper.number} is {share:.0%} full, the others {mean:.0%}"
    return ""
