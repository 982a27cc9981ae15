"""A catalog made anew from what keepers send: what comes back, what goes to /lost+found, which copy is used, and death at every step."""

import hashlib
import itertools
import json
import os
import shutil
import zlib

import pytest

from dfs_lib import errors, log_copy, settings as settings_module
from dfs_lib.catalog import files, operations, rebuilding, snapshots
from dfs_lib.catalog.database import Database
from dfs_lib.master import rebuilder as rebuilder_module
from dfs_lib.master.rebuilder import Rebuilder, summary
from dfs_lib.model import MIB
from dfs_lib.wire import messages
from master_helpers import Exchange, over_the_wire

CLUSTER = "c" * 32
NEW_IDS = itertools.count(1)  # never the same twice: an operation of a known id is answered from memory
SHA = lambda body: hashlib.sha256(body).hexdigest()  # noqa: E731


class Cluster:
    """An old master's catalog, its keepers' block files, and copies of the catalog: all that a rebuild can learn from."""

    def __init__(self, directory, n_keepers=3):
        self.directory, self.numbers, self.ids = directory, itertools.count(1), itertools.count(1)
        self.database = Database.open(directory / "old", now=lambda: 1.0, new_id=lambda: CLUSTER)
        self.keepers = [Keeper(f"{n:032x}", self.database.epoch) for n in range(1, n_keepers + 1)]
        for keeper in self.keepers:
            self.apply(operations.RegisterKeeper, keeper=keeper.id, host=keeper.id[-1], ports=[8000], labels={})
        self.records, self.base = [], None

    def apply(self, cls, **fields):
        if "op" in cls.__dataclass_fields__:
            fields["op"] = f"op{next(self.ids)}"
        return self.database.apply(cls(at=5.0, **fields))

    def put(self, path, *sizes, on=(1, 2, 3), commit=True, facts=None):
        """A file of blocks of 1 MiB (the last may be less) on these keepers; -> its version."""
        version = (self.database.epoch << 32) + next(self.numbers)
        blocks = []
        for index, size in enumerate(sizes):
            block, crcs = f"{next(self.ids):032x}", os.urandom(4)
            meta = {"cluster": CLUSTER, "block": block, "path": path, "version": version, "index": index, "size": size, "file_size": sum(sizes),
                    "block_size": MIB, "mtime_at": 7.0, "copies": 2, "last": index == len(sizes) - 1, **(facts or {})}
            for number in on:
                self.keepers[number - 1].blocks[block] = [block, size, crcs.hex(), meta]
            blocks.append([block, size, crcs.hex(), list(on)])
        if commit:
            self.apply(operations.PublishFile, path=path, version=version, size=sum(sizes), block_size=MIB, copies=2, mtime_at=7.0,
                       no_clobber=False, parents=True, blocks=blocks)
        return version

    def copy_to(self, *numbers, open_from=None):
        """The keepers of these numbers get a copy of the catalog as it is now: a snapshot at first, then records."""
        open_from = (self.database.epoch << 32) + next(self.numbers) if open_from is None else open_from
        if self.base is None:
            path = str(self.directory / "copy.snap")
            self.last = snapshots.make(self.database, path, open_from, 5.0).last
            self.base = open(path, "rb").read()
        rows = [list(row[:6]) for row in self.database.log_since(*self.last, 1000)]
        if rows:
            self.records.append(log_copy.build_record(self.last, rows, open_from, 6.0))
            self.last = tuple(rows[-1][:2])
        for number in numbers:
            self.keepers[number - 1].copy = (self.last, self.base, b"".join(self.records))

    def rebuild(self, name="new", keepers=None, **changes):
        """(report, Database) of a rebuild in a directory of its own."""
        report = rebuilt(self.directory / name, self.keepers if keepers is None else keepers, **changes)
        return report, Database.open(self.directory / name, now=lambda: 9.0, new_id=None)


class Keeper:
    """A keeper's side of a rebuild. blocks: {id: row of a page}; copy: (last, snapshot, records)."""

    def __init__(self, id_, epoch):
        self.id, self.epoch, self.blocks, self.copy, self.page_size, self.cluster_id = id_, epoch, {}, None, 3, CLUSTER

    def ask(self, gathering, message, body=b""):
        message = over_the_wire(message)
        exchange = Exchange(message, "keeper", self.id, "host", self.id, body)
        gathering.handle(message, exchange)
        return exchange.answered

    def offer(self):
        copy = self.copy and {"epoch": self.copy[0][0], "sequence": self.copy[0][1], "at": 6.0, "base_size": len(self.copy[1]),
                              "log_size": len(self.copy[2])}
        return messages.OfferRebuild(keeper=self.id, cluster_id=self.cluster_id, epoch=self.epoch, host=None, ports=[8000], labels={},
                                     n_blocks=len(self.blocks), copy=copy)

    def step(self, gathering):
        """Offer, and do what is asked."""
        asked = self.ask(gathering, self.offer())
        if asked.what == "trailers":
            rows = [self.blocks[block] for block in sorted(self.blocks) if block > (asked.after or "")]
            page, more = rows[:self.page_size], len(rows) > self.page_size
            body = zlib.compress(json.dumps(page).encode())
            self.ask(gathering, messages.SendTrailers(last=not more, sha256=SHA(body)), body)
        elif asked.what == "copy":
            whole = self.copy[1] + self.copy[2]
            for part in (self.copy[1], self.copy[2]):
                offset = 0 if part is self.copy[1] else len(self.copy[1])
                if part:
                    self.ask(gathering, messages.SendCopy(offset=offset, last=offset + len(part) == len(whole), sha256=SHA(part)), part)
        return asked.what


def rebuilt(directory, keepers, steps=200, **changes):
    """The report of a whole rebuild, with a clock that moves as the keepers do."""
    now = [100.0]
    settings = settings_module.resolve([]).but(rebuild_wait=5.0, **changes)
    rebuilder = Rebuilder(settings, str(directory), clock=lambda: now[0], wall=lambda: 9.0, new_id=lambda: f"new{next(NEW_IDS)}")

    def stopping():
        now[0] += 0.5
        for keeper in keepers:
            keeper.step(rebuilder.gathering)
        return now[0] > 100.0 + steps

    try:
        return rebuilder.run(stopping)
    finally:
        rebuilder.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rebuilder_module, "STEP_S", 0.0)


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.database.close()


def tree(database):
    """{path: version, or "dir"} of everything."""
    found, todo, queries = {}, ["/"], database.queries()
    while todo:
        for entry in queries.listing(todo.pop(), "", 1000)[0]:
            found[entry.path] = entry.version if entry.kind == "file" else "dir"
            if entry.kind == "dir":
                todo.append(entry.path)
    return found


def blocks_of(database, path):
    return [tuple(block) for block in database.queries().blocks(database.queries().entry(path).version, 0, 1000)]


# -- from the trailers alone ------------------------------------------------------------------------------------------
def test_names_versions_and_blocks_come_back_from_the_trailers(cluster):
    versions = {"/a": cluster.put("/a", 10), "/d/b": cluster.put("/d/b", MIB, MIB, 5, on=(1, 3)), "/d/e/ü": cluster.put("/d/e/ü", 1, on=(2,))}
    cluster.keepers[1].epoch = 40
    report, database = cluster.rebuild()
    assert {path: version for path, version in tree(database).items() if version != "dir"} == versions
    for path in versions:
        assert [block[:4] for block in blocks_of(database, path)] == [block[:4] for block in blocks_of(cluster.database, path)]
        old, new = cluster.database.queries().entry(path), database.queries().entry(path)
        assert (old.size, old.mtime_at, old.copies_wanted) == (new.size, new.mtime_at, new.copies_wanted)
    assert database.cluster_id == CLUSTER and database.epoch > 40 and report["copy"] is None and report["counts"]["placed"] == 3
    keepers = {keeper.number: keeper.id for keeper in database.queries().keepers()}
    assert sorted(keepers.values()) == [keeper.id for keeper in cluster.keepers]
    assert {keepers[number][-1] for block in blocks_of(database, "/d/b") for number in block[4]} == {"1", "3"}
    assert database.queries().users() == [] and database.sequence > 40 << 32
    database.close()


def test_the_newest_whole_version_wins_and_the_rest_is_put_under_lost_and_found(cluster):
    old = cluster.put("/a", 10)
    cluster.apply(operations.RemovePath, path="/a", recursive=False)
    new = cluster.put("/a", 20)
    half = cluster.put("/a", MIB, MIB, 7, commit=False)
    for keeper in cluster.keepers:  # the middle one is nowhere
        del keeper.blocks[next(block for block, row in keeper.blocks.items() if row[3]["version"] == half and row[3]["index"] == 1)]
    report, database = cluster.rebuild()
    found = tree(database)
    lost = {path for path in found if path.startswith("/lost+found/")}
    assert found["/a"] == new and found[f"/lost+found/a.v{old}"] == old
    assert lost == {f"/lost+found/a.v{old}", f"/lost+found/a.v{half}.bytes-0-{MIB - 1}", f"/lost+found/a.v{half}.bytes-{2 * MIB}-{2 * MIB + 6}"}
    assert report["counts"]["lost"] == 3 and {one["as"] for one in report["lost"]} == lost and "3 under /lost+found" in summary(report)
    database.close()


def test_a_file_whose_path_others_have_as_their_directory(cluster):
    file = cluster.put("/d", 10)
    cluster.apply(operations.RemovePath, path="/d", recursive=False)
    below = cluster.put("/d/x/y", 10)
    _report, database = cluster.rebuild()
    assert tree(database) == {"/d": "dir", "/d/x": "dir", "/d/x/y": below, "/lost+found": "dir", f"/lost+found/d.v{file}": file}
    database.close()


def test_blocks_whose_place_cannot_be_told_and_files_that_cannot_be_read(cluster):
    cluster.put("/a", 10)
    cluster.put("/bad", 11, commit=False, facts={"path": "bad/../path"})
    cluster.put("/foreign", 12, commit=False, facts={"cluster": "f" * 32})
    cluster.keepers[0].blocks["e" * 32] = ["e" * 32, None, "the footer is damaged"]
    cluster.keepers[0].blocks["f" * 32] = ["f" * 32, 3, "00" * 8, {}]
    report, database = cluster.rebuild()
    found = [entry for entry in database.queries().listing("/lost+found/blocks", "", 10)[0]]
    assert sorted(entry.size for entry in found) == [11, 12] and report["counts"]["lost"] == 2
    assert {one["block"]: one["reason"] for one in report["unreadable"]} == {
        "e" * 32: "the footer is damaged", "f" * 32: "its checksums are of another chunk size"}
    assert report["counts"]["unreadable"] == 2
    database.close()


def test_replicas_that_contradict_each_other_go_by_the_majority(cluster):
    cluster.put("/a", 10)
    block, = cluster.keepers[0].blocks
    cluster.keepers[0].blocks[block] = [*cluster.keepers[0].blocks[block][:2], "00112233", cluster.keepers[0].blocks[block][3]]
    report, database = cluster.rebuild()
    (_block, _index, _size, crcs, keepers), = blocks_of(database, "/a")
    assert crcs.hex() == cluster.keepers[1].blocks[block][2] and len(keepers) == 2 and report["counts"]["contradictory"] == 1
    database.close()


# -- with a copy of the catalog ---------------------------------------------------------------------------------------
def test_with_a_copy_renames_removals_directories_copies_and_users_come_back(cluster):
    cluster.put("/a", 10)
    cluster.put("/gone", 10)
    cluster.put("/d/b", 10)
    cluster.copy_to(1)
    cluster.apply(operations.RenamePath, source="/d", target="/e", no_clobber=False)
    cluster.apply(operations.RemovePath, path="/gone", recursive=False)
    cluster.apply(operations.CollectVersions, versions=[row.version for row in cluster.database.queries().trash(None, 10)])  # …and its keepers were away
    cluster.apply(operations.MakeDirectory, path="/empty", parents=False)
    cluster.apply(operations.PublishFile, path="/nothing", version=99, size=0, block_size=MIB, copies=2, mtime_at=1.0, no_clobber=False, parents=False,
                  blocks=[])
    cluster.apply(operations.SetCopies, path="/a", copies=5)
    cluster.apply(operations.CopyFile, source="/a", target="/twin", version=98, no_clobber=False)
    cluster.apply(operations.AddUser, name="eva", role="writer", home="/")
    cluster.copy_to(1, 3)
    before = tree(cluster.database)
    late = cluster.put("/late", 10)
    again = cluster.put("/a", 11)
    report, database = cluster.rebuild()
    found = tree(database)
    old = before["/a"]
    assert found == {**before, "/late": late, "/a": again, "/lost+found": "dir", f"/lost+found/a.v{old}": old}
    assert database.queries().users() == cluster.database.queries().users()
    assert database.queries().entry(f"/lost+found/a.v{old}").copies_wanted == 5
    assert report["copy"]["sequence"] == cluster.last[1] and report["counts"]["unwanted"] == 1
    assert report["replaced"] == [{"path": "/a", "version": old, "as": f"/lost+found/a.v{old}"}]
    database.close()


def test_what_was_published_and_removed_after_open_from_does_not_come_back(cluster):
    slow = (cluster.database.epoch << 32) + next(cluster.numbers)  # an upload that stayed open all the time
    cluster.put("/gone", 10)
    cluster.apply(operations.RemovePath, path="/gone", recursive=False)
    cluster.apply(operations.CollectVersions, versions=[row.version for row in cluster.database.queries().trash(None, 10)])
    cluster.copy_to(1, open_from=slow)
    _report, database = cluster.rebuild()
    assert tree(database) == {}
    database.close()


def test_the_latest_copy_is_used_and_one_that_is_damaged_is_not(cluster):
    cluster.copy_to(1, 2, 3)
    cluster.apply(operations.MakeDirectory, path="/one", parents=False)
    cluster.copy_to(1, 2)
    cluster.apply(operations.MakeDirectory, path="/two", parents=False)
    cluster.copy_to(2)
    report, database = cluster.rebuild("latest")
    assert set(tree(database)) == {"/one", "/two"} and report["copy"]["keeper"] == cluster.keepers[1].id
    database.close()
    last, base, records = cluster.keepers[1].copy
    cluster.keepers[1].copy = (last, base[:-1] + bytes([base[-1] ^ 1]), records)
    report, database = cluster.rebuild("second")
    assert set(tree(database)) == {"/one"} and report["copy"]["keeper"] == cluster.keepers[0].id
    database.close()
    for keeper in cluster.keepers:
        last, base, records = keeper.copy
        keeper.copy = (last, base[:200] + bytes([base[200] ^ 1]) + base[201:], records)
    report, database = cluster.rebuild("none")
    assert tree(database) == {} and report["copy"] is None
    database.close()


def test_a_keeper_that_was_away_from_a_rebuild_without_a_copy_is_not_taken_for_one_with_removed_files(cluster, tmp_path):
    here, away = cluster.put("/here", 10, on=(1,)), cluster.put("/away", 10, on=(3,))
    _report, database = cluster.rebuild("first", keepers=cluster.keepers[:2])
    assert set(tree(database)) == {"/here"}
    database.apply(operations.RenamePath(op="m", source="/here", target="/moved", no_clobber=False, at=1.0))
    path = str(tmp_path / "later.snap")
    last = snapshots.make(database, path, database.epoch + 1 << 32, 6.0).last
    cluster.keepers[0].copy = (last, open(path, "rb").read(), b"")
    database.close()
    _report, database = cluster.rebuild("second")
    assert tree(database) == {"/moved": here, "/away": away}
    database.close()


def test_drops_that_were_still_to_be_done_are_forgotten(cluster):
    cluster.put("/a", 10)
    block, = cluster.keepers[0].blocks
    assert cluster.apply(operations.DropReplica, block=block, keeper=3)
    cluster.copy_to(1)
    _report, database = cluster.rebuild()
    assert not any(database.queries().drops(number, 10) for number in (1, 2, 3))
    database.close()


def test_a_keeper_that_is_absent_is_waited_for_and_then_told(cluster):
    cluster.put("/a", 10, on=(3,))
    cluster.put("/b", 10, on=(1,))
    cluster.copy_to(1)
    report, database = cluster.rebuild(keepers=cluster.keepers[:2])
    assert report["absent"] == [cluster.keepers[2].id]
    assert report["missing"] == ["/a"] and set(tree(database)) == {"/a", "/b"}
    database.close()


def test_a_later_catalog_goes_on_where_no_number_of_the_old_one_was(cluster):
    cluster.put("/a", 10)
    cluster.apply(operations.AddUser, name="eva", role="writer", home="/")
    cluster.copy_to(1)
    _report, database = cluster.rebuild()
    serial = database.apply(operations.AddUser(op="x", name="adam", role="writer", home="/", at=1.0))["serial"]
    assert serial > cluster.database.sequence + 1000 and serial < 1 << 53
    assert database.epoch >= cluster.database.epoch + rebuilder_module.EPOCHS_ABOVE
    database.close()


# -- while it gathers ---------------------------------------------------------------------------------------------------
def test_clients_and_others_hear_how_far_it_is(cluster, tmp_path):
    rebuilder = Rebuilder(settings_module.resolve([]).but(rebuild_keepers=3), str(tmp_path / "new"), clock=lambda: 1.0, wall=lambda: 1.0, new_id=None)
    cluster.put("/a", 10)
    cluster.keepers[0].step(rebuilder.gathering)
    for role, message in (("client", messages.Status()), ("client", messages.Ping()), ("keeper", messages.Farewell())):
        with pytest.raises(errors.NotReady) as caught:
            rebuilder.gathering.handle(message, Exchange(message, role, "admin", "host", "c"))
        assert "1 keepers have come of at least 3, 1 have told all they hold, 1 of 1 replicas are known" in caught.value.message
    other = Keeper("9" * 32, 1)
    other.cluster_id = "d" * 32
    with pytest.raises(errors.WrongCluster):
        other.step(rebuilder.gathering)
    nothing = zlib.compress(b"[]")
    with pytest.raises(errors.OutOfTurn):
        cluster.keepers[1].ask(rebuilder.gathering, messages.SendTrailers(last=True, sha256=SHA(nothing)), nothing)
    rebuilder.close()


def test_pages_that_are_altered_unsorted_or_senseless_are_refused(cluster, tmp_path):
    rebuilder = Rebuilder(settings_module.resolve([]), str(tmp_path / "new"), clock=lambda: 1.0, wall=lambda: 1.0, new_id=None)
    keeper = cluster.keepers[0]
    cluster.put("/a", 10)
    row, = keeper.blocks.values()
    keeper.ask(rebuilder.gathering, keeper.offer())

    def send(raw, sha=None):
        keeper.ask(rebuilder.gathering, messages.SendTrailers(last=False, sha256=sha or SHA(raw)), raw)

    for rows in ([row, row], [row[:2]], ["x"], [[row[0].upper() + "A", *row[1:]]], [[row[0], -1, *row[2:]]], 5, [[row[0], 1, "zz", {}]]):
        with pytest.raises(errors.BadMessage):
            send(zlib.compress(json.dumps(rows).encode()))
    for raw, sha in ((b"no zlib", None), (zlib.compress(json.dumps([row]).encode()), "0" * 64)):
        with pytest.raises(errors.BadMessage):
            send(raw, sha)
    assert rebuilder.gathering.keepers[keeper.id].n_trailers == 0
    rebuilder.close()


def test_a_directory_that_has_a_catalog_or_is_at_work_is_left_alone(cluster, tmp_path):
    with pytest.raises(errors.DirectoryInUse):  # its master runs
        Rebuilder(settings_module.resolve([]), str(tmp_path / "old"), new_id=None)
    cluster.rebuild()[1].close()
    assert rebuilding.has_catalog(str(tmp_path / "new")) == (True, True) and rebuilding.has_catalog(str(tmp_path / "other")) == (False, False)
    with pytest.raises(errors.Refusal):
        Rebuilder(settings_module.resolve([]), str(tmp_path / "new"), new_id=None)


# -- death ------------------------------------------------------------------------------------------------------------------
class Killed(BaseException):
    pass


def test_it_may_die_at_any_step_and_is_started_again(cluster, monkeypatch, tmp_path):
    cluster.put("/a", 10)
    cluster.put("/d/b", 10)
    cluster.copy_to(1)
    cluster.apply(operations.RenamePath, source="/a", target="/c", no_clobber=False)
    cluster.copy_to(1)
    cluster.put("/late", 10)
    wanted = {"/c", "/d", "/d/b", "/late"}
    steps, kill_at, directory = [0], [None], tmp_path / "new"

    def killing(real, name):
        def call(*args, **kwargs):
            steps[0] += kill_at[0] is not None
            if steps[0] == kill_at[0]:
                kill_at[0] = None
                shutil.copytree(directory, tmp_path / "as-it-was", dirs_exist_ok=True)  # what is on the disk at that moment
                raise Killed(name)
            return real(*args, **kwargs)
        return call

    for owner, names in ((rebuilding.Rebuilding, ("add", "want", "begin", "missing", "finish", "_write_report")), (Database, ("apply", "replay")),
                         (files, ("sync_file", "sync_directory")), (rebuilding.os, ("rename", "replace", "mkdir")), (rebuilding.shutil, ("rmtree",))):
        for name in names:
            monkeypatch.setattr(owner, name, killing(getattr(owner, name), name))
    seen, n_whole = set(), 0
    for at in itertools.count(1):
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        steps[0], kill_at[0] = 0, at
        try:
            report = rebuilt(directory, cluster.keepers)
            kill_at[0] = None
            break
        except Killed as e:
            seen.add(str(e))
        shutil.rmtree(directory)
        os.rename(tmp_path / "as-it-was", directory)
        there, is_rebuilt = rebuilding.has_catalog(str(directory))
        assert there == is_rebuilt  # never a catalog that the next start would take for another's
        if not there:
            report = rebuilt(directory, cluster.keepers)
            assert report["counts"]["placed"] == 1
        n_whole += there
        database = Database.open(directory, now=lambda: 9.0, new_id=None)
        assert set(tree(database)) == wanted
        database.close()
    assert report["counts"]["placed"] == 1 and at > 20 and n_whole >= 1
    assert seen >= {"add", "want", "begin", "finish", "_write_report", "apply", "replay", "sync_file", "sync_directory", "rename", "replace"}
