"""The loop of the N copies: what it makes, what it drops, and when it keeps its hands off."""

import itertools

import pytest
from master_helpers import MIB, Client

from dfs_lib import errors
from dfs_lib.catalog import operations
from dfs_lib.master import cluster, orders as orders_module, repairer as repairer_module
from dfs_lib.wire import messages


@pytest.fixture
def world(make_world):
    return make_world(4)


@pytest.fixture
def client(world):
    return Client(world)


def put(world, path, size=10, **options):
    """A file with all its copies; its blocks."""
    assert Client(world, "putter").put(path, size, **options)["refused"] is None
    world.until(lambda: world.status().under_replicated == 0)
    return world.blocks_of(path)


def good(world, block):
    """Keepers whose replica counts, and is really there."""
    assert world.on_record(block) & {n for n, k in world.keepers.items() if k.is_up} <= world.on_disk(block)
    return world.on_record(block) & world.tracker.live.counted()


def is_settled(world):
    repairer = world.repairer
    return (not repairer._running and not repairer._leases and not any(repairer._outgoing.values()) and not any(repairer._incoming.values())
            and world.tracker.live.n_leases() == 0)


# -- more copies ------------------------------------------------------------------------------------------------------
def test_a_put_is_short_at_once_and_gets_its_last_copy(world, client):
    client.put("/a")
    assert world.status().under_replicated == 1
    block, = world.blocks_of("/a")
    world.steps(4)
    assert len(world.on_disk(block)) == 3 and world.status().under_replicated == 0
    assert is_settled(world)


def test_a_keeper_found_dead_is_never_beside_all_is_well(world, client, monkeypatch):
    """Somebody asks when its state has changed and repair has not been told of it."""
    put(world, "/a")
    number = min(world.on_record(world.blocks_of("/a")[0]))
    asked, told = [], world.repairer.keeper_lost

    def keeper_lost(lost):
        status = world.status()
        asked.append((lost, [keeper["state"] for keeper in status.keepers][lost - 1], status.under_replicated))
        told(lost)

    monkeypatch.setattr(world.repairer, "keeper_lost", keeper_lost)
    world.keepers[number].is_up = False
    world.until(lambda: asked)
    assert asked[0][:2] == (number, "dead") and asked[0][2] >= 1
    world.steps()
    assert world.tracker.live.n_untold() == 0  # told, and so not counted for ever


def test_the_end_of_safemode_is_not_all_is_well(world, client):
    """A master that was started again without one of its keepers: somebody asks when safemode is over and repair has not gone round yet."""
    put(world, "/a")
    number = min(world.on_record(world.blocks_of("/a")[0]))
    world.restart()
    world.keepers[number].is_up = False
    asked, begin = [], world.repairer._begin

    def ask():
        if not world.repairer._has_begun:
            status = world.status()
            asked.append((status.safemode, status.under_replicated))
        begin()

    world.repairer._begin = ask
    world.until(lambda: asked)
    assert asked[0][0] == "" and asked[0][1] >= 1


def test_status_never_says_all_is_well_before_it_is(world, client, monkeypatch):
    """Between the end of a copy and the next plan, and while a block is planned, somebody asks."""
    asked = []

    def ask(*_):
        block = world.blocks_of("/a")[0]
        asked.append((world.status().under_replicated, len(world.on_record(block))))

    client.put("/a", copies=4)
    for name in ("_plan", "_end_copy", "_begin_copy"):
        inner = getattr(world.repairer, name)
        monkeypatch.setattr(world.repairer, name, lambda *args, inner=inner, **named: (ask(), inner(*args, **named), ask())[1])
    world.steps(6)
    assert len(asked) >= 6 and all(n_short or n_have >= 4 for n_short, n_have in asked)


def test_status_names_the_copies_under_way(world, client, monkeypatch):
    found, inner = [], world.repairer._copied

    def copied(*args):
        found.append(world.status().repairs)
        return inner(*args)

    monkeypatch.setattr(world.repairer, "_copied", copied)
    client.put("/a", copies=4)
    world.steps(6)
    block, = world.blocks_of("/a")
    one = found[0][0]
    assert (one["path"], one["block"], one["bytes"]) == ("/a", block, 10) and one["source"] not in one["targets"] and one["targets"]
    assert world.status().repairs == []


def test_status_tells_how_many_copies_are_left_and_what_is_being_copied(world, monkeypatch):
    block, = put(world, "/a")
    world.keepers[min(world.on_record(block))].kill()
    world.steps(4)
    assert list(world.status().short) == [{"have": 2, "blocks": 1}] and list(world.status().repairs) == []
    seen, begin = [], world.repairer._begin_copy

    def begun(*args):
        begin(*args)
        seen.append(world.status())

    monkeypatch.setattr(world.repairer, "_begin_copy", begun)
    world.steps(65, 1.0)
    copying = next(status for status in seen if status.repairs)
    repair, = copying.repairs
    assert repair["path"] == "/a" and repair["source"] in ("k1", "k2", "k3", "k4") and len(repair["targets"]) == 1
    assert list(copying.short) == [{"have": 2, "blocks": 1}]
    assert list(world.status().short) == [] and list(world.status().repairs) == []


def test_a_dead_keeper_is_waited_for_then_replaced(world):
    block, = put(world, "/a")
    dead = world.keepers[min(world.on_record(block))]
    dead.kill()
    world.steps(4)
    assert world.status().under_replicated == 1 and world.status().repairs_running == 0
    assert "dead" in world.status().waiting[0]["reason"]
    world.steps(50, 1.0)
    assert len(good(world, block)) == 2
    world.steps(15, 1.0)
    assert len(good(world, block)) == 3 and world.status().under_replicated == 0


def test_the_last_good_copy_is_not_waited_with(world):
    block, = put(world, "/a", copies=2)
    world.keepers[min(world.on_record(block))].kill()
    world.steps(4)
    assert len(good(world, block)) == 2


def test_a_clean_stop_has_the_longer_grace(world):
    block, = put(world, "/a")
    keeper = world.keepers[min(world.on_record(block))]
    keeper.ask(messages.Farewell())
    keeper.kill()
    world.steps(100, 3.0)
    assert len(good(world, block)) == 2
    world.steps(400, 4.0)
    assert len(good(world, block)) == 3


def test_a_keeper_that_returns_within_the_grace_costs_nothing(world):
    block, = put(world, "/a")
    keeper = world.keepers[min(world.on_record(block))]
    made = world.status().counters["replicas_made"]
    keeper.kill()
    world.steps(20, 1.0)
    keeper.start()
    world.steps(80, 1.0)
    assert world.status().counters["replicas_made"] == made and world.status().under_replicated == 0


def test_a_keeper_lost_while_the_master_was_down_is_replaced(world):
    block, = put(world, "/a")
    world.keepers[min(world.on_record(block))].vanish()
    world.restart()
    world.steps(100, 1.0)
    assert len(good(world, block)) == 3


def test_a_keeper_that_died_just_before_the_commit_is_replaced(world, client):
    opened = client.open("/a", 10, copies=2)
    stored = client.store(opened["grants"][0], 10)
    world.keepers[int(stored["receipts"][1]["keeper"], 16)].kill()
    world.steps(8)
    assert client.commit(opened["upload"], 10, [stored])["refused"] is None
    assert world.status().under_replicated == 1
    world.until(lambda: len(good(world, stored["block"])) == 2, 10.0)


def test_no_good_copy_is_missing_until_it_returns(world):
    block, = put(world, "/a", copies=1, safe=1)
    keeper = world.keepers[min(world.on_record(block))]
    keeper.kill()
    world.steps(4)
    assert world.status().missing == 1
    keeper.start()
    world.steps(4)
    assert (world.status().missing, world.status().under_replicated) == (0, 0)


# -- copies that fail -------------------------------------------------------------------------------------------------
def test_a_source_that_fails_is_left_out(world, client):
    put(world, "/a", copies=2)
    block, = world.blocks_of("/a")
    for number in sorted(world.on_record(block))[:1]:
        world.keepers[number].fails_copies = True
    client.ask(messages.SetCopies(path="/a", copies=3, op="s"))
    world.until(lambda: len(good(world, block)) == 3, 10.0)
    assert is_settled(world)


def test_a_target_that_is_gone_is_left_out(world, client):
    put(world, "/a", copies=2)
    block, = world.blocks_of("/a")
    target = next(keeper for number, keeper in world.keepers.items() if number not in world.on_record(block))
    target.vanish()  # the master believes in it for some seconds more
    client.ask(messages.SetCopies(path="/a", copies=3, op="s"))
    world.until(lambda: len(good(world, block)) == 3, 3.0)
    assert target.number not in good(world, block)


def test_a_source_that_dies_with_the_order_is_replaced(world, client):
    put(world, "/a", copies=2)
    block, = world.blocks_of("/a")
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    client.ask(messages.SetCopies(path="/a", copies=3, op="s"))
    world.steps(1)
    (copy, _size), = world.repairer._running.values()
    world.keepers[copy.source].kill()
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.until(lambda: len(good(world, block)) == 3, 100.0)
    assert is_settled(world)


def test_a_catalog_that_refuses_at_the_end_of_a_copy_leaves_nobody_busy(world, client, monkeypatch):
    put(world, "/a", copies=2)
    block, = world.blocks_of("/a")
    client.ask(messages.SetCopies(path="/a", copies=3, op="s"))
    apply, apply_many = world.database.apply, world.database.apply_many

    def full(operation):
        if isinstance(operation, operations.RecordReplicas):
            raise errors.NoRoom(size=1, detail="full")
        return apply(operation)

    monkeypatch.setattr(world.database, "apply", full)
    world.steps(3)
    monkeypatch.undo()
    assert world.database.apply_many == apply_many
    world.until(lambda: len(good(world, block)) == 3, 100.0)
    assert is_settled(world)


def test_orders_beyond_the_ceiling_are_planned_again(world, client, monkeypatch):
    for n in range(12):
        put(world, f"/{n}", copies=2)
    monkeypatch.setattr(orders_module, "MAX_PENDING", 1)
    for n in range(12):
        client.ask(messages.SetCopies(path=f"/{n}", copies=3, op=f"s{n}"))
    world.until(lambda: world.status().under_replicated == 0, 200.0)
    assert is_settled(world)


# -- fewer copies -----------------------------------------------------------------------------------------------------
def test_copies_up_and_down_and_up(world, client):
    block, = put(world, "/a", copies=2)
    for n, copies in enumerate((4, 1, 3, 2, 4)):
        client.ask(messages.SetCopies(path="/a", copies=copies, op=f"s{n}"))
        world.until(lambda: world.on_disk(block) == world.on_record(block) and len(world.on_disk(block)) == copies, 40.0)
    assert is_settled(world)


def test_surplus_of_a_returning_keeper_is_dropped_when_the_others_are_confirmed(world):
    block, = put(world, "/a")
    keeper = world.keepers[min(world.on_record(block))]
    keeper.kill()
    world.steps(80, 1.0)
    assert len(good(world, block)) == 3
    keeper.start()
    world.until(lambda: len(world.on_disk(block)) == 3, 10.0)
    assert world.on_disk(block) == world.on_record(block)


def test_surplus_stays_while_the_others_are_only_suspect(world, client):
    block, = put(world, "/a", copies=4)
    others = sorted(world.on_record(block))
    for number in others[:2]:
        world.service.left(world.keepers[number].control)
        world.keepers[number].is_up = False
    world.steps(1)
    client.ask(messages.SetCopies(path="/a", copies=3, op="s"))
    world.steps(4)
    assert len(world.on_disk(block)) == 4


@pytest.mark.parametrize("n_dead", [1, 2, 3])
def test_the_last_live_copy_is_never_dropped(world, client, n_dead):
    block, = put(world, "/a", copies=4)
    client.ask(messages.SetCopies(path="/a", copies=1, op="s"))
    for number in range(1, n_dead + 1):
        world.keepers[number].kill()
    world.steps(40, 3.0)
    assert good(world, block)
    for number in range(1, n_dead + 1):
        world.keepers[number].start()
    world.until(lambda: len(world.on_disk(block)) == 1 and world.on_disk(block) == world.on_record(block), 40.0)


def test_a_copy_lost_between_plan_and_drop_takes_the_drop_back(world, client, monkeypatch):
    block, = put(world, "/a", copies=2)
    client.ask(messages.SetCopies(path="/a", copies=1, op="s"))
    apply_many = world.database.apply_many

    def and_lose_the_other(ops):
        outcomes = apply_many(ops)
        if isinstance(ops[0], operations.DropReplica):
            other, = world.on_record(block)
            world.keepers[other].blocks.pop(block)
            world.keepers[other].notify([{"kind": "bad", "block": block, "reason": "bit rot"}])
        return outcomes

    monkeypatch.setattr(world.database, "apply_many", and_lose_the_other)
    world.steps(1)
    monkeypatch.undo()
    world.steps(10)
    assert world.on_disk(block) == good(world, block) != set()
    assert all(not world.queries().drops(number, 9) for number in world.keepers)


# -- when to keep still -----------------------------------------------------------------------------------------------
def test_mass_loss_holds_repair_until_they_are_back(make_world):
    world = make_world(6, repair_grace=0.0)
    blocks = [put(world, f"/{n}")[0] for n in range(6)]
    for number in (1, 2, 3):
        world.keepers[number].vanish()
    world.steps(60, 0.5)
    assert "vanished" in world.status().alarms[0]
    made = world.status().counters["replicas_made"]
    world.steps(20, 1.0)
    assert world.status().counters["replicas_made"] == made and world.status().repairs_running == 0
    for number in (1, 2, 3):
        world.keepers[number].start()
    world.until(lambda: world.status().alarms == [] and world.status().under_replicated == 0, 30.0)
    assert all(len(good(world, block)) == 3 for block in blocks)


def test_keepers_that_refuse_connections_are_believed_dead_all_at_once(make_world):
    world = make_world(5, repair_grace=0.0)
    block, = put(world, "/a")
    for number in sorted(world.on_record(block))[:2]:
        world.keepers[number].kill()
    world.steps(8)
    assert world.status().alarms == []
    world.until(lambda: len(good(world, block)) == 3, 10.0)


def test_busy_sources_and_targets_have_limits(make_world):
    world = make_world(2, repair_jobs=2)
    for n in range(40):
        assert Client(world).put(f"/{n}", 4 * MIB, copies=2, safe=1, block_size=4 * MIB)["refused"] is None
    share = repairer_module._share(4 * MIB)
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    world.keeper(free=10**12)
    world.steps(20)
    assert 0 < max(world.repairer._outgoing.values()) <= 2 + share
    assert max(world.repairer._incoming.values()) <= repairer_module.MAX_INCOMING + share
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.until(lambda: world.status().under_replicated == 0, 30.0)
    assert is_settled(world)


def test_one_source_that_hangs_does_not_starve_the_others(make_world):
    """Most blocks wait for keeper 1, which takes orders and never ends them; those on keeper 2 are healed meanwhile."""
    world = make_world(2, repair_jobs=1)
    blocks = {1: [], 2: []}
    for number, n in itertools.product((1, 2), range(150)):
        other = world.keepers[3 - number]
        other.sick = "full"
        other.notify()
        world.ticker.step()
        assert Client(world).put(f"/{number}-{n}", copies=1, safe=1)["refused"] is None
        other.sick = ""
        other.notify()
        blocks[number] += world.blocks_of(f"/{number}-{n}")
    assert all(world.on_record(block) == {number} for number in (1, 2) for block in blocks[number])
    world.keepers[1].is_deaf = True
    for number, n in itertools.product((1, 2), range(150)):
        Client(world).ask(messages.SetCopies(path=f"/{number}-{n}", copies=2, op=f"s{number}-{n}"))
    world.until(lambda: all(len(world.on_record(block)) == 2 for block in blocks[2]), 20.0)
    assert all(world.on_record(block) == {1} for block in blocks[1])


def test_repair_rate_bounds_the_bytes(make_world):
    world = make_world(3, repair_rate=100 * 1024)
    for n in range(10):
        assert Client(world).put(f"/{n}", 200 * 1024)["refused"] is None
    began_s = world.now
    world.until(lambda: world.status().under_replicated == 0, 60.0)
    assert 14 <= world.now - began_s <= 30
    assert all(order["rate"] <= 100 * 1024 for keeper in world.keepers.values() for order in keeper.seen_orders if order["kind"] == "copy")


# -- many blocks ------------------------------------------------------------------------------------------------------
def many(world, n, holders=(1, 2), copies=3, size=10):
    """n one-block files straight into the catalog and onto the disks."""
    ops = []
    for i in range(n):
        block = f"{i:020x}{i * 7919 % 10**9:012x}"
        for number in holders:
            world.keepers[number].blocks[block] = (size, b"\0\0\0\1")
        ops.append(operations.PublishFile(op=f"p{i}", path=f"/m{i}", version=(world.tracker.epoch << 32) + 10**6 + i, size=size, block_size=MIB,
                                          copies=copies, mtime_at=1.0, no_clobber=False, parents=False,
                                          blocks=[[block, size, "00000001", list(holders)]], at=1.0))
    for start in range(0, n, 200):
        world.database.apply_many(ops[start:start + 200])


def plans(world, monkeypatch):
    counted = []
    plan = repairer_module.repair.plan
    monkeypatch.setattr(repairer_module.repair, "plan", lambda *args, **named: (counted.append(1), plan(*args, **named))[1])
    return counted


def test_blocks_that_nobody_can_help_cost_little(make_world, monkeypatch):
    world = make_world(2)
    many(world, 3000)
    world.repairer._sweep_wanted = True
    world.steps(2)
    assert world.status().under_replicated == 3000
    counted = plans(world, monkeypatch)
    world.steps(240, 0.25)  # a minute
    assert len(counted) < 3000 * 1.2
    assert not world.repairer.step()


def test_a_queue_behind_busy_keepers_does_not_spin(make_world, monkeypatch):
    world = make_world(2, repair_jobs=1)
    many(world, 3000)
    third = world.keeper()
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    world.steps(1)
    world.repairer._sweep_wanted = True
    counted = plans(world, monkeypatch)
    world.steps(40, 0.25)  # ten seconds in which no copy ends
    assert len(counted) < 3 * 3000
    assert not world.repairer.step()
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    counted.clear()
    world.until(lambda: len(third.blocks) == 3000, 400.0)
    assert len(counted) < 6 * 3000
    world.steps(2)
    assert is_settled(world) and world.status().under_replicated == 0


def test_keepers_that_come_back_together_are_planned_for_once(make_world, monkeypatch):
    world = make_world(2)
    many(world, 1000)
    world.repairer._sweep_wanted = True
    world.steps(2)
    counted = plans(world, monkeypatch)
    for _ in range(50):
        world.repairer.keeper_back()
    world.steps(1)
    assert len(counted) <= 1000


def test_a_lost_keeper_is_scanned_as_the_queue_has_room(make_world, monkeypatch):
    monkeypatch.setattr(repairer_module, "MAX_QUEUED", 100)
    monkeypatch.setattr(repairer_module, "BATCH", 20)
    world = make_world(3, repair_grace=20.0)
    many(world, 1000, holders=(1, 2, 3))
    world.keeper()
    world.steps(2)
    world.keepers[1].kill()
    for _ in range(400):
        world.steps(1, 0.5)
        assert len(world.repairer._queue) <= 300
    assert all(len(good(world, block)) == 3 for block in list(world.keepers[2].blocks)[::50])
    assert not world.repairer._to_scan


def test_tables_are_empty_when_all_is_well(world, client):
    put(world, "/a")
    put(world, "/b")
    world.keepers[1].fails_copies = True
    client.ask(messages.SetCopies(path="/a", copies=4, op="s"))
    world.steps(20)
    world.keepers[1].fails_copies = False
    client.remove("/b")
    world.steps(60, 5.0)
    repairer = world.repairer
    assert not (len(repairer._queue) or repairer._avoid or repairer.doubts._doubts or repairer.moves._leaving or repairer._parked and any(repairer._parked.values()))
    assert is_settled(world)


# -- rebalance --------------------------------------------------------------------------------------------------------
@pytest.fixture
def uneven(make_world):
    world = make_world(2, repair_jobs=4)
    for keeper in world.keepers.values():
        keeper.free = 2 * MIB
    many(world, 40, copies=2, size=100_000)
    world.keeper(free=6 * MIB)
    world.steps(3)
    return world


def test_rebalance_evens_out_without_losing_a_copy(uneven, monkeypatch):
    world = uneven
    client = Client(world)
    plan = client.ask(messages.Rebalance(dry_run=True, start=False))
    assert plan.moves and plan.running == 0 and not world.keepers[3].blocks
    assert client.ask(messages.Rebalance(dry_run=False, start=True)).running > 0
    blocks = sorted(world.keepers[1].blocks)

    def done():
        assert all(len(good(world, block)) >= 2 for block in blocks)
        return client.ask(messages.Rebalance(dry_run=False, start=False)).running == 0

    world.until(done, 60.0)
    assert len(world.keepers[3].blocks) >= 10
    world.until(lambda: all(len(world.on_disk(block)) == 2 for block in blocks), 2.0)
    assert is_settled(world)


def test_rebalance_goes_on_when_files_vanish_and_some_block_stays_short(uneven):
    world = uneven
    client = Client(world)
    client.put("/never", copies=16)
    world.steps(4)
    client.ask(messages.Rebalance(dry_run=False, start=True))
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    world.steps(6)
    assert world.repairer.moves._leaving
    for n in range(40):
        client.remove(f"/m{n}")
    world.steps(20, 9.0)
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.until(lambda: client.ask(messages.Rebalance(dry_run=False, start=False)).running == 0, 100.0)
    assert is_settled(world)


def test_a_rebalance_whose_source_dies_ends(uneven):
    world = uneven
    client = Client(world)
    client.ask(messages.Rebalance(dry_run=False, start=True))
    world.steps(2, orders=False)
    source = next(iter(next(iter(world.repairer.moves._leaving.values()))))
    world.keepers[source].kill()
    world.steps(40, 3.0)
    assert client.ask(messages.Rebalance(dry_run=False, start=False)).running <= len(world.repairer.moves._moves)
    assert not world.repairer.moves._leaving


def test_scrub_is_followed_to_its_end(world, client):
    put(world, "/a")
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    assert client.ask(messages.Scrub(keepers=[], start=True)).running == 4
    assert client.ask(messages.Scrub(keepers=[], start=True)).running == 4
    for keeper in world.keepers.values():
        orders = keeper.take()
        assert [order["kind"] for order in orders] == ["scrub"]
        keeper.notify([{"kind": "scrubbed", "order": orders[0]["order"], "n": 2, "size": 20}, {"kind": "order_done", "order": orders[0]["order"], "n": 2}])
    report = client.ask(messages.Scrub(keepers=[], start=False))
    assert (report.running, report.verified, report.verified_bytes) == (0, 8, 80)


def test_a_dead_keepers_scrub_ends(world, client):
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    client.ask(messages.Scrub(keepers=[world.keepers[1].id], start=True))
    world.keepers[1].kill()
    world.steps(1)
    assert client.ask(messages.Scrub(keepers=[], start=False)).running == 0


def test_more_copies_than_keepers_are_told_as_placeless_and_not_as_a_repair_to_come(make_world):
    world = make_world(3)
    client = Client(world)
    result = client.put("/a", copies=9)
    assert result["places"] == 3
    world.until(lambda: len(world.on_record(world.blocks_of("/a")[0])) == 3)
    world.until(lambda: [one["placeless"] for one in world.status().waiting] == [True])
    world.keeper()  # a fourth joins
    world.until(lambda: len(world.on_record(world.blocks_of("/a")[0])) == 4)
    world.until(lambda: [one["placeless"] for one in world.status().waiting] == [True])


def test_an_end_that_cannot_be_said_is_not_said():
    assert cluster._eta_s(100, 10.0) == 10.0
    assert cluster._eta_s(100, 0.0) is None and cluster._eta_s(2**32, 1.0) is None  # the wire has a ceiling for seconds
