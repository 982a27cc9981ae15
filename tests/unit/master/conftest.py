import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from master_helpers import World  # noqa: E402


@pytest.fixture
def make_world(tmp_path):
    """make_world(n_keepers, **settings) → World, closed at the end."""
    worlds = []

    def make(n_keepers=3, **changes):
        worlds.append(World(tmp_path / f"master{len(worlds)}", n_keepers, **changes))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
