"""Bytes go bad on keepers' disks: one flipped, a file cut, grown, zeroed, deleted, or two swapped, in the data and in the trailer.

Never served, always found by the next read or scrub, always made good while one copy lives; and with none left, said by name.
DAMAGE_PLACES=200 makes more places than the suite's; DAMAGE_SEED replays a run.
"""

import collections
import os
import random
import shutil

import pytest

from dfs_lib import errors
from live_cluster import MIB, until

pytestmark = pytest.mark.system
N_PLACES = int(os.environ.get("DAMAGE_PLACES", "40"))
SEED = int(os.environ.get("DAMAGE_SEED", "1"))
# What a trailer of these files has at least: footer and some metadata.
TRAILER = 100

Replica = collections.namedtuple("Replica", "path index keeper file size")  # file: the block file's path; size: bytes of data in it


def make_tree(directory, n_small, rng):
    """{remote path: local path}: many small files, some empty, and some of several chunks or blocks."""
    files = {}
    for number in range(n_small):
        files[f"/tree/d{number % 7}/small{number}"] = rng.choice([0, 1, 17, 4096, rng.randrange(60_000), rng.randrange(60_000)])
    for number in range(3):
        files[f"/tree/chunks{number}"] = 2 * MIB + rng.randrange(MIB)
    files["/tree/blocks"] = 3 * MIB + 4321
    for path, size in files.items():
        local = os.path.join(directory, path[1:])
        os.makedirs(os.path.dirname(local), exist_ok=True)
        with open(local, "wb") as out:
            out.write(rng.randbytes(size))
    return {path: os.path.join(directory, path[1:]) for path in files}


def replicas(cluster, client, paths):
    """[Replica] of every block of these files, as the catalog has them."""
    names = {cluster.keeper_id(name): name for name in cluster.keepers}
    found = []
    for path in paths:
        for block in client.stat(path, blocks=True)["blocks"]:
            for keeper in block["keepers"]:
                file = os.path.join(cluster.directory, names[keeper], "blocks", block["block"][-2:], block["block"])
                found.append(Replica(path, block["index"], names[keeper], file, block["size"]))
    return found


# -- ways for bytes to go bad -------------------------------------------------------------------------------------------
def flip(replica, rng, others, part):
    with open(replica.file, "r+b") as file:
        at = rng.randrange(*part)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def zero(replica, rng, others, part):
    """A sector, or less, of zeros, as a disk that lost it gives back."""
    with open(replica.file, "r+b") as file:
        at = rng.randrange(*part)
        size = min(512, part[1] - at)
        file.seek(at)
        if not any(file.read(size)):
            return flip(replica, rng, others, (at, at + 1))
        file.seek(at)
        file.write(bytes(size))


def truncate(replica, rng, others, part):
    os.truncate(replica.file, rng.randrange(*part))


def empty(replica, rng, others, part):
    os.truncate(replica.file, 0)


def grow(replica, rng, others, part):
    with open(replica.file, "ab") as file:
        file.write(rng.randbytes(rng.choice([1, 52, 4096])))


def delete(replica, rng, others, part):
    os.unlink(replica.file)


def swap(replica, rng, others, part):
    """Another block's whole, valid file stands in its place."""
    other = rng.choice([one for one in others if os.path.basename(one.file) != os.path.basename(replica.file) and os.path.exists(one.file)])
    shutil.copyfile(other.file, replica.file)


WAYS = (flip, flip, zero, truncate, empty, grow, delete, swap)


def hurt(replica, rng, others):
    """Damage one replica in one random place; returns what was done, for the message of a failure."""
    whole = os.path.getsize(replica.file)
    way = rng.choice(WAYS)
    in_data = replica.size and rng.random() < 0.6
    part = (0, replica.size) if in_data else (replica.size, whole)
    way(replica, rng, others, part)
    return f"{way.__name__} in the {'data' if in_data else 'trailer'} of block {replica.index} of {replica.path} on {replica.keeper}"


# -- tests --------------------------------------------------------------------------------------------------------------
def get_and_compare(client, files, back):
    """Every byte that comes back is right, whatever lies on the disks."""
    for path, local in files.items():
        if os.path.exists(back):
            os.unlink(back)
        client.get(path, back)
        with open(back, "rb") as one, open(local, "rb") as other:
            assert one.read() == other.read(), path


def has_all_copies(cluster, client):
    status = client.status()
    return not status.under_replicated and not status.missing and not status.repairs_running


def good_replicas(cluster, client, files):
    """Every replica on record lies on its disk and is whole, by the program's own reading of the file, and there are three of each block."""
    from dfs_lib.keeper.store import Store

    found = replicas(cluster, client, files)
    for replica in found:
        with Store(os.path.join(cluster.directory, replica.keeper), None, slot="test") as store:
            store.verify(os.path.basename(replica.file))
    assert set(collections.Counter((one.path, one.index) for one in found).values()) == {3}


def test_damage_in_random_places_is_never_served_always_found_and_always_made_good(make_cluster, work):
    rng = random.Random(SEED)
    cluster = make_cluster(keepers=3, n_ports=1, keeper_options=["--scrub-days", "0"])
    client = cluster.client()
    files = make_tree(os.path.join(work, "local"), N_PLACES, rng)
    client.put_tree(os.path.join(work, "local", "tree"), "/tree")
    shutil.copyfile(files["/tree/blocks"], large := os.path.join(work, "blocks"))
    with cluster.client(block_size=MIB) as small_blocks:
        small_blocks.put(large, "/tree/blocks")
    until(lambda: has_all_copies(cluster, client), 60, "three copies of each")
    back, n_done, rounds = os.path.join(work, "back"), 0, 0
    while n_done < N_PLACES:
        rounds += 1
        mine = replicas(cluster, client, files)
        by_block = collections.defaultdict(list)
        for replica in mine:
            by_block[replica.path, replica.index].append(replica)
        # At most two of three copies of a block: one good copy lives.
        chosen = [replica for each in rng.sample(sorted(by_block), min(len(by_block), 30)) for replica in rng.sample(by_block[each], rng.choice([1, 1, 2]))]
        chosen = chosen[:N_PLACES - n_done]
        done = {replica: hurt(replica, rng, mine) for replica in chosen}
        n_done += len(chosen)
        if rounds % 2:
            get_and_compare(client, files, back)  # the reader meets some of it, and only notices a pause
        client.scrub()
        until(lambda: not client.scrub(start=False).running, 60, "the scrub ends")
        until(lambda: has_all_copies(cluster, client), 60, "all copies are back")
        remembered = {name for keeper in cluster.keepers for name in os.listdir(os.path.join(cluster.directory, keeper, "quarantine"))}
        for replica, what in done.items():
            gone = "delete" in what
            assert gone or any(name.startswith(os.path.basename(replica.file)) for name in remembered), f"not found, seed {SEED}: {what}"
        good_replicas(cluster, client, files)
    get_and_compare(client, files, back)
    assert client.status().counters["replicas_bad"] >= n_done


def test_a_reader_alone_finds_what_it_meets_and_the_scrub_by_itself_the_rest(make_cluster, work):
    """No `dfs scrub` and no `fsck`: damage in the data shows when it is read, the rest in the round that goes by itself."""
    rng = random.Random(SEED + 1)
    cluster = make_cluster(keepers=3, n_ports=1, keeper_options=["--scrub-days", str(3 / 86400)])
    client = cluster.client()
    files = make_tree(os.path.join(work, "local"), 12, rng)
    client.put_tree(os.path.join(work, "local", "tree"), "/tree")
    until(lambda: has_all_copies(cluster, client), 60, "three copies of each")
    mine = replicas(cluster, client, files)
    hurt_ones = rng.sample(mine, 6)
    for replica in hurt_ones:
        flip(replica, rng, mine, (0, os.path.getsize(replica.file)))
    get_and_compare(client, files, os.path.join(work, "back"))
    until(lambda: all(_in_quarantine(cluster, replica) for replica in hurt_ones), 30, "each is in quarantine, unasked")
    until(lambda: client.status().counters.get("replicas_bad", 0) >= len(hurt_ones), 10, "the master has been told")
    until(lambda: has_all_copies(cluster, client), 30, "all copies are back")
    good_replicas(cluster, client, files)
    whole = [path for path in files if "chunks" not in path and "blocks" not in path]
    until(lambda: all(client.stat(path, blocks=True)["sha256"] for path in whole), 30, "its sums are filled in")
    assert client.stat(whole[0], blocks=True)["sha256"] == cluster.dfs("sum", whole[0]).split()[0]
    why = cluster.dfs("why", "k1")
    assert "its scrub has read" in why and "the one before ended on" in why


def _in_quarantine(cluster, replica):
    return any(name.startswith(os.path.basename(replica.file)) for name in os.listdir(os.path.join(cluster.directory, replica.keeper, "quarantine")))


def test_with_no_good_copy_left_the_file_is_named_and_the_rest_of_the_tree_arrives(make_cluster, work):
    rng = random.Random(SEED + 2)
    cluster = make_cluster(keepers=3, n_ports=1, keeper_options=["--scrub-days", "0"])
    client = cluster.client()
    files = make_tree(os.path.join(work, "local"), 20, rng)
    client.put_tree(os.path.join(work, "local", "tree"), "/tree")
    until(lambda: has_all_copies(cluster, client), 60, "three copies of each")
    lost = "/tree/chunks1"
    mine = replicas(cluster, client, files)
    for replica in mine:
        if replica.path == lost:
            flip(replica, rng, mine, (0, MIB))  # the same chunk of each: of different ones a reader puts the file together
    target = os.path.join(work, "out")
    refused = cluster.dfs("get", lost, os.path.join(work, "one"), status=errors.IntegrityError.status)
    assert lost in refused and "Traceback" not in refused and not os.path.exists(os.path.join(work, "one"))
    refused = cluster.dfs("get", "-r", "/tree", target, status=errors.IntegrityError.status)
    assert lost in refused and refused.count("/tree/") == 1
    arrived = {os.path.relpath(os.path.join(directory, name), target) for directory, _below, names in os.walk(target) for name in names}
    assert {os.path.join("/tree", name.removeprefix("tree/")) for name in arrived if not name.startswith(".")} == set(files) - {lost}
    for path, local in files.items():
        if path != lost:
            with open(local, "rb") as one, open(_arrived(target, path), "rb") as other:
                assert one.read() == other.read(), path
    until(lambda: client.status().missing == 1, 20, "the status tells of it")
    told = cluster.run("fsck", "/tree")
    assert told.returncode == errors.IntegrityError.status and lost in told.stdout
    shutil.copyfile(files[lost], os.path.join(work, "again"))
    client.put(os.path.join(work, "again"), lost)  # whoever has it still puts it back
    cluster.dfs("get", lost, os.path.join(work, "one"))


def _arrived(target, path):
    for candidate in (os.path.join(target, path.removeprefix("/tree/")), os.path.join(target, path[1:])):
        if os.path.exists(candidate):
            return candidate
    raise AssertionError(f"{path} has not arrived")
