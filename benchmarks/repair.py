"""Repair: one keeper of three is killed with 2 GiB stored at two copies; no grace, no throttle. Until every block has two copies again."""

import os
import time

import bench as b
import clients
import measure

MB = 1e-6
TOO_LONG_S = 120.0


def repair(bench):
    size = bench.pick(b.GIB, 64 * b.MIB)
    source, found = bench.file("large", size), {"raw pair": [], "dfs repair": []}
    detected, in_all = [], []
    for _ in range(bench.pick(3, 1)):
        found["raw pair"].append(_raw(bench, source))
        with bench.cluster(master_options=["--repair-grace", "0"]) as cluster:
            reading, detected_s, total_s = _one(cluster, source, ("/a", "/b"))
        found["dfs repair"].append(reading)
        detected.append(detected_s)
        in_all.append(total_s)
    bench.show(f"repair of {2 * size >> 20} MiB at 2 copies after one keeper of three was killed", "MB/s", found)
    bench.limit("from kill -9 until the keeper counts as dead", detected, unit="s")
    bench.limit("from kill -9 until all blocks have two copies", in_all, most=2.5, unit="s")
    bench.ratio("repair, to the raw pair", found["dfs repair"], found["raw pair"], wanted=0.8, collapse=0.02)


def _raw(bench, source):
    with bench.helpers() as started:
        directory = bench.directory("raw-repair")
        server, port = clients.raw_server(directory)
        client = started(clients.start(clients.RawClient, port=port))
        reading = clients.reading([client], [{"do": "put", "local": source, "name": "put"}], [started(server).pid], MB)
        os.unlink(os.path.join(directory, "put"))
        return reading


def _one(cluster, source, paths):
    """(Reading from the judgement on, seconds until that, seconds in all)."""
    with cluster.client() as client:
        for path in paths:
            client.put(source, path, copies=2, safe=2)
        victim = cluster.keeper_id("k1")
        lost = sum(block["size"] for path in paths for block in client.stat(path, blocks=True)["blocks"] if victim in block["keepers"])
        others = [pid for name, pids in b.processes(cluster).items() if name != "k1" for pid in pids]
        began_cpu_s, began_s = measure.cpu_s(others), time.monotonic()
        cluster.kill("k1")
        dead_s = _until(lambda: _state(client, victim) == "dead")
        _until(lambda: all(_is_whole(client, path, victim) for path in paths))
        end_s = time.monotonic()
        reading = measure.Reading(end_s - dead_s, lost * MB, None, measure.cpu_s(others) - began_cpu_s)
        return reading, dead_s - began_s, end_s - began_s


def _until(is_so):
    end_s = time.monotonic() + TOO_LONG_S
    while not is_so():
        if time.monotonic() > end_s:
            raise RuntimeError(f"the repair was not over in {TOO_LONG_S:.0f} s")
        time.sleep(0.02)
    return time.monotonic()


def _state(client, keeper_id):
    return next(keeper["state"] for keeper in client.status().keepers if keeper["keeper_id"] == keeper_id)


def _is_whole(client, path, victim):
    return all(len(set(block["keepers"]) - {victim}) >= 2 for block in client.stat(path, blocks=True)["blocks"])
