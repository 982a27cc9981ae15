"""What a keeper tells a master without a catalog: every trailer once, in pages, its copy; and it changes nothing of what it has."""

import hashlib
import json
from types import SimpleNamespace
import zlib

from dfs_lib import log_copy
from dfs_lib.keeper import home, rebuilding
from dfs_lib.keeper.catalog_copy import CatalogCopy
from dfs_lib.keeper.store import Store
from dfs_lib.wire import messages
from store_helpers import CLUSTER, block_id, data_of, file_of, files_below, put

FACTS = SimpleNamespace(keeper_id="a" * 32, host=None, ports=(8000,), labels={})


def over_the_wire(message):
    return messages.decode(message.code, message.to_header())


class Master:
    """The stream to a master that asks for what it was given, then stops the keeper."""

    address = "there:7000"

    def __init__(self, *asks):
        self.asks, self.rows, self.copy, self.offers, self.n_pages, self.ended = list(asks), [], b"", [], 0, False

    @property
    def is_set(self):
        return not self.asks and self.ended

    def wait(self, _seconds):
        self.ended = True

    def ask(self, message, body=None, timeout_s=0):
        message = over_the_wire(message)
        if isinstance(message, messages.OfferRebuild):
            self.offers.append(message)
            what = self.asks.pop(0) if self.asks else {"what": "wait"}
            return over_the_wire(messages.RebuildAsks(text="so far", **what))
        assert hashlib.sha256(body).hexdigest() == message.sha256
        self.n_pages += 1
        if isinstance(message, messages.SendTrailers):
            self.rows += json.loads(zlib.decompress(body))
        else:
            assert message.offset == len(self.copy) and len(body) <= messages.COPY_PAGE
            self.copy += body
        self.is_last = message.last
        return messages.Done()


def helped(store, *asks):
    master = Master(*asks)
    rebuilding.Helper(FACTS, CLUSTER, store, SimpleNamespace(value=7), master).help(master)
    return master


def filled(directory, n):
    home.prepare(directory)
    store = Store(directory, CLUSTER)
    for number in range(n):
        put(store, block_id(number), data_of(100 + number, number))
    return store


def test_every_trailer_comes_once_in_order_and_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(rebuilding, "PAGE_ROWS", 3)
    with filled(tmp_path, 10) as store:
        before = files_below(tmp_path)
        master = helped(store, {"what": "trailers"})
        assert files_below(tmp_path) == before
        offer = master.offers[0]
        assert (offer.keeper, offer.cluster_id, offer.epoch, offer.n_blocks, offer.copy) == ("a" * 32, CLUSTER, 7, 10, None)
        assert [row[0] for row in master.rows] == sorted(block_id(n) for n in range(10)) and master.n_pages == 4 and master.is_last
        for block, size, crcs, metadata in master.rows:
            kept, table = store.trailer(block)
            assert (metadata, bytes.fromhex(crcs)) == (kept, table) and metadata["size"] == size


def test_it_goes_on_behind_the_block_named(tmp_path):
    with filled(tmp_path, 5) as store:
        ids = sorted(block_id(n) for n in range(5))
        assert [row[0] for row in helped(store, {"what": "trailers", "after": ids[2]}).rows] == ids[3:]
        assert helped(store, {"what": "trailers", "after": ids[-1]}).is_last


def test_damaged_files_are_told_and_stay_where_they_are(tmp_path):
    with filled(tmp_path, 4) as store:
        ids = sorted(block_id(n) for n in range(4))
        whole = file_of(tmp_path, ids[0]).read_bytes()
        file_of(tmp_path, ids[0]).write_bytes(whole[:-1])  # the footer
        raw = bytearray(file_of(tmp_path, ids[1]).read_bytes())
        raw[-60] ^= 1  # the table
        file_of(tmp_path, ids[1]).write_bytes(raw)
        before = files_below(tmp_path)
        rows = {row[0]: row for row in helped(store, {"what": "trailers"}).rows}
        assert files_below(tmp_path) == before
        assert [rows[block][1] is None for block in ids] == [True, True, False, False]
        assert "damaged" in rows[ids[0]][2]


def test_an_empty_keeper_says_so(tmp_path):
    with filled(tmp_path, 0) as store:
        master = helped(store, {"what": "trailers"})
        assert master.rows == [] and master.is_last and master.n_pages == 1


def test_the_copy_of_the_catalog_comes_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(messages, "COPY_PAGE", 50)
    with filled(tmp_path, 0) as store:
        content = data_of(120)
        base = log_copy.build_snapshot_head((3, 10), 1, 5.0, len(content), hashlib.sha256(content).digest()) + content
        record = log_copy.build_record((3, 10), [[3, 11, None, "Any", None, "x" * 100]], 1, 6.0)
        copy = CatalogCopy(tmp_path)
        copy.replace_base([base])
        copy.append(record)
        copy.close()
        master = helped(store, {"what": "copy", "offset": 0})
        assert master.offers[0].copy == {"epoch": 3, "sequence": 11, "at": 6.0, "base_size": len(base), "log_size": len(record)}
        assert master.copy == base + record and master.is_last and master.n_pages > 3
