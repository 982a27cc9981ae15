#!/usr/bin/env python3
"""Small puts of several trees of the program in turns, by CPU time: what a change has won, on a machine with other work on it.

    git archive main | tar x -C /tmp/before
    python3 benchmarks/turns.py /tmp/before .                      # one by one
    python3 benchmarks/turns.py /tmp/before . --do many --n 1500   # eight in flight

Each tree has a cluster of its own (three keepers, two copies, keys, fsync) and a client in a process beside it. Rounds begin with each tree in turn,
after one that does not count. Microseconds of CPU a file, by the kernel's count of each thread: median (min–max) of the rounds.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="+", metavar="TREE", help="a directory with dfs_lib in it")
    parser.add_argument("--do", choices=("loop", "many"), default="loop", help="one by one, or eight in flight")
    parser.add_argument("--n", type=int, default=500, help="files a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return side(options.trees[0], options.n, options.do)
    trees = [os.path.abspath(tree) for tree in options.trees]
    command = [sys.executable, os.path.abspath(__file__), "--side", "--do", options.do, "--n", str(options.n)]
    sides = [subprocess.Popen([*command, tree], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for tree in trees]
    found = [[] for _ in trees]
    try:
        for number in range(-1, options.rounds):
            turn = number % len(trees)
            for at in [*range(turn, len(trees)), *range(turn)]:
                sides[at].stdin.write("go\n")
                sides[at].stdin.flush()
                said = json.loads(sides[at].stdout.readline())
                if number >= 0:
                    found[at].append(said)
    finally:
        for one in sides:
            one.stdin.close()  # it ends its cluster then
            one.wait()
    for tree, rounds in zip(trees, found):
        print(tree)
        for name in rounds[0]:
            values = [said[name] for said in rounds]
            print(f"    {name:8} {statistics.median(values):6.0f} ({min(values):.0f}–{max(values):.0f})")


def side(tree, n, do):
    """One tree's cluster and client: a line in, a round, its figures out, until the input ends."""
    sys.path.insert(0, tree)
    from dfs_lib import local

    scratch = tempfile.mkdtemp(prefix="dfs-turns-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    try:
        names = [os.path.join(scratch, f"{index:05}") for index in range(n)]
        for name in names:
            with open(name, "wb") as out:
                out.write(os.urandom(4096))
        with local.Cluster(os.path.join(scratch, "cluster"), keepers=3, master_options=["--copies", "2"]) as cluster, cluster.client() as client:
            groups = {"master": local.group_members(cluster.master.process.pid),
                      "keepers": [pid for keeper in cluster.keepers.values() for pid in local.group_members(keeper.process.pid)]}
            for number, _line in enumerate(sys.stdin):
                client.mkdir(f"/{number}")
                before, own_s = {name: cpu_us(pids) for name, pids in groups.items()}, time.process_time()
                pairs = [(name, f"/{number}/{os.path.basename(name)}") for name in names]
                if do == "loop":
                    for local_path, path in pairs:
                        client.put(local_path, path, copies=2)
                elif client.put_files(pairs, copies=2, jobs=8)["files"] != n:
                    raise RuntimeError("not all files were put")
                said = {name: (cpu_us(pids) - before[name]) / n for name, pids in groups.items()}
                said["client"] = (time.process_time() - own_s) * 1e6 / n
                print(json.dumps({**said, "sum": sum(said.values())}), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cpu_us(pids):
    """Microseconds that the threads of these processes, which live all the time, have run so far."""
    total = 0
    for pid in pids:
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            try:
                with open(path) as source:
                    total += int(source.read().split()[0])
            except OSError:
                continue  # that thread has ended
    return total / 1000


if __name__ == "__main__":
    sys.exit(main())
