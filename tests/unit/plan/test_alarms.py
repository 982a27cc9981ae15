"""Which alarms are raised and cleared, and which passing trouble is no alarm."""

import pytest

from dfs_lib import model
from dfs_lib.plan import alarms
from dfs_lib.plan.alarms import Book, KeeperHealth, Picture

WELL = Picture([KeeperHealth("k1", "10.0.0.1", model.LIVE, "", False, model.LIVE), KeeperHealth("k2", "10.0.0.2", model.LIVE, "", False, model.LIVE)],
               0, 0, 0, 50, 50, 0, [], {})


def dead(picture, name="k1", is_excused=False, word="dead"):
    return picture._replace(keepers=[keeper._replace(state=model.DEAD, reason="refused", is_excused=is_excused, word=word) if keeper.name == name else keeper
                                     for keeper in picture.keepers])


def run(book, *steps):
    """[(seconds, event, key)] over steps of (picture, seconds it lasts)."""
    told, now_s = [], 0.0
    for picture, lasts_s in steps:
        end_s = now_s + lasts_s
        while now_s < end_s:
            told += [(now_s, one.event, one.alarm.key) for one in book.look(picture, now_s)]
            now_s += 1.0
    return told


def test_all_is_well_and_nothing_is_told():
    assert run(Book(10), (WELL, 100)) == []


def test_a_dead_keeper_is_told_at_once_and_once_and_so_is_its_return():
    book = Book(10)
    assert run(book, (WELL, 5), (dead(WELL), 50), (WELL, 30)) == [(5.0, "raised", "keeper_dead:k1"), (65.0, "cleared", "keeper_dead:k1")]
    assert book.raised() == []
    sentences = [one.alarm.text for one in (*Book(10).look(dead(WELL), 0.0),)]
    assert sentences == ["keeper k1 on 10.0.0.1 is dead: refused"]


def test_a_keeper_that_flaps_rings_once():
    steps = [(dead(WELL), 8), (WELL, 5)] * 10
    assert [told[1] for told in run(Book(10), *steps, (WELL, 20))] == ["raised", "cleared"]


def test_a_keeper_that_was_stopped_in_order_is_excused():
    assert run(Book(10), (dead(WELL, is_excused=True), 50)) == []
    late = Book(10).look(dead(WELL, word="stopped"), 0.0)  # and has not come back in the time that a stop may take
    assert [one.alarm.text for one in late] == ["keeper k1 on 10.0.0.1 is stopped: refused"]
    told = Book(10)
    assert run(told, (dead(WELL), 5), (WELL._replace(keepers=WELL.keepers[1:]), 20))[1][1:] == ("cleared", "keeper_dead:k1")


def test_many_dead_keepers_do_not_make_as_many_alarms():
    many = WELL._replace(keepers=[KeeperHealth(f"k{n}", "h", model.DEAD, "silent", False, "dead") for n in range(200)])
    told = Book(10).look(many, 0.0)
    assert len(told) == alarms.MOST_KEEPERS + 1 and "150 more" in told[-1].alarm.text


@pytest.mark.parametrize("change, key, holds_s", [
    ({"n_at_risk": 3}, "data_at_risk", 10), ({"n_missing": 1}, "data_missing", 5), ({"free": 5, "used": 95}, "space_low", 30),
    ({"held": {"mass-loss": "too many died"}}, "held:mass-loss", 0)])
def test_each_condition_has_to_hold_and_has_its_all_clear(change, key, holds_s):
    bad = WELL._replace(**change)
    if holds_s:
        assert run(Book(10), (bad, holds_s), (WELL, 50)) == []
    assert run(Book(10), (bad, holds_s + 5), (WELL, 50)) == [(float(holds_s), "raised", key), (holds_s + 15.0, "cleared", key)]


def test_space_that_wavers_about_the_limit_rings_once():
    low, less_low = WELL._replace(free=99, used=901), WELL._replace(free=105, used=895)
    assert [told[1] for told in run(Book(10), (low, 40), *[(less_low, 20), (low, 20)] * 5)] == ["raised"]
    assert run(Book(0), (low, 100)) == [] and run(Book(10), (WELL._replace(free=0, used=0), 100)) == []


def test_damage_is_over_when_it_is_repaired_and_quiet():
    found = WELL._replace(n_damaged=1, damage=["/a on k2: chunk 3"], n_short=1)
    told = run(Book(10), (WELL, 3), (found, 100), (found._replace(n_short=0), 20), (found._replace(n_damaged=2), 20))
    assert [one[1:] for one in told] == [("raised", "damage_found"), ("cleared", "damage_found"), ("raised", "damage_found")]
    assert told[1][0] >= 113.0
    assert "/a on k2" in Book(10).look(found, 0.0)[0].alarm.text


def test_every_kind_has_its_level_and_delay():
    kinds = {getattr(alarms, name) for name in ("KEEPER_DEAD", "DATA_AT_RISK", "DATA_MISSING", "SPACE_LOW", "DAMAGE_FOUND", "HELD")}
    assert set(alarms.RAISE_S) == set(alarms.LEVELS) == kinds
