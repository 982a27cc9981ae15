"""`status`, `wait`, `df`, `scrub`, `rebalance`: the cluster in words, and the two things one may ask of it.

Never decides what is healthy: the master does; here its numbers become sentences.
"""

import time

from dfs_lib import cluster_state, errors, settings
from dfs_lib.cli import options, output, picture

_POLL_S = 0.2


# -- status -----------------------------------------------------------------------------------------------------------
def status(call):
    """One picture of the cluster, or with --watch one every `--every` seconds until Ctrl-C."""
    with call.client() as client:
        if not call["watch"]:
            show_status(call.out, client.status(), client.master_address[0], client.traffic())
            return
        every_s = call["every"] or 1.0
        answer, traffic = client.status(), client.traffic()  # a wrong address or key is an error at once; later the watch goes on
        trouble = ""
        while True:
            _show_watch(call.out, answer, traffic, trouble, every_s, client.master_address[0])
            time.sleep(every_s)
            try:
                answer, traffic, trouble = client.status(), client.traffic(), ""
            except errors.NetworkError as e:
                trouble = e.message


def _show_watch(out, answer, traffic, trouble, every_s, master_host):
    """The next picture of --watch: over the one before on a terminal, below it elsewhere."""
    if out.as_json:
        if not trouble:
            show_status(out, answer, master_host, traffic)
            out.flush()
        return
    columns, rows = out.size()
    footer = f"{time.strftime('%H:%M:%S')}, every {output.duration_text(every_s)}; Ctrl-C ends it"
    found = picture.lines(answer, columns, max(4, rows - 3) if out.is_terminal else None, master_host=master_host,
                          traffic=None if trouble else traffic)
    if trouble:
        found.insert(0, (output.safe_text(f"no answer, what follows is from before: {trouble}")[:columns], "red"))
    out.screen([*found, ("", None), (footer[:columns], None)])


def show_status(out, answer, master_host="127.0.0.1", traffic=None):
    """The picture of one ClusterStatus; master_host: where the master answered; traffic: a TrafficMeasured or None."""
    if out.as_json:
        out.record(cluster_state.status_record(answer, traffic))
        return
    for text, color in picture.lines(answer, out.size()[0], is_wrapped=out.is_terminal, master_host=master_host, traffic=traffic):
        out.line(out.colored(text, color) if color else text)


# -- wait -------------------------------------------------------------------------------------------------------------
def wait(call):
    """Until every file has its copies, or so many keepers are live. Raises TimedOut, exit 1."""
    wants_keepers = call["keepers"]
    wants_copies = bool(call["copies"]) or wants_keepers is None
    timeout_s = call["timeout"]
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with call.client() as client:
        while True:
            answer, lacking = None, None
            try:
                answer = client.status()
            except (errors.NetworkError, errors.NotReady) as e:
                if deadline is None:
                    raise
                lacking = e.message
            if answer is not None:
                lacking = _lacking(answer, wants_copies, wants_keepers)
                if not lacking:
                    live = sum(keeper["state"] == "live" for keeper in answer.keepers)
                    call.out.both(f"{cluster_state.verdict(answer, counts_seconds=True)[1]}; {output.count_text(live, 'live keeper')}", cluster_state.status_record(answer))
                    return
            if deadline is not None and time.monotonic() >= deadline:
                raise errors.TimedOut(seconds=f"{timeout_s:g}", detail=lacking)
            time.sleep(_POLL_S if deadline is None else max(0.0, min(_POLL_S, deadline - time.monotonic())))


def _lacking(answer, wants_copies, wants_keepers):
    """What is still missing, "" when nothing is."""
    live = sum(keeper["state"] == "live" for keeper in answer.keepers)
    if wants_keepers is not None and live < wants_keepers:
        return f"{live} of {wants_keepers} keepers are live"
    if wants_copies and answer.safemode:
        return answer.safemode
    troubles = cluster_state.troubles_text(answer)
    because = troubles and f": {troubles}"
    if wants_copies and answer.missing:
        return f"{output.count_text(answer.missing, 'block')} missing{because}"
    if wants_copies and answer.under_replicated:
        return f"{output.count_text(answer.under_replicated, 'block')} short of copies{because}"
    return ""


# -- df ---------------------------------------------------------------------------------------------------------------
def df(call):
    """Space of each keeper and in all."""
    with call.client() as client:
        answer = client.status()
    rows = [("KEEPER", "STATE", "USED", "FREE", "USE%", "BLOCKS")]
    for keeper in answer.keepers:
        call.out.record({key: keeper[key] for key in ("keeper_id", "name", "host", "state", "used", "free", "blocks")})
        rows.append((output.safe_text(keeper["name"]), cluster_state.state_word(keeper), *_space(keeper["used"], keeper["free"]),
                     str(keeper["blocks"])))
    living = [keeper for keeper in answer.keepers if keeper["state"] != "dead"]
    used, free = sum(keeper["used"] for keeper in living), sum(keeper["free"] for keeper in living)
    rows.append(("all", "", *_space(used, free), str(sum(keeper["blocks"] for keeper in living))))
    call.out.table(rows, right=(2, 3, 4, 5))
    call.out.line(f"room for about {output.size_text(free / answer.copies)} more at {answer.copies} copies")
    call.out.record({"total": True, "used": used, "free": free, "copies": answer.copies})


def _space(used, free):
    share = f"{100 * used / (used + free):.0f}%" if used + free else "-"
    return output.size_text(used), output.size_text(free), share


# -- scrub and rebalance ----------------------------------------------------------------------------------------------
def keeper_ids(client, words):
    """Ids of the keepers that people named by name (`k1`), id or the beginning of an id. Raises NoSuchKeeper."""
    if not words:
        return ()
    keepers = client.status().keepers
    found = []
    for word in words:
        ids = [keeper["keeper_id"] for keeper in keepers if word in (keeper["name"], keeper["keeper_id"])]
        ids = ids or [keeper["keeper_id"] for keeper in keepers if word and keeper["keeper_id"].startswith(word)]
        if len(ids) > 1:
            raise errors.NoSuchKeeper(f"{word} is the beginning of {len(ids)} keepers' ids: write more of it", keeper=word)
        if not ids:
            raise errors.NoSuchKeeper(keeper=word)
        found += ids
    return tuple(found)


def scrub(call):
    """Have replicas read again; with --wait, exit 5 when damage was found."""
    with call.client() as client:
        report = client.scrub(keeper_ids(client, call.words), start=not call["report"])
        with call.out.progress("scrub") as bar:
            while call["wait"] and report.running:
                time.sleep(_POLL_S)
                report = client.scrub(start=False)
                bar.note(f"{output.count_text(report.verified, 'replica')} verified, {output.size_text(report.verified_bytes)}")
        names = {keeper["keeper_id"]: keeper["name"] for keeper in client.status().keepers} if report.bad else {}
    for bad in report.bad:
        text = f"{bad['path']}: damaged on {names.get(bad['keeper'], bad['keeper'])}: {bad['reason']}"
        call.out.both(output.safe_text(text), {**bad, "damaged": True})
    running = f"; {output.count_text(report.running, 'keeper')} still at it (dfs scrub --report)" if report.running else ""
    call.out.both(f"{output.count_text(report.verified, 'replica')} verified, {output.size_text(report.verified_bytes)}, "
                  f"{len(report.bad)} damaged{running}",
                  {"running": report.running, "verified": report.verified, "verified_bytes": report.verified_bytes,
                   "bad": len(report.bad)})
    return errors.IntegrityError.status if report.bad else 0


def rebalance(call):
    """Plan or begin moves from full keepers to empty ones."""
    with call.client() as client:
        status = client.status()
        names = {keeper["keeper_id"]: keeper["name"] for keeper in status.keepers}
        plan = client.rebalance(dry_run=bool(call["dry_run"]), start=not call["dry_run"])
        for move in plan.moves:
            call.out.both(f"{output.size_text(move['size'])} from {names.get(move['source'], move['source'])} "
                          f"to {names.get(move['target'], move['target'])}", dict(move))
        moves, running = len(plan.moves), plan.running
        with call.out.progress("rebalance") as bar:
            while call["wait"] and running and not call["dry_run"]:
                time.sleep(_POLL_S)
                running = client.rebalance(dry_run=False, start=False).running
                bar.note(f"{output.count_text(running, 'move')} under way")
        # A master that was started again has forgotten what it was asked for: then nothing is under way, and not because all was moved.
        is_forgotten = bool(call["wait"] and moves and not call["dry_run"] and client.status().epoch != status.epoch)
    size = sum(move["size"] for move in plan.moves)
    what = "would be moved" if call["dry_run"] else "moved" if call["wait"] and not is_forgotten else "to be moved"
    text = f"{output.count_text(moves, 'block')} {what}, {output.size_text(size)}"
    call.out.both(text if moves else "the keepers are even: nothing to move",
                  {"moves": moves, "bytes": size, "running": running, "dry_run": bool(call["dry_run"]), "forgotten": is_forgotten})
    if is_forgotten:
        failure = errors.OrderFailed(detail="the master was started again meanwhile and has forgotten what was left to move")
        failure.hint = "`dfs rebalance --wait` again"
        raise failure
    return 0


VERBS = {
    "status": options.Verb("status", status, "[--watch]",
                           "Keepers with state, space and load; copies that are missing; repairs under way.", (
        options.flag("-w", "--watch", help="again and again, until Ctrl-C"),
        options.Option(("--every",), "SECONDS", "how often with --watch (default 1)", settings.parse_seconds),
    ), 0, 0, "", settings.CLIENT),
    "wait": options.Verb("wait", wait, "[--copies] [--keepers N] [--timeout SECONDS]",
                         "Return when every file has its wanted copies, or N keepers are live; exit status 1 on time-out.", (
        options.flag("--copies", help="wait for copies (the default when --keepers is not given)"),
        options.Option(("--keepers",), "N", "wait for so many live keepers", settings.parse_count),
        options.Option(("--timeout",), "SECONDS", "give up after so long (default: never)", settings.parse_seconds),
    ), 0, 0, "", settings.CLIENT),
    "df": options.Verb("df", df, "", "Space on the keepers, and how much more fits.", (), 0, 0, "", settings.CLIENT),
    "scrub": options.Verb("scrub", scrub, "[KEEPER…] [--wait]",
                          "Re-read every replica now and compare its checksums; damage is set aside and repaired.", (
        options.flag("--wait", help="until it is done; exit status 5 when damage was found"),
        options.flag("--report", help="start nothing, only tell what has been found"),
    ), 0, None, "", settings.CLIENT),
    "rebalance": options.Verb("rebalance", rebalance, "[--dry-run] [--wait]",
                              "Even out how full the keepers are; each move copies, confirms, then drops.", (
        options.flag("-n", "--dry-run", help="only say what would be moved"),
        options.flag("--wait", help="until it is done"),
    ), 0, 0, "", settings.CLIENT),
}
