"""Conditional and ranged requests: headers in, a verdict out."""

import pytest

from dfs_lib.gateway import conditions, http

AT = 784111777
DATE, BEFORE, AFTER = (http.date_text(at) for at in (AT, AT - 10, AT + 10))


@pytest.mark.parametrize("headers, method, version, status", [
    ({}, "GET", 7, None), ({"if-match": '"7"'}, "PUT", 7, None), ({"if-match": '"1", "7"'}, "PUT", 7, None), ({"if-match": "*"}, "PUT", 7, None),
    ({"if-match": '"8"'}, "PUT", 7, 412), ({"if-match": "*"}, "PUT", None, 412), ({"if-match": 'W/"7"'}, "PUT", 7, 412),
    ({"if-none-match": '"7"'}, "GET", 7, 304), ({"if-none-match": 'W/"7"'}, "HEAD", 7, 304), ({"if-none-match": "*"}, "GET", 7, 304),
    ({"if-none-match": '"7"'}, "PUT", 7, 412), ({"if-none-match": "*"}, "PUT", None, None), ({"if-none-match": '"8"'}, "GET", 7, None),
    ({"if-modified-since": DATE}, "GET", 7, 304), ({"if-modified-since": BEFORE}, "GET", 7, None), ({"if-modified-since": AFTER}, "PUT", 7, None),
    ({"if-modified-since": DATE, "if-none-match": '"8"'}, "GET", 7, None), ({"if-modified-since": "soon"}, "GET", 7, None),
    ({"if-unmodified-since": BEFORE}, "GET", 7, 412), ({"if-unmodified-since": DATE}, "GET", 7, None),
    ({"if-unmodified-since": BEFORE, "if-match": '"7"'}, "GET", 7, None),
])
def test_verdicts(headers, method, version, status):
    assert conditions.verdict(headers, method, version, AT + 0.5) == status


@pytest.mark.parametrize("text, found", [
    ("bytes=0-0", [(0, 1)]), ("bytes=5-", [(5, 10)]), ("bytes=-3", [(7, 10)]), ("bytes=-30", [(0, 10)]), ("bytes=2-99", [(2, 10)]),
    ("bytes=0-1, 4-5 ,-1", [(0, 2), (4, 6), (9, 10)]), ("bytes=10-", []), ("bytes=-0", []), ("bytes=20-30,0-1", [(0, 2)]), ("BYTES=0-1", [(0, 2)]),
    ("bytes=3-2", None), ("bytes=a-b", None), ("bytes=", None), ("bytes", None), ("items=0-1", None), ("bytes=--1", None), ("bytes=1", None),
    ("bytes=0-1-2", None), ("bytes=\u0661-", None), ("bytes=0-,0-,0-", None), ("bytes=" + ",".join(["0-0"] * 17), None), ("bytes=0-9,0-0", None)])
def test_ranges(text, found):
    assert conditions.parse_ranges(text, 10) == found


def test_ranges_of_an_empty_file():
    assert conditions.parse_ranges("bytes=0-", 0) == [] and conditions.parse_ranges("bytes=-1", 0) == []


@pytest.mark.parametrize("unless, counts", [('"7"', True), ('"8"', False), ('W/"7"', False), (DATE, True), (BEFORE, False), ("", False)])
def test_if_range(unless, counts):
    found = conditions.ranges({"range": "bytes=1-2", "if-range": unless}, 7, 10, AT + 0.5)
    assert found == ([(1, 3)] if counts else None)


def test_content_range_of_a_put():
    assert conditions.parse_content_range("bytes 5-9/10") == (5, 10, 10)
    for text in ("", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 5-9/8", "items 5-9/10", "bytes 5-8/10", "bytes -9/10", "bytes 5-9/1000000000000000000"):
        with pytest.raises(http.HttpError) as refused:
            conditions.parse_content_range(text)
        assert refused.value.status == 400
