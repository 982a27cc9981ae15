"""Stand-ins for `threading` and `queue`: they wait in a World, and give way to others where real threads may be interrupted.

Never wait for anything real. A lock that is released wakes one of those who wait, drawn by dice; whoever comes first has it.
"""

import collections
import queue

from tests.sim.world import BLOCKED, DEAD, WorldEnded


class Lock:
    __slots__ = ("_world", "_owner", "_waiters", "__weakref__")

    def __init__(self, world):
        self._world, self._owner, self._waiters = world, None, []

    def acquire(self, blocking=True, timeout=-1):
        world = self._world
        if world.ended:
            raise WorldEnded
        if world.preempt and world._dice() < world.preempt:
            world.give_way()
        end_s = None if timeout is None or timeout < 0 else world.now + timeout
        while self._owner is not None:
            if not blocking:
                return False
            if end_s is not None and world.now >= end_s:
                return False
            world.wait(self._waiters, None if end_s is None else end_s - world.now)
        self._owner = world.current
        return True

    def release(self):
        if self._owner is None:
            if self._world.ended:
                return
            raise RuntimeError("release unlocked lock")
        self._owner = None
        if self._waiters:
            self._world.wake_one(self._waiters)

    def locked(self):
        return self._owner is not None

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()

    # for Condition
    def _release_all(self):
        self.release()
        return 1

    def _acquire_again(self, _n):
        self.acquire()

    def _is_mine(self):
        return self._owner is not None


class RLock(Lock):
    __slots__ = ("_depth",)

    def __init__(self, world):
        super().__init__(world)
        self._depth = 0

    def acquire(self, blocking=True, timeout=-1):
        if self._owner is self._world.current and self._owner is not None:
            self._depth += 1
            return True
        if not super().acquire(blocking, timeout):
            return False
        self._depth = 1
        return True

    def release(self):
        if self._owner is not self._world.current:
            if self._world.ended:
                return
            raise RuntimeError("cannot release un-acquired lock")
        self._depth -= 1
        if not self._depth:
            super().release()

    def _release_all(self):
        depth, self._depth = self._depth, 1
        self.release()
        return depth

    def _acquire_again(self, depth):
        self.acquire()
        self._depth = depth

    def _is_mine(self):
        return self._owner is self._world.current


class Condition:
    def __init__(self, world, lock=None):
        self._world, self._lock = world, lock if lock is not None else RLock(world)
        self._waiters = []
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self):
        return self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()

    def wait(self, timeout=None):
        if not self._lock._is_mine():
            raise RuntimeError("cannot wait on un-acquired lock")
        waiters = self._waiters
        if self._world.ended:
            raise WorldEnded
        me = self._world.current
        entry = (me, me.wait_id)
        waiters.append(entry)
        depth = self._lock._release_all()  # gives no way: nobody runs between this and the waiting
        me.state = BLOCKED
        if timeout is not None:
            self._world.after(max(timeout, 0), self._world._time_over, entry)
        self._world._switch(me)
        woken = not me.timed_out
        if entry in waiters:
            waiters.remove(entry)
        self._lock._acquire_again(depth)
        return woken

    def wait_for(self, predicate, timeout=None):
        end_s = None if timeout is None else self._world.now + timeout
        result = predicate()
        while not result:
            left_s = None if end_s is None else end_s - self._world.now
            if left_s is not None and left_s <= 0:
                break
            self.wait(left_s)
            result = predicate()
        return result

    def notify(self, n=1):
        if not self._lock._is_mine() and not self._world.ended:
            raise RuntimeError("cannot notify on un-acquired lock")
        for _ in range(n):
            self._world.wake_one(self._waiters)

    def notify_all(self):
        if not self._lock._is_mine() and not self._world.ended:
            raise RuntimeError("cannot notify on un-acquired lock")
        self._world.wake_all(self._waiters)


class Event:
    def __init__(self, world):
        self._world, self._flag, self._waiters = world, False, []

    def is_set(self):
        return self._flag

    def set(self):
        self._flag = True
        self._world.wake_all(self._waiters)

    def clear(self):
        self._flag = False

    def wait(self, timeout=None):
        if self._flag:
            self._world.maybe_give_way()
            return True
        end_s = None if timeout is None else self._world.now + timeout
        while not self._flag:
            left_s = None if end_s is None else end_s - self._world.now
            if left_s is not None and left_s <= 0:
                self._world.give_way()
                break
            self._world.wait(self._waiters, left_s)
        return self._flag


class Semaphore:
    def __init__(self, world, value=1):
        self._world, self._value, self._waiters = world, value, []

    def acquire(self, blocking=True, timeout=None):
        self._world.maybe_give_way()
        end_s = None if timeout is None else self._world.now + timeout
        while self._value <= 0:
            if not blocking or (end_s is not None and self._world.now >= end_s):
                return False
            self._world.wait(self._waiters, None if end_s is None else end_s - self._world.now)
        self._value -= 1
        return True

    def release(self, n=1):
        self._value += n
        for _ in range(n):
            self._world.wake_one(self._waiters)

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


class Thread:
    def __init__(self, world, group=None, target=None, name=None, args=(), kwargs=None, *, daemon=None):
        self._world, self._target, self._args, self._kwargs = world, target, args, kwargs or {}
        self.name, self.daemon = name or getattr(target, "__name__", "thread"), daemon
        self.actor = None

    @property
    def ident(self):
        return None if self.actor is None else self.actor.number

    def run(self):
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self):
        if self.actor is not None:
            raise RuntimeError("threads can only be started once")
        world = self._world
        if world.ended:
            raise WorldEnded
        process = world.current.process
        actor = world.spawn(self.run, f"{process.name}/{self.name}", process)
        actor.thread = self
        self.actor = actor
        world.maybe_give_way()

    def is_alive(self):
        actor = self.actor
        return actor is not None and actor.state is not DEAD and actor.process.alive

    def join(self, timeout=None):
        if self.actor is None:
            raise RuntimeError("cannot join thread before it is started")
        world = self._world
        end_s = None if timeout is None else world.now + timeout
        while self.actor.state is not DEAD and self.actor.target is not None:
            left_s = None if end_s is None else end_s - world.now
            if left_s is not None and left_s <= 0:
                return
            world.wait(self.actor.joiners, left_s)
        world.maybe_give_way()


class SimpleQueue:
    def __init__(self, world):
        self._world, self._items, self._waiters = world, collections.deque(), []

    def put(self, item, block=True, timeout=None):
        self._items.append(item)
        self._world.wake_one(self._waiters)

    put_nowait = put

    def get(self, block=True, timeout=None):
        end_s = None if timeout is None else self._world.now + timeout
        while not self._items:
            left_s = None if end_s is None else end_s - self._world.now
            if not block or (left_s is not None and left_s <= 0):
                raise queue.Empty
            self._world.wait(self._waiters, left_s)
        item = self._items.popleft()
        self._world.maybe_give_way()
        return item

    def get_nowait(self):
        return self.get(False)

    def empty(self):
        return not self._items

    def qsize(self):
        return len(self._items)


def local_class(world):
    class Local:
        """threading.local: each actor sees attributes of its own."""

        def __getattr__(self, name):
            try:
                return world.current.locals[id(self)][name]
            except KeyError:
                raise AttributeError(name) from None

        def __setattr__(self, name, value):
            world.current.locals.setdefault(id(self), {})[name] = value

        def __delattr__(self, name):
            try:
                del world.current.locals[id(self)][name]
            except KeyError:
                raise AttributeError(name) from None

    return Local


def current(world):
    """The Thread of the running actor."""
    actor = world.current
    if actor.thread is None:
        actor.thread = Thread(world, name=actor.name)
        actor.thread.actor = actor
    return actor.thread
