"""The planted bugs can still be planted, and a seed or two finds the first of them. All of them: `python3 -m tests.sim.plant --jobs 2`."""

import subprocess
import sys

import pytest

from tests.sim import plant
from tests.sim.test_sim import HOME


@pytest.mark.parametrize("one", plant.PLANTS, ids=lambda one: one.name)
def test_it_can_be_planted(one, tmp_path):
    assert plant.sow(one, str(tmp_path)) == ""


def test_a_drop_before_confirm_is_found():
    done = subprocess.run([sys.executable, "-m", "tests.sim.plant", "drop-before-confirm", "--seeds", "4", "--jobs", "2"], cwd=HOME,
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "I3" in done.stdout, done.stdout + done.stderr
