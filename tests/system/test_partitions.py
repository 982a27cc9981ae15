"""Partitions between real network namespaces: whole, partial, one-way, and of one protocol alone. What is stored stays readable."""

import itertools
import os

import pytest

import partitions
from live_cluster import digest, until, write_random
from partitions import both

WHY_NOT = partitions.why_not()
pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")]
# A second to be suspect, three to be dead.
OPTIONS = ["--copies", "2", "--suspect-after", "1", "--dead-after", "3", "--repair-grace", "1", "--trash-grace", "0"]
KEEPERS = ("k1", "k2", "k3", "k4")
# A verb that meets what a partition hides: a time-out of a second or two, and the start of the program on a busy machine.
SOON_S = 8.0
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(shared_work):
    lab = partitions.Lab(("master", *KEEPERS, "client"))
    try:
        with partitions.LabCluster(os.path.join(shared_work, "cluster"), lab, keepers=len(KEEPERS), n_ports=1, master_options=OPTIONS) as found:
            yield found
    finally:
        lab.close()


@pytest.fixture
def stored(cluster, shared_work):
    """A file of a few blocks on the cluster: (path there, path here)."""
    source, path = write_random(os.path.join(shared_work, "source"), 3 << 20), f"/stored{next(NUMBERS)}"
    cluster.dfs("put", "--block-size", "1MiB", source, path)
    yield path, source
    until(lambda: set(cluster.states().values()) == {"live"}, 15, "all are back")
    cluster.dfs("wait", "--copies", "--timeout", "20")
    assert cluster.status()["alarms"] == []


def works(cluster, stored, shared_work):
    """A put and gets, soon. Under another name each time: what somebody has read is kept for a while when it is replaced."""
    path, source = stored
    written = f"/written{next(NUMBERS)}"
    put_s, _ = cluster.timed("put", source, written)
    target = os.path.join(shared_work, "back")
    for name in (path, written):
        get_s, _ = cluster.timed("get", name, target)
        assert digest(target) == digest(source) and max(put_s, get_s) < SOON_S, (put_s, get_s)
        os.unlink(target)


def test_udp_or_tcp_is_blocked_alone(cluster, stored, shared_work):
    """Heartbeats of k1 are lost: it speaks over TCP, and lives. Of k2 nothing but heartbeats comes through: it is nobody's keeper (F17)."""
    registered = cluster.said("keeper registered keeper=k1 ")
    with cluster.lab.cut(("k1", "master"), protocol="udp"), cluster.lab.cut(("k2", "*"), protocol="tcp"):
        works(cluster, stored, shared_work)
        until(lambda: cluster.states()["k2"] == "dead", 15, "k2 is dead")
        [k1] = [keeper for keeper in cluster.status()["keepers"] if keeper["name"] == "k1"]
        assert k1["state"] == "live" and "UDP" in k1["reason"] and k1["heartbeat_age_s"] > 3
        [k2] = [keeper for keeper in cluster.status()["keepers"] if keeper["name"] == "k2"]
        assert "heartbeats arrive" in k2["reason"] and k2["heartbeat_age_s"] < 3
        works(cluster, stored, shared_work)
        assert cluster.said("keeper registered keeper=k1 ") == registered and not cluster.said("keeper=k1 from=live to=dead")


def test_a_partial_partition(cluster, stored, shared_work):
    """k1 sees the master and no client; k2 and k3 do not see each other (F16). Nobody is dead, and everything goes another way."""
    with cluster.lab.cut(*both("k1", "client"), *both("k2", "k3")):
        works(cluster, stored, shared_work)
        for number in range(4):
            cluster.dfs("put", stored[1], f"/partial{number}")
        cluster.dfs("wait", "--copies", "--timeout", "20")
        assert set(cluster.states().values()) == {"live"}


def test_a_one_way_partition_and_a_pulled_cable(cluster, stored, shared_work):
    """k3 hears everybody and nobody hears it; then it is cut off altogether, and comes back."""
    with cluster.lab.cut(("k3", "*")):
        until(lambda: cluster.states()["k3"] == "dead", 15, "k3 is dead")
        works(cluster, stored, shared_work)
    until(lambda: cluster.states()["k3"] == "live", 15, "k3 is back")
    with cluster.lab.unplugged("k3"):
        until(lambda: cluster.states()["k3"] == "dead", 15, "k3 is dead again")
        cluster.dfs("wait", "--copies", "--timeout", "20")
        works(cluster, stored, shared_work)
    until(lambda: cluster.states()["k3"] == "live", 15, "k3 is back again")
    cluster.dfs("wait", "--copies", "--timeout", "20")
    blocks = sum(len(found["blocks"]) for found in cluster.json("stat", *(entry["path"] for entry in cluster.json("ls", "/"))))
    until(lambda: len(cluster.block_files()) == 2 * blocks, 30, "what is surplus goes, and no copy more")


def test_delay_and_loss(cluster, stored, shared_work):
    for name in KEEPERS:
        if why := cluster.lab.disturb(name, "delay", "20ms", "10ms", "loss", "2%", "duplicate", "1%", "reorder", "5%"):
            pytest.skip(f"no netem here: {why}")
    try:
        works(cluster, stored, shared_work)
        assert set(cluster.states().values()) == {"live"}
    finally:
        for name in KEEPERS:
            cluster.lab.disturb(name, "delay", "0ms")
