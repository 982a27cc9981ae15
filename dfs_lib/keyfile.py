"""Key files: one line of text, readable by their owner alone.

    dfs-cluster-key-1 <64 hex digits>

Never prints a key; a file that others can read is refused, because a key that leaked quietly is worse than no key.
"""

import os
import secrets
import stat

from dfs_lib import errors

_PREFIX = "dfs-cluster-key-1"


def make(path):
    """Write a fresh cluster key to a new file (0600) and return its 32 bytes. Raises LocalFileError when it exists."""
    key = secrets.token_bytes(32)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with open(fd, "w", encoding="ascii") as out:
            out.write(f"{_PREFIX} {key.hex()}\n")
            out.flush()
            os.fsync(out.fileno())
    except FileExistsError as e:
        raise errors.LocalFileError(path=str(path), detail="it exists already, and a key is never overwritten") from e
    except OSError as e:
        _remove(path)  # half a key would be taken for a damaged one
        raise errors.LocalFileError(path=str(path), detail=e.strerror or str(e)) from e
    return key


def _remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass  # it was never made; the error that brought us here is the one to tell


def read(path):
    """The 32 bytes of a key file. Raises BadKeyFile when it is missing, malformed, or readable by others."""
    try:
        with open(path, encoding="ascii") as source:
            mode = os.fstat(source.fileno()).st_mode
            text = source.read(4096)
    except (OSError, ValueError) as e:
        raise errors.BadKeyFile(path=str(path), detail=getattr(e, "strerror", None) or "it is not text") from e
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise errors.BadKeyFile(path=str(path), detail=f"its mode is {stat.S_IMODE(mode):04o}, others can read it")
    words = text.split()
    try:
        key = bytes.fromhex(words[1]) if len(words) == 2 and words[0] == _PREFIX else b""
    except ValueError:
        key = b""
    if len(key) != 32:
        raise errors.BadKeyFile(path=str(path), detail=f"it does not hold one line `{_PREFIX} …`")
    return key
