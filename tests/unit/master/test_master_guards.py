"""Guards: surplus that nobody can explain waits for a human; what is explained goes; a dead keeper can be forgotten."""

import pytest

from dfs_lib import dropping, errors, model
from dfs_lib.catalog import operations
from dfs_lib.wire import messages
from master_helpers import Client


@pytest.fixture
def few(monkeypatch):
    """Improbable is what is more than three blocks and a fifth."""
    monkeypatch.setattr(dropping, "FLOOR", 3)


def pending(world, *approve):
    return {one["name"]: one["n"] for one in world.ask(messages.Pending(approve=[world.keepers[n].id for n in approve])).pending}


def surplus_world(make_world, n=20):
    """Files with three copies where the catalog suddenly says that one is wanted, and no user has said so."""
    world = make_world(3, copies=3, safe=3)
    blocks = []
    for at in range(n):
        Client(world).put(f"/f{at}")
        blocks += world.blocks_of(f"/f{at}")
    world.steps(4)
    for at in range(n):
        world.database.apply(operations.SetCopies(op=world.new_id(), path=f"/f{at}", copies=1, at=1.0))
    world.repairer.keeper_back()
    return world, blocks


def n_copies(world, blocks):
    return sum(len(world.on_disk(block)) for block in blocks)


def test_unexplained_surplus_waits_and_an_approval_lets_it_go(make_world, few):
    world, blocks = surplus_world(make_world)
    world.steps(300)
    assert n_copies(world, blocks) >= 60 - 3 * 4
    assert sum(pending(world).values()) == sum(len(world.on_disk(block)) > 1 for block in blocks)
    assert any("admin pending" in alarm for alarm in world.status().alarms)
    for _ in range(12):
        pending(world, 1, 2, 3)
        world.steps(10)
    world.until(lambda: pending(world, 1, 2, 3) == {} and n_copies(world, blocks) == 20, 900)
    assert all(len(world.on_disk(block)) == 1 == len(world.on_record(block)) for block in blocks)
    assert not world.status().alarms


def test_what_is_held_still_counts_and_no_drop_is_on_record(make_world, few):
    world, blocks = surplus_world(make_world)
    world.steps(60)
    assert all(world.on_record(block) == world.on_disk(block) for block in blocks)


def test_what_a_user_asked_for_goes_at_once(make_world, few):
    world = make_world(3, copies=3, safe=3)
    client = Client(world)
    for at in range(20):
        client.put(f"/f{at}")
    blocks = [block for at in range(20) for block in world.blocks_of(f"/f{at}")]
    world.steps(4)
    for at in range(20):
        world.ask(messages.SetCopies(path=f"/f{at}", copies=1, op=world.new_id()))
    world.until(lambda: n_copies(world, blocks) == 20, 200)
    for at in range(20):
        client.remove(f"/f{at}")
    world.until(lambda: n_copies(world, blocks) == 0, 400)
    assert pending(world) == {}


def test_a_keeper_that_returns_after_repair_needs_no_approval(make_world, few):
    world = make_world(4, copies=2, repair_grace=5.0)
    client = Client(world)
    for at in range(30):
        client.put(f"/f{at}")
    blocks = [block for at in range(30) for block in world.blocks_of(f"/f{at}")]
    world.steps(4)
    world.keepers[1].kill()
    world.until(lambda: all(len(world.on_record(block) - {1}) == 2 for block in blocks), 120)
    world.keepers[1].start()
    world.until(lambda: n_copies(world, blocks) == 60, 300)
    assert pending(world) == {}


def test_a_drained_keeper_is_emptied_without_approval(make_world, few):
    world = make_world(4, copies=2)
    for at in range(30):
        Client(world).put(f"/f{at}")
    world.steps(4)
    world.ask(messages.Drain(keepers=[world.keepers[1].id], draining=True))
    world.until(lambda: not world.keepers[1].blocks, 200)
    assert pending(world) == {}


def test_what_a_keeper_refuses_is_pending_and_approved_orders_say_so(make_world):
    world = make_world(2)
    Client(world).put("/a", copies=2)
    world.steps(4)
    (block,) = world.blocks_of("/a")
    world.repairer.trimmer.order(1, [block])
    keeper = world.keepers[1]
    (order,) = keeper.take()
    assert not order["approved"]
    keeper.notify([{"kind": "order_done", "order": order["order"], "error": "needs_approval", "reason": "too many"}])
    assert pending(world) == {"k1": 1}
    assert pending(world, 1) == {}
    world.repairer.trimmer.order(1, [block, "f" * 32])
    (order,) = keeper.take()
    assert order["approved"] and len(order["blocks"]) == 2


def test_the_window_forgets_and_counts_shares():
    window = dropping.Window()
    assert window.room(0, 0.0) == dropping.FLOOR and window.room(10_000, 0.0) == 2000
    window.add(1500, 0.0)
    assert window.room(8500, 1.0) == 500 and window.recent == 1500
    assert window.room(8500, dropping.WINDOW_S + 1) == 1700


# -- a keeper that will never return ----------------------------------------------------------------------------------
def forget(world, number, force=False):
    return world.ask(messages.Forget(keeper=world.keepers[number].id, force=force)).facts


def test_only_a_dead_keeper_is_forgotten_and_repair_goes_on(make_world):
    world = make_world(3, copies=2, repair_grace=1e6)
    Client(world).put("/a")
    world.steps(4)
    (block,) = world.blocks_of("/a")
    number = min(world.on_record(block))
    with pytest.raises(errors.Refusal, match="stop it first"):
        forget(world, number)
    world.keepers[number].kill()
    world.until(lambda: world.state(number) == model.DEAD)
    assert forget(world, number)["replicas"] == 1
    assert [keeper["name"] for keeper in world.status().keepers] == [f"k{n}" for n in (1, 2, 3) if n != number]
    world.until(lambda: len(world.on_record(block)) == 2)
    world.steps(20)
    world.keepers[number].start()  # it does return: as a new keeper, and what it has counts
    world.until(lambda: len(world.on_disk(block)) == 2)
    assert len(world.on_record(block)) == 2


def test_the_last_copy_is_let_go_of_by_force_alone(make_world):
    world = make_world(2, copies=1, safe=1)
    Client(world).put("/a")
    world.steps(4)
    (number,) = world.on_record(world.blocks_of("/a")[0])
    world.keepers[number].kill()
    world.until(lambda: world.state(number) == model.DEAD)
    with pytest.raises(errors.Refusal, match="only copy.*/a"):
        forget(world, number)
    forget(world, number, force=True)
    assert world.status().missing == 1 or world.on_record(world.blocks_of("/a")[0]) == set()
    with pytest.raises(errors.NoSuchKeeper):
        forget(world, number)
