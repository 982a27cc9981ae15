"""A whole cluster's time, threads and processes under one seed: real threads, of which only one runs at a time.

Never knows what `dfs` is. Code under test runs unmodified; the modules it asks for threads, time, chance, files and signals are
replaced while `stand_ins.installed` is open: `threads.py` stands in for `threading`, `network.py` for `socket`.

    actor     a thread of the code under test; holds the baton while it runs, and passes it on itself
    process   its actors, descriptors and sockets: what a kill takes away at once, and a stop freezes
    machine   a clock, a disk and an address; processes of one machine share them

    running ── waits (lock, sleep, socket …) ──▶ blocked ── woken, or its time is over ──▶ ready ── chosen ──▶ running
       └── gives way, by dice, at a lock, a send, a disk call ──▶ ready
    nothing ready: the clock jumps to the next timer

The same seed gives the same run, step by step: all chance comes from `World.rng` and its children, computing takes no time
but a few microseconds a step, and who runs next is drawn from those ready. `PYTHONHASHSEED` must be fixed, because the order
of a set of texts depends on it.
"""

import collections
import errno
import heapq
import os
import random
import signal
import sys
import traceback
import zlib
import _thread

READY, RUNNING, BLOCKED, DEAD = "ready", "running", "blocked", "dead"
# What the wall clocks show when a world begins: 2001-09-09.
EPOCH_AT = 1e9
# A step's time: so that loops that watch the clock end, and that no two steps happen at once.
STEP_S = 3e-6
# Descriptors of pipes begin here, far above those of the system.
FIRST_PIPE_FD = 10_000_000


class WorldEnded(BaseException):
    """Raised in every actor that is left when the world ends. Nobody may catch it for good."""


class Deadlock(Exception):
    """Nothing is ready and no timer is set."""


class Actor:
    """One simulated thread."""

    __slots__ = ("name", "number", "process", "state", "baton", "target", "wait_id", "timed_out", "locals",
                 "joiners", "thread", "world")

    def __init__(self, world, name, number, process, target):
        self.world, self.name, self.number, self.process, self.target = world, name, number, process, target
        self.state = READY
        self.baton = None
        self.wait_id = 0
        self.timed_out = False
        self.locals = {}
        self.joiners = []
        self.thread = None  # the Thread stand-in that others see


class Machine:
    """Where processes run: address, clocks, disk."""

    def __init__(self, world, name, ip):
        self.world, self.name, self.ip = world, name, ip
        self.processes = []
        self.is_down = False
        self.monotonic_offset_s = 1000.0 + 9000.0 * world.rng.random()
        self.wall_offset_s = 0.0
        self.disk = Disk()
        self.next_port = 30_000

    def monotonic(self):
        return self.world.now + self.monotonic_offset_s

    def wall(self):
        return EPOCH_AT + self.world.now + self.wall_offset_s


class Disk:
    """How a machine's disk behaves just now. Hooks are for whoever watches the files."""

    def __init__(self):
        self.fsync_s = 0.0005
        self.fsync_error = 0  # errno that the next fsyncs fail with, 0: none
        self.is_full = False
        self.capacity = 1 << 40


class Process:
    """One simulated operating system process."""

    def __init__(self, world, machine, name, parent=None):
        self.world, self.machine, self.name, self.parent = world, machine, name, parent
        self.pid = world.new_pid()
        self.alive, self.frozen = True, False
        self.actors = set()
        self.parked = []  # ready actors while frozen
        self.sockets = {}  # insertion order: what to close at the end
        self.fds = {}
        self.handlers = {}
        self.exit_code = None
        self.end_waiters = []
        self.children = []
        self.main = None
        machine.processes.append(self)
        if parent is not None:
            parent.children.append(self)

    def __repr__(self):
        return f"<{self.name} pid {self.pid}>"


class World:
    """Scheduler and clock. `run(main)` runs main as the first actor and returns when it has returned."""

    def __init__(self, seed, preempt=None, max_steps=20_000_000, trace=None):
        self.seed = seed
        self.rng = random.Random(f"world {seed}")
        self._dice = self.rng.random
        self.preempt = self.rng.choice((0.0, 0.01, 0.05, 0.2)) if preempt is None else preempt
        self.now = 0.0
        self.steps = 0
        self.max_steps = max_steps
        self.digest = 0
        self.current = None
        self.ended = False
        self.failure = None
        self.bugs = []  # texts: what no code under test should ever do
        self.notes = collections.deque(maxlen=3000)
        self.trace = trace  # callable(text) or None
        self._ready = []
        self._timers = []
        self._timer_number = 0
        self._actors = []
        self._idle_threads = []
        self._n_actors = self._n_pids = 0
        self._main_done = _thread.allocate_lock()
        self.machines = {}
        self.fds = {}  # fd → Open
        self._next_pipe_fd = FIRST_PIPE_FD
        self.stats = collections.Counter()
        self.disk_watch = None  # has before_replace, after_replace, before_unlink …; see cluster.DiskWatch
        self.driver = Process(self, self.machine("driver", "10.0.9.9"), "driver")

    # -- building ---------------------------------------------------------------------------------------------------------
    def machine(self, name, ip):
        machine = self.machines[name] = Machine(self, name, ip)
        return machine

    def new_pid(self):
        self._n_pids += 1
        return 100 + self._n_pids

    def child_rng(self, name):
        """Chance of one's own, so that one more draw here changes nothing there."""
        return random.Random(f"{name} {self.seed}")

    def spawn(self, target, name, process=None):
        """A new actor, ready to run `target()`."""
        self._n_actors += 1
        process = process or self.current.process
        actor = Actor(self, name, self._n_actors, process, target)
        self._actors.append(actor)
        if len(self._actors) > 256 and self._n_actors % 256 == 0:
            self._actors = [one for one in self._actors if one.state is not DEAD or one.baton is not None]
        process.actors.add(actor)
        self._make_ready(actor)
        return actor

    def start_process(self, machine, name, target, parent=None):
        """A new process that runs `target()`; it ends when that returns. Returns the Process."""
        process = Process(self, machine, name, parent)
        if parent is not None:
            for fd in list(parent.fds):
                self.fds[fd].holders.add(process)
                process.fds[fd] = None
            for sock in list(parent.sockets):
                sock.holders.add(process)
                process.sockets[sock] = None

        def main():
            code = 0
            try:
                target()
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else 1
            except WorldEnded:
                raise
            except BaseException:
                self.bug(f"process {name} died of\n{traceback.format_exc()}")
                code = 1
            self.exit(process, code)

        process.main = self.spawn(main, f"{name}/main", process)
        return process

    # -- running ----------------------------------------------------------------------------------------------------------
    def run(self, main):
        """Run `main()` as an actor of the driver until it returns; raises what it raised, or Deadlock."""
        self._main_done.acquire()

        def body():
            try:
                main()
            except WorldEnded:
                pass
            except BaseException as e:
                self.failure = e
            self.ended = True

        first = self.spawn(body, "driver", self.driver)
        self._ready.remove(first)
        first.state = RUNNING
        self.current = first
        self._hand_to(first)
        self._main_done.acquire()
        self._unwind()
        if self.failure is not None:
            raise self.failure

    def _hand_to(self, actor):
        """Let the actor's real thread go on (or begin)."""
        if actor.baton is None:
            if self._idle_threads:
                actor.baton = self._idle_threads.pop()
                actor.baton.job = actor
                actor.baton.lock.release()
            else:
                actor.baton = _Baton()
                actor.baton.job = actor
                _thread.start_new_thread(self._body, (actor.baton,))
        else:
            actor.baton.lock.release()

    def _body(self, baton):
        """A real thread: runs one actor after another."""
        while True:
            actor = baton.job
            if actor is None:
                return
            try:
                if not self.ended:
                    actor.target()
            except WorldEnded:
                pass
            except SystemExit:
                pass
            except BaseException:
                if not self.ended:
                    self.bug(f"thread {actor.name} died of\n{traceback.format_exc()}")
            self._finished(actor)
            actor.target = None
            if self.ended:
                actor.baton = None
                actor.state = DEAD
                self._main_done.release()
                return
            actor.state = DEAD
            actor.baton = None
            self._idle_threads.append(baton)
            self._pass_on()
            baton.lock.acquire()

    def _finished(self, actor):
        actor.locals.clear()
        actor.process.actors.discard(actor)
        for joiner in actor.joiners:
            self._wake_entry(joiner)
        actor.joiners = []

    def _pass_on(self):
        """The running actor is over: somebody else's turn."""
        following = self._choose()
        if following is None:
            self._main_done.release()
        else:
            self._hand_to(following)

    def _choose(self):
        """The next to run, the clock moved on; None when the world has ended."""
        ready, timers = self._ready, self._timers
        self.steps += 1
        self.now += STEP_S
        while True:
            while timers and timers[0][0] <= self.now:
                _at, _number, call, argument = heapq.heappop(timers)
                call(argument)
            if ready:
                break
            if self.ended:
                return None
            if not timers:
                self.failure = self.failure or Deadlock("nothing is ready, and no timer is set")
                self.ended = True
                return None
            self.now = timers[0][0]
        if self.steps > self.max_steps:
            self.failure = self.failure or Deadlock(f"more than {self.max_steps} steps")
            self.ended = True
            return None
        if len(ready) == 1:
            actor = ready.pop()
        else:
            at = int(self._dice() * len(ready))
            actor = ready[at]
            ready[at] = ready[-1]
            ready.pop()
        self.digest = zlib.crc32(b"%d %d" % (actor.number, int(self.now * 1e6)), self.digest)
        actor.state = RUNNING
        self.current = actor
        return actor

    def _switch(self, me):
        """Called by the running actor when it is no longer to run: returns when it is its turn again."""
        if self.ended:
            raise WorldEnded
        following = self._choose()
        if following is me:
            return
        # The lock is taken before the other thread can give it back to us.
        baton = me.baton
        if following is None:
            self._main_done.release()
        else:
            self._hand_to(following)
        baton.lock.acquire()
        if self.ended:
            raise WorldEnded

    def _unwind(self):
        """End every actor that is left, one at a time."""
        self.ended = True
        for actor in list(self._actors):
            if actor.state is DEAD and actor.baton is None:
                continue
            if actor.baton is None:
                actor.state = DEAD
                continue
            self.current = actor
            actor.baton.lock.release()
            if not self._main_done.acquire(timeout=20):
                sys.stderr.write(f"actor {actor.name} does not end\n")
        for baton in self._idle_threads:
            baton.job = None
            baton.lock.release()

    # -- waiting ----------------------------------------------------------------------------------------------------------
    def _make_ready(self, actor):
        actor.state = READY
        process = actor.process
        if not process.alive:
            return
        if process.frozen:
            process.parked.append(actor)
        else:
            self._ready.append(actor)

    def at(self, when_s, call, argument=None):
        """Have `call(argument)` run at a moment (world's time). It must not wait."""
        self._timer_number += 1
        heapq.heappush(self._timers, (when_s, self._timer_number, call, argument))

    def after(self, seconds, call, argument=None):
        self.at(self.now + seconds, call, argument)

    def _time_over(self, entry):
        actor, wait_id = entry
        if actor.wait_id == wait_id and actor.state is BLOCKED:
            actor.wait_id += 1
            actor.timed_out = True
            self._make_ready(actor)

    def _wake_entry(self, entry):
        """Wake who waits under this entry; False when he does not any more."""
        actor, wait_id = entry
        if actor.wait_id != wait_id or actor.state is not BLOCKED or not actor.process.alive:
            return False
        actor.wait_id += 1
        actor.timed_out = False
        self._make_ready(actor)
        return True

    def wait(self, waiters, timeout=None):
        """Wait until somebody wakes an entry of `waiters` (a list). Returns False when the time was over first."""
        return self.wait_any((waiters,), timeout)

    def wait_any(self, lists, timeout=None):
        if self.ended:
            raise WorldEnded
        me = self.current
        if timeout is not None and timeout <= 0:
            self.give_way()
            return False
        entry = (me, me.wait_id)
        for waiters in lists:
            waiters.append(entry)
        me.state = BLOCKED
        if timeout is not None:
            self.after(timeout, self._time_over, entry)
        self._switch(me)
        for waiters in lists:
            if entry in waiters:
                waiters.remove(entry)
        return not me.timed_out

    def wake_all(self, waiters):
        entries, waiters[:] = waiters[:], []
        for entry in entries:
            self._wake_entry(entry)

    def wake_one(self, waiters):
        """Wake one of those who wait, drawn by dice."""
        while waiters:
            at = int(self._dice() * len(waiters)) if len(waiters) > 1 else 0
            if self._wake_entry(waiters.pop(at)):
                return True
        return False

    def sleep(self, seconds):
        self.wait_any((), max(seconds, 1e-6))

    def give_way(self):
        """Let others run; the caller stays ready."""
        if self.ended:
            raise WorldEnded
        me = self.current
        self._make_ready(me)
        self._switch(me)

    def maybe_give_way(self):
        if self.ended:
            raise WorldEnded
        if self.preempt and self._dice() < self.preempt:
            self.give_way()

    # -- processes --------------------------------------------------------------------------------------------------------
    def kill(self, process, code=-9):
        """Kill -9, at whatever instruction it stands. Its actors are never run again, its descriptors and sockets closed."""
        if not process.alive:
            return
        self.note(f"process {process.name} ends with {code}")
        process.alive = False
        process.exit_code = code
        if process in process.machine.processes:
            process.machine.processes.remove(process)
        gone = process.actors
        self._ready[:] = [actor for actor in self._ready if actor not in gone]
        process.parked = []
        for sock in list(process.sockets):
            sock.let_go(process, killed=True)
        process.sockets.clear()
        for fd in list(process.fds):
            self.fds[fd].let_go(process)
        process.fds.clear()
        self.wake_all(process.end_waiters)

    def exit(self, process, code):
        """The running actor's process ends by itself. Does not return when it is the caller's own."""
        if self.ended:
            raise WorldEnded
        self.kill(process, code)
        me = self.current
        if me.process is process:
            me.state = BLOCKED
            me.wait_id += 1
            self._switch(me)

    def freeze(self, process):
        """SIGSTOP. Not for the caller's own process."""
        if process.alive and not process.frozen:
            process.frozen = True
            mine = [actor for actor in self._ready if actor.process is process]
            self._ready[:] = [actor for actor in self._ready if actor.process is not process]
            process.parked.extend(mine)

    def thaw(self, process):
        """SIGCONT."""
        if process.alive and process.frozen:
            process.frozen = False
            parked, process.parked = process.parked, []
            self._ready.extend(parked)

    def signal(self, process, number):
        """Deliver a signal that the process handles; SIGTERM without a handler ends it."""
        if not process.alive:
            return
        handler = process.handlers.get(number, signal.SIG_DFL)
        if number == signal.SIGKILL or handler is signal.SIG_DFL:
            self.kill(process, -number)
        elif callable(handler):
            handler(number, None)

    # -- telling ----------------------------------------------------------------------------------------------------------
    def note(self, text):
        line = f"{self.now:10.4f} {self.current.name if self.current else '-'}: {text}"
        self.notes.append(line)
        if self.trace is not None:
            self.trace(line)

    def bug(self, text):
        """Something that no code under test should ever do."""
        if self.ended:
            return
        self.note(f"BUG {text}")
        self.bugs.append(f"at {self.now:.4f} in {self.current.name if self.current else '-'}: {text}")

    # -- descriptors ------------------------------------------------------------------------------------------------------
    def hold(self, fd, path):
        process = self.current.process
        self.fds[fd] = Open(self, fd, path, process)
        process.fds[fd] = None

    def forget(self, fd):
        """The descriptor's life is somebody else's from now on (`open(fd)`)."""
        opened = self.fds.pop(fd, None)
        if opened is not None:
            for process in opened.holders:
                process.fds.pop(fd, None)

    def path_of(self, fd):
        opened = self.fds.get(fd)
        return None if opened is None else opened.path

    def new_pipe(self):
        pipe = Pipe(self)
        ends = []
        for is_writer in (False, True):
            fd = self._next_pipe_fd
            self._next_pipe_fd += 1
            process = self.current.process
            self.fds[fd] = PipeEnd(self, fd, pipe, is_writer, process)
            process.fds[fd] = None
            ends.append(fd)
        pipe.writer = self.fds[ends[1]]
        return tuple(ends)


class _Baton:
    """What a real thread waits for."""

    __slots__ = ("lock", "job")

    def __init__(self):
        self.lock = _thread.allocate_lock()
        self.lock.acquire()
        self.job = None


class Open:
    """A real descriptor, and which processes hold it."""

    def __init__(self, world, fd, path, process):
        self.world, self.fd, self.path = world, fd, path
        self.holders = {process}

    def let_go(self, process):
        self.holders.discard(process)
        if not self.holders:
            self.world.fds.pop(self.fd, None)
            try:
                os.close(self.fd)
            except OSError:
                pass


class Pipe:
    def __init__(self, world):
        self.data = bytearray()
        self.readers = []
        self.writer = None


class PipeEnd:
    def __init__(self, world, fd, pipe, is_writer, process):
        self.world, self.fd, self.pipe, self.is_writer = world, fd, pipe, is_writer
        self.holders = {process}
        self.path = f"pipe {fd}"
        self.blocking = True

    def let_go(self, process):
        self.holders.discard(process)
        if not self.holders:
            self.world.fds.pop(self.fd, None)
            if self.is_writer:
                self.world.wake_all(self.pipe.readers)

    @property
    def waiters(self):
        return self.pipe.readers

    def is_readable(self):
        return bool(self.pipe.data) or not self.pipe.writer.holders

    def read(self, n):
        while not self.pipe.data:
            if not self.pipe.writer.holders:
                return b""
            if not self.blocking:
                raise BlockingIOError(errno.EAGAIN, "no data")
            self.world.wait(self.pipe.readers)
        data = bytes(self.pipe.data[:n])
        del self.pipe.data[:n]
        return data

    def write(self, data):
        self.pipe.data += data
        self.world.wake_all(self.pipe.readers)
        return len(data)
