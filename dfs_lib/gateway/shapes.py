"""What the client library knows, as the JSON that the page and scripts read. Plain functions: records in, dicts out."""

from dfs_lib import model


def iso(at):
    """Unix seconds as ISO 8601 UTC, None for None."""
    if at is None:
        return None
    import time

    at = min(max(float(at), 0.0), 253402300799.0)
    whole = int(at)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((at - whole) * 1000):03}Z"


def entry_record(entry):
    """A model.Entry as JSON has it."""
    return {"path": entry.path, "name": model.parent_and_name(entry.path)[1], "type": entry.kind, "size": entry.size, "version": entry.version,
            "mtime": iso(entry.mtime_at), "copies_wanted": entry.copies_wanted, "copies_have": entry.copies_have}


def stat_record(found, names):
    """What `Client.stat(blocks=True)` says. names: {keeper id: name}."""
    record = {"path": found["path"], "name": model.parent_and_name(found["path"])[1], "type": found["type"], "size": found["size"],
              "version": found["version"], "mtime": iso(found["mtime_at"]), "copies_wanted": found["copies_wanted"],
              "copies_have": found["copies_have"], "sha256": found["sha256"], "block_size": found["block_size"]}
    record["blocks"] = [{"block": block["block"], "index": block["index"], "size": block["size"],
                         "keepers": [{"keeper_id": keeper, "name": names.get(keeper, keeper[:8])} for keeper in block["keepers"]]}
                        for block in found.get("blocks") or ()]
    return record


STATUS_FIELDS = ("cluster_id", "epoch", "files", "directories", "bytes", "under_replicated", "missing", "repairs_running", "repair_bytes_left",
                 "repair_rate", "uploads", "strays", "safemode", "copies", "safe", "alarms", "waiting", "counters", "pid", "catalog_copies")


def status_record(answer):
    """A ClusterStatus as `dfs status --json` says it, with a verdict in one sentence, and the repairs under way."""
    record = {name: getattr(answer, name) for name in STATUS_FIELDS}
    record["repair_eta_s"] = repair_eta_s(answer)
    record["encrypted"] = bool(answer.encrypted)
    record["keepers"] = [dict(keeper) for keeper in answer.keepers]
    record["verdict"] = verdict(answer)
    record["health"] = health(answer)
    record["repairs"] = [{"path": one["path"], "block": one["block"], "from": one["source"], "to": ", ".join(one["targets"]), "bytes": one["bytes"],
                          "done": None, "eta_s": one["eta_s"]} for one in answer.repairs or ()]
    return record


def traffic_record(answer):
    """A TrafficMeasured as the page reads it; None, of a master that counts nothing: no points, and null for now."""
    if answer is None:
        return {"step_s": 10, "points": [], "now": None, "keepers": []}
    return {"step_s": answer.step_s, "now": rates_record(answer), "keepers": answer.keepers,
            "points": [dict(zip(("at", "read", "write", "copied"), row)) for row in answer.points]}


def rates_record(answer):
    """What moves now, in bytes a second."""
    return {"read": answer.read, "write": answer.write, "copied": answer.copied}


def health(answer):
    """[{have, blocks, about}]: blocks by good copies left, worst first, and last (have None) those that have all that are wanted.

    Nobody counts all blocks at every look: how many are whole is told from what live keepers hold, and said to be `about`.
    """
    short = sorted(((row["have"], row["blocks"]) for row in answer.short or ()))
    held = sum(keeper["blocks"] for keeper in answer.keepers if keeper["state"] != "dead")
    whole = max(0, held - sum(have * n_blocks for have, n_blocks in short)) // max(1, answer.copies)
    return [{"have": have, "blocks": n_blocks, "about": False} for have, n_blocks in short] + [{"have": None, "blocks": whole, "about": True}]


def repair_eta_s(answer):
    """Seconds until the repairs under way are done, None when that cannot be said."""
    if not answer.repair_bytes_left:
        return 0.0 if not answer.repairs_running else None
    return round(answer.repair_bytes_left / answer.repair_rate, 1) if answer.repair_rate else None


def count_text(n, one, many=None):
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def verdict(answer):
    """{level, sentence}: whether the data is safe, first of all."""
    gone = [keeper for keeper in answer.keepers if keeper["state"] in ("dead", "suspect")]
    because = ": " + ", ".join(f"{keeper['name']} {'was stopped' if keeper.get('stopped') else 'is ' + keeper['state']}" for keeper in gone[:4]) if gone else ""
    if len(gone) > 4:
        because += f" and {len(gone) - 4} more"
    if answer.missing:
        return _verdict("danger", f"{count_text(answer.missing, 'block')} cannot be read now{because}")
    if answer.safemode:
        return _verdict("busy", f"The master has just started: {answer.safemode}")
    if not answer.keepers:
        return _verdict("warning", "No keeper has joined yet")
    if answer.under_replicated:
        doing = f"; {count_text(answer.repairs_running, 'repair')} under way" if answer.repairs_running else ""
        return _verdict("busy" if answer.repairs_running else "warning",
                        f"Nothing is lost; {count_text(answer.under_replicated, 'block')} short of copies{because}{doing}")
    if gone or answer.alarms or any(keeper["sick"] for keeper in answer.keepers):
        return _verdict("warning", f"All data is safe{because or ', but something wants a look'}")
    return _verdict("ok", "All data is safe: every file has its copies")


def _verdict(level, sentence):
    return {"level": level, "sentence": sentence}
