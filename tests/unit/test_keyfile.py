"""Key files: each kind there and back, and every way to be refused."""

import os
import stat

import pytest

from dfs_lib import errors, keyfile

KEYS = [keyfile.Key(keyfile.CLUSTER, None, bytes(range(32))), keyfile.Key(keyfile.USER, "anna.7", b"u" * 32),
        keyfile.Key(keyfile.NODE, None, b"n" * 96)]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kind)
def test_there_and_back(tmp_path, key):
    path = tmp_path / "key"
    keyfile.write(path, key)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600 and keyfile.load(path) == key and keyfile.parse(keyfile.line(key)) == key
    with pytest.raises(errors.LocalFileError):
        keyfile.write(path, key)
    assert keyfile.load(path) == key
    if key.kind == keyfile.CLUSTER:
        assert keyfile.read(path) == key.key
    else:
        with pytest.raises(errors.BadKeyFile, match="the cluster's own is needed"):
            keyfile.read(path)
    path.chmod(0o640)
    with pytest.raises(errors.BadKeyFile, match="others can read it"):
        keyfile.load(path)


@pytest.mark.parametrize("text", ["", "dfs-cluster-key-1", "dfs-cluster-key-1 00", "dfs-cluster-key-2 " + "0" * 64, "dfs-user-key-1 " + "0" * 64,
                                  "dfs-user-key-1 a.1 " + "0" * 62, "dfs-node-keys-1 " + "0" * 64, "dfs-cluster-key-1 " + "x" * 64, "é"])
def test_refused(tmp_path, text):
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(errors.BadKeyFile):
        keyfile.load(path)
