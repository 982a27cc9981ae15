"""What all tests share: the checkout on the path, a clean environment, the program as a command."""

import glob
import os
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
# A shell starts background jobs with Ctrl-C ignored, and programs that they start inherit that: those under test have to hear it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def other_pythons():
    """Interpreters of other versions of Python, 3.11 and later, that this machine has: {(3, 13): path}. TEST_PYTHONS names more."""
    names = os.environ.get("TEST_PYTHONS", "").split(os.pathsep)
    names += [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
    names += glob.glob(os.path.join(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"), "versions", "3.*", "bin", "python3"))
    found = {}
    for name in filter(None, names):
        try:
            said = subprocess.run([name, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, timeout=20)
            version = tuple(map(int, said.stdout.split()))
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue
        if version >= (3, 11) and version != sys.version_info[:2]:
            found.setdefault(version, name)
    return found


@pytest.fixture(scope="session")
def psk_python(other_pythons):
    """A Python that has TLS by pre-shared keys (3.13 and later): this one, or another that the machine has."""
    if sys.version_info >= (3, 13):
        return sys.executable
    if not other_pythons or max(other_pythons) < (3, 13):
        pytest.skip("no Python 3.13 or later here: TLS by pre-shared keys is not tested (TEST_PYTHONS may name one)")
    return other_pythons[max(other_pythons)]


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
