"""Files back from keepers' directories: the newest whole version, nothing outside, every byte checked; and the docs' script."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dfs_lib import checksums, errors
from dfs_lib.keeper import block_format
from dfs_lib.keeper.home import load_identity, prepare, save_cluster
from dfs_lib.keeper.recover import CLASH, recover
from dfs_lib.keeper.store import Store
from dfs_lib.model import CHUNK_SIZE, DIRECTORY, Entry

CLUSTER = "c" * 32
DOCS = Path(__file__).parents[3] / "docs" / "block-format.md"


class Keepers:
    """Some keepers' directories, and a short way to put whole files on them."""

    def __init__(self, top, n=2):
        self.directories = [top / f"k{i}" for i in range(n)]
        self.rng = random.Random(4)
        for directory in self.directories:
            prepare(directory)
            load_identity(directory, lambda: self.rng.randbytes(16).hex())
            save_cluster(directory, CLUSTER)

    def put(self, path, data, version=1, block_size=2 * CHUNK_SIZE, on=None, skip=(), size_known=True, cluster=CLUSTER, **more):
        """Blocks of a file, block i on keepers on[i]; returns the ids. skip: indexes that are left out."""
        blocks, n = [], -(-len(data) // block_size)
        for index in range(n):
            block = self.rng.randbytes(16).hex()
            blocks.append(block)
            piece = data[index * block_size:(index + 1) * block_size]
            metadata = {"path": path, "version": version, "index": index, "block_size": block_size, "mtime_at": 1000.5,
                        "copies": 2, "file_size": len(data) if size_known else None, "last": index == n - 1, **more}
            for keeper in () if index in skip else (on[index] if on else range(len(self.directories))):
                with Store(self.directories[keeper], cluster) as store, store.begin(block, metadata, len(piece)) as incoming:
                    for at in range(0, len(piece), CHUNK_SIZE):
                        incoming.write(piece[at:at + CHUNK_SIZE])
                    incoming.finish(checksums.crc_table(bytes.fromhex(block), piece))
        return blocks

    def file(self, keeper, block):
        return self.directories[keeper] / "blocks" / block[-2:] / block

    def damage(self, keeper, block, at):
        with open(self.file(keeper, block), "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x40]))


@pytest.fixture
def keepers(tmp_path):
    return Keepers(tmp_path)


def data_of(size, seed=0):
    return random.Random(seed).randbytes(size)


def tree(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_files_come_back_from_several_keepers_by_name(keepers, tmp_path):
    large, small, piped = data_of(5 * CHUNK_SIZE + 77), b"hello", data_of(4 * CHUNK_SIZE, 2)
    keepers.put("/deep/er/large ü.bin", large, on=[[0], [1], [0, 1]])
    keepers.put("/small", small, on=[[1]])
    keepers.put("/piped", piped, size_known=False)
    seen = []
    report = recover(keepers.directories, tmp_path / "out", seen.append)
    assert tree(tmp_path / "out") == {"deep/er/large ü.bin": large, "small": small, "piped": piped}
    assert [(r.path, r.version, r.size) for r in report.recovered] == [
        ("/deep/er/large ü.bin", 1, len(large)), ("/piped", 1, len(piped)), ("/small", 1, 5)]
    assert report[1:] == ([], [], [], [], [], [])
    assert (tmp_path / "out" / "small").stat().st_mtime == 1000.5
    assert seen[-1].n_done == seen[-1].n_total == 3 and {p.stage for p in seen} == {"read", "write"}


def test_the_newest_complete_version_wins(keepers, tmp_path):
    keepers.put("/a", b"one", version=1)
    keepers.put("/a", b"two", version=(3 << 32) + 1)
    keepers.put("/a", data_of(4 * CHUNK_SIZE), version=(3 << 32) + 2, skip=[1])
    keepers.put("/b", data_of(6 * CHUNK_SIZE), version=9, skip=[0, 2])
    keepers.put("/c", data_of(6 * CHUNK_SIZE), version=9, skip=[2], size_known=False)
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"two"}
    assert [(i.path, i.version, i.detail, i.instead) for i in report.incomplete] == [
        ("/a", (3 << 32) + 2, "1 of 2 blocks are missing, block 1 first", (3 << 32) + 1),
        ("/b", 9, "2 of 3 blocks are missing, block 0 first", None),
        ("/c", 9, "2 blocks are there, the last one is not, and none says how many there were", None)]


def test_one_good_file_out_of_replicas_damaged_in_different_chunks(keepers, tmp_path):
    data = data_of(4 * CHUNK_SIZE, 5)
    block, _ = keepers.put("/a", data)
    keepers.damage(0, block, 100)
    keepers.damage(1, block, CHUNK_SIZE + 100)
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": data}
    assert len(report.recovered) == 1 and report.incomplete == []
    assert [(d.place.directory, "chunk 0" in d.detail) for d in report.damaged] == [(str(keepers.directories[0]), True)]


def test_damage_in_every_place_falls_back_to_the_version_before(keepers, tmp_path):
    keepers.put("/a", b"old", version=1)
    block, _ = keepers.put("/a", data_of(4 * CHUNK_SIZE, 6), version=2)
    for keeper in (0, 1):
        keepers.damage(keeper, block, CHUNK_SIZE + keeper)
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"old"}
    assert [(i.version, i.instead) for i in report.incomplete] == [(2, 1)]
    assert "chunk 1" in report.incomplete[0].detail and len(report.damaged) == 2


def test_damaged_trailers_are_told_and_other_replicas_used(keepers, tmp_path):
    block, = keepers.put("/a", b"hello")
    other, = keepers.put("/b", b"there", on=[[0]])
    os.truncate(keepers.file(0, block), 30)
    keepers.damage(0, other, keepers.file(0, other).stat().st_size - 60)
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"hello"}
    assert sorted(d.place.name for d in report.damaged) == sorted([block, other])


def test_quarantine_and_aside_are_searched_as_well(keepers, tmp_path):
    one, two = keepers.put("/a", data_of(4 * CHUNK_SIZE, 7), on=[[0], [0]])
    with Store(keepers.directories[0], CLUSTER) as store:
        store.quarantine(one, "a slow disk made it look bad")
        store.set_aside(two)
    recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": data_of(4 * CHUNK_SIZE, 7)}


def test_nothing_changes_in_a_keepers_directory(keepers, tmp_path):
    keepers.put("/a", b"hello")
    before = [tree(directory) for directory in keepers.directories]
    recover(keepers.directories, tmp_path / "out")
    assert [tree(directory) for directory in keepers.directories] == before


@pytest.mark.parametrize("path", ["/../evil", "/a/../../evil", "evil", "//evil", "/", "", "/a\0b", "/" + "x" * 256, "/a\nb",
                                  5, None, ["/a"]])
def test_a_name_from_a_trailer_never_leads_outside(keepers, tmp_path, path):
    keepers.put(path, b"evil")
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {} and not (tmp_path / "evil").exists()
    assert len(report.damaged) == 2 and report.recovered == []


@pytest.mark.parametrize("facts", [{"index": -1}, {"index": True}, {"version": "1"}, {"version": None}, {"index": 1.5},
                                   {"file_size": 1 << 60, "block_size": 1}, {"file_size": 6}, {"file_size": 1, "block_size": 1},
                                   {"file_size": 10 ** 400, "block_size": 3}, {"file_size": None, "last": "yes"}])
def test_lying_trailers_give_no_file(keepers, tmp_path, facts):
    keepers.put("/a", b"hello", **facts)
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {} and report.recovered == []
    assert report.damaged or report.incomplete


@pytest.mark.parametrize("mtime_at", [None, "x", 10 ** 300, -1e300, True, [1]])
def test_a_strange_time_does_not_cost_the_file(keepers, tmp_path, mtime_at):
    keepers.put("/a", b"hello", mtime_at=mtime_at)
    assert len(recover(keepers.directories, tmp_path / "out").recovered) == 1


def test_links_in_the_target_are_not_followed(keepers, tmp_path):
    keepers.put("/sub/file", b"hello")
    keepers.put("/link", b"hello")
    keepers.put("/fine", b"hello")
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir(), outside.mkdir()
    (out / "sub").symlink_to(outside)
    (out / "link").symlink_to(outside / "file")
    report = recover(keepers.directories, out)
    assert list(outside.iterdir()) == []
    assert sorted(f.path for f in report.failed) == ["/link", "/sub/file"]
    assert [r.path for r in report.recovered] == ["/fine"]


def test_links_in_a_keepers_directory_are_not_followed(keepers, tmp_path):
    block, = keepers.put("/a", b"hello", on=[[0]])
    moved = tmp_path / "moved"
    keepers.file(0, block).rename(moved)
    keepers.file(0, block).symlink_to(moved)
    report = recover(keepers.directories, tmp_path / "out")
    assert report.recovered == [] and len(report.damaged) == 1


def test_what_is_there_stays_and_a_second_run_completes_the_first(keepers, tmp_path):
    keepers.put("/a", b"from the store")
    keepers.put("/b", b"b")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"mine")
    report = recover(keepers.directories, out)
    assert report.existing == ["/a"] and tree(out) == {"a": b"mine", "b": b"b"}
    keepers.put("/c", b"c")
    report = recover(keepers.directories, out)
    assert report.existing == ["/a", "/b"] and [r.path for r in report.recovered] == ["/c"]


def test_a_file_and_a_directory_of_one_name_both_come_back(keepers, tmp_path):
    keepers.put("/a", b"was a file once")
    keepers.put("/a/b", b"then a directory")
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a/b": b"then a directory", "a" + CLASH: b"was a file once"}
    assert [(r.path, r.written) for r in report.recovered] == [("/a", "/a" + CLASH), ("/a/b", "/a/b")]


def test_of_two_ids_for_one_index_the_later_whole_one_counts(keepers, tmp_path):
    blocks = sorted(keepers.put("/a", b"hello")[0] for _ in range(2))
    report = recover(keepers.directories, tmp_path / "out")
    assert len(report.recovered) == 1
    for keeper in (0, 1):
        keepers.damage(keeper, blocks[1], 2)
    report = recover(keepers.directories, tmp_path / "again")
    assert tree(tmp_path / "again") == {"a": b"hello"} and len(report.damaged) == 2


def test_several_clusters_are_not_mixed(keepers, tmp_path):
    keepers.put("/a", b"ours")
    keepers.put("/a", b"theirs", version=5, on=[[1]], cluster="d" * 32)
    report = recover(keepers.directories, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"ours"} and len(report.foreign) == 1
    other = tmp_path / "other"
    prepare(other)
    load_identity(other, lambda: "e" * 32)
    save_cluster(other, "d" * 32)
    with pytest.raises(errors.WrongCluster):
        recover([*keepers.directories, other], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_directory_without_keeper_json_will_do_and_a_missing_one_is_told(keepers, tmp_path):
    keepers.put("/a", b"hello", on=[[0]])
    os.unlink(keepers.directories[0] / "keeper.json")
    assert len(recover(keepers.directories[:1], tmp_path / "out").recovered) == 1
    with pytest.raises(errors.DiskFault):
        recover([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(errors.LocalFileError):
        recover(keepers.directories, tmp_path / "out" / "a")  # a file


def test_a_full_disk_is_told_and_leaves_no_temporary_file(keepers, tmp_path, monkeypatch):
    keepers.put("/a", b"hello")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    report = recover(keepers.directories, tmp_path / "out")
    assert [f.path for f in report.failed] == ["/a"] and tree(tmp_path / "out") == {}


def test_no_descriptor_is_left(keepers, tmp_path):
    keepers.put("/a/b/c", data_of(4 * CHUNK_SIZE))
    keepers.put("/x/../y", b"bad")
    before = len(os.listdir("/proc/self/fd"))
    recover(keepers.directories, tmp_path / "out")
    assert len(os.listdir("/proc/self/fd")) == before


# -- the script in the documentation ----------------------------------------------------------------------------------------
def run_script(keepers, into):
    script, = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    return subprocess.run([sys.executable, "-I", "-c", script, *map(str, keepers.directories), str(into)],
                          capture_output=True, text=True, timeout=60)


def test_the_script_in_the_docs_recovers_keepers_without_dfs(keepers, tmp_path):
    large = data_of(5 * CHUNK_SIZE + 1)
    keepers.put("/deep/er/large", large, on=[[0], [1], [0]])
    keepers.put("/small ü", b"old", version=1)
    keepers.put("/small ü", b"new", version=2)
    keepers.put("/part", data_of(4 * CHUNK_SIZE), skip=[0])
    bad, = keepers.put("/bad", b"hello", on=[[0]])
    keepers.damage(0, bad, 3)
    cut, = keepers.put("/cut", b"hello", on=[[0]])
    os.truncate(keepers.file(0, cut), 20)
    with open(keepers.file(1, keepers.put("/grown", b"hello", on=[[1]])[0]), "ab") as file:
        file.write(b"\0" * 100)
    (tmp_path / "out").mkdir()
    done = run_script(keepers, tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(tmp_path / "out") == {"deep/er/large": large, "small ü": b"new"}
    assert done.stdout.count("damaged:") == 3 and "incomplete: /part version 1" in done.stdout


def test_the_script_does_not_leave_the_target(keepers, tmp_path):
    keepers.put("/../evil", b"evil")
    done = run_script(keepers, tmp_path / "out")
    assert done.returncode == 0 and not (tmp_path / "evil").exists() and not (tmp_path / "out").exists()


def test_the_docs_tell_the_numbers_of_the_code():
    text = DOCS.read_text(encoding="utf-8")
    assert f"at most {block_format.MAX_METADATA_SIZE:,}" in text
    assert f"{block_format.FOOTER_SIZE} bytes, always the last" in text
    assert f"({CHUNK_SIZE:,};" in text


# -- with what a copy of the catalog remembers ------------------------------------------------------------------------
class Names:
    """What recover asks of catalog/remembered.Remembered. files: {path: (version, size, [blocks])}; known: versions."""

    def __init__(self, files, directories=(), known=(), cluster_id=CLUSTER):
        self.files, self.directories, self.known, self.cluster_id = files, directories, set(known), cluster_id

    def is_known(self, version):
        return version in self.known

    def may_be_unfinished(self, version):
        return not self.is_known(version)

    def entries(self):
        for path in self.directories:
            yield Entry(path, DIRECTORY, 0, 0, 5.0, 0, None)
        for path, (version, size, _blocks) in self.files.items():
            yield Entry(path, "file", size, version, 5.0, 2, None)

    def blocks(self, version):
        return next(blocks for known, _size, blocks in self.files.values() if known == version)


def test_names_are_the_last_ones_where_a_copy_of_the_catalog_knows_them(keepers, tmp_path):
    data, late, newer = data_of(3 * CHUNK_SIZE, 1), data_of(10, 2), data_of(20, 3)
    blocks = keepers.put("/old/name", data, version=4)
    keepers.put("/removed", b"gone", version=5)
    keepers.put("/late", late, version=9)
    changed = keepers.put("/changed", b"before", version=6)
    keepers.put("/changed", newer, version=8)
    names = Names({"/new": (4, len(data), blocks), "/twin": (7, len(data), blocks), "/empty": (3, 0, []), "/changed": (6, 6, changed)},
                  ["/d", "/d/e"], known={3, 4, 5, 6, 7})
    report = recover(keepers.directories, tmp_path / "into", names=names)
    assert tree(tmp_path / "into") == {"new": data, "twin": data, "empty": b"", "late": late, "changed": newer}
    assert (tmp_path / "into" / "d" / "e").is_dir()
    assert (tmp_path / "into" / "twin").stat().st_mtime == 5.0
    assert not report.incomplete and not report.failed and len(report.recovered) == 5


def test_a_file_that_the_copy_knows_and_whose_blocks_are_not_here_is_told(keepers, tmp_path):
    blocks = keepers.put("/a", data_of(5 * CHUNK_SIZE), version=4, skip=(1,))
    names = Names({"/a": (4, 5 * CHUNK_SIZE, blocks), "/nowhere": (5, 10, ["e" * 32])}, known={4, 5})
    report = recover(keepers.directories, tmp_path / "into", names=names)
    assert tree(tmp_path / "into") == {} and {each.path for each in report.incomplete} == {"/a", "/nowhere"}


def test_an_upload_that_was_never_acknowledged_is_no_damage(keepers, tmp_path):
    keepers.put("/a", data_of(5 * CHUNK_SIZE), version=9, skip=(1,))
    stored = keepers.put("/b", b"stored", version=4)
    keepers.put("/b", data_of(5 * CHUNK_SIZE), version=8, skip=(2,))
    damaged, = keepers.put("/c", data_of(100), version=10)
    for n in range(2):
        keepers.damage(n, damaged, 40)
    names = Names({"/b": (4, 6, stored)}, known={4})
    report = recover(keepers.directories, tmp_path / "into", names=names)
    assert tree(tmp_path / "into") == {"b": b"stored"}
    assert [(each.path, each.version, each.instead) for each in report.unfinished] == [("/a", 9, None), ("/b", 8, 4)]
    assert [each.path for each in report.incomplete] == ["/c"]  # its blocks were all there: that is damage
    by_blocks = recover(keepers.directories, tmp_path / "by_blocks")
    assert not by_blocks.unfinished and {each.path for each in by_blocks.incomplete} == {"/a", "/b", "/c"}


def test_a_directory_that_is_no_keepers_is_told(keepers, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(errors.LocalFileError, match="no keeper's data directory") as failure:
        recover([*keepers.directories, tmp_path / "photos"], tmp_path / "into")
    assert "--data" in failure.value.hint and failure.value.status == 1 and not (tmp_path / "into").exists()


def test_a_copy_of_another_cluster_is_not_gone_by(keepers, tmp_path):
    keepers.put("/a", b"here", version=4)
    recover(keepers.directories, tmp_path / "into", names=Names({}, ["/d"], known={4}, cluster_id="f" * 32))
    assert tree(tmp_path / "into") == {"a": b"here"}
