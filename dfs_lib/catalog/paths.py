"""From a path to a row of `entries`, and from an entry back to its path.

Never checks a path's spelling (model.clean_path did) and never changes a row.

A path of up to eight parts is found by one statement of nested look-ups; a longer one by one statement each eight parts.
A file has no children, so a path that leads through a file finds nothing; only then is it walked, to tell the two refusals
apart.
"""

from dfs_lib import errors
from dfs_lib.catalog.schema import NOWHERE, ROOT
from dfs_lib.model import DIRECTORY

COLUMNS = "id, kind, version, size, mtime_at, copies"
# SQLite nests expressions some hundred deep; eight covers nearly every real path in one statement.
_PARTS_AT_ONCE = 8


def _nested(n_parts):
    inner = "?"
    for _ in range(n_parts - 1):
        inner = f"(SELECT id FROM entries WHERE parent = {inner} AND name = ?)"
    return f"SELECT {COLUMNS} FROM entries WHERE parent = {inner} AND name = ?"


def _nested_with(columns, joins):
    """The same with what is joined to it, for each number of parts: the entry is `e`."""
    mine = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
    found = [None]
    for n_parts in range(1, _PARTS_AT_ONCE + 1):
        below = _nested(n_parts).partition(" WHERE ")[2].replace("parent =", "e.parent =", 1)
        found.append(f"SELECT {mine}, {columns} FROM entries e {joins} WHERE {below[:-len('name = ?')]}e.name = ?")
    return found


_FIND = [None] + [_nested(n) for n in range(1, _PARTS_AT_ONCE + 1)]
# A row for each replica of each block.
_FIND_WITH_REPLICAS = _nested_with("x.idx, r.keeper", "LEFT JOIN extents x ON x.version = e.version LEFT JOIN replicas r ON r.block = x.block")
# A row for each block from an index to below another.
_FIND_WITH_BLOCKS = [text and text + " ORDER BY x.idx" for text in _nested_with(
    "v.block_size, x.block, x.idx, b.size, b.crcs, (SELECT group_concat(keeper) FROM replicas r WHERE r.block = x.block)",
    "LEFT JOIN versions v ON v.version = e.version LEFT JOIN extents x ON x.version = e.version AND x.idx >= ? AND x.idx < ?"
    " LEFT JOIN blocks b ON b.block = x.block")]


def find(execute, path):
    """(id, kind, version, size, mtime_at, copies) of `path`, or None. execute: of a connection."""
    if path == "/":
        return execute(_FIND[1], (NOWHERE, "")).fetchone()
    parts = path.split("/")
    parts[0] = ROOT
    while len(parts) > _PARTS_AT_ONCE + 1:
        row = execute(_FIND[_PARTS_AT_ONCE], parts[:_PARTS_AT_ONCE + 1]).fetchone()
        if row is None:
            return None
        parts[:_PARTS_AT_ONCE + 1] = [row[0]]
    return execute(_FIND[len(parts) - 1], parts).fetchone()


def with_replicas(execute, path):
    """Rows of (id, kind, version, size, mtime_at, copies, index or None, keeper or None), one a replica; none when nothing is at `path`.

    One statement, so that a short path costs one look into the database; a longer one is found first.
    """
    parts = _short(execute, path)
    return execute(_FIND_WITH_REPLICAS[len(parts) - 1], parts).fetchall()


def with_blocks(execute, path, first, end):
    """Rows of (id, kind, version, size, mtime_at, copies, block size or None, block, index, size, checksums, keepers as `1,2`), one a block
    with first <= index < end; one with None for all of the block when it has none such; none when nothing is at `path`. As `with_replicas`."""
    parts = _short(execute, path)
    return execute(_FIND_WITH_BLOCKS[len(parts) - 1], [first, end, *parts]).fetchall()


def _short(execute, path):
    """An entry id and the names that lead on from it to `path`: at most as many as fit into one statement."""
    if path == "/":
        return [NOWHERE, ""]
    parts = path.split("/")
    if len(parts) > _PARTS_AT_ONCE + 1:
        row = find(execute, path.rpartition("/")[0])
        return [row[0] if row else NOWHERE, parts[-1]]
    parts[0] = ROOT
    return parts


def found(execute, path):
    """As find, but raises NoSuchFile, or NotADirectory when a part above is a file."""
    row = find(execute, path)
    if row is None:
        raise missing(execute, path)
    return row


def missing(execute, path):
    """The refusal that tells why `path` was not found."""
    at, walked = ROOT, ""
    for name in path[1:].split("/"):
        row = execute(_FIND[1], (at, name)).fetchone()
        if row is None:
            break
        at, walked = row[0], f"{walked}/{name}"
        if row[1] != DIRECTORY and walked != path:
            return errors.NotADirectory(path=walked)
    return errors.NoSuchFile(path=path)


def path_of(execute, entry):
    """The path of an entry id, or None when it is gone or its tree is cut off."""
    parts = []
    while entry != ROOT:
        row = execute("SELECT parent, name FROM entries WHERE id = ?", (entry,)).fetchone()
        if row is None or row[0] == NOWHERE:
            return None
        entry = row[0]
        parts.append(row[1])
    return "/" + "/".join(reversed(parts))
