"""One file out: blocks down chains of keepers, other keepers for those that fail, resume, patience with the master, commit.

Never publishes anything by itself: the name moves when the master answers CommitUpload. Nothing is sent twice but what failed.

    OpenUpload ──> stored already? ── equal ──> counted as resumed
        │                  └─ different ──┐
        └──> for each block, `jobs` at once: PutBlock down its chain ──> receipts from `safe` keepers?
                  ▲                                       │ no: RegrantBlock, the keepers tried left out
                  └───────────────────────────────────────┘
    the assistant thread meanwhile: grants ahead, RecordBlocks with receipts (renews the lease)
    LeaseLapsed (the master was restarted): OpenUpload again, hand it the receipts, go on
"""

import threading
import time
from collections import deque

from dfs_lib import errors, model
from dfs_lib.client import blocks, sources
from dfs_lib.client.ledger import Ledger
from dfs_lib.client.places import Places
from dfs_lib.wire import messages

# Below this a file is sent by the caller's thread alone: it is gone before a lease needs renewing.
SMALL_SIZE = 4 * model.MIB


class Options:
    """What a caller may ask of an upload; None: the cluster's or the settings' default."""

    def __init__(self, copies=None, safe=None, no_clobber=False, parents=False, jobs=None, resume=True, progress=None,
                 mtime_at=None, block_size=None, memory=None, mark=None, expected_version=None):
        """memory: a sources.Memory for the blocks of a pipe; mark: what tells a pipe's source from others, for one that goes on."""
        self.copies, self.safe, self.no_clobber, self.parents = copies, safe, no_clobber, parents
        self.jobs, self.resume, self.progress, self.mtime_at = jobs, resume, progress, mtime_at
        self.block_size, self.memory, self.mark, self.expected_version = block_size, memory, mark, expected_version


class Upload:
    """One file on its way out. `run` does it all; the parts are for batches of small files (`trees.py`)."""

    def __init__(self, peers, path, local, options, source=None, pipe=None, size=None, mtime_at=None, start=0):
        """source: LocalFile, or None for one that is opened later; pipe: binary file object; size: None for a pipe that does not know it.

        start: where in the file the pipe's first byte belongs; what is before it was stored by an interrupted upload.
        """
        self.peers, self.path, self.local, self._options = peers, path, local, options
        self.source, self._pipe, self.size, self._start = source, pipe, size, start
        self.is_pipe = pipe is not None
        self.is_endless = pipe is not None and size is None  # only its end will tell how many bytes it has
        self.mtime_at = next(at for at in (options.mtime_at, mtime_at, time.time()) if at is not None)
        self.shown = options.progress or (lambda n: None)
        self._began_s = time.monotonic()
        self.resumed_bytes = 0
        self.id = self.version = None
        self._versions = set()
        self.lock = threading.Condition()
        # Guarded by lock: next index never handed out; blocks to be put again; the first failure.
        self.next_index, self._again = 0, deque()
        self._failure, self._all_handed_out = None, False
        self.given_up = threading.Event()
        self.finished = threading.Event()
        self.places, self._ledger = Places(self), Ledger(self)

    # -- the whole story ------------------------------------------------------------------------------------------------
    def run(self):
        """Upload the file; returns the result of `Client.put`."""
        answer = self.ask(messages.OpenUpload(uploads=[self.request()]))
        try:
            self.opened(answer.results[0])
            self._list_found(answer.results[0].get("n_stored"))
            self._put_all()
            return self._commit()
        except BaseException as e:
            self.given_up.set()
            for block in (*self._again, *self._ledger.unrecorded.values()):
                block.let_go()
            # One that came to go on with another and found nothing has nothing to keep, and must not take that one's place.
            self.abandon(keep=not self.is_endless and not isinstance(e, errors.LocalFileError) and bool(not self._start or self._ledger))
            raise

    def ask(self, message):
        return self.peers.masters.ask(message, patient=True, stop=self.given_up)

    def request(self):
        """The record of this file for OpenUpload."""
        return request_of(self.path, self.size, self.mtime_at, self._options, self.peers.settings,
                          resume=bool(self._options.resume) and (self._pipe is None or self._start > 0))

    def opened(self, result):
        """Take what OpenUpload answered for this file. Raises its refusal."""
        raise_refused(result)
        with self.lock:
            self.id, self.version = result["upload"], result["version"]
            self.copies, self.safe, self.block_size = result["copies"], result["safe"], result["block_size"]
            self.lease_s = result["lease_s"]
            self._versions.add(self.version)
            self.places.grants = {grant["index"]: grant for grant in result["grants"] or ()}
        if self.size is not None:
            self.n_blocks = model.n_blocks(self.size, self.block_size)

    def _list_found(self, n_stored):
        """Learn what an interrupted upload of the same file has stored."""
        first, more = 0, bool(n_stored)
        while more:
            answer = self.ask(messages.ListStored(upload=self.id, first=first))
            self._ledger.found.update((stored["index"], stored) for stored in answer.blocks)
            more = answer.more and bool(answer.blocks)
            first = answer.blocks[-1]["index"] + 1 if more else 0

    def _put_all(self):
        if self._pipe is not None:
            self._take_start()
            return self._put_pipe()
        n_jobs = max(1, min(self._options.jobs or self.peers.settings.jobs, self.n_blocks))
        if self.size <= SMALL_SIZE and n_jobs == 1:
            return self._work()
        self._all_handed_out = True
        self._with_threads(n_jobs, lambda: None)

    def _with_threads(self, n_jobs, feed):
        """Run `feed` here, workers and the assistant beside; returns when every block is stored."""
        threads = [threading.Thread(target=self._guarded, args=(self._work,), name=f"put-{n}", daemon=True)
                   for n in range(n_jobs)]
        assistant = threading.Thread(target=self._guarded, args=(self._ledger.assist,), name="put-assistant", daemon=True)
        for thread in (*threads, assistant):
            thread.start()
        try:
            feed()
            for thread in threads:
                thread.join()
        except BaseException as e:
            self._fail(e)
        finally:
            self.finished.set()
            with self.lock:
                self.lock.notify_all()
            for thread in (*threads, assistant):
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work):
        try:
            work()
        except BaseException as e:  # handed to the thread that waits for this one, which raises it
            self._fail(e)

    def _fail(self, error):
        with self.lock:
            if self._failure is None or isinstance(self._failure, blocks.GivenUp):
                self._failure = error
            self.given_up.set()
            self.lock.notify_all()

    # -- pipes ----------------------------------------------------------------------------------------------------------
    def _take_start(self):
        """Take what is stored before the pipe's first byte. Raises ResumeMismatch when it is not all there, or more is."""
        found = self._ledger.found
        stored = _stored_bytes(found, self.block_size, self.size, self.safe) if self._start else 0
        if self._start > stored or self._start % self.block_size:
            raise errors.ResumeMismatch(path=self.path, start=self._start, offset=stored)
        self.next_index = self._start // self.block_size
        self._ledger.stored.update((index, found[index]) for index in range(self.next_index))
        self.resumed_bytes = self._start
        found.clear()
        self.places.grants = {index: grant for index, grant in self.places.grants.items() if index >= self.next_index}

    def _put_pipe(self):
        if self.is_endless:
            self.size, self.n_blocks = 0, None
        buffer = self.peers.take_buffer()
        n_jobs = max(1, self._options.jobs or self.peers.settings.jobs)
        try:
            if not self.is_endless and self.size - self._start <= SMALL_SIZE:
                self._feed(buffer, self.n_blocks + 1)
                self._work()
                return
            # Threads from the start: the assistant renews the lease while the pipe's other end takes its time.
            if self.is_endless:
                return self._with_threads(n_jobs, lambda: self._feed(buffer, n_jobs))
            failures = []
            self._with_threads(min(n_jobs, self.n_blocks), lambda: self._feed_sized(buffer, failures))
            if failures:
                self._ledger.record_rest()
                raise failures[0]
        finally:
            self.peers.give_buffer(buffer)

    def _feed(self, buffer, most):
        """Hand out the blocks of a pipe as they fill; no more than `most` wait, so that temporary files stay few."""
        if self.is_endless:
            pieces = sources.spool(self._pipe, self.block_size, buffer, self.given_up.is_set)
        else:
            pieces = sources.growing_spools(self._pipe, self.block_size, buffer, self.given_up.is_set, self.size - self._start,
                                            self._options.memory)
        try:
            for spooled, is_last in pieces:
                self._hand_out(spooled, is_last)
                with self.lock:
                    self.lock.wait_for(lambda: len(self._again) < most or self.given_up.is_set())
        finally:
            pieces.close()  # a block that was being filled goes back now, and not when the collector comes by
        with self.lock:
            self._all_handed_out = True
            self.lock.notify_all()

    def _feed_sized(self, buffer, failures):
        """The same with no block that waits for a worker: each is sent while it comes.

        When the pipe fails, the whole blocks that are under way are finished: who goes on need not send them again.
        """
        try:
            self._feed(buffer, 1)
        except Exception as e:  # told when the workers are done
            failures.append(e)
            with self.lock:
                self._all_handed_out = True
                self.lock.notify_all()

    def _hand_out(self, spooled, is_last):
        with self.lock:
            self._again.append(blocks.Block(self.next_index, spooled, 0, spooled.size, is_last, owns_source=True))
            self.next_index += 1
            self.size += spooled.size if self.is_endless else 0
            self.lock.notify_all()

    # -- workers --------------------------------------------------------------------------------------------------------
    def _work(self):
        """Put blocks until none is left."""
        buffer = self.peers.take_buffer()
        try:
            while (block := self._next_block()) is not None:
                try:
                    self._put_block(block, buffer)
                except sources.BrokenOff:
                    block.let_go()
                except BaseException:
                    block.let_go()  # the upload ends by this: nobody will put it again
                    raise
        finally:
            self.peers.give_buffer(buffer)

    def _next_block(self):
        """The next block to put, or None when there will be no more."""
        with self.lock:
            while not self.given_up.is_set():
                if self._again:
                    block = self._again.popleft()
                    self.lock.notify_all()
                    return block
                if self._pipe is None and self.next_index < self.n_blocks:
                    self.next_index += 1
                    return self.block_at(self.next_index - 1)
                if self._all_handed_out or self._pipe is None:
                    return None
                self.lock.wait()
        raise blocks.GivenUp

    def block_at(self, index):
        offset = index * self.block_size
        return blocks.Block(index, self.source, offset, min(self.block_size, self.size - offset), index == self.n_blocks - 1)

    def put_again(self, again):
        """The master has rejected these: they are put once more, under new ids. Call with lock held."""
        for block in again:
            block.name(None)
            self._again.append(block)
        self.lock.notify_all()

    def found(self):
        """{index: record} of what an interrupted upload has stored and this one has not compared yet."""
        return self._ledger.found

    def _put_block(self, block, buffer):
        """Make one block durable on `safe` keepers, whatever becomes of the upload's lease meanwhile."""
        while True:
            upload_id = self.id
            try:
                if self._is_found(block, buffer):
                    self._note_resumed(block)
                    if len(block.receipts) >= self.safe:
                        return
                self.places.put_safely(block, buffer, upload_id)
                break
            except errors.LeaseLapsed as e:
                self._ledger.reopen(upload_id, e)
                block.name(None)
        self._ledger.note(block)

    def _is_found(self, block, buffer):
        """Whether an interrupted upload has stored this very block; the block then bears its id and receipts."""
        stored = self._ledger.found.get(block.index)
        if stored is None or block.id is not None:
            return False
        crcs = bytes.fromhex(stored["crcs"])
        if stored["size"] != block.size or not blocks.equals_stored(block, stored["block"], crcs, buffer):
            with self.lock:
                self._ledger.found.pop(block.index, None)  # a lease that lapsed meanwhile has emptied it
                self.places.grants.pop(block.index, None)
            return False
        block.name(stored["block"])
        block.crcs = crcs
        block.receipts = {receipt["keeper"]: receipt["proof"] for receipt in stored["receipts"]}
        if len(block.receipts) >= self.safe:
            with self.lock:
                self._ledger.stored[block.index] = block.stored()
        return True

    def _note_resumed(self, block):
        self.shown(block.size - block.n_shown)
        block.n_shown = block.size
        with self.lock:
            self.resumed_bytes += block.size

    def meta(self, block):
        return {"path": self.path, "version": self.version, "index": block.index, "file_size": None if self.is_endless else self.size,
                "block_size": self.block_size, "mtime_at": self.mtime_at, "copies": self.copies, "last": block.last}

    # -- the end --------------------------------------------------------------------------------------------------------
    def put_small(self, buffer, block=None, tried=(), unwilling=()):
        """Every block of a file that was opened in a batch, by this thread. LeaseLapsed is the caller's to handle.

        block: the only one, when a lot has failed to store it safely: what it knows of ids, checksums and receipts counts.
        """
        for block in (block,) if block is not None else map(self.block_at, range(self.n_blocks)):
            self.places.put_safely(block, buffer, self.id, tried, unwilling)
            self._ledger.note(block)

    def only_block(self, block_id, crcs, receipts, keep):
        """The block of a file that has one, as a lot has left it. keep: it is stored safely."""
        block = self.block_at(0)
        block.name(block_id)
        block.crcs, block.receipts = crcs, receipts
        if keep:
            self._ledger.note(block)
        return block

    def commit_request(self):
        """The record of this file for CommitUpload; receipts that do not fit in are handed in before."""
        return {"upload": self.id, "size": self.size, "blocks": [block.stored() for block in self._ledger.last_page()]}

    def _commit(self):
        """Publish; returns the result of `Client.put`. Puts again what the master rejects."""
        while True:
            upload_id = self.id
            try:
                while self._again:
                    self._work()
                if self.source is not None:
                    self.source.check_unchanged()
                request = self.commit_request()
                if self._again:
                    continue
                result = self.ask(messages.CommitUpload(commits=[request])).results[0]
                raise_refused(result)
            except errors.LeaseLapsed as e:
                published = self.published()
                if published is not None:
                    return published
                self._ledger.reopen(upload_id, e)
                continue
            self._ledger.committed(result.get("rejected"))
            if not result.get("rejected"):
                return self.result(result)

    def published(self):
        """The result, when a commit whose answer was lost has worked after all (F29)."""
        result = self.ask(messages.Stat(paths=[self.path], blocks=False)).results[0]
        entry = result.get("entry")
        if result.get("refused") or entry is None or entry[3] not in self._versions:
            return None
        keepers = {receipt["keeper"] for stored in self._ledger.stored.values() for receipt in stored["receipts"]}
        n_safe = min((len(stored["receipts"]) for stored in self._ledger.stored.values()), default=self.safe)
        return self.result({"path": self.path, "version": entry[3], "size": entry[2], "copies_durable": n_safe,
                            "copies": entry[5], "keepers": sorted(keepers)})

    def result(self, committed):
        """The result of `Client.put` from one result of UploadCommitted."""
        return result_of(committed, self.path, self.local, self.size, self._began_s, self.resumed_bytes)

    def abandon(self, keep):
        """Tell the master, if it listens: a lease that nobody gives back lapses by itself."""
        if self.id is None:
            return
        try:
            self.peers.masters.ask(messages.AbandonUpload(upload=self.id, keep=keep), timeout_s=2.0)
        except errors.DfsError:
            pass  # its lease lapses by itself, and what it was granted with it


def request_of(path, size, mtime_at, options, settings, resume):
    """The record of one file for OpenUpload."""
    asked = {"path": path, "size": size, "copies": options.copies, "safe": options.safe, "block_size": options.block_size or settings.block_size,
            "mtime_at": mtime_at, "no_clobber": options.no_clobber, "parents": options.parents, "version": None, "resume": resume}
    more = {"mark": options.mark, "expected": options.expected_version}
    return asked | {name: value for name, value in more.items() if value is not None}


def result_of(committed, path, local, size, began_s, resumed_bytes=0):
    """The result of `Client.put` from one result of UploadCommitted. Path and size are our own: a master that is asked once more, after
    the file has been removed again, knows them no longer.
    """
    return {"path": path, "local": local, "size": size, "version": committed["version"],
            "copies_durable": committed["copies_durable"], "copies": committed["copies"], "places": committed.get("places"), "keepers": committed["keepers"] or [],
            "seconds": round(time.monotonic() - began_s, 6), "resumed_bytes": resumed_bytes}


def stored_of(peers, path, size, block_size=None, mark=None):
    """Bytes at the start of an interrupted upload of this path, size and mark that are stored: whole blocks, as `start` of another one takes them."""
    probe = Upload(peers, path, None, Options(block_size=block_size, mark=mark), pipe=_NOTHING, size=size, start=1)
    answer = peers.masters.ask(messages.OpenUpload(uploads=[probe.request()]))
    try:
        probe.opened(answer.results[0])
        probe._list_found(answer.results[0].get("n_stored"))
        return _stored_bytes(probe.found(), probe.block_size, size, probe.safe)
    finally:
        probe.abandon(keep=bool(probe.found()))  # an empty one must not take the place of one that is about to be interrupted


_NOTHING = object()  # a pipe that nobody reads


def _stored_bytes(found, block_size, size, safe):
    """How many bytes of whole blocks without a gap are stored on `safe` keepers, from the start of the file."""
    index = 0
    while index in found and len(found[index]["receipts"]) >= safe and found[index]["size"] == min(block_size, size - index * block_size):
        index += 1
    # The last block is sent again in any case: a body of no bytes would be a strange way to finish a file.
    return min(index, max(0, model.n_blocks(size, block_size) - 1)) * block_size


def raise_refused(result):
    """Raise the refusal that stands in one result of a plural answer, if one does."""
    refused = result.get("refused")
    if refused:
        raise errors.from_wire(refused["error"], refused["message"], refused["facts"])
