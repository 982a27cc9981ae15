"""What goes wrong in a run: each method of Chaos breaks one thing, and most mend it some seconds later.

Never judges what comes of it, but for two promises about endings that only the one who ends a process can see (F2, F40). What it
takes from disks it tells the oracle, so that a loss that no system could prevent is not held against this one.
"""

import gc
import os
import signal

# Between a few faults a run, so that each has its effect, and storms, so that they meet.
PAUSES_S = (0.7, 2.0, 5.0)


class Chaos:
    """Breaks something now and then, and mends it some time later."""

    def __init__(self, scenario):
        self.scenario, self.world, self.cluster = scenario, scenario.world, scenario.cluster
        self.network = scenario.network
        self.rng = scenario.world.child_rng("chaos")
        every = {
            "kill_keeper": 5, "kill_port": 3, "kill_reporter": 3, "kill_supervisor": 2, "stop_keeper": 3, "freeze_keeper": 4,
            "freeze_port": 2, "power_off": 3, "wipe": 2, "replace": 1, "roll_back": 1, "kill_master": 3, "stop_master": 1, "old_master": 1,
            "freeze_master": 2, "cut_keeper": 4, "cut_pair": 4, "cut_one_way": 4, "cut_master": 2, "cut_udp": 2, "cut_tcp": 2, "reset": 8, "bad_udp": 2,
            "slow_disk": 3, "full_disk": 3, "sick_disk": 2, "slow_machine": 2, "rot": 4, "clock": 2, "kill_client": 4, "flip": 1,
            "move": 1}
        # Each run has some of the faults, so that rare ones are not always drowned by the loud.
        n = self.rng.choice((0, 3, 6, 10, len(every)))
        self.kinds = self.rng.sample(sorted(every), n)
        self.weights = [every[kind] for kind in self.kinds]
        self.pause_s = self.rng.choice(PAUSES_S)

    def run(self):
        """For the driver: until the scenario's chaos is over."""
        world = self.world
        end_s = world.now + self.scenario.chaos_s
        while world.now < end_s:
            world.sleep(self.rng.expovariate(1 / self.pause_s))
            if self.kinds:
                kind = self.rng.choices(self.kinds, self.weights)[0]
                world.note(f"CHAOS {kind}")
                world.stats[f"chaos {kind}"] += 1
                getattr(self, kind)()
            gc.collect()

    def _mend(self, least_s, most_s, call):
        def mend():
            self.world.sleep(self.rng.uniform(least_s, most_s))
            if not self.scenario.is_healed:
                call()

        self.world.spawn(mend, "mend", self.world.driver)

    def _keeper(self, running=True):
        found = [keeper for keeper in self.cluster.keepers if keeper.is_running or not running]
        return self.rng.choice(found) if found else None

    def _child(self, word):
        keeper = self._keeper()
        children = [] if keeper is None else [process for process in keeper.processes() if (process is not keeper.process) and
                                              (("reporter" in process.name) == (word == "reporter"))]
        return self.rng.choice(children) if children else None

    def _restart(self, keeper):
        if not keeper.is_running:
            self.cluster.kill_keeper(keeper)
            self.cluster.start_keeper(keeper)

    # -- keepers ----------------------------------------------------------------------------------------------------------
    def kill_keeper(self):
        if keeper := self._keeper():
            self.cluster.kill_keeper(keeper)
            self._mend(0.1, 20.0, lambda: self._restart(keeper))

    def kill_port(self):
        if process := self._child("port"):
            self.world.kill(process)

    def kill_reporter(self):
        if process := self._child("reporter"):
            self.world.kill(process)

    def kill_supervisor(self):
        """F2: whatever it started must end by itself."""
        keeper = self._keeper()
        if keeper is None:
            return
        self.world.kill(keeper.process)

        def look():
            frozen = [process for process in keeper.machine.processes if process.frozen]
            left = [process.name for process in keeper.processes() if not process.frozen]
            if left and not frozen and not keeper.is_running:
                self.world.bug(f"F2: {left} live on 2 s after their supervisor was killed")
            self._restart(keeper)

        self._mend(2.0, 6.0, look)

    def stop_keeper(self):
        if keeper := self._keeper():
            self.world.signal(keeper.process, signal.SIGTERM)
            process = keeper.process

            def look():
                if process.alive and not process.frozen and not any(one.frozen for one in keeper.machine.processes):
                    self.world.bug(f"F40: {keeper.name} still runs 6 s after SIGTERM")
                self._restart(keeper)

            self._mend(6.0, 25.0, look)

    def freeze_keeper(self):
        if keeper := self._keeper():
            frozen = keeper.processes()
            for process in frozen:
                self.world.freeze(process)
            self._mend(0.5, 15.0, lambda: [self.world.thaw(process) for process in frozen])

    def freeze_port(self):
        if process := self._child("port"):
            self.world.freeze(process)
            self._mend(0.5, 15.0, lambda: self.world.thaw(process))

    def power_off(self):
        if keeper := self._keeper():
            self.cluster.power_off(keeper)
            self._mend(1.0, 20.0, lambda: keeper.machine.is_down and self.cluster.power_on(keeper))

    def _rebuilt(self, change):
        """Kill a keeper, change its disk, start it again."""
        if keeper := self._keeper():
            self.cluster.kill_keeper(keeper)
            change(keeper)
            self._mend(0.1, 8.0, lambda: self._restart(keeper))

    def wipe(self):
        self._rebuilt(lambda keeper: self.cluster.wipe_keeper(keeper, True))

    def replace(self):
        self._rebuilt(lambda keeper: self.cluster.wipe_keeper(keeper, False))

    def roll_back(self):
        saved = [keeper for keeper in self.cluster.keepers if os.path.isdir(keeper.directory + ".saved") and keeper.is_running]
        if not saved:
            if keeper := self._keeper():
                self.cluster.save_disk(keeper)
            return
        keeper = self.rng.choice(saved)
        self.cluster.kill_keeper(keeper)
        self.cluster.roll_back(keeper)
        self._mend(0.1, 8.0, lambda: self._restart(keeper))

    def move(self):
        """A keeper comes back under another address (F24)."""
        def change(keeper):
            keeper.n_moves += 1
            keeper.machine.ip = f"10.0.1.{keeper.index + 20 * keeper.n_moves}"

        self._rebuilt(change)

    # -- master -----------------------------------------------------------------------------------------------------------
    def _restart_master(self):
        if not self.cluster.master_is_running:
            self.cluster.start_master()

    def kill_master(self):
        if self.cluster.master_is_running:
            self.cluster.kill_master()
            self._mend(0.1, 8.0, self._restart_master)

    def stop_master(self):
        process = self.cluster.master_process
        if process.alive and not process.frozen:
            self.world.signal(process, signal.SIGTERM)

            def look():
                if process.alive and not process.frozen:
                    self.world.bug("F40: the master still runs 8 s after SIGTERM")
                self._restart_master()

            self._mend(8.0, 10.0, look)

    def old_master(self):
        """F27: a master that was replaced comes back with the catalog it had. Some keepers lose their connection and meet it."""
        if self.cluster.start_old_master():
            self._mend(2.0, 10.0, self.cluster.kill_old_master)
            if self.rng.random() < 0.5:
                self.kill_master()
            else:
                self.reset()
        else:
            self.kill_master()  # there has to be a past first

    def freeze_master(self):
        process = self.cluster.master_process
        self.world.freeze(process)
        self._mend(0.5, 10.0, lambda: self.world.thaw(process))

    # -- network ----------------------------------------------------------------------------------------------------------
    def _cut(self, pairs, paths=None):
        paths = self.network.blocked if paths is None else paths
        paths.update(pairs)
        self._mend(0.5, 15.0, lambda: paths.difference_update(pairs))

    def _others(self, machine):
        return [other for other in self.world.machines.values() if other is not machine]

    def _anybody(self):
        return self.rng.choice([machine for machine in self.world.machines.values() if machine.name != "driver"])

    def cut_keeper(self):
        machine = self._keeper(False).machine
        self._cut([pair for other in self._others(machine) for pair in ((machine, other), (other, machine))])

    def cut_udp(self):
        """A firewall that lets no heartbeat through, of one keeper or of all."""
        keepers = self.cluster.keepers if self.rng.random() < 0.3 else [self._keeper(False)]
        self._cut([(keeper.machine, self.cluster.master_machine) for keeper in keepers], self.network.udp_blocked)

    def cut_tcp(self):
        """F17: heartbeats arrive, connections carry nothing, one way or both."""
        one, other = self._keeper(False).machine, self.cluster.master_machine
        ways = self.rng.choice(([(one, other)], [(other, one)], [(one, other), (other, one)]))
        self._cut(ways, self.network.tcp_blocked)

    def cut_pair(self):
        one = self._anybody()
        other = self.rng.choice(self._others(one))
        self._cut([(one, other), (other, one)])

    def cut_one_way(self):
        one = self._anybody()
        others = self._others(one) if self.rng.random() < 0.3 else [self.rng.choice(self._others(one))]
        self._cut([(one, other) for other in others])

    def cut_master(self):
        """The master loses sight of every keeper (F18)."""
        machine = self.cluster.master_machine
        self._cut([pair for keeper in self.cluster.keepers for pair in ((machine, keeper.machine), (keeper.machine, machine))])

    def reset(self):
        open_ = [connection for connection in self.network.connections if not connection.closed and not connection.peer.closed]
        for connection in self.rng.sample(open_, min(len(open_), self.rng.choice((1, 1, 3)))):
            self.network.reset(connection)

    def bad_udp(self):
        self.network.loss, self.network.repeat = 0.4, 0.3

        def better():
            self.network.loss = self.network.repeat = 0.0

        self._mend(2.0, 15.0, better)

    def slow_machine(self):
        machine = self._anybody()
        self.network.slow[machine] = self.rng.choice((10.0, 100.0))
        self._mend(1.0, 10.0, lambda: self.network.slow.pop(machine, None))

    def flip(self):
        self.network.flip = 0.01

        def better():
            self.network.flip = 0.0

        self._mend(1.0, 8.0, better)

    # -- disks and clocks -------------------------------------------------------------------------------------------------
    def slow_disk(self):
        disk = self._keeper(False).machine.disk
        disk.fsync_s = self.rng.choice((0.1, 1.0, 4.0))

        def better():
            disk.fsync_s = 0.0005

        self._mend(1.0, 12.0, better)

    def full_disk(self):
        disk = self._keeper(False).machine.disk
        disk.is_full = True

        def better():
            disk.is_full = False

        self._mend(1.0, 15.0, better)

    def sick_disk(self):
        """F8: fsync fails for a while."""
        disk = self._keeper(False).machine.disk
        disk.fsync_error = 5

        def better():
            disk.fsync_error = 0

        self._mend(0.2, 6.0, better)

    def rot(self):
        """Only of blocks that have another good copy: then nothing may be lost."""
        keeper = self._keeper(False)
        others = [other for other in self.cluster.keepers if other is not keeper]
        blocks = [block for block in keeper.blocks() if keeper.has(block) and any(other.has(block) for other in others)]
        if blocks:
            how = self.rng.choice(("flip", "flip", "truncate", "empty", "grow", "delete"))
            self.cluster.rot(keeper, self.rng.choice(blocks), how)

    def clock(self):
        """F20: wall clocks jump."""
        self._anybody().wall_offset_s += self.rng.choice((3.15e8, -86400.0, -1.0, 3600.0))

    # -- clients ----------------------------------------------------------------------------------------------------------
    def kill_client(self):
        worker = self.rng.choice(self.scenario.workers)
        if worker.process.alive:
            self.world.kill(worker.process)
            self._mend(0.1, 5.0, lambda: self.scenario.is_over or worker.process.alive or worker.start())
