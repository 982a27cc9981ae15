"""`drain`, `undrain`, `fsck`, `why`: keepers emptied and used again; how whole the files are; the reasons behind it.

Never decides what moves where: the master does; here its reports become sentences.
"""

import time

from dfs_lib import errors, model, settings
from dfs_lib.cli import options, output, paths
from dfs_lib.cli.cluster import keeper_ids

_POLL_S = 0.3
# The master measures twice a second how much is left: after so long it can say how fast it goes, if anything has gone by then.
_FIRST_S = 2.0
# A page of small files is read again in milliseconds.
_READ_POLL_S = 0.05


# -- drain ------------------------------------------------------------------------------------------------------------
def drain(call):
    """Empty keepers; with --wait until all of them are empty."""
    from dfs_lib.wire import messages

    timeout_s = call["timeout"]
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with call.client() as client:
        ids = list(keeper_ids(client, call.words))
        asked = messages.Drain(keepers=ids, draining=True if ids else None)
        report = _once_known(client, client.ask(asked)) if ids and not call["wait"] else client.ask(asked)
        with call.out.progress("drain") as bar:
            while call["wait"] and (left := [keeper for keeper in report.keepers if keeper["blocks_left"]]):
                if deadline is not None and time.monotonic() >= deadline:
                    late = errors.TimedOut(seconds=f"{timeout_s:g}", detail="; ".join(_drain_text(keeper) for keeper in left))
                    late.hint = f"it goes on; `dfs drain` tells how far it is, `dfs why {left[0]['name']}` what holds it up"
                    raise late
                time.sleep(_POLL_S)
                report = client.ask(messages.Drain(keepers=[keeper["keeper_id"] for keeper in report.keepers]))
                if any(not keeper["draining"] for keeper in report.keepers):
                    raise errors.Refusal(detail="somebody has ended the draining: "
                                         + ", ".join(keeper["name"] for keeper in report.keepers if not keeper["draining"]))
                bar.note("; ".join(f"{keeper['name']}: {keeper['text']}" for keeper in report.keepers))
    _show_drain(call, report)


def _once_known(client, report):
    """The report a moment later: as a drain begins nobody can say how long it will take."""
    from dfs_lib.wire import messages

    end_s = time.monotonic() + _FIRST_S
    while time.monotonic() < end_s and any(keeper["blocks_left"] and keeper["eta_s"] is None for keeper in report.keepers):
        time.sleep(_POLL_S)
        report = client.ask(messages.Drain(keepers=[keeper["keeper_id"] for keeper in report.keepers]))
    return report


def undrain(call):
    """Use keepers again."""
    from dfs_lib.wire import messages

    with call.client() as client:
        report = client.ask(messages.Drain(keepers=list(keeper_ids(client, call.words)), draining=False))
    for keeper in report.keepers:
        call.out.both(f"{output.safe_text(keeper['name'])} takes blocks again", dict(keeper))


def _show_drain(call, report):
    if not report.keepers:
        call.out.line("no keeper is draining")
    for keeper in report.keepers:
        call.out.both(output.safe_text(_drain_text(keeper)), dict(keeper))
        for blocker in keeper["blockers"]:
            whose = f"such as {blocker['path']}" if blocker["path"] != "/" else "of removed files"  # no block is the root's
            call.out.line(output.safe_text(f"  {output.count_text(blocker['n'], 'block')} ({whose}): {blocker['reason']}"))


def _drain_text(keeper):
    state = f" ({keeper['state']})" if keeper["state"] == model.SUSPECT else ""  # of one that is dead or was stopped its text says so
    return f"{keeper['name']}{state}: {keeper['text']}"


# -- fsck -------------------------------------------------------------------------------------------------------------
def fsck(call):
    """Every file at and below a path, judged; exit 5 when something is missing or corrupt."""
    path = paths.remote("fsck", call.words[0])[0] if call.words else "/"
    total = _Total()
    with call.client() as client:
        names = {keeper["keeper_id"]: keeper["name"] for keeper in client.status().keepers}
        with call.out.progress("fsck") as bar:
            for page in _pages(client, path, bool(call["deep"]), bool(call["all"]) or call.out.as_json, bar):
                for found in page.files:
                    _show_file(call.out, found, names)
                for bad in page.damaged:
                    text = f"{bad['path']}: corrupt copy on {names.get(bad['keeper'], bad['keeper'])}: {bad['reason']}"
                    call.out.both(output.safe_text(text), {"kind": "replica", "state": "corrupt", **bad})
                total.add(page)
                bar.note(f"{output.count_text(total.files, 'file')}")
    for keeper in total.kept:
        _show_kept(call.out, keeper)
    call.out.both(total.sentence(call["deep"]), total.record())
    return total.exit_status()


def _pages(client, path, is_deep, is_all, bar):
    """Every Inspected with files; deep: each after its replicas were read again."""
    from dfs_lib.wire import messages

    after, more = None, True
    while more:
        page = client.ask(messages.Inspect(path=path, after=after, all=is_all, verify=is_deep), patient=after is not None)
        while page.check is not None:
            bar.note(f"reading replicas on {output.count_text(page.running, 'keeper')}, {output.size_text(page.verified_bytes)} read")
            if page.running:
                time.sleep(_READ_POLL_S)
            page = client.ask(messages.Inspect(path=path, after=after, all=is_all, verify=is_deep, check=page.check))
        yield page
        after, more = page.after, page.after is not None


def _show_file(out, found, names):
    blocks = [{**block, "keepers": [names.get(each, each) for each in block["keepers"]]} for block in found["blocks"]]
    head = f"{found['path']}: {found['state']}"
    if found["state"] == "healthy":
        text = f"{head}, {found['have']} of {found['wanted']} copies, version {found['version']}"
    else:
        text = (f"{head}, {found['have']} of {found['wanted']} copies, version {found['version']}, "
                f"{found['n_bad']} of {output.count_text(found['n_blocks'], 'block')}")
    out.both(output.safe_text(text), {
        "kind": "file", **{key: found[key] for key in ("path", "version", "size", "state")}, "copies_wanted": found["wanted"],
        "copies_have": found["have"], "n_blocks": found["n_blocks"], "n_bad": found["n_bad"], "blocks": blocks})
    for block in blocks[:3]:
        out.line(output.safe_text(f"  block {block['index']}: {block['state']}: {block['reason']}"))
    if found["n_bad"] > 3:
        out.line(f"  and {found['n_bad'] - 3} more")


def _show_kept(out, keeper):
    counts = [(keeper["strays"], "unknown block"), (keeper["aside"], "block set aside"), (keeper["quarantined"], "block in quarantine")]
    many = {"block set aside": "blocks set aside", "block in quarantine": "blocks in quarantine"}
    text = ", ".join(output.count_text(n, what, many.get(what)) for n, what in counts if n)
    out.both(output.safe_text(f"{keeper['name']}: {text}; kept, and used by no file"), {"kind": "keeper", **keeper})
    for one in keeper["blocks"][:5]:
        whose = f" of {one['path']}" if one["path"] else ""
        out.line(output.safe_text(f"  {one['where']} {one['block']}{whose}: {one['reason']}"))


class _Total:
    """What all pages of one fsck say together."""

    def __init__(self):
        self.files = self.blocks = self.damaged = self.verified = self.verified_bytes = self.unverified = 0
        self.states = {"under-replicated": 0, "missing": 0, "corrupt": 0}
        self.kept = []

    def add(self, page):
        self.files += page.n_files
        self.blocks += page.n_blocks
        for found in page.files:
            if found["state"] in self.states:
                self.states[found["state"]] += 1
        self.damaged += len(page.damaged)
        self.verified += page.verified
        self.verified_bytes += page.verified_bytes
        self.unverified += page.unverified
        self.kept = page.kept or self.kept

    @property
    def healthy(self):
        return self.files - sum(self.states.values())

    def exit_status(self):
        if self.states["missing"] or self.states["corrupt"] or self.damaged:
            return errors.IntegrityError.status
        return errors.Refusal.status if self.unverified else 0

    def sentence(self, is_deep):
        words = [f"{n:,} {state}" for state, n in self.states.items() if n]
        text = f"{output.count_text(self.files, 'file')}: " + ", ".join([f"{self.healthy:,} healthy", *words])
        if is_deep:
            copies = output.count_text(self.damaged, "damaged copy", "damaged copies")
            text += (f"; {output.count_text(self.verified, 'replica')} read again, {output.size_text(self.verified_bytes)}, {copies}")
            if self.unverified:
                text += f", {self.unverified:,} could not be read: their keepers did not answer in time"
        return text

    def record(self):
        return {"kind": "summary", "files": self.files, "healthy": self.healthy, "under_replicated": self.states["under-replicated"],
                "missing": self.states["missing"], "corrupt": self.states["corrupt"], "damaged_replicas": self.damaged, "blocks": self.blocks,
                "verified": self.verified, "verified_bytes": self.verified_bytes, "unverified": self.unverified,
                **{name: sum(keeper[name] for keeper in self.kept) for name in ("strays", "aside", "quarantined")}}


# -- why --------------------------------------------------------------------------------------------------------------
def why(call):
    """The decisions behind the present state of each path or keeper."""
    from dfs_lib.wire import messages

    with call.client() as client:
        for word in call.words:
            if paths.is_remote(word) or word.startswith("/"):
                asked = messages.Why(path=paths.remote("why", word)[0])
            else:
                asked = messages.Why(keeper=keeper_ids(client, [word])[0])
            answer = client.ask(asked)
            call.out.line(output.safe_text(answer.about))
            for reason in answer.reasons:
                soon = reason["next_try_s"]
                when = f" (next look in {output.duration_text(soon)})" if soon else ""
                call.out.both(output.safe_text(f"  {reason['text']}{when}"), {"about": answer.about, **reason})


VERBS = {
    "why": options.Verb("why", why, "PATH|KEEPER…",
                        "The decisions behind the present state of a path or a keeper, in plain words.", (), 1, None,
                        "A word that starts with / is a path, any other a keeper: a name as `dfs status` shows it (k3), an id, or the "
                        "beginning of one.", settings.CLIENT),
    "fsck": options.Verb("fsck", fsck, "[PATH] [--deep] [--all]",
                         "How whole the files are, by path and version: healthy, under-replicated, missing, corrupt; "
                         "exit status 5 when anything is missing or corrupt.", (
        options.flag("--deep", help="have every replica read again first, by its keeper; damage is set aside and repaired"),
        options.flag("-a", "--all", help="show healthy files too (always with --json)"),
    ), 0, 1, "It also lists what keepers hold that no file uses: unknown blocks, those set aside and those in quarantine.",
        settings.CLIENT),
    "drain": options.Verb("drain", drain, "[KEEPER…] [--wait]",
                          "Empty keepers: they serve, take nothing new, and their blocks are copied elsewhere first. "
                          "Without a KEEPER: how far those that drain are.", (
        options.flag("--wait", help="until they are empty"),
        options.Option(("--timeout",), "SECONDS", "with --wait: give up after so long, exit status 1 (default: never)",
                       settings.parse_seconds),
    ), 0, None, "KEEPER is a name as `dfs status` shows it (k3), an id, or the beginning of one.", settings.CLIENT),
    "undrain": options.Verb("undrain", undrain, "KEEPER…", "Use keepers again that were being drained.", (), 1, None, "",
                            settings.CLIENT),
}
