"""What those see who run a cluster: numbers for monitors, alarms, and the verbs for operators, on real processes."""

import json
import os
import sys
import urllib.error
import urllib.request

import pytest

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
