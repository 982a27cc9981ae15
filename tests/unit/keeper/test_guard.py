"""Tickets at a keeper: each refusal, replays of writes, and what its processes know in common."""

import random
import secrets

import pytest
from keeper_helpers import KEYRING, META, Port, get, put

from dfs_lib import errors
from dfs_lib.keeper.guard import SPENT, Guard
from dfs_lib.keeper.shared import REFUSALS, Page
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


def signed(port, block, operation=trust.WRITE, user=trust.ADMIN, epoch=3, expires=1000, keeper=None, size=100, serial=9, key_id=0, key=None,
           path=META["path"], version=META["version"], number=0):
    ticket = trust.Ticket(operation, epoch, block, keeper or port.keeper_id, size, expires, serial, trust.user_digest(user), key_id, number)
    return trust.make_ticket(key or KEYRING.ticket, ticket, trust.file_of(path, version))


def altered(text):
    return ("B" if text[20] != "B" else "C").join((text[:20], text[21:]))


@pytest.mark.parametrize("change, words", [
    ({"block": "0" * 32}, "another block"), ({"keeper": "0" * 32}, "another keeper"), ({"epoch": 2}, "earlier master"),
    ({"expires": 99}, "expired"), ({"user": "anna.7"}, "somebody else"), ({"size": 3}, "allows 3 bytes"),
    ({"operation": trust.READ}, "another operation"), ({"key": b"x" * 32}, "not signed"), ({"key_id": 3}, "out of use"), ("altered", "not"),
    ({"path": "/b"}, "path and version"), ({"version": 8}, "path and version"), ({"operation": trust.COPY}, "another operation"),
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


def test_a_copy_says_what_its_source_says(port):
    """A keeper's ticket for a copy binds no path: a trailer keeps the name from before a rename. A client gets nowhere with one."""
    name, other = block(), "c" * 32
    as_keeper = port.connect(KEYRING.credentials("keeper", other))
    put(as_keeper, name, DATA, signed(port, name, trust.COPY, user=other, path="/elsewhere"))
    assert port.store.open(name).trailer()[0]["path"] == META["path"]
    with pytest.raises(errors.BadTicket, match="another operation"):
        get(port.connect(KEYRING.credentials("keeper", other)), name, 0, 5, signed(port, name, trust.COPY, user=other))


def numbered(number, epoch=3, name="b" * 32):
    return trust.Ticket(trust.WRITE, epoch, name, "b" * 32, 5, 9, (1 << 40) + number, b"u" * 8, 0, number)


def is_good(guard, ticket):
    try:
        guard.check_unspent(ticket)
    except errors.BadTicket:
        return False
    return True


def test_processes_share_what_is_spent_and_heard():
    page = Page(3)
    ticket = numbered(7)
    page.guard.check_unspent(ticket)
    page.guard.at_port(2).spend(ticket)
    page.guard.at_port(0)
    with pytest.raises(errors.BadTicket, match="used already"):
        page.guard.check_unspent(ticket)
    page.guard.check_unspent(numbered(8))
    page.guard.good_again(ticket)
    page.guard.check_unspent(ticket)
    guard = Guard(1)
    guard.heard(7, ["ff" * 8])
    assert guard.key_id == 7
    with pytest.raises(errors.BadTicket):
        guard.check_user(b"\xff" * 8)
    guard.heard(None, None)
    guard.check_user(b"\xff" * 8)
    assert guard.key_id == 7


def test_no_ticket_is_used_twice_however_many_come():
    """At the edge of what is remembered: a used ticket is refused as long as its cell holds it, and for its age from then on."""
    guard = Guard(2)
    first, last_kept, next_round = numbered(1), numbered(SPENT), numbered(SPENT + 1)
    guard.at_port(0).spend(first)
    guard.at_port(1).spend(last_kept)
    with pytest.raises(errors.BadTicket, match="used already"):
        guard.check_unspent(first)
    assert is_good(guard, numbered(2)), "one that lay unused while all others were used"
    guard.at_port(0).spend(next_round)  # takes over the first one's cell
    with pytest.raises(errors.BadTicket, match="too old"):
        guard.check_unspent(first)
    assert not is_good(guard, next_round) and not is_good(guard, last_kept) and is_good(guard, numbered(2)) and is_good(guard, numbered(SPENT + 2))
    guard.spend(numbered(SPENT + 2))
    with pytest.raises(errors.BadTicket, match="too old"):
        guard.check_unspent(numbered(2))


def test_a_put_that_took_very_long_takes_no_later_ones_place():
    guard = Guard(1)
    slow, later = numbered(5), numbered(5 + SPENT)
    guard.check_unspent(slow)
    guard.spend(later)
    guard.spend(slow)  # it ends only now
    assert not is_good(guard, later) and not is_good(guard, slow)


def test_places_of_every_order_by_chance():
    """Used in any order within the window, at any port: never again; those never used stay good until their age ends them."""
    dice, guard = random.Random(5), Guard(3)
    base, used = SPENT * 3 - 50, set()
    for number in range(base, base + 2000):
        if dice.random() < 0.3:
            continue
        late = max(base, number - dice.randrange(100))
        if late not in used:
            assert is_good(guard, numbered(late))
        guard.at_port(dice.randrange(3)).spend(numbered(late))
        used.add(late)
    for number in range(base, base + 2000):
        assert is_good(guard, numbered(number)) == (number not in used)


def test_the_numbers_of_a_new_reign_begin_again():
    guard = Guard(1)
    guard.spend(numbered(SPENT * 5, epoch=3))
    assert is_good(guard, numbered(1, epoch=4))
    guard.spend(numbered(1, epoch=4))
    assert not is_good(guard, numbered(1, epoch=4)) and is_good(guard, numbered(2, epoch=4))
    assert not is_good(guard, numbered(SPENT * 5, epoch=3)) and not is_good(guard, numbered(SPENT * 5 + 1, epoch=3))


def test_refusals_of_all_ports_outlive_their_processes():
    page, counts = Page(2), dict.fromkeys(REFUSALS, 0)
    page.slot(0).refused({**counts, "strangers_refused": 2, "connections_open": 7})
    page.slot(1).refused({**counts, "strangers_refused": 1, "conversations_broken": 4})
    again = page.slot(0)  # a new process on the same port, whose server counts from nothing
    again.refused({**counts, "strangers_refused": 5})
    again.refused({**counts, "strangers_refused": 6})
    assert page.refusals() == {**counts, "strangers_refused": 9, "conversations_broken": 4}
    assert page.slot(0).times(8)[0] == [0] * len(page.slot(0).times(8)[0]) and page.slot(1).counters()["pid"] == 0, "in cells of their own"
