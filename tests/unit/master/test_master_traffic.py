"""Traffic: growth of running totals, spread over the time in which it came; and what a client is told of it."""

import random

import pytest

from dfs_lib.master import traffic
from dfs_lib.wire import messages
from master_helpers import MIB

SETTLED = traffic.SETTLED_S


def moved(to_clients=0, from_clients=0, copied=0):
    return {"to_clients": to_clients, "from_clients": from_clients, "copied": copied}


def in_all(counted, now_s):
    """Bytes (read, written, copied) of the whole history."""
    return tuple(round(sum(column) * traffic.STEP_S) for column in zip((0, 0, 0), *(rates for _end_s, rates in counted.history(now_s))))


def test_growth_goes_into_the_time_in_which_it_came():
    counted = traffic.Traffic(1000.0)
    counted.heard(1, "a", moved(500, 5_000), 1000.0)  # what moved before this master began is not its to tell
    assert counted.history(1009.9 + SETTLED) == [] and counted.totals() == (0, 0, 0)
    counted.heard(1, "a", moved(1500, 5_000), 1008.0)
    counted.heard(1, "a", moved(1500, 9_000, 40), 1012.0)  # half of it before the step's end, half after
    assert counted.history(1019.9 + SETTLED) == [(1010, (100.0, 200.0, 2.0))]
    assert counted.history(1020.0 + SETTLED) == [(1010, (100.0, 200.0, 2.0)), (1020, (0.0, 200.0, 2.0))]
    assert counted.totals() == (1000, 4000, 40)


def test_keepers_add_up():
    counted = traffic.Traffic(0.0)
    for second in range(31):
        for number in range(1, 5):
            counted.heard(number, "a", moved(second * 100 * number, second * 10), float(second))
    assert counted.history(30.0 + SETTLED) == [(end, (1000.0, 40.0, 0.0)) for end in (10, 20, 30)]
    assert counted.rates(30.0) == {number: (100.0 * number, 10.0, 0.0) for number in range(1, 5)}


@pytest.mark.parametrize("incarnation, totals, grown", [
    ("a", moved(3000, 100), (2000, 90, 0)),
    ("a", moved(300, 100), (300, 90, 0)),  # its port processes' memory was made anew: less than before is all new
    ("b", moved(3000, 100), (3000, 100, 0)),  # restarted, and already beyond what it had
])
def test_totals_that_begin_anew(incarnation, totals, grown):
    counted = traffic.Traffic(0.0)
    counted.heard(1, "a", moved(1000, 10), 1.0)
    counted.heard(1, incarnation, totals, 2.0)
    assert counted.totals() == grown and in_all(counted, 12.0) == grown


def test_a_keeper_that_was_silent_makes_no_peak():
    counted = traffic.Traffic(0.0)
    counted.heard(1, "a", moved(), 0.0)
    counted.heard(1, "a", moved(600_000), 600.0)
    assert [rates[0] for _end_s, rates in counted.history(600.0 + SETTLED)] == [1000.0] * 60
    # of a silence longer than the hour all is told in the hour
    counted.heard(1, "a", moved(600_000 + 7_200_000), 7800.0)
    assert [rates[0] for _end_s, rates in counted.history(7800.0 + SETTLED)] == [pytest.approx(2000.0)] * 360


def test_an_hour_is_kept_and_no_more():
    counted = traffic.Traffic(3.0)
    for second in range(3, 9000):
        counted.heard(1, "a", moved(1000 * second), float(second))
    history = counted.history(9000.0 + SETTLED)
    assert len(history) == traffic.N_STEPS and history[-1][0] == 9000 and history[0][0] == 9000 - 3600 + 10
    assert len(counted._steps) <= traffic.N_STEPS + 2
    quiet = counted.history(9000.0 + 2 * 3600)
    assert len(quiet) == traffic.N_STEPS and not any(map(any, (rates for _end_s, rates in quiet)))


def test_now_is_the_last_seconds_and_nothing_when_a_keeper_is_gone():
    counted = traffic.Traffic(0.0)
    for second in range(20):
        counted.heard(1, "a", moved(second * 1000), float(second))
    assert counted.rates(19.0) == {1: (1000.0, 0.0, 0.0)}
    assert 0 < counted.rates(22.0)[1][0] < 1000.0
    assert counted.rates(24.0) == {1: (0.0, 0.0, 0.0)}
    counted.forget(1)
    assert counted.rates(19.0) == {} and counted.totals() == (19_000, 0, 0) and in_all(counted, 22.0) == (19_000, 0, 0)
    counted.heard(1, "a", moved(99_000), 25.0)
    assert counted.totals() == (19_000, 0, 0)  # a first word again


def test_no_byte_is_lost_or_made_whatever_the_times():
    dice, counted, now_s, total = random.Random(5), traffic.Traffic(100.0), 100.0, 0
    counted.heard(1, "a", moved(), now_s)
    for _ in range(300):
        now_s += dice.choice([0.0, 0.001, 0.3, 1.0, 1.0, 7.0, 30.0])
        total += dice.randrange(10_000)
        counted.heard(1, "a", moved(total), now_s)
    assert now_s < 3600 and counted.totals()[0] == total
    assert sum(rates[0] for _end_s, rates in counted.history(now_s + 12)) * traffic.STEP_S == pytest.approx(total)


# -- through the service ----------------------------------------------------------------------------------------------
def measured(world, history=True):
    return world.ask(messages.MeasureTraffic(history=history))


def test_notices_become_the_history(make_world):
    world = make_world(3)
    first, second, third = world.keepers.values()
    for n in range(1, 31):
        first.notify(moved=moved(n * MIB, 2 * n * MIB))
        second.notify(moved=moved(n * MIB, 0, n * 1000))
        third.notify()  # of a version that does not count
        world.now += 1.0
    told = measured(world)
    assert told.step_s == 10 and len(told.points) >= 2
    at, read, write, copied = told.points[-1]
    assert at % 10 == 0 and 1e9 + world.now - 10 - SETTLED <= at <= 1e9 + world.now
    assert (read, write, copied) == (2 * MIB, 2 * MIB, 1000)
    assert told.read == pytest.approx(2 * MIB, rel=0.21) and told.write == pytest.approx(2 * MIB, rel=0.21)
    assert {one["keeper_id"] for one in told.keepers} == {first.id, second.id}
    assert measured(world, history=False).points == []
    assert 'dfs_moved_bytes_total{direction="written"} 6' in world.service.scrape()


def test_a_keeper_whose_numbers_are_absurd_breaks_no_answer(make_world):
    world = make_world(2)
    for n in range(12):
        for keeper in world.keepers.values():
            keeper.notify(moved=moved((1 << 53) - 1 if n % 2 else 0, 0))
        world.now += 1.0
    assert measured(world).read == 1e15
