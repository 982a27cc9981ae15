"""What goes in comes out: trees, sizes, names, pipes, a large file in little memory. Real processes, real bytes."""

import os
import secrets
import shutil
import subprocess
import sysconfig
import unicodedata

import pytest

from dfs_lib import errors
from dfs_lib.wire import messages
from live_cluster import MIB, Watch, digest, peak_memory, same_trees, write_random

pytestmark = pytest.mark.system
BLOCK = 2 * MIB
SIZES = (0, 1, MIB - 1, MIB, MIB + 1, BLOCK - 1, BLOCK, BLOCK + 1, 9 * BLOCK + 12345)
# The most that a process of the system may hold resident, whatever the size of a file.
MOST_MEMORY = 120 * MIB


@pytest.fixture
def place(shared, shared_work):
    """A directory of its own for each test, here and in the store: (local, remote)."""
    name = secrets.token_hex(4)
    os.mkdir(os.path.join(shared_work, name))
    shared.dfs("mkdir", "/" + name)
    return os.path.join(shared_work, name), "/" + name


# -- trees ------------------------------------------------------------------------------------------------------------
def copy_of_standard_library(target):
    """The tree of the running interpreter's standard library, without what was installed beside it and without byte code."""
    source = sysconfig.get_path("stdlib")
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__"))
    return target


@pytest.mark.slow
def test_the_standard_library_there_and_back(make_cluster, work):
    tree = copy_of_standard_library(os.path.join(work, "stdlib"))
    os.makedirs(os.path.join(tree, "empty", "below"))
    n_files = sum(len(names) for _directory, _below, names in os.walk(tree))
    cluster = make_cluster(keepers=3)
    stored = cluster.json("put", "-r", tree, "/lib", timeout=120)
    assert len(stored) == n_files > 1000 and all(line["copies_durable"] >= 2 for line in stored)
    cluster.dfs("get", "-r", "/lib", os.path.join(work, "back"), timeout=120)
    assert same_trees(tree, os.path.join(work, "back")) == ""
    assert cluster.status()["files"] == n_files


# -- sizes and pipes --------------------------------------------------------------------------------------------------
def test_every_size_there_and_back(shared, place):
    here, there = place
    originals = os.path.join(here, "originals")
    os.mkdir(originals)
    for size in SIZES:
        write_random(os.path.join(originals, str(size)), size)
    stored = shared.json("put", "--block-size", str(BLOCK), *(os.path.join(originals, str(size)) for size in SIZES), there)
    assert sorted(line["size"] for line in stored) == sorted(SIZES)
    shared.dfs("get", "-r", there, os.path.join(here, "back"))
    assert same_trees(originals, os.path.join(here, "back")) == ""
    sums = dict(reversed(line.split("  ")) for line in shared.dfs("sum", *(f"{there}/{size}" for size in SIZES)).splitlines())
    for size in SIZES:
        [found] = shared.json("stat", f"{there}/{size}")
        assert (found["size"], len(found["blocks"])) == (size, -(-size // BLOCK))
        assert [block["size"] for block in found["blocks"]] == [min(BLOCK, size - at) for at in range(0, size, BLOCK)]
        assert sums[f"{there}/{size}"] == digest(os.path.join(originals, str(size)))


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 5 * BLOCK + 777])
def test_pipes_of_unknown_length_both_ways(shared, place, size):
    here, there = place
    original = write_random(os.path.join(here, "original"), size)
    with subprocess.Popen(["cat", original], stdout=subprocess.PIPE) as source:
        shared.dfs("put", "--block-size", str(BLOCK), "-", f"{there}/piped", stdin=source.stdout)
    assert shared.json("stat", f"{there}/piped")[0]["size"] == size
    for verb, target in (("get", ["-"]), ("cat", [])):
        transfer = shared.start_transfer(verb, f"{there}/piped", *target)
        came, _ = transfer.process.communicate(timeout=30)
        assert transfer.process.returncode == 0 and came == open(original, "rb").read()


def test_a_program_writes_into_the_store_and_another_reads_from_it(program, make_cluster, work):
    """tar | put -, get - | tar, with both ends of each pipe as processes."""
    tree = os.path.join(work, "tree")
    os.mkdir(tree)
    for number in range(40):
        write_random(os.path.join(tree, f"file {number}"), number * 54321)
    cluster = make_cluster(keepers=2, program=program)
    with subprocess.Popen(["tar", "c", "-C", tree, "."], stdout=subprocess.PIPE) as tar:
        cluster.dfs("put", "--block-size", "4MiB", "-", "/backup.tar", stdin=tar.stdout)
    os.mkdir(os.path.join(work, "back"))
    transfer = cluster.start_transfer("get", "/backup.tar", "-")
    untar = subprocess.run(["tar", "x", "-C", os.path.join(work, "back")], stdin=transfer.process.stdout, timeout=60)
    assert untar.returncode == 0 and transfer.finish()[0] == 0
    assert same_trees(tree, os.path.join(work, "back")) == ""


# -- names ------------------------------------------------------------------------------------------------------------
NAMES = ["two words", " leading and trailing ", "it's \"quoted\"", "سلام دنیا", "🦊 emoji 👩‍👩‍👧‍👦", unicodedata.normalize("NFC", "é combined"),
         "q\u0323\u0307 stacked", "-dash", "--help", "-", ".hidden", "...", "back\\slash", "star*?[a]", "$HOME;`id`|&", "%00", "dfs:",
         "x" * 255, "ب" * 127, "\u200bzero width", "name.dfs-part", "CON", "~"]


def test_names_there_and_back(shared, place):
    here, there = place
    tree = os.path.join(here, "tree")
    for name in NAMES:
        os.makedirs(os.path.join(tree, "directories", name))
        with open(os.path.join(tree, name), "w") as out, open(os.path.join(tree, "directories", name, name), "w") as below:
            out.write(name)
            below.write(name * 2)
    shared.dfs("put", "-r", tree, f"{there}/tree")
    shared.dfs("get", "-r", f"{there}/tree", os.path.join(here, "back"))
    assert same_trees(tree, os.path.join(here, "back")) == ""
    listed = {line["path"].rpartition("/")[2] for line in shared.json("ls", f"{there}/tree")}
    assert listed == {*map(lambda name: unicodedata.normalize("NFC", name), NAMES), "directories"}


@pytest.mark.parametrize("name", ["-two words", "سلام 🦊", "x" * 255])
def test_a_name_as_a_word_of_the_command_line(shared, place, name):
    here, there = place
    with open(os.path.join(here, name), "w") as out:
        out.write(name)
    shared.dfs("put", "--", name, there, cwd=here)
    shared.dfs("mv", f"{there}/{name}", f"{there}/moved")
    shared.dfs("cp", f"{there}/moved", f"{there}/{name}")
    assert shared.dfs("cat", f"{there}/{name}") == name
    shared.dfs("get", "--", f"{there}/{name}", "back", cwd=here)
    assert open(os.path.join(here, "back")).read() == name
    shared.dfs("rm", f"{there}/{name}")
    assert [line["path"] for line in shared.json("ls", there)] == [f"{there}/moved"]


def test_composed_and_combining_forms_are_one_name(shared, place):
    """The store keeps NFC: what a Mac writes apart and Linux writes together is the same file."""
    here, there = place
    apart = unicodedata.normalize("NFD", "café")
    with open(os.path.join(here, "source"), "w") as out:
        out.write("bonjour")
    shared.dfs("put", os.path.join(here, "source"), f"{there}/{apart}")
    assert shared.dfs("cat", f"{there}/café") == "bonjour"
    assert shared.json("ls", there)[0]["path"] == f"{there}/café"


def test_paths_up_to_the_last_byte(shared, place):
    here, there = place
    parts = ["d" * 255] * 15
    path = there + "/" + "/".join(parts)
    path += "/" + "f" * (4096 - len(path) - 1)
    assert len(path) == 4096
    with open(os.path.join(here, "source"), "w") as out:
        out.write("deep")
    shared.dfs("put", "-p", os.path.join(here, "source"), path)
    assert shared.dfs("cat", path) == "deep"
    assert shared.json("stat", path)[0]["path"] == path
    assert "4096" in shared.dfs("stat", path + "f", status=1)
    shared.dfs("rm", "-r", f"{there}/{parts[0]}")


BAD_PATHS = {"/a/../b": "..", "/a/./b": ".", "/a//b": "empty", "/..": "..", "/tab\there": "control", "/line\nbreak": "control", "/bell\a": "control",
             "/\x7f": "control", "/" + "x" * 256: "255", "/" + "ب" * 128: "255", "/" + "/".join(["y" * 200] * 21): "4096"}


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: ascii(path[:12]))
def test_a_bad_name_is_refused_by_the_client(shared, place, path):
    source = os.path.join(place[0], "source")
    open(source, "w").close()
    for words in (("put", source, path), ("mkdir", path), ("get", path, place[0]), ("rm", path)):
        done = shared.run(*words)
        assert done.returncode in (1, 2), words
        assert BAD_PATHS[path] in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("path", [*BAD_PATHS, "/nul\0nul", "relative", ""], ids=lambda path: ascii(path[:12]))
def test_a_bad_name_is_refused_again_by_the_master(shared, path):
    """A client that does not check is told the same."""
    upload = {"path": path, "size": 1, "copies": None, "safe": None, "block_size": MIB, "mtime_at": 1.0, "no_clobber": False, "parents": True,
              "resume": False}
    with shared.client() as client:
        with pytest.raises(errors.BadName):
            client.ask(messages.MakeDirectory(op=secrets.token_hex(16), path=path, parents=True))
        with pytest.raises(errors.BadName):
            client.ask(messages.Rename(op=secrets.token_hex(16), source="/", target=path, no_clobber=False))
        [result] = client.ask(messages.OpenUpload(uploads=[upload])).results
        assert result["refused"]["error"] == errors.BadName.code
        assert not [entry for entry in client.list("/") if entry.kind == "file"]


def test_a_tree_with_bad_names_is_stored_but_for_them(shared, place):
    here, there = place
    tree = os.path.join(here, "tree")
    os.mkdir(tree)
    for name in (b"good", b"line\nbreak", b"bell\a", b"not utf-8 \xff"):
        with open(os.path.join(os.fsencode(tree), name), "w") as out:
            out.write("x")
    said = shared.dfs("put", "-r", tree, f"{there}/tree", status=1)
    assert said.count("cannot be stored") == 3 and "Traceback" not in said
    assert [line["path"] for line in shared.json("ls", f"{there}/tree")] == [f"{there}/tree/good"]


# -- a large file -----------------------------------------------------------------------------------------------------
class MemoryWatch(Watch):
    """Notes the peak of each process that `pids` names."""

    def __init__(self, pids):
        super().__init__()
        self._pids, self.peaks = pids, {}

    def look(self):
        for pid in self._pids():
            self.peaks[pid] = max(self.peaks.get(pid, 0), peak_memory(pid) or 0)


@pytest.mark.slow
def test_a_large_file_in_little_memory(make_cluster, work):
    """LARGE_FILE_MIB in the environment makes it larger than the gibibyte of every day."""
    size = int(os.environ.get("LARGE_FILE_MIB", "1024")) * MIB
    source, back = write_random(os.path.join(work, "large"), size), os.path.join(work, "back")
    cluster = make_cluster(keepers=3, master_options=["--copies", "2"])
    with MemoryWatch(lambda: cluster.pids() + [pid for transfer in cluster.transfers for pid in transfer.pids]) as watch:
        for words in (("put", source, "/large"), ("get", "/large", back)):
            transfer = cluster.start_transfer(*words)
            status, _out, err = transfer.finish(600)
            assert status == 0, err
    assert subprocess.run(["cmp", source, back]).returncode == 0
    print("peaks in MiB:", sorted((peak // MIB for peak in watch.peaks.values()), reverse=True))
    assert len(watch.peaks) >= len(cluster.pids()) + 2
    assert max(watch.peaks.values()) <= MOST_MEMORY, {pid: peak // MIB for pid, peak in watch.peaks.items()}
