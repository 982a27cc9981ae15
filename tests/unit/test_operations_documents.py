"""docs/operations: units, alert rules, dashboard and recipes speak of metrics, verbs and options that exist."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from dfs_lib import settings
from dfs_lib.cli import calls, main, options
from dfs_lib.gateway import telemetry
from dfs_lib.keeper import measures as keeper_measures, shared
from dfs_lib.master import measures as master_measures
from dfs_lib.plan import alarms

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "docs", "operations")
UNITS = ("dfs-master.service", "dfs-keeper.service", "dfs-gateway.service")
_NAME = re.compile(r"\bdfs_[a-z0-9_]+")


def read(name):
    with open(os.path.join(DIRECTORY, name), encoding="utf-8") as source:
        return source.read()


@pytest.fixture(scope="module")
def families():
    """{name: Family} of every metric that a role serves."""
    registries = [master_measures.Measures().registry, telemetry.Telemetry().registry,
                  keeper_measures.Measures(shared.Page(1), (8000,), lambda: None).registry]
    return {name: family for registry in registries for name, family in registry._families.items()}


def used(expression, families):
    """Names of metrics in a PromQL expression that no role serves."""
    unknown = set()
    for name in _NAME.findall(expression):
        family = families.get(name) or families.get(re.sub("_(bucket|sum|count)$", "", name))
        if family is None or (family.kind == "histogram") != (name != family.name):
            unknown.add(name)
    return unknown


def test_alert_rules_use_metrics_that_exist(families):
    text = read("alert-rules.yml")
    expressions = re.findall(r"^        expr: (.+)$", text, re.M)
    assert len(expressions) == text.count("- alert:") > 10
    assert [one for one in expressions if used(one, families)] == []
    for one in expressions:
        assert _NAME.search(one) and one.count("(") == one.count(")")
        for counter in re.findall(r"\b(dfs_[a-z_]+_total)\b", one):
            assert re.search(rf"(rate|increase)\({counter}", one), one  # a counter by itself says nothing
    assert "\t" not in text and "dfs_no_such" not in text
    assert used("rate(dfs_no_such_total[5m]) + dfs_request_duration_seconds", families) == {"dfs_no_such_total", "dfs_request_duration_seconds"}


def test_each_alert_and_alarm_is_explained():
    page = read("README.md")
    for name in re.findall(r"- alert: (\w+)", read("alert-rules.yml")):
        assert f"`{name}`" in page, name
    for kind in alarms.RAISE_S:
        assert f"| `{kind}` |" in page, kind


def test_the_dashboard_uses_metrics_that_exist(families):
    board = json.loads(read("dashboard.json"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) > 12 and [one for one in expressions if used(one, families) or not _NAME.search(one)] == []
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def parsed(words):
    """What the program would make of `dfs WORDS`; raises UsageError."""
    while words and words[0].startswith("-"):
        words = [*words[2:], *words[:2]]
    family = next(family for name, family, _line in main.VERBS if name == words[0])
    verb = family().VERBS[words[0]]
    values, rest = options.parse(words[0], words[1:], calls.options_of(verb))
    options.check_words(verb, rest)
    return values


@pytest.mark.parametrize("name", UNITS)
def test_units_start_what_exists(name):
    text = read(name)
    for line in re.findall(r"^ExecStart=(.+)$", text, re.M):
        program, *words = shlex.split(line)
        assert program == "/opt/dfs/dfs" and parsed(words) is not None
    assert "\nType=notify\n" in text  # the next line of a recipe finds it at work
    for variable in re.findall(r"^#   (DFS_[A-Z_]+)=", text, re.M):
        assert variable[4:].lower() in settings.BY_NAME, variable
        assert name[4:].partition(".")[0] in settings.BY_NAME[variable[4:].lower()].who, variable


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_units(tmp_path):
    for name in UNITS:
        # The program, its user and its manual page are not installed where tests run.
        text = re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", read(name), flags=re.M)
        text = re.sub(r"^(User|Group|Documentation)=.*\n", "", text, flags=re.M)
        (tmp_path / name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", *(str(tmp_path / name) for name in UNITS)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if any(name in line for name in UNITS)]
    assert complaints == [], done.stderr


def test_every_command_of_the_recipes_parses():
    fences = re.findall(r"^```\n(.*?)^```", read("README.md"), re.M | re.S)
    lines = [line for fence in fences for line in fence.splitlines() if re.match(r"dfs ", line)]
    assert len(lines) >= 9
    for line in lines:
        parsed(shlex.split(line.partition(" >")[0])[1:])
    with pytest.raises(Exception, match="no option"):
        parsed(["drain", "k3", "--wait-a-bit"])
