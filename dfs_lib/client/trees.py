"""Many files at once: small ones in batches of one OpenUpload, CommitUpload or OpenDownload each, large ones by themselves.

Never follows a local link: `put_tree` skips links and special files with a message, `get_tree` makes names below its root by
directory descriptor.

    walk ──> batch of up to 128 ──> Open… ──> crew of threads: one file each ──> the last of a batch commits it
"""

import os
import stat
import threading
from collections import deque

from dfs_lib import errors, model
from dfs_lib.client import download, localfiles, sources, upload
from dfs_lib.wire import messages

MOST_FILES = 128  # the ceiling of OpenUpload, CommitUpload and OpenDownload
# A batch must be done well within its lease, also on slow links.
MOST_BYTES = 64 * model.MIB
SMALL_SIZE = 8 * model.MIB
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

    def do(self, task):
        with self._changed:
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


class _Many:
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


class _Batch:
    """Files opened together; `one_done` of the last one says so."""

    def __init__(self, members):
        self.members, self._n_left, self._lock = members, len(members), threading.Lock()

    def one_done(self):
        with self._lock:
            self._n_left -= 1
            return not self._n_left


# -- put ----------------------------------------------------------------------------------------------------------------
class PutMany(_Many):
    """Items are (local path, remote path); follow: whether a link given as a local path is followed."""

    def __init__(self, peers, options, on_result, follow=True):
        super().__init__(peers, options.jobs, on_result, "put-small")
        self._options, self._follow = options, follow
        self._waiting, self._n_bytes = [], 0

    def add(self, item):
        local, path = item
        try:
            path = model.clean_path(path)
            found = self._look(local)
        except errors.DfsError as e:
            return self.report(e, local, path)
        if found.st_size > min(SMALL_SIZE, self.peers.settings.block_size):
            return self.put_alone(local, path)
        self._waiting.append((local, path, found))
        self._n_bytes += found.st_size
        if len(self._waiting) >= MOST_FILES or self._n_bytes >= MOST_BYTES:
            self.flush()

    def _look(self, local):
        try:
            found = os.stat(local, follow_symlinks=self._follow)
        except (OSError, ValueError) as e:
            raise errors.LocalFileError(path=os.fspath(local), detail=(getattr(e, "strerror", None) or str(e)).lower()) from e
        if not stat.S_ISREG(found.st_mode):
            raise errors.LocalFileError(path=os.fspath(local), detail="it is not a regular file")
        return found

    def flush(self):
        """Open the waiting files together and hand them to the crew."""
        waiting, self._waiting, self._n_bytes = self._waiting, [], 0
        if not waiting:
            return
        uploads = [upload.Upload(self.peers, path, local, self._options, size=found.st_size, mtime_at=found.st_mtime)
                   for local, path, found in waiting]
        requests = [{**each.request(), "resume": False} for each in uploads]  # a small file is sent again as a whole
        answer = self.peers.masters.ask(messages.OpenUpload(uploads=requests), patient=True)
        opened = []
        for each, result, (_local, _path, found) in zip(uploads, answer.results, waiting):
            try:
                each.opened(result)
            except errors.DfsError as e:
                self.report(e, each.local, each.path)
            else:
                opened.append((each, found))
        batch = _Batch([each for each, _found in opened])
        for each, found in opened:
            self.crew.do(lambda each=each, found=found: self._put_one(batch, each, found))

    def _put_one(self, batch, each, found):
        each.error = None
        buffer = self.peers.take_buffer()
        try:
            each.source = sources.LocalFile(each.local, self._follow, found)
            try:
                each.put_small(buffer)
                each.source.check_unchanged()
            finally:
                each.source.close()
        except errors.DfsError as e:
            each.error = e
        finally:
            self.peers.give_buffer(buffer)
        if batch.one_done():
            self._commit(batch)

    def _commit(self, batch):
        good = [each for each in batch.members if each.error is None]
        results = []
        if good:
            try:
                commits = [each.commit_request() for each in good]
                results = self.peers.masters.ask(messages.CommitUpload(commits=commits), patient=True).results
            except errors.LeaseLapsed as e:
                for each in good:
                    each.error = e
        for each, result in zip(good, results):
            refused = result.get("refused")
            if refused:
                each.error = errors.from_wire(refused["error"], refused["message"], refused["facts"])
            elif result.get("rejected"):
                each.error = errors.LeaseLapsed(path=each.path)
            else:
                self.report(each.result(result), each.local, each.path)
        for each in batch.members:
            if each.error is not None:
                self._put_failed(each)

    def _put_failed(self, each):
        if isinstance(each.error, errors.LeaseLapsed):
            # The master was restarted, or a batch on a slow link took too long: the patient way does it.
            published = each.published()
            if published is not None:
                return self.report(published, each.local, each.path)
            return self.put_alone(each.local, each.path)
        each.abandon(keep=False)
        self.report(each.error, each.local, each.path)

    def put_alone(self, local, path):
        """One file with all patience."""
        try:
            self.report(put_local(self.peers, local, path, self._options, self._follow), local, path)
        except errors.DfsError as e:
            self.report(e, local, path)


def put_local(peers, local, path, options, follow=True):
    """One local file; returns the result of `Client.put`."""
    source = sources.LocalFile(local, follow)
    try:
        return upload.Upload(peers, path, os.fspath(local), options, source, None, source.size, source.mtime_at).run()
    finally:
        source.close()


def walk_local(directory, remote, on_skip):
    """(local path, remote path, whether it is a directory) of everything below a local directory, depth first, in name order.

    on_skip(local path, why): links, FIFOs, sockets, devices, directories that cannot be read.
    """
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as e:
        return on_skip(os.fspath(directory), (e.strerror or str(e)).lower())
    for entry in entries:
        path = model.join(remote, entry.name)
        if entry.is_symlink():
            on_skip(entry.path, "a symbolic link is not followed")
        elif entry.is_dir(follow_symlinks=False):
            yield entry.path, path, True
            yield from walk_local(entry.path, path, on_skip)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path, path, False
        else:
            on_skip(entry.path, "it is neither a file nor a directory")


# -- get ----------------------------------------------------------------------------------------------------------------
class GetMany(_Many):
    """Items are (remote path, key of the local directory, name there, local path for messages).

    open_directory(key) → localfiles.Directory, the batch's to close; mode: permission bits of new files.
    """

    def __init__(self, peers, jobs, progress, on_result, open_directory, mode):
        super().__init__(peers, jobs, on_result, "get-small")
        self._progress, self._open_directory, self._mode = progress, open_directory, mode
        self._waiting = []

    def add(self, item):
        path, _key, _name, local = item
        try:
            model.clean_path(path)
        except errors.DfsError as e:
            return self.report(e, local, path)
        self._waiting.append(item)
        if len(self._waiting) >= MOST_FILES:
            self.flush()

    def flush(self):
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        asked = [{"path": model.clean_path(path), "first": 0, "n": 1} for path, _key, _name, _local in waiting]
        answer = self.peers.masters.ask(messages.OpenDownload(files=asked), patient=True)
        small, large = [], []
        for item, result in zip(waiting, answer.results):
            plan = download.Plan(self.peers, item[0])
            try:
                plan.take(result)
            except errors.DfsError as e:
                self.report(e, item[3], item[0])
            else:
                (small if plan.n_blocks <= 1 else large).append((plan, item))
        directories = _Directories(self._open_directory)
        batch = _Batch([*small, *large])
        for plan, item in small:
            self.crew.do(lambda plan=plan, item=item: self._get_one(batch, directories, plan, item, 1))
        for plan, item in large:
            self._get_one(batch, directories, plan, item, self.jobs)

    def _get_one(self, batch, directories, plan, item, jobs):
        path, key, name, local = item
        try:
            began_s = download.now_s()
            resumed = download.to_file(plan, directories.get(key), name, self._mode, jobs=jobs, progress=self._progress,
                                       sync_directory=False)
            self.report(download.result(plan, local, began_s, resumed), local, path)
        except errors.DfsError as e:
            self.report(e, local, path)
        finally:
            if batch.one_done():
                directories.close()


class _Directories:
    """The open directories of one batch, for its threads; synced and closed when its last file is done."""

    def __init__(self, open_directory):
        self._open_directory, self._lock, self._open = open_directory, threading.Lock(), {}

    def get(self, key):
        with self._lock:
            found = self._open.get(key)
            if found is None:
                found = self._open[key] = self._open_directory(key)
            return found

    def close(self):
        for directory in self._open.values():
            try:
                directory.sync()
            except OSError:
                pass  # the files are synced; a file system that cannot sync a directory still has them
            directory.close()


def get_files(peers, pairs, jobs, progress, on_result, mode):
    """Files to local paths; directories on the way must exist."""
    def items():
        for path, local in pairs:
            directory, name = os.path.split(os.fspath(local))
            yield path, directory, name, os.fspath(local)

    return GetMany(peers, jobs, progress, on_result, localfiles.Directory.open, mode).run(items())


def get_tree(peers, entries, top, root, jobs, progress, on_result, mode):
    """Everything below the remote directory `top` (entries: model.Entry with full paths) below the local directory `root`."""
    tree = localfiles.Tree(root)
    many = GetMany(peers, jobs, progress, on_result, tree.directory, mode)

    def items():
        above = top.rstrip("/") + "/"
        for entry in entries:
            try:
                path = model.clean_path(entry.path)
            except errors.BadName as e:  # the master should have refused it; here it must not become a local name
                many.report(e, root, entry.path)
                continue
            if not path.startswith(above):
                raise errors.BadMessage(detail=f"the master lists {path!r} below {top!r}")
            relative = path[len(above):]
            local = os.path.join(root, *relative.split("/"))
            directory, _, name = relative.rpartition("/")
            if entry.kind == model.FILE:
                yield path, directory, name, local
                continue
            try:
                tree.directory(relative).close()
            except errors.DfsError as e:
                many.report(e, local, path)

    try:
        return many.run(items())
    finally:
        tree.close()
