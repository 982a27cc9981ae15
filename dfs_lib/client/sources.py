"""Where an upload's bytes come from: a local file that must not change meanwhile, or a pipe put by in temporary files.

Never talks to anybody. Reads into the caller's buffer, so that memory stays flat at any size.
"""

import os
import stat
import threading

from dfs_lib import errors, model

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def local_error(path, e):
    """Our error for an OSError on a local file."""
    return errors.LocalFileError(path=os.fspath(path), detail=(e.strerror or str(e)).lower())


class LocalFile:
    """A regular file, opened once; positional reads from any thread.

    Raises LocalFileError when it cannot be opened or read, and `changed while it was read` from then on when its size or
    modification time is no longer what it was at the start (`expected`: an earlier os.stat_result to compare with).
    """

    def __init__(self, path, follow=True, expected=None):
        self.path = path
        try:
            # O_NONBLOCK: something that became a FIFO since it was looked at must not hold us up for ever.
            self._fd = os.open(path, os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0) | (0 if follow else _NO_FOLLOW))
            self._start = os.fstat(self._fd)
        except OSError as e:
            raise local_error(path, e) from e
        if not stat.S_ISREG(self._start.st_mode):
            self.close()
            raise errors.LocalFileError(path=os.fspath(path), detail="it is not a regular file")
        if expected is not None and _mark(expected) != _mark(self._start):
            self.close()
            raise self._changed()
        self.size, self.mtime_at = self._start.st_size, self._start.st_mtime
        self._seek_lock = None if hasattr(os, "preadv") else threading.Lock()

    def _changed(self):
        return errors.LocalFileError(path=os.fspath(self.path), detail="it changed while it was read; nothing was published")

    def read_into(self, view, offset):
        """Fill `view` from `offset`."""
        try:
            n = self._read(view, offset)
            while n < len(view):
                more = self._read(view[n:], offset + n)
                if not more:
                    raise self._changed()
                n += more
        except OSError as e:
            raise local_error(self.path, e) from e

    def _read(self, view, offset):
        if self._seek_lock is None:
            return os.preadv(self._fd, (view,), offset)
        with self._seek_lock:  # Windows has no positional read
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(view))
        view[:len(data)] = data
        return len(data)

    def check_unchanged(self):
        """Raise LocalFileError unless the file is as it was when it was opened."""
        try:
            now = os.fstat(self._fd)
        except OSError as e:
            raise local_error(self.path, e) from e
        if _mark(now) != _mark(self._start):
            raise self._changed()

    def close(self):
        os.close(self._fd)


def _mark(found):
    return found.st_size, found.st_mtime_ns, found.st_ino


class Spool:
    """One block of a pipe in an unlinked temporary file, so that it can be sent again without keeping it in memory."""

    def __init__(self):
        import tempfile  # only pipes pay for this import

        try:
            self._file = tempfile.TemporaryFile(buffering=0)
        except OSError as e:
            raise local_error(tempfile.gettempdir(), e) from e
        self.size = 0

    def add(self, view):
        try:
            while len(view):
                n = self._file.write(view)
                self.size += n
                view = view[n:]
        except OSError as e:
            raise local_error("the temporary directory", e) from e

    def read_into(self, view, offset):
        try:
            if hasattr(os, "preadv"):
                n = os.preadv(self._file.fileno(), (view,), offset)
            else:
                self._file.seek(offset)
                n = self._file.readinto(view)
        except OSError as e:
            raise local_error("the temporary directory", e) from e
        if n != len(view):
            raise errors.LocalFileError(path="the temporary directory", detail="a spooled block has become shorter")

    def close(self):
        self._file.close()


def spool(pipe, block_size, buffer, should_stop):
    """Cut a pipe into Spools of `block_size` bytes: yields (Spool, whether it is the last one).

    pipe: a binary file object; buffer: memoryview to read through. Looks one read ahead, because the last block must be known
    as such. An empty pipe yields nothing.
    """
    read = getattr(pipe, "readinto1", None) or getattr(pipe, "readinto", None) or (lambda view: _read_plainly(pipe, view))
    n = read(buffer)
    while n:
        current = Spool()
        try:
            while n and current.size < block_size:
                fits = min(n, block_size - current.size)
                current.add(buffer[:fits])
                if fits < n:
                    buffer[:n - fits] = bytes(buffer[fits:n])
                    n -= fits
                    break
                if should_stop():
                    current.close()
                    return
                n = read(buffer)
        except BaseException:
            current.close()
            raise
        yield current, not n


class BrokenOff(Exception):
    """The rest of a growing block will never come; why, its maker has said."""


class _Growing:
    """A block of a pipe that is handed out while it fills: who reads ahead of its maker waits."""

    def __init__(self, size):
        self.size = size
        self._n_there, self._is_broken = 0, False
        self._grown = threading.Condition()

    @property
    def n_missing(self):
        return self.size - self._n_there

    def _note(self, n):
        """So many more bytes are there. Readers are woken for whole chunks: they wait for no less, but at the end."""
        with self._grown:
            before, self._n_there = self._n_there, self._n_there + n
            if self._n_there == self.size or self._n_there // model.CHUNK_SIZE != before // model.CHUNK_SIZE:
                self._grown.notify_all()

    def break_off(self):
        """Nothing more comes: readers that wait give up."""
        with self._grown:
            self._is_broken = True
            self._grown.notify_all()

    def settle(self):
        """Its maker writes into it no more."""

    def _await(self, end):
        with self._grown:
            self._grown.wait_for(lambda: self._is_broken or self._n_there >= end)
            if self._n_there < end:
                raise BrokenOff


class GrowingSpool(_Growing):
    """Such a block in a temporary file."""

    def __init__(self, size):
        super().__init__(size)
        self._spool = Spool()

    def room(self, buffer):
        """A view for the next bytes, not longer than what is missing."""
        return buffer[:min(self.n_missing, len(buffer))]

    def grown(self, view):
        """These bytes of the room have come."""
        self._spool.add(view)
        self._note(len(view))

    def read_into(self, view, offset):
        self._await(offset + len(view))
        self._spool.read_into(view, offset)

    def close(self):
        self._spool.close()


class GrowingMemory(_Growing):
    """Such a block in memory: bytes go from the pipe to where they are sent from, and nowhere in between."""

    def __init__(self, size, memory, data):
        """memory: the Memory that `data` goes back to."""
        super().__init__(size)
        self._memory, self._data = memory, data
        self._view = memoryview(data)  # longer than the block when the buffer was used before
        self._is_filling, self._is_closed = True, False  # guarded by _grown

    def room(self, buffer):
        return self._view[self._n_there:self.size]

    def grown(self, view):
        self._note(len(view))

    def view(self, offset, n):
        """The bytes themselves."""
        self._await(offset + n)
        return self._view[offset:offset + n]

    def read_into(self, view, offset):
        view[:] = self.view(offset, len(view))

    def close(self):
        """Nobody reads it any more. Its buffer goes back when nobody writes into it either: a pipe may be in the middle of a read into it, and
        what comes then would be another upload's."""
        with self._grown:
            self._is_closed = True
            if self._is_filling:
                return
        self._give_back()

    def settle(self):
        with self._grown:
            self._is_filling = False
            if not self._is_closed:
                return
        self._give_back()

    def _give_back(self):
        data, self._data = self._data, None
        if data is not None:
            self._memory.give(data)


class Memory:
    """Room for blocks on their way, shared by all uploads of a process; for many threads.

    Buffers are used again while any is in use, because fresh ones cost a page fault each 4 KiB; then all are let go. They are mapped and
    not allocated: the C library would keep what each thread has freed, and memory would grow to several times what is in use.
    """

    def __init__(self, most):
        """most: bytes in all."""
        self._most = most
        self._lock = threading.Lock()
        self._in_use, self._spare = 0, []  # guarded by _lock: bytes taken; buffers given back

    def take(self, size):
        """A buffer of at least `size` bytes, or None when there is no room for it."""
        with self._lock:
            spare = next((each for each in self._spare if len(each) >= size), None)
            if spare is not None:
                self._spare.remove(spare)
            else:
                while self._spare and self._in_use + sum(map(len, self._spare)) + size > self._most:
                    _let_go(self._spare.pop())
                if self._in_use + size > self._most:
                    return None
                try:
                    spare = _mapped(size)
                except OSError:
                    return None  # the machine has no memory left: a temporary file will do
            self._in_use += len(spare)
            return spare

    def give(self, data):
        with self._lock:
            self._in_use -= len(data)
            if self._in_use:
                self._spare.append(data)
            else:
                _let_go(data)
                while self._spare:
                    _let_go(self._spare.pop())


def _let_go(data):
    """Give its pages back now: what an upload that broke off leaves to the garbage collector may hold the buffer for long."""
    import mmap

    if hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)


def _mapped(size):
    import mmap

    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return mmap.mmap(-1, size, **private)


def growing_spools(pipe, block_size, buffer, should_stop, size, memory=None):
    """Cut `size` bytes of a pipe into growing blocks: yields (source, whether it is the last one) before the first byte of each is there.

    memory: a Memory for those that fit in. Raises LocalFileError when the pipe ends early; what it raises itself passes. A source that was
    yielded is filled, or broken off.
    """
    read = getattr(pipe, "readinto1", None) or getattr(pipe, "readinto", None) or (lambda view: _read_plainly(pipe, view))
    left = size
    while left:
        n = min(block_size, left)
        data = memory.take(n) if memory is not None else None
        spooled = GrowingSpool(n) if data is None else GrowingMemory(n, memory, data)
        left -= n
        try:
            yield spooled, not left
            while spooled.n_missing:
                if should_stop():
                    return
                room = spooled.room(buffer)
                n = read(room)
                if not n:
                    raise errors.LocalFileError(path="the source",
                                                detail=f"it ended {left + spooled.n_missing} bytes early; nothing was published")
                spooled.grown(room[:n])
        finally:
            if spooled.n_missing:
                spooled.break_off()
            spooled.settle()


def _read_plainly(pipe, view):
    data = pipe.read(len(view))
    view[:len(data)] = data
    return len(data)
