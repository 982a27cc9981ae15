"""A gateway in front of a live cluster, as processes: files by http.client, raw sockets, curl and wget; faults; the page of a master."""

import http.client
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import zipfile

import exposition
import live_cluster
import pytest
from live_cluster import MIB, until

from dfs_lib import keyfile, local

needs = {name: pytest.mark.skipif(shutil.which(name) is None, reason=f"there is no {name} here") for name in ("curl", "wget")}


class Gateway:
    """A gateway as a process, and requests with a key."""

    def __init__(self, cluster, directory, key_file=None, *words):
        self.line = keyfile.line(keyfile.load(key_file or cluster.key_file))
        own = ["gateway", "--master", cluster.masters_text, "--key-file", cluster.key_file, "--listen", "127.0.0.1:0", *words]
        self.daemon = local.Daemon("gateway", own, os.path.join(directory, "gateway.log"), cluster.command)
        self.daemon.start()
        self.daemon.wait_ready(time.monotonic() + 30)
        self.port, self.url = self.daemon.ready["ports"][0], self.daemon.ready["url"]

    @property
    def header(self):
        return f"Authorization: Bearer {self.line.replace(' ', '+')}"

    def head(self, method, target, *headers):
        return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", self.header, *headers, "", ""]).encode()

    def ask(self, method, target, body=None, key=True, **headers):
        """(status, headers, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            given = {"Authorization": self.header.partition(": ")[2]} if key else {}
            connection.request(method, target, body, {**given, **{name.replace("_", "-"): value for name, value in headers.items()}})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, target):
        status, _headers, body = self.ask("GET", target)
        assert status == 200, body
        return json.loads(body)

    def dial(self):
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def curl(self, *words, status=0, **options):
        done = subprocess.run(["curl", "-sS", "--max-time", "60", "-H", self.header, *words], capture_output=True, **options)
        assert done.returncode == status, done.stderr
        return done.stdout

    def stop(self):
        self.daemon.ask_to_stop()
        return self.daemon.wait_stopped(time.monotonic() + 5)


@pytest.fixture(scope="module")
def gateway(shared, shared_work):
    made = Gateway(shared, shared_work)
    yield made
    assert made.stop() == 0


@pytest.fixture
def source(work):
    """A file of a few blocks as the gateway cuts them: (path, bytes)."""
    path = live_cluster.write_random(os.path.join(work, "source"), 36 * MIB + 5, 7)
    with open(path, "rb") as found:
        return path, found.read()


def test_a_file_comes_back_as_it_went(gateway, shared, source, work):
    path, data = source
    with open(path, "rb") as body:
        status, headers, body = gateway.ask("PUT", "/files/a.bin", body, Content_Length=str(len(data)), X_Dfs_Mtime="1700000000")
    assert status == 201 and json.loads(body)["copies_durable"] == 2
    status, found, back = gateway.ask("GET", "/files/a.bin")
    assert status == 200 and back == data and found["ETag"] == headers["ETag"] and found["Last-Modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    shared.dfs("get", "/a.bin", os.path.join(work, "back"))
    assert live_cluster.digest(os.path.join(work, "back")) == live_cluster.digest(path)
    status, found, part = gateway.ask("GET", "/files/a.bin", Range=f"bytes={16 * MIB - 3}-{16 * MIB + 2}")
    assert status == 206 and part == data[16 * MIB - 3:16 * MIB + 3]
    chunked = gateway.ask("PUT", "/files/chunked", iter([data[:100_000], data[100_000:5 * MIB]]))
    assert chunked[0] == 201 and gateway.ask("GET", "/files/chunked")[2] == data[:5 * MIB]


# -- https --------------------------------------------------------------------------------------------------------------
CERTIFICATES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "unit", "net", "certificates")


@pytest.fixture
def encrypted(shared, work):
    """A gateway with a certificate of the tests' own authority."""
    path = os.path.join(work, "node.pem")
    shutil.copyfile(os.path.join(CERTIFICATES, "node.pem"), path)
    os.chmod(path, 0o600)
    made = Gateway(shared, work, None, "--tls-cert", path, "--handshake-timeout", "2")
    yield made
    assert made.stop() == 0


def trusting():
    """What a browser knows that was given the authority; the tests' certificate names no host."""
    context = ssl.create_default_context(cafile=os.path.join(CERTIFICATES, "ca.pem"))
    context.check_hostname = False
    return context


def test_https(encrypted, source, work):
    path, data = source
    assert encrypted.url.startswith("https://")

    def ask(method, target, body=None, **headers):
        connection = http.client.HTTPSConnection("127.0.0.1", encrypted.port, timeout=30, context=trusting())
        try:
            connection.request(method, target, body, {"Authorization": encrypted.header.partition(": ")[2], **headers})
            answer = connection.getresponse()
            assert connection.sock is None or connection.sock.version() == "TLSv1.3"
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    assert ask("PUT", "/files/secret", data)[0] == 201
    assert ask("GET", "/files/secret")[2] == data
    assert ask("GET", "/files/secret", Range="bytes=-5")[2] == data[-5:]
    # an answer that ends with its connection ends as TLS has it: else it might have been cut off
    with trusting().wrap_socket(encrypted.dial(), server_hostname="x", suppress_ragged_eofs=False) as sock:
        sock.sendall(encrypted.head("GET", "/files/").replace(b"HTTP/1.1", b"HTTP/1.0"))
        listing = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert b"secret" in listing and b"Content-Length" not in listing
    status, headers, body = ask("POST", "/api/session", json.dumps({"key": encrypted.line}), **{"X-Dfs": "1", "Content-Type": "application/json"})
    assert json.loads(body)["encrypted"] is True
    assert status == 200 and "; Secure" in headers["Set-Cookie"]


@needs["curl"]
def test_curl_speaks_https_and_plain_http_is_told(encrypted, source, work):
    path, data = source
    encrypted.curl("-k", "-T", path, encrypted.url + "files/by-curl")
    assert encrypted.curl("-k", encrypted.url + "files/by-curl") == data
    assert b"address begins with https" in encrypted.curl(encrypted.url.replace("https", "http") + "files/by-curl")
    encrypted.curl("-k", "--tls-max", "1.2", encrypted.url, status=35)  # the handshake fails


def test_half_a_tls_handshake_pins_nothing(encrypted):
    with encrypted.dial() as silent, encrypted.dial() as half:
        half.sendall(b"\x16\x03\x01")
        began_s = time.monotonic()
        for each in (silent, half):
            each.settimeout(10)
            try:
                assert each.recv(100) == b""
            except ConnectionResetError:
                pass  # closed, with what it had said unread
        assert 1.0 < time.monotonic() - began_s < 8.0


@pytest.fixture(scope="module")
def put_by_a_client(shared, shared_work):
    """Bytes that the command line has put, which no gateway saw pass."""
    path = live_cluster.write_random(os.path.join(shared_work, "by-a-client"), 24 * MIB, 11)
    shared.dfs("put", path, "/by-a-client")
    return 24 * MIB


def test_what_others_move_shows_at_once(gateway, shared, put_by_a_client):
    told = until(lambda: (told := gateway.json("/api/throughput"))["now"]["write"] > 0 and told, 5, "the put shows")
    busy = {one["keeper_id"] for one in told["keepers"] if one["write"]}
    assert told["step_s"] == 10 and busy and busy <= {keeper["keeper_id"] for keeper in shared.status()["keepers"]}
    assert shared.json("status")[0]["throughput"].keys() == {"read", "write", "copied"}


def test_a_folder_as_a_zip(gateway, shared, work):
    tree = os.path.join(work, "tree")
    os.makedirs(os.path.join(tree, "ö", "empty"))
    for n in range(20):
        live_cluster.write_random(os.path.join(tree, "ö", f"f{n} <b>"), n * 1000, n)
    shared.dfs("put", "-r", tree, "/")
    with zipfile.ZipFile(io.BytesIO(gateway.ask("GET", "/files/tree?zip=1")[2])) as archive:
        assert archive.testzip() is None
        archive.extractall(work + "/out")
    assert live_cluster.same_trees(tree, work + "/out/tree") == ""


def test_broken_uploads_leave_nothing(gateway, shared, source):
    _path, data = source
    before = {entry["name"] for entry in gateway.json("/api/list?path=/")["entries"]}
    for head, body in ((gateway.head("PUT", "/files/broken", f"Content-Length: {len(data)}"), data[:20 * MIB]), (gateway.head("PUT", "/files/broken", "Content-Length: 9"), b"123"),
                       (gateway.head("PUT", "/files/broken", "Transfer-Encoding: chunked"), b"5\r\nhel")):
        with gateway.dial() as sock:
            sock.sendall(head + body)
        with gateway.dial() as sock:
            sock.sendall(head + body)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert {entry["name"] for entry in gateway.json("/api/list?path=/")["entries"]} == before
    assert gateway.ask("GET", "/files/broken")[0] == 404


def test_of_those_who_change_the_same_version_exactly_one_wins(gateway):
    """Read, change, write with If-Match: each round one wins, and nobody's change is lost (four count up)."""
    status, _, _ = gateway.ask("PUT", "/files/counter", b"0")
    assert status == 201
    wins, lost, failures = [], [], []
    barrier = threading.Barrier(4)

    def count_up(name):
        try:
            for _ in range(5):
                status, headers, data = gateway.ask("GET", "/files/counter")
                assert status == 200
                barrier.wait(20)  # all have read the same by now
                status, _, _ = gateway.ask("PUT", "/files/counter", b"%d" % (int(data) + 1), **{"If-Match": headers["ETag"]})
                (wins if status == 200 else lost).append(status)
                barrier.wait(20)
        except BaseException as e:
            failures.append(e)
            barrier.abort()

    threads = [threading.Thread(target=count_up, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and set(lost) == {412} and len(wins) == 5 and len(lost) == 15
    status, headers, data = gateway.ask("GET", "/files/counter")
    assert data == b"5"
    old = headers["ETag"]
    assert gateway.ask("PUT", "/files/counter", b"6")[0] == 200
    assert gateway.ask("DELETE", "/files/counter", **{"If-Match": old})[0] == 412
    _, headers, _ = gateway.ask("GET", "/files/counter")
    assert gateway.ask("DELETE", "/files/counter", **{"If-Match": headers["ETag"]})[0] == 204


def test_an_upload_goes_on_where_it_broke_off(gateway, source):
    _path, data = source
    with gateway.dial() as sock:
        sock.sendall(gateway.head("PUT", "/files/again", f"Content-Length: {len(data)}") + data[:-100])
    query = f"/api/upload?path=/again&size={len(data)}"
    offset = until(lambda: gateway.json(query)["offset"], 10, "what was stored is known")
    assert offset in (12 * MIB, 24 * MIB, 36 * MIB)
    status, _headers, body = gateway.ask("PUT", "/files/again", data[offset:], Content_Range=f"bytes {offset}-{len(data) - 1}/{len(data)}")
    assert status == 201 and json.loads(body)["resumed_bytes"] == offset and gateway.ask("GET", "/files/again")[2] == data
    # Another file of that name and size does not get the first half of this one, nor does who does not say which it is.
    with gateway.dial() as sock:
        sock.sendall(gateway.head("PUT", "/files/again", f"Content-Length: {len(data)}", "X-Dfs-Mtime: 1700000000") + data[:-100])
    assert until(lambda: gateway.json(query + "&mtime=1700000000")["offset"], 10, "what was stored is known") == offset
    for other in ({"X_Dfs_Mtime": "1700000001"}, {}):
        status, _headers, body = gateway.ask("PUT", "/files/again", bytes(len(data) - offset), Content_Range=f"bytes {offset}-{len(data) - 1}/{len(data)}", **other)
        assert status == 409 and json.loads(body)["error"] == "resume_mismatch" and json.loads(body)["offset"] == 0
    assert gateway.json(query + "&mtime=1700000001") == {"offset": 0} and gateway.ask("GET", "/files/again")[2] == data
    status, _headers, body = gateway.ask("PUT", "/files/never", data[offset:], Content_Range=f"bytes {offset}-{len(data) - 1}/{len(data)}")
    assert status == 409 and json.loads(body)["offset"] == 0


def test_a_keeper_killed_during_a_download(make_cluster, work):
    """The download completes, and a page that listens hears of it."""
    cluster = make_cluster(keepers=3)
    gateway = Gateway(cluster, work)
    try:
        path = live_cluster.write_random(os.path.join(work, "big"), 96 * MIB, 3)
        cluster.dfs("put", path, "/big")
        cluster.dfs("wait", "--copies", "--timeout", "30")
        heard = []
        listener = threading.Thread(target=listen, args=(gateway, heard))
        listener.start()
        until(lambda: heard, 10, "the first status")
        with gateway.dial() as sock, open(path, "rb") as wanted:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.sendall(gateway.head("GET", "/files/big", "Connection: close"))
            stream = sock.makefile("rb")
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(MIB) == wanted.read(MIB)
            cluster.kill("k1")
            killed_s = time.monotonic()
            until(lambda: any("k1 is dead" in text for text in heard), 10, "the page hears of it")
            assert time.monotonic() - killed_s < 10
            while piece := stream.read(MIB):
                assert piece == wanted.read(MIB)
            assert not wanted.read(1)
    finally:
        assert gateway.stop() == 0
        listener.join(5)
    assert not listener.is_alive()


def listen(gateway, heard):
    """Gather what /api/events says until it ends."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.request("GET", "/api/events", headers={"Authorization": gateway.header.partition(": ")[2]})
    for line in connection.getresponse():
        if line.startswith(b"data: "):
            heard.append(line.decode())
    connection.close()


def test_slow_and_half_open_clients_do_not_shut_others_out(shared, work):
    gateway = Gateway(shared, work, None, "--max-connections", "40", "--max-connections-host", "40")
    try:
        quiet = [gateway.dial() for _ in range(30)]  # strangers: a quarter of all connections may be such
        for sock in quiet[:5]:
            sock.sendall(b"GET / HTTP/1.1\r\nHo")
        refused = 0
        for sock in quiet:
            sock.settimeout(0.5)
            try:
                refused += sock.recv(1) == b""
            except (TimeoutError, ConnectionError) as e:
                refused += not isinstance(e, TimeoutError)
        assert 10 <= refused < 30
        for sock in quiet:
            sock.close()
        until(lambda: healthy(gateway), 5, "it serves again")
    finally:
        assert gateway.stop() == 0


def healthy(gateway):
    try:
        return gateway.ask("GET", "/healthz", key=False)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_users_and_roles(shared, shared_work, work, gateway):
    keys = {}
    for name, role, home in (("rita", "reader", "/"), ("wim", "writer", "/home-of-wim")):
        line = shared.json("admin", "user", "add", name, "--role", role, "--home", home)[0]["key"]
        keys[name] = line.replace(" ", "+")
    gateway.ask("PUT", "/files/open.txt", b"read me")
    gateway.ask("POST", "/api/mkdir", b'{"path":"/home-of-wim"}', Content_Type="application/json")

    def ask(name, method, target, body=None, **headers):
        return gateway.ask(method, target, body, key=False, Authorization=f"Bearer {keys[name]}", **headers)

    assert ask("rita", "GET", "/files/open.txt")[2] == b"read me" and ask("rita", "PUT", "/files/x", b"no")[0] == 403 and ask("rita", "DELETE", "/files/open.txt")[0] == 403
    assert json.loads(ask("rita", "GET", "/api/session")[2])["role"] == "reader"
    assert ask("wim", "PUT", "/files/home-of-wim/a", b"mine")[0] == 201 and ask("wim", "PUT", "/files/elsewhere", b"x")[0] == 403
    assert ask("wim", "GET", "/files/open.txt")[0] == 403 and json.loads(ask("wim", "GET", "/api/session")[2])["home"] == "/home-of-wim"
    wrong = keys["wim"][:-1] + ("0" if keys["wim"][-1] != "0" else "1")
    assert gateway.ask("GET", "/api/session", key=False, Authorization=f"Bearer {wrong}")[0] == 401
    shared.dfs("admin", "user", "remove", "wim")
    assert ask("wim", "GET", "/files/home-of-wim/a")[0] in (401, 403)
    status, headers, _body = gateway.ask("POST", "/api/session", json.dumps({"key": keys["rita"]}).encode(), key=False, Content_Type="application/json")
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert status == 200 and gateway.ask("GET", "/api/list?path=/", key=False, Cookie=cookie)[0] == 200
    assert gateway.ask("PUT", "/files/x", b"x", key=False, Cookie=cookie)[0] == 403


def test_monitoring(gateway):
    status, headers, body = gateway.ask("GET", "/metrics", key=False)
    assert status == 200 and exposition.faults(body.decode()) == []
    until(lambda: b'dfs_keeper_up{keeper="k3"} 1' in gateway.ask("GET", "/metrics", key=False)[2], 15, "the gateway has seen the keepers")
    assert gateway.ask("GET", "/healthz", key=False)[0] == gateway.ask("GET", "/readyz", key=False)[0] == 200


def test_one_log_line_of_a_bug_and_no_traceback_for_strangers(gateway):
    for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET /\r\n\r\n", b"\0" * 100, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"):
        with gateway.dial() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda sock=sock: sock.recv(4096), b""))
        assert b"Traceback" not in answer and answer[:12] in (b"", b"HTTP/1.1 400")
    with open(gateway.daemon.log_path) as log:
        assert "Traceback" not in log.read()


# -- other programs ---------------------------------------------------------------------------------------------------
@needs["curl"]
def test_curl_up_down_and_on(gateway, source, work):
    path, data = source
    back = os.path.join(work, "back")
    gateway.curl("-T", path, gateway.url + "files/curl.bin")
    with open(back, "wb") as out:
        out.write(data[:1_000_003])
    gateway.curl("-C", "-", "-o", back, gateway.url + "files/curl.bin")
    assert live_cluster.digest(back) == live_cluster.digest(path)
    gateway.curl("-T", "-", gateway.url + "files/curl-piped", input=data)
    assert gateway.curl(gateway.url + "files/curl-piped") == data
    with gateway.dial() as sock:
        sock.sendall(gateway.head("PUT", "/files/curl-on", f"Content-Length: {len(data)}") + data[:-100])
    offset = until(lambda: gateway.json(f"/api/upload?path=/curl-on&size={len(data)}")["offset"], 10, "what was stored is known")
    gateway.curl("-C", str(offset), "-T", path, gateway.url + "files/curl-on")
    assert gateway.curl(gateway.url + "files/curl-on") == data
    assert gateway.curl("-r", "0-1,5-6", "-o", os.devnull, "-w", "%{http_code}", gateway.url + "files/curl-on") == b"206"


@needs["wget"]
def test_wget_goes_on(gateway, source, work):
    path, data = source
    gateway.ask("PUT", "/files/wget.bin", data)
    with open(os.path.join(work, "wget.bin"), "wb") as out:
        out.write(data[:MIB + 1])
    subprocess.run(["wget", "-q", "-c", "--header", gateway.header, gateway.url + "files/wget.bin"], cwd=work, check=True, timeout=60)
    assert live_cluster.digest(os.path.join(work, "wget.bin")) == live_cluster.digest(path)
    subprocess.run(["wget", "-q", "-O", "asked", "--user", "me", "--password", gateway.line, gateway.url + "files/wget.bin"], cwd=work, check=True, timeout=60)
    assert live_cluster.digest(os.path.join(work, "asked")) == live_cluster.digest(path)


@needs["curl"]
def test_memory_stays_flat(gateway, work):
    size = (1 << 30 if os.environ.get("TEST_LONG") else 160 * MIB)
    path = live_cluster.write_random(os.path.join(work, "large"), size, 9)
    gateway.curl("-T", path, gateway.url + "files/large")
    gateway.curl("-o", os.path.join(work, "back"), gateway.url + "files/large")
    assert live_cluster.digest(os.path.join(work, "back")) == live_cluster.digest(path)
    assert live_cluster.peak_memory(gateway.daemon.pid) <= 100 * MIB
    gateway.ask("DELETE", "/files/large")


def test_the_hour_that_a_gateway_has_not_seen(put_by_a_client, shared, work):
    """The plot's data come from the master: a gateway that has only just started shows what was put before."""
    young = Gateway(shared, work)
    until(lambda: sum(point["write"] for point in young.json("/api/throughput")["points"]) * 10 >= put_by_a_client, 30, "its ten seconds are over")
    assert young.stop() == 0


# -- the page of a master ---------------------------------------------------------------------------------------------
def get(url):
    host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as found:
        first = [int(each) for each in found.read().split()]
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as found:
            first += [int(each) for each in found.read().split()]
    return {each for each in first if b"gateway" in open(f"/proc/{each}/cmdline", "rb").read().split(b"\0")}


def test_a_master_keeps_its_page_alive_and_takes_it_along(make_cluster):
    taken = socket.create_server(("127.0.0.1", 0))
    cluster = make_cluster(keepers=1, web=f"127.0.0.1:{taken.getsockname()[1]}", master_options=["--safe", "1"])
    url = cluster.web_url
    assert url != f"http://127.0.0.1:{taken.getsockname()[1]}/" and get(url) == 200  # the port was taken: another one, and no failure
    taken.close()
    page = until(lambda: children(cluster.master.pid), 5, "the page runs")
    for pid in page:
        os.kill(pid, signal.SIGKILL)
    until(lambda: get(url) == 200, 10, "it was started again, at the same address")
    cluster.kill("master", whole=False)
    until(lambda: get(url) is None, 10, "the page has ended with its master")


def test_stopping_ends_events_and_transfers_within_five_seconds(shared, work):
    gateway = Gateway(shared, work)
    heard = []
    listener = threading.Thread(target=listen, args=(gateway, heard))
    listener.start()
    until(lambda: heard, 10, "the first status")
    with gateway.dial() as sock:
        sock.sendall(gateway.head("PUT", "/files/half", "Content-Length: 1000") + b"x")
        began_s = time.monotonic()
        assert gateway.stop() == 0 and time.monotonic() - began_s < 5
    listener.join(5)
    assert not listener.is_alive()
