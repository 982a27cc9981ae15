"""Small blocks, many in one message: in (and on to the next keeper of their chain), and out.

One block's trouble is its own: it is told in its place of the answer, and the others go on. Never touches a file before the
block's own ticket was checked. Durable is what it is for one block: fsynced under its name before the answer says so.

    PutBlocks + bytes ─▶ tickets ─▶ checksums ─▶ those that are good go on to the next keeper at once
                                       └─▶ store: each step for all of them, then the next keeper's answer
    ◀─ BlocksWritten(of each: receipts of this keeper and those after it, who failed and why)
"""

from zlib import crc32

from dfs_lib import errors
from dfs_lib.checksums import chunk_seed
from dfs_lib.keeper import block_file, disk, shared
from dfs_lib.keeper.onward import Onward
from dfs_lib.model import CHUNK_SIZE
from dfs_lib.net.servers import refused
from dfs_lib.wire import messages, trust

# What a slow disk may take for each further block of a lot, beside the time-out of one.
SYNC_S = 0.1


class Lots:
    """Answers PutBlocks and GetBlocks for one port. Threads of its server share it."""

    def __init__(self, store, gate, keyring, peers):
        """gate: gate.Gate; peers: onward.Peers."""
        self._store, self._gate, self._receipt_key, self._peers = store, gate, keyring.ticket, peers

    # -- in -------------------------------------------------------------------------------------------------------------
    def put(self, message, exchange):
        if sum(block["size"] for block in message.blocks) != exchange.body_length:
            raise errors.BadMessage(detail=f"{exchange.body_length} bytes of blocks, and their sizes add up to another number")
        if any(len(block["tickets"]) != 1 + len(message.chain) for block in message.blocks):
            raise errors.BadMessage(detail="a ticket for each keeper of the chain is due")
        if len({block["block"] for block in message.blocks}) != len(message.blocks):
            raise errors.BadMessage(detail="a block stands there twice")  # two contents of one name: a receipt would be untrue
        arrivals = [_Arrival(block) for block in message.blocks]
        began_s = self._gate.begin()
        n_in = 0
        try:
            view = memoryview(exchange.body())
            self._gate.came(exchange, len(view))
            for arrival in arrivals:
                arrival.view, view = view[:arrival.size], view[arrival.size:]
                arrival.attempt(self._check, exchange)
            n_in = self._store_all([arrival for arrival in arrivals if arrival.error is None], message.chain, exchange)
        finally:
            self._gate.end([arrival.ticket for arrival in arrivals if arrival.ticket is not None], n_in, 0, shared.PUT, began_s)
        keeper = self._gate.keeper_id
        exchange.answer(messages.BlocksWritten(results=[arrival.result(keeper) for arrival in arrivals]))

    def _check(self, arrival, exchange):
        """Its ticket, then its bytes: before both were found good nothing is done for it."""
        block, fields = arrival.block, arrival.fields
        arrival.ticket = self._gate.check_put(fields["tickets"][0], block, arrival.size, fields, exchange)
        if crc32(arrival.view, chunk_seed(bytes.fromhex(block), 0)) != fields["crc"]:
            raise errors.ChecksumMismatch(block=block, chunk=0, where=" on its way here")

    def _store_all(self, arrivals, chain, exchange):
        """Store these and pass them on; returns the bytes stored here."""
        if not arrivals:
            return 0
        onward = None
        try:
            if chain:
                with exchange.working():  # to connect may take a second
                    onward = self._pass_on(arrivals, chain)
            more_s = SYNC_S * len(arrivals)
            with exchange.working(self._gate.disk_timeout_s + more_s), self._gate.on_disk(more_s):
                self._store_here(arrivals, exchange)
            if onward is not None:
                with exchange.working():  # the next keeper has a disk of its own to wait for
                    _add(onward, arrivals)
        finally:
            for arrival in arrivals:
                if arrival.incoming is not None:
                    arrival.incoming.abort()  # nothing to undo once it is finished
            if onward is not None:
                onward.close()
        rows = [[arrival.block, arrival.size, arrival.crcs.hex()] for arrival in arrivals if arrival.is_stored]
        if rows:
            self._gate.stored_for_uploads(rows)
        return sum(row[1] for row in rows)

    def _pass_on(self, arrivals, chain):
        onward = Onward(self._peers, chain[0], messages.PutBlocks(
            blocks=[{**arrival.fields, "tickets": arrival.fields["tickets"][1:]} for arrival in arrivals], chain=chain[1:]), True)
        onward.start(b"".join(arrival.view for arrival in arrivals))
        return onward

    def _store_here(self, arrivals, exchange):
        for arrival in arrivals:
            arrival.attempt(self._begin, exchange)
        begun = [arrival for arrival in arrivals if arrival.error is None and arrival.incoming.is_new]
        outcomes = block_file.finish_all([(arrival.incoming, arrival.crcs) for arrival in begun])
        for arrival, outcome in zip(begun, outcomes):
            arrival.error = outcome
        for arrival in arrivals:
            if isinstance(arrival.error, errors.DiskFault):
                self._gate.sick(arrival.error)
            elif isinstance(arrival.error, errors.NoRoom):
                self._gate.no_room(arrival.error)
            elif isinstance(arrival.error, errors.IntegrityError):
                self._gate.guard.good_again(arrival.ticket)
            elif arrival.error is None:
                self._gate.guard.spend(arrival.ticket)
                arrival.is_stored = True
                arrival.receipts = [{"keeper": self._gate.keeper_id, "proof": trust.make_receipt(
                    self._receipt_key, arrival.block, self._gate.keeper_id, arrival.size, arrival.crcs)}]

    def _begin(self, arrival, exchange):
        arrival.crcs = arrival.fields["crc"].to_bytes(4, "big")
        arrival.incoming = self._store.begin_or_compare(arrival.block, _metadata(arrival.fields), arrival.size)
        if arrival.incoming.is_new:
            self._gate.check_unspent(arrival.ticket, arrival.block, exchange)
            arrival.incoming.write(arrival.view)
        else:
            arrival.incoming.finish(arrival.crcs)

    # -- out ------------------------------------------------------------------------------------------------------------
    def get(self, message, exchange):
        if sum(block["size"] for block in message.blocks) > CHUNK_SIZE:
            raise errors.BadMessage(detail=f"more than {CHUNK_SIZE} bytes of small blocks at once")
        tickets, results, pieces = [], [], []
        began_s = self._gate.begin()
        try:
            for block in message.blocks:
                try:
                    tickets.append(self._gate.check_get(block["ticket"], block["block"], block["size"], exchange))
                    pieces.append(self._read(block))
                    results.append({})
                except errors.DfsError as e:
                    said = refused(e)
                    results.append({"refused": {"error": said.error, "message": said.message, "facts": said.facts}})
        finally:
            self._gate.end(tickets, 0, sum(map(len, pieces)), shared.GET, began_s)
        data = b"".join(pieces)
        exchange.answer(messages.BlocksData(results=results), data)
        self._gate.went(exchange, len(data))

    def _read(self, asked):
        block, size = asked["block"], asked["size"]
        try:
            with self._gate.on_disk(), self._store.open(block) as stored:
                if stored.size != size:
                    raise errors.IntegrityError(f"block {block} has {stored.size} bytes on this keeper, {size} were expected")
                try:
                    data = disk.read_at(stored.fd, size, 0)
                except OSError as e:
                    raise errors.DiskFault(path=stored.path, detail=e.strerror or str(e)) from e
                if len(data) != size:
                    raise errors.DiskFault(path=stored.path, detail="a short read")
                return data
        except (errors.IntegrityError, errors.DiskFault) as e:
            self._gate.bad(block, e)
            raise


class _Arrival:
    """One block of a PutBlocks on its way through: what is known of it so far."""

    __slots__ = ("fields", "block", "size", "view", "ticket", "incoming", "crcs", "error", "is_stored", "receipts", "failed")

    def __init__(self, fields):
        self.fields, self.block, self.size = fields, fields["block"], fields["size"]
        self.view = self.ticket = self.incoming = self.crcs = self.error = None
        self.is_stored, self.receipts, self.failed = False, [], []

    def attempt(self, act, exchange):
        """Do a step for it; what it raises is its own."""
        try:
            act(self, exchange)
        except errors.DfsError as e:
            self.error = e

    def result(self, keeper):
        """Its entry of BlocksWritten."""
        if self.error is not None:
            self.failed.insert(0, {"keeper": keeper, "error": self.error.code, "message": shared.reason_of(self.error)})
        return {"receipts": self.receipts, "failed": self.failed}


def _add(onward, arrivals):
    """What the next keeper answers of them; when it does not, it has failed for all."""
    written = onward.answer(lambda answer: len(answer.results) == len(arrivals))
    for at, arrival in enumerate(arrivals):
        if written is None:
            arrival.failed.append(onward.failure())
        else:
            arrival.receipts += written.results[at]["receipts"]
            arrival.failed += written.results[at]["failed"]


def _metadata(fields):
    """What the block's trailer says of its file, which is this block and no other."""
    return {"path": fields["path"], "version": fields["version"], "index": 0, "file_size": fields["size"], "block_size": fields["block_size"],
            "mtime_at": fields["mtime_at"], "copies": fields["copies"], "last": True}
