"""Who is there and who is not: too few keepers, silent ones, ports that do not answer, addresses where no master is."""

import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from dfs_lib import local
from live_cluster import MIB, digest, same_trees, until, write_random

pytestmark = pytest.mark.system


# -- too few keepers --------------------------------------------------------------------------------------------------
def test_fewer_keepers_than_safe_and_a_keeper_that_joins(make_cluster, work):
    source, back = write_random(os.path.join(work, "source"), 5 * MIB), os.path.join(work, "back")
    cluster = make_cluster(keepers=1)
    said = cluster.dfs("put", source, "/file", status=1)
    assert "1 live keeper" in said and "2 durable copies" in said and "--safe 1" in said, said
    assert json.loads(cluster.dfs("put", "--json", source, "/file", status=1))["error"] == "too_few_keepers"
    assert cluster.json("ls", "/") == [] and not cluster.block_files()
    [stored] = cluster.json("put", "--safe", "1", source, "/file")
    assert stored["copies_durable"] == 1
    status = cluster.status()
    assert (status["under_replicated"], status["missing"], len(status["keepers"])) == (1, 0, 1)
    assert "short" in cluster.dfs("status")
    cluster.add_keeper()
    until(lambda: cluster.json("stat", "/file")[0]["copies_have"] == 2, 20, "the joining keeper gets a copy")
    cluster.add_keeper()
    cluster.dfs("wait", "--copies", "--timeout", "20")
    assert cluster.json("stat", "/file")[0]["copies_have"] == 3 and cluster.status()["under_replicated"] == 0
    cluster.kill("k1")
    cluster.kill("k2")
    cluster.dfs("get", "/file", back)
    assert digest(back) == digest(source)


def test_repair_after_a_keeper_is_lost_and_no_surplus_when_it_returns(make_cluster, work):
    source = write_random(os.path.join(work, "source"), 12 * MIB)
    cluster = make_cluster(keepers=4, keeper_options=["--heartbeat-every", "0.3"],
                           master_options=["--suspect-after", "1", "--dead-after", "2", "--repair-grace", "1"])
    cluster.dfs("put", "--block-size", "1MiB", source, "/file")
    cluster.dfs("wait", "--copies", "--timeout", "20")
    cluster.kill("k1")
    until(lambda: cluster.states()["k1"] == "dead", 10, "k1 is dead")
    until(lambda: (found := cluster.status())["under_replicated"] == 0 and found["missing"] == 0, 30, "every block has three copies again")
    assert cluster.json("stat", "/file")[0]["copies_have"] == 3
    cluster.restart("k1")
    until(lambda: cluster.states()["k1"] == "live", 10, "k1 is back")
    until(lambda: len(cluster.block_files()) == 36, 30, "what is too much is gone")
    assert cluster.json("stat", "/file")[0]["copies_have"] == 3


# -- heartbeats that stop ---------------------------------------------------------------------------------------------
def test_a_silent_keeper_is_suspect_then_dead_then_back(make_cluster):
    """With the settings everybody has. The keeper is paused, not killed: its ports still accept connections."""
    cluster = make_cluster(keepers=3, n_ports=1)
    assert set(cluster.states().values()) == {"live"}
    with cluster.client() as client:
        def state():
            return next(keeper["state"] for keeper in client.status().keepers if keeper["keeper_id"] == cluster.keeper_id("k2"))

        cluster.pause("k2")
        paused_s = time.monotonic()
        until(lambda: state() == "suspect", 4.0, "suspect within 4 s")
        suspect_s = time.monotonic() - paused_s
        until(lambda: state() == "dead", 12.0 - suspect_s, "dead within 12 s")
        dead_s = time.monotonic() - paused_s
        cluster.resume("k2")
        until(lambda: state() == "live", 2.0, "back within 2 s")
        assert suspect_s >= 2 and dead_s >= 9
    assert cluster.states() == {"k1": "live", "k2": "live", "k3": "live"}


# -- ports that do not answer -----------------------------------------------------------------------------------------
@pytest.fixture
def silent_port():
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return port


def test_everything_works_with_one_port_of_each_kind_blocked(make_cluster, work, silent_port, closed_port):
    """Two keepers, one port process of one of them stands still; of the master's addresses one is silent and one closed."""
    tree = os.path.join(work, "tree")
    os.mkdir(tree)
    for number in range(10):
        write_random(os.path.join(tree, f"f{number}"), number * 300_000)
    cluster = make_cluster(keepers=2, master_options=["--copies", "2"], more_masters=[f"127.0.0.1:{silent_port}", f"127.0.0.1:{closed_port}"])
    blocked = cluster.pids_of("k1")[1]
    os.kill(blocked, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        cluster.dfs("put", "-r", tree, "/tree")
        cluster.dfs("put", "--block-size", "1MiB", write_random(os.path.join(work, "large"), 20 * MIB), "/large")
        cluster.dfs("get", "-r", "/tree", os.path.join(work, "back"))
        cluster.dfs("get", "/large", os.path.join(work, "large2"))
        assert [line["path"] for line in cluster.json("ls", "/")] == ["/large", "/tree"]
        cluster.dfs("mv", "/large", "/moved")
        cluster.dfs("rm", "-r", "/tree")
        assert time.monotonic() - began_s < 60
        assert digest(os.path.join(work, "large")) == digest(os.path.join(work, "large2"))
        status = cluster.status()
        assert {keeper["state"] for keeper in status["keepers"]} == {"live"} and status["missing"] == 0
    finally:
        os.kill(blocked, signal.SIGCONT)
    assert same_trees(tree, os.path.join(work, "back")) == ""


@pytest.fixture
def http_port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def rude_port():
    """A port that says something else at once and hangs up, as other protocols do."""
    server, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def greet():
        while not over.is_set():
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer:
                peer.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")

    thread = threading.Thread(target=greet)
    thread.start()
    yield server.getsockname()[1]
    over.set()
    socket.create_connection(server.getsockname()).close()
    thread.join()
    server.close()


@pytest.mark.parametrize("what", ["wrong host", "dead master", "silent port", "HTTP port", "another protocol",
                                  "keeper's port"])
def test_a_wrong_address_is_explained_in_a_line(request, shared, what):
    ports = {"dead master": "closed_port", "silent port": "silent_port", "HTTP port": "http_port", "another protocol": "rude_port"}
    if what == "keeper's port":
        address = f"127.0.0.1:{shared.keepers['k1'].ports[0]}"
    elif what in ports:
        address = f"127.0.0.1:{request.getfixturevalue(ports[what])}"
    else:
        address = "no-such-host.invalid:7000"
    command = [*shared.command, "ls", "--master", address, "--key-file", shared.key_file, "--config", os.devnull, "/"]
    began_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=local.program_environment())
    assert time.monotonic() - began_s < 10
    assert done.returncode in (3, 4) and done.stdout == "", (done.returncode, done.stderr)
    [error] = done.stderr.splitlines()
    said, advice = error.split("; ", 1)
    assert said.startswith("dfs: ") and address in said and len(advice) > 20, error
