"""What `dfs_lib.client.connect` gives a program: put, get, open, list, stat, remove … as methods of one Client.

Never prints, never logs, never reads the environment or a file of settings: all of that comes in as arguments. A Client may be
used by many threads at once. Every path goes through `model.clean_path` before anything is sent; every change carries an
operation id that stays the same when it is sent again.
"""

import _thread
import os
import stat

from dfs_lib import errors, keyfile, model
from dfs_lib import settings as settings_module
from dfs_lib.client import masters
from dfs_lib.wire import messages, trust

LIST_PAGE = 1000
STAT_PAGE = 256  # the ceiling of Stat
# A buffer of one chunk around a reader: what is fetched, checked and kept at a time anyway.
READ_BUFFER = model.CHUNK_SIZE


# Plain imports inside functions: the freezer finds them, and `ls` does not pay for what moves files.
def _upload():
    from dfs_lib.client import upload

    return upload


def _download():
    from dfs_lib.client import download

    return download


def _trees():
    from dfs_lib.client import trees

    return trees


def _localfiles():
    from dfs_lib.client import localfiles

    return localfiles


def _reader():
    from dfs_lib.client import reader

    return reader


def connect(masters=None, *, settings=None, cluster_key=None, insecure=False):
    """A Client for a cluster; nothing is sent before the first call.

    masters: `host:port,…` or a tuple of (host, port); default: settings.master. settings: dfs_lib.settings.Settings; default: the
    defaults. cluster_key: 32 bytes; default: what settings.key_file holds, the cluster's key or a user's. insecure: the cluster runs without authentication.
    Raises BadSetting, BadKeyFile.
    """
    settings = settings or settings_module.resolve([])
    if isinstance(masters, str):
        try:
            masters = settings_module.parse_masters(masters)
        except ValueError as e:
            raise errors.BadSetting(name="master", origin="connect()", detail=str(e)) from e
    insecure = bool(insecure or settings.insecure)
    credentials = trust.client_credentials(None if insecure else cluster_key)
    if cluster_key is None and settings.key_file and not insecure:
        credentials = _credentials(settings.key_file)
    return Client(tuple(masters or settings.master), settings, credentials, insecure)


def _credentials(path):
    """Credentials of whoever's key is in a file. Raises BadKeyFile."""
    key = keyfile.load(path)
    if key.kind == keyfile.USER:
        return trust.Credentials("client", key.identity, key.key, "hmac")
    if key.kind != keyfile.CLUSTER:
        raise errors.BadKeyFile(path=str(path), detail="it holds a keeper's keys, and not the cluster's or a user's")
    return trust.client_credentials(key.key)


class Client:
    """One cluster, as its users see it. A context manager; `close` lets go of the connections."""

    def __init__(self, addresses, settings, credentials, insecure):
        """credentials: trust.Credentials, without its tls: that follows from settings."""
        credentials = credentials._replace(tls=trust.Tls(settings.tls, settings.tls_ca))
        self.settings, self.credentials = settings, credentials
        self._masters = masters.Masters(addresses, credentials, settings, insecure)
        self._credentials, self._kept_peers, self._peers_lock = credentials, None, _thread.allocate_lock()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close every connection. Transfers under way in other threads fail."""
        if self._kept_peers is not None:
            self._kept_peers.close()
        self._masters.close()

    @property
    def _peers(self):
        """Ways to the keepers, made when the first file moves."""
        with self._peers_lock:
            if self._kept_peers is None:
                from dfs_lib.client import peers

                self._kept_peers = peers.Peers(self._masters, self._credentials, self.settings)
            return self._kept_peers

    @property
    def master_address(self):
        """(host, port) of the master that is asked first now."""
        return self._masters.address

    @property
    def cluster_id(self):
        """Hex, once a master has answered; None before."""
        return self._masters.cluster_id

    # -- files in -------------------------------------------------------------------------------------------------------
    def put(self, source, path, *, copies=None, safe=None, no_clobber=False, parents=False, jobs=None, resume=True, progress=None,
            mtime_at=None, size=None, start=0, block_size=None, memory=None, mark=None, expected_version=None):
        """Store one file; returns when it is durable and published.

        source: a local path, or a binary file object (read to its end, from where it stands). path: the whole remote path.
        size: how many bytes the file will have, when the maker of a file object knows. start: where in the file the object's first byte
        belongs, to go on with an interrupted put of the same path and size, as far as `stored_of` says. What a sized put has stored when its
        object fails is kept for that. mark: a short text that tells this source from others of its size (its time of change, say): who goes on has
        to give the same, because bytes that are not sent again are compared with nothing. block_size: of this file. memory: a sources.Memory, where blocks of a sized file object wait until
        they are durable, and not in temporary files.
        progress(n): called from any thread with bytes done since the last call. resume: use what an interrupted put of the same
        file left. expected_version: what `path` must be when the new version takes its place. Returns {path, local, size, version, copies_durable, copies, places, keepers, seconds, resumed_bytes}; places:
        keepers that could take a copy now, or None; local is None
        for a file object.
        Raises LocalFileError, BadName, FileExists, VersionChanged, IsADirectory, NoSuchFile (no parent directory), TooFewKeepers, NoRoom …
        """
        path = model.clean_path(path)
        _check_version(expected_version)
        options = _upload().Options(copies, safe, no_clobber, parents, jobs, resume, progress, mtime_at, block_size, memory, mark,
                                    expected_version)
        if hasattr(source, "read") or hasattr(source, "readinto"):
            return _upload().Upload(self._peers, path, None, options, pipe=source, size=size, start=start).run()
        if _is_pipe(source):
            with _open_local(source, "rb") as pipe:
                return _upload().Upload(self._peers, path, os.fspath(source), options, pipe=pipe).run()
        return _trees().put_local(self._peers, source, path, options)

    def stored_of(self, path, size, block_size=None, mark=None):
        """Bytes at the start of an interrupted put of this path, size, block size and mark that are stored, and need not be sent again."""
        return _upload().stored_of(self._peers, model.clean_path(path), size, block_size, mark)

    def put_files(self, pairs, *, copies=None, safe=None, no_clobber=False, parents=False, jobs=None, resume=True, progress=None,
                  on_result=None):
        """Store many files: pairs is an iterable of (local path, remote path), taken as it comes.

        on_result(outcome, local=…, path=…): outcome is a result as of `put`, or the DfsError that befell this file; called for
        each file, one call at a time, from any thread. Returns {files, bytes, resumed_bytes, failed}. Raises what stops all (no
        master).
        """
        options = _upload().Options(copies, safe, no_clobber, parents, jobs, resume, progress)
        return _trees().PutMany(self._peers, options, on_result).run(pairs)

    def put_tree(self, directory, path, *, copies=None, safe=None, no_clobber=False, jobs=None, resume=True, progress=None,
                 on_result=None, on_skip=None):
        """Store everything below a local directory below the remote directory `path`, which is made. Empty directories too.

        Links are not followed; links, FIFOs, sockets and devices are left out: on_skip(local path, why). Else as `put_files`.
        """
        path = model.clean_path(path)
        options = _upload().Options(copies, safe, no_clobber, True, jobs, resume, progress)
        many = _trees().PutMany(self._peers, options, on_result, follow=False)
        if not os.path.isdir(directory):
            raise errors.LocalFileError(path=os.fspath(directory), detail="it is not a directory")
        if path != "/":
            self.mkdir(path, parents=True)

        def files():
            for local, remote, is_directory in _trees().walk_local(directory, path, on_skip or (lambda local, why: None)):
                if not is_directory:
                    yield local, remote
                    continue
                try:
                    self.mkdir(remote, parents=True)
                except (errors.Refusal, errors.NotPermitted) as e:
                    many.report(e, local, remote)

        return many.run(files())

    # -- files out ------------------------------------------------------------------------------------------------------
    def get(self, path, target, *, byte_range=None, jobs=None, resume=True, progress=None):
        """Fetch one file, every byte checked; a local file appears under its name when it is whole and durable.

        target: a local path, or a binary file object (written in order). byte_range: (first, last) byte, both included; last None
        for the end. Returns {path, local, size, version, keepers, seconds, resumed_bytes}; size is what was fetched.
        Raises NoSuchFile, IsADirectory, LocalFileError, AllReplicasBad, NoLiveReplica, NetworkError …; a file object's own errors
        pass.
        """
        path, began_s = model.clean_path(path), _download().now_s()
        plan = _download().Plan(self._peers, path, self._peers.new_stop())
        if byte_range is not None:
            return self._get_range(plan, target, byte_range, progress, began_s)
        plan.open()
        if hasattr(target, "write"):
            return self._get_stream(plan, target, None, 0, plan.size, progress, began_s)
        local, is_special = _final_name(target)
        if is_special:
            with _open_local(target, "wb") as out:
                return self._get_stream(plan, out, os.fspath(target), 0, plan.size, progress, began_s)
        directory = _localfiles().Directory.open(os.path.dirname(local))
        try:
            resumed = _download().to_file(plan, directory, os.path.basename(local),
                                          jobs=jobs or self.settings.jobs, resume=resume, progress=progress)
        finally:
            directory.close()
        return _download().result(plan, os.fspath(target), began_s, resumed)

    def _get_range(self, plan, target, byte_range, progress, began_s):
        first, last = byte_range
        plan.open(max(0, first) // self.settings.block_size, 1)
        end = plan.size if last is None else min(last + 1, plan.size)
        if first < 0 or (last is not None and last < first) or (first >= plan.size and (first, plan.size) != (0, 0)):
            wanted = f"{first}-{'' if last is None else last}"
            raise errors.UsageError(detail=f"bytes {wanted} are not in {plan.path}, which has {plan.size}")
        if hasattr(target, "write"):
            return self._get_stream(plan, target, None, first, end, progress, began_s)
        local, is_special = _final_name(target)
        if is_special:
            with _open_local(target, "wb") as out:
                return self._get_stream(plan, out, os.fspath(target), first, end, progress, began_s)
        directory = _localfiles().Directory.open(os.path.dirname(local))
        try:
            part = _localfiles().PartFile(directory, os.path.basename(local), end - first, resume=False)
            try:
                self._stretch(plan, part.append, first, end, progress)
            except BaseException:
                part.leave(keep=False)
                raise
            part.finish(end - first, plan.mtime_at)
        finally:
            directory.close()
        return _download().result(plan, os.fspath(target), began_s, 0, end - first)

    def _get_stream(self, plan, target, local, first, end, progress, began_s):
        self._stretch(plan, lambda view: _download().write_all(target, view), first, end, progress)
        if hasattr(target, "flush"):
            target.flush()
        return _download().result(plan, local, began_s, 0, end - first)

    def _stretch(self, plan, write, first, end, progress):
        def deliver(view):
            write(view)
            if progress is not None:
                progress(len(view))

        buffer = self._peers.take_buffer()
        try:
            _download().stretch(plan, first, end, deliver, buffer)
        finally:
            self._peers.give_buffer(buffer)

    def get_files(self, pairs, *, jobs=None, progress=None, on_result=None):
        """Fetch many files: pairs is an iterable of (remote path, local path), directories exist. Results as of `put_files`."""
        return _trees().get_files(self._peers, pairs, jobs, progress, on_result, self._new_file_mode())

    def get_tree(self, path, directory, *, jobs=None, progress=None, on_result=None):
        """Fetch everything below the remote directory `path` below a local directory, which is made. Results as in `put_files`.

        No link below the local directory is followed: one that is in the way is that file's error (F33).
        """
        path = model.clean_path(path)
        return _trees().get_tree(self._peers, self.walk(path), path, os.fspath(directory), jobs, progress, on_result,
                                 self._new_file_mode())

    @staticmethod
    def _new_file_mode():
        return 0o666 & ~_localfiles().umask()

    def open(self, path):
        """A seekable binary reader of the version that `path` has now; bytes are checked before they are handed out."""
        import io

        plan = _download().Plan(self._peers, model.clean_path(path)).open()
        return io.BufferedReader(_reader().StoredFile(plan), READ_BUFFER)

    def reading(self, path):
        """One version of a file for those who pass its bytes on: a `reading.Reading`. Raises NoSuchFile, IsADirectory."""
        from dfs_lib.client import reading

        return reading.Reading(self._peers, model.clean_path(path))

    def sha256(self, path):
        """SHA-256 of a file as hex. Every byte is read and checked; the master notes the sum with the version."""
        import hashlib

        total = hashlib.sha256()
        plan = _download().Plan(self._peers, model.clean_path(path)).open()
        self._stretch(plan, total.update, 0, plan.size, None)
        try:
            self._masters.ask(messages.RecordSum(version=plan.version, sha256=total.hexdigest()))
        except (errors.Refusal, errors.NotPermitted, errors.NetworkError):
            pass  # noted or not, the sum is right
        return total.hexdigest()

    # -- names ----------------------------------------------------------------------------------------------------------
    def list(self, path, *, have=False, after=None, page=LIST_PAGE):
        """An iterator of model.Entry, in name order, with full paths; pages are asked for as they are needed.

        have: also count the copies there are. after: only names that follow this one; page: names asked for at a time. Raises NoSuchFile,
        NotADirectory.
        """
        path, began, more = model.clean_path(path), False, True
        while more:
            # Once it has begun a long listing is worth waiting for a master that restarts.
            question = messages.List(path=path, after=after, limit=page, have=have)
            answer = self._masters.ask(question, patient=began)
            began = True
            for row in answer.entries:
                yield _entry(path, row)
            more = answer.more and bool(answer.entries)
            after = answer.entries[-1][0] if more else None

    def walk(self, path):
        """An iterator of model.Entry of everything below a directory, depth first, a directory before what it holds."""
        for entry in self.list(path):
            yield entry
            if entry.kind == model.DIRECTORY:
                try:
                    yield from self.walk(entry.path)
                except errors.NoSuchFile:
                    pass  # removed since it was listed
                except errors.BadName:
                    pass  # whoever acts on the name is told

    def stat(self, path, blocks=False):
        """What is known: {path, type, size, version, mtime_at, copies_wanted, copies_have, block_size, sha256, n_blocks}.

        With `blocks` also blocks: [{index, block, size, keepers}]. Raises NoSuchFile.
        """
        path = model.clean_path(path)
        found = self._stat_dict(path, self._masters.ask(messages.Stat(paths=[path], blocks=blocks)).results[0], blocks)
        if isinstance(found, errors.DfsError):
            raise found
        return found

    def stat_many(self, paths, blocks=False):
        """A list with one stat dict or DfsError for each path, in order."""
        found = []
        paths = list(paths)
        for start in range(0, len(paths), STAT_PAGE):
            found += self._stat_page(paths[start:start + STAT_PAGE], blocks)
        return found

    def _stat_page(self, paths, blocks):
        cleaned = []
        for path in paths:
            try:
                cleaned.append(model.clean_path(path))
            except errors.BadName as e:
                cleaned.append(e)
        asked = [path for path in cleaned if isinstance(path, str)]
        # One path at a time with its blocks: many files of many blocks would not fit into one answer.
        pages = [[path] for path in asked] if blocks else [asked] if asked else []
        results = [result for page in pages for result in self._masters.ask(messages.Stat(paths=page, blocks=blocks)).results]
        answers = iter([self._stat_dict(path, result, blocks) for path, result in zip(asked, results)])
        return [next(answers) if isinstance(path, str) else path for path in cleaned]

    def _stat_dict(self, path, result, blocks):
        refused = result.get("refused")
        if refused:
            return errors.from_wire(refused["error"], refused["message"], refused["facts"])
        _name, kind, size, version, mtime_at, wanted, have = result["entry"]
        found = {"path": path, "type": kind, "size": size, "version": version, "mtime_at": mtime_at, "copies_wanted": wanted,
                 "copies_have": have, "block_size": result["block_size"], "sha256": result["sha256"],
                 "n_blocks": result["n_blocks"]}
        if blocks:
            found["blocks"] = self._all_blocks(path, result)
        return found

    def _all_blocks(self, path, result):
        found, n_blocks = list(result["blocks"] or ()), result["n_blocks"] or 0
        while found and len(found) < n_blocks:
            page = self._masters.ask(messages.Stat(paths=[path], blocks=True, first=found[-1]["index"] + 1)).results[0]
            if not page.get("blocks"):
                break
            found += page["blocks"]
        return found

    def exists(self, path):
        """Whether there is a file or directory of that name."""
        try:
            self.stat(path)
        except (errors.NoSuchFile, errors.NotADirectory):
            return False
        return True

    def _change(self, kind, **values):
        """Send a change. It carries one operation id however often it is sent, so that a lost answer does no harm (F29)."""
        return self._masters.ask(kind(op=os.urandom(16).hex(), **values), patient=True)

    def remove(self, path, recursive=False, expected_version=None):
        """Remove a file or an empty directory; recursive: a whole tree; expected_version: of a file that must still have it.

        Raises NoSuchFile, DirectoryNotEmpty, VersionChanged.
        """
        _check_version(expected_version)
        self._change(messages.Remove, path=model.clean_path(path), recursive=bool(recursive), expected=expected_version)

    def rename(self, source, target, no_clobber=False):
        """Give a file or directory another path; a file there is replaced in the same moment. No bytes move."""
        self._change(messages.Rename, source=model.clean_path(source), target=model.clean_path(target),
                     no_clobber=bool(no_clobber))

    def copy(self, source, target, no_clobber=False):
        """A second file with the same bytes, which are shared. `target` is the whole path."""
        self._change(messages.Copy, source=model.clean_path(source), target=model.clean_path(target), no_clobber=bool(no_clobber))

    def mkdir(self, path, parents=False):
        """Make a directory; parents: those above it too, and one that exists is fine."""
        self._change(messages.MakeDirectory, path=model.clean_path(path), parents=bool(parents))

    def set_copies(self, path, copies):
        """Change how many copies of a file are wanted; repair makes it so."""
        self._change(messages.SetCopies, path=model.clean_path(path), copies=copies)

    def usage(self, path):
        """What a tree holds: a message with files, directories, size (bytes as users see them), stored (bytes on keepers)."""
        return self._masters.ask(messages.Usage(path=model.clean_path(path)))

    # -- the cluster ----------------------------------------------------------------------------------------------------
    def status(self):
        """The whole cluster in numbers: a ClusterStatus message."""
        return self._masters.ask(messages.Status())

    def traffic(self, history=False):
        """How much moves through all keepers now; history: and in the last hour. A TrafficMeasured message, or None from a master of a version
        that does not count it."""
        try:
            return self._masters.ask(messages.MeasureTraffic(history=bool(history)))
        except (errors.PeerGone, errors.ProtocolError):
            self._masters.ask(messages.Ping())  # raises when it is gone; else it has closed the connection on a question it does not know
            return None

    def keeper_names(self, keepers):
        """The names of keepers (ids), as `k3`; the beginning of an id while no master tells it. Raises nothing."""
        return self._peers.names_of(keepers)

    def scrub(self, keepers=(), start=True):
        """Have keepers (ids; all when empty) re-read their replicas; start False only asks how it goes. A ScrubReport message."""
        return self._masters.ask(messages.Scrub(keepers=list(keepers), start=bool(start)), patient=not start)

    def rebalance(self, dry_run=False, start=True):
        """Even out how full keepers are, or only plan it. A RebalancePlan message."""
        return self._masters.ask(messages.Rebalance(dry_run=bool(dry_run), start=bool(start)), patient=not start)

    def report_bad(self, block, keeper, reason):
        """Tell the master that a replica is damaged; it is made again from a good one."""
        self._masters.ask(messages.ReplicaBad(block=block, keeper=keeper, reason=reason[:1000]))

    def ask_identity(self):
        """Whose key this client has, and what it may do: an Identified message with name (None for the cluster's own key), role and home."""
        return self._masters.ask(messages.Identify())

    def ask(self, message, patient=False):
        """Any other request to the master, for programs that speak its messages (`wire/messages.py`)."""
        return self._masters.ask(message, patient=patient)


def _check_version(version):
    if version is not None and not (isinstance(version, int) and version >= 1):
        raise errors.UsageError(detail=f"expected_version is {version!r}, and versions are whole numbers from 1")


def _entry(directory, row):
    name, kind, size, version, mtime_at, wanted, have = row
    return model.Entry(name if name.startswith("/") else model.join(directory, name), kind, size, version, mtime_at, wanted, have)


def _is_pipe(path):
    """Whether a local path names something to be read to its end rather than a regular file."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False  # opening it says what is wrong
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _final_name(target):
    """(where a local target's bytes go, whether that is a device or pipe, to be written into and never replaced).

    As cp does, a link given as target is followed. Links above it are the system's to follow.
    """
    local = os.fspath(target)
    mode = _mode_of(local)
    if os.path.basename(local) in ("", os.curdir, os.pardir) or stat.S_ISLNK(mode):
        local = os.path.realpath(local)
        mode = _mode_of(local)
    return local, bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _mode_of(path):
    """What is there, links not followed; 0: nothing that could be looked at."""
    try:
        return os.lstat(path).st_mode
    except (OSError, ValueError):
        return 0


def _open_local(path, mode):
    try:
        return open(path, mode, buffering=0)
    except OSError as e:
        raise _localfiles().local_error(path, e) from e
