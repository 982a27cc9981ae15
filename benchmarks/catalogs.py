"""Large catalogs quickly: through the catalog's own operations, while the master is down. Invents files; never bytes of theirs."""

import contextlib
import time

from dfs_lib.catalog import operations
from dfs_lib.catalog.database import Database
from dfs_lib.master import daemon

BATCH = 2000
AT = 1.7e9
# As big as a small file: one block, one chunk.
SIZE = 4096


@contextlib.contextmanager
def opened(cluster, wait=True):
    """The catalog of a cluster whose master is stopped meanwhile; afterwards it runs again and (wait) all keepers live."""
    cluster.stop_one("master")
    catalog = Database.open(cluster.master.arguments[cluster.master.arguments.index("--data") + 1], now=time.time, new_id=daemon.new_id)
    try:
        yield catalog
    finally:
        catalog.close()
        cluster.restart("master")
        if wait:
            cluster.wait_live(cluster.n_keepers)


def block_id(index):
    """The id of invented block `index`: 16 bytes, in order of index, as ids of our own making are."""
    return (0x018BCFE56800 << 80 | index).to_bytes(16, "big")


def fill(catalog, n, directory, keepers=(), first=0):
    """Publish n files in `directory`: empty ones, or of one block held by `keepers` (their numbers)."""
    with contextlib.suppress(Exception):
        catalog.apply(operations.MakeDirectory(op=f"fill-{directory}", path=directory, parents=True, at=AT))
    version = (catalog.epoch << 32) + 1 + first
    for start in range(0, n, BATCH):
        batch = []
        for index in range(start, min(n, start + BATCH)):
            blocks = [[block_id(first + index).hex(), SIZE, f"{index:08x}", list(keepers)]] if keepers else []
            batch.append(operations.PublishFile(
                op=f"fill-{version + index}", path=f"{directory}/file-{first + index:08}", version=version + index, size=SIZE if keepers else 0,
                block_size=64 << 20, copies=2, mtime_at=AT, no_clobber=False, parents=False, blocks=blocks, at=AT))
        for outcome in catalog.apply_many(batch):
            if isinstance(outcome, BaseException):
                raise outcome
