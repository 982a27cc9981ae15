"""Tells a master that has lost its catalog what this keeper holds: every block's trailer, and its copy of the old catalog.

Never changes, moves or deletes anything, whatever it finds: a block file that cannot be read is told as such and left where it is.

    OfferRebuild ──▶ trailers ──▶ pages of them, from the block named on
                 ├─▶ copy     ──▶ pages of it, from its start
                 └─▶ wait     ──▶ a second, and again
    the connection ends when the master has its catalog, or dies: either way the reporter finds out what it is now
"""

import hashlib
import json
import logging
import zlib

from dfs_lib import errors
from dfs_lib.keeper import catalog_copy
from dfs_lib.model import CHUNK_SIZE
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

WAIT_S = 1.0
# The master writes a page down before it answers, and may be at another keeper's.
_ANSWER_S = 60.0
# A page of trailers ends when it has so many bytes of JSON, or so many rows.
PAGE_SIZE, PAGE_ROWS = 512 << 10, 2000

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


class Helper:
    """facts: reporter.Facts; epoch: shared.HighestEpoch; stop: shared.StopSignal."""

    def __init__(self, facts, cluster_id, store, epoch, stop):
        self._facts, self._cluster_id, self._store, self._epoch, self._stop = facts, cluster_id, store, epoch, stop
        self._text = ""

    def help(self, stream):
        """Do what the master asks until the daemon is told to stop. Raises what ends the conversation."""
        log.warning("the master has no catalog and makes a new one from its keepers: telling it what is here address=%s", stream.address)
        while not self._stop.is_set:
            asked = stream.ask(self._offer(), timeout_s=_ANSWER_S)
            if asked.text != self._text:
                self._text = asked.text
                log.info("rebuild address=%s progress=%s", stream.address, asked.text)
            if asked.what == "trailers":
                self._send_trailers(stream, asked.after or "")
            elif asked.what == "copy":
                self._send_copy(stream)
            else:
                self._stop.wait(WAIT_S)

    def _offer(self):
        facts = self._facts
        return messages.OfferRebuild(
            keeper=facts.keeper_id, cluster_id=self._cluster_id, epoch=self._epoch.value, host=facts.host, ports=list(facts.ports),
            labels=facts.labels, n_blocks=self._store.space().n_blocks, copy=self._copy())

    def _copy(self):
        try:
            found = catalog_copy.summary(self._store.path)
        except errors.DfsError as e:
            log.warning("the copy of the catalog cannot be read reason=%s", e.message)
            return None
        if found is None:
            return None
        epoch, sequence = found.last
        return {"epoch": epoch, "sequence": sequence, "at": found.at, "base_size": found.base_size, "log_size": found.log_size}

    # -- trailers -------------------------------------------------------------------------------------------------------
    def _send_trailers(self, stream, after):
        for rows, last in pages(self._store, after):
            if self._stop.is_set:
                return
            body = zlib.compress(b"[%s]" % b",".join(rows), 1)
            stream.ask(messages.SendTrailers(last=last, sha256=hashlib.sha256(body).hexdigest()), body, timeout_s=_ANSWER_S)

    # -- the copy -------------------------------------------------------------------------------------------------------
    def _send_copy(self, stream):
        offset, held = 0, None
        for piece in catalog_copy.pieces(self._store.path, messages.COPY_PAGE):
            if held is not None:
                offset = self._send_piece(stream, offset, held, False)
            held = piece
        self._send_piece(stream, offset, held, True)

    def _send_piece(self, stream, offset, piece, last):
        stream.ask(messages.SendCopy(offset=offset, last=last, sha256=hashlib.sha256(piece).hexdigest()), piece, timeout_s=_ANSWER_S)
        return offset + len(piece)


def pages(store, after):
    """([rows as JSON bytes], whether it is the last) for all blocks with ids above `after`, by id; at least one page."""
    rows, size = [], 0
    for raw in store.ids():
        block = raw.hex()
        if block <= after:
            continue
        row = _row(store, block)
        if row is None:
            continue
        if rows and (len(rows) == PAGE_ROWS or size + len(row) > PAGE_SIZE):
            yield rows, False
            rows, size = [], 0
        rows.append(row)
        size += len(row)
    yield rows, True


def _row(store, block):
    """One block's row as JSON, None when it has gone meanwhile."""
    try:
        with store.open(block) as stored:
            metadata, crcs = stored.trailer()
            if stored.footer.chunk_size != CHUNK_SIZE:
                raise errors.IntegrityError("its checksums are of another chunk size")
            return _encode([block, stored.size, crcs.hex(), metadata]).encode()
    except errors.BlockMissing:
        return None
    except (errors.IntegrityError, errors.DiskFault) as e:
        return _encode([block, None, e.message[:300]]).encode()
    except (ValueError, RecursionError):  # NaN, or nested beyond reason
        return _encode([block, None, "its metadata cannot be written as JSON"]).encode()
