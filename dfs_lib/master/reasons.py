"""`why`: what is known, decided and planned about a path or a keeper, as sentences.

Decides nothing and changes nothing: it asks the same planner, queue and tables that the decisions come from.
"""

import random
import time

from dfs_lib import model
from dfs_lib.master.draining import whose
from dfs_lib.master.inspection import walk
from dfs_lib.model import count_text
from dfs_lib.plan import repair
from dfs_lib.wire import messages

# Sentences in one answer, blocks of a file and names below a directory that are looked at.
MOST, BLOCKS_MOST, NAMES_MOST = 60, 20_000, 20_000
ALL_IS_WELL = "nothing is to be done"


class Explainer:
    """Handler of Why."""

    def __init__(self, tracker, repairer, draining, inspection):
        self._t, self._repairer, self._draining, self._inspection = tracker, repairer, draining, inspection

    def table(self):
        return {messages.Why: self.why}

    def why(self, message, exchange):
        with exchange.working():
            if message.keeper is not None:
                return self._keeper(self._t.live.get(self._t.live.number_of(message.keeper)))
            return self._path(model.clean_path(message.path or "/"))

    # -- a path ---------------------------------------------------------------------------------------------------------
    def _path(self, path):
        entry = self._t.queries().entry(path)
        if entry.kind == model.DIRECTORY:
            return self._directory(path)
        about = f"{path}: version {entry.version}, {model.size_text(entry.size)}, {_copies(entry.copies_wanted)} wanted"
        return messages.Reasons(about=about, reasons=[*self._whole_cluster(), *self._file(entry)][:MOST])

    def _directory(self, path):
        """What is amiss below a directory, some files of it."""
        queries, counted, reasons, n_names, n_short = self._t.queries(), self._t.live.counted(), [], 0, 0
        for entry in walk(queries, path):
            n_names += 1
            if entry.kind == model.FILE:
                have = queries.copies_have(entry.version, counted)
                if have is not None and have < entry.copies_wanted:
                    n_short += 1
                    if len(reasons) < MOST // 2:
                        reasons += [{**one, "path": entry.path, "text": f"{entry.path}: {one['text']}"[:2000]} for one in self._file(entry)[:1]]
            if n_names >= NAMES_MOST:
                break
        more = f" (only the first {n_names:,} names were looked at: `dfs fsck` goes through all)" if n_names >= NAMES_MOST else ""
        about = f"{path}: a directory; {n_short:,} of its files short of copies{more}"
        return messages.Reasons(about=about, reasons=[*self._whole_cluster(), *(reasons or [_reason(f"{ALL_IS_WELL} here")])])

    def _whole_cluster(self):
        """What holds everything up."""
        held = self._repairer.held()
        return [_reason(text) for text in (self._t.safemode() and f"nothing is repaired yet: {self._t.safemode()}", held) if text]

    def _file(self, entry):
        """Reasons about one file: blocks with the same story share a sentence; what is amiss comes first."""
        queries, stories, n, first = self._t.queries(), {}, 0, 0
        while n < BLOCKS_MOST and (page := queries.blocks(entry.version, first, 1000)):
            for block in page:
                rank, text, next_s = self._block(block)
                stories.setdefault((rank, text), []).append((block, next_s))
            n, first = n + len(page), page[-1].index + 1
        if not stories:
            return [_reason("it is empty: there is no block to keep copies of")]
        found = []
        for (_rank, text), told in sorted(stories.items(), key=lambda item: (item[0][0], item[1][0][0].index)):
            block, next_s = min(told, key=lambda one: one[0].index)
            waits = [one for _block, one in told if one is not None]
            indexes = f"block {block.index}" if len(told) == 1 else f"{len(told)} blocks, the first of them {block.index}"
            found.append({**_reason(f"{indexes}: {text}"), "block": block.block, "index": block.index, "path": entry.path,
                          "next_try_s": round(min(waits), 1) if waits else None})
        return found

    def _block(self, block):
        """(rank, the story of one block, seconds until it is looked at again or None)."""
        t, row = self._t, self._t.queries().block(block.block)
        want = row.want if row else 0
        counted, keepers = t.live.counted(), {keeper.number: keeper for keeper in t.live.keepers()}
        places = [self._place(keepers[number], number in counted) for number in block.keepers if number in keepers]
        have = len(counted.intersection(block.keepers))
        text = f"{have} of {_copies(want)}, on {', '.join(places) or 'no keeper'}"
        queued, running = self._repairer.outlook(block.block)
        if running is not None:
            targets = ", ".join(f"k{number}" for number in running.targets)
            return 1, f"{text}; being copied from k{running.source} to {targets}: {running.reason}", None
        if queued is not None:
            return have, f"{text}; {queued.reason}", max(0.0, queued.due_s - t.clock())
        # In no queue: the sweep finds whatever is not as wanted, at the latest.
        decision, sweep_in_s = self._decide(block, row), self._repairer.sweep_in_s()
        if isinstance(decision, repair.Leave):
            return (100, f"{text}; {decision.reason}: {ALL_IS_WELL}", None) if have >= want else (have, f"{text}; {decision.reason}", sweep_in_s)
        what = {repair.Copy: "to be copied", repair.Drop: "one copy is to go", repair.Wait: "waiting"}[type(decision)]
        return have, f"{text}; {what}: {decision.reason}; repair will look at it within a minute", sweep_in_s

    def _decide(self, block, row):
        """What the planner would decide now about a block that waits in no queue."""
        t = self._t
        if row is None:
            return repair.Leave(block.block, "it has just been removed")
        counted = t.live.counted()
        view = repair.BlockView(block.block, row.size, row.want, {number: number in counted for number in block.keepers})
        with t.live.lock:
            return repair.plan(view, t.live.views(), t.live.field(), random.Random(0), now_s=t.clock(), lost_since_s=t.live.lost_since(),
                               grace_s=t.settings.repair_grace, clean_stop_grace_s=t.settings.stop_grace, clean_stopped=t.live.clean_stopped())

    def _place(self, keeper, counts):
        doubts = [model.state_word(keeper.state, keeper.clean_stop)] if keeper.state != model.LIVE else []
        doubts += ["draining"] if keeper.draining else []
        doubts += ["yet to report"] if not counts and keeper.state != model.DEAD else []
        doubts += [f"for {model.duration_text(self._t.clock() - keeper.lost_since_s)}"] \
            if keeper.state == model.DEAD and keeper.lost_since_s is not None else []
        return keeper.name + (f" ({' '.join(doubts)})" if doubts else "")

    # -- a keeper -------------------------------------------------------------------------------------------------------
    def _keeper(self, keeper):
        t, now_s = self._t, self._t.clock()
        labels = " ".join(f"{key}={text}" for key, text in sorted(keeper.labels.items()))
        about = (f"{keeper.name}: {keeper.id}, at {keeper.host}, ports {', '.join(map(str, keeper.ports))}" + (f", {labels}" if labels else ""))
        texts = [self._state(keeper, now_s), self._heard(keeper, now_s)]
        if keeper.sick:
            texts.append(f"it is sick and takes nothing new: {keeper.sick}")
        n_blocks = t.queries().n_blocks_of_keeper(keeper.number)
        texts.append(f"it has {count_text(n_blocks, 'block')} on record and told of {count_text(keeper.n_blocks, 'block')}, "
                     f"{model.size_text(keeper.used)} used, {model.size_text(keeper.free)} free" + ("" if keeper.reported or keeper.state == model.DEAD else
                                                                "; its block report is on its way, and its copies count after that"))
        if keeper.scrub:
            texts.append(_scrub_text(keeper.scrub))
        if keeper.draining:
            progress = self._draining.report(keeper)
            texts.append(f"it is draining: {progress['text']}")
            texts += [f"{count_text(one['n'], 'block')} ({whose(one)}) {'does' if one['n'] == 1 else 'do'} not move: {one['reason']}"
                      for one in progress["blockers"]]
        texts += self._whole_work(keeper)
        return messages.Reasons(about=about, reasons=[_reason(text) for text in texts if text] + self._whole_cluster())

    def _state(self, keeper, now_s):
        t, state, word = self._t, keeper.state, model.state_word(keeper.state, keeper.clean_stop)
        if state != model.DEAD:
            if word == model.STOPPED:
                return f"{word}: {keeper.reason}; it said so, and is missed as soon as it is known to be gone"
            takes = "nothing new" if keeper.draining else "new blocks"
            tells = {model.LIVE: f"it serves and takes {takes}", model.SUSPECT: "it serves, and is chosen last"}[state]
            return f"{word}: {keeper.reason or tells}" + (f"; {tells}" if keeper.reason else "")
        grace_s = t.settings.stop_grace if keeper.clean_stop else t.settings.repair_grace
        left_s = (keeper.lost_since_s if keeper.lost_since_s is not None else now_s) + grace_s - now_s
        why = "after a clean stop " if keeper.clean_stop else ""
        then = (f"its blocks that have two good copies or more are waited for {model.duration_text(left_s)} more" if left_s > 0 else
                f"it was waited for {model.duration_text(grace_s)}; its blocks are copied again elsewhere")
        return f"{word}: {keeper.reason}; {why}{then}; those with one good copy left are copied at once"

    def _heard(self, keeper, now_s):
        if keeper.last_heard_s is None:
            return "it was never heard since this master started"
        gone = "" if keeper.connected else ", and its control connection is closed"
        refused = ", its host refuses connections" if keeper.refused else ""
        return f"last heartbeat {max(0.0, now_s - keeper.last_heard_s):.1f} s ago{gone}{refused}"

    def _whole_work(self, keeper):
        """What is under way with it, and what it holds that no file uses."""
        n_from, n_to, n_leaving = self._repairer.work_of(keeper.number)
        orders = self._t.orders.counts_of(keeper.number)
        texts = [f"{count_text(n_from, 'copy', 'copies')} from it and {count_text(n_to, 'copy', 'copies')} to it under way" if n_from or n_to else "",
                 f"a rebalance moves {count_text(n_leaving, 'block')} off it now" if n_leaving else "",
                 "orders it has not ended: " + ", ".join(f"{n} {kind}" for kind, n in sorted(orders.items())) if orders else ""]
        n_drops = len(self._t.queries().drops(keeper.number, 1000))
        texts.append(f"{'1000 or more' if n_drops == 1000 else n_drops} blocks that nobody wants wait for it to delete them" if n_drops else "")
        kept = next((one for one in self._inspection.kept() if one["keeper_id"] == keeper.id), None)
        if kept:
            texts.append(f"it keeps {kept['strays']} unknown, {kept['aside']} set aside and {kept['quarantined']} damaged blocks, "
                         "used by no file (`dfs fsck`)")
        return texts


def _reason(text):
    return {"text": text[:2000], "path": None, "block": None, "index": None, "next_try_s": None}


def _copies(n):
    return count_text(n, "copy", "copies")


def _scrub_text(scrub):
    """How far the scrub is that a keeper does by itself."""
    ended = ("" if scrub["ended_at"] is None else "; the one before ended on "
             f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(max(0, scrub['ended_at'])))} UTC, {scrub['ended_bad'] or 'nothing'} damaged")
    bad = f", {scrub['bad']} of them damaged" if scrub["bad"] else ""
    if scrub["share"] >= 1:  # what is left of the time is a pause
        done = f"has read all its blocks again ({count_text(scrub['blocks'], 'block')}{bad})" if scrub["blocks"] else "finds no block to read"
        return f"its scrub {done} and begins anew in {model.duration_text(scrub['left_s'])}{ended}"
    text = (f"its scrub has read {scrub['share']:.0%} of its blocks again ({count_text(scrub['blocks'], 'block')}{bad}) and comes to the end "
            f"in {model.duration_text(scrub['left_s'])}")
    return text + (ended or "; it is the first")
