"""What a keeper's port answers: one block in (and on to the next keeper of its chain), a stretch of one out.

Never decides where a block belongs and never acts without a ticket signed by the master. What the rest of the keeper must
hear goes through `tell`; sockets stay in net, block files in store.

    PutBlock + chunk ─▶ ticket ─▶ store.begin ─▶ for each chunk:  receive → check → pass on → write   (one 1 MiB buffer)
    BlockChunk …                                 after the last:  trailer, fsync, rename, fsync │ next keeper's answer
    ◀─ Working …                                                  tell "stored"
    ◀─ BlockWritten(receipts of this keeper and those after it, who failed and why)
"""

import logging
import os
import threading
import time

from dfs_lib import errors
from dfs_lib.checksums import chunk_crc
from dfs_lib.keeper import shared
from dfs_lib.keeper.guard import Guard
from dfs_lib.model import CHUNK_SIZE, KIB, n_chunks
from dfs_lib.net import servers, streams
from dfs_lib.net.resting import Resting
from dfs_lib.wire import messages, trust

log = logging.getLogger(__name__)

# The next keeper of a chain is given so long to be reached; then it counts as failed and the block goes on without it.
DIAL_S = 1.0
# … to take bytes. Less than the two seconds of silence that a client allows us, which waits meanwhile.
FORWARD_S = 1.2
# … and to give a sign of life while it syncs. Its Working frames come each half second.
ANSWER_S = 2.0
# Stretches up to this are read and sent in one piece: cheaper than sendfile's two calls.
SMALL = 64 * KIB
# The largest block there is, and the most checksums an event can carry.
MAX_BLOCK = 1024 * CHUNK_SIZE
# At once on one port; each holds a buffer of a chunk and an open file.
MAX_TRANSFERS = 256
# Ended transfers are told in batches; this many at the latest.
_SERIALS = 100


class Peers:
    """Ways to other keepers: kept connections for small blocks, fresh ones for large."""

    def __init__(self, credentials, dial=streams.connect):
        self._credentials, self._connect = credentials, dial
        self.pool = streams.Pool(self.dial, keep=8)
        self.resting = Resting()

    def dial(self, host, port, timeout_s):
        return self._connect(host, port, self._credentials, timeout_s)

    def close(self):
        self.pool.close()


class Onward:
    """One block on its way to the first keeper of `chain`, which passes it on to the rest.

    A failure is remembered in `error` and stops nothing: the block's other copies matter more. One thread's.
    """

    def __init__(self, peers, message, chain, forward_s=FORWARD_S, answer_s=ANSWER_S):
        """message: PutBlock as it came (or is begun); chain: hops from the next keeper on."""
        self._peers, self._hop = peers, chain[0]
        self._first = messages.PutBlock(
            block=message.block, size=message.size, meta=message.meta, ticket=chain[0]["ticket"], upload=message.upload,
            chain=chain[1:], crc=message.crc)
        # What fits into the socket's buffer cannot stall in sending: one time-out for both saves four calls a block.
        self._forward_s, self._answer_s = forward_s if message.size > SMALL else answer_s, answer_s
        self._is_small = message.size <= CHUNK_SIZE
        self._stream = self._at = self._view = None
        self._kept = False
        self.error = None

    # -- out ------------------------------------------------------------------------------------------------------------
    def start(self, view):
        """Connect and send the first chunk; `view` must keep its bytes until `result` when it is the only one."""
        self._view = view
        try:
            self._open(kept_will_do=self._is_small)
            try:
                self._send(self._first, view)
            except errors.PeerGone:
                if not self._kept:
                    raise
                self._again()
        except errors.DfsError as e:
            self._fail(e)

    def pass_on(self, crc, view):
        """Send one more chunk."""
        if self.error is None:
            try:
                self._send(messages.BlockChunk(crc=crc), view)
            except errors.DfsError as e:
                self._fail(e)

    def _open(self, kept_will_do):
        """Try the keeper's ports in order. A refused port means its process is away; silence means that the machine is."""
        host, failure = self._hop["host"], None
        for at in self._peers.resting.last([(host, port) for port in self._hop["ports"]]):
            try:
                if kept_will_do:
                    self._stream, self._kept = self._peers.pool.take(*at, DIAL_S)
                else:
                    self._stream, self._kept = self._peers.dial(*at, DIAL_S), False
            except (errors.ConnectFailed, errors.PeerGone) as e:
                self._peers.resting.note(at)
                failure = e
                continue
            except errors.NetworkError:
                self._peers.resting.note(at)
                raise
            self._at = at
            self._stream.set_timeout(self._forward_s)
            return
        raise failure

    def _send(self, message, view):
        try:
            self._stream.send(message, view)
        except errors.PeerGone:
            if not self._kept:
                self._stream.raise_last_words()  # it may have said why before it closed
            raise

    def _again(self):
        """A kept connection was stale: once more over a fresh one, while the only chunk is still at hand."""
        self._stream.close()
        self._peers.pool.forget(*self._at)
        self._open(kept_will_do=False)
        self._send(self._first, self._view)

    def _fail(self, error):
        self.error = error
        if isinstance(error, errors.PeerTimeout) and self._at is not None:
            self._peers.resting.note(self._at)  # a port that hangs is not the next block's first choice
        log.warning("chain broken block=%s next=%s reason=%s", self._first.block, self._hop["keeper"], error.message)
        self.close()

    # -- back -----------------------------------------------------------------------------------------------------------
    def result(self):
        """(receipts, failed) of this keeper and those after it, waiting for its answer."""
        if self.error is None:
            try:
                written = self._answer()
                self._give_back()
                return written.receipts, written.failed
            except errors.DfsError as e:
                self._fail(e)
        return [], [{"keeper": self._hop["keeper"], "error": self.error.code, "message": shared.reason_of(self.error)}]

    def _answer(self):
        self._stream.set_timeout(self._answer_s)
        try:
            return self._stream.answer()
        except errors.PeerGone:
            if not (self._kept and self._is_small):
                raise
        self._again()
        self._stream.set_timeout(self._answer_s)
        return self._stream.answer()

    def _give_back(self):
        stream, self._stream = self._stream, None
        self._peers.pool.give(*self._at, stream)

    def close(self):
        """Let go of it; in the middle of a block the other side then forgets what it has."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class _StoredAlready:
    """Stands in for an Incoming when the block is there: a retried put is compared with it, not written again."""

    def __init__(self, store, block):
        self._store, self._block = store, block

    def write(self, view):
        """Its checksum is all that is needed."""

    def finish(self, crcs):
        """Raises FileExists when other bytes have this id, ChecksumMismatch when what is stored has gone bad."""
        try:
            _metadata, known = self._store.trailer(self._block)
            if known != crcs:
                raise errors.FileExists(path=f"block {self._block} with other content")
            # "Stored" is a promise about the bytes on disk, and a reader's complaint about them may be why this comes again.
            self._store.verify(self._block)
        except errors.IntegrityError as e:
            self._store.quarantine(self._block, e.message)
            raise

    def abort(self):
        """Nothing was begun."""


class Service:
    """Answers PutBlock and GetBlock for one port. Threads of its server share it.

    store: Store; keyring: trust.Keyring; reign() → (epoch, tick) of the master as last heard; tell(event): see shared.Teller;
    slot: begin() and end(n_in, n_out) of each transfer; cluster_id() → id or None; peers: Peers; guard: Guard of all this keeper's
    processes (default: one for this port alone).
    """

    def __init__(self, store, keyring, keeper_id, reign, tell, slot, cluster_id, peers, guard=None):
        self._guard = guard or Guard(1)
        self._complaints = servers.Complaints()
        self._store, self._keyring, self._keeper_id = store, keyring, keeper_id
        self._reign, self._tell, self._slot, self._cluster_id, self._peers = reign, tell, slot, cluster_id, peers
        self._buffers = []  # chunk buffers not in use; append and pop are atomic
        self._serials = []  # guarded by _serials_lock: tickets whose transfers have ended, not yet told
        self._serials_lock = threading.Lock()
        self._table = {messages.PutBlock: self._put, messages.GetBlock: self._get, messages.Ping: self._ping}

    def handle(self, message, exchange):
        act = self._table.get(type(message))
        if act is None:
            raise errors.NotMaster(f"a keeper does not answer {type(message).__name__}; ask the master")
        act(message, exchange)

    def _ping(self, _message, exchange):
        exchange.answer(messages.Done())

    def _check(self, text, operation, block, size, exchange):
        """The ticket, checked: before it no file is touched."""
        try:
            ticket = trust.read_ticket(self._keyring.ticket, text)
            epoch, tick = self._reign()
            trust.check_ticket(ticket, operation=operation, block=block, keeper=self._keeper_id, size=size,
                               user=trust.user_digest(exchange.peer.identity), epoch=epoch, tick=tick, key_id=self._guard.key_id)
            self._guard.check_user(ticket.user)
        except errors.BadTicket as e:
            self._refused(block, exchange, e)
            raise
        return ticket

    def _refused(self, block, exchange, error):
        """A ticket was refused: counted, and told once a minute for each who shows such."""
        self._guard.count_refused()
        n_held = self._complaints.due(f"{exchange.peer.identity} {exchange.peer_host}")
        if n_held is not None:
            log.warning("ticket refused who=%s from=%s block=%s reason=%s repeated=%s", exchange.peer.identity, exchange.peer_host,
                        block, error.message, n_held)

    def _begin_transfer(self):
        if self._slot.begin() > MAX_TRANSFERS:
            self._slot.end(0, 0)
            raise errors.Busy(address="this port", detail=f"{MAX_TRANSFERS} transfers are under way")
        return time.monotonic()

    def _end_transfer(self, ticket, n_in, n_out, kind, began_s):
        self._slot.end(n_in, n_out, kind, time.monotonic() - began_s)
        with self._serials_lock:
            self._serials.append(ticket.serial)
            if len(self._serials) < _SERIALS:
                return
        self.flush()

    def flush(self):
        """Tell which transfers have ended since the last time. The port's process calls it a few times a second."""
        if self._serials:
            with self._serials_lock:
                serials, self._serials = self._serials, []
            if serials:
                self._tell({"kind": "transfer_done", "serials": serials})

    # -- in -------------------------------------------------------------------------------------------------------------
    def _put(self, message, exchange):
        ticket = self._check(message.ticket, trust.WRITE, message.block, message.size, exchange)
        if message.size > MAX_BLOCK:
            raise errors.BadMessage(detail=f"a block of {message.size} bytes")
        began_s = self._begin_transfer()
        n_in = 0
        try:
            self._take(message, exchange, ticket)
            n_in = message.size
        except errors.DiskFault as e:
            self._tell({"kind": "sick", "reason": shared.reason_of(e)})
            raise
        finally:
            self._end_transfer(ticket, n_in, 0, shared.PUT, began_s)

    def _take(self, message, exchange, ticket):
        if not self._store.cluster_id:
            self._store.cluster_id = self._cluster_id()  # known at the latest when a master signs tickets for this keeper
        buffer = self._buffer(message.size)
        incoming = self._begin(message, exchange, ticket)
        onward = Onward(self._peers, message, message.chain) if message.chain else None
        try:
            crcs = self._receive(message, exchange, incoming, onward, memoryview(buffer))
            with exchange.working():
                incoming.finish(crcs)
                receipts, failed = onward.result() if onward is not None else ([], [])
        except errors.IntegrityError:
            self._guard.good_again(ticket)
            raise
        finally:
            incoming.abort()  # nothing to undo once it is finished
            if onward is not None:
                onward.close()
            if len(buffer) == CHUNK_SIZE:
                self._buffers.append(buffer)
        self._guard.spend(ticket)
        self._tell({"kind": "stored", "block": message.block, "size": message.size, "crcs": crcs.hex(), "upload": message.upload,
                    "index": message.meta["index"]})
        proof = trust.make_receipt(self._keyring.ticket, message.block, self._keeper_id, message.size, crcs)
        exchange.answer(messages.BlockWritten(receipts=[{"keeper": self._keeper_id, "proof": proof}] + receipts, failed=failed))

    def _begin(self, message, exchange, ticket):
        try:
            incoming = self._store.begin(message.block, message.meta, message.size)
        except errors.FileExists:
            return _StoredAlready(self._store, message.block)
        if self._guard.is_spent(ticket):
            incoming.abort()
            refusal = errors.BadTicket(detail="it was used already, and what it stored has gone")
            self._refused(message.block, exchange, refusal)
            raise refusal
        return incoming

    def _buffer(self, size):
        """A buffer for one chunk: kept ones for whole chunks, a small one of its own for a small block."""
        if size <= SMALL:
            return bytearray(size)
        try:
            return self._buffers.pop()
        except IndexError:
            return bytearray(CHUNK_SIZE)

    def _receive(self, message, exchange, incoming, onward, buffer):
        """Take every chunk: check it, pass it on, write it. Returns the table of checksums."""
        block_bytes, crcs = bytes.fromhex(message.block), bytearray()
        left, crc, n = message.size, message.crc, exchange.body_length
        for index in range(n_chunks(message.size)):
            if index:
                chunk, n = exchange.next_chunk()
                crc = chunk.crc
            if n != min(left, CHUNK_SIZE):
                raise errors.BadMessage(detail=f"chunk {index} of block {message.block} has {n} bytes, {left} are left")
            view = buffer[:n]
            exchange.body_into(view)
            left -= n
            exchange.continues(left > 0)
            if chunk_crc(block_bytes, index, view) != crc:
                raise errors.ChecksumMismatch(block=message.block, chunk=index, where=" on its way here")
            if onward is not None:
                self._pass_on(onward, exchange, index, crc, view)
            incoming.write(view)
            crcs += crc.to_bytes(4, "big")
        return bytes(crcs)

    def _pass_on(self, onward, exchange, index, crc, view):
        if index:
            onward.pass_on(crc, view)
        else:
            with exchange.working():  # to connect may take a second
                onward.start(view)

    # -- out ------------------------------------------------------------------------------------------------------------
    def _get(self, message, exchange):
        ticket = self._check(message.ticket, trust.READ, message.block, message.count, exchange)
        began_s = self._begin_transfer()
        n_out = 0
        try:
            with self._store.open(message.block) as stored:
                if message.offset + message.count > stored.size:
                    raise errors.IntegrityError(f"block {message.block} has {stored.size} bytes on this keeper, "
                                                f"{message.offset + message.count} were expected")
                self._give(message, exchange, stored)
            n_out = message.count
        except (errors.IntegrityError, errors.DiskFault) as e:
            self._bad(message.block, e)
            raise
        finally:
            self._end_transfer(ticket, 0, n_out, shared.GET, began_s)

    def _give(self, message, exchange, stored):
        answer = messages.BlockData(size=message.count)
        if message.count > SMALL:
            exchange.answered = True  # from here on part of the answer may be on the wire: a failure must close, not refuse
            exchange.answer_file(answer, stored.fd, message.offset, message.count)
            return
        try:
            data = os.pread(stored.fd, message.count, message.offset)
        except OSError as e:
            raise errors.DiskFault(path=stored.path, detail=e.strerror or str(e)) from e
        if len(data) != message.count:
            raise errors.DiskFault(path=stored.path, detail="a short read")
        exchange.answer(answer, data)

    def _bad(self, block, error):
        """The catalog believes in a replica that is not (wholly) here: say so, that it be made again."""
        log.warning("replica bad block=%s reason=%s", block, error.message)
        self._tell({"kind": "bad", "block": block, "reason": shared.reason_of(error)})
        if isinstance(error, errors.DiskFault):
            self._tell({"kind": "sick", "reason": shared.reason_of(error)})
