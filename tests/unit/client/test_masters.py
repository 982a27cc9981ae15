"""The end of a client, told to whoever waits for its master."""

import threading

from dfs_lib.client import masters


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
