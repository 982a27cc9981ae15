"""Addresses that failed lately are tried last, for a while."""

from dfs_lib.net import resting

A, B, C = ("h", 1), ("h", 2), ("h", 3)


def test_what_failed_comes_last_until_it_has_rested():
    now = [100.0]
    some = resting.Resting(clock=lambda: now[0])
    assert some.last([A, B, C]) == [A, B, C]
    some.note(A)
    assert some.last([A, B, C]) == [B, C, A]
    some.note(B)
    assert some.last([A, B, C]) == [C, A, B]
    some.forget(A)
    assert some.last([A, B, C]) == [A, C, B]
    now[0] += resting.REST_S + 0.1
    assert some.last([A, B, C]) == [A, B, C]


def test_where_all_have_failed_all_are_tried_in_the_order_given():
    some = resting.Resting(clock=lambda: 0.0)
    for address in (C, A, B):
        some.note(address)
    assert some.last([A, B, C]) == [A, B, C]
