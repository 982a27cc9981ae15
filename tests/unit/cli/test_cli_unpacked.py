"""Folders that killed one-file programs leave behind: removed when nobody can use them, and none else."""

import fcntl
import os
import subprocess
import sys

import pytest

from dfs_lib.cli import unpacked


@pytest.fixture
def dead_pid():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def folder(directory, pid, tail="abc12x", age_s=3600.0):
    path = directory / f"_MEI{pid:08x}{tail}"
    (path / "base").mkdir(parents=True)
    (path / "base" / "library.so").write_bytes(b"x" * 5000)
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


def sweep(directory):
    return unpacked.sweep_directory(str(directory), "_MEI00000001own123", 1e9)


def test_the_folder_of_a_dead_program_goes(tmp_path, dead_pid):
    left = folder(tmp_path, dead_pid)
    assert sweep(tmp_path) == [left.name] and not left.exists()


def test_what_somebody_may_use_stays(tmp_path, dead_pid):
    living = folder(tmp_path, os.getpid())
    young = folder(tmp_path, dead_pid, "young1", age_s=5.0)
    locked = folder(tmp_path, dead_pid, "locked")
    other = tmp_path / "_MEIsomething_else"
    other.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / f"_MEI{dead_pid:08x}linked"
    link.symlink_to(target)
    own = tmp_path / "_MEI00000001own123"
    own.mkdir()
    fd = os.open(locked, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        assert sweep(tmp_path) == []
    finally:
        os.close(fd)
    assert all(path.exists() for path in (living, young, locked, other, target, link, own))
    assert sweep(tmp_path) == [locked.name]


def test_a_folder_that_a_process_has_in_its_memory_stays(tmp_path, dead_pid):
    """The bootloader is dead, the program goes on: its later imports come from there."""
    import mmap

    left = folder(tmp_path, dead_pid)
    with open(left / "base" / "library.so", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert sweep(tmp_path) == []
    assert sweep(tmp_path) == [left.name]
