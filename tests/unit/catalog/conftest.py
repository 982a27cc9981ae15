import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from catalog_helpers import with_keepers  # noqa: E402


@pytest.fixture
def database(tmp_path):
    """A catalog with keepers 1 to 4."""
    database = with_keepers(tmp_path / "catalog")
    yield database
    database.close()
