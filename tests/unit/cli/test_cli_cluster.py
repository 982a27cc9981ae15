"""status, wait, df, scrub, rebalance: the master's numbers as sentences, objects and exit statuses."""

import json

import pytest

from dfs_lib import cluster_state, errors
from dfs_lib.cli import cluster, picture
from dfs_lib.wire import messages
from cli_fakes import KEEPERS, keeper, status


@pytest.mark.parametrize("changes, part", [
    ({}, "all is well"), ({"keepers": []}, "no keeper has joined yet"),
    ({"safemode": "waiting for k1"}, "just started: waiting for k1"),
    ({"under_replicated": 1, "keepers": [keeper(1, "dead", heartbeat_age_s=14.0), keeper(2)]},
     "nothing is lost; 1 block is short of copies: k1 is dead for 14 s"),
    ({"under_replicated": 1, "keepers": [keeper(1, "dead", heartbeat_age_s=19.0, stopped=True), keeper(2)]},
     "nothing is lost; 1 block is short of copies: k1 was stopped 19 s ago"),
    ({"keepers": [keeper(1, "suspect", heartbeat_age_s=19.0), keeper(2, "dead", heartbeat_age_s=None, stopped=True)]},
     "all is well: every file has its copies, though k1 is suspect for 19 s, k2 was stopped"),
    ({"missing": 5, "keepers": [keeper(1, "dead", heartbeat_age_s=2.0, stopped=True)]},
     "5 blocks cannot be read: no live keeper has a copy: k1 was stopped 2.0 s ago"),
    ({"under_replicated": 3, "waiting": [{"path": "/a", "reason": "grace", "next_try_s": 46.0}]}, "repair in 46 s (/a: grace)"),
    ({"under_replicated": 1, "waiting": [{"path": "/a", "reason": "2 of 9 copies are good", "next_try_s": 20.0, "placeless": True}]},
     "no keeper can take more copies, another one is needed (/a: 2 of 9 copies are good)"),
    ({"under_replicated": 3, "repairs_running": 2, "repair_bytes_left": 1000, "repair_rate": 100.0},
     "2 repairs under way, 10 s left"),
    ({"missing": 2, "under_replicated": 3}, "2 blocks cannot be read"),
    ({"keepers": [keeper(1, sick="the disk is read-only")]}, "k1 is sick (the disk is read-only)"),
])
def test_the_first_line_says_how_it_is(changes, part):
    assert part in cluster_state.verdict(status(**changes), counts_seconds=True)[1]


def test_a_sentence_that_is_not_to_change_each_second_has_no_ages():
    for age_s in (14.0, 15.0):
        gone = [keeper(1, "dead", heartbeat_age_s=age_s), keeper(2, "dead", heartbeat_age_s=age_s, stopped=True)]
        answer = status(under_replicated=1, keepers=gone, waiting=[{"path": "/a", "reason": "grace", "next_try_s": 60 - age_s}])
        assert cluster_state.verdict(answer) == ("warning", "nothing is lost; 1 block is short of copies: k1 is dead, k2 was stopped")


def wide(number, state="live", **changes):
    return keeper(number % 3 + 1, state, name=f"k{100 + number}", host="192.168.100.100", ports=[8000, 8001, 8002], blocks=1234567, load=12,
                  labels={"room": "204", "rack": "left-hand"}, **changes)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_picture_fits_the_columns_there_are(columns):
    answer = status(keepers=[wide(n, "dead" if n % 4 == 0 else "live", sick="the disk is read-only" * 3) for n in range(30)], under_replicated=12345,
                    alarms=["one third of all keepers vanished at once, which is more than repair should answer by copying everything anew"],
                    waiting=[{"path": "/a/very/long/path" * 20, "reason": "grace", "next_try_s": 46.0}])
    found = picture.lines(answer, columns)
    assert max(len(text) for text, _color in found) <= columns
    assert found[0][0].startswith("nothing is lost; ")
    text = "\n".join(text for text, _color in found)
    assert "k100    dead" in text and "192.168.100.100:8000"[:columns - 20] in text


def test_a_small_screen_shows_first_whom_somebody_should_look_at():
    answer = status(keepers=[wide(n, "dead" if n == 57 else "live") for n in range(100)], encrypted=True)
    found = [text for text, _color in picture.lines(answer, 80, 12)]
    assert len(found) <= 12 and found[-1] == "… and 93 more"
    assert [line.split()[:2] for line in found if line.startswith("k")][0] == ["k157", "dead"]


def test_what_travels_readable_is_said(dfs, store, monkeypatch):
    said = "not all encrypted: names and files travel readable"
    beyond = [keeper(1), keeper(2, host="192.168.1.9")]
    for encrypted, wanted in ((None, True), (False, True), (True, False)):
        answer = status(encrypted=encrypted, keepers=beyond)
        assert any(text.startswith(said) for text, _color in picture.lines(answer, 80)) is wanted
        assert cluster_state.status_record(answer)["encrypted"] is (not wanted)
    store.statuses = [status(encrypted=False)]
    assert said not in dfs("status")[1]  # nothing leaves this machine
    store.master_address = ("192.168.1.1", 7000)
    for has_psk in (False, True):
        monkeypatch.setattr("dfs_lib.net.tls.HAS_PSK", has_psk)
        _status, out, _err = dfs("status")
        assert said in out and "--tls require" in out and ("--tls-cert" in out) is not has_psk


def test_a_watch_goes_on_when_the_master_goes_away(dfs, store, monkeypatch):
    store.statuses = [status(), errors.ConnectFailed(address="x:1", detail="refused"), status(files=77)]
    shown = []

    def sleep(_seconds):
        shown.append(1)
        if len(shown) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cluster.time, "sleep", sleep)
    code, out, _err = dfs("status", "--watch")
    assert code == 130 and out.count("Ctrl-C ends it") == 3
    assert "no answer, what follows is from before: cannot connect to x:1" in out and "77 files" in out


def test_ports_are_told_as_they_are_given():
    assert [picture.ports_text(ports) for ports in ([8000, 8001, 8002], [8002, 8000], [9], [1, 2, 5, 7, 8])] == [
        "8000-8002", "8000,8002", "9", "1-2,5,7-8"]


def test_status_shows_each_keeper(dfs, store):
    code, out, _err = dfs("status")
    assert code == 0 and [line.split()[:2] for line in out.splitlines()[-3:]] == [["k1", "live"], ["k2", "live"], ["k3", "live"]]


def test_a_clean_stop_is_told_from_a_death_to_people_and_programs_keep_their_four_states(dfs, store):
    store.statuses = [status(keepers=[keeper(1), keeper(2, "dead", stopped=True), keeper(3, "dead", stopped=False)])]
    assert [line.split()[1] for line in dfs("status")[1].splitlines()[-3:]] == ["live", "stopped", "dead"]
    assert [line.split()[:2] for line in dfs("df")[1].splitlines()[1:4]] == [["k1", "live"], ["k2", "stopped"], ["k3", "dead"]]
    assert [each["state"] for each in dfs.json("status")[1][0]["keepers"]] == ["live", "dead", "dead"]


def test_status_json_has_the_keys_that_scripts_use(dfs, store):
    code, (record,), _err = dfs.json("status")
    assert code == 0 and {"cluster_id", "epoch", "files", "bytes", "under_replicated", "missing", "repairs_running",
                          "keepers"} <= set(record)
    assert {"keeper_id", "host", "ports", "state", "used", "free", "blocks", "heartbeat_age_s", "labels",
            "pids"} <= set(record["keepers"][0])


def test_alarms_are_shown(dfs, store):
    store.statuses = [status(alarms=["a third of the keepers vanished at once"])]
    assert "alarm: a third of the keepers" in dfs("status")[1]


def test_wait_returns_when_the_copies_are_there(dfs, store, monkeypatch):
    monkeypatch.setattr(cluster, "_POLL_S", 0.001)
    store.statuses = [status(safemode="just started"), status(under_replicated=1), status(missing=1), errors.NotReady(detail="x"),
                      status()]
    assert dfs("wait", "--timeout", "30")[0] == 0 and len(store.statuses) == 1


def test_wait_for_keepers_does_not_ask_for_copies(dfs, store):
    store.statuses = [status(under_replicated=5)]
    assert dfs("wait", "--keepers", "3")[0] == 0
    assert dfs("wait", "--keepers", "3", "--copies", "--timeout", "0")[0] == 1


def test_wait_gives_up_with_status_1_and_the_reason(dfs, store):
    store.statuses = [status(keepers=[keeper(1), keeper(2, "dead")])]
    code, out, err = dfs("wait", "--keepers", "2", "--timeout", "0.01")
    assert (code, out) == (1, "") and "1 of 2 keepers are live" in err
    store.statuses = [errors.ConnectFailed(address="x:1", detail="refused")]
    assert dfs("wait", "--timeout", "0.01")[0] == 1
    assert dfs("wait")[0] == 3


def test_df_sums_up_what_lives(dfs, store):
    store.statuses = [status(keepers=[keeper(1), keeper(2, "dead")])]
    _code, records, _err = dfs.json("df")
    assert [record.get("name") for record in records] == ["k1", "k2", None] and records[-1] == {"total": True, "used": 10**9,
                                                                                                "free": 9 * 10**9,
                                                                                               "copies": 3}
    assert "room for about 3.0 GB more at 3 copies" in dfs("df")[1]


def test_scrub_takes_names_ids_and_beginnings_of_ids(dfs, store):
    assert dfs("scrub", "k2", KEEPERS[0])[0] == 0
    assert store.calls[-1] == ("scrub", (KEEPERS[1], KEEPERS[0]), True)
    code, _out, err = dfs("scrub", "k9")
    assert code == 1 and "no keeper is called k9" in err
    assert dfs("scrub", "0000")[0] == 1  # the beginning of several


def test_scrub_ends_with_5_when_it_found_damage(dfs, store, monkeypatch):
    monkeypatch.setattr(cluster, "_POLL_S", 0.001)
    store.bad = [{"path": "/a", "block": "b" * 32, "keeper": KEEPERS[0], "reason": "chunk 0 is damaged"}]
    code, out, _err = dfs("scrub", "--wait")
    assert code == 5 and "/a: damaged on k1: chunk 0 is damaged" in out and store.calls[-1] == ("scrub", (), False)


def test_rebalance_plans_or_does(dfs, store):
    assert dfs("rebalance", "--dry-run")[1] == "50 B from k1 to k2\n1 block would be moved, 50 B\n"
    assert store.calls[-1] == ("rebalance", True, False)
    assert dfs("rebalance", "--wait")[0] == 0


def test_a_rebalance_that_a_restart_has_cut_short_is_not_called_done(dfs, store, monkeypatch):
    monkeypatch.setattr(cluster, "_POLL_S", 0.001)
    store.statuses = [status(), status(epoch=2)]
    code, out, err = dfs("rebalance", "--wait")
    assert code == 1 and "1 block to be moved" in out and "started again meanwhile" in err


def test_what_moves_is_told_where_it_is_known(dfs, store):
    assert "moving" not in dfs("status")[1] and json.loads(dfs("status", "--json")[1])["throughput"] is None
    store.moving = messages.TrafficMeasured(step_s=10, points=[], read=12_000_000.0, write=0.0, copied=3_100_000.0, keepers=[])
    assert "moving: 12.0 MB/s read, 3.1 MB/s copied between keepers" in dfs("status")[1].splitlines()
    assert json.loads(dfs("status", "--json")[1])["throughput"] == {"read": 12_000_000.0, "write": 0.0, "copied": 3_100_000.0}


def test_json_has_what_the_page_has(dfs, store):
    short = [{"have": 1, "blocks": 2}]
    one = {"path": "/a", "block": "ab" * 16, "source": "k1", "targets": ["k2", "k3"], "bytes": 5, "eta_s": None}
    store.statuses = [status(short=short, repairs=[one], under_replicated=2, keepers=[keeper(1), keeper(2, "dead", stopped=True)])]
    record = json.loads(dfs("status", "--json")[1])
    assert record["short"] == short and record["repairs"] == [{"path": "/a", "block": "ab" * 16, "from": "k1", "to": "k2, k3", "bytes": 5, "eta_s": None}]
    assert record["verdict"] == {"level": "warning", "sentence": "nothing is lost; 2 blocks are short of copies: k2 was stopped"}
    assert [(one["state"], one["word"]) for one in record["keepers"]] == [("live", "live"), ("dead", "stopped")]
