"""The program as processes: how fast it starts, how many it becomes, how it ends, and what it leaves behind: nothing."""

import compileall
import json
import os
import resource
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
import venv

import pytest

from dfs_lib import local
from live_cluster import MARK, MIB, ROOT, SOURCE, frozen_program_path, is_alive, marked, until, write_random

pytestmark = pytest.mark.system
# A start of the client may cost so many bare starts of the interpreter.
MOST_RATIO = 2.5
STOP_S = 5.0


# -- the start --------------------------------------------------------------------------------------------------------
def seconds_of(command):
    began_s = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=local.program_environment())
    return time.perf_counter() - began_s


def plain_interpreter(work):
    """This interpreter in a venv of its own: what is installed beside it and hooks into every start (.pth files) stays out."""
    home = os.path.join(work, "venv")
    venv.create(home, with_pip=False, symlinks=os.name == "posix")
    return os.path.join(home, "Scripts" if os.name == "nt" else "bin", "python")


def with_byte_code(work, python):
    """The command of a copy of the source that is compiled, as it is after its first run wherever byte code may be written."""
    home = os.path.join(work, "compiled")
    shutil.copytree(os.path.join(ROOT, "dfs_lib"), os.path.join(home, "dfs_lib"), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE[1], home)
    assert compileall.compile_dir(home, quiet=2)
    return [python, os.path.join(home, os.path.basename(SOURCE[1]))]


def test_ls_starts_nearly_as_fast_as_the_bare_interpreter(program, shared, work):
    """Medians of starts that take turns, so that a busy machine slows both alike; the best of three rounds, because it does not always.

    The source is compared with `python -c pass` of the same interpreter, in a plain venv: that is the start it cannot avoid. The frozen
    program unpacks itself first, which has nothing to do with what `ls` imports: it is compared with its own bare start, `--version`.
    """
    if program == SOURCE:
        python = plain_interpreter(work)
        program, bare = with_byte_code(work, python), [python, "-c", "pass"]
    else:
        bare = [*program, "--version"]
    ls = [*program, "ls", *shared.client_words(), "--config", os.devnull, "/"]
    seconds_of(ls), seconds_of(bare)  # caches are warm
    ratios = []
    for _ in range(3):
        pairs = [(seconds_of(ls), seconds_of(bare)) for _ in range(15)]
        ratios.append(statistics.median(pair[0] for pair in pairs) / statistics.median(pair[1] for pair in pairs))
        if ratios[-1] <= MOST_RATIO:
            break
    print(f"ls takes {min(ratios):.2f} bare starts")
    assert min(ratios) <= MOST_RATIO, ratios


def test_the_client_imports_nothing_of_the_daemons(shared):
    command = [sys.executable, "-X", "importtime", SOURCE[1], "ls", *shared.client_words(), "--config", os.devnull, "/"]
    done = subprocess.run(command, capture_output=True, text=True, env=local.program_environment())
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0 and "dfs_lib.client.api" in names
    assert not [name for name in names if name.startswith(tuple(f"dfs_lib.{part}" for part in ("master", "keeper", "gateway", "catalog", "plan")))]


# -- how many it becomes ----------------------------------------------------------------------------------------------
# Any user who runs nothing else; RLIMIT_NPROC counts the threads of a user, and does not bind root.
LONELY_USER = 64321
MOST_TASKS = 150


@pytest.mark.frozen
def test_the_frozen_program_cannot_multiply_itself(work):
    """The tour under a limit on processes: enough for a master, four keepers and their threads, not for a program that starts itself."""
    path = frozen_program_path()
    if path is None:
        pytest.skip("no frozen program: build it with `pyinstaller build.spec`")
    if os.geteuid() != 0:
        pytest.skip("only root can become a user who runs nothing else")
    place = os.path.join(work, "program")
    if os.path.isdir(os.path.join(os.path.dirname(path), "_internal")):
        shutil.copytree(os.path.dirname(path), place)
    else:
        os.mkdir(place)
        shutil.copy(path, place)
    for directory in (work, place, os.path.join(work, "tmp")):
        os.chmod(directory, 0o777)

    def limit():
        resource.setrlimit(resource.RLIMIT_NPROC, (MOST_TASKS, MOST_TASKS))
        os.setgroups([])
        os.setgid(LONELY_USER)
        os.setuid(LONELY_USER)

    limited = subprocess.run([sys.executable, "-S", "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[0])"],
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (MOST_TASKS, MOST_TASKS)), capture_output=True)
    assert int(limited.stdout) == MOST_TASKS
    with subprocess.Popen([os.path.join(place, os.path.basename(path)), "demo", "--size", "4MiB"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          cwd=work, env=local.program_environment(), preexec_fn=limit) as demo:
        most = 0
        while demo.poll() is None:
            most = max(most, len(processes_of(LONELY_USER)))
            time.sleep(0.02)
        said = demo.stdout.read().decode()
    assert demo.returncode == 0 and "every byte the same" in said, said
    # The tour, a master, its page and four keepers, each with the bootloader above it; a keeper is a supervisor, three ports and a reporter.
    assert 20 <= most <= 2 + 2 + 2 + 4 * (2 + 3 + 1), most
    assert not processes_of(LONELY_USER) and os.listdir(os.path.join(work, "tmp")) == []


def processes_of(user):
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user and is_alive(name):
                found.append(int(name))
        except OSError:
            continue
    return found


# -- how it ends ------------------------------------------------------------------------------------------------------
def test_many_signals_at_once_stop_the_master_as_one_does(make_cluster):
    """A terminal's Ctrl-C and the frozen program's forwarding of it come within microseconds of each other."""
    cluster = make_cluster(keepers=1)
    daemon = cluster.master
    for number in 20 * (signal.SIGINT, signal.SIGTERM):
        daemon.process.send_signal(number)
    assert daemon.process.wait(STOP_S) == 0, daemon.last_words()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_stops_every_daemon_in_the_middle_of_transfers(program, make_cluster, work, number):
    """One signal to the process that was started; Ctrl-C reaches all of a terminal's processes at once."""
    source = write_random(os.path.join(work, "source"), 40 * MIB)
    cluster = make_cluster(keepers=2, program=program, master_options=["--copies", "2"])
    cluster.dfs("put", "--block-size", "1MiB", source, "/file")
    download = cluster.start_transfer("get", "/file", "-")
    download.process.stdout.read(1000)
    upload = cluster.start_transfer("put", "--block-size", "1MiB", "-", "/other", stdin=subprocess.PIPE)
    upload.process.stdin.write(b"x" * 5 * MIB)
    upload.process.stdin.flush()
    for daemon in (*cluster.keepers.values(), cluster.master):
        began_s = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(daemon.process.pid, number)
        else:
            os.kill(daemon.process.pid, number)
        assert daemon.process.wait(STOP_S) == 0, daemon.last_words()
        until(lambda: not local.group_members(daemon.process.pid), STOP_S - (time.monotonic() - began_s), "no process is left")
        with open(daemon.log_path) as log:
            assert "Traceback" not in log.read()


@pytest.mark.parametrize("whom", ["first", "leader"])
@pytest.mark.parametrize("name", ["master", "k1"])
def test_children_notice_that_their_parent_was_killed(program, make_cluster, name, whom):
    """kill -9 of the process that was started (the frozen program's bootloader), or of the one that leads the others."""
    cluster = make_cluster(keepers=1, program=program, n_ports=3, master_options=["--copies", "1", "--safe", "1"])
    daemon = cluster.daemon(name)
    members = local.group_members(daemon.process.pid)
    assert len(members) == {"master": 1, "k1": 5}[name] + (daemon.pid != daemon.process.pid)
    os.kill(daemon.process.pid if whom == "first" else daemon.pid, signal.SIGKILL)
    until(lambda: not local.group_members(daemon.process.pid), STOP_S, f"the others of {members} have ended")
    daemon.process.wait()
    cluster.restart(name)
    cluster.wait_live(1)


class Local:
    """`dfs local` as a user starts it, in the foreground of a terminal of its own."""

    def __init__(self, program, directory):
        self.mark = secrets.token_hex(8)
        self.process = subprocess.Popen([*program, "local", "--data", directory, "--json", "--config", os.devnull, "--reserve", "1MiB"],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**local.program_environment(), MARK: self.mark},
                                        process_group=0)
        self.ready = json.loads(self.process.stdout.readline())
        self.pids = [daemon["pid"] for daemon in self.ready["daemons"]]

    def run(self, program, verb, *words):
        done = subprocess.run([*program, verb, "--config", self.ready["client_toml"], *words], capture_output=True, text=True, timeout=30,
                              env=local.program_environment())
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self):
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGTERM to all", "kill -9", "kill -9 of all"])
def test_local_ends_with_all_its_daemons_and_keeps_the_data(program, work, how):
    """A Ctrl-C reaches all of a terminal's processes; a kill the one that was started, or with it what the frozen program runs below it."""
    directory = os.path.join(work, "store")
    here = Local(program, directory)
    try:
        assert len(here.pids) == 4 and all(map(is_alive, here.pids))
        here.run(program, "put", write_random(os.path.join(work, "file"), 100_000), "/")
        number = {"C": signal.SIGINT, "S": signal.SIGTERM, "k": signal.SIGKILL}[how[0]]
        began_s = time.monotonic()
        if how in ("SIGTERM", "kill -9"):
            here.process.send_signal(number)
        else:
            os.killpg(here.process.pid, number)
        status = here.process.wait(STOP_S)
        assert status == (0 if number != signal.SIGKILL else -signal.SIGKILL)
        until(lambda: not marked(here.mark), STOP_S - (time.monotonic() - began_s), "every daemon has ended")
    finally:
        here.close()
    again = Local(program, directory)
    try:
        assert '"path":"/file"' in again.run(program, "ls", "--json", "/")
        again.run(program, "get", "/file", os.path.join(work, "back"))
        with open(os.path.join(work, "file"), "rb") as one, open(os.path.join(work, "back"), "rb") as other:
            assert one.read() == other.read()
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(STOP_S) == 0
    finally:
        again.close()


def test_the_tour_leaves_nothing_behind(program, work):
    began_s = time.monotonic()
    done = subprocess.run([*program, "demo", "--size", "8MiB"], capture_output=True, text=True, timeout=90, cwd=work, env=local.program_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began_s < 60
    for word in ("put ", "kill -9", "repaired", "every byte the same"):
        assert word in done.stdout
    assert os.listdir(work) == ["tmp"] and os.listdir(os.path.join(work, "tmp")) == []
    assert not marked(os.environ[MARK])
