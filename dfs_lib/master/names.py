"""Names as the master serves them: stat, list, make, remove, rename, copy, set.

Every path passes model.clean_path here, whatever the client did with it before. Reads touch no lock; every change is one operation.
"""

from dfs_lib import errors, model
from dfs_lib.catalog import operations
from dfs_lib.master.transfers import refusal
from dfs_lib.wire import messages

# Blocks in one answer to Stat.
STAT_BLOCKS = 1000
# Of no bytes: an empty file has no block that somebody could read.
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Names:
    """Handlers of the messages about names."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer

    def table(self):
        return {
            messages.Stat: self.stat, messages.List: self.list, messages.MakeDirectory: self.make_directory, messages.Remove: self.remove,
            messages.Rename: self.rename, messages.Copy: self.copy, messages.SetCopies: self.set_copies,
            messages.RecordSum: self.record_sum, messages.Usage: self.usage,
        }

    # -- reading --------------------------------------------------------------------------------------------------------
    def stat(self, message, exchange):
        queries = self._t.queries()
        if len(message.paths) == 1 and not message.blocks:  # the hot path: one statement is one state
            return messages.Stats(results=[self._stat_one(queries, message.paths[0], message)])
        with queries.snapshot():
            return messages.Stats(results=[self._stat_one(queries, path, message) for path in message.paths])

    def _stat_one(self, queries, path, message):
        try:
            entry = queries.entry_with_copies(model.clean_path(path), self._t.live.counted())
        except errors.Refusal as e:
            return {"refused": refusal(e)}
        answer = {"entry": _row(entry, entry.copies_have)}
        if message.blocks and entry.kind == model.FILE:
            version = queries.version(entry.version)
            first = message.first or 0
            ids = {keeper.number: keeper.id for keeper in self._t.live.keepers()}
            answer.update(block_size=version.block_size, n_blocks=model.n_blocks(version.size, version.block_size), blocks=[
                {"index": block.index, "block": block.block, "size": block.size,
                 "keepers": [ids[number] for number in block.keepers if number in ids]}
                for block in queries.blocks(entry.version, first, STAT_BLOCKS)])
            if sha256 := version.sha256 or (None if version.size else EMPTY_SHA256):
                answer["sha256"] = sha256
        return answer

    def _have(self, queries, entry):
        """Copies that count of the block that has fewest; an empty file needs none and has what is wanted."""
        have = queries.copies_have(entry.version, self._t.live.counted())
        return entry.copies_wanted if have is None else have

    def list(self, message, exchange):
        queries = self._t.queries()
        path = model.clean_path(message.path)
        with queries.snapshot():
            entries, more = queries.listing(path, message.after or "", min(message.limit, self._t.settings.max_entries))
            rows = [_row(entry, self._have(queries, entry) if message.have and entry.kind == model.FILE else None) for entry in entries]
        prefix = len(model.join(path, ""))
        for row in rows:
            row[0] = row[0][prefix:]
        return messages.Listed(entries=rows, more=more)

    def usage(self, message, exchange):
        with exchange.working():
            used = self._t.queries().usage(model.clean_path(message.path))
        return messages.Used(files=used.files, directories=used.directories, size=used.bytes, stored=used.stored)

    # -- changing -------------------------------------------------------------------------------------------------------
    def _apply(self, cls, **fields):
        return self._t.database.apply(cls(at=self._t.wall(), **fields))

    def make_directory(self, message, exchange):
        self._apply(operations.MakeDirectory, op=message.op, path=model.clean_path(message.path), parents=message.parents)
        return messages.Done()

    def remove(self, message, exchange):
        done = self._apply(operations.RemovePath, op=message.op, path=model.clean_path(message.path), recursive=message.recursive,
                           expected=message.expected)
        self._repairer.removed()
        return messages.Done(facts={"kind": done["kind"]})

    def rename(self, message, exchange):
        self._apply(operations.RenamePath, op=message.op, source=model.clean_path(message.source), target=model.clean_path(message.target),
                    no_clobber=message.no_clobber)
        return messages.Done()

    def copy(self, message, exchange):
        done = self._apply(operations.CopyFile, op=message.op, source=model.clean_path(message.source),
                           target=model.clean_path(message.target), version=self._t.next_version(), no_clobber=message.no_clobber)
        return messages.Done(facts={"version": done["version"]})

    def set_copies(self, message, exchange):
        done = self._apply(operations.SetCopies, op=message.op, path=model.clean_path(message.path), copies=message.copies)
        queries, first = self._t.queries(), 0
        while blocks := queries.blocks(done["version"], first, 1000):
            self._t.guard.explain([block.block for block in blocks], model.MAX_COPIES)
            self._repairer.notice([block.block for block in blocks])
            first += len(blocks)
        return messages.Done(facts={"version": done["version"], "copies": done["copies"]})

    def record_sum(self, message, exchange):
        self._t.database.apply(operations.RecordSum(version=message.version, sha256=message.sha256))
        return messages.Done()


def _row(entry, have):
    """An entry as it stands on the wire."""
    return [entry.path, entry.kind, entry.size, entry.version, entry.mtime_at, entry.copies_wanted, have]
