"""A copy of a catalog, unpacked to be read: what names there were, for whoever gives files back without a cluster.

Never changes the copy, and never becomes a catalog: it lives in a directory that is thrown away.
"""

import os

from dfs_lib.catalog import files, snapshots
from dfs_lib.catalog.database import Database
from dfs_lib.model import DIRECTORY

_PAGE = 1000


class Remembered:
    """The catalog of a snapshot and the records that follow it, unpacked into `directory`, which is empty. Close it.

    Raises IntegrityError, CatalogDamaged, LocalFileError.
    """

    def __init__(self, snapshot, records, directory):
        open_from = snapshots.restore(snapshot, os.path.join(directory, files.DATABASE)).open_from
        self._database = Database.open(directory, now=None, new_id=None, create=False, reign=False)
        try:
            self._database.do_not_sync()
            self._open_from = snapshots.replay_records(self._database, records, open_from)
            self._queries = self._database.queries()
            self._knows_from = self._queries.knows_from()
            self._gone = self._queries.published_since(0 if self._knows_from else self._open_from)
        except BaseException:
            self._database.close()
            raise
        self.cluster_id = self._database.cluster_id

    def is_known(self, version):
        """Whether the copy knows what became of a version: the others may have been put after it was made."""
        return self._knows_from <= version < self._open_from or version in self._gone or self._queries.version(version) is not None

    def may_be_unfinished(self, version):
        """Whether nobody had been told, when the copy was made, that this version is stored."""
        return version >= self._open_from and not self.is_known(version)

    def entries(self):
        """model.Entry of every file and directory but the root, each directory before what is in it."""
        todo = ["/"]
        while todo:
            path, after, more = todo.pop(), "", True
            while more:
                page, more = self._queries.listing(path, after, _PAGE)
                for entry in page:
                    yield entry
                    if entry.kind == DIRECTORY:
                        todo.append(entry.path)
                    after = entry.path.rpartition("/")[2]

    def blocks(self, version):
        """Ids of a version's blocks, in order."""
        first = 0
        while page := self._queries.blocks(version, first, _PAGE):
            yield from (block.block for block in page)
            first += len(page)

    def close(self):
        self._database.close()
