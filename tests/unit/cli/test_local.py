"""local.Cluster with daemons that only pretend: order, names, signals, and nothing left behind whoever dies."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from dfs_lib import errors, local, settings
from dfs_lib.cli import settings_sources

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
FAKE = [sys.executable, "-S", os.path.join(HERE, "fake_daemon.py")]

class Cluster(local.Cluster):
    """Pretending daemons speak no protocol: nobody can be asked whether they count as live."""

    def wait_live(self, n_keepers, timeout_s=0):
        pass


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process groups and /proc")


def until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.005)


def at_of(cluster, name, event):
    with open(os.path.join(cluster.directory, name, event)) as log:
        return float(log.readline().split()[0])


@pytest.fixture
def cluster(tmp_path):
    with Cluster(tmp_path / "c", keepers=3, command=FAKE, master_options=["--copies", "2"]) as started:
        groups = [daemon.process.pid for daemon in (started.master, *started.keepers.values())]
        yield started
    assert not [pid for group in groups for pid in local.group_members(group)]


def test_the_master_comes_first_and_new_keepers_join_in_the_order_of_their_names(cluster):
    starts = [at_of(cluster, name, "starts") for name in ("master", "k1", "k2", "k3")]
    assert starts == sorted(starts)
    assert cluster.masters == (("127.0.0.1", 7101), ("127.0.0.1", 7102)) and cluster.name_of("k2" * 16) == "k2"
    words = open(os.path.join(cluster.directory, "k1", "starts")).read()
    assert "--master 127.0.0.1:7101,127.0.0.1:7102" in words and "--await-go" in words
    assert "--copies 2" in open(os.path.join(cluster.directory, "master", "starts")).read()


def test_a_client_in_that_folder_finds_it(cluster, tmp_path):
    path = os.path.join(cluster.directory, "client.toml")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    taken = settings_sources.load("client", {}, {"XDG_CONFIG_HOME": str(tmp_path)}, directory=cluster.directory)
    assert taken.master == cluster.masters and os.path.samefile(taken.key_file, cluster.key_file)


def test_stop_is_keepers_first_then_the_master(tmp_path):
    cluster = Cluster(tmp_path / "c", keepers=2, command=FAKE).start()
    cluster.stop()
    stops = [at_of(cluster, name, "stops") for name in ("k1", "k2", "master")]
    assert max(stops[:2]) < stops[2]


def test_a_killed_daemon_is_gone_with_its_children_and_comes_back_on_its_ports(cluster):
    group = cluster.keepers["k1"].process.pid
    assert len(local.group_members(group)) == 2
    cluster.kill("k1")
    assert not local.group_members(group) and not cluster.keepers["k1"].is_running
    ready = cluster.restart("k1")
    assert ready["keeper_id"] == "k1" * 16 and cluster.keepers["k1"].is_running
    assert open(os.path.join(cluster.directory, "k1", "starts")).read().splitlines()[1].count("--ports 7101,7102") == 1
    cluster.kill("k2", whole=False)
    assert cluster.stop_one("k3") == 0


def test_a_paused_daemon_can_be_stopped(cluster):
    cluster.pause("k1")
    assert cluster.stop_one("k1") == 0


def test_what_does_not_stop_is_killed_within_the_time(tmp_path):
    cluster = Cluster(tmp_path / "c", keepers=1, command=FAKE).start()
    open(os.path.join(cluster.directory, "k1", "stubborn"), "w").close()
    began = time.monotonic()
    cluster.stop(timeout_s=0.6)
    assert time.monotonic() - began < 2.0 and not local.group_members(cluster.keepers["k1"].process.pid)


def test_two_of_them_in_one_directory_are_refused(cluster):
    with pytest.raises(errors.DirectoryInUse):
        Cluster(cluster.directory, keepers=1, command=FAKE).start()
    assert cluster.master.is_running


@pytest.mark.parametrize("behaviour, timeout_s, part, advice", [
    ("broken", 30.0, "k2 ended with status 1: the disk is on fire", "water"), ("silent", 4.0, "k2 was not ready in time", "k2.log")])
def test_a_daemon_that_does_not_come_up_is_told_and_stops_the_others(tmp_path, behaviour, timeout_s, part, advice):
    (tmp_path / "c" / "k2").mkdir(parents=True)
    (tmp_path / "c" / "k2" / behaviour).touch()
    cluster = Cluster(tmp_path / "c", keepers=2, command=FAKE)
    with pytest.raises(errors.LocalFileError, match=part) as failure:
        cluster.start(timeout_s=timeout_s)  # the others have to be ready by then, on a busy machine too
    assert failure.value.hint.endswith(advice)  # its own, and not a word about paths
    assert not cluster.master.is_running and not local.group_members(cluster.keepers["k1"].process.pid)


def test_kill_9_of_the_starter_ends_every_daemon(tmp_path):
    code = ("import sys, time; sys.path.insert(0, sys.argv[1]); from dfs_lib import local\n"
            "local.Cluster.wait_live = lambda *_: None\n"
            "c = local.Cluster(sys.argv[2], keepers=2, command=sys.argv[3:]).start()\n"
            "print(*[d.process.pid for d in (c.master, *c.keepers.values())], flush=True); time.sleep(60)")
    starter = subprocess.Popen([sys.executable, "-c", code, ROOT, str(tmp_path / "c"), *FAKE], stdout=subprocess.PIPE, text=True)
    groups = [int(word) for word in starter.stdout.readline().split()]
    assert len(groups) == 3 and all(len(local.group_members(group)) == 2 for group in groups)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    until(lambda: not any(local.group_members(group) for group in groups), 5.0)


def test_fixed_ports_are_given_out_in_blocks(tmp_path):
    cluster = Cluster(tmp_path, ports_from=9000)
    assert [cluster._ports(n) for n in range(3)] == ["9000-9002", "9003-9005", "9006-9008"]


def test_daemons_get_none_of_our_settings_and_no_library_path_of_the_frozen_program(monkeypatch):
    environ = {"DFS_MASTER": "x", "PATH": "/bin", "LD_LIBRARY_PATH": "/tmp/_MEIx", "LD_LIBRARY_PATH_ORIG": "/opt/lib"}
    assert local.program_environment(environ) == {key: environ[key] for key in ("PATH", "LD_LIBRARY_PATH",
                                                                                "LD_LIBRARY_PATH_ORIG")}
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert local.program_environment(environ) == {"PATH": "/bin", "LD_LIBRARY_PATH": "/opt/lib",
                                                  "PYINSTALLER_RESET_ENVIRONMENT": "1"}
    del environ["LD_LIBRARY_PATH_ORIG"]
    assert "LD_LIBRARY_PATH" not in local.program_environment(environ)


@pytest.fixture
def started(tmp_path):
    """Start `dfs local` with daemons that only pretend: words → its process, which is there until the test ends."""
    processes = []
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from dfs_lib import local\n"
            "fake = sys.argv[2:]; local.program = lambda: fake\n"
            "local.Cluster.wait_live = lambda *_: None\n"
            "from dfs_lib.cli import main; sys.exit(main.main(['local', *words]))")

    def start(*words):
        source = code.replace("fake = sys.argv[2:]", f"fake, words = sys.argv[2:], {words!r}")
        processes.append(subprocess.Popen([sys.executable, "-c", source, ROOT, *FAKE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=10)


def test_dfs_local_says_ready_and_stops_on_ctrl_c(tmp_path, started):
    process = started("--keepers", "2", "--json")
    line = process.stdout.readline()
    assert '"role":"local"' in line and (tmp_path / "dfs-local" / "client.toml").exists()
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=10)
    assert process.returncode == 0 and time.monotonic() - began < 5.0


def test_keepers_that_are_there_are_never_left_off(tmp_path, started):
    for name in ("k1", "k2", "k3", "k4"):
        (tmp_path / "dfs-local" / name).mkdir(parents=True)
    process = started("--keepers", "2")
    assert "1 master, 4 keepers" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "holds 4 keepers: all of them are started" in process.communicate(timeout=10)[1]


def test_the_number_of_keepers_and_promises_of_dfs_local(tmp_path):
    from dfs_lib.cli import local_verbs

    for name in ("k1", "k2", "k4"):
        (tmp_path / name).mkdir()
    (tmp_path / "k9").touch()
    assert local_verbs._n_keepers_in(tmp_path) == 4 and local_verbs._n_keepers_in(tmp_path / "none") == 0
    own = settings.resolve([])
    assert local_verbs._promises(own, 3) == [] and local_verbs._promises(own, 1) == ["--copies", "1", "--safe", "1"]
    asked = settings.resolve([("flag", {"copies": "3", "spread": "room,rack", "reserve": "1GiB"})])
    assert local_verbs._promises(asked, 1) == ["--safe", "1"]
    assert local_verbs._passed(asked, ("copies", "spread", "reserve", "dead_after")) == ["--copies", "3", "--spread", "room,rack",
                                                                                         "--reserve",
                                                                                       str(1 << 30)]


class _Told:
    """The call of a verb that only says things, and signals that come when the last of them is said."""

    def __init__(self, end, hook=lambda said: None):
        self.said, self.waits, self.out, self._end, self._hook = [], [], self, end, hook

    def remark(self, text):
        self.said.append(text)
        self._hook(self.said)

    def wait(self, timeout_s):
        self.waits.append(timeout_s)
        assert len(self.waits) < 50, self.said
        time.sleep(timeout_s or 0)
        return bool(self.said) and self._end in self.said[-1]


def test_a_master_that_ends_is_started_again_with_a_growing_pause_and_a_keeper_is_named(cluster, monkeypatch):
    from dfs_lib.cli import local_verbs

    monkeypatch.setattr(local_verbs._Revival, "FIRST_PAUSE_S", 0.01)
    broken = os.path.join(cluster.directory, "master", "broken")
    open(broken, "w").close()
    cluster.kill("k2")
    cluster.kill("master")
    told = _Told("runs again", lambda said: len(said) == 4 and os.remove(broken))
    assert local_verbs.stay(told, cluster, told) == 0
    assert cluster.master.is_running and cluster.master.ports == (7101, 7102) and not cluster.keepers["k2"].is_running
    assert told.said[0].startswith("k2 was killed by signal 9") and "same command again" in told.said[0]
    assert told.said[1].startswith("master was killed by signal 9") and "disk is on fire" in told.said[2] and len(told.said) == 5
    pauses = [wait for wait in told.waits if wait is not None]
    assert pauses[0] <= 0.01 < pauses[1] <= 0.02 < pauses[2] <= 0.04 and all("master.log" in text for text in told.said[1:4])


def test_when_all_have_ended_it_ends(cluster):
    from dfs_lib.cli import local_verbs

    for name in ("k1", "k2", "k3", "master"):
        cluster.kill(name)
    told = _Told("never")
    with pytest.raises(errors.LocalFileError, match="every daemon has ended"):
        local_verbs.stay(told, cluster, told)
