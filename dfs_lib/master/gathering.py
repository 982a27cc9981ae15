"""What a master without a catalog hears from its keepers: who they are, what their trailers say, their copies of the old catalog.

Answers clients only with how far it is, gives no order, and decides nothing: `rebuilder` does, which owns one of these. Handlers run in
a thread a connection; a keeper whose connection breaks comes again and goes on after the last page that was taken.
"""

import hashlib
import json
import logging
import os
import threading
import zlib

from dfs_lib import errors, trailers
from dfs_lib.model import CHUNK_SIZE, n_chunks
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

# A keeper that was not heard for so long has gone; it asks each second while it has nothing to do.
GONE_S = 10.0
# Unreadable block files that are named in the report, of each keeper; beyond it they are only counted.
MOST_NAMED = 1000
# The most that a page of trailers may unpack to.
_MAX_PAGE = 16 << 20


class OfferedKeeper:
    """One keeper and what it has sent. number: ours, for found.db; after: id of the last block taken; copy: path of its copy's parts without
    `.snap` and `.log` once all of it is here; is_copy_bad: it proved damaged."""

    def __init__(self, number, offer):
        self.number, self.offer = number, offer
        self.host = self.connection = None
        self.heard_s, self.after, self.n_trailers, self.is_done = 0.0, "", 0, False
        self.is_copy_wanted, self.copy_offset, self.copy, self.is_copy_bad = False, 0, None, False
        self.n_unreadable, self.unreadable = 0, []  # the first: [(block, reason)]

    @property
    def id(self):
        return self.offer.keeper


class Gathering:
    """The service. `changed` is notified at every change; its lock guards everything here, and `staged` (catalog/rebuilding.Rebuilding)."""

    def __init__(self, staged, clock, least):
        """least: keepers that have to come, for the sentence that says how far it is."""
        self._staged, self._clock, self._least = staged, clock, least
        self.changed = threading.Condition()
        self.keepers = {}  # id → OfferedKeeper
        self.cluster_id = None
        self.news_s = clock()  # when one came that was not here before
        self.phase = ""  # what is done once enough is gathered; "" before
        self._table = {messages.OfferRebuild: self._offer, messages.SendTrailers: self._take_trailers, messages.SendCopy: self._take_copy}

    def handle(self, message, exchange):
        handler = self._table.get(type(message))
        if exchange.peer.role != messages.KEEPER or handler is None:
            text = self.progress()
            raise errors.NotReady(f"the master is making a new catalog from what its keepers hold: {text}", detail=text)
        exchange.answer(handler(message, exchange))

    def left(self, connection):
        """A connection has closed. Its keeper comes again, or is silent for long."""

    def progress(self):
        """How far it is, in words."""
        with self.changed:
            if self.phase:
                return self.phase
            keepers = self.keepers.values()
            n_blocks = sum(max(keeper.offer.n_blocks, keeper.n_trailers) for keeper in keepers)
            return (f"{len(keepers)} keepers have come" + (f" of at least {self._least}" if self._least > 1 else "")
                    + f", {sum(keeper.is_done for keeper in keepers)} have told all they hold, {sum(keeper.n_trailers for keeper in keepers)} of "
                    f"{n_blocks} replicas are known")

    def best_copy(self):
        """The keeper with the latest copy of the old catalog that is not bad, None when nobody has one; it is asked to send it."""
        able = [keeper for keeper in self.keepers.values() if keeper.offer.copy and not keeper.is_copy_bad
                and (keeper.copy or self._clock() - keeper.heard_s <= GONE_S)]
        best = max(able, key=lambda keeper: (keeper.offer.copy["epoch"], keeper.offer.copy["sequence"], keeper.copy is not None), default=None)
        if best is not None:
            best.is_copy_wanted = True
        return best

    # -- keepers --------------------------------------------------------------------------------------------------------
    def _offer(self, message, exchange):
        if message.keeper != exchange.peer.identity:
            raise errors.KeeperRefused(keeper=message.keeper, detail=f"it proved to be {exchange.peer.identity}")
        text = self.progress()
        with self.changed:
            if self.cluster_id not in (None, message.cluster_id):
                log.error("a keeper of another cluster keeper=%s cluster=%s ours=%s", message.keeper, message.cluster_id, self.cluster_id)
                raise errors.WrongCluster(what="the keeper's data directory", theirs=message.cluster_id, ours=self.cluster_id)
            keeper = self.keepers.get(message.keeper)
            if keeper is None:
                if self.phase:
                    return messages.RebuildAsks(what="wait", text=text)  # too late for this: it joins when the catalog is there
                keeper = self._come(message)
            keeper.offer, keeper.host = message, message.host or exchange.peer_host
            keeper.connection, keeper.heard_s = exchange.connection, self._clock()
            self.changed.notify_all()
            if self.phase:
                what = {"what": "wait"}
            elif not keeper.is_done:
                what = {"what": "trailers", "after": keeper.after or None}
            elif keeper.is_copy_wanted and keeper.copy is None and message.copy:
                what = {"what": "copy", "offset": 0}
            else:
                what = {"what": "wait"}
            return messages.RebuildAsks(text=text, **what)

    def _come(self, offer):
        self.cluster_id, self.news_s = offer.cluster_id, self._clock()
        log.info("keeper has come keeper=%s blocks=%s epoch=%s copy=%s", offer.keeper, offer.n_blocks, offer.epoch,
                 offer.copy and (offer.copy["epoch"], offer.copy["sequence"]))
        keeper = self.keepers[offer.keeper] = OfferedKeeper(len(self.keepers) + 1, offer)
        return keeper

    def _speaker(self, exchange):
        """Whose page this is. Raises OutOfTurn when it has not offered itself on this connection."""
        keeper = self.keepers.get(exchange.peer.identity)
        if keeper is None or keeper.connection is not exchange.connection:
            raise errors.OutOfTurn(detail="a page for a rebuild without an offer before it")
        keeper.heard_s = self._clock()
        return keeper

    def _take_trailers(self, message, exchange):
        rows = _unpacked(_body(message, exchange))
        with self.changed:
            keeper = self._speaker(exchange)
            if keeper.is_done or self.phase:
                raise errors.OutOfTurn(detail="trailers that nobody waits for")
            placed, placeless, unreadable = self._sorted_out(keeper.after, rows)
            self._staged.add(keeper.number, placed, placeless)
            keeper.n_unreadable += len(unreadable)
            keeper.unreadable += unreadable[:max(0, MOST_NAMED - len(keeper.unreadable))]
            keeper.n_trailers += len(rows)
            if rows:
                keeper.after = rows[-1][0]
            if message.last:
                keeper.is_done = True
                log.info("keeper has told all it holds keeper=%s replicas=%s unreadable=%s", keeper.id, keeper.n_trailers, keeper.n_unreadable)
            self.changed.notify_all()
        return messages.Done()

    def _sorted_out(self, after, rows):
        """(placed, placeless) as Rebuilding.add takes them, and unreadable ones: [(block, reason)]."""
        placed, placeless, unreadable = [], [], []
        for block, size, crcs, metadata in rows:
            if block <= after:
                raise errors.BadMessage(detail="trailers are not sorted")
            after = block
            if size is None:
                unreadable.append((block, metadata))
                continue
            try:
                trailers.check_facts(metadata, block, size)
                if metadata["cluster"] != self.cluster_id:
                    raise errors.IntegrityError(f"it is of cluster {metadata['cluster'][:64]}")
                if not 0 < metadata["version"] <= 1 << 53 or metadata["index"] >= 1 << 40:
                    raise errors.IntegrityError("its version or index is beyond any")
                placed.append((metadata["path"], metadata["version"], metadata["index"], block, size, crcs, metadata))
            except (errors.IntegrityError, errors.BadName) as e:
                placeless.append((block, size, crcs, e.message[:1000]))
        return placed, placeless, unreadable

    def _take_copy(self, message, exchange):
        page = _body(message, exchange)
        with self.changed:
            keeper = self._speaker(exchange)
            if not keeper.is_copy_wanted or keeper.copy is not None or self.phase or message.offset not in (0, keeper.copy_offset):
                raise errors.OutOfTurn(detail="a page of a copy that nobody waits for")
            path = os.path.join(self._staged.work, f"copy.{keeper.number}")
            try:
                if message.offset == 0:
                    for part in (".snap", ".log"):
                        open(path + part, "wb").close()
                with open(path + (".snap" if message.offset < keeper.offer.copy["base_size"] else ".log"), "ab") as out:
                    out.write(page)
            except OSError as e:
                raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
            keeper.copy_offset = message.offset + len(page)
            if message.last:
                keeper.copy = path
                log.info("copy of the catalog has come keeper=%s size=%s", keeper.id, keeper.copy_offset)
            self.changed.notify_all()
        return messages.Done()


def _body(message, exchange):
    body = exchange.body()
    if hashlib.sha256(body).hexdigest() != message.sha256:
        raise errors.BadMessage(detail="a page was altered on its way")
    return body


def _unpacked(body):
    """[(block, size or None, crcs, metadata or reason)] of a page of trailers, each of the right types. Raises BadMessage."""
    try:
        rows = json.loads(zlib.decompressobj().decompress(body, _MAX_PAGE))
        return [_checked(row) for row in rows]
    except (zlib.error, ValueError, TypeError, RecursionError) as e:
        raise errors.BadMessage(detail=f"a page of trailers cannot be read ({type(e).__name__})") from e


def _checked(row):
    block, size, *rest = row
    if type(block) is not str or len(bytes.fromhex(block)) != 16 or block != block.lower():
        raise ValueError("no block id")
    if size is None:
        reason, = rest
        return block, None, b"", str(reason)[:300]
    text, metadata = rest
    crcs = bytes.fromhex(text)
    if type(size) is not int or not 0 <= size <= 1 << 30 or type(metadata) is not dict:
        raise ValueError("no trailer")
    if len(crcs) != 4 * n_chunks(size, CHUNK_SIZE):
        return block, None, b"", "its checksums are of another chunk size"
    return block, size, crcs, metadata
