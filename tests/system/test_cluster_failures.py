"""kill -9 of everything, one after the other and all at once, in the middle of transfers."""

import json
import os
import random
import shutil
import signal
import time

import pytest

from live_cluster import MIB, digest, is_alive, same_trees, until, write_random

pytestmark = pytest.mark.system
SIZE = 96 * MIB
WORDS = ("--json", "--block-size", "1MiB", "--jobs", "2")


def small_files(work, n, name="tree"):
    """A tree of small files, 50 a directory."""
    tree, rng = os.path.join(work, name), random.Random(5)
    for number in range(n):
        directory = os.path.join(tree, f"d{number // 50}")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"f{number}"), "wb") as out:
            out.write(rng.randbytes(rng.randrange(6000)))
    return tree


# -- the client -------------------------------------------------------------------------------------------------------
def test_a_killed_upload_is_invisible_and_the_next_one_resumes(program, make_cluster, work):
    source, back = write_random(os.path.join(work, "source"), SIZE), os.path.join(work, "back")
    cluster = make_cluster(keepers=3, program=program, master_options=["--copies", "2"])
    transfer = cluster.hold_upload(*WORDS, source, "/file", n_blocks=12)
    transfer.kill()
    assert cluster.json("ls", "/") == [] and "no such file" in cluster.dfs("stat", "/file", status=1)
    assert cluster.status()["files"] == 0
    [stored] = cluster.json("put", *WORDS[1:], source, "/file")
    assert 0 < stored["resumed_bytes"] < SIZE and stored["copies_durable"] == 2
    cluster.dfs("get", "/file", back)
    assert digest(back) == digest(source)
    until(lambda: len(cluster.block_files()) == 2 * SIZE // MIB, 20, "no block too many is kept")


def test_the_space_of_a_killed_upload_comes_back(make_cluster, work):
    source = write_random(os.path.join(work, "source"), SIZE)
    cluster = make_cluster(keepers=3, master_options=["--copies", "2", "--upload-keep", "2"])
    cluster.hold_upload(*WORDS, source, "/file", n_blocks=12).kill()
    assert cluster.block_files()
    until(lambda: not cluster.block_files(), 20, "the blocks are gone")
    status = until(lambda: (found := cluster.status())["uploads"] == 0 and not any(k["blocks"] or k["load"] for k in found["keepers"]) and found,
                   10, "the leases have lapsed")
    assert status["files"] == status["strays"] == 0
    [stored] = cluster.json("put", *WORDS[1:], source, "/file")
    assert stored["resumed_bytes"] == 0


def test_a_killed_pipe_leaves_nothing(make_cluster, work):
    """The upload is held open by a pipe that nobody closes: then the client dies."""
    cluster = make_cluster(keepers=2, master_options=["--copies", "2", "--upload-keep", "1"])
    read_end, write_end = os.pipe()
    transfer = cluster.start_transfer("put", "--block-size", "1MiB", "-", "/piped", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"x" * 65536)
    for _ in range(5 * 16):
        os.write(write_end, b"y" * 65536)
    until(lambda: len(cluster.block_files()) >= 6, 20, "blocks are stored")
    assert cluster.json("ls", "/") == []
    transfer.kill()
    os.close(write_end)
    until(lambda: not cluster.block_files() and cluster.status()["uploads"] == 0, 20, "nothing is left")
    assert cluster.json("ls", "/") == [] and not [name for name in os.listdir(os.path.join(work, "tmp")) if not name.startswith("_MEI")]


def test_a_killed_download_resumes(make_cluster, work):
    source, target = write_random(os.path.join(work, "source"), 2 * SIZE), os.path.join(work, "target")
    cluster = make_cluster(keepers=2)
    cluster.dfs("put", *WORDS[1:], source, "/file")
    cluster.hold_download("/file", target).kill()
    assert not os.path.exists(target)
    [got] = cluster.json("get", "/file", target)
    assert got["resumed_bytes"] > 0 and digest(target) == digest(source)
    assert sorted(name for name in os.listdir(work) if "target" in name) == ["target"]


# -- keepers ----------------------------------------------------------------------------------------------------------
def test_a_keeper_dies_during_an_upload(program, make_cluster, work):
    source, back = write_random(os.path.join(work, "source"), SIZE), os.path.join(work, "back")
    cluster = make_cluster(keepers=3, program=program, master_options=["--copies", "2"])
    transfer = cluster.hold_upload(*WORDS, source, "/file")
    [victim, *_] = [name for name, _index in cluster.keepers_in_use(transfer)]
    cluster.kill(victim)
    transfer.resume()
    status, out, err = transfer.finish()
    assert status == 0, err
    assert json.loads(out)["copies_durable"] == 2
    cluster.dfs("get", "/file", back)
    assert digest(back) == digest(source)


def test_a_keeper_dies_during_a_download(program, make_cluster, work):
    source = write_random(os.path.join(work, "source"), SIZE)
    cluster = make_cluster(keepers=2, program=program, master_options=["--copies", "2"])
    cluster.dfs("put", source, "/file")
    with open(os.path.join(work, "back"), "wb") as back:
        transfer = cluster.start_transfer("get", "/file", "-")
        back.write(transfer.process.stdout.read(MIB))
        [(victim, _index), *_] = cluster.keepers_in_use(transfer)
        cluster.kill(victim)
        shutil.copyfileobj(transfer.process.stdout, back)
    assert transfer.finish()[0] == 0
    assert digest(os.path.join(work, "back")) == digest(source)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_port_process_dies_during_a_transfer(make_cluster, work, direction):
    source, back = write_random(os.path.join(work, "source"), SIZE if direction == "up" else 2 * SIZE), os.path.join(work, "back")
    cluster = make_cluster(keepers=2, master_options=["--copies", "2"])
    if direction == "up":
        transfer = cluster.hold_upload(*WORDS, source, "/file")
    else:
        cluster.dfs("put", *WORDS, source, "/file")
        transfer = cluster.hold_download("/file", back)
    [(name, index), *_] = cluster.keepers_in_use(transfer)
    before = cluster.pids_of(name)
    os.kill(before[1 + index], signal.SIGKILL)
    killed_s = time.monotonic()
    transfer.resume()
    until(lambda: cluster.answers(cluster.keepers[name].ports[index]), 3, "the port answers again")
    status, out, err = transfer.finish()
    assert status == 0, err
    assert time.monotonic() - killed_s < 30
    if direction == "up":
        assert json.loads(out)["copies_durable"] == 2
        cluster.dfs("get", "/file", back)
    assert digest(back) == digest(source)
    after = until(lambda: (now := cluster.pids_of(name))[1 + index] not in (0, before[1 + index]) and now, 10, "its new process is told")
    assert all(map(is_alive, after)) and after[0] == before[0]


# -- the master -------------------------------------------------------------------------------------------------------
def lines_until(stream, n):
    """At least n lines of JSON that a transfer has printed, fewer at its end."""
    lines = []
    while len(lines) < n and (line := stream.readline()):
        lines.append(json.loads(line))
    return lines


def test_the_master_dies_again_and_again_during_puts(program, make_cluster, work):
    """A tree and a large file on their way; three kills; both arrive by themselves, and nothing acknowledged is ever missing."""
    tree, source, back = small_files(work, 900), write_random(os.path.join(work, "source"), SIZE), os.path.join(work, "back")
    cluster = make_cluster(keepers=3, program=program, master_options=["--copies", "2"])
    transfer, large, acknowledged = cluster.start_transfer("put", "-r", "--json", tree, "/tree"), None, []
    for n_lines in (1, 200, 300):
        acknowledged += lines_until(transfer.process.stdout, n_lines)
        large = large or cluster.hold_upload(*WORDS, source, "/large")
        cluster.kill("master")
        large.resume()
        cluster.restart("master")
        with cluster.client() as client:
            for line, found in zip(acknowledged, client.stat_many([line["path"] for line in acknowledged])):
                assert isinstance(found, dict) and (found["version"], found["size"]) == (line["version"], line["size"]), line
    for each in (transfer, large):
        status, out, err = each.finish(90)
        assert status == 0, err
    cluster.dfs("get", "-r", "/tree", back)
    assert same_trees(tree, back) == ""
    cluster.dfs("get", "/large", os.path.join(work, "large"))
    assert digest(os.path.join(work, "large")) == digest(source)


def test_a_tree_waits_for_keepers_that_are_late_and_not_for_keepers_that_are_gone(make_cluster, work):
    """Two of three keepers stand still: while the master has just started, and until they count as dead. Then they are killed."""
    tree, back = small_files(work, 900), os.path.join(work, "back")
    cluster = make_cluster(keepers=3, keeper_options=["--heartbeat-every", "0.3"],
                           master_options=["--copies", "2", "--suspect-after", "1", "--dead-after", "2"])
    transfer = cluster.start_transfer("put", "-r", "--json", tree, "/tree")
    lines_until(transfer.process.stdout, 1)
    transfer.stop()
    cluster.kill("master")
    late = ("k2", "k3")
    for name in late:
        cluster.pause(name)
    cluster.restart("master")
    transfer.resume()
    waits = ["put", "--json", "--patience", "0.2", os.path.join(tree, "d0", "f0"), "/one"]
    assert json.loads(cluster.dfs(*waits, status=1))["error"] == "not_ready"
    for name in late:
        cluster.resume(name)
    cluster.wait_live(3)
    transfer.stop()
    for name in late:
        cluster.pause(name)
    for state in ("suspect", "dead"):
        until(lambda: [cluster.states()[name] for name in late] == [state] * 2, 10, f"both are {state}")
        assert json.loads(cluster.dfs(*waits, status=1))["error"] == "not_ready"
        transfer.resume()
    for name in late:
        cluster.resume(name)
    status, _out, err = transfer.finish(60)
    assert status == 0, err
    cluster.dfs("get", "-r", "/tree", back)
    assert same_trees(tree, back) == ""
    for name in late:
        cluster.kill(name)
    began_s = time.monotonic()
    assert json.loads(cluster.dfs("put", "--json", waits[-2], "/one", status=1))["error"] == "too_few_keepers"
    assert time.monotonic() - began_s < 5, "nobody waits for what cannot come"


def test_master_and_client_die_together(make_cluster, work):
    """What the dead client was told is there and the same; what it was not told is whole or absent."""
    tree, back = small_files(work, 700), os.path.join(work, "back")
    cluster = make_cluster(keepers=2, master_options=["--copies", "2"])
    transfer = cluster.start_transfer("put", "-r", "--json", tree, "/tree")
    acknowledged = lines_until(transfer.process.stdout, 150)
    cluster.kill("master")
    transfer.signal(signal.SIGKILL)
    acknowledged += lines_until(transfer.process.stdout, 10**6)
    cluster.restart("master")
    cluster.wait_live(2)
    cluster.dfs("get", "-r", "/tree", back)
    for line in acknowledged:
        relative = line["path"].removeprefix("/tree/")
        assert digest(os.path.join(back, relative)) == digest(os.path.join(tree, relative))
    assert not [line for line in same_trees(tree, back).splitlines() if not line.startswith(f"Only in {tree}")]
    cluster.dfs("put", "-r", tree, "/")
    cluster.dfs("get", "-r", "/tree", back + "2")
    assert same_trees(tree, back + "2") == ""


def test_a_client_waits_for_the_master_in_the_middle_of_a_download(make_cluster, work):
    """More blocks than one answer of the master names: the client has to ask again while it is dead."""
    source, target = write_random(os.path.join(work, "source"), 2 * SIZE), os.path.join(work, "target")
    cluster = make_cluster(keepers=2, master_options=["--copies", "2"])
    cluster.dfs("put", *WORDS, source, "/file")
    transfer = cluster.hold_download("/file", target)
    cluster.kill("master")
    transfer.resume()
    cluster.restart("master")
    status, _out, err = transfer.finish()
    assert status == 0, err
    assert digest(target) == digest(source)


# -- all at once ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["clean", "kill -9"])
def test_everything_is_there_after_a_restart_of_everything(make_cluster, work, how):
    tree, source = small_files(work, 150), write_random(os.path.join(work, "source"), 20 * MIB)
    cluster = make_cluster(keepers=3)
    cluster.dfs("put", "-r", tree, "/tree")
    cluster.dfs("put", "--block-size", "4MiB", source, "/large")
    if how == "clean":
        cluster.stop()
    else:
        cluster.kill_all()
    cluster.start()
    cluster.dfs("get", "-r", "/tree", os.path.join(work, "back"))
    assert same_trees(tree, os.path.join(work, "back")) == ""
    cluster.dfs("get", "/large", os.path.join(work, "large"))
    assert digest(os.path.join(work, "large")) == digest(source)
    cluster.dfs("wait", "--copies", "--timeout", "40")
    status = cluster.status()
    assert (status["files"], status["missing"], status["under_replicated"]) == (151, 0, 0)
    cluster.dfs("put", source, "/another")
