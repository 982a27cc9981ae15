"""Zips, numbers for Prometheus, what the watch makes of two pictures of a cluster, events, types, and static files."""

import io
import json
import struct
import zipfile

import exposition
import gateway_helpers as helpers
import pytest

from dfs_lib import cluster_state, errors
from dfs_lib.gateway import events, faults, static, telemetry, types, watch, zips
from dfs_lib.wire import messages


# -- zip --------------------------------------------------------------------------------------------------------------
def test_a_zip_as_others_read_it():
    out = io.BytesIO()
    archive = zips.Zip(lambda *parts: [out.write(part) for part in parts])
    archive.begin("top/ö/", 1_700_000_000, is_directory=True)
    archive.end()
    archive.begin("top/ö/a.txt", 1_700_000_001)
    archive.data(b"hello ")
    archive.data(b"world")
    archive.end()
    archive.begin("top/empty", 0)
    archive.end()
    archive.close()
    with zipfile.ZipFile(out) as found:
        assert found.testzip() is None
        assert found.read("top/ö/a.txt") == b"hello world" and found.read("top/empty") == b""
        info = found.getinfo("top/ö/a.txt")
        assert info.date_time == (2023, 11, 14, 22, 13, 20) and info.compress_type == zipfile.ZIP_STORED and info.external_attr >> 16 == 0o100644
        assert found.getinfo("top/ö/").is_dir() and found.getinfo("top/empty").date_time[0] == 1980


def test_a_zip_of_more_than_four_gibibytes_and_many_names():
    class Sparse:
        """Keeps what is small, skips what is one large view."""

        def __init__(self):
            self.size, self.pieces = 0, []

        def write(self, *parts):
            for part in parts:
                if len(part) < 1 << 20:
                    self.pieces.append((self.size, bytes(part)))
                self.size += len(part)

    out, piece = Sparse(), memoryview(bytes(1 << 28))
    archive = zips.Zip(out.write)
    archive.begin("large", 0)
    for _ in range(17):
        archive.data(piece)
    archive.end()
    for n in range(70_000):
        archive.begin(f"{n}", 0)
        archive.end()
    archive.close()
    tail = b"".join(data for _at, data in out.pieces[-3:])
    end = tail.rindex(b"PK\x05\x06")
    assert struct.unpack("<HHHHIIH", tail[end + 4:end + 22]) == (0, 0, 0xFFFF, 0xFFFF, struct.unpack("<I", tail[end + 12:end + 16])[0], 0xFFFFFFFF, 0)
    end64 = tail.rindex(b"PK\x06\x06")
    n, n_all, size, start = struct.unpack("<QQQQ", tail[end64 + 24:end64 + 56])
    assert n == n_all == 70_001 and start > 17 << 28 and start + size == out.size - 22 - 20 - 56
    first = next(data for at, data in out.pieces if at == start)
    assert struct.unpack("<HHQQQ", first[46 + 5:46 + 5 + 28]) == (1, 24, 17 << 28, 17 << 28, 0)


def test_a_zip_of_too_many_names_is_refused(monkeypatch):
    monkeypatch.setattr(zips, "MAX_MEMBERS", 1)
    archive = zips.Zip(lambda *parts: None)
    archive.begin("a", 0)
    archive.end()
    with pytest.raises(errors.Refusal):
        archive.begin("b", 0)


# -- types ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, kind, shows", [("a.txt", "text/plain; charset=utf-8", True), ("A.PNG", "image/png", True), ("a.html", "text/html; charset=utf-8", False),
                                               ("a.svg", "image/svg+xml", False), ("a", "application/octet-stream", False), (".txt", "text/plain; charset=utf-8", True),
                                               ("a.tar.gz", "application/gzip", False), ("a.mp4", "video/mp4", True), ("a.pdf", "application/pdf", True), ("a.js", "text/javascript", False)])
def test_types_by_name(name, kind, shows):
    assert types.content_type(name) == kind and types.may_show(kind) is shows


def test_the_name_to_save_under():
    assert types.disposition('a"b\\ö;.txt', False) == "attachment; filename=\"a_b__;.txt\"; filename*=UTF-8''a%22b%5C%C3%B6%3B.txt"


# -- metrics ----------------------------------------------------------------------------------------------------------
def scrape(n_keepers):
    told = telemetry.Telemetry()
    for method, status in (("GET", 200), ("BREW", 418), ("PUT", 201), ("x" * 50, 400)):
        told.answered(method, status, 0.01)
    told.connected(2)
    told.moved(10, 20)
    return told.text(3, helpers.cluster_status([helpers.keeper(n, "dead" if n == 1 else "live") for n in range(1, n_keepers + 1)], under_replicated=4))


def test_metrics_are_as_the_format_has_them():
    assert exposition.faults(scrape(3)) == []
    text = scrape(3)
    for line in ('dfs_keeper_up{keeper="k1"} 0', 'dfs_keeper_up{keeper="k2"} 1', "dfs_blocks_under_replicated 4", 'dfs_transfer_bytes_total{direction="out"} 20',
                 'dfs_gateway_requests_total{method="other",status="4xx"} 2', "dfs_master_up 1", "dfs_gateway_connections 2", "dfs_gateway_connections_refused_total 3",
                 'dfs_keepers{state="dead"} 1', 'dfs_gateway_request_duration_seconds_count{method="GET"} 1'):
        assert line in text.splitlines()


def test_labels_grow_with_keepers_and_with_nothing_else():
    few, many = (len(scrape(n).splitlines()) for n in (2, 9))
    assert (many - few) == 7 * 7  # up, used, free, blocks, transfers, heartbeat age, sick
    told = telemetry.Telemetry()
    for n in range(300):
        told.answered(f"METHOD{n}", 200 + n % 5, 0.1)
    assert len([line for line in told.text().splitlines() if line.startswith("dfs_gateway_requests_total")]) == 1


def test_without_a_master_there_are_no_old_numbers():
    told = telemetry.Telemetry()
    told.text(0, helpers.cluster_status([helpers.keeper(1)]))
    text = told.text(0, None)
    assert "dfs_master_up 0" in text.splitlines() and "dfs_keeper_up" not in text and "dfs_files" not in text


# -- the watch --------------------------------------------------------------------------------------------------------
def told(before, after):
    return [text for _level, text in [*watch.differences(before, after), *watch.alarm_differences(before, after)]]


def test_what_has_happened_in_words():
    one, two = helpers.keeper(1), helpers.keeper(2)
    quiet = helpers.cluster_status([one, two])
    assert told(quiet, quiet) == []
    hurt = helpers.cluster_status([one, helpers.keeper(2, "dead")], under_replicated=3, repairs_running=1)
    assert told(quiet, hurt) == ["Keeper k2 is dead", "3 blocks short of copies", "Repair has begun: 1 copy under way"]
    assert told(hurt, quiet) == ["Keeper k2 is back", "Every file has its copies", "Repair has made its copies"]
    assert told(quiet, helpers.cluster_status([one, two, helpers.keeper(3)])) == ["Keeper k3 has joined"]
    assert told(quiet, helpers.cluster_status([one])) == ["Keeper k2 is no longer on record"]
    assert told(quiet, helpers.cluster_status([one, two], missing=2, alarms=["low space"], epoch=2)) == [
        "The master was restarted", "2 blocks cannot be read: no live keeper has a copy", "Alarm: low space"]
    stopping, stopped = (helpers.cluster_status([one, helpers.keeper(2, state, stopped=True)]) for state in ("suspect", "dead"))
    assert told(quiet, stopping) == ["Keeper k2 was stopped"] and told(stopping, stopped) == [] and told(stopped, quiet) == ["Keeper k2 is back"]
    assert told(quiet, helpers.cluster_status([one, helpers.keeper(2, sick="read-only")])) == ["Keeper k2 is sick: read-only"]


@pytest.mark.parametrize("status, level", [
    (helpers.cluster_status([helpers.keeper(1)]), "ok"), (helpers.cluster_status([]), "warning"), (helpers.cluster_status([helpers.keeper(1)], missing=1), "danger"),
    (helpers.cluster_status([helpers.keeper(1)], under_replicated=1), "warning"),
    (helpers.cluster_status([helpers.keeper(1)], under_replicated=1, repairs_running=1), "busy"), (helpers.cluster_status([helpers.keeper(1)], safemode="waits"), "busy"),
    (helpers.cluster_status([helpers.keeper(1, "dead")]), "warning"), (helpers.cluster_status([helpers.keeper(1)], alarms=["x"]), "warning"),
    (helpers.cluster_status([helpers.keeper(1)], missing=1, safemode="waits"), "danger")])
def test_the_verdict_says_first_whether_data_is_safe(status, level):
    assert cluster_state.verdict(status)[0] == level and cluster_state.verdict(status)[1]


def test_repairs_under_way_are_told():
    assert cluster_state.status_record(helpers.cluster_status())["repairs"] == []
    one = {"path": "/a", "block": "ab" * 16, "source": "k1", "targets": ["k2", "k3"], "bytes": 5, "eta_s": None}
    assert cluster_state.status_record(helpers.cluster_status(repairs=[one]))["repairs"] == [
        {"path": "/a", "block": "ab" * 16, "from": "k1", "to": "k2, k3", "bytes": 5, "eta_s": None}]


def test_health_counts_what_is_short_and_tells_about_how_much_is_whole():
    keepers = [helpers.keeper(1, blocks=10), helpers.keeper(2, blocks=9), helpers.keeper(3, state="dead", blocks=10)]
    status = helpers.cluster_status(keepers, copies=2, short=[{"have": 1, "blocks": 3}, {"have": 0, "blocks": 1}])
    assert cluster_state.health(status) == [{"have": 0, "blocks": 1, "about": False}, {"have": 1, "blocks": 3, "about": False},
                                     {"have": None, "blocks": 8, "about": True}]
    assert cluster_state.health(helpers.cluster_status([])) == [{"have": None, "blocks": 0, "about": True}]


class Watched:
    def __init__(self):
        self.clock_s = 0.0
        self.client = helpers.Client(status=helpers.cluster_status([helpers.keeper(1)]))
        self.watch = watch.Watch(lambda: self.clock_s, lambda: 1000.0 + self.clock_s)
        self.watch.listen(self.client)


def test_the_watch_remembers_what_happened():
    watched = Watched()
    watched.watch.step()
    generation = watched.watch.generation
    watched.client.status_answer = helpers.cluster_status([helpers.keeper(1, heartbeat_age_s=0.9)], counters={"x": 1})
    watched.watch.step()
    assert watched.watch.generation == generation  # restless numbers are no news
    watched.client.status_answer = helpers.cluster_status([helpers.keeper(1, "dead")])
    watched.watch.step()
    watched.client.failure = errors.ConnectFailed(address="m", detail="refused")
    watched.watch.step()
    watched.watch.step()
    assert watched.watch.record() == (None, True)
    watched.client.failure = None
    watched.watch.step()
    assert [happening["text"] for _id, happening in watched.watch.after(None)] == [
        "Keeper k1 is dead", "The master does not answer: cannot connect to m: refused", "The master answers again"]
    assert [id_ for id_, _happening in watched.watch.after(2)] == [3] and watched.watch.generation > generation


class Removed:
    """The client of a user whose key was taken away."""

    def status(self):
        raise errors.NotPermitted("user u.3 was removed, or has a newer key")

    ask_identity = status


def test_keys_that_were_taken_away_hide_the_master_from_nobody():
    """Two pages of a removed user, opened last: the others go on seeing, hear nothing of that user, and those two are sent away."""
    watched = Watched()
    gone = [Removed(), Removed()]
    for client in gone:
        watched.watch.listen(client)
    watched.watch.step()
    record, unreachable = watched.watch.record()
    assert record is not None and not unreachable and watched.watch.after(None) == []
    for client in gone:
        with pytest.raises(errors.NotPermitted):
            events.Events(watched.watch, None, lambda: 0.0)._record(client, False)
    watched.watch.leave(watched.client)
    watched.watch._take(None, errors.PeerGone(address="m:7000", detail="gone"))
    with pytest.raises(errors.NotPermitted):  # also while there is no status to tell
        events.Events(watched.watch, None, lambda: 0.0)._record(gone[0], False)


def test_traffic_is_the_masters_and_asked_for_once_a_second():
    watched = Watched()
    assert watched.watch.throughput(watched.client) == {"step_s": 10, "points": [], "now": None, "keepers": []}  # an older master
    busy = {"keeper_id": "ab" * 16, "read": 7.0, "write": 5.0, "copied": 3.0}
    watched.client.traffic_answer = messages.TrafficMeasured(step_s=10, points=[[1000.0, 1.0, 2.0, 3.0]], read=7.0, write=5.0, copied=3.0, keepers=[busy])
    assert watched.watch.throughput(watched.client)["now"] is None  # still what was asked a moment ago
    watched.clock_s = 1.0
    for _ in range(3):
        assert watched.watch.throughput(watched.client) == {
            "step_s": 10, "points": [{"at": 1000.0, "read": 1.0, "write": 2.0, "copied": 3.0}],
            "now": {"read": 7.0, "write": 5.0, "copied": 3.0}, "keepers": [busy]}
    assert watched.client.asked.count(("traffic", True)) == 2
    watched.clock_s, watched.client.failure = 3.0, errors.ConnectFailed(address="m", detail="refused")
    with pytest.raises(errors.ConnectFailed):
        watched.watch.throughput(watched.client)


# -- events -----------------------------------------------------------------------------------------------------------
def test_an_event_is_one_line_of_data():
    assert events.event("happening", {"text": "a\nb"}, 5) == b'id: 5\nevent: happening\ndata: {"text":"a\\nb"}\n\n'


def test_a_page_that_listens():
    gateway = helpers.Gateway(helpers.Client(status=helpers.cluster_status([helpers.keeper(1)])))
    gateway.watch.listen(gateway.client)
    gateway.watch.step()
    gateway.client.status_answer = helpers.cluster_status([helpers.keeper(1, "dead")])
    gateway.watch.step()
    real_wait = gateway.watch.wait

    def wait(generation, seconds):
        gateway.clock_s += 1.0
        if gateway.clock_s == 3.0:
            gateway.client.status_answer = helpers.cluster_status([helpers.keeper(1)])
            gateway.watch.step()
        if gateway.clock_s >= 12:
            gateway.watch.stop()
        return real_wait(generation, 0.0)

    gateway.watch.wait = wait
    answer = gateway.ask("GET", "/api/events", Last_Event_ID="0")
    assert answer.headers["content-type"].startswith("text/event-stream") and answer.headers["cache-control"] == "no-store"
    found = answer.body.decode().split("\n\n")
    kinds = [part.split("event: ")[1].split("\n")[0] for part in found if "event: " in part]
    assert kinds == ["happening", "status", "happening", "status", "status"]  # at once, at the change, and after five quiet seconds
    assert found[0] == "retry: 2000" and sum(part == ": ping" for part in found) == 2
    assert json.loads([part for part in found if "event: status" in part][-1].split("data: ")[1])["verdict"]["level"] == "ok"


SECRET = {"path": "/bob/plans", "reason": "short", "next_try_s": 1.0, "placeless": False}
HIDDEN = {"alarms": ["damage in /bob/plans"], "waiting": [SECRET]}


def listen_to(gateway, seconds=7, meanwhile=None):
    """What /api/events says in so many seconds of the gateway's clock."""
    real_wait = gateway.watch.wait

    def wait(generation, _seconds):
        gateway.clock_s += 1.0
        if meanwhile is not None:
            meanwhile(gateway.clock_s)
        if gateway.clock_s >= seconds:
            gateway.watch.stop()
        return real_wait(generation, 0.0)

    gateway.watch.wait = wait
    return gateway.ask("GET", "/api/events", Last_Event_ID="0").body.decode()


def test_who_is_confined_to_a_home_hears_no_other_path():
    """The watch asks with the gateway's own key, which may see all; anna's page gets what anna's key gets, and no alarm as a happening."""
    own = helpers.Client(status=helpers.cluster_status([helpers.keeper(1)]))
    anna = helpers.Client(status=helpers.cluster_status([helpers.keeper(1)], alarms=["damage somewhere"]), home="/anna")
    gateway = helpers.Gateway(anna)
    gateway.watch._own = own
    gateway.watch.step()
    own.status_answer = helpers.cluster_status([helpers.keeper(1, "dead")], **HIDDEN)
    gateway.watch.step()
    heard = listen_to(gateway)
    assert "/bob" not in heard and "Keeper k1 is dead" in heard and "damage somewhere" in heard
    assert "Alarm: damage in /bob/plans" in str(gateway.watch.after(None)) and "/bob/plans" in str(gateway.watch.record())
    free = helpers.Gateway(helpers.Client(status=own.status_answer))
    free.watch.listen(free.client)
    free.watch.step()
    assert "/bob/plans" in listen_to(free), "those without a home hear of it"


def test_the_watch_rather_asks_with_a_key_that_sees_all():
    watched = watch.Watch(lambda: 0.0, lambda: 0.0)
    anna, bob, own = (helpers.Client(status=helpers.cluster_status([], alarms=[name], pid=n)) for n, name in enumerate(("a", "b", "o"), 1))
    own.home = "/gateway"
    watched._own = own
    watched.listen(anna, True)
    watched.step()
    assert watched.status.pid == 3
    watched.listen(bob, False)
    watched.step()
    assert watched.status.pid == 2
    watched.leave(bob)
    watched.step()
    assert watched.status.pid == 3 and not watched.after(None), "other words for the same alarms are no news"
    own.failure = errors.BadKey(address="m", detail="no")
    watched.step()
    assert watched.status.pid == 1


def test_a_user_removed_while_listening_hears_no_more():
    gateway = helpers.Gateway(helpers.Client(status=helpers.cluster_status([helpers.keeper(1)])))
    gateway.watch._own = helpers.Client(status=gateway.client.status_answer)
    gateway.watch.step()

    def meanwhile(clock_s):
        if clock_s == 2.0:
            gateway.client.failure = errors.NotPermitted("user anna.1 was removed", user="anna.1")
        if clock_s == 9.0:
            raise AssertionError("it still listens")

    assert listen_to(gateway, 20, meanwhile).count("event: status") == 1


def test_too_many_listeners_are_refused(monkeypatch):
    monkeypatch.setattr(events, "MAX_LISTENERS", 0)
    gateway = helpers.Gateway(helpers.Client(status=helpers.cluster_status()))
    assert gateway.ask("GET", "/api/events").status == 503


# -- static files -----------------------------------------------------------------------------------------------------
def test_every_file_of_the_page_is_served_with_its_type():
    files = static.load()
    assert "index.html" in files
    assert all(name.rpartition(".")[2] in static._TYPES for name in files)


def test_static_files_out_of_a_zip_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pyz", "w") as archive:
        archive.writestr("dfs_lib/gateway/static/index.html", "page")
        archive.writestr("dfs_lib/gateway/static/sub/a.js", "let")
        archive.writestr("dfs_lib/gateway/static.py", "no")
    assert dict(static._read_archive(tmp_path / "x.pyz")) == {"index.html": b"page", "sub/a.js": b"let"}


def test_what_to_do_next_is_said_in_words_that_fit_a_page():
    for kind in errors.by_code().values():
        hint = faults.as_http(kind(path="/d", size=1, live=1, safe=2, address="m", detail="x", offset=0)).facts.get("hint", "")
        assert not any(words in hint for words in ("`dfs ", "--", " -r")), (kind, hint)
    assert "?recursive=1" in faults.as_http(errors.DirectoryNotEmpty(path="/d")).facts["hint"]
