"""Verbs about names: what they print, refuse and change."""

import json

import pytest

import cli_fakes as fakes
from dfs_lib import errors


def test_ls_prints_names_in_order(dfs, store):
    assert dfs("ls") == (0, "a\nd\n", "")
    assert dfs("ls", "/d") == (0, "b\ne\n", "")
    assert dfs("ls", "dfs:/d/") == (0, "b\ne\n", "")
    assert store.is_closed


def test_ls_of_a_file_shows_the_file(dfs, store):
    assert dfs("ls", "/a")[:2] == (0, "/a\n")
    status, _out, err = dfs("ls", "/a/")
    assert status == 1 and "not a directory" in err


def test_ls_recursive_names_each_directory(dfs, store):
    assert dfs("ls", "-R")[1] == "/:\na\nd\n\n/d:\nb\ne\n\n/d/e:\nc.txt\n"


def test_ls_long_shows_copies_size_and_time(dfs, store):
    out = dfs("ls", "-l")[1].splitlines()
    assert out[0].split() == ["file", "2/3", "5", "B", "2001-09-09", "01:46:40", "a"] and out[1].endswith("d/")


def test_ls_json_has_the_keys_that_scripts_use(dfs, store):
    status, records, _err = dfs.json("ls", "-R")
    assert status == 0 and [record["path"] for record in records] == ["/a", "/d", "/d/b", "/d/e", "/d/e/c.txt"]
    assert records[0] == {"path": "/a", "type": "file", "size": 5, "version": 7, "mtime": "2001-09-09T01:46:40Z",
                          "copies_wanted": 3,
                          "copies_have": 2}
    assert records[1]["type"] == "dir"


def test_several_paths_the_worst_status_counts_and_each_has_its_turn(dfs, store):
    status, out, err = dfs("ls", "/nothing", "/d")
    assert status == 1 and "b\n" in out and err.count("dfs: ") == 1


def test_errors_as_json_stand_on_stderr(dfs, store):
    status, records, err = dfs.json("ls", "/nothing")
    assert (status, records) == (1, []) and err[0]["error"] == "no_such_file" and err[0]["path"] == "/nothing"


def test_stat_has_blocks_and_their_keepers(dfs, store):
    status, records, _err = dfs.json("stat", "/a", "/d")
    assert status == 0 and records[0]["blocks"] == [{"block": "b" * 32, "index": 0, "size": 5,
                                                     "keepers": list(fakes.KEEPERS[:2])}]
    assert records[1]["type"] == "dir"
    assert "block 0" in (text := dfs("stat", "/a")[1]) and "on k1 k2" in text and "2 of 3 copies" in text


@pytest.mark.parametrize("tests, found", [
    (["--name", "*.txt"], ["/d/e/c.txt"]), (["--type", "dir"], ["/d", "/d/e"]), (["--larger", "4"], ["/a", "/d/e/c.txt"]),
    (["--smaller", "5", "--type", "file"], ["/d/b"]), (["--newer", "2001-09-10"], []),
    (["--newer", "2001-09-09T01:46:39Z"], ["/a", "/d/b", "/d/e/c.txt"]),
    (["--older", "1d"], ["/a", "/d/b", "/d/e/c.txt"]), (["--path", "/d/*", "--name", "b"], ["/d/b"]),
    (["--short"], ["/a", "/d/b", "/d/e/c.txt"]),
    (["--name", "B"], []), ([], ["/a", "/d", "/d/b", "/d/e", "/d/e/c.txt"]),
])
def test_find_filters(dfs, store, tests, found):
    assert dfs("find", *tests)[1].splitlines() == found


def test_find_includes_its_start_and_ends_paths_as_asked(dfs, store):
    assert dfs("find", "/d", "-0")[1] == "/d\0/d/b\0/d/e\0/d/e/c.txt\0"
    assert dfs("find", "/a")[1] == "/a\n"
    assert dfs("find", "/nothing")[0] == 1
    assert dfs("find", "--newer", "yesterday")[0] == 2


def test_rm_refuses_a_full_directory_and_the_root(dfs, store):
    assert dfs("rm", "/d")[0] == 1 and "/d/b" in store.files
    assert dfs("rm", "-r", "/d", "/a") == (0, "", "") and store.files == {}
    assert dfs("rm", "-r", "/")[0] == 1
    assert dfs("rm", "/gone")[0] == 1 and dfs("rm", "-f", "/gone")[0] == 0


def test_mv_and_cp_land_as_unix_has_it(dfs, store):
    assert dfs("cp", "/a", "/d")[0] == 0 and store.files["/d/a"] == b"alpha"
    assert dfs("mv", "/a", "/d/b", "/d/e")[0] == 0 and {"/d/e/a", "/d/e/b"} <= set(store.files)
    assert dfs("mv", "/d/e/a", "/new/")[0] == 1
    assert dfs("mv", "-n", "/d/e/a", "/d/e/b")[0] == 1
    assert dfs("mv", "/d/e/a", "/d/a", "/nowhere")[0] == 1
    assert dfs("mv", "/d/e", "/moved/")[0] == 0 and "/moved" in store.directories  # a directory may be named with a slash


def test_cp_recursive_copies_name_by_name(dfs, store):
    assert dfs("cp", "-r", "/d", "/copy")[0] == 0
    assert store.files["/copy/e/c.txt"] == b"gamma" and "/copy/e" in store.directories
    assert dfs("cp", "-r", "/d", "/d/e")[0] == 1


def test_cp_of_local_files_says_which_verb_does_that(dfs, store):
    status, _out, err = dfs("cp", "thesis.pdf", "/")
    assert status == 2 and "dfs put" in err


def test_files_have_no_heading_and_directories_do(dfs, store):
    store.files.update({"/one": b"1", "/two": b"2"})
    store.directories.add("/void")
    assert dfs("ls", "/one", "/two")[1] == "/one\n/two\n"
    assert dfs("ls", "/one", "/void")[1] == "/one\n\n/void:\n" and dfs("ls", "/void", "/one")[1].startswith("/void:\n")


def test_a_name_that_nothing_can_have_is_not_there_to_be_renamed(dfs, store):
    said = dfs("ls", "//a//b")[2]
    assert "nothing in the store can be called '//a//b'" in said and "rename" not in said and "stored" not in said
    assert "cannot be stored" in dfs("mkdir", "//a//b")[2]


def test_who_has_a_home_is_told_to_look_there(dfs, store, monkeypatch):
    def confined(path, **_how):
        raise errors.NotPermitted(f"anna may only use what is in /anna, not {path}", user="anna", home="/anna")

    monkeypatch.setattr(store, "list", confined)
    monkeypatch.setattr(store, "usage", confined)
    assert dfs("ls")[2].endswith("try: `dfs ls /anna` shows what there is for you\n")
    assert dfs("du")[2].endswith("try: `dfs du /anna` shows what there is for you\n")


def test_mkdir_set_du(dfs, store):
    assert dfs("mkdir", "-p", "/x/y/z")[0] == 0 and {"/x", "/x/y", "/x/y/z"} <= store.directories
    assert dfs("mkdir", "/x")[0] == 1 and dfs("mkdir", "-p", "/x")[0] == 0
    assert dfs("set", "/a", "--copies", "2")[0] == 0 and store.copies["/a"] == 2
    assert dfs("set", "/a")[0] == 2 and dfs("set", "/a", "--copies", "0")[0] == 2
    assert dfs.json("du")[1] == [{"path": "/", "bytes": 100, "files": 2, "directories": 1, "stored": 300}]


def test_a_name_with_escapes_is_shown_harmless(dfs, store):
    store.files["/x\u202ey"] = b""
    assert "\\u202e" in dfs("ls")[1]
    assert any(json.loads(line)["path"] == "/x\u202ey" for line in dfs("ls", "--json")[1].splitlines())
