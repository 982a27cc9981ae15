"""The simulation itself: one actor at a time, the same seed the same run, and faults that are what they are called."""

import os
import signal
import sys
import threading

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from dfs_lib import errors  # noqa: E402
from dfs_lib.net import servers, streams  # noqa: E402
from dfs_lib.wire import messages, trust  # noqa: E402
from tests.sim import threads as stand_ins  # noqa: E402
from tests.sim import toys, world as world_module  # noqa: E402


def run(seed, main, **options):
    world = toys.in_world(seed, main, **options)
    assert world.bugs == []
    return world


def ask(machine, timeout_s=1.0):
    stream = streams.connect(machine.ip, 7000, trust.client_credentials(toys.KEY), timeout_s)
    try:
        return stream.ask(messages.Ping(), timeout_s=timeout_s).facts["n"]
    finally:
        stream.close()


def two_machines(world):
    there, here = world.machine("s", "10.0.0.1"), world.machine("c", "10.0.0.2")
    echo = toys.start_echo(world, there)
    world.sleep(0.1)
    world.driver.machine = here
    return echo, there, here


def test_same_seed_same_trace():
    first, again, other = toys.echo_world(7), toys.echo_world(7), toys.echo_world(8)
    assert (first.digest, first.steps, first.now) == (again.digest, again.steps, again.now)
    assert first.digest != other.digest


def test_real_threads_and_modules_are_back_afterwards():
    before = threading.active_count()
    toys.echo_world(1)
    assert servers.threading is threading and streams.time.monotonic() > 0
    assert threading.active_count() <= before


def test_time_jumps_when_nothing_is_ready():
    world = run(1, lambda world, network: world.sleep(86_400))
    assert 86_400 <= world.now < 86_401 and world.steps < 10


def test_locks_exclude_and_conditions_hand_over():
    def main(world, network):
        lock, inside, most = stand_ins.Lock(world), [], []
        ready = stand_ins.Condition(world, stand_ins.Lock(world))
        waiting = []

        def work():
            with lock:
                inside.append(1)
                world.give_way()
                most.append(len(inside))
                inside.pop()
            with ready:
                ready.wait_for(lambda: waiting)
                waiting.pop()

        workers = [stand_ins.Thread(world, target=work) for _ in range(8)]
        for thread in workers:
            thread.start()
        for _ in range(8):
            world.sleep(0.01)
            with ready:
                waiting.append(1)
                ready.notify_all()
        for thread in workers:
            thread.join(10)
            assert not thread.is_alive()
        assert max(most) == 1

    run(3, main, preempt=0.3)


def test_nothing_ready_and_no_timer_is_a_deadlock():
    def main(world, network):
        lock = stand_ins.Lock(world)
        lock.acquire()
        lock.acquire()

    with pytest.raises(world_module.Deadlock):
        run(1, main)


def test_killed_process_refuses_and_frozen_is_silent():
    def main(world, network):
        echo, there, here = two_machines(world)
        assert ask(there) == 1
        world.freeze(echo.process)
        before_s = world.now
        with pytest.raises(errors.PeerTimeout):
            ask(there)
        assert 0.9 < world.now - before_s < 1.2
        world.thaw(echo.process)
        assert ask(there) >= 2
        world.kill(echo.process)
        with pytest.raises(errors.ConnectFailed):
            ask(there)

    run(2, main)


def test_connection_of_a_killed_process_breaks():
    def main(world, network):
        echo, there, here = two_machines(world)
        stream = streams.connect(there.ip, 7000, trust.client_credentials(toys.KEY), 1.0)
        world.kill(echo.process)
        world.sleep(1.0)
        with pytest.raises(errors.PeerGone):
            stream.ask(messages.Ping())

    run(2, main)


def test_partition_is_silence_and_heals():
    def main(world, network):
        echo, there, here = two_machines(world)
        stream = streams.connect(there.ip, 7000, trust.client_credentials(toys.KEY), 1.0)
        for cut in ({(here, there)}, {(there, here)}, {(here, there), (there, here)}):
            network.blocked.update(cut)
            with pytest.raises(errors.PeerTimeout):
                ask(there)
            network.blocked.clear()
            assert ask(there) > 0
        network.blocked.add((here, there))
        world.after(3.0, lambda _: network.blocked.clear())
        # What was sent into the partition arrives when it is over: TCP sends it again.
        assert stream.ask(messages.Ping(), timeout_s=10.0).facts["n"] > 0
        assert world.now > 3.0

    run(4, main)


def test_bytes_keep_their_order_however_they_are_cut():
    def main(world, network):
        network.split = 0.9
        echo, there, here = two_machines(world)
        one, other = [], []
        listener = network.new_socket()
        listener.bind((here.ip, 9000))
        listener.listen()

        def take():
            connection, _address = listener.accept()
            buffer = bytearray(5000)
            while n := connection.recv_into(buffer):
                other.append(bytes(buffer[:n]))

        thread = stand_ins.Thread(world, target=take)
        thread.start()
        connection = network.create_connection((here.ip, 9000), 1.0)
        for n in range(200):
            piece = bytes([n]) * (1 + n * 97 % 40_000)
            one.append(piece)
            connection.sendall(piece)
        connection.close()
        thread.join()
        assert b"".join(one) == b"".join(other) and len(other) > 500

    run(5, main)


def test_signal_reaches_its_handler_and_kill_needs_none():
    def main(world, network):
        machine = world.machine("x", "10.0.0.7")
        heard = []

        def live():
            world.current.process.handlers[signal.SIGTERM] = lambda *_: heard.append(1)
            world.sleep(100)

        process = world.start_process(machine, "x", live)
        world.sleep(1)
        world.signal(process, signal.SIGTERM)
        assert heard and process.alive
        world.signal(process, signal.SIGKILL)
        assert not process.alive

    run(1, main)
