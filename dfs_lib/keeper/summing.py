"""The SHA-256 of a file of several blocks, which lie on several keepers: one of them reads all, in order, between its transfers.

Never decides which file, and never believes a byte that the catalog's checksums do not vouch for. What has been hashed is lost
with this process, and the whole order is done again then, here or elsewhere: a digest's state cannot be put on a disk.

    order "sum" ─▶ LocateBlocks(first) ─▶ a page of blocks ─┬─ here: the block file, chunk by chunk     ─▶ compared ─▶ one SHA-256
                        ▲                                   └─ elsewhere: GetBlock, a chunk at a time
                        └──── the next page, the same hash going on; or the same page anew, before its tickets lapse
    no more blocks ─▶ order_done with the sum, which the master records if it still wants it

A replica that turns out bad is told of, as the scrub and any reader do, and the same chunk is read from another one.
"""

import hashlib
import logging
import time

from dfs_lib import errors
from dfs_lib.checksums import chunk_crc, crc_at
from dfs_lib.keeper import scrubber, shared
from dfs_lib.keeper.onward import DIAL_S
from dfs_lib.keeper.rounds import BLOCK_RATE, LOOK_S, YIELD_S
from dfs_lib.model import CHUNK_SIZE, n_chunks
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

# A page is asked for anew after so long: a third of the life of its tickets (15 min), and the order's time counts from then.
PAGE_S = 300.0
# A master that cannot be reached is tried for so long, and so often: hours of reading may be at stake.
PATIENCE_S, _AGAIN_S = 60.0, 1.0
_ANSWER_S = 10.0
# Another keeper has so long for one chunk. Nobody waits for us, so it is more patient than a reader.
_CHUNK_S = 6.0


class Summer:
    """store: Store; keeper_id: whose; peers: onward.Peers; connect(): a Stream to the master, None while there is none; tell(event);
    is_busy() → whether transfers are under way; rate: bytes a second that are never exceeded, 0: BLOCK_RATE, as in the scrub."""

    def __init__(self, store, keeper_id, peers, connect, tell, is_busy, rate=0, clock=time.monotonic):
        self._store, self._keeper_id, self._peers, self._connect, self._tell = store, keeper_id, peers, connect, tell
        self._is_busy, self._rate, self._clock = is_busy, min(rate or BLOCK_RATE, BLOCK_RATE), clock

    def total(self, order, wait):
        """The file of an order "sum", read whole: {"sha256", "n": blocks, "size": bytes}. wait(seconds) → True when it is time to stop.

        Raises what the master refuses with, OrderFailed when a block has no good replica in reach, scrubber.Stopped.
        """
        one = _One(self, order["order"], wait)
        digest, buffer, index, size = hashlib.sha256(), memoryview(bytearray(CHUNK_SIZE)), 0, 0
        while (block := one.block(index)) is not None:
            for chunk in range(n_chunks(block["size"])):
                view = one.chunk(index, chunk, buffer)
                digest.update(view)
                size += len(view)
                self._pause(len(view), one.sleep)
            index += 1
        if size != order["size"]:
            raise errors.OrderFailed(detail=f"version {order['version']} has {size} bytes in its blocks, and {order['size']} on record")
        log.info("file summed version=%s blocks=%s size=%s", order["version"], index, size)
        return {"sha256": digest.hexdigest(), "n": index, "size": size}

    def _pause(self, n, sleep):
        """Hold back to the rate, and let transfers go first for a while."""
        sleep(n / self._rate)
        end_s = self._clock() + YIELD_S
        while self._is_busy() and self._clock() < end_s:
            sleep(LOOK_S)

    # -- the master -----------------------------------------------------------------------------------------------------
    def ask(self, message, sleep):
        """The master's answer. Tried again for PATIENCE_S when it cannot be reached; what it refuses with is raised."""
        end_s = self._clock() + PATIENCE_S
        while True:
            try:
                stream = self._connect()
                if stream is not None:
                    try:
                        return stream.ask(message, timeout_s=_ANSWER_S)
                    finally:
                        stream.close()
            except errors.NetworkError:
                if self._clock() >= end_s:
                    raise
            if self._clock() >= end_s:
                raise errors.PeerGone(address="the master", detail="it has not taken this keeper in")
            sleep(_AGAIN_S)

    def complain(self, block, hop, error, sleep):
        """Tell the master of another keeper's replica: it has that keeper look."""
        try:
            self.ask(messages.ReplicaBad(block=block, keeper=hop["keeper"], reason=shared.reason_of(error)), sleep)
        except errors.DfsError as e:
            log.warning("a bad replica could not be told of block=%s keeper=%s reason=%s", block, hop["keeper"], e.message)

    # -- bytes ----------------------------------------------------------------------------------------------------------
    def read(self, block, hop, chunk, view, sleep):
        """Fill `view` with one chunk, checked. Raises NetworkError, Refusal …; IntegrityError, DiskFault once they were told of."""
        try:
            if hop["keeper"] == self._keeper_id:
                self._read_here(block, chunk, view)
            else:
                self._fetch(block, hop, chunk, view)
        except (errors.IntegrityError, errors.DiskFault) as e:
            log.warning("bad replica met block=%s keeper=%s reason=%s", block["block"], hop["keeper"], e.message)
            if hop["keeper"] == self._keeper_id:
                scrubber.verify(self._store, block["block"], self._tell)
            else:
                self.complain(block["block"], hop, e, sleep)
            raise

    def _read_here(self, block, chunk, view):
        with self._store.open(block["block"]) as stored:
            if stored.footer.chunk_size != CHUNK_SIZE or stored.size != block["size"]:
                raise errors.Misuse(detail=f"block {block['block']} is in a layout that this program cannot read in pieces")
            stored.read_chunk(chunk, view, bytes.fromhex(block["crcs"]))

    def _fetch(self, block, hop, chunk, view):
        message = messages.GetBlock(block=block["block"], offset=chunk * CHUNK_SIZE, count=len(view), ticket=hop["ticket"])
        failure = errors.ConnectFailed(address=hop["host"], detail="no port is known")
        for at in self._peers.resting.last([(hop["host"], port) for port in hop["ports"]]):
            try:
                self._get(at, message, view)
                break
            except errors.NetworkError as e:
                self._peers.resting.note(at)
                failure = e
        else:
            raise failure
        if chunk_crc(bytes.fromhex(block["block"]), chunk, view) != crc_at(bytes.fromhex(block["crcs"]), chunk):
            raise errors.ChecksumMismatch(block=block["block"], chunk=chunk, where=f" as keeper {hop['keeper']} gave it")

    def _get(self, at, message, view):
        """One chunk over a kept connection, over a fresh one when that was stale."""
        while True:
            stream, was_kept = self._peers.pool.take(*at, DIAL_S)
            try:
                answer = stream.ask(message, timeout_s=_CHUNK_S)
                if answer.size != len(view) or stream.talk.body_left != len(view):
                    raise errors.BadMessage(detail=f"{len(view)} bytes were asked for, {answer.size} came")
                stream.body_into(view)
                return
            except errors.PeerGone:
                if not was_kept:
                    raise
                self._peers.pool.forget(*at)
            finally:
                self._peers.pool.give(*at, stream)  # which closes one that is in the middle of something


class _One:
    """One file being summed: the page of its blocks that is at hand, and the replicas that have failed so far."""

    def __init__(self, summer, order, wait):
        self._summer, self._order, self._wait = summer, order, wait
        self._first, self._page, self._asked_s = 0, None, 0.0
        self._failed = set()  # keepers, and (block, keeper), that failed: tried last

    def sleep(self, seconds):
        """Wait. Raises scrubber.Stopped when it is time to stop."""
        if self._wait(seconds):
            raise scrubber.Stopped

    def block(self, index):
        """A block as messages.SOURCE_BLOCK has it, with tickets that are good for a while; None after the last."""
        now_s = self._summer._clock()
        is_here = self._page is not None and self._first <= index < self._first + len(self._page)
        if not is_here or now_s - self._asked_s >= PAGE_S:
            answer = self._summer.ask(messages.LocateBlocks(order=self._order, first=index), self.sleep)
            self._first, self._page, self._asked_s = index, answer.blocks, now_s
            if [block["index"] for block in self._page] != list(range(index, index + len(self._page))):
                raise errors.BadMessage(detail=f"not the blocks from {index} on")
        return self._page[index - self._first] if self._page else None

    def chunk(self, index, chunk, buffer):
        """A view of one chunk in `buffer`, checked; from the replica here if there is one. Raises OrderFailed when none can be read."""
        block = self.block(index)
        if block is None:
            raise errors.OrderFailed(detail=f"block {index} is on record no longer")
        view = buffer[:min(CHUNK_SIZE, block["size"] - chunk * CHUNK_SIZE)]
        own, id_, last = self._summer._keeper_id, block["block"], "no keeper is on record for it"
        for hop in sorted(block["sources"], key=lambda hop: ((id_, hop["keeper"]) in self._failed, hop["keeper"] in self._failed, hop["keeper"] != own)):
            if hop["keeper"] == own and (id_, own) in self._failed:
                continue  # it has been looked at, and told of
            try:
                self._summer.read(block, hop, chunk, view, self.sleep)
                return view
            except errors.DfsError as e:
                self._failed |= {(id_, hop["keeper"])} | ({hop["keeper"]} if isinstance(e, errors.NetworkError) else set())
                last = e.message
        raise errors.OrderFailed(detail=f"block {id_} cannot be read anywhere: {last}")
