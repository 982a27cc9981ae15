"""One keeper's port over real sockets and a real store: blocks in, along chains, out, and everything that is refused."""

import errno
import os
import secrets
import socket
import threading
import time

import pytest

import keeper_helpers as h
from dfs_lib import checksums, errors
from dfs_lib.keeper import onward
from dfs_lib.model import CHUNK_SIZE, MIB
from dfs_lib.wire import messages, trust


@pytest.fixture
def ports(tmp_path):
    """Function: make a fresh keeper port; all are closed in the end and none may have a transfer left."""
    made = []

    def make(**rest):
        made.append(h.Port(str(tmp_path / f"k{len(made)}"), **rest))
        return made[-1]

    yield make
    for port in made:
        port.close()
        assert port.slot.active == 0


def new_block():
    return secrets.token_hex(16)


def until(condition, seconds=5.0):
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "not reached in time"
        threading.Event().wait(0.005)


@pytest.fixture
def stall():
    """A listening socket that accepts and then says nothing; (host, port)."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()


SIZES = [0, 1, 4096, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * MIB + 17]


@pytest.mark.parametrize("size", SIZES)
def test_a_block_comes_back_as_it_was_put(ports, size):
    keeper, block, data = ports(), new_block(), os.urandom(size)
    stream = keeper.connect()
    written = h.put(stream, block, data, keeper.ticket(block, size))
    crcs = checksums.crc_table(bytes.fromhex(block), data)
    assert [r["keeper"] for r in written.receipts] == [keeper.keeper_id] and written.failed == []
    assert trust.check_receipt(h.KEYRING.ticket, block, keeper.keeper_id, size, crcs, written.receipts[0]["proof"])
    assert keeper.told("stored") == [{"kind": "stored", "stored": [[block, size, crcs.hex()]]}]
    # The same connection goes on to serve.
    ticket = keeper.ticket(block, size, trust.READ)
    assert h.get(stream, block, 0, size, ticket) == data
    for offset, count in [(0, 0), (size // 2, size - size // 2), (max(0, size - 70_000), min(size, 70_000))]:
        assert h.get(stream, block, offset, count, ticket) == data[offset:offset + count]
    stream.close()
    metadata, table = keeper.store.trailer(block)
    assert table == crcs and metadata["path"] == "/a" and metadata["cluster"] == h.CLUSTER_ID and metadata["last"] is True
    # One for each transfer, whatever became of it: the port leases end with them.
    until(lambda: keeper.service.flush() or sum(len(event["serials"]) for event in keeper.told("transfer_done")) == 5)
    assert keeper.half_made() == [] and keeper.slot.n_in == size
    assert (keeper.slot.from_clients, keeper.slot.to_clients) == (size, keeper.slot.n_out) and keeper.slot.n_out >= size


@pytest.mark.parametrize("n_keepers", [2, 3])
@pytest.mark.parametrize("size", [100, 2 * MIB + 5])
def test_a_chain_stores_everywhere_and_answers_with_all_receipts(ports, n_keepers, size):
    keepers, block, data = [ports() for _ in range(n_keepers)], new_block(), os.urandom(size)
    chain = [after.hop(block, size, before.keeper_id) for before, after in zip(keepers, keepers[1:])]
    stream = keepers[0].connect()
    for _ in range(2):  # the second time over kept connections between keepers
        written = h.put(stream, block, data, keepers[0].ticket(block, size), chain)
        assert [r["keeper"] for r in written.receipts] == [k.keeper_id for k in keepers] and written.failed == []
        block_now, block = block, new_block()
        chain = [after.hop(block, size, before.keeper_id) for before, after in zip(keepers, keepers[1:])]
        for keeper in keepers:
            assert keeper.store.verify(block_now) == size
    stream.close()
    # What the client sends counts as its own once, however many keepers it passes.
    assert [keeper.slot.from_clients for keeper in keepers] == [2 * size] + [0] * (n_keepers - 1)


def test_two_keepers_reuse_their_connection_for_small_blocks(ports):
    first, second = ports(), ports()
    stream = first.connect()
    for _ in range(5):
        block = new_block()
        h.put(stream, block, b"small", first.ticket(block, 5), [second.hop(block, 5, first.keeper_id)])
    assert second.server.n_accepted == 1
    stream.close()


def test_a_kept_connection_that_has_gone_stale_is_replaced(ports):
    first, second = ports(), ports()
    stream = first.connect()
    for n in range(2):
        block = new_block()
        written = h.put(stream, block, b"small", first.ticket(block, 5), [second.hop(block, 5, first.keeper_id)])
        assert len(written.receipts) == 2 and written.failed == []
        second.server.close_connections(time.monotonic())  # as a restarted port process leaves it
    stream.close()


def test_a_refused_port_of_the_next_keeper_is_no_reason_to_give_it_up(ports):
    first, second, block = ports(), ports(), new_block()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead_port = closed.getsockname()[1]
    stream = first.connect()
    hop = second.hop(block, 5, first.keeper_id, ports=[dead_port, second.port])
    assert len(h.put(stream, block, b"small", first.ticket(block, 5), [hop]).receipts) == 2
    stream.close()


@pytest.mark.parametrize("size", [100, 3 * MIB])
@pytest.mark.parametrize("how", ["dead", "silent", "refusing"])
def test_a_failing_next_keeper_costs_its_copy_and_nothing_else(ports, stall, how, size):
    first, second, block, data = ports(), ports(), new_block(), os.urandom(size)
    hop = second.hop(block, size, first.keeper_id)
    code = {"dead": "connect_failed", "silent": "timeout", "refusing": "bad_ticket"}[how]
    if how == "dead":
        second.server.stop(0)
    elif how == "silent":
        hop["ports"] = [stall[1]]
    else:
        hop["ticket"] = second.ticket(block, size, user="somebody else")
    stream, began_s = first.connect(), time.monotonic()
    written = h.put(stream, block, data, first.ticket(block, size), [hop])
    assert [r["keeper"] for r in written.receipts] == [first.keeper_id]
    assert [(f["keeper"], f["error"]) for f in written.failed] == [(second.keeper_id, code)]
    assert time.monotonic() - began_s < 2.5
    assert first.store.verify(block) == size
    stream.close()


def test_a_next_keeper_that_stalls_in_the_middle_of_a_block_is_left_behind(ports):
    first, second, block, data = ports(), ports(), new_block(), os.urandom(12 * MIB)
    held = threading.Event()
    receive = second.service._receive
    second.service._receive = lambda *args: held.wait(10) and receive(*args)  # takes PutBlock, then reads no further
    stream, began_s = first.connect(), time.monotonic()
    written = h.put(stream, block, data, first.ticket(block, len(data)), [second.hop(block, len(data), first.keeper_id)])
    held.set()
    assert len(written.receipts) == 1 and written.failed[0]["error"] == "timeout"
    assert time.monotonic() - began_s < 8.0  # not the ten seconds that the other one holds
    assert first.store.verify(block) == len(data)
    until(lambda: second.half_made() == [] and second.slot.active == 0)
    with pytest.raises(errors.BlockMissing):
        second.store.open(block)
    stream.close()


def test_a_slow_disk_down_the_chain_is_waited_for(ports):
    first, second, block = ports(), ports(), new_block()
    begin = second.store.begin

    def slow(*args):
        incoming = begin(*args)

        class Slow:
            is_new = True
            write, abort = incoming.write, incoming.abort

            def finish(self, crcs):
                threading.Event().wait(onward.ANSWER_S + 0.7)  # longer than silence is allowed; Working frames bridge it
                incoming.finish(crcs)

        return Slow()

    second.store.begin = slow
    stream = first.connect()
    written = h.put(stream, block, b"x" * 100, first.ticket(block, 100), [second.hop(block, 100, first.keeper_id)])
    assert len(written.receipts) == 2
    stream.close()


@pytest.mark.parametrize("damage", [0, 1, 2])
def test_a_damaged_chunk_is_refused_and_nothing_is_kept_anywhere(ports, damage):
    first, second, block, data = ports(), ports(), new_block(), os.urandom(2 * MIB + 1)
    stream = first.connect()
    with pytest.raises(errors.ChecksumMismatch):
        h.put(stream, block, data, first.ticket(block, len(data)), [second.hop(block, len(data), first.keeper_id)], damage=damage)
    for keeper in (first, second):
        until(lambda: keeper.slot.active == 0 and keeper.half_made() == [])
        with pytest.raises(errors.BlockMissing):
            keeper.store.open(block)
        assert keeper.told("stored") == []
    stream.close()


def test_a_client_that_dies_in_the_middle_leaves_nothing(ports):
    first, second, block, data = ports(), ports(), new_block(), os.urandom(3 * MIB)
    stream = first.connect()
    h.begin_put(stream, block, data, first.ticket(block, len(data)), [second.hop(block, len(data), first.keeper_id)])
    until(lambda: second.half_made())  # it has arrived at both
    stream.close()
    for keeper in (first, second):
        until(lambda: keeper.half_made() == [] and keeper.slot.active == 0)


def test_a_chunk_of_the_wrong_length_ends_the_conversation(ports):
    keeper, block, data = ports(), new_block(), os.urandom(2 * MIB)
    stream = keeper.connect()
    h.begin_put(stream, block, data, keeper.ticket(block, len(data)))
    crc, part = h.chunks(block, data)[1]
    stream.send(messages.BlockChunk(crc=crc), part[:1000])
    with pytest.raises(errors.PeerGone):
        stream.answer()
    until(lambda: keeper.half_made() == [] and keeper.slot.active == 0)
    stream.close()


BAD_TICKETS = {
    "for reading": dict(operation=trust.READ), "of somebody else": dict(user="eve"), "of another keeper": dict(keeper="9" * 32),
    "of an earlier reign": dict(epoch=2), "too small": dict(size=99), "expired": dict(expires=99),
}


@pytest.mark.parametrize("case", [*BAD_TICKETS, "forged", "of another block", "garbage"])
def test_without_the_right_ticket_nothing_is_written(ports, case):
    keeper, block = ports(), new_block()
    if case in BAD_TICKETS:
        ticket = keeper.ticket(block, **{"size": 100, **BAD_TICKETS[case]})
    elif case == "forged":
        packed = trust.Ticket(trust.WRITE, 3, block, keeper.keeper_id, 100, 1000, 1, trust.user_digest(trust.ADMIN))
        ticket = trust.make_ticket(b"k" * 32, packed)
    else:
        ticket = keeper.ticket(new_block(), 100) if case == "of another block" else "garbage"
    stream = keeper.connect()
    with pytest.raises(errors.BadTicket):
        h.put(stream, block, b"x" * 100, ticket)
    assert keeper.half_made() == [] and list(keeper.store.ids()) == [] and keeper.told("stored") == []
    stream.close()


def test_a_ticket_of_a_newer_reign_is_honoured(ports):
    keeper, block = ports(), new_block()
    stream = keeper.connect()
    assert h.put(stream, block, b"abc", keeper.ticket(block, 3, epoch=4, expires=1)).receipts
    stream.close()


def test_a_write_ticket_reads_nothing(ports):
    keeper, block = ports(), new_block()
    stream = keeper.connect()
    h.put(stream, block, b"abc", keeper.ticket(block, 3))
    with pytest.raises(errors.BadTicket):
        h.get(stream, block, 0, 3, keeper.ticket(block, 3))
    stream.close()


@pytest.mark.parametrize("size", [100, 2 * MIB + 3])
def test_a_retried_put_is_answered_and_passed_on_as_if_it_were_the_first(ports, size):
    first, second, block, data = ports(), ports(), new_block(), os.urandom(size)
    stream = first.connect()
    alone = h.put(stream, block, data, first.ticket(block, size))
    written = h.put(stream, block, data, first.ticket(block, size), [second.hop(block, size, first.keeper_id)])
    assert written.receipts[0] == alone.receipts[0] and len(written.receipts) == 2
    assert second.store.verify(block) == size and len(list(first.store.ids())) == 1
    stream.close()


def test_other_bytes_under_a_stored_id_are_refused(ports):
    keeper, block = ports(), new_block()
    stream = keeper.connect()
    h.put(stream, block, b"first", keeper.ticket(block, 5))
    with pytest.raises(errors.FileExists):
        h.put(stream, block, b"other", keeper.ticket(block, 5))
    assert h.get(stream, block, 0, 5, keeper.ticket(block, 5, trust.READ)) == b"first"
    stream.close()


def test_a_retried_put_does_not_vouch_for_rotten_bytes(ports):
    keeper, block, data = ports(), new_block(), os.urandom(1000)
    stream = keeper.connect()
    h.put(stream, block, data, keeper.ticket(block, 1000))
    with open(os.path.join(keeper.store.path, "blocks", block[-2:], block), "r+b") as file:
        file.write(bytes([data[0] ^ 1]))
    with pytest.raises(errors.ChecksumMismatch):
        h.put(stream, block, data, keeper.ticket(block, 1000))
    assert [kept.block for kept in keeper.store.quarantined()] == [block]
    assert h.put(stream, block, data, keeper.ticket(block, 1000)).receipts  # and now there is place for a good copy
    assert keeper.store.verify(block) == 1000
    stream.close()


def test_a_missing_block_is_told_to_asker_and_master(ports):
    keeper, block = ports(), new_block()
    stream = keeper.connect()
    with pytest.raises(errors.BlockMissing):
        h.get(stream, block, 0, 3, keeper.ticket(block, 3, trust.READ))
    assert [event["block"] for event in keeper.told("bad")] == [block]
    stream.send(messages.Ping())
    assert stream.answer() == messages.Done()  # the connection has survived
    stream.close()


@pytest.mark.parametrize("damage", ["cut", "grown", "longer asked"])
def test_a_replica_of_the_wrong_length_is_not_served(ports, damage):
    keeper, block, data = ports(), new_block(), os.urandom(200_000)
    stream = keeper.connect()
    h.put(stream, block, data, keeper.ticket(block, len(data)))
    path = os.path.join(keeper.store.path, "blocks", block[-2:], block)
    if damage != "longer asked":
        os.truncate(path, os.path.getsize(path) + (-1 if damage == "cut" else 1))
    count = len(data) + (damage == "longer asked")
    with pytest.raises(errors.IntegrityError):
        h.get(stream, block, 0, count, keeper.ticket(block, 1 << 20, trust.READ))
    assert [event["block"] for event in keeper.told("bad")] == [block]
    stream.close()


def test_a_full_disk_refuses_and_goes_on_serving(ports):
    keeper, block, data = ports(), new_block(), os.urandom(2 * MIB)
    stream = keeper.connect()
    h.put(stream, block, data, keeper.ticket(block, len(data)))
    keeper.store.reserve = 1 << 60
    for size in (10, 2 * MIB):
        full = keeper.connect()
        with pytest.raises(errors.NoRoom):
            h.put(full, other := new_block(), data[:size], keeper.ticket(other, size))
        full.close()
    assert h.get(stream, block, 0, len(data), keeper.ticket(block, len(data), trust.READ)) == data
    assert keeper.half_made() == [] and keeper.told("sick") == []  # full is not sick
    stream.close()


@pytest.mark.parametrize("fault, error, sick", [(errno.ENOSPC, errors.NoRoom, False), (errno.EIO, errors.DiskFault, True)])
def test_a_failing_fsync_is_no_promise(ports, monkeypatch, fault, error, sick):
    keeper, block = ports(), new_block()

    def fsync(_fd):
        raise OSError(fault, os.strerror(fault))

    stream = keeper.connect()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(error):
            h.put(stream, block, b"abc", keeper.ticket(block, 3))
    assert keeper.half_made() == [] and keeper.told("stored") == [] and bool(keeper.told("sick")) == sick
    assert h.put(stream, block, b"abc", keeper.ticket(block, 3)).receipts
    stream.close()


def test_a_port_with_all_its_transfers_under_way_says_busy(ports):
    keeper, block = ports(max_transfers=0), new_block()
    stream = keeper.connect()
    with pytest.raises(errors.Busy):
        h.put(stream, block, b"abc", keeper.ticket(block, 3))
    assert keeper.service.n_transfers_refused() == 1 and keeper.slot.active == 0
    stream.close()


def test_what_only_a_master_answers_is_refused_in_words(ports):
    keeper = ports()
    stream = keeper.connect()
    with pytest.raises(errors.NotMaster):
        stream.ask(messages.Status())
    stream.close()


def test_many_at_once_share_buffers_and_lose_nothing(ports):
    keeper, data = ports(), os.urandom(MIB + 100)
    blocks, failures = [new_block() for _ in range(24)], []

    def work(mine):
        try:
            stream = keeper.connect()
            for block in mine:
                h.put(stream, block, data, keeper.ticket(block, len(data)))
                assert h.get(stream, block, 0, len(data), keeper.ticket(block, len(data), trust.READ)) == data
            stream.close()
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(blocks[i::6],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and sum(len(event["stored"]) for event in keeper.told("stored")) == 24 and len(keeper.service._buffers) <= 6
