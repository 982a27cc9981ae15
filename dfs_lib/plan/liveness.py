"""From heartbeats and the time to live, suspect or dead.

Never reads a clock, sends or logs: the master hands in times of its own monotonic clock (F20, F21) and acts on what comes back.

              heartbeat and control connection
            ┌────────────────────────────────────────────────────────────────┐
            ▼                                                                │
          live ── late, or connection closed ──▶ suspect ── silent longer ──▶ dead
            └───────────────── connection refused, never heard ───────────────▲

    live     heard lately, and its control connection stands (F17: heartbeats alone prove half of a keeper). What it says on that
             connection, each second, is heard as well as a heartbeat is: where UDP is blocked alone, nobody is dead
    suspect  chosen last; its replicas still count
    dead     its replicas do not count; repair waits for its grace
"""

from collections import namedtuple

from dfs_lib.model import DEAD, LIVE, SUSPECT

# Two heartbeat intervals and slack: keepers that are cut off at one instant are judged dead this close to each other.
WINDOW_S = 5.0
# Long enough for a switch to restart or a person to look; after it even a real loss of half the keepers heals (I14).
HOLD_S = 600.0

# A connection that stands and carries nothing is given up after so many times dead_after_s: a master with much to do may be slow
# to answer, and the keeper then says nothing more meanwhile.
MUTE_TIMES = 2

# What the master knows of one keeper: last_heard_s monotonic or None; connected: its control connection stands;
# refused: the latest connection attempt was refused; closed_since_s: since when there is no control connection, or None;
# last_word_s: when it last said something on that connection, or None where the caller does not keep that.
Heard = namedtuple("Heard", "last_heard_s connected refused closed_since_s last_word_s", defaults=(None, None))


def judge(now_s, last_heard_s, *, suspect_after_s, dead_after_s, connected, refused, closed_since_s=None, last_word_s=None):
    """The state of one keeper and why.

    now_s, last_heard_s: the master's monotonic clock; last_heard_s None: never since this master started
    connected: its control connection stands; refused: the latest attempt to connect was refused by its host
    closed_since_s: when the control connection went away, if the caller keeps that; heartbeats without a connection for
    dead_after_s are a keeper that nobody can reach (F17)
    last_word_s: when it last spoke on its control connection, if the caller keeps that. Without heartbeats that is enough to be
    live; with heartbeats, a connection on which nothing comes any more is as good as none (F17)
    Returns (LIVE | SUSPECT | DEAD, reason). The reason carries no age, so that it stays true while the state lasts.
    """
    if last_heard_s is None:
        return DEAD, "never heard since this master started"
    silent_s = now_s - last_heard_s
    if refused and not connected:
        return DEAD, "its host refuses connections: no keeper runs there"
    if connected and last_word_s is not None:
        mute_s = now_s - last_word_s
        if silent_s >= suspect_after_s and mute_s < suspect_after_s:
            return LIVE, f"no heartbeat for {suspect_after_s:g} s, but it speaks on its connection: is UDP blocked?"
        if silent_s < dead_after_s <= mute_s:
            mute = "heartbeats arrive, but nothing on its connection for {:g} s".format
            return (DEAD, mute(MUTE_TIMES * dead_after_s)) if mute_s >= MUTE_TIMES * dead_after_s else (SUSPECT, mute(dead_after_s))
        silent_s = min(silent_s, mute_s)
    if silent_s >= dead_after_s:
        return DEAD, f"no heartbeat for {dead_after_s:g} s"
    if not connected and closed_since_s is not None and now_s - closed_since_s >= dead_after_s:
        return DEAD, f"heartbeats arrive, but no connection for {dead_after_s:g} s"
    if not connected:
        return SUSPECT, "its control connection closed"
    if silent_s >= suspect_after_s:
        return SUSPECT, f"no heartbeat for {suspect_after_s:g} s"
    return LIVE, "heard lately"


def judge_all(now_s, table, *, suspect_after_s, dead_after_s):
    """{number: (state, reason)} of a table {number: Heard}."""
    return {number: judge(now_s, heard.last_heard_s, suspect_after_s=suspect_after_s, dead_after_s=dead_after_s,
                          connected=heard.connected, refused=heard.refused, closed_since_s=heard.closed_since_s,
                          last_word_s=heard.last_word_s)
            for number, heard in table.items()}


def transitions(before, after):
    """What changed between two ticks.

    before: {number: state}; after: {number: (state, reason)}, as judge_all returns it
    Returns [(number, from, to, reason)] by number; from is None for a keeper that is new, to for one that was forgotten.
    """
    changed = [(number, before.get(number), state, reason)
               for number, (state, reason) in after.items() if before.get(number) != state]
    changed += [(number, state, None, "no longer a member") for number, state in before.items() if number not in after]
    return sorted(changed, key=lambda change: change[0])


def mass_loss(n_live_before, n_vanished):
    """True when so many keepers vanished within one interval that the master's own network is the likelier cause (F18).

    More than a third of them and at least 2: one keeper of two or three is an ordinary failure.
    """
    return n_vanished >= 2 and 3 * n_vanished > n_live_before


class LossWatch:
    """Remembers who vanished lately, and holds repairs and trimming while that is too much at once to be believed (F18).

    Not locked: it belongs to the master's tick. It ends by itself when enough of them are back, or after `hold_s`.
    """

    def __init__(self, *, window_s=WINDOW_S, hold_s=HOLD_S):
        self._window_s = window_s
        self._hold_s = hold_s
        self._vanished = {}  # number: when it was judged dead; while the alarm is on also those older than the window
        self._since_s = None  # when the alarm rose, or grew; None: no alarm

    def tick(self, now_s, changes, n_counted):
        """The reason to hold still, or "" for none.

        changes: what `transitions` returned for this tick; n_counted: keepers live or suspect after it
        """
        grew = self._note(now_s, changes)
        if self._since_s is None:
            self._vanished = {number: at_s for number, at_s in self._vanished.items() if now_s - at_s <= self._window_s}
        n_vanished = len(self._vanished)
        if not mass_loss(n_counted + n_vanished, n_vanished):
            self._since_s = None
            return ""
        if self._since_s is None or grew:
            self._since_s = now_s
        if now_s - self._since_s >= self._hold_s:
            self.clear()
            return ""
        return (f"{n_vanished} of {n_counted + n_vanished} keepers vanished at once: "
                "repairs and trimming are held, look at the master's network")

    def clear(self):
        """A person looked and believes the loss: go on."""
        self._vanished = {}
        self._since_s = None

    def _note(self, now_s, changes):
        grew = False
        for number, old, new, _ in changes:
            if new == DEAD and old in (LIVE, SUSPECT):
                self._vanished[number] = now_s
                grew = True
            elif new != DEAD:
                self._vanished.pop(number, None)
        return grew
