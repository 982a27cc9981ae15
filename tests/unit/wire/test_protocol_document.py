"""docs/protocol.md says what the tables say, and its prose the figures that the code uses."""

import importlib.util
import pathlib

import pytest

from dfs_lib.net import servers, streams
from dfs_lib.wire import fields, heartbeats, messages, trust

DOCS = pathlib.Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("write_protocol", DOCS / "write_protocol.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_up_to_date(writer):
    assert writer.TARGET.read_text(encoding="utf-8") == writer.text(), "run python3 docs/write_protocol.py"


def test_nothing_is_left_out(writer):
    text = writer.text()
    for code, cls in messages.BY_CODE.items():
        assert f"### {code} {cls.__name__}\n" in text
        for name in cls.known:
            assert f"- `{name}" in text
    for cls in writer.errors.by_code().values():
        if cls.__module__ == writer.errors.__name__:
            assert f"| `{cls.code}` | {cls.status} |" in text


def test_every_named_type_is_explained(writer):
    named = {check.describe for check in vars(fields).values() if isinstance(check, fields.Check) and not check.describe.startswith(("{", "[", "list", "text"))}
    first_column = " | ".join(line.split("|")[1] for line in writer.TYPES.splitlines() if line.startswith("| "))
    assert {name for name in named if name not in first_column} == set()


def test_figures_in_the_prose():
    assert streams.HANDSHAKE_TIMEOUT_S == 5.0 and servers.PULSE_S == 0.5 and streams.SILENCE_S == 10.0
    assert servers.WORKING_MOST_S == 300.0 and servers.COMPLAIN_EVERY_S == 60.0
    assert trust._TICKET.size == 77 and trust._CODE_SIZE == 16 and heartbeats._HEAD.size == 61
    assert messages.BLOCK_RECORD_SIZE == 24 and (trust.READ, trust.WRITE) == (1, 2)
