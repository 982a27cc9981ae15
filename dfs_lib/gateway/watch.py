"""What this gateway sees of the cluster over time: the present status, and happenings in plain words; and the traffic that the master counts.

One thread asks the master each STEP_S while somebody looks, and each IDLE_S otherwise. It asks with the gateway's own key, or, when it was
given none, with the key of a page that listens, rather of one whom no home confines. What it shows is what every reader without a home may
ask anyway; those with one hear of no alarm from it, and `events.py` asks for their status with their own key.
"""

import logging
import threading
from collections import deque, namedtuple

from dfs_lib import cluster_state, errors, model
from dfs_lib.gateway import shapes

log = logging.getLogger(__name__)

STEP_S = 1.0
IDLE_S = 10.0
# What one page has asked about traffic is told to the others for so long.
TRAFFIC_S = 1.0
MAX_HAPPENINGS = 500
# By so many keys the master is asked before it counts as silent.
MOST_FAILURES = 2

_Happening = namedtuple("_Happening", "id told is_alarm")


class Watch:
    """The watcher. For many threads."""

    def __init__(self, clock, now):
        self._clock, self._now = clock, now
        self._changed = threading.Condition()
        # Guarded by _changed: the last ClusterStatus and when it came, how often it changed, happenings, askers (client, is_confined).
        self.status, self.status_s, self.generation = None, None, 0
        self._record = None
        self._happenings, self._last_id = deque(maxlen=MAX_HAPPENINGS), 0
        self._askers, self._own = [], None
        self._traffic_lock = threading.Lock()  # held during a question on purpose: the others want its answer
        self._traffic, self._traffic_s = None, float("-inf")  # guarded by _traffic_lock
        self._own_is_confined, self._was_confined = None, None  # the thread's: None is not known yet
        self._unreachable = False
        self._stop = threading.Event()
        self._thread = None

    # -- who asks -----------------------------------------------------------------------------------------------------
    def start(self, own_client):
        """own_client: a Client of the gateway's own key, or None."""
        self._own = own_client
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def listen(self, client, is_confined=False):
        """A page that listens: until `leave`, its client may be asked with. is_confined: to a home, which hides paths from it."""
        with self._changed:
            self._askers.append((client, is_confined))
            self._changed.notify_all()

    def leave(self, client):
        with self._changed:
            self._askers.remove(next(asker for asker in self._askers if asker[0] is client))

    # -- the loop -----------------------------------------------------------------------------------------------------
    def _run(self):
        while not self._stop.is_set():
            try:
                self.step()
            except Exception:
                log.exception("bug in the watch")  # this thread serves every page: one bad answer must not end it (F39)
            with self._changed:
                self._changed.wait_for(lambda: self._stop.is_set() or self._askers, STEP_S if self._askers else IDLE_S)
                looks = bool(self._askers)
            if looks:
                self._stop.wait(STEP_S)

    def step(self):
        """Ask once, and compare with what was before."""
        with self._changed:
            askers = sorted(self._askers[::-1], key=lambda asker: asker[1])
        if self._own is not None:
            askers = sorted([(self._own, bool(self._own_is_confined)), *askers], key=lambda asker: asker[1])
        status, failure, is_confined, n_failed = None, None, None, 0
        for client, is_confined in askers:
            try:
                if client is self._own and self._own_is_confined is None:
                    is_confined = self._own_is_confined = client.ask_identity().home != "/"
                status = client.status()
                break
            except errors.NotPermitted:
                continue  # that key's trouble, and not the master's: its page is sent away (events.py)
            except errors.DfsError as e:
                failure, n_failed = e, n_failed + 1
                if n_failed == MOST_FAILURES:
                    break
        if status is not None or failure is not None:
            self._take(status, failure, is_confined)

    def _take(self, status, failure, is_confined=False):
        with self._changed:
            if status is None:
                if not self._unreachable:
                    self._unreachable = True
                    self._happened("danger", f"The master does not answer: {failure.message}")
                self.status, self._record = None, None
            else:
                if self._unreachable:
                    self._happened("ok", "The master answers again")
                self._unreachable = False
                if self.status is not None:
                    for level, text in differences(self.status, status):
                        self._happened(level, text)
                    # The same alarm has other words for those with a home: one key after another kind is no news of alarms.
                    for level, text in alarm_differences(self.status, status) if is_confined == self._was_confined else ():
                        self._happened(level, text, is_alarm=True)
                self._was_confined = is_confined
                record = cluster_state.status_record(status)
                if self._record is None or _quiet(record) != _quiet(self._record):
                    self.generation += 1
                self.status, self.status_s, self._record = status, self._clock(), record
            self._changed.notify_all()

    def _happened(self, level, text, is_alarm=False):
        """Call with _changed held."""
        self._last_id += 1
        self._happenings.append(_Happening(self._last_id, {"at": round(self._now(), 1), "text": text, "level": level}, is_alarm))
        self.generation += 1

    # -- what is known ------------------------------------------------------------------------------------------------
    def throughput(self, client):
        """As /api/throughput says it; `client` asks, unless somebody has a moment ago."""
        with self._traffic_lock:
            if self._clock() - self._traffic_s >= TRAFFIC_S:
                self._traffic = shapes.traffic_record(client.traffic(history=True))
                self._traffic_s = self._clock()
            return self._traffic

    def after(self, seen_id, is_confined=False):
        """[(id, happening)] after an id; everything remembered for None. Alarms may name paths: they are not for the confined."""
        with self._changed:
            return [(each.id, each.told) for each in self._happenings
                    if (seen_id is None or each.id > seen_id) and not (is_confined and each.is_alarm)]

    def record(self):
        """The status as JSON has it, None when there is none; and whether the master is known not to answer."""
        with self._changed:
            return self._record, self._unreachable

    def wait(self, generation, seconds):
        """Until something has changed since `generation`, or so long; the present generation."""
        with self._changed:
            self._changed.wait_for(lambda: self.generation != generation or self._stop.is_set(), seconds)
            return self.generation

    @property
    def is_stopping(self):
        return self._stop.is_set()

    def stop(self):
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(3.0)


# Numbers that move all the time: a change of these alone is told with the next regular status.
_RESTLESS = ("counters", "pid", "repair_rate")


def _quiet(record):
    kept = {name: value for name, value in record.items() if name not in _RESTLESS}
    kept["keepers"] = [{name: value for name, value in keeper.items() if name not in ("heartbeat_age_s", "pids", "free", "load")}
                       for keeper in record["keepers"]]
    return kept


def differences(before, after):
    """[(level, sentence)] of what has happened between two ClusterStatus, but for alarms. No sentence names a path."""
    found = []
    old = {keeper["keeper_id"]: keeper for keeper in before.keepers}
    for keeper in after.keepers:
        was = old.pop(keeper["keeper_id"], None)
        found += _of_keeper(was, keeper)
    found += [("warning", f"Keeper {keeper['name']} is no longer on record") for keeper in old.values()]
    if after.epoch != before.epoch:
        found.append(("warning", "The master was restarted"))
    if before.missing and not after.missing:
        found.append(("ok", "Every block can be read again"))
    elif after.missing > before.missing:
        found.append(("danger", f"{model.count_text(after.missing, 'block')} cannot be read: no live keeper has a copy"))
    if not before.under_replicated and after.under_replicated:
        found.append(("warning", f"{model.count_text(after.under_replicated, 'block')} short of copies"))
    if before.under_replicated and not after.under_replicated and not after.missing:
        found.append(("ok", "Every file has its copies"))
    if not before.repairs_running and after.repairs_running:
        found.append(("busy", f"Repair has begun: {model.count_text(after.repairs_running, 'copy', 'copies')} under way"))
    elif before.repairs_running and not after.repairs_running:
        found.append(("ok" if not after.under_replicated else "busy", "Repair has made its copies"))
    return found


def alarm_differences(before, after):
    """The same of alarms."""
    return [*(("danger", f"Alarm: {alarm}") for alarm in after.alarms if alarm not in before.alarms),
            *(("ok", f"Over: {alarm}") for alarm in before.alarms if alarm not in after.alarms)]


_BECAME = {"dead": ("danger", "is dead"), "stopped": ("warning", "was stopped"), "suspect": ("warning", "has not been heard for a while"),
           "draining": ("busy", "is being emptied")}
_IS_LIVE_AGAIN = {"dead": "is back", "stopped": "is back", "suspect": "is heard again", "draining": "is in use again"}


def _of_keeper(was, keeper):
    name, word = keeper["name"], cluster_state.state_word(keeper)
    if was is None:
        return [("ok", f"Keeper {name} has joined")]
    found, old_word = [], cluster_state.state_word(was)
    if old_word != word:
        level, words = ("ok", _IS_LIVE_AGAIN[old_word]) if word == model.LIVE else _BECAME[word]
        found.append((level, f"Keeper {name} {words}"))
    if keeper["sick"] and not was["sick"]:
        found.append(("danger", f"Keeper {name} is sick: {keeper['sick']}"))
    if was["sick"] and not keeper["sick"]:
        found.append(("ok", f"Keeper {name} is well again"))
    return found
