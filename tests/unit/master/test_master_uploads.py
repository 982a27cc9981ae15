"""Uploads as the master sees them: grants, receipts, commits, and everything that can come between."""

import itertools

import pytest
from master_helpers import MIB, Client, code

from dfs_lib import errors
from dfs_lib.master import uploads as uploads_module
from dfs_lib.master.transfers import LOT_FILE, LOT_FILES, LOT_S
from dfs_lib.wire import messages


@pytest.fixture
def world(make_world):
    return make_world(3)


@pytest.fixture
def client(world):
    return Client(world)


# -- the straight story -----------------------------------------------------------------------------------------------
def test_open_grants_chains_of_safe_keepers_and_commit_publishes(world, client):
    opened = client.open("/a", 2 * MIB + 5)
    assert [grant["index"] for grant in opened["grants"]] == [0, 1, 2]
    assert all(len({hop["keeper"] for hop in grant["chain"]}) == 2 for grant in opened["grants"])
    stored = [client.store(grant, size) for grant, size in zip(opened["grants"], (MIB, MIB, 5))]
    assert client.record(opened["upload"], stored[:2]) == []
    result = client.commit(opened["upload"], 2 * MIB + 5, stored[2:])
    assert (result["refused"], result["path"], result["size"], result["copies_durable"]) == (None, "/a", 2 * MIB + 5, 2)
    assert result["version"] == opened["version"]
    assert world.blocks_of("/a") == [one["block"] for one in stored]
    assert world.status().uploads == 0 and len(world.tracker.uploads._of_block) == 0


def test_an_empty_file_needs_no_block(world, client):
    opened = client.open("/empty", 0)
    assert opened["grants"] == []
    assert client.commit(opened["upload"], 0)["refused"] is None
    assert world.queries().entry("/empty").size == 0


def test_a_pipe_gets_grants_without_a_size(world, client):
    opened = client.open("/pipe", None)
    stored = [client.store(opened["grants"][0], MIB), client.store(opened["grants"][1], 7)]
    assert client.commit(opened["upload"], MIB + 7, stored)["size"] == MIB + 7


def test_keepers_that_told_the_master_need_no_receipt_from_the_client(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    world.steps(1)
    assert client.commit(opened["upload"], 10, [])["refused"] is None
    assert world.blocks_of("/a") == [stored["block"]]


def test_ports_are_leased_with_a_grant_and_freed_at_the_commit(world, client):
    opened = client.open("/a", 10)
    assert world.tracker.live.n_leases() == 2
    client.commit(opened["upload"], 10, [client.store(opened["grants"][0], 10)])
    assert world.tracker.live.n_leases() == 0


def chain(opened):
    return [hop["keeper"] for hop in opened["grants"][0]["chain"]]


def test_small_files_that_come_one_by_one_on_a_connection_share_a_chain_for_a_while(make_world):
    world = make_world(6)
    client, first = Client(world), None
    chains = []
    for n in range(3 * LOT_FILES):
        opened = client.open(f"/{n}", 10)
        chains.append(chain(opened))
        ports = [hop["ports"][0] for hop in opened["grants"][0]["chain"]]
        assert ports == (first := first or ports)  # nothing is under way: the same process again
        client.commit(opened["upload"], 10, [client.store(opened["grants"][0], 10)])
    runs = [list(run) for _chain, run in itertools.groupby(chains)]
    assert len(runs) > 1 and all(len(run) % LOT_FILES == 0 for run in runs)
    # Others' connections, large files and files that want other numbers of copies do not go with them.
    assert len({tuple(chain(Client(world, f"other-{n}").open(f"/o{n}", 10))) for n in range(30)}) > 5
    assert len({tuple(chain(client.open(f"/large{n}", LOT_FILE + 1))) for n in range(30)}) > 5
    assert len(chain(client.open("/single", 10, safe=1))) == 1


@pytest.mark.parametrize("event", ["dead", "suspect", "draining", "full", "regrant", "later", "reconnected"])
def test_a_shared_chain_ends_when_something_happens(make_world, event):
    world = make_world(12)
    client = Client(world)
    opened = client.open("/0", 10)
    before, number = chain(opened), int(chain(opened)[0], 16)
    assert chain(client.open("/1", 10)) == before
    keeper = world.tracker.live.get(number)
    if event in ("dead", "suspect"):
        keeper.state = event
    elif event == "draining":
        world.tracker.live.set_draining(number, True)
    elif event == "full":
        keeper.free = 5
    elif event == "regrant":
        client.ask(messages.RegrantBlock(upload=opened["upload"], index=0, n=1, exclude=before[:1]))
    elif event == "later":
        world.now += LOT_S
    else:
        client.gone()
    world.tracker.live._changed()
    after = chain(client.open("/2", 10))
    assert after != before and (event in ("regrant", "later", "reconnected") or before[0] not in after)


def test_port_leases_lapse_by_themselves_when_the_client_says_nothing(world, client):
    client.open("/a", 10)
    world.steps(4, 20.0)
    assert world.tracker.live.n_leases() == 0
    assert world.status().counters["leases_lapsed"] == 2
    assert not world.tracker.live._lease_ends


# -- refusals before bytes travel -------------------------------------------------------------------------------------
@pytest.mark.parametrize("path, options, refused", [
    ("/dir", {}, "is_directory"), ("/", {}, "is_directory"), ("/file", {"no_clobber": True}, "exists"), ("/none/a", {}, "no_such_file"),
    ("/file/a", {}, "not_directory"), ("/file/a/b", {"parents": True}, "not_directory"), ("relative", {}, "bad_name"),
    ("/a/../b", {}, "bad_name"), ("/ok", {"safe": 3, "copies": 16}, None), ("/four", {"safe": 4, "copies": 4}, "too_few_keepers"),
    ("/one", {"copies": 1}, None), ("/more", {"safe": 4}, "too_few_keepers"), ("/less", {"safe": 3, "copies": 2}, "usage")])
def test_open_refuses_what_commit_would(world, client, path, options, refused):
    client.put("/file")
    client.ask(messages.MakeDirectory(path="/dir", parents=False, op="mk"))
    opened = client.open(path, 10, **options)
    assert (opened["refused"] and code(opened)) == refused
    assert len(world.tracker.uploads) == (refused is None)


def test_one_refused_file_does_not_take_the_others_of_the_message(world, client):
    asked = {"size": 10, "mtime_at": 1.0, "no_clobber": False, "parents": False, "resume": True}
    results = client.ask(messages.OpenUpload(uploads=[{"path": path, **asked} for path in ("/a", "nope", "/b")])).results
    assert [each["refused"] and code(each) for each in results] == [None, "bad_name", None]


def test_no_room_is_refused_and_leaves_nothing(make_world):
    world = make_world(0)
    for _ in range(3):
        world.keeper(free=5 * MIB)
    world.steps(2)
    opened = Client(world).open("/big", 20 * MIB)
    assert code(opened) == "no_room"
    assert len(world.tracker.uploads) == 0 and world.tracker.live.n_leases() == 0 and not world.tracker.uploads._of_block


def test_a_resumed_upload_that_finds_no_room_keeps_what_it_has(world, client):
    opened = client.open("/a", 20 * MIB)
    client.record(opened["upload"], [client.store(opened["grants"][0], MIB)])
    client.gone()
    for keeper in world.keepers.values():
        keeper.free = 0
    world.steps(2)
    assert code(Client(world, "c2").open("/a", 20 * MIB)) == "no_room"
    for keeper in world.keepers.values():
        keeper.free = 10**12
    world.steps(2)
    assert Client(world, "c3").open("/a", 20 * MIB)["n_stored"] == 1


def test_draining_and_sick_keepers_are_not_counted(world, client):
    world.keepers[1].sick = "the disk failed"
    world.steps(1)
    assert client.open("/a", 10, safe=3)["refused"]["error"] == "too_few_keepers"
    opened = client.open("/b", 10)
    assert {hop["keeper"] for hop in opened["grants"][0]["chain"]} == {world.keepers[2].id, world.keepers[3].id}


def test_block_beyond_the_end_is_refused(world, client):
    opened = client.open("/a", 10)
    with pytest.raises(errors.BadMessage):
        client.ask(messages.GrantBlocks(upload=opened["upload"], indexes=[1]))


# -- too few keepers: for a moment, or for good --------------------------------------------------------------------------
def test_a_late_keeper_is_waited_for_and_one_that_is_gone_is_not(make_world):
    world = make_world(2)
    client = Client(world)
    opened = client.open("/large", None)
    world.keepers[2].vanish()
    world.until(lambda: world.state(2) == "suspect")
    refused = client.open("/new", 10)["refused"]
    assert refused["error"] == "not_ready" and "1 of 2 keepers" in refused["message"] and "k2: " in refused["message"]
    assert code(client.open("/three", 10, safe=3)) == "too_few_keepers", "those that may come back are not enough either"
    world.until(lambda: world.state(2) == "dead")
    assert code(client.open("/new", 10)) == "not_ready", "a busy machine keeps heartbeats back for longer than that"
    with pytest.raises(errors.NotReady):
        client.ask(messages.GrantBlocks(upload=opened["upload"], indexes=[5]))
    world.steps(4, world.settings.dead_after / 4)
    assert code(client.open("/new", 10)) == "too_few_keepers"
    with pytest.raises(errors.TooFewKeepers):
        client.ask(messages.GrantBlocks(upload=opened["upload"], indexes=[5]))
    world.keepers[2].start()
    world.steps(2)
    assert client.open("/new", 10)["refused"] is None
    assert client.ask(messages.GrantBlocks(upload=opened["upload"], indexes=[5])).grants


@pytest.mark.parametrize("how", ("its host refuses", "goodbye", "drained", "sick"))
def test_nobody_waits_for_a_keeper_of_which_it_is_known_that_it_takes_nothing(make_world, how):
    world = make_world(2)
    keeper, client = world.keepers[2], Client(world)
    if how == "its host refuses":
        keeper.kill()
    elif how == "goodbye":
        keeper.ask(messages.Farewell())
        keeper.kill(refuses=False)
    elif how == "drained":
        world.ask(messages.Drain(keepers=[keeper.id], draining=True))
    else:
        keeper.sick = "the disk failed"
    world.steps(1)
    assert code(client.open("/new", 10)) == "too_few_keepers"


def test_the_keeper_of_a_block_half_stored_is_waited_for(make_world):
    """The other keeper has gone in the middle of it: the client that asks for another place hears to wait, not that there is none."""
    world = make_world(2)
    client = Client(world)
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10, keepers=1)
    client.record(opened["upload"], [stored])
    other, = (keeper for keeper in world.keepers.values() if keeper.id != stored["receipts"][0]["keeper"])
    other.vanish()
    world.until(lambda: world.state(other.number) == "dead")
    again = messages.RegrantBlock(upload=opened["upload"], index=0, n=1, exclude=[other.id])
    with pytest.raises(errors.NotReady):
        client.ask(again)
    other.session = None
    other.start()
    world.steps(2)
    assert [hop["keeper"] for hop in client.ask(again).grants[0]["chain"]] == [other.id]


def test_after_a_restart_the_known_keepers_are_waited_for_and_no_more_than_those(make_world):
    world = make_world(3)
    client = Client(world)
    for keeper in world.keepers.values():
        keeper.ask(messages.Farewell())  # all was stopped in good order: they come back all the same
    world.restart()
    assert code(client.open("/new", 10, safe=3)) == "not_ready"
    assert code(client.open("/new", 10, safe=4)) == "too_few_keepers", "there never were so many"
    world.keepers[3].vanish()
    world.steps(2)
    assert client.open("/new", 10, safe=2)["refused"] is None
    assert code(client.open("/new", 10, safe=3)) == "not_ready"
    world.until(lambda: not world.status().safemode)
    assert code(client.open("/new", 10, safe=3)) == "too_few_keepers"


# -- grants -----------------------------------------------------------------------------------------------------------
def test_granting_again_gives_a_new_id_and_drops_what_the_old_one_stored(world, client):
    opened = client.open("/a", 10)
    old = client.store(opened["grants"][0], 10)
    client.record(opened["upload"], [old])
    grant, = client.ask(messages.GrantBlocks(upload=opened["upload"], indexes=[0])).grants
    assert grant["block"] != old["block"]
    assert client.record(opened["upload"], [old]) == [0]
    world.steps(2)
    assert world.on_disk(old["block"]) == set() and world.status().strays == 0
    assert client.commit(opened["upload"], 10, [client.store(grant, 10)])["refused"] is None
    assert world.blocks_of("/a") == [grant["block"]]


def test_regrant_keeps_the_id_and_leaves_out_who_failed_and_who_has_it(world, client):
    opened = client.open("/a", 10)
    grant = opened["grants"][0]
    stored = client.store(grant, 10, keepers=1)
    client.record(opened["upload"], [stored])
    failed = grant["chain"][1]["keeper"]
    again, = client.ask(messages.RegrantBlock(upload=opened["upload"], index=0, n=1, exclude=[failed])).grants
    assert again["block"] == grant["block"]
    assert {hop["keeper"] for hop in again["chain"]} == {keeper.id for keeper in world.keepers.values()} - {failed, grant["chain"][0]["keeper"]}
    more = client.store(again, 10)
    assert client.commit(opened["upload"], 10, [more])["copies_durable"] == 2


def test_regrant_turns_to_a_keeper_that_failed_rather_than_to_nobody(world, client):
    opened = client.open("/a", 10)
    grant = opened["grants"][0]
    client.record(opened["upload"], [client.store(grant, 10, keepers=1)])
    holder = grant["chain"][0]["keeper"]
    others = [keeper for keeper in world.keepers.values() if keeper.id != holder]
    others[0].free = 0
    world.steps(1)
    again, = client.ask(messages.RegrantBlock(upload=opened["upload"], index=0, n=1, exclude=[others[1].id])).grants
    assert [hop["keeper"] for hop in again["chain"]] == [others[1].id]


def test_unknown_and_foreign_uploads_are_refused(world, client):
    opened = client.open("/a", 10)
    added = world.ask(messages.AddUser(name="mallory", role="writer", home="/", nonce="0" * 64, op="m"))
    for asker, upload in ((client, "f" * 32), (Client(world, "c2", identity=added.identity), opened["upload"])):
        for message in (messages.GrantBlocks(upload=upload, indexes=[0]), messages.RegrantBlock(upload=upload, index=0, n=1, exclude=[]),
                        messages.ListStored(upload=upload, first=0), messages.RecordBlocks(upload=upload, blocks=[]),
                        messages.AbandonUpload(upload=upload, keep=False)):
            with pytest.raises(errors.LeaseLapsed):
                asker.ask(message)
        assert code(asker.commit(upload, 10)) == "lease_lapsed"


# -- receipts ---------------------------------------------------------------------------------------------------------
def test_forged_receipts_count_for_nothing(world, client):
    opened = client.open("/a", 10)
    grant = opened["grants"][0]
    forged = {"index": 0, "block": grant["block"], "size": 10, "crcs": "00000001",
              "receipts": [{"keeper": hop["keeper"], "proof": "ab" * 16} for hop in grant["chain"]]}
    assert client.record(opened["upload"], [forged]) == [0]
    result = client.commit(opened["upload"], 10, [forged])
    assert (result["rejected"], result["version"]) == ([0], None)
    with pytest.raises(errors.NoSuchFile):
        world.queries().entry("/a")


def test_a_receipt_binds_block_keeper_size_and_checksums(world, client):
    opened = client.open("/a", 20)
    other = client.open("/b", 20)
    good = client.store(opened["grants"][0], 20)
    for change in ({"size": 19}, {"crcs": "00" * 4}, {"crcs": good["crcs"] * 2}, {"block": other["grants"][0]["block"]},
                   {"receipts": [{**one, "keeper": "0" * 32} for one in good["receipts"]]},
                   {"receipts": [{"keeper": good["receipts"][0]["keeper"], "proof": good["receipts"][1]["proof"]}]}, {"receipts": []}):
        assert client.record(opened["upload"], [{**good, **change}]) == [0], change
    assert client.record(opened["upload"], [good]) == []


def test_a_commit_with_too_few_receipts_says_which_blocks_to_put_again(world, client):
    opened = client.open("/a", 2 * MIB)
    first, second = (client.store(grant, MIB, keepers=n) for grant, n in zip(opened["grants"], (2, 1)))
    for keeper in world.keepers.values():
        keeper.events.clear()
    assert client.commit(opened["upload"], 2 * MIB, [first, second])["rejected"] == [1]
    assert client.commit(opened["upload"], 2 * MIB, [client.store(opened["grants"][1], MIB)])["refused"] is None


def test_a_commit_of_an_absurd_size_costs_nothing(world, client):
    opened = client.open("/pipe", None)
    result = client.commit(opened["upload"], 1 << 50)
    assert len(result["rejected"]) == 256


def test_a_wrong_size_is_refused_and_takes_no_other_commit_with_it(world, client):
    one, two = client.open("/a", 10), client.open("/b", 10)
    stored = client.store(two["grants"][0], 10)
    results = client.ask(messages.CommitUpload(commits=[{"upload": one["upload"], "size": 11, "blocks": []},
                                                        {"upload": two["upload"], "size": 10, "blocks": [stored]}])).results
    assert [bool(each["refused"]) for each in results] == [True, False]
    assert not any(upload.n_committing for upload in world.tracker.uploads._uploads.values())


# -- commits, late and twice ------------------------------------------------------------------------------------------
def test_commit_twice_gives_the_same_answer_and_no_second_version(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    first = client.commit(opened["upload"], 10, [stored])
    client.put("/a", 11)
    second = client.commit(opened["upload"], 10, [stored])
    assert second["version"] == first["version"] and second["refused"] is None
    assert world.queries().entry("/a").size == 11


def test_commit_twice_in_one_message(world, client):
    opened = client.open("/a", 10)
    commit = {"upload": opened["upload"], "size": 10, "blocks": [client.store(opened["grants"][0], 10)]}
    results = client.ask(messages.CommitUpload(commits=[commit, commit])).results
    assert [each["version"] for each in results] == [opened["version"]] * 2
    world.steps(8)
    assert world.on_disk(world.blocks_of("/a")[0]) == {1, 2, 3}


def test_the_answer_is_remembered_across_a_restart(world, client):
    opened = client.open("/a", 10)
    first = client.commit(opened["upload"], 10, [client.store(opened["grants"][0], 10)])
    world.restart()
    again = client.commit(opened["upload"], 10)
    assert (again["refused"], again["version"], again["path"], again["size"]) == (None, first["version"], "/a", 10)


def test_commit_after_the_lease_lapsed_succeeds_while_nothing_was_collected(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    world.steps(5, 8.0)
    assert client.commit(opened["upload"], 10, [stored])["refused"] is None


def test_commit_after_the_collection_is_refused_and_every_block_is_dropped(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    world.steps(45, 9.0)
    assert world.on_disk(stored["block"]) == set() and len(world.tracker.uploads) == 0
    assert code(client.commit(opened["upload"], 10, [stored])) == "lease_lapsed"
    reopened = client.open("/a", 10)
    assert client.record(reopened["upload"], [stored]) == [0]


def test_a_refused_commit_drops_its_blocks(world, client):
    opened = client.open("/a", 10, no_clobber=True)
    stored = client.store(opened["grants"][0], 10)
    other = Client(world, "c2").put("/a", 11)
    assert other["refused"] is None
    assert code(client.commit(opened["upload"], 10, [stored])) == "exists"
    world.steps(2)
    assert world.on_disk(stored["block"]) == set()


def test_a_full_disk_of_the_master_keeps_the_upload_for_the_next_try(world, client, monkeypatch):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    apply_many = world.database.apply_many
    monkeypatch.setattr(world.database, "apply_many", lambda operations: [errors.NoRoom(size=1, detail="full") for _ in operations])
    assert code(client.commit(opened["upload"], 10, [stored])) == "no_room"
    monkeypatch.setattr(world.database, "apply_many", apply_many)
    assert client.commit(opened["upload"], 10)["refused"] is None


def test_a_bug_in_the_commit_leaves_no_upload_that_nobody_can_collect(world, client, monkeypatch):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    monkeypatch.setattr(world.database, "apply_many", lambda operations: [ZeroDivisionError() for _ in operations])
    with pytest.raises(ZeroDivisionError):
        client.commit(opened["upload"], 10, [stored])
    monkeypatch.undo()
    world.steps(45, 9.0)
    assert len(world.tracker.uploads) == 0


@pytest.mark.parametrize("rival", ["abandon", "collect", "grant"])
def test_what_is_being_committed_is_not_dropped_by_anybody(world, client, monkeypatch, rival):
    """The client's time-out ends while the master's disk is slow: its AbandonUpload comes on another connection."""
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    apply_many = world.database.apply_many

    def slowly(operations):
        if rival == "abandon":
            Client(world, "c2").ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
        elif rival == "grant":
            Client(world, "c2").ask(messages.GrantBlocks(upload=opened["upload"], indexes=[0]))
        else:
            world.service.left("c1")
            world.steps(45, 9.0, orders=False)
        assert world.n_orders("drop") == 0
        return apply_many(operations)

    monkeypatch.setattr(world.database, "apply_many", slowly)
    assert client.commit(opened["upload"], 10, [stored])["refused"] is None
    monkeypatch.undo()
    world.steps(20)
    assert world.on_disk(stored["block"]) == {1, 2, 3} == world.on_record(stored["block"])


def test_a_replica_that_goes_bad_during_the_commit_is_not_on_record(world, client, monkeypatch):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    world.steps(1)
    apply_many, bad = world.database.apply_many, world.keepers[int(stored["receipts"][0]["keeper"], 16)]

    def slowly(operations):
        del bad.blocks[stored["block"]]
        bad.notify([{"kind": "bad", "block": stored["block"], "reason": "bit rot"}])
        return apply_many(operations)

    monkeypatch.setattr(world.database, "apply_many", slowly)
    result = client.commit(opened["upload"], 10)
    monkeypatch.undo()
    assert result["copies_durable"] == 1 and bad.number not in world.on_record(stored["block"])
    world.steps(20)
    assert world.on_record(stored["block"]) == world.on_disk(stored["block"]) == {1, 2, 3}


def test_a_block_that_went_bad_before_the_commit_is_put_again(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    client.record(opened["upload"], [stored])
    bad = world.keepers[int(stored["receipts"][0]["keeper"], 16)]
    bad.notify([{"kind": "bad", "block": stored["block"], "reason": "bit rot"}])
    assert client.commit(opened["upload"], 10)["rejected"] == [0]


# -- versions ---------------------------------------------------------------------------------------------------------
def test_a_client_cannot_choose_a_version_that_is_or_will_be_anothers(world, client):
    first = client.put("/a")
    epoch = world.tracker.epoch
    assert client.open("/b", 10, version=first["version"])["version"] != first["version"]
    assert client.open("/c", 10, version=(epoch << 32) + 1000)["version"] != (epoch << 32) + 1000
    world.restart()
    world.steps(2)
    old = (epoch << 32) + 77
    assert client.open("/d", 10, version=first["version"])["version"] != first["version"]
    assert client.open("/e", 10, version=old)["version"] == old
    assert Client(world, "c2").open("/f", 10, version=old)["version"] != old


@pytest.mark.parametrize("size", [0, 5, 1_500_000, 2 << 30])
def test_blocks_of_an_odd_size_are_refused(world, client, size):
    refused = client.open("/odd", 10, block_size=size)["refused"]
    assert refused["error"] == "usage" and "multiple of 1 MiB" in refused["message"] and not world.tracker.live.n_leases()


# -- interrupted and resumed ------------------------------------------------------------------------------------------
def test_a_broken_upload_is_resumed_by_path_and_size(world, client):
    opened = client.open("/a", 3 * MIB)
    stored = [client.store(grant, MIB) for grant in opened["grants"][:2]]
    client.record(opened["upload"], stored)
    client.gone()
    other = Client(world, "c2")
    again = other.open("/a", 3 * MIB)
    assert (again["n_stored"], again["version"]) == (2, opened["version"])
    assert [grant["index"] for grant in again["grants"]] == [2]
    listed = other.ask(messages.ListStored(upload=again["upload"], first=0)).blocks
    assert [one["block"] for one in listed] == [one["block"] for one in stored]
    assert all(len(one["receipts"]) == 2 for one in listed)
    assert code(client.commit(opened["upload"], 3 * MIB)) == "lease_lapsed"
    assert other.commit(again["upload"], 3 * MIB, [other.store(again["grants"][0], MIB)])["refused"] is None
    assert world.tracker.live.n_leases() == 0


@pytest.mark.parametrize("path, size, options, who", [("/b", 3 * MIB, {}, "admin"), ("/a", 2 * MIB, {}, "admin"), ("/a", 3 * MIB, {}, "bob"),
                                                      ("/a", 3 * MIB, {"block_size": 2 * MIB}, "admin"), ("/a", 3 * MIB, {"resume": False}, "admin")])
def test_another_upload_takes_nothing_over(world, client, path, size, options, who):
    opened = client.open("/a", 3 * MIB)
    client.record(opened["upload"], [client.store(opened["grants"][0], MIB)])
    client.gone()
    if who != "admin":
        who = world.ask(messages.AddUser(name=who, role="writer", home="/", nonce="0" * 64, op="u")).identity
    assert Client(world, "c2", identity=who).open(path, size, **options)["n_stored"] == 0
    assert Client(world, "c3").open("/a", 3 * MIB)["n_stored"] == 1


@pytest.mark.parametrize("mark, again, goes_on", [
    ("mtime 1", "mtime 1", True), ("mtime 1", "mtime 2", False), ("mtime 1", "", False), ("", "mtime 1", False), ("", "", True),
    (None, "", False), (None, "mtime 1", False),  # nobody knows what that was
    ("mtime 1", None, True)])  # who says nothing compares what is stored, byte by byte
def test_who_cannot_compare_goes_on_with_the_same_source_alone(world, client, mark, again, goes_on):
    opened = client.open("/a", 3 * MIB, mark=mark)
    client.record(opened["upload"], [client.store(opened["grants"][0], MIB)])
    client.gone()
    assert Client(world, "c2").open("/a", 3 * MIB, mark=again)["n_stored"] == goes_on


def test_what_was_taken_over_to_be_compared_is_of_no_known_source_any_more(world, client):
    opened = client.open("/a", 3 * MIB, mark="mtime 1")
    client.record(opened["upload"], [client.store(opened["grants"][0], MIB)])
    client.gone()
    other = Client(world, "c2")
    assert other.open("/a", 3 * MIB)["n_stored"] == 1
    other.gone()  # before it had compared all
    assert Client(world, "c3").open("/a", 3 * MIB, mark="mtime 1")["n_stored"] == 0


def test_two_writers_at_once_do_not_share_blocks_and_the_last_commit_wins(world, client):
    other = Client(world, "c2")
    one, two = client.open("/a", 10), other.open("/a", 10)
    assert two["n_stored"] == 0 and one["version"] != two["version"]
    mine, theirs = client.store(one["grants"][0], 10, b"mine"), other.store(two["grants"][0], 10, b"theirs")
    assert other.commit(two["upload"], 10, [theirs])["refused"] is None
    assert client.commit(one["upload"], 10, [mine])["refused"] is None
    assert world.blocks_of("/a") == [mine["block"]]


def test_two_interrupted_uploads_of_one_name_are_both_cleared_away(world):
    ends = []
    for connection in ("c1", "c2"):
        client = Client(world, connection)
        opened = client.open("/a", 2 * MIB, resume=False)
        ends.append(client.store(opened["grants"][0], MIB)["block"])
    world.steps(1)
    for connection in ("c1", "c2"):
        world.service.left(connection)
    world.steps(36, 9.0)
    assert [world.on_disk(block) for block in ends] == [set(), set()]
    assert not world.tracker.uploads._interrupted and not world.tracker.uploads._by_connection and not world.tracker.uploads._of_block


def test_one_connection_of_several_may_close(world, client):
    opened = client.open("/a", 10)
    Client(world, "c2").record(opened["upload"], [])
    client.gone()
    assert world.tracker.uploads._uploads[opened["upload"]].interrupted_s is None
    world.service.left("c2")
    assert world.tracker.uploads._uploads[opened["upload"]].interrupted_s is not None


def test_abandoned_for_good_is_dropped_and_late_blocks_too(world, client):
    opened = client.open("/a", 2 * MIB)
    early = client.store(opened["grants"][0], MIB)
    world.steps(1, orders=False)
    client.ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
    late = client.store(opened["grants"][1], MIB)
    world.steps(3)
    assert world.on_disk(early["block"]) == world.on_disk(late["block"]) == set()
    assert world.status().strays == 0


def test_blocks_of_an_abandoned_upload_are_dropped_when_their_keeper_returns(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    world.steps(1)
    away = world.keepers[int(stored["receipts"][0]["keeper"], 16)]
    away.kill()
    world.steps(1)
    client.ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
    world.steps(4)
    assert world.on_disk(stored["block"]) == {away.number}
    away.start()
    world.steps(4)
    assert world.on_disk(stored["block"]) == set() and world.status().strays == 0


def test_collection_orders_drops_only_of_what_the_catalog_does_not_know(world, client):
    kept = client.put("/kept")
    block, = world.blocks_of("/kept")
    world.repairer.drop_unreferenced({block: {1, 2, 3}, "e" * 32: {2}})
    assert [order["blocks"] for order in world.keepers[2].take()] == [["e" * 32]]
    assert world.keepers[1].take() == [] and kept["refused"] is None


def test_memory_of_what_was_given_up_is_bounded(world, client, monkeypatch):
    monkeypatch.setattr(uploads_module, "MAX_GONE", 5)
    for n in range(9):
        opened = client.open(f"/{n}", 10)
        client.ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
    assert len(world.tracker.uploads._gone) == 5


# -- after a restart --------------------------------------------------------------------------------------------------
def test_after_a_restart_receipts_adopt_what_keepers_report(world, client):
    opened = client.open("/a", 3 * MIB)
    stored = [client.store(grant, MIB) for grant in opened["grants"][:2]]
    client.record(opened["upload"], stored)
    world.restart()
    assert code(client.open("/a", 3 * MIB)) == "not_ready"
    world.steps(2)
    assert world.status().strays == 2
    again = client.open("/a", 3 * MIB)
    forged = {**stored[0], "receipts": [{**one, "proof": "0" * 32} for one in stored[0]["receipts"]]}
    assert client.record(again["upload"], [forged]) == [0]
    assert client.record(again["upload"], stored) == []
    last = client.store(again["grants"][2], MIB)
    assert client.commit(again["upload"], 3 * MIB, [last])["refused"] is None
    assert world.blocks_of("/a") == [one["block"] for one in [*stored, last]]
    assert world.status().strays == 0


def test_blocks_are_not_adopted_before_their_keepers_have_reported(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    third = next(keeper for keeper in world.keepers.values() if stored["block"] not in keeper.blocks)
    holder = world.keepers[int(stored["receipts"][0]["keeper"], 16)]
    world.restart()
    holder.vanish()
    world.steps(2)
    again = client.open("/a", 10)
    assert third.is_up and again["refused"] is None
    assert client.record(again["upload"], [stored]) == [0]


def test_strays_are_kept_and_counted_never_dropped(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    world.restart()
    world.steps(45, 9.0)
    assert len(world.on_disk(stored["block"])) == 2 and world.status().strays == 1


def test_a_keeper_wiped_during_an_upload_does_not_vouch_for_its_blocks(world, client):
    opened = client.open("/a", 10)
    stored = client.store(opened["grants"][0], 10)
    world.steps(1)
    wiped = world.keepers[int(stored["receipts"][0]["keeper"], 16)]
    wiped.kill()
    wiped.blocks.clear()
    wiped.start()
    assert client.commit(opened["upload"], 10)["rejected"] == [0]


def test_small_files_of_one_message_share_chains_and_spread_all_the_same(make_world):
    world = make_world(6)
    client = Client(world)
    sizes = [1000] * 100 + [2 * MIB] * 3 + [1000] * 28
    before = {number: world.tracker.live.get(number).granted for number in world.keepers}
    opened = client.ask(messages.OpenUpload(uploads=[
        {"path": f"/{index}", "size": size, "mtime_at": 1.0, "no_clobber": False, "parents": False, "resume": False}
        for index, size in enumerate(sizes[:128])])).results
    chains = [tuple(hop["keeper"] for hop in one["grants"][0]["chain"]) for one in opened]
    assert all(len(set(chain)) == 2 for chain in chains)
    runs = [len(list(run)) for _chain, run in itertools.groupby(chains[:100])]
    assert sum(runs) == 100 and all(run % 32 in (0, 4) for run in runs)
    # Each block has an id and tickets of its own, and its room is held.
    assert len({one["grants"][0]["block"] for one in opened}) == 128
    assert len({hop["ticket"] for one in opened for hop in one["grants"][0]["chain"]}) == 256
    granted = sum(world.tracker.live.get(number).granted - before[number] for number in world.keepers)
    assert granted >= 2 * (125 * 1000 + 3 * MIB)


def test_a_file_among_the_parents_is_refused_before_bytes_travel(make_world):
    client = Client(make_world(3))
    client.put("/f")
    for path, parents in (("/f/x", True), ("/f/x", False), ("/f/x/y", True)):
        assert client.open(path, 10, parents=parents)["refused"]["error"] == errors.NotADirectory.code
    assert client.open("/no/x", 10)["refused"]["error"] == errors.NoSuchFile.code
    assert client.open("/no/x", 10, parents=True)["refused"] is None


@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one message"])
def test_of_two_who_expect_the_same_version_one_wins(make_world, together):
    world = make_world(2)
    client, other = Client(world), Client(world, "c2")
    old = client.put("/a")["version"]
    opened = [each.open("/a", 10, expected=old) for each in (client, other)]
    commits = [{"upload": one["upload"], "size": 10, "blocks": [each.store(one["grants"][0], 10)]} for each, one in zip((client, other), opened)]
    if together:
        results = client.ask(messages.CommitUpload(commits=commits)).results
    else:
        results = [each.ask(messages.CommitUpload(commits=[commit])).results[0] for each, commit in zip((client, other), commits)]
    assert [result["refused"] and result["refused"]["error"] for result in results] == [None, "version_changed"]
    assert world.queries().entry("/a").version == results[0]["version"] == opened[0]["version"]
    late = client.open("/a", 10, expected=old)
    assert late["refused"]["error"] == "version_changed", "before any byte travels"
    with pytest.raises(errors.VersionChanged):
        client.ask(messages.Remove(path="/a", recursive=False, op="r1", expected=old))
    client.ask(messages.Remove(path="/a", recursive=False, op="r2", expected=results[0]["version"]))
    assert world.queries().find_kind("/a") is None
