"""What tests of the store share: small blocks, an os module that counts, fails or kills, and a look at what a crash left."""

import os
import random
import signal

import pytest

from dfs_lib import checksums
from dfs_lib.keeper import block_file, counters, disk, home, kept, store as store_module
from dfs_lib.keeper.store import Store

# Every module of the store that makes system calls: one that is left out would be killed nowhere and fail nowhere.
MODULES = (block_file, counters, disk, home, kept, store_module)
CLUSTER = "c" * 32
METADATA = {"path": "/a b", "version": 1 << 32, "index": 0, "file_size": None, "block_size": 64 << 20, "mtime_at": 1.5,
            "copies": 3}


def block_id(n):
    return f"{n:012x}" + random.Random(n).randbytes(10).hex()


def data_of(size, seed=0):
    return random.Random(seed).randbytes(size)


def put(store, block, data, pieces=None, last=True):
    with store.begin(block, METADATA, len(data)) as incoming:
        for at in range(0, len(data), pieces or len(data) or 1):
            incoming.write(memoryview(data)[at:at + (pieces or len(data))])
        incoming.finish(checksums.crc_table(bytes.fromhex(block), data), last)


def read(store, block):
    with store.open(block) as stored:
        return os.pread(stored.fd, stored.size, 0)


def file_of(directory, block):
    return directory / "blocks" / block[-2:] / block


def files_below(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir())


# -- a stand-in for the os module: counts, kills, fails ---------------------------------------------------------------
class Os:
    """The os module with each file-system call handed to `before(name, args)`, which may raise, kill, or answer itself."""

    CALLS = {"open", "close", "access", "write", "writev", "fsync", "replace", "unlink", "mkdir", "stat", "fstat",
             "pread", "preadv", "pwrite", "statvfs", "listdir", "scandir", "ftruncate"}

    def __init__(self, before):
        self._before = before

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*args, **kwargs):
            answer = self._before(name, args)
            return real(*args, **kwargs) if answer is None else answer

        return call


def stand_in(monkeypatch, before):
    """Give every module of the store the stand-in."""
    for module in MODULES:
        monkeypatch.setattr(module, "os", Os(before))


def fails(monkeypatch, name, code, at=1):
    """The call `name` fails with `code` from its `at`-th time on. Returns the list of names called."""
    called = []

    def before(call, args):
        called.append(call)
        if call == name and called.count(name) >= at:
            raise OSError(code, os.strerror(code))

    stand_in(monkeypatch, before)
    return called


def killed_at(step, act):
    """Run act() in a child that kills itself before its `step`-th system call; False when it got to its end first."""
    pid = os.fork()
    if pid == 0:
        left = [step]

        def before(name, args):
            left[0] -= 1
            if left[0] == 0:
                if name == "writev" and step % 2:  # half of a write may have happened
                    os.write(args[0], bytes(args[1][0])[:len(args[1][0]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            for module in MODULES:
                module.os = Os(before)
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


# -- crashes ----------------------------------------------------------------------------------------------------------
def crash_everywhere(directory, prepare_step, act, check):
    """Kill `act` before each of its system calls in turn; after each, `check` a store opened anew. Returns the calls."""
    for step in range(1, 500):
        prepare_step()

        def child():
            with Store(directory, CLUSTER, slot="p1") as store:
                act(store)

        crashed = killed_at(step, child)
        with Store(directory, CLUSTER, slot="p2") as reopened:
            reopened.sweep()
            assert os.listdir(directory / "incoming") == []
            check(reopened, crashed)
        if not crashed:
            return step
    raise AssertionError("it never ends")


def empty(directory):
    for path in directory.iterdir():
        path.unlink()


def outcome(store, block, data):
    """"whole" or "absent"; anything between is the failure these tests look for. Nothing else may show under blocks/."""
    listed = list(store.list(damaged=lambda *what: pytest.fail(f"damaged: {what}")))
    names = [name for _, _, names in os.walk(os.path.join(store.path, "blocks")) for name in names]
    assert sorted(names) == [b for b, _ in listed]
    if not any(b == block for b, _ in listed):
        return "absent"
    assert store.verify(block) == len(data) and read(store, block) == data
    return "whole"
