"""Alarms go out: a command of the user's for each, and a POST to a URL. Needs no other server.

Never decides what an alarm is: `plan/alarms` does. Never holds up the ticker: each way out has a thread and a bounded queue of its own,
so that a command that hangs delays no webhook, and one alarm at a time goes each way. What is lost is counted and logged.

    ticker ── look() ──▶ queue ──▶ thread "alarm-command"  ──▶ CMD, DFS_ALARM_… in its environment, one JSON line on stdin
                       └▶ queue ──▶ thread "alarm-webhook" ──▶ POST URL, the same JSON; up to three tries
"""

import collections
import json
import logging
import os
import shlex
import signal
import subprocess
import threading

from dfs_lib import errors, model
from dfs_lib.plan import alarms

log = logging.getLogger(__name__)

# Alarms that wait for one way out; the oldest goes first when there are more.
MOST_WAITING = 100
COMMAND_S, WEBHOOK_S = 30.0, 10.0
# Pauses before the second and third try of a webhook, in seconds.
PAUSES_S = (2.0, 20.0)
LOOK_EVERY_S = 1.0
# Alarms that `dfs status` shows as such; of the others its first line speaks anyway.
_SHOWN = (alarms.SPACE_LOW, alarms.DAMAGE_FOUND)
_OURS = "told:"


class Alarming:
    """Looks at the cluster about once a second and sends what is news. `step` is called by the ticker."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._book = alarms.Book(tracker.settings.space_low)
        self._next_s = 0.0
        self._ways = []
        if tracker.settings.alarm_command:
            words = command_words(tracker.settings.alarm_command)
            self._ways.append(Way("alarm-command", lambda facts, stopping: run_command(words, facts, stopping), tracker.count))
        if tracker.settings.alarm_webhook:
            from dfs_lib.net import webhook  # noqa: F401 - HTTP and TLS cost a master's start 30 ms: only who posts pays, and before ready

            url = tracker.settings.alarm_webhook
            self._ways.append(Way("alarm-webhook", lambda facts, stopping: post(url, facts, stopping), tracker.count))

    def start(self):
        for way in self._ways:
            way.start()

    def step(self, now_s):
        if now_s < self._next_s or self._t.safemode():
            return  # a master that has just started knows nothing of its keepers yet
        self._next_s = now_s + LOOK_EVERY_S
        for told in self._book.look(self._picture(now_s), now_s):
            log.log(logging.ERROR if told.event == alarms.RAISED else logging.INFO, "alarm %s kind=%s text=%s", told.event,
                    told.alarm.kind, told.alarm.text)
            self._t.count(f"alarms_{told.event}")
            if told.alarm.kind in _SHOWN:
                self._t.alarm(_OURS + told.alarm.key, told.alarm.text if told.event == alarms.RAISED else "",
                              alarms.damage_text() if told.alarm.kind == alarms.DAMAGE_FOUND else None)
            facts = {"event": told.event, **told.alarm._asdict(), "cluster_id": self._t.cluster_id, "at": round(self._t.wall(), 3)}
            for way in self._ways:
                way.put(facts)

    def raised(self):
        """The alarms that stand."""
        return self._book.raised()

    def _picture(self, now_s):
        t, settings = self._t, self._t.settings
        n_short, n_missing, *_rest = self._repairer.summary()
        keepers, used, free = [], 0, 0
        for keeper in t.live.keepers():
            gone_s = 0.0 if keeper.lost_since_s is None else now_s - keeper.lost_since_s
            keepers.append(alarms.KeeperHealth(keeper.name, keeper.host, keeper.state, keeper.reason,
                                               keeper.clean_stop and gone_s < settings.stop_grace,
                                               model.state_word(keeper.state, keeper.clean_stop)))
            if keeper.state != model.DEAD:
                used, free = used + keeper.used, free + keeper.free
        names = {keeper.id: keeper.name for keeper in t.live.keepers()}
        damage = [f"{bad['path']} on {names.get(bad['keeper'], bad['keeper'][:8])}: {bad['reason']}" for bad in self._repairer.doubts.damage()[-1:]]
        held = {key: sentence for key, sentence in t.alarms_by_key().items() if not key.startswith(_OURS)}
        return alarms.Picture(keepers, self._repairer.n_at_risk(), n_missing, n_short, used, free,
                              t.counters().get("replicas_bad", 0), damage, held)

    def stop(self):
        for way in self._ways:
            way.stop()


class Way:
    """One way out: a queue and the thread that works it off. send(facts, stopping) raises DfsError when it could not."""

    def __init__(self, name, send, count):
        self._name, self._send, self._count = name, send, count
        self._lock = threading.Condition()
        self._waiting = collections.deque()  # guarded by _lock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self):
        self._thread.start()

    def put(self, facts):
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                lost = self._waiting.popleft()
                self._count("alarms_lost")
                log.error("alarm lost way=%s text=%s reason=too many wait", self._name, lost["text"])
            self._waiting.append(facts)
            self._lock.notify()

    def _run(self):
        while True:
            with self._lock:
                while not self._waiting:
                    if self._stopping.is_set():
                        return
                    self._lock.wait()
                facts = self._waiting.popleft()
            if self._stopping.is_set():
                return
            try:
                self._send(facts, self._stopping)
            except errors.DfsError as e:
                self._count("alarms_lost")
                log.error("alarm lost way=%s text=%s reason=%s", self._name, facts["text"], e.message)
            except Exception:
                self._count("alarm_bugs")
                log.exception("bug while sending an alarm")

    def stop(self):
        """Give up what waits: the next master tells what still holds. Ends a command that runs."""
        self._stopping.set()
        with self._lock:
            self._lock.notify()
        self._thread.join(3.0)


# -- the command ----------------------------------------------------------------------------------------------------------
def command_words(text):
    """The words of --alarm-command. Raises BadSetting."""
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise errors.BadSetting(name="alarm-command", origin=repr(text), detail=str(e).lower()) from e
    if not words:
        raise errors.BadSetting(name="alarm-command", origin=repr(text), detail="there is no command in it")
    return words


def environment(facts):
    """The command's environment: ours, and DFS_ALARM_EVENT, _KIND, _KEY, _LEVEL, _TEXT, _CLUSTER_ID and _AT.

    The daemon has restored the library path of a frozen program at its start (cli/daemons.py).
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("DFS_")}
    own["PYINSTALLER_RESET_ENVIRONMENT"] = "1"  # a frozen dfs that the command may call unpacks for itself
    own.update({f"DFS_ALARM_{name.upper()}": str(value).replace("\0", "") for name, value in facts.items()})
    return own


def run_command(words, facts, stopping):
    """Run it without a shell and wait for it, COMMAND_S at most; then it is killed, with what it has started. Raises Refusal."""
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment(facts), start_new_session=True,
                                   cwd="/")
    except OSError as e:
        raise errors.Refusal(detail=f"{words[0]} could not be run: {e.strerror or e}") from e
    line = json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    # The pipe has room for far more than one line: nothing here waits for a command that does not read.
    try:
        os.set_blocking(process.stdin.fileno(), False)
        process.stdin.write(line)
        process.stdin.close()
    except OSError:
        pass  # it does not read its standard input: the environment says the same
    waited_s = 0.0
    while waited_s < COMMAND_S and not stopping.is_set():
        try:
            status = process.wait(0.25)
        except subprocess.TimeoutExpired:
            waited_s += 0.25
            continue
        if status:
            raise errors.Refusal(detail=f"{words[0]} ended with status {status}")
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass  # it ended in this moment
    process.wait()
    raise errors.Refusal(detail="the master stops" if stopping.is_set() else f"{words[0]} was still running after {COMMAND_S:.0f} s, and was killed")


# -- the webhook ----------------------------------------------------------------------------------------------------------
def post(url, facts, stopping):
    """POST with a second and a third try. Raises the last NetworkError."""
    from dfs_lib.net import webhook

    data = json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace")
    for pause_s in (*PAUSES_S, None):
        try:
            return webhook.post(url, data, WEBHOOK_S)
        except errors.NetworkError as e:
            if pause_s is None or stopping.wait(pause_s):
                raise
            log.warning("alarm is sent again reason=%s", e.message)
