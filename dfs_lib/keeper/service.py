"""What a keeper's port answers: one block in (and on to the next keeper of its chain), a stretch of one out.

Never decides where a block belongs and never acts without a ticket signed by the master. What the rest of the keeper must
hear goes through the gate; sockets stay in net, block files in store. Many small blocks in one message are for lots.py.

    PutBlock + chunk ─▶ ticket ─▶ store.begin ─▶ for each chunk:  receive → check → pass on → write   (one 1 MiB buffer)
    BlockChunk …                                 after the last:  trailer, fsync, rename, fsync │ next keeper's answer
    ◀─ Working …                                                  tell "stored"
    ◀─ BlockWritten(receipts of this keeper and those after it, who failed and why)
"""

import os

from dfs_lib import errors
from dfs_lib.checksums import chunk_crc
from dfs_lib.keeper import shared
from dfs_lib.keeper.gate import Gate
from dfs_lib.keeper.lots import Lots
from dfs_lib.keeper.onward import SMALL, Onward, put_block
from dfs_lib.model import CHUNK_SIZE, n_chunks
from dfs_lib.wire import messages, trust

# The largest block there is, and the most checksums an event can carry.
MAX_BLOCK = 1024 * CHUNK_SIZE


class Service:
    """Answers PutBlock, GetBlock and their plurals for one port. Threads of its server share it.

    store: Store; keyring, reign, tell, slot, guard: see gate.Gate; cluster_id() → id or None; peers: onward.Peers;
    disk_timeout_s: what one write or sync may take; max_transfers: at once.
    """

    def __init__(self, store, keyring, keeper_id, reign, tell, slot, cluster_id, peers, guard=None, disk_timeout_s=15.0, max_transfers=256):
        self._store, self._keeper_id, self._cluster_id, self._peers = store, keeper_id, cluster_id, peers
        self._receipt_key = keyring.ticket
        self._gate = Gate(keyring, keeper_id, reign, tell, slot, store.has, guard, disk_timeout_s, max_transfers)
        self.flush, self.watch_disk = self._gate.flush, self._gate.watch_disk
        self.n_transfers_refused = lambda: self._gate.n_refused
        self._buffers = []  # chunk buffers not in use; append and pop are atomic
        lots = Lots(store, self._gate, keyring, peers)
        self._table = {messages.PutBlock: self._put, messages.GetBlock: self._get, messages.PutBlocks: lots.put,
                       messages.GetBlocks: lots.get, messages.Ping: self._ping}

    def handle(self, message, exchange):
        act = self._table.get(type(message))
        if act is None:
            raise errors.NotMaster(f"a keeper does not answer {type(message).__name__}; ask the master")
        if not self._store.cluster_id:
            self._store.cluster_id = self._cluster_id()  # known at the latest when a master signs tickets for this keeper
        act(message, exchange)

    def _ping(self, _message, exchange):
        exchange.answer(messages.Done())

    # -- in -------------------------------------------------------------------------------------------------------------
    def _put(self, message, exchange):
        gate = self._gate
        ticket = gate.check_put(message.ticket, message.block, message.size, message.meta, exchange)
        if message.size > MAX_BLOCK:
            raise errors.BadMessage(detail=f"a block of {message.size} bytes")
        began_s = gate.begin()
        n_in = 0
        try:
            self._take(message, exchange, ticket)
            n_in = message.size
        except errors.DiskFault as e:
            gate.sick(e)
            raise
        except errors.NoRoom as e:
            gate.no_room(e)
            raise
        finally:
            gate.end((ticket,), n_in, 0, shared.PUT, began_s)

    def _take(self, message, exchange, ticket):
        gate, buffer = self._gate, self._buffer(message.size)
        incoming = self._begin(message, exchange, ticket)
        chain, onward = message.chain, None
        if chain:
            onward = Onward(self._peers, chain[0], put_block(message, chain), message.size <= CHUNK_SIZE)
        try:
            crcs = self._receive(message, exchange, incoming, onward, memoryview(buffer))
            with exchange.working(gate.disk_timeout_s), gate.on_disk():
                incoming.finish(crcs)
            receipts, failed = [], []
            if onward is not None:
                with exchange.working():  # the next keeper has a disk of its own to wait for
                    receipts, failed = onward.result()
        except errors.IntegrityError:
            gate.guard.good_again(ticket)
            raise
        finally:
            incoming.abort()  # nothing to undo once it is finished
            if onward is not None:
                onward.close()
            if len(buffer) == CHUNK_SIZE:
                self._buffers.append(buffer)
        gate.guard.spend(ticket)
        gate.stored([[message.block, message.size, crcs.hex()]])
        proof = trust.make_receipt(self._receipt_key, message.block, self._keeper_id, message.size, crcs)
        exchange.answer(messages.BlockWritten(receipts=[{"keeper": self._keeper_id, "proof": proof}] + receipts, failed=failed))

    def _begin(self, message, exchange, ticket):
        incoming = self._store.begin_or_compare(message.block, message.meta, message.size)
        if incoming.is_new:
            try:
                self._gate.check_unspent(ticket, message.block, exchange)
            except errors.BadTicket:
                incoming.abort()
                raise
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
            self._gate.came(exchange, n)
            left -= n
            exchange.continues(left > 0)
            if chunk_crc(block_bytes, index, view) != crc:
                raise errors.ChecksumMismatch(block=message.block, chunk=index, where=" on its way here")
            if onward is not None:
                self._pass_on(onward, exchange, index, crc, view)
            with self._gate.on_disk():
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
        ticket = self._gate.check_get(message.ticket, message.block, message.count, exchange)
        began_s = self._gate.begin()
        n_out = 0
        try:
            with self._gate.on_disk():
                stored = self._store.open(message.block)
            with stored:
                if message.offset + message.count > stored.size:
                    raise errors.IntegrityError(f"block {message.block} has {stored.size} bytes on this keeper, "
                                                f"{message.offset + message.count} were expected")
                self._give(message, exchange, stored)
            n_out = message.count
        except (errors.IntegrityError, errors.DiskFault) as e:
            self._gate.bad(message.block, e)
            raise
        finally:
            self._gate.end((ticket,), 0, n_out, shared.GET, began_s)

    def _give(self, message, exchange, stored):
        answer = messages.BlockData(size=message.count)
        if message.count > SMALL:
            exchange.answered = True  # from here on part of the answer may be on the wire: a failure must close, not refuse
            exchange.answer_file(answer, stored.fd, message.offset, message.count, lambda n: self._gate.went(exchange, n))
            return
        try:
            with self._gate.on_disk():
                data = os.pread(stored.fd, message.count, message.offset)
        except OSError as e:
            raise errors.DiskFault(path=stored.path, detail=e.strerror or str(e)) from e
        if len(data) != message.count:
            raise errors.DiskFault(path=stored.path, detail="a short read")
        exchange.answer(answer, data)
        self._gate.went(exchange, len(data))
