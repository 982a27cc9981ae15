"""The system's calls as block files need them: whole writes, true syncs, no link followed, and our error for an OSError.

Never knows what a block or a keeper is. Functions here raise OSError as it comes; whoever knows the path calls `ours`.
"""

import contextlib
import errno
import os
import stat
import sys
import threading
import time

from dfs_lib import errors

try:
    import fcntl
except ImportError:  # Windows: no lock between processes; the counters may drift until the next start
    fcntl = None

# A sync that takes longer waits for a medium; so many of them at once are worth a thread each.
SLOW_SYNC_S, SYNCS_AT_ONCE = 0.0005, 8
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
# Faults of a disk that a person or time may end: a start waits for that.
_PASSING = FULL | {errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, getattr(errno, "EREMOTEIO", errno.EIO), getattr(errno, "ESTALE", errno.EIO)}

SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# O_NONBLOCK: a pipe that somebody put in a block's place must not hang the reader; it means nothing for plain files.
READ = os.O_RDONLY | SAFE | getattr(os, "O_NONBLOCK", 0)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE
_HAS_DIRECTORY_FDS = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")


def ours(e, path, size=0):
    """Our error for an OSError at `path`."""
    if e.errno in FULL:
        return errors.NoRoom(size=size, detail=f"{path}: {e.strerror}")
    if e.errno in _SCARCE:
        return errors.Busy(address="this keeper", detail=e.strerror)
    return errors.DiskFault(path=str(path), detail=e.strerror or str(e))


def may_pass(error):
    """Whether an error of ours comes from a disk that is full, failing or read-only: what may end without a change of settings."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING


def fsync(fd):
    """Bytes and length on the medium; macOS's fsync stops at the drive's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def fsync_all(fds):
    """Sync many files; a list of None, or the OSError in its place. Never a second try (fault F8).

    On a disk that takes its time they are synced side by side: the system then writes many with one turn of the medium. Where a sync
    is over at once (memory, a cache with a battery) threads would cost more than they save.
    """
    # What no sync has come back from is not synced, whatever a thread may have ended of.
    outcomes = [OSError(errno.EIO, "it was not synced")] * len(fds)
    left = iter(range(len(fds)))

    def sync(at):
        try:
            fsync(fds[at])
        except OSError as e:
            outcomes[at] = e
        else:
            outcomes[at] = None

    def sync_rest():
        for at in left:  # one iterator for all threads: taking the next is one step of the interpreter
            sync(at)

    for at in left:
        began_s = time.perf_counter()
        sync(at)
        if time.perf_counter() - began_s > SLOW_SYNC_S and at + 1 < len(fds):
            threads = [threading.Thread(target=sync_rest, name="sync", daemon=True) for _ in range(min(SYNCS_AT_ONCE, len(fds) - at) - 1)]
            for thread in threads:
                thread.start()
            sync_rest()
            for thread in threads:
                thread.join()
            break
    return outcomes


def write_all(fd, pieces):
    """Write every byte of `pieces` with as few calls as the system allows; a short write goes on where it stopped."""
    left = sum(map(len, pieces))
    while left:
        n = os.writev(fd, pieces) if hasattr(os, "writev") else os.write(fd, pieces[0])
        if n <= 0:
            raise OSError(errno.EIO, "a write took no bytes")
        left -= n
        while left and n >= len(pieces[0]):
            n -= len(pieces.pop(0))
        if left and n:
            pieces[0] = memoryview(pieces[0])[n:]


def read_into(fd, view, offset):
    """Bytes read at `offset` into `view`; fewer than asked only at the file's end."""
    done = 0
    while done < len(view):
        if hasattr(os, "preadv"):
            n = os.preadv(fd, [view[done:]], offset + done)
        else:
            os.lseek(fd, offset + done, os.SEEK_SET)
            piece = os.read(fd, len(view) - done)
            n = len(piece)
            view[done:done + n] = piece
        if not n:
            break
        done += n
    return done


def read_at(fd, size, offset):
    """Up to `size` bytes from `offset` on; fewer only at the file's end."""
    if hasattr(os, "pread"):
        raw = os.pread(fd, size, offset)
        if len(raw) == size:
            return raw
    buffer = bytearray(size)
    return bytes(buffer[:read_into(fd, memoryview(buffer), offset)])


def write_start(fd, content):
    """Write a few bytes at offset 0."""
    if hasattr(os, "pwrite"):
        os.pwrite(fd, content, 0)
    else:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, content)


def lock(fd):
    """Lock the file for this process, or OSError (EACCES, EAGAIN, EDEADLK) at once when another has it."""
    if fcntl:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt  # Windows

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)


@contextlib.contextmanager
def locked(fd):
    """Wait for the file's lock and hold it within the `with`. On Windows it holds nothing: only for what is a hint."""
    if fcntl:
        fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if fcntl:
            fcntl.flock(fd, fcntl.LOCK_UN)


# -- names ------------------------------------------------------------------------------------------------------------
class Directory:
    """One directory, held open where the system can: names in it are reached through it and never through a link."""

    def __init__(self, path, parent=None):
        self.path, self.fd = path, None
        if not _HAS_DIRECTORY_FDS:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        elif parent is None:  # the top may be a link: whoever administers the machine chose it
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            self.fd = os.open(os.path.basename(path), os.O_RDONLY | os.O_DIRECTORY | SAFE, dir_fd=parent.fd)

    def below(self, name):
        return Directory(os.path.join(self.path, name), self)

    def make(self, name, mode=0o700):
        """Make a directory; one that is there already will do."""
        try:
            os.mkdir(self._at(name), mode, dir_fd=self.fd)
        except FileExistsError:
            pass  # as said above

    def open(self, name, flags, mode=0o600):
        return os.open(self._at(name), flags, mode, dir_fd=self.fd)

    def has(self, name):
        return os.access(self._at(name), os.F_OK, dir_fd=self.fd)

    def stat(self, name):
        return os.stat(self._at(name), dir_fd=self.fd, follow_symlinks=False)

    def unlink(self, name):
        os.unlink(self._at(name), dir_fd=self.fd)

    def rename(self, name, target, new_name):
        """Move `name` to another (or this) directory, over what is there."""
        os.replace(self._at(name), target._at(new_name), src_dir_fd=self.fd, dst_dir_fd=target.fd)

    def sync(self):
        """Names on the medium. Windows has no such call, and journals its names by itself."""
        if self.fd is not None:
            fsync(self.fd)

    def names(self):
        # By path, not by fd: listings through one fd would share its position between threads.
        return os.listdir(self.path)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def _at(self, name):
        return name if self.fd is not None else os.path.join(self.path, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_changeable(open_file, name):
    """A descriptor of a file that is to be read and written, made when missing; on a read-only disk one that is only read.

    open_file(name, flags): os.open or Directory.open
    """
    try:
        return open_file(name, os.O_RDWR | os.O_CREAT | SAFE, 0o600)
    except OSError as e:
        if e.errno != errno.EROFS:
            raise
        return open_file(name, READ)


def unlink_if_there(directory, name):
    try:
        directory.unlink(name)
    except FileNotFoundError:
        pass  # which is what was wanted


def write_file(directory, name, content, temporary):
    """Put `content` under `name` whole and durably, or leave what was there."""
    unlink_if_there(directory, temporary)  # left by a crash
    fd = directory.open(temporary, CREATE)
    try:
        write_all(fd, [content])
        fsync(fd)
    finally:
        os.close(fd)
    directory.rename(temporary, directory, name)
    directory.sync()
