"""A whole cluster on this machine: a master and keepers as real processes of this same program, on loopback.

Never does what a daemon does, and holds no block: it starts, watches, kills and stops. `dfs local`, `dfs demo`, benchmarks and
tests use it.

    DIR/cluster.key   DIR/client.toml (0600)   DIR/master/   DIR/k1/ DIR/k2/ …   DIR/logs/NAME.log   DIR/lock

Each daemon is the leader of a process group of its own (a Ctrl-C reaches us alone, and we stop keepers before the master) and has
the read end of a pipe as standard input, named by `--lifeline 0`. We alone hold the write ends: when we die, even by kill -9, the
kernel closes them and each daemon stops itself.
"""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time

from dfs_lib import errors, keyfile

# A daemon says ready within a fraction of a second; a slow machine that unpacks the frozen program needs more.
READY_TIMEOUT_S = 30.0
# What a daemon has to finish or abandon its transfers, and what all of them together have after a Ctrl-C.
STOP_TIMEOUT_S = 4.5
MASTER = "master"


def program():
    """The command that runs this program again: the frozen executable, or this interpreter with the dfs.py beside dfs_lib."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    script = os.path.join(home, "dfs.py")
    # In the zip archive `home` is the archive itself.
    return [sys.executable, script if os.path.exists(script) else home]


def program_environment(environ=None):
    """The environment for a daemon of ours: none of our settings, no service manager (it waits for us), no library path of the frozen program.

    PYINSTALLER_RESET_ENVIRONMENT makes a frozen child unpack for itself, because our folder goes when we go.
    """
    environ = dict(os.environ if environ is None else environ)
    for name in [name for name in environ if name.startswith("DFS_") or name == "NOTIFY_SOCKET"]:
        del environ[name]
    if getattr(sys, "frozen", False):
        environ["PYINSTALLER_RESET_ENVIRONMENT"] = "1"
        original = environ.pop("LD_LIBRARY_PATH_ORIG", None)
        environ.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            environ["LD_LIBRARY_PATH"] = original
    return environ


class Daemon:
    """One daemon under way. `ready` is its ready line as a dict, `pid` the Python process that printed it."""

    def __init__(self, name, arguments, log_path, command=None):
        self.name, self.arguments, self.log_path = name, list(arguments), log_path
        self.command = list(command or program())
        self.ready, self.process, self._lifeline, self._line = None, None, None, b""

    @property
    def pid(self):
        return self.ready["pid"] if self.ready else self.process.pid

    @property
    def ports(self):
        return tuple(self.ready["ports"])

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def start(self, awaits_go=False):
        """Start the process; `wait_ready` tells when it serves. awaits_go: it loads, and joins when `go` says so."""
        if self.process is not None:
            self._close()
        read_end, self._lifeline = os.pipe()  # not inheritable: the child gets a copy of the read end as its standard input
        self.ready, self._line = None, b""
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # No settings file of whoever started us may change what a daemon does: --config names an empty one.
            words = [*self.command, *self.arguments, "--config", os.devnull, "--lifeline", "0",
                     *(["--await-go"] if awaits_go else [])]
            self.process = subprocess.Popen(words, stdin=read_end, stdout=subprocess.PIPE, stderr=log, env=program_environment(),
                                            bufsize=0,
                                            **_own_group())
        except BaseException:
            self._close_lifeline()
            raise
        finally:
            os.close(read_end)
            os.close(log)

    def go(self):
        """Let a keeper join that was started with `awaits_go`."""
        try:
            os.write(self._lifeline, b"\n")
        except BrokenPipeError:
            pass  # it has ended already: wait_ready tells why

    def wait_ready(self, deadline):
        """Read the ready line until `deadline` (monotonic). Raises LocalFileError with the last words of its log."""
        stdout = self.process.stdout
        while b"\n" not in self._line:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                raise self._never_ready("was not ready in time")
            part = stdout.read(4096)
            if not part:
                raise self._never_ready(f"ended with status {self.process.wait()}")
            self._line += part
        try:
            self.ready = json.loads(self._line.partition(b"\n")[0])
        except ValueError as e:
            raise self._never_ready("printed something else than a ready line") from e
        return self.ready

    def _never_ready(self, what):
        failure = errors.LocalFileError(f"{self.name} {what}: {self.last_words()}", path=self.log_path)
        failure.hint = self.advice()
        return failure

    def last_words(self):
        """The last line of the log that says something."""
        lines = self._log_lines()
        told = [line for line in lines if line.startswith("dfs: ")] or lines or [f"see {self.log_path}"]
        return told[-1].removeprefix("dfs: ")

    def advice(self):
        """What it advised with its last words; else where all that it said stands."""
        lines = self._log_lines()
        last = [at for at, line in enumerate(lines) if line.startswith("dfs: ")][-1:]
        told = [line for at in last for line in lines[at + 1:at + 2] if line.startswith("try: ")]
        return told[0].removeprefix("try: ") if told else f"all that it said is in {self.log_path}"

    def _log_lines(self):
        """The end of its log, without empty lines."""
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                return [line.strip() for line in log.read()[-8000:].splitlines() if line.strip()]
        except OSError:
            return []

    def signal(self, number, whole=False):
        """Send a signal to the daemon's own process, or to all of its processes."""
        try:
            if whole and hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it has ended by itself

    def ask_to_stop(self):
        if self.is_running:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT, whole=True)  # one that was paused could not obey

    def wait_stopped(self, deadline):
        """Wait until it has ended and left no process behind; what is still there at `deadline` (monotonic) is killed.

        Returns its exit status.
        """
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # it is killed below, with whoever else is left
        while group_members(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._kill_all()
        status = self.process.wait()
        self._close()
        return status

    def kill(self, whole=True):
        """kill -9: of all its processes, as when the machine dies, or of the one that leads the others."""
        if whole:
            self._kill_all()
            self.process.wait()
            self._close()
        else:
            self.signal(signal.SIGKILL)
            self.process.wait()  # its children notice by themselves, within 2 s

    def _kill_all(self):
        """kill -9 of all; but the frozen program's bootloader is left to end by itself: it removes the unpacked folder."""
        boot = self.process.pid if self.ready and self.pid != self.process.pid else None
        while members := [pid for pid in group_members(self.process.pid) if pid != boot]:
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has ended meanwhile
            time.sleep(0.002)
            if self.process.poll() is not None and os.name != "posix":
                break

    def _close(self):
        self._close_lifeline()
        if self.process.stdout:
            self.process.stdout.close()

    def _close_lifeline(self):
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def _own_group():
    return {"process_group": 0} if os.name == "posix" else {}


def group_members(group):
    """Pids of the living processes of a process group; zombies, which hold nothing, are left out."""
    if not os.path.isdir("/proc/self"):
        try:
            os.killpg(group, 0)
            return [group]
        except (OSError, AttributeError):
            return []
    members = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    state, _parent, its_group = stat.read().rpartition(b")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state not in (b"Z", b"X"):
                members.append(int(name))
    return members


class Cluster:
    """A cluster in a directory: `with Cluster(directory) as cluster: cluster.client()…`

    keepers: how many; ports_from: 0 for any free ports, else the master has the first ones and each keeper the next; n_ports:
    ports a daemon; insecure: no keys; master_options, keeper_options: more words for their command lines, such as
    ["--dead-after", "2"]; web: [ADDR:]PORT of the page, or off; labels: {"k1": {"room": "204"}}; command: the program (tests give the frozen one).
    `master` and `keepers[NAME]` are Daemons; names are "master", "k1", "k2" and so on.
    """

    def __init__(self, directory, *, keepers=3, ports_from=0, n_ports=3, insecure=False, master_options=(), keeper_options=(),
                 labels=None, command=None, web="off"):
        self.directory = os.path.abspath(directory)
        self.n_keepers, self.ports_from, self.n_ports = keepers, ports_from, n_ports
        self.insecure, self.labels, self.command, self.web = insecure, labels or {}, command, web
        self.master_options, self.keeper_options = list(master_options), list(keeper_options)
        self.master, self.keepers = None, {}
        self._lock, self._clients = None, []

    # -- start and stop -------------------------------------------------------------------------------------------------
    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self, timeout_s=READY_TIMEOUT_S):
        """Start the master, then all keepers at once; returns self when all have said ready. Raises what kept one from it."""
        deadline = time.monotonic() + timeout_s
        try:
            self._prepare()
            self.master = self._daemon(MASTER, self._master_arguments())
            self.master.start()
            self.master.wait_ready(deadline)
            self._start_keepers(deadline)
            self.wait_live(self.n_keepers, deadline - time.monotonic())
            self._write_client_file()
        except BaseException:
            self.stop()
            raise
        return self

    def _start_keepers(self, deadline):
        """Start all at once. New ones load at once and join one by one: the master numbers them, and its k1 shall be ours."""
        are_new = not os.path.exists(os.path.join(self.directory, "k1", "keeper.json"))
        for number in range(1, self.n_keepers + 1):
            name = f"k{number}"
            self.keepers[name] = self._daemon(name, self._keeper_arguments(name, number))
            self.keepers[name].start(awaits_go=are_new)
        for keeper in self.keepers.values():
            if are_new:
                keeper.go()
            keeper.wait_ready(deadline)

    def wait_live(self, n_keepers, timeout_s=READY_TIMEOUT_S):
        """Until the master counts so many keepers as live: only then does it give them blocks. Raises TimedOut."""
        if not n_keepers:
            return
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            self._clients.remove(client)
            while (n_live := sum(keeper["state"] == "live" for keeper in client.status().keepers)) < n_keepers:
                if time.monotonic() > deadline:
                    raise errors.TimedOut(seconds=round(timeout_s, 1), detail=f"{n_live} of {n_keepers} keepers are live")
                time.sleep(0.01)

    def stop(self, timeout_s=STOP_TIMEOUT_S):
        """Stop all, keepers first so that the master hears their farewell; what has not ended in time is killed. Data stays."""
        for client in self._clients:
            client.close()
        self._clients = []
        deadline = time.monotonic() + timeout_s
        keepers = [keeper for keeper in self.keepers.values() if keeper.process is not None]
        for keeper in keepers:
            keeper.ask_to_stop()
        for keeper in keepers:
            keeper.wait_stopped(deadline - timeout_s / 3)
        if self.master is not None and self.master.process is not None:
            self.master.ask_to_stop()
            self.master.wait_stopped(deadline)
        self._unlock()

    def _prepare(self):
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            os.makedirs(os.path.join(self.directory, "logs"), mode=0o700, exist_ok=True)
        except OSError as e:
            raise errors.LocalFileError(path=self.directory, detail=e.strerror or str(e)) from e
        self._take_lock()
        if not self.insecure and not os.path.exists(self.key_file):
            keyfile.make(self.key_file)

    def _take_lock(self):
        try:
            self._lock = os.open(os.path.join(self.directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
            if os.name == "posix":
                import fcntl

                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self._unlock()
            if e.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
                raise errors.DirectoryInUse(path=self.directory) from e
            raise errors.LocalFileError(path=self.directory, detail=e.strerror or str(e)) from e

    def _unlock(self):
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _daemon(self, name, arguments):
        return Daemon(name, arguments, os.path.join(self.directory, "logs", f"{name}.log"), self.command)

    # -- command lines --------------------------------------------------------------------------------------------------
    def _ports(self, n_before):
        if not self.ports_from:
            return ",".join(["0"] * self.n_ports)
        first = self.ports_from + n_before * self.n_ports
        return f"{first}-{first + self.n_ports - 1}"

    def _key_words(self):
        return ["--insecure"] if self.insecure else ["--key-file", self.key_file]

    def _master_arguments(self):
        return ["master", "--data", os.path.join(self.directory, MASTER), "--host", "127.0.0.1", "--ports", self._ports(0),
                "--web", self.web, *self._key_words(), *self.master_options]

    def _keeper_arguments(self, name, number):
        label_words = [word for key, text in self.labels.get(name, {}).items() for word in ("--label", f"{key}={text}")]
        return ["keeper", "--data", os.path.join(self.directory, name), "--host", "127.0.0.1", "--ports", self._ports(number),
                "--master", self.masters_text, *self._key_words(), *label_words, *self.keeper_options]

    def _write_client_file(self):
        lines = ["# written by `dfs local` at each start; clients in this folder and the one above find the cluster by it",
                 f'master = "{self.masters_text}"', "insecure = true" if self.insecure else 'key_file = "cluster.key"']
        path = os.path.join(self.directory, "client.toml")
        temporary = path + ".new"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
        os.replace(temporary, path)

    # -- who and where --------------------------------------------------------------------------------------------------
    @property
    def key_file(self):
        return os.path.join(self.directory, "cluster.key")

    @property
    def masters(self):
        """((host, port), …) of the master."""
        return tuple(("127.0.0.1", port) for port in self.master.ports)

    @property
    def masters_text(self):
        return ",".join(f"{host}:{port}" for host, port in self.masters)

    @property
    def web_url(self):
        """Where the page is, None when there is none."""
        return self.master.ready.get("web")

    def daemon(self, name):
        return self.master if name == MASTER else self.keepers[name]

    def keeper_id(self, name):
        return self.keepers[name].ready["keeper_id"]

    def name_of(self, keeper_id):
        """`k1` of a keeper's id; the id itself when it is none of ours."""
        for name, keeper in self.keepers.items():
            if keeper.ready and keeper.ready.get("keeper_id") == keeper_id:
                return name
        return keeper_id

    # -- for tests, benchmarks and the demo ----------------------------------------------------------------------------
    def client(self, **changes):
        """A connected dfs_lib.client.Client, closed by `stop` at the latest; changes: settings, as in client(patience=5.0)."""
        from dfs_lib import client, settings

        key = None if self.insecure else keyfile.read(self.key_file)
        own = settings.resolve([]).but(master=self.masters, insecure=self.insecure, **changes)
        connected = client.connect(self.masters, settings=own, cluster_key=key, insecure=self.insecure)
        self._clients.append(connected)
        return connected

    def client_words(self):
        """The words that lead a command line to this cluster."""
        return ["--master", self.masters_text, *self._key_words()]

    def run(self, *words, **options):
        """Run a client verb as a process of its own; returns subprocess.CompletedProcess with text output."""
        command = self.command or program()
        options = {"capture_output": True, "text": True, "timeout": 60, "env": program_environment(), **options}
        return subprocess.run([*command, *words[:1], *self.client_words(), "--config", os.devnull, *words[1:]], **options)

    def kill(self, name, whole=True):
        """kill -9 a daemon: all its processes, or with whole=False only the one that leads the others."""
        self.daemon(name).kill(whole)

    def stop_one(self, name, timeout_s=STOP_TIMEOUT_S):
        """Stop one daemon cleanly; returns its exit status."""
        daemon = self.daemon(name)
        daemon.ask_to_stop()
        return daemon.wait_stopped(time.monotonic() + timeout_s)

    def pause(self, name):
        self.daemon(name).signal(signal.SIGSTOP, whole=True)

    def resume(self, name):
        self.daemon(name).signal(signal.SIGCONT, whole=True)

    def restart(self, name, timeout_s=READY_TIMEOUT_S, wipe=False):
        """Start a daemon again that was killed or stopped (a running one is stopped first), on the ports it had.

        wipe: with an empty data directory. Returns its ready line.
        """
        daemon = self.daemon(name)
        if daemon.is_running or group_members(daemon.process.pid):
            self.stop_one(name)
        if daemon.ready:
            at = daemon.arguments.index("--ports") + 1
            daemon.arguments[at] = ",".join(str(port) for port in daemon.ports)
        if wipe:
            import shutil

            shutil.rmtree(os.path.join(self.directory, name))
        daemon.start()
        return daemon.wait_ready(time.monotonic() + timeout_s)

    def add_keeper(self, timeout_s=READY_TIMEOUT_S):
        """Start one more keeper; returns its name."""
        number = len(self.keepers) + 1
        name = f"k{number}"
        self.keepers[name] = self._daemon(name, self._keeper_arguments(name, number))
        self.keepers[name].start()
        self.keepers[name].wait_ready(time.monotonic() + timeout_s)
        return name
