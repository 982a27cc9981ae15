"""A catalog of a million files: the master's memory, how soon it serves again after kill -9, what put and stat keep of their rate.

The files are published through the catalog's own operations, one block and two replicas each. Two ghosts hold the replicas: processes that
register, report two million blocks and beat as keepers do, but keep none. They say that they are full, so new files go to the real keepers.

    python3 benchmarks/million.py MASTER_PORT KEY_FILE KEEPER_ID N      is such a ghost
"""

import os
import secrets
import sys
import threading
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import catalogs
import measure

GHOSTS = ("a" * 32, "b" * 32)
_PAGE = 40_000


# -- a ghost ----------------------------------------------------------------------------------------------------------
def haunt(port, key_file, keeper_id, n):
    """Register, report, beat; again whenever the master has gone. Orders are fetched and never obeyed."""
    from dfs_lib import errors, keyfile
    from dfs_lib.net import streams
    from dfs_lib.wire import trust

    keyring = trust.Keyring.from_cluster_key(keyfile.read(key_file))
    credentials = keyring.credentials("keeper", keeper_id)
    while True:
        try:
            stream = streams.connect("127.0.0.1", port, credentials)
            _serve(stream, keyring, keeper_id, n)
        except errors.NetworkError:
            time.sleep(0.1)  # the master is being restarted
        except errors.DfsError as e:
            print(f"ghost {keeper_id[:4]}: {e}", file=sys.stderr)
            time.sleep(1.0)


def _serve(stream, keyring, keeper_id, n):
    from dfs_lib.net import datagrams
    from dfs_lib.wire import heartbeats, messages

    registered = stream.ask(messages.Register(
        keeper=keeper_id, incarnation=secrets.token_hex(16), cluster_id=stream.talk.cluster_id, host="127.0.0.1", ports=[1], labels={},
        pids=[], used=0, free=0, n_blocks=n, epoch=1, software="ghost"), timeout_s=60.0)
    sender = datagrams.Sender("127.0.0.1", registered.heartbeat_port)

    def beat():
        number = 0
        while not over.wait(0.5):
            number += 1
            sender.send(heartbeats.Heartbeat(registered.session, keeper_id, number, 0, 0, n, {1: 0}), keyring.node)

    over = threading.Event()
    threading.Thread(target=beat, daemon=True).start()
    try:
        size = catalogs.SIZE.to_bytes(8, "big")
        for start in range(0, n, _PAGE):
            body = b"".join(catalogs.block_id(index) + size for index in range(start, min(n, start + _PAGE)))
            stream.ask(messages.ReportBlocks(first=start == 0, last=start + _PAGE >= n, crc=zlib.crc32(body)), body, timeout_s=120.0)
        while True:
            stream.ask(messages.Notify(events=[], used=0, free=0, n_blocks=n, sick="a ghost keeps nothing", pids=[]), timeout_s=60.0)
            time.sleep(1.0)
    finally:
        over.set()
        sender.close()


# -- the case ---------------------------------------------------------------------------------------------------------
def million(bench):
    """A catalog of a million files."""
    import bench as b
    import clients
    from dfs_lib.catalog import operations

    n, n_stats, n_puts = bench.pick((1_000_000, 4000, 400), (20_000, 400, 60))
    source, names = bench.small_files(n_puts)
    with bench.cluster() as small, bench.cluster() as large, bench.helpers() as started:
        began_s = time.monotonic()
        with catalogs.opened(large, wait=False) as catalog:
            numbers = [catalog.apply(operations.RegisterKeeper(keeper=ghost, host="127.0.0.1", ports=[1], labels={}, at=catalogs.AT))
                       for ghost in GHOSTS]
            for part in range(0, n, 50_000):  # directories as people have them, and a listing as wide as in the case `list`
                catalogs.fill(catalog, min(50_000, n - part), f"/many/{part // 50_000:03}", numbers, first=part)
        data = os.path.join(large.directory, "master", "catalog.db")
        bench.note(f"built in {time.monotonic() - began_s:.0f} s, catalog.db {os.path.getsize(data) >> 20} MiB")
        for ghost in GHOSTS:
            started(clients.Process(os.path.abspath(__file__), large.master.ports[0], large.key_file, ghost, n))
        _wait_reported(large, 5)
        pairs = {"empty catalog": small, f"{n:,} files": large}
        for cluster in pairs.values():
            with cluster.client() as client:
                client.mkdir("/own")
                client.put(f"{source}/{names[0]}", "/own/file", copies=2, safe=2)
        processes = {name: started(b.dfs_client(cluster)) for name, cluster in pairs.items()}
        n_put = iter(range(1 << 30))

        def stat(name):
            path = "/own/file" if name == "empty catalog" else f"/many/000/file-{next(n_put) % 50:08}"
            return clients.reading([processes[name]], [{"do": "stat_loop", "path": path, "n": n_stats}], b.server_pids(pairs[name]))

        def put(name):
            path = f"/put-{next(n_put)}"
            with pairs[name].client() as client:
                client.mkdir(path)
            return clients.reading([processes[name]], [{"do": "put_loop", "directory": source, "names": names, "path": path, "copies": 2}],
                                   b.server_pids(pairs[name]))

        for what, act, unit in (("stat", stat, "requests/s"), ("put 4 KiB", put, "files/s")):
            found = measure.interleave({name: lambda name=name, act=act: act(name) for name in pairs}, bench.rounds)
            bench.show(f"{what}, empty catalog and {n:,} files", unit, found)
            ours, empty = found[f"{n:,} files"], found["empty catalog"]
            bench.ratio(f"{what}, to an empty catalog", ours, empty, wanted=0.8, collapse=0.2)
        bench.limit("master's memory, at its peak", [measure.memory_mib(large.master.pid)], most=250, unit="MiB")
        served = [_restart(large) for _ in range(bench.pick(3, 1))]
        bench.limit("from kill -9 to the first answered stat", served, most=3.0, unit="s")
        began_s = time.monotonic()
        _wait_reported(large, 5)
        bench.note(f"all blocks reported {time.monotonic() - began_s:.1f} s later")
        bench.limit("master's memory after all reports", [measure.memory_mib(large.master.pid)], most=250, unit="MiB")


def _wait_reported(cluster, n_keepers):
    end_s = time.monotonic() + 300
    with cluster.client() as client:
        while sum(keeper["reported"] and keeper["state"] == "live" for keeper in client.status().keepers) < n_keepers:
            if time.monotonic() > end_s:
                raise RuntimeError("not all keepers have reported in 300 s")
            time.sleep(0.1)


def _restart(cluster):
    cluster.kill("master")
    began_s = time.monotonic()
    cluster.restart("master")
    with cluster.client() as client:
        client.stat("/many/000")
    return time.monotonic() - began_s


def _end_with_stdin():
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    print("ready", flush=True)
    haunt(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
