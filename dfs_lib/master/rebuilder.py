"""`dfs master --rebuild`: makes a new catalog from what the keepers hold, and ends; the master proper starts on it then.

Until the catalog is there nothing is served, ordered or deleted, and keepers only read. Whatever step it dies at, it begins anew
(catalog/rebuilding.py).

    gathering: every keeper's trailers ──▶ found.db, and the best copy of the old catalog
    enough? the copy is fresh and all keepers it knows have come, or none came anew for --rebuild-wait
    the copy, replayed ──▶ the new catalog; none: an empty one
    a higher epoch than any keeper or the copy has seen; the keepers' addresses
    versions the copy cannot know (>= its open_from, and not in its log) ──▶ files at their paths
        parts, older whole ones, clashes, blocks without a place          ──▶ /lost+found
    report, and the catalog under its name

Without a copy every version found is such a one: names are those at writing time then, and removed files may come back. What the copy
had at a path where a later version was found is kept under /lost+found: whether the later one was ever committed nobody knows.
"""

import logging
import time

from dfs_lib import errors, log_copy
from dfs_lib.catalog import operations, rebuilding, snapshots
from dfs_lib.master.gathering import GONE_S, Gathering
from dfs_lib.model import DIRECTORY
from dfs_lib.plan import restoring

log = logging.getLogger(__name__)

# So far above the highest epoch heard of: a keeper that is away now may have heard of a later reign than those that are here.
EPOCHS_ABOVE = 100
# A copy is the last word on who belongs to the cluster when no block is younger than it by more than this.
FRESH_S = 120.0
# Entries of each kind that the report names, and that the log does; beyond it they are only counted.
MOST_NAMED, MOST_LOGGED = 10_000, 50
STEP_S = 0.1
TELL_EVERY_S = 5.0


class Rebuilder:
    """One rebuild. `gathering` is the service to listen with while `run` runs."""

    def __init__(self, settings, directory, *, clock=time.monotonic, wall=time.time, new_id):
        """Raises Refusal when there is a catalog already, DirectoryInUse, LocalFileError."""
        self._settings, self._clock, self._wall, self._new_id = settings, clock, wall, new_id
        self._staged = rebuilding.Rebuilding(directory)
        self.gathering = Gathering(self._staged, clock, settings.rebuild_keepers)
        self._known = {}  # keeper's id → ids of the keepers that its copy knows
        self._replayed = None  # (keeper's id, last open_from) of the copy that `_database` was made from
        self._told_s = clock()
        self._database = self._lists = self._counts = None  # of the build under way

    def close(self):
        self._staged.close()

    # -- when -----------------------------------------------------------------------------------------------------------
    def run(self, stopping):
        """Gather, build, finish; stopping() → whether to give up. Returns the report, None when it was given up.

        Raises LocalFileError, NoRoom, CatalogDamaged: whatever keeps a catalog from being written.
        """
        g = self.gathering
        while not stopping():
            self._tell()
            with g.changed:
                g.changed.wait(STEP_S)
                copy = g.best_copy()
                if not self._is_gathered(copy):
                    continue
                is_time = self._is_quiet() or copy is not None and self._is_last_word(copy)
            # A replay may take long, and keepers must not wait for an answer meanwhile.
            if not is_time or not self._is_quiet() and not self._known_to(copy) <= set(g.keepers):
                continue
            with g.changed:
                if not self._is_gathered(copy) or g.best_copy() is not copy:
                    continue
                g.phase = "all is gathered, names and blocks are being put in place"
            report = self._build(copy)
            if report is not None:
                return report
            with g.changed:
                g.phase = ""
        return None

    def _tell(self):
        if self._clock() - self._told_s >= TELL_EVERY_S:
            self._told_s = self._clock()
            log.info("rebuild: %s", self.gathering.progress())

    def _is_gathered(self, copy):
        """Whether as many keepers as asked for have told all, and the copy is here. One that left in the middle may be on its way back."""
        keepers, now_s = self.gathering.keepers, self._clock()
        if not keepers or len(keepers) < self._settings.rebuild_keepers or copy is not None and copy.copy is None:
            return False
        return all(keeper.is_done or now_s - keeper.heard_s > max(GONE_S, self._settings.rebuild_wait) for keeper in keepers.values())

    def _is_quiet(self):
        return self._clock() - self.gathering.news_s >= self._settings.rebuild_wait

    def _is_last_word(self, copy):
        newest = self._staged.newest_block()
        return not newest or int(newest[:12], 16) / 1000 <= copy.offer.copy["at"] + FRESH_S

    def _known_to(self, copy):
        """Ids of the keepers that the copy's catalog knows. One that proves damaged knows nobody, and is not used."""
        if copy.id not in self._known:
            try:
                self._replay(copy)
                self._known[copy.id] = {keeper.id for keeper in self._database.queries().keepers()}
            except (errors.IntegrityError, errors.Refusal) as e:
                self._discard(copy, e)
                self._known[copy.id] = {""}
        return self._known[copy.id]

    def _discard(self, copy, e):
        if isinstance(e, errors.NoRoom):
            raise e
        log.error("a copy of the catalog cannot be used keeper=%s reason=%s", copy.id, e.message)
        copy.is_copy_bad = True

    # -- building -------------------------------------------------------------------------------------------------------
    def _build(self, copy):
        """The report, once the catalog is under its name. None when the copy proved damaged: another is to be tried, or none."""
        if copy is None:
            self._database, open_from, gone = self._staged.begin(), 0, frozenset()
        else:
            try:
                open_from = self._replay(copy)
            except (errors.IntegrityError, errors.Refusal) as e:
                self._discard(copy, e)
                return None
            gone = self._database.queries().published_since(0 if self._database.queries().knows_from() else open_from)
        self._lists = {name: [] for name in ("lost", "replaced", "contradictory", "unreadable", "not_placed", "missing")}
        self._counts = dict.fromkeys((*self._lists, "placed", "known", "unwanted"), 0)
        last = self._database.epoch, self._database.sequence
        epoch, numbers = self._begin_reign(copy is not None)
        self._choose(copy is not None, open_from, gone)
        self._place_all(epoch, numbers)
        self._place_placeless(epoch, numbers)
        self._note_unreadable()
        report = self._report(copy, last, epoch)
        self._staged.finish(report)
        self._say(report)
        return report

    def _replay(self, copy):
        """Begin the new catalog with a copy and all that its records tell; returns the last open_from.

        Raises IntegrityError, CatalogDamaged, WrongCluster.
        """
        if self._replayed is not None and self._replayed[0] == copy.id:
            return self._replayed[1]
        self._replayed = None
        self._database = self._staged.begin(copy.copy + ".snap")
        if self._database.cluster_id != self.gathering.cluster_id:
            raise errors.WrongCluster(what="the copy of the catalog", theirs=self._database.cluster_id, ours=self.gathering.cluster_id)
        with open(copy.copy + ".snap", "rb") as source:
            open_from = log_copy.snapshot_head(source.read(log_copy.SNAPSHOT_HEAD)).open_from
        open_from = snapshots.replay_records(self._database, copy.copy + ".log", open_from)
        self._replayed = copy.id, open_from
        return open_from

    def _begin_reign(self, has_copy):
        """(epoch, {our number in found.db: the catalog's number}) of the new catalog."""
        keepers, at = self.gathering.keepers.values(), self._wall()
        epoch = max([self._database.epoch, *(keeper.offer.epoch for keeper in keepers)]) + EPOCHS_ABOVE
        self._database.apply(operations.BeginRebuilt(self.gathering.cluster_id, epoch, has_copy, at))
        return epoch, {keeper.number: self._database.apply(operations.RegisterKeeper(
            keeper=keeper.id, host=keeper.host, ports=list(keeper.offer.ports), labels=keeper.offer.labels, at=at)) for keeper in keepers}

    def _choose(self, has_copy, open_from, gone):
        """Which versions found are to be placed: all without a copy, else those that it cannot know."""
        queries, batch = self._database.queries(), []
        knows_from = queries.knows_from()
        for path, version in self._staged.versions():
            if queries.version(version) is not None:
                self._counts["known"] += 1
            elif has_copy and (knows_from <= version < open_from or version in gone):
                self._counts["unwanted"] += 1  # removed before the copy was made, or never committed
            else:
                batch.append((path, version))
                if len(batch) == 1000:
                    self._staged.want(batch)
                    batch = []
        self._staged.want(batch)

    # -- placing --------------------------------------------------------------------------------------------------------
    def _place_all(self, epoch, numbers):
        n_all, self._versions = self._staged.n_wanted(), iter(range((epoch << 32) + 1, epoch + 1 << 32))
        for n, (path, rows) in enumerate(self._staged.wanted()):
            if n % 256 == 0:
                self.gathering.phase = f"names and blocks are being put in place, {n} of {n_all} paths"
                self._tell()
            is_first = True
            for file in restoring.restored(path, self._versions_of(path, rows, numbers)):
                if file.is_whole and is_first:
                    is_first = False
                    self._place(file)
                else:
                    self._lose(file, file.why or "a newer version of the same path was found")

    def _versions_of(self, path, rows, numbers):
        """What restoring.restored takes. Replicas that contradict each other: what most keepers say."""
        cells = {}
        for version, index, block, size, crcs, metadata, keeper in rows:
            cells.setdefault((version, index, block), {}).setdefault((size, crcs), (metadata, []))[1].append(numbers[keeper])
        versions = {}
        for (version, index, block), said in cells.items():
            (size, crcs), (metadata, keepers) = max(said.items(), key=lambda each: len(each[1][1]))
            if len(said) > 1:
                self._note("contradictory", {"path": path, "version": version, "block": block})
            versions.setdefault(version, {}).setdefault(index, {})[block] = metadata, restoring.Found(size, crcs, keepers)
        return versions

    def _place(self, file):
        """A whole version at its path, or under /lost+found when another file or a directory is there by right."""
        if self._staged.is_above(file.path):
            return self._lose(file, "other files have its path as their directory")
        try:
            entry = self._database.queries().entry(file.path)
        except errors.Refusal:
            entry = None
        if entry is not None and (entry.kind == DIRECTORY or entry.version > file.version):
            why = "a directory has its name" if entry.kind == DIRECTORY else "the catalog's copy has a newer version"
            return self._lose(file, why)
        if entry is not None:
            self._keep_old(file.path, entry)
        try:
            self._publish(file, file.path, file.version)
        except (errors.Refusal, errors.Misuse) as e:
            return self._lose(file, _reason(e))
        self._counts["placed"] += 1

    def _keep_old(self, path, entry):
        """What the copy has at a path, out of the way of a later version that may never have been committed."""
        kept_as = restoring.lost_name(restoring.Restored(path, entry.version, True, 0, 0, 0, 0, 0, [], None))
        try:
            parent = kept_as.rpartition("/")[0]
            self._database.apply(operations.MakeDirectory(op=self._new_id(), path=parent, parents=True, at=self._wall()))
            self._database.apply(operations.RenamePath(op=self._new_id(), source=path, target=kept_as, no_clobber=True, at=self._wall()))
        except errors.Refusal as e:
            _reason(e)  # it stays where it is, and goes to the trash with the new one: told so
            kept_as = None
        self._note("replaced", {"path": path, "version": entry.version, "as": kept_as})

    def _lose(self, file, why):
        """To /lost+found; where even that name is taken, block by block."""
        name = restoring.lost_name(file)
        try:
            self._publish(file, name, file.version if file.is_whole else next(self._versions))
            self._note("lost", {"path": file.path, "version": file.version, "as": name, "why": why})
            return
        except (errors.Refusal, errors.Misuse) as e:
            _reason(e)
        for block, size, crcs, keepers in file.blocks:
            self._lose_block(block, size, crcs, keepers, {"path": file.path, "version": file.version, "why": why})

    def _lose_block(self, block, size, crcs, keepers, facts):
        name = restoring.lost_block_name(block)
        file = restoring.Restored(name, 0, False, 0, size, max(size, 1), restoring.DEFAULT_COPIES, self._wall(), [(block, size, crcs, keepers)], "")
        try:
            self._publish(file, name, next(self._versions))
            self._note("lost", {**facts, "as": name})
        except (errors.Refusal, errors.Misuse) as e:
            self._note("not_placed", {**facts, "block": block, "why": _reason(e)})

    def _publish(self, file, path, version):
        self._database.apply(operations.PublishFile(
            op=self._new_id(), path=path, version=version, size=file.size, block_size=file.block_size, copies=file.copies, mtime_at=file.mtime_at,
            no_clobber=path != file.path or not file.is_whole, parents=True, at=self._wall(),
            blocks=[[block, size, crcs.hex(), keepers] for block, size, crcs, keepers in file.blocks]))

    def _place_placeless(self, epoch, numbers):
        queries = self._database.queries()
        for block, size, crcs, why, keepers in self._staged.placeless():
            if queries.block(block) is None:
                self._lose_block(block, size, crcs, [numbers[keeper] for keeper in keepers], {"path": None, "version": None, "why": why})

    # -- telling --------------------------------------------------------------------------------------------------------
    def _note(self, kind, facts):
        self._counts[kind] += 1
        if len(self._lists[kind]) < MOST_NAMED:
            self._lists[kind].append(facts)

    def _note_unreadable(self):
        for keeper in self.gathering.keepers.values():
            self._counts["unreadable"] += keeper.n_unreadable
            self._lists["unreadable"] += [{"keeper": keeper.id, "block": block, "reason": reason} for block, reason in keeper.unreadable]

    def _report(self, copy, last, epoch):
        self._counts["missing"], self._lists["missing"] = self._staged.missing(MOST_NAMED)
        keepers, totals = self.gathering.keepers, self._database.queries().totals()
        return {
            "at": self._wall(), "cluster_id": self.gathering.cluster_id, "epoch": epoch, "files": totals.files, "directories": totals.directories,
            "copy": copy and {"keeper": copy.id, "epoch": last[0], "sequence": last[1], "at": copy.offer.copy["at"]},
            "keepers": [{"keeper": keeper.id, "replicas": keeper.n_trailers, "told_all": keeper.is_done} for keeper in keepers.values()],
            "absent": [known.id for known in self._database.queries().keepers() if known.id not in keepers],
            "counts": self._counts, **self._lists}

    def _say(self, report):
        counts = report["counts"]
        log.warning("catalog rebuilt files=%s directories=%s epoch=%s from_copy=%s placed_by_trailers=%s lost_and_found=%s not_placed=%s unreadable=%s "
                    "missing=%s absent_keepers=%s", report["files"], report["directories"], report["epoch"],
                    report["copy"] and report["copy"]["sequence"], counts["placed"], counts["lost"], counts["not_placed"], counts["unreadable"],
                    counts["missing"], len(report["absent"]))
        for kind in ("lost", "replaced", "contradictory", "not_placed", "unreadable", "missing"):
            for facts in report[kind][:MOST_LOGGED]:
                log.warning("rebuild %s %s", kind, facts)


def summary(report):
    """One sentence on a rebuild, for `status`."""
    counts = report["counts"]
    base = "a copy of the catalog and the blocks themselves" if report["copy"] else "the blocks alone (names are those at writing time)"
    told = [f"{counts[kind]} {words}" for kind, words in (
        ("lost", "under /lost+found"), ("missing", "files with blocks on no keeper that came"), ("not_placed", "blocks not placed"),
        ("unreadable", "block files unreadable")) if counts[kind]]
    return f"this catalog was made anew from {base}: {report['files']} files" + "".join(f", {each}" for each in told) + f"; see {rebuilding.REPORT}"


def _reason(e):
    """An error's sentence; a full disk ends the rebuild."""
    if isinstance(e, errors.NoRoom):
        raise e
    return e.message
