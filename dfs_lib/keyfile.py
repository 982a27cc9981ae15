"""Key files: one line of text, readable by their owner alone.

    dfs-cluster-key-1 <64 hex digits>                masters, keepers, and clients that administer
    dfs-user-key-1 NAME.SERIAL <64 hex digits>       one user, as `dfs admin user add` prints it
    dfs-node-keys-1 <192 hex digits>                 a keeper that joined by a code: node, ticket and clients key

Never prints a key; a file that others can read is refused, because a key that leaked quietly is worse than no key.
"""

import os
import stat

from dfs_lib import errors
from dfs_lib.records import record

CLUSTER, USER, NODE = "dfs-cluster-key-1", "dfs-user-key-1", "dfs-node-keys-1"
# kind → (words in its line, bytes of its key)
_SHAPES = {CLUSTER: (2, 32), USER: (3, 32), NODE: (2, 96)}

# kind: one of those above; identity: NAME.SERIAL of a user, else None; key: bytes.
Key = record("Key", "kind identity key")


def line(key):
    """The text of a key file, without its line end."""
    return " ".join([key.kind, *([key.identity] if key.identity else []), key.key.hex()])


def make(path):
    """Write a fresh cluster key to a new file (0600) and return its 32 bytes. Raises LocalFileError when it exists."""
    key = os.urandom(32)
    write(path, Key(CLUSTER, None, key))
    return key


def write(path, key):
    """Write a Key to a new file (0600), durably. Raises LocalFileError when there is one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileExistsError as e:
        raise errors.LocalFileError(path=str(path), detail="it exists already, and a key is never overwritten") from e
    except OSError as e:
        raise errors.LocalFileError(path=str(path), detail=e.strerror or str(e)) from e
    try:
        with open(fd, "w", encoding="ascii") as out:
            out.write(line(key) + "\n")
            out.flush()
            os.fsync(out.fileno())
    except OSError as e:
        _remove(path)  # half a key would be taken for a damaged one
        raise errors.LocalFileError(path=str(path), detail=e.strerror or str(e)) from e


def _remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass  # the error that brought us here is the one to tell


def load(path):
    """The Key in a key file. Raises BadKeyFile when it is missing, malformed, or readable by others."""
    try:
        with open(path, "rb") as source:
            mode = os.fstat(source.fileno()).st_mode
            text = source.read(4096).decode("ascii")
    except (OSError, ValueError) as e:
        raise errors.BadKeyFile(path=str(path), detail=getattr(e, "strerror", None) or "it is not text") from e
    _refuse_open(path, mode)
    key = parse(text)
    if key is None:
        raise errors.BadKeyFile(path=str(path), detail=f"it does not hold one line `{CLUSTER} …` or `{USER} …`")
    return key


def _refuse_open(path, mode):
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise errors.BadKeyFile(path=str(path), detail=f"its mode is {stat.S_IMODE(mode):04o}, others can read it")


def check_private(path):
    """Raises BadKeyFile when a file that holds a key of another kind is not there, or others can read it."""
    try:
        _refuse_open(path, os.stat(path).st_mode)
    except OSError as e:
        raise errors.BadKeyFile(path=str(path), detail=e.strerror or str(e)) from e


def parse(text):
    """The Key in a line of text, or None."""
    words = text.split()
    n_words, size = _SHAPES.get(words[0] if words else "", (0, 0))
    if not words or len(words) != n_words:
        return None
    try:
        key = bytes.fromhex(words[-1])
    except ValueError:
        return None
    return Key(words[0], words[1] if n_words == 3 else None, key) if len(key) == size else None


def read(path):
    """The 32 bytes of a cluster key's file. Raises BadKeyFile, also for a file with another kind of key."""
    key = load(path)
    if key.kind != CLUSTER:
        raise errors.BadKeyFile(path=str(path), detail="it holds the key of a user or a keeper, and the cluster's own is needed here")
    return key.key
