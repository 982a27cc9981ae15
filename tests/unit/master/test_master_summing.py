"""SHA-256 of files of several blocks: which file is summed when and by whom, and what of it is recorded."""

import pytest

from dfs_lib import errors
from dfs_lib.master import orders, summing
from dfs_lib.wire import messages, trust
from master_helpers import KEYRING, MIB, Client

SCRUB = {"round": 1, "share": 0.5, "left_s": 9.0, "blocks": 0, "bad": 0}
SUM = "ab" * 32


@pytest.fixture
def world(make_world):
    world = make_world(3, copies=2, safe=2, sum_after=30.0, trash_grace=5.0)
    for keeper in world.keepers.values():
        keeper.scrub = SCRUB
    world.steps(2)
    return world


@pytest.fixture
def client(world):
    return Client(world)


def known(world, path):
    return world.queries().version(world.queries().entry(path).version).sha256


def next_sum(world, most_s=45.0):
    """(keeper, order) of the next order to sum, whoever gets it; not carried out."""
    found = []

    def look():
        for keeper in world.keepers.values():
            if not keeper.is_up:
                continue
            for order in keeper.take():
                if order["kind"] == "sum":
                    found.append((keeper, order))
                else:
                    keeper.do(order)
        return found

    end_s = world.now + most_s
    while not look():
        if world.now >= end_s:
            return None
        world.steps(1, orders=False)
    assert len(found) == 1, "one at a time"
    return found[0]


def end(keeper, order, sha256=SUM, error=None):
    keeper.notify([{"kind": "order_done", "order": order["order"], "sha256": sha256, "error": error}])


def locate(keeper, order, first=0):
    return keeper.ask(messages.LocateBlocks(order=order["order"], first=first), connection="another").blocks


def test_a_file_of_several_blocks_is_summed_once_it_is_old_enough_by_who_has_most_of_it(world, client):
    client.put("/small")
    result = client.put("/large", 4 * MIB)
    began_s = world.now
    keeper, order = next_sum(world)
    assert world.now - began_s >= 30 and (order["version"], order["size"]) == (result["version"], 4 * MIB)
    held = {number: sum(number in world.on_record(block) for block in world.blocks_of("/large")) for number in world.keepers}
    assert held[keeper.number] == max(held.values())
    assert next_sum(world) is None  # not a second one beside it, nor one for the small file
    end(keeper, order)
    assert known(world, "/large") == SUM and known(world, "/small") is None and world.status().counters["sums_filled_in"] == 1
    assert next_sum(world) is None


def test_pages_have_the_blocks_in_order_with_tickets_for_who_asks_and_each_renews_the_time(world, client):
    client.put("/large", 16 * MIB)
    version = world.queries().entry("/large").version
    keeper, order = next_sum(world)
    blocks = locate(keeper, order)
    assert [one["block"] for one in blocks] == world.blocks_of("/large") and len(blocks) == messages.MOST_LOCATED
    for one in blocks:
        assert {hop["keeper"] for hop in one["sources"]} == {world.keepers[number].id for number in world.on_record(one["block"])}
        for hop in one["sources"]:
            trust.check_ticket(trust.read_ticket(KEYRING.ticket, hop["ticket"]), operation=trust.READ, block=one["block"], keeper=hop["keeper"],
                               size=one["size"], user=trust.user_digest(keeper.id), epoch=keeper.epoch, tick=world.tracker.tick)
    assert [one["index"] for one in locate(keeper, order, 13)] == [13, 14, 15] and locate(keeper, order, 16) == []
    for _ in range(4):
        world.steps(8, summing.ORDER_S / 16, orders=False)
        locate(keeper, order)
    assert next_sum(world) is None  # it is still at it, far beyond the time of an order
    with pytest.raises(errors.Refusal):
        locate(next(other for other in world.keepers.values() if other is not keeper), order)  # another keeper's order opens nothing
    end(keeper, order)
    assert known(world, "/large") == SUM and world.queries().entry("/large").version == version


def test_no_keeper_whose_scrub_is_off_and_none_while_something_is_repaired(world, client):
    for keeper in world.keepers.values():
        keeper.scrub = None
    client.put("/large", 3 * MIB)
    assert next_sum(world, 60.0) is None
    world.keepers[2].scrub = SCRUB
    keeper, order = next_sum(world)
    assert keeper.number == 2
    end(keeper, order, None, "order_failed")
    world.repairer.hold("too many keepers have gone")
    assert next_sum(world, 3 * summing.RETRY_S) is None
    world.repairer.hold("")
    assert next_sum(world) is not None


def test_one_that_fails_lets_the_others_go_first_and_comes_again_later_and_later(world, client):
    client.put("/a", 2 * MIB)
    client.put("/b", 2 * MIB)
    first, second = (world.queries().entry(path).version for path in ("/a", "/b"))
    pauses = []
    for _ in range(2):
        keeper, order = next_sum(world, 600.0)
        assert order["version"] == first
        end(keeper, order, None, "order_failed")
        failed_s = world.now
        if not pauses:
            keeper, order = next_sum(world)
            assert order["version"] == second
            end(keeper, order)
        keeper, order = next_sum(world, 600.0)
        pauses.append(world.now - failed_s)
        assert order["version"] == first
        world.tracker.orders.give_up(world.now + 2 * summing.ORDER_S)  # as if its keeper had died
        assert next_sum(world, summing.RETRY_S / 2) is None
    assert known(world, "/b") == SUM and known(world, "/a") is None and pauses == sorted(pauses) and pauses[-1] > 2 * pauses[0] >= 2 * summing.RETRY_S
    assert world.status().counters["sums_failed"] == 4


def test_of_a_version_that_was_replaced_meanwhile_nothing_is_recorded(world, client):
    client.put("/large", 2 * MIB)
    keeper, order = next_sum(world)
    client.put("/large", 3 * MIB)
    with pytest.raises(errors.NoSuchFile):
        locate(keeper, order)
    end(keeper, order)
    assert known(world, "/large") is None and world.queries().version(order["version"]).sha256 is None
    keeper, later = next_sum(world)
    assert later["version"] == world.queries().entry("/large").version != order["version"]
    client.remove("/large")
    world.steps(40)
    assert world.queries().version(later["version"]) is None
    end(keeper, later)
    assert "sums_failed" not in world.status().counters


def test_a_sum_that_is_known_by_then_has_to_be_the_same(world, client):
    client.put("/large", 2 * MIB)
    keeper, order = next_sum(world)
    client.ask(messages.RecordSum(version=order["version"], sha256="cd" * 32))
    with pytest.raises(errors.Refusal):
        locate(keeper, order)
    end(keeper, order)
    assert known(world, "/large") == "cd" * 32 and ["/large" in alarm for alarm in world.status().alarms] == [True]


def test_a_new_master_knows_nothing_of_it_and_begins_anew(world, client):
    client.put("/large", 2 * MIB)
    keeper, order = next_sum(world)
    world.restart()
    world.steps(100, orders=False)
    with pytest.raises(errors.Refusal):
        locate(keeper, order)
    end(keeper, order, "ef" * 32)
    assert known(world, "/large") is None
    keeper, again = next_sum(world)
    assert again["version"] == order["version"]
    end(keeper, again)
    assert known(world, "/large") == SUM


def test_the_death_of_its_keeper_gives_it_to_another_later(world, client):
    client.put("/large", 2 * MIB)
    keeper, order = next_sum(world)
    keeper.kill()
    other, again = next_sum(world, 300.0)
    assert other is not keeper and again["version"] == order["version"]


def test_a_file_with_a_block_that_nobody_has_waits(world, client):
    client.put("/gone", 2 * MIB)
    client.put("/there", 2 * MIB)
    for number in world.on_record(world.blocks_of("/gone")[1]):
        world.repairer.doubts.replica_bad(world.blocks_of("/gone")[1], number, "damaged")
    keeper, order = next_sum(world)
    assert order["version"] == world.queries().entry("/there").version
    end(keeper, order)
    assert next_sum(world, 120.0) is None


def test_an_order_is_renewed_only_for_its_keeper_and_while_it_lasts():
    table, ended = orders.Orders(100), []
    order = table.give(1, "sum", {}, lambda *how: ended.append(how), 0.0, 10.0)
    assert table.renew(order.id, 2, 5.0, 10.0) is None and table.renew(order.id, 1, 5.0, 10.0) is order
    table.give_up(12.0)
    assert not ended
    table.give_up(15.0)
    assert ended == [(order, "lost", None)] and table.renew(order.id, 1, 15.0, 10.0) is None
