"""What every case uses: scratch space on tmpfs, clusters, helper processes, and one list of what came out.

Knows no workload. Everything that was started or written is gone when the `with` around a Bench ends.

A *case* is a function that takes a Bench and calls `show` (a table of arms), `ratio` (our rate beside a reference's in the same rounds)
and `limit` (a figure that has a bound of its own). `wanted` is the target; `collapse` is what --check asserts: far lower, and a ratio
always, so that a busy machine does not fail and a path that has fallen apart does.
"""

import contextlib
import os
import random
import shutil
import sys
import tempfile

import clients
import measure
from dfs_lib import local

MIB, GIB = 1 << 20, 1 << 30


class Bench:
    """Sizes, scratch, results. `with Bench(quick) as bench: case(bench)`."""

    def __init__(self, quick, directory=None, rounds=None, out=sys.stdout):
        self.quick, self._out = quick, out
        self.rounds = rounds or (2 if quick else 5)
        self._parent = directory or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.results, self.verdicts = {}, []
        self._case = None

    def pick(self, full, quick):
        return quick if self.quick else full

    def __enter__(self):
        self.scratch = tempfile.mkdtemp(prefix="dfs-bench-", dir=self._parent)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.scratch, ignore_errors=True)

    def begin(self, name):
        self._case = self.results.setdefault(name, {"arms": {}, "ratios": [], "limits": [], "notes": []})

    # -- what cases need ------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def cluster(self, **options):
        """A running cluster of three keepers that keeps two copies, safe by default: keys, checksums, fsync. Empty afterwards."""
        options = {"keepers": 3, **options}
        options["master_options"] = ["--copies", "2", "--trash-grace", "0", *options.get("master_options", ())]
        directory = tempfile.mkdtemp(prefix="cluster-", dir=self.scratch)
        try:
            with local.Cluster(directory, **options) as cluster:
                yield cluster
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextlib.contextmanager
    def helpers(self):
        """start(…) of clients.py, and everything it started closed afterwards."""
        with contextlib.ExitStack() as stack:
            def started(process):
                stack.callback(process.close)
                return process

            yield started

    def file(self, name, size):
        """A file of random bytes in the scratch directory; made once."""
        path = os.path.join(self.scratch, name)
        if not os.path.exists(path):
            piece = random.Random(size).randbytes(min(size, 4 * MIB))
            with open(path, "wb") as out:
                for at in range(0, size, len(piece)):
                    out.write(piece[:size - at])
        return path

    def directory(self, name):
        """An empty directory in the scratch directory."""
        path = os.path.join(self.scratch, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path

    def small_files(self, n):
        """(directory, names) of n files of 4 KiB."""
        path, names = os.path.join(self.scratch, "small"), [f"{index:05}" for index in range(n)]
        os.makedirs(path, exist_ok=True)
        for index, name in enumerate(names):
            if not os.path.exists(f"{path}/{name}"):
                with open(f"{path}/{name}", "wb") as out:
                    out.write(random.Random(index).randbytes(4096))
        return path, names

    # -- what came out --------------------------------------------------------------------------------------------------
    def line(self, text=""):
        print(text, file=self._out, flush=True)

    def show(self, title, unit, readings):
        """A table: each arm's rate, median with min–max, with its CPU seconds. readings: {arm: [Reading]}."""
        self.line(f"\n{title}, {len(next(iter(readings.values())))} rounds, {unit}")
        width = max(map(len, readings)) + 2
        for name, of_arm in readings.items():
            clients_s, servers_s = [r.client_cpu_s for r in of_arm], [r.server_cpu_s for r in of_arm]
            cpu = f"CPU s: client {measure.spread_text(clients_s)}, servers {measure.spread_text(servers_s)}" if measure.spread(clients_s) else ""
            self.line(f"  {name:{width}}{measure.spread_text(measure.rates(of_arm)):>24}   {cpu}")
            self._case["arms"][name] = {
                "title": title, "unit": unit, "rate": measure.spread(measure.rates(of_arm)), "client_cpu_s": measure.spread(clients_s),
                "server_cpu_s": measure.spread(servers_s), "rounds": [reading._asdict() for reading in of_arm]}

    def ratio(self, what, readings, reference, wanted, collapse, factor=1.0):
        """Our rate as a part of the reference's, round by round. factor: what a ratio of 1 would be, e.g. 2 for twice the bytes."""
        values = [value * factor for value in measure.ratios(readings, reference)]
        middle = measure.spread(values)["median"]
        self._judge("ratios", what, values, middle >= wanted, middle >= collapse, f"wanted ≥ {wanted}", wanted, collapse)

    def limit(self, what, values, most=None, least=None, unit="", collapse=None):
        """A figure with a bound of its own: judged against it in the full form only. collapse(median) → bool, where it is a ratio."""
        values = list(values)
        middle = measure.spread(values)["median"]
        good = (most is None or middle <= most) and (least is None or middle >= least)
        bound = f"wanted ≤ {most}" if most is not None else f"wanted ≥ {least}" if least is not None else "no bound"
        self._judge("limits", what, values, good, collapse is None or collapse(middle), f"{unit} {bound}".strip(),
                    least if most is None else most, None)

    def _judge(self, kind, what, values, good, stands, bound, wanted, collapse):
        mark = "collapsed" if not stands else "ok" if good else "short"
        if bound.endswith("no bound") and mark == "ok" or self.quick and mark == "short":
            mark = "-"  # nothing to be judged by; or sizes too small for the target
        self.line(f"  {what:58} {measure.spread_text(values):>22}   {bound:28} {mark}")
        self._case[kind].append({"what": what, "values": values, **measure.spread(values), "wanted": wanted, "collapse": collapse, "verdict": mark})
        self.verdicts.append((what, mark))

    def note(self, text):
        self.line(f"  {text}")
        self._case["notes"].append(text)

    def memory(self, cluster, client_peaks=()):
        """Peak memory of every process of the cluster, and of clients; the highest of a keeper's processes is judged."""
        peaks = {name: [measure.memory_mib(pid) for pid in pids] for name, pids in processes(cluster).items()}
        self._case["peak_mib"] = peaks
        self.line("  peak MiB: " + ", ".join(f"{name} {' + '.join(f'{mib:.0f}' for mib in mibs)}" for name, mibs in peaks.items()))
        self.limit("memory of the largest keeper process", [max(mib for name, mibs in peaks.items() if name != local.MASTER for mib in mibs)],
                   most=60, unit="MiB")
        if client_peaks:
            self.limit("memory of the client", [max(client_peaks)], most=80, unit="MiB")


def processes(cluster):
    """{daemon: pids} of a cluster."""
    return {daemon.name: local.group_members(daemon.process.pid)
            for daemon in (cluster.master, *cluster.keepers.values()) if daemon.is_running}


def server_pids(cluster):
    return [pid for pids in processes(cluster).values() for pid in pids]


def dfs_client(cluster):
    return clients.start(clients.DfsClient, masters=cluster.masters_text, key_file=None if cluster.insecure else cluster.key_file)
