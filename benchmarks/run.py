#!/usr/bin/env python3
"""Every workload that has a target, on a real cluster of this machine, beside the raw references, in one run.

    python3 benchmarks/run.py                       the full form: 1 GiB files, 5 to 15 minutes, needs 8 GiB of memory to be free
    python3 benchmarks/run.py --quick --check       small sizes, under a minute on a quiet machine; exit status 1 when something has
                                                    collapsed twice
    python3 benchmarks/run.py --only large-2 small  some cases; --list names them; `million` and `authentication` run only so
    python3 benchmarks/run.py --json FILE           everything, each round, as JSON

Real processes of the source program, data on tmpfs, three keepers, fsync, checksums and authentication on. Numbers of one run compare with
each other only: read the ratios. "short" is a target missed, "collapsed" a ratio below what --check allows.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import authentication
import bench as bench_module
import large
import metadata
import million
import repair
import small

# name → (function, whether it runs without being asked for)
CASES = {
    "large-1": (large.put_get_1, True),
    "large-2": (large.put_2, True),
    "eight": (large.eight, True),
    "small": (small.small, True),
    "stat": (metadata.stat, True),
    "list": (metadata.listing, True),
    "start": (metadata.start, True),
    "connections": (metadata.connections, True),
    "repair": (repair.repair, True),
    "authentication": (authentication.authentication, False),
    "million": (million.million, False),
}


def main():
    options = _options()
    if options.list:
        for name, (case, always) in CASES.items():
            print(f"{name:12} {case.__doc__ or ''}".rstrip() + ("" if always else "  (only when asked for)"))
        return 0
    names = options.only or [name for name, (_case, always) in CASES.items() if always]
    began_s, broken, collapsed = time.monotonic(), [], []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `with`: no process and no scratch data stay behind
    with bench_module.Bench(options.quick, options.directory, options.rounds) as bench:
        bench.line(_machine_text())
        for name in names:
            fallen, has_broken = _measured(bench, name, options)
            if options.check and (fallen or has_broken):
                bench.line("\nonce more: what falls once may be the fault of a busy machine")
                fallen, has_broken = _measured(bench, name, options)
            collapsed += fallen
            broken += [name] * has_broken
        bench.line(f"\ntook {time.monotonic() - began_s:.0f} s, load now {_load()}")
        if options.json:
            _write_json(options, bench, time.monotonic() - began_s, broken)
    for what in (*collapsed, *broken):
        print(f"collapsed: {what}", file=sys.stderr)
    return 1 if options.check and (collapsed or broken) else 0


def _measured(bench, name, options):
    """Run one case: (what has collapsed in it, whether it broke)."""
    n_before, has_broken = len(bench.verdicts), False
    bench.begin(name)
    try:
        CASES[name][0](bench)
    except Exception as e:
        if not options.check and not options.keep_going:
            raise
        has_broken = True
        bench.note(f"{name} broke: {type(e).__name__}: {e}")
    return [what for what, mark in bench.verdicts[n_before:] if mark == "collapsed"], has_broken


def _options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, for CI")
    parser.add_argument("--check", action="store_true", help="exit with status 1 when a ratio has collapsed or a case broke, twice in a row")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(CASES), help="these cases")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON")
    parser.add_argument("--rounds", type=int, help="rounds a case (5; 2 with --quick)")
    parser.add_argument("--directory", metavar="DIR", help="where scratch data goes (default /dev/shm)")
    parser.add_argument("--keep-going", action="store_true", help="go on after a case that broke")
    return parser.parse_args()


def _load():
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def _machine_text():
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, Linux {platform.release()}, load before {_load()}"


def _write_json(options, bench, seconds, broken):
    found = subprocess.run(["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True)
    record = {"machine": _machine_text(), "at": time.time(), "commit": found.stdout.strip() or None, "quick": options.quick,
              "command": sys.argv, "seconds": seconds, "broken": broken, "cases": bench.results}
    with open(options.json, "w", encoding="utf-8") as out:
        json.dump(record, out, indent=1)


if __name__ == "__main__":
    sys.exit(main())
