"""The picture of a cluster for people: first whether the data is safe, then the keepers, in so many columns and rows.

Never asks anybody and never decides what is healthy: the master's numbers become lines here.
"""

import textwrap

from dfs_lib.cli import output

# What the table of keepers gives up, in this order, until it fits; then its last column is cut.
_CAN_GO = ("LOAD", "BLOCKS", "HEARD")
_COLUMNS = ("KEEPER", "STATE", "ADDRESS", "USED", "FREE", "BLOCKS", "LOAD", "HEARD", "LABELS")
_RIGHT = ("USED", "FREE", "BLOCKS", "LOAD", "HEARD")
_STATE_COLORS = {"dead": "red", "stopped": "yellow", "suspect": "yellow", "draining": "yellow"}
# When not all keepers fit, those that somebody should look at come first.
_ORDER = {"dead": 0, "suspect": 1, "draining": 2, "live": 3}


# What people read; programs read `state`, in which one that was stopped is dead as well.
def state_word(keeper):
    """The state of a keeper in one word: a clean stop is no death."""
    return "stopped" if keeper.get("stopped") else keeper["state"]


# -- sentences --------------------------------------------------------------------------------------------------------
def headline(answer):
    """(sentence, color): how the cluster is, in one line. answer: ClusterStatus."""
    if answer.missing:
        return f"{output.count_text(answer.missing, 'block')} cannot be read: no live keeper has a copy" + because(answer), "red"
    if answer.safemode:
        return f"just started: {answer.safemode}", "yellow"
    if answer.under_replicated:
        verb = "is" if answer.under_replicated == 1 else "are"
        return (f"nothing is lost; {output.count_text(answer.under_replicated, 'block')} {verb} short of copies"
                + because(answer) + _repair_words(answer)), "yellow"
    if not answer.keepers:
        return "no keeper has joined yet: `dfs keeper` starts one", "yellow"
    bad = _troubles(answer)
    return ("all is well: every file has its copies" + (f", though {bad}" if bad else ""), "yellow" if bad else "green")


def because(answer):
    """`: k1 is dead for 14 s`, or nothing."""
    troubles = _troubles(answer)
    return f": {troubles}" if troubles else ""


def _troubles(answer):
    """`k1 is dead for 14 s, k2 was stopped 19 s ago`, or ""."""
    words = [_gone_text(keeper) for keeper in answer.keepers if keeper["state"] in ("dead", "suspect")]
    words += [f"{keeper['name']} is sick ({keeper['sick']})" for keeper in answer.keepers if keeper["sick"]]
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _gone_text(keeper):
    age_s = keeper["heartbeat_age_s"]
    if keeper.get("stopped"):
        return f"{keeper['name']} was stopped" + (f" {output.duration_text(age_s)} ago" if age_s is not None else "")
    return f"{keeper['name']} is {keeper['state']}" + (f" for {output.duration_text(age_s)}" if age_s is not None else "")


def repair_eta_s(answer):
    """Seconds until the repairs under way are done, None when that cannot be said."""
    if not answer.repair_bytes_left:
        return 0.0 if not answer.repairs_running else None
    return round(answer.repair_bytes_left / answer.repair_rate, 1) if answer.repair_rate else None


def _repair_words(answer):
    if answer.repairs_running:
        eta = repair_eta_s(answer)
        left = f", {output.duration_text(eta)} left" if eta else ""
        return f"; {output.count_text(answer.repairs_running, 'repair')} under way{left}"
    planned = [each for each in answer.waiting if not each.get("placeless")]
    if answer.waiting and not planned:
        first = answer.waiting[0]
        return f"; no keeper can take more copies, another one is needed ({first['path']}: {first['reason']})"
    if planned:
        first = min(planned, key=lambda each: each["next_try_s"])
        soon = f", repair in {output.duration_text(first['next_try_s'])}" if first["next_try_s"] > 0 else ""
        return f"{soon} ({first['path']}: {first['reason']})"
    return ""


# -- the whole --------------------------------------------------------------------------------------------------------
def lines(answer, columns, rows=None, is_wrapped=True, master_host="127.0.0.1"):
    """[(text, color or None)]: the picture in so many columns; rows: of the screen, None for as many as it takes; master_host: where it
    answered.

    is_wrapped: break sentences into lines; else each stays one line, for scripts that look for words in it.
    """
    sentence, color = headline(answer)
    wrap = (lambda text: textwrap.wrap(text, columns, subsequent_indent="  ") or [""]) if is_wrapped else (lambda text: [text])
    found = [(line, color) for line in wrap(output.safe_text(sentence))]
    for alarm in answer.alarms:
        found += [(line, "red") for line in wrap("alarm: " + output.safe_text(alarm))]
    n_live = sum(keeper["state"] == "live" for keeper in answer.keepers)
    found += [(line, None) for line in wrap(
        f"{output.count_text(answer.files, 'file')} in {output.count_text(answer.directories, 'directory', 'directories')}, "
        f"{output.size_text(answer.bytes)}, {answer.copies} copies wanted")]
    found += [(line, None) for line in wrap(
        f"cluster {answer.cluster_id[:8]}, epoch {answer.epoch}, master pid {answer.pid}; "
        f"{n_live} of {output.count_text(len(answer.keepers), 'keeper')} live")]
    if not answer.encrypted and not all(map(_is_loopback, [master_host, *(keeper["host"] for keeper in answer.keepers)])):
        found += [(line, None) for line in wrap(f"not all encrypted: names and files travel readable ({_how_to_encrypt()})")]
    if answer.keepers:
        left = None if rows is None else max(1, rows - len(found) - 1)
        found += _table(answer.keepers, columns, left)
    return found


def _is_loopback(host):
    """Whether what goes to this address stays on its machine. A name is taken at its word: nobody is asked here."""
    return host.startswith("127.") or host in ("::1", "localhost")


def _how_to_encrypt():
    from dfs_lib.net import tls  # only for those whom it concerns: it loads OpenSSL

    return "`dfs master --tls require`" if tls.HAS_PSK else \
        "`dfs master --tls require --tls-cert FILE`; without certificates it takes Python 3.13 on every machine"


def _table(keepers, columns, rows):
    shown, more = list(keepers), 0
    if rows is not None and len(keepers) > rows:
        shown = sorted(keepers, key=lambda keeper: (_ORDER.get(keeper["state"], 3), not keeper["sick"]))[:max(1, rows - 1)]
        more = len(keepers) - len(shown)
    cells = [dict(zip(_COLUMNS, _row(keeper))) for keeper in shown]
    names = [name for name in _COLUMNS if name != "LABELS" or any(row["LABELS"] for row in cells)]
    widths = {name: max(len(name), *(len(row[name]) for row in cells)) for name in names}

    def is_too_wide():
        return sum(widths[name] for name in names) + 2 * (len(names) - 1) > columns

    for name in _CAN_GO:
        if is_too_wide():
            names.remove(name)

    def line(row):
        return "  ".join(row[name].rjust(widths[name]) if name in _RIGHT else row[name].ljust(widths[name]) for name in names).rstrip()

    texts = [(line(dict(zip(_COLUMNS, _COLUMNS))), None)]
    texts += [(line(row), "red" if keeper["sick"] else _STATE_COLORS.get(state_word(keeper))) for keeper, row in zip(shown, cells)]
    if more:
        texts.append((f"… and {more:,} more", None))
    return [(text if len(text) <= columns else text[:columns - 1] + "…", color) for text, color in texts]


def _row(keeper):
    age = keeper["heartbeat_age_s"]
    return (output.safe_text(keeper["name"]), state_word(keeper), f"{keeper['host']}:{ports_text(keeper['ports'])}",
            output.size_text(keeper["used"]), output.size_text(keeper["free"]), str(keeper["blocks"]), str(keeper["load"]),
            "never" if age is None else output.duration_text(age),
            output.safe_text(" ".join(f"{key}={text}" for key, text in sorted(keeper["labels"].items()))))


def ports_text(ports):
    """`8000-8002`, `8000,8005`: as --ports takes them."""
    ports, runs = sorted(ports), []
    for port in ports:
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
