"""Where things land, as with cp."""

import pytest

from dfs_lib import errors, model
from dfs_lib.cli import paths

DIR, FILE = model.DIRECTORY, model.FILE


def land(target, kind, name, *, n=1, slash=False, tree=False):
    return paths.Landing("put", target, kind, n, slash, model.join).place(name, tree)


@pytest.mark.parametrize("target, kind, slash, name, tree, final", [
    ("/d", DIR, False, "a", False, "/d/a"), ("/d", DIR, True, "a", False, "/d/a"), ("/", DIR, True, "a", False, "/a"),
    ("/new", None, False, "a", False, "/new"), ("/f", FILE, False, "a", False, "/f"),
    ("/d", DIR, False, "t", True, "/d/t"), ("/new", None, False, "t", True, "/new"), ("/new", None, True, "t", True, "/new"),
    ("/d", DIR, False, "", True, "/d"),
])
def test_as_cp_would(target, kind, slash, name, tree, final):
    assert land(target, kind, name, slash=slash, tree=tree) == final


def test_a_slash_means_a_directory_that_has_to_be_there():
    with pytest.raises(errors.NoSuchFile):
        land("/new", None, "a", slash=True)
    with pytest.raises(errors.NotADirectory):
        land("/f", FILE, "a", slash=True)


def test_several_sources_need_a_directory():
    assert land("/d", DIR, "a", n=2) == "/d/a"
    with pytest.raises(errors.NoSuchFile, match="has to be a directory"):
        land("/new", None, "a", n=2)
    with pytest.raises(errors.NotADirectory):
        land("/f", FILE, "a", n=2)


def test_a_tree_takes_no_files_place():
    with pytest.raises(errors.NotADirectory):
        land("/f", FILE, "t", tree=True)


def test_two_sources_of_one_name_are_refused():
    unique = paths.Unique()
    unique.take("/d/a", "x/a")
    with pytest.raises(errors.FileExists, match="y/a would overwrite /d/a"):
        unique.take("/d/a", "y/a")


@pytest.mark.parametrize("word, path, slash", [("/a", "/a", False), ("dfs:/a/", "/a", True), ("/", "/", True),
                                               ("/a//", "/a", True)])
def test_remote_words(word, path, slash):
    assert paths.remote("ls", word) == (path, slash)


@pytest.mark.parametrize("word", ["a", "dfs:a", "", "./a"])
def test_what_is_no_remote_path_is_a_usage_error(word):
    with pytest.raises(errors.UsageError, match="no remote path"):
        paths.remote("ls", word)


@pytest.mark.parametrize("word", ["/a/../b", "/a\x00", "/a\nb", "/" + "x" * 256, "/a//b"])
def test_bad_names_are_refused_here_already(word):
    with pytest.raises(errors.BadName):
        paths.remote("ls", word)


@pytest.mark.parametrize("local, name", [("a", "a"), ("x/a", "a"), ("x/a/", "a"), (".", ""), ("..", ""), ("x/..", ""), ("/", ""),
                                         ("./", "")])
def test_last_names_of_local_paths(local, name):
    assert paths.local_name(local) == name
