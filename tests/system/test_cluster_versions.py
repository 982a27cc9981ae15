"""Readers and writers at the same time: whole versions and nothing else, and everybody is told the truth."""

import hashlib
import json
import os
import threading

import pytest

from live_cluster import MIB, digest, until, write_random

pytestmark = pytest.mark.system
N_OVERWRITES = 12
SIZE = 3 * MIB + 17


def versions(work, n):
    """[path of a file], all of one size, none like another, and {sha256: number}."""
    paths = [write_random(os.path.join(work, f"version{number}"), SIZE, seed=number) for number in range(n)]
    return paths, {digest(path): number for number, path in enumerate(paths)}


def run_threads(works):
    """Run functions beside each other; what one raises is raised here."""
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_readers_see_whole_versions_during_overwrites(shared, shared_work):
    paths, numbers = versions(shared_work, N_OVERWRITES)
    shared.dfs("put", paths[0], "/atomic")
    over, seen = threading.Event(), [[], [], []]

    def write():
        try:
            for path in paths[1:]:
                shared.dfs("put", "--block-size", "1MiB", path, "/atomic")
        finally:
            over.set()

    def read(mine):
        with shared.client() as client:
            while not over.is_set():
                with client.open("/atomic") as source:
                    mine.append(numbers[hashlib.sha256(source.read()).hexdigest()])  # a mixture of two would be no key

    def get(mine):
        target = os.path.join(shared_work, "got")
        while not over.is_set():
            shared.dfs("get", "/atomic", target)
            mine.append(numbers[digest(target)])

    run_threads([write, lambda: read(seen[0]), lambda: read(seen[1]), lambda: get(seen[2])])
    for mine in seen:
        assert mine and mine == sorted(mine)  # no reader goes back to an older one
    assert len({number for mine in seen for number in mine}) > 2
    shared.dfs("get", "/atomic", os.path.join(shared_work, "last"))
    assert numbers[digest(os.path.join(shared_work, "last"))] == N_OVERWRITES - 1


def test_of_two_writers_one_is_whole_and_both_are_told_the_truth(shared, shared_work):
    paths, numbers = versions(shared_work, 2)
    for turn in range(4):
        transfers = [shared.start_transfer("put", "--json", "--block-size", "1MiB", path, f"/two{turn}") for path in paths]
        told = [transfer.finish() for transfer in transfers]
        assert [status for status, _out, _err in told] == [0, 0], told
        stored = [json.loads(out)["version"] for _status, out, _err in told]
        [found] = shared.json("stat", f"/two{turn}")
        assert stored[0] != stored[1] and found["version"] in stored
        target = os.path.join(shared_work, "two")
        [got] = shared.json("get", f"/two{turn}", target)
        assert got["version"] == found["version"] and numbers[digest(target)] == stored.index(found["version"])


def test_of_two_writers_without_clobber_the_second_is_refused(shared, shared_work):
    paths, numbers = versions(shared_work, 2)
    transfers = [shared.start_transfer("put", "--no-clobber", "--json", path, "/once") for path in paths]
    told = [transfer.finish() for transfer in transfers]
    assert sorted(status for status, _out, _err in told) == [0, 1]
    winner = [status for status, _out, _err in told].index(0)
    assert '"exists"' in told[1 - winner][2]
    shared.dfs("get", "/once", os.path.join(shared_work, "once"))
    assert numbers[digest(os.path.join(shared_work, "once"))] == winner


@pytest.mark.parametrize("change", ["rm", "put"])
def test_a_download_survives_what_happens_to_the_name(shared, shared_work, change):
    """The download is held by a reader that does not read, half-way through by its own word."""
    source = write_random(os.path.join(shared_work, "source"), 24 * MIB)
    shared.dfs("put", "--block-size", "1MiB", source, "/removed")
    transfer = shared.start_transfer("get", "/removed", "-")
    first = transfer.process.stdout.read(MIB)
    assert transfer.is_running
    shared.dfs(*(("rm", "/removed") if change == "rm" else ("put", os.path.join(shared_work, "version0"), "/removed")))
    came, _ = transfer.process.communicate(timeout=60)
    assert transfer.process.returncode == 0
    assert hashlib.sha256(first + came).hexdigest() == digest(source)
    if change == "rm":
        assert "no such file" in shared.dfs("cat", "/removed", status=1)


def test_space_of_removed_files_comes_back_but_not_under_a_reader(make_cluster, work):
    """The grace is over long before the download is: its blocks stay for it, those of the file beside it go."""
    source = write_random(os.path.join(work, "source"), 24 * MIB)
    cluster = make_cluster(keepers=2, master_options=["--copies", "2", "--trash-grace", "0.5"])
    for path in ("/read", "/unread"):
        cluster.dfs("put", "--block-size", "1MiB", source, path)
    assert len(cluster.block_files()) == 96
    transfer = cluster.start_transfer("get", "/read", "-")
    first = transfer.process.stdout.read(MIB)
    cluster.dfs("rm", "/read", "/unread")
    until(lambda: len(cluster.block_files()) == 48, 20, "the blocks that nobody reads are gone")
    until(lambda: sum(keeper["blocks"] for keeper in cluster.status()["keepers"]) == 48, 10, "and the master knows")
    came, _ = transfer.process.communicate(timeout=60)
    assert transfer.process.returncode == 0 and hashlib.sha256(first + came).hexdigest() == digest(source)
