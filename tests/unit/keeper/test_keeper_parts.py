"""What the keeper's processes share and queue: events, the shared page, the epoch on disk, the pace of a scrub."""

import os
import signal
import threading

import pytest

from dfs_lib import errors
from dfs_lib.keeper import events as event_queue
from dfs_lib.keeper import orders, reporter, scrubber, shared
from dfs_lib.keeper.events import Events
from dfs_lib.net import inherited
from dfs_lib.wire import frames, messages


def done(*serials):
    return {"kind": "transfer_done", "serials": list(serials)}


def stored(n):
    return {"kind": "stored", "stored": [[f"{n:032x}", 1, "00000000"]]}


def test_events_stay_until_the_master_has_heard_them():
    events = Events()
    for n in range(700):
        events.add(stored(n))
    batch = events.first()
    assert len(batch) == 500 and events.first() == batch  # the answer was lost: the same again
    events.forget(batch)
    assert events.first() == [stored(n) for n in range(500, 700)]


def test_serials_are_joined_but_never_to_an_event_under_way():
    events = Events()
    events.add(done(1))
    events.add(done(2))
    batch = events.first()
    events.add(done(3))
    events.add(done(4))
    assert batch == [done(1, 2)]
    events.forget(batch)
    assert events.first() == [done(3, 4)]


def test_a_notify_stays_below_the_ceiling_of_a_header():
    events = Events()
    for n in range(200):
        events.add({"kind": "stored", "stored": [[f"{n:032x}", 1, "0" * 8192]]})
    sizes = []
    while batch := events.first():
        sizes.append(sum(len(event["stored"][0][2]) + 100 for event in batch))
        events.forget(batch)
    assert max(sizes) < 700_000 and len(sizes) == 4


def test_joined_serials_count_for_the_ceiling_too():
    events, n = Events(), 0
    for _ in range(900):  # what gathers while no master is heard, under readers alone
        events.add(done(*range((7 << 32) + n, (7 << 32) + n + 100)))
        n += 100
    told = 0
    while batch := events.first():
        notify = messages.Notify(events=batch, used=0, free=0, n_blocks=0, sick="", pids=[])
        assert len(notify.to_header()) < frames.MAX_HEADER
        told += sum(len(event["serials"]) for event in batch)
        events.forget(batch)
    assert told == n


def test_a_bug_in_a_thread_of_the_reporter_ends_the_process(monkeypatch, caplog):
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(reporter.logging, "shutdown", lambda: None)

    def loop():
        raise ZeroDivisionError("on purpose")

    reporter._or_end(loop)
    assert statuses == [70] and "bug in thread" in caplog.text


def test_a_full_queue_lets_the_oldest_go_and_says_so(monkeypatch):
    monkeypatch.setattr(event_queue, "_MAX_EVENTS", 3)
    events = Events()
    for n in range(3):
        events.add(stored(n))
    batch = events.first()
    events.add(stored(3))
    events.forget(batch)
    assert events.n_lost == 1 and events.first() == [stored(3)]


def test_waiting_for_events_ends_with_an_event():
    events, stop = Events(), shared.StopSignal()
    thread = threading.Thread(target=events.add, args=(stored(1),))
    thread.start()
    events.wait(5.0, stop)
    thread.join()
    assert events.first() == [stored(1)]
    events.forget(events.first())
    events.wait(0.0, stop)  # the bell of before does not ring twice
    stop.close()


def test_a_stop_signal_ends_a_wait_and_stays():
    stop, before = shared.StopSignal(), signal.getsignal(signal.SIGUSR1)
    stop.install((signal.SIGUSR1,))
    try:
        assert stop.wait(0) is False
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.wait(5.0) and stop.wait(5.0)
    finally:
        signal.signal(signal.SIGUSR1, before)
        stop.close()


def test_a_page_keeps_each_writers_cells_apart():
    page = shared.Page(2)
    slots = [page.slot(i) for i in range(3)]
    assert page.cluster_id is None and page.pids() == []
    page.set_pid(None, 11)
    page.set_pid(1, 13)
    page.set_pid(2, 14)
    assert [slots[1].begin(), slots[1].begin(), slots[0].begin()] == [1, 2, 1]
    slots[1].end(5, 7)
    slots[2].lost()
    page.set_cluster("c" * 32)
    page.set_reign(4, 1 << 40)
    assert page.loads() == [1, 1] and page.n_lost() == 1 and page.pids() == [11, 13, 14] and page.reign() == (4, 1 << 40)
    assert page.cluster_id == "c" * 32 and slots[1].counters() == {
        "pid": 13, "active": 1, "ended": 1, "bytes_in": 5, "bytes_out": 7, "events_lost": 0}
    slots[0].moves(100, 0)
    slots[1].moves(10, 2)
    slots[2].copies(30)
    slots[1].end(1000, 2000)  # of which keepers among themselves moved most
    slots[1].reset()
    assert page.loads() == [1, 0] and page.moved() == (110, 2, 30)
    slots[0].moves(0, (1 << 53) - 1)
    assert page.moved() == (110, 1, 30)  # beyond what messages carry it begins anew


def test_other_processes_see_the_page():
    page = shared.Page(1)
    pid = os.fork()
    if not pid:
        page.slot(0).begin()
        os._exit(0)
    os.waitpid(pid, 0)
    assert page.loads() == [1]


def test_a_full_mailbox_delays_one_transfer_and_no_more(monkeypatch):
    mailbox, page, now_s = inherited.Mailbox(), shared.Page(1), [0.0]
    waits = []
    post = mailbox.post
    mailbox.post = lambda letter, wait=True: waits.append(wait) or post(letter, False)
    tell = shared.Teller(mailbox, page.slot(0), lambda: now_s[0])
    while not page.n_lost():
        tell(stored(1))
    n_before = len(waits)
    tell(stored(2))
    assert waits[n_before - 1] is True and waits[n_before] is False and page.n_lost() == 2
    now_s[0] = 2.0
    mailbox.read_now()
    tell(stored(3))
    assert waits[-1] is True and page.n_lost() == 2
    mailbox.close()


def test_a_reason_with_an_undecodable_path_can_be_sent():
    mailbox, page = inherited.Mailbox(), shared.Page(1)
    error = errors.DiskFault(path="/data/\udcff", detail="x" * 2000)
    shared.Teller(mailbox, page.slot(0))({"kind": "sick", "reason": shared.reason_of(error)})
    assert b"/data/?" in mailbox.read_now() and len(shared.reason_of(error)) == 1000
    mailbox.close()


def test_a_lower_epoch_finds_no_obedience_even_after_a_restart(tmp_path):
    epoch = shared.HighestEpoch(str(tmp_path))
    epoch.obey(3, "m")
    epoch.obey(3, "m")
    for each in (epoch, shared.HighestEpoch(str(tmp_path))):
        assert each.value == 3
        with pytest.raises(errors.NotMaster):
            each.obey(2, "m")


def test_an_unreadable_epoch_is_not_taken_for_none(tmp_path):
    (tmp_path / "epoch").write_text("what")
    with pytest.raises(errors.DiskFault):
        shared.HighestEpoch(str(tmp_path))


def test_a_pace_holds_back_to_its_rate_and_stops_when_told():
    now_s, waited = [0.0], []

    def wait(seconds):
        waited.append(seconds)
        now_s[0] += seconds
        return len(waited) > 3

    pace = scrubber.Pace(1000, wait, lambda: now_s[0])
    for _ in range(3):
        pace(500)
    assert now_s[0] == pytest.approx(1.5)
    with pytest.raises(scrubber.Stopped):
        pace(100_000)
    assert max(waited) == scrubber.MAX_PAUSE_S


class StoreOfDrops:
    """Drops every block but those that begin with "e", and counts."""

    def __init__(self):
        self.n = 0

    def drop(self, block):
        self.n += 1
        if block[0] == "e":
            raise errors.DiskFault(path="/data", detail="input/output error")
        return True


def drop_order(number, *blocks):
    return {"order": number, "kind": "drop", "block": None, "size": None, "blocks": list(blocks), "chain": None, "rate": None}


def carried_out(store, *rounds):
    """Events of an Orders that takes these (epoch, order) one after the other."""
    events, told = [], threading.Condition()

    def tell(event):
        with told:
            events.append(event)
            told.notify_all()

    working = orders.Orders(store, None, tell, threading.Event, None)
    for n, (epoch, order) in enumerate(rounds, 1):
        working.take(epoch, [order])
        with told:
            assert told.wait_for(lambda: [e["kind"] for e in events].count("order_done") == n, 5.0)
    working.stop()
    return events


def test_an_order_that_comes_again_is_answered_again_and_not_done_again():
    store, order = StoreOfDrops(), drop_order(7, "a" * 32)
    events = carried_out(store, (1, order), (1, order))
    assert store.n == 1 and [e["kind"] for e in events] == ["dropped", "order_done", "order_done"] and events[1] == events[2]


def test_the_same_number_under_another_reign_is_another_order():
    store = StoreOfDrops()
    carried_out(store, (1, drop_order(7, "a" * 32)), (2, drop_order(7, "b" * 32)))
    assert store.n == 2


def test_a_drop_that_fails_in_part_names_what_is_gone_and_the_failure():
    events = carried_out(StoreOfDrops(), (1, drop_order(7, "a" * 32, "e" * 32, "b" * 32)))
    assert [e["block"] for e in events if e["kind"] == "dropped"] == ["a" * 32, "b" * 32]
    assert events[-1]["n"] == 2 and events[-1]["error"] == "disk_fault" and "input/output" in events[-1]["reason"]


def test_a_mass_drop_without_approval_is_refused_whole(monkeypatch):
    monkeypatch.setattr(orders.dropping, "FLOOR", 2)
    store = StoreOfDrops()
    store.space = lambda: StoreSpace(5)
    blocks = [f"{n:032x}" for n in range(5)]
    events = carried_out(store, (1, drop_order(7, *blocks[:2])), (1, drop_order(8, *blocks)), (1, {**drop_order(9, *blocks), "approved": True}))
    done = {event["order"]: event for event in events if event["kind"] == "order_done"}
    assert "error" not in done[7] and done[8]["error"] == "needs_approval" and done[9]["n"] == 5
    assert store.n == 2 + 5


class StoreSpace:
    def __init__(self, n_blocks):
        self.n_blocks = n_blocks
