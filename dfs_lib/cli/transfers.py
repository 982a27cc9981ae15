"""`put`, `get`, `cat`, `sum`: where bytes go in and out. Where they land is decided in `paths`, how they travel in the client.

Never opens a local file by itself.
"""

import os
import stat
import sys

from dfs_lib import errors, model, settings
from dfs_lib.cli import calls, names, options, output, paths

# What concerns one file of several: it is shown, and the others still have their turn. A network that is gone ends the command.
_ONE_FILE = (errors.Refusal, errors.IntegrityError, errors.NotPermitted)
_STANDARD_INPUT = _STANDARD_OUTPUT = "-"


class _Results:
    """Shows outcomes as they come, from any thread, one at a time; `make_text` turns a result into a line for people."""

    def __init__(self, call, client, make_text, stream=None):
        self._call, self._client, self._make_text, self._stream = call, client, make_text, stream
        self._in_tree = False
        self.n_done = self.n_bytes = 0
        self.bar = None  # the Progress that counts files, when there is one

    def __call__(self, outcome, local=None, path=None):
        call = self._call
        if self.bar is not None:
            self.bar.file_done()
        if isinstance(outcome, errors.DfsError):
            return call.failed(outcome, path=path, local=local)
        self.n_done += 1
        self.n_bytes += outcome["size"]
        if call.out.as_json:
            record = {key: value for key, value in outcome.items() if key != "seconds"}
            call.out.record({**record, "seconds": round(outcome["seconds"], 4)}, self._stream)
        elif not call.out.is_quiet and not (self._in_tree and not call["verbose"]):
            call.out.line(output.safe_text(self._make_text(outcome, self.keeper_names(outcome))), stream=self._stream)

    def tree(self, source, target, transfer):
        """Run the transfer of a tree: one line in all, and with -v one a file."""
        n_before, bytes_before, failed_before, self._in_tree = self.n_done, self.n_bytes, self._call.n_failed, True
        try:
            transfer(self)
        except _ONE_FILE as e:
            self._call.failed(e, path=target, local=source)
        finally:
            self._in_tree = False
        if not self._call.out.is_quiet:
            self._call.out.line(output.safe_text(f"{source} -> {target}   {output.count_text(self.n_done - n_before, 'file')}, "
                                                 f"{output.size_text(self.n_bytes - bytes_before)}"
                                                 + _failed_text(self._call.n_failed - failed_before)))

    def keeper_names(self, outcome):
        """`k1 k3`: the names of the keepers of a result; the beginnings of their ids when the master is silent."""
        return " ".join(sorted(self._client.keeper_names(outcome["keepers"])))

    def sum_up(self, n_sources, verb):
        """One line at the end of a command that named several sources."""
        if n_sources > 1 and not self._call.out.is_quiet:
            self._call.out.line(f"{output.count_text(self.n_done, 'file')} {verb}, {output.size_text(self.n_bytes)}{_failed_text(self._call.n_failed)}",
                                stream=self._stream)


def _failed_text(n):
    return f", {n:,} failed" if n else ""


# -- put --------------------------------------------------------------------------------------------------------------
def put(call):
    *sources, target_word = call.words
    target, means_directory = paths.remote("put", target_word)
    if sources.count(_STANDARD_INPUT) > 1:
        raise errors.UsageError(detail="put: standard input can be read once", verb="put")
    with call.client() as client:
        kind = names.kind_of(client, target)
        if kind is None and call["parents"]:
            kind = _make_parents(client, target, means_directory or len(sources) > 1)
        landing = paths.Landing("put", target, kind, len(sources), means_directory, model.join)
        results = _Results(call, client, _put_text)
        files, trees, streams = _sort_local(call, landing, sources)
        wanted = {"copies": call.given("copies"), "safe": call.given("safe"), "no_clobber": bool(call["no_clobber"]),
                  "jobs": call.given("jobs"), "resume": not call["no_resume"]}
        total = None if trees or streams else sum(size for _local, _remote, size in files)
        with call.out.progress(f"put {files[0][0] if len(files) == 1 else target}", total) as bar:
            results.bar = bar
            if not streams:
                _expect(bar, files, trees, _measure_local)
            for local, remote in streams:
                source = sys.stdin.buffer if local == _STANDARD_INPUT else local
                _one(results, remote, local, lambda: client.put(source, remote, progress=bar, **wanted))
            if len(files) == 1:
                local, remote, _size = files[0]
                _one(results, remote, local, lambda: client.put(local, remote, progress=bar, **wanted))
            elif files:
                client.put_files([(local, remote) for local, remote, _size in files], progress=bar, on_result=results, **wanted)
            for local, remote in trees:
                results.tree(local, remote, lambda on_result: _put_tree(call, client, local, remote, on_result, bar, wanted))
        results.sum_up(len(sources), "put")


def _expect(bar, files, trees, measure):
    """Have the bar know how much there is in all, trees measured beside the transfer by measure(tree) → (bytes, files)."""
    n_bytes, n_files = sum(size for _local, _remote, size in files), len(files)
    if not trees:
        return bar.expect(n_bytes, n_files)
    if not bar.shows:
        return None

    def look():
        of_trees = [measure(tree) for tree, _target in trees]
        if None not in of_trees:
            bar.expect(n_bytes + sum(size for size, _n in of_trees), n_files + sum(n for _size, n in of_trees))

    import threading

    return threading.Thread(target=look, name="measure", daemon=True).start()


def _measure_local(directory):
    """(bytes, files) of the regular files below a directory; None when it cannot be read. What changes meanwhile is no matter."""
    n_bytes = n_files = 0
    try:
        waiting = [directory]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        n_bytes, n_files = n_bytes + entry.stat(follow_symlinks=False).st_size, n_files + 1
    except OSError:
        return None
    return n_bytes, n_files


def _measure_remote(client, path):
    try:
        used = client.usage(path)
    except errors.DfsError:
        return None  # the transfer itself will say what is wrong
    return used.size, used.files


def _one(results, path, local, transfer):
    try:
        results(transfer(), local=local, path=path)
    except _ONE_FILE as e:
        results(e, local=local, path=path)


def _make_parents(client, target, is_directory):
    """Make the directories that a target needs (--parents); returns the kind of the target then."""
    directory = target if is_directory else model.parent_and_name(target)[0]
    if directory != "/":
        client.mkdir(directory, parents=True)
    return model.DIRECTORY if is_directory else None


def _sort_local(call, landing, sources):
    """([(local, remote, size)], [(directory, remote)], [(stream, remote)]); sources that cannot be put are shown as failed."""
    files, trees, streams = [], [], []
    unique = paths.Unique()
    for local in sources:
        try:
            if local == _STANDARD_INPUT:
                if landing.is_into:
                    raise errors.UsageError(detail=f"put: standard input has no name: say which in {landing.target}", verb="put")
                streams.append((local, landing.place("")))
                continue
            mode, size = _look(local)
            is_tree = stat.S_ISDIR(mode)
            if is_tree and not call["recursive"]:
                whole = errors.LocalFileError(f"{local} is a directory", path=local)
                whole.hint = "-r puts it with all it holds"
                raise whole
            remote = model.clean_path(landing.place(paths.local_name(local), is_tree))
            if not is_tree or paths.local_name(local):
                unique.take(remote, local)
            if is_tree:
                trees.append((local, remote))
            elif stat.S_ISREG(mode):
                files.append((local, remote, size))
            else:
                streams.append((local, remote))  # a pipe or device that was named: read to its end
        except _ONE_FILE as e:
            call.failed(e, path=None, local=local)
    return files, trees, streams


def _look(local):
    try:
        found = os.stat(local)
    except (OSError, ValueError) as e:
        raise errors.LocalFileError(path=local, detail=(getattr(e, "strerror", None) or str(e)).lower()) from e
    return found.st_mode, found.st_size


def _put_tree(call, client, local, remote, on_result, bar, wanted):
    if not call["parents"] and remote != "/" and names.kind_of(client, remote) is None:
        client.mkdir(remote)  # as with cp: the directory above has to be there
    client.put_tree(local, remote, progress=bar, on_result=on_result, **wanted,
                    on_skip=lambda path, why: call.out.remark(f"left out {path}: {why}"))


def _put_text(result, keepers):
    if not result["size"]:
        return f"{result['local'] or 'standard input'} -> {result['path']}   empty: its name is all there is to keep"
    # A large file's blocks lie on different keepers: then no copy is whole on any of those named.
    where = ("" if not keepers else f" on {keepers}" if len(keepers.split()) <= result["copies_durable"] else f", spread over {keepers}")
    durable = f"{output.count_text(result['copies_durable'], 'copy', 'copies')} durable{where}"
    resumed = f", {output.size_text(result['resumed_bytes'])} were there already" if result["resumed_bytes"] else ""
    return (f"{result['local'] or 'standard input'} -> {result['path']}   {output.size_text(result['size'])}   {durable}"
            + _more_text(result) + resumed)


def _more_text(result):
    """What becomes of the copies that are wanted and not yet there: no more are on their way than there are keepers for them."""
    durable, places = result["copies_durable"], result.get("places")
    coming = max(0, (result["copies"] if places is None else min(result["copies"], places)) - durable)
    later = max(0, result["copies"] - durable - coming)
    return ((f", {coming} more on {'its' if coming == 1 else 'their'} way" if coming else "")
            + (f", {later} more when there {'is a keeper' if later == 1 else 'are keepers'} for {'it' if later == 1 else 'them'}" if later else ""))


# -- get --------------------------------------------------------------------------------------------------------------
def get(call):
    *sources, target = call.words
    remotes = [paths.remote("get", word)[0] for word in sources]
    if call["range"] is not None and (len(sources) > 1 or call["recursive"]):
        raise errors.UsageError(detail="get: --range takes a part of one file", verb="get")
    with call.client() as client:
        if target == _STANDARD_OUTPUT:
            return _to_stdout(call, client, remotes)
        landing = _local_landing(target, len(sources))
        results = _Results(call, client, _get_text)
        files, trees = _sort_remote(call, client, landing, remotes)
        total = None if trees or call["range"] else sum(found["size"] for found, _local in files)
        jobs = call.given("jobs")
        with call.out.progress(f"get {files[0][0]['path'] if len(files) == 1 else 'to ' + target}", total) as bar:
            results.bar = bar
            if call["range"] is None:
                _expect(bar, [(local, found["path"], found["size"]) for found, local in files], trees,
                        lambda path: _measure_remote(client, path))
            if len(files) == 1:
                found, local = files[0]
                wanted = {"byte_range": _byte_range(call, found), "jobs": jobs, "resume": not call["no_resume"]}
                _one(results, found["path"], local, lambda: client.get(found["path"], local, progress=bar, **wanted))
            elif files:
                client.get_files([(found["path"], local) for found, local in files], jobs=jobs, progress=bar, on_result=results)
            for path, local in trees:
                results.tree(path, local,
                             lambda on_result: client.get_tree(path, local, jobs=jobs, progress=bar, on_result=on_result))
        results.sum_up(len(sources), "got")


def _local_landing(target, n_sources):
    means_directory = target.endswith(("/", os.sep))
    kind = model.DIRECTORY if os.path.isdir(target) else model.FILE if os.path.lexists(target.rstrip("/" + os.sep)) else None
    try:
        return _LocalLanding("get", target, kind, n_sources, means_directory, os.path.join)
    except errors.Refusal as e:
        detail = "it is not a directory" if kind else "there is no such directory, and several sources need one"
        raise errors.LocalFileError(path=target, detail=detail) from e


class _LocalLanding(paths.Landing):
    """Landing on this machine: what is wrong is a local file's fault."""

    def place(self, name, is_tree=False):
        if os.name == "nt" and any(c in name for c in '\\:*?"<>|'):
            raise errors.LocalFileError(path=name, detail="this system cannot have a file of that name")
        try:
            local = super().place(name, is_tree)
        except errors.NotADirectory as e:
            raise errors.LocalFileError(path=self.target,
                                        detail="it is a file, and a directory would have to take its place") from e
        except errors.NoSuchFile as e:
            raise errors.LocalFileError(path=self.target, detail="there is no such directory") from e
        # Only what the user wrote may be a link: one that waits under a stored name leads where its owner wants (F33).
        if self.is_into and is_tree and name and os.path.islink(local):
            raise errors.LocalFileError(path=local, detail="it is a symbolic link, and no tree is written through one")
        return local


def _sort_remote(call, client, landing, remotes):
    """([(stat dict, local)], [(remote directory, local)]); sources that cannot be got are shown as failed."""
    files, trees = [], []
    unique = paths.Unique()
    for path, found in zip(remotes, client.stat_many(remotes)):
        try:
            if isinstance(found, errors.DfsError):
                raise found
            is_tree = found["type"] == model.DIRECTORY
            if is_tree and not call["recursive"]:
                raise errors.IsADirectory(path=path)
            name = paths.last_name(path)
            local = landing.place(name, is_tree)
            if name:
                unique.take(local, path)
            if is_tree:
                trees.append((path, local))
            else:
                files.append((found, local))
        except _ONE_FILE as e:
            call.failed(e, path=path)
    return files, trees


def _to_stdout(call, client, remotes):
    results = _Results(call, client, _get_text, stream=sys.stderr)
    call.out.flush()
    for path in remotes:
        if call["recursive"]:
            raise errors.UsageError(detail="get: a tree does not go to standard output", verb="get")
        with call.out.progress(f"get {path}") as bar:
            def transfer(path=path, bar=bar):
                part = _byte_range(call, client.stat(path)) if call["range"] else None
                return client.get(path, sys.stdout.buffer, byte_range=part, jobs=call.given("jobs"), progress=bar)

            try:
                result = transfer()
            except _ONE_FILE as e:
                call.failed(e, path=path)
            else:
                if call.out.as_json:
                    results({**result, "local": _STANDARD_OUTPUT}, path=path)


def parse_range(text):
    """(first, last) of `A-B`, (first, None) of `A-`, (None, n) of `-N`, the last N bytes. Both ends count, as in HTTP."""
    first, dash, last = text.partition("-")
    if not dash or not (first or last):
        raise ValueError(f"{text!r} is not a range of bytes such as 0-1023, 4096- or -100")
    low = settings.parse_size(first) if first else None
    high = settings.parse_size(last) if last else None
    if low is not None and high is not None and high < low:
        raise ValueError(f"{text!r} ends before it begins")
    return low, high


def _byte_range(call, found):
    if call["range"] is None:
        return None
    first, last = call["range"]
    return (max(0, found["size"] - last), None) if first is None else (first, last)


def _get_text(result, keepers):
    resumed = f"   {output.size_text(result['resumed_bytes'])} were there already" if result["resumed_bytes"] else ""
    return (f"{paths.last_name(result['path'])} -> {result['local']}   {output.size_text(result['size'])}"
            + (f"   from {keepers}" if keepers else "") + resumed + "   every byte checked")


# -- cat and sum ------------------------------------------------------------------------------------------------------
def cat(call):
    with call.client() as client:
        call.out.flush()
        for word in call.words:
            path = paths.remote("cat", word)[0]
            try:
                client.get(path, sys.stdout.buffer, jobs=call.given("jobs"))
            except _ONE_FILE as e:
                call.failed(e, path=path)


def sha256_sums(call):
    with call.client() as client:
        for word in call.words:
            try:
                path = paths.remote("sum", word)[0]
                total = client.sha256(path)
                call.out.both(sum_line(total, path), {"path": path, "sha256": total})
                call.out.flush()
            except _ONE_FILE as e:
                call.failed(e, path=word)


def sum_line(total, path):
    """A line that `sha256sum --check` reads: a name with a backslash is escaped, and the line then begins with one."""
    return f"\\{total}  " + path.replace("\\", "\\\\") if "\\" in path else f"{total}  {path}"


_JOBS = calls.setting_option("jobs")
_NO_RESUME = options.flag("--no-resume", help="begin anew even if an earlier, broken transfer left something to go on with")

VERBS = {
    "put": options.Verb("put", put, "LOCAL… REMOTE", "Local files and trees into the store.", (
        options.flag("-r", "-R", "--recursive", help="directories with all they hold; links and special files are left out"),
        calls.setting_option("copies"),
        calls.setting_option("safe"),
        _JOBS,
        options.flag("-n", "--no-clobber", help="refuse to replace a file that is there"),
        options.flag("-p", "--parents", help="make the directories that are missing"),
        _NO_RESUME,
        calls.setting_option("block_size"),
    ), 2, None, """
LOCAL - is standard input. Where things land is as with cp: into REMOTE when that is a directory, else under that name; REMOTE/
has to be a directory. It exits 0 when `safe` copies are durable on different keepers; the rest follow. Run again, it goes on
where it broke off.

  dfs put thesis.pdf /             dfs put -r photos /archive/
  tar c . | dfs put - /backup.tar
""", settings.CLIENT),
    "get": options.Verb("get", get, "REMOTE… LOCAL", "Files and trees out of the store, every byte checked.", (
        options.flag("-r", "-R", "--recursive", help="directories with all they hold"),
        _JOBS,
        options.Option(("--range",), "A-B", "bytes A to B of one file, both included; A- to its end, -N the last N", parse_range),
        _NO_RESUME,
        calls.setting_option("hedge_after"),
    ), 2, None, """
LOCAL - is standard output. Where things land is as with cp. Run again, it goes on where it broke off.

  dfs get /thesis.pdf .            dfs get -r /archive/photos ~/
""", settings.CLIENT),
    "cat": options.Verb("cat", cat, "PATH…", "Files to standard output, every byte checked before it is written.", (_JOBS,), 1,
                        None, "", settings.CLIENT),
    "sum": options.Verb("sum", sha256_sums, "PATH…",
                        "SHA-256 of files, in the format of sha256sum; every byte is read and checked.", (), 1, None,
                        "", settings.CLIENT),
}
