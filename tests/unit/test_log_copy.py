"""Records and snapshot heads: whole ones come back, altered or torn ones never do."""

import io

import pytest

from dfs_lib import errors, log_copy

ROWS = [[3, 7, 5.0, "MakeDirectory", "op1", '{"path":"/ü"}'], [3, 8, None, "StartReign", None, "{}"]]


def test_a_record_comes_back():
    raw = log_copy.build_record((2, 6), ROWS, 99, 1e9)
    head = log_copy.check_record(raw)
    assert (head.before, head.last, head.open_from, head.at, head.size) == ((2, 6), (3, 8), 99, 1e9, len(raw))
    assert log_copy.rows_of(raw) == ROWS


def test_an_altered_record_is_refused_at_every_byte():
    raw = log_copy.build_record((2, 6), ROWS, 99, 1e9)
    for at in range(len(raw)):
        with pytest.raises(errors.IntegrityError):
            log_copy.check_record(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:])
        with pytest.raises(errors.IntegrityError):
            log_copy.check_record(raw[:at])


def test_reading_ends_at_the_first_that_is_torn():
    one, two = log_copy.build_record((0, 0), ROWS[:1], 1, 0.0), log_copy.build_record((3, 7), ROWS[1:], 1, 0.0)
    for cut in range(len(two)):
        assert [head.last for head, _raw in log_copy.read_records(io.BytesIO(one + two[:cut]))] == [(3, 7)]
    assert [head.last for head, _raw in log_copy.read_records(io.BytesIO(one + two))] == [(3, 7), (3, 8)]


def test_a_snapshot_head_comes_back_and_no_altered_one():
    raw = log_copy.build_snapshot_head((3, 8), 99, 1e9, 4096, bytes(range(32)))
    assert log_copy.snapshot_head(raw) == ((3, 8), 99, 1e9, 4096, bytes(range(32)))
    for at in range(len(raw)):
        with pytest.raises(errors.IntegrityError):
            log_copy.snapshot_head(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:])


def test_rows_that_are_no_rows():
    raw = log_copy.build_record((0, 0), ROWS, 1, 0.0)
    with pytest.raises(errors.IntegrityError):
        log_copy.rows_of(raw[:log_copy.RECORD_HEAD] + b"no zlib")
