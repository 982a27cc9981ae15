"""A master without sockets, threads or a real clock, and keepers and clients that speak its messages.

Every message goes through its JSON and the checks of the wire, both ways, so that an answer the wire would refuse fails here too.
"""

from collections import deque
from contextlib import contextmanager
import itertools
import random
from types import SimpleNamespace
import zlib

from dfs_lib import errors, model, settings as settings_module
from dfs_lib.catalog.database import Database
from dfs_lib.master import tracker as tracker_module
from dfs_lib.master.repairer import Repairer
from dfs_lib.master.service import Service
from dfs_lib.master.ticker import Ticker
from dfs_lib.master.tracker import Tracker
from dfs_lib.wire import heartbeats, messages, trust

MIB = model.MIB
KEYRING = trust.Keyring.from_cluster_key(b"k" * 32)
STATUS = messages.Status()


def over_the_wire(message):
    """The message as its receiver has it."""
    return messages.decode(message.code, message.to_header())


class Exchange:
    """What a service sees of one request."""

    def __init__(self, message, role, identity, host, connection, body=b""):
        self.message, self.peer, self.peer_host = message, SimpleNamespace(role=role, identity=identity), host
        self.connection, self.request_id, self._body, self.answered = connection, 1, body, None

    def body(self):
        return self._body

    @contextmanager
    def working(self):
        yield

    def answer(self, message, body=None):
        assert self.answered is None
        self.answered = over_the_wire(message)
        assert type(message) in self.message.answers


class World:
    """One master over a directory, its clock, and keepers."""

    def __init__(self, directory, n_keepers=0, **changes):
        self.directory, self.now, self.keepers, self.probes = directory, 1000.0, {}, []
        self._ids, self.files = itertools.count(1), {}  # files: block → (path, version) that its tickets were made for
        # These keepers have no disk for a copy of the catalog; test_master_copies sees to that by itself.
        self.settings = settings_module.resolve([]).but(**{"block_size": MIB, "catalog_backup": 0, **changes})
        self.boot()
        for _ in range(n_keepers):
            self.keeper()
        if n_keepers:
            self.steps(2)

    def new_id(self):
        return f"{next(self._ids):032x}"

    def boot(self):
        self.database = Database.open(self.directory, now=lambda: 5.0, new_id=self.new_id)
        self.database._writer.connection.execute("PRAGMA synchronous = OFF")  # these tests cut no power
        self.tracker = Tracker(self.settings, self.database, KEYRING, clock=lambda: self.now, wall=lambda: 1e9 + self.now,
                               rng=random.Random(7), new_id=self.new_id)
        self.tracker.heartbeat_port = 7000
        self.tracker.chain = self._remembering(self.tracker.chain)
        self.repairer = Repairer(self.tracker)
        self.service = Service(self.tracker, self.repairer)
        self.ticker = Ticker(self.tracker, self.repairer, lambda number, host, ports: self.probes.append(number))

    def _remembering(self, chain):
        """Tracker.chain; what it binds of each block's file is noted, because these clients and keepers send no trailers."""
        def remembering(keepers, block, size, identity, file=None):
            if file is not None:
                self.files[block] = file
            return chain(keepers, block, size, identity, file)
        return remembering

    def restart(self):
        """kill -9 of the master and a new one over the same directory; nobody is connected to it."""
        self.database.close()
        self.boot()
        for keeper in self.keepers.values():
            keeper.session = None

    def close(self):
        self.database.close()

    def ask(self, message, role="client", identity="admin", host="client", connection="c1", body=b""):
        message = over_the_wire(message)
        assert role in message.who
        exchange = Exchange(message, role, identity, host, connection, body)
        self.service.handle(message, exchange)
        return exchange.answered

    def keeper(self, host=None, **options):
        keeper = Keeper(self, len(self.keepers) + 1, host, **options)
        self.keepers[keeper.number] = keeper
        keeper.start()
        return keeper

    def steps(self, n=1, seconds=0.25, orders=True):
        """Time passes: keepers beat, tell and obey; the ticker and the repairer do a round."""
        for _ in range(n):
            self.now += seconds
            for keeper in self.keepers.values():
                if keeper.is_up:
                    keeper.live(orders)
            self.ticker.step()
            for _ in range(50):
                if not self.repairer.step():
                    break

    def until(self, condition, most_s=60.0, seconds=0.25):
        end_s = self.now + most_s
        while not condition():
            assert self.now < end_s, "not reached"
            self.steps(1, seconds)

    def queries(self):
        return self.database.queries()

    def on_record(self, block):
        return set(self.queries().replicas(block))

    def on_disk(self, block):
        return {number for number, keeper in self.keepers.items() if block in keeper.blocks}

    def status(self):
        return self.ask(STATUS)

    def state(self, number):
        return self.tracker.live.get(number).state

    def blocks_of(self, path):
        entry = self.queries().entry(path)
        return [block.block for block in self.queries().blocks(entry.version, 0, 1000)]

    def n_orders(self, kind):
        return self.tracker.orders.counts().get(kind, 0)


class Keeper:
    """A keeper as the master hears it. blocks: {id: (size, crcs)} on its disk."""

    def __init__(self, world, number, host=None, free=10**12, labels=None):
        self.world, self.number, self.id = world, number, f"{number:032x}"
        self.host, self.free, self.labels = host or f"host{number}", free, labels or {}
        self.blocks, self.damaged, self.events = {}, set(), deque()  # appended to by the threads of others
        self.is_up, self.session, self.beat_number, self.epoch = False, None, 0, 0
        self.fails_copies, self.is_deaf = False, False  # is_deaf: takes no orders
        self.cluster_id, self.sick, self.seen_orders = None, "", []
        self.scrub = None  # a SCRUB_STATE, of a keeper whose scrub is on
        self._lives = itertools.count(1)

    def ask(self, message, connection=None, body=b""):
        return self.world.ask(message, "keeper", self.id, self.host, connection or self.control, body)

    # -- life -----------------------------------------------------------------------------------------------------------
    def start(self):
        self.is_up, self.session = True, None
        self.incarnation = f"{self.number:016x}{next(self._lives):016x}"
        self.register()
        self.report()

    def register(self):
        self.control, self.order_line = f"control-{self.number}-{next(self._lives)}", f"orders-{self.number}-{next(self._lives)}"
        used = sum(size for size, _crcs in list(self.blocks.values()))
        answer = self.ask(messages.Register(
            keeper=self.id, incarnation=self.incarnation, cluster_id=self.cluster_id, ports=[8000, 8001], labels=self.labels, pids=[1],
            used=used, free=self.free, n_blocks=len(self.blocks), epoch=self.epoch, software="dfs"))
        self.session, self.beat_number = answer.session, 0
        self.cluster_id, self.epoch = answer.cluster_id, answer.epoch
        return answer

    def records(self):
        return b"".join(bytes.fromhex(block) + size.to_bytes(8, "big") for block, (size, _crcs) in sorted(list(self.blocks.items())))

    def report(self, records=None, pages=1):
        records = self.records() if records is None else records
        step = messages.BLOCK_RECORD_SIZE * max(1, -(-len(records) // messages.BLOCK_RECORD_SIZE // pages))
        cuts = [records[at:at + step] for at in range(0, len(records), step)] or [b""]
        for index, page in enumerate(cuts):
            self.ask(messages.ReportBlocks(first=index == 0, last=index == len(cuts) - 1, crc=zlib.crc32(page)), body=page)

    def kill(self, refuses=True):
        """kill -9: its connections close; its host refuses new ones."""
        self.is_up = False
        self.events.clear()
        self.world.service.left(self.control)
        self.world.service.left(self.order_line)
        if refuses:
            self.world.tracker.live.probed(self.number, True)

    def vanish(self):
        """The cable is pulled: nothing closes, nothing comes."""
        self.is_up = False

    def beat(self, number=None, session=None):
        self.beat_number += 1
        used = sum(size for size, _crcs in list(self.blocks.values()))
        return self.world.tracker.live.heard(heartbeats.Heartbeat(
            session or self.session, self.id, number or self.beat_number, self.free, used, len(self.blocks), {8000: 0, 8001: 0}), self.world.now)

    def notify(self, events=None, moved=None):
        """What waits to be told, in order, and then `events`."""
        events = [self.events.popleft() for _ in range(min(500, len(self.events)))] + (events or [])
        used = sum(size for size, _crcs in list(self.blocks.values()))
        return self.ask(messages.Notify(events=events, used=used, free=self.free, n_blocks=len(self.blocks), sick=self.sick, pids=[1],
                                        scrub=self.scrub, moved=moved))

    def live(self, orders=True):
        """One second of a keeper's life."""
        try:
            if self.session is None:
                self.register()
                self.report()
            self.beat()
            self.notify()
            if orders and not self.is_deaf:
                self.obey()
                self.notify()
        except errors.KeeperRefused:
            self.session = None

    # -- blocks ---------------------------------------------------------------------------------------------------------
    def put(self, block, size, crcs, ticket, identity, operation=trust.WRITE):
        """Store a block as a chain would. Returns the receipt."""
        file = trust.file_of(*self.world.files[block]) if operation == trust.WRITE else b""
        trust.check_ticket(trust.read_ticket(KEYRING.ticket, ticket, file), operation=operation, block=block, keeper=self.id, size=size,
                           user=trust.user_digest(identity), epoch=self.epoch, tick=self.world.tracker.tick)
        self.blocks[block] = (size, crcs)
        self.damaged.discard(block)
        self.events.append({"kind": "stored", "stored": [[block, size, crcs.hex()]]})
        return self.receipt(block)

    def receipt(self, block):
        size, crcs = self.blocks[block]
        return {"keeper": self.id, "proof": trust.make_receipt(KEYRING.ticket, block, self.id, size, crcs)}

    # -- orders ---------------------------------------------------------------------------------------------------------
    def take(self):
        answer = self.ask(messages.AwaitOrders(wait_s=0), self.order_line)
        self.seen_orders += answer.orders
        return answer.orders

    def obey(self):
        for order in self.take():
            self.do(order)

    def do(self, order):
        done = {"kind": "order_done", "order": order["order"]}
        if order["kind"] == "copy":
            done |= self._copy(order)
        elif order["kind"] == "drop":
            for block in order["blocks"]:
                self.blocks.pop(block, None)
                self.events.append({"kind": "dropped", "block": block})
            done["n"] = len(order["blocks"])
        elif order["kind"] == "verify":
            good = [self._verify(order, block) for block in order["blocks"] or [order["block"]]]
            done |= {"n": sum(size is not None for size in good), "size": sum(size or 0 for size in good)}
        self.events.append(done)

    def _verify(self, order, block):
        if block in self.damaged or block not in self.blocks:
            self.blocks.pop(block, None)
            self.events.append({"kind": "bad", "block": block, "reason": "damaged"})
            return None
        self.events.append({"kind": "scrubbed", "block": block, "order": order["order"], "n": 1, "size": self.blocks[block][0]})
        return self.blocks[block][0]

    def _copy(self, order):
        block, stored, holder = order["block"], [], self.id
        if self.fails_copies or block not in self.blocks or block in self.damaged:
            return {"block": block, "error": "order_failed", "reason": "it fails"}
        for hop in order["chain"]:
            target = self.world.keepers[int(hop["keeper"], 16)]
            if not target.is_up:
                break
            target.put(block, *self.blocks[block], hop["ticket"], holder, trust.COPY)
            stored.append(target.id)
            holder = target.id
        return {"block": block, "keepers": stored} if stored else {"block": block, "error": "order_failed", "reason": "nobody took it"}


class Client:
    """One writer on one connection."""

    def __init__(self, world, connection="c1", identity="admin", host="client"):
        self.world, self.connection, self.identity, self.host = world, connection, identity, host

    def ask(self, message):
        return self.world.ask(message, "client", self.identity, self.host, self.connection)

    def open(self, path, size, **options):
        asked = {"path": path, "size": size, "mtime_at": 1.0, "no_clobber": False, "parents": False, "resume": True, "block_size": MIB}
        return self.ask(messages.OpenUpload(uploads=[{**asked, **options}])).results[0]

    def store(self, grant, size, content=b"", keepers=None):
        """Put one granted block down its chain. Returns the record for RecordBlocks and CommitUpload."""
        block, holder, receipts = grant["block"], self.identity, []
        crcs = zlib.crc32(content, int(block[-8:], 16)).to_bytes(4, "big") * model.n_chunks(size)
        for hop in grant["chain"] if keepers is None else grant["chain"][:keepers]:
            receipts.append(self.world.keepers[int(hop["keeper"], 16)].put(block, size, crcs, hop["ticket"], holder))
            holder = hop["keeper"]
        return {"index": grant["index"], "block": block, "size": size, "crcs": crcs.hex(), "receipts": receipts}

    def commit(self, upload, size, blocks=()):
        return self.ask(messages.CommitUpload(commits=[{"upload": upload, "size": size, "blocks": list(blocks)}])).results[0]

    def record(self, upload, blocks):
        return self.ask(messages.RecordBlocks(upload=upload, blocks=list(blocks))).rejected

    def put(self, path, size=10, **options):
        """A whole upload of few blocks. Returns the result of the commit."""
        opened = self.open(path, size, **options)
        assert opened["refused"] is None, opened["refused"]
        block_size = opened["block_size"]
        stored = [self.store(grant, min(block_size, size - grant["index"] * block_size)) for grant in opened["grants"]]
        result = self.commit(opened["upload"], size, stored)
        assert not result["rejected"]
        return result

    def gone(self):
        """kill -9 of the client."""
        self.world.service.left(self.connection)

    def download(self, path, version=None):
        return self.ask(messages.OpenDownload(files=[{"path": path, "version": version, "first": 0, "n": 256}])).results[0]

    def remove(self, path, recursive=False):
        return self.ask(messages.Remove(path=path, recursive=recursive, op=self.world.new_id()))


def code(result):
    """The error code of a refused result."""
    return result["refused"]["error"]


SAFEMODE_S = tracker_module.SAFEMODE_S
