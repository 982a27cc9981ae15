"""fsck: what is judged healthy, short, missing and corrupt; pages; replicas read again; what lies out of use."""

import random

import pytest

from dfs_lib import errors, model
from dfs_lib.master import inspection
from dfs_lib.wire import messages
from master_helpers import MIB, Client


def inspect(world, path="/", **changes):
    return world.ask(messages.Inspect(**{"path": path, "all": True, "verify": False, **changes}))


def states(world, path="/"):
    return {one["path"]: one["state"] for one in inspect(world, path).files}


def deep(world, path="/"):
    """Every page of a deep fsck."""
    pages, after = [], None
    while True:
        page = inspect(world, path, verify=True, after=after)
        while page.check is not None:
            world.steps(1)
            page = inspect(world, path, verify=True, after=after, check=page.check)
        pages.append(page)
        after = page.after
        if after is None:
            return pages


def holders(world, path, index=0):
    return sorted(world.on_record(world.blocks_of(path)[index]))


def test_states_follow_the_keepers_that_count(make_world):
    world = make_world(3, copies=2, safe=1, repair_grace=600.0)
    client = Client(world)
    client.put("/two", 3 * MIB)
    client.put("/one", copies=1)
    client.put("/empty", 0)
    world.until(lambda: all(len(world.on_record(block)) == 2 for block in world.blocks_of("/two")))
    assert states(world) == {"/two": "healthy", "/one": "healthy", "/empty": "healthy"}
    (number,) = holders(world, "/one")
    world.keepers[number].kill()
    world.until(lambda: world.state(number) == model.DEAD)
    found = {one["path"]: one for one in inspect(world, all=False).files}
    assert found["/one"]["state"] == "missing" and found["/one"]["have"] == 0
    assert f"k{number} (dead), which may come back" in found["/one"]["blocks"][0]["reason"]
    assert "/empty" not in found
    world.keepers[number].start()
    world.until(lambda: set(states(world).values()) == {"healthy"})


def test_a_short_file_says_what_is_planned(make_world):
    world = make_world(2, copies=3, safe=2)
    Client(world).put("/a")
    world.steps(4)
    (found,) = inspect(world).files
    assert found["state"] == "under-replicated" and (found["have"], found["wanted"], found["n_bad"]) == (2, 3, 1)
    assert "2 of 3 copies are good" in found["blocks"][0]["reason"] and len(found["blocks"][0]["keepers"]) == 2


def test_corrupt_is_what_every_copy_of_was_damaged_also_after_a_restart(make_world):
    world = make_world(2, copies=2)
    Client(world).put("/a")
    (block,) = world.blocks_of("/a")
    for keeper in world.keepers.values():
        keeper.damaged.add(block)
    (page,) = deep(world)
    assert [one["state"] for one in page.files] == ["corrupt"] and len(page.damaged) == 2
    world.restart()
    world.steps(2)
    keeper = world.keepers[1]
    keeper.ask(messages.ReportKept(aside=3, quarantined=1, blocks=[{"block": block, "where": "quarantine", "reason": "flipped"}]))
    page = inspect(world)
    assert page.files[0]["state"] == "corrupt" and "quarantine on k1" in page.files[0]["blocks"][0]["reason"]
    (kept,) = page.kept
    assert (kept["name"], kept["aside"], kept["quarantined"]) == ("k1", 3, 1) and kept["blocks"][0]["path"] == "/a"


def test_a_deep_check_finds_one_bad_copy_and_it_is_repaired(make_world):
    world = make_world(3, copies=2)
    client = Client(world)
    for name in "abc":
        client.put(f"/{name}")
    world.steps(4)
    (block,), number = world.blocks_of("/b"), holders(world, "/b")[0]
    world.keepers[number].damaged.add(block)
    (page,) = deep(world)
    assert [(one["path"], one["block"]) for one in page.damaged] == [("/b", block)] and page.verified == 5 and page.unverified == 0
    world.until(lambda: set(states(world).values()) == {"healthy"})
    (page,) = deep(world)
    assert page.damaged == [] and page.verified == 6


def test_a_keeper_that_dies_meanwhile_leaves_its_part_unverified(make_world):
    world = make_world(2, copies=2)
    Client(world).put("/a")
    world.steps(4)
    page = inspect(world, verify=True)
    assert page.running == 2
    world.keepers[1].kill()
    world.until(lambda: world.state(1) == model.DEAD)
    world.steps(2)
    page = inspect(world, verify=True, check=page.check)
    assert page.check is None and page.unverified == 1 and page.verified == 1
    with pytest.raises(errors.Refusal):
        inspect(world, verify=True, check=99)


def test_unknown_blocks_are_counted(make_world):
    world = make_world(2)
    world.keepers[2].blocks[world.new_id()] = (10, b"1234")
    world.keepers[2].report()
    (kept,) = inspect(world).kept
    assert (kept["name"], kept["strays"]) == ("k2", 1)


def test_pages_meet_every_file_once_and_in_order(make_world, monkeypatch):
    monkeypatch.setattr(inspection, "PAGE_NAMES", 3)
    monkeypatch.setattr(inspection, "PAGE_FILES", 2)
    monkeypatch.setattr(inspection, "LISTING", 2)
    world, dice = make_world(1, copies=1, safe=1), random.Random(5)
    client, paths, directories = Client(world), [], ["/"]
    for n in range(40):
        parent = dice.choice(directories)
        path = model.join(parent, f"{dice.choice('abz')}{n}")
        if dice.random() < 0.4:
            world.ask(messages.MakeDirectory(path=path, parents=False, op=world.new_id()))
            directories.append(path)
        else:
            client.put(path, 0)
            paths.append(path)

    def met(top):
        found, after = [], None
        while True:
            page = inspect(world, top, after=after)
            found += [one["path"] for one in page.files]
            after = page.after
            if after is None:
                return found

    assert sorted(met("/")) == sorted(paths) and len(met("/")) == len(paths)
    for top in directories[1:]:
        assert sorted(met(top)) == sorted(path for path in paths if path.startswith(top + "/"))
    assert met(paths[0]) == [paths[0]]
    with pytest.raises(errors.NoSuchFile):
        inspect(world, "/none")


def test_a_page_that_is_full_by_its_bytes_ends(make_world, monkeypatch):
    world = make_world(1, copies=3, safe=1)
    for n in range(4):
        Client(world).put(f"/f{n}")
    monkeypatch.setattr(inspection, "FILES_BYTES", 10)
    page = inspect(world, all=False)
    assert [one["path"] for one in page.files] == ["/f0"] and page.after == "/f0" and page.kept == []
