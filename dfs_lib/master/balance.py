"""`--rebalance`: when moves from fuller keepers to emptier ones begin by themselves.

Decides only when; what goes where is `plan.repair.rebalance`, and each move copies, confirms, then drops, behind every repair.

    off      never: only `dfs rebalance` does it
    gentle   when a keeper is far emptier than the mean, as a new or wiped one is, and nothing is short of copies
    now      whenever the planner finds keepers uneven, and nothing is short of copies
"""

import logging

from dfs_lib import model
from dfs_lib.plan import repair

log = logging.getLogger(__name__)

# Seconds between looks. After a keeper came, went, or changed what it takes, and while something else has to be done first, the next look
# comes sooner: what a restart of the master or a death has interrupted goes on as soon as nothing is short any more.
EVERY_S, SOON_S = 30.0, 3.0
# Far emptier: less than this share of how full the others are, and so much of a disk below it.
FAR_SHARE, FAR_BELOW = 0.5, 0.10


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
        if self._t.safemode() or self._repairer.held() or self._repairer.n_moving() or self._is_short():
            self._next_s = now_s + SOON_S
            return
        self._next_s = now_s + EVERY_S
        why = far_emptier(self._t.live.views().values()) if mode == "gentle" else "keepers are uneven"
        if not why:
            return
        moves = self._repairer.begin_rebalance()
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
