"""The master's directory is gone: `dfs master --rebuild` with real processes, with a copy of the catalog and without, and killed half-way.

REBUILD_FILES=10000 does it with more files than the suite's.
"""

import os
import shutil
import subprocess
import time

import pytest

from live_cluster import same_trees, until, write_random

pytestmark = pytest.mark.system
N_FILES = int(os.environ.get("REBUILD_FILES", "300"))
REBUILD = ["--rebuild", "--rebuild-keepers", "3", "--rebuild-wait", "1"]


def tree(directory, n_files):
    for number in range(n_files):
        below = os.path.join(directory, f"d{number % 7}")
        os.makedirs(below, exist_ok=True)
        write_random(os.path.join(below, f"f ü{number}"), 1000 + number, number)
    return directory


def lose_the_master(cluster):
    cluster.kill("master")
    shutil.rmtree(os.path.join(cluster.directory, "master"))


def kept(cluster):
    """{(keeper, area): names} of every block file the keepers have."""
    return {(name, area): sorted(each for _directory, _below, names in os.walk(os.path.join(cluster.directory, name, area)) for each in names)
            for name in cluster.keepers for area in ("blocks", "aside", "quarantine")}


def copies_are_level(cluster):
    copies = cluster.status()["catalog_copies"]["copies"]
    return len(copies) == 2 and all(copy["behind"] == 0 and copy["age_s"] is not None for copy in copies)


def log_of(cluster, name):
    with open(os.path.join(cluster.directory, "logs", f"{name}.log"), encoding="utf-8", errors="replace") as log:
        return log.read()


def start_master(cluster, *words):
    """Start the master with more words, without waiting until it is ready; returns the Daemon."""
    master = cluster.master
    at = master.arguments.index("--ports") + 1
    master.arguments[at] = ",".join(str(port) for port in master.ports)
    master.arguments += words
    ready = master.ready
    master.start()
    master.ready = {**ready, "pid": master.process.pid}  # where it will listen is known
    return master


def wait_ready(master, seconds=60):
    return master.wait_ready(time.monotonic() + seconds)


def test_a_lost_master_comes_back_with_names_renames_and_removals(make_cluster, work):
    """Killed once while it gathers; what was put in the last second is there too, and no keeper has lost or set aside anything."""
    source, back, one = tree(os.path.join(work, "source"), N_FILES), os.path.join(work, "back"), os.path.join(work, "one")
    cluster = make_cluster(keepers=3, master_options=["--trash-grace", "1h"])
    cluster.dfs("put", "-r", source, "/")
    cluster.dfs("mv", "/source/d0/f ü0", "/renamed")
    cluster.dfs("mv", "/source/d1", "/source/moved")
    cluster.dfs("rm", "/source/d2/f ü2")
    cluster.dfs("mkdir", "/empty")
    cluster.dfs("cp", "/renamed", "/twin")
    cluster.dfs("wait", "--copies", "--timeout", "60")
    until(lambda: copies_are_level(cluster), 20, "the copies are level")
    late = write_random(os.path.join(work, "late"), 5000, 1)
    cluster.dfs("put", late, "/late")
    old = cluster.status()
    before = kept(cluster)
    lose_the_master(cluster)

    # An empty master is no master of theirs.
    empty = start_master(cluster)
    wait_ready(empty)
    until(lambda: "belongs to cluster" in log_of(cluster, "k1"), 20, "the keeper refuses it")
    assert cluster.status()["keepers"] == []
    lose_the_master(cluster)

    cluster.pause("k3")
    master = start_master(cluster, *REBUILD)
    until(lambda: "2 keepers have come of at least 3, 2 have told all they hold" in cluster.run("ls", "/").stderr, 30)
    refused = cluster.run("ls", "--json", "/")
    assert refused.returncode == 1 and '"not_ready"' in refused.stderr
    cluster.kill("master")
    start_master(cluster)
    cluster.resume("k3")
    assert wait_ready(master)["cluster_id"] == old["cluster_id"]
    cluster.wait_live(3)
    cluster.dfs("wait", "--copies", "--timeout", "60")
    new = cluster.status()
    assert new["epoch"] > old["epoch"] and new["files"] == old["files"] and any("made anew from a copy" in alarm for alarm in new["alarms"])
    cluster.dfs("get", "-r", "/source", back)
    os.rename(os.path.join(source, "d1"), os.path.join(source, "moved"))
    os.unlink(os.path.join(source, "d2", "f ü2"))
    first = os.path.join(work, "first")
    os.rename(os.path.join(source, "d0", "f ü0"), first)
    assert same_trees(source, back) == ""
    for path, local in (("/renamed", first), ("/twin", first), ("/late", late)):
        cluster.dfs("get", path, one)
        assert same_trees(local, one) == ""
    assert {entry["path"] for entry in cluster.json("ls", "/")} == {"/source", "/renamed", "/twin", "/late", "/empty"}
    after = kept(cluster)
    assert all(set(before[place]) <= set(after[place]) for place in before)
    assert not any(names for (_keeper, area), names in after.items() if area != "blocks")

    # The same command line starts it again, and it goes on.
    cluster.restart("master")
    cluster.wait_live(3)
    cluster.dfs("put", late, "/after")
    assert cluster.status()["files"] == old["files"] + 1


def test_without_a_copy_the_blocks_alone_bring_every_file_back(make_cluster, work):
    source, back, one = tree(os.path.join(work, "source"), N_FILES), os.path.join(work, "back"), os.path.join(work, "one")
    large = write_random(os.path.join(work, "large"), 5 << 20)
    cluster = make_cluster(keepers=3, master_options=["--catalog-backup", "off"])
    cluster.dfs("put", "-r", source, "/")
    cluster.dfs("put", "--block-size", "1MiB", large, "/large")
    cluster.dfs("wait", "--copies", "--timeout", "60")
    assert cluster.status()["catalog_copies"] == {"wanted": 0, "copies": []}
    lose_the_master(cluster)
    start_master(cluster, *REBUILD)
    wait_ready(cluster.master)
    cluster.wait_live(3)
    cluster.dfs("wait", "--copies", "--timeout", "60")
    cluster.dfs("get", "-r", "/source", back)
    cluster.dfs("get", "/large", one)
    assert same_trees(source, back) == "" and same_trees(large, one) == ""
    assert {entry["path"] for entry in cluster.json("ls", "/")} == {"/source", "/large"}
    assert cluster.dfs("fsck", "--json", "/")


def test_one_keepers_directory_gives_every_file_back_without_a_cluster(make_cluster, work):
    """copies 3 on three keepers: each of them has everything, and two of them the names that files had last."""
    source, into = tree(os.path.join(work, "source"), 60), os.path.join(work, "into")
    write_random(os.path.join(source, "large"), 5 << 20)
    cluster = make_cluster(keepers=3, master_options=["--copies", "3"])
    cluster.dfs("put", "-r", "--block-size", "1MiB", source, "/")
    cluster.dfs("mv", "/source/d0", "/source/moved")
    cluster.dfs("mkdir", "/source/empty")
    cluster.dfs("wait", "--copies", "--timeout", "60")
    until(lambda: copies_are_level(cluster), 20, "the copies are level")
    with_names = {copy["keeper_id"] for copy in cluster.status()["catalog_copies"]["copies"]}
    ids = {name: cluster.keeper_id(name) for name in cluster.keepers}
    cluster.stop()
    moved = os.path.join(work, "moved")
    shutil.copytree(source, moved)
    os.rename(os.path.join(moved, "d0"), os.path.join(moved, "moved"))
    os.mkdir(os.path.join(moved, "empty"))
    for name in cluster.keepers:
        done = subprocess.run([*cluster.command, "recover", os.path.join(cluster.directory, name), "--into", os.path.join(into, name)],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert same_trees(moved if ids[name] in with_names else source, os.path.join(into, name, "source")) == ""


def test_a_rebuild_needs_the_old_key_and_an_empty_directory(make_cluster, work):
    cluster = make_cluster(keepers=1)
    lines = [*cluster.command, "master", "--ports", "0", "--rebuild", "--data"]
    no_key = subprocess.run([*lines, os.path.join(work, "other")], capture_output=True, text=True, timeout=30)
    assert no_key.returncode == 6 and "a rebuild needs the key of the cluster that was lost" in no_key.stderr
    cluster.stop_one("master")
    there = subprocess.run([*lines, os.path.join(cluster.directory, "master"), "--key-file", cluster.key_file], capture_output=True, text=True,
                           timeout=30)
    assert there.returncode == 1 and "a rebuild begins where no catalog is" in there.stderr

