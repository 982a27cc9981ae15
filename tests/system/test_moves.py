"""More copies, fewer, a drain, a rebalance: each with a kill -9 of the master and of a keeper in the middle, on one cluster of small disks.

What is looked at all the while is what lies on the keepers' disks, the killed one's too: no block is ever on fewer of them than its file
had before and is to have after.
"""

import os
import random
from contextlib import ExitStack

import pytest

from live_cluster import MIB, Watch, same_trees, until
from small_disk import SmallDisk

pytestmark = pytest.mark.system
N_FILES, SIZE, LEAST = 40, 256 << 10, 2
# Each change copies or moves some 10 MiB: slow enough to be met in the middle, fast enough for a suite.
RATE = "2MiB"
SETTINGS = ["--copies", "2", "--safe", "2", "--suspect-after", "1", "--dead-after", "2", "--repair-grace", "1", "--repair-rate", RATE,
            "--rebalance", "now", "--catalog-backup", "0"]
KEEPERS = ("k1", "k2", "k3", "k4")


def holders(cluster, block):
    """Names of the keepers that have a whole block of this name on their disks."""
    return {name for name in KEEPERS if os.path.exists(_path(cluster, name, block))}


def _path(cluster, name, block):
    return os.path.join(cluster.directory, name, "blocks", block[-2:], block)


class CopiesWatch(Watch):
    """Looks how many keepers have each block. A block that moves while it is looked at is looked at once more."""

    PAUSE_S = 0.005

    def __init__(self, cluster, blocks):
        super().__init__()
        self._cluster, self._blocks = cluster, blocks
        self.lowest, self.n_rounds = {}, 0  # lowest: block → fewest keepers, of those that had too few

    def look(self):
        for block in self._blocks:
            if len(holders(self._cluster, block)) < LEAST:
                n = max(len(holders(self._cluster, block)) for _ in range(3))
                if n < LEAST:
                    self.lowest[block] = min(n, self.lowest.get(block, n))
        self.n_rounds += 1


def test_changes_go_on_by_themselves_after_a_kill_of_the_master_and_of_a_keeper(make_cluster, work):
    tree, rng = os.path.join(work, "tree"), random.Random(3)
    os.mkdir(tree)
    for number in range(N_FILES):
        with open(os.path.join(tree, f"f{number:02}"), "wb") as out:
            out.write(rng.randbytes(SIZE))
    with ExitStack() as disks:
        for name in KEEPERS:
            disks.enter_context(SmallDisk(os.path.join(work, "cluster0", name), 32 * MIB))
        cluster = make_cluster(keepers=4, n_ports=1, keeper_options=["--heartbeat-every", "0.3"], master_options=SETTINGS)
        _change_all(cluster, tree, work)


def _change_all(cluster, tree, work):
    cluster.dfs("put", "-r", tree, "/tree")
    paths = [line["path"] for line in cluster.json("find", "/tree") if line["type"] == "file"]
    blocks = [block["block"] for line in cluster.json("stat", *paths) for block in line["blocks"]]
    assert len(paths) == len(blocks) == N_FILES and all(len(holders(cluster, block)) == 2 for block in blocks)

    def n_copies():
        return sum(len(holders(cluster, block)) for block in blocks)

    def n_on(name):
        return sum(name in holders(cluster, block) for block in blocks)

    def in_the_middle(has_begun, is_over, victim):
        """Kill the master, and start it again; when more is done kill a keeper, and start it again when it counts as dead."""
        for name in ("master", victim):
            until(has_begun, 30, "it is in the middle")
            cluster.kill(name)
            assert not is_over(), f"all was over before {name} was killed"
            if name == victim:
                until(lambda: cluster.states()[name] == "dead", 10, f"{name} is dead")
            cluster.restart(name)
            before = n_copies(), [n_on(one) for one in KEEPERS]
            if name == "master":
                until(lambda: (n_copies(), [n_on(one) for one in KEEPERS]) != before, 30, "it goes on by itself")

    def settled(want):
        cluster.dfs("wait", "--copies", "--timeout", "60")
        until(lambda: all(len(holders(cluster, block)) == want for block in blocks), 60, f"{want} copies of each, and no surplus")

    with CopiesWatch(cluster, blocks) as watch:
        cluster.dfs("set", *paths, "--copies", "3")
        in_the_middle(lambda: n_copies() > 2 * N_FILES, lambda: n_copies() >= 3 * N_FILES, "k4")
        settled(3)
        cluster.dfs("set", *paths, "--copies", "2")
        settled(2)
        # Which copies went, and so who has how many, is the master's choice: the one with most of them leaves.
        leaver, *_rest, other = sorted(KEEPERS, key=n_on, reverse=True)
        cluster.dfs("drain", leaver)
        assert n_on(leaver) > 5
        in_the_middle(lambda: n_copies() > 2 * N_FILES, lambda: n_on(leaver) == 0, other)
        cluster.dfs("drain", leaver, "--wait", timeout=90)
        assert n_on(leaver) == 0
        settled(2)
        cluster.dfs("undrain", leaver)
        in_the_middle(lambda: n_on(leaver) > 0, lambda: n_on(leaver) > 10, leaver)
        until(lambda: cluster.json("rebalance", "--dry-run")[-1]["moves"] == 0, 60, "the keepers are even")
        settled(2)
        assert n_on(leaver) > 5
    assert watch.n_rounds > 20 and watch.lowest == {}
    cluster.dfs("get", "-r", "/tree", os.path.join(work, "back"))
    assert same_trees(tree, os.path.join(work, "back")) == ""
    cluster.dfs("fsck", "--deep")  # 5 if anything were missing or corrupt
