"""SHA-256 of files of several blocks, taken while there is nothing better to do: which file is next, and which keeper reads it.

Never reads a byte: the keeper does (keeper/summing.py). Files of one block get their sums from the scrub.

    Summer, each second    nothing is being repaired, and a keeper whose scrub is on has no sum under way?
                           the next version of an age without a sum ─▶ order "sum" to the keeper with most of its blocks
    LocateBlocks           is it still wanted? its next blocks and their keepers; the order's time counts anew
    order_done             the version is live and has no sum: RecordSum. It has another: an alarm. It has gone: nothing

What is left when somebody dies: of the master, an order that no later one knows, whose next page is refused; of the keeper, an order
that ends as lost. Either way nothing is on record, and the index has the version for a later try. A sum is of a version, whose bytes
never change: one that is recorded late is as right as one in time.
"""

from collections import Counter, deque
import logging
import threading

from dfs_lib import errors, model
from dfs_lib.catalog import operations
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
# One sum under way for so many keepers, and this many at most: each reads 8 MiB/s at most, so a disk has some 2 MiB/s more to do.
KEEPERS_EACH, AT_ONCE = 4, 16
# A keeper that asks for no further page for so long has died with it; it asks every 5 minutes at least.
ORDER_S = 900.0
# Versions looked at in one step, and blocks of one by which its keeper is chosen.
PAGE, SAMPLE = 100, 256
# After a failure, then twice as long each time; others have their turn meanwhile. So many failed ones are remembered.
RETRY_S, RETRY_MOST_S, MAX_FAILED = 60.0, 6 * 3600.0, 10_000
WASTE_MOST = 10.0  # times as long as a failed try took


class Summer:
    """`step` is the ticker's; orders end in any thread."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._lock = threading.Lock()
        self._running = {}  # guarded by _lock: keeper number → the version it sums
        self._failed = {}  # guarded by _lock: version → (times, monotonic seconds until which it is left alone)
        self._next_s, self._after = 0.0, 0
        # Versions up to here are old enough: at the start those of earlier reigns, whose age nobody knows. (from when on, up to which)
        self._upto, self._marks = tracker.epoch << 32, deque()

    def step(self, now_s):
        """Order the next sums, as many as may be under way."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_EVERY_S
        t = self._t
        if not self._marks or self._marks[-1][1] != t.last_version:
            self._marks.append((now_s + t.settings.sum_after, t.last_version))
        while self._marks and self._marks[0][0] <= now_s:
            self._upto = self._marks.popleft()[1]
        if t.safemode() or not self._repairer.is_idle():
            return
        able = [keeper.number for keeper in t.live.keepers() if keeper.state == model.LIVE and keeper.reported and keeper.scrub
                and not keeper.draining and not keeper.sick]
        with self._lock:
            free = [number for number in able if number not in self._running]
            n_more = min(AT_ONCE, max(1, len(able) // KEEPERS_EACH)) - len(self._running)
        if free and n_more > 0:
            self._order_some(free, n_more, now_s)

    def _order_some(self, free, n_more, now_s):
        page = self._t.queries().unsummed(self._after, self._upto, PAGE)
        for version in page:
            self._after = version  # the next look goes on behind it: one that fails stops no other
            if not self._is_due(version, now_s):
                continue
            number = self._order(version, free, now_s)
            if number is None:
                continue
            free.remove(number)
            n_more -= 1
            if not n_more or not free:
                return
        if len(page) < PAGE:
            self._after = 0

    def _is_due(self, version, now_s):
        with self._lock:
            return version not in self._running.values() and self._failed.get(version, (0, now_s))[1] <= now_s

    def _order(self, version, free, now_s):
        """Have the free keeper with most of its first blocks sum a version. Returns the keeper's number, None when it cannot be done now."""
        t = self._t
        queries = t.queries()
        with queries.snapshot():
            row, blocks = queries.version(version), queries.blocks(version, 0, SAMPLE)
        if row is None or row.removed_at is not None:
            return None
        counted = t.live.counted()
        if not all(counted.intersection(block.keepers) for block in blocks):
            self._put_off(version, now_s)
            return None
        held = Counter(number for block in blocks for number in block.keepers)
        number = max(free, key=lambda number: (held[number], -number))
        with self._lock:
            self._running[number] = version
        if t.orders.give(number, "sum", {"version": version, "size": row.size}, self._ended, now_s, ORDER_S) is None:
            with self._lock:
                del self._running[number]
            return None
        t.count("sums_ordered")
        log.debug("sum ordered version=%s size=%s keeper=k%s", version, row.size, number)
        return number

    def _put_off(self, version, now_s, spent_s=0.0):
        """It is tried again later; spent_s: how long this try has taken. A sum that its keeper's daily restart ends each time must not keep
        the disks reading for ever: at most a tenth of the time goes into it."""
        with self._lock:
            times = self._failed.pop(version, (0, 0.0))[0] + 1  # popped: the latest stands last
            wait_s = max(min(RETRY_MOST_S, RETRY_S * 2 ** min(times - 1, 20)), WASTE_MOST * spent_s)
            self._failed[version] = times, now_s + wait_s
            if len(self._failed) > MAX_FAILED:
                del self._failed[next(iter(self._failed))]

    def _ended(self, order, error, event):
        """A keeper has summed a version, or given it up, or died."""
        t, version = self._t, order.details["version"]
        sha256 = event["sha256"] if event is not None and error is None else None
        self._put_off(version, t.clock(), t.clock() - order.given_s)  # first: if it cannot be recorded now, it is not tried again at once
        with self._lock:
            self._running.pop(order.number, None)
        row = t.queries().version(version)
        if row is None or row.removed_at is not None:
            return  # removed or replaced meanwhile
        if sha256 is None:
            if row.sha256 is None:
                t.count("sums_failed")
                log.info("sum failed version=%s keeper=k%s error=%s reason=%s", version, order.number, error, (event or {}).get("reason"))
            return
        found(t, version, row.sha256, sha256, order.number)
        with self._lock:
            self._failed.pop(version, None)


class Sums:
    """Where the blocks are of a version that a keeper sums. Raises Refusal once nobody wants the sum any more."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer

    def locate(self, number, message, exchange):
        t, queries = self._t, self._t.queries()
        order = t.orders.renew(message.order, number, t.clock(), ORDER_S)
        if order is None or order.kind != "sum":
            raise errors.Refusal(detail=f"there is no order {message.order} to sum a file: it was given up, or by another master")
        version = order.details["version"]
        with queries.snapshot():
            row, blocks = queries.version(version), queries.blocks(version, message.first, messages.MOST_LOCATED)
        if row is None or row.removed_at is not None:
            raise errors.NoSuchFile(path=f"version {version}")
        if row.sha256 is not None:
            raise errors.Refusal(detail=f"the SHA-256 of version {version} is known by now")
        return messages.BlocksLocated(blocks=[self._sources(block, exchange) for block in blocks])

    def _sources(self, block, exchange):
        t, hops = self._t, []
        for keeper in t.live.reading_order(block.keepers, exchange.peer_host)[:model.MAX_COPIES]:
            ticket, _serial = t.read_ticket(block.block, keeper.id, block.size, exchange.peer.identity)
            hops.append({"keeper": keeper.id, "host": keeper.host, "ports": t.live.ports_of(keeper.number), "ticket": ticket})
        if self._repairer.doubts.is_any_doubted(block.block):
            hops.sort(key=lambda hop: self._repairer.doubts.is_doubted(block.block, hop["keeper"]))
        return {"index": block.index, "block": block.block, "size": block.size, "crcs": block.crcs.hex(), "sources": hops}


def found(tracker, version, known, sha256, number):
    """Keeper `number` has read all of a live version: its SHA-256 is known from now on, or has to be what is known."""
    t = tracker
    if known is None:
        t.database.apply(operations.RecordSum(version=version, sha256=sha256))
        t.count("sums_filled_in")
    elif known == sha256:
        t.alarm(f"sum-{version}", "")
    else:
        path = t.queries().entry_of_version(version) or f"version {version}"
        log.error("sums differ path=%s version=%s keeper=k%s known=%s found=%s", path, version, number, known, sha256)
        # Checksums of the blocks agree, so nobody can say which is wrong: nothing is dropped for it, and a human is told.
        said = f"its SHA-256 on record is not that of the bytes on k{number}, which match their checksums; compare it with a copy of yours"
        t.alarm(f"sum-{version}", f"{path}: {said}", f"a file, version {version}: {said}")
