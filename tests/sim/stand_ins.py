"""What code under test sees in place of the real modules while `installed` is open, and how it is put there.

Never changes a module of the standard library but `socketserver`, whose classes the servers are made of: names in the modules
of the package under test, and defaults of its functions, are pointed at stand-ins, and pointed back at the end.

    threading queue        threads.py         time random secrets     the world's clock and dice, os.urandom too
    socket                 network.py         os, open                files, with a place to be killed or to fail at each call
    select selectors       on stand-ins       signal multiprocessing  processes of the world
"""

import _thread
import contextlib
import errno
import gc
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pkgutil
import queue
import random
import secrets
import select
import selectors
import signal
import socket
import socketserver
import threading
import time
import types

from dfs_lib.net import sockets
from tests.sim import threads
from tests.sim.world import PipeEnd, WorldEnded


@contextlib.contextmanager
def installed(world, network, *packages):
    """While open, modules of these packages (and socketserver) see this world instead of the real one."""
    modules = [socketserver]
    for package in packages:
        modules.append(importlib.import_module(package))
        for found in pkgutil.walk_packages(modules[-1].__path__, package + "."):
            if not found.name.startswith((package + ".cli.", package + ".gateway.", package + ".local")):
                modules.append(importlib.import_module(found.name))
    swaps = _stand_ins(world, network)
    undo = []
    for module in modules:
        _swap(module, swaps, undo)
        if module is not socketserver:
            for name, value in (("open", _fake_open(world)), ("print", lambda *_a, **_k: None)):
                if name not in vars(module):
                    setattr(module, name, value)
                    undo.append((module, name, _MISSING))
    handler = _Notes(world)
    root = logging.getLogger("dfs_lib")
    before = (root.level, root.propagate, logging.logThreads, root.handlers[:])
    root.handlers[:] = [handler]
    root.propagate, logging.logThreads = False, False
    root.setLevel(logging.INFO if world.trace is None else logging.DEBUG)
    was_enabled = gc.isenabled()
    gc.disable()  # a collection at its own time would run destructors at its own time
    try:
        yield
    finally:
        for target, name, value in reversed(undo):
            if value is _MISSING:
                delattr(target, name)
            else:
                setattr(target, name, value)
        root.level, root.propagate, logging.logThreads, root.handlers[:] = before
        if was_enabled:
            gc.enable()


# -- processes and select -------------------------------------------------------------------------------------------------
class _ForkedProcess:
    """multiprocessing's Process under "fork"."""

    def __init__(self, world, target, args=(), kwargs=None, name=None):
        self._world, self._target, self._args, self._kwargs, self.name = world, target, args, kwargs or {}, name
        self._process = None

    def start(self):
        parent = self._world.current.process
        self._process = self._world.start_process(
            parent.machine, f"{parent.name}.{self.name.split()[-1]}", lambda: self._target(*self._args, **self._kwargs), parent)
        self._world.maybe_give_way()

    @property
    def pid(self):
        return self._process.pid

    @property
    def sentinel(self):
        return self

    def is_readable(self):
        return not self._process.alive

    @property
    def waiters(self):
        return self._process.end_waiters

    def is_alive(self):
        return self._process.alive

    @property
    def exitcode(self):
        return self._process.exit_code

    def join(self, timeout=None):
        end_s = None if timeout is None else self._world.now + timeout
        while self._process.alive:
            left_s = None if end_s is None else end_s - self._world.now
            if left_s is not None and left_s <= 0:
                return
            self._world.wait(self._process.end_waiters, left_s)

    def terminate(self):
        self._world.signal(self._process, signal.SIGTERM)

    def kill(self):
        self._world.kill(self._process)

    def close(self):
        """Nothing is kept."""


class _NeverReadable:
    def __init__(self):
        self.waiters = []

    def is_readable(self):
        return False


def _waitable(world, thing):
    """What can be waited for behind a descriptor, a socket, or an object that has one of these."""
    if isinstance(thing, int):
        return world.fds.get(thing) or _NeverReadable()
    if hasattr(thing, "is_readable"):
        return thing
    inner = getattr(thing, "socket", None)
    if inner is not None:
        return inner
    return _waitable(world, thing.fileno())


def _wait_readable(world, things, timeout):
    """Those of `things` that can be read, waiting up to `timeout` for some."""
    waitables = [(thing, _waitable(world, thing)) for thing in things]
    end_s = None if timeout is None else world.now + timeout
    while True:
        found = [thing for thing, waitable in waitables if waitable.is_readable()]
        if found:
            world.maybe_give_way()
            return found
        left_s = None if end_s is None else end_s - world.now
        if left_s is not None and left_s <= 0:
            world.give_way()
            return []
        world.wait_any([waitable.waiters for _thing, waitable in waitables], left_s)


class _Poll:
    """select.poll, for reading only: what can be written to always is."""

    def __init__(self, world):
        self._world, self._things = world, []

    def register(self, thing, events=select.POLLIN):
        self._things.append((thing, events))

    def poll(self, timeout_ms=None):
        writable = [(thing, select.POLLOUT) for thing, events in self._things if events & select.POLLOUT]
        if writable:
            return writable
        timeout = None if timeout_ms is None or timeout_ms < 0 else timeout_ms / 1000
        found = _wait_readable(self._world, [thing for thing, _events in self._things], timeout)
        return [(thing, select.POLLIN) for thing in found]


class _Selector:
    """selectors.*Selector, for reading only."""

    def __init__(self, world):
        self._world, self._keys = world, {}

    def register(self, fileobj, events, data=None):
        self._keys[id(fileobj)] = selectors.SelectorKey(fileobj, id(fileobj), events, data)

    def unregister(self, fileobj):
        return self._keys.pop(id(fileobj))

    def select(self, timeout=None):
        found = _wait_readable(self._world, [key.fileobj for key in self._keys.values()], timeout)
        return [(self._keys[id(thing)], selectors.EVENT_READ) for thing in found]

    def close(self):
        self._keys.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- what stands in for whole modules -------------------------------------------------------------------------------------
def module_like(real, **changes):
    """A copy of a module's names, some of them changed."""
    stand_in = types.ModuleType(real.__name__)
    vars(stand_in).update({name: value for name, value in vars(real).items() if not name.startswith("__")})
    vars(stand_in).update(changes)
    return stand_in


def _fake_threading(world):
    return module_like(
        threading, Thread=lambda *a, **k: threads.Thread(world, *a, **k), Lock=lambda: threads.Lock(world),
        RLock=lambda: threads.RLock(world),
        Condition=lambda lock=None: threads.Condition(world, lock), Event=lambda: threads.Event(world),
        Semaphore=lambda n=1: threads.Semaphore(world, n),
        BoundedSemaphore=lambda n=1: threads.Semaphore(world, n), local=threads.local_class(world),
        current_thread=lambda: threads.current(world),
        get_ident=lambda: world.current.number, main_thread=lambda: None)


def _fake_time(world):
    def monotonic():
        return world.current.process.machine.monotonic()

    def wall():
        return world.current.process.machine.wall()

    return module_like(time, monotonic=monotonic, time=wall, sleep=lambda seconds: world.sleep(seconds), perf_counter=monotonic,
                   monotonic_ns=lambda: int(monotonic() * 1e9), time_ns=lambda: int(wall() * 1e9))


def _fake_random(world):
    shared = random.Random(world.rng.getrandbits(64))

    def new(seed=None):
        return random.Random(world.rng.getrandbits(64) if seed is None else seed)

    return module_like(
        random, Random=new, random=shared.random, shuffle=shared.shuffle, choice=shared.choice, sample=shared.sample,
        randrange=shared.randrange, uniform=shared.uniform, randint=shared.randint, choices=shared.choices)


def _fake_secrets(world):
    chance = random.Random(world.rng.getrandbits(64))
    return module_like(secrets, token_hex=lambda n=32: chance.randbytes(n).hex(),
                       token_bytes=lambda n=32: chance.randbytes(n)), chance


def _fake_signal(world):
    def install(number, handler):
        process = world.current.process
        before = process.handlers.get(number, signal.SIG_DFL)
        process.handlers[number] = handler
        return before

    return module_like(signal, signal=install, pthread_sigmask=lambda how, mask: set())


def _fake_multiprocessing(world):
    context = types.SimpleNamespace(Process=lambda target=None, args=(), kwargs=None, name=None, **_rest:
                                    _ForkedProcess(world, target, args, kwargs, name))
    connection = types.SimpleNamespace(wait=lambda things, timeout=None: _wait_readable(world, things, timeout))
    return module_like(multiprocessing, get_context=lambda _method=None: context, connection=connection,
                   get_all_start_methods=lambda: ["fork"]), connection


def _fake_select(world):
    def select_(readers, _writers, _errors, timeout=None):
        return _wait_readable(world, readers, timeout), [], []

    return module_like(select, select=select_, poll=lambda: _Poll(world))


def _fake_selectors(world):
    make = lambda: _Selector(world)  # noqa: E731
    return module_like(selectors, DefaultSelector=make, PollSelector=make, SelectSelector=make, EpollSelector=make), make


def _fake_os(world, chance):
    """The calls that make, move and remove files, so that a process can be killed and a disk can fail between any two."""

    def disk():
        return world.current.process.machine.disk

    def join(path, dir_fd):
        if dir_fd is None:
            return path if isinstance(path, str) else None
        return os.path.join(world.path_of(dir_fd) or "?", path)

    def open_(path, flags, mode=0o777, *, dir_fd=None):
        if flags & os.O_CREAT:
            world.maybe_give_way()
        elif world.ended:
            raise WorldEnded
        fd = os.open(path, flags, mode, dir_fd=dir_fd)
        world.hold(fd, join(path, dir_fd))
        return fd

    def close(fd):
        if world.ended:
            raise WorldEnded
        opened = world.fds.get(fd)
        if opened is None:
            return os.close(fd)
        process = world.current.process
        if process not in opened.holders:
            raise OSError(errno.EBADF, "Bad file descriptor")
        process.fds.pop(fd, None)
        opened.let_go(process)

    def read(fd, n):
        opened = world.fds.get(fd)
        return opened.read(n) if isinstance(opened, PipeEnd) else os.read(fd, n)

    def write(fd, data):
        opened = world.fds.get(fd)
        if isinstance(opened, PipeEnd):
            return opened.write(data)
        _check_room(disk())
        return os.write(fd, data)

    def writev(fd, pieces):
        world.maybe_give_way()
        _check_room(disk())
        if len(pieces[0]) > 1 and world._dice() < 0.01:  # a short write
            return os.writev(fd, [memoryview(pieces[0])[:max(1, len(pieces[0]) // 2)]])
        return os.writev(fd, pieces)

    def set_blocking(fd, blocking):
        opened = world.fds.get(fd)
        if isinstance(opened, PipeEnd):
            opened.blocking = blocking
        else:
            os.set_blocking(fd, blocking)

    def fsync(fd):
        if world.ended:
            raise WorldEnded
        here = disk()
        if here.fsync_s:
            world.sleep(here.fsync_s * (0.5 + world._dice()))
        if here.fsync_error:
            raise OSError(here.fsync_error, os.strerror(here.fsync_error))
        if world.disk_watch is not None:
            world.disk_watch.synced(world.current.process, world.path_of(fd))

    def replace(source, target, *, src_dir_fd=None, dst_dir_fd=None):
        world.maybe_give_way()
        watch = world.disk_watch
        paths = join(source, src_dir_fd), join(target, dst_dir_fd)
        if watch is not None:
            watch.before_replace(world.current.process, *paths)
        os.replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if watch is not None:
            watch.after_replace(world.current.process, *paths)
        world.maybe_give_way()

    def unlink(path, *, dir_fd=None):
        world.maybe_give_way()
        if world.disk_watch is not None:
            world.disk_watch.before_unlink(world.current.process, join(path, dir_fd))
        os.unlink(path, dir_fd=dir_fd)
        world.maybe_give_way()

    def statvfs(_path):
        here = disk()
        return types.SimpleNamespace(f_bavail=0 if here.is_full else here.capacity // 4096, f_frsize=4096,
                                     f_blocks=here.capacity // 4096)

    def exit_(code):
        world.bug(f"os._exit({code})") if code == 70 else None
        world.exit(world.current.process, code)

    def parent_pid():
        parent = world.current.process.parent
        return 1 if parent is None else parent.pid

    return module_like(
        os, open=open_, close=close, read=read, write=write, writev=writev, set_blocking=set_blocking, fsync=fsync,
        replace=replace, rename=replace, unlink=unlink, remove=unlink, statvfs=statvfs, pipe=world.new_pipe, urandom=chance.randbytes, _exit=exit_,
        getpid=lambda: world.current.process.pid, getppid=parent_pid)


def _check_room(disk):
    if disk.is_full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fake_open(world):
    def open_(file, *args, **kwargs):
        if isinstance(file, int):
            world.forget(file)
        return open(file, *args, **kwargs)

    return open_


_MISSING = object()


def _stand_ins(world, network):
    """{id(real thing): (real thing, stand-in)}: modules, and the functions of them that code may hold by themselves."""
    fake_secrets, chance = _fake_secrets(world)
    fake_multiprocessing, connection = _fake_multiprocessing(world)
    fake_selectors, make_selector = _fake_selectors(world)
    pairs = [(_thread, module_like(_thread, allocate_lock=lambda: threads.Lock(world))), (threading, _fake_threading(world)), (time, _fake_time(world)), (random, _fake_random(world)),
             (secrets, fake_secrets), (signal, _fake_signal(world)), (select, _fake_select(world)), (selectors, fake_selectors),
             (os, _fake_os(world, chance)), (multiprocessing, fake_multiprocessing),
             (queue, module_like(queue, SimpleQueue=lambda: threads.SimpleQueue(world)))]
    if network is not None:
        pairs.append((socket, module_like(socket, **network.names())))
        pairs.append((sockets, module_like(sockets, create_connection=lambda address, timeout_s: network.create_connection(address, timeout_s))))
    swaps = {}
    for real, stand_in in pairs:
        swaps[id(real)] = real, stand_in
        for name, value in vars(stand_in).items():
            original = getattr(real, name, None)
            if callable(original) and original is not value:
                swaps[id(original)] = original, value
    swaps[id(multiprocessing.connection)] = multiprocessing.connection, connection
    for cls in (selectors.DefaultSelector, selectors.PollSelector, selectors.SelectSelector):
        swaps[id(cls)] = cls, make_selector
    return swaps


def _swap(module, swaps, undo):
    """Put stand-ins in place in a module's names, its classes' attributes, and functions' defaults."""
    for name, value in list(vars(module).items()):
        found = swaps.get(id(value))
        if found is not None and found[0] is value and not name.startswith("__"):
            setattr(module, name, found[1])
            undo.append((module, name, value))
        elif isinstance(value, type) and value.__module__ == module.__name__:
            for attribute, inner in list(vars(value).items()):
                function = getattr(inner, "__func__", inner)
                if isinstance(function, types.FunctionType):
                    _swap_defaults(function, swaps, undo)
        elif isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
            _swap_defaults(value, swaps, undo)


def _swap_defaults(function, swaps, undo):
    defaults = function.__defaults__
    if defaults and any(id(value) in swaps for value in defaults):
        function.__defaults__ = tuple(swaps[id(value)][1] if id(value) in swaps else value for value in defaults)
        undo.append((function, "__defaults__", defaults))
    keywords = function.__kwdefaults__
    if keywords and any(id(value) in swaps for value in keywords.values()):
        function.__kwdefaults__ = {name: swaps[id(value)][1] if id(value) in swaps else value for name, value in keywords.items()}
        undo.append((function, "__kwdefaults__", keywords))


class _Notes(logging.Handler):
    """Log lines become notes; a logged traceback is a bug."""

    def __init__(self, world):
        super().__init__()
        self._world = world
        self.formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")

    def createLock(self):
        self.lock = None

    def acquire(self):
        """One actor runs at a time."""

    release = acquire

    def handle(self, record):
        if self._world.ended or self._world.current is None:
            return
        text = self.formatter.format(record)
        if record.exc_info and not isinstance(record.exc_info[1], WorldEnded):
            self._world.bug(text)
        else:
            self._world.note(text)
