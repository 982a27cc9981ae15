"""A keeper's data directory as a whole: made once, locked by one daemon, and named after its keeper and cluster.

Never opens a block file. The tree stands in store.py; `keeper.json` here is one JSON object, whole or not there at all:

    {"keeper_id": 32 hex digits, "cluster_id": text, null until a master has taken the keeper in, "format": 1}
"""

import errno
import json
import os
import re
from collections import namedtuple

from dfs_lib import errors
from dfs_lib.keeper import disk
from dfs_lib.keeper.disk import Directory

FORMAT = 1
# blocks/00 … ff: a block lies in the one its id ends with (the random end: they fill evenly).
BUCKETS = [f"{n:02x}" for n in range(256)]
_KEEPER_ID = re.compile(r"[0-9a-f]{32}")

Identity = namedtuple("Identity", "keeper_id cluster_id")  # cluster_id is None until a master has taken the keeper in


def prepare(directory):
    """Make the data directory and what belongs in it, durably. What is there already stays. Raises DiskFault, NoRoom."""
    directory = os.path.abspath(directory)
    try:
        _make_path(directory)
        with Directory(directory) as top:
            for name in ("incoming", "blocks", "quarantine", "aside"):
                top.make(name)
            with top.below("blocks") as blocks:
                for name in BUCKETS:
                    blocks.make(name)
                # Also when nothing is new: an earlier start may have died between making and syncing.
                blocks.sync()
                top.sync()
    except OSError as e:
        raise disk.ours(e, directory) from e


def _make_path(path):
    """Like mkdir -p with 0700, each new name synced into its parent: a directory lost in a power cut takes all blocks along."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_path(parent)
    with Directory(parent) as above:
        above.make(os.path.basename(path))
        above.sync()


def lock(directory):
    """An fd that holds the directory for this daemon until it is closed or the process ends.

    A child made by fork shares the lock: it must close this fd, or the directory stays locked while the child lives.
    Raises DirectoryInUse when another process holds it.
    """
    path = os.path.join(directory, "lock")
    try:
        fd = disk.open_changeable(os.open, path)
    except OSError as e:
        raise disk.ours(e, path) from e
    try:
        disk.lock(fd)
    except OSError as e:
        os.close(fd)
        if e.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise errors.DirectoryInUse(path=str(directory)) from e
        raise disk.ours(e, path) from e
    return fd


def load_identity(directory, make_id):
    """Identity of the keeper whose directory this is; the first start makes one. Call it under `lock`.

    make_id: called for a new keeper's id, 32 lower-case hex digits.
    Raises IntegrityError when keeper.json is there and cannot be read, Refusal when a newer program wrote it.
    """
    try:
        with Directory(directory) as top:
            known = _read_identity(top)
            if known is None:
                known = {"keeper_id": make_id(), "cluster_id": None, "format": FORMAT}
                _save_identity(top, known)
    except OSError as e:
        raise disk.ours(e, os.path.join(directory, "keeper.json")) from e
    return Identity(known["keeper_id"], known["cluster_id"])


def save_cluster(directory, cluster_id):
    """Bind the directory to a cluster, once; a second time with the same cluster changes nothing. Raises WrongCluster."""
    try:
        with Directory(directory) as top:
            known = _read_identity(top)
            if known is None:
                raise errors.Misuse(detail="load_identity comes before save_cluster")
            if known["cluster_id"] not in (None, cluster_id):
                raise errors.WrongCluster(what=str(directory), theirs=known["cluster_id"], ours=cluster_id)
            if known["cluster_id"] is None:
                _save_identity(top, {**known, "cluster_id": cluster_id})
    except OSError as e:
        raise disk.ours(e, os.path.join(directory, "keeper.json")) from e


def read_identity(directory):
    """Identity as load_identity gives it, or None where no keeper has been. Writes nothing."""
    try:
        with Directory(directory) as top:
            known = _read_identity(top)
    except OSError as e:
        raise disk.ours(e, os.path.join(directory, "keeper.json")) from e
    return known and Identity(known["keeper_id"], known["cluster_id"])


def _read_identity(top):
    path = os.path.join(top.path, "keeper.json")
    try:
        fd = top.open("keeper.json", disk.READ)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        raw = file.read(64 * 1024)
    try:
        known = json.loads(raw)
        form, keeper_id, cluster_id = known["format"], known["keeper_id"], known["cluster_id"]
        sane = _KEEPER_ID.fullmatch(keeper_id) and (cluster_id is None or isinstance(cluster_id, str)) and isinstance(form, int)
    except (ValueError, LookupError, TypeError, RecursionError):
        sane = False
    if not sane:
        raise errors.IntegrityError(f"{path} cannot be read as a keeper's identity; bring it back from a copy, or remove it "
                                    "to let this directory join as a new keeper (its blocks stay)", path=path)
    if form != FORMAT:
        raise errors.Refusal(f"{path} is of keeper format {form}, this program knows format {FORMAT}; "
                             "use the version of dfs that wrote it", path=path)
    return known


def _save_identity(top, known):
    disk.write_file(top, "keeper.json", json.dumps(known).encode() + b"\n", ".keeper.json.new")
