"""The planner's work grows with the blocks of the lost keeper, not with all there are. 1,000 keepers, 10 million blocks: `benchmarks/planner.py`."""

import os
import sys

import pytest

from tests.sim.test_sim import HOME

N_KEEPERS, N_LOST = 10, 150


@pytest.fixture(scope="module")
def planner():
    sys.path.insert(0, os.path.join(HOME, "benchmarks"))
    try:
        import planner
    finally:
        sys.path.remove(os.path.join(HOME, "benchmarks"))
    return planner


def measured(planner, directory, n_blocks, n_lost=N_LOST):
    os.makedirs(directory)
    planner.fill(directory, n_blocks, N_KEEPERS, n_lost=n_lost)
    return planner.measure(directory, N_KEEPERS)


def test_planning_a_loss_costs_what_was_lost(planner, tmp_path):
    few, scans = measured(planner, str(tmp_path / "few"), 1_500)
    many, more_scans = measured(planner, str(tmp_path / "many"), 15_000)
    double, _ = measured(planner, str(tmp_path / "double"), 1_500, 2 * N_LOST)
    assert scans == more_scans == []
    for found, n_lost in ((few, N_LOST), (many, N_LOST), (double, 2 * N_LOST)):
        assert found["lost"] == found["copies_made"] == n_lost
        assert found["undecided"] == found["short_after"] == 0 and 0 < found["copies_ordered"] < n_lost
    assert many["planned_instructions"] < 1.3 * few["planned_instructions"]  # of ten times as many blocks
    assert 1.5 < double["planned_instructions"] / few["planned_instructions"] < 2.5
    assert few["placement_us"] < 10 * planner.MOST_PLACEMENT_US  # CPU time, and ten times: the machine may be busy


def test_a_scan_would_be_seen(planner, tmp_path):
    planner.fill(str(tmp_path), 100, N_KEEPERS)
    ghosts = planner.Ghosts(str(tmp_path), N_KEEPERS)
    try:
        assert ghosts.scans() == []
        ghosts.tracker.queries()._execute("SELECT count(*) FROM blocks WHERE size > ?", (1,))
        assert ["SCAN blocks" in text for text in ghosts.scans()] == [True]
    finally:
        ghosts.close()
