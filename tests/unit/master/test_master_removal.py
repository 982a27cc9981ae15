"""Removal and overwriting: trash, grace, open readers, drop orders, and the keepers' word that it is done."""

import pytest
from master_helpers import MIB, Client

from dfs_lib import errors
from dfs_lib.master import ticker as ticker_module, tracker as tracker_module
from dfs_lib.wire import messages


@pytest.fixture
def world(make_world):
    return make_world(3, trash_grace=5.0)


@pytest.fixture
def client(world):
    return Client(world)


def put(world, client, path, size=10, **options):
    """A file with all its copies; its first block."""
    assert client.put(path, size, **options)["refused"] is None
    block = world.blocks_of(path)[0]
    world.until(lambda: world.status().under_replicated == 0)
    return block


def n_drops(world):
    return sum(len(world.queries().drops(number, 1000)) for number in world.keepers)


@pytest.mark.parametrize("how", ["remove", "overwrite", "tree", "rename"])
def test_blocks_stay_for_the_grace_then_go_everywhere(world, client, how):
    if how == "tree":
        client.ask(messages.MakeDirectory(path="/t/u", parents=True, op="mk"))
    path = "/t/u/a" if how == "tree" else "/a"
    block = put(world, client, path)
    if how == "remove":
        client.remove(path)
    elif how == "overwrite":
        assert put(world, client, path) != block
    elif how == "rename":
        put(world, client, "/b")
        client.ask(messages.Rename(source="/b", target="/a", no_clobber=False, op="mv"))
    else:
        client.remove("/t", recursive=True)
    world.steps(10)
    assert world.on_disk(block) == world.on_record(block) == {1, 2, 3}
    world.until(lambda: not world.on_disk(block), 20.0)
    assert world.queries().block(block) is None
    world.steps(2)
    assert n_drops(world) == 0 and world.status().strays == 0


@pytest.mark.parametrize("how", ["remove", "overwrite", "tree"])
def test_nothing_is_copied_for_the_trash_alone(make_world, how):
    world = make_world(4, trash_grace=500.0, repair_grace=5.0)
    client = Client(world)
    path = "/a"
    if how == "tree":
        client.ask(messages.MakeDirectory(path="/t", parents=True, op="mk"))
        path = "/t/a"
    block = put(world, client, path)
    had = world.on_record(block)
    world.keepers[min(had)].vanish()
    world.until(lambda: world.status().under_replicated == 1)
    if how == "remove":
        client.remove(path)
    elif how == "tree":
        client.remove("/t", recursive=True)
    else:
        assert client.put(path)["refused"] is None
        new, = world.blocks_of(path)
        world.until(lambda: len(world.on_record(new)) == 3)
    world.steps(200, 0.5)
    assert world.on_record(block) == had and world.status().under_replicated == world.status().missing == 0


def test_a_drain_also_moves_the_trash(make_world):
    world = make_world(4, trash_grace=5000.0)
    client = Client(world)
    block = put(world, client, "/a")
    number = min(world.on_record(block))
    client.remove("/a")
    client.ask(messages.Drain(keepers=[world.keepers[number].id], draining=True))
    world.until(lambda: number not in world.on_record(block), 120.0)


def test_an_open_reader_holds_the_blocks(world, client):
    block = put(world, client, "/a")
    opened = client.download("/a")
    client.remove("/a")
    world.steps(60, 9.0)
    assert world.on_disk(block) == {1, 2, 3}
    assert client.download("/a", opened["version"])["blocks"][0]["block"] == block  # the next page holds it again
    world.steps(80, 9.0)
    assert world.on_disk(block) == set()
    refused = client.download("/a", opened["version"])["refused"]
    assert refused["error"] == "no_such_file" and "removed or replaced" in refused["message"]


def test_a_copy_of_the_name_keeps_the_blocks(world, client):
    block = put(world, client, "/a")
    client.ask(messages.Copy(source="/a", target="/b", no_clobber=False, op="cp"))
    client.remove("/a")
    world.steps(10, 5.0)
    assert world.on_disk(block) == {1, 2, 3}
    client.remove("/b")
    world.until(lambda: not world.on_disk(block), 30.0)


def test_a_keeper_that_was_away_drops_when_it_returns(world, client):
    block = put(world, client, "/a")
    world.keepers[1].kill()
    client.remove("/a")
    world.until(lambda: world.on_disk(block) == {1}, 30.0)
    assert world.queries().drops(1, 9) == [block]
    world.keepers[1].start()
    world.until(lambda: not world.on_disk(block), 5.0)
    world.steps(2)
    assert n_drops(world) == 0 and world.status().strays == 0


def test_a_drop_order_that_was_lost_is_given_again(world, client):
    block = put(world, client, "/a")
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    client.remove("/a")
    world.steps(50, 9.0)  # the orders' time is over
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.until(lambda: not world.on_disk(block), 2 * ticker_module.TRIM_EVERY_S)


def test_a_drop_of_what_the_catalog_never_knew_is_given_again_too(world, client):
    opened = client.open("/a", 10)
    block = client.store(opened["grants"][0], 10)["block"]
    world.steps(1)
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    client.ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
    world.steps(40, 9.0)
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.until(lambda: not world.on_disk(block), 5.0)


def test_a_keeper_is_not_told_twice_to_drop_a_block(world, client):
    block = put(world, client, "/a")
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    client.remove("/a")
    world.steps(12, 5.0)
    keeper = world.keepers[1]
    orders = keeper.take()
    assert [order["blocks"] for order in orders] == [[block]]
    keeper.register()
    keeper.report()
    world.repairer.order_drops_of(1)
    assert keeper.take() == []


def test_drops_are_confirmed_only_by_a_success(world, client):
    block = put(world, client, "/a")
    world.keepers[1].is_deaf = True
    client.remove("/a")
    world.until(lambda: world.on_disk(block) == {1}, 30.0)
    order, = world.keepers[1].take()
    world.keepers[1].notify([{"kind": "order_done", "order": order["order"], "error": "disk_fault", "n": 0}])
    assert world.queries().drops(1, 9) == [block]


def test_a_large_tree_is_worked_off_in_bounded_steps(world, client, monkeypatch):
    monkeypatch.setattr(ticker_module, "COLLECT_BATCH", 2)
    client.ask(messages.MakeDirectory(path="/t", parents=False, op="mk"))
    for n in range(45):
        client.put(f"/t/{n}", copies=2)
    client.remove("/t", recursive=True)
    world.until(lambda: world.queries().n_detached() == 0)
    left, most = len(world.queries().trash(None, 100)), 0
    assert left == 45
    while left:
        world.steps(1, 1.0)
        now = len(world.queries().trash(None, 100))
        most, left = max(most, left - now), now
    assert 0 < most <= 20
    world.until(lambda: not any(keeper.blocks for keeper in world.keepers.values()))


def test_what_is_read_does_not_hold_up_the_rest_of_the_trash(world, client, monkeypatch):
    for n in range(6):
        put(world, client, f"/{n}")
    for n in range(3):
        client.download(f"/{n}")
    for n in range(6):
        client.remove(f"/{n}")
    world.until(lambda: len(world.queries().trash(None, 10)) == 3, 30.0)


def test_memory_of_readers_is_bounded(world, client, monkeypatch):
    monkeypatch.setattr(tracker_module, "MAX_READERS", 3)
    for version in range(10):
        world.tracker.reading(version, world.now + 100)
    assert [version for version in range(10) if world.tracker.is_read(version, world.now)] == [7, 8, 9]
    world.steps(10, 9.0)
    world.tracker.forget_readers(world.now + 100)
    assert not world.tracker._readers


def test_the_clock_on_the_wall_decides_nothing(world, client):
    block = put(world, client, "/a")
    world.tracker.wall = lambda: 5e9
    client.remove("/a")
    world.tracker.wall = lambda: 1.0
    world.steps(10)
    assert world.on_disk(block) == {1, 2, 3}
    world.until(lambda: not world.on_disk(block), 20.0)


def test_removed_while_it_is_copied(world, client):
    world.keepers[1].is_deaf = world.keepers[2].is_deaf = world.keepers[3].is_deaf = True
    client.put("/a")
    block, = world.blocks_of("/a")
    world.steps(2)
    source = next(keeper for keeper in world.keepers.values() if keeper.number in world.on_record(block))
    other = next(keeper for keeper in world.keepers.values() if keeper.number in world.on_record(block) and keeper is not source)
    orders = source.take() or other.take()
    client.remove("/a")
    world.steps(10, 3.0)
    assert world.queries().block(block) is None
    for order in orders:
        (source if order in source.seen_orders else other).do(order)
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.until(lambda: not world.on_disk(block), 30.0)
    world.steps(4)
    assert n_drops(world) == 0 and not world.repairer._running and not any(world.repairer._outgoing.values())
    assert world.status().under_replicated == 0


def test_download_orders_sources_and_frees_ports(world, client):
    put(world, client, "/a", MIB + 1)
    opened = client.download("/a")
    assert (opened["size"], opened["more"], len(opened["blocks"])) == (MIB + 1, False, 2)
    assert all(len(block["sources"]) == 3 for block in opened["blocks"])
    leases = world.tracker.live.n_leases()
    serials = list(world.tracker.live._leases)
    assert leases >= 2
    world.keepers[1].notify([{"kind": "transfer_done", "serials": serials[-2:]}])
    assert world.tracker.live.n_leases() == leases - 2


@pytest.mark.parametrize("path, refused", [("/none", "no_such_file"), ("/", "is_directory"), ("x", "bad_name")])
def test_download_refusals(world, client, path, refused):
    assert client.download(path)["refused"]["error"] == refused


def test_a_readers_complaint_leads_to_a_verify_order_only(world, client):
    block = put(world, client, "/a")
    liar = messages.ReplicaBad(block=block, keeper=world.keepers[1].id, reason="I say so")
    for _ in range(5):
        client.ask(liar)
    assert world.on_record(block) == {1, 2, 3} and world.n_orders("verify") == 1
    assert client.download("/a")["blocks"][0]["sources"][-1]["keeper"] == world.keepers[1].id  # tried last until it is checked
    world.steps(2)
    assert world.on_record(block) == {1, 2, 3} and not world.repairer.doubts._doubts
    world.keepers[1].damaged.add(block)
    client.ask(liar)
    world.until(lambda: world.on_record(block) == {2, 3}, 5.0, 0.1)
    world.keepers[1].damaged.clear()
    world.until(lambda: world.on_disk(block) == {1, 2, 3})


def test_complaints_about_nothing_fill_no_table(world, client):
    for n in range(20):
        client.ask(messages.ReplicaBad(block=f"{n:032x}", keeper=world.keepers[1].id, reason="no"))
    assert not world.repairer.doubts._doubts and world.n_orders("verify") == 0
    with pytest.raises(errors.NoSuchKeeper):
        client.ask(messages.ReplicaBad(block="a" * 32, keeper="b" * 32, reason="no"))


def test_a_complaint_is_checked_again_when_the_first_check_was_lost(world, client):
    block = put(world, client, "/a")
    world.keepers[1].is_deaf = True
    complaint = messages.ReplicaBad(block=block, keeper=world.keepers[1].id, reason="x")
    client.ask(complaint)
    world.steps(30, 9.0)
    assert world.n_orders("verify") == 0 and not world.repairer.doubts._doubts
    client.ask(complaint)
    assert world.n_orders("verify") == 1
