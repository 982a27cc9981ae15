"""A client's ways to its master and keepers: the end told to whoever waits, and ports that hang are met once."""

import threading

import pytest

from dfs_lib import errors, settings
from dfs_lib.client import masters, peers
from dfs_lib.wire import messages


def test_an_end_wakes_everybody_who_waits():
    ended = masters._Ended()
    assert not ended.is_set() and not ended.wait(0.01)
    woken = []
    waiting = [threading.Thread(target=lambda: woken.append(ended.wait(30.0))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    ended.set()
    ended.set()
    for thread in waiting:
        thread.join(10.0)
    assert woken == [True] * 3 and ended.is_set() and ended.wait(30.0)


class FakePool:
    """Answers at some addresses, refuses or is silent at others; writes down who was asked."""

    def __init__(self, failing):
        self.failing, self.asked = failing, []

    def ask(self, host, port, message, timeout_s, connect_timeout_s):
        self.asked.append(port)
        if port in self.failing:
            raise self.failing[port]
        return messages.Done()

    def forget(self, host, port):
        pass


def masters_with(failing, now, ports=(1, 2, 3)):
    found = masters.Masters([("h", port) for port in ports], None, settings.resolve(()), shuffle=lambda _list: None, clock=lambda: now[0])
    found._pool = FakePool(failing)
    return found


def test_an_address_that_was_silent_is_not_met_again_though_the_others_say_busy():
    now = [0.0]
    some = masters_with({1: errors.PeerTimeout(address="h:1", seconds=1)}, now)
    some.ask(messages.Ping())
    assert some._pool.asked == [1, 2]
    some._pool.asked.clear()
    some._pool.failing.update({2: errors.Busy(address="h:2", detail="full"), 3: errors.Busy(address="h:3", detail="full")})
    for _ in range(2):
        with pytest.raises(errors.Busy):
            some.ask(messages.Ping())
    some._pool.failing = {}
    some.ask(messages.Ping())
    assert some._pool.asked == [2, 3, 1, 2, 3, 1, 2]  # 1 never before the two that are only busy
    now[0] += 60.0
    some._pool.asked.clear()
    some._demote(("h", 2)), some._demote(("h", 3))
    some.ask(messages.Ping())
    assert some._pool.asked == [1]  # and first again when its turn has come and it has rested


def test_a_keepers_port_that_was_silent_is_tried_last_by_the_next_transfer():
    some = peers.Peers(None, None, settings.resolve(()))
    taken, silent = [], {8000}

    class Keepers:
        def take(self, host, port, _timeout_s):
            taken.append(port)
            if port in silent:
                raise errors.PeerTimeout(address=f"{host}:{port}", seconds=1)
            return "stream", False

        def forget(self, host, port):
            pass

    some.keepers = Keepers()
    hop = {"host": "h", "ports": [8000, 8001, 8002]}
    with pytest.raises(errors.PeerTimeout):
        some.reach(hop, 1.0)
    assert some.reach(hop, 1.0) == ("stream", False, 8001)
    some.was_silent(hop, 8001)
    assert some.reach(hop, 1.0)[2] == 8002
    assert taken == [8000, 8001, 8002]
