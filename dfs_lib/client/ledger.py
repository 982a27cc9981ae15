"""What one upload has stored, and what of it the master has been told: receipts handed in, the lease renewed by that, and all told anew
when a restarted master knows the upload no more.

Never sends a block and never publishes: `upload.py` does. What the master rejects is given back to be put again.

    stored ──> unrecorded ──> RecordBlocks, a page at a time ──> recorded; the lease is renewed
                   ▲                    └─ rejected ──> put again
                   └── LeaseLapsed: OpenUpload under the same version, every receipt once more

Two threads may hand in the same block, one of them under an id that has just lapsed. So a block stays unrecorded until it is answered for,
and an answer counts only while the block it speaks of is the one that is stored: were it put again for each of two answers, the
second one's id would make the first one's worthless, and so on without end.
"""

import threading
import time

from dfs_lib import errors, model
from dfs_lib.client.places import NO_PLACES
from dfs_lib.wire import messages

MAX_REOPENED = 10  # times one upload survives the loss of its lease
# Receipts are handed in when so many blocks have them: what a crashed client has stored is then found again.
RECORD_EVERY = 4
_MAX_RECORDED = 256  # blocks in one RecordBlocks or CommitUpload, and bytes of their checksums as hex
_MAX_RECORDED_CRCS = 512 * model.KIB


class Ledger:
    """Of one Upload, for its threads; what is shared with them is guarded by the upload's lock."""

    def __init__(self, upload):
        self._upload = upload
        # Guarded by upload.lock: stored blocks {index: record}, those of them not recorded {index: Block}, records that the master has
        # from an earlier try and nobody has compared yet.
        self.stored, self.unrecorded, self.found = {}, {}, {}
        self._n_reopened = 0
        self._reopening = threading.Lock()  # held during a request on purpose: the others wait for its outcome

    def __bool__(self):
        """Whether anything is stored."""
        return bool(self.found or self.stored)

    def note(self, block):
        """This block is stored safely."""
        record = block.stored()
        with self._upload.lock:
            self.stored[block.index] = record
            self.unrecorded[block.index] = block
            self._upload.lock.notify_all()

    def assist(self):
        """Beside the workers: grants ahead of them, records behind them, and so the lease is renewed."""
        renew_s = max(0.2, self._upload.lease_s / 3)
        renewed_s = time.monotonic()
        while not self._upload.finished.is_set() and not self._upload.given_up.is_set():
            upload_id = self._upload.id
            with self._upload.lock:
                self._upload.lock.wait_for(self._has_errand, max(0.0, renewed_s + renew_s - time.monotonic()))
                is_short = self._upload.places.is_short()
            if self._upload.finished.is_set():
                return
            try:
                if is_short and not self._upload.places.ask(None, upload_id):
                    self._upload.finished.wait(1.0)  # it grants no more for now: whoever needs one asks by itself
                elif is_short:
                    continue
                else:
                    self._record()
                    renewed_s = time.monotonic()
            except errors.LeaseLapsed as e:
                self.reopen(upload_id, e)
            except (*NO_PLACES, errors.NotReady):
                self._upload.finished.wait(1.0)  # the worker that needs the place asks by itself, and tells the user

    def _has_errand(self):
        every = 1 if self._upload.is_pipe else RECORD_EVERY
        return self._upload.finished.is_set() or self._upload.given_up.is_set() or len(self.unrecorded) >= every or self._upload.places.is_short()

    def _record(self):
        """Hand in one page of receipts; an empty page renews the lease too. Blocks that are rejected are put again."""
        with self._upload.lock:
            records = [block.stored() for block in self._page()]
            upload_id = self._upload.id
        answer = self._upload.ask(messages.RecordBlocks(upload=upload_id, blocks=records))
        self._upload.lease_s = answer.lease_s
        self._answered(records, answer.rejected)

    def _page(self):
        """Unrecorded blocks for one message. Call with lock held."""
        page, n_crcs = [], 0
        for block in self.unrecorded.values():
            if len(page) == _MAX_RECORDED or n_crcs >= _MAX_RECORDED_CRCS:
                break
            page.append(block)
            n_crcs += 2 * len(block.crcs)
        return page

    def _answered(self, records, rejected):
        """The master has taken these records but for some indexes, whose blocks are to be put again."""
        rejected, good, again, is_lost = set(rejected or ()), [], [], False
        with self._upload.lock:
            for record in records:
                index = record["index"]
                if self.stored.get(index, {}).get("block") != record["block"]:
                    continue  # another thread has had an answer for it, and has seen to it
                block = self.unrecorded.pop(index, None)
                if index not in rejected:
                    good.append(block)
                    continue
                del self.stored[index]
                self.found.pop(index, None)
                self._upload.places.grants.pop(index, None)
                if block is None:  # recorded before, and let go
                    is_lost |= self._upload.is_pipe
                    block = None if self._upload.is_pipe else self._upload.block_at(index)
                again.append(block)
            self._upload.put_again([block for block in again if block is not None])
        for block in good:
            if block is not None:
                block.let_go()
        if is_lost:
            raise errors.LeaseLapsed("the master lost blocks of a pipe that cannot be read again", path=self._upload.path)

    def reopen(self, lapsed_id, why):
        """The master does not know the upload any more: open it again and hand in every receipt we hold.

        Many threads may find out at once; the first one does it, the others find another id.
        """
        with self._reopening:
            if self._upload.id != lapsed_id:
                return
            self._n_reopened += 1
            if self._n_reopened > MAX_REOPENED or self._upload.given_up.is_set():
                raise why
            block_size = self._upload.block_size
            # The same version again, because the blocks that are stored say so on disk.
            request = {**self._upload.request(), "resume": not self._upload.is_pipe, "size": None if self._upload.is_endless else self._upload.size,
                       "block_size": block_size, "version": self._upload.version}
            answer = self._upload.ask(messages.OpenUpload(uploads=[request]))
            self._upload.opened(answer.results[0])
            if self._upload.block_size != block_size:
                raise why
            self._hand_in_all()

    def _hand_in_all(self):
        """After reopening: RecordBlocks with everything stored, so that only what the master rejects is sent again."""
        with self._upload.lock:
            records = list(self.stored.values())
            self.found.clear()
            upload_id = self._upload.id
        page_of = max(1, min(_MAX_RECORDED, _MAX_RECORDED_CRCS // (8 * model.n_chunks(self._upload.block_size))))
        for start in range(0, len(records), page_of):
            page = records[start:start + page_of]
            self._answered(page, self._upload.ask(messages.RecordBlocks(upload=upload_id, blocks=page)).rejected)

    def record_rest(self):
        """Hand in what is stored, for who goes on; what the master does not take now is sent again."""
        try:
            while self.unrecorded:
                self._record()
        except errors.DfsError:
            return

    def last_page(self):
        """What is to go with the commit; receipts that do not fit in are handed in before."""
        while True:
            with self._upload.lock:
                page = self._page()
                if len(page) == len(self.unrecorded):
                    return page
            self._record()

    def committed(self, rejected):
        """The master has answered a commit with `last_page`; rejected: indexes, or None. Raises LeaseLapsed when that has no end."""
        if rejected:
            self._n_reopened += 1
            if self._n_reopened > MAX_REOPENED:
                raise errors.LeaseLapsed("the master rejects the keepers' receipts again and again", path=self._upload.path)
        self._answered(list(self.stored.values()), rejected)
