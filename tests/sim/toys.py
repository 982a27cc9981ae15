"""Small worlds that show that the scheduler and the network are what they claim to be; test_world.py runs them.

`python3 -m tests.sim.toys NAME SEED` prints the run's trace, so that two processes can be compared.
"""

import sys

from dfs_lib.net import servers, streams
from dfs_lib.wire import conversation, messages, trust
from tests.sim.network import Network
from tests.sim.stand_ins import installed
from tests.sim.world import World

KEY = b"k" * 32


class Echo:
    """A service that answers Ping."""

    def __init__(self):
        self.n_asked = 0

    def handle(self, message, exchange):
        self.n_asked += 1
        exchange.answer(messages.Done(facts={"n": self.n_asked}))


def talk(port, nonce):
    keyring = trust.Keyring.from_cluster_key(KEY)
    return conversation.Server(keyring.secret_for, keyring.auth, "master", "c" * 32, port, nonce)


def in_world(seed, main, **options):
    """Run main(world, network) as the driver; returns the World."""
    world = World(seed, **options)
    network = Network(world)
    with installed(world, network, "dfs_lib.net", "dfs_lib.wire"):
        world.run(lambda: main(world, network))
    return world


def start_echo(world, machine):
    echo = Echo()

    def serve():
        server = servers.Server((machine.ip, 7000), echo, talk)
        server.start()
        servers.time.sleep(1000)

    echo.process = world.start_process(machine, "echo", serve)
    return echo


def echo_world(seed):
    """Five clients, twenty questions each, over the real Server, Stream and handshake."""
    answered = []

    def main(world, network):
        there, here = world.machine("s", "10.0.0.1"), world.machine("c", "10.0.0.2")
        start_echo(world, there)

        def client():
            streams.time.sleep(0.1)
            stream = streams.connect(there.ip, 7000, trust.client_credentials(KEY), 1.0)
            for _ in range(20):
                answered.append(stream.ask(messages.Ping()).facts["n"])
            stream.close()

        clients = [world.start_process(here, f"client{n}", client) for n in range(5)]
        while any(process.alive for process in clients):
            world.sleep(0.1)

    world = in_world(seed, main)
    assert sorted(answered) == list(range(1, 101)), answered
    assert not world.bugs, world.bugs
    return world


def main():
    toy = {"echo": echo_world}[sys.argv[1]]
    world = toy(int(sys.argv[2]))
    print(f"{world.digest:08x} {world.steps}")


if __name__ == "__main__":
    main()
