"""What a ClusterStatus says: the record that programs read, the sentence that people read first, the word for each keeper's state.

Never asks anybody, and never decides what is healthy: the master's numbers become words here, the same on the command line, on the page
and in scripts.
"""

from dfs_lib import model

OK, BUSY, WARNING, DANGER = "ok", "busy", "warning", "danger"
_FIELDS = ("cluster_id", "epoch", "files", "directories", "bytes", "under_replicated", "missing", "repairs_running", "repair_bytes_left",
           "repair_rate", "uploads", "strays", "safemode", "copies", "safe", "alarms", "waiting", "counters", "pid", "catalog_copies")
# Keepers in trouble that a sentence names; of the others it tells how many.
_NAMED = 5


# -- for programs -----------------------------------------------------------------------------------------------------
def status_record(answer, traffic=None):
    """The JSON object of `dfs status` and of /api/status. traffic: a TrafficMeasured, or None when nobody asked or the master counts none."""
    record = {name: getattr(answer, name) for name in _FIELDS}
    record["repair_eta_s"] = repair_eta_s(answer)
    record["encrypted"] = bool(answer.encrypted)
    record["keepers"] = [{**keeper, "word": state_word(keeper)} for keeper in answer.keepers]
    record["verdict"] = dict(zip(("level", "sentence"), verdict(answer)))
    record["short"] = list(answer.short or ())
    record["health"] = health(answer)
    record["repairs"] = [{"path": one["path"], "block": one["block"], "from": one["source"], "to": ", ".join(one["targets"]), "bytes": one["bytes"],
                          "eta_s": one["eta_s"]} for one in answer.repairs or ()]
    record["throughput"] = None if traffic is None else rates_record(traffic)
    return record


def rates_record(traffic):
    """What moves now, in bytes a second."""
    return {"read": traffic.read, "write": traffic.write, "copied": traffic.copied}


def health(answer):
    """[{have, blocks, about}]: blocks by good copies left, worst first, and last (have None) those that have all that are wanted.

    Nobody counts all blocks at every look: how many are whole is told from what live keepers hold, and said to be `about`.
    """
    short = sorted(((row["have"], row["blocks"]) for row in answer.short or ()))
    held = sum(keeper["blocks"] for keeper in answer.keepers if keeper["state"] != model.DEAD)
    whole = max(0, held - sum(have * n_blocks for have, n_blocks in short)) // max(1, answer.copies)
    return [{"have": have, "blocks": n_blocks, "about": False} for have, n_blocks in short] + [{"have": None, "blocks": whole, "about": True}]


def repair_eta_s(answer):
    """Seconds until the repairs under way are done, None when that cannot be said."""
    if not answer.repair_bytes_left:
        return 0.0 if not answer.repairs_running else None
    return round(answer.repair_bytes_left / answer.repair_rate, 1) if answer.repair_rate else None


# -- for people -------------------------------------------------------------------------------------------------------
# counters → what they count, in a sentence; of masters and keepers alike.
_REFUSALS = {
    "strangers_refused": ("connection without a proof", "connections without a proof"), "tickets_refused": ("ticket", "tickets"),
    "connections_refused": ("connection too many", "connections too many"), "requests_out_of_role": ("request out of role", "requests out of role"),
    "requests_not_permitted": ("request beyond a user's rights", "requests beyond a user's rights"),
    "transfers_too_slow": ("transfer that trickled", "transfers that trickled"),
    "conversations_broken": ("broken conversation", "broken conversations"),
    "transfers_refused": ("transfer too many", "transfers too many"),
    "descriptors_short": ("connection beyond the limit on open files", "connections beyond the limit on open files")}


def refusals_text(answer):
    """What masters and keepers have refused since their start, in words; "" when nothing."""
    counts = {name: answer.counters.get(name, 0) + answer.counters.get(f"keepers_{name}", 0) for name in _REFUSALS}
    told = [model.count_text(int(n), *_REFUSALS[name]) for name, n in counts.items() if n]
    at_keepers = int(sum(answer.counters.get(name if name == "tickets_refused" else f"keepers_{name}", 0) for name in _REFUSALS))
    return f"refused since the start: {', '.join(told)} ({at_keepers:,} of them at keepers)" if told else ""


def state_word(keeper):
    """What people read of a keeper's state; programs read `state`, in which one that was stopped is suspect or dead as well."""
    return model.state_word(keeper["state"], keeper.get("stopped"))


def verdict(answer, counts_seconds=False):
    """(level, sentence): how it is, and first of all whether the data is safe.

    counts_seconds: with ages and times left, for who looks once; else the sentence stands until something happens.
    """
    because = f": {troubles}" if (troubles := troubles_text(answer, counts_seconds)) else ""
    if answer.missing:
        return DANGER, f"{model.count_text(answer.missing, 'block')} cannot be read: no live keeper has a copy{because}"
    if answer.safemode:
        return BUSY, f"just started: {answer.safemode}"
    if answer.under_replicated:
        verb = "is" if answer.under_replicated == 1 else "are"
        return (BUSY if answer.repairs_running else WARNING,
                f"nothing is lost; {model.count_text(answer.under_replicated, 'block')} {verb} short of copies{because}{_repair_words(answer, counts_seconds)}")
    if not answer.keepers:
        return WARNING, "no keeper has joined yet: `dfs keeper` starts one"
    well = "all is well: every file has its copies"
    if troubles:
        return WARNING, f"{well}, though {troubles}"
    return (WARNING, f"{well}, but something wants a look") if answer.alarms else (OK, well)


def troubles_text(answer, counts_seconds=True):
    """`k1 is dead for 14 s, k2 was stopped 19 s ago`, or ""."""
    words = [_gone_text(keeper, counts_seconds) for keeper in answer.keepers if keeper["state"] in (model.DEAD, model.SUSPECT)]
    words += [f"{keeper['name']} is sick ({keeper['sick']})" for keeper in answer.keepers if keeper["sick"]]
    return ", ".join(words[:_NAMED]) + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")


def _gone_text(keeper, counts_seconds):
    age_s, word = keeper["heartbeat_age_s"] if counts_seconds else None, state_word(keeper)
    if word == model.STOPPED:
        return f"{keeper['name']} was stopped" + (f" {model.duration_text(age_s)} ago" if age_s is not None else "")
    return f"{keeper['name']} is {word}" + (f" for {model.duration_text(age_s)}" if age_s is not None else "")


def _repair_words(answer, counts_seconds):
    if answer.repairs_running:
        eta_s = repair_eta_s(answer) if counts_seconds else None
        left = f", {model.duration_text(eta_s)} left" if eta_s else ""
        return f"; {model.count_text(answer.repairs_running, 'repair')} under way{left}"
    planned = [each for each in answer.waiting if not each.get("placeless")]
    if answer.waiting and not planned:
        first = answer.waiting[0]
        return f"; no keeper can take more copies, another one is needed ({first['path']}: {first['reason']})"
    if planned and counts_seconds:
        first = min(planned, key=lambda each: each["next_try_s"])
        soon = f", repair in {model.duration_text(first['next_try_s'])}" if first["next_try_s"] > 0 else ""
        return f"{soon} ({first['path']}: {first['reason']})"
    return ""
