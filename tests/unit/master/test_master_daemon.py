"""How a master starts: where its key is after a rebuild, and where it listens when it may choose: a number that is free for TCP and for the heartbeats' UDP alike."""

import socket

import pytest

from dfs_lib import errors, keyfile, settings
from dfs_lib.catalog import rebuilding
from dfs_lib.master import daemon
from dfs_lib.net import datagrams, inherited


@pytest.fixture
def others(monkeypatch):
    """Other programs take the UDP port of so many first tries a moment before the master comes to it: {"left": n}, and the ports."""
    taken = {"left": 0, "ports": []}
    real = datagrams.Listener

    def listen(host, port, *rest):
        if taken["left"]:
            taken["left"] -= 1
            taken["ports"].append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            taken["ports"][-1].bind((host, port))
        return real(host, port, *rest)

    monkeypatch.setattr(datagrams, "Listener", listen)
    yield taken
    for sock in taken["ports"]:
        sock.close()


def master_on(directory, *ports):
    return daemon.Master(settings.resolve([]).but(data=str(directory), host="127.0.0.1", ports=ports, insecure=True))


def test_a_number_taken_for_heartbeats_is_let_go_and_others_are_chosen(tmp_path, others):
    others["left"] = 3
    master = master_on(tmp_path, 0, 0)
    master.start()
    try:
        facts = master.ready()
        refused = [sock.getsockname()[1] for sock in others["ports"]]
        assert len(facts["ports"]) == 2 and facts["heartbeat_port"] == facts["ports"][0] and not set(refused) & set(facts["ports"])
        socket.create_connection(("127.0.0.1", facts["ports"][0]), 5).close()
        for port in refused:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)
    finally:
        master.stop()


def test_it_gives_up_in_the_end(tmp_path, others):
    others["left"] = 10**6
    with pytest.raises(errors.BadSetting, match="UDP port .* in use"):
        master_on(tmp_path, 0).start()
    assert len(others["ports"]) == daemon.PORT_TRIES + 1


def test_a_port_that_was_named_is_not_changed(tmp_path, others):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    others["left"] = 1
    with pytest.raises(errors.BadSetting, match=f"UDP port {port}"):
        master_on(tmp_path, port).start()


def test_a_taken_port_is_told_with_what_chooses_another(tmp_path, others):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(errors.BadSetting, match="in use") as failure:
            master_on(tmp_path, taken.getsockname()[1]).start()
    assert failure.value.hint == "another program has it; --ports chooses others"
    others["left"] = 10**6
    with pytest.raises(errors.BadSetting) as failure:
        master_on(tmp_path, 0).start()
    assert failure.value.hint == "another program has it; --ports chooses others"
    with pytest.raises(errors.BadSetting) as failure:
        inherited.listen("192.0.2.1", 0)
    assert "--host" in failure.value.hint


class _Enough(Exception):
    """The test has seen what it wanted."""


def test_after_a_rebuild_the_key_lies_where_the_old_start_line_looks_for_it(tmp_path, monkeypatch):
    key, data = tmp_path / "kept.key", tmp_path / "data"
    keyfile.make(str(key))
    own = settings.resolve([]).but(data=str(data), host="127.0.0.1", ports=(0,), key_file=str(key), catalog_backup=0)
    master = daemon.Master(own)  # its catalog stands for the one that a rebuild made before it was killed
    master.start()
    master.stop()
    (data / rebuilding.REPORT).write_text("{}")
    assert not (data / "cluster.key").exists()

    def start(_master):
        raise _Enough

    monkeypatch.setattr(daemon.Master, "start", start)
    monkeypatch.setattr(daemon.signal, "signal", lambda *_: None)
    for _again in range(2):
        with pytest.raises(_Enough):
            daemon.run(own.but(rebuild=True))
        assert (data / "cluster.key").read_bytes() == key.read_bytes() and (data / "cluster.key").stat().st_mode & 0o777 == 0o600
    assert daemon.load_key(own.but(key_file=None), str(data)) == keyfile.read(str(key))
