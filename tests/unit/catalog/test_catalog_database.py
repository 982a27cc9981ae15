"""Opening, group commit, failing disks, crashes, restarts."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from catalog_helpers import FIRST_VERSION as V, block_id, check_invariants, open_database, publish, tables, with_keepers
from dfs_lib import errors
from dfs_lib.catalog import ballast, database as database_module, operations as o, schema
from dfs_lib.catalog.database import Database

HERE = os.path.dirname(__file__)
ROOT = os.path.abspath(os.path.join(HERE, *[os.pardir] * 3))


class Intercepted:
    """A connection whose statements pass a hook first."""

    def __init__(self, connection, hook):
        self._connection, self._hook = connection, hook

    def execute(self, sql, *arguments):
        self._hook(sql)
        return self._connection.execute(sql, *arguments)

    def __getattr__(self, name):
        return getattr(self._connection, name)


def intercept(database, hook):
    database._writer.connection = Intercepted(database._writer.connection, hook)


# -- opening ----------------------------------------------------------------------------------------------------------
def test_open_makes_private_files_and_each_opening_a_reign(tmp_path):
    directory = tmp_path / "new" / "catalog"
    database = open_database(directory)
    assert (database.epoch, database.cluster_id) == (1, f"{1:032x}")
    database.apply(o.MakeDirectory("m", "/d", False, 1.0))
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert {stat.S_IMODE(os.stat(directory / name).st_mode) for name in os.listdir(directory)} == {0o600}
    before = database.sequence
    database.close()
    database = open_database(directory, create=False)
    assert (database.epoch, database.cluster_id, database.sequence) == (2, f"{1:032x}", before + 1)
    names = [(row.epoch, row.name) for row in database.log_since(0, 0, 9)]
    assert names[0] == (0, "CreateCluster") and names[-2:] == [(1, "MakeDirectory"), (2, "StartReign")]
    database.close()


def test_a_second_master_in_the_directory_is_refused(database):
    with pytest.raises(errors.DirectoryInUse):
        open_database(os.path.dirname(database.path))
    database.apply(publish("/f", 1))


def test_open_without_create(tmp_path):
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "nothing", tmp_path / "empty"):
        with pytest.raises(errors.LocalFileError):
            open_database(directory, create=False)


@pytest.mark.parametrize("damage", ["empty", "garbage", "middle", "newer", "lost"])
def test_damage_is_found_at_the_opening(tmp_path, damage):
    database = with_keepers(tmp_path)
    database.apply_many(publish(f"/{number}", number) for number in range(500))
    path = database.path
    database.close()
    if damage == "newer":
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
        connection.close()
    elif damage == "lost":
        os.rename(path, path + "-wal")
    else:
        with open(path, "rb") as file:
            content = bytearray(file.read())
        middle = len(content) // 8192 * 4096
        content[middle:middle + 4096] = os.urandom(4096)
        with open(path, "wb") as file:
            file.write({"empty": b"", "garbage": os.urandom(9_000), "middle": content}[damage])
    for _ in range(2):
        with pytest.raises(errors.CatalogDamaged):
            open_database(tmp_path)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_large_catalog_is_read_through_beside_its_first_reads(tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(database_module, "SMALL_CATALOG", 1000)
    first = with_keepers(tmp_path)
    first.apply_many(publish(f"/{number:04}", number) for number in range(2000))
    path = first.path
    first.close()
    if damaged:
        with open(path, "r+b") as file:
            file.seek(os.path.getsize(path) // 8192 * 4096)
            file.write(os.urandom(4096))
    database = open_database(tmp_path, check_later=True)
    # Until it was read through: questions and what keepers say, and nothing of what clients ask for.
    assert database.unchecked and database.queries().entry("/0000").kind == "file"
    with pytest.raises(errors.NotReady):
        database.apply(publish("/new", 5000))
    database.apply(o.RecordReplicas(3, [block_id(0)], 1.0))
    database.check()
    if damaged:
        assert database.unchecked and database.failed
        with pytest.raises(errors.NotReady):
            database.apply(publish("/new", 5000))
    else:
        assert not database.unchecked and not database.failed
        database.apply(publish("/new", 5000))
    database.close()


def test_a_small_catalog_is_read_through_at_once(tmp_path):
    with_keepers(tmp_path).close()
    database = open_database(tmp_path, check_later=True)
    assert not database.unchecked
    database.close()


def test_a_beginning_cut_short_is_begun_again(tmp_path):
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / ("catalog.new" + suffix)).write_bytes(b"half")
    database = open_database(tmp_path)
    assert database.queries().listing("/", "", 1) == ([], False)
    database.close()
    assert sorted(os.listdir(tmp_path)) == ["catalog.db", "catalog.lock"]


def test_a_closed_catalog_says_so(tmp_path):
    database = open_database(tmp_path)
    database.queries().totals()
    database.close()
    database.close()
    for ask in (lambda: database.apply(publish("/f", 1)), database.queries):
        with pytest.raises(errors.Misuse):
            ask()


# -- restart ----------------------------------------------------------------------------------------------------------
def test_answers_and_tables_survive_a_restart(tmp_path):
    database = with_keepers(tmp_path)
    database.apply(publish("/f", 1))
    first = database.apply(publish("/f", 2, op="again"))
    assert first == {"version": V + 2, "replaced": V + 1}
    database.apply(o.RemovePath("rm", "/f", False, 1.0))
    database.close()
    database = open_database(tmp_path)
    before = tables(database)
    assert database.apply(publish("/f", 2, op="again")) == first
    assert database.apply(o.RemovePath("rm", "/f", False, 1.0)) == {"kind": "file", "version": V + 2}
    assert tables(database) == before
    check_invariants(database)
    database.close()


def test_the_memory_of_answers_is_bounded(database, monkeypatch):
    monkeypatch.setattr("dfs_lib.catalog.writer.MAX_ANSWERS", 10)
    for number in range(30):
        database.apply(publish(f"/{number}", number))
    assert len(database._writer._answers) == 10


def test_backup_is_whole_and_opens(database, tmp_path):
    database.apply_many(publish(f"/{number}", number) for number in range(200))
    target = tmp_path / "copy" / "catalog.db"
    target.parent.mkdir()
    database.backup(target)
    database.apply(publish("/later", 201))
    database.backup(target)
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o600 and os.listdir(target.parent) == ["catalog.db"]
    copy = open_database(target.parent, reign=False)
    assert tables(copy) == tables(database)
    copy.close()
    with pytest.raises(errors.LocalFileError):
        database.backup(tmp_path / "nowhere" / "x.db")


# -- group commit -----------------------------------------------------------------------------------------------------
def in_threads(n, act):
    outcomes = [None] * n

    def run(index):
        try:
            outcomes[index] = act(index)
        except Exception as e:
            outcomes[index] = e

    threads = [threading.Thread(target=run, args=(index,)) for index in range(n)]
    for thread in threads:
        thread.start()
    return threads, outcomes


def wait_for(condition, what):
    for _ in range(10_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"never: {what}")


class Gate:
    """Holds the first COMMIT until `open` is set."""

    def __init__(self):
        self.reached, self.open, self.n_commits = threading.Event(), threading.Event(), 0

    def __call__(self, sql):
        if sql == "COMMIT":
            self.n_commits += 1
            if self.n_commits == 1:
                self.reached.set()
                assert self.open.wait(30)


def test_callers_that_come_during_a_commit_share_the_next(database):
    gate = Gate()
    intercept(database, gate)
    first, first_outcome = in_threads(1, lambda _: database.apply(publish("/first", 1)))
    assert gate.reached.wait(30)

    def act(index):
        if index == 5:
            return database.apply(publish("/no/where", 55))
        return database.apply(publish(f"/f{index}", index + 10, op=f"op{index}"))

    threads, outcomes = in_threads(20, act)
    wait_for(lambda: len(database._queue) == 20, "twenty queued")
    before = database.n_commits
    gate.open.set()
    for thread in first + threads:
        thread.join(30)
    assert gate.n_commits == 2 and database.n_commits == before + 2
    assert isinstance(outcomes.pop(5), errors.NoSuchFile)
    assert all(outcome["replaced"] is None for outcome in outcomes)
    assert database.queries().totals().files == 20
    check_invariants(database)


def test_threads_that_rest_share_few_reading_connections(database):
    """An idle connection to the master is a thread that asks nothing: it must not keep a connection to the catalog."""
    asked, go_on = threading.Barrier(21), threading.Event()

    def ask_and_wait():
        with lock:
            database.queries().totals()
            database.rest()
        asked.wait(10)
        go_on.wait(10)

    lock, before = threading.Lock(), len(database._readers)
    threads = [threading.Thread(target=ask_and_wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    asked.wait(10)
    assert len(database._readers) <= before + 1 and len(database._idle_readers) >= 1
    go_on.set()
    for thread in threads:
        thread.join()
    database.queries().totals()


def test_a_lone_caller_leads_itself(database):
    leaders = set()
    intercept(database, lambda sql: leaders.add(threading.get_ident()))
    for number in range(20):
        database.apply(publish(f"/{number}", number))
    assert leaders == {threading.get_ident()}


def test_many_threads_many_operations(database):
    def act(index):
        for step in range(40):
            number = index * 100 + step
            database.apply(publish(f"/d{step % 3}/f{number % 17}", number, parents=True, copies=1 + step % 3))
            assert database.queries().version(V + number) is not None, "what was applied is read at once"
            if step % 5 == 0:
                results = database.apply_many([o.RemovePath(f"rm{number}", f"/d{step % 3}/f{number % 17}", False, 1.0),
                                               o.MakeDirectory(f"mk{number}", f"/x/{number}", True, 1.0)])
                assert results[1]["made"] >= 1

    threads, outcomes = in_threads(8, act)
    for thread in threads:
        thread.join(60)
    assert outcomes == [None] * 8
    assert not database._leading and not database._queue
    assert database.n_commits <= database.n_applied
    check_invariants(database)


def test_close_waits_for_the_running_commit(tmp_path):
    database = with_keepers(tmp_path)
    gate = Gate()
    intercept(database, gate)
    threads, outcomes = in_threads(1, lambda _: database.apply(publish("/f", 1)))
    assert gate.reached.wait(30)
    closing, _ = in_threads(1, lambda _: database.close())
    wait_for(lambda: database._closed, "closing")
    gate.open.set()
    for thread in threads + closing:
        thread.join(30)
    assert outcomes == [{"version": V + 1, "replaced": None}]


def test_apply_many_is_one_commit_with_refusals_in_place(database):
    before = database.n_commits
    results = database.apply_many([publish("/a", 1), publish("/no/b", 2), publish("/c", 3), publish("/a", 1)])
    assert database.n_commits == before + 1
    assert [type(result).__name__ for result in results] == ["dict", "NoSuchFile", "dict", "dict"]
    assert database.apply_many([]) == []


def test_what_changes_nothing_costs_no_log_row(database):
    database.apply(publish("/a", 1))
    before = database.sequence
    for operation in (publish("/a", 1, op="x"), o.RecordReplicas(1, [block_id(1000)], 1.0), o.PurgeDetached(9, 1.0),
                      o.SetCopies("s", "/a", 3, 1.0), o.MakeDirectory("m", "/", True, 1.0)):
        database.apply(operation)
    assert database.sequence == before


def test_a_bug_in_one_operation_harms_no_other(database):
    broken = o.LoseReplicas(1, ["not hex"], "", 1.0)
    results = database.apply_many([publish("/a", 1), broken, publish("/b", 2)])
    assert isinstance(results[1], ValueError) and results[2]["version"] == V + 2
    assert database.failed is None
    check_invariants(database)


# -- failing disks ----------------------------------------------------------------------------------------------------
def failing(kind, at, code=None, times=1):
    left = [times]

    def hook(sql):
        if sql.startswith(at) and left[0]:
            left[0] -= 1
            error = kind("injected")
            if code is not None:
                error.sqlite_errorcode = code
            raise error
    return hook


def test_a_failed_commit_ends_all_writing_and_reads_go_on(database):
    database.apply(publish("/before", 1))
    real = database._writer.connection
    intercept(database, failing(sqlite3.OperationalError, "COMMIT", sqlite3.SQLITE_IOERR))
    with pytest.raises(errors.CatalogDamaged, match="injected"):
        database.apply(publish("/lost", 2))
    database._writer.connection = real
    for _ in range(2):
        with pytest.raises(errors.CatalogDamaged, match="injected"):
            database.apply(publish("/after", 3))
    q = database.queries()
    assert [e.path for e in q.listing("/", "", 9)[0]] == ["/before"]
    assert "injected" in database.failed


def test_everyone_in_and_behind_a_failed_commit_is_told(database):
    gate, fail = Gate(), failing(sqlite3.OperationalError, "COMMIT", sqlite3.SQLITE_IOERR)

    def hook(sql):
        gate(sql)
        fail(sql)

    intercept(database, hook)
    first, one = in_threads(1, lambda _: database.apply(publish("/a", 1)))
    assert gate.reached.wait(30)
    threads, outcomes = in_threads(6, lambda index: database.apply(publish(f"/{index}", 10 + index)))
    wait_for(lambda: len(database._queue) == 6, "six queued")
    gate.open.set()
    for thread in first + threads:
        thread.join(30)
    assert {type(outcome) for outcome in one + outcomes} == {errors.CatalogFailed}
    assert not database._leading


@pytest.mark.parametrize("at", ["INSERT INTO log", "COMMIT"])
def test_a_full_disk_is_refused_cleanly_and_recovers(database, at):
    """F10."""
    database.apply(publish("/d/before", 1, parents=True))
    before = tables(database)
    intercept(database, failing(sqlite3.OperationalError, at, sqlite3.SQLITE_FULL))
    with pytest.raises(errors.NoRoom):
        database.apply(publish("/d/e/f", 2, parents=True))
    assert database.failed is None and tables(database) == before
    database.apply(publish("/d/e/f", 2, parents=True))
    check_invariants(database)


def test_sqlite_itself_full(database):
    connection = database._writer.connection
    n_pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {n_pages + 3}")
    for number in itertools.count(1):
        try:
            database.apply(publish(f"/d{number}/{'x' * 200}", number, parents=True))
        except errors.NoRoom:
            break
        assert number < 1_000
    check_invariants(database)
    assert database.queries().totals().files == number - 1
    connection.execute("PRAGMA max_page_count = 1000000")
    database.apply(publish(f"/d{number}/{'x' * 200}", number, parents=True))
    check_invariants(database)


def test_an_interrupted_leader_leaves_nobody_waiting(database):
    def hook(sql):
        if sql == "COMMIT":
            raise KeyboardInterrupt

    intercept(database, hook)
    with pytest.raises(KeyboardInterrupt):
        database.apply(publish("/a", 1))
    with pytest.raises(errors.CatalogDamaged):
        database.apply(publish("/b", 2))
    assert not database._leading


# -- crashes ----------------------------------------------------------------------------------------------------------
def start(tmp_path, *arguments):
    return subprocess.Popen([sys.executable, os.path.join(HERE, "catalog_crasher.py"), str(tmp_path), *arguments],
                            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT})


@pytest.mark.parametrize("n_answers", [1, 40, 300])
def test_kill_9_leaves_what_was_answered_and_nothing_half_made(tmp_path, n_answers):
    """F4, from several threads at once, with overwriting, copying, moving and removing."""
    process = start(tmp_path, "run")
    answered = []
    try:
        for line in itertools.islice(process.stdout, n_answers):
            answered.append(json.loads(line))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        answered += [json.loads(line) for line in process.stdout if line.endswith("\n")]
        process.wait(30)
        process.stdout.close()
    database = open_database(tmp_path)
    check_invariants(database)
    q = database.queries()
    logged = {row.op for row in database.log_since(0, 0, 10 ** 6)}
    assert {op for op, _, _ in answered} <= logged
    for op, path, version in answered:
        assert q.entry(path).version == version
    assert database.epoch == 2
    database.close()


def test_a_write_that_fails_in_earnest_fails_the_catalog_and_a_restart_reads_what_holds(tmp_path):
    """A file size limit makes the write-ahead log's write fail with EFBIG, which SQLite reports as an I/O error."""
    process = start(tmp_path, "limit")
    output = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0, output
    *acked, last = map(json.loads, output)
    assert last[0] == "CatalogFailed" and acked
    database = open_database(tmp_path)
    check_invariants(database)
    for op, path, version in acked:
        assert database.queries().entry(path).version == version
    database.close()


def test_a_catalog_of_the_version_before_is_brought_to_this_one(tmp_path):
    database = Database.open(str(tmp_path), now=lambda: 1.0, new_id=lambda: "c" * 32)
    database.apply(o.MakeDirectory(op="1", path="/kept", parents=False, at=2.0))
    path = database.path
    database.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DROP TABLE users")
        connection.execute("DROP INDEX versions_unsummed")
        connection.execute("UPDATE meta SET value = 1 WHERE key = 'schema'")
    connection.close()
    for _ in range(2):
        database = Database.open(str(tmp_path), now=lambda: 3.0, new_id=lambda: "d" * 32)
        assert database.cluster_id == "c" * 32 and database.queries().entry("/kept").kind == "dir"
        assert database.queries().unsummed(0, 1 << 50, 10) == []
        assert database.queries().users() == [] or database.queries().users()[0].name == "anna"
        if not database.queries().users():
            database.apply(o.AddUser(op="2", name="anna", role="reader", home="/", at=4.0))
        database.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == (schema.VERSION,)
    connection.close()


# -- a full disk --------------------------------------------------------------------------------------------------------
def test_the_ballast_is_for_what_removes_and_comes_back_with_the_room(tmp_path, monkeypatch):
    room = [1 << 40]
    monkeypatch.setattr(ballast.Ballast, "_facts", lambda self: (room[0], 1 << 40))
    with contextlib.closing(Database.open(tmp_path, now=lambda: 1.0, new_id=lambda: "c" * 32, ballast_size=1 << 20)) as database:
        database.apply(o.MakeDirectory(op="1" * 32, path="/a", parents=False, at=1.0))
        assert (tmp_path / "ballast").stat().st_size == 1 << 20 and not database.is_short_of_room
        commit, fulls = database._commit, []

        def full(given):
            """As long as the ballast lies there, no transaction finds room."""
            if (tmp_path / "ballast").exists():
                fulls.append(given)
                return [errors.NoRoom(size=1, detail="full") for _ in given]
            return commit(given)

        monkeypatch.setattr(database, "_commit", full)
        room[0] = 0
        with pytest.raises(errors.NoRoom):
            database.apply(o.MakeDirectory(path="/b", parents=False, op="2" * 32, at=1.0))
        assert (tmp_path / "ballast").exists() and len(fulls) == 1  # what adds does not touch it
        database.apply(o.RemovePath(op="3" * 32, path="/a", recursive=True, at=2.0))
        assert not (tmp_path / "ballast").exists() and database.is_short_of_room and database.is_tight()
        with pytest.raises(errors.NoRoom):  # not from the room that removing needs
            database.apply(o.MakeDirectory(path="/b", parents=False, op="4" * 32, at=1.0))
        room[0] = 1 << 30
        assert not database.is_tight() and (tmp_path / "ballast").exists()
        monkeypatch.setattr(database, "_commit", commit)
        database.apply(o.MakeDirectory(path="/b", parents=False, op="5" * 32, at=1.0))
        assert [entry.path for entry in database.queries().listing("/", "", 10)[0]] == ["/b"]


def test_an_opening_writes_the_log_anew_before_it_builds_on_it(tmp_path):
    """A commit whose fsync failed may show without being on the disk: nothing may be appended behind it (F8)."""
    database = Database.open(tmp_path, now=lambda: 1.0, new_id=lambda: "c" * 32)
    database.apply(o.MakeDirectory(op="1" * 32, path="/a", parents=False, at=1.0))
    (copy := tmp_path / "copy").mkdir()
    for name in ("catalog.db", "catalog.db-wal"):
        shutil.copy(tmp_path / name, copy / name)
    database.close()
    assert (copy / "catalog.db-wal").stat().st_size > 0
    follower = Database.open(copy, now=lambda: 1.0, new_id=lambda: "c" * 32, reign=False)
    assert (copy / "catalog.db-wal").stat().st_size == 0 and follower.queries().entry("/a").kind == "dir"
    follower.close()
