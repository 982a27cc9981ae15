"""What to make of the block files that were found for one path: which version is the file, what goes to /lost+found under what name.

Never sees a catalog: whether a version is wanted at all, and what stands at its path already, is decided by who asks.

    versions of a path ── newest whole one ──▶ the file
                       ├─ other whole ones ──▶ /lost+found/PATH.vVERSION
                       └─ parts ─────────────▶ /lost+found/PATH.vVERSION.bytes-FIRST-LAST, each run of blocks that follow each other
"""

from collections import namedtuple
import hashlib

from dfs_lib import errors, model, trailers

LOST = "/lost+found"
# Found blocks of one id: size in bytes, crcs as the catalog has them, numbers of the keepers that have it.
Found = namedtuple("Found", "size crcs keepers")
# A file to be made: is_whole, or a stretch from byte `offset` on; blocks: [(block, size, crcs, keepers)] in order; why: it is no whole one.
Restored = namedtuple("Restored", "path version is_whole offset size block_size copies mtime_at blocks why")

# For blocks whose trailer does not say how many are wanted.
DEFAULT_COPIES = 2


def restored(path, versions):
    """[Restored, …] for one path, newest version first. versions: {version: {index: {block: (metadata, Found)}}}."""
    made = []
    for version in sorted(versions, reverse=True):
        blocks = versions[version]
        why = trailers.lacks(blocks)
        chosen = {index: _one(blocks[index]) for index in sorted(blocks)}
        runs = list(_runs(chosen))
        if why is None:
            why = _contradiction(chosen, runs)
        if why is None:
            made.append(_restored(path, version, True, runs[0], None))
        else:
            made += [_restored(path, version, False, run, why) for run in runs]
    return made


def _one(candidates):
    """(block, metadata, Found) of the candidate that came last."""
    block = max(candidates)
    return (block, *candidates[block])


def _runs(chosen):
    """Lists of (index, block, metadata, Found) that make one stretch of bytes: each block but the last as long as blocks are."""
    run = []
    for index, (block, metadata, found) in chosen.items():
        if run and (index != run[-1][0] + 1 or run[-1][3].size != block_size(run[-1][2], run[-1][3].size)):
            yield run
            run = []
        run.append((index, block, metadata, found))
    if run:
        yield run


def block_size(metadata, size):
    """Bytes of every block but the last of the file; what this one has when its trailer does not tell."""
    told = metadata.get("block_size")
    return told if type(told) is int and told > 0 else size


def _contradiction(chosen, runs):
    if len(runs) != 1:
        return "its blocks contradict each other: one in the middle is shorter than the others"
    total = sum(found.size for _block, _metadata, found in chosen.values())
    for _block, metadata, _found in chosen.values():
        if type(metadata.get("file_size")) is int and metadata["file_size"] != total:
            return f"its blocks have {total} bytes, not {metadata['file_size']}"
    return None


def _restored(path, version, is_whole, run, why):
    index, _block, metadata, found = run[0]
    unit = block_size(metadata, found.size)
    copies, mtime_at = metadata.get("copies"), metadata.get("mtime_at")
    if type(copies) is not int or not 1 <= copies <= model.MAX_COPIES:
        copies = DEFAULT_COPIES
    if type(mtime_at) not in (int, float) or not -1e11 < mtime_at < 1e11:
        mtime_at = 0.0
    return Restored(path, version, is_whole, index * unit, sum(each[3].size for each in run), max(unit, 1), copies, float(mtime_at),
                    [(block, each.size, each.crcs, each.keepers) for _index, block, _metadata, each in run], why)


def lost_name(file):
    """Where a Restored that is not its path's file is put. Names that would be too long keep their end, and a digest of the whole."""
    suffix = f".v{file.version}" + ("" if file.is_whole else f".bytes-{file.offset}-{file.offset + max(file.size, 1) - 1}")
    try:
        return model.clean_path(LOST + file.path + suffix)
    except errors.BadName:
        digest = hashlib.sha256(file.path.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return f"{LOST}/{_shortened(model.parent_and_name(file.path)[1])}.{digest}{suffix}"


def _shortened(name, most=120):
    return name.encode()[-most:].decode("utf-8", "ignore")


def lost_block_name(block):
    """Where a block is put whose trailer does not tell its place."""
    return f"{LOST}/blocks/{block}"
