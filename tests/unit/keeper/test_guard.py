"""Tickets at a keeper: each refusal, replays of writes, and what its processes know in common."""

import secrets

import pytest
from keeper_helpers import KEYRING, Port, get, put

from dfs_lib import errors
from dfs_lib.keeper.guard import Guard
from dfs_lib.keeper.shared import Page
from dfs_lib.wire import trust

DATA = b"some bytes"


@pytest.fixture
def port(tmp_path):
    port = Port(str(tmp_path / "k"))
    port.guard = port.service._gate.guard
    yield port
    port.close()


def block():
    return secrets.token_hex(16)


def signed(port, block, operation=trust.WRITE, user=trust.ADMIN, epoch=3, expires=1000, keeper=None, size=100, serial=9, key_id=0, key=None):
    ticket = trust.Ticket(operation, epoch, block, keeper or port.keeper_id, size, expires, serial, trust.user_digest(user), key_id)
    return trust.make_ticket(key or KEYRING.ticket, ticket)


def altered(text):
    return ("B" if text[20] != "B" else "C").join((text[:20], text[21:]))


@pytest.mark.parametrize("change, words", [
    ({"block": "0" * 32}, "another block"), ({"keeper": "0" * 32}, "another keeper"), ({"epoch": 2}, "earlier master"),
    ({"expires": 99}, "expired"), ({"user": "anna.7"}, "somebody else"), ({"size": 3}, "allows 3 bytes"),
    ({"operation": trust.READ}, "another operation"), ({"key": b"x" * 32}, "not signed"), ({"key_id": 3}, "out of use"), ("altered", "not"),
    ("void", "removed or has a newer key")])
def test_tickets_that_do_not_hold(port, change, words, caplog):
    port.guard.heard(5, None)
    name = block()
    if change == "altered":
        ticket = altered(signed(port, name, key_id=5))
    elif change == "void":
        ticket = signed(port, name, key_id=5)
        port.guard.heard(5, [trust.user_digest("bob.1").hex(), trust.user_digest(trust.ADMIN).hex()])
    else:
        ticket = signed(port, change.get("block", name), **{"key_id": 5, **{k: v for k, v in change.items() if k != "block"}})
    for _ in range(2):
        with pytest.raises(errors.BadTicket, match=words):
            put(port.connect(), name, DATA, ticket)
    assert not port.told("stored") and not port.half_made() and port.guard.n_refused() == 2
    assert len([line for line in caplog.messages if line.startswith("ticket refused")]) == 1, "logged once"


def test_overlap_of_ticket_keys(port):
    port.guard.heard(5, None)
    for key_id in (4, 5, 6):
        put(port.connect(), name := block(), DATA, signed(port, name, key_id=key_id, serial=20 + key_id))


def test_a_write_ticket_brings_nothing_back(port):
    name = block()
    ticket = signed(port, name)
    put(port.connect(), name, DATA, ticket)
    assert put(port.connect(), name, DATA, ticket).receipts, "the answer was lost: asked again, answered again"
    with pytest.raises(errors.FileExists):
        put(port.connect(), name, DATA[::-1], ticket)
    port.store.drop(name)
    with pytest.raises(errors.BadTicket, match="used already"):
        put(port.connect(), name, DATA, ticket)
    with pytest.raises(errors.DfsError):
        get(port.connect(), name, 0, 5, signed(port, name, trust.READ))
    assert not port.half_made()
    put(port.connect(), name, DATA, signed(port, name, serial=10))


def test_a_put_that_broke_may_be_tried_again_with_its_ticket(port):
    name = block()
    ticket = signed(port, name)
    with pytest.raises(errors.ChecksumMismatch):
        put(port.connect(), name, DATA, ticket, damage=0)
    put(port.connect(), name, DATA, ticket)


def test_processes_share_what_is_spent_and_heard():
    page = Page(3)
    ticket = trust.Ticket(trust.WRITE, 3, block(), "b" * 32, 5, 9, 1 << 40, b"u" * 8)
    assert not page.guard.is_spent(ticket)
    page.guard.at_port(2).spend(ticket)
    page.guard.at_port(0)
    assert page.guard.is_spent(ticket) and not page.guard.is_spent(ticket._replace(serial=(1 << 40) + 1))
    page.guard.good_again(ticket)
    assert not page.guard.is_spent(ticket)
    guard = Guard(1)
    guard.heard(7, ["ff" * 8])
    assert guard.key_id == 7
    with pytest.raises(errors.BadTicket):
        guard.check_user(b"\xff" * 8)
    guard.heard(None, None)
    guard.check_user(b"\xff" * 8)
    assert guard.key_id == 7
