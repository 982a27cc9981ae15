"""`dfs doctor`: what is wrong with this machine, or with its way to the cluster, and what to do about it.

Never changes anything: what it writes to measure a disk it removes again. Each check is a function that yields Findings; one that
cannot be made says so and why, and is no reason for a bad exit status.

    this machine     limits of open files, the key's file, the settings
    the cluster      each address of the master, versions, clocks, UDP to the heartbeat port, which keepers live, their ports
                     from here and from the master
    --data DIR       a master's or keeper's directory: modes, free space, whether fsync is real and how fast, writing
"""

import os
import stat
import sys
import time
from collections import namedtuple

from dfs_lib import __version__, cluster_state, errors, model, settings
from dfs_lib.cli import options, output

OK, NOTE, BAD, SKIPPED = "ok", "note", "bad", "skipped"
# check: what was looked at; verdict: one of the above; text: what was seen; todo: what to do, "" when nothing.
Finding = namedtuple("Finding", "check verdict text todo", defaults=("",))

_MARKS = {OK: ("ok  ", "green"), NOTE: ("note", "yellow"), BAD: ("BAD ", "red"), SKIPPED: ("-   ", None)}
# Seconds of difference of clocks beyond which times of files and logs mislead people. No promise depends on clocks.
CLOCK_NOTE_S, CLOCK_BAD_S = 2.0, 60.0
LEAST_FILES, GOOD_FILES = 1024, 8192
# An fsync faster than this on a real disk has not reached it.
UNREAL_FSYNC_S = 30e-6
SLOW_FSYNC_S, N_FSYNCS = 0.05, 16
SLOW_WRITE, WRITTEN = 20e6, 64 << 20
LEAST_FREE = 5 * 10**9
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "rootfs")
KNOCK_S, N_DATAGRAMS = 2.0, 5


def doctor(call):
    """Make every check that can be made here; exit status 1 when something is bad."""
    counts = dict.fromkeys(_MARKS, 0)
    for finding in examine(call):
        counts[finding.verdict] += 1
        mark, color = _MARKS[finding.verdict]
        if not call.out.as_json:
            call.out.line(f"{call.out.colored(mark, color) if color else mark}  {output.safe_text(f'{finding.check}: {finding.text}')}")
            if finding.todo:
                call.out.line(f"      try: {output.safe_text(finding.todo)}")
        call.out.record(finding._asdict())
        call.out.flush()
    bad, notes = counts[BAD], counts[NOTE]
    call.out.line()
    call.out.line(call.out.colored(f"{output.count_text(bad, 'thing is', 'things are')} wrong", "red") if bad else
                  call.out.colored("nothing is wrong", "green") + (f"; {output.count_text(notes, 'thing')} to know" if notes else ""))
    return errors.Refusal.status if bad else 0


def examine(call):
    """Findings of every check."""
    yield from _machine(call)
    yield from _cluster(call)
    if call["data"]:
        yield from directory(os.path.abspath(os.path.expanduser(call["data"])))


# -- this machine -----------------------------------------------------------------------------------------------------
def _machine(call):
    yield Finding("program", OK, f"dfs {__version__}, Python {sys.version.split()[0]}, {sys.platform}")
    yield from open_files()
    path = call.settings.key_file
    if path:
        yield from key_file(path)
    elif call.settings.insecure:
        yield Finding("key", NOTE, "authentication is off (--insecure): whoever reaches the ports can read and delete everything",
                      "leave --insecure out on every part, and give each its key")


def open_files():
    try:
        import resource
    except ImportError:
        yield Finding("open files", SKIPPED, "this system tells no limit")
        return
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,} at most for a process"
    if hard == resource.RLIM_INFINITY or hard >= GOOD_FILES:
        yield Finding("open files", OK, text)
    else:
        yield Finding("open files", BAD if hard < LEAST_FILES else NOTE, f"{text}; a daemon needs one for each connection",
                      "LimitNOFILE=65536 in the systemd unit, or a line `* hard nofile 65536` in /etc/security/limits.conf")


def key_file(path):
    from dfs_lib import keyfile

    try:
        key = keyfile.load(path)
    except errors.DfsError as e:
        yield Finding("key", BAD, e.message, output.hint_of(e))
        return
    if key.kind not in (keyfile.CLUSTER, keyfile.USER):
        yield Finding("key", NOTE, f"{path} is a keeper's own key, by which no client can ask the cluster", "--key-file with the cluster's or a user's key")
    else:
        yield Finding("key", OK, f"{path} is a key, and only its owner can read it")


# -- the cluster ------------------------------------------------------------------------------------------------------
def _cluster(call):
    for host, port in call.settings.master:
        failure = _knock(host, port)
        yield Finding("master", BAD if failure else OK, f"{_address(host, port)}: {failure or 'can be connected to'}",
                      "does the master run (its log, `systemctl status dfs-master`), does it listen on this address (--host), does a firewall "
                      f"let TCP port {port} through?" if failure else "")
    if _is_keepers(call.settings.key_file):
        yield Finding("cluster", SKIPPED, "not asked: the key is a keeper's own")
        return
    try:
        with call.client() as client:
            yield from _with_master(call, client)
    except errors.DfsError as e:
        yield Finding("cluster", BAD, e.message, output.hint_of(e))


def _is_keepers(path):
    """Whether this is the file of a keeper's own keys."""
    from dfs_lib import keyfile

    try:
        return path is not None and keyfile.load(path).kind not in (keyfile.CLUSTER, keyfile.USER)
    except errors.DfsError:
        return False  # said already


def _with_master(call, client):
    from dfs_lib.wire import messages

    began_s = time.monotonic()
    told = client.ask(messages.Examine())
    took_s = time.monotonic() - began_s
    yield Finding("cluster", OK, f"{client.cluster_id} answers in {1000 * took_s:.0f} ms")
    yield from versions(told.software)
    yield from clocks(time.time() - took_s / 2 - told.at)
    yield from _heartbeats(client, told)
    yield from _keepers(call, client)


def versions(theirs):
    if theirs == __version__:
        yield Finding("version", OK, f"the master is dfs {theirs} too")
    else:
        yield Finding("version", NOTE, f"the master is dfs {theirs}, this program {__version__}",
                      "bring every machine to the same version, the master first (docs/operations/README.md)")


def clocks(ahead_s):
    """ahead_s: seconds this machine's clock is ahead of the master's."""
    text = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the master's clock"
    if abs(ahead_s) <= CLOCK_NOTE_S:
        yield Finding("time", OK, text)
    else:
        yield Finding("time", BAD if abs(ahead_s) > CLOCK_BAD_S else NOTE, f"{text}: times of files and logs mislead, no file is in danger",
                      "switch time synchronisation on: `timedatectl set-ntp true`, or chrony")


def _heartbeats(client, told):
    """Datagrams from here to the master's heartbeat port: it counts and drops what is none of its own."""
    from dfs_lib.net import knocking
    from dfs_lib.wire import messages

    host, _port = client.master_address
    try:
        knocking.throw(host, told.heartbeat_port, N_DATAGRAMS)
    except OSError as e:
        yield Finding("heartbeats", BAD, f"no datagram can be sent to {host}: {(e.strerror or str(e)).lower()}", "look at this machine's network and firewall")
        return
    end_s = time.monotonic() + 2.0
    while client.ask(messages.Examine()).n_dropped == told.n_dropped:
        if time.monotonic() >= end_s:
            yield Finding("heartbeats", BAD, f"UDP port {told.heartbeat_port} of {host} does not hear this machine",
                          f"let UDP port {told.heartbeat_port} through to the master: a keeper here would be found dead late, or not at all")
            return
        time.sleep(0.05)
    yield Finding("heartbeats", OK, f"UDP port {told.heartbeat_port} of {host} hears this machine")


def _keepers(call, client):
    """Every port of every keeper, from here and from the master."""
    from dfs_lib.wire import messages

    known = client.status().keepers
    yield from presence(known)
    keepers = [keeper for keeper in known if keeper["state"] != "dead"]
    names = {keeper["keeper_id"]: keeper["name"] for keeper in keepers}
    for keeper in keepers:
        if keeper["sick"]:
            yield Finding("keeper", BAD, f"{keeper['name']} is sick: {keeper['sick']}", "look at that machine's disk and kernel log (dmesg)")
    yield from _reached("from here", [(keeper["name"], keeper["host"], port, failure) for keeper in keepers
                                      for port, failure in zip(keeper["ports"], _knock_all(keeper["host"], keeper["ports"]))])
    hosts = {keeper["keeper_id"]: keeper["host"] for keeper in keepers}
    tried = []
    try:
        ids = list(names)
        for at in range(0, len(ids), 64):
            tried += client.ask(messages.TryKeepers(keepers=ids[at:at + 64])).tried
    except errors.NotPermitted:
        yield Finding("from the master", SKIPPED, "only an administrator may have the master try the keepers' ports")
        return
    yield from _reached("from the master", [(names[one["keeper"]], hosts[one["keeper"]], one["port"], one["failure"]) for one in tried])


def presence(keepers):
    """Which keepers are there at all; keepers: those of a ClusterStatus."""
    live = [keeper for keeper in keepers if keeper["state"] not in (model.DEAD, model.SUSPECT)]
    missing = [keeper for keeper in keepers if keeper["state"] in (model.DEAD, model.SUSPECT)]
    todo = "does it run (its log, `systemctl status dfs-keeper`), does its machine reach the master? `dfs why KEEPER` tells more"
    if not keepers:
        yield Finding("keepers", BAD, "none has joined: nothing can be stored", "`dfs keeper` starts one; `dfs admin invite` makes the code by which it joins")
    elif not live:
        for keeper in missing:
            yield Finding("keepers", BAD, f"none of {output.count_text(len(keepers), 'keeper')} is live: {_absence(keeper)}", todo)
    elif missing:
        yield Finding("keepers", NOTE, f"{len(live)} of {output.count_text(len(keepers), 'keeper')} live: " + "; ".join(map(_absence, missing)), todo)
    else:
        yield Finding("keepers", OK, f"{output.count_text(len(keepers), 'keeper')}, all live")


def _absence(keeper):
    age = keeper["heartbeat_age_s"]
    heard = "never heard since the master started" if age is None else f"last heard {output.duration_text(age)} ago"
    return f"{keeper['name']} at {keeper['host']} is {cluster_state.state_word(keeper)}: " + (f"{keeper['reason']}; " if keeper["reason"] else "") + heard


def _reached(whence, tried):
    """One line for all that is well, one for each port that is not."""
    for name, host, port, failure in tried:
        if failure:
            yield Finding(whence, BAD, f"{name}, {_address(host, port)}: {failure}",
                          f"let TCP port {port} through on {host}, or name an address that all can reach with --host")
    n = len(tried)
    if not n:
        yield Finding(whence, SKIPPED, "no keeper lives")
    elif not any(failure for *_rest, failure in tried):
        yield Finding(whence, OK, f"every port of every keeper can be reached ({output.count_text(n, 'port')})")


def _knock(host, port):
    from dfs_lib.net import knocking

    return knocking.knock(host, port, KNOCK_S)


def _knock_all(host, ports):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(ports)) as threads:
        return list(threads.map(lambda port: _knock(host, port), ports))


def _address(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- a directory ------------------------------------------------------------------------------------------------------
def directory(path):
    """Findings about a daemon's data directory and the disk below it."""
    try:
        found = os.stat(path)
    except OSError as e:
        yield Finding("directory", BAD, f"{path}: {(e.strerror or str(e)).lower()}", "name the directory that the daemon was given with --data")
        return
    yield _kind(path)
    yield from modes(path, found)
    yield from space(path)
    yield from disk(path)


def _kind(path):
    if os.path.exists(os.path.join(path, "catalog.db")):
        return Finding("directory", OK, f"{path} is a master's")
    if os.path.exists(os.path.join(path, "keeper.json")):
        return Finding("directory", OK, f"{path} is a keeper's")
    return Finding("directory", NOTE, f"{path} is neither a master's nor a keeper's yet")


def modes(path, found):
    if os.name == "posix" and stat.S_IMODE(found.st_mode) & 0o077:
        yield Finding("modes", BAD, f"others may look into {path} (mode {stat.S_IMODE(found.st_mode):03o})", f"chmod 700 {path}")
    for name in ("cluster.key", "node.key"):
        key = os.path.join(path, name)
        if os.path.exists(key):
            mode = stat.S_IMODE(os.stat(key).st_mode)
            if os.name == "posix" and mode & 0o077:
                yield Finding("modes", BAD, f"others may read {key} (mode {mode:03o}): whoever holds it is the cluster", f"chmod 600 {key}")
            else:
                yield Finding("modes", OK, f"{key} is its owner's alone")


def space(path):
    import shutil

    usage = shutil.disk_usage(path)
    text = f"{output.size_text(usage.free)} of {output.size_text(usage.total)} free"
    if usage.free < LEAST_FREE or usage.free < usage.total / 50:
        yield Finding("space", NOTE, text, "a keeper takes nothing beyond --reserve, and a master whose disk is full takes no change: make room")
    else:
        yield Finding("space", OK, text)
    if hasattr(os, "statvfs"):
        vfs = os.statvfs(path)
        if vfs.f_files and vfs.f_favail < 10_000:
            yield Finding("space", BAD, f"only {vfs.f_favail:,} more files fit (inodes)", "a block is a file: use a file system with more inodes")


def disk(path):
    """How fast an fsync is, whether it can be real, and how fast the disk takes a stretch of bytes."""
    name = os.path.join(path, f".doctor-{os.getpid()}")
    try:
        with open(name, "xb", buffering=0) as out:
            times_s = []
            for _ in range(N_FSYNCS):
                out.write(b"x" * 4096)
                began_s = time.perf_counter()
                os.fsync(out.fileno())
                times_s.append(time.perf_counter() - began_s)
            yield from fsyncs(sorted(times_s)[N_FSYNCS // 2], file_system(path))
            piece = os.urandom(model.MIB)
            began_s = time.perf_counter()
            for _ in range(WRITTEN // len(piece)):
                out.write(piece)
            os.fsync(out.fileno())
            rate = WRITTEN / (time.perf_counter() - began_s)
            yield Finding("disk", NOTE if rate < SLOW_WRITE else OK, f"writes {output.size_text(rate)}/s",
                          "a slow disk slows every put that ends on it: is it failing (smartctl), or shared?" if rate < SLOW_WRITE else "")
    except OSError as e:
        yield Finding("disk", BAD, f"{path} cannot be written: {(e.strerror or str(e)).lower()}", "run it as the user of the daemon; look at dmesg")
    finally:
        try:
            os.unlink(name)
        except OSError:
            pass  # it could not be made


def fsyncs(median_s, kind):
    """kind: the file system's, "" when that is unknown."""
    text = f"fsync takes {1000 * median_s:.2f} ms" + (f" on {kind}" if kind else "")
    if kind in _MEMORY_FILE_SYSTEMS:
        yield Finding("fsync", BAD, f"{text}: that is memory, and all is gone with the power", "put --data on a disk")
    elif median_s < UNREAL_FSYNC_S:
        yield Finding("fsync", NOTE, f"{text}: faster than any disk, so something between answers for it",
                      "a cache without a battery, or a virtual disk with `cache=unsafe`: switch that off, or count this machine's copies as lost with its power")
    elif median_s > SLOW_FSYNC_S:
        yield Finding("fsync", NOTE, f"{text}: each small file waits so long", "an SSD for the master's directory helps most")
    else:
        yield Finding("fsync", OK, text)


def file_system(path):
    """The kind of the file system of a path, by the longest mount point above it; "" where that cannot be known."""
    path = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _device, point, type_, *_rest = line.split(" ")
                point = point.replace("\\040", " ")
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, type_
    except (OSError, ValueError):
        return ""
    return kind


VERBS = {
    "doctor": options.Verb("doctor", doctor, "[--data DIR]", "What is wrong with this machine, or with its way to the cluster, and what to do.", (
        options.Option(("--data",), "DIR", "look at a master's or keeper's directory too, and at the disk below it"),
    ), 0, 0, """
It tries the master's addresses, versions and clocks, UDP to the heartbeat port, every keeper's ports from here and from the
master, limits and key files; with --data also modes, free space, fsync and the speed of the disk (it writes 64 MiB there, and
removes them). Exit status 1 when something is wrong.

  dfs doctor --data /srv/dfs-keeper
""", settings.CLIENT),
}
