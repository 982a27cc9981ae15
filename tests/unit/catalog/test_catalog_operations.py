"""What each operation does, refuses and leaves alone."""

import json

import pytest

from catalog_helpers import FIRST_VERSION as V, block_id, check_invariants, publish, tables
from dfs_lib import errors
from dfs_lib.catalog import operations as o


@pytest.fixture(autouse=True)
def invariants(database):
    yield
    check_invariants(database)


def refused(database, operation, error):
    before = tables(database)
    with pytest.raises(error) as caught:
        database.apply(operation)
    assert type(caught.value) is error
    assert tables(database) == before
    return caught.value


def names(database, path="/"):
    return [entry.path for entry in database.queries().listing(path, "", 1000)[0]]


def test_publish_shows_the_file_with_its_blocks_and_directories(database):
    assert database.apply(publish("/a/b/c", 1, blocks=[(10, (1, 2)), (5, (3,))], parents=True)) == \
        {"version": V + 1, "replaced": None}
    q = database.queries()
    entry = q.entry("/a/b/c")
    assert (entry.kind, entry.size, entry.version, entry.mtime_at, entry.copies_wanted) == ("file", 15, V + 1, 100.0, 3)
    assert [(b.block, b.index, b.size, b.crcs, b.keepers) for b in q.blocks(V + 1, 0, 9)] == \
        [(block_id(1000), 0, 10, b"\0\0\0\1", (1, 2)), (block_id(1001), 1, 5, b"\0\0\0\1", (3,))]
    assert [b.index for b in q.blocks(V + 1, 1, 9)] == [1]
    assert q.copies_have(V + 1, {1, 2, 3}) == 1 and q.copies_have(V + 1, {1, 2}) == 0
    assert q.version(V + 1).published_sequence == database.sequence
    assert q.totals() == (1, 15, 2)


def test_an_empty_file_has_no_blocks(database):
    database.apply(publish("/empty", 1, blocks=()))
    assert database.queries().blocks(V + 1, 0, 9) == []
    assert database.queries().copies_have(V + 1, {1}) is None
    assert database.apply(o.CopyFile("c", "/empty", "/too", V + 2, False, 1.0))["version"] == V + 2


def test_publish_replaces_at_once_and_keeps_the_old_in_the_trash(database):
    database.apply(publish("/f", 1, at=50.0))
    assert database.apply(publish("/f", 2, blocks=[(7, (3,))], at=60.0))["replaced"] == V + 1
    q = database.queries()
    assert q.entry("/f").version == V + 2 and q.totals() == (1, 7, 0)
    assert q.trash(None, 9) == [(V + 1, 60.0, 10)] and q.trash(59.9, 9) == []
    assert len(q.blocks(V + 1, 0, 9)) == 1, "a reader of the old version finishes"
    assert q.entry_of_version(V + 1) is None and q.entry_of_version(V + 2) == "/f"


def test_a_late_duplicate_never_overwrites_what_came_after(database):
    database.apply(publish("/f", 1, op="first"))
    database.apply(publish("/f", 2))
    before = tables(database)
    assert database.apply(publish("/f", 1, op="another")) == {"version": V + 1, "replaced": None}
    database.apply(o.RemovePath("rm", "/f", False, 5.0))
    assert database.apply(publish("/f", 2, op="yet-another"))["version"] == V + 2
    assert names(database) == []
    assert before["entries"] != tables(database)["entries"]


def test_publish_refusals_change_nothing(database):
    database.apply(o.MakeDirectory("m", "/d", False, 1.0))
    database.apply(publish("/f", 1))
    refused(database, publish("/d", 2), errors.IsADirectory)
    refused(database, publish("/", 2), errors.IsADirectory)
    refused(database, publish("/f", 2, no_clobber=True), errors.FileExists)
    refused(database, publish("/no/f", 2), errors.NoSuchFile)
    refused(database, publish("/f/x", 2, parents=True), errors.NotADirectory)
    refused(database, publish("/f/x/y", 2), errors.NotADirectory)
    refused(database, publish("/new/deep/f", 2, blocks=[(1, (9,))], parents=True), errors.NoLiveReplica)
    wrong = publish("/new/f", 2, parents=True).__dict__ | {"size": 11}
    refused(database, o.PublishFile(**wrong), errors.Misuse)
    # The directories made before the refusal are gone, and the next one must not believe in them.
    database.apply(publish("/new/deep/f", 3, parents=True))
    assert names(database, "/new/deep") == ["/new/deep/f"]


def test_a_block_that_is_taken_or_of_a_wrong_type_is_refused_and_harms_nobody(database):
    database.apply(publish("/f", 1))
    again = publish("/g", 2).__dict__ | {"blocks": publish("/f", 1).blocks}
    refused(database, o.PublishFile(**again), errors.Misuse)
    refused(database, o.PublishFile(**(publish("/g", 3).__dict__ | {"mtime_at": ["no"]})), errors.Misuse)
    with pytest.raises(OverflowError):
        database.apply(o.PublishFile(**(publish("/g", 4).__dict__ | {"version": 1 << 70})))
    assert database.failed is None
    database.apply(publish("/g", 5))


def test_publish_after_its_blocks_were_collected_is_refused(database):
    """F6: a paused writer wakes after the collector took its blocks."""
    database.apply(publish("/f", 1))
    database.apply(o.RemovePath("rm", "/f", False, 2.0))
    assert database.apply(o.CollectVersions([V + 1], 3.0)) == {"versions": 1, "blocks": 1}
    late = publish("/f", 1, op="late")
    refused(database, late, errors.LeaseLapsed)


def test_replicas_on_forgotten_keepers_are_passed_over(database):
    database.apply(o.ForgetKeeper(f"{2:032x}", 1.0))
    database.apply(publish("/f", 1))
    assert database.queries().replicas(block_id(1000)) == [1]
    assert database.apply(o.RegisterKeeper(f"{9:032x}", "h", [1], {}, 2.0)) == 5, "a number is never given again"


def test_make_directory(database):
    assert database.apply(o.MakeDirectory("1", "/a/b/c", True, 1.0)) == {"made": 3}
    assert database.apply(o.MakeDirectory("2", "/a/b/c", True, 1.0)) == {"made": 0}
    assert database.apply(o.MakeDirectory("3", "/", True, 1.0)) == {"made": 0}
    refused(database, o.MakeDirectory("4", "/a/b", False, 1.0), errors.FileExists)
    refused(database, o.MakeDirectory("5", "/x/y", False, 1.0), errors.NoSuchFile)
    database.apply(publish("/f", 1))
    refused(database, o.MakeDirectory("6", "/f", True, 1.0), errors.FileExists)
    refused(database, o.MakeDirectory("7", "/f/d", True, 1.0), errors.NotADirectory)


def test_a_path_of_two_thousand_parts(database):
    path = "/a" * 2_000
    assert database.apply(o.MakeDirectory("1", path, True, 1.0)) == {"made": 2_000}
    assert database.queries().entry(path).kind == "dir"
    assert database.queries().path_of_entry(2_001) == path
    with pytest.raises(errors.NoSuchFile):
        database.queries().entry(path + "/b")
    database.apply(o.RemovePath("2", "/a", True, 1.0))
    while database.apply(o.PurgeDetached(300, 1.0)):
        pass
    assert database.queries().totals() == (0, 0, 0)


def test_remove(database):
    database.apply(publish("/d/f", 1, parents=True))
    refused(database, o.RemovePath("1", "/d", False, 1.0), errors.DirectoryNotEmpty)
    refused(database, o.RemovePath("2", "/d/g", False, 1.0), errors.NoSuchFile)
    refused(database, o.RemovePath("3", "/d/f/g", False, 1.0), errors.NotADirectory)
    refused(database, o.RemovePath("4", "/", True, 1.0), errors.Refusal)
    assert database.apply(o.RemovePath("5", "/d/f", False, 7.0)) == {"kind": "file", "version": V + 1}
    assert database.apply(o.RemovePath("5", "/d/f", False, 7.0)) == {"kind": "file", "version": V + 1}, "a retry: the same answer"
    assert database.apply(o.RemovePath("6", "/d", False, 8.0)) == {"kind": "dir", "version": None}
    assert database.queries().totals() == (0, 0, 0)
    refused(database, publish("/d/f", 2), errors.NoSuchFile)


def test_remove_of_a_tree_is_one_step_and_is_worked_off_in_bounded_ones(database):
    for number in range(40):
        database.apply(publish(f"/t/d{number % 4}/e/f{number}", number, parents=True))
    q = database.queries()
    database.apply(o.RemovePath("rm", "/t", True, 500.0))
    assert names(database) == [] and q.paths_of_block(block_id(1000)) == [] and q.entry_of_version(V + 1) is None
    database.apply(publish("/t/d0/e/new", 99, parents=True))
    handled = []
    while n := database.apply(o.PurgeDetached(7, 900.0)):
        handled.append(n)
        check_invariants(database)
    assert max(handled) <= 7
    assert q.n_detached() == 0 and q.totals() == (1, 10, 3)
    assert [t.removed_at for t in q.trash(None, 99)] == [500.0] * 40, "the grace counts from when it became unreachable"
    assert names(database, "/t/d0/e") == ["/t/d0/e/new"]


def test_rename_corner_cases(database):
    database.apply(publish("/a/f", 1, parents=True))
    database.apply(publish("/g", 2))
    for path in ("/empty", "/full/x"):
        database.apply(o.MakeDirectory(path, path, True, 1.0))

    def rename(source, target, no_clobber=False):
        return o.RenamePath(f"{source}>{target}>{database.sequence}", source, target, no_clobber, 70.0)

    refused(database, rename("/no", "/x"), errors.NoSuchFile)
    refused(database, rename("/g", "/no/x"), errors.NoSuchFile)
    refused(database, rename("/a", "/a/b"), errors.IntoItself)
    refused(database, rename("/a", "/a/f/x"), errors.IntoItself)
    refused(database, rename("/", "/x"), errors.IntoItself)
    refused(database, rename("/a", "/"), errors.DirectoryNotEmpty)
    refused(database, rename("/g", "/a"), errors.IsADirectory)
    refused(database, rename("/a", "/g"), errors.NotADirectory)
    refused(database, rename("/a", "/full"), errors.DirectoryNotEmpty)
    refused(database, rename("/g", "/a/f", no_clobber=True), errors.FileExists)
    refused(database, rename("/g", "/a/f/x"), errors.NotADirectory)
    before = tables(database)
    assert database.apply(rename("/g", "/g")) == {"replaced": None} and tables(database) == before
    assert database.apply(rename("/g", "/a/f")) == {"replaced": V + 1}
    assert database.queries().entry("/a/f").version == V + 2
    assert database.apply(rename("/a", "/empty")) == {"replaced": None}
    assert names(database) == ["/empty", "/full"] and names(database, "/empty") == ["/empty/f"]
    assert database.apply(rename("/empty", "/full/x/emptyish"))["replaced"] is None
    assert database.queries().entry_of_version(V + 2) == "/full/x/emptyish/f"
    # A name that only begins like the source is not inside it.
    assert database.apply(rename("/full", "/fuller"))["replaced"] is None
    refused(database, publish("/full/x/f", 5), errors.NoSuchFile)


def test_remembered_directories_follow_renames_and_removals(database):
    database.apply(publish("/a/b/f", 1, parents=True))
    database.apply(o.RenamePath("1", "/a", "/z", False, 1.0))
    database.apply(o.MakeDirectory("2", "/a/b", True, 1.0))
    database.apply(publish("/a/b/new", 2))
    assert names(database, "/z/b") == ["/z/b/f"] and names(database, "/a/b") == ["/a/b/new"]
    database.apply(o.RemovePath("3", "/a", True, 1.0))
    database.apply(publish("/a/b/again", 3, parents=True))
    assert names(database, "/a/b") == ["/a/b/again"]


def test_copy_shares_blocks_until_the_last_name_is_collected(database):
    database.apply(publish("/f", 1, copies=2))
    database.apply(o.RecordSum(V + 1, "ab" * 32))
    assert database.apply(o.CopyFile("cp", "/f", "/g", V + 2, False, 50.0)) == {"version": V + 2, "replaced": None}
    q = database.queries()
    assert q.block(block_id(1000)).refs == 2 and q.version(V + 2).sha256 == "ab" * 32
    assert q.paths_of_block(block_id(1000)) == [("/f", V + 1, 0), ("/g", V + 2, 0)]
    database.apply(o.SetCopies("s", "/g", 4, 51.0))
    assert q.block(block_id(1000)).want == 4 and q.entry("/g").copies_wanted == 4 and q.entry("/f").copies_wanted == 2
    database.apply(o.RemovePath("rm", "/g", False, 52.0))
    assert database.apply(o.CollectVersions([V + 2, V + 1, 77], 60.0)) == {"versions": 1, "blocks": 0}
    assert q.block(block_id(1000))[2:4] == (2, 1), "want and refs without the copy"
    database.apply(o.RemovePath("rm2", "/f", False, 61.0))
    database.apply(o.CollectVersions([V + 1], 62.0))
    assert q.block(block_id(1000)) is None and q.drops(1, 9) == q.drops(2, 9) == [block_id(1000)]
    assert q.version(V + 1) is None


def test_copy_refusals(database):
    database.apply(publish("/d/f", 1, parents=True))
    database.apply(publish("/g", 2))

    def copy(source, target, no_clobber=False):
        return o.CopyFile(f"{source}>{target}", source, target, V + 9, no_clobber, 1.0)

    refused(database, copy("/d", "/x"), errors.IsADirectory)
    refused(database, copy("/no", "/x"), errors.NoSuchFile)
    refused(database, copy("/g", "/g"), errors.IntoItself)
    refused(database, copy("/g", "/d"), errors.IsADirectory)
    refused(database, copy("/g", "/"), errors.IsADirectory)
    refused(database, copy("/g", "/no/x"), errors.NoSuchFile)
    refused(database, copy("/g", "/d/f", no_clobber=True), errors.FileExists)
    assert database.apply(o.CopyFile("real", "/g", "/d/f", V + 9, False, 1.0)) == {"version": V + 9, "replaced": V + 1}


def test_replicas_are_recorded_only_where_they_belong(database):
    database.apply(publish("/f", 1, copies=2))
    block = block_id(1000)
    assert database.apply(o.RecordReplicas(3, [block, block_id(5)], 1.0)) == [block]
    assert database.apply(o.RecordReplicas(3, [block], 1.0)) == [block]
    refused(database, o.RecordReplicas(9, [block], 1.0), errors.NoSuchKeeper)
    assert database.queries().surplus("", 9) == [(block, 10, 2, 3, (1, 2, 3))]
    assert database.apply(o.DropReplica(block, 3, 2.0)) is True
    assert database.apply(o.DropReplica(block, 3, 2.0)) is True
    assert database.apply(o.DropReplica(block, 4, 2.0)) is False
    assert database.apply(o.RecordReplicas(3, [block], 3.0)) == [], "it waits to be dropped there"
    refused(database, o.DropReplica(block, 1, 4.0), errors.Refusal)
    assert database.queries().drops(3, 9) == [block]
    assert database.apply(o.ConfirmDrops(3, [block, block_id(5)])) == 1
    assert database.apply(o.ConfirmDrops(3, [block])) == 0
    assert database.apply(o.RecordReplicas(3, [block], 5.0)) == [block]


def test_the_last_replica_is_never_dropped(database):
    database.apply(publish("/f", 1, copies=1, blocks=[(10, (1,))]))
    database.apply(o.SetCopies("s", "/f", 0, 1.0))
    refused(database, o.DropReplica(block_id(1000), 1, 2.0), errors.Refusal)


def test_lost_replicas_make_a_block_short(database):
    database.apply(publish("/f", 1, copies=2))
    q, block = database.queries(), block_id(1000)
    assert q.short("", 9) == [] and q.n_short() == 0
    assert database.apply(o.LoseReplicas(2, [block, block_id(5)], "scrub", 1.0)) == [block]
    assert database.apply(o.LoseReplicas(2, [block], "scrub", 1.0)) == []
    assert q.short("", 9) == [(block, 10, 2, 1, (1,))] and q.n_short() == 1 and q.short(block, 9) == []
    assert database.apply(o.ForgetKeeper(f"{1:032x}", 2.0)) == 1
    assert database.apply(o.ForgetKeeper(f"{1:032x}", 2.0)) == 0
    assert q.short("", 9) == [(block, 10, 2, 0, ())] and q.keeper_of_id(f"{1:032x}") is None


def test_keepers(database):
    q = database.queries()
    assert database.apply(o.RegisterKeeper(f"{1:032x}", "moved", [1, 2], {"room": "9"}, 5.0)) == 1
    database.apply(o.SetDraining(f"{1:032x}", True, 6.0))
    database.apply(o.NoteCleanStop(f"{1:032x}", True, 7.0))
    assert q.keeper_of_id(f"{1:032x}") == (1, f"{1:032x}", "moved", (1, 2), {"room": "9"}, True, 1.0, 5.0, True)
    database.apply(o.RegisterKeeper(f"{1:032x}", "moved", [1, 2], {"room": "9"}, 8.0))
    assert q.keepers()[0].clean_stop is False and q.keepers()[0].draining is True
    refused(database, o.SetDraining("f" * 32, True, 6.0), errors.NoSuchKeeper)
    refused(database, o.NoteCleanStop("f" * 32, True, 6.0), errors.NoSuchKeeper)


def test_one_op_for_two_operations_is_misuse(database):
    database.apply(o.MakeDirectory("same", "/a", False, 1.0))
    refused(database, o.RemovePath("same", "/a", False, 1.0), errors.Misuse)


def test_an_older_reign_is_refused(database):
    refused(database, o.StartReign(0, 1.0), errors.Refusal)
    refused(database, o.CreateCluster("f" * 32, 1.0), errors.WrongCluster)


def test_trim_keeps_the_last_row(database):
    for number in range(20):
        database.apply(publish(f"/{number}", number))
    assert database.apply(o.TrimLog(5)) > 10
    sequence = database.sequence
    rows = database.log_since(1, sequence - 4, 99)
    assert [row.sequence for row in rows] == list(range(sequence - 3, sequence + 1))
    database.apply(o.TrimLog(0))
    assert database.sequence == sequence and database.log_since(1, sequence, 9) == []
    with pytest.raises(errors.Refusal):
        database.log_since(0, 0, 9)
    with pytest.raises(errors.Refusal):
        database.log_since(2, sequence, 9)


@pytest.mark.parametrize("name", [n for n in o.__all__ if n[0].isupper() and n != "Operation"])
def test_every_operation_survives_the_log(name):
    cls = getattr(o, name)
    values = {"str": "0a", "int": 3, "float": 1.5, "bool": True, "list": [["0a", 1, "ff", [1]]], "dict": {"k": "v"}, int | None: 5}
    from dataclasses import fields
    made = cls(*(values[getattr(field.type, "__name__", field.type)] for field in fields(cls)))
    assert o.from_log(name, made.body()) == made


def test_a_change_that_expects_a_version_finds_it_or_changes_nothing(database):
    first = database.apply(publish("/f", 1))["version"]
    expecting = {**publish("/f", 2).__dict__, "expected": first}
    assert database.apply(o.PublishFile(**expecting))["replaced"] == first
    assert database.apply(o.PublishFile(**expecting))["version"] == first + 1, "asked again: the same answer"
    refused(database, o.PublishFile(**{**publish("/f", 3).__dict__, "expected": first}), errors.VersionChanged)
    refused(database, o.PublishFile(**{**publish("/none", 3).__dict__, "expected": first}), errors.VersionChanged)
    database.apply(o.MakeDirectory("mk", "/d", False, 1.0))
    refused(database, o.PublishFile(**{**publish("/d", 3).__dict__, "expected": first}), errors.VersionChanged)
    refused(database, o.RemovePath("r1", "/f", False, 1.0, first), errors.VersionChanged)
    refused(database, o.RemovePath("r2", "/d", True, 1.0, first), errors.VersionChanged)
    assert database.apply(o.RemovePath("r3", "/f", False, 1.0, first + 1))["version"] == first + 1


def test_a_log_of_before_knows_no_expected_version():
    body = {"op": "r", "path": "/f", "recursive": False, "at": 1.0}
    assert o.from_log("RemovePath", json.dumps(body)) == o.RemovePath("r", "/f", False, 1.0)
