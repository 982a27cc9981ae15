"""Who gets in and who does not, against a real cluster: joining, users, recorded sessions played back, heartbeats nobody sent."""

import json
import os
import secrets
import socket
import subprocess
import threading
import time
import zlib

import pytest

import live_cluster
from dfs_lib import client as clients
from dfs_lib import errors, keyfile, settings
from dfs_lib.client import admin
from dfs_lib.net import streams
from dfs_lib.wire import heartbeats, messages, trust

pytestmark = pytest.mark.usefixtures("work")


class Recorder:
    """A relay to one port on the same port number of another address, which keeps every byte of both directions."""

    def __init__(self, port):
        self.port, self.sent = port, []
        self._listener = socket.create_server(("127.0.0.2", port))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.port))
            kept = bytearray()
            self.sent.append(kept)
            for source, target, keep in ((near, far, kept), (far, near, None)):
                thread = threading.Thread(target=self._pump, args=(source, target, keep), daemon=True)
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _pump(source, target, keep):
        try:
            while data := source.recv(65536):
                if keep is not None:
                    keep += data
                target.sendall(data)
        except OSError:
            pass
        for sock in (source, target):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


def as_user(cluster, line, masters=None):
    """A client with the key of a key file's line."""
    path = os.path.join(cluster.directory, f"user-{secrets.token_hex(4)}.key")
    keyfile.write(path, keyfile.parse(line))
    own = settings.resolve([]).but(master=masters or cluster.masters, key_file=path, patience=1.0)
    return clients.connect(own.master, settings=own)


def play_back(port, data):
    """Send recorded bytes to a port again; how many bytes come back before it closes."""
    n = 0
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(5)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while got := sock.recv(65536):
                n += len(got)
        except OSError:
            pass
    return n


def picture(cluster):
    """What must not change: names, users, blocks on disk."""
    with cluster.client() as client:
        cluster._clients.remove(client)
        names = [(entry.path, entry.version) for entry in client.walk("/")]
        return names, [user["identity"] for user in admin.users(client)], sorted(map(os.path.basename, cluster.block_files()))


def test_keepers_join_by_code(work):
    """The first `dfs master` prints a command; a keeper that runs it is in, and the code is spent."""
    log_path = os.path.join(work, "master.err")
    daemons = []

    def start(*words, environment=None, err=subprocess.DEVNULL):
        process = subprocess.Popen([*live_cluster.SOURCE, *words], stdout=subprocess.PIPE, stderr=err, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **(environment or {})})
        daemons.append(process)
        return json.loads(process.stdout.readline())

    try:
        with open(log_path, "wb") as err:
            ready = start("master", "--data", os.path.join(work, "m"), "--ports", "0", err=err)
        text = live_cluster.until(lambda: " --join " in (said := open(log_path).read()) and said, 5)
        code = text.split(" --join ")[1].split()[0]
        address = f"127.0.0.1:{ready['ports'][0]}"
        words = ["keeper", "--master", address, "--ports", "0", "--reserve", "1MiB"]
        start(*words, "--data", os.path.join(work, "k1"), environment={"DFS_JOIN": code})
        kept = os.path.join(work, "k1", "node.key")
        assert os.stat(kept).st_mode & 0o777 == 0o600
        cluster_key = keyfile.read(os.path.join(work, "m", "cluster.key"))
        assert cluster_key.hex() not in open(kept).read()
        for pid in [process.pid for process in daemons]:
            assert code.encode() not in open(f"/proc/{pid}/cmdline", "rb").read()
        again = subprocess.run([*live_cluster.SOURCE, *words, "--data", os.path.join(work, "k2"), "--join", code], capture_output=True, text=True)
        assert again.returncode == 6 and "used already" in again.stderr and not os.path.exists(os.path.join(work, "k2", "node.key"))
        own = settings.resolve([]).but(master=(("127.0.0.1", ready["ports"][0]),))
        with clients.connect(own.master, settings=own, cluster_key=cluster_key) as client:
            fresh, _lapses_s = admin.invite(client)
            code_file = os.path.join(work, "code")
            with open(code_file, "w") as out:
                out.write(fresh + "\n")
            start(*words, "--data", os.path.join(work, "k2"), "--join", code_file)
            live_cluster.until(lambda: sum(k["state"] == "live" for k in client.status().keepers) == 2, 10)
            client.put(__file__, "/f")
        # a joiner's handshake opens nothing else
        with clients.connect(own.master, settings=own, cluster_key=cluster_key) as client:
            name, secret = trust.read_join_code(admin.invite(client)[0])
        stream = streams.connect("127.0.0.1", ready["ports"][0], trust.Credentials("joiner", name, trust.join_secret(name, secret), "hmac"))
        for message in (messages.Status(), messages.ListUsers(), messages.Farewell(), messages.Ping()):
            with pytest.raises(errors.NoSuchRole):
                stream.ask(message)
        stream.close()
    finally:
        for process in reversed(daemons):
            process.terminate()
            process.wait(10)
            process.stdout.close()


def test_users_on_open_connections(make_cluster, work):
    cluster = make_cluster(keepers=2)
    source = live_cluster.write_random(os.path.join(work, "f"), 5 << 20)
    with cluster.client() as root:
        root.mkdir("/anna")
        _identity, anna_line = admin.add_user(root, "anna", "writer", "/anna")
        _identity, rita_line = admin.add_user(root, "rita", "reader")
        with as_user(cluster, anna_line) as anna, as_user(cluster, rita_line) as rita:
            anna.put(source, "/anna/f", safe=2)
            rita.get("/anna/f", os.path.join(work, "back"))
            assert live_cluster.digest(source) == live_cluster.digest(os.path.join(work, "back"))
            for attempt in (lambda: anna.put(source, "/f"), lambda: anna.get("/g", os.path.join(work, "g")), lambda: rita.remove("/anna/f"),
                            lambda: rita.put(source, "/r"), lambda: anna.scrub(), lambda: admin.add_user(rita, "eve", "admin")):
                with pytest.raises(errors.NotPermitted) as caught:
                    attempt()
                assert caught.value.status == 6 and caught.value.code == "not_permitted"
            _identity, newer = admin.rotate_user(root, "anna")
            with pytest.raises(errors.NotPermitted):
                anna.stat("/anna/f")  # on the connection it had
            with as_user(cluster, newer) as again:
                assert again.stat("/anna/f")["size"] == 5 << 20
            with as_user(cluster, anna_line) as old, pytest.raises(errors.BadKey):
                old.stat("/anna/f")
        assert root.status().counters["requests_not_permitted"] >= 6
    with open(cluster.master.log_path) as log:
        audit = [line for line in log if "dfs.audit" in line]
    assert any("WARNING" in line and "rita" in line and "Remove" in line for line in audit)
    assert any("INFO" in line and "CommitUpload" in line and "/anna/f" in line for line in audit)


def test_tickets_of_a_removed_user_are_void(make_cluster, work):
    cluster = make_cluster(keepers=2)
    source = live_cluster.write_random(os.path.join(work, "f"), 1 << 20)
    with cluster.client() as root:
        root.put(source, "/f", safe=2)
        _identity, line = admin.add_user(root, "rita", "reader")
        with as_user(cluster, line) as rita:
            block = rita.ask(messages.OpenDownload(files=[{"path": "/f", "version": None, "first": 0, "n": 1}])).results[0]["blocks"][0]
            hop = block["sources"][0]
            key = keyfile.parse(line)
            stream = streams.connect(hop["host"], hop["ports"][0], trust.Credentials("client", key.identity, key.key, "hmac"))
            ask = messages.GetBlock(block=block["block"], offset=0, count=10, ticket=hop["ticket"])
            assert stream.ask(ask).size == 10 and len(stream.body()) == 10
            admin.remove_user(root, "rita")
            with pytest.raises(errors.NotPermitted):
                rita.stat("/f")  # of the master at once, on the connection it had

            def is_void():
                try:
                    stream.ask(ask)
                    stream.body()
                except errors.BadTicket as e:
                    assert "removed" in e.message
                    return True
                return False

            live_cluster.until(is_void, 5, "the keeper has heard")
            stream.close()
            live_cluster.until(lambda: root.status().counters["tickets_refused"] >= 1, 5)


def test_recorded_sessions_played_back_change_nothing(make_cluster, work):
    cluster = make_cluster(keepers=2, n_ports=1)
    master, = cluster.master.ports
    recorder = Recorder(master)
    relays = [recorder]
    try:
        own = settings.resolve([]).but(master=(("127.0.0.2", master),))
        with clients.connect(own.master, settings=own, cluster_key=keyfile.read(cluster.key_file)) as client:
            client.put(live_cluster.write_random(os.path.join(work, "f"), 100_000), "/f", safe=2)
            client.mkdir("/d")
            client.rename("/f", "/g")
            client.remove("/d")
            admin.add_user(client, "anna", "admin")
            admin.remove_user(client, "anna")
            admin.invite(client)
    finally:
        for relay in relays:
            relay.close()
    recorded = [bytes(each) for each in recorder.sent if each]
    assert recorded
    with cluster.client() as root:
        root.put(os.path.join(work, "f"), "/f", safe=2)
        before = picture(cluster)
        refused = root.status().counters["strangers_refused"]
        n = 0
        for data in recorded:
            hello_end = data.index(b"\r\n\r\n") + 4
            for played in (data, data[:hello_end] + data[hello_end:], data[hello_end:], data + data):
                assert play_back(master, played) < 1000, "a challenge at most"
                n += 1
            for name in ("k1", "k2"):
                assert play_back(cluster.keepers[name].ports[0], data) < 1000
        assert picture(cluster) == before
        assert root.status().counters["strangers_refused"] >= refused + n - len(recorded)


def test_a_recorded_put_played_back_brings_nothing_back(make_cluster):
    """To the keeper itself, its bytes and its ticket: as a session, and as a fresh request of the same user after the block was dropped."""
    cluster = make_cluster(keepers=1, n_ports=1)
    port, = cluster.keepers["k1"].ports
    credentials = trust.client_credentials(keyfile.read(cluster.key_file))
    relay = Recorder(port)
    try:
        with cluster.client() as root:
            opened = root.ask(messages.OpenUpload(uploads=[{
                "path": "/f", "size": 5, "copies": 1, "safe": 1, "block_size": None, "mtime_at": 0.0, "no_clobber": False, "parents": False,
                "resume": False, "version": None}])).results[0]
            grant = opened["grants"][0]
            data, block = b"hello", grant["block"]
            put = messages.PutBlock(
                block=block, size=5, ticket=grant["chain"][0]["ticket"], chain=[],
                crc=zlib.crc32(data, zlib.crc32(bytes.fromhex(block) + bytes(4))),
                meta={"path": "/f", "version": opened["version"], "index": 0, "file_size": 5, "block_size": 1 << 26, "mtime_at": 0.0,
                      "copies": 1, "last": True})
            stream = streams.connect("127.0.0.2", port, credentials)
            assert stream.ask(put, data).receipts
            root.ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
            live_cluster.until(lambda: not cluster.block_files(), 10, "the block was dropped")
            recorded = bytes(relay.sent[0])
            for played in (recorded, recorded + recorded, recorded[recorded.index(b"\r\n\r\n") + 4:]):
                assert play_back(port, played) < 1000
            with pytest.raises(errors.BadTicket, match="used already"):
                stream.ask(put, data)
            stream.close()
            assert not cluster.block_files()
    finally:
        relay.close()


def test_keys_of_the_wrong_kind(make_cluster, work):
    cluster = make_cluster(keepers=1)
    port, keeper_port, key = cluster.master.ports[0], cluster.keepers["k1"].ports[0], keyfile.read(cluster.key_file)
    ring = trust.Keyring.from_cluster_key(key)
    with cluster.client() as root:
        _identity, line = admin.add_user(root, "anna", "admin")
    user = keyfile.parse(line)
    keeper_id = cluster.keeper_id("k1")
    for name, where, credentials in (
            ("no key", port, trust.client_credentials(None)), ("another cluster", port, trust.client_credentials(b"x" * 32)),
            ("a user as keeper", port, trust.Credentials("keeper", keeper_id, user.key, "hmac")),
            ("a user as master", keeper_port, trust.Credentials("master", "", user.key, "hmac")),
            ("a user as admin", port, trust.Credentials("client", "admin", user.key, "hmac")),
            ("a user as another", port, trust.Credentials("client", "bob.1", user.key, "hmac")),
            ("a keeper as client", port, trust.Credentials("client", "admin", ring.secret_for("keeper", keeper_id), "hmac")),
            ("a joiner without a code", port, trust.Credentials("joiner", "00000000", b"x" * 32, "hmac"))):
        with pytest.raises(errors.BadKey):
            streams.connect("127.0.0.1", where, credentials).close()
            pytest.fail(name)
    # a keeper's key is a keeper's: what clients and masters say is not for it
    stream = streams.connect("127.0.0.1", port, ring.credentials("keeper", keeper_id))
    for message in (messages.Status(), messages.Remove(path="/", recursive=True, op="1"), messages.ListUsers(), messages.Invite(nonce="0" * 64)):
        with pytest.raises(errors.NoSuchRole):
            stream.ask(message)
    stream.close()


def test_heartbeats_that_nobody_sent(make_cluster):
    cluster = make_cluster(keepers=1)
    ring = trust.Keyring.from_cluster_key(keyfile.read(cluster.key_file))
    beat = heartbeats.Heartbeat("0" * 16, cluster.keeper_id("k1"), 1 << 40, 1, 1, 1, {})
    with cluster.client() as root, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        there = ("127.0.0.1", cluster.master.ready["heartbeat_port"])
        before = root.status().counters
        for data in (heartbeats.pack(beat, b"x" * 32), heartbeats.pack(beat, ring.ticket), heartbeats.pack(beat, ring.node)[:-1], b"", b"\x89DHB" + bytes(200)):
            sock.sendto(data, there)
        sock.sendto(heartbeats.pack(beat, ring.node), there)  # a good code and a session that is none
        live_cluster.until(lambda: root.status().counters["heartbeats_dropped"] >= before["heartbeats_dropped"] + 5
                           and root.status().counters["heartbeats_stale"] > before["heartbeats_stale"], 5)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        time.sleep(0)
        assert root.status().keepers[0]["state"] == "live" and root.status().keepers[0]["free"] > 1
