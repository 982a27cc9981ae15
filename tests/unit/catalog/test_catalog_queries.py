"""Pages, merges, snapshots, and that no question scans what grows with the store."""

import random
import re
import threading

import pytest

from catalog_helpers import FIRST_VERSION as V, block_id, publish
from dfs_lib import errors
from dfs_lib.catalog import operations as o


@pytest.fixture
def filled(database):
    database.apply_many(publish(f"/d/f{number:03}", number, copies=2 + number % 2, parents=True) for number in range(100))
    database.apply(o.RecordReplicas(3, [block_id(n * 1000) for n in range(0, 100, 4)], 1.0))
    return database


def test_a_listing_pages_in_the_order_of_names(filled):
    q, after, seen, more = filled.queries(), "", [], True
    while more:
        page, more = q.listing("/d", after, 7)
        seen += [entry.path for entry in page]
        after = page[-1].path.rpartition("/")[2]
    assert seen == [f"/d/f{number:03}" for number in range(100)]
    assert q.listing("/d", "f099", 7) == ([], False)
    assert q.listing("/d", "f098", 1) == ([q.entry("/d/f099")], False)
    assert [e.path for e in q.listing("/", "", 9)[0]] == ["/d"]
    with pytest.raises(errors.NotADirectory):
        q.listing("/d/f001", "", 7)
    with pytest.raises(errors.NoSuchFile):
        q.listing("/x", "", 7)
    with pytest.raises(errors.NotADirectory):
        q.entry("/d/f001/x")


def test_an_entry_with_its_copies_is_what_the_two_questions_say(filled):
    deep = "/" + "/".join(f"p{number}" for number in range(12))
    filled.apply_many([publish(f"{deep}/two", 500, blocks=((10, (1, 2)), (10, (3,))), parents=True), publish("/empty", 501, blocks=())])
    q = filled.queries()
    paths = [*(f"/d/f{number:03}" for number in range(0, 100, 7)), f"{deep}/two", "/empty", "/", "/d", deep]
    for path in paths:
        for counted in ({1, 2, 3}, {1}, {2, 3}, set()):
            entry = q.entry(path)
            have = None if entry.kind == "dir" else q.copies_have(entry.version, counted)
            have = entry.copies_wanted if have is None and entry.kind != "dir" else have
            assert q.entry_with_copies(path, counted) == entry._replace(copies_have=have), path
        assert q.find_kind(path) == q.entry(path).kind
    for path, error in (("/x", errors.NoSuchFile), ("/d/f001/x", errors.NotADirectory), (f"{deep}/x/y", errors.NoSuchFile), (f"{deep}/two/y", errors.NotADirectory)):
        with pytest.raises(error):
            q.entry_with_copies(path, {1})
        assert q.find_kind(path) is None


def test_a_located_file_is_what_three_questions_say(filled):
    deep = "/" + "/".join(f"p{number}" for number in range(12))
    blocks = tuple((size, keepers) for size, keepers in ((10, (1, 2)), (10, (3,)), (7, ())))
    filled.apply_many([publish(f"{deep}/three", 500, blocks=blocks, parents=True), publish("/empty", 501, blocks=())])
    q = filled.queries()
    for path in (*(f"/d/f{number:03}" for number in range(0, 100, 7)), f"{deep}/three", "/empty"):
        entry = q.entry(path)
        version = q.version(entry.version)
        for first, n in ((0, 64), (0, 0), (1, 1), (2, 5), (3, 9)):
            found = q.located(path, first, n)
            assert found == (entry.version, version.size, version.block_size, version.copies, version.mtime_at, q.blocks(entry.version, first, n))
    assert len(q.located(f"{deep}/three", 0, 9).blocks) == 3
    for path in ("/", "/d", deep):
        assert q.located(path, 0, 9).version == 0
    for path, error in (("/x", errors.NoSuchFile), ("/d/f001/x", errors.NotADirectory), (f"{deep}/x/y", errors.NoSuchFile),
                        (f"{deep}/three/y", errors.NotADirectory)):
        with pytest.raises(error):
            q.located(path, 0, 9)


def test_names_sort_by_code_point(database):
    names = ["Z", "a", "é", "ﬀ", "😀", "a b", "%", "\ue000"]
    database.apply_many(publish(f"/{name}", number) for number, name in enumerate(names))
    assert [e.path[1:] for e in database.queries().listing("/", "", 99)[0]] == sorted(names)


def test_short_and_surplus_page_through_their_own_index(filled):
    q = filled.queries()
    short = [block_id(n * 1000) for n in range(100) if n % 2 and n % 4]
    surplus = [block_id(n * 1000) for n in range(0, 100, 4)]
    assert [u.block for u in q.short("", 999)] == short and q.n_short() == len(short)
    assert [u.block for u in q.surplus("", 10)] == surplus[:10]
    assert [u.block for u in q.surplus(surplus[9], 999)] == surplus[10:]
    assert q.short("", 1)[0][1:] == (10, 3, 2, (1, 2))


def test_blocks_of_the_trash_alone_are_not_short(filled):
    q = filled.queries()
    short = q.short("", 999)
    assert q.is_named(short[0].block)
    path, _version, _index = q.paths_of_block(short[0].block)[0]
    filled.apply(o.RemovePath(op="rm", path=path, recursive=False, at=50.0))
    assert not q.is_named(short[0].block) and not q.is_named("ff" * 16)
    assert q.short("", 999) == short[1:] and q.n_short() == len(short) - 1


def test_compare_report_against_sets(filled):
    rng, q = random.Random(3), filled.queries()
    for _ in range(20):
        ours = dict(q.blocks_of_keeper(1, "", 1000))
        report = {b: s for b, s in ours.items() if rng.random() < 0.8}
        report.update({block_id(rng.randrange(10 ** 6) * 1000 + 7): 10 for _ in range(rng.randrange(9))})
        wrong = {b for b in report if rng.random() < 0.05}
        report.update({b: 11 for b in wrong})
        missing, unknown = q.compare_report(1, iter(sorted(report.items())))
        assert missing == sorted(b for b in ours if report.get(b) != ours[b])
        assert unknown == sorted(b for b in report if ours.get(b) != report[b])
    assert q.compare_report(1, []) == (sorted(ours), [])
    assert q.compare_report(77, [(block_id(5), 1)]) == ([], [block_id(5)])
    with pytest.raises(errors.BadMessage):
        q.compare_report(1, [(block_id(5), 1), (block_id(5), 1)])


def test_known_and_totals_and_usage(filled):
    q = filled.queries()
    asked = [block_id(n * 500) for n in range(200)]
    assert q.known(asked) == {block_id(n * 1000) for n in range(100)} and q.known([]) == set()
    assert q.usage("/") == (100, 1, 1000, 100 * 20 + 25 * 10)
    assert q.usage("/d/f004") == (1, 0, 10, 30) and q.usage("/d").directories == 0
    assert q.n_blocks_of_keeper(3) == 25


def test_a_snapshot_sees_one_state_whatever_is_applied(filled):
    q = filled.queries()
    with q.snapshot():
        with q.snapshot():
            thread = threading.Thread(target=filled.apply, args=(o.RemovePath("rm", "/d", True, 1.0),))
            thread.start()
            thread.join()
        assert q.entry("/d/f001").version == V + 1 and len(q.listing("/d", "", 999)[0]) == 100
    with pytest.raises(errors.NoSuchFile):
        q.entry("/d/f001")


def test_a_failing_question_leaves_no_snapshot_open(filled):
    q = filled.queries()
    with pytest.raises(errors.NoSuchFile):
        q.usage("/nothing")
    filled.apply(o.MakeDirectory("m", "/nothing", False, 1.0))
    assert q.usage("/nothing") == (0, 0, 0, 0)


def test_readers_are_handed_on_and_cannot_write(filled):
    seen = []
    for _ in range(5):
        thread = threading.Thread(target=lambda: seen.append(filled.queries()))
        thread.start()
        thread.join()
    assert len(set(map(id, seen))) == 1, "five threads, one after the other: one connection"
    assert len(filled._readers) <= 2
    with pytest.raises(Exception, match="readonly"):
        seen[0]._execute("DELETE FROM blocks")


QUESTIONS = {
    "entry": lambda q: q.entry("/d/f001"),
    "listing": lambda q: q.listing("/d", "f010", 10),
    "entry_of_version": lambda q: q.entry_of_version(V + 1),
    "version": lambda q: q.version(V + 1),
    "blocks": lambda q: q.blocks(V + 1, 0, 10),
    "copies_have": lambda q: q.copies_have(V + 1, {1}),
    "entry_with_copies": lambda q: q.entry_with_copies("/d/f001", {1}),
    "located": lambda q: q.located("/d/f001", 0, 10),
    "block": lambda q: q.block(block_id(1000)),
    "replicas": lambda q: q.replicas(block_id(1000)),
    "paths_of_block": lambda q: q.paths_of_block(block_id(1000)),
    "known": lambda q: q.known([block_id(1000)]),
    "blocks_of_keeper": lambda q: q.blocks_of_keeper(1, block_id(1000), 10),
    "n_blocks_of_keeper": lambda q: q.n_blocks_of_keeper(1),
    "compare_report": lambda q: q.compare_report(1, []),
    "drops": lambda q: q.drops(1, 10),
    "short": lambda q: q.short(block_id(1000), 10),
    "is_named": lambda q: q.is_named(block_id(1000)),
    "n_short": lambda q: q.n_short(),
    "surplus": lambda q: q.surplus(block_id(1000), 10),
    "trash": lambda q: q.trash(5.0, 10),
    "trash of all": lambda q: q.trash(None, 10),
    "log": lambda q: q.log_rows(1, 5, 10),
    "usage": lambda q: q.usage("/d"),
}
# One row, a handful of rows, an index that is as small as its answer, and SQLite's names for rows it made itself.
SMALL = (r"SCAN (totals|CONSTANT ROW|tree|t\b|blocks( b)? USING (COVERING )?INDEX blocks_short$"
         r"|b USING (COVERING )?INDEX blocks_(short|surplus)$)")


def plans(connection, ask):
    statements = []
    connection.set_trace_callback(statements.append)
    ask()
    connection.set_trace_callback(None)
    for statement in statements:
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")):
            for row in connection.execute("EXPLAIN QUERY PLAN " + statement):
                yield statement, row[3]


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_scans_a_table(filled, name):
    q = filled.queries()
    steps = list(plans(q._connection, lambda: QUESTIONS[name](q)))
    assert steps
    for statement, step in steps:
        assert not step.startswith("SCAN") or re.match(SMALL, step), (step, statement)
        assert "TEMP B-TREE" not in step, (step, statement)


OPERATIONS = [
    publish("/d/f001", 501), o.CopyFile("c", "/d/f002", "/d/copy", V + 502, False, 1.0), o.SetCopies("s", "/d/copy", 5, 1.0),
    o.RenamePath("r", "/d/f003", "/d/f004", False, 1.0), o.RemovePath("rm", "/d/f005", False, 1.0),
    o.LoseReplicas(1, [block_id(6000)], "", 1.0), o.RecordReplicas(4, [block_id(6000)], 1.0),
    o.DropReplica(block_id(8000), 3, 1.0), o.ConfirmDrops(3, [block_id(8000)]), o.CollectVersions([V + 5], 1.0),
    o.ForgetKeeper(f"{4:032x}", 1.0), o.RemovePath("rmr", "/d", True, 1.0), o.PurgeDetached(10, 1.0), o.TrimLog(50),
]


def test_no_operation_scans_a_table(filled):
    connection = filled._writer.connection
    for operation in OPERATIONS[:4] + [o.RemovePath("rm5", "/d/f005", False, 1.0)] + OPERATIONS[5:]:
        for statement, step in plans(connection, lambda: filled.apply(operation)):
            assert not step.startswith("SCAN") or re.match(SMALL + "|SCAN (keepers|detached|log|[xv] )", step), (step, statement)
