"""What authentication, seals and tickets cost: the same errands on a cluster with keys and on one with --insecure, in turns.

The measure is CPU seconds of all processes, clients and servers, pair by pair: rates on loopback are bound by something else.
Keys may cost 5 % of a large file and 15 % of small ones on a kept connection.

What is looked for is a few hundredths, and the CPU seconds of one and the same errand differ by tenths on a shared machine. So there are many
pairs of short errands rather than a few of long ones: a slow second then falls on one pair, and the median does not see it.
"""

import os
import shutil

import bench as b
import clients
import large
import measure

LARGE, SMALL = 1.05, 1.15
LARGE_PAIRS, SMALL_PAIRS = 3, 8  # a round of a large file, of small ones


def authentication(bench):
    """Keys beside --insecure: CPU of large and of small files."""
    size, n = bench.pick(b.GIB, 64 * b.MIB), bench.pick(250, 100)
    source, (directory, names) = bench.file("large", size), bench.small_files(n)
    with bench.cluster() as keyed, bench.cluster(insecure=True) as bare, bench.helpers() as started:
        sides = {"keys": _Side(bench, keyed, started), "--insecure": _Side(bench, bare, started)}
        _compare(bench, sides, f"put {size >> 20} MiB, 1 copy", "MB/s", LARGE, LARGE_PAIRS, lambda side: side.put(source))
        for side in sides.values():
            side.keep(source, directory, names)
        _compare(bench, sides, f"get {size >> 20} MiB", "MB/s", LARGE, LARGE_PAIRS, lambda side: side.get())
        for title, act in (
                ("put {} × 4 KiB one by one, 2 copies", lambda side: side.put_small("put_loop", directory, names)),
                ("put {} × 4 KiB, jobs 8, 2 copies", lambda side: side.put_small("put_many", directory, names, jobs=8)),
                ("get {} × 4 KiB one by one", lambda side: side.get_small("get_loop", names)),
                ("get {} × 4 KiB, jobs 8", lambda side: side.get_small("get_many", names, jobs=8))):
            _compare(bench, sides, title.format(n), "files/s", SMALL, SMALL_PAIRS, act)


def _compare(bench, sides, title, unit, most, pairs, act):
    found = measure.interleave({name: lambda side=side: act(side) for name, side in sides.items()}, bench.rounds * pairs)
    bench.show(title, unit, found)
    bench.limit("CPU with keys, times that without", [_cpu(one) / _cpu(other) for one, other in zip(found["keys"], found["--insecure"])],
                most=most, collapse=lambda ratio: ratio <= 2)


def _cpu(reading):
    return max(0.01, reading.client_cpu_s + reading.server_cpu_s)  # a tick of the kernel's at least


class _Side:
    """One cluster, and one client of it that keeps its connections."""

    def __init__(self, bench, cluster, started):
        self._bench, self._cluster, self._pids = bench, cluster, b.server_pids(cluster)
        self._client, self._n = started(b.dfs_client(cluster)), 0

    def _reading(self, errand, scale=1.0):
        return clients.reading([self._client], [errand], self._pids, scale)

    def _fresh(self):
        self._n += 1
        return f"/put-{self._n}"

    def put(self, source):
        path = self._fresh()
        found = self._reading({"do": "put", "local": source, "path": path, "copies": 1}, large.MB)
        large.remove(self._cluster, [path])
        return found

    def keep(self, source, directory, names):
        clients.run([self._client], [{"do": "put", "local": source, "path": "/kept", "copies": 1}])
        with self._cluster.client() as other:
            other.mkdir("/small")
        clients.run([self._client], [{"do": "put_many", "directory": directory, "names": names, "path": "/small", "copies": 2, "jobs": 8}])

    def get(self):
        target = os.path.join(self._bench.scratch, "out")
        found = self._reading({"do": "get", "path": "/kept", "local": target}, large.MB)
        os.unlink(target)
        return found

    def put_small(self, do, directory, names, **more):
        path = self._fresh()
        with self._cluster.client() as other:
            other.mkdir(path)
        return self._reading({"do": do, "directory": directory, "names": names, "path": path, "copies": 2, **more})

    def get_small(self, do, names, **more):
        target = self._bench.directory("got")
        found = self._reading({"do": do, "names": names, "directory": target, "path": "/small", **more})
        shutil.rmtree(target)
        return found
