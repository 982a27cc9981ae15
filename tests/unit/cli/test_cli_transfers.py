"""put, get, cat, sum: what lands where, what is said, what fails."""

import hashlib
import io
import os
import sys

import pytest

from dfs_lib import errors, model
from dfs_lib.cli import main, transfers


@pytest.fixture
def local(tmp_path):
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"22")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "x").write_bytes(b"x")
    (tmp_path / "tree" / "sub" / "y").write_bytes(b"y")
    (tmp_path / "tree" / "link").symlink_to("/etc/passwd")
    return tmp_path


def test_put_lands_as_with_cp_and_tells_the_truth(dfs, store, local):
    status, out, err = dfs("put", "one", "/")
    assert (status, err) == (0, "") and store.files["/one"] == b"1"
    assert out == "one -> /one   1 B   2 copies durable on k1 k2, 1 more on its way\n"
    assert dfs("upload", "one", "/uno")[0] == 0 and store.files["/uno"] == b"1"
    assert dfs("put", "one", "two", "/d")[0] == 0 and store.files["/d/two"] == b"22"
    assert dfs("put", "one", "/d/")[0] == 0
    assert dfs("put", "one", "/new/")[0] == 1 and dfs("put", "one", "two", "/new")[0] == 1


def test_put_json_has_the_keys_that_scripts_use(dfs, store, local):
    status, records, err = dfs.json("put", "one", "/", "--copies", "2")
    assert (status, err) == (0, []) and records[0].items() >= {"path": "/one", "local": "one", "size": 1, "version": 7,
                                                               "copies_durable": 2,
                                                               "seconds": 0.1235, "resumed_bytes": 0}.items()


def test_settings_reach_the_transfer_and_defaults_stay_the_masters(dfs, store, local, monkeypatch):
    dfs("put", "one", "/")
    dfs("put", "one", "/", "--copies", "2", "--safe", "1", "--jobs", "9", "--no-resume")
    monkeypatch.setenv("DFS_COPIES", "5")
    dfs("put", "one", "/")
    assert [call[3:] for call in store.calls] == [(None, None, None, True), (2, 1, 9, False), (5, None, None, True)]


def test_put_reads_standard_input(dfs, store, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert dfs("put", "-", "/piped")[1].startswith("standard input -> /piped")
    assert store.files["/piped"] == b"piped"
    assert dfs("put", "-", "/d")[0] == 2 and dfs("put", "-", "-", "/d")[0] == 2


def test_put_reads_a_pipe_that_was_named(dfs, store, local):
    read_end, write_end = os.pipe()
    os.write(write_end, b"from a pipe")
    os.close(write_end)
    try:
        assert dfs("put", f"/dev/fd/{read_end}", "/pipe")[0] == 0 and store.files["/pipe"] == b"from a pipe"
    finally:
        os.close(read_end)


def test_put_trees(dfs, store, local):
    status, _out, err = dfs("put", "tree", "/")
    assert status == 1 and "-r" in err and "/tree" not in store.directories
    status, out, err = dfs("put", "-r", "tree", "/")
    assert status == 0 and store.files["/tree/sub/y"] == b"y" and "/tree/link" not in store.files
    assert err == "dfs: left out tree/link: a symbolic link is not followed\n" and out == "tree -> /tree   2 files, 2 B\n"
    assert dfs("put", "-r", "tree", "/copy")[0] == 0 and "/copy/sub/y" in store.files
    assert dfs("put", "-r", "tree/.", "/d")[0] == 0 and "/d/sub/y" in store.files
    assert dfs("put", "-r", "tree", "/not/there")[0] == 1 and "/not/there" not in store.directories
    assert dfs("put", "-r", "-p", "tree", "/not/there")[0] == 0 and "/not/there/x" in store.files
    assert dfs("put", "-r", "tree", "/a")[0] == 1
    assert len(dfs.json("put", "-r", "tree", "/again")[1]) == 2 and "tree/x -> " in dfs("put", "-rv", "tree", "/again")[1]


def test_a_name_that_cannot_be_is_told_once_and_counted(dfs, store, local, monkeypatch):
    put = store.put

    def checked(source, path, **how):
        return put(source, model.clean_path(path), **how)

    monkeypatch.setattr(store, "put", checked)
    (local / "tree" / "bad\nname").write_bytes(b"x")
    status, out, err = dfs("put", "-r", "tree", "/")
    assert status == 1 and out == "tree -> /tree   2 files, 2 B, 1 failed\n"
    assert dfs("put", "one", "nothing", "/")[1].endswith("1 file put, 1 B, 1 failed\n")
    assert err.count("name'") == 1 and "the name '/tree/bad\\nname' cannot be stored" in err


def test_put_makes_parents_when_asked(dfs, store, local):
    assert dfs("put", "one", "/p/q/one")[0] == 1
    assert dfs("put", "-p", "one", "/p/q/one")[0] == 0 and "/p/q/one" in store.files
    assert dfs("put", "-p", "one", "two", "/r/s/")[0] == 0 and "/r/s/two" in store.files


def test_each_source_has_its_turn_and_failures_are_named(dfs, store, local):
    status, out, err = dfs("put", "nothing", "one", "tree/../one", "/")
    assert status == 1 and "/one" in store.files and "nothing: no such file" in err and "would overwrite /one" in err
    status, _records, failures = dfs.json("put", "-n", "one", "two", "/")
    assert status == 1 and [(each["error"], each["path"]) for each in failures] == [("exists", "/one")] and "/two" in store.files


def test_a_target_on_this_machine_is_a_usage_error(dfs, store, local):
    status, _out, err = dfs("put", "one", "two")
    assert status == 2 and "did you mean /two" in err
    assert dfs("put", "one")[0] == 2


def test_undecodable_local_names_are_refused_one_by_one(dfs, store, local):
    bad = os.fsdecode(b"bad\xff")
    (local / bad).write_bytes(b"")
    status, _out, err = dfs("put", bad, "one", "/")
    assert status == 1 and "cannot be stored" in err and "/one" in store.files


# -- get --------------------------------------------------------------------------------------------------------------
def test_get_lands_as_with_cp(dfs, store, local):
    status, out, err = dfs("get", "/a", ".")
    assert (status, err) == (0, "") and (local / "a").read_bytes() == b"alpha"
    assert out == "a -> ./a   5 B   from k3   every byte checked\n"
    assert dfs("download", "/a", "back")[0] == 0 and (local / "back").read_bytes() == b"alpha"
    assert dfs("get", "/a", "/d/b", "tree")[0] == 0 and (local / "tree" / "b").read_bytes() == b"beta"
    assert dfs("get", "/a", "/d/b", "nowhere")[0] == 1 and dfs("get", "/a", "nowhere/")[0] == 1 and dfs("get", "/a", "/d/b",
                                                                                                        "one")[0] == 1


def test_get_trees(dfs, store, local):
    assert dfs("get", "/d", ".")[0] == 1 and not (local / "d").exists()
    assert dfs("get", "-r", "/d", ".")[0] == 0 and (local / "d" / "e" / "c.txt").read_bytes() == b"gamma"
    assert dfs("get", "-r", "/d", "copy")[0] == 0 and (local / "copy" / "b").exists()
    assert dfs("get", "-r", "/", "all")[0] == 0 and (local / "all" / "d" / "b").exists()
    assert dfs("get", "-r", "/d", "one")[0] == 1


def test_no_tree_is_written_through_a_link_that_waits_under_its_name(dfs, store, local, tmp_path_factory):
    trap = tmp_path_factory.mktemp("trap")
    (local / "d").symlink_to(trap)
    status, _out, err = dfs("get", "-r", "/d", ".")
    assert status == 1 and "symbolic link" in err and not list(trap.iterdir())


def test_get_to_standard_output_is_bytes_and_nothing_else(store, capsysbinary):
    assert main.main(["get", "/a", "/d/b", "-"]) == 0
    assert capsysbinary.readouterr().out == b"alphabeta"
    assert main.main(["cat", "/a", "/nothing", "/d/b"]) == 1
    assert capsysbinary.readouterr().out == b"alphabeta"
    assert main.main(["get", "/a", "-", "--json"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == b"alpha" and b'"size":5' in err


@pytest.mark.parametrize("text, content", [("0-0", b"a"), ("1-3", b"lph"), ("3-", b"ha"), ("-2", b"ha"), ("-99", b"alpha"),
                                           ("0-1KiB", b"alpha")])
def test_ranges_include_both_ends(dfs, store, local, text, content):
    assert dfs("get", "/a", "part", "--range", text)[0] == 0 and (local / "part").read_bytes() == content


@pytest.mark.parametrize("words", [["/a", "x", "--range", "5"], ["/a", "x", "--range", "-"], ["/a", "x", "--range", "3-1"],
                                   ["/a", "/d/b", ".", "--range", "0-1"], ["-r", "/d", ".", "--range=0-1"]])
def test_bad_ranges_are_usage_errors(dfs, store, words):
    assert dfs("get", *words)[0] == 2


def test_a_missing_source_does_not_keep_the_others(dfs, store, local):
    status, _out, err = dfs("get", "/nothing", "/a", "/d/b", ".")
    assert status == 1 and "/nothing" in err and (local / "a").exists() and (local / "b").exists()


def test_damage_is_status_5_and_wins_over_1(dfs, store, local, monkeypatch):
    def bad(path, *args, **kwargs):
        raise errors.AllReplicasBad(index=0, path=path, detail="all of them")

    monkeypatch.setattr(store, "get", bad)
    status, _records, failures = dfs.json("get", "/nothing", "/a", ".")
    assert status == 5 and [each["error"] for each in failures] == ["no_such_file", "all_replicas_bad"]


# -- sum --------------------------------------------------------------------------------------------------------------
def test_sum_prints_what_sha256sum_checks(dfs, store):
    total = hashlib.sha256(b"alpha").hexdigest()
    assert dfs("sum", "/a") == (0, f"{total}  /a\n", "")
    store.files["/back\\slash"] = b"alpha"
    assert dfs("sum", "/back\\slash")[1] == f"\\{total}  /back\\\\slash\n"
    assert dfs("sum", "/nothing", "/a")[:2] == (1, f"{total}  /a\n")
    assert dfs.json("sum", "/a")[1] == [{"path": "/a", "sha256": total}]


def test_a_hint_fits_its_verb(dfs, store, local):
    store.directories.add("/d")
    assert "dfs get -r" in dfs("cat", "/d")[2] and "use -r" not in dfs("sum", "/d")[2]
    assert "use -r" in dfs("get", "/d", ".")[2]
    said = dfs("put", "tree", "/")[2]
    assert "tree is a directory" in said and "try: -r puts it" in said and "who may read" not in said
    said = dfs("mkdir", "/d")[2]
    assert "exists already" in said and "-p" in said and "no-clobber" not in said


def test_an_empty_file_has_no_copies_and_blocks_on_many_keepers_are_not_each_on_all():
    result = {"local": "f", "path": "/f", "size": 0, "copies_durable": 9, "copies": 9, "resumed_bytes": 0}
    assert transfers._put_text(result, "") == "f -> /f   empty: its name is all there is to keep"
    result.update(size=10, copies_durable=2, copies=2)
    assert transfers._put_text(result, "k1 k2") == "f -> /f   10 B   2 copies durable on k1 k2"
    assert transfers._put_text(result, "k1 k2 k3") == "f -> /f   10 B   2 copies durable, spread over k1 k2 k3"


@pytest.mark.parametrize("durable, copies, places, said", [
    (2, 3, 3, ", 1 more on its way"), (2, 3, None, ", 1 more on its way"), (3, 3, 3, ""), (2, 5, 5, ", 3 more on their way"),
    (2, 9, 3, ", 1 more on its way, 6 more when there are keepers for them"), (1, 2, 1, ", 1 more when there is a keeper for it"),
    (3, 4, 2, ", 1 more when there is a keeper for it")])
def test_no_more_copies_are_on_their_way_than_there_are_keepers_for(durable, copies, places, said):
    assert transfers._more_text({"copies_durable": durable, "copies": copies, "places": places}) == said


@pytest.mark.parametrize("size", ["5", "2G", "1500000"])
def test_a_bad_size_of_blocks_ends_put_at_once(dfs, store, local, monkeypatch, size):
    status, _out, err = dfs("put", "--block-size", size, "one", "/")
    assert status == 2 and "--block-size" in err and "multiple of 1 MiB" in err
    monkeypatch.setenv("DFS_BLOCK_SIZE", size)
    status, _out, err = dfs("put", "one", "/")
    assert status == 2 and "DFS_BLOCK_SIZE" in err and "multiple of 1 MiB" in err and "/one" not in store.files
