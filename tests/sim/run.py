"""`python3 -m tests.sim.run --seed N`: replay one seed exactly; `--seeds A-B`: run many.

Starts itself anew under PYTHONHASHSEED=0, because the order of sets of texts is part of a run.
"""

import argparse
import faulthandler
import os
import sys
import time


def run_seed(seed, trace=None, chaos_s=40.0, faults=None):
    """(World, Scenario) of one run."""
    from tests.sim.workload import Scenario

    base = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else "/tmp"
    # Of one length whatever the process's id is: its length is in messages, and so in every timing.
    scenario = Scenario(seed, os.path.join(base, f"dfs-sim-{os.getpid():010d}"), trace, chaos_s, faults)
    return scenario.run(), scenario


def report(seed, world, scenario, took_s, options):
    """One line for a good run, all there is to say for a bad one. Returns whether it was good."""
    good = not world.bugs and world.failure is None
    rest = "-" if scenario.rest_s is None else f"{scenario.rest_s:.0f}"
    print(f"seed {seed} {'ok' if good else 'FAILED'} trace {world.digest:08x} steps {world.steps} "
          f"simulated_s {world.now:.1f} rest_s {rest} took_s {took_s:.1f}", flush=True)
    if not good:
        for bug in world.bugs[:10]:
            print(f"  BUG {bug}")
        if world.failure is not None:
            print(f"  FAILURE {type(world.failure).__name__}: {world.failure}")
        same = f" --chaos {options.chaos:g}" + ("" if options.faults is None else f" --faults {options.faults}")
        print(f"  again: python3 -m tests.sim.run --seed {seed}{same} --verbose", flush=True)
    if options.stats:
        for name, n in sorted(world.stats.items()):
            print(f"    {n:6} {name}")
    return good


def run_one(seed, options):
    """Run a seed and say how it went; the exit status."""
    faulthandler.dump_traceback_later(options.limit, exit=True)
    began_s = time.monotonic()
    faults = None if options.faults is None else [name for name in options.faults.split(",") if name]
    world, scenario = run_seed(seed, print if options.verbose else None, options.chaos, faults)
    good = report(seed, world, scenario, time.monotonic() - began_s, options)
    sys.stdout.flush()
    return 0 if good else 1


def run_many(first, last, options):
    """Each seed in a process of its own, so that none begins with what another has left. Returns how many were bad."""
    import tests.sim.workload  # noqa: F401 - once, for all children

    running, n_bad = 0, 0
    for seed in range(first, last + 1):
        if running == options.jobs:
            n_bad += bool(os.wait()[1])
            running -= 1
        sys.stdout.flush()
        if not os.fork():
            status = 70
            try:
                status = run_one(seed, options)
            finally:
                os._exit(status)  # threads that a broken run may have left behind must not hold up the answer
        running += 1
    while running:
        n_bad += bool(os.wait()[1])
        running -= 1
    print(f"{last - first + 1} seeds, {n_bad} bad", flush=True)
    return n_bad


def main(arguments=None):
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim.run", *(sys.argv[1:] if arguments is None else arguments)])
    parser = argparse.ArgumentParser(prog="python3 -m tests.sim.run", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", help="A-B: from A to B, both included")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once")
    parser.add_argument("--verbose", action="store_true", help="every note, with the simulated time")
    parser.add_argument("--stats", action="store_true", help="what was asked and what happened, in numbers")
    parser.add_argument("--chaos", type=float, default=40.0, help="simulated seconds of faults")
    parser.add_argument("--faults", help="only these, comma-separated (a method of workload.Chaos each); empty: none")
    parser.add_argument("--limit", type=float, default=180.0, help="real seconds a seed may take")
    options = parser.parse_args(arguments)
    first, _, last = (options.seeds or str(1 if options.seed is None else options.seed)).partition("-")
    n_bad = run_many(int(first), int(last or first), options)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
