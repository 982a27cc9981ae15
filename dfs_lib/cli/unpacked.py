"""The folders that the one-file program unpacks itself into: ours is locked while we run, those of dead programs are removed.

Never touches another user's folder, or one that a living process uses: a program whose bootloader was killed by -9 goes on running
from it, and nobody removes the folder when it ends.

    _MEI + 8 hex digits of the bootloader's process id + 6 more      in the temporary directory that our own lies in
"""

import logging
import os
import re
import shutil
import stat
import sys

log = logging.getLogger(__name__)

_NAME = re.compile(r"_MEI([0-9a-f]{8})[0-9A-Za-z_]{6}")
# Between a folder's making and the first process that runs from it there is a moment: younger ones are left alone (seconds).
YOUNG_S = 60.0


def lock_own():
    """The frozen program: keep cleaners of /tmp away from the folder we run from, for as long as this process lives."""
    folder = getattr(sys, "_MEIPASS", None)
    if folder and os.name == "posix":
        import fcntl

        try:
            fcntl.flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_SH)  # held on purpose: never closed
        except OSError:
            pass  # a file system without locks: as good as it gets


def sweep(now_at):
    """The frozen program: remove what programs of ours that were killed have left beside our own folder. now_at: Unix seconds."""
    folder = getattr(sys, "_MEIPASS", None)
    if folder and _NAME.fullmatch(os.path.basename(folder)) and os.path.isdir("/proc/self"):
        sweep_directory(os.path.dirname(folder), os.path.basename(folder), now_at)


def sweep_directory(directory, own_name, now_at):
    """Remove the folders of the dead in one directory; returns their names."""
    removed = []
    for name in _abandoned(directory, own_name, now_at):
        path = os.path.join(directory, name)
        if _is_in_use(path):
            continue
        shutil.rmtree(path, ignore_errors=True)  # follows no link; what cannot be removed is tried at the next start
        log.info("removed what a killed program left path=%s", path)
        removed.append(name)
    return removed


def _abandoned(directory, own_name, now_at):
    """Names of our user's folders whose bootloader is dead."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    found = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or name == own_name or os.path.exists(f"/proc/{int(match[1], 16)}"):
            continue
        try:
            facts = os.lstat(os.path.join(directory, name))
        except OSError:
            continue
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and now_at - facts.st_mtime > YOUNG_S:
            found.append(name)
    return found


def _is_in_use(path):
    """Whether a process runs from this folder: it has it locked, or has a library from it in its memory."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    wanted = os.fsencode(os.path.realpath(path)) + b"/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                if wanted in maps.read():
                    return True
        except OSError:
            continue  # it has ended, or is another user's
    return False
