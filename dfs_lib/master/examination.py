"""What operators ask: the master's clock and version, whether it reaches keepers, and a copy of its catalog.

Changes nothing in the catalog. A copy lies in DATA/backup-ID while it is fetched: it is deleted when the asker lets go of it, when
another is made after KEEP_S, and at the next start.
"""

import hashlib
import os
import threading

import dfs_lib
from dfs_lib import errors
from dfs_lib.net import knocking
from dfs_lib.wire import messages

KNOCK_S = 2.0
# A copy that nobody has fetched from for so long is deleted when another is asked for.
KEEP_S = 600.0
MOST_BACKUPS = 4
PART = 256 << 10
_PREFIX = "backup-"


class Examination:
    """Handlers of these messages. n_dropped() → datagrams at the heartbeat port that were none."""

    def __init__(self, tracker, n_dropped, knock=knocking.knock):
        self._t, self._n_dropped, self._knock = tracker, n_dropped, knock
        self._lock = threading.Lock()
        self._backups = {}  # guarded by _lock: id → (path, when it was last fetched from)
        self._directory = os.path.dirname(os.path.abspath(tracker.database.path))
        for name in os.listdir(self._directory):
            if name.startswith(_PREFIX):
                _remove(os.path.join(self._directory, name))

    def table(self):
        return {messages.Examine: self.examine, messages.TryKeepers: self.try_keepers, messages.MakeBackup: self.make_backup,
                messages.FetchBackup: self.fetch_backup}

    def examine(self, message, exchange):
        return messages.Examined(at=self._t.wall(), software=dfs_lib.__version__, heartbeat_port=self._t.heartbeat_port,
                                 n_dropped=self._n_dropped())

    def try_keepers(self, message, exchange):
        """Connect to each port, all at once: one that hangs must not use up the others' time."""
        tries = []
        for keeper_id in message.keepers:
            keeper = self._t.live.get(self._t.live.number_of(keeper_id))
            tries += [{"keeper": keeper.id, "host": keeper.host, "port": port, "failure": "not tried"} for port in keeper.ports]
        with exchange.working():
            threads = [threading.Thread(target=self._try, args=(one,), name="knock", daemon=True) for one in tries]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(2 * KNOCK_S)
        return messages.KeepersTried(tried=[{"keeper": one["keeper"], "port": one["port"], "failure": one["failure"]} for one in tries])

    def _try(self, one):
        one["failure"] = self._knock(one["host"], one["port"], KNOCK_S)

    # -- backups --------------------------------------------------------------------------------------------------------
    def make_backup(self, message, exchange):
        self._forget_old()
        backup = self._t.new_id()
        path = os.path.join(self._directory, _PREFIX + backup)
        with exchange.working():
            self._t.database.backup(path)
            with open(path, "rb") as source:
                sha256, size = hashlib.file_digest(source, "sha256").hexdigest(), os.fstat(source.fileno()).st_size
        with self._lock:
            self._backups[backup] = (path, self._t.clock())
        return messages.BackupMade(backup=backup, size=size, sha256=sha256)

    def fetch_backup(self, message, exchange):
        with self._lock:
            path, _since_s = self._backups.get(message.backup, (None, None))
            if path is None:
                raise errors.Refusal(detail=f"there is no copy {message.backup} any more: ask for another")
            if message.offset is None:
                del self._backups[message.backup]
            else:
                self._backups[message.backup] = (path, self._t.clock())
        if message.offset is None:
            _remove(path)
            return messages.BackupPart(data="")
        try:
            with open(path, "rb") as source:
                source.seek(message.offset)
                return messages.BackupPart(data=source.read(PART).hex())
        except OSError as e:
            raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e

    def _forget_old(self):
        now_s = self._t.clock()
        with self._lock:
            old = [backup for backup, (_path, since_s) in self._backups.items() if now_s - since_s > KEEP_S]
            gone = [self._backups.pop(backup)[0] for backup in old]
            is_full = len(self._backups) >= MOST_BACKUPS
        for path in gone:
            _remove(path)
        if is_full:
            raise errors.Busy(address="the master", detail=f"{MOST_BACKUPS} copies of the catalog are being fetched")


def _remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass  # the next start tries again
