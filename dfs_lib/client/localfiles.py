"""Local files that downloads make: a part file beside the target, and directories below a root that no link leads out of.

Never follows a link below a tree's root, and never shows a half-made file under the target's name.

    .NAME.dfs-part (0600, locked) ── fsync, mode, time ──> rename to NAME ──> fsync of the directory
"""

import os
import stat
import threading

from dfs_lib import errors, model
from dfs_lib.client.sources import local_error

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOSE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
# Opening by directory descriptor is what makes a swapped link harmless; where it is missing (Windows) paths have to do.
HAS_DIR_FD = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd and bool(_NO_FOLLOW)


def umask():
    """The process's file mode mask, read without changing it where the system tells."""
    try:
        status = os.open("/proc/self/status", os.O_RDONLY | _CLOSE)
        try:
            said = os.read(status, 4096).partition(b"\nUmask:")[2]
        finally:
            os.close(status)
        if said:
            return int(said.split(None, 1)[0], 8)
    except (OSError, ValueError):
        pass  # elsewhere it can only be read by setting it
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class Directory:
    """An open directory: names below it are reached through its descriptor."""

    def __init__(self, path, fd):
        self.path, self.fd = path, fd

    @classmethod
    def open(cls, path):
        """The directory a user named: links on the way to it are the user's own and followed."""
        if not HAS_DIR_FD:
            return cls(path, None)
        try:
            return cls(path, os.open(path or ".", os.O_RDONLY | _DIRECTORY | _CLOSE))
        except OSError as e:
            raise local_error(path, e) from e

    def enter(self, name):
        """The directory `name` in here, made when missing. Raises LocalFileError for a link or a file of that name."""
        path = os.path.join(self.path, name)
        try:
            try:
                os.mkdir(self._at(name), **self._dir_fd())
            except FileExistsError:
                pass  # what it is shows when it is opened
            if self.fd is None:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    raise errors.LocalFileError(path=path, detail="a link or file is in the way; it is not followed")
                return Directory(path, None)
            return Directory(path, os.open(name, os.O_RDONLY | _DIRECTORY | _NO_FOLLOW | _CLOSE, dir_fd=self.fd))
        except NotADirectoryError as e:
            raise errors.LocalFileError(path=path, detail="a link or file is in the way; it is not followed") from e
        except OSError as e:
            raise local_error(path, e) from e

    def _at(self, name):
        return name if self.fd is not None else os.path.join(self.path, name)

    def _dir_fd(self):
        return {} if self.fd is None else {"dir_fd": self.fd}

    def open_file(self, name, flags, mode=0o600):
        return os.open(self._at(name), flags | _NO_FOLLOW | _CLOSE, mode, **self._dir_fd())

    def look(self, name):
        """The os.stat_result of what has that name in here, without following it, or None."""
        try:
            return os.stat(self._at(name), follow_symlinks=False, **self._dir_fd())
        except FileNotFoundError:
            return None

    def unlink(self, name):
        try:
            os.unlink(self._at(name), **self._dir_fd())
        except FileNotFoundError:
            pass  # gone is what was wanted

    def rename(self, old, new):
        if self.fd is None:
            os.replace(self._at(old), self._at(new))
        else:
            os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def sync(self):
        """Make the names in here durable."""
        if self.fd is not None:
            os.fsync(self.fd)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class PartFile:
    """The file a download writes to until it is whole. Positional writes from any thread."""

    def __init__(self, directory, name, size, resume=True, mode=None):
        """Make or take over `.NAME.dfs-part` in a Directory. Raises LocalFileError, also when a directory has the name.

        mode: permission bits under its own name; None: those of any new file there.
        """
        self._directory, self._name, self._mode = directory, name, mode
        self.path = os.path.join(directory.path, name)
        self._part = _part_name(name)
        try:
            there = directory.look(name)
            if there is not None and stat.S_ISDIR(there.st_mode):
                raise errors.LocalFileError(path=self.path, detail="it is a directory")
            self._fd, self.has_old_bytes = self._make_first(), False
            if self._fd is None:
                self._fd = self._take_over(size if resume else 0)
                self.has_old_bytes = self._fd is not None and os.fstat(self._fd).st_size > 0
            if self._fd is None:
                self._fd = self._make()
        except OSError as e:
            raise local_error(self.path, e) from e
        self._seeks = None if hasattr(os, "pwrite") and hasattr(os, "preadv") else threading.Lock()

        self._n_appended = 0

    def _make_first(self):
        """A fresh part file when nothing has its name, as nearly always; else None."""
        try:
            fd = self._directory.open_file(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if self._mode is not None else 0o666)
        except FileExistsError:
            return None
        if self._mode is None and hasattr(os, "fchmod"):
            # What the system gave the empty file is what it gives any: to read the umask from /proc costs as much as writing a small file.
            self._mode = stat.S_IMODE(os.fstat(fd).st_mode)
            os.fchmod(fd, 0o600)
        if _lock(fd):
            return fd
        os.close(fd)  # another process took it over between the two calls
        return None

    def _take_over(self, size):
        """The descriptor of a part file that an earlier try left, cut to `size`, or None. Only a plain file of our own counts."""
        try:
            fd = self._directory.open_file(self._part, os.O_RDWR | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            return None
        found = os.fstat(fd)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and (os.name != "posix" or found.st_uid == os.geteuid())
        if not is_ours or not _lock(fd) or not self._still_named(found):
            os.close(fd)
            return None
        if found.st_size > size:
            os.ftruncate(fd, size)
        return fd

    def _still_named(self, found):
        """Whether the file just locked still has the part's name: whoever had the lock before may have renamed it into place."""
        try:
            now = self._directory.look(self._part)
        except OSError:
            return False
        return now is not None and (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)

    def _make(self):
        """A fresh part file. What is in the way is another process's, or a link: it is left alone, ours gets another name."""
        for _attempt in range(3):
            try:
                fd = self._directory.open_file(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                if _lock(fd):
                    return fd
                os.close(fd)  # another process took it over between the two calls
            except FileExistsError:
                pass  # the next name is free
            self._part = _part_name(self._name, os.urandom(4).hex())
        raise errors.LocalFileError(path=self.path, detail=f"{self._part} is in the way")

    def write(self, view, offset):
        try:
            while len(view):
                n = os.pwrite(self._fd, view, offset) if self._seeks is None else self._write_portably(view, offset)
                if n == len(view):
                    break
                view, offset = view[n:], offset + n
        except OSError as e:
            raise local_error(self.path, e) from e

    def append(self, view):
        """Write after what this object has appended so far; for one thread."""
        self.write(view, self._n_appended)
        self._n_appended += len(view)

    def _write_portably(self, view, offset):
        with self._seeks:
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.write(self._fd, view)

    def read(self, view, offset):
        """Fill `view`; False when the file ends before."""
        try:
            if self._seeks is None:
                return os.preadv(self._fd, (view,), offset) == len(view)
            with self._seeks:
                os.lseek(self._fd, offset, os.SEEK_SET)
                data = os.read(self._fd, len(view))
            view[:len(data)] = data
            return len(data) == len(view)
        except OSError as e:
            raise local_error(self.path, e) from e

    def finish(self, size, mtime_at, sync_directory=True):
        """Make it durable under its own name."""
        try:
            if os.fstat(self._fd).st_size != size:
                os.ftruncate(self._fd, size)
            if hasattr(os, "fchmod"):
                os.fchmod(self._fd, 0o666 & ~umask() if self._mode is None else self._mode)
            _set_time(self._fd, self.path, mtime_at)
            os.fsync(self._fd)
            if os.name == "nt":
                self._close()  # Windows renames no open file
            self._directory.rename(self._part, self._name)
            if sync_directory:
                self._directory.sync()
        except OSError as e:
            raise local_error(self.path, e) from e
        finally:
            self._close()

    def leave(self, keep):
        """Give up: keep what is there for the next try, or remove it."""
        worth_it = keep and os.fstat(self._fd).st_size > 0
        if os.name == "nt":
            self._close()  # Windows removes no open file; elsewhere our lock keeps others off until it is gone
        if not worth_it:
            try:
                self._directory.unlink(self._part)
            except OSError:
                pass  # the error that made us give up is the one to tell
        self._close()

    def _close(self):
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _set_time(fd, path, mtime_at):
    if os.utime in os.supports_fd:
        seconds = int(mtime_at // 1)
        at_ns = seconds * 10**9 + round((mtime_at - seconds) * 1e9)  # in one product the last digits would be lost
        try:
            os.utime(fd, ns=(at_ns, at_ns))
        except (OSError, OverflowError):
            pass  # a time that this file system cannot hold is no reason to lose the file
    # Elsewhere the time stays the time of the download.


def _part_name(name, salt=""):
    part = f".{name}.dfs-part{salt and '-' + salt}"
    if len(os.fsencode(part)) > model.MAX_PART_BYTES:
        import hashlib

        part = f".{hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()}.dfs-part{salt and '-' + salt}"
    return part


def _lock(fd):
    """Take the lock that says that this part file is being written; False when another process has it."""
    try:
        import fcntl
    except ImportError:
        return True  # Windows opens no file that is renamed meanwhile
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


class Tree:
    """Directories below one root, by descriptor, link-proof (F33)."""

    def __init__(self, root):
        """root: an existing or new directory that the user named."""
        try:
            os.makedirs(root, exist_ok=True)
        except OSError as e:
            raise local_error(root, e) from e
        self._root = Directory.open(root)

    def directory(self, relative):
        """The Directory of a `/`-separated relative path ("" is the root), made where missing; the caller closes it."""
        current = Directory(self._root.path, None if self._root.fd is None else os.dup(self._root.fd))
        for part in relative.split("/") if relative else ():
            try:
                below = current.enter(_local_part(part, self._root.path))
            finally:
                current.close()
            current = below
        return current

    def close(self):
        self._root.close()


def _local_part(part, root):
    """A remote name's part as a local one: what the validator lets through, less what this system gives another meaning."""
    if part in ("", ".", "..") or "/" in part or "\0" in part or (os.sep != "/" and (os.sep in part or ":" in part)):
        raise errors.BadName(path=os.path.join(root, part), detail="it cannot be a local name here")
    return part
