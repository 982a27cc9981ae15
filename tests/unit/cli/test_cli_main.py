"""From the first word to the exit status."""

import os

import pytest

from dfs_lib import errors, keyfile
from dfs_lib.cli import main


def test_every_verb_explains_itself(dfs):
    for name, _family, _line in main.VERBS:
        status, out, err = dfs(name, "--help")
        assert (status, err) == (0, "") and out.startswith(f"usage: dfs {name}"), name
        assert dfs("help", name)[1] == out and dfs("client", name, "-h")[1] == out


def test_overview_and_version(dfs):
    for words in ([], ["--help"], ["-h"], ["help"], ["client"]):
        status, out, _err = dfs(*words)
        assert status == 0 and all(f"  {name} " in out for name, _family, _line in main.VERBS)
    assert dfs("--version")[1].startswith("dfs 0.")


@pytest.mark.parametrize("words, part", [(["lss"], "did you mean ls?"), (["--json"], "name a verb"),
                                         (["frobnicate"], "dfs --help"),
                                         (["ls", "--frob"], "no option --frob"), (["mv", "/a"], "mv needs SOURCE… TARGET"),
                                         (["status", "now"], "one word too many"), (["keygen"], "keygen needs FILE"),
                                         (["master"], "--data DIR"), (["recover", "x"], "--into DIR")])
def test_usage_errors_are_status_2_and_say_what_to_do(dfs, words, part):
    status, out, err = dfs(*words)
    assert (status, out) == (2, "") and part in err


def test_the_word_client_and_early_options(dfs, store):
    assert dfs("client", "--master", "127.0.0.1:7777", "ls", "/d") == dfs("-q", "ls", "/d") == (0, "b\ne\n", "")
    assert dfs("client", "--master=127.0.0.1", "--json", "ls")[1].startswith('{"path":"/a"')


@pytest.mark.parametrize("error, status", [(errors.NoSuchFile(path="/a"), 1), (errors.UsageError(detail="x"), 2),
                                           (errors.ConnectFailed(address="x", detail="y"), 3), (errors.BadFrame(detail="x"), 4),
                                           (errors.AllReplicasBad(), 5), (errors.BadKey(address="x", detail="y"), 6),
                                           (errors.Misuse(detail="x"), 4), (ZeroDivisionError(), 70), (MemoryError(), 70)])
def test_each_family_of_errors_has_its_status(dfs, store, monkeypatch, error, status):
    def fail():
        raise error

    monkeypatch.setattr(store, "status", fail)
    code, out, err = dfs("status")
    assert (code, out) == (status, "") and err.startswith("dfs: ") and "Traceback" not in err
    assert err.count("\n") == 1 and "; " in err if status in (3, 4) else "\ntry: " in err
    assert ("dfs: this is a bug" in err) == (status == 70)
    if status == 70:
        assert "Traceback" in dfs("status", "-v")[2]


def test_an_interrupt_is_130_and_a_gone_reader_141(dfs, store, monkeypatch):
    def fail():
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "status", fail)
    assert dfs("status") == (130, "", "")


def test_no_cluster_is_a_network_error_that_says_how_to_start_one(dfs):
    status, _out, err = dfs("ls", "--master", "127.0.0.1:1")
    assert status == 3 and "127.0.0.1:1" in err
    os.environ["DFS_CONNECT_TIMEOUT"] = "0.5"
    try:
        status, _out, err = dfs("ls")
    finally:
        del os.environ["DFS_CONNECT_TIMEOUT"]
    assert status in (3, 6) and (status == 6 or "`dfs local`" in err)  # 6: somebody's cluster runs on the default ports


def test_keygen_makes_a_key_once(dfs, tmp_path):
    assert dfs("keygen", "k")[0] == 0 and len(keyfile.read(tmp_path / "k")) == 32
    content = (tmp_path / "k").read_text()
    status, out, err = dfs("keygen", "k")
    assert status == 1 and "exists" in err and (tmp_path / "k").read_text() == content
    assert content.split()[1] not in out + err
    assert dfs("keygen", "no/where")[0] == 1


def test_a_key_that_others_can_read_is_refused(dfs, tmp_path):
    dfs("keygen", "k")
    os.chmod(tmp_path / "k", 0o644)
    status, _out, err = dfs("ls", "--key-file", "k", "--master", "127.0.0.1:1")
    assert status == 6 and "chmod 600" in err


def test_settings_name_their_origin(dfs, tmp_path, monkeypatch):
    (tmp_path / "dfs.toml").write_text('jobs = 7\nmaster = "lab"\n')
    monkeypatch.setenv("DFS_PATIENCE", "5m")
    _status, records, _err = dfs.json("settings")
    found = {record["name"]: record for record in records}
    assert (found["jobs"]["value"], found["jobs"]["origin"]) == (7, "./dfs.toml")
    assert (found["patience"]["value"], found["patience"]["origin"]) == (300.0, "DFS_PATIENCE")
    assert found["copies"]["origin"] == "default" and "reserve" not in found
    text = dfs("settings", "--role", "keeper")[1]
    assert "1GiB" in text and "./dfs.toml" in text and dfs("settings", "--role", "king")[0] == 2


def test_settings_show_the_others_beside_a_fault(dfs, tmp_path, monkeypatch):
    (tmp_path / "dfs.toml").write_text("jobs = 7\njobz = 3\n")
    monkeypatch.setenv("DFS_COPIES", "x")
    status, records, failures = dfs.json("settings")
    found = {record["name"]: record for record in records}
    assert status == 2 and found["jobs"]["value"] == 7 and found["patience"]["origin"] == "default"
    assert (found["copies"]["value"], found["copies"]["origin"], found["copies"]["fault"]) == (None, "DFS_COPIES", "'x' is not a whole number")
    assert ["jobz" in failure["message"] or "DFS_COPIES" in failure["message"] for failure in failures] == [True, True]


def test_settings_of_local_are_all_that_it_takes(dfs):
    text = dfs("settings", "--role", "local")[1]
    assert all(f"\n{name} " in text for name in ("data", "copies", "dead-after", "reserve", "scrub-days", "web", "insecure")) and "key-file" not in text


def test_a_keeper_without_a_key_is_told_what_it_needs(dfs, tmp_path):
    status, _out, err = dfs("keeper", "--data", "kd", "--master", "127.0.0.1:1")
    assert status == 6 and "cluster.key" in err
