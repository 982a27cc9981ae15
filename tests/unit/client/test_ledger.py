"""What is stored and what the master knows of it, while threads hand it in side by side and the master is restarted."""

import types

import pytest

from dfs_lib import errors
from dfs_lib.client import upload
from dfs_lib.wire import messages

BLOCK_SIZE = 1 << 20


class Master:
    """Answers what an Upload asks. rejects: indexes it takes no receipts for; meanwhile(message): called while a request is under way."""

    def __init__(self):
        self.id, self.rejects, self.meanwhile, self.recorded = "a" * 32, (), None, {}

    def restart(self, rejects):
        self.id, self.rejects, self.recorded = "b" * 32, rejects, {}

    def ask(self, message, patient=False, stop=None):
        if isinstance(message, messages.OpenUpload):
            return types.SimpleNamespace(results=[{"upload": self.id, "version": 7, "copies": 2, "safe": 1, "block_size": BLOCK_SIZE, "lease_s": 30.0,
                                                   "grants": [], "n_stored": 0}])
        assert isinstance(message, messages.RecordBlocks)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if message.upload != self.id:
            raise errors.LeaseLapsed(path="/f")
        rejected = [block["index"] for block in message.blocks if block["index"] in self.rejects]
        self.recorded.update((block["index"], block["block"]) for block in message.blocks if block["index"] not in rejected)
        return types.SimpleNamespace(rejected=rejected, lease_s=30.0)


@pytest.fixture
def master():
    return Master()


@pytest.fixture
def sent(master):
    """An Upload of four blocks, opened."""
    peers = types.SimpleNamespace(masters=master, settings=types.SimpleNamespace(block_size=BLOCK_SIZE, jobs=2))
    made = upload.Upload(peers, "/f", None, upload.Options(), source=object(), size=4 * BLOCK_SIZE, mtime_at=1.0)
    made.opened(made.ask(messages.OpenUpload(uploads=[made.request()])).results[0])
    return made


def store(sent, block, id_):
    block.name(f"{id_:032x}")
    block.crcs, block.receipts = b"1234", {"k" * 32: "r"}
    sent._ledger.note(block)


def waiting(sent):
    """The indexes of blocks that are to be put again, and of those that the master is yet to hear of."""
    return sorted(block.index for block in sent._again), sorted(block.index for block in sent._ledger.last_page())


@pytest.fixture
def stored(sent):
    for index in range(4):
        store(sent, sent.block_at(index), index)
    return sent


def test_what_the_master_takes_is_handed_in_once(master, stored):
    stored._ledger._record()
    assert master.recorded == {index: f"{index:032x}" for index in range(4)} and waiting(stored) == ([], [])


def test_a_page_under_way_when_another_thread_opens_the_upload_anew(master, stored):
    """Each block is put again once: two of one index would take turns in making each other's receipts worthless."""
    ledger, lapsed = stored._ledger, stored.id

    def restarted():
        master.restart(rejects={1, 3})
        ledger.reopen(lapsed, errors.LeaseLapsed(path="/f"))

    master.meanwhile = restarted
    with pytest.raises(errors.LeaseLapsed):
        ledger._record()
    ledger.reopen(lapsed, errors.LeaseLapsed(path="/f"))
    assert master.recorded == {0: f"{0:032x}", 2: f"{2:032x}"} and waiting(stored) == ([1, 3], [])
    master.rejects = ()
    while stored._again:
        block = stored._again.popleft()
        store(stored, block, 16 + block.index)
    assert [block.id for block in ledger.last_page()] == [f"{17:032x}", f"{19:032x}"]
    ledger.committed(None)
    assert waiting(stored) == ([], []) and sorted(ledger.stored) == [0, 1, 2, 3]


def test_two_answers_that_reject_one_block_have_it_put_again_once(master, stored):
    ledger, master.rejects = stored._ledger, {2}
    master.meanwhile = ledger._hand_in_all
    ledger._record()
    assert waiting(stored) == ([2], [])


def test_a_late_rejection_of_what_was_put_again_meanwhile_changes_nothing(master, stored):
    ledger, master.rejects = stored._ledger, {2}

    def meanwhile():
        ledger._hand_in_all()
        store(stored, stored._again.popleft(), 99)

    master.meanwhile = meanwhile
    ledger._record()
    assert waiting(stored) == ([], [2]) and ledger.last_page()[0].id == f"{99:032x}"


def test_a_commit_that_is_rejected_for_ever_ends(master, stored):
    ledger = stored._ledger
    with pytest.raises(errors.LeaseLapsed, match="again and again"):
        for _ in range(100):
            ledger.committed([0])
            assert waiting(stored)[0] == [0]
            store(stored, stored._again.popleft(), 0)


def test_a_pipes_block_that_was_let_go_is_lost(master, stored):
    stored._ledger._record()
    stored.is_pipe = True
    master.restart(rejects={1})
    with pytest.raises(errors.LeaseLapsed, match="pipe that cannot be read again"):
        stored._ledger.reopen("a" * 32, errors.LeaseLapsed(path="/f"))
