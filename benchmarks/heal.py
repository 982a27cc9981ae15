#!/usr/bin/env python3
"""What the death of a keeper costs: how soon it is noticed, how soon every file is whole again, and what readers and writers feel.

    python3 benchmarks/heal.py                    2 GiB in files of many sizes, four keepers, two copies: needs 7 GiB of memory to be free
    python3 benchmarks/heal.py --mib 100          a small form; sizes too small for the rates to mean much
    python3 benchmarks/heal.py --json FILE        every figure as JSON; --only quiet busy …: some scenarios

    quiet     kill -9 of one keeper, --repair-grace 0, nobody reads: detection, first new copy, all whole; beside the raw pair
    busy      readers and writers all the time: a keeper is frozen (SIGSTOP) past its death and thawed, then another is killed, with a grace
    grace     copies 3, five keepers, a grace: two good copies are left, so it is waited for, and all are whole in time after it
    second    copies 3, five keepers: a second one is killed while the repair after the first is under way
    master    the master is killed while repair is under way, and while a keeper is being drained

Exit status 1 when something was lost, failed, stalled for more than 2 s, or took longer than the promise: dead-time + grace + the bytes
at half the speed of the puts of the same run. Real processes on loopback, data on tmpfs, fsync, checksums and authentication on.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import bench as b
import clients
import measure
from dfs_lib import errors, local
from dfs_lib.wire import messages

STALL_S = 2.0
DEAD_AFTER_S, SUSPECT_AFTER_S = 4.0, 1.5  # shorter than by default, so that a run is; the client's patience is the default's
PIECE = 256 << 10
TOO_LONG_S = 240.0


class Files:
    """Files of many sizes on the cluster, with what they must read as. content is told by number and size alone."""

    def __init__(self, scratch, size, seed=1):
        rng = random.Random(seed)
        self._tile = rng.randbytes(b.MIB)
        self._local = os.path.join(scratch, "source")
        self.sizes, self.crcs, left = {}, {}, size
        while left > 0:
            low, high = rng.choice(((1, 64 << 10), (64 << 10, b.MIB), (b.MIB, 16 * b.MIB), (48 * b.MIB, 100 * b.MIB)))
            most = max(size // 8, 64 << 10)  # a small form has small files only
            n = min(left, most, rng.randint(low, high))
            self.sizes[f"/data/{len(self.sizes):05}"] = n
            left -= n

    def pieces(self, path, size):
        head = path.encode().ljust(32, b".")
        for at in range(0, size, b.MIB):
            yield (head + at.to_bytes(8, "big") + self._tile)[:min(b.MIB, size - at)]

    def put(self, client, path, size, **options):
        """Put one file; returns the seconds of the put alone."""
        crc = 0
        with open(f"{self._local}-{threading.get_ident()}", "wb") as out:
            for piece in self.pieces(path, size):
                crc = zlib.crc32(piece, crc)
                out.write(piece)
        began_s = time.monotonic()
        client.put(out.name, path, parents=True, **options)
        took_s = time.monotonic() - began_s
        os.unlink(out.name)
        self.sizes[path], self.crcs[path] = size, crc
        return took_s

    def put_all(self, client, **options):
        """Bytes a second of the files of a MiB and more: the plain speed of `put`."""
        taken = [(self.put(client, path, size, **options), size) for path, size in list(self.sizes.items())]
        large = [(took_s, size) for took_s, size in taken if size >= b.MIB] or taken
        return sum(size for _took_s, size in large) / sum(took_s for took_s, _size in large)

    def check(self, client, path, on_wait=lambda seconds: None):
        """Read one file and compare it; on_wait(seconds) of each read. Returns what is wrong, or ""."""
        began_s, crc, n = time.monotonic(), 0, 0
        with client.open(path) as source:
            on_wait(time.monotonic() - began_s)
            while True:
                began_s = time.monotonic()
                piece = source.read(PIECE)
                on_wait(time.monotonic() - began_s)
                if not piece:
                    break
                crc, n = zlib.crc32(piece, crc), n + len(piece)
        return "" if (n, crc) == (self.sizes[path], self.crcs[path]) else f"{path} reads as {n} other bytes"


class Load:
    """Readers and writers in threads, each with a client of its own, until `end`. waits: the longest, by kind; failures: texts."""

    def __init__(self, cluster, files, n_readers=2, n_writers=1):
        self._cluster, self._files, self._over = cluster, files, threading.Event()
        self.longest, self.counts, self.failures = {"read": 0.0, "write": 0.0}, {"read": 0, "write": 0}, []
        self._threads = [threading.Thread(target=self._run, args=(kind, number), daemon=True) for kind, n in (("read", n_readers), ("write", n_writers))
                         for number in range(n)]
        for thread in self._threads:
            thread.start()

    def _run(self, kind, number):
        rng = random.Random(number)
        with self._cluster.client() as client:
            while not self._over.is_set():
                try:
                    self._read(client, rng) if kind == "read" else self._write(client, rng)
                    self.counts[kind] += 1
                except errors.DfsError as e:
                    self.failures.append(f"{kind}: {e.code}: {e.message}")

    def _waited(self, kind, seconds):
        self.longest[kind] = max(self.longest[kind], seconds)

    def _read(self, client, rng):
        path = rng.choice(sorted(self._files.crcs))
        if wrong := self._files.check(client, path, lambda seconds: self._waited("read", seconds)):
            self.failures.append(wrong)

    def _write(self, client, rng):
        path, size = f"/new/{self.counts['write']:05}", rng.choice((4096, 100_000, b.MIB))
        self._waited("write", self._files.put(client, path, size))

    def end(self):
        """Returns (longest read, longest write, failures)."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self.longest["read"], self.longest["write"], self.failures

    def start_anew(self):
        """Forget the longest waits so far; returns them."""
        before, self.longest = self.longest, {"read": 0.0, "write": 0.0}
        return before


class Heal:
    """One run: figures by scenario, and what was not as promised."""

    def __init__(self, bench, size):
        self.bench, self.size = bench, size
        self.figures, self.broken = {}, []

    def say(self, scenario, name, value, unit="", most=None):
        """Note a figure; with a bound, judge it."""
        self.figures.setdefault(scenario, {})[name] = value
        mark = "" if most is None else f"   at most {measure.number(most)} {unit}: {'ok' if value <= most else 'BROKEN'}"
        self.bench.line(f"  {name:52}{measure.number(value) if not isinstance(value, str) else value:>12} {unit}{mark}")
        if most is not None and value > most:
            self.broken.append(f"{scenario}: {name}: {value} {unit}, at most {most}")

    def must_be_empty(self, scenario, name, texts):
        self.say(scenario, name, len(texts), most=0)
        for text in texts[:5]:
            self.bench.line(f"    {text}")

    # -- scenarios ------------------------------------------------------------------------------------------------------
    def quiet(self):
        """kill -9, no grace, nobody reads."""
        with self._cluster(4, 0) as cluster, cluster.client() as client:
            files = Files(self.bench.scratch, self.size)
            rate = files.put_all(client, copies=2, safe=2)
            self.say("quiet", "stored", self.size / b.MIB, "MiB")
            self.say("quiet", "put of the files of a MiB and more", rate / 1e6, "MB/s")
            self._killed("quiet", cluster, client, files, rate, grace_s=0)
            self._all_read("quiet", client, files)
        self.say("quiet", "the raw pair: one put of as many bytes, one copy", self._raw(), "MB/s")

    def busy(self, grace_s=3):
        """A freeze and a death under load."""
        with self._cluster(4, grace_s) as cluster, cluster.client() as client:
            files = Files(self.bench.scratch, self.size, seed=2)
            rate = files.put_all(client, copies=2, safe=2)
            load = Load(cluster, files)
            time.sleep(1.0)
            before = load.start_anew()
            self.say("busy", "longest read before anything happens", before["read"], "s")
            cluster.pause("k4")
            until(lambda: self._state(client, cluster, "k4") == "dead")
            time.sleep(1.0)
            frozen = load.start_anew()
            cluster.resume("k4")
            self.say("busy", "longest read while a keeper is frozen", frozen["read"], "s", STALL_S)
            self.say("busy", "longest write while a keeper is frozen", frozen["write"], "s", STALL_S)
            until(lambda: self._state(client, cluster, "k4") == "live" and self._is_whole(client))
            load.start_anew()
            self._killed("busy", cluster, client, files, rate, grace_s)
            read_s, write_s, failures = load.end()
            self.say("busy", "longest read at the death of a keeper", read_s, "s", STALL_S)
            self.say("busy", "longest write at the death of a keeper", write_s, "s", STALL_S)
            self.say("busy", "files read and written meanwhile", f"{load.counts['read']}, {load.counts['write']}")
            self.must_be_empty("busy", "reads and writes that failed", failures)
            self._all_read("busy", client, files)

    def grace(self, grace_s=3):
        """A death with copies 3: nothing is at risk, so nothing is copied before the grace is over."""
        with self._cluster(5, grace_s) as cluster, cluster.client() as client:
            files = Files(self.bench.scratch, self.size // 3, seed=5)
            rate = files.put_all(client, copies=3, safe=3)
            seen = self._killed("grace", cluster, client, files, rate, grace_s, copies=3)
            waited_s = seen.get("first", seen["whole"]) - seen["dead"]
            self.say("grace", "dead until the first new copy", waited_s, "s")
            if waited_s < grace_s - 0.5:
                self.broken.append(f"grace: the first copy was made {waited_s:.1f} s after the death, and not after the grace of {grace_s} s")
            self._all_read("grace", client, files)

    def second(self):
        """A second death during the repair."""
        limit = max(b.MIB, self.size // 8)
        with self._cluster(5, 0, "--repair-rate", str(limit)) as cluster, cluster.client() as client:
            files = Files(self.bench.scratch, self.size // 3, seed=3)
            rate = files.put_all(client, copies=3, safe=3)
            lost, made = sum(self._bytes_on(cluster, client, files, name) for name in ("k1", "k2")), self._made(client)
            cluster.kill("k1")
            until(lambda: self._made(client) > made and client.status().repairs_running)
            n_short = client.status().under_replicated
            cluster.kill("k2")
            killed_s = time.monotonic()
            self.say("second", "blocks short when the second keeper dies", n_short)
            if not n_short:
                self.broken.append("second: the first repair was over before the second keeper died")
            until(lambda: self._state(client, cluster, "k2") == "dead" and self._is_whole(client))
            # The repair is held to its limit so that the second death meets it: that is the speed then, where it is below half of the puts'.
            self.say("second", "second kill -9 until all have their copies", time.monotonic() - killed_s, "s", DEAD_AFTER_S + lost / min(limit, rate / 2))
            self._all_copied("second", client, cluster, files, ("k1", "k2"), 3)
            self._all_read("second", client, files)

    def master(self):
        """The master dies in the middle of a repair, and in the middle of a drain."""
        with self._cluster(4, 0, "--repair-rate", str(max(b.MIB, self.size // 8))) as cluster, cluster.client(patience=60.0) as client:
            files = Files(self.bench.scratch, self.size // 4, seed=4)
            files.put_all(client, copies=2, safe=2)
            made = self._made(client)
            cluster.kill("k1")
            until(lambda: self._made(client) > made)
            self._master_again(cluster)
            until(lambda: self._state(client, cluster, "k1") == "dead" and self._is_whole(client))
            self._all_copied("master", client, cluster, files, ("k1",), 2)
            client.ask(messages.Drain(keepers=[cluster.keeper_id("k2")], draining=True))
            before = self._report(client, cluster, "k2")["blocks_left"]
            until(lambda: self._report(client, cluster, "k2")["blocks_left"] < before)
            left = self._report(client, cluster, "k2")
            self.say("master", "blocks left to drain when the master dies", left["blocks_left"])
            self.say("master", "what drain says then", left["text"])
            self._master_again(cluster)
            until(lambda: self._report(client, cluster, "k2")["blocks_left"] == 0)
            self._all_copied("master", client, cluster, files, ("k1", "k2"), 2)
            self._all_read("master", client, files)

    # -- parts ----------------------------------------------------------------------------------------------------------
    def _cluster(self, n_keepers, grace_s, *options):
        return self.bench.cluster(keepers=n_keepers, keeper_options=["--reserve", "1MiB"], n_ports=2, master_options=[
            "--repair-grace", str(grace_s), "--suspect-after", str(SUSPECT_AFTER_S), "--dead-after", str(DEAD_AFTER_S), *options])

    @staticmethod
    def _bytes_on(cluster, client, files, name):
        """Bytes of the blocks of which that keeper has a copy."""
        keeper = cluster.keeper_id(name)
        return sum(block["size"] for path in list(files.sizes) for block in client.stat(path, blocks=True)["blocks"] if keeper in block["keepers"])

    def _killed(self, scenario, cluster, client, files, rate, grace_s, copies=2):
        """kill -9 of k1, and how long everything takes from then on. Returns {what was seen: seconds from the kill}."""
        victim, made = cluster.keeper_id("k1"), self._made(client)
        lost = self._bytes_on(cluster, client, files, "k1")
        pids = [pid for name, found in b.processes(cluster).items() if name != "k1" for pid in found]
        began_cpu_s = measure.cpu_s(pids)
        os.killpg(cluster.keepers["k1"].process.pid, signal.SIGKILL)
        began_s, seen = time.monotonic(), {}
        while "whole" not in seen:
            status, now_s = client.status(), time.monotonic() - began_s
            state = next(keeper["state"] for keeper in status.keepers if keeper["keeper_id"] == victim)
            seen.setdefault(state, now_s)
            if status.counters.get("replicas_made", 0) > made:
                seen.setdefault("first", now_s)
            if "dead" in seen and not status.under_replicated and not status.repairs_running:
                seen["whole"] = now_s
            if now_s > TOO_LONG_S:
                raise RuntimeError(f"the repair was not over in {TOO_LONG_S:.0f} s: {status.waiting[:3]}")
            time.sleep(0.005)
        cluster.keepers["k1"].kill()  # reaped
        whole_s = seen["whole"]
        self.say(scenario, "bytes that lost a copy", lost / b.MIB, "MiB")
        self.say(scenario, "kill -9 until it counts as dead", seen["dead"], "s", DEAD_AFTER_S + 1.0)
        if "first" in seen:
            self.say(scenario, "kill -9 until the first new copy", seen["first"], "s")
        self.say(scenario, "kill -9 until all have their copies", whole_s, "s", DEAD_AFTER_S + grace_s + lost / (rate / 2))
        self.say(scenario, "copied once it counts as dead", lost / 1e6 / max(1e-3, whole_s - seen["dead"]), "MB/s")
        self.say(scenario, "CPU of master and keepers meanwhile", measure.cpu_s(pids) - began_cpu_s, "s")
        self._all_copied(scenario, client, cluster, files, ("k1",), copies)
        return seen

    def _all_copied(self, scenario, client, cluster, files, dead, copies):
        gone = {cluster.keeper_id(name) for name in dead}
        self.must_be_empty(scenario, "files short of copies", [
            f"{path}: {block['keepers']}" for path in sorted(files.crcs) for block in client.stat(path, blocks=True)["blocks"]
            if len(set(block["keepers"]) - gone) < copies])

    def _all_read(self, scenario, client, files):
        wrong = []
        for path in sorted(files.crcs):
            try:
                wrong += filter(None, [files.check(client, path)])
            except errors.DfsError as e:
                wrong.append(f"{path}: {e.code}: {e.message}")
        self.must_be_empty(scenario, "files lost or changed", wrong)

    def _raw(self):
        """MB/s of one put of the raw pair, the size of the largest block-sized files there are."""
        with self.bench.helpers() as started:
            server, port = clients.raw_server(self.bench.directory("raw-heal"))
            client = started(clients.start(clients.RawClient, port=port))
            source = self.bench.file("raw", min(self.size, 512 * b.MIB))
            reading = clients.reading([client], [{"do": "put", "local": source, "name": "put"}], [started(server).pid], 1e-6)
            return reading.amount / reading.seconds

    def _master_again(self, cluster):
        cluster.kill(local.MASTER)
        cluster.restart(local.MASTER)

    def _report(self, client, cluster, name):
        return client.ask(messages.Drain(keepers=[cluster.keeper_id(name)], draining=None), patient=True).keepers[0]

    @staticmethod
    def _made(client):
        return client.status().counters.get("replicas_made", 0)

    @staticmethod
    def _state(client, cluster, name):
        return next(keeper["state"] for keeper in client.status().keepers if keeper["keeper_id"] == cluster.keeper_id(name))

    @staticmethod
    def _is_whole(client):
        status = client.status()
        return not status.safemode and not status.under_replicated and not status.repairs_running


def until(is_so):
    end_s = time.monotonic() + TOO_LONG_S
    while not is_so():
        if time.monotonic() > end_s:
            raise RuntimeError(f"not within {TOO_LONG_S:.0f} s")
        time.sleep(0.02)


SCENARIOS = ("quiet", "busy", "grace", "second", "master")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=2048, help="stored bytes")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--directory", help="scratch space (default: tmpfs)")
    parser.add_argument("--json", metavar="FILE", help="all figures, - for standard output")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with b.Bench(False, options.directory, out=sys.stderr if options.json == "-" else sys.stdout) as bench:
        heal = Heal(bench, options.mib * b.MIB)
        for name in options.only:
            bench.line(f"\n{name}: {getattr(heal, name).__doc__}")
            getattr(heal, name)()
    for text in heal.broken:
        bench.line(f"BROKEN {text}")
    if options.json:
        with sys.stdout if options.json == "-" else open(options.json, "w", encoding="utf-8") as out:
            json.dump({"figures": heal.figures, "broken": heal.broken}, out)
    return 1 if heal.broken else 0


if __name__ == "__main__":
    sys.exit(main())
