"""What happens in a run: clients put, read, overwrite, rename and remove a few names, and chaos breaks things meanwhile.

Never judges: `invariants.Oracle` does. A scenario is drawn from the seed: how many keepers, ports and clients, how fast the
network is, which faults come and how often. Then everything is healed, and the cluster has to come to rest by itself.
"""

import gc
import io
import os
import shutil

from dfs_lib import errors
from dfs_lib.model import MIB
from dfs_lib.plan.liveness import HOLD_S
from tests.sim.chaos import Chaos
from tests.sim.cluster import Cluster, DiskWatch, Taps
from tests.sim.invariants import Oracle, content_of
from tests.sim.network import Network
from tests.sim.stand_ins import installed
from tests.sim.world import World

PATHS = ("/a", "/b", "/c", "/d/x", "/d/y")
# After the faults: patience, safemode, leases, the mass-loss hold, the graces and the retries of repair, one after the other.
REST_S = 240.0


class Worker:
    """One client: operations one after the other, until told to stop or killed."""

    def __init__(self, scenario, number):
        self.scenario, self.number = scenario, number
        self.world, self.cluster, self.oracle = scenario.world, scenario.cluster, scenario.oracle
        self.rng = scenario.world.child_rng(f"client {number}")
        self.machine = self.cluster.client_machine(number)
        self.process = None
        self.directory = os.path.join(self.cluster.root, f"c{number}")
        self._n_files = 0
        self._asked = None  # the operation under way
        self._kinds = (
            (30, self.put_small), (10, self.put_file), (6, self.put_large), (3, self.put_many), (28, self.get),
            (5, self.get_file), (4, self.get_slowly), (8, self.remove), (2, self.remove_tree), (6, self.rename), (4, self.copy),
            (3, self.look), (2, self.set_copies), (1, self.scrub))

    def start(self):
        self.process = self.world.start_process(self.machine, f"c{self.number}", self.run)

    def run(self):
        weights = [weight for weight, _kind in self._kinds]
        with self.cluster.connect(jobs=self.rng.choice((1, 2, 4))) as self.client:
            self._watch_operations()
            while not self.scenario.is_over:
                kind = self.rng.choices(self._kinds, weights)[0][1]
                try:
                    kind()
                except errors.DfsError as e:
                    self.world.stats[f"elsewhere {e.code}"] += 1
                self.world.sleep(self.rng.expovariate(1 / self.scenario.think_s))

    def _watch_operations(self):
        """Note the operation ids that the client makes, so that each commit is known to be somebody's."""
        masters = self.client._masters
        ask = masters.ask

        def noted(message, *args, **kwargs):
            op = getattr(message, "op", None)
            if op is not None and self._asked is not None:
                self.oracle.operations[op] = self._asked
            return ask(message, *args, **kwargs)

        masters.ask = noted

    def _do(self, asked, call):
        """Run one operation; tells the oracle how it ended. Returns its result, or None."""
        self._asked = asked
        more = getattr(asked, "size", getattr(asked, "target", ""))
        self.world.note(f"ASK {asked.number} {asked.kind} {asked.path} {more}")
        try:
            result = call()
        except errors.DfsError as e:
            self.world.note(f"ASK {asked.number} ended with {e.code}: {e.message}")
            self.oracle.end(asked, e)
            return None
        self.world.note(f"ASK {asked.number} is done: {result if not isinstance(result, bytes) else len(result)}")
        self.oracle.end(asked, None, result)
        return result

    # -- changes ----------------------------------------------------------------------------------------------------------
    def _put(self, size, local=False):
        path = self.rng.choice(PATHS)
        no_clobber = self.rng.random() < 0.1
        asked = self.oracle.begin("put", path, size=size, no_clobber=no_clobber)
        data = content_of(asked.number, size)
        source = self._local_file(data) if local else io.BytesIO(data)
        self._do(asked, lambda: self.client.put(source, path, no_clobber=no_clobber, parents=True, mtime_at=1e9 + asked.number))

    def _local_file(self, data):
        self._n_files += 1
        path = os.path.join(self.directory, f"out{self._n_files:05d}")
        with open(path, "wb") as file:
            file.write(data)
        os.utime(path, (10**9, 10**9))
        return path

    def _small_size(self):
        return 0 if self.rng.random() < 0.1 else self.rng.randrange(16, 2000)

    def put_small(self):
        self._put(self._small_size(), self.rng.random() < 0.3)

    def put_file(self):
        self._put(self.rng.choice((60_000, 100_000, MIB - 1, MIB)), True)

    def put_large(self):
        self._put(self.rng.choice((MIB + 1, 2 * MIB + 77, 3 * MIB)), self.rng.random() < 0.7)

    def put_many(self):
        """A batch of small files in one OpenUpload and one CommitUpload."""
        pairs, asked_of = [], {}
        for path in self.rng.sample(PATHS, 3):
            asked = self.oracle.begin("put", path, size=self._small_size(), no_clobber=False)
            local = self._local_file(content_of(asked.number, asked.size))
            asked_of[path] = asked
            pairs.append((local, path))

        def told(outcome, local, path):
            asked = asked_of.pop(path)
            if isinstance(outcome, dict):
                self.oracle.end(asked, None, outcome)
            else:
                self.oracle.end(asked, outcome)

        try:
            self.client.put_files(pairs, on_result=told, parents=True)
        except errors.DfsError as e:
            for asked in asked_of.values():
                self.oracle.end(asked, errors.PeerTimeout(address="batch", seconds=0) if asked.version else e)
                asked.outcome = "unknown"

    def remove(self):
        path = self.rng.choice(PATHS)
        self._do(self.oracle.begin("remove", path), lambda: self.client.remove(path))

    def remove_tree(self):
        self._do(self.oracle.begin("remove", "/d", is_tree=True), lambda: self.client.remove("/d", recursive=True))

    def rename(self):
        source, target = self.rng.sample(PATHS[:3], 2) if self.rng.random() < 0.7 else ("/d/x", "/d/y")
        self._do(self.oracle.begin("rename", source, target=target), lambda: self.client.rename(source, target))

    def copy(self):
        source, target = self.rng.sample(PATHS[:3], 2)
        self._do(self.oracle.begin("copy", source, target=target), lambda: self.client.copy(source, target))

    def set_copies(self):
        path, copies = self.rng.choice(PATHS), self.rng.randrange(1, 4)
        self._do(self.oracle.begin("set", path), lambda: self.client.set_copies(path, copies))

    # -- reads ------------------------------------------------------------------------------------------------------------
    def get(self):
        path, out = self.rng.choice(PATHS), io.BytesIO()
        asked = self.oracle.begin("get", path)
        result = self._do(asked, lambda: self.client.get(path, out))
        if result is not None:
            self.oracle.read(asked, result["version"], out.getvalue())

    def get_file(self):
        path, target = self.rng.choice(PATHS), os.path.join(self.directory, f"in{self.rng.randrange(3)}")
        asked = self.oracle.begin("get", path)
        result = self._do(asked, lambda: self.client.get(path, target))
        if result is not None:
            with open(target, "rb") as file:
                self.oracle.read(asked, result["version"], file.read())

    def get_slowly(self):
        """Open, think, read: the version may be replaced meanwhile, and is read to its end."""
        path = self.rng.choice(PATHS)
        asked = self.oracle.begin("get", path)

        def read():
            with self.client.open(path) as source:
                asked.found = source.raw.plan.version
                pieces = []
                while piece := source.read(MIB // 2):
                    pieces.append(piece)
                    self.world.sleep(self.rng.random())
                return b"".join(pieces)

        data = self._do(asked, read)
        if data is not None:
            self.oracle.read(asked, asked.found, data)

    def look(self):
        path = self.rng.choice(PATHS)
        self._do(self.oracle.begin("stat", path), lambda: self.client.stat(path, blocks=True))
        self._do(self.oracle.begin("list", "/"), lambda: [entry.path for entry in self.client.walk("/")])
        self._do(self.oracle.begin("status", "/"), lambda: self.client.status().files)

    def scrub(self):
        self._do(self.oracle.begin("scrub", "/"), lambda: self.client.scrub(start=True).running)


class Scenario:
    """One run of one seed. `run` returns the World; what went wrong is in its `bugs` and `failure`."""

    def __init__(self, seed, root, trace=None, chaos_s=40.0, faults=None):
        self.seed, self.root, self.chaos_s, self.faults = seed, root, chaos_s, faults
        self.world = World(seed, trace=trace)
        self.network = Network(self.world)
        self.is_over = self.is_healed = False
        self.rest_s = None

    def run(self):
        gc.collect()
        gc.freeze()
        shutil.rmtree(self.root, ignore_errors=True)
        with installed(self.world, self.network, "dfs_lib"):
            try:
                self.world.run(self.main)
            except Exception as e:
                self.world.failure = e
            finally:
                if getattr(self, "taps", None) is not None:
                    self.taps.close()
        shutil.rmtree(self.root, ignore_errors=True)
        gc.unfreeze()
        return self.world

    def main(self):
        world = self.world
        rng = world.child_rng("scenario")
        n_keepers = rng.choice((2, 3, 4, 5, 6))
        copies = rng.choice((2, 3)) if n_keepers > 2 else 2
        self.cluster = Cluster(world, self.network, self.root, world.child_rng("cluster"), n_keepers, rng.choice((1, 2)),
                               copies=copies, safe=rng.choice((1, 2, 2)), repair_jobs=rng.choice((1, 4)))
        self.oracle = Oracle(world, self.cluster)
        world.disk_watch = DiskWatch(self.cluster)
        self.taps = Taps(self.cluster)
        self.think_s = rng.choice((0.2, 1.0, 3.0))
        self.cluster.start_master()
        for keeper in self.cluster.keepers:
            self.cluster.start_keeper(keeper)
        self._wait_until(lambda: self.cluster.master and self.cluster.master._tracker.live.n_taking() == n_keepers, 20.0,
                         "the start")
        self._make_directory()
        self.workers = [Worker(self, number) for number in range(1, rng.choice((2, 3, 5)) + 1)]
        for worker in self.workers:
            worker.start()
        chaos = Chaos(self)
        if self.faults is not None:
            chaos.kinds, chaos.weights = list(self.faults), [1] * len(self.faults)
        world.note(f"faults: {chaos.kinds}, every {chaos.pause_s} s; {n_keepers} keepers, {len(self.workers)} clients")
        chaos.run()
        self.is_healed = True
        world.note("CHAOS is over")
        self.cluster.heal()
        for _ in range(5):
            world.sleep(1.0)
            self.cluster.keep_running()
        self.is_over = True
        self._wait_until(lambda: self.cluster.keep_running() or not any(worker.process.alive for worker in self.workers), 120.0,
                         "the clients' end")
        self._come_to_rest()

    def _make_directory(self):
        def make():
            with self.cluster.connect() as client:
                client.mkdir("/d", parents=True)

        process = self.world.start_process(self.cluster.client_machine(9), "c9", make)
        self._wait_until(lambda: not process.alive, 30.0, "the first directory")

    def _wait_until(self, is_so, seconds, what):
        end_s = self.world.now + seconds
        while not is_so():
            if self.world.now > end_s:
                self.world.bug(f"{what} took more than {seconds} s")
                raise TimeoutError(what)
            self.world.sleep(0.2)
        return True

    def _come_to_rest(self):
        """I14, then every name is read."""
        world, oracle, began_s = self.world, self.oracle, self.world.now
        self._in_client(lambda client: client.scrub(start=True))  # damage that nobody has met yet
        quiet = 0
        while quiet < 2:
            gc.collect()
            world.sleep(2.0)
            self.cluster.keep_running()
            why = oracle.unfinished()
            quiet = 0 if why else quiet + 1
            # Keepers that were replaced and never come back look like a master that has lost sight of them: held for long.
            most_s = REST_S + (HOLD_S if any("vanished at once" in one for one in why) else 0.0)
            if why and world.now - began_s > most_s:
                world.bug(f"I14: {most_s:g} s after the last fault:\n  " + "\n  ".join(why[:20]))
                break
        self.rest_s = world.now - began_s
        world.note(f"at rest after {self.rest_s:.1f} s")
        self._in_client(oracle.check_end)

    def _in_client(self, call):
        def run():
            with self.cluster.connect() as client:
                call(client)

        process = self.world.start_process(self.cluster.client_machine(9), "c9", run)
        self._wait_until(lambda: not process.alive, 120.0, "the last look")
