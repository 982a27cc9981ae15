"""A cluster in a world: the real daemons as simulated processes, and what can be done to them.

The master is `master.daemon.Master`, a keeper is `keeper.daemon.run` with its supervisor, port processes and reporter, and a
client is `dfs_lib.client`: none of it changed. Here are only the hands that start, kill, freeze, starve and corrupt them.

    10.0.0.1    master, ports 7000 and 7001          ROOT/master.N     N grows with each kill: a copy as the disk had it
    10.0.0.2    now and then an old master           ROOT/old          a copy of an earlier master.N; keepers try it, clients do not
    10.0.1.K    keeper K, ports 8000 …               ROOT/kK           its data directory
    10.0.2.C    client C                             ROOT/cC           local files
"""

import os
import shutil
import signal
import sqlite3

from dfs_lib import errors, keyfile
from dfs_lib import settings as settings_module
from dfs_lib.catalog import writer
from dfs_lib.checksums import CRC_BYTES, chunk_crc, crc_at
from dfs_lib.client import api
from dfs_lib.keeper import block_format
from dfs_lib.keeper import daemon as keeper_daemon
from dfs_lib.keeper import orders as keeper_orders
from dfs_lib.keeper import shared as keeper_shared
from dfs_lib.keeper import store as keeper_store
from dfs_lib.master import daemon as master_daemon
from dfs_lib.master import transfers
from dfs_lib.model import CHUNK_SIZE, MIB

MASTER_PORTS = (7000, 7001)
HEX = frozenset("0123456789abcdef")


class Keeper:
    """One keeper's machine, directory and daemon."""

    def __init__(self, cluster, index, n_ports):
        self.cluster, self.index, self.name = cluster, index, f"k{index}"
        self.machine = cluster.world.machine(self.name, f"10.0.1.{index}")
        self.directory = os.path.join(cluster.root, self.name)
        self.n_ports = n_ports
        self.process = None
        self.id = None
        self.exit_status = None
        self.n_moves = 0

    @property
    def is_running(self):
        return self.process is not None and self.process.alive

    def processes(self):
        return [process for process in self.machine.processes if process.alive]

    def path_of(self, block):
        return os.path.join(self.directory, "blocks", block[-2:], block)

    def has(self, block):
        """Whether a good replica is on its disk: no block file is half-made, and what was damaged on purpose is known."""
        path = self.path_of(block)
        return path not in self.cluster.rotten and os.path.exists(path)

    def blocks(self):
        """Ids of every block file under its final name."""
        found = []
        top = os.path.join(self.directory, "blocks")
        if not os.path.isdir(top):
            return found
        for bucket in sorted(os.listdir(top)):
            found += sorted(os.listdir(os.path.join(top, bucket)))
        return found


class Cluster:
    """Everything that runs. Make it inside World.installed, and use it from the driver's actor."""

    def __init__(self, world, network, root, rng, n_keepers=4, n_ports=1, **changes):
        self.world, self.network, self.root, self.rng = world, network, root, rng
        self.watch = None  # invariants.Oracle
        self.rotten = set()  # paths of block files damaged on purpose
        self.key_path = os.path.join(root, "cluster.key")
        os.makedirs(root)
        self.key = keyfile.make(self.key_path)
        self.master_machine = world.machine("m", "10.0.0.1")
        self.old_machine = world.machine("old", "10.0.0.2")
        self.n_master = 0
        self.master = self.master_process = self.old_process = None
        self.master_directory = os.path.join(root, "master.000")
        self.base = settings_module.resolve([]).but(
            catalog_backup=0,  # the simulated keepers run no follower
            key_file=self.key_path, block_size=MIB, copies=3, safe=2, suspect_after=2.0, dead_after=5.0, repair_grace=5.0,
            stop_grace=10.0, upload_keep=8.0, trash_grace=4.0, sum_after=4.0, patience=20.0, reserve=MIB,
            master=tuple((self.master_machine.ip, port) for port in MASTER_PORTS)).but(**changes)
        self.keepers = [Keeper(self, index, n_ports) for index in range(1, n_keepers + 1)]
        self._catalog = (None, None)

    # -- master -----------------------------------------------------------------------------------------------------------
    def start_master(self):
        settings = self.base.but(data=self.master_directory, host=self.master_machine.ip, ports=MASTER_PORTS)

        def main():
            stop = master_daemon.threading.Event()
            master_daemon.signal.signal(signal.SIGTERM, lambda *_: stop.set())
            master = master_daemon.Master(settings)
            master.start()
            self.master = master
            while not stop.wait(0.5) and not master.failed.is_set():
                pass
            if master.failed.is_set():
                self.world.bug(f"the master gave up: {master._database.failed}")
            master.stop()

        self.master = None
        self.master_process = self.world.start_process(self.master_machine, f"m{self.n_master}", main)

    def start_old_master(self):
        """A master of an earlier epoch comes back on another machine, with the catalog it had (F27). Returns whether there is one."""
        past = [path for path in sorted(os.listdir(self.root)) if path.startswith("master.")
                and self._epoch_of(os.path.join(self.root, path)) + 1 < self._epoch_of(self.master_directory)]
        if not past or self.old_process is not None and self.old_process.alive:
            return False
        directory = os.path.join(self.root, "old")
        shutil.rmtree(directory, ignore_errors=True)
        self._copy_catalog(os.path.join(self.root, self.rng.choice(past)), directory)
        settings = self.base.but(data=directory, host=self.old_machine.ip, ports=MASTER_PORTS)

        def main():
            stop = master_daemon.threading.Event()
            master = master_daemon.Master(settings)
            master.start()
            stop.wait()

        self.old_process = self.world.start_process(self.old_machine, "old", main)
        return True

    def kill_old_master(self):
        if self.old_process is not None:
            self.world.kill(self.old_process)

    def _epoch_of(self, directory):
        """The epoch that a catalog's last master had, 0 when nobody has begun a reign."""
        path = os.path.join(directory, "catalog.db")
        if not os.path.exists(path):
            return 0
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
            return row[0] if row else 0
        except sqlite3.OperationalError:
            return 0  # killed while it was being made
        finally:
            connection.close()

    @property
    def master_is_running(self):
        return self.master_process is not None and self.master_process.alive

    def kill_master(self):
        """Kill -9: what is on disk is copied as it stands, uncommitted pages and all, and the next master starts on the copy."""
        if not self.master_is_running:
            return
        self.world.kill(self.master_process)
        self.master = None
        self.n_master += 1
        old, self.master_directory = self.master_directory, os.path.join(self.root, f"master.{self.n_master:03d}")
        self._copy_catalog(old, self.master_directory)

    @staticmethod
    def _copy_catalog(old, new):
        os.makedirs(new, mode=0o700)
        if os.path.isdir(old):
            for name in sorted(os.listdir(old)):
                if not name.endswith("-shm"):
                    shutil.copy2(os.path.join(old, name), os.path.join(new, name))

    def catalog(self):
        """A reading connection of our own to the catalog as it is on disk."""
        if self._catalog[0] != self.master_directory:
            path = os.path.join(self.master_directory, "catalog.db")
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA query_only = ON")
            self._catalog = self.master_directory, connection
        return self._catalog[1]

    # -- keepers ----------------------------------------------------------------------------------------------------------
    def start_keeper(self, keeper):
        machine = keeper.machine
        masters = self.base.master + tuple((self.old_machine.ip, port) for port in MASTER_PORTS)
        settings = self.base.but(data=keeper.directory, master=masters, ports=tuple(range(8000, 8000 + keeper.n_ports)))
        keeper.exit_status = None

        def main():
            try:
                keeper.exit_status = keeper_daemon.run(settings)
            except errors.DfsError as e:
                self.world.note(f"{keeper.name} could not go on: {e.code} {e.message}")
                keeper.exit_status = e.code

        keeper.process = self.world.start_process(machine, keeper.name, main)

    def kill_keeper(self, keeper):
        """Kill -9 of every process of it at once."""
        for process in list(keeper.machine.processes):
            self.world.kill(process)

    def power_off(self, keeper):
        """As a kill, but nobody hears of it, and what was not synced is lost."""
        keeper.machine.is_down = True
        self.kill_keeper(keeper)
        self.world.disk_watch.power_lost(keeper)

    def power_on(self, keeper):
        keeper.machine.is_down = False
        self.start_keeper(keeper)

    def wipe_keeper(self, keeper, keep_identity):
        """Of a keeper that does not run: its blocks are gone; with keep_identity it comes back empty under its id (F22)."""
        if self.watch is not None:
            self.watch.destroyed(keeper, keeper.blocks())
            self.watch.forgets_epoch(keeper)
        identity = os.path.join(keeper.directory, "keeper.json")
        kept = None
        if keep_identity and os.path.exists(identity):
            with open(identity, "rb") as file:
                kept = file.read()
        shutil.rmtree(keeper.directory, ignore_errors=True)
        if kept is not None:
            os.makedirs(keeper.directory, mode=0o700)
            with open(identity, "wb") as file:
                file.write(kept)

    def save_disk(self, keeper):
        """A copy of a keeper's disk, to be put back later (F25)."""
        path = keeper.directory + ".saved"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(keeper.directory, path)

    def roll_back(self, keeper):
        """Put an old copy of a stopped keeper's disk back. Returns False when there is none."""
        path = keeper.directory + ".saved"
        if not os.path.isdir(path):
            return False
        now = set(keeper.blocks())
        shutil.rmtree(keeper.directory, ignore_errors=True)
        os.rename(path, keeper.directory)
        if self.watch is not None:
            self.watch.destroyed(keeper, sorted(now - set(keeper.blocks())))
            self.watch.forgets_epoch(keeper)
        return True

    def rot(self, keeper, block, how):
        """Damage one block file (F13)."""
        path = keeper.path_of(block)
        if self.watch is not None:
            self.watch.destroyed(keeper, [block])
        size = os.path.getsize(path)
        self.rotten.add(path)
        if how == "delete":
            os.unlink(path)
            self.rotten.discard(path)
        elif how == "truncate":
            os.truncate(path, self.rng.randrange(size))
        elif how == "empty":
            os.truncate(path, 0)
        elif how == "grow":
            with open(path, "ab") as file:
                file.write(b"more")
        else:
            with open(path, "r+b") as file:
                at = self.rng.randrange(size)
                file.seek(at)
                old = file.read(1)
                file.seek(at)
                file.write(bytes([old[0] ^ 1 << self.rng.randrange(8)]))

    # -- clients ----------------------------------------------------------------------------------------------------------
    def client_machine(self, number):
        machine = self.world.machines.get(f"c{number}")
        if machine is None:
            machine = self.world.machine(f"c{number}", f"10.0.2.{number}")
            os.makedirs(os.path.join(self.root, f"c{number}"))
        return machine

    def connect(self, **changes):
        """The real client library, in the caller's process."""
        return api.connect(settings=self.base.but(**changes), cluster_key=self.key)

    # -- everything back to normal ----------------------------------------------------------------------------------------
    def heal(self):
        """No more faults: paths open, disks well, processes thawed and running."""
        network, world = self.network, self.world
        self.kill_old_master()
        for paths in (network.blocked, network.tcp_blocked, network.udp_blocked):
            paths.clear()
        network.slow.clear()
        network.loss = network.repeat = network.flip = 0.0
        for machine in world.machines.values():
            machine.is_down = False
            machine.disk.is_full, machine.disk.fsync_error, machine.disk.fsync_s = False, 0, 0.0005
            for process in list(machine.processes):
                world.thaw(process)
        self.keep_running()

    def keep_running(self):
        """What has ended is started again, as whoever administers the machines would."""
        if not self.master_is_running:
            self.start_master()
        for keeper in self.keepers:
            if not keeper.is_running:
                if keeper.exit_status not in (None, 0):
                    self.world.stats[f"keeper gave up: {keeper.exit_status}"] += 1
                self.kill_keeper(keeper)
                self.start_keeper(keeper)


# -- block files ----------------------------------------------------------------------------------------------------------
def check_block_file(path, block):
    """The table of checksums of a block file, every one compared; raises IntegrityError."""
    with open(path, "rb") as file:
        raw = file.read()
    key = bytes.fromhex(block)
    footer = block_format.parse_footer(raw[-block_format.FOOTER_SIZE:], len(raw), key)
    _metadata, crcs = block_format.parse_trailer(raw[footer.size:], footer)
    for index in range(len(crcs) // CRC_BYTES):
        if chunk_crc(key, index, raw[index * CHUNK_SIZE:min(footer.size, (index + 1) * CHUNK_SIZE)]) != crc_at(crcs, index):
            raise errors.ChecksumMismatch(block=block, chunk=index, where=path)
    return crcs


class DiskWatch:
    """Sees block files come under their final name and go from it, and knows what a loss of power would undo (F7).

    A file whose bytes were not synced is cut short; a name made or removed in a directory that was not synced since then is as
    it was before, or not: the dice decide, as the medium would.
    """

    def __init__(self, cluster):
        self.cluster = cluster
        self._synced = set()  # paths of files under incoming/ whose bytes are on the medium
        self._loose = {}  # path of a block file → what undoes its last change of name
        self._unwritten = {}  # path of a block file whose bytes were not synced → when it was made
        self._shadows = os.path.join(cluster.root, "unlinked")
        os.makedirs(self._shadows)
        self._n_shadows = 0

    def _place(self, path):
        """(keeper, block) of a block file's final name, or (None, None)."""
        if path is None:
            return None, None
        head, name = os.path.split(path)
        if len(name) == 32 and HEX.issuperset(name):
            top, blocks = os.path.split(os.path.dirname(head))
            if blocks == "blocks":
                for keeper in self.cluster.keepers:
                    if keeper.directory == top:
                        return keeper, name
        return None, None

    def before_replace(self, process, source, target):
        keeper, block = self._place(source)
        if keeper is not None and os.path.exists(source):
            self.cluster.watch.leaves(keeper, block, source, os.path.basename(os.path.dirname(target)))

    def after_replace(self, process, source, target):
        keeper, block = self._place(target)
        if keeper is not None:
            self.cluster.rotten.discard(target)
            self.cluster.watch.arrives(keeper, block, target)
            self._loose[target] = ("made", None)
            self._unwritten.pop(target, None)
            if source not in self._synced:
                self._unwritten[target] = self.cluster.world.now
            self._synced.discard(source)

    def before_unlink(self, process, path):
        self._synced.discard(path)
        keeper, block = self._place(path)
        if keeper is not None and os.path.exists(path):
            self.cluster.watch.leaves(keeper, block, path, "dropped")
            self._n_shadows += 1
            shadow = os.path.join(self._shadows, str(self._n_shadows))
            os.link(path, shadow)
            self._loose[path] = ("removed", shadow)

    def synced(self, process, path):
        """A file or directory is on the medium."""
        if path is None:
            return
        if os.path.basename(os.path.dirname(path)) == "incoming":
            self._synced.add(path)
        elif os.path.basename(os.path.dirname(path)) == "blocks":
            for name in [name for name in self._loose if os.path.dirname(name) == path]:
                del self._loose[name]

    def power_lost(self, keeper):
        """What was not on the medium is lost, or not."""
        rng, now_s = self.cluster.rng, self.cluster.world.now
        for path in [path for path in self._unwritten if path.startswith(keeper.directory + os.sep)]:
            # By itself the system writes within half a minute.
            if now_s - self._unwritten.pop(path) < 30.0 and os.path.exists(path):
                os.truncate(path, rng.randrange(os.path.getsize(path) + 1))
        for path in [path for path in self._loose if path.startswith(keeper.directory + os.sep)]:
            change, detail = self._loose.pop(path)
            if change == "made" and os.path.exists(path) and rng.random() < 0.5:
                os.unlink(path)
                self.cluster.world.note(f"DISK {keeper.name} forgets the name {path}")
            elif change == "removed" and not os.path.exists(path) and rng.random() < 0.5:
                os.rename(detail, path)
                self.cluster.world.note(f"DISK {keeper.name} remembers {path}")
        incoming = os.path.join(keeper.directory, "incoming")
        for name in sorted(os.listdir(incoming)) if os.path.isdir(incoming) else ():
            if os.path.join(incoming, name) not in self._synced:
                os.truncate(os.path.join(incoming, name), 0)


# -- hooks into the product -----------------------------------------------------------------------------------------------
class Taps:
    """Sees every commit of the catalog at the moment it is durable, every block that a keeper reads whole and finds good, every master that
    a keeper obeys, and shortens one long wait; undone by close()."""

    def __init__(self, cluster):
        original = writer.Writer.commit_group

        def commit_group(self, calls, more):
            first = self.tx.sequence
            try:
                return original(self, calls, more)
            finally:
                is_ours = os.path.dirname(self.path) == cluster.master_directory  # and not an old master's
                if is_ours and self.tx.sequence > first and not self.failed and cluster.watch is not None and not cluster.world.ended:
                    cluster.watch.committed(self.connection, first)

        obey = keeper_shared.HighestEpoch.obey

        def obey_and_note(self, epoch, address):
            obey(self, epoch, address)
            if cluster.watch is not None:
                cluster.watch.obeyed(self._directory, epoch)

        verify, copy = keeper_store.Store.verify, keeper_orders.Orders._copy

        def was_read(store, block):
            for keeper in cluster.keepers:
                if cluster.watch is not None and keeper.directory == store.path:
                    cluster.watch.read_whole(keeper, block)

        def verify_and_note(self, block, *args, **named):
            size = verify(self, block, *args, **named)
            was_read(self, block)
            return size

        def copy_and_note(self, order):
            outcome = copy(self, order)
            was_read(self._store, order["block"])
            for keeper_id in outcome["keepers"]:
                if cluster.watch is not None and (target := cluster.watch.keeper_of(keeper_id)) is not None:
                    cluster.watch.read_whole(target, order["block"])
            return outcome

        self._undo = [(writer.Writer, "commit_group", original), (transfers, "READ_HOLD_S", transfers.READ_HOLD_S),
                      (keeper_shared.HighestEpoch, "obey", obey), (keeper_store.Store, "verify", verify), (keeper_orders.Orders, "_copy", copy)]
        writer.Writer.commit_group, keeper_shared.HighestEpoch.obey = commit_group, obey_and_note
        keeper_store.Store.verify, keeper_orders.Orders._copy = verify_and_note, copy_and_note
        transfers.READ_HOLD_S = 5.0  # ten minutes of patience with slow readers would only be ten minutes of idling here

    def close(self):
        for target, name, value in self._undo:
            setattr(target, name, value)
