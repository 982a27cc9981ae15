"""Want against have → copy, drop, wait or leave. One line draws a block and its keepers, the next is the answer."""

import random
import time
import tracemalloc

import pytest

from dfs_lib.model import GIB, MIB, KeeperView
from dfs_lib.plan import placement, repair

NOW_S = 10_000.0
GRACE_S, CLEAN_STOP_GRACE_S = 60.0, 1800.0
BLOCK = "ab" * 16
UNITS = {"M": MIB, "G": GIB}


class Drawing:
    """"want 2: k1 has, k2 free, k3 dead has lost=14 room=a": a block and its keepers.

    has: holds it, confirmed; unconfirmed: holds it, not confirmed; lost=14: stopped counting 14 s ago (else long ago);
    stopped: after a clean stop; leaving: its replica shall go; 10G: free space; used=10G.
    """

    def __init__(self, text):
        head, _, tail = text.partition(":")
        self.keepers, self.holders, self.lost_since_s, self.clean_stopped, self.leaving = {}, {}, {}, set(), set()
        for part in tail.split(","):
            self._keeper(*part.split())
        self.block = repair.BlockView(BLOCK, 64 * MIB, int(head.split()[1]), self.holders, frozenset(self.leaving))

    def _keeper(self, name, *words):
        number, labels = int(name[1:]), {}
        facts = {"host": "h" + name[1:], "state": "live", "draining": False, "sick": "", "free": 100 * GIB, "used": 100 * GIB,
                 "load": 0}
        for word in words:
            key, _, value = word.partition("=")
            if word in ("dead", "suspect"):
                facts["state"] = word
            elif word == "draining":
                facts["draining"] = True
            elif word == "sick":
                facts["sick"] = "read-only disk"
            elif word in ("has", "unconfirmed"):
                self.holders[number] = word == "has"
            elif word == "leaving":
                self.leaving.add(number)
            elif word == "stopped":
                self.clean_stopped.add(number)
            elif key == "lost":
                self.lost_since_s[number] = NOW_S - float(value)
            elif key == "host":
                facts["host"] = value
            elif key == "used":
                facts["used"] = int(value[:-1]) * UNITS[value[-1]]
            elif value:
                labels[key] = value
            elif word != "free":
                facts["free"] = int(word[:-1]) * UNITS[word[-1]]
        self.keepers[number] = KeeperView(number, f"{number:032x}", ports=(8000,), labels=labels, **facts)

    def plan(self, seed=0, spread=("room",), now_s=NOW_S, **more):
        return repair.plan(self.block, self.keepers, placement.Field(self.keepers.values(), spread), random.Random(seed),
                           now_s=now_s, lost_since_s=self.lost_since_s, grace_s=GRACE_S,
                           clean_stop_grace_s=CLEAN_STOP_GRACE_S, clean_stopped=self.clean_stopped, **more)


def in_words(decision):
    match decision:
        case repair.Copy():
            return f"copy k{decision.source} to {' '.join(f'k{number}' for number in sorted(decision.targets))}"
        case repair.Drop():
            return f"drop k{decision.keeper}"
        case repair.Wait():
            return f"wait {decision.until_s - NOW_S:g}"
    return "leave"


def answer(text, **more):
    """The decision in words, when twenty throws of the dice agree on it."""
    drawing = Drawing(text)
    answers = {in_words(drawing.plan(seed, **more)) for seed in range(20)}
    assert len(answers) == 1, answers
    return answers.pop()


@pytest.mark.parametrize("drawing, decision", [
    # -- healthy
    ("want 2: k1 has, k2 has, k3 free", "leave"),
    ("want 1: k1 has, k2 free", "leave"),
    ("want 2: k1 has, k2 suspect has, k3 free", "leave"),
    ("want 2: k1 has, k2 sick has, k3 free", "leave"),
    # -- one good copy left: no wait
    ("want 2: k1 has, k2 free, k3 dead has lost=1", "copy k1 to k2"),
    ("want 2: k1 has, k2 free, k3 dead has lost=1 stopped", "copy k1 to k2"),
    ("want 2: k1 suspect has, k2 free, k3 dead has lost=1", "copy k1 to k2"),
    # … up to the second copy; the rest has its grace
    ("want 3: k1 has, k2 dead has lost=14, k3 dead has lost=14, k4 free", "copy k1 to k4"),
    # -- a grace for the rest
    ("want 3: k1 has, k2 has, k3 dead has lost=14, k4 free", "wait 46"),
    ("want 3: k1 has, k2 has, k3 dead has lost=14 stopped, k4 free", "wait 1786"),
    ("want 4: k1 has, k2 has, k3 dead has lost=14, k4 dead has lost=20 stopped, k5 free, k6 free", "wait 46"),
    # one of two absent ones is enough: the later return is waited for
    ("want 3: k1 has, k2 has, k3 dead has lost=50, k4 dead has lost=14, k5 free", "wait 46"),
    ("want 3: k1 has, k2 has, k3 dead has lost=70, k4 dead has lost=14, k5 free", "wait 46"),
    # -- no grace for what no absent keeper explains
    ("want 4: k1 suspect has, k2 has, k3 free, k4 free", "copy k2 to k3 k4"),
    ("want 3: k1 has, k2 free, k3 free", "copy k1 to k2 k3"),
    ("want 4: k1 suspect has, k2 has, k3 dead has lost=1, k4 free", "copy k2 to k4"),
    ("want 3: k1 suspect has, k2 has, k3 dead draining has lost=1, k4 free", "copy k2 to k4"),
    # -- draining: a good source that does not count
    ("want 2: k1 has, k2 draining has, k3 free", "copy k1 to k3"),
    ("want 1: k1 draining has, k2 free", "copy k1 to k2"),
    ("want 2: k1 has, k2 draining has, k3 has", "drop k2"),
    ("want 2: k1 has, k2 draining has, k3 suspect has", "leave"),
    ("want 2: k1 has, k2 draining suspect has, k3 has", "leave"),
    ("want 1: k1 draining has, k2 dead", "leave"),
    ("want 2: k1 leaving has, k2 has, k3 has", "drop k1"),
    ("want 2: k1 leaving has, k2 suspect has, k3 free", "copy k1 to k3"),
    # -- I9, I3: what is not confirmed neither counts nor proves
    ("want 2: k1 has, k2 unconfirmed, k3 free", "copy k1 to k3"),
    ("want 2: k1 has, k2 unconfirmed lost=4, k3 free", "wait 6"),
    ("want 2: k1 has, k2 unconfirmed lost=12, k3 free", "copy k1 to k3"),
    ("want 3: k1 has, k2 unconfirmed lost=4, k3 dead has lost=4, k4 free", "wait 6"),
    ("want 2: k1 has, k2 unconfirmed, k3", "copy k1 to k3"),
    ("want 1: k1 unconfirmed, k2 free", "leave"),
    ("want 2: k1 has, k2 has, k3 unconfirmed", "leave"),
    # -- none left
    ("want 2: k1 dead has, k2 free, k3 free", "leave"),
    ("want 2: k1 dead has, k2 unconfirmed, k3 free", "leave"),
    # -- nobody to take it
    ("want 3: k1 has, k2 has", "leave"),
    ("want 3: k1 has, k2 has, k3 10M, k4 draining, k5 sick, k6 suspect", "leave"),
    # -- too many: the most crowded, then the sick, then the fullest
    ("want 2: k1 has, k2 has used=300G, k3 has", "drop k2"),
    ("want 2: k1 has, k2 has used=300G, k3 sick has", "drop k3"),
    ("want 2: k1 has room=a used=300G, k2 has room=b, k3 has room=b used=101G", "drop k3"),
    ("want 2: k1 has host=x, k2 has host=x used=101G, k3 has room=a used=300G", "drop k2"),
    ("want 2: k1 has, k2 has, k3 dead has", "leave"),
    ("want 2: k1 has, k2 suspect has, k3 has", "leave"),
    ("want 2: k1 has, k2 has, k3 has used=300G, k4 suspect has", "drop k3"),
    ("want 1: k1 has, k2 dead has", "leave"),
    # -- badly placed: first the copy …
    ("want 2: k1 has room=a, k2 has room=a, k3 free room=b", "copy k1 to k3 or from k2"),
    ("want 2: k1 has host=x, k2 has host=x, k3 free", "copy k1 to k3 or from k2"),
    # … then the drop
    ("want 2: k1 has room=a used=300G, k2 has room=a, k3 has room=b", "drop k1"),
    # … but not when the other place is no better, full, or somebody is shaky
    ("want 2: k1 has room=a, k2 has room=a, k3 free room=a", "leave"),
    ("want 2: k1 has room=a, k2 has room=a, k3 10M room=b", "leave"),
    ("want 2: k1 has room=a, k2 suspect has room=a, k3 free room=b", "leave"),
    ("want 2: k1 has host=x, k2 has host=x, k3 free host=x", "leave"),
])
def test_one_block(drawing, decision):
    if decision.endswith("or from k2"):
        drawing = Drawing(drawing)
        assert {in_words(drawing.plan(seed)) for seed in range(30)} == {"copy k1 to k3", "copy k2 to k3"}
    else:
        assert answer(drawing) == decision


def test_a_wait_ends_in_a_copy():
    drawing = Drawing("want 3: k1 suspect has, k2 has, k3 dead has lost=14, k4 free")
    wait = drawing.plan()
    assert in_words(drawing.plan(now_s=wait.until_s - 0.01)).startswith("wait")
    assert in_words(drawing.plan(now_s=wait.until_s)) == "copy k2 to k4"


def test_risk_is_the_number_of_good_copies_left():
    assert Drawing("want 3: k1 has, k2 draining has, k3 unconfirmed, k4 dead has, k5").plan().risk == 2
    assert Drawing("want 3: k1 has, k2, k3").plan().risk == 1
    assert Drawing("want 2: k1 has host=x, k2 has host=x, k3").plan().risk == repair.RISK_TIDY
    for text, risk in (("want 2: k1 dead has, k2", 0), ("want 2: k1 has, k2 suspect has", repair.RISK_TIDY)):
        assert repair.risk(Drawing(text).block, Drawing(text).keepers) == risk


def test_what_failed_lately_comes_last_and_is_not_ruled_out():
    text = "want 3: k1 has, k2 suspect has, k3 free, k4 free"
    assert answer(text, avoid={1, 3}) == "copy k2 to k4"
    assert answer("want 2: k1 has, k3 free", avoid={1, 3}) == "copy k1 to k3"


@pytest.mark.parametrize("drawing, reason", [
    ("want 3: k1 has, k2 has, k3 dead has lost=1", "2 of 3 copies are good: k3 dead; copied again unless it returns in time"),
    ("want 2: k1 has, k3 dead has lost=1, k4", "1 of 2 copies are good: one good copy is left"),
    ("want 4: k1 has, k2 has, k3 dead has lost=1, k4 dead has lost=1 stopped", "2 of 4 copies are good: k3 dead, k4 stopped; copied again unless it returns in time"),
    ("want 3: k1 has, k2 has, k3 dead has stopped, k4", "2 of 3 copies are good: k3 stopped longer than the grace"),
    ("want 2: k1 dead has stopped, k2", "no good copy is left; it was on k1 (stopped)"),
    ("want 3: k1 has, k2 has, k3 dead has, k4", "2 of 3 copies are good: k3 dead longer than the grace"),
    ("want 2: k1 has, k2 draining has, k3", "1 of 2 copies are good: k2 draining or leaving"),
    ("want 3: k1 has, k2 has, k3", "2 of 3 copies are good: fewer copies than wanted"),
    ("want 2: k1 dead has, k2 unconfirmed, k3", "no good copy is left; it was on k1 (dead), k2 (has yet to confirm it)"),
    ("want 3: k1 has, k2 has", "2 of 3 copies are good (fewer copies than wanted), and no other live keeper can take it"),
    ("want 3: k1 has, k2 has, k3 1M", "2 of 3 copies are good (fewer copies than wanted), and no room for 67108864 bytes: "
                                      "of 1 live keeper(s) 1 too full"),
    ("want 2: k1 has, k2 has, k3 has used=900G", "3 copies and 2 wanted; of k3: it is the fullest"),
    ("want 1: k1 has room=a, k2 has room=a used=900G", "2 copies and 1 wanted; of k2: shares room=a with k1"),
    ("want 1: k1 has, k2 draining has", "k2 is draining or leaving, and 1 other copies are confirmed"),
    ("want 1: k1 has, k2 draining suspect has", "the copy to drop is on k2 suspect: the order waits for it"),
    ("want 2: k1 has, k2 has", "2 of 2 copies are good"),
])
def test_reasons_are_plain_words(drawing, reason):
    assert Drawing(drawing).plan().reason == reason


def test_an_unknown_holder_is_no_copy():
    drawing = Drawing("want 2: k1 has, k2 free")
    drawing.holders[77] = True
    assert in_words(drawing.plan()) == "copy k1 to k2"
    assert Drawing("want 1: k1 free").plan().reason == "no good copy is left; it was on no keeper"


def test_want_zero_does_not_drop_the_last():
    assert answer("want 0: k1 has, k2 free") == "leave"
    assert answer("want 0: k1 has, k2 has used=900G") == "drop k2"


# -- it comes to an end -----------------------------------------------------------------------------------------------
class World:
    """Random keepers and one block; carries decisions out and checks the promises each time."""

    def __init__(self, seed):
        dice = self.dice = random.Random(seed)
        words = ["", "", "", "", "dead lost=5", "dead lost=900 stopped", "suspect", "draining", "sick", "10M"]
        self.drawing = Drawing(f"want {dice.randrange(1, 5)}:" + ",".join(
            f"k{n} {dice.choice(words)} {dice.choice(['', '', 'has', 'unconfirmed'])} host=h{dice.randrange(8)} "
            f"used={dice.randrange(1, 400)}G {dice.choice(['', 'room=a', 'room=b', 'leaving'])}"
            for n in range(1, dice.randrange(2, 11))))
        self.now_s = NOW_S
        self.n_good_least = len(self.good())

    def good(self, but=None):
        return [number for number, is_confirmed in self.drawing.holders.items() if is_confirmed and number != but
                and self.drawing.keepers[number].state != "dead"]

    def staying(self, but=None):
        return [number for number in self.good(but)
                if not self.drawing.keepers[number].draining and number not in self.drawing.block.leaving]

    def step(self):
        block, keepers, holders = self.drawing.block, self.drawing.keepers, self.drawing.holders
        decision = self.drawing.plan(self.dice.random(), now_s=self.now_s)
        match decision:
            case repair.Copy():
                assert decision.source in self.good()
                assert len(set(decision.targets)) == len(decision.targets) > 0
                for number in decision.targets:
                    keeper = keepers[number]
                    assert number not in holders and keeper.state == "live" and not keeper.draining and not keeper.sick
                    assert keeper.free >= block.size
                    holders[number] = True
            case repair.Drop():
                proof = [number for number in self.staying(but=decision.keeper) if keepers[number].state == "live"]
                assert len(proof) >= max(1, block.want) and holders[decision.keeper]
                del holders[decision.keeper]
            case repair.Wait():
                assert decision.until_s > self.now_s
                self.now_s = decision.until_s
        assert decision.reason
        return decision

    def settle(self):
        for _ in range(60):
            decision = self.step()
            if isinstance(decision, repair.Leave):
                return decision
        raise AssertionError(f"no end: {decision}")

    def n_possible(self):
        able = [k.number for k in self.drawing.keepers.values() if k.state == "live" and not k.draining and not k.sick
                and k.free >= self.drawing.block.size and k.number not in self.drawing.holders and k.number not in self.drawing.block.leaving]
        return len(self.staying()) + len(able)

    def stir(self):
        """Something happens to one keeper."""
        number = self.dice.choice(list(self.drawing.keepers))
        keeper = self.drawing.keepers[number]
        state = self.dice.choice(["live", "suspect", "dead"])
        if keeper.state == "dead" and state != "dead" and number in self.drawing.holders:
            self.drawing.holders[number] = self.dice.random() < 0.7  # back, and its report is in or not
        if state == "dead" and keeper.state != "dead":
            self.drawing.lost_since_s[number] = self.now_s
        self.drawing.keepers[number] = keeper._replace(state=state, draining=self.dice.random() < 0.2)


def check_settled(world):
    want = world.drawing.block.want
    assert len(world.staying()) >= min(want, world.n_possible())
    live = [number for number in world.staying() if world.drawing.keepers[number].state == "live"]
    assert len(live) <= max(1, want)  # no surplus that may go is left
    again = world.drawing.plan(1.5, now_s=world.now_s)
    assert isinstance(again, repair.Leave)


@pytest.mark.parametrize("seed", range(20))
def test_decisions_converge(seed):
    for round_ in range(50):
        world = World(seed * 1000 + round_)
        had_good = bool(world.good())
        decision = world.settle()
        if had_good:
            check_settled(world)
        else:
            assert decision.reason.startswith("no good copy is left")


@pytest.mark.parametrize("seed", range(20))
def test_decisions_converge_while_keepers_come_and_go(seed):
    for round_ in range(20):
        world = World(f"{seed}/{round_}")
        for _ in range(30):
            world.step()
            world.now_s += world.dice.choice([0, 1, 70])
            world.stir()
        had_good = bool(world.good())
        world.settle()
        if had_good:
            check_settled(world)


# -- the queue --------------------------------------------------------------------------------------------------------
def popped(queue, now_s):
    blocks = []
    while (one := queue.pop_due(now_s)) is not None:
        blocks.append(one.block)
    return blocks


def test_the_riskiest_first_then_the_longest_queued():
    queue = repair.Queue()
    for block, risk, now_s in (("a", 2, 1), ("b", 1, 2), ("c", 1, 3), ("d", 99, 0), ("e", 2, 0)):
        queue.add(block, risk, now_s)
    assert queue.counts() == {1: 2, 2: 2, 99: 1}
    assert popped(queue, 10) == ["b", "c", "e", "a", "d"]
    assert len(queue) == 0 and queue.counts() == {} and queue.next_due_s(10) is None


def test_nothing_comes_before_it_is_due():
    queue = repair.Queue()
    queue.add("a", 1, 0, due_s=60, reason="k3 dead")
    queue.add("b", 2, 0, due_s=30)
    assert queue.next_due_s(0) == 30 and queue.pop_due(29.9) is None
    assert queue.next_due_s(30) == 30 and queue.pop_due(30).block == "b"
    assert queue.get("a") == repair.Queued("a", 1, 0, 60, "k3 dead")
    assert queue.pop_due(100) == repair.Queued("a", 1, 0, 60, "k3 dead")


def test_moving_changes_risk_and_due_and_keeps_the_place_in_time():
    queue = repair.Queue()
    for n, block in enumerate("abc"):
        queue.add(block, 2, n, reason="first")
    assert queue.move("a", 5, due_s=50)
    assert queue.move("c", 5, risk=1)
    assert not queue.move("z", 5, risk=1)
    assert popped(queue, 10) == ["c", "b"] and queue.next_due_s(10) == 50
    assert queue.move("a", 11, due_s=11, reason="k3 returned")
    assert queue.pop_due(11) == repair.Queued("a", 2, 0, 11, "k3 returned")
    queue.add("a", 2, 20, queued_s=0)
    queue.add("b", 2, 15)
    assert popped(queue, 20) == ["a", "b"]


def test_removed_ones_do_not_surface():
    queue = repair.Queue()
    queue.add("a", 1, 0)
    queue.add("b", 1, 0, due_s=5)
    assert queue.remove("a") and queue.remove("b") and not queue.remove("b")
    assert "a" not in queue and popped(queue, 10) == [] and queue.next_due_s(10) is None


@pytest.mark.parametrize("seed", range(10))
def test_the_queue_does_what_a_sorted_list_does(seed):
    dice, queue, model, now_s = random.Random(seed), repair.Queue(), {}, 0.0
    for _ in range(3000):
        now_s += dice.choice([0, 0, 1])
        block, risk, due_s = f"b{dice.randrange(40)}", dice.randrange(4), now_s + dice.choice([0, 0, 3, 20])
        match dice.randrange(5):
            case 0 | 1:
                queue.add(block, risk, now_s, due_s=due_s)
                model[block] = (risk, model[block][1] if block in model else now_s, due_s)
            case 2:
                assert queue.move(block, now_s, risk=risk) is (block in model)
                if block in model:
                    model[block] = (risk, *model[block][1:])
            case 3:
                assert queue.remove(block) is (model.pop(block, None) is not None)
            case 4:
                due = sorted((risk, queued_s, block) for block, (risk, queued_s, due_s) in model.items() if due_s <= now_s)
                one = queue.pop_due(now_s)
                assert (one and (one.risk, one.queued_s, one.block)) == (due[0] if due else None)
                if one:
                    del model[one.block]
        assert len(queue) == len(model) == sum(queue.counts().values())
        waiting = [due_s for _, _, due_s in model.values()]
        assert queue.next_due_s(now_s) == (max(now_s, min(waiting)) if waiting else None)
        assert len(queue._ready) + len(queue._waiting) <= 2 * len(model) + 200


# -- many blocks ------------------------------------------------------------------------------------------------------
def keepers_of(text):
    return list(Drawing("want 1:" + text).keepers.values())


def moves(text, **more):
    return [(f"k{one.source}", f"k{one.target}", round(one.size / GIB)) for one in repair.rebalance(keepers_of(text), **more)]


@pytest.mark.parametrize("text, more, plan", [
    ("k1 50G used=50G, k2 45G used=55G", {}, []),
    ("k1 20G used=80G, k2 80G used=20G", {}, [("k1", "k2", 25)]),
    ("k1 20G used=80G, k2 80G used=20G", {"at_most": 5 * GIB}, [("k1", "k2", 5)]),
    ("k1 20G used=80G, k2 80G used=20G", {"threshold": 0.4}, []),
    ("k1 20G used=80G, k2 80G used=20G draining", {}, []),
    ("k1 20G used=80G, k2 80G used=20G sick", {}, []),
    ("k1 20G used=80G, k2 80G used=20G suspect", {}, []),
    # a new, empty keeper among even ones: nobody is far over the mean, it is far under
    ("k1 40G used=60G, k2 40G used=60G, k3 40G used=60G, k4 40G used=60G, k5 40G used=60G, k6 40G used=60G, k7 100G used=0G",
     {}, [("k1", "k7", 9), ("k2", "k7", 9), ("k3", "k7", 9), ("k4", "k7", 9), ("k5", "k7", 9), ("k6", "k7", 4)]),
    # large and small disks are compared by their share
    ("k1 100G used=900G, k2 10G used=90G", {}, []),
    ("k1 dead used=1G", {}, []),
])
def test_rebalance(text, more, plan):
    assert moves(text, **more) == plan


@pytest.mark.parametrize("seed", range(50))
def test_rebalance_overshoots_nowhere_and_ends(seed):
    dice = random.Random(seed)
    keepers = {k.number: k for k in keepers_of(", ".join(
        f"k{n} {dice.randrange(1, 500)}G used={dice.randrange(1, 500)}G" for n in range(1, dice.randrange(2, 20))))}
    mean = sum(k.used for k in keepers.values()) / sum(k.used + k.free for k in keepers.values())
    for one in repair.rebalance(keepers.values()):
        assert one.size > 0 and one.source != one.target
        for number, size in ((one.source, -one.size), (one.target, one.size)):
            keepers[number] = keepers[number]._replace(used=keepers[number].used + size, free=keepers[number].free - size)
    assert all(0 <= keeper.used and 0 <= keeper.free for keeper in keepers.values())
    assert max(abs(repair.fill(keeper) - mean) for keeper in keepers.values()) <= 0.1001
    assert repair.rebalance(keepers.values()) == []


def moved(text, source, target):
    drawing = Drawing(text)
    return repair.move(drawing.block, source, target, drawing.keepers, ("room",))


def test_a_rebalance_moves_no_block_to_a_worse_place():
    assert moved("want 2: k1 has room=a, k2 has room=b, k3 free room=a", 1, 3)[:4] == (BLOCK, 1, (3,), repair.RISK_TIDY)
    assert moved("want 2: k1 has room=a, k2 has room=b, k3 free room=b", 1, 3).reason == "k3 shares room=b with k2"
    assert moved("want 2: k1 has, k2 has, k3 free", 1, 2).reason == "k2 has it already"
    assert moved("want 2: k1 has, k2 has, k3 10M", 1, 3).reason == "k3 cannot take it"
    assert moved("want 3: k1 has, k2 has, k3 free", 1, 3).reason == "repair has to do with this block first"
    assert moved("want 1: k1 dead has, k2 free", 1, 2).reason == "repair has to do with this block first"


def test_a_move_ends_in_a_drop_at_its_source():
    drawing = Drawing("want 2: k1 has leaving, k2 has used=900G, k3 has")
    assert in_words(drawing.plan()) == "drop k1"


@pytest.mark.parametrize("left, text, eta_s", [
    ((0, 0, 0, 0), "empty: every block is elsewhere, it may be stopped", 0),
    ((1, 64 * MIB, 0, 64 * MIB), "1 block, 67.1 MB to go; nothing moves at present", None),
    ((3, 3 * 64 * MIB, 5, 0), "3 blocks, 201 MB to go; all of it has been copied, what is here is dropped next", None),
    ((3, 3 * 64 * MIB, 32 * MIB, 64 * MIB), "3 blocks, 201 MB to go (67.1 MB to be copied), about 2.0 s at 33.6 MB/s", 2),
    ((30, 30 * 64 * MIB, 32 * MIB, 30 * 64 * MIB), "30 blocks, 2.0 GB to go, about 60 s at 33.6 MB/s", 60),
    ((9, 9 * GIB, MIB, 9 * GIB), "9 blocks, 9.7 GB to go, about 2.6 h at 1.0 MB/s", 9216),
])
def test_drain_progress(left, text, eta_s):
    assert repair.drain_progress(*left) == (text, eta_s)


# -- scale ------------------------------------------------------------------------------------------------------------
def test_a_queue_of_a_hundred_thousand_blocks():
    dice = random.Random(1)
    blocks = [f"{dice.getrandbits(128):032x}" for _ in range(100_000)]
    queue = repair.Queue()
    began_s = time.perf_counter()
    for n, block in enumerate(blocks):
        queue.add(block, 1 + n % 3, n * 0.001, due_s=n * 0.001 + 60 * (n % 2), reason="2 of 3 copies are good: k3 dead")
    for block in blocks[::10]:
        queue.move(block, 100.0, risk=1)
    n_popped = len(popped(queue, 1000.0))
    took_s = time.perf_counter() - began_s
    assert n_popped == 100_000
    print(f"queue: {took_s * 1e6 / 100_000:.1f} us a block in, moved and out")
    assert took_s / 100_000 < 1e-3


def test_a_queue_is_modest_in_memory():
    blocks = [f"{n:032x}" for n in range(20_000)]
    tracemalloc.start()
    try:
        queue = repair.Queue()
        for n, block in enumerate(blocks):
            queue.add(block, 2, n * 0.001, due_s=n * 0.001 + 60, reason="2 of 3 copies are good: k3 dead")
        n_bytes = tracemalloc.get_traced_memory()[0] / 20_000
    finally:
        tracemalloc.stop()
    print(f"queue: {n_bytes:.0f} bytes a block beside its id")
    assert n_bytes < 600


def test_planning_among_a_thousand_keepers():
    dice = random.Random(1)
    drawing = Drawing("want 3: " + ",".join(f"k{n} room=r{n % 20}" for n in range(1, 1001)))
    field = placement.Field(drawing.keepers.values(), ("room",))
    began_s = time.perf_counter()
    for n in range(1, 1001):
        view = repair.BlockView(BLOCK, 64 * MIB, 3, {n: True, n % 1000 + 1: True})
        assert isinstance(repair.plan(view, drawing.keepers, field, dice, now_s=NOW_S, lost_since_s={}, grace_s=60,
                                      clean_stop_grace_s=1800), repair.Copy)
    took_s = (time.perf_counter() - began_s) / 1000
    print(f"plan: {took_s * 1e6:.0f} us a block that needs a copy")
    assert took_s < 1e-3
