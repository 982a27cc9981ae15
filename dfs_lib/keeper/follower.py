"""Keeps this keeper's copy of the catalog level with the master's log, while the master wants one here.

Never decides whether to keep one: the Notify answers say so. One thread of the reporter's process, on a connection of its own.

    wanted ──▶ FollowCatalog ──▶ records: append, durable, ask again
                             ├─▶ snapshot: ReadSnapshot page by page, a new base, ask again
                             └─▶ not kept: wait until it is wanted again; what is here stays
"""

import hashlib
import logging
import threading
import time

from dfs_lib import errors
from dfs_lib.keeper.catalog_copy import CatalogCopy
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

WAIT_S = 5.0
_ANSWER_S = 30.0
# After something has gone wrong: a disk that is full, a master that has gone.
_PAUSE_S = 2.0


class Follower:
    """connect() → a Stream to the master registered with, or None; epoch() → its reign; free() → bytes that may be used."""

    def __init__(self, directory, connect, epoch, free):
        self._directory, self._connect, self._epoch, self._free = directory, connect, epoch, free
        self._wanted = threading.Event()
        self._copy = self._stream = None

    def heard(self, wanted):
        """What the master said last."""
        if wanted:
            self._wanted.set()
        else:
            self._wanted.clear()

    def run(self):
        """For ever."""
        while True:
            self._wanted.wait()
            try:
                self.step()
            except errors.DfsError as e:
                level = logging.DEBUG if isinstance(e, errors.NetworkError) else logging.WARNING
                log.log(level, "the copy of the catalog waits reason=%s", e.message)
                self._let_go()
                time.sleep(_PAUSE_S)

    def _let_go(self):
        if self._stream is not None:
            self._stream.close()
        if self._copy is not None:
            self._copy.close()
        self._stream = self._copy = None

    def step(self):
        """Ask once and keep what comes."""
        if self._stream is None and (stream := self._connect()) is not None:
            self._stream = stream
        if self._stream is None:
            time.sleep(0.1)
            return
        if self._copy is None:
            self._copy = CatalogCopy(self._directory)
        if self._copy.wants_base:
            self._fetch_base()
        epoch, sequence = self._copy.last
        answer, record = self._ask(messages.FollowCatalog(epoch=epoch, sequence=sequence, wait_s=WAIT_S), WAIT_S + _ANSWER_S)
        if not answer.kept:
            self._wanted.clear()
            self._let_go()
        elif answer.snapshot:
            self._fetch_base()
        elif record:
            self._check_room(len(record))
            self._copy.append(record)

    def _ask(self, message, timeout_s=_ANSWER_S):
        """(answer, body) of the master registered with. Raises NotMaster for another one, BadMessage for a body that was altered."""
        answer = self._stream.ask(message, timeout_s=timeout_s)
        body = self._stream.body()
        if answer.epoch != self._epoch():
            raise errors.NotMaster(address=self._stream.address)
        if hashlib.sha256(body).hexdigest() != answer.sha256:
            raise errors.BadMessage(detail="a page of the catalog was altered on its way")
        return answer, body

    def _check_room(self, size):
        if self._free() < size:
            raise errors.NoRoom(size=size, detail="the copy of the catalog would eat into the reserve")

    def _fetch_base(self):
        self._copy.replace_base(self._pages())
        log.info("copy of the catalog begun anew epoch=%s sequence=%s", *self._copy.last)

    def _pages(self):
        snapshot, offset, size = None, 0, 1
        while offset < size:
            answer, page = self._ask(messages.ReadSnapshot(snapshot=snapshot, offset=offset))
            snapshot, size = answer.snapshot, answer.size
            if not page:
                raise errors.IntegrityError("a snapshot of the catalog ended before its end")
            if offset == 0:
                self._check_room(size)
            offset += len(page)
            yield page
