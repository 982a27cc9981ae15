"""dfs doctor: what each check makes of what it sees, and that it leaves nothing behind."""

import os
import time

import pytest

from cli_fakes import keeper, status
from dfs_lib import __version__, errors, keyfile
from dfs_lib.cli import doctor
from dfs_lib.wire import messages


def verdicts(findings):
    return [finding.verdict for finding in findings]


@pytest.mark.parametrize("ahead_s, verdict", [(0.3, "ok"), (-1.9, "ok"), (5.0, "note"), (-120.0, "bad")])
def test_clocks(ahead_s, verdict):
    found, = doctor.clocks(ahead_s)
    assert found.verdict == verdict and ("ahead" in found.text) == (ahead_s > 0) and bool(found.todo) == (verdict != "ok")


@pytest.mark.parametrize("median_s, kind, verdict", [(0.002, "ext4", "ok"), (0.000002, "ext4", "note"), (0.2, "ext4", "note"), (0.002, "tmpfs", "bad")])
def test_fsync(median_s, kind, verdict):
    found, = doctor.fsyncs(median_s, kind)
    assert found.verdict == verdict and bool(found.todo) == (verdict != "ok")


def test_versions():
    assert verdicts(doctor.versions(__version__)) == ["ok"] and verdicts(doctor.versions("9.9.9")) == ["note"]


def test_modes_of_keys_and_directories(tmp_path):
    tmp_path.chmod(0o700)
    key = tmp_path / "cluster.key"
    key.write_text("x")
    key.chmod(0o644)
    assert [(found.verdict, found.todo) for found in doctor.modes(str(tmp_path), os.stat(tmp_path))] == [("bad", f"chmod 600 {key}")]
    key.chmod(0o600)
    tmp_path.chmod(0o755)
    assert verdicts(doctor.modes(str(tmp_path), os.stat(tmp_path))) == ["bad", "ok"]


def test_a_directory_is_measured_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "WRITTEN", 1 << 20)
    (tmp_path / "catalog.db").write_text("")
    tmp_path.chmod(0o700)
    found = list(doctor.directory(str(tmp_path)))
    assert [one.check for one in found if one.check != "modes"] == ["directory", "space", "fsync", "disk"]
    assert "a master's" in found[0].text and os.listdir(tmp_path) == ["catalog.db"]
    missing, = doctor.directory(str(tmp_path / "none"))
    assert missing.verdict == "bad"


def test_the_file_system_of_a_path():
    assert doctor.file_system("/proc/self") == "proc"


def test_a_limit_of_files_that_is_too_low(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 256))
    found, = doctor.open_files()
    assert found.verdict == "bad" and "LimitNOFILE" in found.todo
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 65536))
    assert verdicts(doctor.open_files()) == ["ok"]


@pytest.fixture
def cluster(dfs, store, monkeypatch):
    """(run doctor → (exit status, {check: [verdict]}), the store): everything is well until a test says otherwise."""
    store.cluster_id, store.master_address = "c" * 32, ("127.0.0.1", 7000)
    store.statuses = [status(keepers=[keeper(1)])]
    examined = {"at": time.time(), "software": __version__, "heartbeat_port": 7000, "n_dropped": 3}
    store.answers[messages.Examine] = [messages.Examined(**examined), messages.Examined(**{**examined, "n_dropped": 8})]
    store.answers[messages.TryKeepers] = [messages.KeepersTried(tried=[{"keeper": keeper(1)["keeper_id"], "port": 8000, "failure": None}])]
    store.failures, thrown = {}, []
    monkeypatch.setattr(doctor, "_knock", lambda host, port: store.failures.get(port))
    monkeypatch.setattr("dfs_lib.net.knocking.throw", lambda host, port, n: thrown.append((host, port, n)))

    def run():
        code, records, _err = dfs.json("doctor")
        checks = {}
        for record in records:
            checks.setdefault(record["check"], []).append(record["verdict"])
        return code, checks, records

    return run, store


def test_all_is_well(cluster):
    run, _store = cluster
    code, checks, _records = run()
    assert code == 0 and {verdict for each in checks.values() for verdict in each} == {"ok"}
    assert {"program", "open files", "master", "cluster", "version", "time", "heartbeats", "from here", "from the master"} <= set(checks)


def test_dead_keepers_are_named_and_none_alive_is_wrong(cluster):
    run, store = cluster
    gone = [keeper(2, "dead", reason="its host refuses connections", heartbeat_age_s=90.0), keeper(3, "dead", heartbeat_age_s=None)]
    store.statuses = [status(keepers=[keeper(1), *gone])]
    code, checks, records = run()
    text, = [record["text"] for record in records if record["check"] == "keepers"]
    assert code == 0 and checks["keepers"] == ["note"] and text.startswith("1 of 3 keepers live: k2 ") and "k3 " in text
    store.statuses = [status(keepers=gone)]
    store.answers[messages.TryKeepers] = [messages.KeepersTried(tried=[])]
    code, checks, records = run()
    first, second = [record["text"] for record in records if record["check"] == "keepers"]
    assert code == 1 and checks["keepers"] == ["bad", "bad"] and checks["from here"] == ["skipped"]
    assert "k2 at 127.0.0.1 is dead: its host refuses connections; last heard" in first and "k3" in second and "never heard" in second
    store.statuses = [status(keepers=[])]
    code, checks, _records = run()
    assert code == 1 and checks["keepers"] == ["bad"]


def test_a_port_that_only_the_master_cannot_reach(cluster):
    run, store = cluster
    store.answers[messages.TryKeepers] = [messages.KeepersTried(tried=[
        {"keeper": keeper(1)["keeper_id"], "port": port, "failure": failure} for port, failure in ((8000, None), (8001, "no route to host"))])]
    code, checks, records = run()
    assert code == 1 and checks["from here"] == ["ok"] and checks["from the master"] == ["bad"]
    assert any("8001" in record["todo"] and "no route" in record["text"] for record in records)


def test_udp_that_does_not_get_through(cluster, monkeypatch):
    run, store = cluster
    store.answers[messages.Examine][1:] = []
    now = [0.0]
    monkeypatch.setattr(doctor.time, "monotonic", lambda: now.__setitem__(0, now[0] + 0.5) or now[0])
    code, checks, _records = run()
    assert code == 1 and checks["heartbeats"] == ["bad"]


def test_no_master_at_all(cluster, monkeypatch):
    run, store = cluster
    store.failures[7000] = "connection refused"
    store.answers[messages.Examine] = [None]

    def ask(_message, patient=False):
        raise errors.ConnectFailed(address="127.0.0.1:7000", detail="refused")

    monkeypatch.setattr(store, "ask", ask)
    code, checks, _records = run()
    assert code == 1 and "bad" in checks["master"] and checks["cluster"] == ["bad"]


def test_a_reader_may_not_have_the_master_try_ports(cluster):
    run, store = cluster
    answers = store.ask

    def ask(message, patient=False):
        if type(message) is messages.TryKeepers:
            raise errors.NoSuchRole(role="reader", what="TryKeepers")
        return answers(message)

    store.ask = ask
    code, checks, _records = run()
    assert code == 0 and checks["from the master"] == ["skipped"]


def test_a_keepers_own_key_is_no_fault(cluster, tmp_path, monkeypatch):
    run, store = cluster
    path = tmp_path / "node.key"
    keyfile.write(str(path), keyfile.Key(keyfile.NODE, None, b"x" * 96))
    monkeypatch.setenv("DFS_KEY_FILE", str(path))
    code, checks, _records = run()
    assert (code, checks["key"], checks["cluster"]) == (0, ["note"], ["skipped"])
    path.chmod(0o644)
    code, checks, _records = run()
    assert code == 1 and checks["key"] == ["bad"]
