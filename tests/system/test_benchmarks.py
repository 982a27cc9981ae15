"""No path has collapsed: benchmarks/run.py in its small form, which compares with raw sockets and files in the same run and asserts no time."""

import os
import subprocess
import sys

import pytest

from live_cluster import ROOT

BENCHMARKS = os.path.join(ROOT, "benchmarks")


@pytest.mark.system
def test_no_path_has_collapsed(work):
    done = subprocess.run([sys.executable, os.path.join(BENCHMARKS, "run.py"), "--quick", "--check", "--directory", work,
                           "--only", "large-1", "small", "stat"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("put, 1 copy, to the raw pair", "get, 1 copy, to the raw pair", "put, one by one, to the raw pair",
                 "put, jobs 8, to 8 raw streams", "get, one by one, to the raw pair", "get, jobs 8, to 8 raw streams",
                 "stat, 1 client, to a bare request", "stat, 8 clients, to bare requests"):
        assert what in done.stdout


# A case whose rounds go at these parts of the reference's rate, a try after the other; a text is an error.
_FAKE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import run
from measure import Reading

tries = eval(sys.argv.pop(1))

def case(bench):
    part = tries.pop(0)
    if type(part) is str:
        raise RuntimeError(part)
    bench.ratio("the path", [Reading(1.0, part)] * 2, [Reading(1.0, 1.0)] * 2, wanted=0.5, collapse=0.1)

run.CASES = {"fake": (case, True)}
sys.exit(run.main())
"""


@pytest.mark.parametrize("tries, n_tries, is_found", [
    ([0.2], 1, False), ([0.09, 0.2], 2, False), ([0.09, 0.05], 2, True), (["no cluster", 0.2], 2, False), (["no cluster", "none"], 2, True)])
def test_what_collapses_twice_is_found(tries, n_tries, is_found, tmp_path):
    done = subprocess.run([sys.executable, "-c", _FAKE, BENCHMARKS, repr(tries), "--quick", "--check", "--directory", str(tmp_path)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == int(is_found), done.stdout + done.stderr
    assert ("collapsed: " in done.stderr) == is_found
    assert done.stdout.count("the path") + done.stdout.count("fake broke") == n_tries
