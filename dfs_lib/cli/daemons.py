"""`dfs master`, `dfs keeper` and `dfs gateway`: flags become settings, logging is set up, the daemon runs in the foreground.

Never does a daemon's work. What starts a daemon for a while (`dfs local`, tests) gives it `--lifeline FD`, the read end of a pipe
whose write end only the starter holds: at its end, even by kill -9, the daemon stops itself as if it had got SIGTERM.
"""

import os
import signal
import sys

from dfs_lib import errors, settings
from dfs_lib.cli import calls, options, settings_sources, unpacked

# A starter of several keepers lets them load at once and join one by one, so that k1 becomes the master's first keeper.
AWAIT_GO = options.flag("--await-go", help="load, then wait for a byte on the lifeline before joining", hidden=True)
LISTEN_FD = options.Option(("--listen-fd",), "FD", "serve on this listening socket, inherited", int, False, True)
LIFELINE = options.Option(("--lifeline",), "FD", "stop when this file descriptor, a pipe, comes to its end", int, False, True)


def master(call):
    """Run the master until it is told to stop; returns its exit status."""
    own = _with_directory(call)
    _prepare(call)
    end_with_bootloader()  # a keeper does that by itself: it must not have threads
    from dfs_lib.cli import web
    from dfs_lib.master import daemon

    return daemon.run(own, web.beside(own))


def keeper(call):
    """Run a keeper until it is told to stop; returns its exit status."""
    own = _with_key(_with_directory(call), *_join_code(call))
    _prepare(call)
    from dfs_lib.keeper import daemon

    if call["await_go"] and call["lifeline"] is not None and not os.read(call["lifeline"], 1):
        return 0  # whoever started us has gone
    return daemon.run(own)


def gateway(call):
    """Run a gateway until it is told to stop; returns its exit status."""
    own = call.settings
    _prepare(call)
    end_with_bootloader()
    from dfs_lib.gateway import daemon

    return daemon.run(own, call["listen_fd"])


def _with_directory(call):
    """The settings with an absolute data directory that exists, made readable by its owner alone."""
    own = call.settings
    if not own.data:
        detail = f"{call.verb.name}: name the directory that shall hold everything: --data DIR"
        raise errors.UsageError(detail=detail, verb=call.verb.name)
    path = os.path.abspath(os.path.expanduser(own.data))
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as e:
        raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
    return own.but(data=path)


def _with_key(own, code, is_flag=False):
    """The same settings with a keeper's key file named: the one given, the one in its data directory, or the one a join code brings.

    code: a join code, or None; is_flag: whether it was given as --join. It wins over a key file that the environment or a settings file
    names for other commands, and gives way to --key-file when it comes from the environment itself.
    """
    key_origin = own.origins["key_file"] if own.key_file else None
    if code is not None and own.insecure:
        raise errors.UsageError(detail=f"keeper: a join code brings keys, and insecure from {own.origins['insecure']} says that there are none", verb="keeper")
    if code is not None and is_flag and key_origin == settings_sources.FLAG:
        raise errors.UsageError(detail="keeper: --join and --key-file were both given: leave out --key-file, and the code brings a key", verb="keeper")
    if own.insecure or own.key_file and (code is None or key_origin == settings_sources.FLAG):
        return own
    from dfs_lib.keeper import joining
    from dfs_lib.wire import trust

    path = joining.own_key_file(own.data)  # one that has joined already starts again by the same command line
    if path is None and code is not None:
        path = joining.join(own.master, _read_code(code), own.data, own.connect_timeout, trust.Tls(own.tls, own.tls_ca))
    if path is None:
        path = os.path.join(own.data, joining.CLUSTER_KEY)
        raise errors.BadKeyFile(f"no key: a keeper needs its cluster's key in {path} or named with --key-file, or a join code "
                                "(--join, see `dfs admin invite`)", path=path)
    return own.but(key_file=path)


def _join_code(call):
    """(what --join or DFS_JOIN says, or None; whether it is the flag). The variable is taken out of our environment, which children
    would inherit."""
    from_environment = os.environ.pop("DFS_JOIN", None)
    return call["join"] or from_environment or None, bool(call["join"])


def _read_code(text):
    """A join code: the text itself, standard input for `-`, or what stands in a file of that name."""
    if text == "-":
        return sys.stdin.readline()
    if "/" in text or os.path.exists(text):
        try:
            with open(text, encoding="ascii") as source:
                return source.read(200)
        except (OSError, ValueError) as e:
            raise errors.LocalFileError(path=text, detail=getattr(e, "strerror", None) or "it is not text") from e
    return text


def _prepare(call):
    call.start_log(0 if call["quiet"] else 1 + len(call["verbose"] or ()))
    settle_own_folder()
    restore_library_path()
    if call["lifeline"] is not None:
        hold_lifeline(call["lifeline"])


def settle_own_folder():
    """The frozen program: our folder stays as long as we do, and those of the dead go. For whatever runs long."""
    import time

    unpacked.lock_own()
    unpacked.sweep(time.time())


def end_with_bootloader():
    """The frozen program: end as by SIGTERM when the bootloader above us is gone, which cannot tell us of its kill -9 (F2)."""
    parent = os.getppid()
    try:
        if not getattr(sys, "frozen", False) or os.readlink(f"/proc/{parent}/exe") != os.readlink("/proc/self/exe"):
            return
    except OSError:
        return
    import threading

    threading.Thread(target=_end_after, args=(parent,), name="bootloader", daemon=True).start()


def _end_after(parent):
    import time

    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def restore_library_path():
    """The frozen program exports its own folder as library path; programs we run must not load their libraries from it."""
    if getattr(sys, "frozen", False):
        original = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
        os.environ.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            os.environ["LD_LIBRARY_PATH"] = original


def hold_lifeline(fd):
    """Send ourselves SIGTERM when the pipe ends.

    By SIGIO where the system has it: a keeper's supervisor has to stay single-threaded, because it forks. Each daemon needs a
    pipe of its own, since the signal's owner belongs to the pipe. Elsewhere a thread waits.
    """
    try:
        os.fstat(fd)
    except OSError as e:
        raise errors.UsageError(detail=f"--lifeline {fd}: {e.strerror}") from e
    if not hasattr(signal, "SIGIO") or not sys.platform.startswith("linux"):
        import threading

        threading.Thread(target=_wait_for_end, args=(fd,), name="lifeline", daemon=True).start()
        return
    import fcntl
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)

    def look(*_):
        if any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _fd, events in poll.poll(0)):
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    # It may have ended before the signal was armed. By itself this look could come before the daemon has a SIGTERM handler:
    # then the default action ends the process, which is what is wanted.
    look()


def _wait_for_end(fd):
    while os.read(fd, 512):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


VERBS = {
    "gateway": options.Verb("gateway", gateway, "--master HOST[:PORT][,…] [--listen ADDR:PORT]", "The store over HTTP: a page for the browser, files by plain "
                            "GET and PUT, numbers for Prometheus.", (LIFELINE, LISTEN_FD), 0, 0, """
It keeps nothing: run as many as you like. Whoever asks brings a key along; --key-file is for the gateway's own look at the cluster (metrics,
events), and a reader's key will do. When it is ready it prints one JSON line on stdout; it logs to stderr. SIGTERM and SIGINT stop it.

  dfs gateway --master 192.168.1.10 --listen 0.0.0.0:7080 --key-file reader.key
""", settings.GATEWAY),
    "master": options.Verb("master", master, "--data DIR", "The master tracker: names, where the blocks are, repair.", (
        LIFELINE,
        calls.setting_option("ports", "TCP ports, list or range, a listening thread each; 0: any free port (default 7000-7002)"),
    ), 0, 0, """
Without --key-file it makes DATA/cluster.key at its first start, and prints a command on stderr by which one keeper joins. When it is ready it prints one JSON line on stdout; it logs to
stderr. SIGTERM and SIGINT stop it.

  dfs master --data /srv/dfs-master --host 192.168.1.10
""", settings.MASTER),
    "keeper": options.Verb("keeper", keeper, "--data DIR --master HOST[:PORT][,…]",
                           "A data keeper node: holds blocks, serves and repairs them.", (
        LIFELINE, AWAIT_GO,
        calls.setting_option("ports", "TCP ports, list or range, a process each; 0: any free port (default 8000-8002)"),
        options.Option(("--join",), "CODE", "join by a code that the master printed, once; a file's name or - (standard input) keep it "
                       "out of the list of processes, as DFS_JOIN does"),
    ), 0, 0, """
The key is --key-file, or cluster.key or node.key in the data directory; --join fetches the latter from the master, once. When it is ready it prints one JSON line on stdout; it logs to
stderr. SIGTERM and SIGINT stop it; its blocks stay.

  dfs keeper --data /srv/dfs-keeper --master 192.168.1.10 --key-file cluster.key --label room=204
""", settings.KEEPER),
}
