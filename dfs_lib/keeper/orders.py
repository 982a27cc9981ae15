"""Carries out the master's orders: copy, drop, verify, scrub, sum, report. Each ends in an event that says how it went.

Never decides: what to copy where and what to drop is the master's. Each order is carried out once, however often it comes: while
it is under way a repetition is passed over, and once it has ended its outcome is told again.

    lane      threads  orders
    copy            4  copy
    upkeep          1  drop, verify
    scrub           1  scrub: it takes hours, and must delay nothing else
    sum             1  sum: so does that
"""

import logging
import queue
import threading
import time

from dfs_lib import dropping, errors
from dfs_lib.checksums import crc_at
from dfs_lib.keeper import scrubber, shared
from dfs_lib.keeper.onward import Onward, put_block
from dfs_lib.model import CHUNK_SIZE
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

_LANES = {"copy": 4, "upkeep": 1, "scrub": 1, "sum": 1}
_LANE_OF = {"copy": "copy", "drop": "upkeep", "verify": "upkeep", "scrub": "scrub", "sum": "sum"}
# A copy for repair has nobody waiting for it, so it is more patient with a busy keeper than an upload is.
COPY_SILENCE_S = 6.0
# A scrub waits so long for its inventory to be compared; one that registers again meanwhile sends it anyway.
REPORT_S = 300.0
# Outcomes kept for an order that comes again because its first outcome was lost.
_OUTCOMES = 1000
_META_FIELDS = ("path", "version", "index", "file_size", "block_size", "mtime_at", "copies", "last")


class Orders:
    """store: this process's Store; peers: onward.Peers; tell(event); report(): have the whole inventory sent → threading.Event
    that is set when the master has compared it; slot: begin/end of transfers; scrub_rate: bytes a second, 0 for no limit, the
    ceiling for orders that name none or more; summer: summing.Summer."""

    def __init__(self, store, peers, tell, report, slot, scrub_rate=0, summer=None):
        self._store, self._peers, self._tell, self._report, self._slot = store, peers, tell, report, slot
        self._scrub_rate, self._summer = scrub_rate, summer
        self._unapproved = dropping.Window()  # the upkeep thread's
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open = set()  # guarded by _lock: (epoch, order id) taken and not yet ended
        self._outcomes = {}  # guarded by _lock: (epoch, order id) → its order_done event, the oldest first
        self._queues = {name: queue.SimpleQueue() for name in _LANES}
        self._kinds = {"copy": self._copy, "drop": self._drop, "verify": self._verify, "scrub": self._scrub,
                       "sum": lambda order: self._summer.total(order, self._stopping.wait)}
        self._threads = [threading.Thread(target=self._work, args=(self._queues[name],), name=f"{name}-{i}", daemon=True)
                         for name, n in _LANES.items() for i in range(n)]
        for thread in self._threads:
            thread.start()

    def take(self, epoch, orders):
        """Begin these (dicts as messages.ORDER has them); returns at once. Order ids are unique within a master's reign."""
        for order in orders:
            if order["kind"] == "report":
                self._report()
                self._tell({"kind": "order_done", "order": order["order"]})
                continue
            key = epoch, order["order"]
            with self._lock:
                outcome = self._outcomes.get(key)
                if key in self._open:
                    continue
                if outcome is None:
                    self._open.add(key)
            if outcome is not None:
                self._tell(outcome)
                continue
            self._queues[_LANE_OF[order["kind"]]].put((key, order))

    def stop(self, wait_s=1.0):
        """Give up what is under way. Threads that do not end in time die with the process."""
        self._stopping.set()
        for name, n_threads in _LANES.items():
            for _ in range(n_threads):
                self._queues[name].put(None)
        for thread in self._threads:
            thread.join(wait_s / len(self._threads))

    def _work(self, lane):
        while True:
            item = lane.get()
            if item is None or self._stopping.is_set():
                return
            key, order = item
            try:
                outcome = {"kind": "order_done", "order": order["order"], **self._do(order)}
            except scrubber.Stopped:
                return
            with self._lock:
                self._open.discard(key)
                self._outcomes[key] = outcome
                if len(self._outcomes) > _OUTCOMES:
                    del self._outcomes[next(iter(self._outcomes))]
            self._tell(outcome)

    def _do(self, order):
        """How one order went: fields of its order_done event."""
        try:
            return self._kinds[order["kind"]](order)
        except errors.DfsError as e:
            log.warning("order failed order=%s kind=%s block=%s reason=%s", order["order"], order["kind"], order["block"],
                        e.message)
            return {"block": order["block"], "error": e.code, "reason": shared.reason_of(e)}
        except scrubber.Stopped:
            raise
        except Exception as e:
            log.exception("bug in order order=%s kind=%s", order["order"], order["kind"])
            return {"block": order["block"], "error": "bug", "reason": repr(e)[:1000]}

    # -- copy -----------------------------------------------------------------------------------------------------------
    def _copy(self, order):
        """Put a block to the keepers of the order's chain, as a client would; every chunk is compared before it leaves (I5)."""
        block = order["block"]
        self._slot.begin()
        try:
            with self._store.open(block) as stored:
                written = self._send(order, stored)
        except errors.DfsError as e:
            if isinstance(e, (errors.IntegrityError, errors.DiskFault)):  # the receiver's errors arrive as OrderFailed
                scrubber.verify(self._store, block, self._tell)
            raise
        finally:
            self._slot.end(0, 0)  # its bytes were counted as they went
        log.info("block copied block=%s size=%s to=%s", block, stored.size, ",".join(written))
        return {"block": block, "size": stored.size, "keepers": written}

    def _send(self, order, stored):
        """The ids of the keepers that have stored it. Raises the first one's error when none has."""
        metadata, crcs = stored.trailer()
        if stored.footer.chunk_size != CHUNK_SIZE or any(name not in metadata for name in _META_FIELDS):
            raise errors.Misuse(detail=f"block {stored.block} is in a layout that this program cannot send")
        put = messages.PutBlock(block=stored.block, size=stored.size, meta={name: metadata[name] for name in _META_FIELDS},
                                ticket="", chain=[], crc=crc_at(crcs, 0))
        onward = Onward(self._peers, order["chain"][0], put_block(put, order["chain"]), stored.size <= CHUNK_SIZE, COPY_SILENCE_S, COPY_SILENCE_S)
        pause, buffer = scrubber.Pace(order["rate"] or 0, self._stopping.wait), bytearray(min(CHUNK_SIZE, max(1, stored.size)))
        try:
            for index in range(stored.footer.n_chunks):
                view = stored.read_chunk(index, buffer, crcs)
                if index:
                    onward.pass_on(crc_at(crcs, index), view)
                else:
                    onward.start(view)
                if onward.error is not None:
                    break
                self._slot.copies(len(view))
                pause(len(view))
            receipts, failed = onward.result()
        finally:
            onward.close()
        if not receipts:
            first = failed[0]
            raise errors.OrderFailed(detail=f"keeper {first['keeper']}: {first['message']}")
        return [receipt["keeper"] for receipt in receipts]

    # -- upkeep ---------------------------------------------------------------------------------------------------------
    def _drop(self, order):
        """Delete blocks. One that was not there is dropped as well: the catalog wants to hear that it is gone."""
        blocks = order["blocks"] or ([order["block"]] if order["block"] else [])
        n, failure = 0, None
        if not order.get("approved"):
            self._refuse_mass_drop(len(blocks))
        for block in blocks:
            if self._stopping.is_set():
                raise scrubber.Stopped
            try:
                self._store.drop(block)
            except errors.DfsError as e:
                failure = e
                continue
            n += 1
            self._tell({"kind": "dropped", "block": block})
        log.info("blocks dropped n=%s asked=%s", n, len(blocks))
        return {"n": n} if failure is None else {"n": n, "error": failure.code, "reason": shared.reason_of(failure)}

    def _refuse_mass_drop(self, n):
        """Raises NeedsApproval when so many more would be an improbable share of what is here. Only the upkeep thread comes here."""
        now_s = time.monotonic()
        room = self._unapproved.room(0, now_s)
        if n > room:
            room = self._unapproved.room(self._store.space().n_blocks, now_s)
        if n > room:
            log.error("mass drop refused n=%s room=%s", n, room)
            raise errors.NeedsApproval(n=n, recent=self._unapproved.recent)
        self._unapproved.add(n, now_s)

    def _verify(self, order):
        n = size = 0
        pause = scrubber.Pace(order["rate"] or 0, self._stopping.wait)
        for block in order["blocks"] or [order["block"]]:
            found = scrubber.verify(self._store, block, self._tell, pause)
            if found is not None:
                n, size = n + 1, size + found
                self._tell({"kind": "scrubbed", "block": block, "order": order["order"], "n": 1, "size": found})
        return {"block": order["block"], "n": n, "size": size}

    # -- scrub ----------------------------------------------------------------------------------------------------------
    def _scrub(self, order):
        rates = [rate for rate in (order["rate"], self._scrub_rate) if rate]
        n, size = scrubber.scrub(self._store, self._tell, self._stopping.wait, min(rates, default=0), order["order"])
        # A file that has gone is none that could be read: the inventory tells of it, before this order is told done.
        compared, end_s = self._report(), time.monotonic() + REPORT_S
        while not compared.wait(0.05) and time.monotonic() < end_s:
            if self._stopping.is_set():
                raise scrubber.Stopped
        log.info("store scrubbed good=%s size=%s", n, size)
        return {"n": n, "size": size}
