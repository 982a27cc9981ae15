"""What daemons are started with: which key a keeper takes."""

import pytest

from dfs_lib import errors, keyfile, settings
from dfs_lib.cli import daemons, settings_sources
from dfs_lib.keeper import joining


@pytest.fixture
def start(tmp_path, monkeypatch):
    """(key file of a keeper with these origins of a key file and a join code), None for none."""
    def join(_masters, code, directory, *_rest):
        assert code == "the-code"
        return directory + "/node.key"

    monkeypatch.setattr(joining, "join", join)

    def run(key_from, join_is_flag, **more):
        layers = [(key_from, {"key_file": "/etc/other.key"})] if key_from else []
        own = settings.resolve([*layers, *((origin, {name: text}) for name, (origin, text) in more.items())]).but(data=str(tmp_path))
        return daemons._with_key(own, None if join_is_flag is None else "the-code", bool(join_is_flag)).key_file

    return run


@pytest.mark.parametrize("key_from, join_is_flag, wanted", [
    ("DFS_KEY_FILE", True, "node.key"), ("/home/x/dfs.toml", True, "node.key"), ("DFS_KEY_FILE", False, "node.key"),
    (settings_sources.FLAG, False, "other.key"), (settings_sources.FLAG, None, "other.key"), ("DFS_KEY_FILE", None, "other.key"), (None, True, "node.key")])
def test_a_join_code_wins_over_a_key_file_that_was_named_for_all(start, key_from, join_is_flag, wanted):
    assert start(key_from, join_is_flag).endswith(wanted)


def test_two_flags_that_exclude_each_other_are_refused(start):
    with pytest.raises(errors.UsageError, match="--join and --key-file were both given"):
        start(settings_sources.FLAG, True)
    with pytest.raises(errors.UsageError, match="insecure from DFS_INSECURE"):
        start(None, True, insecure=("DFS_INSECURE", "yes"))


def test_a_keeper_that_has_joined_goes_by_its_own_key(start, tmp_path):
    keyfile.write(str(tmp_path / "node.key"), keyfile.Key(keyfile.NODE, None, b"x" * 96))
    assert start("DFS_KEY_FILE", True) == str(tmp_path / "node.key")
