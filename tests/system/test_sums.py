"""Files of several blocks get their SHA-256 by themselves, from keepers that read each other's blocks while there is nothing else to do."""

import os

import pytest

from live_cluster import MIB, digest, until, write_random

pytestmark = pytest.mark.system


def sum_of(cluster, path):
    found, = cluster.json("stat", path)
    return found["sha256"]


def has_all_copies(client):
    status = client.status()
    return not (status.under_replicated or status.missing or status.repairs_running)


def test_a_file_on_several_keepers_is_summed_unasked_and_damage_met_on_the_way_is_made_good(make_cluster, work):
    """By the default it is left alone for ten minutes; after a restart of the master whatever is there counts as old enough."""
    cluster = make_cluster(keepers=4, n_ports=1, master_options=["--copies", "2", "--repair-grace", "0"])
    client = cluster.client(block_size=MIB)
    local = write_random(os.path.join(work, "large"), 18 * MIB + 4321)  # more than a page of blocks
    client.put(local, "/large")
    until(lambda: has_all_copies(client), 30, "two copies of each")
    blocks = client.stat("/large", blocks=True)["blocks"]
    assert len({keeper for block in blocks for keeper in block["keepers"]}) >= 3 and sum_of(cluster, "/large") is None
    names, damaged = {cluster.keeper_id(name): name for name in cluster.keepers}, set()
    for block in blocks:  # one of the two of each, so that whoever reads meets some, here and elsewhere
        path = os.path.join(cluster.directory, names[block["keepers"][block["index"] % 2]], "blocks", block["block"][-2:], block["block"])
        damaged.add(block["block"])
        with open(path, "r+b") as file:
            file.seek(77)
            byte = file.read(1)[0]
            file.seek(77)
            file.write(bytes((byte ^ 1,)))
    cluster.restart("master")
    total = until(lambda: sum_of(cluster, "/large"), 40, "its sum is known")
    assert total == digest(local) == cluster.dfs("sum", "/large").split()[0]
    kept = until(lambda: {name[:32] for keeper in cluster.keepers for name in os.listdir(os.path.join(cluster.directory, keeper, "quarantine"))}, 20,
                 "what was met is in quarantine")
    assert kept <= damaged
    until(lambda: client.status().counters.get("replicas_bad", 0) >= 1 and has_all_copies(client), 30, "and made again")
    assert client.status().counters["sums_filled_in"] == 1


def test_of_a_file_that_is_replaced_while_it_is_summed_only_the_new_sum_is_recorded(make_cluster, work):
    cluster = make_cluster(keepers=3, n_ports=1, master_options=["--sum-after", "0"], keeper_options=["--scrub-rate", "4MiB"])
    client = cluster.client(block_size=MIB)
    client.put(write_random(os.path.join(work, "old"), 16 * MIB), "/file")
    until(lambda: client.status().counters.get("sums_ordered"), 30, "a keeper is at it")
    new = write_random(os.path.join(work, "new"), 2 * MIB + 1)
    client.put(new, "/file")
    assert "sums_filled_in" not in client.status().counters
    assert until(lambda: sum_of(cluster, "/file"), 40, "the new one's sum is known") == digest(new)
    assert client.status().counters["sums_filled_in"] == 1
