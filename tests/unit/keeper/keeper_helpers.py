"""What keeper tests share: an in-process keeper port on a real store, and a client's side of the conversation."""

import secrets
import threading

from dfs_lib import checksums
from dfs_lib.keeper import onward, service, store
from dfs_lib.model import CHUNK_SIZE, n_chunks
from dfs_lib.net import servers, streams
from dfs_lib.wire import conversation, messages, trust

CLUSTER_KEY = bytes(range(32))
CLUSTER_ID = "c" * 32
KEYRING = trust.Keyring.from_cluster_key(CLUSTER_KEY)
META = {"path": "/a", "version": 7, "index": 0, "file_size": None, "block_size": 64 << 20, "mtime_at": 5.5, "copies": 3,
        "last": True}


class SlotStub:
    """Counts transfers as shared.Slot does, in this process."""

    def __init__(self):
        self.active = self.n_in = self.n_out = self.from_clients = self.to_clients = 0
        self._lock = threading.Lock()

    def begin(self):
        with self._lock:
            self.active += 1
            return self.active

    def end(self, n_in, n_out, kind=None, seconds=0.0):
        with self._lock:
            self.active, self.n_in, self.n_out = self.active - 1, self.n_in + n_in, self.n_out + n_out

    def moves(self, n_from_clients, n_to_clients):
        with self._lock:
            self.from_clients, self.to_clients = self.from_clients + n_from_clients, self.to_clients + n_to_clients


class Port:
    """One keeper's port: a real Server, Service and Store, and a list of the events it has told."""

    def __init__(self, directory, reserve=0, max_transfers=256):
        store.prepare(directory)
        self.keeper_id = secrets.token_hex(16)
        self.store = store.Store(directory, CLUSTER_ID, reserve, "slot0")
        self.events, self.slot, self.reign = [], SlotStub(), [3, 100]
        self.peers = onward.Peers(KEYRING.credentials("keeper", self.keeper_id))
        self.service = service.Service(self.store, KEYRING, self.keeper_id, lambda: tuple(self.reign), self.events.append,
                                       self.slot, lambda: CLUSTER_ID, self.peers, max_transfers=max_transfers)
        self.server = servers.Server(("127.0.0.1", 0), self.service, self._make_talk)
        self.port = self.server.port
        self.server.start()

    def _make_talk(self, port, nonce):
        return conversation.Server(KEYRING.secret_for, KEYRING.auth, "keeper", CLUSTER_ID, port, nonce)

    def connect(self, credentials=None):
        return streams.connect("127.0.0.1", self.port, credentials or trust.client_credentials(CLUSTER_KEY))

    def hop(self, block, size, previous, ports=None):
        """This keeper as a hop of a chain: its ticket is for whoever comes before it."""
        return {"keeper": self.keeper_id, "host": "127.0.0.1", "ports": ports or [self.port],
                "ticket": self.ticket(block, size, user=previous)}

    def ticket(self, block, size, operation=trust.WRITE, user=trust.ADMIN, epoch=3, expires=1000, keeper=None, serial=9, path=META["path"]):
        return make_ticket(block, keeper or self.keeper_id, size, operation, user, epoch, expires, serial, path)

    def told(self, kind):
        """The events of a kind, also those that were still being gathered."""
        self.service.flush()
        return [event for event in self.events if event["kind"] == kind]

    def half_made(self):
        return self.store.incoming.names()

    def close(self):
        self.server.stop(0.2)
        self.peers.close()
        self.store.close()


def make_ticket(block, keeper, size, operation=trust.WRITE, user=trust.ADMIN, epoch=3, expires=1000, serial=9, path=META["path"]):
    ticket = trust.Ticket(operation, epoch, block, keeper, size, expires, serial, trust.user_digest(user))
    return trust.make_ticket(KEYRING.ticket, ticket, trust.file_of(path, META["version"]))


def chunks(block, data):
    """[(crc, view)] of a block's data."""
    view, block_bytes = memoryview(data), bytes.fromhex(block)
    parts = [view[i * CHUNK_SIZE:(i + 1) * CHUNK_SIZE] for i in range(n_chunks(len(data)))]
    return [(checksums.chunk_crc(block_bytes, index, part), part) for index, part in enumerate(parts)]


def begin_put(stream, block, data, ticket, chain=(), meta=META, crc=None):
    """Send PutBlock with its first chunk."""
    first_crc, first = chunks(block, data)[0]
    stream.set_timeout(5.0)
    stream.send(messages.PutBlock(block=block, size=len(data), meta=meta, ticket=ticket, chain=list(chain),
                                  crc=first_crc if crc is None else crc), first)


def put(stream, block, data, ticket, chain=(), damage=None):
    """Put a whole block and return BlockWritten; `damage`: index of a chunk sent with a wrong checksum."""
    parts = chunks(block, data)
    begin_put(stream, block, data, ticket, chain, crc=(parts[0][0] ^ 1) if damage == 0 else None)
    for index, (crc, part) in enumerate(parts[1:], 1):
        stream.send(messages.BlockChunk(crc=crc ^ (damage == index)), part)
    return stream.answer()


def get(stream, block, offset, count, ticket):
    """The bytes of a stretch."""
    answer = stream.ask(messages.GetBlock(block=block, offset=offset, count=count, ticket=ticket), timeout_s=5.0)
    assert answer.size == count
    return stream.body()
