"""Downloads against a small cluster: every size and target, damage, silence, resume, ranges, a master that restarts."""

import io
import os
import threading
import time

import pytest
from fake_cluster import BLOCK_SIZE, Cluster, pattern

from dfs_lib import errors, model
from dfs_lib.client import localfiles

MIB = model.MIB
SIZES = (0, 1, MIB - 1, MIB, MIB + 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 9 * BLOCK_SIZE + 12345)


@pytest.fixture
def cluster():
    with Cluster() as made:
        yield made


def stored(cluster, size, path="/f", seed=1, **how):
    data = pattern(size, seed)
    cluster.client().put(io.BytesIO(data), path, mtime_at=1_600_000_000.25, **how)
    for keeper in cluster.keepers:
        keeper.seen.clear()
    return data


def block_at(cluster, index, path="/f"):
    return cluster.file(path)["blocks"][index]["block"]


def first_keeper(cluster, index=0, path="/f"):
    return cluster.keeper(cluster.master.where[block_at(cluster, index, path)][0])


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_comes_back_whole_with_its_time_and_nothing_beside_it(cluster, tmp_path, size):
    data = stored(cluster, size)
    shown = []
    result = cluster.client().get("/f", tmp_path / "out", progress=shown.append)
    assert (tmp_path / "out").read_bytes() == data and sum(shown) == size
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").stat().st_mtime == 1_600_000_000.25
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o666 & ~localfiles.umask()
    assert result["size"] == size and result["version"] == cluster.file("/f")["version"] and result["resumed_bytes"] == 0
    assert bool(result["keepers"]) == bool(size)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_object_gets_the_bytes_in_order(cluster, size):
    data = stored(cluster, size)
    out = io.BytesIO()
    assert cluster.client().get("/f", out)["size"] == size
    assert out.getvalue() == data


def test_one_question_to_the_master_serves_many_blocks(cluster, tmp_path):
    stored(cluster, 20 * BLOCK_SIZE)
    cluster.client().get("/f", tmp_path / "out")
    assert cluster.master.asked["OpenDownload"] == 1


def test_pages_of_blocks_name_the_version_of_the_first_one(cluster, tmp_path):
    data = stored(cluster, 9 * BLOCK_SIZE)
    cluster.master.page = 2
    client, other = cluster.client(jobs=2), pattern(100, 2)
    once = threading.Event()

    def replace(message):
        if type(message).__name__ == "OpenDownload" and message.files[0]["first"] > 0 and not once.is_set():
            once.set()
            cluster.client().put(io.BytesIO(other), "/f")

    cluster.master.before = replace
    client.get("/f", tmp_path / "out")
    assert once.is_set() and (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("first,last", ((0, 0), (5, 9), (MIB - 1, MIB), (BLOCK_SIZE - 3, BLOCK_SIZE + 3),
                                        (MIB + 7, 3 * BLOCK_SIZE + 1), (3 * BLOCK_SIZE, None), (0, 10**12)))
def test_a_range_gives_exactly_its_bytes_and_fetches_only_its_chunks(cluster, tmp_path, first, last):
    data = stored(cluster, 3 * BLOCK_SIZE + 100)
    expected = data[first:] if last is None else data[first:last + 1]
    out = io.BytesIO()
    result = cluster.client().get("/f", out, byte_range=(first, last))
    assert out.getvalue() == expected and result["size"] == len(expected)
    cluster.client(block_size=model.BLOCK_SIZE).get("/f", tmp_path / "out", byte_range=(first, last))
    assert (tmp_path / "out").read_bytes() == expected


@pytest.mark.parametrize("first,last", ((100, None), (100, 200), (5, 3), (-1, 3)))
def test_a_range_outside_the_file_is_refused(cluster, first, last):
    stored(cluster, 100)
    with pytest.raises(errors.UsageError):
        cluster.client().get("/f", io.BytesIO(), byte_range=(first, last))


# -- damage and silence -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", (0, MIB, BLOCK_SIZE - 1))
@pytest.mark.parametrize("to_file", (True, False))
def test_a_damaged_replica_is_reported_and_never_served(cluster, tmp_path, offset, to_file):
    data = stored(cluster, 3 * BLOCK_SIZE)
    keeper, block = first_keeper(cluster, 1), block_at(cluster, 1)
    keeper.corrupt(block, offset)
    out = io.BytesIO()
    cluster.client().get("/f", tmp_path / "out" if to_file else out)
    assert ((tmp_path / "out").read_bytes() if to_file else out.getvalue()) == data
    assert [(one, by) for one, by, _reason in cluster.master.bad] == [(block, keeper.id)]


def test_a_missing_block_is_reported_and_read_elsewhere(cluster, tmp_path):
    data = stored(cluster, BLOCK_SIZE)
    keeper, block = first_keeper(cluster), block_at(cluster, 0)
    keeper.forget(block)
    cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert [(one, by) for one, by, _reason in cluster.master.bad] == [(block, keeper.id)]


def test_when_all_replicas_are_damaged_it_says_so_and_leaves_no_file(cluster, tmp_path):
    stored(cluster, BLOCK_SIZE)
    block = block_at(cluster, 0)
    for keeper in cluster.keepers:
        if block in keeper.blocks:
            keeper.corrupt(block)
    with pytest.raises(errors.AllReplicasBad, match="/f") as caught:
        cluster.client().get("/f", tmp_path / "out")
    assert caught.value.status == 5 and len(cluster.master.bad) == 2
    assert not (tmp_path / "out").exists()


def test_when_the_block_is_missing_everywhere_it_is_an_integrity_error(cluster, tmp_path):
    stored(cluster, 100)
    for keeper in cluster.keepers:
        keeper.blocks.clear()
    with pytest.raises(errors.AllReplicasBad):
        cluster.client().get("/f", tmp_path / "out")


def test_when_every_keeper_is_dead_it_is_no_live_replica(cluster, tmp_path):
    stored(cluster, 100)
    for keeper in cluster.keepers:
        keeper.kill()
    with pytest.raises(errors.NoLiveReplica, match="/f") as caught:
        cluster.client().get("/f", tmp_path / "out")
    assert caught.value.status == 1
    names = {keeper["keeper_id"]: keeper["name"] for keeper in cluster.client().status().keepers}
    holders = [keeper.id for keeper in cluster.keepers if block_at(cluster, 0) in keeper.blocks]
    assert holders and all(f"{names[keeper]}: " in caught.value.message and keeper[:8] not in caught.value.message for keeper in holders)


def flip_on_the_wire(keeper, n):
    """The next n answers of a keeper arrive with one bit changed; what it has stays good."""
    get, left = keeper._get, [n]

    def flipping(message, exchange):
        if left[0] <= 0:
            return get(message, exchange)
        left[0] -= 1
        good = keeper.blocks[message.block]
        keeper.corrupt(message.block, message.offset)
        try:
            return get(message, exchange)
        finally:
            keeper.blocks[message.block] = good

    keeper._get = flipping


def test_one_flip_on_the_wire_is_no_damage(cluster, tmp_path):
    data = stored(cluster, BLOCK_SIZE)
    keeper = first_keeper(cluster)
    flip_on_the_wire(keeper, 1)
    result = cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data and cluster.master.bad == []
    assert result["keepers"] == [keeper.id]


def test_a_chunk_that_is_wrong_twice_is_damage(cluster, tmp_path):
    data = stored(cluster, BLOCK_SIZE)
    keeper = first_keeper(cluster)
    flip_on_the_wire(keeper, 2)
    result = cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data and [by for _block, by, _reason in cluster.master.bad] == [keeper.id]
    assert result["keepers"] != [keeper.id]


def test_damage_with_others_out_of_reach_may_be_tried_later(cluster, tmp_path):
    stored(cluster, 100)
    keeper, block = first_keeper(cluster), block_at(cluster, 0)
    keeper.corrupt(block)
    for other in cluster.keepers:
        if other is not keeper:
            other.kill()
    with pytest.raises(errors.NoLiveReplica) as caught:
        cluster.client().get("/f", tmp_path / "out")
    assert caught.value.retry == errors.LATER and [by for _block, by, _reason in cluster.master.bad] == [keeper.id]


def test_a_damaged_chunk_continues_at_that_chunk_on_the_next_source(cluster, tmp_path):
    stored(cluster, BLOCK_SIZE)
    block = block_at(cluster, 0)
    first_keeper(cluster).corrupt(block, MIB)
    shown = []
    cluster.client().get("/f", tmp_path / "out", progress=shown.append)
    assert shown == [MIB, MIB]


def test_a_keeper_that_dies_in_the_middle_of_a_block_is_left_for_the_next(cluster, tmp_path):
    data = stored(cluster, 2 * BLOCK_SIZE)
    first_keeper(cluster).die_at_chunk = 1
    cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data and cluster.master.bad == []


@pytest.mark.parametrize("fault", ("freeze", "stall"))
def test_the_silence_of_a_keeper_is_hedged_after_a_second(cluster, tmp_path, fault):
    data = stored(cluster, BLOCK_SIZE)
    keeper = first_keeper(cluster)
    if fault == "freeze":
        keeper.freeze()
    else:
        keeper.stall_at_chunk = 1
    began_s = time.monotonic()
    cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data and time.monotonic() - began_s < 2.0


def test_a_trickling_keeper_is_cut_off(cluster, tmp_path, monkeypatch):
    from dfs_lib.client import download

    monkeypatch.setattr(download, "CHUNK_LIMIT_S", 0.6)
    data = stored(cluster, MIB)
    keeper, done = first_keeper(cluster), threading.Event()

    def trickle(message, exchange):
        stream = exchange._stream
        stream.send_bytes(stream.talk.send(download.messages.BlockData(size=message.count), exchange.request_id, message.count))
        while not done.wait(0.05):
            stream.send_bytes(b"x")

    keeper._get = trickle
    began_s = time.monotonic()
    cluster.client().get("/f", tmp_path / "out")
    done.set()
    assert (tmp_path / "out").read_bytes() == data and time.monotonic() - began_s < 3.0


def test_tickets_of_an_earlier_reign_are_replaced(cluster, tmp_path):
    data = stored(cluster, 2 * BLOCK_SIZE)
    client = cluster.client(jobs=1)
    once = threading.Event()

    def expire(n):
        if not once.is_set():
            once.set()
            cluster.master.restart()

    client.get("/f", tmp_path / "out", progress=expire)
    assert (tmp_path / "out").read_bytes() == data and cluster.master.asked["OpenDownload"] == 2


def test_a_master_that_is_away_for_a_moment_does_not_end_a_download(cluster, tmp_path):
    data = stored(cluster, 9 * BLOCK_SIZE)
    cluster.master.page = 2
    timers = []

    def restart(n):
        if not timers:
            timers.append(cluster.master.restart(down_s=0.5))

    cluster.client(jobs=1).get("/f", tmp_path / "out", progress=restart)
    assert (tmp_path / "out").read_bytes() == data


# -- targets and resume -------------------------------------------------------------------------------------------------
def broken(cluster, tmp_path, after):
    """A get that is interrupted after so many bytes."""
    shown = [0]

    def interrupt(n):
        shown[0] += n
        if shown[0] >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.client(jobs=2).get("/f", tmp_path / "out", progress=interrupt)
    assert not (tmp_path / "out").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("get-")]
    return tmp_path / ".out.dfs-part"


def test_a_broken_download_is_resumed_and_fetches_only_the_rest(cluster, tmp_path):
    data = stored(cluster, 10 * BLOCK_SIZE + 7)
    part = broken(cluster, tmp_path, 5 * BLOCK_SIZE)
    assert part.exists() and part.stat().st_mode & 0o777 == 0o600
    shown = []
    result = cluster.client().get("/f", tmp_path / "out", progress=shown.append)
    assert (tmp_path / "out").read_bytes() == data and os.listdir(tmp_path) == ["out"]
    assert 3 * BLOCK_SIZE <= result["resumed_bytes"] < len(data) and sum(shown) == len(data)


def test_what_is_resumed_is_proven_by_checksums(cluster, tmp_path):
    data = stored(cluster, 4 * BLOCK_SIZE)
    lies = bytearray(data)
    lies[BLOCK_SIZE + 3] ^= 1
    (tmp_path / ".out.dfs-part").write_bytes(lies)
    result = cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data and result["resumed_bytes"] == 3 * BLOCK_SIZE


def test_what_another_version_left_is_of_no_use_but_does_no_harm(cluster, tmp_path):
    stored(cluster, 5 * BLOCK_SIZE)
    broken(cluster, tmp_path, 3 * BLOCK_SIZE)
    data = stored(cluster, 2 * BLOCK_SIZE, seed=9)
    assert cluster.client().get("/f", tmp_path / "out")["resumed_bytes"] == 0
    assert (tmp_path / "out").read_bytes() == data


def test_without_resume_what_is_there_is_not_looked_at(cluster, tmp_path):
    data = stored(cluster, 2 * BLOCK_SIZE)
    (tmp_path / ".out.dfs-part").write_bytes(data)
    assert cluster.client().get("/f", tmp_path / "out", resume=False)["resumed_bytes"] == 0
    assert os.listdir(tmp_path) == ["out"]


def test_a_part_file_that_is_a_link_is_not_followed(cluster, tmp_path):
    data = stored(cluster, 100)
    (tmp_path / "victim").write_bytes(b"precious")
    os.symlink(tmp_path / "victim", tmp_path / ".out.dfs-part")
    cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "victim").read_bytes() == b"precious" and (tmp_path / "out").read_bytes() == data


def test_two_downloads_to_one_target_do_not_mix(cluster, tmp_path):
    data = stored(cluster, 6 * BLOCK_SIZE)
    failures = []

    def get():
        try:
            cluster.client().get("/f", tmp_path / "out")
        except errors.DfsError as e:
            failures.append(e)

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and (tmp_path / "out").read_bytes() == data and os.listdir(tmp_path) == ["out"]


def test_the_old_local_file_stays_until_the_new_one_is_whole(cluster, tmp_path):
    stored(cluster, BLOCK_SIZE)
    (tmp_path / "out").write_bytes(b"old")
    for keeper in cluster.keepers:
        keeper.blocks.clear()
    with pytest.raises(errors.AllReplicasBad):
        cluster.client().get("/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]


def test_a_directory_and_a_missing_directory_as_target_are_named(cluster, tmp_path):
    stored(cluster, 10)
    (tmp_path / "d").mkdir()
    for target in (tmp_path / "d", tmp_path / "no" / "out"):
        with pytest.raises(errors.LocalFileError):
            cluster.client().get("/f", target)


def test_a_link_as_target_is_followed_and_a_device_is_written_into(cluster, tmp_path):
    data = stored(cluster, 10)
    os.symlink("real", tmp_path / "link")
    cluster.client().get("/f", tmp_path / "link")
    assert (tmp_path / "real").read_bytes() == data and (tmp_path / "link").is_symlink()
    cluster.client().get("/f", "/dev/null")
    assert not os.path.isfile("/dev/null")


def test_a_name_as_long_as_names_can_be_is_fetched(cluster, tmp_path):
    data = stored(cluster, 10)
    cluster.client().get("/f", tmp_path / ("n" * 255))
    assert (tmp_path / ("n" * 255)).read_bytes() == data and len(os.listdir(tmp_path)) == 1


def test_a_full_local_disk_is_a_local_error_and_no_keepers_fault(cluster):
    stored(cluster, 10)
    with pytest.raises((errors.LocalFileError, OSError), match="(?i)no space"):
        cluster.client().get("/f", "/dev/full")
    assert cluster.master.bad == []


def test_errors_of_a_callers_file_object_pass_as_they_are(cluster):
    stored(cluster, 10)

    class Broken(io.RawIOBase):
        def write(self, view):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        cluster.client().get("/f", Broken())


# -- open ---------------------------------------------------------------------------------------------------------------
def test_a_reader_seeks_reads_and_keeps_its_version(cluster):
    data = stored(cluster, 3 * BLOCK_SIZE + 100)
    with cluster.client().open("/f") as source:
        assert source.read(10) == data[:10]
        stored(cluster, 10, seed=3)
        assert source.seek(-50, io.SEEK_END) == len(data) - 50 and source.read() == data[-50:]
        for at in (MIB - 1, BLOCK_SIZE - 2, 3 * BLOCK_SIZE, 0, len(data)):
            source.seek(at)
            assert source.read(5) == data[at:at + 5]
        source.seek(0)
        assert source.read() == data


def test_a_reader_is_served_good_bytes_from_damaged_replicas(cluster):
    data = stored(cluster, BLOCK_SIZE)
    first_keeper(cluster).corrupt(block_at(cluster, 0), MIB + 5)
    with cluster.client().open("/f") as source:
        assert source.read() == data
    assert len(cluster.master.bad) == 1


def test_a_closed_reader_refuses(cluster):
    stored(cluster, 10)
    source = cluster.client().open("/f")
    source.close()
    with pytest.raises(ValueError):
        source.read(1)


@pytest.mark.parametrize("has_proc", [True, False])
def test_the_mask_is_read_as_it_is(has_proc, monkeypatch):
    def nothing_there(*_):
        raise FileNotFoundError(2, "no such file")

    before = os.umask(0)
    try:
        for mask in (0o022, 0o077, 0o002):
            os.umask(mask)
            with monkeypatch.context() as patch:
                if not has_proc:
                    patch.setattr(localfiles.os, "open", nothing_there)
                assert localfiles.umask() == mask
            assert os.umask(mask) == mask
    finally:
        os.umask(before)
