"""--rebalance, and replicas kept apart by label, from registration to the record."""

import pytest

from dfs_lib import settings
from dfs_lib.master.balance import EVERY_S, SOON_S
from dfs_lib.wire import messages
from master_helpers import MIB, Client


def uneven(make_world, mode, free=60 * MIB, emptier=300 * MIB):
    """Two keepers that are quite full, and a new one that is empty."""
    world = make_world(2, copies=1, safe=1, rebalance=mode)
    for at in range(30):
        Client(world).put(f"/f{at}", 2 * MIB)
    for keeper in world.keepers.values():
        keeper.free = free
    world.steps(8)
    world.keeper().free = emptier
    return world


def on_new(world):
    return len(world.keepers[3].blocks)


@pytest.mark.parametrize("mode", ["gentle", "now"])
def test_a_new_keeper_gets_its_share_by_itself(make_world, mode):
    world = uneven(make_world, mode)
    world.until(lambda: on_new(world) > 8, 600)
    blocks = [block for at in range(30) for block in world.blocks_of(f"/f{at}")]
    world.until(lambda: all(len(world.on_disk(block)) == 1 == len(world.on_record(block)) for block in blocks), 300)


def test_moves_go_on_soon_after_the_master_or_the_new_keeper_died(make_world):
    world = uneven(make_world, "now")
    world.until(lambda: on_new(world) > 2, 2 * SOON_S)
    world.restart()
    before = on_new(world)
    world.until(lambda: on_new(world) > before + 2, 3 * SOON_S)
    world.keepers[3].kill()
    world.steps(8)
    world.keepers[3].start()
    before = on_new(world)
    world.until(lambda: on_new(world) > before + 2, 5 * SOON_S)
    blocks = [block for at in range(30) for block in world.blocks_of(f"/f{at}")]
    world.until(lambda: all(len(world.on_disk(block)) == 1 == len(world.on_record(block)) for block in blocks), 300)


def test_off_moves_nothing(make_world):
    world = uneven(make_world, "off")
    world.steps(int(5 * EVERY_S), 1.0)
    assert on_new(world) == 0


def test_gentle_leaves_a_small_difference_alone(make_world):
    world = uneven(make_world, "gentle", free=10_000 * MIB, emptier=10_000 * MIB)
    world.steps(int(5 * EVERY_S), 1.0)
    assert on_new(world) == 0


def test_nothing_moves_while_a_file_is_short(make_world):
    world = uneven(make_world, "gentle")
    Client(world).put("/wide", 10, copies=5, safe=1)
    world.steps(int(5 * EVERY_S), 1.0)
    assert on_new(world) <= 1


def test_the_setting_takes_three_words():
    assert [settings.parse_rebalance(word) for word in ("off", "Gentle", "now", False)] == ["off", "gentle", "now", "off"]
    with pytest.raises(ValueError):
        settings.parse_rebalance("fast")


def test_replicas_are_spread_over_rooms_also_by_repair_and_after_the_labels_came_late(make_world):
    rooms = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c"}
    world = make_world(0, copies=3, safe=2, spread=("room",))
    for number in rooms:
        world.keeper(labels={"room": rooms[number]})
    world.steps(4)
    for at in range(20):
        Client(world).put(f"/f{at}")
    blocks = [block for at in range(20) for block in world.blocks_of(f"/f{at}")]

    def is_spread():
        return all(len(world.on_record(block)) == 3 and {rooms[number] for number in world.on_record(block)} == {"a", "b", "c"} for block in blocks)

    world.until(is_spread, 120)
    world.ask(messages.Drain(keepers=[world.keepers[1].id], draining=True))
    world.until(lambda: not world.keepers[1].blocks and is_spread(), 200)
