"""Thirty whole clusters under faults, one a seed; a failure prints its seed and how to run it again.

More of them: `python3 -m tests.sim.run --seeds 1-500 --jobs 2`.
"""

import os
import re
import subprocess
import sys

import pytest

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
N_SEEDS = 30


def run(*arguments, timeout=280):
    done = subprocess.run([sys.executable, "-m", "tests.sim.run", *arguments], cwd=HOME, capture_output=True, text=True,
                          timeout=timeout, env={**os.environ, "PYTHONHASHSEED": "0"})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("first", range(1, N_SEEDS + 1, 6))
def test_seeds(first):
    status, output = run("--seeds", f"{first}-{first + 5}", "--jobs", "2", "--chaos", "25")
    assert status == 0, output


def test_the_same_seed_gives_the_same_run():
    traces = [re.search(r"trace (\w+ steps \d+ simulated_s \S+)", run("--seed", "29", "--chaos", "12")[1])[1] for _ in range(2)]
    assert traces[0] == traces[1]


def test_all_faults_at_once():
    status, output = run("--seed", "1001", "--chaos", "20",
                         "--faults", "kill_keeper,kill_master,cut_keeper,reset,freeze_keeper,stop_keeper,power_off")
    assert status == 0, output
