"""A cluster for tests: real processes of the program in a directory of their own, clients as processes, and hooks into what is under way.

Never sleeps and hopes: `until` waits for a condition with a deadline. Whatever was started bears a mark in its environment, so that
`marked` finds a process that was left behind, whoever started it and whatever became of its parents.

A transfer is held half-way without luck: a client whose process group is stopped (SIGSTOP) once something of it is stored, a download
whose reader does not read, or an upload from a pipe that stays open.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from dfs_lib import keyfile, local
from dfs_lib.net import streams
from dfs_lib.wire import trust

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCE = [sys.executable, os.path.join(ROOT, "dfs.py")]
MARK = "SYSTEM_TEST_MARK"
MIB = 1 << 20
# No keeper of a test waits for a gibibyte of free disk.
KEEPER_OPTIONS = ["--reserve", "1MiB"]


def frozen_program_path():
    """The frozen program, None where none was built."""
    path = os.environ.get("TEST_PROGRAM") or os.path.join(ROOT, "dist", "dfs")
    return os.path.abspath(path) if os.path.exists(path) else None


def until(holds, seconds, what=""):
    """The first true value of `holds()`, asked again and again for so many seconds."""
    end_s = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end_s, f"not within {seconds} s: {what or holds}"
        threading.Event().wait(0.01)
    return found


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def marked(mark):
    """Pids of the living processes whose environment bears this mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as environ:
                    if wanted in environ.read().split(b"\0") and is_alive(name):
                        found.append(int(name))
            except OSError:
                continue
    return found


def peak_memory(pid):
    """The most bytes a process has had resident, None when it has gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:")), None)
    except OSError:
        return None


def dialled_ports(pids):
    """Local TCP ports that these processes have open connections to."""
    inodes = set()
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                except OSError:
                    continue
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return {int(row[2].partition(":")[2], 16) for row in rows if row[3] == "01" and row[9] in inodes}


def write_random(path, size, seed=0):
    """A file of so many bytes of which no two MiB are alike; returns its path."""
    piece = bytearray(os.urandom(MIB))
    with open(path, "wb") as out:
        for number in range(-(-size // MIB)):
            piece[:8] = (number << 8 | seed).to_bytes(8, "big")
            out.write(memoryview(piece)[:min(MIB, size - number * MIB)])
    return path


def digest(path):
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def same_trees(one, other):
    """What `diff -r` finds to say about two directories: nothing when they are equal."""
    done = subprocess.run(["diff", "-r", one, other], capture_output=True, text=True, errors="replace")
    return done.stdout + done.stderr


class Watch:
    """`look()` again and again in a thread, with a pause, while the context is open; once more at its end."""

    PAUSE_S = 0.05

    def __init__(self):
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while True:
            is_last = self._over.is_set()
            self.look()
            if is_last:
                return
            self._over.wait(self.PAUSE_S)


class Transfer:
    """A client verb under way as a process group of its own."""

    def __init__(self, command, **options):
        self._errors = tempfile.TemporaryFile()  # no pipe: one that nobody reads would hold the client up
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": self._errors, **options}
        self.process = subprocess.Popen(command, env=local.program_environment(), process_group=0, **options)

    @property
    def pids(self):
        return local.group_members(self.process.pid)

    @property
    def is_running(self):
        return self.process.poll() is None

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def stop(self):
        """SIGSTOP, and wait until every process of it stands still."""
        self.signal(signal.SIGSTOP)
        until(lambda: all(_state(pid) in "TtZX" for pid in self.pids), 5, "the client stands still")
        assert self.is_running, "it was over before it could be held"

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """kill -9 of the client, as if it had crashed."""
        self.signal(signal.SIGKILL)
        self.process.wait(10)
        self.close()

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def finish(self, timeout_s=60):
        """(exit status, stdout, stderr) at its end."""
        try:
            out, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._errors.seek(0)
        return self.process.returncode, (out or b"").decode(errors="replace"), self._errors.read().decode(errors="replace")


def _state(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return "X"


class LiveCluster(local.Cluster):
    """dfs_lib.local.Cluster with what tests ask of it. `more_masters`: addresses that keepers and clients are given before the real ones."""

    def __init__(self, directory, *, program=None, more_masters=(), keeper_options=(), n_ports=2, **rest):
        self.more_masters, self.transfers = list(more_masters), []
        super().__init__(directory, command=program or SOURCE, n_ports=n_ports, keeper_options=[*KEEPER_OPTIONS, *keeper_options], **rest)

    @property
    def masters_text(self):
        return ",".join([*self.more_masters, super().masters_text])

    # -- clients --------------------------------------------------------------------------------------------------------
    def command_line(self, verb, *words):
        return [*self.command, verb, *self.client_words(), "--config", os.devnull, *words]

    def dfs(self, verb, *words, status=0, **options):
        """Run a verb to its end, which has to have this exit status; returns its standard output."""
        done = self.run(verb, *map(os.fspath, words), errors="surrogateescape", **options)
        assert done.returncode == status, f"dfs {verb} ended with {done.returncode}: {done.stderr}"
        return done.stdout if status == 0 else done.stderr

    def json(self, verb, *words, **options):
        """The objects that a verb prints with --json."""
        return [json.loads(line) for line in self.dfs(verb, "--json", *words, **options).splitlines()]

    def start_transfer(self, verb, *words, **options):
        """A verb under way. The cluster's end is its end."""
        self.transfers.append(Transfer(self.command_line(verb, *map(os.fspath, words)), **options))
        return self.transfers[-1]

    def hold_upload(self, *words, n_blocks=2):
        """A put of large blocks that stands still (SIGSTOP) after some of them were stored and before it is through."""
        before = len(self.large_blocks())
        transfer = self.start_transfer("put", *words)
        until(lambda: len(self.large_blocks()) >= before + n_blocks or not transfer.is_running, 30, "blocks are on their way")
        transfer.stop()
        return transfer

    def hold_download(self, path, target):
        """A get into a file that stands still (SIGSTOP) after bytes have come and before it is through."""
        transfer = self.start_transfer("get", "--json", path, target)
        directory, name = os.path.split(target)
        part = os.path.join(directory, f".{name}.dfs-part")
        until(lambda: _blocks_on_disk(part) or not transfer.is_running, 30, "bytes have come")
        transfer.stop()
        assert not os.path.exists(target)
        return transfer

    # -- what is there --------------------------------------------------------------------------------------------------
    def status(self):
        return self.json("status")[0]

    def states(self):
        """{name: state} of the keepers."""
        with self.client() as client:
            self._clients.remove(client)
            return {self.name_of(keeper["keeper_id"]): keeper["state"] for keeper in client.status().keepers}

    def block_files(self):
        """Paths of everything that keepers hold of blocks, finished or not."""
        found = []
        for name in self.keepers:
            for area in ("blocks", "incoming"):
                for directory, _below, names in os.walk(os.path.join(self.directory, name, area)):
                    found += [os.path.join(directory, each) for each in names]
        return found

    def large_blocks(self):
        """Those of at least a MiB: what a put of a large file has stored, even while small files are put beside it."""
        found = []
        for path in self.block_files():
            try:
                if os.path.getsize(path) >= MIB:
                    found.append(path)
            except OSError:
                continue  # renamed or removed meanwhile
        return found

    def keeper_of_port(self, port):
        """(name, index of its port), None when no keeper has that port."""
        return next(((name, keeper.ports.index(port)) for name, keeper in self.keepers.items() if port in keeper.ports), None)

    def keepers_in_use(self, transfer):
        """[(name, index of the port)] of the keepers that a client has connections to."""
        return [found for port in sorted(dialled_ports(transfer.pids)) if (found := self.keeper_of_port(port))]

    def pids_of(self, name):
        """[supervisor, a process a port…, reporter] of a keeper, as it has told the master."""
        with self.client() as client:
            self._clients.remove(client)
            return next(list(keeper["pids"]) for keeper in client.status().keepers if keeper["keeper_id"] == self.keeper_id(name))

    def pids(self):
        return [pid for daemon in (self.master, *self.keepers.values()) if daemon and daemon.process for pid in local.group_members(daemon.process.pid)]

    def answers(self, port, timeout_s=0.5):
        """Whether a daemon speaks on this port: a whole handshake."""
        from dfs_lib import errors

        try:
            streams.connect("127.0.0.1", port, trust.client_credentials(keyfile.read(self.key_file)), timeout_s).close()
        except errors.DfsError:
            return False
        return True

    # -- the end --------------------------------------------------------------------------------------------------------
    def kill_all(self):
        """kill -9 of every process of every daemon at once, as in a power cut."""
        for daemon in (self.master, *self.keepers.values()):
            daemon.signal(signal.SIGKILL, whole=True)
        for daemon in (self.master, *self.keepers.values()):
            daemon.kill()
        self._unlock()

    def stop(self, *words, **rest):
        for transfer in self.transfers:
            if transfer.is_running:
                transfer.kill()
            transfer.close()
        self.transfers = []
        super().stop(*words, **rest)
        assert not self.pids()


def _blocks_on_disk(path):
    try:
        return os.stat(path).st_blocks
    except OSError:
        return 0
