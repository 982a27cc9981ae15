"""Many files at once: batches, failures one by one, links that are not followed in either direction."""

import io
import os
import socket
import threading

import pytest
from fake_cluster import BLOCK_SIZE, Cluster, pattern

from dfs_lib import errors
from dfs_lib.wire import messages


@pytest.fixture
def cluster():
    with Cluster() as made:
        yield made


@pytest.fixture
def tree(tmp_path):
    """A local tree of small files, a large one, an empty one and an empty directory; returns its path and {relative: bytes}."""
    root, files = tmp_path / "tree", {}
    for directory in ("", "a", "a/b", "z"):
        (root / directory).mkdir(parents=True, exist_ok=True)
        for number in range(60):
            files[os.path.join(directory, f"f{number}")] = pattern(number * 37, number)
    files["large"] = pattern(5 * BLOCK_SIZE + 1)
    for relative, data in files.items():
        (root / relative).write_bytes(data)
    (root / "empty").mkdir()
    return root, files


class Outcomes:
    """Collects what on_result is told; fails when it is called from two threads at a time."""

    def __init__(self):
        self.good, self.bad = {}, {}
        self._inside = threading.Lock()

    def __call__(self, outcome, local=None, path=None):
        assert self._inside.acquire(blocking=False)
        if isinstance(outcome, errors.DfsError):
            self.bad[path] = (outcome, local)
        else:
            assert outcome["path"] == path and outcome["local"] == local
            self.good[path] = outcome
        self._inside.release()


def contents(root):
    return {os.path.relpath(os.path.join(directory, name), root): open(os.path.join(directory, name), "rb").read()
            for directory, _directories, names in os.walk(root) for name in names}


def test_a_tree_goes_in_and_comes_back_equal(cluster, tree, tmp_path):
    root, files = tree
    client, into, out, shown = cluster.client(), Outcomes(), Outcomes(), []
    counts = client.put_tree(root, "/t/x", on_result=into, progress=shown.append)
    assert counts == {"files": len(files), "bytes": sum(map(len, files.values())), "resumed_bytes": 0, "failed": 0}
    assert into.bad == {} and {path[5:] for path in into.good} == set(files) and sum(shown) == counts["bytes"]
    assert cluster.master.asked["OpenUpload"] <= 6 and cluster.master.asked["CommitUpload"] <= 6
    shown.clear()
    assert client.get_tree("/t/x", tmp_path / "back", on_result=out, progress=shown.append) == counts
    assert out.bad == {} and contents(tmp_path / "back") == files and sum(shown) == counts["bytes"]
    assert (tmp_path / "back" / "empty").is_dir()
    assert (tmp_path / "back" / "a" / "f3").stat().st_mtime == pytest.approx((root / "a" / "f3").stat().st_mtime, abs=1e-6)
    assert cluster.master.asked["OpenDownload"] <= 3


def test_pairs_go_in_and_come_back(cluster, tmp_path):
    client = cluster.client()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(pattern(3 * BLOCK_SIZE))
    os.symlink("a", tmp_path / "link")
    counts = client.put_files([(tmp_path / "a", "/a"), (tmp_path / "b", "/b"), (tmp_path / "link", "/l")])
    assert counts["files"] == 3 and cluster.bytes_of("/l") == b"a", "a link that the user names is followed"
    (tmp_path / "out").mkdir()
    assert client.get_files([("/a", tmp_path / "out" / "x"), ("/b", tmp_path / "out" / "y")])["failed"] == 0
    assert contents(tmp_path / "out") == {"x": b"a", "y": pattern(3 * BLOCK_SIZE)}


def test_one_bad_file_does_not_stop_the_others(cluster, tmp_path):
    client, outcomes = cluster.client(), Outcomes()
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode())
    client.put(io.BytesIO(b"old"), "/b")
    pairs = [("a", "/a"), ("b", "/b"), ("missing", "/m"), ("c", "bad name"), ("c", "/c")]
    counts = client.put_files([(tmp_path / name, path) for name, path in pairs], no_clobber=True, on_result=outcomes)
    assert counts["files"] == 2 and counts["failed"] == 3 and set(outcomes.good) == {"/a", "/c"}
    codes = {path: error.code for path, (error, _local) in outcomes.bad.items()}
    assert codes == {"/b": "exists", "/m": "local_file", "bad name": "bad_name"}
    outcomes = Outcomes()
    pairs = [("/a", tmp_path / "x"), ("/no", tmp_path / "y"), ("/c", tmp_path / "no" / "z")]
    counts = client.get_files(pairs, on_result=outcomes)
    assert counts["files"] == 1 and set(outcomes.bad) == {"/no", "/c"} and (tmp_path / "x").read_bytes() == b"a"


def test_links_and_special_files_are_left_out_with_a_message(cluster, tmp_path):
    root, skipped = tmp_path / "tree", {}
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "plain").write_bytes(b"plain")
    os.symlink(tmp_path / "secret", root / "link")
    os.symlink("/etc", root / "directory-link")
    os.symlink(".", root / "loop")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "socket"))
        cluster.client().put_tree(root, "/t", on_skip=lambda local, why: skipped.update({os.path.basename(local): why}))
    assert set(skipped) == {"link", "directory-link", "loop", "fifo", "socket"} and set(cluster.master.files) == {"/t/plain"}


def test_undecodable_local_names_are_told_and_the_rest_is_stored(cluster, tmp_path):
    outcomes = Outcomes()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "good").write_bytes(b"1")
    with open(os.fsencode(tmp_path / "t") + b"/\xff\xfe", "wb") as out:
        out.write(b"2")
    counts = cluster.client().put_tree(tmp_path / "t", "/t", on_result=outcomes)
    assert counts["files"] == 1 and [error.code for error, _local in outcomes.bad.values()] == ["bad_name"]


def test_a_link_in_the_destination_is_never_followed_out(cluster, tmp_path):
    client, outside, outcomes = cluster.client(), tmp_path / "outside", Outcomes()
    for path in ("/t/sub/f", "/t/sub/deep/g", "/t/file", "/t/good"):
        client.put(io.BytesIO(b"from the store"), path, parents=True)
    outside.mkdir()
    (outside / "victim").write_bytes(b"precious")
    (tmp_path / "dest").mkdir()
    os.symlink(outside, tmp_path / "dest" / "sub")
    os.symlink(outside / "victim", tmp_path / "dest" / "file")
    counts = client.get_tree("/t", tmp_path / "dest", on_result=outcomes)
    assert os.listdir(outside) == ["victim"] and (outside / "victim").read_bytes() == b"precious"
    assert counts["failed"] >= 2 and (tmp_path / "dest" / "good").read_bytes() == b"from the store"
    assert not (tmp_path / "dest" / "file").is_symlink(), "the link was replaced, not written through"


@pytest.mark.parametrize("evil", ("..", "../escape", "a/../../escape", "/etc/evil", "a\0b"))
def test_a_listing_with_an_evil_name_makes_nothing_outside(cluster, tmp_path, evil):
    client, outcomes = cluster.client(), Outcomes()
    client.put(io.BytesIO(b"good"), "/t/good", parents=True)
    real = cluster.master.List

    def lie(message, exchange):
        answer = real(message, exchange)
        if message.path == "/t":
            answer.entries.append([evil, "file", 4, 99, 0.0, 3, None])
            answer.entries.append([evil, "dir", 0, 0, 0.0, 0, None])
        return answer

    cluster.master.List = lie
    try:
        client.get_tree("/t", tmp_path / "dest", on_result=outcomes)
    except errors.DfsError:
        pass
    assert sorted(os.listdir(tmp_path)) == ["dest"] and set(os.listdir(tmp_path / "dest")) <= {"good"}


# -- faults -------------------------------------------------------------------------------------------------------------
def test_a_dead_keeper_does_not_stop_a_tree(cluster, tree):
    root, files = tree
    cluster.keepers[0].die_at_chunk = 0
    cluster.keepers[1].kill()
    counts = cluster.client().put_tree(root, "/t")
    assert counts["failed"] == 0 and all(cluster.bytes_of(f"/t/{relative}") == data for relative, data in files.items())


def test_a_master_that_restarts_in_the_middle_does_not_stop_a_tree(cluster, tree, tmp_path):
    root, files = tree
    count, lock = [0], threading.Lock()

    def hook(_keeper, _message):
        with lock:
            count[0] += 1
            is_it = count[0] == 100
        if is_it:
            cluster.master.restart()

    for keeper in cluster.keepers:
        keeper.on_put = hook
    counts = cluster.client().put_tree(root, "/t")
    assert counts["failed"] == 0 and counts["files"] == len(files)
    assert all(cluster.bytes_of(f"/t/{relative}") == data for relative, data in files.items())


def test_a_small_file_that_changes_is_told_and_the_rest_of_its_batch_is_stored(cluster, tmp_path):
    outcomes, once = Outcomes(), threading.Event()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 10)
        os.utime(tmp_path / name, (1000, 1000))

    def hook(message):
        if isinstance(message, messages.OpenUpload) and not once.is_set():
            once.set()
            (tmp_path / "b").write_bytes(b"changed")

    cluster.master.before = hook
    cluster.client().put_files([(tmp_path / "a", "/a"), (tmp_path / "b", "/b")], on_result=outcomes)
    assert set(outcomes.good) == {"/a"} and outcomes.bad["/b"][0].code == "local_file"
    assert set(cluster.master.files) == {"/a"}


def test_damage_is_found_in_trees_too(cluster, tree, tmp_path):
    root, files = tree
    client = cluster.client()
    client.put_tree(root, "/t")
    for keeper in cluster.keepers[:1]:
        for block in list(keeper.blocks):
            keeper.corrupt(block)
    assert client.get_tree("/t", tmp_path / "back")["failed"] == 0
    assert contents(tmp_path / "back") == files and cluster.master.bad


def test_a_dead_master_stops_everything_with_its_error(cluster, tree):
    root, _files = tree
    client = cluster.client(patience=0.3)
    client.status()
    for port in cluster.master.ports:
        port.stop()
    with pytest.raises(errors.NetworkError):
        client.put_files([(root / "f1", "/f1")])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("put-small")]
