"""One file in: its blocks from whichever replica is good and quick, each chunk checked before it counts, into a target.

Never hands out a byte whose checksum is not the one that the catalog vouches for; never starts again from the beginning of a
block because a source failed: the next one goes on at the chunk reached.

    OpenDownload ──> blocks, `jobs` at once ──> source 1 ── silent for `hedge_after`, gone ──> source 2 …
                                                  └─ wrong checksum, missing ──> ReplicaBad to the master, source 2 …
                     all have failed ──> the master is asked again for sources, a second round with longer patience, then an error
"""

import threading
import time
from zlib import crc32

from dfs_lib import errors, model
from dfs_lib.checksums import chunk_seed, crc_at
from dfs_lib.client import localfiles
from dfs_lib.client.blocks import GivenUp
from dfs_lib.wire import messages

# Blocks asked for at a time: 4 GiB of a file with 64 MiB blocks; a page stays well under the ceiling of a header.
PAGE = 64
# Silence and connecting, second round: no other source is left, so waiting is all there is.
LAST_SILENCE_S = 5.0
# One chunk, however it trickles: with other sources left, and without.
CHUNK_LIMIT_S, LAST_CHUNK_LIMIT_S = 10.0, 60.0
_DAMAGED = (errors.IntegrityError, errors.DiskFault)


class Cursor:
    """How far a stretch has come: the next chunk of its block. It outlives a source that fails."""

    __slots__ = ("chunk", "end")

    def __init__(self, chunk, end):
        self.chunk, self.end = chunk, end


class Plan:
    """What the master has told of one version of a file: its size, and pages of blocks with their sources. For many threads."""

    def __init__(self, peers, path, stop=None):
        self.peers, self.path, self.stop = peers, path, stop
        self.version = None
        self.keepers = {}  # keeper id → None, in the order in which they first gave a good chunk
        self._paging = threading.Lock()  # held during a request: the others wait for the page
        self._blocks = {}

    def open(self, first=0, n=PAGE):
        """Learn of the current version, and of `n` blocks from `first`. Raises NoSuchFile, IsADirectory, …"""
        self.take(self._page(first, n))
        return self

    def take(self, result):
        """Take one result of DownloadOpened. Raises its refusal."""
        refused = result.get("refused")
        if refused:
            raise errors.from_wire(refused["error"], refused["message"], refused["facts"])
        self.version, self.size, self.block_size = result["version"], result["size"], result["block_size"]
        self.mtime_at = result["mtime_at"]
        self.path = result["path"] or self.path
        self.n_blocks = model.n_blocks(self.size, self.block_size)
        self._blocks.update((record["index"], record) for record in result["blocks"] or ())

    def _page(self, first, n):
        ask = {"path": self.path, "version": self.version, "first": first, "n": n}
        return self.peers.masters.ask(messages.OpenDownload(files=[ask]), patient=True, stop=self.stop).results[0]

    def block(self, index):
        """The record of one block: index, block, size, crcs, sources."""
        record = self._blocks.get(index)
        if record is None:
            with self._paging:
                if index not in self._blocks:
                    self.take(self._page(index, PAGE))
                record = self._blocks.get(index)
        if record is None:
            raise errors.NoLiveReplica(path=self.path, index=index, keepers="no keeper that the master knows")
        return record

    def first_source(self):
        """Where the only block of a small file is tried first, or None when there is no such block or source."""
        record = self._blocks.get(0)
        return record["sources"][0] if record is not None and record["sources"] else None

    def again(self, index):
        """The same with fresh tickets, and without the replicas found bad meanwhile."""
        self.take(self._page(index, 1))
        return self.block(index)

    def forget(self, index):
        """A finished block's record is of no more use; a file of 1 PiB has many."""
        self._blocks.pop(index, None)

    # -- fetching -------------------------------------------------------------------------------------------------------
    def fetch(self, index, cursor, buffer, deliver, should_stop=lambda: False):
        """Chunks [cursor.chunk, cursor.end) of a block, each checked, to deliver(view, offset in the block).

        buffer: memoryview of one chunk. Raises AllReplicasBad when every source's replica has proven damaged or missing, NoLiveReplica
        when one could not be reached and may yet be good; what `deliver` raises passes through.
        """
        record, failed = self.block(index), {}
        for is_last_round in (False, True):
            for source, others_left in _in_turn(record["sources"], failed):
                if self._try(record, source, cursor, buffer, deliver, should_stop, failed, is_last_round or not others_left):
                    return
            if not is_last_round:
                record = self._ask_again(index, record)
        raise self._verdict(index, failed, record)

    def _try(self, record, source, cursor, buffer, deliver, should_stop, failed, is_last):
        keeper = source["keeper"]
        try:
            self._read(record, source, cursor, buffer, deliver, should_stop, is_last)
        except errors.LocalFileError:
            raise
        except _DAMAGED as e:
            failed[keeper] = e
            self.peers.report_bad(record["block"], keeper, e.message)
        except errors.DfsError as e:
            failed[keeper] = e
        else:
            self.keepers[keeper] = None
            return True
        return False

    def _ask_again(self, index, record):
        try:
            return self.again(index)
        except errors.NetworkError:
            return record  # without a master the sources we know are all there is

    def _verdict(self, index, failed, record):
        details = "; ".join(f"{name}: {e.message}" for name, e in zip(self.peers.names_of(failed), failed.values()))
        if failed and all(isinstance(e, errors.IntegrityError) for e in failed.values()):
            return errors.AllReplicasBad(path=self.path, index=index, detail=details)
        if not failed and record.get("is_lost"):
            return errors.AllReplicasBad(path=self.path, index=index, detail="every copy was found damaged or gone")
        return errors.NoLiveReplica(path=self.path, index=index, keepers=details or "no live keeper")

    def _read(self, record, source, cursor, buffer, deliver, should_stop, is_last):
        """The hot loop: from one source until the stretch ends. Per MiB one recv_into or a few, one CRC-32, one `deliver`."""
        hedge_s = self.peers.settings.hedge_after
        silence_s = max(hedge_s, LAST_SILENCE_S) if is_last else hedge_s
        limit_s = LAST_CHUNK_LIMIT_S if is_last else CHUNK_LIMIT_S
        stream, kept, port = self.peers.reach(source, silence_s)
        suspect = None  # the chunk that came damaged once: the wire may have done it (F14)
        try:
            while True:
                try:
                    stream.set_timeout(silence_s)
                    at = cursor.chunk
                    self._converse(stream, record, source, cursor, buffer, deliver, should_stop, limit_s)
                    break
                except errors.ChecksumMismatch:
                    if suspect == cursor.chunk:
                        raise  # twice on two connections: the replica is damaged
                    suspect = cursor.chunk
                except errors.PeerGone:
                    if not kept or cursor.chunk != at:
                        raise
                    # A kept connection whose keeper was restarted meanwhile says nothing about the keeper.
                self.peers.watch.done(stream)
                stream.close()
                stream, kept, port = self.peers.reach(source, silence_s, fresh=True)
        except errors.Refusal as e:
            self.peers.watch.done(stream)
            stream.close() if isinstance(e, errors.LocalFileError) else self.peers.give(source, port, stream)
            raise
        except BaseException as e:
            if isinstance(e, errors.PeerTimeout):
                self.peers.was_silent(source, port)
            self.peers.watch.done(stream)
            stream.close()  # the rest of a body may be on its way: the conversation cannot go on
            raise
        self.peers.watch.done(stream)
        self.peers.give(source, port, stream)

    def _converse(self, stream, record, source, cursor, buffer, deliver, should_stop, limit_s):
        block, crcs, seeded = record["block"], bytes.fromhex(record["crcs"]), bytes.fromhex(record["block"])
        offset, end = cursor.chunk * model.CHUNK_SIZE, min(record["size"], cursor.end * model.CHUNK_SIZE)
        watch, body_into = self.peers.watch, stream.body_into
        watch.until(stream, limit_s)
        stream.send(messages.GetBlock(block=block, offset=offset, count=end - offset, ticket=source["ticket"]))
        if stream.answer().size != end - offset or stream.talk.body_left != end - offset:
            raise errors.BadMessage(detail=f"{stream.address} answers with another number of bytes than was asked for")
        while offset < end:
            view = buffer[:min(model.CHUNK_SIZE, end - offset)]
            body_into(view)
            if crc32(view, chunk_seed(seeded, cursor.chunk)) != crc_at(crcs, cursor.chunk):
                raise errors.ChecksumMismatch(block=block, chunk=cursor.chunk, where="")
            deliver(view, offset)
            offset += len(view)
            cursor.chunk += 1
            if should_stop():
                raise GivenUp
            watch.until(stream, limit_s)


def _in_turn(sources, failed):
    """(source, whether others are left after it), without those whose damage is proven."""
    good = [source for source in sources if not isinstance(failed.get(source["keeper"]), errors.IntegrityError)]
    for at, source in enumerate(good):
        yield source, at + 1 < len(good)


class Download:
    """A whole file into a part file beside its target, `jobs` blocks at once, resuming what an earlier try left there."""

    def __init__(self, plan, part, jobs, progress=None):
        """part: localfiles.PartFile; plan: an opened Plan."""
        self._plan, self._part, self._jobs = plan, part, max(1, jobs)
        self._shown = progress or (lambda n: None)
        self._lock = threading.Lock()
        self._next, self.resumed_bytes, self._failure = 0, 0, None  # guarded by _lock
        self._give_up = plan.stop or threading.Event()

    def run(self):
        """Fetch every block; the part file is then whole, and the caller's to finish."""
        n_threads = min(self._jobs, self._plan.n_blocks)
        if n_threads <= 1:
            return self._work()
        threads = [threading.Thread(target=self._guarded, name=f"get-{n}", daemon=True) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as e:
            self._fail(e)
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self):
        try:
            self._work()
        except BaseException as e:  # handed to the thread that waits for this one, which raises it
            self._fail(e)

    def _fail(self, error):
        with self._lock:
            if self._failure is None or isinstance(self._failure, GivenUp):
                self._failure = error
        self._give_up.set()

    def _work(self):
        buffer = self._plan.peers.take_buffer()
        try:
            while (index := self._next_index()) is not None:
                self._one_block(index, buffer)
                self._plan.forget(index)
        finally:
            self._plan.peers.give_buffer(buffer)

    def _next_index(self):
        with self._lock:
            if self._next >= self._plan.n_blocks:
                return None
            self._next += 1
            return self._next - 1

    def _one_block(self, index, buffer):
        record, base = self._plan.block(index), index * self._plan.block_size
        n_chunks = model.n_chunks(record["size"])
        cursor = Cursor(self._n_good_chunks(record, base, buffer) if self._part.has_old_bytes else 0, n_chunks)

        def deliver(view, offset):
            self._part.write(view, base + offset)
            self._shown(len(view))

        if cursor.chunk < n_chunks:
            self._plan.fetch(index, cursor, buffer, deliver, self._give_up.is_set)

    def _n_good_chunks(self, record, base, buffer):
        """Chunks at the start of a block that an earlier try has left whole: their checksums prove it, no journal is needed."""
        block_bytes, crcs = bytes.fromhex(record["block"]), bytes.fromhex(record["crcs"])
        n_good, n_bytes = 0, 0
        for chunk in range(model.n_chunks(record["size"])):
            if self._give_up.is_set():
                raise GivenUp
            start = chunk * model.CHUNK_SIZE
            view = buffer[:min(model.CHUNK_SIZE, record["size"] - start)]
            if not self._part.read(view, base + start) or crc32(view, chunk_seed(block_bytes, chunk)) != crc_at(crcs, chunk):
                break
            n_good, n_bytes = chunk + 1, n_bytes + len(view)
        if n_bytes:
            self._shown(n_bytes)
            with self._lock:
                self.resumed_bytes += n_bytes
        return n_good


def to_file(plan, directory, name, mode=None, *, jobs=1, resume=True, progress=None, sync_directory=True):
    """A whole file under a name in a localfiles.Directory; returns the bytes an earlier try had left.

    mode: permission bits, None: those of any new file. What is there when it fails is kept for the next try when `resume`.
    """
    part = localfiles.PartFile(directory, name, plan.size, resume, mode)
    try:
        download = Download(plan, part, jobs, progress)
        download.run()
    except BaseException as e:
        part.leave(keep=resume and not isinstance(e, errors.NoSuchFile))
        raise
    part.finish(plan.size, plan.mtime_at, sync_directory)
    return download.resumed_bytes


def whole_to_file(plan, view, directory, name, mode):
    """As `to_file` for a file whose bytes are all in `view`, checked."""
    part = localfiles.PartFile(directory, name, plan.size, False, mode)
    try:
        part.append(view)
    except BaseException:
        part.leave(keep=False)
        raise
    part.finish(plan.size, plan.mtime_at, sync_directory=False)


def stretch(plan, first, end, deliver, buffer):
    """Bytes [first, end) of a file, in order, to deliver(view); whole chunks are checked, the parts asked for handed on."""
    at = first
    while at < end:
        index, inside = divmod(at, plan.block_size)
        record = plan.block(index)
        upto = min(end - index * plan.block_size, record["size"])

        def within(view, offset, inside=inside, upto=upto):
            deliver(view[max(0, inside - offset):max(0, upto - offset)])

        plan.fetch(index, Cursor(inside // model.CHUNK_SIZE, -(-upto // model.CHUNK_SIZE)), buffer, within)
        plan.forget(index)
        at = index * plan.block_size + upto


def write_all(target, view):
    """All of `view` to a binary file object, which may take less at a time. The object's errors are its owner's and pass."""
    while len(view):
        n = target.write(view)
        if n is None or n >= len(view):
            return
        view = view[n:]


def now_s():
    return time.monotonic()


def result(plan, local, began_s, resumed_bytes, size=None):
    """The result of `Client.get`."""
    return {"path": plan.path, "local": local, "size": plan.size if size is None else size, "version": plan.version,
            "keepers": list(plan.keepers), "seconds": round(time.monotonic() - began_s, 6), "resumed_bytes": resumed_bytes}
