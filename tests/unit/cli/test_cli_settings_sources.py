"""Flag, environment, file, client.toml, default: in this order, and each value knows where it came from."""

import os
import tomllib

import pytest

from dfs_lib import errors
from dfs_lib.cli import settings_sources
from dfs_lib.cli.settings_sources import load


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environ(tmp_path):
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_each_source_gives_way_to_the_stronger_one(here, environ):
    def value():
        taken = load("client", flags, environ, config)
        return taken.copies, taken.origins["copies"]

    flags, config = {}, None
    assert value() == (3, "default")
    (here / "dfs-local").mkdir()
    (here / "dfs-local" / "client.toml").write_text("copies = 4\n")
    assert value() == (4, "./dfs-local/client.toml")
    (here / "config" / "dfs").mkdir(parents=True)
    (here / "config" / "dfs" / "dfs.toml").write_text("copies = 5\n")
    assert value() == (5, str(here / "config" / "dfs" / "dfs.toml"))
    (here / "dfs.toml").write_text("copies = 6\n")
    assert value() == (6, "./dfs.toml")
    (here / "named.toml").write_text("copies = 7\n")
    environ["DFS_CONFIG"] = "named.toml"
    assert value() == (7, "named.toml")
    (here / "other.toml").write_text("copies = 8\n")
    config = "other.toml"
    assert value() == (8, "other.toml")
    environ["DFS_COPIES"] = "9"
    assert value() == (9, "DFS_COPIES")
    flags = {"copies": "10"}
    assert value() == (10, "flag")


def test_a_local_cluster_is_found_in_its_folder_and_the_one_above(here, environ):
    text = 'master = "127.0.0.1:7777"\nkey_file = "cluster.key"\n'
    (here / "client.toml").write_text(text)
    taken = load("client", {}, environ)
    assert taken.master == (("127.0.0.1", 7777),) and os.path.normpath(taken.key_file) == "cluster.key"
    (here / "client.toml").unlink()
    (here / "dfs-local").mkdir()
    (here / "dfs-local" / "client.toml").write_text(text)
    assert load("client", {}, environ).key_file == "./dfs-local/cluster.key"


def test_a_local_cluster_is_for_clients_only(here, environ):
    (here / "client.toml").write_text('master = "127.0.0.1:7777"\n')
    assert load("keeper", {}, environ).origins["master"] == "default"


def test_the_key_of_one_cluster_is_never_shown_to_another(here, environ):
    (here / "client.toml").write_text('master = "127.0.0.1:7777,127.0.0.1:7778"\nkey_file = "cluster.key"\n')
    elsewhere = load("client", {"master": "lab"}, environ)
    assert elsewhere.key_file is None and elsewhere.master[0] == ("lab", 7000)
    same = load("client", {"master": "127.0.0.1:7778"}, environ)
    assert same.key_file == "./cluster.key"
    environ["DFS_MASTER"] = "lab"
    assert load("client", {}, environ).key_file is None


def test_paths_in_a_file_are_relative_to_it(here, environ):
    (here / "etc").mkdir()
    (here / "etc" / "lab.toml").write_text('key-file = "k"\ndata = "/srv"\n')
    taken = load("master", {}, environ, config="etc/lab.toml")
    assert (taken.key_file, taken.data) == ("etc/k", "/srv")


def test_a_roles_table_counts_for_that_role_alone(here, environ):
    (here / "dfs.toml").write_text('master = "lab"\ncopies = 4\n[keeper]\nreserve = "2GiB"\nports = "9000-9001"\n'
                                   '[client]\ncopies = 5\n'
                                   '[label]\nroom = "204"\n')
    # TOML has one `master`: a text, so no [master] table beside it.
    keeper, client = load("keeper", {}, environ), load("client", {}, environ)
    assert (keeper.reserve, keeper.ports, keeper.copies, keeper.label) == (2 << 30, (9000, 9001), 4, {"room": "204"})
    assert (client.copies, client.ports, client.master[0]) == (5, None, ("lab", 7000))


def test_a_misspelt_line_is_refused_by_name(here, environ):
    (here / "dfs.toml").write_text("copeis = 2\n")
    with pytest.raises(errors.BadSetting, match="copeis from ./dfs.toml: there is no such setting"):
        load("client", {}, environ)


def test_a_bad_value_names_where_it_came_from(here, environ):
    environ["DFS_COPIES"] = "99"
    with pytest.raises(errors.BadSetting, match="copies from DFS_COPIES"):
        load("client", {}, environ)
    assert load("client", {"copies": None}, {**environ, "DFS_COPIES": ""}).copies == 3


@pytest.mark.parametrize("content, error", [(b"copies = = 2\n", errors.BadSetting), (b"\xff\xfe", errors.BadSetting)])
def test_what_is_no_toml_is_said_to_be_none(here, environ, content, error):
    (here / "dfs.toml").write_bytes(content)
    with pytest.raises(error, match="dfs.toml"):
        load("client", {}, environ)


def test_a_file_that_was_named_must_be_there(here, environ):
    with pytest.raises(errors.LocalFileError, match="nowhere.toml"):
        load("client", {}, environ, config="nowhere.toml")
    assert load("client", {}, environ, config=os.devnull).copies == 3


@pytest.mark.parametrize("text", [
    'master = "a:1"\nkey_file = "k"\n', "# words\n\ncopies = 3\ninsecure = true\n", "copies=0\n", 'a-b = ""\n', "",
])
def test_simple_files_are_read_as_toml_reads_them(text):
    assert settings_sources.parse_simple(text) == tomllib.loads(text)


@pytest.mark.parametrize("text", [
    "[client]\n", 'a = "x" # words\n', 'a = "\\u0041"\n', "a = 1.5\n", "a = 007\n", "a = 1\na = 2\n", "a.b = 1\n", "a = 'x'\n",
    "a\n", "a = \n",
    'a = """x"""\n', "ä = 1\n", 'a = "x" b = "y"\n',
])
def test_all_else_is_left_to_the_real_parser(text):
    assert settings_sources.parse_simple(text) is None
