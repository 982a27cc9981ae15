"""The word to the service manager, heard on a real socket."""

import json
import socket

import pytest

from dfs_lib import local
from dfs_lib.net import readiness


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """(the manager's socket, its name as NOTIFY_SOCKET has it)."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@dfs-{tmp_path.name}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        yield sock, name


def test_one_line_and_one_word(manager, monkeypatch, capsys):
    sock, name = manager
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    readiness.announce({"event": "ready", "pid": 7})
    assert json.loads(capsys.readouterr().out) == {"event": "ready", "pid": 7}
    assert sock.recv(100) == b"READY=1"
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(100)


@pytest.mark.parametrize("name", ["", "relative/name", "/nowhere/at/all"])
def test_no_manager_hinders_no_daemon(name, monkeypatch, capsys):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    readiness.announce({"event": "ready"})
    assert capsys.readouterr().out == '{"event": "ready"}\n' and readiness.tell_manager() is False


def test_daemons_of_a_daemon_do_not_speak_for_it():
    assert local.program_environment({"NOTIFY_SOCKET": "/run/x", "PATH": "/bin"}) == {"PATH": "/bin"}
