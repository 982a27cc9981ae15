"""`status`, `wait`, `df`, `scrub`, `rebalance`: the cluster in words, and the two things one may ask of it.

Never decides what is healthy: the master does; here its numbers become sentences.
"""

import time

from dfs_lib import errors, settings
from dfs_lib.cli import options, output

_POLL_S = 0.2


# -- status -----------------------------------------------------------------------------------------------------------
def status(call):
    """One picture of the cluster, or with --watch one every `--every` seconds until Ctrl-C."""
    with call.client() as client:
        if not call["watch"]:
            show_status(call.out, client.status())
            return
        every_s = call["every"] or 1.0
        while True:
            picture = client.status()
            if call.out.has_color:
                call.out.line("\x1b[H\x1b[2J", end="")
            show_status(call.out, picture)
            call.out.flush()
            time.sleep(every_s)


def status_record(answer):
    """The JSON object of `status`."""
    record = {name: getattr(answer, name) for name in
              ("cluster_id", "epoch", "files", "directories", "bytes", "under_replicated", "missing", "repairs_running",
               "repair_bytes_left", "repair_rate", "uploads", "strays", "safemode", "copies", "safe", "alarms", "waiting",
               "counters", "pid")}
    record["repair_eta_s"] = repair_eta_s(answer)
    return {**record, "keepers": [dict(keeper) for keeper in answer.keepers]}


def repair_eta_s(answer):
    """Seconds until the repairs under way are done, None when that cannot be said."""
    if not answer.repair_bytes_left:
        return 0.0 if not answer.repairs_running else None
    return round(answer.repair_bytes_left / answer.repair_rate, 1) if answer.repair_rate else None


def headline(answer):
    """(sentence, color): how the cluster is, in one line."""
    if answer.missing:
        return f"{output.count_text(answer.missing, 'block')} cannot be read: no live keeper has a copy" + _because(answer), "red"
    if answer.safemode:
        return f"just started: {answer.safemode}", "yellow"
    if answer.under_replicated:
        verb = "is" if answer.under_replicated == 1 else "are"
        return (f"nothing is lost; {output.count_text(answer.under_replicated, 'block')} {verb} short of copies"
                + _because(answer) + _repair_words(answer)), "yellow"
    if not answer.keepers:
        return "no keeper has joined yet: `dfs keeper` starts one", "yellow"
    bad = _because(answer)
    return ("all is well: every file has its copies" + bad, "yellow" if bad else "green")


def _because(answer):
    """`: k1 dead for 14 s`, or nothing."""
    gone = [f"{keeper['name']} {keeper['state']}" + (f" for {output.duration_text(keeper['heartbeat_age_s'])}"
                                                      if keeper["heartbeat_age_s"] is not None else "")
            for keeper in answer.keepers if keeper["state"] in ("dead", "suspect")]
    sick = [f"{keeper['name']} is sick ({keeper['sick']})" for keeper in answer.keepers if keeper["sick"]]
    words = gone + sick
    return ": " + ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "") if words else ""


def _repair_words(answer):
    if answer.repairs_running:
        eta = repair_eta_s(answer)
        left = f", {output.duration_text(eta)} left" if eta else ""
        return f"; {output.count_text(answer.repairs_running, 'repair')} under way{left}"
    if answer.waiting:
        first = min(answer.waiting, key=lambda each: each["next_try_s"])
        soon = f", repair in {output.duration_text(first['next_try_s'])}" if first["next_try_s"] > 0 else ""
        return f"{soon} ({first['path']}: {first['reason']})"
    return ""


def show_status(out, answer):
    """The picture of one ClusterStatus."""
    if out.as_json:
        out.record(status_record(answer))
        return
    sentence, color = headline(answer)
    out.line(out.colored(output.safe_text(sentence), color))
    for alarm in answer.alarms:
        out.line(out.colored("alarm: " + output.safe_text(alarm), "red"))
    out.line(f"{output.count_text(answer.files, 'file')} in {output.count_text(answer.directories, 'directory', 'directories')}, "
             f"{output.size_text(answer.bytes)}, {answer.copies} copies wanted; "
             f"cluster {answer.cluster_id[:8]}, epoch {answer.epoch}, master pid {answer.pid}")
    if answer.keepers:
        out.table([("KEEPER", "STATE", "ADDRESS", "USED", "FREE", "BLOCKS", "LOAD", "HEARD", "LABELS"),
                   *map(_keeper_row, answer.keepers)],
                  right=(3, 4, 5, 6, 7))


def _keeper_row(keeper):
    age = keeper["heartbeat_age_s"]
    return (output.safe_text(keeper["name"]), keeper["state"],
            f"{keeper['host']}:{','.join(str(port) for port in keeper['ports'])}",
            output.size_text(keeper["used"]), output.size_text(keeper["free"]), str(keeper["blocks"]), str(keeper["load"]),
            "never" if age is None else output.duration_text(age),
            output.safe_text(" ".join(f"{key}={text}" for key, text in sorted(keeper["labels"].items()))))


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
                    call.out.both(f"{headline(answer)[0]}; {output.count_text(live, 'live keeper')}", status_record(answer))
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
    if wants_copies and answer.missing:
        return f"{output.count_text(answer.missing, 'block')} missing" + _because(answer)
    if wants_copies and answer.under_replicated:
        return f"{output.count_text(answer.under_replicated, 'block')} short of copies" + _because(answer)
    return ""


# -- df ---------------------------------------------------------------------------------------------------------------
def df(call):
    """Space of each keeper and in all."""
    with call.client() as client:
        answer = client.status()
    rows = [("KEEPER", "STATE", "USED", "FREE", "USE%", "BLOCKS")]
    for keeper in answer.keepers:
        call.out.record({key: keeper[key] for key in ("keeper_id", "name", "host", "state", "used", "free", "blocks")})
        rows.append((output.safe_text(keeper["name"]), keeper["state"], *_space(keeper["used"], keeper["free"]),
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
        names = {keeper["keeper_id"]: keeper["name"] for keeper in client.status().keepers}
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
    size = sum(move["size"] for move in plan.moves)
    what = "would be moved" if call["dry_run"] else "moved" if call["wait"] else "to be moved"
    text = f"{output.count_text(moves, 'block')} {what}, {output.size_text(size)}"
    call.out.both(text if moves else "the keepers are even: nothing to move",
                  {"moves": moves, "bytes": size, "running": running, "dry_run": bool(call["dry_run"])})


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
