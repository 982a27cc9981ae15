"""The real threads at once: handlers of many connections, ticker and repairer over one catalog. What must hold holds, and nothing hangs."""

import random
import sys
import threading
import time
import traceback

from master_helpers import Client

from dfs_lib import errors
from dfs_lib.master import transfers as transfers_module
from dfs_lib.wire import messages

PATIENCE_S = 60.0


def test_clients_keepers_ticker_and_repairer_at_once(make_world, caplog, monkeypatch):
    monkeypatch.setattr(transfers_module, "READ_HOLD_S", 0.1)
    monkeypatch.setattr(transfers_module, "READ_RATE", 1 << 30)
    world = make_world(4, trash_grace=0.2, repair_grace=0.2)
    began_s, begun = time.monotonic(), world.now
    world.tracker.clock = lambda: begun + time.monotonic() - began_s
    world.tracker.started_s = begun
    monkeypatch.setattr(type(world), "now", property(lambda self: self.tracker.clock()), raising=False)
    stop, failures, mine = threading.Event(), [], {}

    def guarded(work, *args):
        def run():
            try:
                work(*args)
            except BaseException:
                failures.append(traceback.format_exc())
        return threading.Thread(target=run, daemon=True)

    def keeper_loop(keeper):
        while not stop.is_set():
            keeper.live()
            stop.wait(0.002)

    def ticker_loop():
        while not stop.is_set():
            world.ticker.step()
            stop.wait(0.005)

    def client_loop(n):
        dice = random.Random(n)
        for i in range(25):
            client, path = Client(world, f"{n}-{i}"), f"/{n}-{dice.randrange(5)}"
            opened = client.open(path, 10, copies=dice.choice((1, 2, 3)))
            record = client.store(opened["grants"][0], 10)
            if dice.random() < 0.2:
                client.ask(messages.AbandonUpload(upload=opened["upload"], keep=False))
                continue
            assert client.commit(opened["upload"], 10, [record])["version"]
            mine[path] = record["block"]
            assert client.download(path)["refused"] is None
            if dice.random() < 0.3:
                client.ask(messages.SetCopies(path=path, copies=dice.choice((1, 2, 4)), op=f"{n}-{i}"))
            if dice.random() < 0.2:
                client.remove(path)
                del mine[path]
            client.ask(messages.Status())
            client.gone()

    def is_settled():
        status = world.status()
        return (not status.under_replicated and not status.repairs_running and not world.queries().trash(None, 1)
                and not any(world.queries().drops(number, 1) for number in world.keepers) and not world.n_orders("drop")
                and all(len(world.on_disk(block)) == world.queries().entry(path).copies_wanted for path, block in list(mine.items())))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    clients = [guarded(client_loop, n) for n in range(4)]
    others = [guarded(keeper_loop, keeper) for keeper in world.keepers.values()] + [guarded(ticker_loop)]
    try:
        world.repairer.start()
        for thread in others + clients:
            thread.start()
        for thread in clients:
            thread.join(PATIENCE_S)
        end_s = time.monotonic() + PATIENCE_S
        while not is_settled() and not failures and time.monotonic() < end_s:
            time.sleep(0.01)
        assert failures == []
        assert not any(thread.is_alive() for thread in clients)
        assert is_settled()
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in others:
            thread.join(PATIENCE_S)
        world.repairer.stop()
    assert failures == [] and not any(record.exc_info for record in caplog.records)
    assert all(world.on_disk(block) == world.on_record(block) for block in mine.values())
    assert "repair_bugs" not in world.tracker.counters() and len(world.tracker.uploads) == 0
    assert not any(world.repairer._outgoing.values()) and not any(world.repairer._incoming.values())


def test_the_repairers_thread_misses_no_event(make_world):
    """Something is noticed while a round is under way: another follows at once, not after the next time-out."""
    world = make_world(3)
    rounds, second = [], threading.Event()
    step = world.repairer.step

    def counted():
        rounds.append(1)
        if len(rounds) == 1:
            world.repairer.notice([])
        else:
            second.set()
        return step() and False

    wait = world.repairer._wake.wait
    world.repairer._wake.wait = lambda _timeout_s: wait(2 * PATIENCE_S)
    world.repairer.step = counted
    world.repairer.start()
    assert second.wait(PATIENCE_S)
    world.repairer.stop()
    assert not world.repairer._thread.is_alive()


def test_a_failed_catalog_ends_the_repairer(make_world):
    world = make_world(3)

    def failed():
        raise errors.CatalogDamaged(path="x", detail="y")

    world.repairer.step = failed
    world.repairer.start()
    world.repairer._thread.join(PATIENCE_S)
    assert not world.repairer._thread.is_alive()
