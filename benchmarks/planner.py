#!/usr/bin/env python3
"""The planner on a large cluster: 1,000 keepers and 10 million blocks on paper, one keeper lost. What planning its blocks costs.

    python3 benchmarks/planner.py                                     needs 3 GiB of scratch space and two or three minutes to fill it
    python3 benchmarks/planner.py --blocks 100000 --keepers 100       a small form; --lost N: the lost keeper had N of them
    python3 benchmarks/planner.py --json FILE

The catalog, the tables, the ticker and the repairer are the master's own; the keepers exist in the tables only, and obey at once. The
catalog is filled by plain INSERTs: versions, blocks and replicas, no names, which no planner asks for. Time is CPU time of this process.

    planned    from the loss until every block of that keeper has its decision: a copy ordered, or waiting for its turn
    repaired   until every block has its copies again: orders obeyed, replicas recorded, a commit each
    statements every statement that planning ran, explained: none may go through a whole table
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import resource
import sqlite3
import sys
import tempfile
import time
from types import SimpleNamespace

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import catalogs
from dfs_lib import model
from dfs_lib import settings as settings_module
from dfs_lib.catalog import schema
from dfs_lib.catalog.database import Database
from dfs_lib.master.repairer import Repairer
from dfs_lib.master.ticker import Ticker
from dfs_lib.master.tracker import Tracker
from dfs_lib.wire import heartbeats, trust

COPIES = 2
BLOCKS_A_FILE = 10
MOST_CPU_S, MOST_MIB, MOST_PLACEMENT_US = 10.0, 500, 100
# Small, or nothing but what is amiss: a plan may go through these.
SMALL_TABLES = {"keepers", "totals", "meta", "users", "detached"}
SMALL_INDEXES = {"blocks_short", "blocks_surplus", "versions_trash"}
# Instructions of SQLite between two calls of the handler that counts them.
INSTRUCTIONS = 100


def fill(directory, n_blocks, n_keepers, lost=1, n_lost=None, seed=1):
    """A catalog with so many blocks of two replicas each, spread at random. n_lost: exactly so many of them on keeper `lost`."""
    Database.open(directory, now=lambda: catalogs.AT, new_id=lambda: "c" * 32).close()
    path = os.path.join(directory, "catalog.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144; DROP INDEX replicas_keeper;")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO keepers VALUES (?, ?, ?, '[8000]', '{}', 0, ?, ?, 0)",
                           ((number, keeper_id(number), f"host{number}", catalogs.AT, catalogs.AT) for number in range(1, n_keepers + 1)))
    connection.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, 1, ?)",
                           ((catalogs.block_id(index), model.BLOCK_SIZE, b"crcs", COPIES, COPIES) for index in range(n_blocks)))
    connection.executemany("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, 1, NULL, NULL)", (
        (version, version, BLOCKS_A_FILE * model.BLOCK_SIZE, model.BLOCK_SIZE, COPIES, catalogs.AT)
        for version in range(1, -(-n_blocks // BLOCKS_A_FILE) + 1)))
    connection.executemany("INSERT INTO extents VALUES (?, ?, ?)", (
        (index // BLOCKS_A_FILE + 1, index % BLOCKS_A_FILE, catalogs.block_id(index)) for index in range(n_blocks)))
    connection.executemany("INSERT INTO replicas VALUES (?, ?)", _replicas(n_blocks, n_keepers, lost, n_lost, random.Random(seed)))
    index = re.search(r"CREATE INDEX replicas_keeper .*?;", schema.TABLES)[0]
    connection.execute("COMMIT")
    connection.executescript(f"{index} PRAGMA journal_mode = WAL;")
    connection.close()


def keeper_id(number):
    return f"{number:032x}"


def _replicas(n_blocks, n_keepers, lost, n_lost, rng):
    """(block, keeper number), two for each block."""
    for index in range(n_blocks):
        first = int(rng.random() * n_keepers) + 1
        second = (first + int(rng.random() * (n_keepers - 1))) % n_keepers + 1
        if n_lost is not None:
            first, second = (lost if index < n_lost else _other(first, lost, n_keepers)), _other(second, lost, n_keepers)
            if first == second:
                second = _other(second % n_keepers + 1, lost, n_keepers)
        block = catalogs.block_id(index)
        yield block, first
        yield block, second


def _other(number, lost, n_keepers):
    return number if number != lost else lost % n_keepers + 1


class Ghosts:
    """A master over such a catalog, without sockets or threads; its keepers are entries in its tables."""

    def __init__(self, directory, n_keepers):
        self.now, self.n_keepers, self.statements = 1000.0, n_keepers, set()
        self.database = Database.open(directory, now=lambda: catalogs.AT, new_id=lambda: "c" * 32)
        self.database._writer.connection.execute("PRAGMA synchronous = OFF")  # the disk is not what is measured
        self._watch()
        self.tracker = Tracker(settings_module.resolve([]).but(copies=COPIES, repair_grace=0.0), self.database,
                               trust.Keyring.from_cluster_key(b"k" * 32), clock=lambda: self.now, wall=lambda: catalogs.AT,
                               rng=random.Random(7), new_id=lambda: "d" * 32)
        self.repairer = Repairer(self.tracker)
        self.ticker = Ticker(self.tracker, self.repairer, lambda *_: None)
        live = self.tracker.live
        for number in range(1, n_keepers + 1):
            live.register(number, SimpleNamespace(keeper=keeper_id(number), ports=[8000], labels={}, incarnation=f"{number:032x}", free=0, used=0,
                                                  n_blocks=0, pids=[]), f"host{number}", f"{number:016x}", False, self.now)
            live.reported(number, f"{number:016x}")
        self._beat = 0
        self.steps()

    def _watch(self):
        """Take down every statement, and count SQLite's instructions."""
        self.n_instructions = 0

        def count():
            self.n_instructions += INSTRUCTIONS

        reader = self.database.queries()
        execute = reader._connection.execute

        def noted(sql, parameters=()):
            self.statements.add(sql)
            return execute(sql, parameters)

        reader._execute = noted
        reader._connection.set_progress_handler(count, INSTRUCTIONS)
        writer = self.database._writer.connection
        writer.set_progress_handler(count, INSTRUCTIONS)
        writer.set_trace_callback(lambda sql: self.statements.add(re.sub(r"x'[0-9a-fA-F]*'|'[^']*'|\b\d+(\.\d+)?\b", "?", sql)))

    def steps(self):
        """One step of the ticker, and the repairer until it has nothing to do now."""
        self._beat += 1
        for number in range(1, self.n_keepers + 1):
            self.tracker.live.heard(heartbeats.Heartbeat(f"{number:016x}", keeper_id(number), self._beat, 10**14, 10**13, 0, {8000: 0}), self.now)
        self.ticker.step()
        while self.repairer.step():
            pass

    def lose(self, number):
        """Its connection closes, and its host refuses another one."""
        self.tracker.live.disconnected(number, f"{number:016x}", self.now)
        self.tracker.live.probed(number, True)
        self.ticker.step()
        while self.repairer.step():
            pass

    def obey(self):
        """Every keeper does what it was told. Returns how many copies that were."""
        n = 0
        for number in range(1, self.n_keepers + 1):
            for order in self.tracker.orders.take(number, "ghosts", 0):
                keepers = [hop["keeper"] for hop in order.details["chain"]]
                self.tracker.orders.ended(order.id, number, None, {"keepers": keepers, "reason": None})
                n += 1
        return n

    def scans(self):
        """[statement: what SQLite would go through] of all those noted that read a whole table that grows."""
        found = []
        for sql in sorted(self.statements):
            if not re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)", sql):
                continue
            try:
                plan = self.database.queries()._connection.execute(f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?")).fetchall()
            except sqlite3.Error as e:
                found.append(f"{sql}: {e}")
                continue
            for *_ids, detail in plan:
                scanned = re.match(r"SCAN (\w+)(?:.* INDEX (\w+))?", detail)
                if scanned and scanned[1] not in SMALL_TABLES | {"CONSTANT"} and scanned[2] not in SMALL_INDEXES:
                    found.append(f"{sql}: {detail}")
        return found

    def close(self):
        self.database.close()


def memory_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(directory, n_keepers, lost=1, say=lambda text: None):
    """{figure: number} of one loss, and what was not as promised."""
    began_s = time.process_time()
    ghosts = Ghosts(directory, n_keepers)
    try:
        n_lost = ghosts.tracker.queries().n_blocks_of_keeper(lost)
        figures = {"lost": n_lost, "start_cpu_s": time.process_time() - began_s, "memory_before_mib": memory_mib()}
        ghosts.n_instructions = 0
        began_s = time.process_time()
        ghosts.lose(lost)
        figures["planned_cpu_s"] = time.process_time() - began_s
        figures["planned_instructions"] = ghosts.n_instructions
        figures["memory_mib"] = memory_mib()
        n_short, _missing, n_running, *_rest = ghosts.repairer.summary()
        figures["copies_ordered"] = n_running
        undecided = sum(1 for block in ghosts.repairer._queue.blocks() if "copies are good" not in ghosts.repairer._queue.get(block).reason)
        figures["undecided"] = undecided + n_lost - n_short
        figures["placement_us"] = placement_us(ghosts)
        say(json.dumps(figures))
        began_s, n_made = time.process_time(), 0
        for _ in range(10 * n_lost):  # what waits for its turn is due within seconds
            n_made += ghosts.obey()
            if not ghosts.repairer.summary()[0]:
                break
            ghosts.now += 0.5
            ghosts.steps()
        figures["repaired_cpu_s"] = time.process_time() - began_s
        figures["copies_made"], figures["memory_after_mib"] = n_made, memory_mib()
        figures["short_after"] = ghosts.repairer.summary()[0]
        return figures, ghosts.scans()
    finally:
        ghosts.close()


def placement_us(ghosts, n=20_000):
    """CPU microseconds of the choice of two keepers for one new block."""
    live = ghosts.tracker.live
    began_s = time.process_time()
    for _ in range(n):
        live.choose(model.BLOCK_SIZE, COPIES)
    return (time.process_time() - began_s) / n * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=10_000_000)
    parser.add_argument("--keepers", type=int, default=1000)
    parser.add_argument("--lost", type=int, help="blocks of the keeper that is lost (default: as many as of any other)")
    parser.add_argument("--directory", help="scratch space (default: tmpfs)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    parent = options.directory or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
    with tempfile.TemporaryDirectory(prefix="dfs-planner-", dir=parent) as directory:
        # In a process of its own: its memory is not the planner's.
        filling = multiprocessing.Process(target=fill, args=(directory, options.blocks, options.keepers), kwargs={"n_lost": options.lost})
        filling.start()
        filling.join()
        if filling.exitcode:
            return 1
        print(f"filled: {os.path.getsize(os.path.join(directory, 'catalog.db')) >> 20} MiB", flush=True)
        figures, scans = measure(directory, options.keepers)
    broken = [f"{name}: {figures[name]:.1f}, at most {most}" for name, most in (
        ("planned_cpu_s", MOST_CPU_S), ("memory_mib", MOST_MIB), ("placement_us", MOST_PLACEMENT_US), ("undecided", 0), ("short_after", 0))
        if figures[name] > most] + scans
    for name, figure in figures.items():
        print(f"  {name:24}{figure:>14,.1f}")
    for text in broken:
        print(f"BROKEN {text}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"figures": figures, "broken": broken}, out)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
