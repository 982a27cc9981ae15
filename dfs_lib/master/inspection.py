"""`fsck`: how whole the files below a path are, block by block; and what keepers hold that no file uses.

Changes nothing and holds no lock over a catalog read: it goes through a tree page by page in the order of a depth-first walk, each
page from the tables as they are at that moment, so the whole is no snapshot. It never scans all blocks.

    Inspect(path, after) ─▶ up to a page of files ─▶ Inspected(files, after)                          states, worst block first
    Inspect(verify)      ─▶ verify orders to every holder ─▶ Inspected(check, running)
    Inspect(check)       ─▶ … ─▶ none runs any more: the page is judged ─▶ Inspected(files, damaged, after)

    of a block: copies on keepers that count     as many as the file wants: healthy      fewer: under-replicated
    none, and a keeper on record may come back   missing      none, and what was there is in quarantine     corrupt
"""

import itertools
import threading

from dfs_lib import errors, model
from dfs_lib.master.permissions import home_of, is_within, name_within
from dfs_lib.wire import json_text, messages

# What one page looks at, whichever comes first: an answer within tens of milliseconds.
PAGE_FILES, PAGE_BLOCKS, PAGE_NAMES = 300, 2_000, 5_000
# A page whose replicas are read again is smaller, so that its readers hear of progress.
VERIFY_BLOCKS = 400
LISTING = 500
# Bad blocks of one file that are told one by one.
BLOCKS_SHOWN = 64
# Bytes of JSON for files, for damage and for what is kept: together well below the ceiling of a header (1 MiB).
FILES_BYTES, DAMAGED_BYTES, KEPT_BYTES = 400_000, 150_000, 250_000
# Blocks in one verify order, what one may take (seconds and then bytes a second), and checks remembered at once.
ORDER_BLOCKS, VERIFY_S, VERIFY_RATE = 64, 120.0, 10 * model.MIB
MAX_CHECKS = 64

HEALTHY, SHORT, MISSING, CORRUPT = "healthy", "under-replicated", "missing", "corrupt"
WORSE = (HEALTHY, SHORT, MISSING, CORRUPT)


class _Check:
    """One page whose replicas are being read again. Guarded by Inspection's lock."""

    def __init__(self, path, after, is_all, blocks, known_damage):
        self.path, self.after, self.is_all, self.blocks = path, after, is_all, blocks
        self.known_damage = known_damage  # entries of Repairer.damage() from before: kept, so that their identities stay theirs
        self.n_open = self.n_verified = self.n_bytes = self.n_unverified = 0


class Inspection:
    """Handlers of Inspect and ReportKept."""

    def __init__(self, tracker, repairer):
        self._t, self._repairer = tracker, repairer
        self._lock = threading.Lock()
        self._kept = {}  # guarded by _lock: keeper number → ReportKept
        self._checks = {}  # guarded by _lock: id → _Check, the oldest first
        self._check_ids = itertools.count(1)

    def table(self):
        return {messages.Inspect: self.inspect, messages.ReportKept: self.report_kept}

    # -- what lies out of use -------------------------------------------------------------------------------------------
    def report_kept(self, message, exchange):
        number = self._t.live.number_of(exchange.peer.identity)
        with self._lock:
            self._kept[number] = message
        return messages.Done()

    def kept(self, home="/"):
        """What each keeper holds that no file uses, as Inspected has it; of the blocks those alone whose path may be told."""
        t, queries, found = self._t, self._t.queries(), []
        strays = t.uploads.strays_by_keeper()
        for keeper in t.live.keepers():
            with self._lock:
                report = self._kept.get(keeper.number)
            counts = {"strays": strays.get(keeper.number, 0), "aside": report.aside if report else 0,
                      "quarantined": report.quarantined if report else 0}
            if any(counts.values()):
                blocks = [{**one, "path": name_within(queries, one["block"], home)} for one in (report.blocks[:20] if report else ())]
                blocks = [one for one in blocks if home == "/" or one["path"] is not None]
                found.append({"keeper_id": keeper.id, "name": keeper.name, **counts, "blocks": blocks})
        return _fitting(found, KEPT_BYTES)

    def _quarantined(self):
        """{block: names of the keepers that have a damaged copy of it put away}."""
        places = {}
        with self._lock:
            for number, report in self._kept.items():
                for one in report.blocks:
                    if one["where"] == "quarantine":
                        places.setdefault(one["block"], set()).add(f"k{number}")
        for one in self._repairer.doubts.damage():
            keeper = self._t.live.numbers_of([one["keeper"]])
            places.setdefault(one["block"], set()).update(f"k{number}" for number in keeper)
        return places

    # -- pages ----------------------------------------------------------------------------------------------------------
    def inspect(self, message, exchange):
        path = model.clean_path(message.path)
        if message.check is not None:
            return self._go_on(message, path, exchange)
        if message.verify:
            return self._begin(message, path, exchange)
        with exchange.working():
            return self._page(path, message.after, message.all, PAGE_BLOCKS, home_of(self._t, exchange))

    def _page(self, path, after, is_all, most_blocks, home, check=None):
        """Inspected of one page."""
        judge, files, n_files, n_blocks, size = Judge(self._t, self._repairer, self._quarantined()), [], 0, 0, 0
        page = _Page(self._t.queries(), path, after, most_blocks)
        for entry, version_blocks in page:
            judged = judge.file(entry, version_blocks)
            n_files, n_blocks = n_files + 1, n_blocks + judged["n_blocks"]
            if is_all or judged["state"] != HEALTHY:
                files.append(judged)
                size += _size_of(judged)
                page.is_full |= size > FILES_BYTES
        facts = {"verified": 0, "verified_bytes": 0, "unverified": 0, "damaged": []}
        if check is not None:
            old = {id(one) for one in check.known_damage}
            damaged = [one for one in self._repairer.doubts.damage()
                       if id(one) not in old and one["block"] in check.blocks and is_within(one["path"], home)]
            facts = {"verified": check.n_verified, "verified_bytes": check.n_bytes, "unverified": check.n_unverified,
                     "damaged": _fitting(damaged, DAMAGED_BYTES)}
        return messages.Inspected(files=files, n_files=n_files, n_blocks=n_blocks, after=page.next_after, running=0,
                                  kept=[] if page.next_after else self.kept(home), **facts)

    # -- pages whose replicas are read again ----------------------------------------------------------------------------
    def _begin(self, message, path, exchange):
        """Order every holder to read its replicas of this page's blocks."""
        t, counted = self._t, self._t.live.counted()
        by_keeper, blocks = {}, set()
        with exchange.working():
            for _entry, version_blocks in _Page(t.queries(), path, message.after, VERIFY_BLOCKS):
                for block in version_blocks:
                    if block.block not in blocks:
                        blocks.add(block.block)
                        for number in counted.intersection(block.keepers):
                            by_keeper.setdefault(number, []).append(block)
        check, now_s = _Check(path, message.after, message.all, blocks, self._repairer.doubts.damage()), t.clock()
        orders = [(number, some[at:at + ORDER_BLOCKS]) for number, some in by_keeper.items() for at in range(0, len(some), ORDER_BLOCKS)]
        with self._lock:
            id_ = next(self._check_ids)
            self._checks[id_] = check
            while len(self._checks) > MAX_CHECKS:
                del self._checks[next(iter(self._checks))]
            check.n_open = len(orders)
        for number, some in orders:
            size = sum(block.size for block in some)
            order = t.orders.give(number, "verify", {"blocks": [block.block for block in some]},
                                  lambda order, error, event: self._read(check, order, error, event), now_s, VERIFY_S + size / VERIFY_RATE)
            if order is None:
                self._count(check, unverified=len(some))
        return self._running(id_, check)

    def _read(self, check, order, error, event):
        """A verify order has ended. What was bad has been told before that, and is off the record by now."""
        if error is not None:
            self._count(check, unverified=len(order.details["blocks"]))
        else:
            self._count(check, verified=event["n"] or 0, size=event["size"] or 0)

    def _count(self, check, verified=0, size=0, unverified=0):
        with self._lock:
            check.n_open -= 1
            check.n_verified += verified
            check.n_bytes += size
            check.n_unverified += unverified

    def _running(self, id_, check):
        return messages.Inspected(files=[], n_files=0, n_blocks=0, check=id_, running=check.n_open, verified=check.n_verified,
                                  verified_bytes=check.n_bytes, unverified=check.n_unverified, damaged=[], kept=[])

    def _go_on(self, message, path, exchange):
        with self._lock:
            check = self._checks.get(message.check)
            if check is not None and check.path != path:
                check = None  # somebody else's: only `path` has been weighed against the home of who asks
            if check is not None and not check.n_open:
                del self._checks[message.check]
        if check is None:
            raise errors.Refusal(detail="this check has been forgotten: the master was restarted, or too many run at once")
        if check.n_open:
            return self._running(message.check, check)
        with exchange.working():
            return self._page(path, check.after, check.is_all, VERIFY_BLOCKS, home_of(self._t, exchange), check)


class _Page:
    """Iterates (Entry, its model.Blocks) of one page of files; then `next_after` is the cursor for the next page, or None.

    Whoever iterates may set is_full: then the page ends here.
    """

    def __init__(self, queries, path, after, most_blocks):
        self._queries, self._path, self._after, self._most_blocks = queries, path, after, most_blocks
        self.is_full, self.next_after = False, None

    def __iter__(self):
        queries, n_names, n_files, n_blocks = self._queries, 0, 0, 0
        for entry in walk(queries, self._path, self._after):
            n_names += 1
            if entry.kind == model.FILE:
                version = queries.version(entry.version)
                if version is not None:
                    n_files += 1
                    n_blocks += model.n_blocks(version.size, version.block_size)
                    yield entry, _blocks_of(queries, entry.version)
            if self.is_full or n_files >= PAGE_FILES or n_blocks >= self._most_blocks or n_names >= PAGE_NAMES:
                self.next_after = entry.path
                return


def _size_of(value):
    """About how many bytes a value takes as JSON."""
    return len(json_text.encode(value).encode())


def _fitting(values, n_bytes):
    """As many of these from the first on as fit into so many bytes of JSON."""
    sizes = itertools.accumulate(map(_size_of, values))
    return [value for value, size in zip(values, sizes) if size <= n_bytes]


class Judge:
    """What state files and blocks are in, by the keepers of one moment."""

    def __init__(self, tracker, repairer, quarantined):
        self._repairer, self._quarantined = repairer, quarantined
        self._counted = tracker.live.counted()
        self._keepers = {keeper.number: keeper for keeper in tracker.live.keepers()}

    def file(self, entry, blocks):
        """One file as INSPECTED_FILE has it."""
        bad, n, have, state = [], 0, entry.copies_wanted, HEALTHY
        for block in blocks:
            n += 1
            n_good = len(self._counted.intersection(block.keepers))
            have = min(have, n_good) if n > 1 else n_good
            if n_good < entry.copies_wanted:
                judged = self._block(block, n_good, entry.copies_wanted)
                state = max(state, judged["state"], key=WORSE.index)
                bad.append(judged)
        bad.sort(key=lambda one: (-WORSE.index(one["state"]), one["index"]))
        return {"path": entry.path, "version": entry.version, "size": entry.size, "wanted": entry.copies_wanted, "have": have, "state": state,
                "n_blocks": n, "n_bad": len(bad), "blocks": bad[:BLOCKS_SHOWN]}

    def _block(self, block, n_good, wanted):
        absent = [self._keepers[number] for number in block.keepers if number not in self._counted and number in self._keepers]
        damaged = self._quarantined.get(block.block, ())
        if n_good:
            state, why = SHORT, self._why_short(block.block)
        elif absent:
            state, why = MISSING, f"it is on {', '.join(map(_where, absent))}, which may come back"
        elif damaged:
            state, why = CORRUPT, f"every copy was damaged; what is left lies in quarantine on {', '.join(sorted(damaged))}"
        else:
            state, why = MISSING, "no keeper on record has it"
        return {"block": block.block, "index": block.index, "size": block.size, "have": n_good, "state": state,
                "keepers": [self._keepers[number].id for number in block.keepers if number in self._keepers][:64], "reason": why[:1000]}

    def _why_short(self, block):
        queued, running = self._repairer.outlook(block)
        if running is not None:
            return f"{running.reason}; being copied to {', '.join(f'k{number}' for number in running.targets)}"
        return queued.reason if queued else "repair will look at it within a minute"


def _where(keeper):
    return f"{keeper.name} ({model.state_word(keeper.state, keeper.clean_stop) if keeper.state == model.DEAD else 'yet to report'})"


def _blocks_of(queries, version):
    """Every model.Block of a version, page by page."""
    first = 0
    while page := queries.blocks(version, first, 1000):
        yield from page
        first = page[-1].index + 1


def walk(queries, path, after=None):
    """Every Entry at and below a path, a directory before what it holds, names in order; only those after the path `after`.

    What vanishes meanwhile is left out. Raises NoSuchFile, NotADirectory for `path` itself.
    """
    top = queries.entry(path)
    if top.kind == model.FILE:
        if after is None:
            yield top
        return
    stack = _resumed(queries, path, after) if after else [_children(queries, path, "")]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        yield entry
        if entry.kind == model.DIRECTORY:
            stack.append(_children(queries, entry.path, ""))


def _resumed(queries, path, after):
    """The stack of a walk that has just yielded `after`."""
    below = after[len(model.join(path, "")):].split("/") if after.startswith(model.join(path, "")) else []
    stack, directory = [], path
    for name in below:
        stack.append(_children(queries, directory, name))
        directory = model.join(directory, name)
    stack.append(_children(queries, directory, ""))  # what is in `after` itself, if it is a directory
    return stack


def _children(queries, directory, after):
    more = True
    while more:
        try:
            entries, more = queries.listing(directory, after, LISTING)
        except (errors.NoSuchFile, errors.NotADirectory):
            return
        yield from entries
        after = model.parent_and_name(entries[-1].path)[1] if entries else after
