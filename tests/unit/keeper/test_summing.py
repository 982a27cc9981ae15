"""The keeper that sums a file of several blocks: real ports with real stores, and a master that only says where blocks are."""

import hashlib
import os
import secrets

import pytest

from dfs_lib import checksums, errors
from dfs_lib.keeper import rounds, scrubber, summing
from dfs_lib.model import CHUNK_SIZE, MIB
from dfs_lib.wire import messages, trust
import keeper_helpers as h
import store_helpers


class Master:
    """Answers LocateBlocks a page at a time, and hears complaints. file: [(block, data, [Port, …])]"""

    def __init__(self, reader, file, page=2):
        self.reader, self.file, self.page = reader, file, page
        self.firsts, self.complaints, self.refusal, self.n_away = [], [], None, 0

    def connect(self):
        if self.n_away:
            self.n_away -= 1
            if self.n_away % 2:
                return None
            raise errors.PeerGone(address="the master", detail="away")
        return self

    def close(self):
        pass

    def ask(self, message, timeout_s):
        if isinstance(message, messages.ReplicaBad):
            self.complaints.append((message.block, message.keeper))
            return messages.Done()
        if self.refusal is not None:
            raise self.refusal
        assert message.order == 7
        self.firsts.append(message.first)
        found = messages.BlocksLocated(blocks=[self.located(index) for index in range(message.first, min(len(self.file), message.first + self.page))])
        return messages.decode(found.code, found.to_header())

    def located(self, index):
        block, data, holders = self.file[index]
        return {"index": index, "block": block, "size": len(data), "crcs": checksums.crc_table(bytes.fromhex(block), data).hex(), "sources": [
            {"keeper": one.keeper_id, "host": "127.0.0.1", "ports": [one.port],
             "ticket": one.ticket(block, len(data), trust.READ, self.reader.keeper_id)} for one in holders]}


class Life:
    """A Summer of the first port, whose clock only its own waiting moves."""

    def __init__(self, ports, holders, rate=0, page=2, sizes=(MIB, MIB, MIB, 700)):
        self.ports = ports
        file = []
        for index, size in enumerate(sizes):
            block, data = secrets.token_hex(16), os.urandom(size)
            for number in holders[index]:
                store_helpers.put(ports[number].store, block, data)
            file.append((block, data, [ports[number] for number in holders[index]]))
        self.file, self.master = file, Master(ports[0], file, page)
        self.now_s, self.busy_until_s, self.end_s, self.told = 50.0, 0.0, float("inf"), []
        self.summer = summing.Summer(ports[0].store, ports[0].keeper_id, ports[0].peers, self.master.connect, self.told.append,
                                     lambda: self.now_s < self.busy_until_s, rate, clock=lambda: self.now_s)

    def wait(self, seconds):
        self.now_s += seconds
        return self.now_s >= self.end_s

    @property
    def size(self):
        return sum(len(data) for _block, data, _holders in self.file)

    def total(self, size=None):
        return self.summer.total({"order": 7, "kind": "sum", "version": 9, "size": self.size if size is None else size}, self.wait)

    @property
    def expected(self):
        return {"sha256": hashlib.sha256(b"".join(data for _block, data, _holders in self.file)).hexdigest(), "n": len(self.file), "size": self.size}

    def damage(self, index, number, chunk_byte=5):
        path = self.path(index, number)
        with open(path, "r+b") as file:
            file.seek(chunk_byte)
            byte = file.read(1)[0]
            file.seek(chunk_byte)
            file.write(bytes((byte ^ 1,)))

    def path(self, index, number):
        block = self.file[index][0]
        return os.path.join(self.ports[number].store.path, "blocks", block[-2:], block)


@pytest.fixture
def ports(tmp_path):
    made = [h.Port(str(tmp_path / f"k{number}")) for number in range(3)]
    yield made
    for port in made:
        port.close()
        assert port.slot.active == 0


def test_blocks_here_and_elsewhere_make_one_sum_a_page_at_a_time(ports):
    life = Life(ports, [(0, 1), (1, 2), (2,), (1, 0)], sizes=(2 * CHUNK_SIZE + 9, 1, CHUNK_SIZE, 700))
    assert life.total() == life.expected
    assert life.master.firsts == [0, 2, 4] and life.told == [] and life.master.complaints == []
    assert life.ports[1].slot.n_out == 1 and life.ports[0].slot.n_out == 0  # what is here is read here


def test_damage_here_is_put_away_and_told_and_the_right_bytes_come_from_elsewhere(ports):
    life = Life(ports, [(0, 1), (0, 1), (0, 2), (0, 1)], sizes=(3 * CHUNK_SIZE, 100, CHUNK_SIZE, 700))
    life.damage(0, 0, 2 * CHUNK_SIZE + 1)  # in its last chunk: the first two have gone into the sum by then
    os.unlink(life.path(2, 0))
    assert life.total() == life.expected
    assert [(event["kind"], event["block"]) for event in life.told] == [("bad", life.file[0][0]), ("bad", life.file[2][0])]
    assert [one.name.startswith(life.file[0][0]) for one in ports[0].store.quarantined()] == [True]


def test_damage_elsewhere_is_told_to_the_master_and_another_replica_is_read(ports):
    life = Life(ports, [(1, 2)] * 4)
    life.damage(1, 1)
    os.unlink(life.path(2, 1))
    assert life.total() == life.expected
    assert life.master.complaints == [(life.file[1][0], ports[1].keeper_id), (life.file[2][0], ports[1].keeper_id)]


def test_a_keeper_that_is_away_costs_one_try_and_no_complaint(ports):
    life = Life(ports, [(1, 2)] * 4, page=4)
    ports[1].server.stop(0.2)
    dialled, dial = [], ports[0].peers.dial
    ports[0].peers.pool._dial = lambda host, port, timeout_s: (dialled.append(port), dial(host, port, timeout_s))[1]
    assert life.total() == life.expected
    assert dialled.count(ports[1].port) == 1 and life.master.complaints == []


def test_with_no_good_replica_left_nothing_is_summed(ports):
    life = Life(ports, [(0, 1), (0, 1), (1,), (0,)])
    life.damage(1, 0)
    life.damage(1, 1)
    with pytest.raises(errors.OrderFailed, match=life.file[1][0]):
        life.total()
    assert [event["block"] for event in life.told] == [life.file[1][0]] and life.master.complaints == [(life.file[1][0], ports[1].keeper_id)]


def test_bytes_that_match_a_trailer_and_not_the_catalog_are_no_part_of_a_sum(ports):
    life = Life(ports, [(0,), (0, 1), (0,), (0,)])
    block, data, holders = life.file[1]
    life.file[1] = block, bytes(len(data)), holders  # what the catalog vouches for is something else
    with pytest.raises(errors.OrderFailed):
        life.total()
    assert life.told == []  # by its own checksums the replica is good


def test_it_keeps_to_the_rate_and_lets_transfers_go_first(ports):
    life = Life(ports, [(0,)] * 4)
    life.total()
    assert life.now_s - 50.0 == pytest.approx(life.size / rounds.BLOCK_RATE)
    slow = Life(ports, [(0,)] * 4, rate=MIB)
    slow.total()
    assert slow.now_s - 50.0 == pytest.approx(slow.size / MIB)
    busy = Life(ports, [(0,)] * 4)
    busy.busy_until_s = 1e9
    busy.total()
    assert busy.now_s - 50.0 == pytest.approx(busy.size / rounds.BLOCK_RATE + 4 * rounds.YIELD_S, abs=8 * rounds.LOOK_S)


def test_tickets_are_made_anew_before_they_lapse_in_the_middle_of_a_block_too(ports):
    life = Life(ports, [(1,)] * 4, rate=MIB // 200, page=4, sizes=(3 * CHUNK_SIZE, CHUNK_SIZE, 5, 5))
    assert life.total() == life.expected
    assert life.master.firsts == [0, 0, 2, 4] and life.now_s < 1000.0


def test_a_master_that_is_away_for_a_while_is_waited_for_and_one_that_refuses_ends_it(ports):
    life = Life(ports, [(0, 1)] * 4)
    life.master.n_away = 20
    assert life.total() == life.expected
    life.master.n_away = 1000
    with pytest.raises(errors.NetworkError):
        life.total()
    life.master.n_away, life.master.refusal = 0, errors.NoSuchFile(path="version 9")
    with pytest.raises(errors.NoSuchFile):
        life.total()


def test_a_sum_of_fewer_bytes_than_the_file_has_is_none(ports):
    life = Life(ports, [(0,)] * 4)
    with pytest.raises(errors.OrderFailed):
        life.total(size=life.size + 1)


def test_it_stops_at_once_when_told_to(ports):
    life = Life(ports, [(0,)] * 4)
    life.end_s = 50.0 + 0.5 * MIB / rounds.BLOCK_RATE
    with pytest.raises(scrubber.Stopped):
        life.total()
