"""The copy of the catalog on a keeper's disk: what is durable stays readable, whatever step a crash came at."""

import errno
import hashlib
import os

import pytest

from dfs_lib import errors, log_copy
from dfs_lib.keeper import catalog_copy
from dfs_lib.keeper.catalog_copy import CatalogCopy, pieces, summary


def snapshot(last, content=b"the whole catalog"):
    return log_copy.build_snapshot_head(last, 1, 5.0, len(content), hashlib.sha256(content).digest()) + content


def record(before, last):
    return log_copy.build_record(before, [[last[0], last[1], None, "Any", None, os.urandom(8).hex()]], 1, 6.0)


def stream(directory):
    return b"".join(pieces(directory, 10))


def begun(directory, last=(1, 10)):
    copy = CatalogCopy(directory)
    base = snapshot(last)
    copy.replace_base([base[:5], base[5:]])
    return copy, base


def test_a_copy_grows_and_is_there_after_a_restart(tmp_path):
    assert summary(tmp_path) is None
    copy, base = begun(tmp_path)
    raws = [record((1, n), (1, n + 1)) for n in range(10, 14)]
    for raw in raws[:2]:
        copy.append(raw)
    copy.close()
    copy = CatalogCopy(tmp_path)
    assert copy.last == (1, 12) and not copy.wants_base
    for raw in raws[2:]:
        copy.append(raw)
    copy.close()
    assert summary(tmp_path) == ((1, 14), 6.0, len(base), sum(map(len, raws)))
    assert stream(tmp_path) == base + b"".join(raws)


def test_what_does_not_follow_or_is_damaged_is_refused(tmp_path):
    copy, _base = begun(tmp_path)
    good = record((1, 10), (1, 11))
    for bad in (record((1, 11), (1, 12)), record((2, 10), (2, 11)), good[:-1], good[:-1] + b"\0"):
        with pytest.raises(errors.IntegrityError):
            copy.append(bad)
    copy.append(good)
    assert copy.last == (1, 11)
    copy.close()


def test_a_torn_end_is_passed_over_and_what_follows_is_kept(tmp_path):
    copy, base = begun(tmp_path)
    one, two, three = record((1, 10), (1, 11)), record((1, 11), (1, 12)), record((1, 12), (1, 13))
    copy.append(one)
    copy.append(two)
    copy.close()
    segment, = [name for name in os.listdir(copy.path) if name.startswith("log-")]
    for cut in range(len(one), len(one) + len(two)):
        with open(os.path.join(copy.path, segment), "r+b") as out:
            out.truncate(cut)
    assert summary(tmp_path).last == (1, 11)
    copy = CatalogCopy(tmp_path)
    copy.append(two)  # into another segment, behind the torn one
    copy.append(three)
    copy.close()
    assert stream(tmp_path) == base + one + two + three


def test_a_new_base_takes_the_place_of_what_it_covers(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_copy, "SEGMENT_SIZE", 1)  # a segment a record
    copy, _base = begun(tmp_path)
    raws = [record((1, n), (1, n + 1)) for n in range(10, 16)]
    for raw in raws:
        copy.append(raw)
    newer = snapshot((1, 13))
    copy.replace_base([newer])
    assert copy.last == (1, 16)
    assert len(os.listdir(copy.path)) == 1 + 3
    copy.close()
    assert stream(tmp_path) == newer + b"".join(raws[3:])


def test_a_crash_before_a_base_has_its_name_leaves_the_old_copy(tmp_path, monkeypatch):
    copy, base = begun(tmp_path)
    copy.append(one := record((1, 10), (1, 11)))

    def crash(*_):
        raise OSError(5, "crash")

    for name in ("rename", "sync"):
        with monkeypatch.context() as patch:
            patch.setattr(catalog_copy.Directory, name, crash)
            with pytest.raises(errors.DiskFault):
                copy.replace_base([snapshot((1, 11), b"another")])
            copy.close()
        if name == "rename":
            assert stream(tmp_path) == base + one
        copy = CatalogCopy(tmp_path)
        assert copy.last == (1, 11)
    assert stream(tmp_path) == snapshot((1, 11), b"another")
    assert len(os.listdir(copy.path)) == 1
    copy.close()


def test_a_snapshot_that_is_altered_or_cut_short_changes_nothing(tmp_path):
    copy, base = begun(tmp_path)
    other = snapshot((1, 20), b"another")
    for bad in (other[:-1], other[:-1] + b"\0", other[:20], b""):
        with pytest.raises(errors.IntegrityError):
            copy.replace_base([bad])
    assert copy.last == (1, 10) and stream(tmp_path) == base
    copy.close()


def test_records_of_another_past_are_not_taken_for_a_continuation(tmp_path):
    copy, _base = begun(tmp_path)
    copy.append(record((1, 10), (1, 25)))
    newer = snapshot((4, 20))  # a catalog that was set back and went on under another reign
    copy.replace_base([newer])
    assert copy.last == (4, 20) and stream(tmp_path) == newer
    copy.close()


def test_a_base_is_due_once_the_log_has_outgrown_it(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog_copy, "LEAST_LOG_SIZE", 300)
    copy = CatalogCopy(tmp_path)
    assert copy.wants_base
    copy.close()
    copy, _base = begun(tmp_path)
    n = 10
    while not copy.wants_base:
        copy.append(record((1, n), (1, n + 1)))
        n += 1
    assert 12 < n < 20
    copy.close()


def test_a_master_that_went_back_is_followed_and_the_longer_past_is_kept(tmp_path):
    copy, base = begun(tmp_path, (5, 200))
    raw = record((5, 200), (5, 201))
    copy.append(raw)
    restored = snapshot((6, 101), b"a catalog from a backup")
    copy.replace_base([restored])
    assert copy.last == (6, 101) and not copy.wants_base and stream(tmp_path) == restored
    more = record((6, 101), (6, 102))
    copy.append(more)
    copy.close()
    copy = CatalogCopy(tmp_path)
    assert copy.last == (6, 102) and stream(tmp_path) == restored + more
    past = sorted(name for name in os.listdir(copy.path) if name.startswith("past-"))
    assert [open(os.path.join(copy.path, name), "rb").read() for name in past] == [base, raw]
    copy.replace_base([snapshot((6, 300))])  # it goes on, as usual: nothing more is kept
    assert copy.last == (6, 300) and len([name for name in os.listdir(copy.path) if name.startswith("past-")]) == 2
    copy.close()


def test_of_two_bases_the_one_of_the_later_reign_counts(tmp_path):
    copy, _base = begun(tmp_path, (5, 200))
    copy.close()
    with open(os.path.join(copy.path, f"base-{101:016x}.snap"), "wb") as out:
        out.write(snapshot((6, 101)))
    assert summary(tmp_path).last == (6, 101)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts this process's descriptors in /proc")
def test_a_copy_that_cannot_be_looked_at_leaves_no_descriptor_open(tmp_path, monkeypatch):
    def fails(_directory):
        raise OSError(errno.EIO, "on purpose")

    monkeypatch.setattr(catalog_copy, "_Found", fails)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(errors.DiskFault):
            CatalogCopy(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
