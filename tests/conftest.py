"""What all tests share: the checkout on the path, a clean environment, the program as a command."""

import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """No setting of whoever runs the tests reaches them."""
    for name in [name for name in os.environ if name.startswith("DFS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", os.path.join(str(tmp_path_factory.getbasetemp()), "no-config"))


@pytest.fixture
def source_program():
    """The command of the program run from source, with the interpreter that runs the tests."""
    return [sys.executable, os.path.join(ROOT, "dfs.py")]


@pytest.fixture
def frozen_program():
    """The command of the frozen program; a test that asks for it is skipped where none was built."""
    path = os.environ.get("TEST_PROGRAM") or os.path.join(ROOT, "dist", "dfs")
    if not os.path.exists(path):
        pytest.skip("no frozen program: build it with `pyinstaller build.spec`")
    return [os.path.abspath(path)]
