"""The master's disk: full, failing in a commit, failing for good. Nothing is acknowledged that is not durable; reading goes on where it can."""

import os
import subprocess
import sys
import time

import pytest

from live_cluster import ROOT, until
from small_disk import FailingDisk, SmallDisk

pytestmark = pytest.mark.system
FAULTY = [sys.executable, os.path.join(ROOT, "tests", "system", "faulty_program.py")]
MIB = 1 << 20


def file_of(work, name, size=3000):
    path = os.path.join(work, name)
    with open(path, "wb") as out:
        out.write(os.urandom(size))
    return path


def alarms(cluster):
    return [alarm for alarm in cluster.status()["alarms"] if "disk is full" in alarm]


def test_a_full_disk_refuses_what_adds_and_goes_on_with_the_rest(make_cluster, work):
    """F10: reads and rm go on, a restart works, and with room all goes on without another."""
    with SmallDisk(os.path.join(work, "cluster0", "master"), 32 * MIB) as disk:
        cluster = make_cluster(keepers=2, master_options=["--copies", "2", "--trash-grace", "1"])
        source = file_of(work, "source")
        for n in range(3):
            cluster.dfs("put", source, f"/file{n}")
        grown = os.path.join(work, "grown")
        os.mkdir(grown)
        for n in range(100):
            file_of(grown, f"{n:03}", 100)
        cluster.dfs("put", "-r", grown, "/grown")
        disk.fill()
        refused = cluster.dfs("put", source, "/file9", status=1)
        assert "the master's disk is full" in refused and "Traceback" not in refused
        cluster.dfs("get", "/file0", os.path.join(work, "back"))
        cluster.dfs("rm", "-r", "/grown")  # takes the ballast
        cluster.dfs("rm", "/file1")
        until(lambda: alarms(cluster), 5, "an alarm says so")
        assert "is full" in cluster.dfs("mkdir", "/new", status=1) and "is full" in cluster.dfs("put", source, "/file9", status=1)
        cluster.kill("master")
        cluster.restart("master")  # it starts on the full disk, and takes keepers in
        cluster.dfs("get", "/file2", os.path.join(work, "back"))
        assert {entry["path"] for entry in cluster.json("ls", "/")} == {"/file0", "/file2"}
        disk.free()
        until(lambda: not alarms(cluster), 5, "the alarm ends")
        cluster.dfs("put", source, "/file9")
        assert os.path.getsize(os.path.join(disk.path, "ballast")) == 4 * MIB and cluster.master.is_running
        cluster.stop()


def stopped(cluster):
    """The exit status of a master that ends by itself, and the last thing it said."""
    status = cluster.master.process.wait(10)
    return status, cluster.master.last_words()


def test_a_commit_that_fails_is_acknowledged_to_nobody_and_the_master_stops(make_cluster, work):
    cluster = make_cluster(keepers=2, program=FAULTY, master_options=["--copies", "2"])
    source, faults = file_of(work, "source"), os.path.join(cluster.directory, "master.faults")
    cluster.dfs("put", source, "/before")
    with open(faults, "w") as out:
        out.write("commit EIO\n")
    began_s = time.monotonic()
    refused = subprocess.run(cluster.command_line("put", "--patience", "1", source, "/lost"), capture_output=True, text=True, timeout=30)
    assert refused.returncode in (3, 5) and "Traceback" not in refused.stderr, refused
    status, words = stopped(cluster)
    assert status == 5 and "the master stops" in words and "disk I/O error" in words and time.monotonic() - began_s < 15
    os.unlink(faults)
    cluster.restart("master")
    assert [entry["path"] for entry in cluster.json("ls", "/")] == ["/before"]
    cluster.dfs("put", source, "/lost")
    cluster.dfs("get", "/lost", os.path.join(work, "back"))


def test_a_device_that_fails_under_the_catalog_loses_nothing_acknowledged(make_cluster, work):
    """A real EIO: the image under the file system finds no room, so the block layer fails the writes and fsync says so."""
    with FailingDisk(os.path.join(work, "cluster0", "master"), work) as disk:
        cluster = make_cluster(keepers=2, master_options=["--copies", "1", "--safe", "1"])
        acknowledged = []
        disk.fail()
        for n in range(400):
            source = file_of(work, "source", 100)
            done = subprocess.run(cluster.command_line("put", "--patience", "0.5", source, f"/file{n}"), capture_output=True, text=True, timeout=30)
            if done.returncode:
                break
            acknowledged.append(f"/file{n}")
        assert done.returncode in (1, 3, 5) and "Traceback" not in done.stderr, done
        status, words = stopped(cluster)
        assert status == 5 and "Traceback" not in words
        disk.mend()
        cluster.restart("master")
        assert set(acknowledged) <= {entry["path"] for entry in cluster.json("ls", "/")}
        cluster.dfs("put", source, "/after")
        cluster.stop()
