"""drain, undrain: what the master reports as sentences, objects and exit statuses."""

from cli_fakes import KEEPERS
from dfs_lib.wire import messages


def report(left, draining=True, **changes):
    return messages.DrainReport(keepers=[{
        "keeper_id": KEEPERS[2], "name": "k3", "state": "live", "draining": draining, "blocks_left": left, "bytes_left": 10 * left,
        "eta_s": 0.0, "text": f"{left} blocks to go", "blockers": [], **changes}])


def test_drain_names_its_keeper_by_name_id_or_the_beginning_of_an_id(dfs, store):
    store.answers[messages.Drain] = [report(5)]
    for word in ("k3", KEEPERS[2], KEEPERS[2][:32]):
        assert dfs("drain", word)[0] == 0
        assert store.asked[-1].keepers == [KEEPERS[2]] and store.asked[-1].draining is True
    code, _out, err = dfs("drain", "000")
    assert code == 1 and "beginning of 3 keepers" in err


def test_drain_waits_until_the_keeper_is_empty(dfs, store):
    store.answers[messages.Drain] = [report(5), report(2), report(0)]
    code, out, _err = dfs("drain", "k3", "--wait")
    assert code == 0 and "k3: 0 blocks to go" in out and store.asked[-1].draining is None


def test_drain_looks_again_for_a_moment_until_it_can_say_how_long_it_takes(dfs, store):
    store.answers[messages.Drain] = [report(5, eta_s=None, text="5 blocks to go; it has just begun"), report(4, eta_s=7.0, text="4 blocks, about 7 s")]
    code, out, _err = dfs("drain", "k3")
    assert code == 0 and "about 7 s" in out and "just begun" not in out and [one.draining for one in store.asked if type(one) is messages.Drain] == [True, None]


def test_drain_gives_up_in_time_and_says_what_is_left(dfs, store):
    store.answers[messages.Drain] = [report(5)]
    code, _out, err = dfs("drain", "k3", "--wait", "--timeout", "0")
    assert code == 1 and "k3: 5 blocks to go" in err and "`dfs drain`" in err and "`dfs why k3`" in err


def test_drain_does_not_wait_for_a_keeper_that_somebody_undrained(dfs, store):
    store.answers[messages.Drain] = [report(5), report(5, draining=False)]
    assert dfs("drain", "k3", "--wait")[0] == 1


def test_what_blocks_it_is_shown(dfs, store):
    store.answers[messages.Drain] = [report(1, blockers=[{"reason": "no room", "n": 1, "path": "/a"}])]
    assert "1 block (such as /a): no room" in dfs("drain", "k3")[1]
    store.answers[messages.Drain] = [report(5, blockers=[{"reason": "no room", "n": 5, "path": "/"}])]
    assert "5 blocks (of removed files): no room" in dfs("drain", "k3")[1]
    store.answers[messages.Drain] = [report(1, blockers=[{"reason": "no room", "n": 1, "path": "/a"}])]
    (record,) = dfs.json("drain", "k3")[1]
    assert record["blockers"][0]["path"] == "/a" and record["blocks_left"] == 1


def test_undrain(dfs, store):
    store.answers[messages.Drain] = [report(5, draining=False)]
    code, out, _err = dfs("undrain", "k3")
    assert code == 0 and "k3 takes blocks again" in out and store.asked[-1].draining is False


# -- fsck -------------------------------------------------------------------------------------------------------------
def page(*files, after=None, **changes):
    values = {"files": list(files), "n_files": len(files), "n_blocks": len(files), "after": after, "running": 0, "verified": 0,
              "verified_bytes": 0, "unverified": 0, "damaged": [], "kept": [], **changes}
    return messages.Inspected(**values)


def judged(path, state="healthy", **changes):
    bad = [] if state == "healthy" else [{"block": "b" * 32, "index": 0, "size": 1, "have": 0, "state": state, "keepers": [KEEPERS[0]],
                                          "reason": "it is on k1 (dead)"}]
    return {"path": path, "version": 7, "size": 1, "wanted": 3, "have": 3 - 3 * bool(bad), "state": state, "n_blocks": 1,
            "n_bad": len(bad), "blocks": bad, **changes}


def test_fsck_goes_through_all_pages(dfs, store):
    store.answers[messages.Inspect] = [page(judged("/a"), after="/a"), page(judged("/b", "under-replicated"))]
    code, out, _err = dfs("fsck", "/")
    assert store.asked[0].path == "/" and code == 0 and "2 files: 1 healthy, 1 under-replicated" in out and "block 0: under-replicated: it is on k1" in out
    assert [(asked.after, asked.all, asked.verify) for asked in store.asked] == [(None, False, False), ("/a", False, False)]


def test_fsck_exits_5_for_what_is_missing_or_corrupt(dfs, store):
    for state in ("missing", "corrupt"):
        store.answers[messages.Inspect] = [page(judged("/a", state))]
        code, records, _err = dfs.json("fsck", "/a")
        assert code == 5 and [one["kind"] for one in records] == ["file", "summary"] and records[0]["state"] == state
        assert records[0]["blocks"][0]["keepers"] == ["k1"] and records[1][state] == 1


def test_a_deep_fsck_waits_and_tells_of_damaged_copies(dfs, store):
    bad = {"path": "/a", "block": "b" * 32, "keeper": KEEPERS[1], "reason": "chunk 0 is damaged"}
    store.answers[messages.Inspect] = [page(check=3, running=2), page(check=3, running=1),
                                       page(judged("/a"), damaged=[bad], verified=5, verified_bytes=10)]
    code, out, _err = dfs("fsck", "--deep")
    assert code == 5 and "/a: corrupt copy on k2: chunk 0 is damaged" in out and "5 replicas read again" in out
    assert [asked.check for asked in store.asked] == [None, 3, 3]


def test_replicas_that_could_not_be_read_are_no_success(dfs, store):
    store.answers[messages.Inspect] = [page(judged("/a"), unverified=2)]
    assert dfs("fsck", "--deep")[0] == 1


def test_fsck_lists_what_no_file_uses(dfs, store):
    kept = {"keeper_id": KEEPERS[0], "name": "k1", "strays": 2, "aside": 0, "quarantined": 1,
            "blocks": [{"block": "b" * 32, "where": "quarantine", "reason": "flipped", "path": None}]}
    store.answers[messages.Inspect] = [page(kept=[kept])]
    code, out, _err = dfs("fsck")
    assert code == 0 and "k1: 2 unknown blocks, 1 block in quarantine" in out and "flipped" in out


# -- why --------------------------------------------------------------------------------------------------------------
def test_why_asks_about_paths_and_keepers(dfs, store):
    reason = {"text": "2 of 3 copies", "path": "/a", "block": None, "index": 0, "next_try_s": 46.0}
    store.answers[messages.Why] = [messages.Reasons(about="/a: version 7", reasons=[reason])]
    code, out, _err = dfs("why", "/a", "k2")
    assert code == 0 and "/a: version 7\n  2 of 3 copies (next look in 46 s)\n" in out
    assert [(asked.path, asked.keeper) for asked in store.asked] == [("/a", None), (None, KEEPERS[1])]
    assert dfs.json("why", "/a")[1] == [{"about": "/a: version 7", **reason}]
