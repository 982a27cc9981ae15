"""Reads the Prometheus text format as strictly as `promtool check metrics` does, and says what is wrong with it."""

import re

_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|NaN|[+-]Inf")
# Base units only (seconds, bytes), and no word about the type in a gauge's name.
_FOREIGN_UNITS = ("_ms", "_us", "_ns", "_milliseconds", "_microseconds", "_minutes", "_hours", "_kb", "_mb", "_kilobytes", "_megabytes",
                  "_percent", "_gauge", "_counter", "_histogram")


def parse(text):
    """{family: (type, help, {(sample name, ((label, value), …)): number})}. Raises ValueError that names the line."""
    found, current = {}, None
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            _, _, name, help = line.split(" ", 3)
            if name in found:
                raise ValueError(f"{name} comes twice")
            current = found[name] = [None, help, {}]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if found.get(name) is not current or current[0] or current[2]:
                raise ValueError(f"{line!r} is not where it belongs")
            current[0] = kind
        else:
            sample = _SAMPLE.fullmatch(line)
            if not sample or not _NUMBER.fullmatch(sample[3]):
                raise ValueError(f"{line!r} is no sample")
            key = sample[1], tuple(_LABEL.findall(sample[2] or ""))
            family = re.sub("_(bucket|sum|count)$", "", key[0]) if current[0] == "histogram" else key[0]
            if found.get(family) is not current or key in current[2]:
                raise ValueError(f"{line!r} is not with its family, or comes twice")
            current[2][key] = float(sample[3])
    return {name: tuple(family) for name, family in found.items()}


def faults(text, prefix="dfs_"):
    """What promtool would say, as a list of sentences."""
    said = []
    for name, (kind, help, samples) in parse(text).items():
        if not name.startswith(prefix):
            said.append(f"{name} does not begin with {prefix}")
        if not help.strip():
            said.append(f"{name} has no help")
        if kind not in ("counter", "gauge", "histogram"):
            said.append(f"{name} has type {kind}")
        if (kind == "counter") != name.endswith("_total"):
            said.append(f"{name}: counters end in _total, and they alone")
        if any(unit in name + "_" and (name.endswith(unit) or unit + "_" in name) for unit in _FOREIGN_UNITS):
            said.append(f"{name} is not in base units, or names its type")
        if kind == "histogram":
            said += _histogram_faults(name, samples)
        if len({tuple(label for label, _value in labels if label != "le") for _sample, labels in samples}) > 1:
            said.append(f"{name} has samples with different labels")
    return said


def _histogram_faults(name, samples):
    of_labels = {}
    for (sample, labels), value in samples.items():
        rest = tuple(pair for pair in labels if pair[0] != "le")
        of_labels.setdefault(rest, {})[sample.removeprefix(name), dict(labels).get("le")] = value
    for found in of_labels.values():
        buckets = [(float(le), value) for (suffix, le), value in found.items() if suffix == "_bucket"]
        values = [value for _le, value in buckets]
        if buckets != sorted(buckets) or values != sorted(values) or not buckets or buckets[-1][0] != float("inf"):
            yield f"{name}: its buckets do not grow to +Inf"
        elif buckets[-1][1] != found.get(("_count", None)) or ("_sum", None) not in found:
            yield f"{name}: _count and _sum do not fit its buckets"
        if ("_count", None) in found and found["_count", None] and found["_sum", None] < 0:
            yield f"{name}: a negative sum"
