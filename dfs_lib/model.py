"""Records, constants and the one road from a text to a name: what everyone shares.

Knows no I/O, clock or chance. Imports nothing heavy, because the client's start-up pays for it.
"""

from dfs_lib import errors
from dfs_lib.records import record

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# 64 MiB: large enough that a block's round trips vanish, small enough that a file spreads over keepers and a broken
# transfer repeats little. It is a setting of the file.
BLOCK_SIZE = 64 * MIB
# 1 MiB: one checksum, one buffer and one progress step. A ranged read fetches at most two chunks too many.
CHUNK_SIZE = MIB
# The lowest copies a person may ask for is 1; more than 16 is a typing error, and every list of replicas is bounded by it.
MAX_COPIES = 16
MAX_PATH_BYTES = 4096
MAX_PART_BYTES = 255
# 2**50 bytes (1 PiB): a ceiling for any file size on the wire; JSON numbers stay exact below 2**53.
MAX_FILE_SIZE = 1 << 50

LIVE, SUSPECT, DEAD = "live", "suspect", "dead"
# A word for people, and no state: what one that said farewell is called while it is suspect or dead.
STOPPED = "stopped"
FILE, DIRECTORY = "file", "dir"

# What a name is: path text, kind FILE or DIRECTORY, size bytes, version number, mtime_at Unix seconds (float),
# copies_wanted, copies_have (replicas on keepers that are not dead, of the block that has fewest; None when not asked).
Entry = record("Entry", "path kind size version mtime_at copies_wanted copies_have")

# One block of a version. block: 32 lower-case hex; size bytes; crcs: bytes, 4 big-endian bytes a chunk;
# keepers: tuple of keeper numbers (catalog's small integers) that the catalog says hold it.
Block = record("Block", "block index size crcs keepers")

# A keeper as planners see it. number: the catalog's small integer; id: UUID hex; host: text; ports: tuple of int;
# labels: {key: value}; state: LIVE, SUSPECT or DEAD; draining: bool; free and used: bytes (free already without the
# reserve); load: transfers under way; sick: text reason the keeper takes nothing new (read-only disk …) or "".
KeeperView = record("KeeperView", "number id host ports labels state draining free used load sick")


def n_chunks(size, chunk_size=CHUNK_SIZE):
    """Chunks in `size` bytes. An empty block still has one (empty) chunk, so that its checksum proves it."""
    return max(1, -(-size // chunk_size))


def block_size_fault(size):
    """Why files cannot have blocks of this many bytes; "" when they can."""
    if MIB <= size <= GIB and not size % MIB:
        return ""
    return "a block has a multiple of 1 MiB, from 1 MiB to 1 GiB"


def n_blocks(size, block_size):
    """Blocks of a file of `size` bytes. An empty file has none."""
    return -(-size // block_size)


def clean_path(text):
    """The one road from a text to a stored name.

    text: what a user or a peer wrote, absolute, `/` between parts; one trailing `/` is allowed and dropped.
    Returns the path in NFC. Raises BadName and names the fault: relative, empty part, `.` or `..`, NUL or control
    character, not valid Unicode (an undecodable local name), a part over 255 bytes, over 4096 bytes in all.
    """
    if not isinstance(text, str):
        raise errors.BadName(path=str(text)[:80], detail="it is not text")
    if not text.startswith("/"):
        raise errors.BadName(path=text[:300], detail="it does not start with /")
    if len(text) <= MAX_PART_BYTES and text.isascii() and text.isprintable() and "//" not in text and "/." not in text:
        # Nearly every name, in a tenth of the time: too short to have a part too long, and without anything that is looked for below.
        return text[:-1] if text[-1] == "/" and text != "/" else text
    if not text.isascii():
        text = _normalized(text)
    if text != "/" and text.endswith("/"):
        text = text[:-1]
    if text == "/":
        return text
    if len(text.encode()) > MAX_PATH_BYTES:
        raise errors.BadName(path=text[:80] + "…", detail=f"it has over {MAX_PATH_BYTES} bytes")
    for part in text[1:].split("/"):
        _check_part(part, text)
    return text


def _normalized(text):
    import unicodedata  # only names beyond ASCII pay for this import

    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise _bad_name(text, "it is not valid Unicode") from e
    return unicodedata.normalize("NFC", text)


def _check_part(part, path):
    if part == "":
        raise errors.BadName(path=path[:300], detail="it has an empty part (two slashes in a row)")
    if part in (".", ".."):
        raise errors.BadName(path=path[:300], detail=f"it has a part {part!r}")
    if len(part) > MAX_PART_BYTES or len(part.encode()) > MAX_PART_BYTES:
        raise errors.BadName(path=path[:80] + "…", detail=f"a part of it has over {MAX_PART_BYTES} bytes")
    if not part.isprintable():
        for character in part:
            # C0, DEL and C1 controls, and the two Unicode line breaks, which forge lines in terminals and logs.
            if character < " " or "\x7f" <= character <= "\x9f" or character in "\u2028\u2029":
                raise _bad_name(path, f"it has the control character U+{ord(character):04X}")


def _bad_name(path, detail):
    """A BadName whose fact is a text that can be sent and shown, escaped once in its sentence as well."""
    return errors.BadName(f"the name {ascii(path)[:300]} cannot be stored: {detail}", path=ascii(path)[:300], detail=detail)


def parent_and_name(path):
    """(`/a/b`, `c`) of `/a/b/c`; the root has no name: ("/", "")."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def join(directory, name):
    """`directory` and one more part."""
    return f"/{name}" if directory == "/" else f"{directory}/{name}"


_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size_text(n):
    """`4.2 MB`: three digits for people (1 kB is 1000 bytes, as disks are sold). Every part that tells people a size says it so."""
    n, unit = float(n), 0
    while n >= 999.5 and unit < len(_SIZE_UNITS) - 1:
        n, unit = n / 1000, unit + 1
    return f"{n:.0f} {_SIZE_UNITS[unit]}" if unit == 0 or n >= 99.95 else f"{n:.1f} {_SIZE_UNITS[unit]}"


def duration_text(seconds):
    """`0.9 s`, `14 s`, `3 min`, `2.5 h`, `3 d`. Every part that tells people a time says it so."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"


def count_text(n, one, many=None):
    """`1 file`, `2,000 files`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def state_word(state, was_stopped):
    """What people read of a keeper's state: a clean stop is no death, though its copies count no more for that."""
    return STOPPED if was_stopped and state in (DEAD, SUSPECT) else state
