"""`python3 -m tests.sim.plant`: bugs planted into a copy of the program, and whether the simulation finds each of them.

Never touches the working tree: dfs_lib and tests/sim are copied to a temporary directory, the copy is edited, and seeds are run there
until one fails, or all of them to count (`--count`). Exits 1 when a bug was not found, 2 when a text to be replaced is no longer in the
source (then the plant has to follow the source).

Several guards stand one behind the other in the program, and a bug is a hole through all of them: each plant says which it takes away.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# edits: [(file under dfs_lib, text that is there once, text in its place)]; says: the invariant whose breach counts as found;
# seeds: so many are tried at most.
Plant = namedtuple("Plant", "name what edits says seeds")

PLANTS = [
    Plant("drop-before-confirm", "a replica is given up on the catalog's word that others are there: nobody has read them (I3)", [
        ("master/trimming.py", "        return len(self._t.proofs.proven(surplus.drop.block, surplus.stayers)) >= surplus.needed\n",
         "        return True\n"),
        ("master/trimming.py",
         "        if len(staying) >= max(1, row.want) and len(t.proofs.proven(drop.block, staying)) >= max(1, row.want):\n",
         "        if len(staying) >= max(1, row.want):\n"),
    ], "I3", 60),
    Plant("acknowledge-before-commit", "a put is answered while its transaction is still to be made (I6)", [
        ("master/transfers.py", "import logging\n\nfrom dfs_lib import errors, model\n", "import logging\nimport threading\n\nfrom dfs_lib import errors, model\n"),
        ("master/transfers.py", "            outcomes = iter(self._t.database.apply_many(publishing) if publishing else ())\n",
         "            outcomes = iter([None] * len(publishing))\n"
         "            threading.Thread(target=self._t.database.apply_many, args=(publishing,), daemon=True).start()\n"),
    ], "I6", 60),
    Plant("ignore-the-epoch", "keepers obey whichever master speaks to them, and a master takes in keepers that have obeyed a later one (I13)", [
        ("keeper/shared.py", "        if epoch < self.value:\n            said", "        if False:\n            said"),
        ("master/keepers.py", "        if message.epoch > t.epoch:\n", "        if False:\n"),
    ], "I13", 60),
]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python3 -m tests.sim.plant", description=__doc__.splitlines()[0])
    parser.add_argument("plants", nargs="*", help=f"only these of {', '.join(plant.name for plant in PLANTS)}")
    parser.add_argument("--seeds", type=int, help="seeds 1 to this for each")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once")
    parser.add_argument("--count", action="store_true", help="run all seeds, and say how many find it")
    options = parser.parse_args(arguments)
    unknown = set(options.plants) - {plant.name for plant in PLANTS}
    if unknown:
        parser.error(f"no such plant: {', '.join(sorted(unknown))}")
    statuses = [try_plant(plant, options) for plant in PLANTS if not options.plants or plant.name in options.plants]
    return max(statuses)


def try_plant(plant, options):
    """Say what came of one; 0 found, 1 not found, 2 it cannot be planted."""
    with tempfile.TemporaryDirectory(prefix="dfs-plant-") as directory:
        missing = sow(plant, directory)
        if missing:
            print(f"{plant.name}: cannot be planted, the source has changed: {missing}", flush=True)
            return 2
        n_seeds = options.seeds or plant.seeds
        found, first, n_run, others = run(directory, plant, n_seeds, options.jobs, options.count)
    print(f"{plant.name}: {plant.what}\n  " + (f"found by {len(found)} of {n_run} seeds ({', '.join(map(str, sorted(found)[:12]))}), first said:\n    {first}"
                                              if found else f"NOT FOUND by {n_run} seeds")
          + (f"\n  (others failed in another way: {', '.join(map(str, sorted(others)[:12]))})" if others else ""), flush=True)
    return 0 if found else 1


def sow(plant, directory):
    """Copy what a run needs, edited. Returns what could not be edited, "" for nothing."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(os.path.join(HOME, "dfs_lib"), os.path.join(directory, "dfs_lib"), ignore=ignore)
    shutil.copytree(os.path.join(HOME, "tests", "sim"), os.path.join(directory, "tests", "sim"), ignore=ignore)
    for name, old, new in plant.edits:
        path = os.path.join(directory, "dfs_lib", name)
        with open(path, encoding="utf-8") as source:
            text = source.read()
        if text.count(old) != 1:
            return f"{name} has {text.count(old)} times {old.strip()!r}"
        with open(path, "w", encoding="utf-8") as out:
            out.write(text.replace(old, new))
    return ""


def run(directory, plant, n_seeds, jobs, to_the_end):
    """({seeds that found it}, what the first of them said, seeds run, {seeds that failed otherwise}): a batch after the other, until one has."""
    found, others, first, n_run, batch = set(), set(), "", 0, n_seeds if to_the_end else max(6, 3 * jobs)
    while n_run < n_seeds and not (found and not to_the_end):
        last = min(n_seeds, n_run + batch)
        words = [sys.executable, "-m", "tests.sim.run", "--seeds", f"{n_run + 1}-{last}", "--jobs", str(jobs)]
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        n_run = last
        failed = re.findall(r"^seed (\d+) FAILED.*\n((?:  .*\n)*)", done.stdout, re.MULTILINE)
        if not failed and done.returncode:
            raise RuntimeError(f"the seeds did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        for seed, told in failed:
            said = re.search(rf"^  BUG (.*\b{plant.says}: .*)$", told, re.MULTILINE)
            (found if said else others).add(int(seed))
            first = first or (said[1] if said else "")
    return found, first, n_run, others


if __name__ == "__main__":
    sys.exit(main())
