"""Numbers about a daemon in the Prometheus text format: counters, gauges and histograms that add up, and the text they become.

Knows no socket, file or clock: whoever measures says how much, whoever serves sends the text. Names are checked by the format's
conventions when a family is made, so that a wrong one fails at the daemon's start and not in somebody's monitoring.

    # HELP dfs_transfer_bytes_total Bytes of files moved.
    # TYPE dfs_transfer_bytes_total counter
    dfs_transfer_bytes_total{direction="in"} 1048576

Source: "Exposition formats" and "Metric and label naming" of the Prometheus documentation, text format 0.0.4.
"""

import threading
from bisect import bisect_left
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
# Upper bounds in seconds: from an answer out of memory to an upload of minutes.
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
# A family with more label sets than this is a mistake (a path or an address as label), and would grow for ever.
MAX_SERIES = 10_000

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_LETTERS_AND_DIGITS = _LETTERS | frozenset("0123456789")


class Family:
    """One metric with all its label sets; for many threads.

    kind: COUNTER (only `add`), GAUGE (`set`, also `add`), HISTOGRAM (`observe`). labels: their names, in the order in which
    values are given. buckets: upper bounds of a histogram, growing, without +Inf.
    Raises ValueError for a name or value that the format does not allow.
    """

    def __init__(self, name, kind, help, labels=(), buckets=SECONDS_BUCKETS):
        _check_name(name, kind, labels)
        if kind == HISTOGRAM and (not buckets or list(buckets) != sorted(set(buckets))):
            raise ValueError(f"{name}: the bounds of buckets grow")
        self.name, self.kind, self.help, self.labels = name, kind, help, tuple(labels)
        self.buckets = tuple(float(bound) for bound in buckets) if kind == HISTOGRAM else ()
        self._lock = threading.Lock()
        self._values = {}  # guarded by _lock: label values → number, or [count in each bucket …, above all, sum] of a histogram

    def add(self, amount=1, *values):
        """Count up. A counter never goes down."""
        if self.kind == HISTOGRAM or self.kind == COUNTER and amount < 0:
            raise ValueError(f"{self.name}: a {self.kind} does not take {amount} more")
        with self._lock:
            key = self._key(values)
            self._values[key] = self._values.get(key, 0) + amount

    def set(self, value, *values):
        """What it is now. A counter may be set from a total that somebody else keeps."""
        if self.kind == HISTOGRAM:
            raise ValueError(f"{self.name}: a histogram is observed")
        with self._lock:
            self._values[self._key(values)] = value

    def observe(self, value, *values):
        """One more measurement of a histogram."""
        if self.kind != HISTOGRAM:
            raise ValueError(f"{self.name}: a {self.kind} is not observed")
        with self._lock:
            counts = self._values.get(values)  # most often the labels are texts already
            if counts is None:
                counts = self._values.setdefault(self._key(values), [0] * len(self.buckets) + [0, 0.0])
            counts[bisect_left(self.buckets, value)] += 1  # one cell a measurement; they are added up when somebody asks
            counts[-1] += value

    def take(self, counts, total, *values):
        """A histogram as somebody else has counted it: counts up to each bound (cumulative), then of all; total: their sum."""
        if self.kind != HISTOGRAM or len(counts) != len(self.buckets) + 1:
            raise ValueError(f"{self.name}: {len(counts)} counts do not fit")
        with self._lock:
            self._values[self._key(values)] = [*(n - before for n, before in zip(counts, (0, *counts))), total]

    def clear(self):
        """Forget every label set, before the present ones are set: keepers come and go."""
        with self._lock:
            self._values.clear()

    def _key(self, values):
        """Call with _lock held."""
        key = tuple(map(str, values))
        if len(key) != len(self.labels):
            raise ValueError(f"{self.name}: {len(self.labels)} labels, {len(key)} values")
        if key not in self._values and len(self._values) >= MAX_SERIES:
            raise ValueError(f"{self.name}: more than {MAX_SERIES} label sets")
        return key

    def lines(self):
        """The family in the text format: a list of lines without line ends; none when nothing was measured."""
        with self._lock:
            values = [(key, list(value) if self.kind == HISTOGRAM else value) for key, value in self._values.items()]
        if not values:
            return []
        found = [f"# HELP {self.name} {escape_help(self.help)}", f"# TYPE {self.name} {self.kind}"]
        for key, value in values:
            pairs = list(zip(self.labels, key))
            if self.kind != HISTOGRAM:
                found.append(f"{self.name}{_braces(pairs)} {number_text(value)}")
                continue
            counts = list(accumulate(value[:-1]))
            for bound, count in zip((*map(number_text, self.buckets), "+Inf"), counts):
                found.append(f"{self.name}_bucket{_braces([*pairs, ('le', bound)])} {count}")
            found.append(f"{self.name}_sum{_braces(pairs)} {number_text(value[-1])}")
            found.append(f"{self.name}_count{_braces(pairs)} {counts[-1]}")
        return found


class Registry:
    """The families of one daemon, in the order in which they were made."""

    def __init__(self):
        self._families = {}

    def counter(self, name, help, labels=()):
        return self._new(name, COUNTER, help, labels)

    def gauge(self, name, help, labels=()):
        return self._new(name, GAUGE, help, labels)

    def histogram(self, name, help, labels=(), buckets=SECONDS_BUCKETS):
        return self._new(name, HISTOGRAM, help, labels, buckets)

    def _new(self, name, kind, *rest):
        if name in self._families:
            raise ValueError(f"{name} is there already")
        self._families[name] = Family(name, kind, *rest)
        return self._families[name]

    def text(self):
        """All of it, as a scraper gets it."""
        return text(self._families.values())


def text(families):
    """Families as text, each line ended; families without a measurement are left out."""
    lines = [line for family in families for line in family.lines()]
    return "\n".join(lines) + "\n" if lines else ""


def number_text(value):
    """A number as the format writes it: NaN and +Inf by these names, whole numbers without a point."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        if value != value:
            return "NaN"
        if value in (float("inf"), float("-inf")):
            return "+Inf" if value > 0 else "-Inf"
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return str(int(value))


def escape_help(value):
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def escape_label(value):
    """A label's value; names that people chose may hold anything. What is not Unicode (a lone surrogate) becomes `?`."""
    return value.encode(errors="replace").decode().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _braces(pairs):
    return "{" + ",".join(f'{name}="{escape_label(value)}"' for name, value in pairs) + "}" if pairs else ""


def _check_name(name, kind, labels):
    if not name or name[0] not in _LETTERS or not _LETTERS_AND_DIGITS.issuperset(name):
        raise ValueError(f"{name!r} is no name of a metric")
    if kind not in (COUNTER, GAUGE, HISTOGRAM):
        raise ValueError(f"{name}: there is no kind {kind!r}")
    if (kind == COUNTER) != name.endswith("_total"):
        raise ValueError(f"{name}: counters end in _total, and they alone")
    if name.endswith(("_bucket", "_sum", "_count")):
        raise ValueError(f"{name}: this ending belongs to histograms' own lines")
    for label in labels:
        if not label or label[0] not in _LETTERS or not _LETTERS_AND_DIGITS.issuperset(label) or label.startswith("__") or label == "le":
            raise ValueError(f"{name}: {label!r} is no name of a label")
