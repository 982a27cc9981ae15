"""What is measured and how it is summed up: seconds, CPU seconds and peak memory of processes, medians of rounds that are interleaved.

Never starts a process and knows no workload. CPU comes from /proc/PID/stat (threads included, 10 ms steps), memory from /proc/PID/status.

The machine is shared and noisy, so one number alone says little: every arm of a case (dfs, the raw reference, cp) runs once a round, in
an order that turns, and a ratio is the median of the rounds' own ratios.
"""

import os
from collections import namedtuple
from statistics import median

MIB = 1 << 20
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

# One run of one arm. amount: in the case's unit (MB, files, requests …); cpu in seconds, None where it was not measured;
# more: {name: number} of anything else.
Reading = namedtuple("Reading", "seconds amount client_cpu_s server_cpu_s more", defaults=(None, None, {}))


def cpu_s(pids):
    """CPU seconds, user and system, that these processes have used so far; those that are gone count nothing."""
    return sum(map(_cpu_of, pids))


def _cpu_of(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as source:
            fields = source.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND  # utime, stime: fields 14 and 15 of the whole line


def memory_mib(pid, field="VmHWM"):
    """Peak (VmHWM) or present (VmRSS) resident memory in MiB; 0.0 when the process has gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as source:
            for line in source:
                if line.startswith(field.encode()):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass  # it has ended
    return 0.0


def forget_peak(pid):
    """Start a process's VmHWM anew."""
    try:
        with open(f"/proc/{pid}/clear_refs", "w") as out:
            out.write("5")
    except OSError:
        pass  # not ours, or gone: the peak is then since its start


def interleave(arms, rounds):
    """{name: [Reading of each round]}: each arm once a round; whoever began a round ends the next one.

    arms: {name: callable → Reading}.
    """
    found, names = {name: [] for name in arms}, list(arms)
    for n in range(rounds):
        turn = n % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(arms[name]())
    return found


def rates(readings):
    return [reading.amount / reading.seconds for reading in readings]


def ratios(readings, references):
    """Each round's rate as a part of the reference's rate in the same round."""
    return [ours / theirs for ours, theirs in zip(rates(readings), rates(references))]


def spread(values):
    """{median, min, max} of numbers, or None when there are none."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    return {"median": median(values), "min": min(values), "max": max(values)}


def number(value):
    """A number as people read it: three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread_text(values, scale=1.0):
    found = spread(values)
    if found is None:
        return "-"
    middle, low, high = (number(found[name] * scale) for name in ("median", "min", "max"))
    return f"{middle} ({low}–{high})"
