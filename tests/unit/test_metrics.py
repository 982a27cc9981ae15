"""The Prometheus text format: what is written, escaped and refused."""

import threading

import pytest

from dfs_lib import metrics


def test_each_kind_as_text():
    registry = metrics.Registry()
    moved = registry.counter("dfs_transfer_bytes_total", "Bytes of files moved.", ["direction"])
    up = registry.gauge("dfs_keeper_up", "Whether a keeper is heard.", ["keeper"])
    registry.gauge("dfs_never_measured", "Left out.")
    took = registry.histogram("dfs_request_seconds", "Time of a request.", buckets=(0.1, 1))
    moved.add(5, "in")
    moved.add(2, "in")
    moved.add(1, "out")
    up.set(True, "k1")
    for seconds in (0.05, 0.1, 0.5, 7):
        took.observe(seconds)
    assert registry.text() == (
        "# HELP dfs_transfer_bytes_total Bytes of files moved.\n# TYPE dfs_transfer_bytes_total counter\n"
        'dfs_transfer_bytes_total{direction="in"} 7\ndfs_transfer_bytes_total{direction="out"} 1\n'
        '# HELP dfs_keeper_up Whether a keeper is heard.\n# TYPE dfs_keeper_up gauge\ndfs_keeper_up{keeper="k1"} 1\n'
        "# HELP dfs_request_seconds Time of a request.\n# TYPE dfs_request_seconds histogram\n"
        'dfs_request_seconds_bucket{le="0.1"} 2\ndfs_request_seconds_bucket{le="1"} 3\ndfs_request_seconds_bucket{le="+Inf"} 4\n'
        "dfs_request_seconds_sum 7.65\ndfs_request_seconds_count 4\n")


def test_nothing_measured_is_no_text():
    assert metrics.Registry().text() == ""


def test_labels_and_help_are_escaped():
    family = metrics.Family("dfs_x", metrics.GAUGE, "two\nlines \\ here", ["label"])
    family.set(1, 'a"b\\c\nd\ud800')
    assert family.lines() == ["# HELP dfs_x two\\nlines \\\\ here", "# TYPE dfs_x gauge", 'dfs_x{label="a\\"b\\\\c\\nd?"} 1']


@pytest.mark.parametrize("value, text", [(0, "0"), (1.0, "1"), (0.25, "0.25"), (float("nan"), "NaN"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"),
                                         (True, "1"), (1 << 60, str(1 << 60)), (1e300, "1e+300")])
def test_numbers(value, text):
    assert metrics.number_text(value) == text


@pytest.mark.parametrize("name, kind, labels", [
    ("", "gauge", ()), ("9x", "gauge", ()), ("a-b", "gauge", ()), ("dfs_things", "counter", ()), ("dfs_things_total", "gauge", ()),
    ("dfs_x_count", "gauge", ()), ("dfs_x", "summary", ()), ("dfs_x", "gauge", ("le",)), ("dfs_x", "gauge", ("__x",)), ("dfs_x", "gauge", ("a b",)),
    ("dfs_é", "gauge", ())])
def test_names_that_the_format_refuses(name, kind, labels):
    with pytest.raises(ValueError):
        metrics.Family(name, kind, "help", labels)


def test_what_does_not_fit_the_kind_is_refused():
    counter = metrics.Family("dfs_x_total", metrics.COUNTER, "help", ["a"])
    histogram = metrics.Family("dfs_x_seconds", metrics.HISTOGRAM, "help", buckets=(1, 2))
    for wrong in (lambda: counter.add(-1, "a"), lambda: counter.add(1), lambda: counter.observe(1, "a"), lambda: histogram.add(1),
                  lambda: histogram.set(1), lambda: histogram.take([1], 1), lambda: metrics.Family("dfs_y", "histogram", "h", buckets=(2, 1))):
        with pytest.raises(ValueError):
            wrong()


def test_the_same_name_twice_is_refused():
    registry = metrics.Registry()
    registry.gauge("dfs_x", "help")
    with pytest.raises(ValueError):
        registry.gauge("dfs_x", "help")


def test_labels_do_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(metrics, "MAX_SERIES", 3)
    family = metrics.Family("dfs_x", metrics.GAUGE, "help", ["path"])
    for n in range(3):
        family.set(n, n)
    family.set(9, 2)
    with pytest.raises(ValueError):
        family.set(1, "another")
    family.clear()
    assert family.lines() == []


def test_a_histogram_counted_elsewhere():
    family = metrics.Family("dfs_x_seconds", metrics.HISTOGRAM, "help", ["port"], buckets=(1,))
    family.take([2, 5], 9.5, 8000)
    assert family.lines()[2:] == ['dfs_x_seconds_bucket{port="8000",le="1"} 2', 'dfs_x_seconds_bucket{port="8000",le="+Inf"} 5',
                                  'dfs_x_seconds_sum{port="8000"} 9.5', 'dfs_x_seconds_count{port="8000"} 5']


def test_many_threads_lose_no_count():
    family = metrics.Family("dfs_x_total", metrics.COUNTER, "help")
    threads = [threading.Thread(target=lambda: [family.add() for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert family.lines()[-1] == "dfs_x_total 8000"
