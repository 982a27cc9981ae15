"""What putting and getting many files share: a crew of threads, batches that are opened together, lots, counts and results.

Never asks the master or a keeper for anything: `trees.py` does, in the tasks that it gives.
"""

import threading
from collections import deque

from dfs_lib.client import lots

MOST_FILES = 128  # the ceiling of OpenUpload, CommitUpload and OpenDownload
# Small files are bound by round trips and fsyncs, not by bandwidth: more of them are in flight than `jobs` says for blocks.
SMALL_JOBS_FACTOR = 4


class Crew:
    """Threads that work off tasks; `do` waits while as many tasks wait as a batch has, so that memory stays flat."""

    def __init__(self, n_threads, name, failed):
        """failed(error): is told what a task raises; a task is expected to handle what it can."""
        self._changed = threading.Condition()
        self._tasks, self._n_busy, self._ending = deque(), 0, False  # guarded by _changed
        self._n_threads, self._name, self._failed = n_threads, name, failed
        self._threads = []

    def do(self, task, wait=True):
        """wait: until fewer tasks wait; not for the crew's own threads, which would wait for each other."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: len(self._tasks) < MOST_FILES or self._ending)
            self._tasks.append(task)
            if len(self._threads) < self._n_threads and len(self._tasks) + self._n_busy > len(self._threads):
                thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def _run(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._ending)
                if not self._tasks:
                    return
                task = self._tasks.popleft()
                self._n_busy += 1
                self._changed.notify_all()
            try:
                task()
            except BaseException as e:  # handed to the thread that gave the task
                self._failed(e)
            finally:
                with self._changed:
                    self._n_busy -= 1
                    self._changed.notify_all()

    def end(self, at_once=False):
        """Wait until every task is done (at_once: those under way), then end the threads."""
        with self._changed:
            if at_once:
                self._tasks.clear()
            self._ending = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


class Many:
    """What putting and getting many files share: counts, results one at a time, a crew."""

    def __init__(self, peers, jobs, on_result, name):
        self.peers, self._on_result = peers, on_result or (lambda outcome, local, path: None)
        self.jobs = max(1, jobs or peers.settings.jobs)
        self._lock = threading.Lock()
        self.counts = {"files": 0, "bytes": 0, "resumed_bytes": 0, "failed": 0}  # guarded by _lock
        self.failure = None
        self.crew = Crew(self.jobs * SMALL_JOBS_FACTOR, name, self._crew_failed)

    def _crew_failed(self, error):
        self.failure = self.failure or error

    def report(self, outcome, local, path):
        """Count an outcome (result or DfsError) and pass it on, one at a time."""
        with self._lock:
            if isinstance(outcome, dict):
                self.counts["files"] += 1
                self.counts["bytes"] += outcome["size"]
                self.counts["resumed_bytes"] += outcome["resumed_bytes"]
            else:
                self.counts["failed"] += 1
            self._on_result(outcome, local=local, path=path)

    def run(self, items):
        """Work off all items. Raises what stops everything: a master that is gone, a bug, an interrupt."""
        try:
            for item in items:
                self.add(item)
                if self.failure is not None:
                    break
            self.flush()
        except BaseException:
            self.crew.end(at_once=True)
            raise
        self.crew.end(at_once=self.failure is not None)
        if self.failure is not None:
            raise self.failure
        return self.counts


class Batch:
    """Files opened together; `done` of the last ones says so. carriers: {file: Upload} of those that went on by themselves."""

    def __init__(self, members):
        self.members, self._n_left, self._lock = members, len(members), threading.Lock()
        self.carriers = {}

    def done(self, n=1):
        with self._lock:
            self._n_left -= n
            return not self._n_left


def cut(files):
    """Lists of files, each with no more of them and no more bytes than a lot may have. Sizes are known of all."""
    lot, n_bytes = [], 0
    for each in files:
        if len(lot) == lots.MOST_FILES or n_bytes + each.size > lots.MOST_BYTES:
            yield lot
            lot, n_bytes = [], 0
        lot.append(each)
        n_bytes += each.size
    if lot:
        yield lot
