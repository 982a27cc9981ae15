"""What a keeper knows of its disk, and an epoch on a disk that takes no writes."""

import errno
import os
import threading

import pytest

from dfs_lib import errors
from dfs_lib.keeper import disk, health, scrubber, shared, store as store_module
from dfs_lib.keeper.store import Store


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def store(tmp_path):
    store_module.prepare(tmp_path)
    with Store(tmp_path, "c" * 32, slot="slot1") as made:
        yield made


def failing_fsync(number):
    def fsync(_fd):
        raise OSError(number, os.strerror(number))
    return fsync


def test_sick_until_a_small_write_works(store, monkeypatch):
    clock, told = Clock(), []
    watched = health.Health(store, lambda: told.append(clock.now_s), 5.0, clock)
    assert watched.sickness() == "" and watched.space.free > 0
    watched.fault("input/output error")
    watched.fault("input/output error")
    assert watched.sickness() == "input/output error" and told == [100.0]
    clock.now_s += health.SICK_S
    with monkeypatch.context() as patch:
        patch.setattr(disk, "fsync", failing_fsync(errno.EIO))
        watched.look()
        assert "input/output error" in watched.sickness().lower()
    watched.look()
    assert watched.sickness()  # not before its time: a disk that comes and goes is not asked all the while
    clock.now_s += health.SICK_S
    watched.look()
    assert watched.sickness() == "" and told[-1] == clock.now_s and store.incoming.names() == []


def test_a_start_on_a_sick_disk_is_sick_from_the_first_moment(store, monkeypatch):
    monkeypatch.setattr(disk, "fsync", failing_fsync(errno.EROFS))
    assert "read-only" in health.Health(store, lambda: None, 5.0, Clock()).sickness().lower()


def test_full_is_not_sick_and_shows_no_room_for_a_while(store, monkeypatch):
    clock = Clock()
    watched = health.Health(store, lambda: None, 5.0, clock)
    watched.full()
    assert watched.space.free == 0 and watched.sickness() == ""
    clock.now_s += health.FULL_S
    assert watched.space.free > 0
    with monkeypatch.context() as patch:
        patch.setattr(disk, "fsync", failing_fsync(errno.ENOSPC))
        assert scrubber.probe(store) == ""


def test_a_disk_that_does_not_answer_is_sick_until_it_does(store, monkeypatch):
    clock, asked, answer = Clock(), threading.Event(), threading.Event()
    watched = health.Health(store, lambda: None, 5.0, clock)
    real = store.space

    def slow():
        asked.set()
        assert answer.wait(10)
        return real()

    monkeypatch.setattr(store, "space", slow)
    thread = threading.Thread(target=watched.look)
    thread.start()
    assert asked.wait(10)
    clock.now_s += 4.0
    assert watched.sickness() == ""
    clock.now_s += 2.0
    assert "not answered for 6 s" in watched.sickness() and watched.space.free > 0
    answer.set()
    thread.join(10)
    assert watched.sickness() == ""


# -- the epoch ----------------------------------------------------------------------------------------------------------
def test_an_epoch_finds_its_place_on_a_full_disk(tmp_path, monkeypatch):
    epoch = shared.HighestEpoch(tmp_path)
    epoch.obey(9, "m")

    def full(*_args, **_named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shared.HighestEpoch, "_save_anew", full)
    epoch.obey(10, "m")
    assert epoch.is_saved and (tmp_path / "epoch").read_text() == "10\n" and shared.HighestEpoch(tmp_path).value == 10


def test_an_epoch_that_cannot_be_kept_is_obeyed_from_memory_and_tried_again(tmp_path, monkeypatch):
    clock = Clock()
    epoch = shared.HighestEpoch(tmp_path, clock)
    epoch.obey(3, "m")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "fsync", failing_fsync(errno.EROFS))
        epoch.obey(4, "m")
        assert epoch.value == 4 and not epoch.is_saved and (tmp_path / "epoch").read_text() == "3\n"
    epoch.obey(4, "m")
    assert not epoch.is_saved  # not each second
    with pytest.raises(errors.NotMaster):
        epoch.obey(3, "an older one")
    clock.now_s += 10.0
    epoch.obey(4, "m")
    assert epoch.is_saved and shared.HighestEpoch(tmp_path).value == 4
