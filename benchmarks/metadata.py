"""Names, start-up, connections: what the master answers without a keeper, and what a command costs before it does anything."""

import contextlib
import os
import subprocess
import sys
import time

import bench as b
import catalogs
import clients
import measure
from dfs_lib import local


def stat(bench):
    """stat of one path over kept connections, one client and eight, beside a bare request and answer."""
    n = bench.pick(5000, 400)
    with bench.cluster() as cluster, bench.helpers() as started:
        bare_server, port = clients.bare_server(cluster.key_file)
        bare_pids, pids = [started(bare_server).pid], b.server_pids(cluster)
        with cluster.client() as client:
            client.mkdir("/a/b/c", parents=True)
            client.put(bench.file("tiny", 100), "/a/b/c/file", copies=2, safe=2)
        ours = [started(b.dfs_client(cluster)) for _ in range(8)]
        bare = [started(clients.start(clients.BareClient, port=port, key_file=cluster.key_file)) for _ in range(8)]

        def ask(n_clients):
            each = n if n_clients == 1 else n // 3
            return clients.reading(bare[:n_clients], [{"do": "ask_loop", "n": each}] * n_clients, bare_pids)

        def stat(n_clients):
            each = n if n_clients == 1 else n // 3
            return clients.reading(ours[:n_clients], [{"do": "stat_loop", "path": "/a/b/c/file", "n": each}] * n_clients, pids)

        found = measure.interleave({"bare request, 1 client": lambda: ask(1), "dfs stat, 1 client": lambda: stat(1),
                                    "bare request, 8 clients": lambda: ask(8), "dfs stat, 8 clients": lambda: stat(8)}, bench.rounds)
        bench.show("stat", "requests/s", found)
        bench.ratio("stat, 1 client, to a bare request", found["dfs stat, 1 client"], found["bare request, 1 client"], wanted=0.5, collapse=0.1)
        bench.ratio("stat, 8 clients, to bare requests", found["dfs stat, 8 clients"], found["bare request, 8 clients"], wanted=0.5, collapse=0.1)
        bench.limit("stat, 8 clients, summed", measure.rates(found["dfs stat, 8 clients"]), least=15_000, unit="/s")


def listing(bench):
    """A directory of 100,000 files: the first entry, and all."""
    n = bench.pick(100_000, 5_000)
    with bench.cluster() as cluster, bench.helpers() as started:
        with catalogs.opened(cluster) as catalog:
            catalogs.fill(catalog, n, "/many")
        client, pids = started(b.dfs_client(cluster)), b.server_pids(cluster)
        bare_server, port = clients.bare_server(cluster.key_file)
        bare_pids = [started(bare_server).pid]
        bare = started(clients.start(clients.BareClient, port=port, key_file=cluster.key_file))
        found = measure.interleave({
            "bare request": lambda: clients.reading([bare], [{"do": "ask_loop", "n": bench.pick(3000, 400)}], bare_pids),
            "dfs list": lambda: clients.reading([client], [{"do": "list", "path": "/many"}], pids)}, bench.rounds)
        if any(reading.amount != n for reading in found["dfs list"]):
            raise RuntimeError("the listing is not whole")
        bench.show(f"list {n:,} entries", "entries or requests/s", found)
        bench.limit("first entry", [r.more["first_s"] for r in found["dfs list"]], most=0.05, unit="s")
        bench.limit(f"all {n:,} entries", [r.seconds for r in found["dfs list"]], most=1.5, unit="s")
        bench.ratio("entries for each bare request", found["dfs list"], found["bare request"], wanted=6, collapse=0.5)


def start(bench):
    """`ls` as a command, beside the bare interpreter; both with and without `site`, whose .pth files may cost more than everything else."""
    # Bytecode is kept in a place of our own: the checkout may be read-only or new, and compiling is not what is asked about.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bench.directory("bytecode")
    with bench.cluster() as cluster:
        script = local.program()[1:]
        ls = ["ls", *cluster.client_words(), "--config", os.devnull, "/"]
        bare = [sys.executable, "-S"]  # -S: no site
        commands = {
            "python3 -c pass": [sys.executable, "-c", "pass"],
            "dfs --version": [sys.executable, *script, "--version"],
            "dfs ls /": [sys.executable, *script, *ls],
            "python3 -S -c pass": [*bare, "-c", "pass"],
            "python3 -S -c 'import argparse, socket, json, hashlib, logging'":
                [*bare, "-c", "import argparse, socket, json, hashlib, logging"],
            "dfs ls /, python3 -S": [*bare, *script, *ls],
        }
        for command in commands.values():
            _command(command, environment)
        found = measure.interleave({name: lambda command=command: _command(command, environment) for name, command in commands.items()},
                                   bench.pick(15, 4))
        bench.show("start-up", "commands/s", found)
        for name, readings in found.items():
            bench.limit(name, [1000 * r.seconds for r in readings], unit="ms")
        bench.ratio("ls, to a bare interpreter", found["dfs ls /"], found["python3 -c pass"], wanted=0.3, collapse=0.08)
        bench.ratio("ls, to the five modules, both without site", found["dfs ls /, python3 -S"],
                    found["python3 -S -c 'import argparse, socket, json, hashlib, logging'"], wanted=0.5, collapse=0.08)


def _command(words, environment):
    before, began_s = os.times(), time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
    seconds, after = time.perf_counter() - began_s, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return measure.Reading(seconds, 1, cpu_s, 0.0)


def connections(bench):
    """500 idle clients beside 50 busy ones: errors, what the busy ones keep of their rate, what an idle one costs the master."""
    n_idle, n_busy, seconds = bench.pick((500, 50, 4.0), (40, 10, 1.0))
    source = bench.file("tiny", 4096)
    with contextlib.ExitStack() as stack:
        cluster, started = stack.enter_context(bench.cluster()), stack.enter_context(bench.helpers())
        workers, pids, n_done = [started(b.dfs_client(cluster)) for _ in range(5)], b.server_pids(cluster), iter(range(1 << 30))
        shares = [n_busy // 5] * 5
        failures = []

        def busy():
            path = f"/busy-{next(n_done)}"
            with cluster.client() as client:
                client.mkdir(path)
            before_s = measure.cpu_s(pids)
            answers = clients.run(workers, [{"do": "busy", "n": share, "seconds": seconds, "local": source, "path": path} for share in shares])
            failures.extend(text for answer in answers for text in answer["errors"])
            return measure.Reading(max(a["ended"] for a in answers) - min(a["began"] for a in answers), sum(a["n"] for a in answers),
                                   sum(a["cpu_s"] for a in answers), measure.cpu_s(pids) - before_s)

        def with_idle():
            idle = b.dfs_client(cluster)
            try:
                before_mib = measure.memory_mib(cluster.master.pid, "VmRSS")
                clients.run([idle], [{"do": "idle", "n": n_idle}])
                grown.append((measure.memory_mib(cluster.master.pid, "VmRSS") - before_mib) * 1024 / n_idle)
                return busy()
            finally:
                idle.close()

        grown = []
        busy()  # the first one makes threads and connections
        found = measure.interleave({"busy alone": busy, "busy beside idle": with_idle}, bench.pick(4, 2))
        bench.show(f"{n_busy} busy clients (8 stats, a put, a get), without and with {n_idle} idle ones", "operations/s", found)
        bench.ratio("busy beside idle, to busy alone", found["busy beside idle"], found["busy alone"], wanted=0.8, collapse=0.3)
        # The first time counts: later ones find the memory that the former left.
        bench.limit("master's memory an idle connection", grown[:1], most=64, unit="KiB")
        bench.limit("errors", [len(failures)], most=0)
        for text in sorted(set(failures))[:5]:
            bench.note(f"error: {text}")
