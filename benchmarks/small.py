"""Small files: 2,000 of 4 KiB, two copies; one call after another on one client, and several in flight, beside the raw pair's streams.

Local files are read and written on tmpfs by both sides; a got file is fsynced and renamed by both.
"""

import os
import shutil

import bench as b
import clients
import measure


def small(bench):
    n = bench.pick(2000, 150)
    rounds = bench.pick(3, 2) if bench.rounds == 5 or bench.quick else bench.rounds
    source, names = bench.small_files(n)
    with bench.cluster() as cluster, bench.helpers() as started:
        second, port = clients.raw_server(bench.directory("raw-2"))
        first, port = clients.raw_server(bench.directory("raw-1"), port)
        raw_pids = [started(second).pid, started(first).pid]
        raw = started(clients.start(clients.RawClient, port=port))
        client, pids = started(b.dfs_client(cluster)), b.server_pids(cluster)
        n_put, n_got = iter(range(1 << 30)), iter(range(1 << 30))

        def put(do, **more):
            path = f"/{do}-{next(n_put)}"
            with cluster.client() as other:
                other.mkdir(path)
            return clients.reading([client], [{"do": do, "directory": source, "names": names, "path": path, "copies": 2, **more}], pids)

        def raw_put(do, **more):
            return clients.reading([raw], [{"do": do, "directory": source, "names": names, **more}], raw_pids)

        arms = {"raw pair": lambda: raw_put("put_loop"), "raw pair, 8 streams": lambda: raw_put("put_many", jobs=8),
                "dfs, one by one": lambda: put("put_loop"), "dfs, jobs 8": lambda: put("put_many", jobs=8)}
        found = measure.interleave(arms, rounds)
        bench.show(f"put {n:,} × 4 KiB, 2 copies", "files/s", found)
        bench.ratio("put, one by one, to the raw pair", found["dfs, one by one"], found["raw pair"], wanted=0.25, collapse=0.008)
        bench.ratio("put, jobs 8, to 8 raw streams", found["dfs, jobs 8"], found["raw pair, 8 streams"], wanted=0.5, collapse=0.05)

        with cluster.client() as other:
            other.mkdir("/kept")
        clients.run([client], [{"do": "put_many", "directory": source, "names": names, "path": "/kept", "copies": 2, "jobs": 8}])

        def get(who, server_pids, do, **more):
            target = bench.directory(f"got-{next(n_got)}")
            reading = clients.reading([who], [{"do": do, "names": names, "directory": target, **more}], server_pids)
            if len(os.listdir(target)) != n:
                raise RuntimeError("not all files were got")
            shutil.rmtree(target)
            return reading

        arms = {"raw pair": lambda: get(raw, raw_pids, "get_loop"), "raw pair, 8 streams": lambda: get(raw, raw_pids, "get_many", jobs=8),
                "dfs, one by one": lambda: get(client, pids, "get_loop", path="/kept"),
                "dfs, jobs 8": lambda: get(client, pids, "get_many", path="/kept", jobs=8)}
        found = measure.interleave(arms, rounds)
        bench.show(f"get {n:,} × 4 KiB", "files/s", found)
        bench.ratio("get, one by one, to the raw pair", found["dfs, one by one"], found["raw pair"], wanted=0.4, collapse=0.015)
        bench.ratio("get, jobs 8, to 8 raw streams", found["dfs, jobs 8"], found["raw pair, 8 streams"], wanted=0.5, collapse=0.05)
        bench.memory(cluster)
