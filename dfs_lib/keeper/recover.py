"""Files back by name from keepers' directories, with no cluster: the trailers alone say what belongs where.

Never changes a keeper's directory, never writes outside the one it is given, never overwrites a file there, and writes no
byte that its checksum does not vouch for.

    trailers ──> path ─> version ─> index ─> block ─> places          quarantine/ and aside/ are searched as well
                            │ newest whose blocks are all there
                            v
                 chunk by chunk, from whichever place has it whole ──> temporary file ─ fsync ─ rename ─> into/PATH

Trailers tell the past: a file that was renamed, copied or removed comes back as it was written, an upload that was never
committed may come back, and empty files and directories, which have no block, do not. Where a keeper's directory has a copy of the
catalog, whoever calls this may hand in its names (catalog/remembered.Remembered): then files come back as they were last.
"""

import logging
import math
import os
import re
import stat
from collections import namedtuple

from dfs_lib import errors, trailers
from dfs_lib.keeper import home
from dfs_lib.keeper.block_file import open_file
from dfs_lib.keeper.disk import Directory
from dfs_lib.model import DIRECTORY, clean_path, parent_and_name

log = logging.getLogger(__name__)

# Where a block file lies: directory (a keeper's), area ("blocks/0f", "quarantine" …), name of the file there.
Place = namedtuple("Place", "directory area name")
# written: the path below `into`, which differs from `path` only after a clash of names (see CLASH).
Recovered = namedtuple("Recovered", "path version size written")
# A version that could not be given back: why, and the version of that name that was given instead (None: none).
Incomplete = namedtuple("Incomplete", "path version detail instead")
# A block file that was found damaged: where, and what is wrong. Its file may still be whole from other places. Of several
# replicas only what is needed is read: one that is not told need not be good.
Damaged = namedtuple("Damaged", "place detail")
Failed = namedtuple("Failed", "path detail")
# recovered: [Recovered]; incomplete: [Incomplete]; damaged: [Damaged]; existing: [path], left alone because a file of that
# name is there; failed: [Failed], whole files that could not be written; foreign: [Place] of blocks of another cluster; unfinished:
# [Incomplete] that the copy of the catalog did not know as acknowledged, and that lack blocks: an upload under way when it was made, or
# begun since.
Report = namedtuple("Report", "recovered incomplete damaged existing failed foreign unfinished")
# stage "read" or "write"; done of total directories or names; the directory or path at hand.
Progress = namedtuple("Progress", "stage n_done n_total path")

_NAME = re.compile(r"([0-9a-f]{32})(\.[0-9]{1,9})?")
_AREAS = ["blocks/" + format(n, "02x") for n in range(256)] + ["aside", "quarantine"]
# Added to the name of a file where another recovered file needs a directory of that name: one of the two was removed or
# renamed before the other was written, and the trailers do not tell which.
CLASH = ".dfs-file"


def recover(directories, into, progress=None, names=None):
    """Write every file whose blocks are in `directories` below `into`; of each name the newest complete version.

    directories: keepers' data directories; into: made when absent; progress: called with a Progress now and then; names: what a copy
    of the catalog remembers, or None; one of another cluster is not used.
    Returns Report. Raises WrongCluster when the directories are of several clusters, LocalFileError when one is no keeper's or `into`
    cannot be used, IntegrityError or Refusal for a keeper.json that cannot be read, DiskFault for a directory that cannot be.
    """
    report = Report([], [], [], [], [], [], [])
    for directory in directories:
        _check_keepers(directory)
    cluster = _one_cluster(directories)
    found = _Found(report, cluster)
    for n, directory in enumerate(directories):
        _tell(progress, "read", n, len(directories), str(directory))
        found.read(os.path.abspath(directory))
    if names is not None and names.cluster_id != found.cluster:
        names = None
    empty = found.rename(names) if names is not None else []
    above = {parent for path in found.paths for parent in _parents(path)}
    with _Target(into) as target:
        for entry in empty:
            _recover_empty(entry, target, report)
        for n, path in enumerate(sorted(found.paths)):
            _tell(progress, "write", n, len(found.paths), path)
            _recover_path(path, path + CLASH if path in above else path, found.paths[path], target, report, names)
    _tell(progress, "write", len(found.paths), len(found.paths), "")
    return report


def _check_keepers(directory):
    """Raise LocalFileError for a directory in which nothing is a keeper's: half of it will do, a wrong name gives no files back."""
    if os.path.isdir(directory) and not any(os.path.exists(os.path.join(directory, name)) for name in ("keeper.json", "blocks", "quarantine", "aside")):
        failure = errors.LocalFileError(path=str(directory), detail="it is no keeper's data directory: it has neither keeper.json nor blocks")
        failure.hint = "name the directories that the keepers were given with --data (of `dfs local`: k1, k2 … in its directory)"
        raise failure


def _parents(path):
    while path != "/":
        path = parent_and_name(path)[0]
        yield path


def _tell(progress, *facts):
    if progress is not None:
        progress(Progress(*facts))


def _one_cluster(directories):
    """The cluster that the directories' keeper.json name; None when none does."""
    ours = None
    for directory in directories:
        known = home.read_identity(directory)
        theirs = known.cluster_id if known else None
        if theirs and ours and theirs != ours:
            raise errors.WrongCluster(what=str(directory), theirs=theirs, ours=ours)
        ours = ours or theirs
    return ours


# -- reading trailers -------------------------------------------------------------------------------------------------
class _Found:
    """What the trailers tell: paths is {path: {version: {index: {block: (metadata, [Place, …])}}}}."""

    def __init__(self, report, cluster):
        self.report, self.cluster, self.paths = report, cluster, {}

    def read(self, directory):
        if not os.path.isdir(directory):
            raise errors.DiskFault(path=directory, detail="there is no such directory")
        for area in _AREAS:
            try:
                names = os.listdir(os.path.join(directory, area))
            except FileNotFoundError:
                continue
            except OSError as e:
                raise errors.DiskFault(path=os.path.join(directory, area), detail=e.strerror) from e
            for match in filter(None, map(_NAME.fullmatch, sorted(names))):
                self._read_block(Place(directory, area, match[0]), match[1])

    def _read_block(self, place, block):
        try:
            with _open(place, block) as stored:
                metadata, _ = stored.trailer()
            trailers.check_facts(metadata, block, stored.size)
        except (errors.IntegrityError, errors.DiskFault, errors.BadName) as e:
            self.report.damaged.append(Damaged(place, e.message))
            return
        self.cluster = self.cluster or metadata["cluster"]
        if metadata["cluster"] != self.cluster:
            self.report.foreign.append(place)
            return
        versions = self.paths.setdefault(metadata["path"], {})
        blocks = versions.setdefault(metadata["version"], {}).setdefault(metadata["index"], {})
        blocks.setdefault(block, (metadata, []))[1].append(place)


    def rename(self, names):
        """Go by the names of a copy of the catalog where it knows better: files are what they were last, and removed ones are not.

        What the copy cannot know stays under its name at writing time. Returns the entries without blocks: directories, empty files.
        """
        places = {block: kept for versions in self.paths.values() for blocks in versions.values() for index in blocks.values()
                  for block, kept in index.items()}
        for path in list(self.paths):
            unknown = {version: blocks for version, blocks in self.paths[path].items() if not names.is_known(version)}
            if unknown:
                self.paths[path] = unknown
            else:
                del self.paths[path]
        empty = []
        for entry in names.entries():
            if entry.kind == DIRECTORY or entry.size == 0:
                empty.append(entry)
                continue
            blocks = {}
            for index, block in enumerate(names.blocks(entry.version)):
                if block in places:
                    metadata, where = places[block]
                    blocks[index] = {block: ({**metadata, "file_size": entry.size, "mtime_at": entry.mtime_at}, where)}
            self.paths.setdefault(entry.path, {})[entry.version] = blocks
        return [entry for entry in empty if entry.path not in self.paths]


def _recover_empty(entry, target, report):
    """A directory, or a file without bytes."""
    try:
        if entry.kind == DIRECTORY:
            target.make_directory(entry.path)
            return
        with target.file(entry.path) as out:
            out.finish(0, entry.mtime_at)
        report.recovered.append(Recovered(entry.path, entry.version, 0, entry.path))
    except FileExistsError:
        report.existing.append(entry.path)
    except (OSError, errors.BadName) as e:
        report.failed.append(Failed(entry.path, str(e)))


def _open(place, block):
    """Stored for a place; no link is followed on the way from the keeper's directory to the file."""
    try:
        opened = [Directory(place.directory)]
        try:
            for part in place.area.split("/"):
                opened.append(opened[-1].below(part))
            return open_file(opened[-1], place.name, block)
        finally:
            for directory in opened:
                directory.close()
    except OSError as e:
        raise errors.DiskFault(path=os.path.join(*place), detail=e.strerror or str(e)) from e


# -- choosing a version and writing it --------------------------------------------------------------------------------
def _recover_path(path, name, versions, target, report, names):
    """The newest version that can be given back whole; all newer ones that cannot are told. names: as in `recover`."""
    given, lacking, unfinished = None, [], []
    try:
        for version in sorted(versions, reverse=True):
            detail = trailers.lacks(versions[version])
            if detail is None:
                try:
                    size = _write_version(name, versions[version], target, report)
                except errors.IntegrityError as e:
                    detail = e.message
                else:
                    given = version
                    report.recovered.append(Recovered(path, version, size, name))
                    break
            elif names is not None and names.may_be_unfinished(version):
                unfinished.append((version, detail))
                continue
            lacking.append((version, detail))
    except FileExistsError:
        report.existing.append(path)
    except (OSError, errors.BadName) as e:
        report.failed.append(Failed(path, str(e)))
    report.incomplete.extend(Incomplete(path, version, detail, given) for version, detail in lacking)
    report.unfinished.extend(Incomplete(path, version, detail, given) for version, detail in unfinished)


def _write_version(name, blocks, target, report):
    """Write one version; returns its bytes. Raises IntegrityError when a chunk is nowhere whole, OSError as it comes."""
    offset = 0
    with target.file(name) as out:
        for index in range(trailers.n_of(blocks)):
            # Two ids for one index: a block was granted again after a failure. Ids begin with time: the later one first.
            tries = sorted(blocks[index].items(), reverse=True)
            for n, (block, (metadata, places)) in enumerate(tries, 1):
                try:
                    _write_block(out, offset, block, metadata["size"], places, report)
                    break
                except errors.IntegrityError:
                    if n == len(tries):
                        raise
            offset += metadata["size"]
        file_size = metadata.get("file_size")
        if type(file_size) is int and file_size != offset:
            raise errors.IntegrityError(f"its blocks have {offset} bytes, not {file_size}")
        out.finish(offset, metadata.get("mtime_at"))
    return offset


def _write_block(out, offset, block, size, places, report):
    """One block, each chunk from the first place that has it whole: replicas damaged in different chunks make one good one."""
    sources, buffer = _Sources(block, places, report), None
    try:
        index = done = 0
        while index == 0 or done < size:
            view = None
            for source, crcs in list(sources.opened):
                if buffer is None or len(buffer) < source.footer.chunk_size:
                    buffer = bytearray(source.footer.chunk_size)
                try:
                    view = source.read_chunk(index, buffer, crcs)
                    break
                except (errors.IntegrityError, errors.DiskFault) as e:
                    sources.tell(source, e)
            if view is None:
                raise errors.IntegrityError(f"chunk {index} of block {block} is damaged in each of its {len(places)} places")
            out.write(view, offset + done)
            index, done = index + 1, done + len(view)
    finally:
        sources.close()


class _Sources:
    """The places of one block, opened, with their checksums. All agree in their chunk size, or their trailers would not."""

    def __init__(self, block, places, report):
        self.opened, self._report, self._places, self._told = [], report, {}, set()
        for place in places:
            try:
                source = _open(place, block)
                self._places[source] = place
                self.opened.append((source, source.trailer()[1]))
            except (errors.IntegrityError, errors.DiskFault) as e:  # it was whole when the trailers were read
                report.damaged.append(Damaged(place, e.message))

    def tell(self, source, error):
        if source not in self._told:
            self._told.add(source)
            self._report.damaged.append(Damaged(self._places[source], error.message))

    def close(self):
        for source in self._places:
            source.close()


# -- the one road to a written file -----------------------------------------------------------------------------------
class _Target:
    """The directory files are written below. Each part of a name is opened from the one above and never through a link."""

    def __init__(self, into):
        self.path, self.numbers = os.path.abspath(into), 0
        try:
            os.makedirs(self.path, exist_ok=True)
            self.top = Directory(self.path)
        except OSError as e:
            raise errors.LocalFileError(path=str(into), detail=e.strerror or str(e)) from e

    def file(self, path):
        """_Output for a stored path. Raises BadName, OSError; FileExistsError when something has that name."""
        parts = clean_path(path)[1:].split("/")
        if os.name == "nt" and any(set(part) & set("\\:") for part in parts):
            raise errors.BadName(path=path, detail="this system cannot have a file of that name")
        self.numbers += 1
        directory = self._directory(parts[:-1])
        return _Output(directory, parts[-1], f".dfs-recover-{os.getpid()}-{self.numbers}.tmp", directory is not self.top)

    def make_directory(self, path):
        directory = self._directory(clean_path(path)[1:].split("/"))
        if directory is not self.top:
            directory.close()

    def _directory(self, parts):
        """The Directory of these parts below the top, made where it is missing."""
        directory = self.top
        for part in parts:
            above = directory
            try:
                above.make(part, 0o777)
                directory = above.below(part)
            finally:
                if above is not self.top:
                    above.close()
        return directory

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.top.close()


class _Output:
    """A file being written under a temporary name beside its own; leaving the `with` before `finish` removes it."""

    def __init__(self, directory, name, temporary, owned):
        self.directory, self.name, self.temporary, self.owned, self.fd = directory, name, temporary, owned, None
        try:
            self._refuse_existing()
            self.fd = self._create()
        except BaseException:
            self._close_directory()
            raise

    def _refuse_existing(self):
        try:
            there = self.directory.stat(self.name)
        except FileNotFoundError:
            return
        if stat.S_ISREG(there.st_mode):
            raise FileExistsError(self.name)
        raise OSError("a directory, a link or a special file has that name")

    def _create(self):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        return self.directory.open(self.temporary, flags, 0o666)

    def write(self, view, offset):
        os.lseek(self.fd, offset, os.SEEK_SET)
        while view:
            view = view[os.write(self.fd, view):]

    def finish(self, size, mtime_at):
        os.ftruncate(self.fd, size)
        if type(mtime_at) in (int, float) and math.isfinite(mtime_at) and abs(mtime_at) < 1 << 33 and os.utime in os.supports_fd:
            os.utime(self.fd, (mtime_at, mtime_at))
        os.fsync(self.fd)
        fd, self.fd = self.fd, None
        os.close(fd)
        self._refuse_existing()
        self.directory.rename(self.temporary, self.directory, self.name)
        self.temporary = None
        self.directory.sync()

    def _close_directory(self):
        if self.owned:
            self.directory.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.fd is not None:
                os.close(self.fd)
            if self.temporary is not None:
                self.directory.unlink(self.temporary)
        finally:
            self._close_directory()
