"""What a start costs, and how the program behaves as a process: imports, broken pipes, full disks, multiprocessing's children."""

import os
import subprocess

import pytest

from dfs_lib import local

# What `ls` may not import: each costs milliseconds that people wait for.
HEAVY = {"argparse", "asyncio", "concurrent", "concurrent.futures", "ctypes", "dataclasses", "email", "http", "inspect",
         "logging",
         "multiprocessing", "pathlib", "shutil", "sqlite3", "ssl", "subprocess", "tempfile", "tomllib", "typing", "urllib",
         "zipfile", "difflib",
         "traceback", "datetime",
         # these in their turn: the C modules below them, or a few lines of ours, do for a client that only asks for names
         "socket", "selectors", "select", "enum", "threading", "collections", "functools", "operator", "re", "json", "random",
         "hashlib", "hmac", "_hashlib", "base64", "binascii", "encodings.ascii", "encodings.idna"}


def imported(program, *words, **options):
    """Names of the modules that a run imports, and its exit status."""
    command = [program[0], "-S", "-E", "-s", "-X", "importtime", *program[1:], *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=local.program_environment(), **options)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}, done.returncode


@pytest.fixture(scope="module")
def bare_master(tmp_path_factory):
    """A cluster of a master alone: enough for names."""
    with local.Cluster(tmp_path_factory.mktemp("bare") / "dfs-local", keepers=0, n_ports=1) as cluster:
        yield cluster


def test_version_and_help_import_next_to_nothing(source_program):
    for word in ("--version", "--help"):
        names, status = imported(source_program, word)
        assert status == 0 and {name for name in names if name.startswith("dfs_lib")} == {"dfs_lib", "dfs_lib.cli",
                                                                                          "dfs_lib.cli.main"}
        assert not names & (HEAVY | {"json", "re", "collections", "socket"})


def test_ls_imports_nothing_heavy(source_program, bare_master):
    names, status = imported(source_program, "ls", cwd=os.path.dirname(bare_master.directory))
    assert status == 0 and "dfs_lib.client" in names
    assert not names & HEAVY
    assert not names & {"dfs_lib.wire.further_messages", "dfs_lib.client.peers", "dfs_lib.client.localfiles", "dfs_lib.cli.transfers"}
    assert not {name for name in names if name.startswith(("dfs_lib.master", "dfs_lib.keeper", "dfs_lib.catalog", "dfs_lib.plan",
                                                           "dfs_lib.local"))}


def test_help_of_a_verb_needs_no_client(source_program):
    names, status = imported(source_program, "ls", "--help")
    assert status == 0 and not names & HEAVY and not any(name.startswith(("dfs_lib.client", "dfs_lib.wire")) for name in names)


@pytest.mark.skipif(os.name != "posix", reason="a shell's pipe")
def test_a_reader_that_goes_away_gets_no_complaint(source_program, bare_master):
    for words in (["--help"], ["ls", "--help"], ["settings"]):
        read_end, write_end = os.pipe()
        os.close(read_end)  # before the program starts, or it might be the quicker one
        done = subprocess.run([*source_program, *words], stdout=write_end, stderr=subprocess.PIPE, timeout=60,
                              env=local.program_environment())
        os.close(write_end)
        assert (done.stderr, done.returncode) == (b"", 141)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_an_error(source_program, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*source_program, "settings"], stdout=full, stderr=subprocess.PIPE, text=True,
                              env={**local.program_environment(), "PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1 and done.stderr.startswith("dfs: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--multiprocessing-fork", "tracker_fd=5", "pipe_handle=7"],
                                   ["-B", "-S", "-c", "from multiprocessing.resource_tracker import main;main(3)"],
                                   ["-c", "from multiprocessing.spawn import spawn_main"]])
def test_the_guard_refuses_to_be_a_child_of_multiprocessing(words):
    import dfs

    with pytest.raises(SystemExit) as caught:
        dfs.answer_multiprocessing(["dfs", *words])
    assert caught.value.code == 2
    dfs.answer_multiprocessing(["dfs", "put", "-c", "multiprocessing",
                                "--multiprocessing-fork"])  # a verb's own words are its own


def test_a_real_cluster_as_processes(source_program, tmp_path):
    """put, kill -9 of a keeper, get: the program as its users have it."""
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    with local.Cluster(tmp_path / "dfs-local", keepers=3, n_ports=1, keeper_options=["--reserve", "1MiB"]) as cluster:
        def run(*words):
            return subprocess.run([*source_program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                                  env=local.program_environment())

        assert run("put", "file", "/").returncode == 0
        cluster.kill("k1")
        done = run("get", "/file", "back")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "back").read_bytes() == content
        assert '"name":"k1"' in run("status", "--json").stdout
        done = cluster.run("ls", "--json")
        assert done.returncode == 0 and '"path":"/file"' in done.stdout


@pytest.mark.system
@pytest.mark.slow
def test_the_tour(source_program, tmp_path):
    done = subprocess.run([*source_program, "demo", "--size", "5MiB"], capture_output=True, text=True, timeout=120,
                          env={**local.program_environment(), "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout and "repaired" in done.stdout and "every byte the same" in done.stdout
    assert not os.listdir(tmp_path)


# -- the frozen program -----------------------------------------------------------------------------------------------
def quick(program, *words, **options):
    return subprocess.run([*program, *words], capture_output=True, text=True, timeout=60, env=local.program_environment(),
                          **options)


@pytest.mark.frozen
def test_frozen_every_verb_explains_itself(frozen_program):
    from dfs_lib.cli import main

    for name, _family, _line in main.VERBS:
        done = quick(frozen_program, name, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: dfs {name}"), done.stderr


@pytest.mark.frozen
def test_frozen_refuses_multiprocessing_children(frozen_program):
    import resource

    def few_processes():
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))

    for words in (["--multiprocessing-fork", "pipe_handle=7"],
                  ["-S", "-c", "from multiprocessing.resource_tracker import main;main(3)"]):
        assert quick(frozen_program, *words, preexec_fn=few_processes).returncode == 2


@pytest.mark.frozen
@pytest.mark.slow
def test_frozen_tour(frozen_program, tmp_path):
    done = subprocess.run([*frozen_program, "demo", "--size", "5MiB"], capture_output=True, text=True, timeout=120,
                          env={**local.program_environment(), "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every byte the same" in done.stdout and not os.listdir(tmp_path)
