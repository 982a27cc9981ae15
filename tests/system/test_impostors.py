"""Everybody who does not belong, one by one, against real daemons: each is refused, counted, written of once, and has changed nothing.

Each impostor comes from a loopback address of its own, so that its line in a log is its own too. It keeps to the protocol but for its one
lie: a client of ours would notice the wrong key first and go away.
"""

import contextlib
import itertools
import os
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
import zlib

import pytest
from test_access import Recorder, as_user, picture, play_back

import live_cluster
from dfs_lib import errors, keyfile
from dfs_lib.client import admin
from dfs_lib.master.tracker import TICKET_TICKS
from dfs_lib.net import streams
from dfs_lib.wire import conversation, heartbeats, messages, trust

HOST, TRIES = "127.0.0.1", 3
_addresses = (f"127.7.{n >> 8}.{n & 255}" for n in itertools.count(1))


class UdpRecorder:
    """A relay of heartbeats, in step with a Recorder: what a keeper sends to 127.0.0.2 goes on to the master, and is kept."""

    def __init__(self, port):
        self.port, self.heard = port, []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.2", port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as onward:
            while data := self._sock.recv(2000):
                self.heard.append(data)
                onward.sendto(data, (HOST, self.port))

    def close(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.2", self.port))
        self._thread.join(5)
        self._sock.close()


@pytest.fixture(scope="module")
def cluster(shared_work):
    with live_cluster.LiveCluster(os.path.join(shared_work, "cluster"), keepers=2, n_ports=1, master_options=["--copies", "2"]) as cluster:
        cluster.work = shared_work
        with cluster.client() as root:
            root.mkdir("/home")
            root.put(live_cluster.write_random(os.path.join(shared_work, "f"), 100_000), "/f", safe=2)
            cluster.users = {name: keyfile.parse(admin.add_user(root, name, role, home)[1]) for name, role, home in (
                ("anna", "writer", "/home"), ("rita", "reader", "/"), ("gone", "admin", "/"), ("eve", "admin", "/"))}
            admin.remove_user(root, "gone")
        cluster.ring = trust.Keyring.from_cluster_key(keyfile.read(cluster.key_file))
        cluster.n_forged = 0
        cluster.id_of_k1, cluster.port_of_k1 = cluster.keeper_id("k1"), cluster.keepers["k1"].ports[0]
        yield cluster


def counters(cluster):
    with cluster.client() as root:
        cluster._clients.remove(root)
        return root.status().counters


def sequence(cluster):
    """How many changes the catalog's log holds: no attempt may add one."""
    with contextlib.closing(sqlite3.connect(f"file:{os.path.join(cluster.directory, 'master', 'catalog.db')}?mode=ro", uri=True)) as catalog:
        return catalog.execute("SELECT max(sequence), count(*) FROM log").fetchone()


@contextlib.contextmanager
def nothing_changes(cluster):
    before = picture(cluster), sequence(cluster)
    yield
    assert (picture(cluster), sequence(cluster)) == before


def lines_with(daemon, words):
    with open(daemon.log_path, encoding="utf-8") as log:
        return [line for line in log if words in line]


def read_to_end(sock):
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            got += part
    return got


def dial(port, host):
    sock = socket.create_connection((HOST, port), 5, source_address=(host, 0))
    sock.settimeout(5)
    return sock


def impose(port, host, credentials, proof=None):
    """Shake hands as whoever, whatever the server proves; then ask. Returns what comes after the server's challenge: nothing should.

    proof(talk, challenge, said) → the text of the proof to show, instead of the one that `credentials` make.
    """
    talk = conversation.Asker(credentials, port, secrets.token_hex(32))
    with dial(port, host) as sock:
        sock.sendall(talk.hello())
        while (arrived := talk.next_message()) is None:
            got = sock.recv(4096)
            assert got, "a stranger gets a challenge too"
            talk.receive(got)
        said = trust.transcript(talk._hello, arrived.message)
        shown = proof(talk, arrived.message, said) if proof else trust.client_proof(credentials.secret, said)
        last = talk.send(messages.Proof(proof=shown), 0)
        talk.phase = conversation.OPEN
        talk._seal_with(*trust.session_keys(credentials.secret, said))
        sock.sendall(last + talk.send(messages.MakeDirectory(path="/impostor", parents=False, op=secrets.token_hex(16)), 1))
        return read_to_end(sock)


# name → (whose port, credentials(cluster)): the secret is never the one that role and identity need
def _as(role, identity, secret, auth="hmac"):
    return trust.Credentials(role, identity, secret, auth)


STRANGERS = {
    "without a key": ("master", lambda c: trust.client_credentials(None)),
    "without a key, who says he has one": ("master", lambda c: _as("client", "admin", trust.PUBLIC_SECRET)),
    "another cluster's key": ("master", lambda c: trust.client_credentials(b"x" * 32)),
    "a user as keeper": ("master", lambda c: _as("keeper", c.id_of_k1, c.users["eve"].key)),
    "a user as master": ("master", lambda c: _as("master", "", c.users["eve"].key)),
    "a user as admin": ("master", lambda c: _as("client", "admin", c.users["eve"].key)),
    "a user as another": ("master", lambda c: _as("client", c.users["anna"].identity, c.users["eve"].key)),
    "a user of a later serial": ("master", lambda c: _as("client", "eve.999", c.users["eve"].key)),
    "a removed user": ("master", lambda c: _as("client", c.users["gone"].identity, c.users["gone"].key)),
    "a keeper as admin": ("master", lambda c: _as("client", "admin", c.ring.secret_for("keeper", c.id_of_k1))),
    "a keeper as master": ("master", lambda c: _as("master", "", c.ring.secret_for("keeper", c.id_of_k1))),
    "a joiner without a code": ("master", lambda c: _as("joiner", "00000000", b"x" * 32)),
    "at a keeper: without a key": ("k1", lambda c: trust.client_credentials(None)),
    "at a keeper: another cluster's key": ("k1", lambda c: trust.client_credentials(b"x" * 32)),
    "at a keeper: a user as keeper": ("k1", lambda c: _as("keeper", c.id_of_k1, c.users["eve"].key)),
    "at a keeper: a user as master": ("k1", lambda c: _as("master", "", c.users["eve"].key)),
    "at a keeper: a keeper as master": ("k1", lambda c: _as("master", "", c.ring.secret_for("keeper", c.id_of_k1))),
    "at a keeper: a user as admin": ("k1", lambda c: _as("client", "admin", c.users["eve"].key)),
}
# … and the key is right, but it is not the one who speaks that has it
PROOFS = {
    "a proof sent back to where it came from": lambda talk, challenge, said: challenge.proof,
    "a proof of another conversation": lambda talk, challenge, said: trust.client_proof(
        talk._credentials.secret, trust.transcript(talk._hello, messages.Challenge(
            version=1, role="master", cluster_id=challenge.cluster_id, auth="hmac", nonce="0" * 64, proof="0" * 64))),
    "a proof for another port": lambda talk, challenge, said: trust.client_proof(talk._credentials.secret, trust.transcript(
        messages.Hello(version=1, role="client", identity="admin", auth="hmac", nonce=talk._hello.nonce, port=1, tls=talk._hello.tls), challenge)),
    "zeros": lambda talk, challenge, said: "0" * 64,
}


def daemon_of(cluster, name):
    return cluster.master if name == "master" else cluster.keepers[name]


@pytest.mark.parametrize("case", [*STRANGERS, *PROOFS])
def test_a_stranger(cluster, case):
    where, make = STRANGERS.get(case) or ("master", lambda c: c.ring.credentials("client", "admin"))
    daemon, host, before = daemon_of(cluster, where), next(_addresses), counters(cluster)
    with nothing_changes(cluster):
        for _ in range(TRIES):
            assert impose(daemon.ports[0], host, make(cluster), PROOFS.get(case)) == b""
    if where == "master":
        live_cluster.until(lambda: counters(cluster)["strangers_refused"] >= before["strangers_refused"] + TRIES, 5)
    line, = lines_with(daemon, f"peer={host}:")
    assert "stranger refused" in line


def test_a_reflected_handshake(cluster):
    """Two connections: the nonce that one was challenged with is the other's own, in the hope that the answers fit each other."""
    host, port = next(_addresses), cluster.master.ports[0]
    credentials, before = _as("client", "admin", b"?" * 32), counters(cluster)
    with nothing_changes(cluster), dial(port, host) as one, dial(port, host) as other:
        said = []
        for sock, nonce in ((one, "1" * 64), (other, None)):
            talk = conversation.Asker(credentials, port, nonce or said[0].nonce)
            sock.sendall(talk.hello())
            while (arrived := talk.next_message()) is None:
                talk.receive(sock.recv(4096))
            said.append(arrived.message)
        one.sendall(talk.send(messages.Proof(proof=said[1].proof), 0))
        assert read_to_end(one) == b""
    live_cluster.until(lambda: counters(cluster)["strangers_refused"] >= before["strangers_refused"] + 1, 5)


# -- known people who ask what is not for them ----------------------------------------------------------------------------
def _op():
    return secrets.token_hex(16)


REQUESTS = {
    "a reader makes a directory": ("rita", lambda c: c.mkdir("/r")),
    "a reader removes": ("rita", lambda c: c.remove("/f")),
    "a reader renames": ("rita", lambda c: c.rename("/f", "/g")),
    "a reader puts": ("rita", lambda c: c.put(__file__, "/r")),
    "a writer puts outside the home": ("anna", lambda c: c.put(__file__, "/r")),
    "a writer reads outside the home": ("anna", lambda c: c.get("/f", os.devnull)),
    "a writer climbs out of the home": ("anna", lambda c: c.rename("/f", "/home/f")),
    "a writer removes the home": ("anna", lambda c: c.remove("/home", recursive=True)),
    "a writer makes an administrator": ("anna", lambda c: admin.add_user(c, "mallory", "admin")),
    "a writer invites a keeper": ("anna", lambda c: admin.invite(c)),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_known_user_who_may_not(cluster, case):
    name, ask = REQUESTS[case]
    user, before = cluster.users[name], counters(cluster)
    n_lines = len(_audit(cluster, user))
    with nothing_changes(cluster), as_user(cluster, keyfile.line(user)) as client:
        for _ in range(TRIES):
            with pytest.raises(errors.NotPermitted) as caught:
                ask(client)
            assert caught.value.status == 6
    assert counters(cluster)["requests_not_permitted"] == before.get("requests_not_permitted", 0) + TRIES
    # Once a minute for each user, address and kind of request: another case of the same kind may have had the line.
    assert len(_audit(cluster, user)) - n_lines <= 1 and _audit(cluster, user)


def _audit(cluster, user):
    return [line for line in lines_with(cluster.master, f"who={user.identity} ") if "dfs.audit" in line and "not_permitted" in line]


def test_a_keeper_that_asks_as_a_client(cluster):
    """Its own key is good, and opens only what keepers may say."""
    host, before = next(_addresses), counters(cluster)
    keeper = cluster.ring.credentials("keeper", "ab" * 16)
    with nothing_changes(cluster), contextlib.closing(
            streams.greet(dial(cluster.master.ports[0], host), HOST, cluster.master.ports[0], keeper)) as stream:
        for message in (messages.Status(), messages.Remove(path="/", recursive=True, op=_op()), messages.ListUsers(), messages.Invite(nonce="0" * 64)):
            with pytest.raises(errors.NoSuchRole):
                stream.ask(message)
    assert counters(cluster)["requests_out_of_role"] >= before.get("requests_out_of_role", 0) + 4
    line, = lines_with(cluster.master, f"peer={host}:")
    assert "request refused" in line


# -- tickets --------------------------------------------------------------------------------------------------------------
def _grant(cluster, root):
    """(ticket record, block, its size, a hop) of a replica of /f at k1."""
    block = root.ask(messages.OpenDownload(files=[{"path": "/f", "version": None, "first": 0, "n": 1}])).results[0]["blocks"][0]
    hop = next(each for each in block["sources"] if each["keeper"] == cluster.id_of_k1)
    return trust.read_ticket(cluster.ring.ticket, hop["ticket"]), block["block"], hop


def _grant_after(cluster, root, n_ticks):
    """The same, once the master is more than so many ticks old; None before."""
    found = _grant(cluster, root)
    return found if found[0].expires_tick > TICKET_TICKS + n_ticks else None


def _signed(key, ticket):
    """For `_put`, where it is for a put."""
    return trust.make_ticket(key, ticket, trust.file_of("/p", 1))


FORGED = {
    "altered": None,
    "not a ticket": lambda c, t: "AAAA",
    "signed by another cluster": lambda c, t: _signed(b"x" * 32, t),
    "for another operation": lambda c, t: _signed(c.ring.ticket, t._replace(operation=trust.WRITE if t.operation == trust.READ else trust.READ)),
    "for another block": lambda c, t: _signed(c.ring.ticket, t._replace(block="0" * 32)),
    "for another keeper": lambda c, t: _signed(c.ring.ticket, t._replace(keeper=c.keeper_id("k2"))),
    "for another user": lambda c, t: _signed(c.ring.ticket, t._replace(user=trust.user_digest(c.users["rita"].identity))),
    "for another path": lambda c, t: trust.make_ticket(c.ring.ticket, t._replace(operation=trust.WRITE), trust.file_of("/f", 1)),
    "for another version": lambda c, t: trust.make_ticket(c.ring.ticket, t._replace(operation=trust.WRITE), trust.file_of("/p", 2)),
    "for a keeper's copy": lambda c, t: trust.make_ticket(c.ring.ticket, t._replace(operation=trust.COPY)),
    "for less": lambda c, t: _signed(c.ring.ticket, t._replace(max_size=0)),
    "expired": lambda c, t: _signed(c.ring.ticket, t._replace(expires_tick=0)),
    "of another epoch": lambda c, t: _signed(c.ring.ticket, t._replace(epoch=t.epoch - 1)),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("operation", [trust.READ, trust.WRITE], ids=["get", "put"])
def test_a_ticket_that_does_not_hold(cluster, case, operation):
    host = next(_addresses)
    with cluster.client() as root:
        cluster._clients.remove(root)
        # The keepers hear of the master's ticks each second: a ticket of the first one has expired for them when a few have gone by.
        ticket, block, hop = live_cluster.until(lambda: _grant_after(cluster, root, 4), 20, "the cluster is some ticks old")
    credentials = cluster.ring.credentials("client", "admin")
    if operation == trust.WRITE:
        block = secrets.token_hex(16)
        ticket = ticket._replace(operation=trust.WRITE, block=block, max_size=100, serial=1 << 50)
    text = (FORGED[case] or (lambda c, t: _altered(_signed(c.ring.ticket, t))))(cluster, ticket)
    with nothing_changes(cluster):
        for _ in range(TRIES):
            with contextlib.closing(streams.greet(dial(cluster.port_of_k1, host), HOST, cluster.port_of_k1, credentials)) as stream, \
                    pytest.raises(errors.BadTicket):
                if operation == trust.READ:
                    stream.ask(messages.GetBlock(block=block, offset=0, count=10, ticket=text))
                else:
                    stream.ask(*_put(block, text))
    line, = lines_with(cluster.keepers["k1"], f"from={host} ")
    assert "ticket refused" in line
    cluster.n_forged += TRIES


def test_a_writer_gives_no_block_another_name(cluster):
    """anna may write in /home alone, and a rebuild goes by what trailers say: hers say what the master gave her, and nothing else."""
    anna, host = cluster.users["anna"], next(_addresses)
    with cluster.client() as root:
        cluster._clients.remove(root)
        victim = root.stat("/f")["version"]
    credentials = trust.Credentials("client", anna.identity, anna.key, "hmac")
    asked = {"path": "/home/hers", "size": 5, "copies": 1, "safe": 1, "block_size": None, "mtime_at": 0.0, "no_clobber": False, "parents": False,
             "resume": False, "version": None}
    with contextlib.closing(streams.connect(HOST, cluster.master.ports[0], credentials)) as master:
        opened, = master.ask(messages.OpenUpload(uploads=[asked])).results
        block, (hop,) = opened["grants"][0]["block"], opened["grants"][0]["chain"]
        good = {"path": "/home/hers", "version": opened["version"]}
        name, = (name for name in ("k1", "k2") if cluster.keeper_id(name) == hop["keeper"])
        port = hop["ports"][0]

        def attempt(file, as_lot):
            put, data = _put(block, hop["ticket"])
            put.meta.update(file)
            if as_lot:
                fields = {name: put.meta[name] for name in ("path", "version", "block_size", "mtime_at", "copies")}
                put = messages.PutBlocks(blocks=[{"block": block, "size": 5, "crc": put.crc, "tickets": [hop["ticket"]], **fields}], chain=[])
            with contextlib.closing(streams.greet(dial(port, host), HOST, port, credentials)) as stream:
                answer = stream.ask(put, data)
            return answer.results[0]["failed"][0]["error"] if as_lot and answer.results[0]["failed"] else None

        with nothing_changes(cluster):
            for change in ({"path": "/f"}, {"path": "/f", "version": victim}, {"version": victim}, {"version": opened["version"] + 1}):
                with pytest.raises(errors.BadTicket, match="path and version"):
                    attempt({**good, **change}, as_lot=False)
                assert attempt({**good, **change}, as_lot=True) == "bad_ticket"
                cluster.n_forged += 2
        line, = lines_with(cluster.keepers[name], f"from={host} ")
        assert "ticket refused" in line and "path and version" in line
        assert attempt(good, as_lot=True) is None, "hers, as granted, is taken"
        master.ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
    live_cluster.until(lambda: not any(block in path for path in cluster.block_files()), 10, "the block was dropped")


def test_all_those_tickets_were_counted(cluster):
    """The keeper tells of them with its next word to the master: once for all of the above."""
    live_cluster.until(lambda: counters(cluster)["tickets_refused"] >= cluster.n_forged, 5)
    assert counters(cluster)["tickets_refused"] == cluster.n_forged


def test_what_keepers_have_refused_shows_in_status(cluster):
    """Of the strangers above some came to a keeper; and a known peer that breaks the protocol counts apart."""
    before = counters(cluster)
    credentials = cluster.ring.credentials("client", "admin")
    with contextlib.closing(streams.greet(dial(cluster.port_of_k1, next(_addresses)), HOST, cluster.port_of_k1, credentials)) as stream:
        stream.sock.sendall(b"\0" * 100)
        assert read_to_end(stream.sock) == b""
    after = live_cluster.until(lambda: (now := counters(cluster))["keepers_conversations_broken"] > before.get("keepers_conversations_broken", 0) and now, 5)
    assert after["keepers_strangers_refused"] >= TRIES
    shown = subprocess.run([*live_cluster.SOURCE, "status", *cluster.client_words()], capture_output=True, text=True, timeout=30).stdout
    assert "refused since the start:" in shown and "at keepers" in shown and "connections without a proof" in shown


def _altered(text):
    return text[:20] + ("B" if text[20] != "B" else "C") + text[21:]


def _put(block, ticket, chain=()):
    data = b"hello"
    meta = {"path": "/p", "version": 1, "index": 0, "file_size": 5, "block_size": 1 << 26, "mtime_at": 0.0, "copies": 1, "last": True}
    return messages.PutBlock(block=block, size=5, ticket=ticket, chain=list(chain), meta=meta,
                             crc=zlib.crc32(data, zlib.crc32(bytes.fromhex(block) + bytes(4)))), data


# -- heartbeats and recorded sessions ------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def recorded(port):
    relay = Recorder(port)
    try:
        yield relay
    finally:
        relay.close()


def test_heartbeats_and_recorded_sessions_of_each_kind(cluster):
    """A keeper that reaches its master through a relay, a client that reaches a keeper through one, and a keeper another.

    What they said is played back whole, doubled, without its first word, and with one byte flipped, to the port that it was said to.
    """
    master, (k1, k2) = cluster.master.ports[0], (cluster.keepers[name].ports[0] for name in ("k1", "k2"))
    beat_port, played = cluster.master.ready["heartbeat_port"], []
    with recorded(master) as to_master, recorded(k1) as to_k1, recorded(k2) as to_k2, contextlib.closing(UdpRecorder(beat_port)) as beats:
        words = cluster._keeper_arguments("k3", 3)
        words[words.index("--master") + 1] = f"127.0.0.2:{master}"
        k3 = cluster.keepers["k3"] = cluster._daemon("k3", words)
        k3.start()
        k3.wait_ready(time.monotonic() + 30)
        live_cluster.until(lambda: cluster.states()["k3"] == "live" and len(beats.heard) > 2, 10)
        with cluster.client() as root:
            cluster._clients.remove(root)
            ticket, block, hop = _grant(cluster, root)
            credentials = cluster.ring.credentials("client", "admin")
            with contextlib.closing(streams.connect("127.0.0.2", k1, credentials)) as stream:
                assert stream.ask(messages.GetBlock(block=block, offset=0, count=10, ticket=hop["ticket"])).size == 10
                stream.body()
            fresh = secrets.token_hex(16)
            write = ticket._replace(operation=trust.WRITE, block=fresh, max_size=100, serial=1 << 51)
            here = _signed(cluster.ring.ticket, write)
            there = _signed(cluster.ring.ticket, write._replace(keeper=cluster.keeper_id("k2"), serial=(1 << 51) + 1,
                                                                user=trust.user_digest(cluster.id_of_k1)))
            with contextlib.closing(streams.connect("127.0.0.2", k1, credentials)) as stream:
                chain = [{"keeper": cluster.keeper_id("k2"), "host": "127.0.0.2", "ports": [k2], "ticket": there}]
                assert len(stream.ask(*_put(fresh, here, chain)).receipts) == 2
        cluster.keepers.pop("k3")
        k3.ask_to_stop()
        k3.wait_stopped(time.monotonic() + 5)
    kinds = {"keeper and master": (master, to_master), "client and keeper": (k1, to_k1), "keeper and keeper": (k2, to_k2)}
    before = counters(cluster)
    with nothing_changes(cluster):
        for kind, (port, relay) in kinds.items():
            sessions = [bytes(each) for each in relay.sent if each]
            assert sessions, kind
            longest = max(sessions, key=len)
            for data in sessions[:3] + [longest]:
                hello_end = data.index(b"\r\n\r\n") + 4
                for again in (data, data + data, data[hello_end:], data[:hello_end], data[:hello_end] * 2):
                    played.append(play_back(port, again))
            for at in range(0, min(len(longest), 1200), 25):
                flipped = bytearray(longest)
                flipped[at] ^= 0xFF
                played.append(play_back(port, bytes(flipped)))
        assert max(played) < 1000, "a challenge at most"
        _heartbeats(cluster, beats.heard, before)
    assert len(played) > 150
    assert counters(cluster)["strangers_refused"] > before["strangers_refused"] + 50


def _heartbeats(cluster, heard, before):
    """Those of a keeper that said farewell, played back; forged; signed with the wrong key: dropped, told in one line each, never answered."""
    good = heartbeats.unpack(heard[-1], cluster.ring.node)
    forged = (heartbeats.pack(good, b"x" * 32), heartbeats.pack(good, cluster.ring.ticket), heard[-1][:-1], heard[-1] + b"\0", b"",
              bytes([heard[-1][0], heard[-1][1] ^ 1]) + heard[-1][2:])
    stale = (*heard[-3:], heartbeats.pack(good._replace(session="0" * 16, number=1 << 60), cluster.ring.node),
             heartbeats.pack(good._replace(keeper="9" * 32, number=1 << 60), cluster.ring.node))
    flips = [heard[-1][:at] + bytes([heard[-1][at] ^ mask]) + heard[-1][at + 1:] for at in range(len(heard[-1])) for mask in (1, 0xFF)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        there = HOST, cluster.master.ready["heartbeat_port"]
        for data in (*forged, *flips, *stale):
            sock.sendto(data, there)
        live_cluster.until(lambda: counters(cluster)["heartbeats_dropped"] >= before["heartbeats_dropped"] + len(forged) + len(flips)
                           and counters(cluster)["heartbeats_stale"] >= before["heartbeats_stale"] + len(stale), 5)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(100)
    assert len(lines_with(cluster.master, "heartbeat dropped")) == 1 and len(lines_with(cluster.master, "heartbeat stale")) <= 2
    assert "k3" not in cluster.states() or cluster.states()["k3"] != "live"
