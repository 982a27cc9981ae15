"""The scrub that runs by itself: evenly over its time, after transfers, on from where it was; and what it tells."""

import hashlib
import json
import os

import pytest

from dfs_lib import errors
from dfs_lib.keeper import rounds, scrubber, store as store_module
from dfs_lib.keeper.store import Store
from dfs_lib.model import MIB
import store_helpers as h

PERIOD_S = 25_600.0  # 100 s a directory


class Life:
    """A Rounds on a store, with a clock that only its own waiting moves."""

    def __init__(self, store, **rest):
        self.now_s, self.wall_s, self.end_s = 1000.0, 1e9, float("inf")
        self.told, self.n_reports, self.busy_until_s = [], 0, 0.0
        self.read_s = []
        self.rounds = rounds.Rounds(store, self.tell, lambda: self.now_s < self.busy_until_s, self.report, rest.pop("period_s", PERIOD_S),
                                    clock=lambda: self.now_s, wall=lambda: self.wall_s, wait=self.wait, **rest)

    def tell(self, event):
        self.told.append(event)
        if event["kind"] == "scrubbed":
            self.read_s.append(self.now_s)

    def report(self):
        self.n_reports += 1

    def wait(self, seconds):
        self.now_s += seconds
        self.wall_s += seconds
        return self.now_s >= self.end_s

    def until(self, end_s):
        """Run so many seconds, then stop it."""
        self.end_s = self.now_s + end_s
        self.rounds.run()
        return self

    @property
    def blocks(self):
        return [event["block"] for event in self.told if event["kind"] == "scrubbed"]


@pytest.fixture
def store(tmp_path):
    store_module.prepare(tmp_path)
    with Store(tmp_path, h.CLUSTER, slot="slot1") as made:
        yield made


def block_in(bucket, n):
    return f"{n:030x}{bucket:02x}"


def fill(store, buckets, size=3000):
    blocks = [block_in(bucket, n) for n, bucket in enumerate(buckets)]
    for n, block in enumerate(blocks):
        h.put(store, block, h.data_of(size, n))
    return blocks


def test_a_round_is_spread_over_its_time_and_followed_by_another(store):
    blocks = fill(store, [0, 64, 64, 128, 255])
    life = Life(store).until(2.5 * PERIOD_S)
    assert sorted(blocks, key=lambda block: (block[-2:], block)) * 2 == life.blocks[:10] and len(life.blocks) == 13
    due = [0.0, 6400.0, 6450.0, 12_800.0, 25_500.0]
    assert [round(at - 1000.0, -1) for at in life.read_s[:5]] == due
    assert [round(at - 1000.0 - PERIOD_S, -1) for at in life.read_s[5:10]] == due
    assert life.n_reports == 2  # the whole inventory, after each round: what has gone cannot be read
    state = life.rounds.state()
    assert (state.round, state.bad, state.ended_bad) == (3, 0, 0) and state.share == pytest.approx(0.5, abs=0.01) and state.left_s <= PERIOD_S / 2


def test_it_goes_on_where_it_was_after_a_restart(store, tmp_path):
    blocks = fill(store, range(0, 256, 16))
    life = Life(store).until(PERIOD_S / 2)
    again = Life(store)
    again.wall_s = life.wall_s
    again.rounds = rounds.Rounds(store, again.tell, lambda: False, again.report, PERIOD_S, clock=lambda: again.now_s,
                                 wall=lambda: again.wall_s, wait=again.wait)
    again.until(PERIOD_S / 2 + 50)
    assert life.blocks + again.blocks == blocks + blocks[:1]  # each once, then the next round begins
    assert again.read_s[0] - 1000.0 < 900 and again.n_reports == 1
    place = json.loads((tmp_path / "scrub.json").read_text())
    assert place["round"] == 2 and place["ended_bad"] == 0 and not (tmp_path / ".scrub.json.new").exists()


@pytest.mark.parametrize("away_s, hurries", [(PERIOD_S / 4, True), (10 * 365 * 86400.0, True), (-86400.0, False), (-1e9, False)])
def test_time_away_is_made_good_and_a_clock_that_jumped_does_no_harm(store, away_s, hurries):
    fill(store, range(0, 128))
    life = Life(store).until(PERIOD_S / 4)
    again = Life(store)
    again.wall_s = life.wall_s + away_s
    again.rounds = rounds.Rounds(store, again.tell, lambda: False, again.report, PERIOD_S, clock=lambda: again.now_s,
                                 wall=lambda: again.wall_s, wait=again.wait)
    again.until(6000.0)
    gaps = [later - earlier for earlier, later in zip(again.read_s, again.read_s[1:])]
    assert min(gaps) >= 100.0 / rounds.HURRY - 1 and max(gaps) <= 101  # never in one go, never at a standstill
    assert (min(gaps) < 50) == hurries


def test_a_place_that_cannot_be_read_begins_anew(store, tmp_path):
    blocks = fill(store, [3, 200])
    for rubbish in (b"", b"{", b"[]", b'{"round": 1}', json.dumps({"round": 1, "bucket": 700, "after": "", "began_at": 1, "n": 0, "size": 0, "n_bad": 0,
                    "ended_at": None, "ended_bad": None}).encode(), b"\xff" * 100):
        (tmp_path / "scrub.json").write_bytes(rubbish)
        assert Life(store).until(PERIOD_S).blocks == blocks


def test_damage_is_put_away_told_and_counted(store, tmp_path):
    blocks = fill(store, [1, 2, 3])
    with open(h.file_of(tmp_path, blocks[1]), "r+b") as file:
        file.write(b"!")
    life = Life(store).until(PERIOD_S * 0.9)
    assert life.blocks == [blocks[0], blocks[2]] and [event["block"] for event in life.told if event["kind"] == "bad"] == [blocks[1]]
    assert [kept.block for kept in store.quarantined()] == [blocks[1]] and life.rounds.state().bad == 1


def test_the_sum_of_a_whole_file_comes_with_it_and_of_a_part_none(store):
    whole, first, second = (block_in(n, n) for n in range(3))
    h.put(store, whole, b"a whole file")
    h.put(store, first, b"first part", last=False)
    with store.begin(second, {**h.METADATA, "index": 1}, 4) as incoming:
        incoming.write(b"last")
        incoming.finish(h.checksums.crc_table(bytes.fromhex(second), b"last"), True)
    life = Life(store).until(PERIOD_S * 0.9)
    assert [event["sha256"] for event in life.told] == [hashlib.sha256(b"a whole file").hexdigest(), None, None]


def test_transfers_go_first_while_it_is_in_time(store):
    blocks = fill(store, [0], size=4 * MIB)
    life = Life(store)
    life.busy_until_s = 1000.0 + 2.4  # three chunks' patience
    life.until(60.0)
    assert life.blocks == blocks and 1003.0 > life.read_s[0] > 1002.4
    os.unlink(os.path.join(store.path, "scrub.json"))
    late = Life(store)
    late.rounds._place["began_at"] -= PERIOD_S / 2
    late.rounds._started_s -= PERIOD_S / 2
    late.busy_until_s = float("inf")
    late.until(2.0)
    assert late.blocks == blocks  # half a round late: it waits for nobody


def test_a_large_block_is_not_read_in_one_go_and_the_ceiling_holds(store):
    fill(store, [0], size=16 * MIB)
    life = Life(store).until(90.0)
    assert 1.9 < life.read_s[0] - 1000.0 < 2.2  # BLOCK_RATE
    os.unlink(os.path.join(store.path, "scrub.json"))
    slow = Life(store, rate=MIB).until(90.0)
    assert slow.read_s[0] - 1000.0 >= 15.9


def test_a_disk_that_lists_nothing_and_takes_no_place_stops_nobody(store, monkeypatch):
    blocks = fill(store, [5, 9])
    real = Store.ids_in

    def fails_once(self, bucket):
        if bucket == "05":
            raise errors.DiskFault(path="blocks/05", detail="input/output error")
        return real(self, bucket)

    monkeypatch.setattr(Store, "ids_in", fails_once)
    monkeypatch.setattr(rounds.disk, "write_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert Life(store).until(PERIOD_S * 0.9).blocks == blocks[1:]


def test_one_round_can_last_no_time_at_all(store):
    blocks = fill(store, range(0, 256, 5))
    life = Life(store, period_s=1e-6)
    life.rounds._report = lambda: setattr(life, "end_s", 0.0)
    with pytest.raises(scrubber.Stopped):
        life.rounds._round(bytearray(MIB))
        life.rounds._pause(0)
    assert life.blocks == blocks
