#!/bin/bash
# The test command of README: the tests on the source, then the frozen program and its tests.
# Runs on a bare Debian 12 as root (python3 3.11), and anywhere with Python 3.11, venv and strip. Run it again at will.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
# Each daemon and command that the tests start from source would compile a hundred modules anew.
unset PYTHONDONTWRITEBYTECODE

step() { printf '\n== %s\n' "$*"; }

install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "missing: $*; install it and run this again" >&2; exit 1; }
    DEBIAN_FRONTEND=noninteractive apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

step "tools"
command -v "$PYTHON" >/dev/null || install python3
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed" >&2; exit 1; }
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
command -v strip >/dev/null || install binutils
command -v objdump >/dev/null || install binutils
# PyInstaller takes the shared library of the Python that runs it; Debian has it in a package of its own.
"$PYTHON" - <<'END' || install "libpython$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
import ctypes, glob, os, sys, sysconfig
name = "libpython%d.%d.so*" % sys.version_info[:2]
found = [each for key in ("LIBDIR", "LIBPL") for each in glob.glob(os.path.join(sysconfig.get_config_var(key) or "", name))]
found += glob.glob(os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("MULTIARCH") or "", name))
sys.exit(not found)
END
# A browser for the tests of the page, network namespaces for those of partitions, the usual programs for those of the gateway: what
# cannot be installed is said, and its tests are skipped.
wanted=()
command -v chromium >/dev/null && command -v chromedriver >/dev/null || wanted+=(chromium chromium-driver)
command -v ip >/dev/null || wanted+=(iproute2)
command -v curl >/dev/null || wanted+=(curl)
command -v wget >/dev/null || wanted+=(wget)
if [ "${#wanted[@]}" -gt 0 ]; then
    (install "${wanted[@]}") || echo "without ${wanted[*]}: the tests that need them are skipped"
fi
[ -x .venv/bin/pip ] || "$PYTHON" -m venv --clear .venv
# From here on `python3` is the one with pytest, as README has it.
export PATH="$PWD/.venv/bin:$PATH"
python3 -m pip install --quiet --disable-pip-version-check 'pytest>=7' 'pyinstaller>=6,<7'

step "frozen program"
python3 -m PyInstaller --noconfirm --log-level WARN build.spec
ls -l dist

# Three at once, for two cores: tests on real processes wait for them half of their time. The units take what those leave.
step "tests on the source, and on dist/dfs: real processes"
mkdir -p build
nice -n 10 python3 -m pytest tests/unit tests/sim >build/unit-tests.log 2>&1 &
units=$!
python3 -m pytest tests/system/test_cluster_*.py tests/system/test_partitions.py >build/cluster-tests.log 2>&1 &
clusters=$!
failed=0
python3 -m pytest tests/system --ignore-glob="*/test_cluster_*.py" --ignore=tests/system/test_partitions.py || failed=$?

step "tests on the source, and on dist/dfs: the life of a cluster"
wait "$clusters" || failed=$?
cat build/cluster-tests.log

step "tests on the source: units and the simulation"
wait "$units" || failed=$?
cat build/unit-tests.log
[ "$failed" = 0 ] || exit "$failed"

step "tests on the frozen folder"
TEST_PROGRAM="$PWD/dist/dfs-dir/dfs" python3 -m pytest -m frozen

step "the archive for a Python that is there"
python3 dist/dfs.pyz demo --size 8MiB

step "all passed"
