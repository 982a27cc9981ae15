"""What keepers say and ask: registration, block reports, notices, orders.

A keeper's replicas count only after its whole inventory of this start was compared with the catalog (I9). Blocks that arrive while a
report is on its way are remembered, so that the older list does not unmake them.
"""

import logging
import struct
import threading
import zlib

from dfs_lib import errors
from dfs_lib.catalog import operations
from dfs_lib.master import summing
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

BATCH = 1000
_RECORD = struct.Struct(">16sQ")


class Keepers:
    """Handlers of the messages from keepers."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._lock = threading.Lock()
        self._connections = {}  # guarded by _lock: control connection → (number, session)
        self._sums = summing.Sums(tracker, repairer)
        self._highest_refused = 0  # guarded by _lock: the highest epoch that a keeper has obeyed and this master has not reached
        self._reports = {}  # guarded by _lock: number → list of pages (bytes) of the report under way

    def table(self):
        return {messages.Register: self.register, messages.ReportBlocks: self.report_blocks, messages.Notify: self.notify,
                messages.AwaitOrders: self.await_orders, messages.Farewell: self.farewell,
                messages.FollowCatalog: self.follow_catalog, messages.ReadSnapshot: self.read_snapshot,
                messages.LocateBlocks: self.locate_blocks}

    def _tell_of_higher(self, epoch):
        with self._lock:
            self._highest_refused = highest = max(epoch, self._highest_refused)
        self._t.alarm("epoch", f"no keeper that has obeyed epoch {highest} obeys this master, which is of epoch {self._t.epoch}: its catalog is an older one. "
                      f"Was it put back from a backup on purpose? Then start it with --epoch-above {highest}; else stop it, another one may be at work")

    # -- registration ---------------------------------------------------------------------------------------------------
    def register(self, message, exchange):
        t = self._t
        if message.keeper != exchange.peer.identity:
            raise errors.KeeperRefused(keeper=message.keeper, detail=f"it proved to be {exchange.peer.identity}")
        if message.cluster_id not in (None, t.cluster_id):
            raise errors.WrongCluster(what="the keeper's data directory", theirs=message.cluster_id, ours=t.cluster_id)
        if message.epoch > t.epoch:
            self._tell_of_higher(message.epoch)
            raise errors.KeeperRefused(keeper=message.keeper, detail=f"it has obeyed epoch {message.epoch}, this master is of epoch "
                                       f"{t.epoch}: an older master or catalog must not take over")
        now_s = t.clock()
        t.live.refuse_clone(message, now_s)
        host = message.host or exchange.peer_host
        number = self._recorded(operations.RegisterKeeper(keeper=message.keeper, host=host, ports=list(message.ports),
                                                          labels=message.labels, at=t.wall()))
        known = t.queries().keeper_of_id(message.keeper)
        session = t.new_id()[-16:]
        t.live.register(number, message, host, session, bool(known and known.draining), now_s)
        with self._lock:
            self._connections[exchange.connection] = (number, session)
            self._reports.pop(number, None)
        t.live.expect_report(number, session)
        log.info("keeper registered keeper=k%s id=%s host=%s ports=%s blocks=%s", number, message.keeper, host, list(message.ports),
                 message.n_blocks)
        return messages.Registered(cluster_id=t.cluster_id, epoch=t.epoch, session=session, tick=t.tick, heartbeat_port=t.heartbeat_port,
                                   heartbeat_s=1.0, ticket_key_id=t.ticket_key_id, refused_users=t.users.refused(t.tick))

    def _recorded(self, registration):
        """The keeper's number. With the master's disk full, one that is known serves on as it is: reads must not stop for that (F10)."""
        try:
            return self._t.database.apply(registration)
        except errors.NoRoom:
            known = self._t.queries().keeper_of_id(registration.keeper)
            if known is None:
                raise
            return known.number

    def _registered(self, exchange):
        """(number, session) of the keeper whose control connection this is. Raises KeeperRefused when another has taken its place (F23)."""
        number = self._number(exchange)
        with self._lock:
            _number, session = self._connections.get(exchange.connection, (None, None))
        if session is None or self._t.live.get(number).session != session:
            raise errors.KeeperRefused(keeper=exchange.peer.identity, detail="it has registered again on another connection")
        return number, session

    def _number(self, exchange):
        """The number of the keeper that speaks. Raises KeeperRefused when it has not registered with this master."""
        try:
            number = self._t.live.number_of(exchange.peer.identity)
        except errors.NoSuchKeeper as e:
            raise errors.KeeperRefused(keeper=exchange.peer.identity, detail="it has not registered since this master started") from e
        if self._t.live.get(number).session is None:
            raise errors.KeeperRefused(keeper=exchange.peer.identity, detail="it was judged dead, or is known from before this master "
                                       "started: it has to register again")
        return number

    def left(self, connection):
        """A connection has closed: if it was a keeper's control connection, that keeper is suspect at once."""
        with self._lock:
            number, session = self._connections.pop(connection, (None, None))
        if number is not None:
            self._t.live.disconnected(number, session, self._t.clock())
            self._t.stirred.set()

    def farewell(self, message, exchange):
        number, _session = self._registered(exchange)
        self._t.live.stopped_cleanly(number)
        self._t.database.apply(operations.NoteCleanStop(keeper=exchange.peer.identity, clean=True, at=self._t.wall()))
        log.info("keeper says goodbye keeper=k%s", number)
        return messages.Done()

    # -- block reports --------------------------------------------------------------------------------------------------
    def report_blocks(self, message, exchange):
        page = exchange.body()
        number, session = self._registered(exchange)
        with self._t.live.hearing(number, session, self._t.clock):
            return self._take_page(message, exchange, page, number, session)

    def _take_page(self, message, exchange, page, number, session):
        if zlib.crc32(page) != message.crc:
            raise errors.BadMessage(detail="a page of a block report was altered on its way")
        if len(page) % messages.BLOCK_RECORD_SIZE:
            raise errors.BadMessage(detail="a page of a block report has half a record")
        if message.first:
            self._t.live.expect_report(number, session)
        with self._lock:
            if message.first:
                self._reports[number] = []
            pages = self._reports.get(number)
            if pages is None:
                raise errors.OutOfTurn(detail="a page of a block report without its first")
            pages.append(page)
            if message.last:
                del self._reports[number]
        if message.last:
            with exchange.working():
                self._compare(number, session, pages)
        return messages.Done()

    def _compare(self, number, session, pages):
        """Make catalog and live tables agree with what a keeper has: losses are repaired, returned replicas count, the rest is stray."""
        t = self._t
        asked = t.uploads.stored_on(number)
        has = {block for block, _size in _records(pages) if block in asked} if asked else ()
        t.uploads.reported(number, lambda block: block in has or t.live.is_fresh(number, session, block))
        comparison = t.queries().compare_report(number, _records(pages))
        fresh = t.live.take_fresh(number, session)
        if t.live.get(number).session != session:
            return  # it has registered again: the report that follows is the newer word
        missing = [block for block in comparison.missing if block not in fresh]
        if t.live.get(number).reported:
            # It was there when this keeper last told: a file that went away under it is damage, as a scrub's inventory shows.
            for block in missing[:BATCH]:
                self._repairer.doubts.replica_bad(block, number, "its file has gone from the keeper's disk")
        for block in missing:
            t.uploads.forget_published(block, number)
        for start in range(0, len(missing), BATCH):
            t.database.apply(operations.LoseReplicas(keeper=number, blocks=missing[start:start + BATCH], reason="not in its block report",
                                                     at=t.wall()))
        damaged = set(comparison.missing) & set(comparison.unknown)
        unknown = [block for block in comparison.unknown if block not in damaged and block not in fresh]
        wanted = set(unknown)
        sizes = {block: size for block, size in _records(pages) if block in wanted}
        strays = self._take_back(number, unknown, sizes)
        t.uploads.forget_strays_of(number)
        for block in strays:
            t.uploads.add_stray(block, sizes[block], number)
        if not t.live.reported(number, session):
            return
        t.stirred.set()
        log.info("block report compared keeper=k%s blocks=%s missing=%s returned_or_unknown=%s strays=%s", number,
                 sum(map(len, pages)) // messages.BLOCK_RECORD_SIZE, len(missing), len(comparison.unknown), len(strays))
        if missing:
            t.count("replicas_missing", len(missing))
            self._repairer.notice(missing)
        for block in damaged:
            t.orders.give(number, "verify", {"block": block}, lambda *_: None, t.clock(), 300.0)
        self._repairer.trimmer.returned(number)
        self._repairer.order_drops_of(number)
        self._repairer.keeper_back()

    def _take_back(self, number, unknown, sizes):
        """Record again the replicas the catalog can use. Returns the blocks that it does not know and no order waits to drop."""
        t, queries, strays = self._t, self._t.queries(), []
        for start in range(0, len(unknown), BATCH):
            blocks = unknown[start:start + BATCH]
            rows = {block: queries.block(block) for block in queries.known(blocks)}
            fitting = [block for block, row in rows.items() if row is not None and row.size == sizes[block]]
            if fitting:
                t.database.apply(operations.RecordReplicas(keeper=number, blocks=fitting, at=t.wall()))
            wanted = t.uploads.note_found({block: sizes[block] for block in blocks if block not in rows}, number)
            strays += [block for block in blocks if block not in rows and block not in wanted]
        gone = t.uploads.gone(strays)
        self._repairer.drop_unreferenced({block: {number} for block in gone})
        to_drop = set(queries.drops(number, 1 << 20)) if strays else ()
        return [block for block in strays if block not in gone and block not in to_drop]

    # -- notices --------------------------------------------------------------------------------------------------------
    def notify(self, message, exchange):
        number, session = self._registered(exchange)
        with self._t.live.hearing(number, session, self._t.clock):
            return self._take_notice(message, number)

    def _take_notice(self, message, number):
        t = self._t
        t.tickets_refused[number] = message.tickets_refused or 0
        if message.refusals is not None:  # they come once a second, other notices between
            t.refusals[number] = message.refusals
        if message.moved is not None:
            t.traffic.heard(number, t.live.get(number).incarnation, message.moved, t.clock())
        if t.live.notified(number, message):
            self._repairer.keeper_back()
        serials = []
        self._record_copies(number, message.events)
        for event in message.events:
            if event["kind"] == "transfer_done":
                serials += event["serials"] or ()
                continue
            try:
                self._heard(number, event)
            except errors.Refusal as e:
                # The rest of the notice is as true as before; what was not taken shows in the next block report.
                t.count("events_refused")
                log.error("event not taken keeper=k%s kind=%s block=%s reason=%s", number, event["kind"], event["block"], e.message)
        if serials:
            t.live.free_ports(serials)
        return messages.Notified(epoch=t.epoch, tick=t.tick, ticket_key_id=t.ticket_key_id, refused_users=t.users.refused(t.tick),
                                 follow=t.copies.is_chosen(number) or None)

    def _record_copies(self, number, events):
        """Put all replicas that this notice tells of on record in one transaction; each event then finds its own there already."""
        t, made = self._t, {}
        stored = [row[0] for event in events if event["kind"] == "stored" for row in event["stored"] or ()]
        stored = [block for block in stored if not t.uploads.owns(block) and not t.uploads.was_published_on(block, number)]
        for block in t.queries().known(stored) if len(stored) > 1 else ():
            made.setdefault(number, []).append(block)
        ended = {event["order"]: event["keepers"] or () for event in events if event["kind"] == "order_done"}
        for order in t.orders.out(ended, number) if len(ended) > 1 else ():
            if order.kind == "copy":
                for other in t.live.numbers_of(ended[order.id]):
                    made.setdefault(other, []).append(order.details["block"])
        if made:
            # An exception in a result's place: its event meets it again, alone.
            t.database.apply_many([operations.RecordReplicas(keeper=each, blocks=blocks, at=t.wall()) for each, blocks in made.items()])

    def _heard(self, number, event):
        t, kind, block = self._t, event["kind"], event["block"]
        if kind == "stored":
            self._stored(number, event["stored"] or ())
        elif kind == "bad":
            t.uploads.note_bad(block, number)
            self._repairer.doubts.replica_bad(block, number, event["reason"] or "damaged")
        elif kind == "dropped":
            t.uploads.note_bad(block, number)
            if number in t.queries().replicas(block):
                # An order that was carried out twice or late: the block had come back meanwhile.
                self._repairer.doubts.replica_bad(block, number, "dropped")
        elif kind == "order_done":
            t.orders.ended(event["order"], number, event["error"], event)
        elif kind == "scrubbed":
            asked = "verified" if event["order"] else "scrubbed"  # those that somebody asked for, or by itself
            t.count(f"blocks_{asked}", event["n"] or 0)
            t.count(f"bytes_{asked}", event["size"] or 0)
            if event["sha256"]:
                # A scrub has read a whole file that is one block.
                for version, known in t.queries().whole_files_of(block):
                    summing.found(t, version, known, event["sha256"], number)
            if block and event["order"] and any(order.kind == "verify" for order in t.orders.out([event["order"]], number)):
                t.proofs.note(number, block)
        elif kind == "aside":
            t.uploads.remove_stray(block, number)
            log.warning("block set aside block=%s keeper=k%s reason=%s", block, number, event["reason"])

    def _stored(self, number, rows):
        """Step 4 of an upload, or the end of a copy: a keeper holds these blocks durably. rows: [[block, size, checksums], …]"""
        t, rest = self._t, {}
        for block, size, crcs in rows:
            t.live.note_fresh((number,), block)
            if not t.uploads.note_stored(block, size, bytes.fromhex(crcs), number):
                rest[block] = size
        known = t.queries().known(rest) if rest else ()
        # A copy whose order's answer may be lost: the replica counts either way.
        news = [block for block in known if not t.uploads.was_published_on(block, number)]
        if news:
            t.database.apply(operations.RecordReplicas(keeper=number, blocks=news, at=t.wall()))
        unknown = [block for block in rest if block not in known]
        gone = t.uploads.gone(unknown) if unknown else ()
        if gone:
            self._repairer.drop_unreferenced({block: {number} for block in gone})
        for block in unknown:
            if block not in gone:
                t.uploads.add_stray(block, rest[block], number)

    # -- orders ---------------------------------------------------------------------------------------------------------
    def await_orders(self, message, exchange):
        number = self._number(exchange)
        taken = self._t.orders.take(number, exchange.connection, min(message.wait_s, 10.0))
        return messages.Orders(epoch=self._t.epoch, orders=[order.to_wire() for order in taken])

    def locate_blocks(self, message, exchange):
        return self._sums.locate(self._number(exchange), message, exchange)

    # -- the catalog's copies -------------------------------------------------------------------------------------------
    def follow_catalog(self, message, exchange):
        return self._t.copies.follow(self._number(exchange), message, exchange)

    def read_snapshot(self, message, exchange):
        self._number(exchange)
        return self._t.copies.read_snapshot(message, exchange)


def _records(pages):
    """(block, size) of every record, in order."""
    for page in pages:
        for block, size in _RECORD.iter_unpack(page):
            yield block.hex(), size
