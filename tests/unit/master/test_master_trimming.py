"""Dropping: what stays was read again before, rot is repaired instead, and a drop that is taken back was ordered by nobody."""

import pytest
from master_helpers import MIB, Client

from dfs_lib.catalog import operations
from dfs_lib.master import trimming
from dfs_lib.wire import messages


@pytest.fixture
def world(make_world):
    return make_world(4)


def put(world, path, copies):
    """A file with all its copies; its block."""
    Client(world).put(path, copies=copies)
    world.until(lambda: world.status().under_replicated == 0)
    return world.blocks_of(path)[0]


def forget_proofs(world):
    world.tracker.proofs._proven.clear()


def set_copies(world, path, copies):
    world.ask(messages.SetCopies(path=path, copies=copies, op=world.new_id()))


def orders(world, kind):
    return [(number, order) for number, keeper in world.keepers.items() for order in keeper.seen_orders if order["kind"] == kind]


def n_good(world, block):
    return sum(block not in world.keepers[number].damaged for number in world.on_disk(block))


def deaf(world, is_deaf):
    for keeper in world.keepers.values():
        keeper.is_deaf = is_deaf


def test_a_drop_waits_until_what_stays_was_read(world):
    block = put(world, "/a", 3)
    forget_proofs(world)
    deaf(world, True)
    set_copies(world, "/a", 2)
    world.steps(20)
    assert len(world.on_record(block)) == 3 and world.n_orders("drop") == 0 and world.n_orders("verify") == 2
    assert block in world.repairer.trimmer and world.repairer.pending([block]) == {block}
    assert "read again" in world.repairer.outlook(block)[0].reason
    deaf(world, False)
    world.until(lambda: len(world.on_disk(block)) == 2, 10.0)
    (dropped, _order), = orders(world, "drop")
    read = {number for number, _order in orders(world, "verify")}
    assert read >= world.on_disk(block) == world.on_record(block) and dropped not in world.on_disk(block)
    assert block not in world.repairer.trimmer


def test_rotten_ones_are_never_counted_and_repaired_instead(world):
    """Two of the first copies rot, the others are taken for surplus: the good ones must not be what goes."""
    block = put(world, "/a", 4)
    forget_proofs(world)
    for number in sorted(world.on_record(block))[:2]:
        world.keepers[number].damaged.add(block)
    set_copies(world, "/a", 2)
    for _ in range(200):
        world.steps(1)
        assert n_good(world, block) >= min(2, len(world.on_record(block)))
    assert len(world.on_disk(block)) == 2 == n_good(world, block) and world.on_disk(block) == world.on_record(block)


@pytest.mark.parametrize("n_rotten", [1, 2, 3])
def test_a_failed_verification_is_repaired_and_no_good_one_goes(world, n_rotten):
    block = put(world, "/a", 4)
    forget_proofs(world)
    for number in sorted(world.on_record(block))[:n_rotten]:
        world.keepers[number].damaged.add(block)
    set_copies(world, "/a", 3)
    for _ in range(200):
        world.steps(1)
        assert n_good(world, block) >= min(3, 4 - n_rotten)
    assert len(world.on_record(block)) == 3 == len(world.on_disk(block))


def test_a_keeper_that_does_not_answer_is_asked_again_and_not_spun_on(world):
    block = put(world, "/a", 3)
    forget_proofs(world)
    deaf(world, True)
    set_copies(world, "/a", 2)
    world.steps(100, 10.0)
    assert len(world.on_record(block)) == 3
    assert next(world.tracker.orders._ids) - (world.tracker.epoch << 32) < 100
    deaf(world, False)
    world.until(lambda: len(world.on_disk(block)) == 2, 200.0)


def test_a_proof_is_of_this_session_and_of_late(world):
    block = put(world, "/a", 2)
    proofs, holder = world.tracker.proofs, world.keepers[min(world.on_record(block))]
    proofs.note(holder.number, block)
    assert proofs.proven(block, world.on_record(block)) >= {holder.number}
    holder.register()
    holder.report()
    assert holder.number not in proofs.proven(block, world.on_record(block))
    proofs.note(holder.number, block)
    assert holder.number in proofs.proven(block, world.on_record(block))
    world.repairer.doubts.doubt(block, holder.number, holder.id)
    assert holder.number not in proofs.proven(block, world.on_record(block))
    proofs.note(holder.number, block)
    world.steps(61, 10.0)
    assert holder.number not in proofs.proven(block, world.on_record(block))
    proofs.trim()
    assert (holder.number, block) not in proofs._proven


def test_the_table_of_proofs_is_bounded(world, monkeypatch):
    monkeypatch.setattr(trimming, "MOST_PROOFS", 10)
    for n in range(50):
        world.tracker.proofs.note(1, f"{n:032x}")
    assert len(world.tracker.proofs._proven) == 10 and world.tracker.proofs.proven(f"{49:032x}", {1, 2}) == {1}


def test_a_copy_proves_its_source_and_its_targets(world):
    block = put(world, "/a", 2)
    forget_proofs(world)
    set_copies(world, "/a", 3)
    world.until(lambda: len(world.on_record(block)) == 3)
    assert len(world.tracker.proofs.proven(block, world.on_record(block))) == 2


def test_a_master_that_has_restarted_has_no_proofs(world):
    block = put(world, "/a", 3)
    world.restart()
    world.until(lambda: not world.tracker.safemode(), 60.0)
    set_copies(world, "/a", 2)
    world.until(lambda: len(world.on_disk(block)) == 2, 20.0)
    assert {number for number, _order in orders(world, "verify")} >= world.on_disk(block)


def test_many_blocks_are_trimmed_in_few_orders_and_bounded_steps(make_world, monkeypatch):
    world = make_world(4, repair_grace=1.0)
    monkeypatch.setattr(trimming, "MOST_WAITING", 60)
    monkeypatch.setattr(trimming, "ROUND", 20)
    monkeypatch.setattr(trimming, "VERIFY_BLOCKS", 10)
    blocks = [put(world, f"/{n}", 3) for n in range(150)]
    world.keepers[1].kill()
    world.until(lambda: all(len(world.on_record(block) - {1}) == 3 for block in blocks), 200.0)
    forget_proofs(world)
    world.keepers[1].start()
    most_waiting = most_verifying = 0
    for _ in range(200):
        world.steps(1)
        most_waiting = max(most_waiting, len(world.repairer.trimmer._waiting))
        most_verifying = max(most_verifying, *(world.tracker.orders.counts_of(number)["verify"] for number in world.keepers))
    assert all(len(world.on_disk(block)) == 3 and world.on_disk(block) == world.on_record(block) for block in blocks)
    assert 0 < most_waiting <= 60 and most_verifying <= trimming.VERIFY_ORDERS
    assert all(len(order["blocks"]) <= 10 for _number, order in orders(world, "verify"))
    trimmer = world.repairer.trimmer
    assert not trimmer._waiting and not trimmer._later and not trimmer._to_verify and not trimmer._verifying and not trimmer._marked


def test_large_blocks_come_in_small_orders(make_world, monkeypatch):
    world = make_world(3)
    monkeypatch.setattr(trimming, "VERIFY_BYTES", MIB)
    blocks = [put(world, f"/{n}", 3) for n in range(3)]
    forget_proofs(world)
    for block in blocks:
        world.repairer.trimmer._to_verify.setdefault(1, {})[block] = MIB
    world.steps(4)
    assert [len(order["blocks"]) for _number, order in orders(world, "verify")] == [1, 1, 1]


# -- a drop that is taken back ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("moment", ["before", "while the list is read"])
def test_nobody_orders_a_drop_that_is_taken_back(world, monkeypatch, moment):
    """Another thread orders what a keeper has still to delete, between the drop's commit and its being taken back."""
    block = put(world, "/a", 2)
    for number in world.on_record(block):
        world.tracker.proofs.note(number, block)
    set_copies(world, "/a", 1)
    apply_many, trimmer, dropped = world.database.apply_many, world.repairer.trimmer, []

    def in_between(ops):
        outcomes = apply_many(ops)
        if isinstance(ops[0], operations.DropReplica) and not dropped:
            dropped.append(ops[0].keeper)
            other, = world.on_record(block)
            world.keepers[other].blocks.pop(block)
            world.keepers[other].notify([{"kind": "bad", "block": block, "reason": "bit rot"}])
            assert world.queries().drops(dropped[0], 9) == [block]
            if moment == "before":
                world.repairer.order_drops_of(dropped[0])
        return outcomes

    queries = type(world.tracker.queries())
    drops = queries.drops

    def read_then_taken_back(self, number, limit):
        found = drops(self, number, limit)
        if not dropped:
            world.steps(1)
            assert dropped == [number]
            return [block]  # as it would have been a moment ago
        return found

    monkeypatch.setattr(world.database, "apply_many", in_between)
    if moment != "before":
        monkeypatch.setattr(queries, "drops", read_then_taken_back)
        victim = min(world.on_record(block))
        world.keepers[victim].free = 10**9  # the fullest
        world.repairer.order_drops_of(victim)
    else:
        world.steps(1)
    monkeypatch.undo()
    assert dropped and world.n_orders("drop") == 0 and not trimmer._marked
    world.steps(20)
    assert world.on_disk(block) == world.on_record(block) and n_good(world, block) == 1


def test_what_is_ordered_is_not_ordered_again_before_its_end_is_on_record(world):
    trimmer, keeper = world.repairer.trimmer, world.keepers[1]
    trimmer.order(1, ["e" * 32])
    trimmer.order(1, ["e" * 32])
    order, = keeper.take()
    keeper.notify([{"kind": "order_done", "order": order["order"], "n": 1}])
    assert not trimmer._marked
    trimmer.order(1, ["e" * 32])
    assert len(keeper.take()) == 1
