"""A small cluster in this process for tests of the client: a master with names in a dict, keepers with blocks in a dict.

Real sockets, messages, handshakes, tickets and receipts; no disk, no repair. Faults are switches:

    keeper.refuse = errors.NoRoom(…)      every PutBlock and GetBlock is refused
    keeper.die_at_chunk = 1               the connection is cut when that chunk of a PutBlock or GetBlock is reached
    keeper.freeze()                       like SIGSTOP: connections are accepted by the kernel, nobody answers
    keeper.stall_at_chunk = 1             silence from that chunk on, for PutBlock and GetBlock
    keeper.kill()                         the ports are closed; keeper.start() opens them again
    keeper.corrupt(block, offset)         flips a byte of a stored block
    keeper.forget(block)                  the block's file is gone
    master.restart(lose_live=True)        a new reign; uploads under way are forgotten
"""

import bisect
import os
import random
import threading
import time
from types import SimpleNamespace

from dfs_lib import checksums, errors, model
from dfs_lib.client import connect
from dfs_lib.net import servers, streams
from dfs_lib.settings import resolve
from dfs_lib.wire import conversation, messages, trust

CLUSTER_ID = "c" * 32
KEY = bytes(range(32))
BLOCK_SIZE = 2 * model.MIB


class Port:
    """One listening port that can be closed and opened again under its number."""

    def __init__(self, service, role, keyring):
        self._service, self._role, self._keyring = service, role, keyring
        self.number = 0
        self.server = None
        self.start()

    def _talk(self, port, nonce):
        self._service.before_handshake()
        return conversation.Server(self._keyring.secret_for, self._keyring.auth, self._role, CLUSTER_ID, port, nonce)

    def start(self):
        self.server = servers.Server(("127.0.0.1", self.number), self._service, self._talk)
        self.number = self.server.port
        # As Server.start, but for a poll of 0.2 s that would be most of what these tests take.
        self.server._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.server._thread.start()

    def stop(self):
        if self.server is not None:
            self.server.stop(wait_s=0.0)
            self.server = None


def stop_all(ports):
    """Stop ports at once: each takes up to the 0.2 s of its accept loop's poll."""
    threads = [threading.Thread(target=port.stop) for port in ports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Keeper:
    """Blocks in memory: {block: (bytes, crcs)}. `seen` lists (message name, block) of what it was asked."""

    def __init__(self, number, keyring, n_ports=2):
        self.id = f"{number:02x}" * 16
        self.keyring = keyring
        self.blocks, self.metas, self.seen = {}, {}, []
        self.refuse = self.die_at_chunk = self.stall_at_chunk = None
        self.on_put = None
        self._frozen = threading.Event()
        self.thawed = threading.Event()
        self._connections = {}
        self.ports = [Port(self, "keeper", keyring) for _ in range(n_ports)]

    # -- faults ---------------------------------------------------------------------------------------------------------
    def before_handshake(self):
        if self._frozen.is_set():
            self.thawed.wait(30)

    def freeze(self):
        self._frozen.set()
        for port in self.ports:
            port.server.close_connections(0)

    def kill(self):
        self.thawed.set()
        stop_all(self.ports)

    def start(self):
        for port in self.ports:
            port.start()

    def corrupt(self, block, offset=0):
        data, crcs = self.blocks[block]
        changed = bytearray(data)
        changed[offset] ^= 1
        self.blocks[block] = (bytes(changed), crcs)

    def forget(self, block):
        del self.blocks[block]

    def _fault(self, chunk, exchange):
        if self.die_at_chunk is not None and chunk >= self.die_at_chunk:
            self.die_at_chunk = None
            raise errors.PeerGone(address="a keeper that died", detail="as the test wished")
        if self.stall_at_chunk is not None and chunk >= self.stall_at_chunk:
            self.thawed.wait(30)
            raise errors.PeerGone(address="a keeper that stalled", detail="as the test wished")

    # -- service --------------------------------------------------------------------------------------------------------
    def handle(self, message, exchange):
        name, many = type(message).__name__, getattr(message, "blocks", None)
        self.seen += [(name, block["block"]) for block in many] if many else [(name, message.block)]
        if self.refuse is not None:
            raise self.refuse
        if isinstance(message, messages.PutBlocks):
            return self._put_many(message, exchange)
        if isinstance(message, messages.GetBlocks):
            return self._get_many(message, exchange)
        operation, size = (trust.WRITE, message.size) if isinstance(message, messages.PutBlock) else (trust.READ, message.count)
        self._check(message.ticket, operation, message.block, size, exchange, getattr(message, "meta", None))
        if isinstance(message, messages.PutBlock):
            self._put(message, exchange)
        else:
            self._get(message, exchange)

    def _check(self, text, operation, block, size, exchange, file=None):
        said = trust.file_of(file["path"], file["version"]) if file else b""
        trust.check_ticket(trust.read_ticket(self.keyring.ticket, text, said), operation=operation, block=block, keeper=self.id, size=size,
                           user=trust.user_digest(exchange.peer.identity), epoch=getattr(self, "epoch", 1), tick=0)

    def _put_many(self, message, exchange):
        body, results, at = exchange.body(), [], 0
        self._fault(0, exchange)
        for block in message.blocks:
            data, at = body[at:at + block["size"]], at + block["size"]
            self._check(block["tickets"][0], trust.WRITE, block["block"], block["size"], exchange, block)
            assert checksums.chunk_crc(bytes.fromhex(block["block"]), 0, data) == block["crc"]
            crcs = block["crc"].to_bytes(4, "big")
            if self.on_put is not None:
                meta = {name: block[name] for name in ("path", "version", "block_size", "mtime_at", "copies")}
                self.on_put(self, SimpleNamespace(block=block["block"], size=block["size"], meta={**meta, "index": 0}))
            self.blocks[block["block"]] = (data, crcs)
            self.metas[block["block"]] = {name: block[name] for name in ("path", "version", "block_size", "mtime_at", "copies")}
            proof = trust.make_receipt(self.keyring.ticket, block["block"], self.id, block["size"], crcs)
            results.append({"receipts": [{"keeper": self.id, "proof": proof}], "failed": []})
        if message.chain:
            hop = message.chain[0]
            blocks = [{**block, "tickets": block["tickets"][1:]} for block in message.blocks]
            try:
                downstream = streams.connect(hop["host"], hop["ports"][0], self.keyring.credentials("keeper", self.id), 1.0)
                with exchange.working():
                    try:
                        written = downstream.ask(messages.PutBlocks(blocks=blocks, chain=message.chain[1:]), body, 1.5).results
                    finally:
                        downstream.close()
                for result, further in zip(results, written):
                    result["receipts"] += further["receipts"]
                    result["failed"] += further["failed"]
            except errors.DfsError as e:
                for result in results:
                    result["failed"].append({"keeper": hop["keeper"], "error": e.code, "message": e.message})
        exchange.answer(messages.BlocksWritten(results=results))

    def _get_many(self, message, exchange):
        results, pieces = [], []
        self._fault(0, exchange)
        for block in message.blocks:
            self._check(block["ticket"], trust.READ, block["block"], block["size"], exchange)
            if block["block"] in self.blocks:
                pieces.append(self.blocks[block["block"]][0])
                results.append({})
            else:
                said = servers.refused(errors.BlockMissing(block=block["block"]))
                results.append({"refused": {"error": said.error, "message": said.message, "facts": said.facts}})
        exchange.answer(messages.BlocksData(results=results), b"".join(pieces))

    def _put(self, message, exchange):
        failed, downstream = [], None
        if message.chain:
            hop = message.chain[0]
            try:
                downstream = streams.connect(hop["host"], hop["ports"][0], self.keyring.credentials("keeper", self.id), 1.0)
                downstream.set_timeout(1.5)
            except errors.DfsError as e:
                failed.append({"keeper": hop["keeper"], "error": e.code, "message": e.message})
        try:
            written = self._take(message, exchange, downstream, failed)
        finally:
            if downstream is not None:
                downstream.close()
        exchange.answer(written)

    def _take(self, message, exchange, downstream, failed):
        data, crcs, crc, length = bytearray(), bytearray(), message.crc, exchange.body_length
        block, n_chunks = bytes.fromhex(message.block), model.n_chunks(message.size)
        exchange.continues(n_chunks > 1)
        for chunk in range(n_chunks):
            self._fault(chunk, exchange)
            view = memoryview(bytearray(length))
            exchange.body_into(view)
            if checksums.chunk_crc(block, chunk, view) != crc:
                raise errors.ChecksumMismatch(block=message.block, chunk=chunk, where=" on arrival")
            data += view
            crcs += crc.to_bytes(4, "big")
            if downstream is not None and not failed:
                self._pass_on(downstream, message, chunk, crc, view, failed)
            if chunk + 1 < n_chunks:
                following, length = exchange.next_chunk()
                crc = following.crc
        exchange.continues(False)
        if self.on_put is not None:
            self.on_put(self, message)
        self.blocks[message.block] = (bytes(data), bytes(crcs))
        self.metas[message.block] = message.meta
        proof = trust.make_receipt(self.keyring.ticket, message.block, self.id, message.size, bytes(crcs))
        receipts = [{"keeper": self.id, "proof": proof}]
        if downstream is not None and not failed:
            with exchange.working():
                self._await_downstream(downstream, message, receipts, failed)
        return messages.BlockWritten(receipts=receipts, failed=failed)

    def _pass_on(self, downstream, message, chunk, crc, view, failed):
        hop = message.chain[0]
        try:
            if chunk == 0:
                downstream.send(messages.PutBlock(block=message.block, size=message.size, meta=message.meta, ticket=hop["ticket"],
                                                  chain=message.chain[1:], crc=crc), view)
            else:
                downstream.send(messages.BlockChunk(crc=crc), view)
        except errors.DfsError as e:
            failed.append({"keeper": hop["keeper"], "error": e.code, "message": e.message})

    def _await_downstream(self, downstream, message, receipts, failed):
        try:
            written = downstream.answer()
        except errors.DfsError as e:
            failed.append({"keeper": message.chain[0]["keeper"], "error": e.code, "message": e.message})
        else:
            receipts += written.receipts
            failed += written.failed

    def _get(self, message, exchange):
        if message.block not in self.blocks:
            raise errors.BlockMissing(block=message.block)
        data, _crcs = self.blocks[message.block]
        view = memoryview(data)[message.offset:message.offset + message.count]
        first = message.offset // model.CHUNK_SIZE
        last = first + model.n_chunks(len(view)) - 1
        at = next((at for at in (self.die_at_chunk, self.stall_at_chunk) if at is not None), None)
        if at is None or at > last:
            return exchange.answer(messages.BlockData(size=len(view)), view)
        # Half a body, then trouble: announce the whole, send a part by hand.
        stream = exchange._stream
        n = max(0, at - first) * model.CHUNK_SIZE + min(1000, len(view))
        stream.send_bytes(stream.talk.send(messages.BlockData(size=len(view)), exchange.request_id, len(view)))
        stream.send_bytes(view[:n])
        self._fault(at, exchange)


class Master:
    """Names, versions and uploads in dicts. Live state: `uploads`. `asked` counts messages by name."""

    def __init__(self, keyring, keepers, copies=3, safe=2, lease_s=60.0):
        self.keyring, self.keepers = keyring, keepers
        self.copies, self.safe, self.lease_s = copies, safe, lease_s
        self.lock = threading.RLock()
        self.files, self.directories, self.versions = {}, {"/"}, {}
        self.where = {}  # block → [keeper ids]
        self.results = {}  # op or upload id → answer, as the catalog remembers
        self.uploads, self.interrupted = {}, {}
        self.bad, self.sums, self.asked, self.live = [], {}, {}, {keeper.id for keeper in keepers}
        self.epoch, self.counter = 1, 0
        self.max_grants, self.page = 16, 256
        self.lose_answer_of = None  # name of the message whose next answer is lost
        self.not_ready = self.not_ready_each = 0  # so many requests, so many members of batches, are refused with NotReady
        self.names_the_tried = False  # RegrantBlock names keepers of `exclude` again when there are no others
        self.before = None  # callable(message): a test's hook
        self.ports = [Port(self, "master", keyring) for _ in range(2)]

    def before_handshake(self):
        pass

    def restart(self, lose_live=True, down_s=0.0):
        """Stop, forget, start again under a higher epoch."""
        stop_all(self.ports)
        if lose_live:
            with self.lock:
                self.uploads.clear()
                self.interrupted.clear()
        self.epoch += 1
        for keeper in self.keepers:
            keeper.epoch = self.epoch
        if down_s:
            self.timer = threading.Timer(down_s, self._start)
            self.timer.start()
            return self.timer
        self._start()

    def _start(self):
        for port in self.ports:
            port.start()

    # -- service --------------------------------------------------------------------------------------------------------
    def handle(self, message, exchange):
        name = type(message).__name__
        if self.before is not None:
            self.before(message)
        with self.lock:
            self.asked[name] = self.asked.get(name, 0) + 1
            if self.not_ready > 0:
                self.not_ready -= 1
                raise errors.NotReady(detail="no keeper has reported")
            answer = getattr(self, name)(message, exchange)
            if self.lose_answer_of == name:
                self.lose_answer_of = None
                raise errors.PeerGone(address="the master", detail="as the test wished")
        exchange.answer(answer)

    def _each(self, one, items, exchange):
        results = []
        for item in items:
            try:
                results.append(one(item, exchange))
            except errors.DfsError as e:
                refused = servers.refused(e)
                results.append({"refused": {"error": refused.error, "message": refused.message, "facts": refused.facts}})
        return results

    def _ticket(self, operation, block, keeper, identity, file, size=1 << 30):
        self.counter += 1
        ticket = trust.Ticket(operation, self.epoch, block, keeper, size, 10**6, self.counter, trust.user_digest(identity))
        return trust.make_ticket(self.keyring.ticket, ticket, file)

    def _chain(self, operation, block, chosen, identity, upload=None):
        """upload: what the blocks are put for; None for reading."""
        file = trust.file_of(upload["asked"]["path"], upload["version"]) if upload else b""
        hops = []
        for keeper in chosen:
            hops.append({"keeper": keeper.id, "host": "127.0.0.1", "ports": [port.number for port in keeper.ports],
                         "ticket": self._ticket(operation, block, keeper.id, identity, file)})
            if upload:
                identity = keeper.id
        return hops

    def Ping(self, message, exchange):
        return messages.Done()

    # -- uploads --------------------------------------------------------------------------------------------------------
    def OpenUpload(self, message, exchange):
        return messages.UploadOpened(results=self._each(self._open, message.uploads, exchange))

    def _open(self, asked, exchange):
        path = asked["path"]
        if self.not_ready_each > 0:
            self.not_ready_each -= 1
            raise errors.NotReady(detail="no keeper has reported")
        self._check_target(path, asked["no_clobber"], asked["parents"])
        safe = asked["safe"] or self.safe
        if len(self.live) < safe:
            raise errors.TooFewKeepers(live=len(self.live), safe=safe)
        found = self.interrupted.get((path, asked["size"])) if asked["resume"] and asked["size"] is not None else None
        if found is not None and asked["mark"] is not None and asked["mark"] != found["asked"]["mark"]:
            found = None
        elif found is not None:
            del self.interrupted[path, asked["size"]]
        if found is None:
            version = self._version(asked["version"])
            found = {"id": os.urandom(16).hex(), "version": version, "blocks": {}, "ids": {}, "asked": asked}
        found["safe"] = safe
        self.uploads[found["id"]] = found
        n_blocks = model.n_blocks(asked["size"], asked["block_size"]) if asked["size"] is not None else 1
        indexes = [index for index in range(n_blocks) if index not in found["blocks"]][:self.max_grants]
        return {"upload": found["id"], "version": found["version"], "copies": asked["copies"] or self.copies, "safe": safe,
                "block_size": asked["block_size"], "lease_s": self.lease_s, "n_stored": len(found["blocks"]),
                "grants": [self._grant(found, index, exchange) for index in indexes]}

    def _version(self, asked):
        """A fresh one, or the one a client goes on with after a restart."""
        if asked is not None and asked >> 32 < self.epoch and asked not in self.versions:
            return asked
        self.counter += 1
        return (self.epoch << 32) | self.counter

    def _check_target(self, path, no_clobber, parents):
        if path in self.directories:
            raise errors.IsADirectory(path=path)
        if no_clobber and path in self.files:
            raise errors.FileExists(path=path)
        parent, _name = model.parent_and_name(path)
        if parent not in self.directories:
            if not parents:
                raise errors.NoSuchFile(path=parent)
            self._make_parents(parent)

    def _make_parents(self, path):
        while path not in self.directories:
            self.directories.add(path)
            path, _name = model.parent_and_name(path)

    def _choose(self, n, exclude, start):
        good = [keeper for keeper in self.keepers if keeper.id in self.live and keeper.id not in exclude]
        return [good[(start + at) % len(good)] for at in range(min(n, len(good)))]

    def _grant(self, upload, index, exchange):
        block = os.urandom(16).hex()
        upload["ids"][index] = block
        chosen = self._choose(upload["safe"], (), index)
        return {"index": index, "block": block, "chain": self._chain(trust.WRITE, block, chosen, exchange.peer.identity, upload)}

    def _upload(self, upload_id):
        if upload_id not in self.uploads:
            raise errors.LeaseLapsed(path="the file")
        return self.uploads[upload_id]

    def GrantBlocks(self, message, exchange):
        upload = self._upload(message.upload)
        return messages.BlocksGranted(grants=[self._grant(upload, index, exchange) for index in message.indexes])

    def RegrantBlock(self, message, exchange):
        upload = self._upload(message.upload)
        block = upload["ids"].get(message.index)
        if block is None:
            raise errors.LeaseLapsed(path="the file")
        chosen = self._choose(message.n, message.exclude, message.index)
        if len(chosen) < message.n and not self.names_the_tried:
            raise errors.TooFewKeepers(live=len(chosen), safe=message.n)
        chosen = chosen or self._choose(message.n, (), message.index)
        chain = self._chain(trust.WRITE, block, chosen, exchange.peer.identity, upload)
        return messages.BlocksGranted(grants=[{"index": message.index, "block": block, "chain": chain}])

    def ListStored(self, message, exchange):
        upload = self._upload(message.upload)
        found = [upload["blocks"][index] for index in sorted(upload["blocks"]) if index >= message.first]
        return messages.StoredListed(more=len(found) > 3, blocks=found[:3])

    def _record(self, upload, stored):
        """Indexes whose receipts do not hold."""
        rejected = []
        for one in stored:
            crcs = bytes.fromhex(one["crcs"])
            key, block, size = self.keyring.ticket, one["block"], one["size"]
            good = sum(trust.check_receipt(key, block, receipt["keeper"], size, crcs, receipt["proof"])
                       for receipt in one["receipts"])
            if good < upload["safe"]:
                rejected.append(one["index"])
            else:
                upload["blocks"][one["index"]] = one
                upload["ids"][one["index"]] = one["block"]
        return rejected

    def RecordBlocks(self, message, exchange):
        return messages.BlocksRecorded(rejected=self._record(self._upload(message.upload), message.blocks), lease_s=self.lease_s)

    def CommitUpload(self, message, exchange):
        return messages.UploadCommitted(results=self._each(self._commit, message.commits, exchange))

    def _commit(self, commit, exchange):
        if commit["upload"] in self.results:
            return self.results[commit["upload"]]
        upload = self._upload(commit["upload"])
        rejected = self._record(upload, commit["blocks"])
        if rejected:
            return {"rejected": rejected}
        asked, blocks = upload["asked"], [upload["blocks"][index] for index in sorted(upload["blocks"])]
        assert [block["index"] for block in blocks] == list(range(model.n_blocks(commit["size"], asked["block_size"])))
        assert sum(block["size"] for block in blocks) == commit["size"]
        for block in blocks:
            self.where[block["block"]] = [receipt["keeper"] for receipt in block["receipts"]]
        copies = asked["copies"] or self.copies
        self._publish(asked["path"], {"version": upload["version"], "size": commit["size"], "mtime_at": asked["mtime_at"],
                                      "copies": copies, "block_size": asked["block_size"], "blocks": blocks})
        del self.uploads[commit["upload"]]
        keepers = sorted({keeper for block in blocks for keeper in self.where[block["block"]]})
        durable = min((len(self.where[block["block"]]) for block in blocks), default=upload["safe"])
        result = {"path": asked["path"], "version": upload["version"], "size": commit["size"], "copies": copies,
                  "copies_durable": durable, "keepers": keepers}
        self.results[commit["upload"]] = result
        return result

    def _publish(self, path, file):
        self.files[path] = file
        self.versions[file["version"]] = file

    def AbandonUpload(self, message, exchange):
        upload = self.uploads.pop(message.upload, None)
        if upload is not None and message.keep:
            self.interrupted[upload["asked"]["path"], upload["asked"]["size"]] = upload
        return messages.Done()

    def interrupt_uploads(self):
        """As after a client's death: what is recorded may be resumed."""
        with self.lock:
            for upload in self.uploads.values():
                self.interrupted[upload["asked"]["path"], upload["asked"]["size"]] = upload
            self.uploads.clear()

    # -- downloads ------------------------------------------------------------------------------------------------------
    def OpenDownload(self, message, exchange):
        return messages.DownloadOpened(results=self._each(self._locate, message.files, exchange))

    def _locate(self, asked, exchange):
        file = self.versions.get(asked["version"]) if asked["version"] is not None else self._file(asked["path"])
        if file is None:
            raise errors.NoSuchFile(path=asked["path"])
        n = min(asked["n"], self.page)
        blocks = file["blocks"][asked["first"]:asked["first"] + n]
        return {"path": asked["path"], "version": file["version"], "size": file["size"], "mtime_at": file["mtime_at"],
                "block_size": file["block_size"], "copies": file["copies"], "more": asked["first"] + n < len(file["blocks"]),
                "blocks": [{"index": block["index"], "block": block["block"], "size": block["size"], "crcs": block["crcs"],
                            "sources": self._sources(block["block"], exchange.peer.identity)} for block in blocks]}

    def _sources(self, block, identity):
        return self._chain(trust.READ, block, self._holders(block), identity)

    def _holders(self, block):
        bad = {keeper for one, keeper, _reason in self.bad if one == block}
        by_id = {keeper.id: keeper for keeper in self.keepers}
        return [by_id[keeper] for keeper in self.where[block] if keeper not in bad]

    def _file(self, path):
        if path in self.directories:
            raise errors.IsADirectory(path=path)
        if path not in self.files:
            raise errors.NoSuchFile(path=path)
        return self.files[path]

    def ReplicaBad(self, message, exchange):
        self.bad.append((message.block, message.keeper, message.reason))
        return messages.Done()

    # -- names ----------------------------------------------------------------------------------------------------------
    def _row(self, path, name=None):
        if path in self.directories:
            return [name or path, model.DIRECTORY, 0, 0, 0.0, 0, None]
        file = self._file(path)
        return [name or path, model.FILE, file["size"], file["version"], file["mtime_at"], file["copies"], 2]

    def Stat(self, message, exchange):
        return messages.Stats(results=self._each(lambda path, _exchange: self._stat(path, message), message.paths, exchange))

    def _stat(self, path, message):
        if path in self.directories:
            return {"entry": self._row(path)}
        file = self._file(path)
        found = {"entry": self._row(path), "block_size": file["block_size"], "n_blocks": len(file["blocks"]),
                 "sha256": self.sums.get(file["version"])}
        if message.blocks:
            first = message.first or 0
            found["blocks"] = [{"index": block["index"], "block": block["block"], "size": block["size"],
                                "keepers": self.where[block["block"]]} for block in file["blocks"][first:first + 2]]
        return found

    def List(self, message, exchange):
        if message.path in self.files:
            raise errors.NotADirectory(path=message.path)
        if message.path not in self.directories:
            raise errors.NoSuchFile(path=message.path)
        names = sorted(model.parent_and_name(path)[1] for path in (*self.files, *self.directories)
                       if path != "/" and model.parent_and_name(path)[0] == message.path)
        start = 0 if message.after is None else bisect.bisect_right(names, message.after)
        limit = min(message.limit, 5)
        return messages.Listed(entries=[self._row(model.join(message.path, name), name) for name in names[start:start + limit]],
                               more=start + limit < len(names))

    def _once(self, message, change):
        if message.op not in self.results:
            change()
            self.results[message.op] = True
        return messages.Done()

    def MakeDirectory(self, message, exchange):
        def change():
            if message.path in self.files or (message.path in self.directories and not message.parents):
                raise errors.FileExists(path=message.path)
            if message.parents:
                self._make_parents(message.path)
            elif model.parent_and_name(message.path)[0] not in self.directories:
                raise errors.NoSuchFile(path=model.parent_and_name(message.path)[0])
            self.directories.add(message.path)

        return self._once(message, change)

    def Remove(self, message, exchange):
        def change():
            if message.path in self.directories:
                below = [path for path in (*self.files, *self.directories) if path.startswith(message.path + "/")]
                if below and not message.recursive:
                    raise errors.DirectoryNotEmpty(path=message.path)
                for path in below:
                    self.files.pop(path, None)
                    self.directories.discard(path)
                self.directories.discard(message.path)
            else:
                self._file(message.path)
                del self.files[message.path]

        return self._once(message, change)

    def Rename(self, message, exchange):
        def change():
            file = self._file(message.source)
            self._check_target(message.target, message.no_clobber, False)
            self.files[message.target] = file
            del self.files[message.source]

        return self._once(message, change)

    def Copy(self, message, exchange):
        def change():
            self._check_target(message.target, message.no_clobber, False)
            self.counter += 1
            self._publish(message.target, {**self._file(message.source), "version": (self.epoch << 32) | self.counter})

        return self._once(message, change)

    def SetCopies(self, message, exchange):
        return self._once(message, lambda: self._file(message.path).update(copies=message.copies))

    def RecordSum(self, message, exchange):
        self.sums[message.version] = message.sha256
        return messages.Done()

    def Usage(self, message, exchange):
        inside = [file for path, file in self.files.items() if path.startswith(message.path.rstrip("/") + "/")]
        size = sum(file["size"] for file in inside)
        return messages.Used(files=len(inside), directories=0, size=size, stored=size * 2)

    def Status(self, message, exchange):
        return messages.ClusterStatus(
            cluster_id=CLUSTER_ID, epoch=self.epoch, files=len(self.files), directories=len(self.directories), bytes=0,
            under_replicated=0, missing=0, repairs_running=0, repair_bytes_left=0, repair_rate=0, uploads=len(self.uploads),
            strays=0, safemode="", copies=self.copies, safe=self.safe, alarms=[], waiting=[], counters={},
            keepers=[{"keeper_id": keeper.id, "name": f"k{number}", "host": "127.0.0.1", "ports": [], "state": "live", "reason": "", "used": 0,
                      "free": 0, "blocks": len(keeper.blocks), "load": 0, "heartbeat_age_s": 0.0, "labels": {}, "pids": [], "reported": True,
                      "sick": ""} for number, keeper in enumerate(self.keepers, 1)],
            pid=os.getpid())


class Cluster:
    """A master and some keepers; `client(**changes)` connects with settings changed. A context manager."""

    def __init__(self, n_keepers=3, **master):
        self.keyring = trust.Keyring.from_cluster_key(KEY)
        self.keepers = [Keeper(number + 1, self.keyring) for number in range(n_keepers)]
        self.master = Master(self.keyring, self.keepers, **master)
        self._clients = []

    def addresses(self):
        return tuple(("127.0.0.1", port.number) for port in self.master.ports)

    def client(self, **changes):
        settings = resolve([]).but(**{"block_size": BLOCK_SIZE, "patience": 10.0, **changes})
        client = connect(self.addresses(), settings=settings, cluster_key=KEY)
        self._clients.append(client)
        return client

    def file(self, path):
        return self.master.files[path]

    def bytes_of(self, path, keeper_at=0):
        """What the keepers hold of a file, read without the client."""
        by_id = {keeper.id: keeper for keeper in self.keepers}
        data = b""
        for block in self.file(path)["blocks"]:
            data += by_id[self.master.where[block["block"]][keeper_at]].blocks[block["block"]][0]
        return data

    def keeper(self, keeper_id):
        return next(keeper for keeper in self.keepers if keeper.id == keeper_id)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self._clients:
            client.close()
        for keeper in self.keepers:
            keeper.thawed.set()
        stop_all([port for part in (*self.keepers, self.master) for port in part.ports])


def pattern(size, seed=1):
    """`size` bytes without a pattern, the same each time."""
    return random.Random(seed).randbytes(size)


def wait_for(condition, seconds=5.0):
    """Wait until condition() holds; fails the test when it does not in time."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)
