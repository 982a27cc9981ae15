"""Many files at once: small ones in batches of one OpenUpload, CommitUpload or OpenDownload each, large ones by themselves.

Never follows a local link: `put_tree` skips links and special files with a message, `get_tree` makes names below its root by
directory descriptor.

    walk ──> batch of up to 128 ──> Open… ──> crew of threads: a lot of small files or a larger one each ──> the last commits
"""

import os
import stat
import threading

from dfs_lib import errors, model
from dfs_lib.client import download, localfiles, lots, places, sources, upload
from dfs_lib.client.crews import MOST_FILES, Batch, Many, cut
from dfs_lib.wire import messages

# A batch must be done well within its lease, also on slow links.
MOST_BYTES = 64 * model.MIB
SMALL_SIZE = 8 * model.MIB


# -- put ----------------------------------------------------------------------------------------------------------------
class PutMany(Many):
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
        """Open the waiting files together and hand them to the crew, in lots where it pays."""
        waiting, self._waiting, self._n_bytes = self._waiting, [], 0
        if not waiting:
            return
        began_s = download.now_s()
        files = [lots.SmallFile(local, path, found.st_size, found.st_mtime, began_s, found) for local, path, found in waiting]
        requests = [upload.request_of(each.path, each.size, each.mtime_at, self._options, self.peers.settings, resume=False)
                    for each in files]  # a small file is sent again as a whole
        answer = self.peers.masters.ask(messages.OpenUpload(uploads=requests), patient=True)
        opened = []
        for each, result in zip(files, answer.results):
            refused = result.get("refused")
            if refused:
                self.report(errors.from_wire(refused["error"], refused["message"], refused["facts"]), each.local, each.path)
            else:
                each.opened = result
                opened.append(each)
        batch = Batch(opened)
        for task in self._tasks(batch, opened):
            self.crew.do(task)

    def _tasks(self, batch, opened):
        """What the crew has to do: small files whose chains have the same keepers together, others alone."""
        together = {}
        for each in opened:
            chain = lots.chain_of(each.opened)
            if chain is None or each.size > lots.MOST_FILE:
                yield lambda each=each: self._put_one(batch, each)
            else:
                together.setdefault(chain, []).append(each)
        for files in together.values():
            for lot in cut(files):
                yield lambda lot=lot: self._put_lot(batch, lot)

    def _put_lot(self, batch, lot):
        buffer, done = self.peers.take_buffer(), []
        try:
            lots.put(self.peers, lot, buffer, self._follow, (places.CONNECT_S, places.SILENCE_S))
        except errors.DfsError as e:
            for each in lot:
                each.error = each.error or e
        finally:
            self.peers.give_buffer(buffer)
        for each in lot:
            if each.is_safe and self._options.progress is not None:
                self._options.progress(each.size)
            if each.error is None and not each.is_safe:
                # Its keeper is away or unwilling: others are found for it, beside the rest of the lot.
                self.crew.do(lambda each=each: self._put_one(batch, each), wait=False)
            else:
                done.append(each)
        self._done(batch, done)

    def _put_one(self, batch, each):
        """One file by itself: a larger one, or one that a lot has not brought through."""
        carrier, block = each.carry_on(self.peers, self._options)
        buffer = self.peers.take_buffer()
        try:
            carrier.source = sources.LocalFile(each.local, self._follow, each.found)
            try:
                if block is not None:
                    block.source = carrier.source
                carrier.put_small(buffer, block, each.tried, each.unwilling)
                carrier.source.check_unchanged()
            finally:
                carrier.source.close()
        except errors.DfsError as e:
            each.error = e
        finally:
            self.peers.give_buffer(buffer)
        batch.carriers[each] = carrier
        self._done(batch, [each])

    def _done(self, batch, files):
        if files and batch.done(len(files)):
            self._commit(batch)

    def _commit(self, batch):
        good = [each for each in batch.members if each.error is None]
        results = []
        if good:
            try:
                commits = [batch.carriers.get(each, each).commit_request() for each in good]
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
                self._put_failed(each, batch.carriers.get(each) or each.carry_on(self.peers, self._options)[0])

    def _put_failed(self, each, carrier):
        if isinstance(each.error, errors.LeaseLapsed):
            # The master was restarted, or a batch on a slow link took too long: the patient way does it.
            published = carrier.published()
            if published is not None:
                return self.report(published, each.local, each.path)
            return self.put_alone(each.local, each.path)
        carrier.abandon(keep=False)
        self.report(each.error, each.local, each.path)

    def put_alone(self, local, path):
        """One file with all patience."""
        try:
            self.report(put_local(self.peers, local, path, self._options, self._follow), local, path)
        except errors.DfsError as e:
            self.report(e, local, path)


def put_local(peers, local, path, options, follow=True):
    """One local file; returns the result of `Client.put`."""
    source, local = sources.LocalFile(local, follow), os.fspath(local)
    try:
        if 0 < source.size <= lots.MOST_FILE:
            try:
                return _put_small(peers, source, local, path, options)
            except errors.LeaseLapsed:
                pass  # the master was restarted: the patient way does it
        return upload.Upload(peers, path, local, options, source, None, source.size, source.mtime_at).run()
    finally:
        source.close()


def _put_small(peers, source, local, path, options):
    """A lot of one. Raises LeaseLapsed when it has to be begun again."""
    mtime_at = source.mtime_at if options.mtime_at is None else options.mtime_at
    file = lots.SmallFile(local, path, source.size, mtime_at, download.now_s())
    request = upload.request_of(path, file.size, mtime_at, options, peers.settings, resume=False)  # it is sent again as a whole
    file.opened = peers.masters.ask(messages.OpenUpload(uploads=[request]), patient=True).results[0]
    upload.raise_refused(file.opened)
    carrier, buffer = None, peers.take_buffer()
    try:
        file.read_from(source, buffer[:file.size])
        lots.send(peers, [file], buffer[:file.size], (places.CONNECT_S, places.SILENCE_S))
        if file.is_safe:
            if options.progress is not None:
                options.progress(file.size)
        else:
            carrier, block = file.carry_on(peers, options)
            block.source = source
            carrier.put_small(buffer, block, file.tried, file.unwilling)
        source.check_unchanged()
        result = peers.masters.ask(messages.CommitUpload(commits=[(carrier or file).commit_request()]), patient=True).results[0]
        upload.raise_refused(result)
        if result.get("rejected"):
            raise errors.LeaseLapsed(path=path)
        return file.result(result)
    except errors.LeaseLapsed:
        published = (carrier or file.carry_on(peers, options)[0]).published()  # the answer may be all that was lost
        if published is None:
            raise
        return published
    except BaseException:
        (carrier or file.carry_on(peers, options)[0]).abandon(keep=False)
        raise
    finally:
        peers.give_buffer(buffer)


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
class GetMany(Many):
    """Items are (remote path, key of the local directory, name there, local path for messages).

    open_directory(key) → localfiles.Directory, the batch's to close; mode: permission bits of new files.
    """

    def __init__(self, peers, jobs, progress, on_result, open_directory, mode):
        super().__init__(peers, jobs, on_result, "get-small")
        self._progress, self._open_directory, self._mode = progress, open_directory, mode
        self._shown = progress or (lambda n: None)
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
        batch = Batch([*small, *large])
        for task in self._tasks(batch, directories, small):
            self.crew.do(task)
        for plan, item in large:
            self._get_one(batch, directories, plan, item, self.jobs)

    def _tasks(self, batch, directories, small):
        """What the crew has to do: small files that one keeper can give together, others alone."""
        together = {}
        for plan, item in small:
            source = plan.first_source() if plan.size <= lots.MOST_FILE else None
            if source is None:
                yield lambda plan=plan, item=item: self._get_one(batch, directories, plan, item, 1)
            else:
                together.setdefault(source["keeper"], []).append(plan)
        items = dict(small)
        for plans in together.values():
            for lot in cut(plans):
                yield lambda lot=lot: self._get_lot(batch, directories, lot, items)

    def _get_lot(self, batch, directories, lot, items):
        began_s, buffer = download.now_s(), self.peers.take_buffer()

        def deliver(plan, view):
            path, key, name, local = items[plan]
            try:
                download.whole_to_file(plan, view, directories.get(key), name, self._mode)
                self._shown(len(view))
                self.report(download.result(plan, local, began_s, 0), local, path)
            except errors.DfsError as e:
                self.report(e, local, path)

        try:
            left = lots.get(self.peers, lot, buffer, self.peers.settings.hedge_after, deliver)
        finally:
            self.peers.give_buffer(buffer)
        for plan in left:
            # Its keeper is away, or has no good copy: the patient way knows other sources, and tells of damage.
            self.crew.do(lambda plan=plan: self._get_one(batch, directories, plan, items[plan], 1), wait=False)
        if len(left) < len(lot) and batch.done(len(lot) - len(left)):
            directories.close()

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
            if batch.done():
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
