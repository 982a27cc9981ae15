"""Who may import whom (LAYOUT), read from the sources themselves; and the one home of sockets and sqlite3."""

import ast
import pathlib
import sys

import pytest

import dfs_lib

ROOT = pathlib.Path(dfs_lib.__file__).parent
SHARED = {"errors", "model", "records", "settings"}
# what master, gateway and command line say alike
ALIKE = {"cluster_gauges", "cluster_state"}

# part of dfs_lib → the parts it may import anywhere in its modules, besides itself
MAY = {
    "errors": set(),
    "records": set(),
    "model": {"errors", "records"},
    "settings": {"errors", "model", "records"},
    "keyfile": {"errors", "records"},
    "checksums": {"model"},
    "dropping": set(),
    "metrics": set(),
    "cluster_gauges": set(),
    "cluster_state": {"model"},
    "log_copy": {"errors"},
    "trailers": {"errors", "model"},
    "wire": {"errors", "model", "records"},
    "net": {"wire", "keyfile"} | SHARED,
    "catalog": {"log_copy"} | SHARED,
    "plan": {"trailers"} | SHARED,
    "client": {"net", "wire", "checksums", "keyfile"} | SHARED,
    "keeper": {"net", "wire", "checksums", "dropping", "keyfile", "log_copy", "metrics", "trailers"} | SHARED,
    "master": {"net", "catalog", "plan", "wire", "dropping", "keyfile", "log_copy", "metrics", "trailers", "cluster_gauges"} | SHARED,
    "gateway": {"client", "net", "wire", "keyfile", "metrics"} | ALIKE | SHARED,
    "local": SHARED | {"keyfile"},
    "cli": {"cluster_state"} | SHARED,
    "__init__": set(),
}
# … and, inside functions alone, so that a verb loads what it needs and no more
MAY_INSIDE_FUNCTIONS = {"cli": set(MAY) - {"__init__"}, "local": {"client", "keeper", "master", "gateway"}, "__init__": {"client"}}
# the package itself is for its version
PACKAGE_NAMES = {"__version__"}

# standard library → the only parts that may use it
HOMES = {"socket": {"net"}, "_socket": {"net"}, "socketserver": {"net"}, "sqlite3": {"catalog"}, "http.server": {"gateway"}}
# standard library of other versions of Python than the one that runs this: tried, with something else where they are missing
OTHER_VERSIONS = {"_sha2", "_sha256"}
# (module, import) that the rules above forbid and that stand there for now; a line that is no longer needed fails the test
KNOWN = {
    ("master/daemon.py", "socket"): "probes whether a keeper's port answers: wants a function in net/streams",
    ("cli/local_verbs.py", "socket"): "a socketpair that signals write to; no network",
}
# wire: bytes in, messages out; plan: no I/O, clock or log
BARRED = {
    "wire": {"socket", "_socket", "time", "threading", "random", "secrets", "os", "logging", "asyncio", "select"},
    "plan": {"socket", "_socket", "time", "threading", "os", "logging", "io", "pathlib", "sqlite3", "asyncio", "secrets", "subprocess"},
}


def imports_of(source):
    """[(module, whether inside a function, line)] of one module's source; `from dfs_lib import x` counts as dfs_lib.x."""
    found = []

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, inside, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = "." * child.level + (child.module or "")
                found.extend((f"dfs_lib.{alias.name}" if base == "dfs_lib" else base, inside, child.lineno) for alias in child.names)
            visit(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(source), False)
    return found


def part_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def faults(part, name, source):
    """Sentences about imports that the layout does not allow."""
    found = []
    for module, inside, line in imports_of(source):
        where = f"{name}:{line}"
        if module.startswith("."):
            found.append(f"{where} imports relatively: {module}")
        elif module == "dfs_lib" or module.startswith("dfs_lib."):
            if module == "dfs_lib":
                continue  # the package itself: its version
            other = module.split(".")[1]
            allowed = MAY[part] | {part} | PACKAGE_NAMES | (MAY_INSIDE_FUNCTIONS.get(part, set()) if inside else set())
            if other not in allowed:
                found.append(f"{where} {part} imports {module}" + ("" if inside or other not in MAY_INSIDE_FUNCTIONS.get(part, ()) else " at its top"))
        else:
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names | OTHER_VERSIONS:
                found.append(f"{where} imports {module}, which is not in the standard library")
            homes = HOMES.get(module) or HOMES.get(top)
            if homes and part not in homes and (name, module) not in KNOWN:
                found.append(f"{where} imports {module}, whose home is {sorted(homes)}")
            if module in BARRED.get(part, ()) or top in BARRED.get(part, ()):
                found.append(f"{where} imports {module}: not in {part}")
            if top == "socket" and pathlib.PurePath(name).name == "service.py":
                found.append(f"{where} a service sees no socket")
    return found


SOURCES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path):
    part = part_of(path)
    assert part in MAY, f"{part} is not in LAYOUT"
    assert not faults(part, str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))


def test_exceptions_are_still_needed():
    for name, module in KNOWN:
        assert module in {found for found, _inside, _line in imports_of((ROOT / name).read_text(encoding="utf-8"))}, f"take {name} out of KNOWN"


def test_the_program_itself():
    program = ROOT.parent / "dfs.py"
    if not program.exists():
        pytest.skip("not there yet")
    assert {module for module, _inside, _line in imports_of(program.read_text())} <= {"dfs_lib.cli.main", "dfs_lib.cli", "multiprocessing", "os", "sys"}


@pytest.mark.parametrize("part, source, words", [
    ("client", "from dfs_lib.keeper import store", "client imports dfs_lib.keeper"),
    ("keeper", "import dfs_lib.master.service", "keeper imports dfs_lib.master.service"),
    ("wire", "from dfs_lib import net", "wire imports dfs_lib.net"),
    ("plan", "def f():\n    from dfs_lib.catalog import queries", "plan imports dfs_lib.catalog"),
    ("cli", "from dfs_lib import client", "cli imports dfs_lib.client at its top"),
    ("errors", "from dfs_lib import model", "errors imports"),
    ("master", "from . import service", "relatively"),
    ("net", "import requests", "not in the standard library"),
    ("keeper", "import sqlite3", "whose home is"),
    ("master", "def f():\n  import http.server", "whose home is"),
    ("wire", "def f():\n  import socket", "not in wire"),
    ("plan", "from time import monotonic", "not in plan"),
])
def test_the_check_finds(part, source, words):
    assert words in " ".join(faults(part, "x.py", source))


def test_the_check_allows():
    for part, source in (("cli", "def f():\n    from dfs_lib import client, master, local"), ("client", "from dfs_lib.net import streams"),
                         ("client", "from dfs_lib import checksums"), ("local", "def f():\n    from dfs_lib.keeper import daemon"),
                         ("keeper", "from dfs_lib import __version__, model")):
        assert not faults(part, "x.py", source)


def test_nothing_imports_in_a_circle():
    """Parts form a line: what a part imports never imports it back."""
    def reach(part, seen):
        for other in MAY[part] - seen:
            seen.add(other)
            reach(other, seen)
        return seen
    for part in MAY:
        assert part not in reach(part, set())
