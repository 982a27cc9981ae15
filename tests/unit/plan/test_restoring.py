"""Which of the versions found for a path is the file, and what goes to /lost+found under what name."""

import pytest

from dfs_lib import model
from dfs_lib.plan import restoring
from dfs_lib.plan.restoring import Found

UNIT = 100


def blocks(sizes, file_size=..., copies=3, last=True):
    """{index: {block: (metadata, Found)}}; sizes: {index: bytes}, blocks of UNIT."""
    file_size = sum(sizes.values()) if file_size is ... else file_size
    return {index: {f"{index:032x}": ({"path": "/a", "block_size": UNIT, "file_size": file_size, "copies": copies, "mtime_at": 5.0,
                                       "last": last and index == max(sizes)}, Found(size, b"crcs", [1]))} for index, size in sizes.items()}


def told(path, versions):
    """What is made, in short: (name, or "-" for the path itself, bytes)."""
    files = restoring.restored(path, versions)
    return [("-" if file.is_whole else restoring.lost_name(file), file.size) for file in files]


def test_one_whole_version_is_the_file():
    file, = restoring.restored("/a", {7: blocks({0: 100, 1: 100, 2: 30})})
    assert file == ("/a", 7, True, 0, 230, UNIT, 3, 5.0, [(f"{i:032x}", size, b"crcs", [1]) for i, size in ((0, 100), (1, 100), (2, 30))], None)


def test_the_newest_comes_first_whole_or_not():
    assert told("/a", {5: blocks({0: 50}), 9: blocks({0: 100, 1: 10}), 12: blocks({0: 100}, file_size=150)}) == [
        ("/lost+found/a.v12.bytes-0-99", 100), ("-", 110), ("-", 50)]


@pytest.mark.parametrize("sizes, file_size, names", [
    ({0: 100, 2: 100, 3: 20}, 320, ["bytes-0-99", "bytes-200-319"]),
    ({1: 100, 2: 100}, 320, ["bytes-100-299"]),
    ({0: 100, 1: 60, 2: 100}, 260, ["bytes-0-159", "bytes-200-299"]),  # one in the middle is too short
    ({0: 100, 1: 10}, 250, ["bytes-0-109"]),  # the last one is missing
    ({0: 100, 1: 100}, 120, ["bytes-0-199"]),  # they have more bytes than the file
])
def test_parts_are_runs_of_blocks_named_after_their_bytes(sizes, file_size, names):
    files = restoring.restored("/d/a", {3: blocks(sizes, file_size)})
    assert [restoring.lost_name(file) for file in files] == [f"/lost+found/d/a.v3.{name}" for name in names]
    assert all(file.why and not file.is_whole for file in files)
    for file in files:  # each is a file by itself: all blocks but the last have the block size
        assert all(size == file.block_size for _block, size, _crcs, _keepers in file.blocks[:-1])


def test_a_pipe_is_whole_when_its_last_block_says_so():
    assert told("/a", {3: blocks({0: 100, 1: 5}, file_size=None)}) == [("-", 105)]
    assert [name for name, _size in told("/a", {3: blocks({0: 100, 1: 5}, file_size=None, last=False)})] == ["/lost+found/a.v3.bytes-0-104"]


def test_of_two_ids_for_one_index_the_later_is_taken():
    versions = {3: blocks({0: 50})}
    versions[3][0]["f" * 32] = versions[3][0][f"{0:032x}"]
    file, = restoring.restored("/a", versions)
    assert [block for block, *_ in file.blocks] == ["f" * 32]


def test_what_the_trailer_says_of_copies_and_time_is_not_believed_blindly():
    for copies in (0, 99, "3", None, True):
        file, = restoring.restored("/a", {3: blocks({0: 50}, copies=copies)})
        assert 1 <= file.copies <= model.MAX_COPIES and type(file.copies) is int


@pytest.mark.parametrize("path", ["/" + "x" * 255, "/" + "/".join(["d" * 250] * 16), "/ü" + "ü" * 120])
def test_lost_names_are_names(path):
    file, = restoring.restored(path, {3: blocks({0: 50}, file_size=90)})
    name = restoring.lost_name(file)
    assert model.clean_path(name) == name and name.startswith("/lost+found/") and name.endswith(".v3.bytes-0-49")
    assert name != restoring.lost_name(restoring.restored(path[:-1] + "y", {3: blocks({0: 50}, file_size=90)})[0])
