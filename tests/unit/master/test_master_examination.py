"""What operators ask the master: its clock, whether it reaches keepers, and a copy of its catalog."""

import os

import pytest
from master_helpers import Client

from dfs_lib import errors
from dfs_lib.catalog.database import Database
from dfs_lib.master import examination
from dfs_lib.wire import messages


@pytest.fixture
def world(make_world):
    return make_world(2)


@pytest.fixture
def client(world):
    return Client(world)


def test_clock_version_and_port(world, client):
    told = client.ask(messages.Examine())
    assert told.at == world.tracker.wall() and told.heartbeat_port == 7000 and told.n_dropped == 0


def test_the_ports_of_keepers_are_tried(world):
    asked = []

    def knock(host, port, _timeout_s):
        asked.append((host, port))
        return "refused" if port == world.tracker.live.get(2).ports[-1] else None

    keepers = [world.tracker.live.get(number) for number in (1, 2)]
    examiner = examination.Examination(world.tracker, lambda: 0, knock)
    from master_helpers import Exchange
    message = messages.TryKeepers(keepers=[keeper.id for keeper in keepers])
    tried = examiner.try_keepers(message, Exchange(message, "client", "admin", "client", "c1")).tried
    assert sorted(asked) == sorted((keeper.host, port) for keeper in keepers for port in keeper.ports)
    assert len(tried) == len(asked) and all(one["failure"] is None or one["port"] == keepers[1].ports[-1] for one in tried)
    assert any(one["failure"] == "refused" for one in tried)


def test_only_administrators_have_ports_tried_and_the_catalog_copied(world, client):
    for user, role in (("anna", "reader"), ("bert", "writer")):
        identity = client.ask(messages.AddUser(name=user, role=role, home="/", nonce="0" * 64, op=user)).identity
        for message in (messages.TryKeepers(keepers=[world.keepers[1].id]), messages.MakeBackup(), messages.FetchBackup(backup="0" * 32, offset=0)):
            with pytest.raises(errors.NotPermitted):
                world.ask(message, identity=identity)
        assert world.ask(messages.Examine(), identity=identity).heartbeat_port == 7000


def fetch(client, made):
    data = b""
    while len(data) < made.size:
        data += bytes.fromhex(client.ask(messages.FetchBackup(backup=made.backup, offset=len(data))).data)
    return data


def test_a_backup_is_a_catalog(world, client, tmp_path):
    assert client.put("/a")["refused"] is None
    made = client.ask(messages.MakeBackup())
    client.put("/later")
    data = fetch(client, made)
    client.ask(messages.FetchBackup(backup=made.backup, offset=None))
    with pytest.raises(errors.Refusal):
        client.ask(messages.FetchBackup(backup=made.backup, offset=0))
    assert [name for name in os.listdir(world.directory) if name.startswith("backup")] == []
    directory = tmp_path / "restored"
    directory.mkdir()
    (directory / "catalog.db").write_bytes(data)
    database = Database.open(str(directory), now=lambda: 5.0, new_id=world.new_id)
    assert [entry.path for entry in database.queries().listing("/", "", 9)[0]] == ["/a"] and database.cluster_id == world.tracker.cluster_id
    database.close()


def test_copies_that_nobody_fetches_go(world, client):
    for _ in range(examination.MOST_BACKUPS):
        client.ask(messages.MakeBackup())
    with pytest.raises(errors.Busy):
        client.ask(messages.MakeBackup())
    world.now += examination.KEEP_S + 1
    client.ask(messages.MakeBackup())
    assert len([name for name in os.listdir(world.directory) if name.startswith("backup")]) == 1
    world.restart()
    assert [name for name in os.listdir(world.directory) if name.startswith("backup")] == []
