"""The catalog's copies on keepers: who keeps one, what follows in the log, snapshots to begin with, and how far behind they are.

Never stands in a commit's way: keepers come and ask, and what they get is read from the log like by any other reader. Nothing is
written here but snapshots, which are made on request and thrown away once nobody reads them.

    step      choose `--catalog-backup` live keepers, on different hosts and domains while there are; the Notify answers tell them
    follow    rows after the keeper's last, gathered for a moment so that a record carries many
    snapshot  the whole catalog packed, for a keeper that has none, or whose log has grown larger than it

A record says `open_from` (log_copy.py). It is the least version that an open upload may become, and no more than the newest version
of MARK_S ago: between the giving of a version and its upload's place in the table there is a moment.
"""

from collections import deque
import hashlib
import logging
import os
import threading

from dfs_lib import errors, log_copy, model
from dfs_lib.catalog import snapshots
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

# So long rows are gathered before a keeper gets them: bounds what a sudden loss can cost, and the copies' share of the work.
GATHER_S = 0.5
# As many are sent without waiting for more.
ROWS = 2000
# Bytes of row bodies in one record, at which it ends.
RECORD_SIZE = 4 << 20
# A snapshot serves others too while the log has grown by no more rows since.
SNAPSHOT_ROWS = 2000
# … and goes when nobody has read it for so long.
SNAPSHOT_KEEP_S = 60.0
MARK_S = 10.0
# Without a copy that was level within so long, somebody must look.
ALARM_S = 60.0
_MOST_WAIT_S = 10.0
DIRECTORY = "copies"


class _Snapshot:
    __slots__ = ("id", "path", "size", "last", "read_s")

    def __init__(self, id_, path, size, last, read_s):
        self.id, self.path, self.size, self.last, self.read_s = id_, path, size, last, read_s


class _Position:
    """What a keeper has: the (epoch, sequence) it said last, and when it was level (monotonic seconds, None: never)."""

    __slots__ = ("last", "level_s", "sent_s")

    def __init__(self):
        self.last, self.level_s, self.sent_s = (0, 0), None, 0.0


class Copies:
    """One for the master. `step` belongs to the ticker; the handlers to a thread a connection."""

    def __init__(self, tracker):
        self._t = tracker
        self._directory = os.path.join(os.path.dirname(os.path.abspath(tracker.database.path)), DIRECTORY)
        self._wanted = tracker.settings.catalog_backup
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards the next four
        self._chosen = ()  # keepers' numbers
        self._positions = {}  # number → _Position
        self._snapshots = {}  # id → _Snapshot
        self._record = None  # (place before, its record): the other keeper mostly asks for the same
        self._making = threading.Lock()  # held while a snapshot is made
        self._marks = deque([(tracker.clock(), tracker.last_version)])
        self._sweep()

    def _sweep(self):
        """Away with the snapshots of an earlier start, which nobody reads any more: they are as large as the catalog."""
        try:
            for name in os.listdir(self._directory):
                os.unlink(os.path.join(self._directory, name))
        except FileNotFoundError:
            pass  # none was ever made here
        except OSError as e:
            log.warning("old snapshots stay path=%s reason=%s", self._directory, e)

    def close(self):
        self._closing.set()

    # -- who ------------------------------------------------------------------------------------------------------------
    def is_chosen(self, number):
        return number in self._chosen

    def step(self, now_s):
        """Choose anew when a keeper has gone or another is wanted; forget old snapshots; see to the alarm."""
        if now_s - self._marks[-1][0] >= 1.0:
            self._marks.append((now_s, self._t.last_version))
            while len(self._marks) > 1 and self._marks[1][0] <= now_s - MARK_S:
                self._marks.popleft()
        if not self._wanted:
            return
        self._choose(self._t.live.keepers())
        self._forget_snapshots(now_s)
        self._see_to_alarm(now_s)

    def _choose(self, keepers):
        fit = {keeper.number: keeper for keeper in keepers if keeper.state == model.LIVE and keeper.reported and not keeper.sick}
        usable = {number for number, keeper in fit.items() if not keeper.draining} or set(fit)
        alive = {keeper.number for keeper in keepers if keeper.state != model.DEAD and (not keeper.draining or keeper.number in usable)}
        chosen = [number for number in self._chosen if number in alive][:self._wanted]
        if len(chosen) < self._wanted:
            known = {keeper.number: keeper for keeper in keepers}
            for apart in (True, False):
                for number in sorted(usable):
                    if len(chosen) < self._wanted and number not in chosen and not (
                            apart and any(self._together(fit[number], known[other]) for other in chosen)):
                        chosen.append(number)
        if tuple(chosen) != self._chosen:
            log.info("copies of the catalog keepers=%s", ",".join(f"k{number}" for number in chosen) or "none")
            with self._lock:
                self._chosen = tuple(chosen)

    def _together(self, one, other):
        """Whether a single misfortune would take both."""
        return one.host == other.host or any(one.labels.get(label) is not None and one.labels.get(label) == other.labels.get(label)
                                             for label in self._t.settings.spread)

    # -- the log --------------------------------------------------------------------------------------------------------
    def open_from(self):
        """Every version below it is published by now, or never will be. Read it before the rows it is told with."""
        return self._t.uploads.least_version(self._marks[0][1])

    def follow(self, number, message, exchange):
        """Answer FollowCatalog of the keeper of that number."""
        t, last = self._t, (message.epoch, message.sequence)
        with self._lock:
            position = self._positions.setdefault(number, _Position())
        position.last = last
        if t.database.sequence <= last[1] and not self._is_in_log(last):
            return self._followed(b"", snapshot=True)  # another past, as long as ours or longer
        end_s = t.clock() + min(message.wait_s, _MOST_WAIT_S)
        while self.is_chosen(number):
            now_s, due = t.clock(), t.database.sequence - last[1]
            if due <= 0:
                position.level_s = now_s
            if (due >= ROWS or due > 0 and now_s - position.sent_s >= GATHER_S) and (answer := self._rows_after(last)):
                position.sent_s = now_s
                return answer
            if now_s >= end_s or self._closing.wait(min(GATHER_S / 2, max(0.01, end_s - now_s))):
                return self._followed(b"")
        return self._followed(b"", kept=False)

    def _is_in_log(self, last):
        try:
            self._t.queries().log_rows(*last, 1)
        except errors.Refusal:
            return False
        return True

    def _rows_after(self, last):
        """The answer with what follows, None when nothing is committed yet. last: (epoch, sequence)."""
        with self._lock:
            known = self._record
        if known is not None and known[0] == last:
            return self._followed(known[1])
        open_from = self.open_from()
        try:
            # No rows yet: the log alone could do, but whatever came with the catalog is only in a snapshot.
            rows = self._t.queries().log_rows(*last, ROWS) if last != (0, 0) else None
        except errors.Refusal:
            rows = None
        if rows is None:
            return self._followed(b"", snapshot=True)
        taken, size = [], 0
        for row in rows:
            size += len(row[5])
            if taken and size > RECORD_SIZE:
                break
            taken.append(list(row[:6]))
        if not taken:
            return None
        try:
            record = log_copy.build_record(last, taken, open_from, self._t.wall())
        except errors.Misuse as e:
            log.warning("a row of the catalog's log is too large for a record, copies begin with a snapshot: %s", e.message)
            return self._followed(b"", snapshot=True)
        with self._lock:
            self._record = last, record
        return self._followed(record)

    def _followed(self, record, snapshot=False, kept=True):
        return messages.CatalogFollowed(epoch=self._t.epoch, snapshot=snapshot, kept=kept, sha256=hashlib.sha256(record).hexdigest()), record

    # -- snapshots ------------------------------------------------------------------------------------------------------
    def read_snapshot(self, message, exchange):
        """Answer ReadSnapshot. Raises Refusal for a snapshot that has gone: the keeper begins again; NoRoom where the disk is short of it."""
        now_s = self._t.clock()
        with exchange.working():
            snapshot = self._newest(now_s) if message.snapshot is None else self._snapshots.get(message.snapshot)
        if snapshot is None:
            raise errors.Refusal(detail="that snapshot of the catalog has gone: begin with a new one")
        snapshot.read_s = now_s
        try:
            with open(snapshot.path, "rb") as source:
                source.seek(message.offset)
                page = source.read(messages.COPY_PAGE)
        except OSError as e:
            raise errors.LocalFileError(path=snapshot.path, detail=e.strerror or str(e)) from e
        return messages.SnapshotPage(epoch=self._t.epoch, snapshot=snapshot.id, size=snapshot.size, sha256=hashlib.sha256(page).hexdigest()), page

    def _newest(self, now_s):
        with self._making:
            newest = max(self._snapshots.values(), key=lambda snapshot: snapshot.last, default=None)
            if newest is not None and self._t.database.sequence - newest.last[1] <= SNAPSHOT_ROWS:
                newest.read_s = now_s
                return newest
            self._make_directory()
            id_ = self._t.new_id()
            path = os.path.join(self._directory, f"{id_}.snap")
            head = snapshots.make(self._t.database, path, self.open_from(), self._t.wall())
            made = _Snapshot(id_, path, os.path.getsize(path), head.last, now_s)
            log.info("snapshot of the catalog made sequence=%s size=%s of=%s", head.last[1], made.size, head.raw_size)
            with self._lock:
                self._snapshots[id_] = made
            return made

    def _make_directory(self):
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
        except OSError as e:
            raise errors.LocalFileError(path=self._directory, detail=e.strerror or str(e)) from e

    def _forget_snapshots(self, now_s):
        with self._lock:
            old = [snapshot for snapshot in self._snapshots.values() if now_s - snapshot.read_s > SNAPSHOT_KEEP_S]
            for snapshot in old:
                del self._snapshots[snapshot.id]
        for snapshot in old:
            try:
                os.unlink(snapshot.path)
            except OSError as e:
                log.warning("an old snapshot stays path=%s reason=%s", snapshot.path, e)

    # -- how far behind -------------------------------------------------------------------------------------------------
    def _see_to_alarm(self, now_s):
        t = self._t
        ages = [now_s - position.level_s for position in self._known().values() if position.level_s is not None]
        recent = ages and min(ages) <= ALARM_S
        waits = now_s - t.started_s <= ALARM_S or not t.live.keepers()
        sentence = "" if recent or waits else (
            f"no keeper has a copy of the catalog from the last {ALARM_S:.0f} s: if this master's disk is lost now, what changed since the last "
            "copy is known only from the blocks themselves")
        if t.alarm("catalog-copies", sentence):
            log.log(logging.ERROR if sentence else logging.INFO, "%s", sentence or "a keeper has a recent copy of the catalog")

    def _known(self):
        with self._lock:
            return dict(self._positions)

    def status(self, now_s):
        """What ClusterStatus says of the copies: of the keepers that are chosen, and of others that have been."""
        names, sequence = {keeper.number: keeper for keeper in self._t.live.keepers()}, self._t.database.sequence
        rows = [{"keeper_id": names[number].id, "name": names[number].name, "epoch": position.last[0], "sequence": position.last[1],
                 "behind": max(0, sequence - position.last[1]),
                 "age_s": None if position.level_s is None else round(max(0.0, now_s - position.level_s), 2)}
                for number, position in sorted(self._known().items()) if number in names]
        return {"wanted": self._wanted, "copies": rows[:64]}
