"""The store against crashes between any two system calls, failing disks, damage, several processes, and bad ids."""

import errno
import json
import os
import random
import signal
import threading

import pytest

from dfs_lib import checksums, errors
from dfs_lib.keeper.block_format import FOOTER_SIZE
from dfs_lib.keeper.home import load_identity, lock, prepare, read_identity, save_cluster
from dfs_lib.keeper.store import Store
from dfs_lib.model import CHUNK_SIZE
from store_helpers import (CLUSTER, METADATA, block_id, crash_everywhere, data_of, empty, fails, file_of, files_below, killed_at,
                           outcome, put, read, stand_in)


@pytest.fixture
def directory(tmp_path):
    prepare(tmp_path / "keeper")
    return tmp_path / "keeper"


@pytest.fixture
def store(directory):
    with Store(directory, CLUSTER, slot="p1") as opened:
        yield opened


# -- the plain road -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size, pieces", [(0, None), (1, None), (4096, None), (4096, 1000), (CHUNK_SIZE, None),
                                          (CHUNK_SIZE + 1, CHUNK_SIZE), (3 * CHUNK_SIZE + 5, 700_001)])
def test_what_was_put_is_read(store, directory, size, pieces):
    block, data = block_id(1), data_of(size)
    put(store, block, data, pieces)
    assert read(store, block) == data
    metadata, crcs = store.trailer(block)
    assert crcs == checksums.crc_table(bytes.fromhex(block), data)
    assert metadata == {**METADATA, "cluster": CLUSTER, "block": block, "size": size, "last": True}
    assert store.verify(block) == size
    assert file_of(directory, block).read_bytes()[:size] == data  # head -c SIZE needs no dfs
    assert [str(p) for p in files_below(directory)] == [f"blocks/{block[-2:]}/{block}", "counters"]
    assert file_of(directory, block).stat().st_mode & 0o777 == 0o600


def test_one_chunk_goes_out_in_one_write_and_in_the_safe_order(store, monkeypatch):
    block, calls = block_id(2), []
    store.begin(block, METADATA, 0).abort()  # opens the directory that is kept open
    store.space()  # makes the counters
    stand_in(monkeypatch, lambda name, args: calls.append(name))
    put(store, block, data_of(4096))
    # The counters (pread, pwrite) are a hint; all else is the order that data safety hangs on.
    assert calls == ["access", "statvfs", "open", "writev", "fsync", "close", "replace", "pread", "pwrite", "fsync"]


def test_short_writes_are_continued(store, monkeypatch):
    block, data = block_id(3), data_of(CHUNK_SIZE + 10_000)
    real, rng = os.writev, random.Random(3)

    def before(name, args):
        if name == "writev" and sum(map(len, args[1])) > 1:
            joined = b"".join(args[1])
            return real(args[0], [joined[:rng.randrange(1, min(len(joined), 90_000))]])

    stand_in(monkeypatch, before)
    put(store, block, data)
    put(store, block_id(4), data[:5000])
    assert read(store, block) == data
    assert store.verify(block) == len(data)
    assert store.verify(block_id(4)) == 5000


def test_a_block_that_is_there_is_not_written_again(store):
    block = block_id(5)
    put(store, block, b"hello")
    with pytest.raises(errors.FileExists):
        store.begin(block, METADATA, 5)
    assert read(store, block) == b"hello"
    with store.begin(block, METADATA, 6) as incoming:  # another size: the old file makes way, into quarantine
        incoming.write(b"hellos")
        assert read(store, block) == b"hello"
        incoming.finish(checksums.crc_table(bytes.fromhex(block), b"hellos"))
    assert read(store, block) == b"hellos"
    assert [(kept.block, kept.reason) for kept in store.quarantined()] == [(block, "replaced by a newly written copy")]


def test_a_damaged_file_does_not_stand_in_the_way_of_a_good_copy(store, directory):
    block = block_id(6)
    put(store, block, b"hello")
    os.truncate(file_of(directory, block), 20)
    put(store, block, b"hello")
    assert store.verify(block) == 5
    assert [kept.file_size for kept in store.quarantined()] == [20]
    assert store.space().n_blocks == 1


def test_misuse_is_refused_and_leaves_nothing(store, directory):
    block, crcs = block_id(7), checksums.crc_table(bytes.fromhex(block_id(7)), b"hello")
    for act in (lambda i: i.write(b"hello!"), lambda i: i.finish(crcs), lambda i: (i.write(b"hell"), i.finish(crcs)),
                lambda i: (i.write(b"hello"), i.finish(crcs + crcs)), lambda i: (i.write(b"he"), i.write(b"llo!")),
                lambda i: (i.abort(), i.write(b"hello")), lambda i: (i.abort(), i.finish(crcs))):
        incoming = store.begin(block, METADATA, 5)
        with pytest.raises(errors.Misuse):
            act(incoming)
        assert files_below(directory) == ["counters"]
    assert store._promised == 0


@pytest.mark.parametrize("bad", ["", "../../../etc/passwd", "a" * 31, "a" * 33, "A" * 32, "a" * 32 + "\n", "a" * 31 + "/",
                                 "a" * 31 + "\0", "..", None, 5, b"a" * 32, "٣" * 32])
def test_a_bad_id_never_becomes_a_path(store, directory, bad):
    for act in (lambda: store.begin(bad, {}, 1), lambda: store.open(bad), lambda: store.drop(bad), lambda: store.verify(bad),
                lambda: store.quarantine(bad, ""), lambda: store.set_aside(bad), lambda: store.trailer(bad),
                lambda: store.restore(bad)):
        with pytest.raises(errors.BadName):
            act()
    assert files_below(directory) == ["counters"]


def test_links_and_pipes_are_not_blocks(store, directory, tmp_path):
    block, other = block_id(8), block_id(9)
    put(store, other, b"hello")
    (tmp_path / "outside").write_bytes(file_of(directory, other).read_bytes())
    file_of(directory, block).symlink_to(tmp_path / "outside")
    with pytest.raises(errors.IntegrityError, match="symbolic link"):
        store.open(block)
    put(store, block, b"new")
    assert read(store, block) == b"new"
    assert (tmp_path / "outside").read_bytes() == file_of(directory, other).read_bytes()
    os.mkfifo(file_of(directory, block_id(10)))
    with pytest.raises(errors.IntegrityError, match="no plain file"):
        store.open(block_id(10))
    # A bucket that is a link leads nowhere either.
    os.rmdir(directory / "blocks" / "00") if not any((directory / "blocks" / "00").iterdir()) else None
    (tmp_path / "elsewhere").mkdir()
    (directory / "blocks" / "00").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.DiskFault):
        put(store, "a" * 30 + "00", b"x")
    assert not any((tmp_path / "elsewhere").iterdir())


# -- away -------------------------------------------------------------------------------------------------------------
def test_drop(store):
    block = block_id(11)
    put(store, block, b"hello")
    with store.open(block) as reader:  # a reader that has it open finishes
        assert store.drop(block) is True
        assert os.pread(reader.fd, 5, 0) == b"hello"
    assert store.drop(block) is False
    for act in (store.open, store.verify, store.trailer):
        with pytest.raises(errors.BlockMissing):
            act(block)


def test_quarantine_keeps_every_one_with_its_reason(store, directory):
    block = block_id(12)
    for n, reason in enumerate(["chunk 3 is damaged", "again \N{BOMB}"], 1):
        put(store, block, b"hello" * n)
        assert store.quarantine(block, reason) is True
        with pytest.raises(errors.BlockMissing):
            store.open(block)
    assert store.quarantine(block, "gone") is False
    assert [(k.block, k.name, k.reason) for k in store.quarantined()] == [
        (block, block + ".1", "chunk 3 is damaged"), (block, block + ".2", "again \N{BOMB}")]
    assert len(files_below(directory / "quarantine")) == 4
    put(store, block, b"hello")
    assert store.set_aside(block) is True
    assert [(k.block, k.file_size > 5) for k in store.aside()] == [(block, True)]
    assert json.loads((directory / "aside" / (block + ".1.reason")).read_bytes())["block"] == block
    assert store.space().n_blocks == 0 and store.space().used == 0


def test_a_full_disk_does_not_keep_a_damaged_block_in_use(store, monkeypatch, directory):
    block = block_id(13)
    put(store, block, b"hello")
    def before(name, args):
        if name == "open" and str(args[0]).endswith(".reason"):
            raise OSError(errno.ENOSPC, "full")

    stand_in(monkeypatch, before)
    assert store.quarantine(block, "bad") is True
    monkeypatch.undo()
    put(store, block, b"hello")
    assert store.quarantine(block, "worse") is True
    assert [(k.name[-1], k.reason) for k in store.quarantined()] == [("1", ""), ("2", "worse")]


# -- crashes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size, pieces", [(4096, None), (2 * CHUNK_SIZE + 100, CHUNK_SIZE)])
def test_killed_anywhere_while_writing(directory, size, pieces):
    block, data, seen = block_id(20), data_of(size), set()

    def clean():
        with Store(directory, CLUSTER) as store:
            store.drop(block)

    def check(store, crashed):
        seen.add(outcome(store, block, data))
        assert crashed or outcome(store, block, data) == "whole"
        if outcome(store, block, data) == "absent":
            put(store, block, data)  # a retry after the crash succeeds
            assert outcome(store, block, data) == "whole"
        assert store.space().n_blocks == 1

    assert crash_everywhere(directory, clean, lambda store: put(store, block, data, pieces), check) > 10
    assert seen == {"absent", "whole"}


def test_killed_anywhere_while_dropping(directory):
    block, data, seen = block_id(21), data_of(5000), set()

    def fill():
        with Store(directory, CLUSTER) as store:
            if outcome(store, block, data) == "absent":
                put(store, block, data)

    def check(store, crashed):
        seen.add(outcome(store, block, data))
        assert crashed or outcome(store, block, data) == "absent"

    assert crash_everywhere(directory, fill, lambda store: store.drop(block), check) > 5
    assert seen == {"absent", "whole"}


@pytest.mark.parametrize("area", ["quarantine", "aside"])
def test_killed_anywhere_while_moving_away(directory, area):
    block, data = block_id(22), data_of(5000)

    def fill():
        empty(directory / area)  # else a later round has more calls to look for a free name
        with Store(directory, CLUSTER) as store:
            if outcome(store, block, data) == "absent":
                put(store, block, data)

    def check(store, crashed):
        # Nowhere is never the answer: it is in use, or kept.
        kept = store.quarantined() + store.aside()
        assert (outcome(store, block, data), [k.block for k in kept]) in [("whole", []), ("absent", [block])]
        assert crashed or kept

    def act(store):
        assert store.quarantine(block, "bad") if area == "quarantine" else store.set_aside(block)

    assert crash_everywhere(directory, fill, act, check) > 8


def test_killed_anywhere_while_replacing_a_damaged_block(directory):
    block, data = block_id(23), data_of(5000)

    def fill():
        empty(directory / "quarantine")
        with Store(directory, CLUSTER) as store:
            store.drop(block)
            put(store, block, data[:100])

    def check(store, crashed):
        # The old one is in use or kept, never gone; in its place is itself, nothing, or the whole new one.
        in_use = file_of(directory, block).exists() and store.trailer(block)[0]["size"] == 100
        kept = [k.block for k in store.quarantined()] == [block]
        assert in_use or (kept and outcome(store, block, data) in ("absent", "whole"))
        assert crashed or not in_use and outcome(store, block, data) == "whole"

    assert crash_everywhere(directory, fill, lambda store: put(store, block, data), check) > 20


def test_killed_anywhere_while_preparing_and_naming(tmp_path):
    for step in range(1, 2000, 7):
        top = tmp_path / str(step) / "deep" / "keeper"

        def start():
            prepare(top)
            load_identity(top, lambda: "a" * 32)
            save_cluster(top, CLUSTER)

        crashed = killed_at(step, start)
        if top.exists():
            assert read_identity_or_none(top) in [None, ("a" * 32, None), ("a" * 32, CLUSTER)]
        start()
        assert load_identity(top, lambda: pytest.fail("a second id")) == ("a" * 32, CLUSTER)
        with Store(top, CLUSTER) as store:
            put(store, block_id(step), b"hello")
        if not crashed:
            return
    raise AssertionError("it never ends")


def read_identity_or_none(top):
    found = read_identity(top)
    return found and tuple(found)


# -- failing disks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code, expected", [(errno.ENOSPC, errors.NoRoom), (errno.EDQUOT, errors.NoRoom),
                                            (errno.EIO, errors.DiskFault), (errno.EROFS, errors.DiskFault),
                                            (errno.EMFILE, errors.Busy)])
@pytest.mark.parametrize("call", ["open", "writev", "fsync", "close", "replace"])
@pytest.mark.parametrize("pieces", [None, 3000])
def test_a_failing_call_fails_one_block_cleanly(store, directory, monkeypatch, call, code, expected, pieces):
    block, data = block_id(30), data_of(9000)
    store.begin(block, METADATA, 1).abort()  # opens the bucket
    with monkeypatch.context() as patch:
        called = fails(patch, call, code)
        # close() tells its error and frees the fd all the same, so the stand-in must do so too.
        if call == "close":
            stand_in(patch, closes_and_fails(code))
        with pytest.raises(expected):
            put(store, block, data, pieces)
        assert called.count("fsync") <= 1  # never again on that fd
    assert files_below(directory) == ["counters"] or call == "close"
    assert store._promised == 0
    store.sweep("p1")
    with pytest.raises(errors.BlockMissing):
        store.open(block)
    put(store, block, data, pieces)  # the disk is well again, and so is the store
    assert store.verify(block) == 9000


def closes_and_fails(code):
    def before(name, args):
        if name == "close":
            os.close(args[0])
            raise OSError(code, os.strerror(code))

    return before


def test_a_failed_write_in_the_middle_of_a_large_block_removes_the_file(store, directory, monkeypatch):
    block = block_id(31)
    with monkeypatch.context() as patch:
        fails(patch, "writev", errno.ENOSPC, at=3)
        incoming = store.begin(block, METADATA, 4 * CHUNK_SIZE)
        incoming.write(bytes(CHUNK_SIZE))
        incoming.write(bytes(CHUNK_SIZE))
        assert len(os.listdir(directory / "incoming")) == 1
        with pytest.raises(errors.NoRoom):
            incoming.write(bytes(CHUNK_SIZE))
    assert files_below(directory) == ["counters"] and store._promised == 0


def test_a_failed_sync_of_the_directory_is_told_and_never_retried_on_its_fd(store, monkeypatch):
    block, other = block_id(32), block_id(32)[:-4] + "00" + block_id(32)[-2:]
    failing = []

    def before(name, args):
        if name == "fsync" and (not failing or args[0] in failing):
            if os.fstat(args[0]).st_mode & 0o040000:
                failing.append(args[0])
                raise OSError(errno.EIO, "EIO")

    stand_in(monkeypatch, before)
    with pytest.raises(errors.DiskFault):
        put(store, block, b"hello")
    # Whole, though nobody was promised it. A retry must make the name durable, through a directory opened anew.
    assert store.verify(block) == 5
    with pytest.raises(errors.FileExists):
        store.begin(block, METADATA, 5)
    put(store, other, b"hello")
    assert len(failing) == 1


@pytest.mark.parametrize("call", ["pread", "preadv"])
def test_failed_and_short_reads_are_disk_faults(store, monkeypatch, call):
    block = block_id(33)
    put(store, block, data_of(CHUNK_SIZE + 5))
    with monkeypatch.context() as patch:
        fails(patch, call, errno.EIO)
        with pytest.raises(errors.DiskFault):
            store.verify(block)
    with monkeypatch.context() as patch:  # ends early
        stand_in(patch, lambda name, args: 0 if name == "preadv" else None)
        with pytest.raises(errors.DiskFault, match="short read"):
            store.verify(block)
    real, rng = os.preadv, random.Random(5)  # short, but it goes on

    def before(name, args):
        if name == "preadv":
            return real(args[0], [args[1][0][:rng.randrange(1, 70_000)]], args[2])

    with monkeypatch.context() as patch:
        stand_in(patch, before)
        assert store.verify(block) == CHUNK_SIZE + 5


@pytest.mark.parametrize("call", ["unlink", "replace", "fsync"])
def test_drop_and_quarantine_tell_a_failing_disk(store, monkeypatch, call):
    for n, act in enumerate((store.drop, lambda b: store.quarantine(b, "x"))):
        block = block_id(340 + n)
        put(store, block, b"hello")
        with monkeypatch.context() as patch:
            fails(patch, call, errno.EROFS)
            if (call, n) in [("unlink", 1), ("replace", 0)]:
                assert act(block)  # it does not use that call
            else:
                with pytest.raises(errors.DiskFault):
                    act(block)


def test_too_many_open_files_on_reading_is_busy_not_damage(store, monkeypatch):
    block = block_id(35)
    put(store, block, b"hello")
    fails(monkeypatch, "open", errno.EMFILE)
    with pytest.raises(errors.Busy):
        store.open(block)


# -- damage -----------------------------------------------------------------------------------------------------------
def flip(raw, rng):
    at = rng.randrange(len(raw))
    raw[at] ^= 1 << rng.randrange(8)


def zero(raw, rng):
    at = rng.randrange(len(raw))
    raw[at:at + 512] = bytes(len(raw[at:at + 512]))


def cut(raw, rng):
    del raw[rng.randrange(len(raw)):]


def cut_out(raw, rng):
    at = rng.randrange(len(raw))
    del raw[at:at + rng.randrange(1, 5000)]


def grow(raw, rng):
    at = rng.choice([0, len(raw), rng.randrange(len(raw))])
    raw[at:at] = rng.randbytes(rng.randrange(1, 5000))


def shift_sectors(raw, rng):
    raw[0:512], raw[512:1024] = raw[512:1024], raw[0:512]


def footer_only(raw, rng):
    raw[len(raw) - rng.randrange(1, FOOTER_SIZE + 1)] ^= rng.randrange(1, 256)


def table_or_metadata(raw, rng):
    raw[len(raw) - FOOTER_SIZE - rng.randrange(1, 200)] ^= rng.randrange(1, 256)


@pytest.mark.parametrize("damage", [flip, zero, cut, cut_out, grow, shift_sectors, footer_only, table_or_metadata],
                         ids=lambda f: f.__name__)
@pytest.mark.parametrize("size", [3000, CHUNK_SIZE + 4321])
def test_damage_anywhere_is_found(store, directory, damage, size):
    block, data, rng = block_id(40), data_of(size), random.Random(f"{damage.__name__} {size}")
    put(store, block, data)
    good = file_of(directory, block).read_bytes()
    for round_ in range(120 if size == 3000 else 15):
        raw = bytearray(good)
        damage(raw, rng)
        if bytes(raw) == good:
            continue
        file_of(directory, block).write_bytes(raw)
        with pytest.raises(errors.IntegrityError):
            store.verify(block)
            pytest.fail(f"round {round_} was not found")
    file_of(directory, block).write_bytes(good)
    assert store.verify(block) == size


def test_swapped_blocks_and_swapped_data_are_found(store, directory):
    one, two = block_id(41), block_id(42)
    data = data_of(CHUNK_SIZE + 10)
    put(store, one, data)
    put(store, two, data[::-1])
    a, b = file_of(directory, one), file_of(directory, two)
    raw_a, raw_b = a.read_bytes(), b.read_bytes()
    a.write_bytes(raw_b), b.write_bytes(raw_a)
    for block in (one, two):
        with pytest.raises(errors.IntegrityError, match="holds block"):
            store.open(block)
    # The data alone swapped, under trailers that are right for the names.
    size = len(data)
    a.write_bytes(raw_b[:size] + raw_a[size:]), b.write_bytes(raw_a[:size] + raw_b[size:])
    for block in (one, two):
        with store.open(block):
            pass
        with pytest.raises(errors.ChecksumMismatch):
            store.verify(block)


def test_the_same_data_under_another_id_does_not_pass(store, directory):
    one, two, data = block_id(43), block_id(44), data_of(3000)
    put(store, one, data)
    crcs_of_another = checksums.crc_table(bytes.fromhex(one), data)
    with store.begin(two, METADATA, 3000) as incoming:
        incoming.write(data)
        incoming.finish(crcs_of_another)
    with pytest.raises(errors.ChecksumMismatch):
        store.verify(two)


def test_verify_names_the_chunk_and_pauses_after_each(store, directory):
    block, data = block_id(45), data_of(3 * CHUNK_SIZE + 5)
    put(store, block, data)
    read_bytes = []
    assert store.verify(block, bytearray(CHUNK_SIZE), read_bytes.append, cold=True) == len(data)
    assert read_bytes == [CHUNK_SIZE] * 3 + [5]
    with open(file_of(directory, block), "r+b") as file:
        file.seek(2 * CHUNK_SIZE)
        file.write(bytes([data[2 * CHUNK_SIZE] ^ 1]))
    with pytest.raises(errors.ChecksumMismatch) as caught:
        store.verify(block)
    assert (caught.value.facts["chunk"], caught.value.facts["block"]) == (2, block)


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 51, b"\0" * 52, b"\0" * 4096])
def test_empty_and_zeroed_files_are_damage(store, directory, content):
    block = block_id(46)
    file_of(directory, block).write_bytes(content)
    with pytest.raises(errors.IntegrityError):
        store.open(block)


# -- listing, counting, room ------------------------------------------------------------------------------------------
def test_list_is_sorted_whole_and_skips_what_is_no_block(store, directory):
    rng = random.Random(9)
    blocks = {rng.randbytes(16).hex(): rng.randrange(3000) for _ in range(700)}
    for block, size in blocks.items():
        put(store, block, bytes(size))
    (directory / "blocks" / "00" / "note.txt").write_text("by hand")
    damaged = sorted(blocks)[5]
    os.truncate(file_of(directory, damaged), 10)
    told = []
    listed = list(store.list(damaged=lambda block, error: told.append((block, error.code))))
    assert listed == sorted((b, s) for b, s in blocks.items() if b != damaged)
    assert told == [(damaged, "integrity")]
    lazily = store.list()
    assert next(lazily) == listed[0]
    store.drop(listed[1][0])
    assert next(lazily) == listed[2]  # it vanished meanwhile


def test_counters_are_shared_by_processes_and_counted_anew_at_start(directory):
    with Store(directory, CLUSTER, slot="a") as a, Store(directory, CLUSTER, slot="b") as b:
        assert a.space()[::2] == (0, 0)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with Store(directory, CLUSTER, slot="c") as c:
                    for n in range(50, 60):
                        put(c, block_id(n), bytes(n))
                code = 0
            finally:
                os._exit(code)
        for n in range(60, 70):
            put(a, block_id(n), bytes(n))
        assert os.waitpid(pid, 0)[1] == 0
        b.drop(block_id(50))
        used = sum(file_of(directory, block_id(n)).stat().st_size for n in range(51, 70))
        assert a.space()[::2] == b.space()[::2] == (used, 19)
        os.unlink(file_of(directory, block_id(51)))  # behind the store's back
        assert b.space().n_blocks == 19
        a.sweep()
        assert b.space().n_blocks == 18


def test_the_reserve_is_kept(directory):
    facts = os.statvfs(directory)
    free = facts.f_bavail * facts.f_frsize
    with Store(directory, CLUSTER, reserve=free + (1 << 40)) as store:
        assert store.space().free == 0
        with pytest.raises(errors.NoRoom):
            store.begin(block_id(70), METADATA, 1)
    with Store(directory, CLUSTER, reserve=free // 2) as store:
        store._free = lambda: free
        with pytest.raises(errors.NoRoom):
            store.begin(block_id(70), METADATA, free)
        first = store.begin(block_id(70), METADATA, free // 2 - 1000)
        with pytest.raises(errors.NoRoom):  # what is promised to the first is not there for a second
            store.begin(block_id(71), METADATA, free // 2 - 1000)
        first.abort()
        first.abort()
        store.begin(block_id(71), METADATA, free // 2 - 1000).abort()


def test_sweep_takes_one_slots_leftovers_or_all(directory):
    with Store(directory, CLUSTER, slot="p1") as one, Store(directory, CLUSTER, slot="p10") as ten:
        begun = [store.begin(block_id(80), METADATA, 10) for store in (one, ten)]
        for incoming in begun:
            incoming.write(b"half")
        assert one.sweep("p1") == 1
        assert os.listdir(directory / "incoming") == ["p10~1"]
        with pytest.raises(errors.DiskFault):  # swept from under it: it must not claim success
            begun[0].write(b"-done!")
            begun[0].finish(bytes(4))
        begun[1].write(b"-done!")
        begun[1].finish(checksums.crc_table(bytes.fromhex(block_id(80)), b"half-done!"))
        (directory / "incoming" / "strange").write_bytes(b"")
        assert ten.sweep() == 1
        assert ten.verify(block_id(80)) == 10


def test_a_leftover_of_the_same_slot_is_not_written_over(directory):
    with Store(directory, CLUSTER, slot="p1") as before:
        incoming = before.begin(block_id(81), METADATA, 10)
        incoming.write(b"half")
        with Store(directory, CLUSTER, slot="p1") as after:
            put(after, block_id(82), b"x", pieces=1)
            other = after.begin(block_id(83), METADATA, 2)
            other.write(b"x")
            assert len(os.listdir(directory / "incoming")) == 2
            other.abort()
        incoming.abort()
    assert os.listdir(directory / "incoming") == []


def test_many_threads_and_the_same_block_twice(store, directory):
    failures = []

    def work(worker):
        for n in range(40):
            try:
                put(store, block_id(n), data_of(2000, n))
            except errors.FileExists:
                pass
            except Exception as e:
                failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == [] and store._promised == 0
    assert list(store.list()) == [(block_id(n), 2000) for n in range(40)]
    assert all(store.verify(block_id(n)) for n in range(40))
    assert os.listdir(directory / "incoming") == []


@pytest.mark.parametrize("slot", ["", "a/b", "..", ".a", "a~b", "a" * 65, "a\n"])
def test_a_slot_must_be_a_plain_name(directory, slot):
    with pytest.raises(errors.Misuse):
        Store(directory, CLUSTER, slot=slot)


def test_closing_leaves_no_descriptor(directory):
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with Store(directory, CLUSTER) as store:
        for n in range(300):
            put(store, block_id(n), b"x")
        with pytest.raises(errors.BlockMissing):
            store.open("f" * 32)
        store.begin(block_id(999), METADATA, 5).abort()
    with pytest.raises(errors.DiskFault):
        Store(directory / "nowhere", CLUSTER)
    assert before == (os.listdir("/proc/self/fd") if before else [])


# -- the directory as a whole -----------------------------------------------------------------------------------------
def test_prepare_makes_private_directories(tmp_path):
    top = tmp_path / "a" / "b"
    prepare(top)
    prepare(top)
    assert sorted(os.listdir(top)) == ["aside", "blocks", "incoming", "quarantine"]
    assert sorted(os.listdir(top / "blocks")) == [f"{n:02x}" for n in range(256)]
    assert {path.stat().st_mode & 0o777 for path in [top, *top.rglob("*")]} == {0o700}


def test_prepare_refuses_what_cannot_hold_blocks(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DiskFault):
        prepare(tmp_path / "file")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "blocks").symlink_to(tmp_path)
    with pytest.raises(errors.DiskFault):
        prepare(tmp_path / "k")
    assert not (tmp_path / "00").exists()


def test_identity_is_made_once_and_bound_to_one_cluster(directory):
    ids = iter(["1" * 32, "2" * 32])
    assert load_identity(directory, lambda: next(ids)) == ("1" * 32, None)
    save_cluster(directory, CLUSTER)
    save_cluster(directory, CLUSTER)
    assert load_identity(directory, lambda: next(ids)) == ("1" * 32, CLUSTER)
    with pytest.raises(errors.WrongCluster) as caught:
        save_cluster(directory, "d" * 32)
    assert CLUSTER in caught.value.message
    assert (directory / "keeper.json").stat().st_mode & 0o777 == 0o600
    assert read_identity(directory).cluster_id == CLUSTER


@pytest.mark.parametrize("content", [b"", b"\0" * 90, b"{", b"[]", b"7", b'{"format":1}', b"[" * 50_000,
                                     b'{"format":1,"keeper_id":"../x","cluster_id":null}',
                                     b'{"format":1,"keeper_id":5,"cluster_id":null}'])
def test_an_unreadable_identity_is_never_replaced_by_a_new_one(directory, content):
    (directory / "keeper.json").write_bytes(content)
    with pytest.raises(errors.IntegrityError, match="keeper.json"):
        load_identity(directory, lambda: pytest.fail("a new id"))
    assert (directory / "keeper.json").read_bytes() == content


def test_a_newer_format_is_refused_by_name(directory):
    (directory / "keeper.json").write_text(json.dumps({"format": 2, "keeper_id": "1" * 32, "cluster_id": None}))
    with pytest.raises(errors.Refusal, match="format 2.*knows format 1"):
        load_identity(directory, lambda: pytest.fail("a new id"))


def test_one_daemon_a_directory(directory):
    held = lock(directory)
    with pytest.raises(errors.DirectoryInUse):
        lock(directory)
    os.close(held)
    os.close(lock(directory))


def test_the_lock_ends_with_its_process(directory):
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            lock(directory)
            os.write(tell, b"x")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    with pytest.raises(errors.DirectoryInUse):
        lock(directory)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(lock(directory))
    os.close(ready), os.close(tell)
