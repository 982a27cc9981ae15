"""Registration, block reports, notices and keepers' states, as the master's tables and catalog show them."""

import zlib

import pytest
from master_helpers import MIB, SAFEMODE_S, Client

from dfs_lib import errors
from dfs_lib.catalog import operations
from dfs_lib.wire import messages


@pytest.fixture
def world(make_world):
    return make_world(3)


@pytest.fixture
def client(world):
    return Client(world)


# -- registration -----------------------------------------------------------------------------------------------------
def test_a_keeper_registers_with_its_own_identity(world):
    keeper = world.keepers[1]
    keeper.id, true_id = "9" * 32, keeper.id
    register = messages.Register(keeper=true_id, incarnation="a" * 32, ports=[8000], labels={}, pids=[], used=0, free=1, n_blocks=0, epoch=0,
                                 software="dfs")
    with pytest.raises(errors.KeeperRefused, match="proved to be"):
        keeper.ask(register)


def test_a_clone_is_refused_while_the_first_lives_and_taken_when_it_is_gone(world):
    first = world.keepers[1]
    first.incarnation, old = "c" * 32, first.incarnation
    with pytest.raises(errors.KeeperRefused, match="copied"):
        first.register()
    first.incarnation = old
    first.register()  # the same process may register again
    first.kill()
    first.start()
    world.steps(2)
    assert world.state(1) == "live"


def test_the_control_connection_of_an_earlier_registration_is_refused(world):
    """A paused process that goes on after its clone took over speaks for nobody."""
    keeper = world.keepers[1]
    old = keeper.control
    keeper.register()
    keeper.report()
    assert keeper.control != old
    for message in (messages.Notify(events=[], used=0, free=0, n_blocks=0, sick="", pids=[]), messages.Farewell(),
                    messages.ReportBlocks(first=True, last=True, crc=0)):
        with pytest.raises(errors.KeeperRefused):
            keeper.ask(message, old)
    world.service.left(old)
    world.steps(2)
    assert world.state(1) == "live" and world.tracker.live.get(1).reported


def test_another_clusters_directory_and_a_higher_epoch_are_refused(world):
    keeper = world.keepers[1]
    keeper.cluster_id, ours = "d" * 32, keeper.cluster_id
    with pytest.raises(errors.WrongCluster):
        keeper.register()
    keeper.cluster_id, keeper.epoch = ours, world.tracker.epoch + 1
    with pytest.raises(errors.KeeperRefused, match="epoch"):
        keeper.register()


def test_who_has_not_registered_is_told_so(world):
    world.restart()
    for message in (messages.Notify(events=[], used=0, free=0, n_blocks=0, sick="", pids=[]), messages.AwaitOrders(wait_s=0)):
        with pytest.raises(errors.KeeperRefused):
            world.keepers[1].ask(message)


def test_a_keeper_may_move(world):
    keeper = world.keepers[2]
    keeper.kill()
    keeper.host = "elsewhere"
    keeper.start()
    world.steps(1)
    assert world.tracker.live.get(2).host == "elsewhere" and world.queries().keeper_of_id(keeper.id).host == "elsewhere"


def test_a_full_disk_of_the_master_does_not_shut_known_keepers_out(world, monkeypatch):
    def full(_operation):
        raise errors.NoRoom(size="the catalog's", detail="the master's disk is full")

    monkeypatch.setattr(world.database, "apply", full)
    world.keepers[1].register()
    with pytest.raises(errors.NoRoom):
        world.keeper()
    del world.keepers[4]
    monkeypatch.undo()


# -- block reports ----------------------------------------------------------------------------------------------------
def test_replicas_count_only_after_the_report(world, client):
    client.put("/a", copies=2)
    world.steps(4)
    holder = min(world.on_record(world.blocks_of("/a")[0]))
    keeper = world.keepers[holder]
    keeper.kill()
    world.steps(1)
    keeper.is_up, keeper.incarnation = True, "e" * 32
    keeper.register()
    assert holder not in world.tracker.live.counted()
    keeper.report(pages=3)
    world.steps(1)
    assert holder in world.tracker.live.counted()


def test_what_a_report_lacks_is_lost_and_made_again(world, client):
    client.put("/a", copies=2)
    block, = world.blocks_of("/a")
    holder = world.keepers[min(world.on_record(block))]
    holder.kill()
    holder.blocks.clear()
    holder.start()
    assert holder.number not in world.on_record(block)
    world.until(lambda: len(world.on_record(block)) == 2)
    assert world.on_record(block) == world.on_disk(block)
    assert world.status().counters["replicas_missing"] == 1


def test_a_replica_that_was_given_up_counts_again_when_it_returns(world, client):
    client.put("/a", copies=3)
    world.steps(8)
    block, = world.blocks_of("/a")
    world.database.apply(operations.LoseReplicas(keeper=1, blocks=[block], reason="test", at=1.0))
    world.keepers[1].kill()
    world.keepers[1].start()
    assert world.on_record(block) == {1, 2, 3}


def test_a_block_with_another_size_is_lost_and_verified(world, client):
    client.put("/a", copies=2)
    block, = world.blocks_of("/a")
    holder = world.keepers[min(world.on_record(block))]
    size, crcs = holder.blocks[block]
    holder.kill()
    holder.blocks[block] = (size - 1, crcs)
    holder.damaged.add(block)
    holder.start()
    assert holder.number not in world.on_record(block)
    assert [order["kind"] for order in holder.take()] == ["verify"]


def test_blocks_stored_while_the_report_was_on_its_way_stay(world, client):
    """The keeper listed its disk, then stored a block whose file was published, then sent the list."""
    keeper = world.keepers[1]
    keeper.kill()
    keeper.is_up, keeper.incarnation = True, "e" * 32
    keeper.register()
    listed = keeper.records()
    world.ticker.step()
    world.keepers[3].free = 0
    world.steps(1, orders=False)
    assert client.put("/a", copies=2)["refused"] is None
    block, = world.blocks_of("/a")
    assert world.on_record(block) == {1, 2}
    keeper.report(listed)
    assert world.on_record(block) == {1, 2} and world.status().counters.get("replicas_missing", 0) == 0


def test_a_report_of_an_earlier_session_does_not_vouch_for_the_next(world, client):
    """Between its pages the keeper registered again: the pages that come after on the old connection do not count."""
    keeper = world.keepers[1]
    keeper.register()
    old = keeper.control
    keeper.ask(messages.ReportBlocks(first=True, last=False, crc=0), old)
    keeper.register()
    with pytest.raises(errors.KeeperRefused):
        keeper.ask(messages.ReportBlocks(first=False, last=True, crc=0), old)
    assert not world.tracker.live.get(1).reported
    with pytest.raises(errors.OutOfTurn):
        keeper.ask(messages.ReportBlocks(first=False, last=True, crc=0))
    keeper.report()
    assert world.tracker.live.get(1).reported


def test_registering_again_during_the_comparison_keeps_what_is_stored_since(world, client, monkeypatch):
    keeper = world.keepers[1]
    keeper.register()
    session, queries = keeper.session, world.tracker.queries()
    compare = type(queries).compare_report

    def slowly(self, number, records):
        found = compare(self, number, records)
        if keeper.session == session:
            keeper.register()
            world.tracker.live.note_fresh((1,), "a" * 32)
        return found

    monkeypatch.setattr(type(queries), "compare_report", slowly)
    keeper.report()
    assert not world.tracker.live.get(1).reported
    assert world.tracker.live.is_fresh(1, keeper.session, "a" * 32)


@pytest.mark.parametrize("body", [b"x" * 23, b"x" * 25])
def test_half_a_record_is_refused(world, body):
    with pytest.raises(errors.BadMessage):
        world.keepers[1].report(body)


def test_unsorted_and_repeated_records_are_refused(world):
    keeper = world.keepers[1]
    record = (5).to_bytes(16, "big") + (1).to_bytes(8, "big")
    with pytest.raises(errors.BadMessage):
        keeper.ask(messages.ReportBlocks(first=True, last=True, crc=zlib.crc32(record * 2)), body=record * 2)


def test_an_altered_page_is_refused(world):
    record = (5).to_bytes(16, "big") + (1).to_bytes(8, "big")
    with pytest.raises(errors.BadMessage):
        world.keepers[1].ask(messages.ReportBlocks(first=True, last=True, crc=zlib.crc32(record) ^ 1), body=record)


def test_a_collection_during_the_comparison_breaks_nothing(world, client, monkeypatch):
    client.put("/a", copies=2)
    block, = world.blocks_of("/a")
    holder = world.keepers[min(world.on_record(block))]
    world.database.apply(operations.LoseReplicas(keeper=holder.number, blocks=[block], reason="test", at=1.0))
    queries = type(world.tracker.queries())
    known = queries.known

    def then_collected(self, blocks):
        found = known(self, blocks)
        client.remove("/a")
        world.database.apply(operations.CollectVersions(versions=[each.version for each in self.trash(None, 9)], at=1.0))
        return found

    monkeypatch.setattr(queries, "known", then_collected)
    holder.report()
    monkeypatch.undo()
    assert world.tracker.live.get(holder.number).reported


# -- notices ----------------------------------------------------------------------------------------------------------
def test_bad_replicas_are_forgotten_and_made_again(world, client):
    client.put("/a", copies=2)
    block, = world.blocks_of("/a")
    holder = world.keepers[min(world.on_record(block))]
    del holder.blocks[block]
    holder.notify([{"kind": "bad", "block": block, "reason": "bit rot"}])
    assert len(world.on_record(block)) == 1
    world.until(lambda: world.on_record(block) == world.on_disk(block) and len(world.on_record(block)) == 2)
    report = client.ask(messages.Scrub(keepers=[], start=False))
    assert [(one["path"], one["block"], one["reason"]) for one in report.bad] == [("/a", block, "bit rot")]


def test_one_event_that_is_refused_does_not_take_the_others_with_it(world, client, monkeypatch):
    client.put("/a", copies=2)
    block, = world.blocks_of("/a")
    keeper = world.keepers[min(world.on_record(block))]
    apply = world.database.apply

    def full(operation):
        if isinstance(operation, operations.LoseReplicas):
            raise errors.NoRoom(size=1, detail="full")
        return apply(operation)

    monkeypatch.setattr(world.database, "apply", full)
    keeper.notify([{"kind": "bad", "block": block, "reason": "x"}, {"kind": "scrubbed", "order": 5, "n": 3, "size": 30}])
    assert world.status().counters["blocks_verified"] == 3 and world.status().counters["events_refused"] == 1


def test_a_drop_that_hits_a_recorded_replica_is_noticed(world, client):
    client.put("/a", copies=3)
    world.steps(8)
    block, = world.blocks_of("/a")
    del world.keepers[1].blocks[block]
    world.keepers[1].notify([{"kind": "dropped", "block": block}])
    assert world.on_record(block) == {2, 3}
    world.until(lambda: world.on_disk(block) == world.on_record(block) == {1, 2, 3})


def test_events_of_one_notice_share_a_commit(world, client):
    stored = []
    for n in range(20):
        client.put(f"/{n}", copies=3)
        stored += world.blocks_of(f"/{n}")
    world.steps(1, orders=False)
    before = world.database.n_commits
    spare = [(block, *({1, 2, 3} - world.on_record(block))) for block in stored]
    for number, keeper in world.keepers.items():
        for block, missing in spare:
            if missing == number:
                size, crcs = next(other.blocks[block] for other in world.keepers.values() if block in other.blocks)
                keeper.blocks[block] = (size, crcs)
                keeper.events.append({"kind": "stored", "stored": [[block, size, crcs.hex()]]})
        keeper.notify()
    assert all(world.on_record(block) == {1, 2, 3} for block in stored)
    assert world.database.n_commits - before <= 3


# -- states -----------------------------------------------------------------------------------------------------------
def test_live_suspect_dead_and_back_by_heartbeats(world):
    world.keepers[1].vanish()
    seen = []
    for _ in range(60):
        world.steps(1)
        if not seen or seen[-1] != world.state(1):
            seen.append(world.state(1))
    assert seen == ["live", "suspect", "dead"]
    assert 1 not in world.tracker.live.counted()
    world.keepers[1].is_up = True  # it was only paused: its notices are refused, so it registers anew
    world.steps(3)
    assert world.state(1) == "live" and world.tracker.live.get(1).reported


def test_a_closed_connection_makes_suspect_and_a_refusal_dead(world):
    keeper = world.keepers[1]
    keeper.kill(refuses=False)
    world.steps(1)
    assert world.state(1) == "suspect" and 1 in world.tracker.live.counted()
    world.steps(8)
    assert 1 in world.probes
    world.tracker.live.probed(1, True)
    world.steps(1)
    assert world.state(1) == "dead"


def test_a_refusal_that_arrives_after_the_return_changes_nothing(world):
    keeper = world.keepers[1]
    keeper.kill(refuses=False)
    world.steps(1)
    keeper.start()
    world.tracker.live.probed(1, True)
    world.service.left(keeper.control)
    world.steps(1, orders=False)
    assert world.state(1) == "suspect"


def test_a_keeper_whose_datagrams_are_lost_stays_live_and_says_why(world):
    keeper, session = world.keepers[1], world.keepers[1].session
    for _ in range(160):
        world.now += 0.25
        keeper.notify()
        world.ticker.step()
        assert world.state(1) == "live" and keeper.session == session
    assert "UDP" in world.tracker.live.get(1).reason
    keeper.beat()
    world.ticker.step()
    assert world.tracker.live.get(1).reason == "heard lately"


def test_a_connection_that_carries_nothing_any_more_is_as_good_as_none(world):
    keeper, seen = world.keepers[1], []
    for _ in range(100):
        world.now += 0.25
        keeper.beat()
        world.ticker.step()
        seen += [] if seen and seen[-1] == world.state(1) else [world.state(1)]
    assert seen == ["live", "suspect", "dead"]


def test_a_keeper_that_waits_for_the_masters_answer_is_not_late(world):
    keeper = world.keepers[1]
    with world.tracker.live.hearing(1, keeper.session, world.tracker.clock):
        for _ in range(100):
            world.now += 0.25
            world.ticker.step()
            assert world.state(1) == "live"
    world.now += world.tracker.settings.dead_after
    world.ticker.step()
    assert world.state(1) == "dead"


def test_what_happens_to_a_keeper_stirs_the_ticker(world):
    keeper, stirred = world.keepers[1], world.tracker.stirred
    stirred.clear()
    keeper.kill(refuses=False)
    assert stirred.is_set()
    stirred.clear()
    keeper.start()
    assert stirred.is_set()


def test_heartbeats_without_a_connection_are_not_enough(world):
    keeper = world.keepers[1]
    world.service.left(keeper.control)
    for _ in range(50):
        world.now += 0.25
        keeper.beat()
        world.ticker.step()
    assert world.state(1) == "dead"


def test_repeated_late_and_foreign_heartbeats_are_counted_and_dropped(world):
    keeper = world.keepers[1]
    number = keeper.beat_number
    assert keeper.beat(number + 10)
    assert not keeper.beat(number + 10) and not keeper.beat(number + 9) and not keeper.beat(number + 11, session="f" * 16)
    assert world.status().counters["heartbeats_stale"] == 3


def test_a_farewell_is_remembered_across_restarts(world):
    keeper = world.keepers[1]
    keeper.ask(messages.Farewell())
    keeper.kill()
    assert world.tracker.live.clean_stopped() == {1}
    world.restart()
    assert world.tracker.live.clean_stopped() == {1}
    (told,) = [each for each in world.status().keepers if each["name"] == "k1"]
    assert told["stopped"] and told["state"] == "dead"  # four states on the wire, whatever people read
    keeper.start()
    assert world.tracker.live.clean_stopped() == set()
    assert not any(each["stopped"] for each in world.status().keepers if each["name"] == "k1")
    assert not world.queries().keeper_of_id(keeper.id).clean_stop


# -- safemode ---------------------------------------------------------------------------------------------------------
def test_safemode_ends_when_all_have_reported(world, client):
    client.put("/a")
    world.restart()
    assert "k1" in world.status().safemode
    assert client.download("/a")["refused"] is None
    world.steps(1)
    assert world.status().safemode == ""


def test_safemode_ends_by_time_when_one_stays_away(world, client):
    world.restart()
    world.keepers[1].vanish()
    world.steps(4)
    assert "k1" in world.status().safemode
    world.steps(int(SAFEMODE_S), 1.0)
    assert world.status().safemode == ""


def test_nothing_is_repaired_or_deleted_in_safemode(make_world):
    world = make_world(4, trash_grace=0.0, repair_grace=0.0)
    client = Client(world)
    client.put("/a", copies=2)
    client.put("/b", copies=2)
    block, = world.blocks_of("/a")
    client.remove("/b")
    world.restart()
    for number in world.on_record(block):
        world.keepers[number].vanish()
        break
    world.steps(8)
    assert world.status().safemode and not any(keeper.seen_orders for keeper in world.keepers.values())
    world.until(lambda: len(world.on_record(block) & world.tracker.live.counted()) == 2, SAFEMODE_S + 10)
    world.until(lambda: len(world.queries().trash(None, 9)) == 0)


def test_drops_that_wait_are_ordered_when_safemode_is_over(world, client):
    client.put("/a", copies=2)
    block, = world.blocks_of("/a")
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    client.remove("/a")
    world.steps(20, 9.0)
    world.restart()
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.keepers[3].vanish()
    world.steps(4)
    holders = world.on_disk(block)
    assert holders - {3}
    world.until(lambda: not world.on_disk(block) - {3}, SAFEMODE_S + 5)


def test_status_counts_and_names(world, client):
    client.put("/a", 2 * MIB + 1)
    client.ask(messages.MakeDirectory(path="/d", parents=False, op="mk"))
    world.until(lambda: world.status().under_replicated == 0)
    status = world.status()
    assert (status.files, status.directories, status.bytes, status.missing, status.uploads) == (1, 1, 2 * MIB + 1, 0, 0)
    assert [(k["name"], k["state"], k["blocks"]) for k in status.keepers] == [("k1", "live", 3), ("k2", "live", 3), ("k3", "live", 3)]
    assert status.counters["replicas_made"] == 3 and status.counters["uploads_committed"] == 1


# -- what a scrub by itself tells ---------------------------------------------------------------------------------------
def test_a_scrub_fills_in_the_sum_of_whole_files_and_a_difference_is_an_alarm(world, client):
    client.put("/a", copies=2)
    client.put("/b", size=3 * MIB)
    block, = world.blocks_of("/a")
    parts = world.blocks_of("/b")
    keeper = world.keepers[min(world.on_record(block))]

    def scrubbed(which, sha256):
        keeper.notify([{"kind": "scrubbed", "block": which, "n": 1, "size": 10, "sha256": sha256}])

    def known(path):
        return world.queries().version(world.queries().entry(path).version).sha256

    scrubbed(block, "ab" * 32)
    scrubbed(parts[0], "cd" * 32)  # somebody's mistake: a part is not the file
    assert known("/a") == "ab" * 32 and known("/b") is None
    counters = world.status().counters
    assert (counters["sums_filled_in"], counters["blocks_scrubbed"]) == (1, 2) and "blocks_verified" not in counters
    scrubbed(block, "ef" * 32)
    assert known("/a") == "ab" * 32 and ["/a" in alarm for alarm in world.status().alarms] == [True]
    scrubbed(block, "ab" * 32)
    assert world.status().alarms == []


def test_a_block_that_goes_between_two_inventories_is_damage_and_made_again(world, client):
    client.put("/a", copies=2)
    world.steps(8)
    block, = world.blocks_of("/a")
    keeper = world.keepers[min(world.on_record(block))]
    del keeper.blocks[block]
    keeper.report()
    assert [one["path"] for one in world.repairer.doubts.damage()] == ["/a"]
    world.steps(12)
    assert len(world.on_record(block)) == 2
