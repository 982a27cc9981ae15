"""What the client library knows, as the JSON that the page and scripts read. Plain functions: records in, dicts out."""

from dfs_lib import cluster_state, model


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


def traffic_record(answer):
    """A TrafficMeasured as the page reads it; None, of a master that counts nothing: no points, and null for now."""
    if answer is None:
        return {"step_s": 10, "points": [], "now": None, "keepers": []}
    return {"step_s": answer.step_s, "now": cluster_state.rates_record(answer), "keepers": answer.keepers,
            "points": [dict(zip(("at", "read", "write", "copied"), row)) for row in answer.points]}
