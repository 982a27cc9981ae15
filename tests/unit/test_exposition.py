"""What master and keeper tell a monitor, checked as promtool would; and that the checker finds what is wrong."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "master"))

import exposition  # noqa: E402
from master_helpers import Client, World  # noqa: E402

from dfs_lib.keeper import measures, shared, store  # noqa: E402


@pytest.mark.parametrize("text, words", [
    ("# HELP dfs_a Help.\n# TYPE dfs_a counter\ndfs_a 1\n", "_total"),
    ("# HELP dfs_a_total Help.\n# TYPE dfs_a_total gauge\ndfs_a_total 1\n", "_total"),
    ("# HELP dfs_a_ms Help.\n# TYPE dfs_a_ms gauge\ndfs_a_ms 1\n", "base units"),
    ("# HELP a Help.\n# TYPE a gauge\na 1\n", "does not begin"),
    ("# HELP dfs_a  \n# TYPE dfs_a gauge\ndfs_a 1\n", "no help"),
    ('# HELP dfs_a H.\n# TYPE dfs_a gauge\ndfs_a{x="1"} 1\ndfs_a{y="1"} 1\n', "different labels"),
    ('# HELP dfs_a H.\n# TYPE dfs_a histogram\ndfs_a_bucket{le="1"} 2\ndfs_a_bucket{le="+Inf"} 1\ndfs_a_sum 1\ndfs_a_count 1\n', "do not grow"),
    ('# HELP dfs_a H.\n# TYPE dfs_a histogram\ndfs_a_bucket{le="1"} 1\ndfs_a_bucket{le="+Inf"} 2\ndfs_a_sum 1\ndfs_a_count 3\n', "do not fit"),
])
def test_the_checker_finds(text, words):
    assert words in " ".join(exposition.faults(text))


@pytest.mark.parametrize("text", ["dfs_a 1\n", "# HELP dfs_a H.\n# TYPE dfs_a gauge\ndfs_a one\n", "# HELP dfs_a H.\n# TYPE dfs_a gauge\ndfs_a 1",
                                  '# HELP dfs_a H.\n# TYPE dfs_a gauge\ndfs_a{x="a"b"} 1\n', "# HELP dfs_a H.\n# TYPE dfs_a gauge\ndfs_a 1\ndfs_a 2\n"])
def test_the_checker_refuses(text):
    with pytest.raises((ValueError, TypeError)):
        exposition.parse(text)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path / "master", 4)
    yield made
    made.close()


def values(text, name):
    return {labels: value for (_sample, labels), value in exposition.parse(text)[name][2].items()}


def test_a_masters_numbers(world):
    client = Client(world)
    assert client.put("/a", 10)["refused"] is None
    world.until(lambda: world.status().under_replicated == 0)
    text = world.service.scrape()
    assert exposition.faults(text) == []
    assert values(text, "dfs_files") == {(): 1.0} and values(text, "dfs_file_bytes") == {(): 10.0}
    assert values(text, "dfs_keeper_up") == {(("keeper", f"k{n}"),): 1.0 for n in (1, 2, 3, 4)}
    assert values(text, "dfs_uploads_committed_total") == {(): 1.0}
    asked = {dict(labels)["request"] for _sample, labels in exposition.parse(text)["dfs_request_duration_seconds"][2]}
    assert {"OpenUpload", "CommitUpload", "Register"} <= asked and "AwaitOrders" not in asked

    world.keepers[2].vanish()
    world.until(lambda: world.state(2) == "dead")
    text = world.service.scrape()
    assert values(text, "dfs_keeper_up")[(("keeper", "k2"),)] == 0.0
    assert values(text, "dfs_keepers") == {(("state", state),): n for state, n in (("live", 3.0), ("suspect", 0.0), ("dead", 1.0), ("draining", 0.0))}


def test_labels_grow_with_keepers_and_with_nothing_else(world):
    def n_samples():
        return sum(len(samples) for _kind, _help, samples in exposition.parse(world.service.scrape()).values())

    client = Client(world)
    assert client.put("/first", 10)["refused"] is None
    world.until(lambda: world.status().under_replicated == 0)  # every kind of message of a put has come by
    world.steps(4)
    before = n_samples()
    for n in range(30):
        assert client.put(f"/other {n}", 10 + n)["refused"] is None
    world.until(lambda: world.status().under_replicated == 0)
    assert n_samples() == before
    world.keeper()
    world.steps(2)
    assert 0 < n_samples() - before <= 10


def test_a_keepers_numbers():
    page, reasons = shared.Page(2), [""]
    told = measures.Measures(page, (8000, 8001), lambda: (store.Space(5, 1000, 2), reasons[0]))
    slot = page.slot(0)
    for seconds, kind in ((0.003, shared.PUT), (0.2, shared.PUT), (500.0, shared.GET)):
        slot.begin()
        slot.end(1000, 0, kind, seconds)
    page.slot(1).begin()
    text = told.text()
    assert exposition.faults(text) == []
    assert (values(text, "dfs_disk_used_bytes"), values(text, "dfs_disk_free_bytes"), values(text, "dfs_disk_blocks")) == ({(): 5.0}, {(): 1000.0}, {(): 2.0})
    assert values(text, "dfs_transfer_bytes_total")[(("port", "8000"), ("direction", "in"))] == 3000.0
    assert values(text, "dfs_transfers")[(("port", "8001"),)] == 1.0
    times = exposition.parse(text)["dfs_request_duration_seconds"][2]
    put = (("request", "put"),)
    assert times["dfs_request_duration_seconds_count", put] == 2.0 and times["dfs_request_duration_seconds_sum", put] == pytest.approx(0.203)
    assert times["dfs_request_duration_seconds_bucket", (*put, ("le", "0.005"))] == 1.0
    assert times["dfs_request_duration_seconds_bucket", (("request", "get"), ("le", "120"))] == 0.0
    assert told.health() == (True, "ok") and told.readiness()[0] is False
    page.set_connected(True)
    assert told.readiness() == (True, "ok")
    reasons[0] = "input/output error"
    assert told.readiness()[0] is False and "input/output" in told.readiness()[1]
