"""Copies of the catalog: who keeps one, that a follower ends with the same catalog, what status and the alarm say."""

import hashlib
import os

import pytest

from dfs_lib import errors, log_copy
from dfs_lib.catalog import operations, snapshots
from dfs_lib.catalog.database import Database
from dfs_lib.master import copies
from dfs_lib.wire import messages
from master_helpers import World


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path / "master", 3, catalog_backup=2)
    yield world
    world.close()


class Follower:
    """A keeper's side of it, in memory: a snapshot's bytes, and records since."""

    def __init__(self, world, number):
        self.world, self.number, self.last, self.base, self.records = world, number, (0, 0), b"", []

    def ask(self, message):
        body = []
        keeper = self.world.keepers[self.number]

        class Exchange:
            peer, connection, request_id, peer_host = type("Peer", (), {"role": "keeper", "identity": keeper.id}), "c", 1, "host"

            def answer(self, answer, raw=b""):
                body.extend((answer, raw))

            working = staticmethod(lambda: __import__("contextlib").nullcontext())

        self.world.service.handle(messages.decode(message.code, message.to_header()), Exchange())
        answer, raw = body
        assert hashlib.sha256(raw).hexdigest() == answer.sha256
        return answer, raw

    def step(self):
        """One question without waiting; what came of it."""
        answer, raw = self.ask(messages.FollowCatalog(epoch=self.last[0], sequence=self.last[1], wait_s=0))
        if answer.snapshot:
            self.fetch()
        elif raw:
            head = log_copy.check_record(raw)
            assert head.before == self.last
            self.records.append(raw)
            self.last = head.last
        return answer, raw

    def fetch(self):
        page, raw = self.ask(messages.ReadSnapshot(snapshot=None, offset=0))
        while len(raw) < page.size:
            _page, more = self.ask(messages.ReadSnapshot(snapshot=page.snapshot, offset=len(raw)))
            raw += more
        self.base, self.records, self.last = raw, [], log_copy.snapshot_head(raw[:log_copy.SNAPSHOT_HEAD]).last

    def level(self):
        while self.last[1] < self.world.database.sequence:
            self.world.now += copies.GATHER_S
            self.step()

    def rebuilt(self, directory):
        os.mkdir(directory)
        path = str(directory / "s.snap")
        with open(path, "wb") as out:
            out.write(self.base)
        snapshots.restore(path, str(directory / "catalog.db"))
        database = Database.open(directory, now=None, new_id=None, reign=False, create=False)
        for raw in self.records:
            database.replay(log_copy.rows_of(raw))
        return database


def tables(database):
    connection = database._writer.connection
    names = [name for name, in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2" if name not in ("totals",) else f"SELECT * FROM {name}").fetchall()
            for name in names if name != "log"}


def make(world, n, prefix):
    for i in range(n):
        world.database.apply(operations.MakeDirectory(op=f"{prefix}{i}", path=f"/{prefix}{i}", parents=False, at=1.0))


def test_two_keepers_are_chosen_and_told(world):
    assert [number for number in (1, 2, 3) if world.tracker.copies.is_chosen(number)] == [1, 2]
    answer = world.ask(messages.Status())
    assert answer.catalog_copies["wanted"] == 2


def test_a_follower_ends_with_the_same_catalog(world, tmp_path):
    make(world, 5, "a")
    follower = Follower(world, 1)
    answer, raw = follower.step()
    assert answer.snapshot and not raw
    make(world, 7, "b")
    follower.level()
    assert follower.records and follower.last == (world.tracker.epoch, world.database.sequence)
    world.database.apply(operations.RenamePath(op="r", source="/a1", target="/renamed", no_clobber=False, at=1.0))
    world.database.apply(operations.RemovePath(op="x", path="/a2", recursive=False, at=1.0))
    follower.level()
    other = follower.rebuilt(tmp_path / "other")
    assert tables(other) == tables(world.database)
    other.close()


def test_rows_are_gathered_and_a_second_keeper_gets_the_same_record(world):
    one, two = Follower(world, 1), Follower(world, 2)
    one.step()
    two.step()
    assert one.base == two.base  # one snapshot for both
    make(world, 3, "a")
    world.now += copies.GATHER_S
    one.step()
    make(world, 1, "b")
    assert one.step()[1] == b""  # too soon: it waits for more
    two.step()
    assert two.records == one.records


def test_who_is_not_chosen_is_told_so(world):
    answer, raw = Follower(world, 3).step()
    assert not answer.kept and not raw


def test_a_place_that_is_not_in_the_log_means_a_snapshot(world):
    follower = Follower(world, 1)
    for last in ((1, 10_000), (9, 1), (9, world.database.sequence)):
        follower.last = last
        world.now += copies.GATHER_S
        assert follower.step()[0].snapshot
        assert follower.last == (world.tracker.epoch, world.database.sequence)


def test_another_takes_over_from_a_dead_one_and_status_tells_how_far_behind(world):
    follower = Follower(world, 2)
    follower.step()
    follower.step()
    make(world, 4, "a")
    world.now += copies.GATHER_S
    row, = [row for row in world.ask(messages.Status()).catalog_copies["copies"] if row["name"] == "k2"]
    assert row["behind"] == 4
    world.keepers[1].is_up = False
    world.until(lambda: world.tracker.copies.is_chosen(3))
    assert world.tracker.copies.is_chosen(2) and not world.tracker.copies.is_chosen(1)


def test_an_alarm_while_no_copy_is_recent(world):
    world.steps(int(copies.ALARM_S / 0.25) + 10)
    assert any("no keeper has a copy of the catalog" in alarm for alarm in world.status().alarms)
    follower = Follower(world, 1)
    follower.step()
    follower.level()
    follower.step()
    world.steps(1)
    assert not world.status().alarms


def test_a_snapshot_goes_when_nobody_reads_it(world):
    follower = Follower(world, 1)
    follower.step()
    directory = world.tracker.copies._directory
    assert len(os.listdir(directory)) == 1
    page, _raw = follower.ask(messages.ReadSnapshot(snapshot=None, offset=0))
    world.steps(int(copies.SNAPSHOT_KEEP_S / 0.25) + 10)
    assert os.listdir(directory) == []
    with pytest.raises(errors.Refusal):
        follower.ask(messages.ReadSnapshot(snapshot=page.snapshot, offset=0))


def test_snapshots_of_an_earlier_start_go_at_the_next(tmp_path):
    old = tmp_path / "master" / copies.DIRECTORY / ("a" * 32 + ".snap")
    os.makedirs(old.parent)
    old.write_bytes(b"as large as the catalog")
    world = World(tmp_path / "master", 1, catalog_backup=1)
    assert not old.exists()
    world.close()


def test_open_from_is_no_more_than_what_may_still_be_published(world):
    tracker = world.tracker
    before = tracker.copies.open_from()
    version = tracker.next_version()
    assert before <= version and tracker.copies.open_from() <= version
    world.steps(int((copies.MARK_S + 2) / 0.25))
    assert tracker.copies.open_from() >= version


def test_off(tmp_path):
    world = World(tmp_path / "master", 2)
    assert not any(world.tracker.copies.is_chosen(number) for number in (1, 2))
    world.steps(int(copies.ALARM_S / 0.25) + 10)
    assert not world.status().alarms
    world.close()
