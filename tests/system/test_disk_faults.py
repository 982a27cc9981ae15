"""The disks of keepers: full, failing, read-only, hanging. The block fails there, the client goes elsewhere, placement stays away, and
what passes is over by itself."""

import os
import sys
import time

import pytest

from live_cluster import MIB, ROOT, digest, until, write_random
from small_disk import SmallDisk

pytestmark = pytest.mark.system
FAULTY = [sys.executable, os.path.join(ROOT, "tests", "system", "faulty_program.py")]
# What a put or get may take beside a hanging disk: its time-out, the client's 2 s of patience, and a slow machine.
DISK_TIMEOUT_S, PATIENCE_S = 1.0, 12.0


def keeper(cluster, name):
    with cluster.client() as client:
        return next(one for one in client.status().keepers if one["keeper_id"] == cluster.keeper_id(name))


def weather(cluster, name, text):
    """What the keeper's disk does from now on."""
    path = os.path.join(cluster.directory, f"{name}.faults")
    with open(path + ".new", "w") as out:
        out.write(text)
    os.replace(path + ".new", path)


def block_names(cluster, name):
    return {each for _directory, _below, names in os.walk(os.path.join(cluster.directory, name, "blocks")) for each in names}


def put_some(cluster, work, prefix, n=8, size=20_000):
    """{remote path: digest} of files that were put one after the other, each acknowledged."""
    put = {}
    with cluster.client() as client:
        for number in range(n):
            source = write_random(os.path.join(work, f"{prefix}{number}"), size, number)
            client.put(source, f"/{prefix}{number}")
            put[f"/{prefix}{number}"] = digest(source)
    return put


def all_come_back(cluster, work, put):
    back = os.path.join(work, "back")
    with cluster.client() as client:
        for path, expected in put.items():
            if os.path.exists(back):
                os.unlink(back)
            client.get(path, back)
            assert digest(back) == expected, path


def test_a_disk_that_fails_or_hangs_is_left_alone_until_it_works_again(make_cluster, work):
    """EIO on write, on fsync and on reading, and an fsync that does not return (F8, F11, I12)."""
    cluster = make_cluster(keepers=3, n_ports=1, program=FAULTY, master_options=["--copies", "2"],
                           keeper_options=["--disk-timeout", f"{DISK_TIMEOUT_S}"])
    stored = put_some(cluster, work, "before", n=6)
    for call, what in (("write", "EIO"), ("fsync", "EIO"), ("fsync", "hang")):
        before = block_names(cluster, "k1")
        weather(cluster, "k1", f"{call} {what}\n")
        began_s, n = time.monotonic(), 0
        while not keeper(cluster, "k1")["sick"]:  # until it was chosen for a block
            stored |= put_some(cluster, work, f"{call}{what}{n}x", n=1)
            n += 1
            assert n < 60
        assert time.monotonic() - began_s < PATIENCE_S + n
        sick = cluster.dfs("status")
        assert "k1 is sick" in sick and ("unanswered" in sick if what == "hang" else "input/output error" in sick.lower())
        stored |= put_some(cluster, work, f"{call}{what}after", n=3)  # nothing is placed there
        all_come_back(cluster, work, dict(list(stored.items())[:6]))
        assert block_names(cluster, "k1") == before and keeper(cluster, "k1")["state"] == "live"
        weather(cluster, "k1", "")
        until(lambda: not keeper(cluster, "k1")["sick"], 10, "the keeper is well again")
        cluster.dfs("wait", "--copies", "--timeout", "30")
        assert not [name for name in os.listdir(os.path.join(cluster.directory, "k1", "incoming")) if "~probe" not in name]
    weather(cluster, "k1", "read EIO\n")
    all_come_back(cluster, work, stored)  # each from the other copy, and none is believed lost
    weather(cluster, "k1", "")
    cluster.dfs("wait", "--copies", "--timeout", "30")
    assert cluster.status()["missing"] == 0
    all_come_back(cluster, work, stored)


def test_a_keeper_starts_when_its_disk_lets_it(make_cluster, work):
    """A start on a failing disk waits for it, instead of leaving; told to stop meanwhile it stops."""
    cluster = make_cluster(keepers=2, n_ports=1, program=FAULTY, master_options=["--copies", "2"])
    stored = put_some(cluster, work, "file", n=2)
    cluster.stop_one("k1")
    weather(cluster, "k1", "fsync EIO\n")
    k1 = cluster.daemon("k1")
    k1.start()
    until(lambda: "does not let this keeper start" in _log(cluster, "k1"), 20, "it says why it waits")
    k1.ask_to_stop()
    assert k1.wait_stopped(time.monotonic() + 5) == 0
    k1.start()
    until(lambda: _log(cluster, "k1").count("does not let this keeper start") > 1, 20, "it waits again")
    weather(cluster, "k1", "")
    k1.wait_ready(time.monotonic() + 20)
    cluster.dfs("wait", "--copies", "--timeout", "20")
    all_come_back(cluster, work, stored)


def _log(cluster, name):
    return _text(cluster.daemon(name).log_path)


def _text(path):
    with open(path) as source:
        return source.read()


def test_a_full_disk_and_a_read_only_one_serve_what_they_have(make_cluster, work):
    """ENOSPC and EROFS of a real file system (F9, F12), over restarts of the master and of the keeper."""
    with SmallDisk(os.path.join(work, "cluster0", "k1"), 24 * MIB) as disk:
        # The emptiest get a block first, so that the third copy, which repair makes, is the one on the small disk.
        cluster = make_cluster(keepers=3, n_ports=1, master_options=["--copies", "3", "--trash-grace", "1"])
        stored = put_some(cluster, work, "file", n=5)
        put_some(cluster, work, "unread", n=4)  # what somebody has read is kept for a while after it was removed
        cluster.dfs("wait", "--copies", "--timeout", "20")
        mine = block_names(cluster, "k1")
        assert len(mine) == 9
        disk.fill()
        stored |= put_some(cluster, work, "full", n=4)  # placement may not know yet
        until(lambda: keeper(cluster, "k1")["free"] == 0, 5, "it says that it is full")
        assert block_names(cluster, "k1") == mine and keeper(cluster, "k1")["sick"] == ""
        cluster.kill("master")
        cluster.restart("master")  # a new reign, to be kept on the full disk before it is obeyed
        until(lambda: keeper(cluster, "k1")["state"] == "live", 20, "it has registered again")
        until(lambda: _text(os.path.join(disk.path, "epoch")) == "2\n", 5, "the new reign is on the full disk")
        only_from_k1(cluster, work, {"/file0": stored["/file0"]})
        cluster.dfs("rm", *(f"/unread{number}" for number in range(4)))
        until(lambda: len(block_names(cluster, "k1")) == 5, 20, "rm frees room on it")
        disk.free()
        stored |= put_some(cluster, work, "again", n=3)
        cluster.dfs("wait", "--copies", "--timeout", "60")  # also what was put while it was full
        assert len(block_names(cluster, "k1")) == 12  # five, four of when it was full, three

        cluster.stop_one("k1")
        disk.remount("ro")
        cluster.restart("k1")
        until(lambda: "read-only" in keeper(cluster, "k1")["sick"].lower(), 10, "it says that its disk is read-only")
        only_from_k1(cluster, work, {"/again0": stored["/again0"]})
        stored |= put_some(cluster, work, "readonly", n=3)
        disk.remount("rw")
        until(lambda: not keeper(cluster, "k1")["sick"], 20, "it takes writes again")
        cluster.dfs("wait", "--copies", "--timeout", "60")
        assert len(block_names(cluster, "k1")) == 15
        cluster.stop()


def only_from_k1(cluster, work, put):
    """These files come back while the other keepers stand still."""
    for name in ("k2", "k3"):
        cluster.pause(name)
    try:
        all_come_back(cluster, work, put)
    finally:
        for name in ("k2", "k3"):
            cluster.resume(name)
    cluster.dfs("wait", "--keepers", "3", "--timeout", "20")
