"""Many small blocks in one message to a real port on a real store, and on to the next one."""

import errno
import os
import threading
import time

import pytest

import keeper_helpers as h
from dfs_lib import checksums, errors
from dfs_lib.keeper import disk
from dfs_lib.model import MIB
from dfs_lib.wire import messages, trust
from test_service import new_block, ports, until  # noqa: F401 (a fixture)


def entry(keepers, block, data, **change):
    """A block's entry of PutBlocks for a chain of these keepers."""
    users = [trust.ADMIN, *(keeper.keeper_id for keeper in keepers)]
    return {"block": block, "size": len(data), "crc": checksums.chunk_crc(bytes.fromhex(block), 0, data), "path": f"/{block}", "version": 7,
            "block_size": 64 * MIB, "mtime_at": 5.5, "copies": 3,
            "tickets": [keeper.ticket(block, len(data), user=user, path=f"/{block}") for keeper, user in zip(keepers, users)], **change}


def put(stream, keepers, blocks, **changes):
    """Put {block: data} down the chain; the results by block. changes: {block: fields of its entry}."""
    chain = [{"keeper": keeper.keeper_id, "host": "127.0.0.1", "ports": [keeper.port]} for keeper in keepers[1:]]
    answer = stream.ask(messages.PutBlocks(blocks=[entry(keepers, block, data, **changes.get(block, {})) for block, data in blocks.items()],
                                           chain=chain), b"".join(blocks.values()), timeout_s=5.0)
    return dict(zip(blocks, answer.results, strict=True))


def get(stream, keeper, sizes):
    """({block: data}, {block: code of the refusal}) of GetBlocks."""
    answer = stream.ask(messages.GetBlocks(blocks=[
        {"block": block, "size": size, "ticket": keeper.ticket(block, size, trust.READ)} for block, size in sizes.items()]), timeout_s=5.0)
    body, given, refused = stream.body(), {}, {}
    for (block, size), result in zip(sizes.items(), answer.results, strict=True):
        if result["refused"]:
            refused[block] = result["refused"]["error"]
        else:
            given[block], body = body[:size], body[size:]
    assert not body
    return given, refused


def some(n=5, size=1000):
    return {new_block(): os.urandom(size + index) for index in range(n)}


def fault(result):
    return [(failed["keeper"], failed["error"]) for failed in result["failed"]]


def receipts_hold(result, keepers, block, data):
    crcs = checksums.crc_table(bytes.fromhex(block), data)
    return [r["keeper"] for r in result["receipts"]] == [keeper.keeper_id for keeper in keepers] and all(
        trust.check_receipt(h.KEYRING.ticket, block, r["keeper"], len(data), crcs, r["proof"]) for r in result["receipts"])


@pytest.mark.parametrize("n_keepers", [1, 2, 3])
def test_a_lot_goes_down_the_chain_and_comes_back(ports, n_keepers):
    keepers, blocks = [ports() for _ in range(n_keepers)], some()
    stream = keepers[0].connect()
    results = put(stream, keepers, blocks)
    for block, data in blocks.items():
        assert receipts_hold(results[block], keepers, block, data) and results[block]["failed"] == []
    for keeper in keepers:
        other = keeper.connect()
        assert get(other, keeper, {block: len(data) for block, data in blocks.items()}) == (blocks, {})
        other.close()
        assert sorted(row[0] for event in keeper.told("stored") for row in event["stored"]) == sorted(blocks)
        assert keeper.half_made() == [] and keeper.slot.n_in == sum(map(len, blocks.values())) and keeper.store.space().n_blocks == len(blocks)
        for block, data in blocks.items():
            metadata, crcs = keeper.store.trailer(block)
            assert crcs == checksums.crc_table(bytes.fromhex(block), data) and keeper.store.verify(block) == len(data)
            assert metadata["path"] == f"/{block}" and metadata["file_size"] == len(data) and metadata["last"] is True and metadata["index"] == 0
        size = sum(map(len, blocks.values()))
        # What has gone is counted when it has gone, and by then the answer may be here.
        until(lambda: (keeper.slot.from_clients, keeper.slot.to_clients) == (size if keeper is keepers[0] else 0, size))
    stream.close()


def test_one_block_s_trouble_is_its_own(ports):
    first, second, blocks = ports(), ports(), some(6)
    damaged, stranger, spent, taken, fine, again = blocks
    stream = first.connect()
    n_taken = len(blocks[taken])
    h.put(stream, taken, b"x" * n_taken, first.ticket(taken, n_taken))
    keepers = [first, second]
    results = put(stream, keepers, blocks, **{
        damaged: {"crc": 1}, stranger: {"tickets": [first.ticket(new_block(), 5000, path=f"/{stranger}"), second.ticket(stranger, 5000, path=f"/{stranger}")]},
        spent: {"tickets": [first.ticket(spent, 5000, path=f"/{spent}"), "not a ticket"]}})
    assert fault(results[damaged]) == [(first.keeper_id, "checksum")] and results[damaged]["receipts"] == []
    assert fault(results[stranger]) == [(first.keeper_id, "bad_ticket")] and results[stranger]["receipts"] == []
    assert fault(results[spent]) == [(second.keeper_id, "bad_ticket")] and len(results[spent]["receipts"]) == 1
    assert fault(results[taken]) == [(first.keeper_id, "exists")] and [r["keeper"] for r in results[taken]["receipts"]] == [second.keeper_id]
    for block in (fine, again):
        assert receipts_hold(results[block], keepers, block, blocks[block]) and results[block]["failed"] == []
    for keeper in keepers:
        assert damaged not in [raw.hex() for raw in keeper.store.ids()] and keeper.half_made() == []
    # The same lot once more is answered from what is there.
    assert receipts_hold(put(stream, keepers, {fine: blocks[fine]})[fine], keepers, fine, blocks[fine])
    # Under an old ticket nothing that was dropped comes back.
    first.store.drop(fine)
    assert fault(put(stream, [first], {fine: blocks[fine]})[fine]) == [(first.keeper_id, "bad_ticket")]
    stream.close()


@pytest.mark.parametrize("when", ["before it is told", "while it is told"])
def test_what_was_dropped_meanwhile_is_not_left_on_record(ports, when):
    """The process that carries out orders drops a block and says so at once; the news of its storing is still being gathered."""
    keeper, blocks = ports(), some(3)
    stream, (lost, *kept) = keeper.connect(), blocks
    put(stream, [keeper], blocks)
    tell = keeper.service._gate.tell
    if when == "before it is told":
        keeper.store.drop(lost)
    else:
        keeper.service._gate.tell = lambda event: (event["kind"] == "stored" and keeper.store.drop(lost), tell(event))
    keeper.service.flush()
    told = [event for event in keeper.events if event["kind"] != "transfer_done"]
    if when == "before it is told":
        assert [event["kind"] for event in told] == ["stored"] and [row[0] for row in told[0]["stored"]] == kept
    else:
        assert [event["kind"] for event in told] == ["stored", "dropped"] and told[1] == {"kind": "dropped", "block": lost}
    stream.close()


def test_a_keeper_that_is_away_fails_for_all_and_stops_nothing(ports):
    first, away, blocks = ports(), ports(), some()
    away.server.stop()
    stream = first.connect()
    for block, result in put(stream, [first, away], blocks).items():
        assert receipts_hold(result, [first], block, blocks[block]) and [failed["keeper"] for failed in result["failed"]] == [away.keeper_id]
    stream.close()


@pytest.mark.parametrize("at", [0, 2])
def test_a_block_whose_sync_fails_is_no_promise_and_the_others_are_kept(ports, monkeypatch, at):
    keeper, blocks, calls = ports(), some(4), []
    real = os.fsync

    def fsync(fd):
        calls.append(fd)
        if len(calls) == at + 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    stream = keeper.connect()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        results = put(stream, [keeper], blocks)
    lost = list(blocks)[at]
    assert fault(results[lost]) == [(keeper.keeper_id, "disk_fault")] and keeper.told("sick")
    assert sorted(raw.hex() for raw in keeper.store.ids()) == sorted(set(blocks) - {lost}) and keeper.half_made() == []
    assert all(results[block]["receipts"] for block in blocks if block != lost)
    assert put(stream, [keeper], {lost: blocks[lost]})[lost]["receipts"]
    stream.close()


def test_a_directory_whose_sync_fails_takes_back_the_promise_of_its_blocks(ports, monkeypatch):
    keeper, blocks = ports(), {f"{index:030x}{'ab' if index % 2 else 'cd'}": b"x" * 10 for index in range(4)}
    real = keeper.store.sync

    def sync(directory):
        if directory.path.endswith("ab"):
            raise errors.DiskFault(path=directory.path, detail="as the test wished")
        real(directory)

    stream = keeper.connect()
    with monkeypatch.context() as patch:
        patch.setattr(keeper.store, "sync", sync)
        results = put(stream, [keeper], blocks)
    assert {block for block in blocks if results[block]["receipts"]} == {block for block in blocks if block.endswith("cd")}
    stream.close()


def test_what_is_not_there_or_damaged_is_refused_and_told(ports):
    keeper, blocks = ports(), some(4)
    missing, damaged, _longer, _good = blocks
    stream = keeper.connect()
    put(stream, [keeper], {block: data for block, data in blocks.items() if block != missing})
    with open(os.path.join(keeper.store.path, "blocks", damaged[-2:], damaged), "r+b") as file:
        file.truncate(500)
    sizes = {block: len(data) for block, data in blocks.items()}
    given, refused = get(stream, keeper, sizes)
    assert refused == {missing: "block_missing", damaged: "integrity"} and set(given) == set(blocks) - set(refused)
    assert {event["block"] for event in keeper.told("bad")} == {missing, damaged}
    stream.close()


@pytest.mark.parametrize("change", ["body", "tickets"])
def test_a_lot_that_does_not_add_up_is_refused_whole(ports, change):
    keeper, blocks = ports(), some(2)
    stream = keeper.connect()
    entries = [entry([keeper], block, data) for block, data in blocks.items()]
    if change == "tickets":
        entries[1]["tickets"] *= 2
    with pytest.raises((errors.ProtocolError, errors.NetworkError)):
        stream.ask(messages.PutBlocks(blocks=entries, chain=[]), b"".join(blocks.values()) + b"x" * (change == "body"), timeout_s=5.0)
    assert list(keeper.store.ids()) == [] and keeper.half_made() == []
    stream.close()


def test_slow_syncs_are_done_side_by_side_and_each_error_stays_in_its_place(monkeypatch):
    together, most, lock = [], [], threading.Lock()

    def slow(fd):
        with lock:
            together.append(fd)
            most.append(len(together))
        time.sleep(0.02)
        with lock:
            together.remove(fd)
        if fd == 7:
            raise OSError(errno.EIO, "as the test wished")

    monkeypatch.setattr(disk, "fsync", slow)
    outcomes = disk.fsync_all(list(range(12)))
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 7 + [OSError] + [type(None)] * 4 and 1 < max(most) <= disk.SYNCS_AT_ONCE
    most.clear()
    monkeypatch.setattr(disk, "fsync", lambda fd: None)
    n_threads = threading.active_count()
    assert disk.fsync_all(list(range(50))) == [None] * 50 and threading.active_count() == n_threads


def test_what_no_sync_came_back_from_is_not_taken_for_synced(monkeypatch):
    ended = []

    def fsync(fd):
        if threading.current_thread().name == "sync":
            raise MemoryError
        time.sleep(2 * disk.SLOW_SYNC_S)

    monkeypatch.setattr(disk, "fsync", fsync)
    monkeypatch.setattr(threading, "excepthook", lambda facts: ended.append(facts.exc_type))
    outcomes = disk.fsync_all(list(range(40)))
    assert ended and set(ended) == {MemoryError}
    assert sum(isinstance(outcome, OSError) for outcome in outcomes) == len(ended) and outcomes.count(None) == 40 - len(ended)


def test_a_block_that_stands_twice_in_a_lot_is_refused(ports):
    keeper, block = ports(), new_block()
    stream = keeper.connect()
    with pytest.raises((errors.ProtocolError, errors.NetworkError)):
        stream.ask(messages.PutBlocks(blocks=[entry([keeper], block, data) for data in (b"one", b"two")], chain=[]), b"onetwo", timeout_s=5.0)
    assert list(keeper.store.ids()) == [] and keeper.half_made() == []
    stream.close()
