"""Uploads against a small cluster: every size, pipes, fail-over in each phase, resume, a master that restarts."""

import io
import mmap
import os
import threading
import time

import pytest
from fake_cluster import BLOCK_SIZE, Cluster, pattern, wait_for

from dfs_lib import errors, model
from dfs_lib.client import sources

MIB = model.MIB
SIZES = (0, 1, MIB - 1, MIB, MIB + 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 9 * BLOCK_SIZE + 12345)


@pytest.fixture
def cluster():
    with Cluster() as made:
        yield made


@pytest.fixture
def local(tmp_path):
    """local(size) writes a file and returns its path and bytes."""
    def make(size, name="local", seed=1):
        path, data = tmp_path / name, pattern(size, seed)
        path.write_bytes(data)
        return path, data

    return make


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_is_stored_whole_on_safe_keepers(cluster, local, size):
    path, data = local(size)
    shown = []
    result = cluster.client().put(path, "/f", progress=shown.append)
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data
    assert sum(shown) == size
    assert result["size"] == size and result["path"] == "/f" and result["local"] == str(path) and result["resumed_bytes"] == 0
    assert result["copies_durable"] == 2 and result["version"] == cluster.file("/f")["version"]
    assert cluster.file("/f")["mtime_at"] == path.stat().st_mtime


@pytest.mark.parametrize("size", SIZES)
def test_a_pipe_of_any_size_is_stored_whole(cluster, size):
    data = pattern(size)
    result = cluster.client().put(io.BytesIO(data), "/f")
    assert cluster.bytes_of("/f") == data and result["size"] == size and result["local"] is None


def test_only_the_last_block_of_a_pipe_is_marked_last_and_its_size_is_unknown(cluster):
    cluster.client().put(io.BytesIO(pattern(2 * BLOCK_SIZE)), "/f")
    metas = {block: meta for keeper in cluster.keepers for block, meta in keeper.metas.items()}
    marks = [(metas[block["block"]]["last"], metas[block["block"]]["file_size"]) for block in cluster.file("/f")["blocks"]]
    assert marks == [(False, None), (True, None)]


def test_a_real_pipe_that_trickles_is_stored_whole(cluster):
    data = pattern(2 * BLOCK_SIZE + 77)
    reading, writing = os.pipe()

    def write():
        with open(writing, "wb", buffering=0) as out:
            for start in range(0, len(data), 100_000):
                out.write(data[start:start + 100_000])

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as source:
        cluster.client().put(source, "/f")
    writer.join()
    assert cluster.bytes_of("/f") == data


def test_a_fifo_named_as_local_file_is_read_to_its_end(cluster, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(b"through a fifo"))
    writer.start()
    cluster.client().put(tmp_path / "fifo", "/f")
    writer.join()
    assert cluster.bytes_of("/f") == b"through a fifo"


# -- fail-over ----------------------------------------------------------------------------------------------------------
def test_a_dead_first_keeper_is_replaced(cluster, local):
    path, data = local(3 * BLOCK_SIZE)
    cluster.keepers[0].kill()
    result = cluster.client().put(path, "/f")
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data
    assert cluster.keepers[0].id not in result["keepers"]


def test_a_refused_port_leads_to_the_next_port_of_the_same_keeper(cluster, local):
    path, data = local(100)
    cluster.keepers[0].ports[0].stop()
    result = cluster.client().put(path, "/f")
    assert cluster.keepers[0].id in result["keepers"] and "RegrantBlock" not in cluster.master.asked


@pytest.mark.parametrize("at", (0, 1))
@pytest.mark.parametrize("which", (0, 1))
def test_a_keeper_that_dies_in_the_middle_of_a_block_is_replaced(cluster, local, which, at):
    path, data = local(BLOCK_SIZE)
    cluster.keepers[which].die_at_chunk = at
    cluster.client().put(path, "/f")
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data
    assert len(cluster.master.where[cluster.file("/f")["blocks"][0]["block"]]) == 2


def test_a_full_keeper_is_replaced_and_nothing_is_sent_twice_to_it(cluster, local):
    path, data = local(BLOCK_SIZE)
    cluster.keepers[0].refuse = errors.NoRoom(size=1, detail="full")
    cluster.client().put(path, "/f")
    assert cluster.bytes_of("/f") == data and len(cluster.keepers[0].seen) == 1


@pytest.mark.parametrize("fault", ("freeze", "stall"))
@pytest.mark.parametrize("which", (0, 1))
def test_the_silence_of_a_keeper_costs_no_more_than_two_and_a_half_seconds(cluster, local, fault, which):
    path, data = local(BLOCK_SIZE)
    client = cluster.client()
    client.put(path, "/warm")
    if fault == "freeze":
        cluster.keepers[which].freeze()
    else:
        cluster.keepers[which].stall_at_chunk = 1
    began_s = time.monotonic()
    client.put(path, "/f")
    took_s = time.monotonic() - began_s
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data
    assert took_s < 2.5, took_s


def test_a_kept_connection_that_went_stale_is_replaced_without_asking_for_other_keepers(cluster, local):
    path, data = local(100)
    client = cluster.client()
    client.put(path, "/f")
    for keeper in cluster.keepers:
        keeper.kill()
        keeper.start()
    client.put(path, "/g")
    assert cluster.bytes_of("/g") == data and "RegrantBlock" not in cluster.master.asked


def test_a_process_that_is_restarted_gets_a_second_chance_when_no_other_keeper_is_left(local):
    with Cluster(n_keepers=2) as cluster:
        path, data = local(BLOCK_SIZE)
        cluster.keepers[0].die_at_chunk = 1
        cluster.client().put(path, "/f")
        assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data


def test_a_master_that_names_dead_keepers_again_is_not_asked_in_a_hurry(local):
    with Cluster(n_keepers=2) as cluster:
        cluster.master.names_the_tried = True
        path, _data = local(100)
        cluster.keepers[1].kill()
        began_s = time.monotonic()
        with pytest.raises(errors.TooFewKeepers):
            cluster.client().put(path, "/f")
        assert 3 < time.monotonic() - began_s < 8 and cluster.master.asked["RegrantBlock"] < 10


def test_with_fewer_keepers_than_safe_the_masters_refusal_is_told_and_nothing_appears(local):
    with Cluster(n_keepers=2) as cluster:
        path, _data = local(100)
        cluster.keepers[1].refuse = errors.DiskFault(path="x", detail="read-only")
        with pytest.raises(errors.TooFewKeepers):
            cluster.client().put(path, "/f")
        assert cluster.master.files == {} and cluster.master.uploads == {}
        assert cluster.client().put(path, "/f", safe=1)["copies_durable"] == 1


def test_no_clobber_and_missing_parents_are_refused_before_a_byte_is_sent(cluster, local):
    path, _data = local(100)
    client = cluster.client()
    client.put(path, "/f")
    n_seen = len(cluster.keepers[0].seen)
    with pytest.raises(errors.FileExists):
        client.put(path, "/f", no_clobber=True)
    with pytest.raises(errors.NoSuchFile):
        client.put(path, "/no/such/f")
    assert len(cluster.keepers[0].seen) == n_seen
    client.put(path, "/now/made/f", parents=True)


# -- the local file -----------------------------------------------------------------------------------------------------
def change_at_first_block(cluster, change):
    """Call change() when the first block arrives at a keeper."""
    once = threading.Event()

    def hook(_keeper, _message):
        if not once.is_set():
            once.set()
            change()

    for keeper in cluster.keepers:
        keeper.on_put = hook


def append(path):
    with open(path, "ab") as out:
        out.write(b"more")


def rewrite(path):
    with open(path, "r+b") as out:
        out.write(b"other")


@pytest.mark.parametrize("change", (append, rewrite, lambda path: os.truncate(path, 10)))
@pytest.mark.parametrize("size", (100, 5 * BLOCK_SIZE))
def test_a_file_that_changes_while_it_is_read_is_not_published(cluster, local, change, size):
    path, _data = local(size)
    os.utime(path, (1000, 1000))
    change_at_first_block(cluster, lambda: change(path))
    with pytest.raises(errors.LocalFileError, match="changed while it was read"):
        cluster.client().put(path, "/f")
    assert cluster.master.files == {} and cluster.master.uploads == {} and cluster.master.interrupted == {}


def test_missing_and_special_local_files_are_named(cluster, tmp_path):
    client = cluster.client()
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(errors.LocalFileError, match=str(path)):
            client.put(path, "/f")


# -- resume -------------------------------------------------------------------------------------------------------------
def interrupted(cluster, path, n_blocks):
    """As after a client's death with `n_blocks` recorded: the blocks of a whole put, all but the first few forgotten."""
    client = cluster.client(jobs=1)
    client.put(path, "/f")
    file = cluster.master.files.pop("/f")
    size = path.stat().st_size
    asked = {"path": "/f", "size": size, "block_size": BLOCK_SIZE, "mtime_at": file["mtime_at"], "copies": 3}
    stored = {block["index"]: block for block in file["blocks"][:n_blocks]}
    cluster.master.interrupted["/f", size] = {
        "id": "e" * 32, "version": file["version"] + 1000, "blocks": stored, "asked": asked,
        "ids": {index: one["block"] for index, one in stored.items()}}
    for keeper in cluster.keepers:
        keeper.seen.clear()


def puts_seen(cluster):
    return {block for keeper in cluster.keepers for name, block in keeper.seen if name == "PutBlock"}


def test_a_broken_upload_is_resumed_and_only_the_rest_is_sent(cluster, local):
    path, data = local(8 * BLOCK_SIZE + 5)
    interrupted(cluster, path, 5)
    shown = []
    result = cluster.client().put(path, "/f", progress=shown.append)
    assert cluster.bytes_of("/f") == data
    assert result["resumed_bytes"] == 5 * BLOCK_SIZE and sum(shown) == len(data)
    assert len(puts_seen(cluster)) == 4


def test_resume_sends_blocks_whose_bytes_have_changed(cluster, local):
    path, data = local(6 * BLOCK_SIZE)
    interrupted(cluster, path, 4)
    changed = bytearray(data)
    changed[BLOCK_SIZE + 17] ^= 1
    path.write_bytes(changed)
    result = cluster.client().put(path, "/f")
    assert cluster.bytes_of("/f") == changed
    assert result["resumed_bytes"] == 3 * BLOCK_SIZE and len(puts_seen(cluster)) == 3


def test_resume_adds_places_to_blocks_with_too_few_copies(cluster, local):
    path, data = local(4 * BLOCK_SIZE)
    interrupted(cluster, path, 4)
    upload = cluster.master.interrupted["/f", len(data)]
    upload["blocks"][2]["receipts"] = upload["blocks"][2]["receipts"][:1]
    result = cluster.client().put(path, "/f")
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data
    assert result["resumed_bytes"] == len(data) and puts_seen(cluster) == {upload["blocks"][2]["block"]}


@pytest.mark.parametrize("names_the_tried", (True, False))
def test_a_keeper_that_died_after_storing_is_believed_when_it_told_the_master(local, names_the_tried):
    with Cluster(n_keepers=2) as cluster:
        cluster.master.names_the_tried = names_the_tried
        path, data = local(BLOCK_SIZE)
        interrupted(cluster, path, 1)
        upload = cluster.master.interrupted["/f", len(data)]
        whole = upload["blocks"][0]["receipts"]
        upload["blocks"][0]["receipts"] = whole[:1]

        def tell_later(message):
            if type(message).__name__ == "RegrantBlock":
                upload["blocks"][0]["receipts"] = whole
                cluster.master.live.discard(whole[1]["keeper"])

        cluster.master.before = tell_later
        assert cluster.client().put(path, "/f")["copies_durable"] == 2
        assert puts_seen(cluster) == set()


def test_without_resume_everything_is_sent(cluster, local):
    path, _data = local(3 * BLOCK_SIZE)
    interrupted(cluster, path, 3)
    assert cluster.client().put(path, "/f", resume=False)["resumed_bytes"] == 0
    assert len(puts_seen(cluster)) == 3


# -- the master ---------------------------------------------------------------------------------------------------------
def at_block(cluster, n, action):
    """Call action() when the n-th block arrives at a keeper."""
    lock, count = threading.Lock(), [0]

    def hook(_keeper, _message):
        with lock:
            count[0] += 1
            is_it = count[0] == n
        if is_it:
            action()

    for keeper in cluster.keepers:
        keeper.on_put = hook


@pytest.mark.parametrize("at", (1, 6, 19))
@pytest.mark.parametrize("down_s", (0.0, 0.7))
def test_a_master_that_restarts_and_forgets_in_the_middle_does_not_end_the_upload(cluster, local, at, down_s):
    path, data = local(10 * BLOCK_SIZE)
    timers = []
    at_block(cluster, at, lambda: timers.append(cluster.master.restart(down_s=down_s)))
    result = cluster.client().put(path, "/f")
    assert timers, "the master was never restarted"
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data
    assert list(cluster.master.versions) == [result["version"]]
    assert {meta["version"] for keeper in cluster.keepers for meta in keeper.metas.values()} == {result["version"]}


def test_what_was_stored_before_the_restart_is_adopted_and_not_sent_again(cluster, local):
    path, data = local(10 * BLOCK_SIZE)
    at_block(cluster, 16, cluster.master.restart)
    cluster.client(jobs=1).put(path, "/f")
    assert cluster.bytes_of("/f") == data
    assert len(puts_seen(cluster)) <= 12


def test_a_pipe_survives_the_restart_of_the_master(cluster):
    data = pattern(6 * BLOCK_SIZE + 1)
    at_block(cluster, 5, cluster.master.restart)
    cluster.client().put(io.BytesIO(data), "/f")
    assert cluster.bytes_of("/f") == data


def test_a_small_file_survives_the_restart_of_the_master(cluster, local):
    path, data = local(10)
    at_block(cluster, 1, cluster.master.restart)
    cluster.client().put(path, "/f", no_clobber=True)
    assert cluster.bytes_of("/f") == data


@pytest.mark.parametrize("name", ("OpenUpload", "GrantBlocks", "RecordBlocks", "CommitUpload"))
def test_lost_answers_do_no_harm(cluster, local, name):
    path, data = local(20 * BLOCK_SIZE)
    cluster.master.lose_answer_of = name
    cluster.client().put(path, "/f", no_clobber=True)
    assert cluster.master.lose_answer_of is None
    assert cluster.bytes_of("/f") == data and len(cluster.master.versions) == 1


def test_a_commit_asked_about_again_after_the_file_was_removed_is_told_as_it_was(cluster, local):
    path, data = local(3 * BLOCK_SIZE)

    def forget(message):
        if type(message).__name__ == "CommitUpload":
            if not cluster.master.versions:
                cluster.master.lose_answer_of = "CommitUpload"
            else:  # all that is left of it is that it was done, as in transfers._published_before
                cluster.master.results = {upload: {**result, "path": "/", "size": 0} for upload, result in cluster.master.results.items()}

    cluster.master.before = forget
    result = cluster.client().put(path, "/f")
    assert (result["path"], result["size"]) == ("/f", len(data))


def test_a_commit_that_worked_before_the_master_died_is_found_out_and_not_done_again(cluster, local):
    path, data = local(3 * BLOCK_SIZE)

    def die_after(message):
        if type(message).__name__ == "CommitUpload" and not cluster.master.versions:
            cluster.master.lose_answer_of = "CommitUpload"
        if type(message).__name__ == "CommitUpload" and cluster.master.versions:
            cluster.master.results.clear()  # the catalog does not remember the upload's id

    cluster.master.before = die_after
    result = cluster.client().put(path, "/f", no_clobber=True)
    assert list(cluster.master.versions) == [result["version"]] and result["size"] == len(data) and result["copies_durable"] == 2


def test_blocks_whose_receipts_the_master_rejects_are_put_again(cluster, local):
    path, data = local(7 * BLOCK_SIZE)
    real, rejected = cluster.master._record, []

    def reject_once(upload, stored):
        found = real(upload, stored)
        fresh = [one["index"] for one in stored if one["index"] in (0, 6) and one["index"] not in rejected]
        for index in fresh:
            rejected.append(index)
            upload["blocks"].pop(index)
        return found + fresh

    cluster.master._record = reject_once
    cluster.client().put(path, "/f")
    assert sorted(rejected) == [0, 6] and cluster.bytes_of("/f") == data


def test_the_lease_is_renewed_while_a_pipe_is_slow():
    with Cluster(lease_s=0.6) as cluster:
        reading, writing = os.pipe()

        def write():
            with open(writing, "wb", buffering=0) as out:
                out.write(b"first")
                wait_for(lambda: cluster.master.asked.get("RecordBlocks", 0) >= 2)
                out.write(b" last")

        writer = threading.Thread(target=write)
        writer.start()
        with open(reading, "rb") as source:
            cluster.client().put(source, "/f")
        writer.join()
        assert cluster.bytes_of("/f") == b"first last"
        assert cluster.master.asked["RecordBlocks"] >= 2


def test_grants_come_ahead_of_many_blocks(cluster, local):
    path, data = local(40 * BLOCK_SIZE)
    cluster.client().put(path, "/f")
    assert cluster.bytes_of("/f") == data
    assert 1 <= cluster.master.asked["GrantBlocks"] <= 4


def test_an_interrupt_stops_the_threads_and_keeps_what_is_stored(cluster, local):
    path, data = local(20 * BLOCK_SIZE)
    shown = [0]

    def interrupt(n):
        shown[0] += n
        if shown[0] > 8 * BLOCK_SIZE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.client().put(path, "/f", progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("put-")]
    assert cluster.master.files == {} and cluster.master.interrupted
    assert cluster.client().put(path, "/f")["resumed_bytes"] > 0
    assert cluster.bytes_of("/f") == data


# -- pipes whose size is known ----------------------------------------------------------------------------------------
class Pipe:
    """Gives `data` in pieces of `piece` bytes; fails with `failure` when it is at its end."""

    def __init__(self, data, piece=300_000, failure=None):
        self._data, self._piece, self._failure, self._at = data, piece, failure, 0

    def readinto(self, view):
        n = min(len(view), self._piece, len(self._data) - self._at)
        if not n and self._failure is not None:
            raise self._failure
        view[:n] = self._data[self._at:self._at + n]
        self._at += n
        return n


@pytest.mark.parametrize("room", [None, 0, 2 * BLOCK_SIZE])
@pytest.mark.parametrize("size", SIZES)
def test_a_pipe_whose_size_is_known_is_sent_while_it_comes(cluster, size, room):
    memory = sources.Memory(room) if room is not None else None
    data, shown = pattern(size), []
    result = cluster.client().put(Pipe(data), "/f", size=size, memory=memory, progress=shown.append)
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data and sum(shown) == size == result["size"]
    metas = {block: meta for keeper in cluster.keepers for block, meta in keeper.metas.items()}
    assert all(metas[block["block"]]["file_size"] == size for block in cluster.file("/f")["blocks"])
    assert not room or memory.take(room) is not None  # all of it was given back


def test_the_first_bytes_are_on_their_way_before_the_last_ones_have_come(cluster):
    data = pattern(3 * BLOCK_SIZE)

    class Waits(Pipe):
        def readinto(self, view):
            if BLOCK_SIZE - 300_000 <= self._at < BLOCK_SIZE:
                wait_for(lambda: any(keeper.seen for keeper in cluster.keepers))
            return super().readinto(view)

    cluster.client().put(Waits(data), "/f", size=len(data))
    assert cluster.bytes_of("/f") == data


@pytest.mark.parametrize("size", [5, MIB + 5, 3 * BLOCK_SIZE])
@pytest.mark.parametrize("failure", [None, ConnectionResetError("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("room", [0, 8 * BLOCK_SIZE])
def test_a_pipe_that_ends_early_publishes_nothing_and_gives_its_memory_back(cluster, size, failure, room):
    memory = sources.Memory(room)
    with pytest.raises(errors.LocalFileError if failure is None else type(failure)):
        cluster.client().put(Pipe(pattern(size)[:size - 3], failure=failure), "/f", size=size, memory=memory)
    with pytest.raises(errors.NoSuchFile):
        cluster.client().stat("/f")
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("put-")])
    assert not room or memory.take(room) is not None


def test_a_keeper_that_dies_gets_its_block_replaced_out_of_memory(cluster):
    data, memory = pattern(4 * BLOCK_SIZE + 7), sources.Memory(2 * BLOCK_SIZE)
    at_block(cluster, 2, cluster.keepers[0].kill)
    cluster.client().put(Pipe(data), "/f", size=len(data), memory=memory)
    assert cluster.bytes_of("/f") == data


def test_a_broken_sized_pipe_is_gone_on_with_at_a_whole_block(cluster):
    data = pattern(5 * BLOCK_SIZE + 99)
    client = cluster.client()
    assert client.stored_of("/f", len(data)) == 0
    with pytest.raises(ConnectionResetError):
        client.put(Pipe(data[:3 * BLOCK_SIZE + 5], failure=ConnectionResetError()), "/f", size=len(data))
    stored = client.stored_of("/f", len(data))
    assert stored == 3 * BLOCK_SIZE and client.stored_of("/f", len(data)) == stored
    for start in (stored + BLOCK_SIZE, 5):
        with pytest.raises(errors.ResumeMismatch) as refused:
            client.put(Pipe(data[start:]), "/f", size=len(data), start=start)
        assert refused.value.facts["offset"] == stored
    result = client.put(Pipe(data[BLOCK_SIZE:]), "/f", size=len(data), start=BLOCK_SIZE)
    assert cluster.bytes_of("/f", 0) == cluster.bytes_of("/f", 1) == data and result["resumed_bytes"] == BLOCK_SIZE


def test_a_pipe_of_another_source_goes_on_with_nothing(cluster):
    """Two files of one name and size: the second half of one never follows the first half of the other."""
    old, new = pattern(3 * BLOCK_SIZE), bytes(reversed(pattern(3 * BLOCK_SIZE)))
    client = cluster.client()
    with pytest.raises(ConnectionResetError):
        client.put(Pipe(old[:2 * BLOCK_SIZE + 5], failure=ConnectionResetError()), "/f", size=len(old), mark="mtime 1")
    assert client.stored_of("/f", len(old), mark="mtime 2") == 0
    with pytest.raises(errors.ResumeMismatch) as refused:
        client.put(Pipe(new[BLOCK_SIZE:]), "/f", size=len(new), start=BLOCK_SIZE, mark="mtime 2")
    assert refused.value.facts["offset"] == 0
    assert client.stored_of("/f", len(old), mark="mtime 1") == 2 * BLOCK_SIZE  # the other one's is untouched by that
    client.put(Pipe(old[2 * BLOCK_SIZE:]), "/f", size=len(old), start=2 * BLOCK_SIZE, mark="mtime 1")
    assert cluster.bytes_of("/f") == old


def test_a_master_that_refuses_at_the_end_leaves_no_memory_taken(cluster):
    memory = sources.Memory(BLOCK_SIZE * 2)

    def refuse(message):
        if type(message).__name__ == "CommitUpload":
            raise errors.NoRoom(size=1, detail="full")

    cluster.master.before = refuse
    with pytest.raises(errors.NoRoom):
        cluster.client().put(Pipe(pattern(BLOCK_SIZE * 2)), "/f", size=BLOCK_SIZE * 2, memory=memory)
    assert memory.take(BLOCK_SIZE * 2) is not None


def test_memory_for_blocks_has_an_end_and_is_let_go():
    memory = sources.Memory(100)
    one, two = memory.take(60), memory.take(40)
    assert memory.take(1) is None
    memory.give(one)
    assert memory.take(50) is one and memory.take(1) is None
    memory.give(one)
    memory.give(two)
    assert memory.take(100) is not None


def test_a_buffer_goes_back_when_the_pipe_writes_into_it_no_more():
    """A worker that fails lets go of a block which the pipe is still reading into: those bytes must not come into another upload's block."""
    reads, goes_on = threading.Event(), threading.Event()

    class Slow:
        n = 0

        def readinto(self, view):
            self.n += 1
            if self.n == 2:
                reads.set()
                assert goes_on.wait(10)
            view[:1000] = b"A" * 1000
            return 1000

    memory, given_up, handed_out = sources.Memory(2 * BLOCK_SIZE), threading.Event(), []
    other = memory.take(BLOCK_SIZE)  # another upload is under way

    def feed():
        for spooled, _is_last in sources.growing_spools(Slow(), BLOCK_SIZE, None, given_up.is_set, BLOCK_SIZE, memory):
            handed_out.append(spooled)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert reads.wait(10)
    handed_out[0].close()
    given_up.set()
    assert memory.take(BLOCK_SIZE) is None  # not while the read goes on
    goes_on.set()
    feeder.join(10)
    assert memory.take(BLOCK_SIZE) is not None and other is not None


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system cannot be told to take pages back")
def test_pages_go_back_though_somebody_still_holds_the_buffer():
    """The frames of an upload that broke off hold it until the garbage collector comes by: a gateway grew by a block with each."""
    memory = sources.Memory(2 << 20)
    first, second = memory.take(1 << 20), memory.take(1 << 20)
    held = [memoryview(first), memoryview(second)]
    for view in held:
        view[:5] = b"bytes"
    memory.give(first)
    assert bytes(held[0][:5]) == b"bytes"  # it may be used again
    memory.give(second)
    assert [bytes(view[:5]) for view in held] == [bytes(5)] * 2
