"""What one upload has stored, and what of it the master has been told: receipts handed in, the lease renewed by that, and all told anew
when a restarted master knows the upload no more.

Never sends a block and never publishes: `upload.py` does. What the master rejects is given back to be put again.

    stored ──> unrecorded ──> RecordBlocks, a page at a time ──> recorded; the lease is renewed
                   ▲                    └─ rejected ──> put again
                   └── LeaseLapsed: OpenUpload under the same version, every receipt once more
"""

from collections import deque
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
        # Guarded by upload.lock: stored blocks {index: record}, those of them not recorded, records that the master has from an
        # earlier try and nobody has compared yet.
        self.stored, self.unrecorded, self.found = {}, deque(), {}
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
            self.unrecorded.append(block)
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
            page = self._page()
            upload_id = self._upload.id
        try:
            answer = self._upload.ask(messages.RecordBlocks(upload=upload_id, blocks=[block.stored() for block in page]))
        except BaseException:  # a lapsed lease is dealt with; whatever else it is, the blocks are not to be forgotten
            with self._upload.lock:
                self.unrecorded.extendleft(reversed(page))
            raise
        self._upload.lease_s = answer.lease_s
        self._recorded(page, answer.rejected)

    def _page(self):
        """Unrecorded blocks for one message. Call with lock held."""
        page, n_crcs = [], 0
        while self.unrecorded and len(page) < _MAX_RECORDED and n_crcs < _MAX_RECORDED_CRCS:
            page.append(self.unrecorded.popleft())
            n_crcs += 2 * len(page[-1].crcs)
        return page

    def _recorded(self, page, rejected):
        rejected = set(rejected or ())
        for block in page:
            if block.index not in rejected:
                block.let_go()
        with self._upload.lock:
            for index in rejected:
                self.stored.pop(index, None)
                self.found.pop(index, None)
                self._upload.places.grants.pop(index, None)
            again = [block for block in page if block.index in rejected]
            known = {block.index for block in again}
            if self._upload.is_pipe and rejected - known:
                raise errors.LeaseLapsed("the master lost blocks of a pipe that cannot be read again", path=self._upload.path)
            again += [self._upload.block_at(index) for index in sorted(rejected - known)]
            self._upload.put_again(again)

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
            waiting = {block.index: block for block in self.unrecorded}
            self.unrecorded.clear()
            records = list(self.stored.values())
            self.found.clear()
            upload_id = self._upload.id
        page_of = max(1, min(_MAX_RECORDED, _MAX_RECORDED_CRCS // (8 * model.n_chunks(self._upload.block_size))))
        for start in range(0, len(records), page_of):
            page = records[start:start + page_of]
            answer = self._upload.ask(messages.RecordBlocks(upload=upload_id, blocks=page))
            self._recorded([waiting[record["index"]] for record in page if record["index"] in waiting], answer.rejected)

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
                rest = len(self.unrecorded)
                self.unrecorded.extendleft(reversed(page))
            if not rest:
                return page
            self._record()

    def committed(self, rejected):
        """The master has answered a commit with `last_page`; rejected: indexes, or None. Raises LeaseLapsed when that has no end."""
        page = list(self.unrecorded)
        if rejected:
            self.unrecorded.clear()
            self._n_reopened += 1
            if self._n_reopened > MAX_REOPENED:
                raise errors.LeaseLapsed("the master rejects the keepers' receipts again and again", path=self._upload.path)
        self._recorded(page, rejected)
