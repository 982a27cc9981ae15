"""What the metadata in block files' trailers says together: whether it makes sense, and whether a version is all there.

Never reads a file, and never chooses between versions: `dfs recover` does that for directories, a rebuild for a whole cluster.

A version's blocks are {index: {block: (metadata, …)}}: two ids for one index mean that a block was granted again after a failure. Ids
begin with the time, so the greater one came later.
"""

from dfs_lib import errors
from dfs_lib.model import clean_path, n_blocks

_FACTS = {"cluster": str, "path": str, "version": int, "index": int, "size": int}


def check_facts(metadata, block, size):
    """A trailer's checksum proves that it is as written, not that its writer was honest: types and name are checked again.

    Raises IntegrityError, BadName.
    """
    for key, kind in _FACTS.items():
        if type(metadata.get(key)) is not kind or (kind is int and metadata[key] < 0):
            raise errors.IntegrityError(f"block {block} does not say its {key}")
    if metadata["size"] != size or metadata.get("block") != block or clean_path(metadata["path"]) != metadata["path"] \
            or metadata["path"] == "/":
        raise errors.IntegrityError(f"block {block} contradicts itself")


def lacks(blocks):
    """What a version lacks, by what its trailers say; None when nothing."""
    n = n_of(blocks)
    if n is None:
        return f"{len(blocks)} blocks are there, the last one is not, and none says how many there were"
    if max(blocks) >= n:
        return f"its blocks contradict each other: block {max(blocks)} of {n}"
    missing = [index for index in range(min(n, len(blocks) + 1)) if index not in blocks]
    if missing:
        return f"{n - len(blocks)} of {n} blocks are missing, block {missing[0]} first"
    return None


def n_of(blocks):
    """Blocks the version had; None when no trailer tells."""
    for index in sorted(blocks, reverse=True):
        for metadata, *_ in blocks[index].values():
            file_size, block_size = metadata.get("file_size"), metadata.get("block_size")
            if type(file_size) is int and type(block_size) is int and block_size > 0 and file_size > 0:
                return n_blocks(file_size, block_size)
            if metadata.get("last") is True:
                return index + 1
    return None
