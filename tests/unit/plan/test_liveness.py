"""Heartbeats and now → live, suspect, dead. One line draws a keeper, the next is the answer."""

import pytest

from dfs_lib.model import DEAD, LIVE, SUSPECT
from dfs_lib.plan import liveness

PATIENCE = {"suspect_after_s": 3, "dead_after_s": 10}


def judged(last_heard_s, *, connected=True, refused=False, now_s=100.0, **more):
    return liveness.judge(now_s, last_heard_s, connected=connected, refused=refused, **PATIENCE, **more)


@pytest.mark.parametrize("keeper, state, reason", [
    ({"last_heard_s": 99.5}, LIVE, "heard lately"),
    ({"last_heard_s": 97.01}, LIVE, "heard lately"),
    ({"last_heard_s": 97.0}, SUSPECT, "no heartbeat for 3 s"),
    ({"last_heard_s": 90.01}, SUSPECT, "no heartbeat for 3 s"),
    ({"last_heard_s": 90.0}, DEAD, "no heartbeat for 10 s"),
    ({"last_heard_s": None}, DEAD, "never heard since this master started"),
    ({"last_heard_s": 99.9, "connected": False}, SUSPECT, "its control connection closed"),
    ({"last_heard_s": 95.0, "connected": False}, SUSPECT, "its control connection closed"),
    ({"last_heard_s": 80.0, "connected": False}, DEAD, "no heartbeat for 10 s"),
    ({"last_heard_s": 99.9, "connected": False, "refused": True}, DEAD, "its host refuses connections: no keeper runs there"),
    # The refusal is older than the connection that stands now.
    ({"last_heard_s": 99.9, "connected": True, "refused": True}, LIVE, "heard lately"),
    # F17: heartbeats arrive and nobody can connect; and the reverse.
    ({"last_heard_s": 99.9, "connected": False, "closed_since_s": 95.0}, SUSPECT, "its control connection closed"),
    ({"last_heard_s": 99.9, "connected": False, "closed_since_s": 90.0}, DEAD, "heartbeats arrive, but no connection for 10 s"),
    ({"last_heard_s": 89.0, "connected": True}, DEAD, "no heartbeat for 10 s"),
    # UDP blocked alone: what it says on its connection is heard as well. When both are silent it is late, and dead, as any other.
    ({"last_heard_s": 50.0, "last_word_s": 99.0}, LIVE, "no heartbeat for 3 s, but it speaks on its connection: is UDP blocked?"),
    ({"last_heard_s": 50.0, "last_word_s": 97.0}, SUSPECT, "no heartbeat for 3 s"),
    ({"last_heard_s": 50.0, "last_word_s": 90.0}, DEAD, "no heartbeat for 10 s"),
    ({"last_heard_s": 50.0, "last_word_s": 99.0, "connected": False, "closed_since_s": 99.5}, DEAD, "no heartbeat for 10 s"),
    ({"last_heard_s": 99.0, "last_word_s": 99.0}, LIVE, "heard lately"),
    # F17: the connection stands, and nothing comes over it any more.
    ({"last_heard_s": 99.0, "last_word_s": 90.1}, LIVE, "heard lately"),
    ({"last_heard_s": 99.0, "last_word_s": 90.0}, SUSPECT, "heartbeats arrive, but nothing on its connection for 10 s"),
    ({"last_heard_s": 99.0, "last_word_s": 80.0}, DEAD, "heartbeats arrive, but nothing on its connection for 20 s"),
    # A heartbeat stamped by another thread just after `now` was read.
    ({"last_heard_s": 100.2}, LIVE, "heard lately"),
])
def test_one_keeper(keeper, state, reason):
    assert judged(**keeper) == (state, reason)


def test_a_table_becomes_transitions():
    table = {1: liveness.Heard(99.0, True, False), 2: liveness.Heard(96.0, True, False), 3: liveness.Heard(None, False, False),
             4: liveness.Heard(99.0, False, True)}
    after = liveness.judge_all(100.0, table, **PATIENCE)
    assert liveness.transitions({1: LIVE, 2: LIVE, 4: LIVE, 7: DEAD}, after) == [
        (2, LIVE, SUSPECT, "no heartbeat for 3 s"),
        (3, None, DEAD, "never heard since this master started"),
        (4, LIVE, DEAD, "its host refuses connections: no keeper runs there"),
        (7, DEAD, None, "no longer a member")]
    assert liveness.transitions({number: state for number, (state, _) in after.items()}, after) == []


@pytest.mark.parametrize("n_live, n_vanished, is_mass", [
    (0, 0, False), (1, 1, False), (2, 1, False), (3, 1, False), (3, 2, True), (5, 2, True), (6, 2, False), (6, 3, True),
    (200, 66, False), (200, 67, True)])
def test_mass_loss_is_more_than_a_third_and_at_least_two(n_live, n_vanished, is_mass):
    assert liveness.mass_loss(n_live, n_vanished) is is_mass


def died(*numbers):
    return [(number, SUSPECT, DEAD, "no heartbeat for 10 s") for number in numbers]


def test_the_watch_sums_over_ticks_of_one_window():
    watch = liveness.LossWatch(window_s=5, hold_s=600)
    assert watch.tick(0, died(1), 9) == ""
    assert watch.tick(1, died(2, 3), 7) == ""
    assert watch.tick(2, died(4), 6).startswith("4 of 10 keepers vanished at once")


def test_the_watch_takes_slow_losses_for_ordinary_ones():
    watch = liveness.LossWatch(window_s=5, hold_s=600)
    assert [watch.tick(10 * n, died(n), 9 - n) for n in range(8)] == [""] * 8


def test_the_watch_ends_when_they_return():
    watch = liveness.LossWatch(window_s=5, hold_s=600)
    assert watch.tick(0, died(1, 2, 3), 0)
    assert watch.tick(100, [(1, DEAD, LIVE, "heard lately")], 1)
    assert watch.tick(101, [(2, DEAD, LIVE, "heard lately")], 2) == ""
    assert watch.tick(102, [], 2) == ""


def test_the_watch_ends_by_itself_and_a_new_loss_starts_it_anew():
    watch = liveness.LossWatch(window_s=5, hold_s=600)
    assert watch.tick(0, died(1, 2), 3)
    assert watch.tick(599, [], 3)
    assert watch.tick(600, [], 3) == ""
    assert watch.tick(700, died(3, 4), 1)


def test_a_loss_that_grows_is_held_for_the_whole_time_again():
    watch = liveness.LossWatch(window_s=5, hold_s=600)
    assert watch.tick(0, died(1, 2), 3)
    assert watch.tick(500, died(3), 2)
    assert watch.tick(700, [], 2)
    watch.clear()
    assert watch.tick(701, [], 2) == ""
