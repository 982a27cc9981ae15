"""One block down one chain of keepers: the hot loop of an upload, and its counterpart, comparing what is stored already.

Never chooses keepers and never tries again elsewhere: `upload.py` does both. Per MiB it costs one positional read, one CRC-32
and one sendmsg.
"""

from zlib import crc32

from dfs_lib import errors, model
from dfs_lib.checksums import chunk_seed, crc_at
from dfs_lib.wire import messages

# The longest one chunk may take to leave us, however it trickles (about 70 KB/s), and an answer to come while the keeper says
# that it is working: a disk that needs longer to fsync a block is as good as dead.
CHUNK_LIMIT_S, ANSWER_LIMIT_S = 15.0, 120.0


class GivenUp(Exception):
    """Another thread of the same transfer has failed; what it raised is the news."""


class Block:
    """A block on its way out. Belongs to one thread at a time.

    source: has read_into(view, offset), and view(offset, n) when its bytes are in memory anyway; offset: where the block starts in it; id: 32 hex digits once granted; crcs: bytes, once
    it was sent whole; receipts: {keeper id: proof}; n_shown: bytes that progress has been told of.
    """

    __slots__ = ("index", "source", "offset", "size", "last", "id", "crcs", "receipts", "n_shown", "owns_source")

    def __init__(self, index, source, offset, size, last, owns_source=False):
        self.index, self.source, self.offset, self.size, self.last = index, source, offset, size, last
        self.owns_source = owns_source
        self.n_shown = 0
        self.name(None)

    def name(self, block_id):
        """Take a fresh id: checksums depend on it, and receipts for another id are worth nothing."""
        self.id, self.crcs, self.receipts = block_id, None, {}

    def stored(self):
        """The record of it for RecordBlocks and CommitUpload."""
        return {"index": self.index, "block": self.id, "size": self.size, "crcs": self.crcs.hex(),
                "receipts": [{"keeper": keeper, "proof": proof} for keeper, proof in self.receipts.items()]}

    def let_go(self):
        """Close a source that belongs to this block alone."""
        if self.owns_source:
            self.source.close()


def send(peers, chain, block, meta, buffer, limits, shown, should_stop):
    """Send a block to chain[0], which passes it on; returns BlockWritten when it is durable there.

    limits: (connect seconds, silence seconds); shown(n) is told of bytes sent for the first time; should_stop() ends it between
    chunks. Raises NetworkError, ProtocolError or what the keeper refused with.
    """
    connect_s, silence_s = limits
    stream, kept, port = peers.reach(chain[0], connect_s)
    while True:
        try:
            written = _converse(peers, stream, chain, block, meta, buffer, silence_s, shown, should_stop)
        except errors.PeerGone:
            stream.close()
            if not kept:
                raise
            # A kept connection whose keeper was restarted meanwhile says nothing about the keeper.
            stream, kept, port = peers.reach(chain[0], connect_s, fresh=True)
        except errors.PeerTimeout:
            stream.close()
            peers.was_silent(chain[0], port)
            raise
        except BaseException:
            stream.close()  # half a block is on the wire: the conversation cannot go on
            raise
        else:
            peers.give(chain[0], port, stream)
            return written


def _converse(peers, stream, chain, block, meta, buffer, silence_s, shown, should_stop):
    stream.set_timeout(silence_s)
    try:
        crcs = _send_chunks(peers.watch, stream, chain, block, meta, buffer, shown, should_stop)
        if block.crcs is not None and block.crcs != crcs:
            raise errors.LocalFileError(path=meta["path"], detail="it changed while it was read; nothing was published")
        block.crcs = crcs
        peers.watch.until(stream, ANSWER_LIMIT_S)
        return stream.answer()
    finally:
        peers.watch.done(stream)


def _send_chunks(watch, stream, chain, block, meta, buffer, shown, should_stop):
    """Read, sum and send every chunk; returns their checksums as bytes."""
    block_bytes, crcs = bytes.fromhex(block.id), bytearray()
    read_into, request_id, view_of = block.source.read_into, None, getattr(block.source, "view", None)
    n_sent, chunk = 0, 0
    while chunk == 0 or n_sent < block.size:
        if should_stop():
            raise GivenUp
        n = min(block.size - n_sent, model.CHUNK_SIZE)
        if view_of is None:
            view = buffer[:n]
            read_into(view, block.offset + n_sent)
        else:
            view = view_of(block.offset + n_sent, n)
        crc = crc32(view, chunk_seed(block_bytes, chunk))
        crcs += crc.to_bytes(4, "big")
        watch.until(stream, CHUNK_LIMIT_S)
        try:
            if chunk == 0:
                request_id = stream.send(messages.PutBlock(block=block.id, size=block.size, meta=meta, ticket=chain[0]["ticket"],
                                                           chain=chain[1:], crc=crc), view)
            else:
                stream.send(messages.BlockChunk(crc=crc), view, request_id)
        except errors.PeerGone:
            stream.raise_last_words()
            raise
        n_sent, chunk = n_sent + len(view), chunk + 1
        if n_sent > block.n_shown:
            shown(n_sent - block.n_shown)
            block.n_shown = n_sent
    return bytes(crcs)


def equals_stored(block, block_id, crcs, buffer):
    """Whether a block's bytes are those behind the checksums `crcs` (bytes) of the stored block `block_id`."""
    if len(crcs) != 4 * model.n_chunks(block.size):
        return False
    block_bytes = bytes.fromhex(block_id)
    for chunk in range(model.n_chunks(block.size)):
        start = chunk * model.CHUNK_SIZE
        view = buffer[:min(block.size - start, model.CHUNK_SIZE)]
        block.source.read_into(view, block.offset + start)
        if crc32(view, chunk_seed(block_bytes, chunk)) != crc_at(crcs, chunk):
            return False
    return True
