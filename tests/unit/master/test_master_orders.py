"""Orders: handed out, handed out again, ended, given up; and who waits for them."""

import threading

import pytest

from dfs_lib import errors
from dfs_lib.master import orders as orders_module
from dfs_lib.master.orders import Orders


@pytest.fixture
def orders():
    return Orders(100)


@pytest.fixture
def ends():
    return []


def give(orders, ends, number=1, kind="verify", details=None, now_s=0.0, timeout_s=10.0):
    return orders.give(number, kind, details or {"block": "b"}, lambda order, error, event: ends.append((order.id, error, event)), now_s, timeout_s)


def test_handed_out_once_in_order_and_ended_once(orders, ends):
    given = [give(orders, ends).id for _ in range(3)]
    assert given == [100, 101, 102]
    assert [order.id for order in orders.take(1, "c", 0)] == given and orders.take(1, "c", 0) == []
    assert orders.take(2, "c2", 0) == []
    orders.ended(101, 1, None, {"n": 1})
    orders.ended(101, 1, None, {"n": 1})
    assert ends == [(101, None, {"n": 1})]


def test_the_word_of_another_keeper_does_not_count(orders, ends):
    give(orders, ends)
    orders.take(1, "c", 0)
    orders.ended(100, 2, None, None)
    assert ends == [] and orders.counts() == {"verify": 1}


def test_handed_out_again_when_the_connection_breaks(orders, ends):
    for _ in range(2):
        give(orders, ends)
    orders.take(1, "c", 0)
    orders.left("other")
    assert orders.take(1, "c", 0) == []
    orders.left("c")
    assert [order.id for order in orders.take(1, "d", 0)] == [100, 101]


def test_an_end_is_taken_though_the_order_waits_to_be_handed_out_again(orders, ends):
    give(orders, ends)
    give(orders, ends)
    orders.take(1, "c", 0)
    orders.left("c")
    orders.ended(100, 1, None, {})
    assert [each[0] for each in ends] == [100]
    assert [order.id for order in orders.take(1, "d", 0)] == [101]


def test_given_up_when_late_or_when_the_keeper_is_dead(orders, ends):
    give(orders, ends, 1, timeout_s=5.0)
    give(orders, ends, 1, timeout_s=50.0)
    give(orders, ends, 2, timeout_s=50.0)
    give(orders, ends, 2, timeout_s=50.0)
    orders.take(2, "c", 0)
    orders.give_up(5.0)
    assert ends == [(100, "lost", None)]
    orders.give_up(6.0, dead={2})
    assert [each[0] for each in ends] == [100, 102, 103]
    assert [order.id for order in orders.take(1, "d", 0)] == [101] and orders.take(2, "c", 0) == []
    orders.left("c")
    assert orders.counts() == {"verify": 1}


def test_no_more_than_so_many_wait_for_one_keeper(orders, ends, monkeypatch):
    monkeypatch.setattr(orders_module, "MAX_PENDING", 3)
    assert [give(orders, ends) is None for _ in range(5)] == [False, False, False, True, True]
    assert give(orders, ends, 2) is not None


@pytest.mark.parametrize("error", [errors.NoRoom(size=1, detail="full"), ZeroDivisionError()])
def test_what_goes_wrong_at_the_end_of_one_order_stops_at_it(orders, ends, error):
    def fails(*_):
        raise error

    orders.give(1, "copy", {"block": "b"}, fails, 0.0, 1.0)
    give(orders, ends, timeout_s=1.0)
    orders.give_up(2.0)
    assert len(ends) == 1 and orders.counts() == {}
    orders.give(1, "copy", {"block": "b"}, fails, 0.0, 1.0)
    orders.take(1, "c", 0)
    orders.ended(102, 1, None, {})


def test_who_gave_an_order_may_give_another_when_it_ends(orders):
    given = []

    def again(order, error, event):
        given.append(orders.give(1, "copy", {"block": "b"}, again, 0.0, 1.0))

    again(None, None, None)
    orders.give_up(2.0)
    assert len(given) == 2 and orders.counts() == {"copy": 1}


def test_an_order_wakes_the_keeper_it_is_for_and_a_stop_wakes_all(orders, ends):
    found = {}

    def wait(number):
        found[number] = [order.id for order in orders.take(number, f"c{number}", 30.0)]

    threads = {number: threading.Thread(target=wait, args=(number,)) for number in (1, 2)}
    for thread in threads.values():
        thread.start()
    give(orders, ends, 2)
    threads[2].join(10.0)
    assert found == {2: [100]} and threads[1].is_alive()
    orders.close()
    threads[1].join(10.0)
    assert found == {1: [], 2: [100]}


def test_closing_a_connection_that_took_nothing_wakes_nobody(orders, ends):
    keeper = orders._keeper(1)
    keeper.came.notify = keeper.came.notify_all = lambda *_: pytest.fail("woken for nothing")
    for n in range(1000):
        orders.left(f"client {n}")


def test_memory_is_freed(orders, ends):
    for n in range(50):
        give(orders, ends, n % 3)
    for number in range(3):
        for order in orders.take(number, f"c{number}", 0):
            orders.ended(order.id, number, None, {})
    assert not orders._orders and not orders._taken and not any(keeper.pending for keeper in orders._keepers.values())
