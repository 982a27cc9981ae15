"""What must hold at every moment, and at the end: an oracle that follows the catalog commit by commit, and every disk.

Never helps the system. It sees each commit at the moment it is durable (`cluster.Taps`), each block file that comes under its
final name or goes from it (`cluster.DiskWatch`), each operation of the workload begin and end, and what chaos destroys on
purpose. The numbers are those of FAULTS.md.

    I1, I10  a good replica of a block that a version refers to goes only when another good one is there; a file under its
             final name is whole
    I2       what is read is one put's bytes, of a version that the name had while the read was under way
    I3       surplus is given up only when as many others as wanted were read whole, or copied, in this master's reign
    I4       a keeper deletes no replica that the catalog counts
    I6       at its commit a version's blocks are on the disks of the keepers named, `safe` of them, with the bytes of one put
    I7, I8   names change by commits only, each commit belongs to one operation somebody asked for, and none is made twice
    I13      a keeper obeys no master of a lower epoch than one it has obeyed before
    I14      after the faults: copies as wanted, nothing queued, no file on any disk that nobody accounts for

A block is excused when chaos itself took its last good replica.
"""

import hashlib
import json
import os

from dfs_lib import errors
from tests.sim.cluster import check_block_file

TAG = 16


def content_of(number, size):
    """The bytes of put `number`: they begin with its number, and repeat with a period that fits no chunk."""
    tile = b"%016d" % number + bytes((number * 7 + i * 13) % 251 for i in range(16 * 63 + 1))
    return (tile * (size // len(tile) + 1))[:size]


class Asked:
    """One operation of the workload. outcome: None while under way (or its client died), "ok", "refused", "unknown"."""

    def __init__(self, number, kind, path, begun_s, **facts):
        self.number, self.kind, self.path, self.begun_s = number, kind, path, begun_s
        self.ended_s = self.outcome = self.error = None
        self.version = None  # of a put, once it is in the catalog
        self.is_used = False  # of a remove or rename: a commit was found for it
        vars(self).update(facts)


class Oracle:
    def __init__(self, world, cluster):
        self.world, self.cluster = world, cluster
        cluster.watch = self
        self.asked = []
        self.operations = {}  # id of an operation → Asked
        self.puts = {0: Asked(0, "put", "", 0.0, size=0)}  # number → Asked; 0 stands for any empty file
        self.versions = {}  # version → number of its put; None: its bytes could not be seen
        self.untold = {}  # version → (path, size): published with bytes that do not tell whose they are
        self.timeline = {}  # path → [(seconds, version or None)]
        self.names = {}  # path → version, now
        self.block_puts = {}
        self.checksums = {}  # (block, keeper name) → hex of the table in the file's trailer
        self.damaged = set()  # (block, keeper name): taken or spoilt by chaos
        self.proven = {}  # (block, keeper name) → the master's process at the time when it was read or copied whole
        self.set_away = set()  # (block, keeper name): put into quarantine or aside by the keeper
        self.excused = set()  # blocks whose last good replica chaos took
        self.keepers_of_id = {}
        self.obeyed_epochs = {}  # (keeper's directory, its id) → the highest epoch of a master it has obeyed
        self.counts = world.stats

    def bug(self, text):
        self.world.bug(text)

    # -- the workload -----------------------------------------------------------------------------------------------------
    def begin(self, kind, path, **facts):
        asked = Asked(len(self.asked) + 1, kind, path, self.world.now, **facts)
        self.asked.append(asked)
        if kind == "put":
            self.puts[asked.number] = asked
        return asked

    def end(self, asked, error=None, result=None):
        """An operation has answered."""
        asked.ended_s, asked.error = self.world.now, error
        if error is None:
            asked.outcome = "ok"
        elif isinstance(error, (errors.NetworkError, errors.ProtocolError)) or error.code in ("not_ready", "busy", "not_master"):
            asked.outcome = "unknown"
        else:
            asked.outcome = "refused"
        self.counts[f"{asked.kind} {asked.outcome if error is None else error.code}"] += 1
        check = getattr(self, f"_ended_{asked.kind}", None)
        if check is not None:
            check(asked, result)

    def _ended_put(self, asked, result):
        if asked.outcome == "ok":
            if asked.version is None and self.untold.get(result["version"]) == (asked.path, asked.size):
                asked.version = result["version"]
            if asked.version is None or asked.version != result["version"]:
                self.bug(f"I6: put {asked.number} of {asked.path} was acknowledged as version {result['version']}, "
                         f"the catalog has {asked.version} for it")
            if result["size"] != asked.size:
                self.bug(f"put {asked.number} of {asked.size} bytes was acknowledged with {result['size']}")
        elif asked.outcome == "refused" and asked.version is not None:
            self.bug(f"put {asked.number} of {asked.path} was refused with {asked.error.code} ({asked.error.message}), "
                     f"and is in the catalog as version {asked.version}")

    def _ended_remove(self, asked, _result):
        self._changed_once(asked, "removed")

    def _ended_rename(self, asked, _result):
        self._changed_once(asked, "renamed")

    def _ended_copy(self, asked, _result):
        self._changed_once(asked, "copied")

    def _changed_once(self, asked, done):
        if asked.outcome == "ok" and not asked.is_used:
            self.bug(f"{asked.path} was acknowledged as {done}, and no commit says so")
        if asked.outcome == "refused" and asked.is_used and asked.error.code != "lease_lapsed":
            self.bug(f"{asked.kind} of {asked.path} was refused with {asked.error.code}, and a commit did it")
        is_file = asked.path != "/d"
        if is_file and isinstance(asked.error, errors.NoSuchFile) and not self._was_absent(asked.path, asked):
            self.bug(f"{asked.kind} of {asked.path} found nothing, and it was there all the time")

    def read(self, asked, version, data):
        """A get has returned these bytes as that version (I2)."""
        number = self.versions.get(version)
        if version not in self.versions:
            return self.bug(f"I2: a read of {asked.path} returned version {version}, which was never committed")
        if not self._was_current(asked.path, version, asked):
            self.bug(f"I2: a read of {asked.path} begun at {asked.begun_s:.3f} returned version {version}, "
                     f"which was not current: {self.timeline.get(asked.path)}")
        if number is None:
            return None
        if data != content_of(number, self.puts[number].size):
            self.bug(f"I2: a read of {asked.path} as version {version} returned {len(data)} other bytes than put {number} of "
                     f"{self.puts[number].size}, beginning {bytes(data[:TAG])!r}")
        return None

    def _ended_get(self, asked, _result):
        states = self._states(asked.path, asked)
        if isinstance(asked.error, errors.NoSuchFile) and None not in states and len(states) < 2:
            self.bug(f"I1: a read of {asked.path} found no such file, and it was there all the time")
        touched = self.world.stats["bits_flipped"] or any(self._is_touched(version) for version in states if version is not None)
        if isinstance(asked.error, errors.IntegrityError) and not touched:
            self.bug(f"I1: a read of {asked.path} gave up with {asked.error.code}: {asked.error.message}")

    def _is_touched(self, version):
        """Whether chaos has damaged or taken any replica of this version, or the version is gone from the catalog."""
        touched = {block for block, _keeper in self.damaged} | {block for block, _keeper in self.set_away} | self.excused
        rows = self.cluster.catalog().execute("SELECT lower(hex(block)) FROM extents WHERE version = ?", (version,)).fetchall()
        return not rows or any(block in touched for block, in rows)

    def _is_excused(self, version):
        rows = self.cluster.catalog().execute("SELECT lower(hex(block)) FROM extents WHERE version = ?", (version,)).fetchall()
        return any(block in self.excused for block, in rows) or not rows and version not in self.names.values()

    def _states(self, path, asked):
        """Versions (or None) that a path had while an operation was under way."""
        end_s = self.world.now if asked.ended_s is None else asked.ended_s
        states, before = [], None
        for at_s, version in self.timeline.get(path, ()):
            if at_s < asked.begun_s:
                before = version
            elif at_s <= end_s:
                states.append(version)
        return [before, *states]

    def _was_current(self, path, version, asked):
        return version in self._states(path, asked)

    def _was_absent(self, path, asked):
        return None in self._states(path, asked)

    # -- commits ----------------------------------------------------------------------------------------------------------
    def committed(self, connection, first):
        """Rows of the log from `first` on are durable now."""
        rows = connection.execute("SELECT sequence, name, op, body, result FROM log WHERE sequence >= ? ORDER BY sequence",
                                  (first,)).fetchall()
        names_changed = False
        for _sequence, name, op, body, result in rows:
            handle = getattr(self, f"_row_{name}", None)
            self.counts[f"row {name}"] += 1
            if handle is not None:
                body = json.loads(body)
                body["op"] = op
                names_changed |= bool(handle(connection, body, json.loads(result) if result else None))
        if names_changed:
            self._compare_names(connection)

    def _compare_names(self, connection):
        now = names_of(connection)
        for path in sorted(now.keys() | self.names.keys()):
            version = now.get(path)
            if version != self.names.get(path):
                self.timeline.setdefault(path, []).append((self.world.now, version))
                if version is not None and version not in self.versions:
                    self.bug(f"I8: {path} has version {version}, which no commit published")
        self.names = now

    def _row_PublishFile(self, connection, body, result):
        version, path = body["version"], body["path"]
        if version in self.versions:
            self.bug(f"F29: version {version} of {path} was published twice")
        data = self._check_blocks(connection, body)
        put = self._put_of(data, body)
        self.versions[version] = put.number if put is not None else 0 if not body["size"] else None
        if put is None:
            self.untold[version] = path, body["size"]
        for block, *_rest in body["blocks"]:
            self.block_puts[block] = put and put.number
        if put is None:
            return True
        if put.path != path or put.size != body["size"]:
            self.bug(f"{path} was published with the bytes of put {put.number} of {put.path}")
        if put.version is not None:
            self.bug(f"F29: put {put.number} of {path} was published as version {put.version} and as {version}")
        if put.outcome == "refused":
            self.bug(f"put {put.number} of {path} was refused with {put.error.code} at {put.ended_s:.3f} and is published now")
        if put.no_clobber and self.names.get(path) is not None and result and result["replaced"]:
            self.bug(f"put {put.number} with no_clobber replaced version {result['replaced']} of {path}")
        put.version = version
        return True

    def _put_of(self, data, body):
        """The put whose bytes these are; None when they cannot tell (an empty file, or chaos has taken the blocks)."""
        if not data:
            fitting = [put for put in self.puts.values() if put.path == body["path"] and put.size == body["size"]
                       and put.outcome in (None, "unknown") and put.version is None]
            if not fitting:
                self.bug(f"I8: {body['path']} with {body['size']} bytes was published, and nobody put it (any more)")
            return None
        try:
            put = self.puts[int(data[:TAG])]
        except (KeyError, ValueError):
            self.bug(f"I2: {body['path']} was published with bytes of no put, beginning {data[:TAG]!r}")
            return None
        if data != content_of(put.number, put.size):
            self.bug(f"I6: {body['path']} was published with {len(data)} bytes, not those of put {put.number} of {put.size}")
        return put

    def _check_blocks(self, connection, body):
        """The version's bytes as they are on disk now, or None when chaos took some. Checks I6."""
        numbers = dict(connection.execute("SELECT number, id FROM keepers").fetchall())
        pieces = []
        for block, size, crcs, keepers in body["blocks"]:
            n_there, data = 0, None
            for number in keepers:
                keeper = self._keeper(numbers.get(number))
                if keeper is None or (block, keeper.name) in self.damaged:
                    n_there += 1
                elif keeper.has(block):
                    n_there += 1
                    if self.checksums.get((block, keeper.name)) != crcs:
                        self.bug(f"I6: block {block} has other checksums on {keeper.name} than in the catalog")
                    if data is None:
                        data = self._bytes(keeper, block, size)
                else:
                    self.bug(f"I6: {body['path']} was published with block {block} on {keeper.name}, which does not have it")
            if min(n_there, len(keepers)) < min(self.cluster.base.safe, body["copies"]):
                self.bug(f"I6: {body['path']} was published with block {block} on keepers {keepers}, {n_there} of them have it")
            if data is None:
                self.excused.add(block)
                pieces = None
            elif len(data) != size:
                self.bug(f"I6: block {block} has {len(data)} bytes and not {size}")
            if pieces is not None:
                pieces.append(data)
        return None if pieces is None else b"".join(pieces)

    def _bytes(self, keeper, block, size):
        """The data of a replica, every checksum compared: what spoils one on purpose is known, and this one was not."""
        path = keeper.path_of(block)
        try:
            check_block_file(path, block)
        except errors.DfsError as e:
            self.bug(f"I10: block {block} on {keeper.name} is damaged: {e.message}")
        with open(path, "rb") as file:
            return file.read(size)

    def _keeper(self, keeper_id):
        """The Keeper of an id; None for one that we never saw."""
        if keeper_id not in self.keepers_of_id:
            for keeper in self.cluster.keepers:
                path = os.path.join(keeper.directory, "keeper.json")
                if os.path.exists(path):
                    with open(path, encoding="utf-8") as file:
                        self.keepers_of_id[json.load(file)["keeper_id"]] = keeper
        return self.keepers_of_id.get(keeper_id)

    def _row_RecordSum(self, connection, body, _result):
        """I2: a sum on record is that of the bytes that were put."""
        put = self.puts.get(self.versions.get(body["version"]))
        if put is not None and body["sha256"] != hashlib.sha256(content_of(put.number, put.size)).hexdigest():
            self.bug(f"I2: version {body['version']} of {put.path} has a SHA-256 on record that is not that of put {put.number}")
        return False

    def _row_RemovePath(self, connection, body, _result):
        self._use(body["op"], f"{body['path']} was removed")
        return True

    def _row_RenamePath(self, connection, body, _result):
        self._use(body["op"], f"{body['source']} was renamed to {body['target']}")
        return True

    def _row_CopyFile(self, connection, body, result):
        self._use(body["op"], f"{body['source']} was copied to {body['target']}")
        rows = connection.execute("SELECT lower(hex(block)) FROM extents WHERE version = ?", (result["version"],)).fetchall()
        blocks = [block for block, in rows]
        numbers = {self.block_puts.get(block) for block in blocks}
        if blocks:
            self.versions[result["version"]] = numbers.pop() if len(numbers) == 1 else None
        else:
            self.versions[result["version"]] = 0
        return True

    def _row_PurgeDetached(self, connection, body, _result):
        return True

    def _row_MakeDirectory(self, connection, body, _result):
        return False

    def _use(self, op, what):
        """A commit must belong to an operation that is under way, or whose answer was lost; each does one commit."""
        asked = self.operations.get(op)
        if asked is None or asked.is_used or asked.outcome not in (None, "unknown"):
            self.bug(f"I8: {what}, and nobody asked for it (any more): {asked and vars(asked)}")
        else:
            asked.is_used = True

    def _row_RecordReplicas(self, connection, body, result):
        keeper = self._keeper(self._id_of(connection, body["keeper"]))
        for block in body["blocks"]:
            if keeper is not None and self._counts(connection, block, body["keeper"]) and not self._is_there(keeper, block):
                self.bug(f"I6: block {block} was recorded on {keeper.name}, which does not have it")

    def _row_DropReplica(self, connection, body, _result):
        """A surplus replica is given up: those that stay must be there (I3)."""
        block = body["block"]
        row = connection.execute("SELECT want FROM blocks WHERE block = ?", (bytes.fromhex(block),)).fetchone()
        if row is None:
            return
        staying = connection.execute("SELECT k.id FROM replicas r JOIN keepers k ON k.number = r.keeper WHERE r.block = ?",
                                     (bytes.fromhex(block),)).fetchall()
        there = [keeper for keeper_id, in staying if (keeper := self._keeper(keeper_id)) is None or self._is_there(keeper, block)]
        if len(there) < row[0]:
            self.bug(f"I3: a replica of block {block} was given up; {row[0]} are wanted and {len(there)} stay")
        proven = [keeper for keeper in there
                  if keeper is None or self.proven.get((block, keeper.name)) is self.cluster.master_process]
        if len(proven) < max(1, row[0]):
            self.bug(f"I3: a replica of block {block} was given up; {row[0]} are wanted and {len(proven)} of those that stay were read")
        good = [keeper for keeper in there if keeper is not None and keeper.has(block)]
        if not good and block not in self.excused:
            self.bug(f"I3: a replica of block {block} was given up, and no good one stays")

    def _id_of(self, connection, number):
        row = connection.execute("SELECT id FROM keepers WHERE number = ?", (number,)).fetchone()
        return row and row[0]

    def _counts(self, connection, block, number):
        return connection.execute("SELECT count(*) FROM replicas WHERE block = ? AND keeper = ?",
                                  (bytes.fromhex(block), number)).fetchone()[0] > 0

    def _is_there(self, keeper, block):
        place = (block, keeper.name)
        return keeper.has(block) or place in self.damaged or place in self.set_away

    # -- masters ----------------------------------------------------------------------------------------------------------
    def obeyed(self, directory, epoch):
        """A keeper has taken a master's epoch as good."""
        place = directory, _identity(directory)
        if epoch < self.obeyed_epochs.get(place, 0):
            self.bug(f"I13: {os.path.basename(directory)} obeys a master of epoch {epoch}, after one of epoch {self.obeyed_epochs[place]}")
        self.obeyed_epochs[place] = max(epoch, self.obeyed_epochs.get(place, 0))

    def forgets_epoch(self, keeper):
        """Its disk was wiped or put back to an old copy, and what it knew of masters with it."""
        for place in [place for place in self.obeyed_epochs if place[0] == keeper.directory]:
            del self.obeyed_epochs[place]

    # -- disks ------------------------------------------------------------------------------------------------------------
    def keeper_of(self, keeper_id):
        return self._keeper(keeper_id)

    def read_whole(self, keeper, block):
        """A keeper has read a replica again, or taken one from another keeper, and every chunk was good."""
        self.proven[block, keeper.name] = self.cluster.master_process

    def arrives(self, keeper, block, path):
        """A block file has its final name (I10)."""
        self.world.note(f"DISK {keeper.name} + {block}")
        self.damaged.discard((block, keeper.name))
        self.set_away.discard((block, keeper.name))
        try:
            self.checksums[block, keeper.name] = check_block_file(path, block).hex()
        except errors.DfsError as e:
            self.bug(f"I10: block {block} came to {keeper.name} damaged: {e.message}")

    def leaves(self, keeper, block, path, where):
        """A keeper is about to delete a block file, or to move it to quarantine or aside."""
        self.counts[f"replica {where}"] += 1
        self.world.note(f"DISK {keeper.name} - {block} {where}")
        if path in self.cluster.rotten:
            self.cluster.rotten.discard(path)
            return
        connection = self.cluster.catalog()
        row = connection.execute("SELECT want, refs FROM blocks WHERE block = ?", (bytes.fromhex(block),)).fetchone()
        numbers = [] if row is None else [
            number for number, keeper_id in connection.execute("SELECT number, id FROM keepers").fetchall()
            if self._keeper(keeper_id) is keeper and self._is_present(keeper_id) and self._counts(connection, block, number)]
        if where != "dropped":
            self.set_away.add((block, keeper.name))
        if row is None:
            return
        others = [other.name for other in self.cluster.keepers if other is not keeper and other.has(block)]
        if not others and block not in self.excused:
            self.bug(f"I1: the last good replica of block {block} on {keeper.name} goes to {where}, and a version refers to it")
        if where == "dropped" and numbers:
            self.bug(f"I4: {keeper.name} deletes block {block}, which the catalog counts there (others: {others}, want {row[0]})")
        elif where != "dropped":
            self.bug(f"{keeper.name} moves the good block {block} to {where}")

    def destroyed(self, keeper, blocks):
        """Chaos takes these from a keeper's disk, or spoils them."""
        self.world.note(f"DISK {keeper.name} loses {' '.join(blocks)}")
        for block in blocks:
            self.damaged.add((block, keeper.name))
            if not any(other.has(block) for other in self.cluster.keepers if other is not keeper):
                self.excused.add(block)

    # -- the end ----------------------------------------------------------------------------------------------------------
    def unfinished(self):
        """Why the cluster has not converged yet: texts; none when it has (I14)."""
        cluster = self.cluster
        if cluster.master is None:
            return ["the master is not up"]
        tracker, repairer = cluster.master._tracker, cluster.master._repairer
        why = []
        if tracker.safemode():
            why.append(f"safemode: {tracker.safemode()}")
        # Not what people are told of the past, or of blocks that no system could keep: what holds the master up has a key of its own.
        why += [f"alarm: {sentence}" for key, sentence in tracker.alarms_by_key().items() if not key.startswith("told:")]
        present = {keeper.id: keeper for keeper in tracker.live.keepers()}
        for keeper in cluster.keepers:
            mine = [one for one in present.values() if self._keeper(one.id) is keeper]
            if not any(one.state == "live" and one.reported for one in mine):
                why.append(f"{keeper.name} is {[(one.state, one.reported, one.reason) for one in mine]}")
        if len(tracker.uploads):
            why.append(f"{len(tracker.uploads)} uploads are open")
        connection = cluster.catalog()
        why += self._unfinished_catalog(connection)
        why += self._unfinished_disks(connection, tracker)
        waiting = [block for block in repairer._queue.blocks()
                   if block not in self.excused and not self._is_everywhere(connection, block)]
        if waiting:
            why.append(f"repair queue: {[repairer._queue.get(block) for block in waiting[:3]]}")
        if repairer._running:
            why.append(f"copies under way: {list(repairer._running)[:3]}")
        if tracker.orders.counts():
            why.append(f"orders: {tracker.orders.counts()}")
        return why

    def _is_everywhere(self, connection, block):
        """More copies are wanted than there are keepers: it stays queued, and is as well as it can be."""
        row = connection.execute("SELECT want FROM blocks WHERE block = ?", (bytes.fromhex(block),)).fetchone()
        return row is not None and row[0] > len(self.cluster.keepers)

    def _unfinished_catalog(self, connection):
        """A keeper whose directory was replaced never comes back under its old id: what the catalog says of it does not count."""
        why = []
        ids = connection.execute("SELECT number, id FROM keepers").fetchall()
        lost = {number for number, keeper_id in ids if not self._is_present(keeper_id)}
        wanted = dict(connection.execute("SELECT lower(hex(block)), want FROM blocks").fetchall())
        have = dict.fromkeys(wanted, 0)
        for block, keeper in connection.execute("SELECT lower(hex(block)), keeper FROM replicas").fetchall():
            have[block] += keeper not in lost
        for block, n in have.items():
            if n != min(wanted[block], len(self.cluster.keepers)) and block not in self.excused:
                why.append(f"block {block} has {n} replicas and wants {wanted[block]}")
        for keeper, n in connection.execute("SELECT keeper, count(*) FROM drops GROUP BY keeper").fetchall():
            if keeper not in lost:
                why.append(f"{n} drops wait for keeper number {keeper}")
        for table, what in (("versions WHERE removed_at IS NOT NULL", "versions in the trash"), ("detached", "trees cut off")):
            n = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            if n:
                why.append(f"{n} {what}")
        return why

    def _is_present(self, keeper_id):
        keeper = self._keeper(keeper_id)
        return keeper is not None and _identity(keeper.directory) == keeper_id

    def _unfinished_disks(self, connection, tracker):
        why = []
        strays = tracker.uploads.strays
        for keeper in self.cluster.keepers:
            numbers = [number for number, keeper_id in connection.execute("SELECT number, id FROM keepers").fetchall()
                       if self._keeper(keeper_id) is keeper and self._is_present(keeper_id)]
            counted = {block for number in numbers for block, in connection.execute(
                "SELECT lower(hex(block)) FROM replicas WHERE keeper = ?", (number,)) if block not in self.excused}
            known_strays = {block for block, places in strays.items() if set(places) & set(numbers)}
            disk = {block for block in keeper.blocks() if block not in self.excused}
            missing = [block for block in sorted(counted) if not keeper.has(block)]
            spoilt = [block for block in sorted(counted.difference(missing)) if not self._is_whole(keeper, block)]
            if spoilt:
                why.append(f"{keeper.name} has {len(spoilt)} damaged blocks that the catalog counts, such as {spoilt[0]}")
            if missing:
                why.append(f"{keeper.name} lacks {len(missing)} blocks that the catalog counts, such as {missing[0]}")
            extra = sorted(disk - counted - known_strays)
            if extra:
                why.append(f"{keeper.name} has {len(extra)} blocks that nobody accounts for, such as {extra[0]}")
            self.counts["strays at the end"] = len(strays)
            incoming = os.listdir(os.path.join(keeper.directory, "incoming"))
            if incoming:
                why.append(f"{keeper.name} has {len(incoming)} half-written blocks")
        return why

    def _is_whole(self, keeper, block):
        try:
            check_block_file(keeper.path_of(block), block)
        except errors.DfsError:
            return False
        return True

    def check_end(self, client):
        """Every name reads as it should, by the real client; the listing agrees."""
        for path, version in sorted(self.names.items()):
            asked = self.begin("get", path)
            try:
                with client.open(path) as source:
                    data = source.read()
                    self.end(asked)
                    self.read(asked, source.raw.plan.version, data)
            except errors.DfsError as e:
                if not self._is_excused(version):
                    self.bug(f"I1: at the end {path} cannot be read: {e.code} {e.message}")
        listed = {entry.path: entry.version for entry in client.walk("/") if entry.kind == "file"}
        if listed != self.names:
            self.bug(f"at the end the listing shows {listed}, the catalog {self.names}")


def _identity(directory):
    """The id of the keeper whose directory this is now, None when it has none yet."""
    path = os.path.join(directory, "keeper.json")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)["keeper_id"]


def names_of(connection):
    """{path: version} of every file that a path leads to."""
    children = {}
    for entry, parent, name, kind, version in connection.execute("SELECT id, parent, name, kind, version FROM entries"):
        children.setdefault(parent, []).append((entry, name, kind, version))
    found, open_ = {}, [(1, "")]
    while open_:
        above, prefix = open_.pop()
        for entry, name, kind, version in children.get(above, ()):
            if kind == "file":
                found[f"{prefix}/{name}"] = version
            else:
                open_.append((entry, f"{prefix}/{name}"))
    return found
