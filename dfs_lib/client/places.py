"""Where an upload's blocks go: grants ahead of need, and other keepers for a block that some have failed, until it is safe.

Never publishes and never reads a file: `upload.py` does. All waiting on keepers ends (I12), and no keeper that failed is asked again
while others are left.

    grant ──> PutBlock down its chain ──> receipts from `safe` keepers?
                  ▲                              │ no: RegrantBlock, the keepers tried left out
                  └──────────────────────────────┘
"""

import threading

from dfs_lib import errors
from dfs_lib.client import blocks
from dfs_lib.wire import messages

# Silence of a keeper after which others get the block: it says Working each 0.5 s while it is at it. Later tries wait longer,
# so that a cluster whose disks are all slow still takes the file. Both so short that one frozen keeper holds nobody up for 2 s.
SILENCE_S = 1.6
CONNECT_S = 1.5
# Pauses before keepers tried in vain are tried once more when no others are left: a port process restarts within 3 s.
SECOND_CHANCES_S = (0.3, 1.0, 2.0)
MAX_TRIES = 16  # chains for one block, all chances together
GRANT_AHEAD = 16
KEEPER_FAILED = (errors.NetworkError, errors.ProtocolError, errors.Refusal, errors.IntegrityError, errors.BadTicket,
                  errors.NoSuchRole)
UNWILLING = (errors.NoRoom.code, errors.DiskFault.code)
NO_PLACES = (errors.TooFewKeepers, errors.NoRoom, errors.NoLiveReplica)


class Places:
    """The grants of one Upload. For its threads; what is shared with them is guarded by the upload's lock."""

    def __init__(self, upload):
        self._upload = upload
        self.grants = {}  # guarded by upload.lock: index → grant not yet used
        self._granting = threading.Lock()  # held during a request on purpose: the others wait for its outcome

    def put_safely(self, block, buffer, upload_id, tried=(), unwilling=()):
        """Send to chains until `safe` keepers have given their receipts. Raises what the master says when it knows no more.

        tried: keepers that failed and may do better later; unwilling: keepers that said no for good.
        """
        tried, unwilling, chances = set(tried), set(unwilling), list(SECOND_CHANCES_S)
        failure = None
        if block.id is None:
            chain = self._take(block, upload_id)
        else:
            chain = None if self._heard_enough(block, upload_id) else self._others(block, upload_id, tried, unwilling, chances)
        for n_tries in range(MAX_TRIES):
            if chain is None:
                return
            limits = (CONNECT_S, SILENCE_S * (1 if n_tries < 3 else 3))
            try:
                written = blocks.send(self._upload.peers, chain, block, self._upload.meta(block), buffer, limits, self._upload.shown,
                                      self._upload.given_up.is_set)
            except errors.LocalFileError:
                raise
            except KEEPER_FAILED as e:
                failure = e
                if not isinstance(e, errors.BadTicket):  # a ticket of a reign that is over: the keeper itself is well
                    (unwilling if e.code in UNWILLING else tried).add(chain[0]["keeper"])
            else:
                block.receipts.update((receipt["keeper"], receipt["proof"]) for receipt in written.receipts)
                for failed in written.failed:
                    (unwilling if failed["error"] in UNWILLING else tried).add(failed["keeper"])
                if len(block.receipts) >= self._upload.safe:
                    return
            if n_tries < MAX_TRIES - 1:
                chain = self._others(block, upload_id, tried, unwilling, chances)
        raise failure or errors.TooFewKeepers(live=len(block.receipts), safe=self._upload.safe)

    def _heard_enough(self, block, upload_id):
        """Whether `safe` keepers have told us or the master that they hold the block."""
        answer = self._upload.ask(messages.ListStored(upload=upload_id, first=block.index))
        for stored in answer.blocks:
            if stored["block"] == block.id and block.crcs is not None and bytes.fromhex(stored["crcs"]) == block.crcs:
                for receipt in stored["receipts"]:
                    block.receipts.setdefault(receipt["keeper"], receipt["proof"])
        return len(block.receipts) >= self._upload.safe

    def _take(self, block, upload_id):
        """The chain for a fresh block."""
        with self._upload.lock:
            grant = self.grants.pop(block.index, None)
        if grant is None:
            grant = self.ask(block.index, upload_id)
        block.name(grant["block"])
        return grant["chain"]

    def ask(self, index, upload_id):
        """Ask the master: the grant for `index` (None: whether there are any), and others for those ahead of it.

        One thread at a time: an index granted twice would have two ids.
        """
        with self._granting:
            with self._upload.lock:
                if self._upload.id != upload_id:
                    raise errors.LeaseLapsed(path=self._upload.path)
                wanted = [] if index is None or index in self.grants else [index]
                wanted += [ahead for ahead in self._ahead() if ahead not in self.grants and ahead != index]
            if wanted:
                answer = self._upload.ask(messages.GrantBlocks(upload=upload_id, indexes=wanted))
                with self._upload.lock:
                    if self._upload.id == upload_id:
                        self.grants.update((grant["index"], grant) for grant in answer.grants)
            with self._upload.lock:
                if index is None:
                    return bool(self.grants)
                grant = self.grants.pop(index, None)
        if grant is None:
            raise errors.LeaseLapsed(path=self._upload.path)
        return grant

    def _ahead(self):
        """Indexes that will soon be asked for. Call with upload.lock held."""
        end = self._upload.next_index + GRANT_AHEAD
        if self._upload.n_blocks is not None:
            end = min(end, self._upload.n_blocks)
        return [index for index in range(self._upload.next_index, end) if index not in self._upload.found()]

    def _others(self, block, upload_id, tried, unwilling, chances):
        """A chain of other keepers for a block that has too few receipts; None when the master has heard of enough meanwhile.

        When the master knows no others those `tried` get another chance after a pause out of `chances`, the `unwilling` do not.
        """
        while True:
            if self._upload.given_up.is_set():
                raise blocks.GivenUp
            exclude = tried | unwilling | set(block.receipts)
            try:
                chain = self._regrant(block, upload_id, sorted(exclude)[:64])
                refusal = errors.TooFewKeepers(live=len(block.receipts), safe=self._upload.safe)
            except NO_PLACES as e:
                chain, refusal = [], e
            others = [hop for hop in chain if hop["keeper"] not in exclude]
            if others:
                return others
            # A keeper further down the chain may hold the block although the first one died before it could say so.
            if self._heard_enough(block, upload_id):
                return None
            if not tried or not chances:
                raise refusal
            self._upload.given_up.wait(chances.pop(0))
            tried.clear()

    def _regrant(self, block, upload_id, exclude):
        """The chain that the master proposes; it may name keepers of `exclude` again when it knows no others."""
        n = max(1, self._upload.safe - len(block.receipts))
        answer = self._upload.ask(messages.RegrantBlock(upload=upload_id, index=block.index, n=n, exclude=exclude))
        if not answer.grants:
            return []
        if answer.grants[0]["block"] != block.id:
            block.name(answer.grants[0]["block"])
        return answer.grants[0]["chain"]

    def is_short(self):
        """Whether more grants should be asked for. Call with upload.lock held."""
        ahead = self._ahead()
        n_ready = sum(index in self.grants for index in ahead)
        return n_ready < len(ahead) and n_ready <= GRANT_AHEAD // 4
