"""The Client: names, listings, first contact, patience, what it imports, what it may cost."""

import hashlib
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from fake_cluster import BLOCK_SIZE, CLUSTER_ID, KEY, Cluster, pattern

from dfs_lib import errors, keyfile, model
from dfs_lib.client import connect
from dfs_lib.settings import resolve
from dfs_lib.wire import messages

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


@pytest.fixture
def cluster():
    with Cluster() as made:
        yield made


def put(client, path, data=b"data", **how):
    return client.put(io.BytesIO(data), path, **how)


# -- names --------------------------------------------------------------------------------------------------------------
def test_names_are_made_listed_moved_copied_and_removed(cluster):
    client = cluster.client()
    client.mkdir("/a/b", parents=True)
    for number in range(12):
        put(client, f"/a/f{number:02}")
    assert [entry.path for entry in client.list("/a")] == ["/a/b", *(f"/a/f{number:02}" for number in range(12))]
    client.rename("/a/f00", "/a/b/g")
    client.copy("/a/b/g", "/a/b/h")
    client.set_copies("/a/b/h", 5)
    assert [entry.path for entry in client.walk("/a")][:3] == ["/a/b", "/a/b/g", "/a/b/h"]
    entry = next(entry for entry in client.list("/a/b") if entry.path == "/a/b/h")
    assert (entry.kind, entry.size, entry.copies_wanted) == (model.FILE, 4, 5)
    assert client.exists("/a/b/g") and not client.exists("/a/f00") and client.exists("/a")
    assert client.usage("/a").files == 13
    with pytest.raises(errors.DirectoryNotEmpty):
        client.remove("/a")
    client.remove("/a", recursive=True)
    assert list(client.list("/")) == []


def test_what_is_not_there_is_refused_by_its_name(cluster):
    client = cluster.client()
    for call in (lambda: client.remove("/x"), lambda: client.stat("/x"), lambda: list(client.list("/x")),
                 lambda: client.open("/x"), lambda: client.get("/x", io.BytesIO()), lambda: client.rename("/x", "/y")):
        with pytest.raises(errors.NoSuchFile, match="/x"):
            call()


def test_stat_tells_everything_and_pages_its_blocks(cluster):
    client = cluster.client()
    put(client, "/f", pattern(7 * BLOCK_SIZE + 1))
    found = client.stat("/f", blocks=True)
    assert (found["type"], found["size"], found["copies_wanted"], found["n_blocks"]) == ("file", 7 * BLOCK_SIZE + 1, 3, 8)
    assert [block["index"] for block in found["blocks"]] == list(range(8))
    assert all(len(block["keepers"]) == 2 for block in found["blocks"])
    many = client.stat_many(["/f", "/no", "relative", "/"])
    assert many[0]["path"] == "/f" and isinstance(many[1], errors.NoSuchFile) and isinstance(many[2], errors.BadName)
    assert many[3]["type"] == "dir" and client.stat_many([]) == []


def test_more_stats_than_fit_into_one_message_come_in_order(cluster):
    client = cluster.client()
    put(client, "/f")
    found = client.stat_many(["/no"] * 300 + ["/f"])
    assert len(found) == 301 and found[300]["path"] == "/f"


@pytest.mark.parametrize("bad", ("f", "/a//b", "/a/../b", "/a\0b", "/a\nb", "/" + "n" * 256, "/\udc80"))
def test_bad_names_are_refused_before_anything_is_sent(cluster, bad, tmp_path):
    client = cluster.client()
    for call in (lambda: put(client, bad), lambda: client.get(bad, tmp_path / "x"), lambda: client.remove(bad),
                 lambda: client.mkdir(bad), lambda: client.rename("/a", bad), lambda: client.copy(bad, "/a"),
                 lambda: list(client.list(bad)), lambda: client.open(bad)):
        with pytest.raises(errors.BadName):
            call()
    assert cluster.master.asked == {}


def test_names_beyond_ascii_are_stored_in_one_form(cluster):
    client = cluster.client()
    put(client, "/u\u0308ber")
    assert client.exists("/\u00fcber") and [entry.path for entry in client.list("/")] == ["/\u00fcber"]


def test_sha256_reads_every_byte_and_is_noted(cluster):
    client, data = cluster.client(), pattern(2 * BLOCK_SIZE + 9)
    put(client, "/f", data)
    assert client.sha256("/f") == hashlib.sha256(data).hexdigest() == client.stat("/f")["sha256"]


def test_status_and_cluster_id(cluster):
    client = cluster.client()
    assert client.cluster_id is None and client.status().epoch == 1 and client.cluster_id == CLUSTER_ID


def test_a_change_whose_answer_is_lost_is_made_once(cluster):
    client = cluster.client()
    put(client, "/f")
    for name, call in (("Rename", lambda: client.rename("/f", "/g", no_clobber=True)), ("Remove", lambda: client.remove("/g")),
                       ("MakeDirectory", lambda: client.mkdir("/d"))):
        cluster.master.lose_answer_of = name
        call()
        assert cluster.master.lose_answer_of is None and cluster.master.asked[name] == 2


# -- first contact and patience -----------------------------------------------------------------------------------------
def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def refused_within(seconds, error, address, **how):
    began_s = time.monotonic()
    with connect(address, cluster_key=KEY, **how) as client, pytest.raises(error) as caught:
        put(client, "/f")
    assert time.monotonic() - began_s < seconds
    return caught.value


def test_a_dead_master_is_told_at_once(cluster):
    error = refused_within(2, errors.ConnectFailed, f"127.0.0.1:{free_port()}")
    assert error.status == 3


def test_an_unknown_host_is_told_at_once():
    refused_within(5, errors.ConnectFailed, "no-such-host.invalid:7000")


def test_a_port_that_never_answers_is_told_within_seconds():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        refused_within(5, errors.PeerTimeout, f"127.0.0.1:{sock.getsockname()[1]}")


def test_a_web_server_is_told_from_a_master():
    quiet = type("Quiet", (http.server.BaseHTTPRequestHandler,), {"log_message": print})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        error = refused_within(5, (errors.NotDfs, errors.PeerTimeout, errors.PeerGone), f"127.0.0.1:{server.server_port}")
        assert error.status in (3, 4)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_keeper_is_told_from_a_master(cluster):
    refused_within(2, errors.ConnectFailed, (("127.0.0.1", cluster.keepers[0].ports[0].number),))


def test_a_wrong_key_and_a_missing_key_are_told_at_once(cluster):
    for key in (bytes(32), None):
        with connect(cluster.addresses(), cluster_key=key) as client, pytest.raises(errors.BadKey):
            client.status()


def test_another_address_of_the_master_is_tried(cluster):
    dead = ("127.0.0.1", free_port())
    for _ in range(4):
        with connect((dead, cluster.addresses()[0]), cluster_key=KEY) as client:
            assert client.status().epoch == 1


def test_the_port_that_closes_is_left_for_the_other(cluster):
    client = cluster.client()
    client.status()
    for port in cluster.master.ports:
        port.stop()
        assert client.status().epoch == 1
        port.start()


def test_a_client_that_has_spoken_to_the_master_waits_for_it(cluster):
    client = cluster.client()
    client.status()
    cluster.master.restart(down_s=0.5)
    client.mkdir("/d")
    assert "/d" in cluster.master.directories


def test_patience_ends(cluster):
    client = cluster.client(patience=0.5)
    client.status()
    for port in cluster.master.ports:
        port.stop()
    began_s = time.monotonic()
    with pytest.raises(errors.ConnectFailed):
        client.mkdir("/d")
    assert 0.5 <= time.monotonic() - began_s < 3
    for port in cluster.master.ports:
        port.start()


def test_a_question_is_not_patient(cluster):
    client = cluster.client()
    client.status()
    for port in cluster.master.ports:
        port.stop()
    began_s = time.monotonic()
    with pytest.raises(errors.NetworkError):
        client.status()
    assert time.monotonic() - began_s < 2
    for port in cluster.master.ports:
        port.start()


@pytest.mark.parametrize("how", ("not_ready", "not_ready_each"))
def test_a_master_that_is_not_ready_is_waited_for(cluster, how):
    setattr(cluster.master, how, 3)
    put(cluster.client(), "/f")
    assert cluster.bytes_of("/f") == b"data" and getattr(cluster.master, how) == 0


def test_key_files_and_addresses_come_from_settings(cluster, tmp_path):
    path = tmp_path / "key"
    path.write_text(f"dfs-cluster-key-1 {KEY.hex()}\n")
    path.chmod(0o600)
    assert keyfile.read(path) == KEY
    addresses = ",".join(f"{host}:{port}" for host, port in cluster.addresses())
    settings = resolve([("test", {"key_file": str(path), "master": addresses})])
    with connect(settings=settings) as client:
        assert client.status().epoch == 1
    with pytest.raises(errors.BadSetting):
        connect("host:notaport")


# -- threads, start-up, memory ------------------------------------------------------------------------------------------
def test_one_client_serves_many_threads_and_leaves_none_behind(cluster, tmp_path):
    client = cluster.client()
    before = {thread for thread in threading.enumerate()}
    failures = []

    def work(number):
        try:
            data = pattern(BLOCK_SIZE + number, number)
            put(client, f"/f{number}", data)
            with client.open(f"/f{number}") as source:
                assert source.read() == data
            client.get(f"/f{number}", tmp_path / str(number))
            assert (tmp_path / str(number)).read_bytes() == data
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    client.close()
    ours = ("client", "put", "get")
    assert not [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith(ours)]


def test_a_master_that_does_not_count_what_moves_is_none_that_fails(cluster):
    """One of an earlier version breaks the conversation on a message it does not know."""
    client = cluster.client()

    def before(message):
        if isinstance(message, messages.MeasureTraffic):
            raise errors.BadMessage(detail="unknown message type")

    cluster.master.before = before
    assert client.traffic() is None and client.traffic(history=True) is None
    assert list(client.list("/")) == []


def test_importing_the_client_stays_light():
    forbidden = ("logging", "dataclasses", "typing", "pathlib", "inspect", "asyncio", "ssl", "urllib", "shutil", "tempfile",
                 "sqlite3", "concurrent.futures", "dfs_lib.master", "dfs_lib.keeper", "dfs_lib.cli", "dfs_lib.catalog",
                 "dfs_lib.plan")
    code = (f"import sys; sys.path.insert(0, {ROOT!r}); import dfs_lib.client\n"
            f"print([m for m in {forbidden!r} if m in sys.modules])")
    # -S: site-packages of a development machine import half of that list by themselves.
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads VmHWM of /proc")
def test_memory_stays_flat_at_any_size(cluster, tmp_path):
    size = 48 * BLOCK_SIZE
    (tmp_path / "big").write_bytes(pattern(size))
    code = (f"import sys; sys.path.insert(0, {ROOT!r}); import dfs_lib.client, dfs_lib.settings as s\n"
            f"settings = s.resolve([]).but(block_size={BLOCK_SIZE})\n"
            f"c = dfs_lib.client.connect({cluster.addresses()!r}, cluster_key={KEY!r}, settings=settings)\n"
            f"c.put({str(tmp_path / 'big')!r}, '/big'); c.get('/big', {str(tmp_path / 'out')!r})\n"
            f"c.put(open({str(tmp_path / 'big')!r}, 'rb'), '/pipe')\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))")
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 60 * 1024
    assert (tmp_path / "out").stat().st_size == size
