"""Dice against one master: keepers die and return, masters restart, messages come late, twice or never, and what was acknowledged stays.

Each step checks that no acknowledged file lost its last copy; at the end everything heals, and nothing is left that nobody wants.
"""

import random

import pytest
from master_helpers import SAFEMODE_S, Client

from dfs_lib import errors
from dfs_lib.wire import messages


class Chaos:
    def __init__(self, world, seed):
        self.world, self.dice = world, random.Random(seed)
        self.files, self.n = {}, 0  # path → block of its acknowledged version
        self.late = []  # (keeper, order): taken and not yet done

    def client(self):
        self.n += 1
        return Client(self.world, f"client {self.n}")

    def put(self):
        client, path = self.client(), f"/{self.dice.randrange(12)}"
        opened = client.open(path, 10, copies=self.dice.choice((1, 2, 3, 4)))
        if opened["refused"]:
            return
        upload, record, end = opened["upload"], None, self.dice.random()
        try:
            record = client.store(opened["grants"][0], 10) if opened["grants"] else None
        except errors.BadTicket:
            return  # the keeper has not heard of this reign yet
        if end < 0.1:
            client.gone()
        elif end < 0.2:
            client.ask(messages.AbandonUpload(upload=upload, keep=self.dice.random() < 0.5))
        else:
            for _ in range(self.dice.choice((1, 1, 2))):
                result = client.commit(upload, 10, [record] if record else [])
            if result["version"]:
                self.files[path] = self.world.blocks_of(path)[0]

    def remove(self):
        if self.files:
            path = self.dice.choice(sorted(self.files))
            self.client().remove(path)
            del self.files[path]

    def rename(self):
        if len(self.files) > 1:
            source, target = self.dice.sample(sorted(self.files), 2)
            self.client().ask(messages.Rename(source=source, target=target, no_clobber=False, op=self.world.new_id()))
            self.files[target] = self.files.pop(source)

    def set_copies(self):
        if self.files:
            self.client().ask(messages.SetCopies(path=self.dice.choice(sorted(self.files)), copies=self.dice.choice((1, 2, 3)),
                                                 op=self.world.new_id()))

    def keeper(self):
        return self.dice.choice(list(self.world.keepers.values()))

    def kill(self):
        keeper = self.keeper()
        if keeper.is_up:
            if self.dice.random() < 0.5:
                keeper.kill(self.dice.random() < 0.5)
            else:
                keeper.vanish()

    def start(self):
        keeper = self.keeper()
        if not keeper.is_up:
            if self.dice.random() < 0.5:
                keeper.is_up = True  # it was only paused
            else:
                try:
                    keeper.kill(False)
                    keeper.start()
                except errors.KeeperRefused:
                    keeper.is_up, keeper.session = True, None

    def restart(self):
        self.world.restart()
        self.late.clear()

    def break_order_line(self):
        self.world.service.left(self.keeper().order_line)

    def go_deaf(self):
        keeper = self.keeper()
        keeper.is_deaf = not keeper.is_deaf

    def do_late(self):
        keeper = self.keeper()
        try:
            if keeper.is_up and keeper.session:
                self.late += [(keeper, order) for order in keeper.take()]
        except errors.KeeperRefused:
            keeper.session = None
        self.dice.shuffle(self.late)
        for keeper, order in self.late[:3]:
            if keeper.is_up and keeper.epoch == self.world.tracker.epoch:
                try:
                    keeper.do(order)
                except errors.BadTicket:
                    pass
        del self.late[:3]

    def rot(self):
        """A replica goes bad, where another good one is left."""
        for block in self.files.values():
            holders = [self.world.keepers[number] for number in self.world.on_disk(block) & self.world.on_record(block)]
            good = [keeper for keeper in holders if block not in keeper.damaged]
            if len(good) > 2 and self.dice.random() < 0.2:
                keeper = self.dice.choice(good)
                keeper.damaged.add(block)
                self.client().ask(messages.ReplicaBad(block=block, keeper=keeper.id, reason="rot"))
                return

    def step(self):
        action = self.dice.choice((self.put, self.put, self.put, self.remove, self.rename, self.set_copies, self.kill, self.start, self.start,
                                   self.break_order_line, self.go_deaf, self.do_late, self.rot, self.wait, self.wait, self.wait))
        (self.restart if self.dice.random() < 0.02 else action)()
        self.world.steps(self.dice.choice((0, 0, 1, 2)))
        self.check()

    def wait(self):
        self.world.steps(3, self.dice.choice((0.25, 1.0, 4.0)))

    def check(self):
        for path, block in self.files.items():
            assert self.world.blocks_of(path) == [block]
            assert any(block not in self.world.keepers[number].damaged for number in self.world.on_disk(block)), f"{path} is lost"

    def heal(self):
        world = self.world
        for keeper in world.keepers.values():
            keeper.is_deaf = False
            if not keeper.is_up:
                keeper.kill(False)
                keeper.is_up, keeper.session = True, None
        world.steps(80, 9.0)
        world.steps(80, 1.0)
        status = world.status()
        assert (status.under_replicated, status.missing, status.safemode, status.alarms, status.uploads) == (0, 0, "", [], 0)
        wanted = set(self.files.values())
        for path, block in self.files.items():
            copies = world.queries().entry(path).copies_wanted
            assert len(world.on_disk(block)) == min(copies, len(world.keepers)), path
            assert world.on_disk(block) == world.on_record(block)
        strays = set(world.tracker.uploads.strays)
        for keeper in world.keepers.values():
            assert set(keeper.blocks) <= wanted | strays
        assert not any(world.queries().drops(number, 9) for number in world.keepers)
        repairer = world.repairer
        assert not repairer._running and not any(repairer._outgoing.values()) and not any(repairer._incoming.values())
        assert not world.tracker.orders.counts() and len(repairer._queue) == 0
        assert "repair_bugs" not in status.counters and "ticker_bugs" not in status.counters


@pytest.mark.parametrize("seed", range(6))
def test_nothing_acknowledged_is_lost_and_everything_heals(make_world, seed):
    world = make_world(5, repair_grace=5.0, stop_grace=5.0, trash_grace=3.0, upload_keep=20.0)
    world.steps(int(SAFEMODE_S), 1.0)
    chaos = Chaos(world, seed)
    for _ in range(150):
        chaos.step()
    chaos.heal()
