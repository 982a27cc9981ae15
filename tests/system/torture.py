"""Clients that write, read, remove and rename a few names while processes are killed, stopped, wiped and restarted; then the history is checked.

    python3 tests/system/torture.py                     five minutes; --seconds N, --seed N, --directory DIR
    pytest tests/system/test_torture.py                 twenty seconds

What must hold: every answer fits into one story (history.py): every acknowledged write is there until something replaced it, nothing that was
removed returns, no reader sees a mixture; and after the faults every file has its copies again and every copy is good.

A keeper is wiped only while every block has all its copies, and never two of them at a time: more would take data that no system can keep.
"""

import argparse
import io
import os
import random
import signal
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(os.path.dirname(HERE))]

import history
from dfs_lib import errors, local
from live_cluster import LiveCluster

NAMES = ("/a", "/b", "/c", "/d", "/e")
MIB = 1 << 20
N_KEEPERS, COPIES = 4, 3
# Short, so that twenty seconds see a death and a repair.
MASTER_OPTIONS = ("--copies", str(COPIES), "--safe", "2", "--suspect-after", "1", "--dead-after", "3", "--repair-grace", "1", "--stop-grace", "2",
                  "--trash-grace", "1", "--upload-keep", "2")
# A client waits so long for a master or a keeper to come back; what it is told then may be "I do not know".
PATIENCE_S = 20.0


def content(number, size):
    """The bytes of put `number`: no piece of two of them is alike."""
    head = b"%016d" % number
    return (head + random.Random(number).randbytes(4096 - 16))[:size] if size <= 4096 else b"".join(
        b"%016d%016d" % (number, at) + bytes(4064) for at in range(0, size, 4096))[:size]


class Clients:
    """Threads with a client each, and the history of what they did."""

    def __init__(self, cluster, seed, n=6):
        self._cluster, self._lock, self._n_begun = cluster, threading.Lock(), 0
        self._over = threading.Event()
        self.done, self.sizes, self.counts, self.mixtures = [], {}, {}, []
        self.threads = [threading.Thread(target=self._run, args=(random.Random(f"{seed} {number}"),), daemon=True) for number in range(n)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self._over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, rng):
        kinds = ("put", "put", "put", "get", "get", "get", "get", "remove", "rename", "copy")
        with self._cluster.client(patience=PATIENCE_S, block_size=MIB, hedge_after=0.5) as client:
            while not self._over.is_set():
                self.one(client, rng.choice(kinds), *rng.sample(NAMES, 2), rng.choice((64, 4000, 100_000, 2 * MIB + 5)))
                self._over.wait(rng.random() * 0.05)

    def one(self, client, kind, path, target=None, size=0):
        """Do one operation, and note it."""
        with self._lock:
            self._n_begun += 1
            number = self._n_begun
            self.sizes[number] = size
        asked_s = time.monotonic()
        try:
            value, outcome = self._do(client, kind, path, target, number, size), "ok"
        except errors.NoSuchFile:
            value, outcome = None, "absent"
        except errors.DfsError as e:
            value, outcome = (number if kind == "put" else None), _outcome(kind, e)
            with self._lock:
                self.counts[f"{kind} {e.code}"] = self.counts.get(f"{kind} {e.code}", 0) + 1
        answered_s = time.monotonic()
        with self._lock:
            self.counts[f"{kind} {outcome}"] = self.counts.get(f"{kind} {outcome}", 0) + 1
            self.done.append(history.Done(number, kind, path, target if kind in ("rename", "copy") else None, value, outcome, asked_s, answered_s))
        return outcome

    def _do(self, client, kind, path, target, number, size):
        if kind == "put":
            client.put(io.BytesIO(content(number, size)), path)
            return number
        if kind == "get":
            out = io.BytesIO()
            client.get(path, out)
            return self._number_of(path, out.getvalue())
        {"remove": client.remove, "rename": client.rename, "copy": client.copy}[kind](*([path] if kind == "remove" else [path, target]))
        return None

    def _number_of(self, path, data):
        """Whose bytes these are; bytes of nobody are a mixture, whatever the history says."""
        number = int(data[:16]) if data[:16].isdigit() else 0
        if data != content(number, self.sizes.get(number, 0)):
            with self._lock:
                self.mixtures.append(f"{path}: {len(data)} bytes that begin with {data[:32]!r} are no put's")
        return number


def _outcome(kind, e):
    """Whether anything may have happened: only a refusal says that nothing did."""
    if kind == "get":
        return "refused"
    is_sure = isinstance(e, errors.Refusal) and e.code not in ("lease_lapsed", "busy", "not_ready", "not_master")
    return "refused" if is_sure else "unknown"


class Faults:
    """One at a time or a few at once, each mended before its end."""

    def __init__(self, cluster, seed):
        self._cluster, self._rng, self.counts = cluster, random.Random(f"{seed} faults"), {}

    def run(self, seconds):
        end_s = time.monotonic() + seconds
        kinds = ("kill_keeper", "kill_keeper", "stop_keeper", "freeze_keeper", "kill_process", "kill_process", "wipe_keeper", "wipe_keeper",
                 "kill_master", "kill_master", "freeze_master", "kill_two")
        order = self._rng.sample(kinds, len(kinds))  # in a short run, no kind twice before every other
        while time.monotonic() < end_s:
            kind = order.pop() if order else self._rng.choice(kinds)
            began_s = time.monotonic()
            if getattr(self, kind)() is not False:
                self.counts[kind] = self.counts.get(kind, 0) + 1
            print(f"  {kind} {time.monotonic() - began_s:.1f} s", file=sys.stderr, flush=True)
            time.sleep(self._rng.random())

    def _name(self):
        return self._rng.choice(sorted(self._cluster.keepers))

    def _pause(self, least_s, most_s):
        time.sleep(self._rng.uniform(least_s, most_s))

    def kill_keeper(self):
        name = self._name()
        self._cluster.kill(name)
        self._pause(0.0, 3.0)
        self._cluster.restart(name)

    def kill_two(self):
        names = self._rng.sample(sorted(self._cluster.keepers), 2)
        for name in names:
            self._cluster.kill(name)
        self._pause(0.0, 2.0)
        for name in names:
            self._cluster.restart(name)

    def stop_keeper(self):
        name = self._name()
        self._cluster.stop_one(name)
        self._pause(0.0, 2.0)
        self._cluster.restart(name)

    def freeze_keeper(self):
        name = self._name()
        self._cluster.pause(name)
        self._pause(0.5, 5.0)
        self._cluster.resume(name)

    def kill_process(self):
        """One process of a keeper: a port's or the reporter."""
        pids = [pid for pid in local.group_members(self._cluster.keepers[self._name()].process.pid)]
        leaders = {keeper.pid for keeper in self._cluster.keepers.values()} | {keeper.process.pid for keeper in self._cluster.keepers.values()}
        pids = [pid for pid in pids if pid not in leaders]
        if pids:
            os.kill(self._rng.choice(pids), signal.SIGKILL)

    def wipe_keeper(self):
        if not is_whole(self._cluster, 8.0):
            return False  # not now: it would take a last copy
        name = self._name()
        self._cluster.kill(name)
        self._cluster.restart(name, wipe=True)
        return True

    def kill_master(self):
        self._cluster.kill(local.MASTER)
        self._pause(0.0, 1.5)
        self._cluster.restart(local.MASTER)

    def freeze_master(self):
        self._cluster.pause(local.MASTER)
        self._pause(0.5, 4.0)
        self._cluster.resume(local.MASTER)


def is_whole(cluster, seconds):
    """Whether every block comes to have all its copies within so many seconds, with every keeper there."""
    end_s = time.monotonic() + seconds
    with cluster.client(patience=PATIENCE_S) as client:
        while time.monotonic() < end_s:
            status = client.status()
            n_live = sum(keeper["state"] == "live" and keeper["reported"] for keeper in status.keepers)
            if n_live == N_KEEPERS and not (status.safemode or status.under_replicated or status.missing or status.repairs_running):
                return True
            time.sleep(0.05)
    return False


def torture(directory, seconds, seed, program=None):
    """One run. Returns (figures, what is wrong: texts)."""
    with LiveCluster(os.path.join(directory, "cluster"), keepers=N_KEEPERS, program=program, master_options=list(MASTER_OPTIONS)) as cluster:
        clients, faults = Clients(cluster, seed), Faults(cluster, seed)
        clients.start()
        try:
            faults.run(seconds)
        finally:
            clients.end()
        wrong, began_s = [], time.monotonic()
        if not is_whole(cluster, 120.0):
            with cluster.client() as client:
                status = client.status()
                wrong.append(f"120 s after the last fault copies are missing: {status.under_replicated} short, {status.missing} lost, "
                             f"{status.waiting[:3]}, {status.alarms}")
        rest_s = time.monotonic() - began_s
        with cluster.client(patience=PATIENCE_S) as client:
            for name in NAMES:
                if clients.one(client, "get", name) not in ("ok", "absent"):
                    wrong.append(f"at the end {name} cannot be read")
            listed = {entry.path: entry for entry in client.walk("/")}
            for path in listed:
                short = [block for block in client.stat(path, blocks=True)["blocks"] if len(block["keepers"]) < COPIES]
                wrong += [f"{path} has a block with {len(short[0]['keepers'])} copies"] if short else []
        checked = cluster.run("fsck", "--deep", timeout=120)
        if checked.returncode:
            wrong.append(f"fsck --deep ends with {checked.returncode}: {checked.stdout[-500:]}{checked.stderr[-500:]}")
    wrong += clients.mixtures
    most = 0
    try:
        most = history.check(clients.done, NAMES)
    except history.Impossible as e:
        wrong.append(str(e))
    return {"operations": len(clients.done), "outcomes": clients.counts, "faults": faults.counts, "rest_s": rest_s, "stories": most}, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1, help="which faults come, and what clients do; when, the machine decides")
    parser.add_argument("--directory", help="where the cluster is made (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfs-torture-", dir=options.directory) as directory:
        figures, wrong = torture(directory, options.seconds, options.seed)
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    for text in wrong:
        print(f"WRONG {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
