"""What the death and the freeze of a keeper cost, and that a second death during the repair loses nothing: benchmarks/heal.py in its small form."""

import json
import os
import subprocess
import sys

import pytest

from live_cluster import ROOT

pytestmark = pytest.mark.system
MIB_STORED = 60


def test_a_keeper_dies_freezes_and_another_dies_during_the_repair(work):
    told = os.path.join(work, "figures")
    done = subprocess.run([sys.executable, os.path.join(ROOT, "benchmarks", "heal.py"), "--mib", str(MIB_STORED), "--directory", work, "--json", told,
                           "--only", "quiet", "busy", "second"],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(told) as source:
        figures = json.load(source)["figures"]
    assert set(figures) == {"quiet", "busy", "second"}
    # A closed connection is looked into at once: no heartbeat is waited for.
    assert figures["quiet"]["kill -9 until it counts as dead"] < 2.0
    assert figures["second"]["blocks short when the second keeper dies"] > 0
