"""why: what is told about files, directories and keepers, from the tables and the planner that decide."""

import pytest

from dfs_lib import cluster_state, errors, model
from dfs_lib.master import reasons
from dfs_lib.master.alarming import Alarming
from dfs_lib.wire import messages
from master_helpers import MIB, Client


def why(world, path=None, keeper=None):
    answer = world.ask(messages.Why(path=path, keeper=keeper and world.keepers[keeper].id))
    return answer.about, [one["text"] for one in answer.reasons], answer.reasons


def test_a_healthy_file(make_world):
    world = make_world(3, copies=2)
    Client(world).put("/a", 3 * MIB)
    world.steps(4)
    about, texts, _ = why(world, "/a")
    assert "2 copies wanted" in about and all("2 of 2 copies" in text and "nothing is to be done" in text for text in texts)


def test_a_file_that_waits_out_the_grace_says_until_when(make_world):
    world = make_world(4, copies=3, safe=3, repair_grace=60.0)
    Client(world).put("/a")
    number = min(world.on_record(world.blocks_of("/a")[0]))
    world.keepers[number].kill()
    world.until(lambda: world.state(number) == model.DEAD)
    world.steps(4)
    _about, (text,), (reason,) = why(world, "/a")
    assert "2 of 3 copies" in text and f"k{number} (dead for" in text and "copied again unless it returns in time" in text
    assert 50 < reason["next_try_s"] <= 60 and reason["path"] == "/a"
    _about, texts, _ = why(world, keeper=number)
    assert texts[0].startswith("dead:") and "more; those with one good copy left are copied at once" in texts[0]
    about, texts, _ = why(world, "/")
    assert "1 of its files short" in about and texts[0].startswith("/a: ")


def test_a_keeper_that_was_stopped_is_called_so_everywhere(make_world):
    world = make_world(3, copies=3, safe=3)
    Client(world).put("/a")
    keeper = world.keepers[2]
    keeper.ask(messages.Farewell())
    keeper.kill(refuses=False)
    for state in (model.SUSPECT, model.DEAD):
        world.until(lambda: world.state(2) == state)
        assert why(world, keeper=2)[1][0].startswith("stopped: ")
        [told] = [one for one in world.status().keepers if one["name"] == "k2"]
        assert (told["state"], cluster_state.state_word(told)) == (state, "stopped")
    assert "k2 (stopped for" in why(world, "/a")[1][0]
    teller = Alarming(world.tracker, world.repairer)
    assert {one.name: one.word for one in teller._picture(world.now).keepers} == {"k1": "live", "k2": "stopped", "k3": "live"}


def test_a_file_that_nobody_can_help(make_world):
    world = make_world(2, copies=3, safe=2)
    Client(world).put("/a")
    world.steps(8)
    assert "2 of 3 copies are good" in why(world, "/a")[1][0]


def test_whatever_is_not_as_wanted_has_a_reason_and_a_next_try(make_world):
    """With no target, with surplus that nobody can prove, while everything is held, and when no queue knows of it."""
    world = make_world(2, copies=3, safe=2)
    client = Client(world)
    client.put("/short", 2 * MIB)
    world.steps(8)
    _about, (text,), (reason,) = why(world, "/short")
    assert "no other live keeper" in text and 0 < reason["next_try_s"] <= 60
    [waiting] = {(each["path"], each["reason"]) for each in world.status().waiting}
    assert waiting[0] == "/short" and "no other live keeper" in waiting[1]
    for block in world.blocks_of("/short"):
        assert world.repairer._queue.remove(block)  # as when the queue had no room for it
    _about, (text,), (reason,) = why(world, "/short")
    assert "no other live keeper" in text and 0 < reason["next_try_s"] <= 60
    world.repairer.hold("a switch is being replaced")
    assert why(world, "/short")[1][0] == "a switch is being replaced"
    world.repairer.hold("")
    client.ask(messages.SetCopies(op="s" * 32, path="/short", copies=1))
    for keeper in world.keepers.values():
        keeper.is_deaf = True
    world.steps(8)
    _about, (text,), (reason,) = why(world, "/short")
    assert "copy too many" in text and reason["next_try_s"] is not None


def test_a_live_and_a_draining_keeper(make_world):
    world = make_world(2, copies=2)
    Client(world).put("/a")
    world.steps(4)
    about, texts, _ = why(world, keeper=1)
    assert about.startswith("k1: ") and texts[0].startswith("live") and any("1 block on record" in text for text in texts)
    world.keepers[1].sick = "the disk is read-only"
    world.ask(messages.Drain(keepers=[world.keepers[1].id], draining=True))
    world.steps(8)
    texts = why(world, keeper=1)[1]
    assert any("sick" in text for text in texts) and any("it is draining: 1 block" in text for text in texts)
    assert any("does not move" in text for text in texts)


def test_a_start_says_what_is_waited_for_and_an_empty_file_is_explained(make_world):
    world = make_world(2, copies=2)
    Client(world).put("/a", 0)
    assert "empty" in why(world, "/a")[1][0]
    world.restart()
    assert "nothing is repaired yet" in why(world, "/a")[1][0]
    assert "never heard" in why(world, keeper=1)[1][1]


def test_unknown_names_are_refused(make_world):
    world = make_world(1)
    with pytest.raises(errors.NoSuchFile):
        why(world, "/none")
    with pytest.raises(errors.NoSuchKeeper):
        world.ask(messages.Why(keeper="f" * 32))


@pytest.mark.parametrize("changes, said", [
    ({"share": 0.5, "blocks": 7}, "its scrub has read 50% of its blocks again (7 blocks) and comes to the end in 14 d; it is the first"),
    ({"share": 1.0, "blocks": 0}, "its scrub finds no block to read and begins anew in 14 d"),
    ({"share": 1.0, "blocks": 7, "bad": 1, "ended_at": 0.0, "ended_bad": 0},
     "its scrub has read all its blocks again (7 blocks, 1 of them damaged) and begins anew in 14 d; "
     "the one before ended on 1970-01-01 00:00 UTC, nothing damaged")])
def test_a_scrub_that_has_read_all_has_no_end_yet_to_come(changes, said):
    scrub = {"round": 1, "share": 0.0, "left_s": 14 * 86400.0, "blocks": 0, "bad": 0, "ended_at": None, "ended_bad": None, **changes}
    assert reasons._scrub_text(scrub) == said
