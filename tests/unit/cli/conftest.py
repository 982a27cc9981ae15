"""The verbs in this process, against a store in memory."""

import json

import pytest

import cli_fakes as fakes


@pytest.fixture
def store(monkeypatch):
    """A fake store that every client verb finds."""
    import dfs_lib.client

    client = fakes.Client({"/a": b"alpha", "/d/b": b"beta", "/d/e/c.txt": b"gamma"}, ["/d", "/d/e"])
    monkeypatch.setattr(dfs_lib.client, "connect", lambda *args, **kwargs: client)
    return client


@pytest.fixture
def dfs(capsys, monkeypatch, tmp_path):
    """Run one command line in an empty directory: (exit status, stdout, stderr)."""
    from dfs_lib.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = main.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    def as_json(*words):
        status, out, err = run(*words, "--json")
        return status, [json.loads(line) for line in out.splitlines()], [json.loads(line) for line in err.splitlines()]

    run.json = as_json
    return run
