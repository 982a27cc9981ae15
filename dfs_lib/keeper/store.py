"""Block files on one keeper's disk: the only opener of them, and the directory is the index.

Never talks to a network, reads a clock or judges whether a block is wanted. Several processes (a port each, one for
orders) use one directory at once: each has its own Store and its own `slot`, a text that keeps their temporary names
apart. Threads of a process share its Store; one Incoming or Stored belongs to one thread at a time.

    DIRECTORY/            0700
      keeper.json         who this keeper is and whose: written whole or not at all
      lock                flock, held by the daemon's first process
      counters            bytes and number of blocks, a hint that is counted anew at each start
      incoming/           SLOT~N: half-written, nobody reads them, swept after a crash
      blocks/00 … ff/     one file a block, by the last two digits of its id (the random end: they fill evenly)
      quarantine/ aside/  ID.N and ID.N.reason: damaged blocks, and blocks the catalog does not know, kept for a human

    begin → write … → finish:  incoming/x ─ fsync ─ rename ─> blocks/xx/ID ─ fsync of blocks/xx ─> the caller may say so
    A crash at any step leaves the block whole under its name, or absent (invariant I10).
"""

import errno
import heapq
import itertools
import json
import logging
import os
import re
import stat
import struct
import sys
import threading
from collections import namedtuple

from dfs_lib import errors
from dfs_lib.checksums import chunk_crc, crc_at
from dfs_lib.keeper import block_format
from dfs_lib.model import CHUNK_SIZE

try:
    import fcntl
except ImportError:  # Windows: no lock between processes; the counters may drift until the next start
    fcntl = None

log = logging.getLogger(__name__)

FORMAT = 1
_BLOCK_ID = re.compile(r"[0-9a-f]{32}")
# No "~", which ends the slot in a temporary name, and no leading dot.
_SLOT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_KEPT = re.compile(r"([0-9a-f]{32})\.([0-9]{1,9})")
_BUCKETS = [f"{n:02x}" for n in range(256)]
_COUNTERS = struct.Struct("<qqq")  # counted at all, bytes, blocks
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# O_NONBLOCK: a pipe that somebody put in a block's place must not hang the reader; it means nothing for plain files.
_READ = os.O_RDONLY | _SAFE | getattr(os, "O_NONBLOCK", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
_HAS_DIRECTORY_FDS = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")

Identity = namedtuple("Identity", "keeper_id cluster_id")  # cluster_id is None until a master has taken the keeper in
# A file in quarantine/ or aside/: block id, file name there, its length in bytes, and why it is there ("" when not written).
Kept = namedtuple("Kept", "block name file_size reason")
Space = namedtuple("Space", "used free n_blocks")


# -- the system's calls ----------------------------------------------------------------------------------------------
def _ours(e, path, size=0):
    """Our error for an OSError at `path`."""
    if e.errno in _FULL:
        return errors.NoRoom(size=size, detail=f"{path}: {e.strerror}")
    if e.errno in _SCARCE:
        return errors.Busy(address="this keeper", detail=e.strerror)
    return errors.DiskFault(path=str(path), detail=e.strerror or str(e))


def _fsync(fd):
    """Bytes and length on the medium; macOS's fsync stops at the drive's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def _write_all(fd, pieces):
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


def _read_into(fd, view, offset):
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


def _read_at(fd, size, offset):
    """Up to `size` bytes from `offset` on; fewer only at the file's end."""
    if hasattr(os, "pread"):
        raw = os.pread(fd, size, offset)
        if len(raw) == size:
            return raw
    buffer = bytearray(size)
    return bytes(buffer[:_read_into(fd, memoryview(buffer), offset)])


def _write_at(fd, content):
    if hasattr(os, "pwrite"):
        os.pwrite(fd, content, 0)
    else:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, content)


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
            self.fd = os.open(os.path.basename(path), os.O_RDONLY | os.O_DIRECTORY | _SAFE, dir_fd=parent.fd)

    def below(self, name):
        return Directory(os.path.join(self.path, name), self)

    def make(self, name, mode=0o700):
        """Make a directory; one that is there already will do."""
        try:
            os.mkdir(self._at(name), mode, dir_fd=self.fd)
        except FileExistsError:
            pass

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
            _fsync(self.fd)

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


def _write_file(directory, name, content, temporary):
    """Put `content` under `name` whole and durably, or leave what was there."""
    _unlink_if_there(directory, temporary)  # left by a crash
    fd = directory.open(temporary, _CREATE)
    try:
        _write_all(fd, [content])
        _fsync(fd)
    finally:
        os.close(fd)
    directory.rename(temporary, directory, name)
    directory.sync()


# -- the directory as a whole: who it belongs to, who uses it ---------------------------------------------------------
def prepare(directory):
    """Make the data directory and what belongs in it, durably. What is there already stays. Raises DiskFault, NoRoom."""
    directory = os.path.abspath(directory)
    try:
        _make_path(directory)
        with Directory(directory) as top:
            for name in ("incoming", "blocks", "quarantine", "aside"):
                top.make(name)
            with top.below("blocks") as blocks:
                for name in _BUCKETS:
                    blocks.make(name)
                # Also when nothing is new: an earlier start may have died between making and syncing.
                blocks.sync()
                top.sync()
    except OSError as e:
        raise _ours(e, directory) from e


def _make_path(path):
    """Like mkdir -p with 0700, each new name synced into its parent: a directory lost in a power cut takes all blocks along."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_path(parent)
    with Directory(parent) as above:
        above.make(os.path.basename(path))
        above.sync()


def lock(directory):
    """An fd that holds the directory for this daemon until it is closed or the process ends.

    A child made by fork shares the lock: it must close this fd, or the directory stays locked while the child lives.
    Raises DirectoryInUse when another process holds it.
    """
    path = os.path.join(directory, "lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o600)
    except OSError as e:
        raise _ours(e, path) from e
    try:
        _lock_fd(fd)
    except OSError as e:
        os.close(fd)
        if e.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise errors.DirectoryInUse(path=str(directory)) from e
        raise _ours(e, path) from e
    return fd


def _lock_fd(fd):
    if fcntl:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt  # Windows

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)


def load_identity(directory, make_id):
    """Identity of the keeper whose directory this is; the first start makes one. Call it under `lock`.

    make_id: called for a new keeper's id, 32 lower-case hex digits.
    Raises IntegrityError when keeper.json is there and cannot be read, Refusal when a newer program wrote it.
    """
    try:
        with Directory(directory) as top:
            known = _read_identity(top)
            if known is None:
                known = {"keeper_id": make_id(), "cluster_id": None, "format": FORMAT}
                _save_identity(top, known)
    except OSError as e:
        raise _ours(e, os.path.join(directory, "keeper.json")) from e
    return Identity(known["keeper_id"], known["cluster_id"])


def save_cluster(directory, cluster_id):
    """Bind the directory to a cluster, once; a second time with the same cluster changes nothing. Raises WrongCluster."""
    try:
        with Directory(directory) as top:
            known = _read_identity(top)
            if known is None:
                raise errors.Misuse(detail="load_identity comes before save_cluster")
            if known["cluster_id"] not in (None, cluster_id):
                raise errors.WrongCluster(what=str(directory), theirs=known["cluster_id"], ours=cluster_id)
            if known["cluster_id"] is None:
                _save_identity(top, {**known, "cluster_id": cluster_id})
    except OSError as e:
        raise _ours(e, os.path.join(directory, "keeper.json")) from e


def read_identity(directory):
    """Identity as load_identity gives it, or None where no keeper has been. Writes nothing."""
    try:
        with Directory(directory) as top:
            known = _read_identity(top)
    except OSError as e:
        raise _ours(e, os.path.join(directory, "keeper.json")) from e
    return known and Identity(known["keeper_id"], known["cluster_id"])


def _read_identity(top):
    path = os.path.join(top.path, "keeper.json")
    try:
        fd = top.open("keeper.json", _READ)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        raw = file.read(64 * 1024)
    try:
        known = json.loads(raw)
        form, keeper_id, cluster_id = known["format"], known["keeper_id"], known["cluster_id"]
        sane = _BLOCK_ID.fullmatch(keeper_id) and (cluster_id is None or isinstance(cluster_id, str)) and isinstance(form, int)
    except (ValueError, LookupError, TypeError, RecursionError):
        sane = False
    if not sane:
        raise errors.IntegrityError(f"{path} cannot be read as a keeper's identity; bring it back from a copy, or remove it "
                                    "to let this directory join as a new keeper (its blocks stay)", path=path)
    if form != FORMAT:
        raise errors.Refusal(f"{path} is of keeper format {form}, this program knows format {FORMAT}; "
                             "use the version of dfs that wrote it", path=path)
    return known


def _save_identity(top, known):
    _write_file(top, "keeper.json", json.dumps(known).encode() + b"\n", ".keeper.json.new")


# -- one block file, open for reading ---------------------------------------------------------------------------------
def open_file(directory, name, block):
    """Stored: the block file `name` in `directory` (a Directory), whose footer agrees with its length and id.

    Raises BlockMissing when there is none, IntegrityError when it is no block file or its footer is damaged, DiskFault.
    """
    try:
        fd = directory.open(name, _READ)
    except FileNotFoundError:
        raise errors.BlockMissing(block=block) from None
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise block_format.damaged(bytes.fromhex(block), "a symbolic link stands in its place") from e
        raise _ours(e, os.path.join(directory.path, name)) from e
    try:
        return Stored(fd, block, os.path.join(directory.path, name))
    except BaseException:
        os.close(fd)
        raise


class Stored:
    """A block open for reading: `fd`, `size` bytes of data from offset 0 on, `footer`. Close it, or use `with`."""

    __slots__ = ("fd", "block", "size", "footer", "path", "file_size")

    def __init__(self, fd, block, path):
        self.fd, self.block, self.path = fd, block, path
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise block_format.damaged(bytes.fromhex(block), "something that is no plain file stands in its place")
            self.file_size = facts.st_size
            raw = _read_at(fd, block_format.FOOTER_SIZE, max(0, self.file_size - block_format.FOOTER_SIZE))
        except OSError as e:
            raise _ours(e, path) from e
        self.footer = block_format.parse_footer(raw, self.file_size, bytes.fromhex(block))
        self.size = self.footer.size

    def trailer(self):
        """(metadata, crcs), checked against the trailer's own checksum. Raises IntegrityError, DiskFault."""
        try:
            return block_format.parse_trailer(_read_at(self.fd, self.footer.trailer_size, self.size), self.footer)
        except OSError as e:
            raise _ours(e, self.path) from e

    def read_chunk(self, index, buffer, crcs):
        """A view of chunk `index` in `buffer`, checked. Raises ChecksumMismatch; DiskFault on a failed or short read."""
        offset = index * self.footer.chunk_size
        view = memoryview(buffer)[:min(self.footer.chunk_size, self.size - offset)]
        try:
            if _read_into(self.fd, view, offset) != len(view):
                raise OSError(errno.EIO, f"short read in chunk {index}")
        except OSError as e:
            raise _ours(e, self.path) from e
        if chunk_crc(self.footer.block, index, view) != crc_at(crcs, index):
            raise errors.ChecksumMismatch(block=self.block, chunk=index, where=f" in {self.path}")
        return view

    def verify(self, buffer=None, pause=None, cold=False):
        """Read every chunk again and compare; returns the bytes of data read.

        buffer: writable, at least a chunk; one is made when left out. pause: called with the bytes read after each chunk,
        so that a scrubber can hold back. cold: read from the medium, not from the system's cache, where it can be told so.
        """
        _, crcs = self.trailer()
        if buffer is None or len(buffer) < self.footer.chunk_size:
            buffer = bytearray(min(self.footer.chunk_size, max(self.size, 1)))
        if cold and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for index in range(self.footer.n_chunks):
            view = self.read_chunk(index, buffer, crcs)
            if pause is not None:
                pause(len(view))
        return self.size

    def close(self):
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- one block on its way in ------------------------------------------------------------------------------------------
class Incoming:
    """A block being written. It is nowhere to be seen until `finish` returns; leaving its `with` before that aborts it.

    The temporary file is made when the first bytes go to disk. A block that comes in one `write` and is one chunk at most
    is not copied: its view is kept until `finish`, which sends data and trailer out in one call. Do not reuse it before.
    """

    __slots__ = ("block", "size", "written", "_store", "_bucket", "_metadata", "_replaces", "_fd", "_name", "_held", "_done")

    def __init__(self, store, bucket, block, metadata, size, replaces):
        self.block, self.size, self.written = block, size, 0
        self._store, self._bucket, self._metadata, self._replaces = store, bucket, metadata, replaces
        self._fd = self._name = self._held = None
        self._done = False

    def write(self, view):
        """Append bytes. Raises NoRoom, DiskFault, Busy (the block is aborted then), Misuse past the size that was begun."""
        n = len(view)
        if self._done or self.written + n > self.size:
            self.abort()
            raise errors.Misuse(detail=f"block {self.block} was begun with {self.size} bytes, more came")
        first, self.written = not self.written, self.written + n
        if first and n == self.size and n <= CHUNK_SIZE:
            self._held = view
            return
        try:
            if self._fd is None:
                self._create()
            _write_all(self._fd, [view])
        except OSError as e:
            self.abort()
            raise _ours(e, self._store.path, self.size) from e

    def finish(self, crcs, last=None):
        """Make the block durable under its name. crcs: the chunks' checksums, which the caller has compared with the data.

        last: whether it is the file's final block, when that was not known at `begin`.
        Raises Misuse when bytes are missing or the table does not fit; NoRoom, DiskFault. Then nothing shows under
        blocks/, save after a failed sync of the directory: the block stands there whole, but nobody was promised it.
        """
        try:
            trailer = self._trailer(crcs, last)
            if self._fd is None:
                self._create()
            _write_all(self._fd, [trailer] if self._held is None else [self._held, trailer])
            # One try: after a failed fsync the kernel may have dropped the pages and call them clean (fault F8).
            _fsync(self._fd)
            fd, self._fd = self._fd, None
            os.close(fd)  # before the rename, for Windows
            if self._replaces:
                self._store.quarantine(self.block, "replaced by a newly written copy")
            self._store.incoming.rename(self._name, self._bucket, self.block)
            self._name = None
        except OSError as e:
            self.abort()
            raise _ours(e, self._store.path, self.size) from e
        except BaseException:
            self.abort()
            raise
        self.abort()  # nothing is left to undo: only the promise of room is given back
        self._store._count(self.size + len(trailer), 1)
        self._store._sync(self._bucket)

    def abort(self):
        """Remove what was written; harmless at any time, also twice."""
        if self._done:
            return
        self._done, self._held = True, None
        self._store._unpromise(self.size)
        fd, self._fd, name, self._name = self._fd, None, self._name, None
        try:
            if fd is not None:
                os.close(fd)
        except OSError as e:
            log.warning("closing an incoming block failed block=%s detail=%s", self.block, e)
        try:
            if name is not None:
                self._store.incoming.unlink(name)
        except OSError as e:  # the sweep at the next start tries again
            log.warning("an incoming block could not be removed block=%s name=%s detail=%s", self.block, name, e)

    def _trailer(self, crcs, last):
        if self._done or self.written != self.size:
            raise errors.Misuse(detail=f"block {self.block} has {self.written} of {self.size} bytes and cannot be finished")
        metadata = {**self._metadata, "cluster": self._store.cluster_id, "block": self.block, "size": self.size}
        if last is not None:
            metadata["last"] = last
        return block_format.build_trailer(bytes.fromhex(self.block), metadata, self.size, crcs)

    def _create(self):
        while self._fd is None:
            name = f"{self._store.slot}~{next(self._store.numbers):x}"
            try:
                self._fd = self._store.incoming.open(name, _CREATE)
                self._name = name
            except FileExistsError:  # an earlier run of this slot left it; only a sweep may decide that nobody writes it
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.abort()


# -- all blocks -------------------------------------------------------------------------------------------------------
class Store:
    """The blocks in one prepared directory, as one process sees them. Close it, or use `with`.

    reserve: bytes of the disk that blocks never take; slot: names this process in temporary names ([A-Za-z0-9_.-], <= 64).
    """

    def __init__(self, directory, cluster_id, reserve=0, slot="main"):
        if not _SLOT.fullmatch(slot):
            raise errors.Misuse(detail=f"{slot!r} cannot name a slot")
        self.path, self.cluster_id, self.reserve, self.slot = os.path.abspath(directory), cluster_id, reserve, slot
        self.numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards _promised, _buckets and changes to the counters' file
        self._promised = 0  # bytes of blocks begun and not yet ended
        self._buckets = {}
        self._counters = None
        self._opened = []
        try:
            self._top = self._keep(Directory(self.path))
            self._blocks = self._keep(self._top.below("blocks"))
            self.incoming = self._keep(self._top.below("incoming"))
            self._counters = self._top.open("counters", os.O_RDWR | os.O_CREAT | _SAFE)
        except OSError as e:
            self.close()
            raise _ours(e, self.path) from e

    def _keep(self, directory):
        self._opened.append(directory)
        return directory

    def close(self):
        with self._lock:
            self._buckets.clear()
            while self._opened:
                self._opened.pop().close()
            if self._counters is not None:
                os.close(self._counters)
                self._counters = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _bucket(self, block):
        """The directory a block's file is in, under the block's own id: the one road from an id to a path."""
        if not isinstance(block, str) or not _BLOCK_ID.fullmatch(block):
            raise errors.BadName(path=str(block)[:80], detail="a block id is 32 lower-case hex digits")
        name = block[-2:]
        bucket = self._buckets.get(name)
        if bucket is None:
            with self._lock:
                bucket = self._buckets.get(name)
                if bucket is None:
                    try:
                        bucket = self._buckets[name] = self._keep(self._blocks.below(name))
                    except OSError as e:
                        raise _ours(e, os.path.join(self._blocks.path, name)) from e
        return bucket

    def _sync(self, directory):
        try:
            directory.sync()
        except OSError as e:
            # The fd has told its error and would now say all is well: the next user must open the directory anew.
            with self._lock:
                if self._buckets.get(os.path.basename(directory.path)) is directory:
                    del self._buckets[os.path.basename(directory.path)]
            raise _ours(e, directory.path) from e

    # -- in and out
    def begin(self, block, metadata, size):
        """Incoming for a new block of `size` bytes; `metadata` goes into its trailer, with cluster, block and size.

        Raises FileExists when the block is there already, whole and as long (its name is durable then, so a retried put
        may be answered with success); NoRoom when the disk would eat into the reserve; BadName for a bad id; DiskFault.
        A damaged file of that name is no obstacle: it goes to quarantine when the new one is complete.
        """
        bucket = self._bucket(block)
        if size < 0:
            raise errors.Misuse(detail=f"a block cannot have {size} bytes")
        replaces = self._is_there(bucket, block, size)
        self._promise(size)
        return Incoming(self, bucket, block, metadata, size, replaces)

    def _is_there(self, bucket, block, size):
        """False when there is no such file, True when one has to make way. Raises FileExists when it is what is wanted."""
        if not bucket.has(block):  # nearly always, and far cheaper than an exception
            return False
        try:
            with open_file(bucket, block, block) as stored:
                same = stored.size == size
                stored.trailer()
        except errors.BlockMissing:
            return False
        except errors.IntegrityError:
            return True
        if not same:
            return True
        # Its writer may be between rename and sync, or have died there: "exists" must mean durable.
        self._sync(bucket)
        raise errors.FileExists(path=f"block {block}", block=block, size=size)

    def open(self, block):
        """Stored, for reading: footer, id and lengths agree. Raises BlockMissing, IntegrityError, DiskFault, BadName."""
        return open_file(self._bucket(block), block, block)

    def trailer(self, block):
        """(metadata, crcs) of a block, checked against the trailer's checksum. Raises as `open`."""
        with self.open(block) as stored:
            return stored.trailer()

    def verify(self, block, buffer=None, pause=None, cold=False):
        """Read all of a block again; see Stored.verify. Raises ChecksumMismatch, and as `open`."""
        with self.open(block) as stored:
            return stored.verify(buffer, pause, cold)

    # -- away
    def drop(self, block):
        """Delete a block, durably; False when it was not there (also then its absence is durable)."""
        bucket = self._bucket(block)
        try:
            file_size = bucket.stat(block).st_size
            bucket.unlink(block)
            self._count(-file_size, -1)
            found = True
        except FileNotFoundError:
            found = False
        except OSError as e:
            raise _ours(e, bucket.path) from e
        self._sync(bucket)
        return found

    def quarantine(self, block, reason):
        """Take a damaged block out of use and keep it, with the reason, for a human. False when it was not there."""
        return self._move(block, "quarantine", reason)

    def set_aside(self, block, reason="the catalog does not know it"):
        """Take a block that nobody knows out of use and keep it. False when it was not there."""
        return self._move(block, "aside", reason)

    def _move(self, block, name, reason):
        bucket = self._bucket(block)
        try:
            file_size = bucket.stat(block).st_size
            with self._top.below(name) as target:
                new_name = self._reason_file(target, block, file_size, reason)
                try:
                    bucket.rename(block, target, new_name)
                except OSError:  # also when another process was quicker: a reason without its block says nothing
                    _unlink_if_there(target, new_name + ".reason")
                    raise
                self._count(-file_size, -1)
                # The new name first: a crash between the two may show the file twice, never nowhere.
                target.sync()
        except FileNotFoundError:
            return False
        except OSError as e:
            raise _ours(e, os.path.join(self.path, name)) from e
        self._sync(bucket)
        return True

    def _reason_file(self, target, block, file_size, reason):
        """Write why, and return a name in `target` that nothing has. A full disk must not keep a bad block in use."""
        for n in itertools.count(1):
            name = f"{block}.{n}"
            if _is_in(target, name):
                continue
            try:
                fd = target.open(name + ".reason", _CREATE)  # also claims the name among processes
            except FileExistsError:
                continue
            except OSError as e:
                if e.errno in _FULL:
                    return name
                raise
            try:
                _write_all(fd, [json.dumps({"block": block, "file_size": file_size, "reason": reason}).encode()])
            except OSError as e:
                log.warning("a reason could not be written block=%s reason=%s detail=%s", block, reason, e)
            finally:
                os.close(fd)
            return name

    def quarantined(self):
        """[Kept, …] in quarantine/, sorted by name."""
        return self._kept("quarantine")

    def aside(self):
        """[Kept, …] in aside/, sorted by name."""
        return self._kept("aside")

    def _kept(self, name):
        try:
            with self._top.below(name) as directory:
                return [_kept(directory, match) for match in map(_KEPT.fullmatch, sorted(directory.names())) if match]
        except OSError as e:
            raise _ours(e, os.path.join(self.path, name)) from e

    # -- all of them
    def ids(self):
        """Every block id as 16 bytes, sorted: names alone, no file is opened.

        Each of the 256 directories is read once, sorted and kept packed (16 bytes a block: 16 MB a million), then all are
        merged. One list of Python objects would be as fast and take four times the memory.
        """
        packed = []
        try:
            for name in _BUCKETS:
                names = os.listdir(os.path.join(self._blocks.path, name))
                names = sorted(filter(_BLOCK_ID.fullmatch, names))
                packed.append(bytes.fromhex("".join(names)))
        except OSError as e:
            raise _ours(e, self._blocks.path) from e
        return heapq.merge(*map(_sixteens, packed))

    def list(self, damaged=None):
        """(block id, bytes of data) of every block, sorted by id, one at a time.

        The size stands in the footer alone (the trailer's length varies), so each is read when its turn comes: a caller
        that streams the list does not wait for a million of them, and a file cut short since the last start shows here.
        A caller that wants names only takes `ids`. Blocks that vanish meanwhile are left out; those made meanwhile may be.
        damaged: called with (block, error) for a file whose footer cannot be believed; it is not listed.
        """
        for raw in self.ids():
            block = raw.hex()
            try:
                with self.open(block) as stored:
                    size = stored.size
            except errors.BlockMissing:
                continue
            except (errors.IntegrityError, errors.DiskFault) as e:
                log.warning("block not listed block=%s detail=%s", block, e)
                if damaged is not None:
                    damaged(block, e)
                continue
            yield block, size

    def sweep(self, slot=None):
        """Remove what crashes left in incoming/; returns how many files.

        slot: only that slot's, when its process is about to start again. None: all, at the daemon's start, before any
        other process of it runs; the counters are then forgotten too, so that the next `space` counts anew.
        """
        n = 0
        try:
            for name in self.incoming.names():
                if slot is None or name.startswith(slot + "~"):
                    n += self._remove(name)
            if slot is None:
                with self._lock:
                    os.ftruncate(self._counters, 0)
        except OSError as e:
            raise _ours(e, self.incoming.path) from e
        return n

    def _remove(self, name):
        try:
            self.incoming.unlink(name)
        except (FileNotFoundError, IsADirectoryError, PermissionError):  # a directory is none of ours
            return 0
        return 1

    # -- room
    def space(self):
        """Space(used, free, n_blocks): bytes of files under blocks/, free bytes without the reserve, number of blocks.

        The first call after a start counts all files; later ones read the counters that all processes keep.
        """
        try:
            counted, used, n_blocks = self._read_counters()
        except OSError:
            counted = 0
        if not counted:
            used, n_blocks = self.count()
        return Space(max(0, used), max(0, self._free() - self.reserve), max(0, n_blocks))

    def count(self):
        """(bytes, number) of all block files, from the directories; sets the counters. One stat a block."""
        used = n_blocks = 0
        try:
            for name in _BUCKETS:
                with os.scandir(os.path.join(self._blocks.path, name)) as entries:
                    for entry in entries:
                        if _BLOCK_ID.fullmatch(entry.name):
                            used, n_blocks = used + _size(entry), n_blocks + 1
        except OSError as e:
            raise _ours(e, self._blocks.path) from e
        self._set_counters(lambda _: (1, used, n_blocks))
        return used, n_blocks

    def _count(self, n_bytes, n_blocks):
        self._set_counters(lambda now: (now[0], now[1] + n_bytes, now[2] + n_blocks))

    def _set_counters(self, change):
        """Read, change and write the counters as one step among all processes. They are a hint: no failure matters."""
        fd = self._counters
        with self._lock:
            try:
                if fcntl:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                try:
                    _write_at(fd, _COUNTERS.pack(*change(self._read_counters())))
                finally:
                    if fcntl:
                        fcntl.flock(fd, fcntl.LOCK_UN)
            except OSError as e:
                log.warning("the block counters could not be kept detail=%s", e)

    def _read_counters(self):
        raw = _read_at(self._counters, _COUNTERS.size, 0)
        return _COUNTERS.unpack(raw) if len(raw) == _COUNTERS.size else (0, 0, 0)

    def _free(self):
        try:
            if hasattr(os, "statvfs"):
                facts = os.statvfs(self._top.fd if self._top.fd is not None else self.path)
                return facts.f_bavail * facts.f_frsize
            import shutil  # Windows

            return shutil.disk_usage(self.path).free
        except OSError as e:
            raise _ours(e, self.path) from e

    def _promise(self, size):
        """Hold room for a block. Bytes already written count twice until it ends: near the brim that errs on the safe side."""
        free = self._free()
        with self._lock:
            room = free - self.reserve - self._promised
            if room < size:
                raise errors.NoRoom(size=size, detail=f"{max(0, room)} bytes are free in {self.path} beside the reserve")
            self._promised += size

    def _unpromise(self, size):
        with self._lock:
            self._promised -= size


def _sixteens(packed):
    for at in range(0, len(packed), 16):
        yield packed[at:at + 16]


def _size(entry):
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # dropped since it was listed
        return 0


def _is_in(directory, name):
    try:
        directory.stat(name)
    except FileNotFoundError:
        return False
    return True


def _unlink_if_there(directory, name):
    try:
        directory.unlink(name)
    except FileNotFoundError:
        pass


def _kept(directory, match):
    """Kept for one file of quarantine/ or aside/, with what its .reason says."""
    reason = ""
    try:
        with open(directory.open(match[0] + ".reason", _READ), "rb") as file:
            reason = json.loads(file.read(64 * 1024))["reason"]
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return Kept(match[1], match[0], directory.stat(match[0]).st_size, reason)
