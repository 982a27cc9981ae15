"""How many bytes move through all keepers: now, and in each ten seconds of the last hour.

Lives in memory and is lost with the process: a new master begins to count anew. Never asks a clock: `now_s` is the master's monotonic
clock, so that a change of the time of day moves no byte into another stretch. Bounded: an hour of sums, and some seconds of each keeper.

    Notify.moved, running totals ──▶ growth since the keeper's last word ──▶ spread over the time between ──▶ stretches of STEP_S
      totals that begin anew (the keeper was restarted)   what they say is what has moved since
      a keeper's first word to this master                nothing: its totals may be of last year
      a keeper that was silent for minutes                its bytes go into the minutes in which they moved, and make no peak

Every upload's byte counts once, at the keeper that the client sends it to (`write`), every byte that a client gets once (`read`), and
each byte of a copy that the master ordered once, at its sender (`copied`).
"""

import threading
from collections import deque

STEP_S, KEPT_S = 10, 3600
N_STEPS = KEPT_S // STEP_S
# A step is told when it has been over for so long: keepers tell of its last second a moment later.
SETTLED_S = 2.0
# "Now" is the mean of the last seconds: keepers tell each second, and a block is hashed and synced between two of its chunks.
NOW_S = 5.0
# The order of what a step holds, and the names of the totals it comes from.
TOTALS = ("to_clients", "from_clients", "copied")


class Traffic:
    """For many threads."""

    def __init__(self, now_s):
        self._lock = threading.Lock()
        self._first = int(now_s // STEP_S)  # the step in which this began
        # Guarded by _lock: number of a step → [read, written, copied] bytes; keeper's number → _Keeper; bytes in all.
        self._steps, self._keepers, self._totals = {}, {}, [0, 0, 0]

    def heard(self, number, incarnation, moved, now_s):
        """A keeper's running totals. incarnation: of its processes; another one's totals have begun at nothing."""
        totals = [moved[name] for name in TOTALS]
        with self._lock:
            keeper = self._keepers.get(number)
            if keeper is None:
                self._keepers[number] = _Keeper(incarnation, totals, now_s)
                return
            was_s, grown = keeper.last_s, keeper.grown(incarnation, totals)
            keeper.take(incarnation, totals, grown, now_s)
            if any(grown):
                self._totals = [total + n for total, n in zip(self._totals, grown)]
                self._spread(grown, was_s, now_s)
                self._forget_old(now_s)

    def _spread(self, grown, from_s, to_s):
        """Put bytes into the steps between two times, by how much of that time is in each."""
        from_s = min(max(from_s, to_s - KEPT_S), to_s)
        first, last = int(from_s // STEP_S), int(to_s // STEP_S)
        for step in range(first, last + 1):
            within_s = min(to_s, (step + 1) * STEP_S) - max(from_s, step * STEP_S)
            share = within_s / (to_s - from_s) if to_s > from_s else 1.0
            if share > 0:
                sums = self._steps.setdefault(step, [0.0, 0.0, 0.0])
                for at, n in enumerate(grown):
                    sums[at] += n * share

    def _forget_old(self, now_s):
        oldest = int(now_s // STEP_S) - N_STEPS
        for step in [step for step in self._steps if step < oldest]:
            del self._steps[step]

    def forget(self, number):
        """That keeper will never return. What it has moved, it has moved."""
        with self._lock:
            self._keepers.pop(number, None)

    def history(self, now_s):
        """[(when it ended, (read, written, copied) in bytes a second)] of each step of the last hour since this began, oldest first."""
        current = int((now_s - SETTLED_S) // STEP_S)
        with self._lock:
            return [((step + 1) * STEP_S, tuple(n / STEP_S for n in self._steps.get(step, (0, 0, 0))))
                    for step in range(max(self._first, current - N_STEPS), current)]

    def totals(self):
        """(read, written, copied) bytes since this master began to count."""
        with self._lock:
            return tuple(self._totals)

    def rates(self, now_s):
        """{keeper's number: (read, written, copied) in bytes a second now}; nothing moves on one that is not heard."""
        with self._lock:
            return {number: keeper.rates(now_s) for number, keeper in self._keepers.items()}


class _Keeper:
    """What one keeper said last, and its growth of the last seconds. Guarded by Traffic's lock."""

    __slots__ = ("incarnation", "totals", "last_s", "lately")

    def __init__(self, incarnation, totals, now_s):
        self.incarnation, self.totals, self.last_s = incarnation, totals, now_s
        self.lately = deque(maxlen=16)  # (from, to, growth): a word a second, and room for some that come close together

    def grown(self, incarnation, totals):
        """By how much each total has grown. One that is less than before has begun anew, in another incarnation all have."""
        if incarnation != self.incarnation:
            return totals
        return [new - old if new >= old else new for new, old in zip(totals, self.totals)]

    def take(self, incarnation, totals, grown, now_s):
        self.lately.append((self.last_s, now_s, grown))
        self.incarnation, self.totals, self.last_s = incarnation, totals, now_s

    def rates(self, now_s):
        """Mean rates over the last NOW_S seconds; what a longer time has brought counts with its share of them."""
        sums = [0.0, 0.0, 0.0]
        for from_s, to_s, grown in self.lately:
            within_s = to_s - max(from_s, now_s - NOW_S)
            if within_s > 0 and to_s > from_s:
                for at, n in enumerate(grown):
                    sums[at] += n * within_s / (to_s - from_s)
        return tuple(n / NOW_S for n in sums)
