"""Blocks back from aside/ and quarantine/: only whole ones, over nothing that is good, and at no moment nowhere."""

import errno
import os
import threading

import pytest

from dfs_lib import errors
from dfs_lib.keeper.home import prepare
from dfs_lib.keeper.store import Store
from dfs_lib.model import CHUNK_SIZE
from store_helpers import (CLUSTER, block_id, crash_everywhere, data_of, empty, fails, file_of, files_below, outcome, put, read,
                           stand_in)

AREAS = pytest.mark.parametrize("area", ["aside", "quarantine"])


@pytest.fixture
def directory(tmp_path):
    prepare(tmp_path / "keeper")
    return tmp_path / "keeper"


@pytest.fixture
def store(directory):
    with Store(directory, CLUSTER, slot="p1") as opened:
        yield opened


def put_away(store, block, data, area, reason="looked bad"):
    put(store, block, data)
    assert store.quarantine(block, reason) if area == "quarantine" else store.set_aside(block, reason)


def flip(path, at=0):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def names(kept):
    return [one.name for one in kept]


@AREAS
@pytest.mark.parametrize("size", [0, 5, 2 * CHUNK_SIZE + 77])
def test_a_whole_block_comes_back(store, directory, area, size):
    block, data = block_id(1), data_of(size)
    put(store, block, data)
    before = store.space()[::2]
    assert store.quarantine(block, "x") if area == "quarantine" else store.set_aside(block)
    assert store.space()[::2] == (0, 0)
    assert store.restore(block) is True
    assert read(store, block) == data and store.verify(block) == size
    assert store.space()[::2] == before
    assert files_below(directory) == [f"blocks/{block[-2:]}/{block}", "counters"]  # its reason has gone as well


def test_all_of_it_is_read_before_the_rename_and_synced_after(store, monkeypatch):
    block, calls = block_id(2), []
    put_away(store, block, data_of(CHUNK_SIZE + 5), "aside")
    stand_in(monkeypatch, lambda name, args: calls.append(name))
    assert store.restore(block) is True
    at = calls.index("replace")
    assert calls[:at].count("preadv") == 2 and "fsync" in calls[:at] and calls[at - 1] == "access"
    assert [call for call in calls[at:] if call in ("replace", "fsync", "unlink")] == ["replace", "fsync", "unlink", "fsync"]


def test_nothing_kept_is_no_error(store, directory):
    assert store.restore(block_id(3)) is False
    put_away(store, block_id(4), b"another", "aside")
    assert store.restore(block_id(3)) is False
    assert names(store.aside()) == [block_id(4) + ".1"]


@AREAS
@pytest.mark.parametrize("size", [5, CHUNK_SIZE + 77])
def test_damage_anywhere_keeps_it_out_of_use(store, directory, area, size):
    block = block_id(5)
    put_away(store, block, data_of(size), area)
    path = directory / area / (block + ".1")
    good = path.read_bytes()
    for at in (0, size - 1, size, len(good) - 60, len(good) - 1):
        flip(path, at)
        bad = path.read_bytes()
        assert store.restore(block) is False
        assert path.read_bytes() == bad and not file_of(directory, block).exists()
        path.write_bytes(good)
    for raw in (good[:-1], good + b"\0", b"", good[:100]):
        path.write_bytes(raw)
        assert store.restore(block) is False
    assert [(k.name, k.reason) for k in store._kept(area)] == [(block + ".1", "looked bad")]
    path.write_bytes(good)  # mended by hand
    assert store.restore(block) is True


def test_another_block_a_link_or_a_pipe_under_its_name_does_not_come_back(store, directory, tmp_path):
    block, other = block_id(6), block_id(7)
    put_away(store, other, b"hello", "aside")
    os.rename(directory / "aside" / (other + ".1"), directory / "aside" / (block + ".1"))
    put(store, block, b"hello")
    os.rename(file_of(directory, block), tmp_path / "outside")
    (directory / "aside" / (block + ".2")).symlink_to(tmp_path / "outside")
    os.mkfifo(directory / "aside" / (block + ".3"))
    os.mkdir(directory / "aside" / (block + ".4"))
    assert store.restore(block) is False
    assert not file_of(directory, block).exists() and (tmp_path / "outside").exists()


def test_aside_comes_first_then_the_latest_and_damaged_ones_are_passed_over(store, directory):
    block = block_id(8)
    for n in range(1, 12):  # .10 and .11 sort before .2 as text
        put_away(store, block, b"q" * n, "quarantine")
    for n in range(1, 4):
        put_away(store, block, b"a" * n, "aside")
    flip(directory / "aside" / (block + ".3"))
    flip(directory / "quarantine" / (block + ".11"))
    came = []
    for _ in range(4):
        assert store.restore(block) is True
        came.append(read(store, block))
        store.drop(block)
    assert came == [b"aa", b"a", b"q" * 10, b"q" * 9]
    assert names(store.aside()) == [block + ".3"] and len(store.quarantined()) == 9


def test_a_whole_block_in_use_stays_and_nothing_moves(store, directory):
    block = block_id(9)
    put_away(store, block, b"old", "aside")
    put(store, block, b"in use")
    before = files_below(directory)
    assert store.restore(block) is True
    assert read(store, block) == b"in use" and files_below(directory) == before


def test_a_damaged_block_in_use_makes_way(store, directory):
    block = block_id(10)
    put_away(store, block, b"hello", "aside")
    put(store, block, b"hello")
    flip(file_of(directory, block))
    assert store.restore(block) is True
    assert store.verify(block) == 5 and store.space().n_blocks == 1
    kept, = store.quarantined()
    assert "chunk 0" in kept.reason and store.aside() == []


def test_a_damaged_block_in_use_goes_to_quarantine_also_when_none_is_whole(store, directory):
    block = block_id(11)
    put(store, block, b"hello")
    flip(file_of(directory, block))
    assert store.restore(block) is False
    with pytest.raises(errors.BlockMissing):
        store.open(block)
    assert names(store.quarantined()) == [block + ".1"]


def test_a_kept_block_without_a_reason_comes_back(store, directory):
    block = block_id(12)
    put_away(store, block, b"hello", "quarantine")
    os.unlink(directory / "quarantine" / (block + ".1.reason"))
    assert store.restore(block) is True
    assert files_below(directory / "quarantine") == []


def test_moved_away_and_back_again_and_again(store, directory):
    block = block_id(13)
    put(store, block, b"hello")
    for n in range(5):
        assert (store.quarantine(block, str(n)) if n % 2 else store.set_aside(block)) and store.restore(block)
    assert files_below(directory) == [f"blocks/{block[-2:]}/{block}", "counters"]
    assert store.space()[::2] == (file_of(directory, block).stat().st_size, 1)


# -- crashes and failing disks ----------------------------------------------------------------------------------------
@AREAS
def test_killed_anywhere_while_restoring(directory, area):
    block, data, seen = block_id(20), data_of(5000), set()

    def fill():
        empty(directory / area)
        with Store(directory, CLUSTER) as store:
            store.drop(block)
            put_away(store, block, data, area)

    def check(store, crashed):
        # Nowhere is never the answer: in use and whole, or kept. (Both: a power cut between the two syncs may show that.)
        kept = [k.block for k in store.quarantined() + store.aside()]
        seen.add(outcome(store, block, data))
        assert (outcome(store, block, data), kept) in [("whole", []), ("absent", [block])]
        assert crashed or outcome(store, block, data) == "whole"
        assert store.restore(block) is True
        assert outcome(store, block, data) == "whole" and store.space().n_blocks == 1

    assert crash_everywhere(directory, fill, lambda store: store.restore(block), check) > 20
    assert seen == {"absent", "whole"}


def test_killed_anywhere_while_a_damaged_block_makes_way(directory):
    block, data = block_id(21), data_of(5000)

    def fill():
        empty(directory / "quarantine")
        empty(directory / "aside")
        with Store(directory, CLUSTER) as store:
            store.drop(block)
            put_away(store, block, data, "aside")
            put(store, block, data)
        flip(file_of(directory, block))

    def check(store, crashed):
        in_use = file_of(directory, block).exists()
        assert len(store.aside()) + len(store.quarantined()) + in_use == 2
        assert store.restore(block) is True
        assert outcome(store, block, data) == "whole" and len(store.quarantined()) == 1 and store.aside() == []

    assert crash_everywhere(directory, fill, lambda store: store.restore(block), check) > 30


@AREAS
@pytest.mark.parametrize("call", ["open", "pread", "preadv", "fsync", "replace", "unlink", "listdir"])
@pytest.mark.parametrize("code, expected", [(errno.EIO, errors.DiskFault), (errno.EMFILE, errors.Busy)])
def test_a_failing_call_is_told_and_loses_nothing(store, directory, monkeypatch, area, call, code, expected):
    block, data = block_id(22), data_of(9000)
    put_away(store, block, data, area)
    with monkeypatch.context() as patch:
        fails(patch, call, code)
        with pytest.raises(expected):
            store.restore(block)
    assert (outcome(store, block, data), len(store._kept(area))) in [("whole", 0), ("absent", 1)]
    assert store.restore(block) is True  # the disk is well again
    assert outcome(store, block, data) == "whole" and store.space().n_blocks == 1


def test_a_failed_sync_of_the_bucket_is_no_promise(store, directory, monkeypatch):
    block = block_id(23)
    put_away(store, block, b"hello", "aside")
    with monkeypatch.context() as patch:
        fails(patch, "fsync", errno.EIO, at=2)  # the first is the file's own
        with pytest.raises(errors.DiskFault):
            store.restore(block)
    assert store.verify(block) == 5
    called = fails(monkeypatch, "nothing", 0)
    assert store.restore(block) is True
    assert "fsync" in called and "replace" not in called  # there already, but only now durably


def test_one_that_cannot_be_read_does_not_hide_a_whole_one(store, directory, monkeypatch):
    block, failing = block_id(24), []
    put_away(store, block, data_of(100, 1), "quarantine")
    put_away(store, block, data_of(200, 2), "quarantine")

    def before(name, args):
        if name == "preadv" and (not failing or args[0] in failing):
            failing.append(args[0])
            raise OSError(errno.EIO, "EIO")

    def close_too(name, args):  # the number may come again for another file
        if name == "close" and args[0] in failing:
            failing[:] = [-1]
        return before(name, args)

    stand_in(monkeypatch, close_too)
    assert store.restore(block) is True
    monkeypatch.undo()
    assert read(store, block) == data_of(100, 1) and names(store.quarantined()) == [block + ".2"]


# -- several at once --------------------------------------------------------------------------------------------------
def test_a_copy_stored_meanwhile_is_not_replaced(store, directory, monkeypatch):
    block, done = block_id(30), []
    put_away(store, block, b"kept", "aside")

    def before(name, args):
        if name == "preadv" and not done:
            done.append(True)
            with Store(directory, CLUSTER, slot="p2") as other:
                put(other, block, b"newly put")

    stand_in(monkeypatch, before)
    assert store.restore(block) is True
    assert done and read(store, block) == b"newly put"
    assert names(store.aside()) == [block + ".1"] and store.quarantined() == []


def test_another_process_that_is_quicker_has_done_it_for_both(store, directory, monkeypatch):
    block, done = block_id(31), []
    put_away(store, block, b"hello", "aside")

    def before(name, args):
        if name == "replace" and not done:
            done.append(True)
            with Store(directory, CLUSTER, slot="p2") as other:
                assert other.restore(block) is True

    stand_in(monkeypatch, before)
    assert store.restore(block) is True
    monkeypatch.undo()
    assert done and read(store, block) == b"hello" and files_below(directory / "aside") == []
    assert store.space().n_blocks == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_many_threads_restore_the_same_blocks(store, directory, damaged):
    blocks, answers = [block_id(n) for n in range(40, 60)], []
    for block in blocks:
        put_away(store, block, data_of(2000), "aside")
        if damaged:
            put(store, block, data_of(2000))
            flip(file_of(directory, block))

    def work():
        for block in blocks:
            try:
                answers.append(store.restore(block))
            except Exception as e:
                answers.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # A thread may move to quarantine what another has just brought back in place of the damaged one, and bring it back
    # itself; a third that looks in between sees none. Nothing is lost by that, and nothing bad comes back.
    assert answers == [True] * 80 or damaged and set(answers) == {True, False}
    assert all(store.restore(block) and read(store, block) == data_of(2000) for block in blocks)
    assert len(store.quarantined()) == (20 if damaged else 0) and store.aside() == []
