"""Large files: 1 GiB in and out, and eight clients at once, beside cp and the raw pair and chain.

Each put goes to a new name, and its file is removed after the round, outside the measured time: nothing is replaced, nothing fills up.
"""

import os
import shutil
import time

import bench as b
import clients
import measure

MB = 1e-6  # rates are in MB/s, of the file's bytes and not of its copies'


def put_get_1(bench):
    """One copy: put and get of one file."""
    size = bench.pick(b.GIB, 64 * b.MIB)
    source = bench.file("large", size)
    with bench.cluster() as cluster, bench.helpers() as started:
        world = _World(bench, cluster, started, source, copies=1)
        title = f"put {size >> 20} MiB, 1 copy"
        found = world.rounds({"cp": world.cp, "raw pair": world.raw_put, "dfs": world.put})
        bench.show(title, "MB/s", found)
        bench.ratio("put, 1 copy, to the raw pair", found["dfs"], found["raw pair"], wanted=0.9, collapse=0.1)
        _cpu(bench, f"CPU of put {size >> 20} MiB", found["dfs"], found["raw pair"])
        world.keep()
        found = world.rounds({"cp": world.cp, "raw pair": world.raw_get, "raw pair, sendfile": world.raw_get_plain, "dfs": world.get})
        bench.show(f"get {size >> 20} MiB, 1 copy", "MB/s", found)
        bench.ratio("get, 1 copy, to the raw pair", found["dfs"], found["raw pair"], wanted=0.9, collapse=0.1)
        _cpu(bench, f"CPU of get {size >> 20} MiB", found["dfs"], found["raw pair"], 2.2)
        bench.memory(cluster, world.client_peaks)


def put_2(bench):
    """Two copies: put of one file beside the two-hop chain."""
    size = bench.pick(b.GIB, 64 * b.MIB)
    source = bench.file("large", size)
    with bench.cluster() as cluster, bench.helpers() as started:
        world = _World(bench, cluster, started, source, copies=2)
        found = world.rounds({"cp": world.cp, "raw chain": world.raw_put, "dfs": world.put})
        bench.show(f"put {size >> 20} MiB, 2 copies", "MB/s", found)
        bench.ratio("put, 2 copies, to the raw chain", found["dfs"], found["raw chain"], wanted=0.8, collapse=0.1)
        _cpu(bench, f"CPU of put {size >> 20} MiB, 2 copies", found["dfs"], found["raw chain"], 4.0)
        bench.memory(cluster, world.client_peaks)


def eight(bench):
    """Eight clients, 128 MiB each, two copies, beside one client that moves as much."""
    part = bench.pick(128 * b.MIB, 8 * b.MIB)
    source, whole = bench.file("part", part), bench.file("whole", 8 * part)
    with bench.cluster() as cluster, bench.helpers() as started:
        one = started(b.dfs_client(cluster))
        many = [started(b.dfs_client(cluster)) for _ in range(8)]
        pids, peaks, n_put = b.server_pids(cluster), [], iter(range(1 << 30))

        def reading(who, errands):
            found = clients.reading(who, errands, pids, MB)
            peaks.append(found.more["peak_mib"])
            return found

        def put(who, local):
            n = next(n_put)
            found = reading(who, [{"do": "put", "local": local, "path": f"/put-{n}-{i}", "copies": 2} for i in range(len(who))])
            remove(cluster, [f"/put-{n}-{i}" for i in range(len(who))], wait=not bench.quick)
            return found

        found = measure.interleave({"1 client": lambda: put([one], whole), "8 clients": lambda: put(many, source)}, bench.rounds)
        bench.show(f"put 8 × {part >> 20} MiB, 2 copies", "MB/s", found)
        bench.ratio("put, 8 clients, to 1 client", found["8 clients"], found["1 client"], wanted=0.9, collapse=0.2)
        clients.run([one], [{"do": "put", "local": whole, "path": "/whole", "copies": 2}])
        clients.run(many, [{"do": "put", "local": source, "path": f"/part-{i}", "copies": 2} for i in range(8)])

        def get(who, paths):
            targets = [os.path.join(bench.scratch, f"out-{i}") for i in range(len(who))]
            found = reading(who, [{"do": "get", "path": path, "local": target} for path, target in zip(paths, targets)])
            for target in targets:
                os.unlink(target)
            return found

        found = measure.interleave({"1 client": lambda: get([one], ["/whole"]),
                                    "8 clients": lambda: get(many, [f"/part-{i}" for i in range(8)])}, bench.rounds)
        bench.show(f"get 8 × {part >> 20} MiB, 2 copies", "MB/s", found)
        bench.ratio("get, 8 clients, to 1 client", found["8 clients"], found["1 client"], wanted=0.9, collapse=0.2)
        bench.memory(cluster, peaks)


class _World:
    """One file, one client of dfs, one of a raw server or chain: the arms."""

    def __init__(self, bench, cluster, started, source, copies):
        self._bench, self._cluster, self._source, self._copies = bench, cluster, source, copies
        self._size = os.path.getsize(source)
        self._client = started(b.dfs_client(cluster))
        self._pids = b.server_pids(cluster)
        self._raw_directories, following, self._raw_pids = [], None, []
        for hop in range(copies):  # the last of the chain first
            directory = bench.directory(f"raw-{hop}")
            server, following = clients.raw_server(directory, following)
            started(server)
            self._raw_directories.append(directory)
            self._raw_pids.append(server.pid)
        self._raw = started(clients.start(clients.RawClient, port=following))
        self._target = os.path.join(bench.scratch, "out")
        self._n_put = 0
        self.client_peaks = []

    def rounds(self, arms):
        return measure.interleave(arms, self._bench.rounds)

    def cp(self):
        before_s = os.times()
        began_s = time.perf_counter()
        shutil.copyfile(self._source, self._target)
        seconds, after_s = time.perf_counter() - began_s, os.times()
        os.unlink(self._target)
        return measure.Reading(seconds, self._size * MB, after_s.user + after_s.system - before_s.user - before_s.system, 0.0)

    def put(self):
        self._n_put += 1
        path = f"/put-{self._n_put}"
        found = clients.reading([self._client], [{"do": "put", "local": self._source, "path": path, "copies": self._copies}], self._pids, MB)
        self.client_peaks.append(found.more["peak_mib"])
        remove(self._cluster, [path], wait=not self._bench.quick)
        return found

    def keep(self):
        """Store the file once more, for the gets; and link it where the raw server looks."""
        clients.run([self._client], [{"do": "put", "local": self._source, "path": "/kept", "copies": self._copies}])
        os.link(self._source, os.path.join(self._raw_directories[-1], "kept"))

    def get(self):
        found = clients.reading([self._client], [{"do": "get", "path": "/kept", "local": self._target}], self._pids, MB)
        self.client_peaks.append(found.more["peak_mib"])
        os.unlink(self._target)
        return found

    def raw_put(self):
        found = clients.reading([self._raw], [{"do": "put", "local": self._source, "name": "put"}], self._raw_pids, MB)
        for directory in self._raw_directories:
            os.unlink(os.path.join(directory, "put"))
        return found

    def raw_get(self, plain=False):
        found = clients.reading([self._raw], [{"do": "get", "name": "kept", "local": self._target, "plain": plain}], self._raw_pids, MB)
        os.unlink(self._target)
        return found

    def raw_get_plain(self):
        return self.raw_get(plain=True)


def _cpu(bench, what, ours, raws, most=None):
    """All processes together; judged at full size, where the bound was set."""
    total = [r.client_cpu_s + r.server_cpu_s for r in ours]
    raw = [r.client_cpu_s + r.server_cpu_s for r in raws]
    bench.limit(what, total, most=most, unit="s")
    bench.limit(what + ", times the raw one's", [a / c for a, c in zip(total, raw) if c] or [0.0],
                collapse=lambda ratio: ratio <= 15)


def remove(cluster, paths, wait=True):
    """Remove files and wait a while for their bytes to go: they must not be deleted in the next arm's time, nor fill the memory."""
    with cluster.client() as client:
        used = _used(client)
        for path in paths:
            client.remove(path)
        if not wait:
            return
        end_s = time.monotonic() + 8.0
        while time.monotonic() < end_s:
            time.sleep(0.1)
            now = _used(client)
            if now < used:
                time.sleep(0.1)  # the rest goes in the same order
                return


def _used(client):
    return sum(keeper["used"] for keeper in client.status().keepers)
