"""Uploads and downloads as the master sees them: grants, receipts, one durable commit; where to read.

Moves no bytes of files. Order of effects of an upload (what is left when the master dies after each step):

    grant      live only              nothing; the client opens the upload again
    receipts   live only              blocks on keepers that no version refers to: adopted by the client that goes on, else strays
    publish    one transaction, fsync the file, with all its replicas
    answer                            the client asks again and hears the same: PublishFile is remembered under the upload's id
"""

import logging

from dfs_lib import errors, model
from dfs_lib.catalog import operations
from dfs_lib.master.uploads import LEASE_S, Upload
from dfs_lib.net.servers import refused
from dfs_lib.wire import messages, trust

log = logging.getLogger(__name__)

# Blocks granted with the answer to OpenUpload: enough for the client's first parallel transfers, and one round trip for small files.
FIRST_GRANTS = 16
# Small files that share a chain: as many and as large as one message to a keeper carries well, and few enough to spread over keepers.
LOT_FILES, LOT_FILE, LOT_BYTES = 32, 256 * model.KIB, model.MIB
# Those that come one by one on one connection share it too, for so long: the same few processes then have at hand what they need, and
# no others are woken, which takes a sixth off the CPU of such a put.
LOT_S = 1.0
# A reader that takes its time keeps its version's blocks for the page it has, at this rate or faster, and this long at least.
READ_RATE = 2 * model.MIB
READ_HOLD_S = 600.0
# Indexes in one answer that says which blocks are to be put again.
MAX_REJECTED = 256


class Transfers:
    """Handlers of the messages about uploads and downloads."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._lots = {}  # connection → the _Lot of its latest small file; a connection's thread alone touches its own

    def table(self):
        return {
            messages.OpenUpload: self.open_upload, messages.GrantBlocks: self.grant_blocks, messages.RegrantBlock: self.regrant_block,
            messages.ListStored: self.list_stored, messages.RecordBlocks: self.record_blocks, messages.CommitUpload: self.commit_upload,
            messages.AbandonUpload: self.abandon_upload, messages.OpenDownload: self.open_download, messages.ReplicaBad: self.replica_bad,
        }

    # -- opening --------------------------------------------------------------------------------------------------------
    def open_upload(self, message, exchange):
        lot, directories = self._lot(exchange), set()

        def open_one(asked, exchange):
            return self._open_one(asked, exchange, lot, directories)

        return messages.UploadOpened(results=[_result(open_one, asked, exchange) for asked in message.uploads])

    def _lot(self, exchange):
        """The lot that this connection's next small files go with."""
        lot, now_s = self._lots.get(exchange.connection), self._t.clock()
        if lot is None or now_s >= lot.until_s:
            lot = self._lots[exchange.connection] = _Lot(now_s + LOT_S)
        return lot

    def left(self, connection):
        """A connection has closed."""
        self._lots.pop(connection, None)

    def _open_one(self, asked, exchange, lot, directories):
        t, settings = self._t, self._t.settings
        if t.database.is_short_of_room:
            raise errors.NoRoom(size=asked["size"] or 0, detail="the master's disk is full")  # now, and not after all its bytes were sent
        path = model.clean_path(asked["path"])
        self._check_target(path, asked, directories)
        copies, safe = _wanted(asked, settings)
        block_size = model.BLOCK_SIZE if asked["block_size"] is None else asked["block_size"]
        if fault := model.block_size_fault(block_size):
            raise errors.UsageError(detail=f"{path}: blocks of {block_size} bytes: {fault}")
        self._check_keepers(safe)
        upload = Upload(t.new_id(), path, asked["size"], self._version(asked["version"]), copies, safe,
                        block_size, asked["mtime_at"], asked["no_clobber"], asked["parents"],
                        exchange.peer.identity, asked["mark"], asked["expected"])
        n_stored = t.uploads.add(upload, exchange.connection, t.clock(), asked["resume"])
        try:
            grants = self._grant(upload, self._first_indexes(upload), exchange, lot)
        except errors.DfsError:
            t.live.free_ports(upload.serials)
            if n_stored:
                t.uploads.interrupt(upload, t.clock())  # no room now; what an earlier try has stored is still good
            else:
                t.uploads.drop(upload)
            raise
        return {"upload": upload.id, "version": upload.version, "copies": copies, "safe": safe, "block_size": upload.block_size,
                "lease_s": LEASE_S, "grants": grants, "n_stored": n_stored}

    def _version(self, asked):
        """A version never used. One that a client asks for must be of an earlier reign, and free: two files with one number are one lost."""
        t = self._t
        if asked is None or asked >> 32 >= t.epoch or t.uploads.has_version(asked) or t.queries().version(asked) is not None:
            return t.next_version()
        return asked

    def _check_target(self, path, asked, directories):
        """Refuse early what commit would refuse, before bytes travel. directories: those found good for other files of the message."""
        queries = self._t.queries()
        kind = queries.find_kind(path)
        # One that is opened again may have been published already, its answer lost: the commit tells, in its own transaction.
        if asked["expected"] is not None and asked["version"] is None:
            operations.check_expected(path, asked["expected"], kind, queries.entry(path).version if kind == model.FILE else None)
        if kind is None:
            parent = model.parent_and_name(path)[0]
            if parent not in directories:
                self._check_parent(queries, path, parent, asked["parents"])
                directories.add(parent)
            return
        if kind == model.DIRECTORY:
            raise errors.IsADirectory(path=path)
        if asked["no_clobber"]:
            raise errors.FileExists(path=path)

    @staticmethod
    def _check_parent(queries, path, parent, is_made):
        kind = queries.find_kind(parent)
        if kind == model.FILE:
            raise errors.NotADirectory(path=parent)
        if kind is None:
            try:
                queries.entry(path if is_made else parent)
            except errors.NoSuchFile:
                if not is_made:
                    raise  # else what is missing above is made; NotADirectory is for the asker

    def _check_keepers(self, safe):
        """Return when `safe` keepers take blocks now. Raises NotReady when it is worth waiting, which clients do, TooFewKeepers when it is not.

        Too few a moment after the master's restart, or while a busy machine keeps heartbeats back, is over within seconds, and a tree that
        is half stored must not fail for it. Where even those that may come back would not be enough, nobody is to wait for the same refusal.
        A keeper that has yet to report counts as one that comes back: it would hide the blocks of an upload that goes on after a restart,
        and they would be sent again.
        """
        t, waiting = self._t, self._t.safemode()
        if t.database.unchecked:
            raise errors.NotReady(detail=waiting)
        n_taking = t.live.n_taking(reported=bool(waiting))
        if n_taking >= safe:
            return
        returning = t.live.returning(t.clock(), bool(waiting))
        if n_taking + len(returning) < safe:
            raise errors.TooFewKeepers(live=t.live.n_taking(), safe=safe)
        if waiting:
            raise errors.NotReady(detail=waiting)
        detail = ", ".join(f"{name}: {why}" for name, why in returning[:8])
        raise errors.NotReady(f"{n_taking} of {safe} keepers can take this now, and others may be back in a moment ({detail})", detail=detail)

    def _first_indexes(self, upload):
        if upload.size is None:
            n = 2
        else:
            n = min(FIRST_GRANTS, model.n_blocks(upload.size, upload.block_size))
        return [index for index in range(n) if index not in upload.stored]

    # -- granting -------------------------------------------------------------------------------------------------------
    def _grant(self, upload, indexes, exchange, lot=None):
        """Fresh block ids and chains of `safe` keepers. Raises NoRoom, TooFewKeepers, NotReady. lot: of small files that may share a chain."""
        grants = []
        for index in indexes:
            size = upload.block_bytes(index)
            if size <= 0:
                raise errors.BadMessage(detail=f"a file of {upload.size} bytes has no block {index}")
            chosen = lot.chosen_for(upload, size) if lot is not None else ()
            chosen = chosen and self._t.live.choose_again(chosen, size)
            if not chosen:
                chosen = self._t.live.choose(size, upload.safe, near=exchange.peer_host)
                if len(chosen) < upload.safe:
                    self._refuse_for_room(chosen, upload.safe, size)
                if lot is not None:
                    lot.begin(upload, size, chosen)
            block = self._t.new_id()
            left_over = self._t.uploads.grant(upload, index, block)
            if left_over:
                self._repairer.drop_unreferenced(left_over)
            grants.append(self._hops(upload, index, block, size, chosen, exchange))
        return grants

    def _hops(self, upload, index, block, size, chosen, exchange):
        hops, serials = self._t.chain(chosen, block, size, exchange.peer.identity, (upload.path, upload.version))
        upload.serials += serials
        return {"index": index, "block": block, "chain": hops}

    def _refuse_for_room(self, chosen, safe, size):
        self._check_keepers(safe)
        raise errors.NoRoom(size=size, detail=f"{len(chosen)} of {safe} keepers have so much free")

    def _upload(self, id_, exchange):
        return self._t.uploads.get(id_, exchange.peer.identity, exchange.connection, self._t.clock())

    def grant_blocks(self, message, exchange):
        upload = self._upload(message.upload, exchange)
        return messages.BlocksGranted(grants=self._grant(upload, message.indexes, exchange))

    def regrant_block(self, message, exchange):
        self._lots.pop(exchange.connection, None)  # a keeper of its chain may be what has failed
        upload = self._upload(message.upload, exchange)
        block = upload.granted.get(message.index)
        if block is None:
            return messages.BlocksGranted(grants=self._grant(upload, [message.index], exchange))
        stored = upload.stored.get(message.index)
        holders = set(stored.keepers) if stored else set()
        failed = self._t.live.numbers_of(message.exclude)
        # The port that was leased there may be what hangs: its lease lapses by itself, lest an idle port be the next one's first choice again.
        upload.serials = [serial for serial in upload.serials if self._t.live.leased_on(serial) not in failed - holders]
        size = upload.block_bytes(message.index)
        try:
            chosen = self._t.live.choose(size, message.n, exclude=failed - holders, near=exchange.peer_host, existing=holders)
        except errors.NoRoom:
            chosen = ()
        if not chosen:
            # Everybody has been tried once: a keeper that failed a moment ago is better than nobody.
            chosen = self._t.live.choose(size, message.n, existing=holders)
        if not chosen:
            self._check_keepers(upload.safe)
            raise errors.TooFewKeepers(live=len(holders), safe=upload.safe)
        return messages.BlocksGranted(grants=[self._hops(upload, message.index, block, size, chosen, exchange)])

    # -- what is stored -------------------------------------------------------------------------------------------------
    def list_stored(self, message, exchange):
        upload = self._upload(message.upload, exchange)
        with self._t.uploads.lock:
            stored = sorted((index, one) for index, one in upload.stored.items() if index >= message.first)
        ids = {keeper.number: keeper.id for keeper in self._t.live.keepers()}
        return messages.StoredListed(more=len(stored) > 256, blocks=[
            {"index": index, "block": one.block, "size": one.size, "crcs": one.crcs.hex(),
             "receipts": [{"keeper": ids[number], "proof": "0" * 32} for number in sorted(one.keepers) if number in ids]}
            for index, one in stored[:256]])

    def record_blocks(self, message, exchange):
        upload = self._upload(message.upload, exchange)
        return messages.BlocksRecorded(rejected=self._record(upload, message.blocks), lease_s=LEASE_S)

    def _record(self, upload, blocks):
        """Take blocks whose receipts hold. Returns the indexes of those that do not."""
        rejected = []
        for one in blocks:
            crcs = bytes.fromhex(one["crcs"])
            numbers = self._t.live.numbers_of([
                receipt["keeper"] for receipt in one["receipts"]
                if trust.check_receipt(self._t.keyring.ticket, one["block"], receipt["keeper"], one["size"], crcs, receipt["proof"])])
            self._t.live.note_fresh(numbers, one["block"])  # first: a block report compared meanwhile must not unmake it
            if len(crcs) != 4 * model.n_chunks(one["size"]) or not self._t.uploads.record(upload, {**one, "crcs": crcs}, numbers):
                rejected.append(one["index"])
        return rejected

    # -- commit ---------------------------------------------------------------------------------------------------------
    def commit_upload(self, message, exchange):
        """One transaction, one fsync, for all the commits of a message, shared with whoever commits at the same moment."""
        begun = []  # uploads whose commit is under way: nobody gives them up meanwhile
        try:
            prepared = [_result(lambda commit, exchange: self._prepare(commit, exchange, begun), commit, exchange) for commit in message.commits]
            publishing = [one["operation"] for one in prepared if one.get("operation")]
            outcomes = iter(self._t.database.apply_many(publishing) if publishing else ())
            finished = [self._published(one, next(outcomes)) if one.get("operation") else (one, None) for one in prepared]
        finally:
            for upload in begun:
                self._t.uploads.end_commit(upload)
        for _result_of_one, given_up in finished:
            if given_up is not None:
                self._give_up(given_up)
        return messages.UploadCommitted(results=[one for one, _given_up in finished])

    def _prepare(self, commit, exchange, begun):
        t = self._t
        try:
            upload = self._upload(commit["upload"], exchange)
        except errors.LeaseLapsed:
            done = t.database.answer(commit["upload"])
            if not done or "replaced" not in done:
                raise
            return self._published_before(done)
        rejected = self._record(upload, commit["blocks"])[:MAX_REJECTED]
        size = commit["size"]
        if upload.size is not None and size != upload.size:
            raise errors.BadMessage(detail=f"{upload.path} was opened with {upload.size} bytes and committed with {size}")
        t.uploads.begin_commit(upload)
        begun.append(upload)
        n_blocks, rows = model.n_blocks(size, upload.block_size), []
        for index in range(n_blocks):
            if len(rejected) >= MAX_REJECTED:
                break  # `size` is the client's word: a loop over what it claims must end soon
            stored = upload.stored.get(index)
            expected = min(upload.block_size, size - index * upload.block_size)
            if stored is None or stored.size != expected or len(stored.keepers) < upload.safe:
                rejected.append(index)
            else:
                rows.append([stored.block, stored.size, stored.crcs.hex(), sorted(stored.keepers)])
        if rejected:
            return {"rejected": sorted(set(rejected)), "path": upload.path}
        operation = operations.PublishFile(
            op=upload.id, path=upload.path, version=upload.version, size=size, block_size=upload.block_size, copies=upload.copies,
            mtime_at=upload.mtime_at, no_clobber=upload.no_clobber, parents=upload.parents, blocks=rows, at=t.wall(),
            expected=upload.expected)
        return {"operation": operation, "upload": upload}

    def _published_before(self, done):
        entry = self._t.queries().version(done["version"])
        size = entry.size if entry else 0
        return {"path": self._t.queries().entry_of_version(done["version"]) or "/", "version": done["version"], "size": size,
                "copies_durable": self._t.settings.safe, "copies": entry.copies if entry else 1, "keepers": []}

    def _published(self, prepared, outcome):
        """(the result of one commit, the upload to give up if it was refused for good or None)."""
        t, upload, operation = self._t, prepared["upload"], prepared["operation"]
        if isinstance(outcome, errors.DfsError):
            # Later it may succeed (the catalog's disk was full): then what is stored is kept for the next try.
            is_final = outcome.retry != errors.LATER and not isinstance(outcome, errors.IntegrityError)
            return {"refused": refusal(outcome)}, upload if is_final else None
        if isinstance(outcome, BaseException):
            raise outcome
        serials, left_over = t.uploads.finish(upload, {row[0]: tuple(row[3]) for row in operation.blocks})
        t.live.free_ports(serials)
        self._repairer.drop_unreferenced(left_over)
        self._record_found(upload, operation)
        holders = self._holders(upload, operation)
        counted = t.live.counted()  # after the publishing: whoever is lost from now on is scanned with these blocks
        short = [block for block, numbers in holders if len(numbers & counted) != upload.copies]
        if short:
            self._repairer.notice(short)
        anywhere = set().union(*(numbers for _block, numbers in holders))
        fewest = min((len(numbers) for _block, numbers in holders), default=upload.copies)
        t.count("uploads_committed")
        t.count("bytes_committed", operation.size)
        log.debug("published path=%s version=%s size=%s", upload.path, upload.version, operation.size)
        return {"path": upload.path, "version": upload.version, "size": operation.size, "copies_durable": fewest,
                "copies": upload.copies, "places": t.live.n_taking(), "keepers": t.live.ids_of(anywhere)[:64]}, None

    def _record_found(self, upload, operation):
        """Replicas that keepers reported while the upload was open: from now on the catalog can say whose they are."""
        by_number = {}
        for block, size, _crcs, numbers in operation.blocks if upload.found else ():
            for number, found_size in upload.found.get(block, {}).items():
                if found_size == size and number not in numbers:
                    by_number.setdefault(number, []).append(block)
        for number, blocks in by_number.items():
            self._t.database.apply(operations.RecordReplicas(keeper=number, blocks=blocks, at=self._t.wall()))
            self._repairer.notice(blocks)

    def _holders(self, upload, operation):
        """[(block, numbers)] of what was published; a replica that went bad on the way to the disk is lost again."""
        holders = []
        for index, (block, _size, _crcs, numbers) in enumerate(operation.blocks):
            stored, numbers = upload.stored.get(index), set(numbers)
            for number in numbers - stored.keepers if stored is not None and stored.block == block else ():
                self._repairer.doubts.replica_bad(block, number, "lost while its file was published")
                numbers = numbers - {number}
            holders.append((block, numbers))
        return holders

    def abandon_upload(self, message, exchange):
        upload = self._upload(message.upload, exchange)
        if message.keep:
            self._t.uploads.interrupt(upload, self._t.clock())
        else:
            self._give_up(upload)
        return messages.Done()

    def _give_up(self, upload):
        t = self._t
        t.live.free_ports(upload.serials)
        self._repairer.drop_unreferenced(t.uploads.drop(upload))

    # -- reading --------------------------------------------------------------------------------------------------------
    def open_download(self, message, exchange):
        return messages.DownloadOpened(results=[_result(self._open_download_one, asked, exchange) for asked in message.files])

    def _open_download_one(self, asked, exchange):
        t, queries = self._t, self._t.queries()
        path = model.clean_path(asked["path"])
        version = asked["version"]
        if version is None:
            row = queries.located(path, asked["first"], asked["n"])
            version, blocks = row.version, row.blocks
            if not version:
                raise errors.IsADirectory(path=path)
        else:
            with queries.snapshot():
                row = queries.version(version)
                blocks = queries.blocks(version, asked["first"], asked["n"]) if row and asked["n"] else []
            if row is None:
                raise errors.NoSuchFile(f"{path} was removed or replaced while it was read", path=path)
        more = asked["first"] + len(blocks) < model.n_blocks(row.size, row.block_size)
        if row.size:
            hold_s = max(READ_HOLD_S, sum(block.size for block in blocks) / READ_RATE)
            t.reading(version, t.clock() + hold_s)
        return {"path": path, "version": version, "size": row.size, "mtime_at": row.mtime_at, "block_size": row.block_size,
                "copies": row.copies, "blocks": [self._sources(block, exchange) for block in blocks], "more": more}

    def _sources(self, block, exchange):
        t = self._t
        hops = []
        until_s = t.clock() + 20.0
        for keeper in t.live.reading_order(block.keepers, exchange.peer_host)[:model.MAX_COPIES]:
            ticket, serial = t.read_ticket(block.block, keeper.id, block.size, exchange.peer.identity)
            # Only the first is likely to be used: only its port is leased.
            ports = t.live.ports_of(keeper.number) if hops else t.live.lease_port(keeper.number, serial, until_s)
            hops.append({"keeper": keeper.id, "host": keeper.host, "ports": ports, "ticket": ticket})
        if self._repairer.doubts.is_any_doubted(block.block):
            hops.sort(key=lambda hop: self._repairer.doubts.is_doubted(block.block, hop["keeper"]))
        found = {"index": block.index, "block": block.block, "size": block.size, "crcs": block.crcs.hex(), "sources": hops}
        return found if block.keepers else {**found, "is_lost": True}

    def replica_bad(self, message, exchange):
        """A reader's word starts a check by the keeper itself; only what that finds changes the catalog (a client may lie)."""
        number = self._t.live.number_of(message.keeper)
        log.warning("replica doubted block=%s keeper=k%s by=%s reason=%s", message.block, number, exchange.peer.identity, message.reason)
        self._t.count("replicas_doubted")
        self._repairer.doubts.doubt(message.block, number, message.keeper)
        return messages.Done()


class _Lot:
    """Small files that go down one chain and are chosen for once: those of one OpenUpload, which travel in one message, and those that
    the same connection opens next.

    until_s: when (monotonic) it takes no more.
    """

    def __init__(self, until_s):
        self.until_s = until_s
        self._chosen, self._safe, self._n_left, self._bytes_left = (), 0, 0, 0

    def begin(self, upload, size, chosen):
        """A chain was chosen for a block of this upload; a small file's may be used for those that follow."""
        self._chosen = chosen if upload.size is not None and upload.size == size <= LOT_FILE else ()
        self._safe, self._n_left, self._bytes_left = upload.safe, LOT_FILES - 1, LOT_BYTES - size

    def chosen_for(self, upload, size):
        """The keepers chosen for the files before, when this one goes with them, else ()."""
        if not self._chosen or upload.size != size or size > LOT_FILE or upload.safe != self._safe:
            return ()
        if not self._n_left or size > self._bytes_left:
            return ()
        self._n_left, self._bytes_left = self._n_left - 1, self._bytes_left - size
        return self._chosen


def refusal(error):
    sent = refused(error)
    return {"error": sent.error, "message": sent.message, "facts": sent.facts}


def _wanted(asked, settings):
    """(copies, safe) of an upload. Who asks for more safe copies than the default wants gets them; the default of `safe` gives way to
    fewer copies. Raises UsageError when both were asked for and contradict each other: promising less quietly is not for us to choose.
    """
    copies, safe = asked["copies"], asked["safe"]
    if copies and safe and safe > copies:
        raise errors.UsageError(detail=f"safe {safe} asks for more copies than the {copies} wanted: raise copies or lower safe")
    copies = copies or max(settings.copies, safe or 0)
    return copies, safe or min(settings.safe, copies)


def _result(handler, asked, exchange):
    """One entry of a plural answer: what the handler returns, or the refusal in its place."""
    try:
        return handler(asked, exchange)
    except errors.DfsError as e:  # of a BadMessage too: one odd entry must not take the others with it
        return {"refused": refusal(e)}
