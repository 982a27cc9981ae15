"""What those see who run a cluster: numbers for monitors, alarms, and the verbs for operators, on real processes."""

import json
import os
import sys
import urllib.error
import urllib.request

import pytest

import live_cluster
from live_cluster import LiveCluster, until

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import exposition  # noqa: E402


@pytest.fixture(scope="module")
def watched(shared_work):
    """A cluster that monitors may ask, and whose master tells alarms to a script."""
    script = os.path.join(shared_work, "alarm.sh")
    with open(script, "w") as out:
        out.write(f'#!/bin/sh\ncat >>{shared_work}/told\necho "$DFS_ALARM_EVENT $DFS_ALARM_KEY" >>{shared_work}/named\n')
    os.chmod(script, 0o700)
    with LiveCluster(os.path.join(shared_work, "cluster"), keepers=3, keeper_options=["--monitor", "0"],
                     master_options=["--monitor", "0", "--alarm-command", script, "--dead-after", "2", "--suspect-after", "1"]) as cluster:
        cluster.told = os.path.join(shared_work, "told")
        yield cluster


def page(daemon, path):
    """(status, text) of a daemon's page for monitors."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{daemon.ready['monitor_port']}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()


def samples(daemon, name):
    status, text = page(daemon, "/metrics")
    assert status == 200 and exposition.faults(text) == []
    return {tuple(value for _label, value in labels): number for (_sample, labels), number in exposition.parse(text)[name][2].items()}


def test_monitors_and_alarms(watched, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 300_000)
    watched.dfs("put", tmp_path / "a", "/a")
    watched.dfs("wait", "--copies", "--timeout", "30")
    assert samples(watched.master, "dfs_files") == {(): 1.0}
    for keeper in watched.keepers.values():
        assert page(keeper, "/healthz") == page(keeper, "/readyz") == (200, "ok\n")
        bytes_in = sum(n for (_port, direction), n in samples(keeper, "dfs_transfer_bytes_total").items() if direction == "in")
        assert bytes_in == 300_000  # at whichever port
    assert page(watched.master, "/readyz") == (200, "ok\n")
    watched.kill("k2")
    until(lambda: samples(watched.master, "dfs_keeper_up")[("k2",)] == 0.0, 10, "the dead keeper shows")
    until(lambda: os.path.exists(watched.told) and os.path.getsize(watched.told), 10, "the command was told")
    told = json.loads(open(watched.told).readline())
    assert (told["event"], told["key"], told["kind"]) == ("raised", "keeper_dead:k2", "keeper_dead") and told["cluster_id"]
    watched.restart("k2")
    until(lambda: samples(watched.master, "dfs_keeper_up")[("k2",)] == 1.0, 10, "it is back")


def test_doctor_bench_and_backup(watched, tmp_path):
    code = watched.run("doctor", "--json", "--data", watched.keepers["k1"].ready["data"])
    findings = [json.loads(line) for line in code.stdout.splitlines()]
    # The directory may lie in memory, which doctor has to find; nothing else is wrong.
    assert {one["check"] for one in findings if one["verdict"] == "bad"} <= {"fsync", "open files"}, findings
    assert {"time", "heartbeats", "from here", "from the master", "disk"} <= {one["check"] for one in findings if one["verdict"] == "ok"}
    figures = watched.json("bench", "--size", "1MiB", "--files", "5", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert [(one["what"], one["kind"]) for one in figures] == [("put", "large"), ("get", "large"), ("put", "small"), ("get", "small"),
                                                              ("put", "one by one"), ("get", "one by one"), ("stat", "one by one")]
    assert all(one["files_per_s"] > 0 for one in figures) and os.listdir(tmp_path) == []
    assert [line["path"] for line in watched.json("ls", "/")] == ["/a"]
    copy = tmp_path / "copy.db"
    watched.dfs("admin", "backup", copy)
    assert copy.read_bytes()[:15] == b"SQLite format 3" and copy.stat().st_mode & 0o77 == 0 and sorted(os.listdir(tmp_path)) == ["copy.db"]


def test_a_backup_is_put_back_only_on_purpose(make_cluster, work):
    """Keepers obey no older catalog; with --epoch-above its operator says that this one is meant, and nothing they hold is deleted for it."""
    cluster = make_cluster(keepers=2, master_options=["--safe", "1", "--copies", "2"])
    before, after, copy = (os.path.join(work, name) for name in ("before", "after", "copy.db"))
    live_cluster.write_random(before, 300_000, 1)
    live_cluster.write_random(after, 200_000, 2)
    cluster.dfs("put", before, "/before")
    cluster.dfs("admin", "backup", copy)
    cluster.dfs("put", after, "/after")
    cluster.dfs("wait", "--copies", "--timeout", "30")
    for _ in range(2):
        cluster.kill("master")
        cluster.restart("master")
        cluster.dfs("wait", "--keepers", "2", "--timeout", "30")
    epoch = cluster.status()["epoch"]
    catalog = os.path.join(cluster.master.ready["data"], "catalog.db")
    cluster.kill("master")
    for ending in ("-wal", "-shm"):
        if os.path.exists(catalog + ending):
            os.unlink(catalog + ending)
    os.chmod(copy, 0o600)
    os.replace(copy, catalog)
    cluster.restart("master")
    told = until(lambda: [alarm for alarm in cluster.status()["alarms"] if "--epoch-above" in alarm], 20, "what to do is told")
    assert f"--epoch-above {epoch}" in told[0] and set(cluster.states().values()) <= {"dead"}
    cluster.kill("master")
    cluster.master.arguments += ["--epoch-above", str(epoch)]
    for _ in range(2):  # at a later start the same words do nothing
        cluster.restart("master")
        cluster.dfs("wait", "--keepers", "2", "--timeout", "30")
        cluster.dfs("get", "/before", os.path.join(work, "back"))
        assert live_cluster.digest(os.path.join(work, "back")) == live_cluster.digest(before)
        cluster.kill("master")
    cluster.restart("master")
    cluster.dfs("wait", "--keepers", "2", "--timeout", "30")
    assert cluster.status()["epoch"] == epoch + 3 and not [alarm for alarm in cluster.status()["alarms"] if "--epoch-above" in alarm]
    assert [line["path"] for line in cluster.json("ls", "/")] == ["/before"]
    assert sum(os.path.getsize(path) >= 200_000 for path in everything(cluster)) == 4, "blocks of the file it does not know are kept"


def everything(cluster):
    """Paths of all files in the keepers' directories."""
    return [os.path.join(directory, name) for keeper in cluster.keepers for directory, _below, names in os.walk(os.path.join(cluster.directory, keeper))
            for name in names]
