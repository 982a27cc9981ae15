"""Draining: a keeper is emptied by copy, confirm, drop; what blocks it is said; one stuck keeper blocks no other."""

import pytest

from dfs_lib.master.draining import Measured, whose
from dfs_lib import errors, model
from dfs_lib.wire import messages
from master_helpers import Client


def drain(world, *numbers, draining=True):
    ids = [world.keepers[number].id for number in numbers]
    return world.ask(messages.Drain(keepers=ids, draining=draining)).keepers


def left(world, number):
    return drain(world, number, draining=None)[0]["blocks_left"]


def test_a_drained_keeper_is_emptied_and_every_block_keeps_its_copies(make_world):
    world = make_world(4, copies=2)
    client = Client(world)
    paths = [f"/f{n}" for n in range(12)]
    for path in paths:
        client.put(path)
    world.steps(4)
    (report,) = drain(world, 1)
    assert report["draining"] and report["blocks_left"] == len(world.queries().blocks_of_keeper(1, "", 100))
    blocks = [block for path in paths for block in world.blocks_of(path)]

    def step_and_look():
        assert all(len(world.on_disk(block)) >= 2 for block in blocks)
        return left(world, 1) == 0

    world.until(step_and_look)
    assert "it may be stopped" in drain(world, 1, draining=None)[0]["text"]
    world.until(lambda: not world.keepers[1].blocks)
    assert next(keeper for keeper in world.status().keepers if keeper["name"] == "k1")["state"] == "draining"
    client.put("/new")
    assert 1 not in world.on_record(world.blocks_of("/new")[0])


def test_what_blocks_it_is_said_by_path(make_world):
    world = make_world(2, copies=2)
    Client(world).put("/only")
    world.steps(4)
    drain(world, 2)
    world.steps(8)
    (report,) = drain(world, 2, draining=None)
    assert report["blocks_left"] == 1 and report["eta_s"] is None
    (blocker,) = report["blockers"]
    assert blocker["path"] == "/only" and blocker["n"] == 1 and "k2 draining" in blocker["reason"]
    Client(world).remove("/only")
    assert all(one["path"] == "/" for one in drain(world, 2, draining=None)[0]["blockers"])
    assert (whose(blocker), whose({"path": "/"})) == ("such as /only", "of removed files")


def test_the_example_is_a_file_that_is_there(make_world):
    world = make_world(2, copies=2)
    client = Client(world)
    for n in range(6):
        client.put(f"/f{n}")
    world.steps(4)
    drain(world, 2)
    world.steps(8)
    for n in range(5):
        client.remove(f"/f{n}")
    (blocker,) = drain(world, 2, draining=None)[0]["blockers"]
    assert blocker["path"] == "/f5"


def test_one_stuck_keeper_blocks_no_other(make_world):
    world = make_world(4, copies=1, safe=1)
    client = Client(world)
    for n in range(20):
        client.put(f"/f{n}")
    client.put("/wide", copies=4, safe=1)
    world.until(lambda: len(world.on_record(world.blocks_of("/wide")[0])) == 4)
    drain(world, 1, 2)
    world.until(lambda: left(world, 1) <= 1 and left(world, 2) <= 1)
    assert left(world, 1) == left(world, 2) == 1  # the file that wants four copies has nowhere to go
    assert all(report["blockers"] for report in drain(world, draining=None))


def test_undrain_gives_up_nothing_and_leaves_no_surplus(make_world):
    world = make_world(3, copies=2)
    client = Client(world)
    for n in range(6):
        client.put(f"/f{n}")
    world.steps(4)
    drain(world, 1)
    world.steps(2)
    assert drain(world, 1, draining=False)[0]["draining"] is False
    blocks = [world.blocks_of(f"/f{n}")[0] for n in range(6)]
    world.until(lambda: all(len(world.on_record(block)) == 2 == len(world.on_disk(block)) for block in blocks), 200)


def test_a_keeper_that_was_suspect_for_a_moment_holds_a_drain_up_no_longer_than_that(make_world):
    """The last copy is made while another holder is suspect: the drop waits for that one, is told as what blocks it, and is not forgotten."""
    world = make_world(3, copies=2)
    client = Client(world)
    opened = client.open("/a", 10)
    stayer = world.keepers[int(opened["grants"][0]["chain"][1]["keeper"], 16)]
    leaver = world.keepers[int(opened["grants"][0]["chain"][0]["keeper"], 16)]
    client.commit(opened["upload"], 10, [client.store(opened["grants"][0], 10)])
    block, = world.blocks_of("/a")
    world.steps(4)
    stayer.vanish()
    world.until(lambda: world.state(stayer.number) == "suspect")
    drain(world, leaver.number)
    world.until(lambda: len(world.on_disk(block)) == 3, 3)
    world.steps(4)
    assert world.on_disk(block) == {1, 2, 3} and world.state(stayer.number) == "suspect"
    assert "confirmed" in drain(world, leaver.number, draining=None)[0]["blockers"][0]["reason"]
    stayer.is_up = True
    world.until(lambda: block not in leaver.blocks, 10)
    assert left(world, leaver.number) == 0 and world.state(stayer.number) == "live"


def test_a_keeper_that_died_while_it_read_its_copies_again_is_asked_again_when_it_returns(make_world):
    world = make_world(4, copies=3, repair_grace=5.0)
    client = Client(world)
    opened = client.open("/a", 10, safe=3)
    leaver, *stayers = (world.keepers[int(hop["keeper"], 16)] for hop in opened["grants"][0]["chain"])
    client.commit(opened["upload"], 10, [client.store(opened["grants"][0], 10)])
    block, = world.blocks_of("/a")
    world.steps(4)
    drain(world, leaver.number)
    world.until(lambda: len(world.on_disk(block)) == 4, 3)
    for stayer in stayers:
        stayer.is_deaf = True  # the order to read it again dies with it; the one that was copied from is proven
    world.until(lambda: world.n_orders("verify"), 3)
    asked = next(stayer for stayer in stayers if world.tracker.orders.counts_of(stayer.number)["verify"])
    asked.kill()
    world.until(lambda: world.state(asked.number) == "dead")
    for stayer in stayers:
        stayer.is_deaf = False
    asked.start()
    world.until(lambda: block not in leaver.blocks, 10)
    assert left(world, leaver.number) == 0


def test_draining_survives_a_restart_of_the_master(make_world):
    world = make_world(3, copies=2)
    Client(world).put("/a")
    world.steps(4)
    number = min(world.on_record(world.blocks_of("/a")[0]))
    drain(world, number)
    world.restart()
    world.until(lambda: left(world, number) == 0, 120)
    assert len(world.on_disk(world.blocks_of("/a")[0])) >= 2


def test_a_dead_keeper_that_drains_says_what_to_do(make_world):
    world = make_world(3, copies=2)
    Client(world).put("/a")
    world.steps(4)
    number = min(world.on_record(world.blocks_of("/a")[0]))
    drain(world, number)
    world.keepers[number].kill()
    world.until(lambda: world.state(number) == model.DEAD)
    assert "admin forget" in drain(world, number, draining=None)[0]["text"]


def test_how_long_it_takes_is_known_to_the_first_who_asks_by_what_has_been_copied(make_world):
    """All copies are made before the first replica is let go of: what has gone would say that nothing moves, to the last moment."""
    world = make_world(3, copies=1, safe=1, repair_rate=128 * 1024)
    client = Client(world)
    for n in range(60):
        client.put(f"/f{n}", size=64 * 1024)
    world.steps(4)
    (begun,) = drain(world, 1)
    assert "it has just begun" in begun["text"] and begun["eta_s"] is None
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    world.steps(6)
    (copying,) = drain(world, 1, draining=None)
    assert "its first blocks are being copied" in copying["text"] and copying["eta_s"] is None
    for keeper in world.keepers.values():
        keeper.is_deaf = False
    world.steps(16)
    (report,) = drain(world, 1, draining=None)
    began_s, estimate_s = world.now, report["eta_s"]
    assert report["blocks_left"] == begun["blocks_left"] and "to be copied), about" in report["text"]
    assert report["blockers"] == []  # what has been copied is not held up
    world.until(lambda: left(world, 1) == 0)
    assert estimate_s == pytest.approx(world.now - began_s, rel=0.4)


def test_of_many_blocks_their_number_says_how_fast_it_goes_and_not_the_guess_at_their_bytes():
    measured = Measured()
    assert measured.pace(1, 99.0, 5, 5) == (None, 5)
    measured.note(1, 10.0, 100_000, 100_000 * model.MIB)
    assert measured.pace(1, 10.2, 99_990, 99_990 * model.MIB)[0] is None
    # The first ones are larger now, so the guess has grown, though a tenth has gone.
    assert measured.pace(1, 20.0, 90_000, 90_000 * 2 * model.MIB)[0] == 1000 * 2 * model.MIB
    for _ in range(50_000):
        measured.copied((1, 2), model.MIB)
    assert measured.pace(1, 20.0, 90_000, 90_000 * 2 * model.MIB) == (5000 * model.MIB, 50_000 * 2 * model.MIB)


def test_a_pace_is_of_the_last_minute_and_of_copies_as_well_as_of_what_has_gone():
    few = Measured()
    few.note(1, 10.0, 4, 103)
    assert few.pace(1, 20.0, 3, 3) == (10.0, 3)  # one large block has gone, three small ones are left
    few.copied((1,), 101)
    assert few.pace(1, 20.0, 4, 103) == (10.1, 2)
    for at_s in range(20, 200, 5):
        few.note(1, float(at_s), 3, 3)
    assert few.pace(1, 200.0, 3, 3) == (0.0, 2)
    few.keep(set())
    assert few.pace(1, 200.0, 3, 3) == (None, 3)


def test_an_unknown_keeper_is_refused(make_world):
    world = make_world(1)
    with pytest.raises(errors.NoSuchKeeper):
        world.ask(messages.Drain(keepers=["f" * 32], draining=True))
