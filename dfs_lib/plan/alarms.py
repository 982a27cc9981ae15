"""When somebody has to be told: what is wrong now against what was told before.

Knows no clock, socket or command: a picture and the time go in, alarms and all-clears come out. Each condition has to hold for a while
before it is told, and to be gone for a while before it is cleared, so that a keeper that flaps does not ring a bell each time.

    condition holds ──raise_s──▶ raised ──condition gone for clear_s──▶ cleared
"""

from collections import namedtuple

from dfs_lib import model

KEEPER_DEAD, DATA_AT_RISK, DATA_MISSING, SPACE_LOW, DAMAGE_FOUND, HELD = ("keeper_dead", "data_at_risk", "data_missing", "space_low",
                                                                         "damage_found", "held")
WARNING, CRITICAL = "warning", "critical"
# Seconds a condition holds before it is told. A file put with few safe copies is short for a moment, and that is no alarm.
RAISE_S = {KEEPER_DEAD: 0.0, DATA_AT_RISK: 10.0, DATA_MISSING: 5.0, SPACE_LOW: 30.0, DAMAGE_FOUND: 0.0, HELD: 0.0}
CLEAR_S = 10.0
LEVELS = {KEEPER_DEAD: WARNING, DATA_AT_RISK: WARNING, DATA_MISSING: CRITICAL, SPACE_LOW: WARNING, DAMAGE_FOUND: WARNING, HELD: CRITICAL}
# Space that was low is well again only this many points above the limit.
SPACE_MARGIN = 1.0
# Damage is over when all blocks have their copies again and nothing new was found for so long.
DAMAGE_QUIET_S = 60.0
# Alarms about single keepers at once; beyond these one sentence tells how many more there are.
MOST_KEEPERS = 50

# keepers: [KeeperHealth]; n_at_risk, n_missing, n_short: blocks; damage: [sentence], newest last; n_damaged: found so far;
# held: {key: sentence} of what waits for a human.
Picture = namedtuple("Picture", "keepers n_at_risk n_missing n_short used free n_damaged damage held")
# word: what people call its state (model.state_word); is_excused: stopped on purpose so short a while ago that nobody is called for it.
KeeperHealth = namedtuple("KeeperHealth", "name host state reason is_excused word")
# key: what it is about, e.g. keeper_dead:k3; text: a sentence for people. One that is cleared has the sentence of its clearing.
Alarm = namedtuple("Alarm", "key kind level text")
Told = namedtuple("Told", "event alarm")
RAISED, CLEARED = "raised", "cleared"


class _Standing:
    __slots__ = ("alarm", "since_s", "is_raised", "gone_since_s")

    def __init__(self, alarm, since_s):
        self.alarm, self.since_s, self.is_raised, self.gone_since_s = alarm, since_s, False, None


class Book:
    """What holds and what was told. `look` is called about once a second, by one thread."""

    def __init__(self, space_low):
        """space_low: percent of all space that is free, below which space is low; 0: never."""
        self._space_low = space_low
        self._standing = {}  # key → _Standing
        self._n_damaged, self._damaged_s = 0, None

    def raised(self):
        """The alarms that stand."""
        return [one.alarm for one in self._standing.values() if one.is_raised]

    def look(self, picture, now_s):
        """[Told] since the last look."""
        present = {alarm.key: alarm for alarm in self._conditions(picture, now_s)}
        told = []
        for key, alarm in present.items():
            one = self._standing.setdefault(key, _Standing(alarm, now_s))
            one.alarm, one.gone_since_s = alarm, None
            if not one.is_raised and now_s - one.since_s >= RAISE_S[alarm.kind]:
                one.is_raised = True
                told.append(Told(RAISED, alarm))
        for key in [key for key in self._standing if key not in present]:
            one = self._standing[key]
            if not one.is_raised:
                del self._standing[key]  # it passed before it was worth a word
                continue
            one.gone_since_s = now_s if one.gone_since_s is None else one.gone_since_s
            if now_s - one.gone_since_s >= CLEAR_S:
                del self._standing[key]
                told.append(Told(CLEARED, one.alarm._replace(text=_clearing(one.alarm, picture))))
        return told

    # -- conditions -----------------------------------------------------------------------------------------------------
    def _conditions(self, picture, now_s):
        yield from _dead_keepers(picture)
        if picture.n_missing:
            yield _alarm(DATA_MISSING, f"{_blocks(picture.n_missing)} no good copy on a live keeper and cannot be read; bring back the keepers "
                                       "that had it (dfs fsck names the files)")
        if picture.n_at_risk:
            yield _alarm(DATA_AT_RISK, f"{_blocks(picture.n_at_risk)} one good copy left; repair makes others (dfs status shows how far it is)")
        if space := self._space(picture):
            yield space
        if damage := self._damage(picture, now_s):
            yield damage
        for key, sentence in picture.held.items():
            yield Alarm(f"{HELD}:{key}", HELD, LEVELS[HELD], sentence)

    def _space(self, picture):
        whole = picture.used + picture.free
        if not whole or not self._space_low:
            return None
        share = 100.0 * picture.free / whole
        is_low = SPACE_LOW in self._standing and self._standing[SPACE_LOW].is_raised
        if share >= self._space_low + (SPACE_MARGIN if is_low else 0.0):
            return None
        return _alarm(SPACE_LOW, f"{share:.1f} % of the space on live keepers is free: add a keeper or remove files (dfs df)")

    def _damage(self, picture, now_s):
        if picture.n_damaged > self._n_damaged:
            self._n_damaged, self._damaged_s = picture.n_damaged, now_s
        if self._damaged_s is None:
            return None
        if now_s - self._damaged_s >= DAMAGE_QUIET_S and not picture.n_short and not picture.n_missing:
            self._damaged_s = None
            return None
        return _alarm(DAMAGE_FOUND, damage_text(f": {picture.damage[-1]}" if picture.damage else ""))


def damage_text(latest=""):
    """latest: what was found last, with its path; left out for those who may not know it."""
    return f"damaged copies were found and set aside{latest}; look at that machine's disk"


def _dead_keepers(picture):
    dead = [keeper for keeper in picture.keepers if keeper.state == model.DEAD and not keeper.is_excused]
    for keeper in dead[:MOST_KEEPERS]:
        yield Alarm(f"{KEEPER_DEAD}:{keeper.name}", KEEPER_DEAD, LEVELS[KEEPER_DEAD], f"keeper {keeper.name} on {keeper.host} is {keeper.word}: {keeper.reason}")
    if len(dead) > MOST_KEEPERS:
        yield Alarm(f"{KEEPER_DEAD}:others", KEEPER_DEAD, LEVELS[KEEPER_DEAD], f"{len(dead) - MOST_KEEPERS} more keepers are dead or stopped")


def _alarm(kind, text):
    return Alarm(kind, kind, LEVELS[kind], text)


def _blocks(n):
    return "1 block has" if n == 1 else f"{n:,} blocks have"


def _clearing(alarm, picture):
    """The sentence of an all-clear."""
    if alarm.kind == KEEPER_DEAD:
        name = alarm.key.partition(":")[2]
        back = any(keeper.name == name and keeper.state != model.DEAD for keeper in picture.keepers)
        return f"keeper {name} is back" if back else f"keeper {name} is no longer missed"
    return {DATA_AT_RISK: "no block is down to one good copy any more", DATA_MISSING: "every block can be read again",
            SPACE_LOW: "there is space again", DAMAGE_FOUND: "no damage was found of late, and every block has its copies",
            HELD: f"over: {alarm.text}"}[alarm.kind]
