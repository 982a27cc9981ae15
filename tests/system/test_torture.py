"""The short form of torture.py, and histories that its checker must and must not believe."""

import os

import pytest

import history
import torture

SECONDS = float(os.environ.get("DFS_TORTURE_S", "20"))


def told(*lines):
    """Done records from "KIND PATH [TARGET] [=VALUE] OUTCOME FROM-TO"."""
    found = []
    for number, line in enumerate(lines, 1):
        kind, path, *more, outcome, times = line.split()
        target = next((word for word in more if word.startswith("/")), None)
        value = next((int(word[1:]) for word in more if word.startswith("=")), None)
        asked, answered = map(float, times.split("-"))
        found.append(history.Done(number, kind, path, target, value, outcome, asked, answered))
    return found


@pytest.mark.parametrize("lines", [
    ["put /a =1 ok 0-1", "get /a =1 ok 2-3"],
    ["put /a =1 ok 0-1", "put /a =2 ok 2-6", "get /a =1 ok 3-4", "get /a =2 ok 4-5", "get /a =2 ok 7-8"],
    ["put /a =1 ok 0-1", "rename /a /b ok 2-3", "get /b =1 ok 4-5", "get /a absent 4-5"],
    ["put /a =1 ok 0-1", "copy /a /b ok 2-3", "get /b =1 ok 4-5", "get /a =1 ok 4-5"],
    ["put /a =1 unknown 0-1", "get /a absent 2-3", "get /a =1 ok 4-5"],  # it happened late
    ["put /a =1 unknown 0-1", "get /a absent 40-41"],  # or never
    ["put /a =1 ok 0-4", "remove /a ok 0-4", "get /a absent 5-6"],
    ["remove /a absent 0-1", "rename /a /b absent 0-1", "put /b =1 refused 0-1", "get /b absent 2-3"],
], ids="; ".join)
def test_a_history_that_can_be_told(lines):
    assert history.check(told(*lines), ("/a", "/b")) >= 1


@pytest.mark.parametrize("lines, at", [
    (["put /a =1 ok 0-1", "get /a absent 2-3"], 2),  # lost
    (["put /a =1 ok 0-1", "put /a =2 ok 2-3", "get /a =1 ok 4-5"], 3),  # stale
    (["put /a =1 ok 0-1", "remove /a ok 2-3", "get /a =1 ok 4-5"], 3),  # back from the dead
    (["put /a =1 ok 0-1", "put /a =2 ok 2-6", "get /a =2 ok 3-4", "get /a =1 ok 4.5-5"], 4),  # to and fro
    (["put /a =1 ok 0-1", "rename /a /b ok 2-3", "get /a =1 ok 4-5"], 3),
    (["put /a =1 ok 0-1", "rename /a /b ok 2-3", "get /b absent 4-5"], 3),
    (["put /a =1 unknown 0-1", "get /a =1 ok 2-3", "get /a absent 4-5"], 3),
    (["put /a =1 unknown 0-1", "get /a absent 40-41", "get /a =1 ok 50-51"], 3),
    (["put /a =1 refused 0-1", "get /a =1 ok 2-3"], 2),
    (["remove /a ok 0-1"], 1),
], ids=lambda one: "; ".join(one) if isinstance(one, list) else "")
def test_a_history_that_cannot_be_told(lines, at):
    with pytest.raises(history.Impossible, match=f"operation {at},"):
        history.check(told(*lines), ("/a", "/b"))


@pytest.mark.system
def test_torture(work):
    figures, wrong = torture.torture(work, SECONDS, seed=int(SECONDS))
    assert not wrong, (wrong, figures)
    outcomes = figures["outcomes"]
    assert min(outcomes.get(f"{kind} ok", 0) for kind in ("put", "get", "remove", "rename", "copy")) > 0 and len(figures["faults"]) >= 4, figures
