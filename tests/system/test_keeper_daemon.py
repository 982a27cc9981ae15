"""The keeper as real processes under a fake master: what it says, what it survives, how it ends."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from dfs_lib import checksums, errors
from dfs_lib.model import CHUNK_SIZE, MIB
from dfs_lib.net import streams
from dfs_lib.wire import messages, trust
from fake_master import FakeMaster, clone_refusal

pytestmark = pytest.mark.system
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KEY = bytes(range(32))
META = {"path": "/a", "version": 7, "index": 0, "file_size": None, "block_size": 64 << 20, "mtime_at": 5.5, "copies": 3,
        "last": True}
PROGRAM = """
import json, logging, sys
from dfs_lib import errors, settings
from dfs_lib.keeper import daemon
logging.basicConfig(level=logging.INFO, format="%(process)d %(levelname)s %(name)s %(message)s")
try:
    sys.exit(daemon.run(settings.resolve([("test", json.loads(sys.argv[1]))])))
except errors.DfsError as e:
    print(f"dfs: {e.message} [{e.code}]", file=sys.stderr)
    sys.exit(e.status)
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition, seconds, what=""):
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, f"not within {seconds} s: {what}"
        threading.Event().wait(0.01)


class Keeper:
    """A keeper daemon in a subprocess."""

    def __init__(self, directory, masters, ports="0,0,0", **more):
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        key_path = os.path.join(self.directory, "cluster.key")
        if not os.path.exists(key_path):
            with open(os.open(key_path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
                out.write(f"dfs-cluster-key-1 {KEY.hex()}\n")
        given = {"data": self.directory, "master": ",".join(f"{m.address[0]}:{m.address[1]}" for m in masters), "ports": ports,
                 "reserve": "1MiB", **more}
        self.log_path = self.directory + f".{secrets.token_hex(3)}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(given)], cwd=ROOT,
                                            stdout=subprocess.PIPE, stderr=log)
        self.pids = [self.process.pid]

    def ready(self):
        """Wait for the ready line and keep what it says."""
        line = self.process.stdout.readline()
        assert line, f"no ready line: {self.log()}"
        self.said = json.loads(line)
        self.id, self.ports = self.said["keeper_id"], self.said["ports"]
        return self

    def log(self):
        with open(self.log_path) as source:
            return source.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(8)
        self.process.stdout.close()
        return status

    def connect(self, index=0):
        return streams.connect("127.0.0.1", self.ports[index], trust.client_credentials(KEY))


@pytest.fixture
def make_master():
    made = []

    def make(**rest):
        made.append(FakeMaster(KEY, **rest))
        return made[-1]

    yield make
    for master in made:
        master.stop()


@pytest.fixture
def master(make_master):
    return make_master()


@pytest.fixture
def make_keeper(tmp_path, master):
    """Function: start a keeper daemon. In the end every one must stop by itself and leave no process."""
    made = []

    def make(name="k", masters=None, **rest):
        made.append(Keeper(tmp_path / name, masters or [master], **rest))
        return made[-1]

    yield make
    for keeper in made:
        keeper.stop()
    pids = {pid for heard in master.registrations.values() for message, _ in heard for pid in message.pids}
    until(lambda: not any(map(is_alive, pids)), 3.0, "every process gone")


def pids_now(master, keeper, n=5):
    """[supervisor, ports…, reporter] as last told, once all run."""
    return master.until(lambda: master.notifies[keeper.id] and len(master.notifies[keeper.id][-1].pids) == n
                        and master.notifies[keeper.id][-1].pids, what="all processes told")


def first_of(master, keeper, block, size, part, chain=()):
    """The PutBlock that begins a block of `size` bytes with the chunk `part`."""
    crc, file = checksums.chunk_crc(bytes.fromhex(block), 0, part), trust.file_of(META["path"], META["version"])
    ticket = master.ticket(trust.WRITE, block, keeper.id, size, trust.ADMIN, file=file)
    return messages.PutBlock(block=block, size=size, meta=META, chain=list(chain), crc=crc, ticket=ticket)


def told(master, keeper, kind, block=None):
    """Events of a kind that this keeper has told, of one block when it is named."""
    return [e for e in master.events[keeper.id] if e["kind"] == kind and block in (None, e["block"], *(row[0] for row in e["stored"] or ()))]


def put(master, keeper, data, index=0, block=None, chain=()):
    block = block or secrets.token_hex(16)
    stream, block_bytes = keeper.connect(index), bytes.fromhex(block)
    parts = [data[at:at + CHUNK_SIZE] for at in range(0, max(1, len(data)), CHUNK_SIZE)]
    stream.set_timeout(5.0)
    stream.send(first_of(master, keeper, block, len(data), parts[0], chain), parts[0])
    for i, part in enumerate(parts[1:], 1):
        stream.send(messages.BlockChunk(crc=checksums.chunk_crc(block_bytes, i, part)), part)
    written = stream.answer()
    stream.close()
    return block, written


def get(master, keeper, block, size, index=0):
    with_stream = keeper.connect(index)
    answer = with_stream.ask(messages.GetBlock(block=block, offset=0, count=size,
                                               ticket=master.ticket(trust.READ, block, keeper.id, size, trust.ADMIN)))
    assert answer.size == size
    data = with_stream.body()
    with_stream.close()
    return data


def block_path(keeper, block):
    return os.path.join(keeper.directory, "blocks", block[-2:], block)


# -- coming up ------------------------------------------------------------------------------------------------------------
def test_it_comes_up_registers_reports_and_beats(master, make_keeper):
    keeper = make_keeper(label="room=204").ready()
    assert {k: keeper.said[k] for k in ("event", "role", "pid", "heartbeat_port", "data", "cluster_id")} == {
        "event": "ready", "role": "keeper", "pid": keeper.process.pid, "heartbeat_port": None, "data": keeper.directory,
        "cluster_id": master.cluster_id}
    message, session = master.registrations[keeper.id][0]
    assert message.ports == keeper.ports and message.labels == {"room": "204"} and message.host is None and message.n_blocks == 0
    master.until(lambda: master.reports[keeper.id] == [{}], what="an empty inventory")
    beats = master.until(lambda: len(master.beats[keeper.id]) >= 3 and list(master.beats[keeper.id]), what="three beats")
    assert [b.number for b in beats] == sorted({b.number for b in beats}) and {b.session for b in beats} == {session}
    assert list(beats[0].loads) == keeper.ports and beats[0].free > 0
    pids = pids_now(master, keeper)
    assert pids[0] == keeper.process.pid and len(set(pids)) == 5
    for index in range(3):
        data = os.urandom(2 * MIB + index)
        block, written = put(master, keeper, data, index)
        assert get(master, keeper, block, len(data), (index + 1) % 3) == data
        assert master.until(lambda: told(master, keeper, "stored", block), what="stored")
    master.until(lambda: sum(len(e["serials"]) for e in told(master, keeper, "transfer_done")) == 6, what="port leases")
    master.until(lambda: master.notifies[keeper.id][-1].n_blocks == 3, what="three blocks counted")


def test_it_stops_cleanly_and_comes_back_with_what_it_had(master, make_keeper):
    keeper = make_keeper().ready()
    block, _ = put(master, keeper, b"content")
    pids = pids_now(master, keeper)
    began_s = time.monotonic()
    assert keeper.stop() == 0 and time.monotonic() - began_s < 5.0
    assert master.farewells == [keeper.id] and not any(map(is_alive, pids))
    again = make_keeper().ready()
    assert again.id == keeper.id
    master.until(lambda: master.reports[keeper.id][-1] == {block: 7}, what="the inventory")
    assert master.registrations[keeper.id][-1][0].incarnation != master.registrations[keeper.id][0][0].incarnation
    assert get(master, again, block, 7) == b"content"


def test_it_waits_for_its_master(make_master, make_keeper):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    class Nowhere:
        address = ("127.0.0.1", port)

    keeper = make_keeper(masters=[Nowhere])
    until(lambda: f"address=127.0.0.1:{port}" in keeper.log(), 5.0, "a warning that names the address")
    make_master(port=port)
    keeper.ready()


def test_it_registers_anew_when_the_master_restarts(make_master, make_keeper):
    first = make_master(cluster_id="a" * 32)
    keeper = make_keeper(masters=[first]).ready()
    block, _ = put(first, keeper, b"content")
    first.stop()
    second = make_master(cluster_id="a" * 32, epoch=2, port=first.address[1])
    second.until(lambda: second.reports[keeper.id] and second.reports[keeper.id][-1] == {block: 7}, what="the inventory")
    assert second.registrations[keeper.id][0][0].epoch == 1
    second.until(lambda: second.beats[keeper.id], what="a beat")
    assert get(second, keeper, block, 7) == b"content"
    with pytest.raises(errors.BadTicket):  # of the reign that is over
        get(first, keeper, block, 7)
    third = make_master(cluster_id="a" * 32, epoch=1)
    keeper.stop()
    old = make_keeper(masters=[third])
    until(lambda: "has obeyed one of epoch 2" in old.log(), 5.0, "the lower epoch refused")
    assert not third.reports[keeper.id]


# -- refusing to come up ----------------------------------------------------------------------------------------------------
def test_a_second_daemon_on_the_directory_is_refused(master, make_keeper):
    keeper = make_keeper().ready()
    second = make_keeper()
    assert second.process.wait(5) == 1 and "[directory_in_use]" in second.log()
    assert put(master, keeper, b"x")[1].receipts


def test_the_master_of_another_cluster_is_refused(make_master, master, make_keeper):
    make_keeper().ready().stop()
    other = make_master()
    keeper = make_keeper(masters=[other])
    assert keeper.process.wait(8) == 1 and "[wrong_cluster]" in keeper.log()
    assert not any(other.registrations.values())


def test_a_wrong_key_is_told_at_once(master, tmp_path, make_keeper):
    keeper = make_keeper(insecure="yes")
    assert keeper.process.wait(5) == 6 and "[bad_key]" in keeper.log()


def test_without_a_key_it_says_where_to_put_one(master, tmp_path, make_keeper):
    keeper = make_keeper(key_file=str(tmp_path / "nowhere.key"))
    assert keeper.process.wait(5) == 6 and "[bad_key_file]" in keeper.log()


def test_a_port_that_is_taken_is_named(master, make_keeper):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        keeper = make_keeper(ports=str(sock.getsockname()[1]))
        assert keeper.process.wait(8) == 2 and "address already in use" in keeper.log()


def test_a_refusal_that_passes_is_waited_for(master, make_keeper):
    master.refusal = clone_refusal("me")
    keeper = make_keeper()
    until(lambda: "the same id lives elsewhere" in keeper.log(), 5.0, "the refusal in the log")
    master.refusal = None
    keeper.ready()


# -- being killed -------------------------------------------------------------------------------------------------------------
def test_a_killed_port_comes_back_on_its_port_and_the_others_serve_meanwhile(master, make_keeper):
    keeper = make_keeper().ready()
    block, _ = put(master, keeper, b"content")
    pids = pids_now(master, keeper)
    os.kill(pids[1], signal.SIGKILL)
    killed_s = time.monotonic()
    for index in (1, 2):
        assert get(master, keeper, block, 7, index) == b"content"
    assert get(master, keeper, block, 7, 0) == b"content"  # it waits in the backlog: refused it is never
    assert time.monotonic() - killed_s < 3.0
    latest = lambda: master.notifies[keeper.id][-1].pids  # noqa: E731
    after = master.until(lambda: latest()[1] != pids[1] and len(latest()) == 5 and latest(), what="a new process")
    assert [a == b for a, b in zip(after, pids)] == [True, False, True, True, True]
    assert len(master.registrations[keeper.id]) == 1


def test_what_a_killed_port_has_stored_and_not_told_of_is_reported(master, make_keeper):
    keeper = make_keeper().ready()
    pids = pids_now(master, keeper)
    block, _ = put(master, keeper, b"content")
    before = master.until(lambda: list(master.reports[keeper.id]), what="the first report")
    os.kill(pids[1], signal.SIGKILL)
    after = master.until(lambda: master.reports[keeper.id][len(before):], what="another report")
    assert block in after[0] and block not in before[-1] and len(master.registrations[keeper.id]) == 1


def test_what_a_killed_port_left_half_written_is_swept(master, make_keeper):
    keeper = make_keeper().ready()
    pids = pids_now(master, keeper)
    block, data = secrets.token_hex(16), os.urandom(CHUNK_SIZE)
    stream = keeper.connect()
    stream.send(first_of(master, keeper, block, 2 * CHUNK_SIZE, data), data)
    incoming = os.path.join(keeper.directory, "incoming")
    until(lambda: os.listdir(incoming), 3.0, "half a block")
    os.kill(pids[1], signal.SIGKILL)
    until(lambda: not os.listdir(incoming), 3.0, "swept")
    stream.close()
    assert put(master, keeper, data + data, block=block)[1].receipts


def test_a_killed_supervisor_takes_its_children_along(master, make_keeper):
    keeper = make_keeper(ports="0,0").ready()
    pids = pids_now(master, keeper, 4)
    keeper.process.kill()
    keeper.process.wait()
    until(lambda: not any(map(is_alive, pids)), 2.0, "children gone")
    # … and the same ports can be had again at once.
    again = make_keeper(ports=",".join(map(str, keeper.ports))).ready()
    assert again.ports == keeper.ports and again.id == keeper.id


def test_a_killed_reporter_comes_back_and_registers_again(master, make_keeper):
    keeper = make_keeper().ready()
    pids = pids_now(master, keeper)
    os.kill(pids[4], signal.SIGKILL)
    block, _ = put(master, keeper, b"content")  # nobody reads the mailbox; the letter waits
    master.until(lambda: len(master.registrations[keeper.id]) == 2, what="a second registration")
    first, second = (message for message, _ in master.registrations[keeper.id])
    assert first.incarnation == second.incarnation
    master.until(lambda: told(master, keeper, "stored", block), what="the letter")
    session = master.registrations[keeper.id][1][1]
    master.until(lambda: [b for b in master.beats[keeper.id] if b.session == session], what="beats of the new session")
    keeper.process.stdout.close()
    keeper.process.stdout = open(os.devnull)


def test_a_paused_keeper_goes_on_where_it_was(master, make_keeper):
    keeper = make_keeper().ready()
    pids = pids_now(master, keeper)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(errors.PeerTimeout):
        streams.connect("127.0.0.1", keeper.ports[0], trust.client_credentials(KEY), 0.3)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert put(master, keeper, b"x")[1].receipts


def test_stopping_lets_a_transfer_end(master, make_keeper):
    keeper = make_keeper().ready()
    block, data = secrets.token_hex(16), os.urandom(2 * CHUNK_SIZE)
    parts = [data[:CHUNK_SIZE], data[CHUNK_SIZE:]]
    stream = keeper.connect()
    stream.send(first_of(master, keeper, block, len(data), parts[0]), parts[0])
    until(lambda: os.listdir(os.path.join(keeper.directory, "incoming")), 3.0, "half a block")
    keeper.process.send_signal(signal.SIGTERM)
    until(lambda: master.farewells, 3.0, "the farewell")
    stream.send(messages.BlockChunk(crc=checksums.chunk_crc(bytes.fromhex(block), 1, parts[1])), parts[1])
    assert stream.answer().receipts
    stream.close()
    assert keeper.process.wait(5) == 0


# -- orders -------------------------------------------------------------------------------------------------------------------
def hop(master, target, block, size, source):
    ticket = master.ticket(trust.COPY, block, target.id, size, source.id)
    return {"keeper": target.id, "host": "127.0.0.1", "ports": target.ports, "ticket": ticket}


def copy(master, source, target, block, size, **more):
    """Order one copy; returns the order's id."""
    return master.order(source.id, "copy", block=block, size=size, chain=[hop(master, target, block, size, source)], **more)


@pytest.mark.parametrize("size", [100, 3 * MIB + 1])
def test_a_copy_arrives_checked_and_with_its_story(master, make_keeper, size):
    source, target = make_keeper("k1").ready(), make_keeper("k2").ready()
    data = os.urandom(size)
    block, _ = put(master, source, data)
    order = copy(master, source, target, block, size)
    done = master.outcome(source.id, order)
    assert done["error"] is None and done["keepers"] == [target.id] and done["block"] == block
    assert get(master, target, block, size) == data
    stored = master.until(lambda: told(master, target, "stored"), what="stored at the target")
    assert stored[0]["stored"][0][0] == block
    with open(block_path(source, block), "rb") as a, open(block_path(target, block), "rb") as b:
        assert a.read() == b.read()  # the same to the last byte, trailer included


def test_a_damaged_replica_is_never_copied_on(master, make_keeper):
    source, target = make_keeper("k1").ready(), make_keeper("k2").ready()
    data = os.urandom(2 * MIB)
    block, _ = put(master, source, data)
    with open(block_path(source, block), "r+b") as file:
        file.seek(MIB + 5)
        file.write(bytes([data[MIB + 5] ^ 1]))
    order = copy(master, source, target, block, len(data))
    assert master.outcome(source.id, order)["error"] == "checksum"
    assert [e["block"] for e in told(master, source, "bad")] == [block]
    assert not os.path.exists(block_path(source, block)) and os.listdir(os.path.join(source.directory, "quarantine"))
    until(lambda: not os.listdir(os.path.join(target.directory, "incoming")), 3.0, "the half copy forgotten")
    assert not os.path.exists(block_path(target, block))


def test_a_copy_to_a_keeper_that_is_away_fails_with_the_reason(master, make_keeper):
    source = make_keeper("k1").ready()
    target = make_keeper("k2").ready()
    block, _ = put(master, source, b"content")
    target.stop()
    order = copy(master, source, target, block, 7)
    done = master.outcome(source.id, order)
    assert done["error"] == "order_failed" and target.id in done["reason"]
    assert get(master, source, block, 7) == b"content"


def test_a_copy_keeps_to_its_rate(master, make_keeper):
    source, target = make_keeper("k1").ready(), make_keeper("k2").ready()
    block, _ = put(master, source, os.urandom(3 * MIB))
    began_s = time.monotonic()
    order = copy(master, source, target, block, 3 * MIB, rate=3 * MIB)
    assert master.outcome(source.id, order)["error"] is None
    assert 0.9 < time.monotonic() - began_s < 4.0


def test_dropped_blocks_are_gone_and_named(master, make_keeper):
    keeper = make_keeper().ready()
    blocks = [put(master, keeper, b"content")[0] for _ in range(3)]
    order = master.order(keeper.id, "drop", blocks=blocks[:2] + ["f" * 32])
    assert master.outcome(keeper.id, order)["n"] == 3
    assert [e["block"] for e in told(master, keeper, "dropped")] == blocks[:2] + ["f" * 32]
    assert [os.path.exists(block_path(keeper, block)) for block in blocks] == [False, False, True]
    master.order(keeper.id, "report")
    master.until(lambda: master.reports[keeper.id][-1] == {blocks[2]: 7}, what="the inventory again")


def test_verify_and_scrub_find_what_has_rotted(master, make_keeper):
    keeper = make_keeper().ready()
    blocks = sorted(put(master, keeper, os.urandom(5000))[0] for _ in range(4))
    for block in blocks[:2]:
        with open(block_path(keeper, block), "r+b") as file:
            byte = file.read(1)
            file.seek(0)
            file.write(bytes([byte[0] ^ 1]))
    first = master.order(keeper.id, "verify", block=blocks[0])
    good = master.order(keeper.id, "verify", block=blocks[2])
    assert master.outcome(keeper.id, first)["n"] == 0 and master.outcome(keeper.id, good)["n"] == 1
    scrub = master.order(keeper.id, "scrub")
    done = master.outcome(keeper.id, scrub)
    assert done["n"] == 2 and done["size"] == 10_000
    assert [e["block"] for e in told(master, keeper, "bad")] == blocks[:2]
    assert sum(e["n"] for e in told(master, keeper, "scrubbed") if e["order"] == scrub) == 2
    kept = os.listdir(os.path.join(keeper.directory, "quarantine"))
    assert sorted(name[:32] for name in kept if "reason" not in name) == blocks[:2]


def test_a_file_cut_while_the_keeper_was_down_shows_in_its_report(master, make_keeper):
    keeper = make_keeper().ready()
    blocks = [put(master, keeper, b"content")[0] for _ in range(2)]
    keeper.stop()
    os.truncate(block_path(keeper, blocks[0]), 20)
    again = make_keeper().ready()
    master.until(lambda: master.reports[again.id][1:] == [{blocks[1]: 7}], what="the inventory")
    master.until(lambda: told(master, again, "bad", blocks[0]), what="the damage told")
    assert not os.path.exists(block_path(again, blocks[0]))
