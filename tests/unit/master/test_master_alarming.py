"""Alarms on their way out: a real command, a real HTTP receiver, and what happens when these are slow, failing or gone."""

import http.server
import json
import os
import queue
import sys
import threading
import time

import pytest

from dfs_lib import errors
from dfs_lib.master import alarming
from dfs_lib.plan import alarms

FACTS = {"event": "raised", "key": "keeper_dead:k1", "kind": "keeper_dead", "level": "warning", "text": "keeper k1 on h is dead; $(touch /tmp/x) \"'",
         "cluster_id": "c" * 32, "at": 5.5}
SCRIPT = """#!{python} -S
import json, os, sys
facts = json.loads(sys.stdin.readline())
named = {{name[10:].lower(): value for name, value in os.environ.items() if name.startswith("DFS_ALARM_")}}
with open({out!r}, "a") as out:
    out.write(json.dumps([facts, named, sys.argv[1:], sys.stdin.read()]) + "\\n")
"""


@pytest.fixture
def script(tmp_path):
    """(path of a command that writes down what it was told, function that waits for n lines of it)."""
    path, out = tmp_path / "tell me.py", tmp_path / "told"
    path.write_text(SCRIPT.format(python=sys.executable, out=str(out)))
    path.chmod(0o700)

    def lines(n, seconds=20.0):
        end_s = time.monotonic() + seconds
        while True:
            found = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
            if len(found) >= n:
                return found
            assert time.monotonic() < end_s, found
            time.sleep(0.02)

    return str(path), lines


@pytest.fixture
def receiver():
    """(URL, queue of what was posted, list of statuses to answer before 200)."""
    posted, statuses = queue.Queue(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.put((self.path, self.headers["Content-Type"], json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook?to=me", posted, statuses
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_command_gets_the_facts_as_environment_and_as_json_and_no_shell_sees_them(script, monkeypatch):
    path, lines = script
    monkeypatch.setenv("DFS_KEY_FILE", "/secret")
    alarming.run_command(alarming.command_words(f"'{path}' --to 'a b' $HOME"), FACTS, threading.Event())
    (facts, named, arguments, rest), = lines(1)
    assert facts == FACTS and arguments == ["--to", "a b", "$HOME"] and rest == ""
    assert named == {name: str(value) for name, value in FACTS.items()}
    assert "DFS_KEY_FILE" not in alarming.environment(FACTS)


@pytest.mark.parametrize("command, words", [("/no/such/command", "could not be run"), ("false", "status 1"), ("true", None)])
def test_a_command_that_fails_is_told(command, words):
    if words is None:
        return alarming.run_command([command], FACTS, threading.Event())
    with pytest.raises(errors.Refusal, match=words):
        alarming.run_command([command], FACTS, threading.Event())


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(alarming, "COMMAND_S", 0.5)
    pid_file = tmp_path / "pid"
    with pytest.raises(errors.Refusal, match="killed"):
        alarming.run_command(["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"], FACTS, threading.Event())
    pid = int(pid_file.read_text())
    end_s = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().split()[2] != "Z":
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_bad_commands_are_refused_at_the_start():
    for text in ("'open", "", "  "):
        with pytest.raises(errors.BadSetting):
            alarming.command_words(text)


def test_a_webhook_is_posted_and_posted_again(receiver, monkeypatch):
    url, posted, statuses = receiver
    monkeypatch.setattr(alarming, "PAUSES_S", (0.01, 0.01))
    statuses += [503, 500]
    alarming.post(url, FACTS, threading.Event())
    assert [posted.get_nowait() for _ in range(3)] == [("/hook?to=me", "application/json", FACTS)] * 3
    statuses += [302, 500, 404]
    with pytest.raises(errors.NetworkError, match="404") as e:
        alarming.post(url, FACTS, threading.Event())
    assert "/hook" not in e.value.message  # a webhook's path is often its secret


def test_a_receiver_that_says_nothing_is_given_up(monkeypatch, silent_port):
    monkeypatch.setattr(alarming, "WEBHOOK_S", 0.3)
    stopping = threading.Event()
    stopping.set()  # no second try
    began_s = time.monotonic()
    with pytest.raises(errors.NetworkError):
        alarming.post(f"http://127.0.0.1:{silent_port}/", FACTS, stopping)
    assert time.monotonic() - began_s < 5.0


@pytest.fixture
def silent_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_one_at_a_time_in_order_and_the_oldest_is_lost_when_too_many_wait(monkeypatch):
    monkeypatch.setattr(alarming, "MOST_WAITING", 3)
    go, sent, at_work, counted = threading.Semaphore(0), [], [], []

    def send(facts, _stopping):
        at_work.append(1)
        assert len(at_work) == 1
        go.acquire()
        at_work.pop()
        if facts["text"] == "2":
            raise errors.Refusal(detail="not this one")
        if facts["text"] == "3":
            raise RuntimeError("a bug of ours")
        sent.append(facts["text"])

    way = alarming.Way("test", send, lambda name: counted.append(name))
    way.put({"text": "0"})
    way.start()
    while not at_work:
        time.sleep(0.001)
    for n in range(1, 5):
        way.put({"text": str(n)})
    for _ in range(4):
        go.release()
    end_s = time.monotonic() + 5
    while sent != ["0", "4"]:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    way.stop()
    assert counted == ["alarms_lost", "alarms_lost", "alarm_bugs"] and not way._thread.is_alive()


def test_a_master_tells_of_a_dead_keeper_and_of_its_return(make_world, script, receiver):
    path, lines = script
    url, posted, _statuses = receiver
    world = make_world(3, alarm_command=f"'{path}'", alarm_webhook=url)
    teller = alarming.Alarming(world.tracker, world.repairer)
    teller.start()

    def pass_time(seconds):
        for _ in range(seconds):
            world.steps(4)
            teller.step(world.now)

    pass_time(5)
    world.keepers[2].vanish()
    pass_time(15)
    assert [alarm.key for alarm in teller.raised()] == ["keeper_dead:k2"]
    world.keepers[2].start()
    pass_time(15)
    told = [facts for facts, *_rest in lines(2)]
    assert [(one["event"], one["key"], one["level"]) for one in told] == [("raised", "keeper_dead:k2", "warning"), ("cleared", "keeper_dead:k2", "warning")]
    assert [posted.get(timeout=10)[2] for _ in range(2)] == told and teller.raised() == []
    teller.stop()


def test_a_master_tells_of_damage_and_low_space(make_world):
    world = make_world(3, space_low=100.0)
    teller = alarming.Alarming(world.tracker, world.repairer)
    from master_helpers import Client
    assert Client(world).put("/a")["refused"] is None
    world.until(lambda: world.status().under_replicated == 0)
    world.repairer.doubts.replica_bad(world.blocks_of("/a")[0], 1, "chunk 0")
    for _ in range(40):
        world.steps(4)
        teller.step(world.now)
    assert {alarm.kind for alarm in teller.raised()} == {alarms.DAMAGE_FOUND, alarms.SPACE_LOW}
    shown = world.status().alarms
    assert len(shown) == 2 and any("/a on k1" in sentence for sentence in shown)
    for _ in range(80):
        world.steps(4)
        teller.step(world.now)
    assert [alarm.kind for alarm in teller.raised()] == [alarms.SPACE_LOW] and len(world.status().alarms) == 1
