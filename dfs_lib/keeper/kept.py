"""quarantine/ and aside/: block files out of use, each with its reason, kept for a human or for their way back.

Never takes a block out of use or brings one back: Store moves the files, here are their names, reasons and whether one is whole.

    ID.N           a block file; N counts up from 1, because a block may come here more than once
    ID.N.reason    {"block": ID, "file_size": bytes, "reason": text}; also claims the name ID.N among processes
"""

import itertools
import json
import logging
import os
import re
from collections import namedtuple

from dfs_lib import errors
from dfs_lib.keeper import disk
from dfs_lib.keeper.block_file import open_file

log = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9a-f]{32})\.([0-9]{1,9})")

# A file in quarantine/ or aside/: block id, file name there, its length in bytes, and why it is there ("" when not written).
Kept = namedtuple("Kept", "block name file_size reason")


def claim(target, block, file_size, reason):
    """Write why, and return a name in `target` that nothing has. A full disk must not keep a bad block in use."""
    for n in itertools.count(1):
        name = f"{block}.{n}"
        if _is_in(target, name):
            continue
        try:
            fd = target.open(name + ".reason", disk.CREATE)  # also claims the name among processes
        except FileExistsError:
            continue
        except OSError as e:
            if e.errno in disk.FULL:
                return name
            raise
        try:
            disk.write_all(fd, [json.dumps({"block": block, "file_size": file_size, "reason": reason}).encode()])
        except OSError as e:
            log.warning("a reason could not be written block=%s reason=%s detail=%s", block, reason, e)
        finally:
            os.close(fd)
        return name


def forget_reason(directory, name):
    """Remove the reason of a file that is no longer there: it says nothing without it."""
    disk.unlink_if_there(directory, name + ".reason")


def _is_in(directory, name):
    try:
        directory.stat(name)
    except FileNotFoundError:
        return False
    return True


def listed(directory):
    """[Kept, …] in a Directory, sorted by name. Raises OSError."""
    return [_kept(directory, match) for match in map(_NAME.fullmatch, sorted(directory.names())) if match]


def _kept(directory, match):
    """Kept for one file of quarantine/ or aside/, with what its .reason says."""
    reason = ""
    try:
        with open(directory.open(match[0] + ".reason", disk.READ), "rb") as file:
            reason = json.loads(file.read(64 * 1024))["reason"]
    except (OSError, ValueError, LookupError, TypeError):
        pass  # the block is kept all the same; only why is not known any more
    return Kept(match[1], match[0], directory.stat(match[0]).st_size, reason)


def whole(directory, block, faults):
    """Yield (name, file_size) of each copy of the block here that is whole, the highest number first.

    Each is read when its turn comes, all of it, and its data is on the medium then. A damaged one is left where it is.
    faults: a list; takes the DiskFault of each one that could not be read: whether it is whole nobody knows.
    Raises Busy; OSError when the directory cannot be listed.
    """
    numbers = [int(match[2]) for match in map(_NAME.fullmatch, directory.names()) if match and match[1] == block]
    for name in (f"{block}.{n}" for n in sorted(numbers, reverse=True)):
        try:
            yield name, _verify(directory, name, block)
        except errors.BlockMissing:  # another process was quicker
            continue
        except errors.IntegrityError as e:
            log.info("a kept block is damaged name=%s detail=%s", name, e.message)
        except errors.DiskFault as e:
            log.warning("a kept block could not be read name=%s detail=%s", name, e.message)
            faults.append(e)


def _verify(directory, name, block):
    """Length in bytes of a file that is whole. Raises IntegrityError, DiskFault, Busy."""
    with open_file(directory, name, block) as stored:
        if os.name != "nt":  # Windows syncs only what is open for writing
            # The store synced what it wrote, but a human may have put this file here, or mended it.
            try:
                disk.fsync(stored.fd)
            except OSError as e:
                raise disk.ours(e, stored.path) from e
        stored.verify(cold=True)
        return stored.file_size
