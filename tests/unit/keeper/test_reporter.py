"""What a keeper tells with its notices: bytes moved once a second at most, and events in the order in which they happened."""

import types

import keeper_helpers as h
import pytest

from dfs_lib.keeper import reporter, shared
from dfs_lib.keeper.store import Store, prepare
from dfs_lib.net import inherited
from dfs_lib.wire import messages


class Master:
    """A connection to a master."""

    address = "m:7000"

    def __init__(self):
        self.told = []

    def ask(self, message, body=None, timeout_s=None):
        self.told.append(message.moved)
        return messages.Notified(epoch=3, tick=7)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """(Reporter, its Page, its clock as a list of one number)."""
    clock = [1000.0]
    monkeypatch.setattr(reporter.time, "monotonic", lambda: clock[0])
    prepare(tmp_path / "k")
    page = shared.Page(2)
    store = Store(tmp_path / "k", h.CLUSTER_ID, 0, "slot0")
    facts = types.SimpleNamespace(keeper_id="ab" * 16, cluster_id=h.CLUSTER_ID, disk_timeout_s=5.0)
    made = reporter.Reporter(facts, h.KEYRING, store, page, None, shared.HighestEpoch(str(tmp_path)), None, None, None)
    yield made, page, clock
    store.close()


def test_totals_go_out_once_a_second_however_often_there_is_news(told):
    made, page, clock = told
    page.slot(0).moves(100, 20)
    master = Master()
    for _ in range(40):
        made._notify(master)
        clock[0] += 0.125
    page.slot(1).moves(5, 0)
    page.slot(2).copies(7)
    clock[0] += 1.0
    made._notify(master)
    sent = [moved for moved in master.told if moved is not None]
    assert sent == [{"from_clients": 100, "to_clients": 20, "copied": 0}] * 5 + [{"from_clients": 105, "to_clients": 20, "copied": 7}]


def test_what_a_port_has_posted_before_a_drop_is_told_before_it(told):
    """Else the older word would put the replica on record again (the simulation found that, seed 432)."""
    made, page, _clock = told
    made._mailbox = mailbox = inherited.Mailbox()
    try:
        shared.Teller(mailbox, page.slot(0))({"kind": "stored", "stored": [["ab" * 16, 3, "00000000"]]})
        made.tell({"kind": "dropped", "block": "ab" * 16})
        assert [event["kind"] for event in made.events.first()] == ["stored", "dropped"]
        assert mailbox.read_now() is None
    finally:
        mailbox.close()
