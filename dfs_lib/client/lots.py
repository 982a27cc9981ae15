"""Small files in lots: one message to a keeper carries many of them, out and in, and one answer tells of each.

Never tries twice: what a lot did not bring through is handed back, and whoever asked goes on with all patience, file by file
(`upload.py`, `download.py`). A file of a lot is one block of one chunk.

    out   read and sum each ──> PutBlocks down their common chain ──> receipts of `safe` keepers for each?
    in    GetBlocks of one keeper ──> the bytes of each, checked against what the catalog vouches for
"""

from zlib import crc32

from dfs_lib import errors, model
from dfs_lib.checksums import chunk_seed
from dfs_lib.client import blocks, places, sources, upload
from dfs_lib.wire import messages

# The largest file that goes in a lot; a lot has one chunk of bytes at most.
MOST_FILE = model.CHUNK_SIZE // 4
MOST_BYTES, MOST_FILES = model.CHUNK_SIZE, messages.MOST_SMALL_BLOCKS
# The longest a lot may take to leave us or to come, however it trickles.
LIMIT_S = 15.0


class SmallFile:
    """A file on its way out in a lot. Belongs to one thread at a time.

    opened: its result of UploadOpened; receipts, tried, unwilling: what became of its block; error: what befell it.
    """

    __slots__ = ("local", "path", "size", "mtime_at", "found", "began_s", "opened", "crc", "receipts", "tried", "unwilling", "error")

    def __init__(self, local, path, size, mtime_at, began_s, found=None):
        """found: the os.stat_result of the local file when it was looked at, which it must still have when it is opened."""
        self.local, self.path, self.size, self.mtime_at, self.found, self.began_s = local, path, size, mtime_at, found, began_s
        self.opened = self.crc = self.error = None
        self.receipts, self.tried, self.unwilling = {}, (), ()

    @property
    def grant(self):
        return self.opened["grants"][0]

    @property
    def is_safe(self):
        return self.error is None and len(self.receipts) >= self.opened["safe"]

    def read(self, view, follow):
        """Its bytes into `view`, and their checksum. Raises LocalFileError, also when it changes meanwhile."""
        source = sources.LocalFile(self.local, follow, self.found)
        try:
            self.read_from(source, view)
        finally:
            source.close()

    def read_from(self, source, view):
        source.read_into(view, 0)
        source.check_unchanged()
        self.crc = crc32(view, chunk_seed(bytes.fromhex(self.grant["block"]), 0))

    def described(self):
        """Its entry of PutBlocks."""
        opened, grant = self.opened, self.grant
        return {"block": grant["block"], "size": self.size, "crc": self.crc, "path": self.path, "version": opened["version"],
                "block_size": opened["block_size"], "mtime_at": self.mtime_at, "copies": opened["copies"],
                "tickets": [hop["ticket"] for hop in grant["chain"]]}

    def take(self, result):
        """Its result of BlocksWritten."""
        self.receipts = {receipt["keeper"]: receipt["proof"] for receipt in result["receipts"]}
        self.unwilling = {failed["keeper"] for failed in result["failed"] if failed["error"] in places.UNWILLING}
        self.tried = {failed["keeper"] for failed in result["failed"]} - self.unwilling

    def commit_request(self):
        return {"upload": self.opened["upload"], "size": self.size, "blocks": [
            {"index": 0, "block": self.grant["block"], "size": self.size, "crcs": f"{self.crc:08x}",
             "receipts": [{"keeper": keeper, "proof": proof} for keeper, proof in self.receipts.items()]}]}

    def carry_on(self, peers, options):
        """The Upload that takes it from here, with what the lot has brought."""
        carrier = upload.Upload(peers, self.path, self.local, options, size=self.size, mtime_at=self.mtime_at)
        carrier.opened(self.opened)
        if self.crc is None:
            return carrier, None
        block = carrier.only_block(self.grant["block"], self.crc.to_bytes(4, "big"), self.receipts, self.is_safe)
        return carrier, block

    def result(self, committed):
        return upload.result_of(committed, self.path, self.local, self.size, self.began_s)


def chain_of(opened):
    """What files of one lot have in common: the keepers they go to, in order. None when it does not go in a lot."""
    grants = opened["grants"]
    return tuple(hop["keeper"] for hop in grants[0]["chain"]) if grants and grants[0]["chain"] else None


def put(peers, files, buffer, follow, limits):
    """Read and send these files, whose chains have the same keepers, to the first of them; each then knows how it went.

    buffer: memoryview of a chunk; limits: (connect seconds, silence seconds).
    """
    ready, at = [], 0
    for file in files:
        try:
            file.read(buffer[at:at + file.size], follow)
        except errors.LocalFileError as e:
            file.error = e
        else:
            ready.append(file)
            at += file.size
    if ready:
        send(peers, ready, buffer[:at], limits)


def send(peers, ready, body, limits):
    """Send files that have been read; `body` has their bytes, one after another."""
    chain = ready[0].grant["chain"]
    message = messages.PutBlocks(blocks=[file.described() for file in ready], chain=[
        {"keeper": hop["keeper"], "host": hop["host"], "ports": hop["ports"]} for hop in chain[1:]])
    try:
        results = _ask(peers, chain[0], message, body, limits, lambda stream: stream.answer()).results
        if len(results) != len(ready):
            raise errors.BadMessage(detail="a keeper answers for another number of blocks than it was sent")
    except places.KEEPER_FAILED as e:
        failed = {"keeper": chain[0]["keeper"], "error": e.code, "message": e.message}
        results = [{"receipts": [], "failed": [failed]}] * len(ready)
    for file, result in zip(ready, results):
        file.take(result)


def get(peers, plans, buffer, silence_s, deliver):
    """Fetch the only blocks of these files from the keeper that is the first source of each.

    plans: download.Plan of each. deliver(plan, view) is told of each that came whole and checked, and what it raises passes.
    Returns the plans that did not come: they are fetched with patience, and damage is then told to the master.
    """
    records = [plan.block(0) for plan in plans]
    source = records[0]["sources"][0]
    message = messages.GetBlocks(blocks=[{"block": record["block"], "size": record["size"], "ticket": record["sources"][0]["ticket"]}
                                         for record in records])

    def receive(stream):
        answer = stream.answer()
        sizes = [0 if result["refused"] else record["size"] for record, result in zip(records, answer.results)]
        if len(answer.results) != len(records) or stream.talk.body_left != sum(sizes):
            raise errors.BadMessage(detail=f"{stream.address} answers with another number of bytes than was asked for")
        stream.body_into(buffer[:sum(sizes)])
        return sizes

    try:
        sizes = _ask(peers, source, message, None, (silence_s, silence_s), receive)
    except places.KEEPER_FAILED:
        return plans
    left, at = [], 0
    for plan, record, size in zip(plans, records, sizes):
        view = buffer[at:at + size]
        at += size
        if size and crc32(view, chunk_seed(bytes.fromhex(record["block"]), 0)) == int(record["crcs"], 16):
            plan.keepers[source["keeper"]] = None
            deliver(plan, view)
        else:
            left.append(plan)
    return left


def _ask(peers, hop, message, body, limits, receive):
    """One question to a keeper over a kept connection, or a fresh one when that has gone stale."""
    connect_s, silence_s = limits
    stream, kept, port = peers.reach(hop, connect_s)
    while True:
        try:
            stream.set_timeout(silence_s)
            peers.watch.until(stream, LIMIT_S)
            stream.send(message, body)
            peers.watch.until(stream, blocks.ANSWER_LIMIT_S)
            found = receive(stream)
        except errors.PeerGone:
            peers.watch.done(stream)
            stream.close()
            if not kept:
                raise
            stream, kept, port = peers.reach(hop, connect_s, fresh=True)
        except BaseException as e:
            peers.watch.done(stream)
            stream.close()
            if isinstance(e, errors.PeerTimeout):
                peers.was_silent(hop, port)
            raise
        else:
            peers.watch.done(stream)
            peers.give(hop, port, stream)
            return found
