"""What the tests of whole clusters share: a place for their files, programs, clusters, and the proof that nothing was left behind."""

import os
import secrets
import shutil
import tempfile
import threading

import pytest

import live_cluster

# Files go to memory where there is enough of it: the tests then wait for no disk.
FAST, NEEDED = "/dev/shm", 6 << 30


def _place():
    if os.path.isdir(FAST) and shutil.disk_usage(FAST).free >= NEEDED:
        return FAST
    return None


def _workspace():
    """A directory, and the promise that neither a process nor a thread outlives it."""
    directory = tempfile.mkdtemp(prefix="dfs-test-", dir=_place())
    temporary = os.path.join(directory, "tmp")
    os.mkdir(temporary)
    mark, threads = secrets.token_hex(8), set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(live_cluster.MARK, mark)
        patch.setenv("TMPDIR", temporary)
        for name in [name for name in os.environ if name.startswith("DFS_")]:
            patch.delenv(name)
        try:
            yield directory
            live_cluster.until(lambda: not live_cluster.marked(mark), 5, "every process is gone")
            live_cluster.until(lambda: set(threading.enumerate()) <= threads, 5, "every thread is gone")
        finally:
            for pid in live_cluster.marked(mark):
                os.kill(pid, 9)
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def work():
    """A directory for one test; its processes and threads have to be gone at the end."""
    yield from _workspace()


@pytest.fixture(scope="module")
def shared_work():
    """The same for all tests of a module."""
    yield from _workspace()


@pytest.fixture(params=["source", pytest.param("frozen", marks=pytest.mark.frozen)])
def program(request):
    """The command of the program: from source, and once more frozen, where a frozen one was built."""
    if request.param == "source":
        return live_cluster.SOURCE
    path = live_cluster.frozen_program_path()
    if path is None:
        pytest.skip("no frozen program: build it with `pyinstaller build.spec`")
    return [path]


@pytest.fixture
def make_cluster(work):
    """Function: start a cluster, stopped at the end of the test. keepers: how many; program: the command; the rest as of LiveCluster."""
    made = []

    def make(**options):
        made.append(live_cluster.LiveCluster(os.path.join(work, f"cluster{len(made)}"), **options))
        return made[-1].start()

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture(scope="module")
def shared(shared_work):
    """A cluster of three keepers for all tests of a module that leave it as healthy as it was."""
    with live_cluster.LiveCluster(os.path.join(shared_work, "cluster"), keepers=3) as cluster:
        yield cluster
