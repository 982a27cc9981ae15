"""One block's file: `Stored` is one open for reading, `Incoming` one on its way in.

Never decides where a block lies or whether it is wanted: the directory is given, and of its Store an Incoming asks only
for a temporary name, for room, and to take note of the new file.
"""

import contextlib
import errno
import logging
import os
import stat

from dfs_lib import errors
from dfs_lib.checksums import chunk_crc, crc_at
from dfs_lib.keeper import block_format, disk
from dfs_lib.model import CHUNK_SIZE

log = logging.getLogger(__name__)


# -- open for reading -------------------------------------------------------------------------------------------------
def open_file(directory, name, block):
    """Stored: the block file `name` in `directory` (a Directory), whose footer agrees with its length and id.

    Raises BlockMissing when there is none, IntegrityError when it is no block file or its footer is damaged, DiskFault.
    """
    try:
        fd = directory.open(name, disk.READ)
    except FileNotFoundError:
        raise errors.BlockMissing(block=block) from None
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise block_format.damaged(bytes.fromhex(block), "a symbolic link stands in its place") from e
        raise disk.ours(e, os.path.join(directory.path, name)) from e
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
            raw = disk.read_at(fd, block_format.FOOTER_SIZE, max(0, self.file_size - block_format.FOOTER_SIZE))
        except OSError as e:
            raise disk.ours(e, path) from e
        self.footer = block_format.parse_footer(raw, self.file_size, bytes.fromhex(block))
        self.size = self.footer.size

    def trailer(self):
        """(metadata, crcs), checked against the trailer's own checksum. Raises IntegrityError, DiskFault."""
        try:
            return block_format.parse_trailer(disk.read_at(self.fd, self.footer.trailer_size, self.size), self.footer)
        except OSError as e:
            raise disk.ours(e, self.path) from e

    def read_chunk(self, index, buffer, crcs):
        """A view of chunk `index` in `buffer`, checked. Raises ChecksumMismatch; DiskFault on a failed or short read."""
        offset = index * self.footer.chunk_size
        view = memoryview(buffer)[:min(self.footer.chunk_size, self.size - offset)]
        try:
            if disk.read_into(self.fd, view, offset) != len(view):
                raise OSError(errno.EIO, f"short read in chunk {index}")
        except OSError as e:
            raise disk.ours(e, self.path) from e
        if chunk_crc(self.footer.block, index, view) != crc_at(crcs, index):
            raise errors.ChecksumMismatch(block=self.block, chunk=index, where=f" in {self.path}")
        return view

    def verify(self, buffer=None, pause=None, cold=False, total=None):
        """Read every chunk again and compare; returns the bytes of data read.

        buffer: writable, at least a chunk; one is made when left out. pause: called with the bytes read after each chunk,
        so that a scrubber can hold back. cold: read from the medium, not from the system's cache, where it can be told so.
        total: scrubber.Sum, told of the trailer's metadata and of each chunk that was good.
        """
        metadata, crcs = self.trailer()
        if total is not None:
            total.begin(metadata)
        if buffer is None or len(buffer) < self.footer.chunk_size:
            buffer = bytearray(min(self.footer.chunk_size, max(self.size, 1)))
        if cold and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for index in range(self.footer.n_chunks):
            view = self.read_chunk(index, buffer, crcs)
            if total is not None:
                total(view)
            if pause is not None:
                pause(len(view))
        if cold and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)  # nobody waits for it: it shall push nothing out
        return self.size

    def close(self):
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# -- on its way in ----------------------------------------------------------------------------------------------------
class Incoming:
    """A block being written. It is nowhere to be seen until `finish` returns; leaving its `with` before that aborts it.

    The temporary file is made when the first bytes go to disk. A block that comes in one `write` and is one chunk at most
    is not copied: its view is kept until `finish`, which sends data and trailer out in one call. Do not reuse it before.
    """

    __slots__ = ("block", "size", "written", "_store", "_bucket", "_metadata", "_replaces", "_fd", "_name", "_held", "_done", "_file_size")
    is_new = True

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
            disk.write_all(self._fd, [view])
        except OSError as e:
            self.abort()
            raise disk.ours(e, self._store.path, self.size) from e

    def finish(self, crcs, last=None):
        """Make the block durable under its name. crcs: the chunks' checksums, which the caller has compared with the data.

        last: whether it is the file's final block, when that was not known at `begin`.
        Raises Misuse when bytes are missing or the table does not fit; NoRoom, DiskFault. Then nothing shows under
        blocks/, save after a failed sync of the directory: the block stands there whole, but nobody was promised it.
        """
        with self._step():
            self._write_out(crcs, last)
            # One try: after a failed fsync the kernel may have dropped the pages and call them clean (fault F8).
            disk.fsync(self._fd)
            self._take_name()
        self._store.count_in(self._file_size)
        self._store.sync(self._bucket)

    @contextlib.contextmanager
    def _step(self):
        """A step that fails undoes all: nothing shows, and an OSError becomes ours."""
        try:
            yield
        except OSError as e:
            self.abort()
            raise disk.ours(e, self._store.path, self.size) from e
        except BaseException:
            self.abort()
            raise

    def _write_out(self, crcs, last):
        trailer = self._trailer(crcs, last)
        if self._fd is None:
            self._create()
        disk.write_all(self._fd, [trailer] if self._held is None else [self._held, trailer])
        self._file_size = self.size + len(trailer)

    def _take_name(self):
        """Its bytes are durable: from incoming/ to its place. The bucket is not synced yet."""
        fd, self._fd = self._fd, None
        os.close(fd)  # before the rename, for Windows
        if self._replaces:
            self._store.quarantine(self.block, "replaced by a newly written copy")
        self._store.incoming.rename(self._name, self._bucket, self.block)
        self._name = None
        self.abort()  # nothing is left to undo: only the promise of room is given back

    def abort(self):
        """Remove what was written; harmless at any time, also twice."""
        if self._done:
            return
        self._done, self._held = True, None
        self._store.end_promise(self.size)
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
                self._fd = self._store.incoming.open(name, disk.CREATE)
                self._name = name
            except FileExistsError:  # an earlier run of this slot left it; only a sweep may decide that nobody writes it
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.abort()


class StoredAlready:
    """Stands in for an Incoming when the block is there: a retried put is compared with it, not written again."""

    is_new = False

    def __init__(self, store, block):
        self._store, self._block = store, block

    def write(self, view):
        """Its checksum is all that is needed."""

    def finish(self, crcs):
        """Raises FileExists when other bytes have this id, ChecksumMismatch when what is stored has gone bad."""
        try:
            _metadata, known = self._store.trailer(self._block)
            if known != crcs:
                raise errors.FileExists(path=f"block {self._block} with other content")
            # "Stored" is a promise about the bytes on disk, and a reader's complaint about them may be why this comes again.
            self._store.verify(self._block)
        except errors.IntegrityError as e:
            self._store.quarantine(self._block, e.message)
            raise

    def abort(self):
        """Nothing was begun."""


def finish_all(incomings):
    """Make many blocks of one chunk durable under their names: each step for all of them before the next one.

    incomings: [(Incoming, its checksums)] of one Store. Returns a list with None, or in its place the error of each that failed;
    of those nothing shows, save after a failed sync of a directory, as with `finish`.

        write each → fsync each (side by side where a sync takes its time) → rename each → fsync each bucket once
    """
    if len(incomings) == 1:
        try:
            incomings[0][0].finish(incomings[0][1])
        except errors.DfsError as e:
            return [e]
        return [None]
    outcomes = [None] * len(incomings)

    def each(act):
        for at, (incoming, crcs) in enumerate(incomings):
            if outcomes[at] is None:
                try:
                    with incoming._step():
                        act(at, incoming, crcs)
                except errors.DfsError as e:
                    outcomes[at] = e

    def take_name(at, incoming, _crcs):
        if synced[at] is not None:
            raise synced[at]
        incoming._take_name()
        buckets.setdefault(incoming._bucket, []).append(at)

    each(lambda _at, incoming, crcs: incoming._write_out(crcs, None))
    written, buckets = [at for at, outcome in enumerate(outcomes) if outcome is None], {}
    synced = dict(zip(written, disk.fsync_all([incomings[at][0]._fd for at in written])))
    each(take_name)
    named = [at for of_bucket in buckets.values() for at in of_bucket]
    if named:
        store = incomings[0][0]._store
        store.count_in(sum(incomings[at][0]._file_size for at in named), len(named))
        for bucket, of_bucket in buckets.items():
            try:
                store.sync(bucket)
            except errors.DfsError as e:
                for at in of_bucket:
                    outcomes[at] = e
    return outcomes
