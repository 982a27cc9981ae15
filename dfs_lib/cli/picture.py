"""The picture of a cluster for people: first whether the data is safe, then the keepers, in so many columns and rows.

Never asks anybody and never decides what is healthy: the master's numbers become lines here.
"""

import textwrap

from dfs_lib import cluster_state
from dfs_lib.cli import output

# What the table of keepers gives up, in this order, until it fits; then its last column is cut.
_CAN_GO = ("LOAD", "BLOCKS", "HEARD")
_COLUMNS = ("KEEPER", "STATE", "ADDRESS", "USED", "FREE", "BLOCKS", "LOAD", "HEARD", "LABELS")
_RIGHT = ("USED", "FREE", "BLOCKS", "LOAD", "HEARD")
_STATE_COLORS = {"dead": "red", "stopped": "yellow", "suspect": "yellow", "draining": "yellow"}
# When not all keepers fit, those that somebody should look at come first.
_ORDER = {"dead": 0, "suspect": 1, "draining": 2, "live": 3}


_LEVEL_COLORS = {"ok": "green", "busy": "yellow", "warning": "yellow", "danger": "red"}


# -- the whole --------------------------------------------------------------------------------------------------------
def lines(answer, columns, rows=None, is_wrapped=True, master_host="127.0.0.1", traffic=None):
    """[(text, color or None)]: the picture in so many columns; rows: of the screen, None for as many as it takes; master_host: where it
    answered; traffic: a TrafficMeasured, where it is known what moves.

    is_wrapped: break sentences into lines; else each stays one line, for scripts that look for words in it.
    """
    level, sentence = cluster_state.verdict(answer, counts_seconds=True)
    wrap = (lambda text: textwrap.wrap(text, columns, subsequent_indent="  ") or [""]) if is_wrapped else (lambda text: [text])
    found = [(line, _LEVEL_COLORS[level]) for line in wrap(output.safe_text(sentence))]
    for alarm in answer.alarms:
        found += [(line, "red") for line in wrap("alarm: " + output.safe_text(alarm))]
    n_live = sum(keeper["state"] == "live" for keeper in answer.keepers)
    found += [(line, None) for line in wrap(
        f"{output.count_text(answer.files, 'file')} in {output.count_text(answer.directories, 'directory', 'directories')}, "
        f"{output.size_text(answer.bytes)}, {answer.copies} copies wanted")]
    found += [(line, None) for line in wrap(
        f"cluster {answer.cluster_id[:8]}, epoch {answer.epoch}, master pid {answer.pid}; "
        f"{n_live} of {output.count_text(len(answer.keepers), 'keeper')} live")]
    if moving := _moving_text(traffic):
        found += [(line, None) for line in wrap(moving)]
    if refused := cluster_state.refusals_text(answer):
        found += [(line, None) for line in wrap(refused)]
    if not answer.encrypted and not all(map(_is_loopback, [master_host, *(keeper["host"] for keeper in answer.keepers)])):
        found += [(line, None) for line in wrap(f"not all encrypted: names and files travel readable ({_how_to_encrypt()})")]
    if answer.keepers:
        left = None if rows is None else max(1, rows - len(found) - 1)
        found += _table(answer.keepers, columns, left)
    return found


def _moving_text(traffic):
    """`moving: 12 MB/s read, 3.1 MB/s written`, "" while nothing does."""
    rates = () if traffic is None else ((traffic.read, "read"), (traffic.write, "written"), (traffic.copied, "copied between keepers"))
    words = ", ".join(f"{output.size_text(rate)}/s {word}" for rate, word in rates if rate)
    return words and f"moving: {words}"


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
    texts += [(line(row), "red" if keeper["sick"] else _STATE_COLORS.get(cluster_state.state_word(keeper))) for keeper, row in zip(shown, cells)]
    if more:
        texts.append((f"… and {more:,} more", None))
    return [(text if len(text) <= columns else text[:columns - 1] + "…", color) for text, color in texts]


def _row(keeper):
    age = keeper["heartbeat_age_s"]
    return (output.safe_text(keeper["name"]), cluster_state.state_word(keeper), f"{keeper['host']}:{ports_text(keeper['ports'])}",
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
