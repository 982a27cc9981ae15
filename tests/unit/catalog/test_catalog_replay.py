"""The log is the catalog: seeded random operations, applied twice and on a second database, leave equal tables."""

import random

import pytest

from catalog_helpers import FIRST_VERSION as V, block_id, check_invariants, open_database, publish, tables, with_keepers
from dfs_lib import errors
from dfs_lib.catalog import operations as o

N_STEPS = 250
PARTS = ["a", "b", "c"]


def draw(rng, number):
    """One operation out of few names, versions and blocks, so that they meet often."""
    def path():
        return "/" + "/".join(rng.choice(PARTS) for _ in range(rng.randint(1, 3)))

    def blocks():
        return [block_id(rng.randrange(number + 1) * 1000 + rng.randrange(2)) for _ in range(3)]

    def some():
        return rng.sample(range(1, 5), rng.randint(1, 3))

    op, at, keeper, coin = f"op{number}", float(number), rng.randint(1, 5), rng.random() < 0.5
    versions = [V + rng.randrange(number + 1) for _ in range(8)]
    return rng.choice([
        lambda: publish(path(), number, blocks=[(rng.randint(1, 9), some()) for _ in range(rng.randint(0, 2))],
                        copies=rng.randint(1, 3), no_clobber=coin, parents=rng.random() < 0.7, op=op, at=at),
        lambda: publish(path(), number, blocks=[(5, some())], parents=True, op=op, at=at),
        lambda: o.MakeDirectory(op, path(), coin, at),
        lambda: o.RemovePath(op, path(), coin, at),
        lambda: o.RenamePath(op, path(), path(), rng.random() < 0.2, at),
        lambda: o.CopyFile(op, path(), path(), V + number, rng.random() < 0.2, at),
        lambda: o.SetCopies(op, path(), rng.randint(1, 3), at),
        lambda: o.RecordSum(versions[0], f"{number:064x}"),
        lambda: o.RecordReplicas(keeper, blocks(), at),
        lambda: o.LoseReplicas(keeper, blocks(), "test", at),
        lambda: o.DropReplica(blocks()[0], keeper, at),
        lambda: o.ConfirmDrops(keeper, blocks()),
        lambda: o.CollectVersions(versions, at),
        lambda: o.PurgeDetached(rng.randint(1, 4), at),
        lambda: o.SetDraining(f"{keeper:032x}", coin, at),
        lambda: o.NoteCleanStop(f"{keeper:032x}", coin, at),
        lambda: o.RegisterKeeper(f"{keeper:032x}", f"h{number}", [number], {"n": str(number)}, at),
        lambda: o.AddUser(op, rng.choice(PARTS), "writer", "/", at),
        lambda: o.RotateUser(op, rng.choice(PARTS), at),
        lambda: o.RemoveUser(op, rng.choice(PARTS), at) if coin else o.PurgeDetached(2, at),
        lambda: o.ForgetKeeper(f"{keeper:032x}", at) if rng.random() < 0.1 else o.PurgeDetached(2, at),
    ])()


# Their second run goes on where the first ended; each is still the same under replay.
STEPPING = (o.PurgeDetached,)


@pytest.mark.parametrize("seed", range(6))
def test_replay_gives_equal_tables_and_twice_changes_nothing(tmp_path, seed):
    rng = random.Random(seed)
    first, second = with_keepers(tmp_path / "1"), open_database(tmp_path / "2", reign=False)
    n_refused = 0
    try:
        for number in range(N_STEPS):
            operation = draw(rng, number)
            before = tables(first)
            try:
                result = first.apply(operation)
            except errors.Refusal:
                n_refused += 1
                assert tables(first) == before, (seed, operation)
                continue
            if not isinstance(operation, STEPPING):
                after = tables(first)
                again = first.apply(operation)
                assert type(again) is type(result) and tables(first) == after, (seed, operation)
                # The memory of answers must not be what holds this up.
                first._writer._answers.clear()
                try:
                    first.apply(operation)
                except errors.Refusal:
                    assert tables(first) == after, (seed, operation)
                else:
                    if not isinstance(operation, (o.RenamePath, o.RemovePath, o.RotateUser)):
                        assert tables(first) == after, (seed, operation)
            if number % 50 == 0:
                check_invariants(first)
        check_invariants(first)
        place = (0, 0)
        while rows := first.log_since(*place, limit=rng.randint(1, 60)):
            second.replay(rows)
            second.replay(rows)
            place = (rows[-1].epoch, rows[-1].sequence)
        assert tables(second) == tables(first)
        assert (second.cluster_id, second.epoch, second.sequence) == (first.cluster_id, first.epoch, first.sequence)
        assert 10 < n_refused < N_STEPS * 0.9
    finally:
        first.close()
        second.close()


def test_batches_and_single_operations_give_equal_tables(tmp_path):
    """Savepoints inside one transaction undo exactly what a refusal touched, also in what is remembered in memory."""
    one, many = with_keepers(tmp_path / "1"), with_keepers(tmp_path / "2")
    try:
        rng = random.Random(9)
        operations = [draw(rng, number) for number in range(400)]
        for operation in operations:
            try:
                one.apply(operation)
            except errors.DfsError:
                pass
        for start in range(0, len(operations), 40):
            many.apply_many(operations[start:start + 40])
        assert tables(one) == tables(many)
        check_invariants(many)
    finally:
        one.close()
        many.close()


def test_a_log_that_does_not_fit_is_refused(tmp_path):
    first, second = with_keepers(tmp_path / "1"), open_database(tmp_path / "2", reign=False)
    try:
        rows = first.log_since(0, 0, 100)
        with pytest.raises(errors.CatalogDamaged):
            second.replay(rows[1:])
        second.replay(rows[:3])
        with pytest.raises(errors.CatalogDamaged):
            second.replay([rows[3]._replace(name="NoSuchOperation")])
        with pytest.raises(errors.CatalogDamaged):
            second.replay([rows[3]._replace(epoch=7)])
        second.replay(rows)
        assert tables(first) == tables(second)
    finally:
        first.close()
        second.close()


def test_a_follower_that_took_over_answers_what_was_asked_before(tmp_path):
    first, second = with_keepers(tmp_path / "1"), open_database(tmp_path / "2", reign=False)
    try:
        first.apply(publish("/f", 1))
        first.apply(o.RemovePath("rm", "/f", False, 2.0))
        second.replay(first.log_since(0, 0, 100))
        second.apply(o.StartReign(2, 3.0))
        assert second.apply(o.RemovePath("rm", "/f", False, 2.0)) == {"kind": "file", "version": V + 1}
        assert second.epoch == 2 and second.log_since(0, 0, 100)[-1].epoch == 2
    finally:
        first.close()
        second.close()
