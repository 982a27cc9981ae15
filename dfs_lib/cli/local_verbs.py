"""`dfs local`, `dfs demo` and `dfs recover`: what needs no cluster to be there first.

Never starts a process by itself: `dfs_lib.local` does. A demo leaves nothing behind.
"""

import os
import signal
import sys
import time

from dfs_lib import errors, settings
from dfs_lib.cli import calls, options, output

# Settings of daemons that `dfs local` takes and passes on.
_PASSED_TO_MASTER = ("copies", "safe", "suspect_after", "dead_after", "repair_grace", "stop_grace", "repair_rate", "repair_jobs",
                     "spread", "upload_keep", "trash_grace", "sum_after")
_PASSED_TO_KEEPERS = ("reserve", "heartbeat_every", "scrub_rate", "scrub_days", "disk_timeout")
DEFAULT_DIRECTORY = "dfs-local"


def _parse_keepers(text):
    number = settings.whole(text)
    if not 1 <= number <= 64:
        raise ValueError(f"{text!r}: from 1 to 64 keepers on one machine")
    return number


def _parse_port(text):
    number = settings.whole(text)
    if not 0 <= number <= 65000:
        raise ValueError(f"{text!r}: a port goes from 0 to 65000")
    return number


# -- dfs local --------------------------------------------------------------------------------------------------------
def local(call):
    """Start a cluster, say how to use it, wait for Ctrl-C, stop it."""
    from dfs_lib import local as clusters
    from dfs_lib.cli import daemons

    daemons.settle_own_folder()
    daemons.end_with_bootloader()
    own = call.settings
    directory = own.data or DEFAULT_DIRECTORY
    n_there = _n_keepers_in(directory)
    n_keepers = max(call["keepers"] or 3, n_there)
    if call["keepers"] and n_there > call["keepers"]:
        call.out.remark(f"{directory} holds {output.count_text(n_there, 'keeper')}: all of them are started, because each may hold the "
                        "last copy of something. `dfs drain KEEPER` empties one; then its directory can go")
    started = time.monotonic()
    cluster = clusters.Cluster(directory, keepers=n_keepers, ports_from=call["ports_from"] or 0, insecure=own.insecure,
                               master_options=_promises(own, n_keepers) + _passed(own, _PASSED_TO_MASTER),
                               keeper_options=_passed(own, _PASSED_TO_KEEPERS), web=web_text(own))
    with cluster, Signals() as signals:
        copies = min(own.copies, n_keepers) if own.origins["copies"] == "default" else own.copies
        _say_ready(call, cluster, directory, copies, time.monotonic() - started)
        status = stay(call, cluster, signals)
        # In here, where a second signal does no harm: the frozen program's bootloader hands on to us what a whole group has got.
        cluster.stop()
    call.out.remark(f"stopped; everything is kept in {directory}")
    return status


def _n_keepers_in(directory):
    """The highest number of a keeper that this directory has had: those come up again."""
    try:
        names = os.listdir(directory)
    except OSError:
        return 0  # it is not there yet, or `start` will say what is wrong with it
    return max((int(name[1:]) for name in names if name[:1] == "k" and name[1:].isdigit() and name.isascii()
                and os.path.isdir(os.path.join(directory, name))), default=0)


def _promises(own, n_keepers):
    """With few keepers the usual copies are lowered, or each put would be refused; what was asked for stays."""
    return [word for name in ("copies", "safe") if own.origins[name] == "default" and getattr(own, name) > n_keepers
            for word in ("--" + name, str(n_keepers))]


def web_text(own):
    """The setting of the page as a command line has it."""
    from dfs_lib.cli import web

    return calls.value_text(settings.BY_NAME["web"], own.web or web.DEFAULT)


def login_link(cluster):
    """The page's address with the way in, None when there is no page."""
    from dfs_lib.cli import web

    return cluster.web_url and web.login_link(cluster.web_url, None if cluster.insecure else cluster.key_file)


def _passed(own, names):
    return [word for name in names if own.origins[name] != "default"
            for word in ("--" + name.replace("_", "-"), calls.value_text(settings.BY_NAME[name], getattr(own, name)))]


def _say_ready(call, cluster, directory, copies, seconds):
    shown = directory if os.path.isabs(directory) or directory.startswith(".") else f".{os.sep}{directory}"
    words = [our_name()]
    if os.path.abspath(directory) not in (os.path.abspath(DEFAULT_DIRECTORY), os.getcwd()):
        words += ["--config", _quoted(os.path.join(directory, "client.toml"))]
    use = " ".join(words)
    call.out.line(f"a whole cluster in {output.safe_text(shown)}: 1 master, {output.count_text(len(cluster.keepers), 'keeper')}, "
                  f"{output.count_text(copies, 'copy', 'copies')} of everything")
    if cluster.web_url:
        call.out.line(f"  web  {login_link(cluster)}")
    call.out.line(f"ready in {output.duration_text(seconds)}. Ctrl-C stops it, your data stays. In another terminal, from here:")
    call.out.line(f"  {use} put README.md /")
    call.out.line(f"  {use} status")
    call.out.record({"event": "ready", "role": "local", "directory": cluster.directory, "seconds": round(seconds, 3),
                     "master": cluster.masters_text, "client_toml": os.path.join(cluster.directory, "client.toml"),
                     "key_file": None if cluster.insecure else cluster.key_file, "use": use, "web": cluster.web_url,
                     "daemons": [{"name": each.name, **each.ready} for each in (cluster.master, *cluster.keepers.values())]})
    call.out.flush()


def our_name():
    """How this program was called, so that the line we print can be pasted."""
    if getattr(sys, "frozen", False):
        return _quoted(sys.argv[0] or "dfs")
    script = sys.argv[0]
    if script.endswith(".pyz") or os.path.basename(script) == "dfs.py":
        return f"{os.path.basename(sys.executable) or 'python3'} {_quoted(script)}"
    return "dfs"


def _quoted(text):
    import shlex

    return shlex.quote(text)


def stay(call, cluster, signals):
    """Wait until SIGINT, SIGTERM or SIGHUP. Returns the exit status.

    A keeper that ends is named, and stays away: that is what one kills it for, to watch the repair. Without its master the cluster is
    none: that one is started again.
    """
    gone, revival = set(), _Revival(call, cluster)
    while not signals.wait(revival.due_in_s()):
        for keeper in cluster.keepers.values():
            if keeper.name not in gone and not keeper.is_running:
                gone.add(keeper.name)
                call.out.remark(f"{_end_of(keeper)}; what it held is copied from the others. Ctrl-C and the same command again start it too; "
                                f"its log: {keeper.log_path}")
        if len(gone) == len(cluster.keepers) and not cluster.master.is_running:
            raise errors.LocalFileError(f"every daemon has ended; their logs are in {cluster.directory}/logs",
                                        path=cluster.directory)
        revival.step()
    return 0


def _end_of(daemon):
    status = daemon.process.returncode
    return f"{daemon.name} " + (f"was killed by signal {-status}" if status < 0 else f"ended with status {status}")


class _Revival:
    """Starts the master again, after a pause that grows while it does not stay up."""

    FIRST_PAUSE_S, LONGEST_PAUSE_S, START_TIMEOUT_S = 1.0, 60.0, 10.0

    def __init__(self, call, cluster):
        self._call, self._cluster = call, cluster
        self._pause_s, self._due_s, self._up_since_s = self.FIRST_PAUSE_S, None, time.monotonic()
        self._url = None  # where the page was

    def due_in_s(self):
        """Seconds until `step` has something to do by itself; None: not before somebody ends."""
        return None if self._due_s is None else max(0.0, self._due_s - time.monotonic())

    def step(self):
        """Plan the start of a master that has ended, or make the one that is due."""
        master, now_s = self._cluster.master, time.monotonic()
        if self._due_s is None:
            if not master.is_running:
                if now_s - self._up_since_s > self.LONGEST_PAUSE_S:
                    self._pause_s = self.FIRST_PAUSE_S
                self._plan(f"{_end_of(master)}; nothing can be stored or read meanwhile")
        elif now_s >= self._due_s:
            url = self._url
            try:
                self._cluster.restart(master.name, self.START_TIMEOUT_S)
            except errors.DfsError as e:
                self._cluster.kill(master.name)  # one that is not ready in time is still there
                self._plan(e.message)
                return
            self._due_s, self._up_since_s = None, time.monotonic()
            moved = self._cluster.web_url and self._cluster.web_url != url
            self._call.out.remark("the master runs again" + (f"; the page is at {login_link(self._cluster)}" if moved else ""))

    def _plan(self, why):
        master = self._cluster.master
        if master.ready:
            self._url = self._cluster.web_url
        self._call.out.remark(f"{why}: it is started again in {output.duration_text(self._pause_s)}; its log: {master.log_path}")
        self._due_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self.LONGEST_PAUSE_S)


class Signals:
    """Waits for the signals that stop us, or a child's end, without a thread and without polling."""

    STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))

    def __enter__(self):
        import socket

        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._was_fd = signal.set_wakeup_fd(self._theirs.fileno())
        numbers = self.STOPPING + ((signal.SIGCHLD,) if hasattr(signal, "SIGCHLD") else ())
        self._were = {number: signal.signal(number, lambda *_: None) for number in numbers}
        return self

    def wait(self, timeout_s=None):
        """Returns True when we shall stop, False when it is worth a look at the children or the time is over."""
        import select

        if not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        return any(number in self.STOPPING for number in self._ours.recv(4096))

    def __exit__(self, *_):
        for number, was in self._were.items():
            signal.signal(number, was)
        signal.set_wakeup_fd(self._was_fd)
        self._ours.close()
        self._theirs.close()


# -- dfs demo ---------------------------------------------------------------------------------------------------------
def demo(call):
    """The tour, in a temporary directory. Returns 0 when the file came back whole."""
    from dfs_lib.cli import demo as tours

    return tours.Tour(call, call.words[0] if call.words else None, keeps=bool(call["keep"])).run()


# -- dfs recover ------------------------------------------------------------------------------------------------------
def recover(call):
    """Files back by name from keepers' directories. Exit status 5 when a file is not whole, 1 when one could not be written."""
    if not call["into"]:
        raise errors.UsageError(detail="recover: name the directory that shall get the files: --into DIR", verb="recover")
    import tempfile

    from dfs_lib.keeper import recover as recovery

    for directory in call.words:
        if not os.path.isdir(directory):
            raise errors.LocalFileError(path=directory, detail="there is no such directory")
    with call.out.progress("reading the keepers' directories") as bar:
        def tell(progress):
            bar.label = f"{'reading' if progress.stage == 'read' else 'writing'} {output.safe_text(progress.path)}"
            bar.note(f"{progress.n_done} of {progress.n_total}")

        with tempfile.TemporaryDirectory(prefix="dfs-recover-") as work:
            names = None if call["by_blocks"] else _remembered(call, work)
            try:
                report = recovery.recover(call.words, call["into"], tell, names)
            finally:
                if names is not None:
                    names.close()
    return _show_recovery(call, report, names is not None)


def _remembered(call, work):
    """The latest copy of the catalog among the keepers' directories, None when there is none that can be used."""
    from dfs_lib.catalog.remembered import Remembered
    from dfs_lib.keeper import catalog_copy

    found = []
    for directory in call.words:
        try:
            if summary := catalog_copy.summary(directory):
                found.append((summary, directory))
        except errors.DfsError as e:
            call.out.remark(f"{directory}: its copy of the catalog cannot be read: {e.message}")
    for summary, directory in sorted(found, reverse=True):
        snapshot, records, new = (os.path.join(work, name) for name in ("snapshot", "records", f"catalog{len(os.listdir(work))}"))
        try:
            with open(snapshot, "wb") as first, open(records, "wb") as rest:
                n = 0
                for piece in catalog_copy.pieces(directory, 1 << 20):
                    (first if n < summary.base_size else rest).write(piece)
                    n += len(piece)
            os.mkdir(new, 0o700)
            names = Remembered(snapshot, records, new)
            call.out.remark(f"names as of {output.time_text(summary.at)}, from the copy of the catalog in {directory}"
                            " (--by-blocks goes by the blocks alone)")
            return names
        except (errors.DfsError, OSError) as e:
            call.out.remark(f"{directory}: its copy of the catalog cannot be used: {e}")
    return None


def _show_recovery(call, report, has_names):
    for each in report.recovered:
        call.out.both(f"{output.safe_text(each.path)}   {output.size_text(each.size)}",
                      {"path": each.path, "version": each.version, "size": each.size, "recovered": True})
    for each in report.existing:
        call.out.both(f"{output.safe_text(each)}   left alone: a file of that name is there already",
                      {"path": each, "recovered": False, "reason": "exists"})
    for each in report.incomplete:
        instead = f"version {each.instead} was given back instead" if each.instead else "no earlier version is whole"
        call.failed(errors.IntegrityError(f"{each.path}: version {each.version} is not whole: {each.detail}; {instead}",
                                          path=each.path))
    for each in report.unfinished:
        call.out.remark(f"{each.path}: version {each.version} left out: the copy of the catalog does not know it as stored, and {each.detail}")
        call.out.record({"path": each.path, "version": each.version, "recovered": False, "reason": "unfinished"})
    for each in report.damaged:
        where = os.path.join(str(each.place.directory), each.place.area, each.place.name)
        call.out.remark(f"damaged: {where}: {each.detail}")
    for each in report.failed:
        call.failed(errors.LocalFileError(path=each.path, detail=each.detail))
    if report.foreign:
        call.out.remark(f"{output.count_text(len(report.foreign), 'block')} of another cluster left alone")
    total = sum(each.size for each in report.recovered)
    left_out = f"; {output.count_text(len(report.unfinished), 'unfinished upload')} left out" if report.unfinished else ""
    call.out.line(f"{output.count_text(len(report.recovered), 'file')} recovered, {output.size_text(total)}, in {call['into']}{left_out}"
                  + ("" if has_names else "; empty files and directories leave no block behind and are not among them"))
    return None


_PASSED_OPTIONS = tuple(calls.setting_option(name) for name in (*_PASSED_TO_MASTER, *_PASSED_TO_KEEPERS))

VERBS = {
    "local": options.Verb("local", local, "[--data DIR] [--keepers N]",
                          "A whole cluster on this machine: a master and keepers on loopback, in the foreground.", (
        options.Option(("--keepers",), "N", "how many keepers (default: those the directory has, at least 3)", _parse_keepers),
        options.Option(("--ports-from",), "PORT", "first of the ports, three a daemon; 0 is any free ports (default 0)",
                       _parse_port),
        *_PASSED_OPTIONS,
    ), 0, 0, f"""
Everything it keeps is in --data (default ./{DEFAULT_DIRECTORY}): started there again, your files are there again. It writes
client.toml into that directory; client verbs find the cluster by it from the directory itself and the one above. One Ctrl-C
stops all.
""", settings.LOCAL),
    "demo": options.Verb("demo", demo, "[FILE]",
                         "The tour: a cluster, a put, kill -9 of a keeper, the repair, a get, every byte compared.", (
        options.flag("--keep", help="leave the cluster running at the end, until Ctrl-C"),
        options.Option(("--size",), "SIZE", "size of the file it makes when none is named (default 64MiB)", settings.parse_size),
    ), 0, 1, "It takes less than a minute, uses real processes in a temporary directory, and leaves nothing behind."),
    "recover": options.Verb("recover", recover, "KEEPER_DIR… --into DIR",
                            "Files back by name from keepers' directories, with no cluster running.", (
        options.Option(("--into",), "DIR", "where the files go; what is there already is left alone"),
        options.flag("--by-blocks", help="go by what the blocks say of themselves alone, even where a copy of the catalog is there"),
    ), 1, None, """
Name the data directories of as many keepers as you have. Of each file the newest version whose blocks are all there is given
back, every byte checked. The keepers' directories are not changed. Where one of them has a copy of the catalog, files come back under
their last names, removed ones do not, and empty files and directories are there too; else under the names they were written with.
"""),
}
