"""dfs admin pending, approve, forget."""

from cli_fakes import KEEPERS
from dfs_lib.wire import messages

ONE = {"keeper_id": KEEPERS[1], "name": "k2", "n": 2000, "n_blocks": 5000, "reason": "surplus", "path": "/a"}
TWO = {**ONE, "keeper_id": KEEPERS[2], "name": "k3", "path": None}


def listed(*waiting):
    return messages.PendingListed(pending=list(waiting))


def test_pending_shows_what_waits(dfs, store):
    store.answers[messages.Pending] = [listed(ONE)]
    code, out, _err = dfs("admin", "pending")
    assert code == 0 and "k2: 2,000 of its 5,000 blocks are to be dropped, such as of /a: surplus" in out and "admin approve" in out
    assert dfs.json("admin", "pending")[1] == [ONE]
    store.answers[messages.Pending] = [listed()]
    assert "nothing waits" in dfs("admin", "pending")[1]


def test_approve_takes_those_named_or_all(dfs, store):
    store.answers[messages.Pending] = [listed(ONE, TWO)]
    assert "approved: 2000 drops on k3" in dfs("admin", "approve", "k3")[1] and store.asked[-1].approve == [KEEPERS[2]]
    assert dfs("admin", "approve")[0] == 0 and store.asked[-1].approve == [KEEPERS[1], KEEPERS[2]]


def test_forget(dfs, store):
    store.answers[messages.Forget] = [messages.Done(facts={"name": "k2", "replicas": 7})]
    code, out, _err = dfs("admin", "forget", "k2")
    assert code == 0 and "k2 is forgotten, with 7 replicas" in out and store.asked[-1] == messages.Forget(keeper=KEEPERS[1], force=False)
    assert dfs("admin", "forget")[0] == 2
    dfs("admin", "forget", "k2", "--force")
    assert store.asked[-1].force is True


def test_a_backup_replaces_nothing(dfs, store, tmp_path):
    kept = tmp_path / "catalog.db"
    kept.write_bytes(b"the copy of yesterday")
    code, _out, err = dfs("admin", "backup", str(kept))
    assert code == 1 and "exists already" in err and "another name" in err
    assert kept.read_bytes() == b"the copy of yesterday" and not store.asked and not (tmp_path / "catalog.db.part").exists()
