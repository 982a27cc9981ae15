"""Mutated bytes raise ProtocolError or NotPermitted, and nothing else.

By hand, for longer: `python tests/unit/wire/test_garbage.py 5000000 [seed]`.
"""

import pathlib
import random
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))

import wire_samples

from dfs_lib import errors
from dfs_lib.wire import conversation, heartbeats, messages, trust

ALLOWED = (errors.ProtocolError, errors.NotPermitted)
_TOKENS = [b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 30, b"9" * 5000, b'"', b"\\ud800", b"\\u0000", b"[", b"]", b"{", b"}", b",", b":",
           b"[[[[[[[[[[", b'{"a":' * 50, b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\r\n\r\n", b"0.5", b"[]", b"{}", b"false", b"\0" * 8, b"\xff" * 8]


def mutated(data, dice):
    """Some bytes, changed in one to four ways."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        kind, at = dice.randrange(7), dice.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = dice.choice((0, 1, 127, 128, 255, 34, 92))
        elif kind == 2:
            data[at:at + dice.randrange(1, 9)] = b""
        elif kind == 3:
            data[at:at] = dice.choice(_TOKENS)
        elif kind == 4:
            token = dice.choice(_TOKENS)
            data[at:at + len(token)] = token
        elif kind == 5:
            del data[at:]
        else:
            other = dice.randrange(len(data) + 1)
            data[at:at] = data[min(at, other):max(at, other)][:200]
    return bytes(data)


def feed(talk, data, cut):
    """Everything a caller would do with arrived bytes."""
    for part in (data[:cut], data[cut:]):
        talk.receive(part)
        while (arrived := talk.next_message()) is not None:
            repr(arrived.message)
            if talk.phase == conversation.HELLO:
                talk.challenge(arrived.message)
            elif talk.phase == conversation.PROOF:
                talk.accept(arrived.message)
            elif talk.phase == conversation.CHALLENGE and isinstance(arrived.message, messages.Challenge):
                talk.prove(arrived.message, "x")
            while talk.take_body(1000):
                pass
            if talk.body_left:
                return


def run(n, seed):
    """How many of `n` mutations were refused, by the name of the refusal."""
    dice = random.Random(seed)
    corpus = [(type(message).code, message.to_header(), message) for message in wire_samples.corpus(seed, 4)]
    asker, server = wire_samples.fresh(None)
    hello = asker.hello()
    server.receive(hello)
    challenge = server.challenge(server.next_message().message)
    ring = trust.Keyring.from_cluster_key(wire_samples.CLUSTER_KEY)
    ticket = trust.make_ticket(ring.ticket, trust.Ticket(1, 2, "ab" * 16, "cd" * 16, 1, 2, 3, bytes(8)))
    beat = heartbeats.pack(heartbeats.Heartbeat("ab" * 8, "cd" * 16, 1, 2, 3, 4, {1: 2}), ring.node)
    counts = {}
    for number in range(n):
        kind = number % 10
        code, header, message = dice.choice(corpus)
        try:
            if kind < 5:
                messages.decode(code if kind else dice.randrange(100), mutated(header, dice))
            elif kind == 5:
                asker, talk = wire_samples.greeted(None)
                data = mutated(asker.send(message, 1), dice)
                talk.continues(dice.random() < 0.1)
                feed(talk, data, dice.randrange(len(data) + 1))
            elif kind == 6:
                talk, server = wire_samples.greeted(None)
                talk.send(messages.GetBlock(block="ab" * 16, offset=0, count=1, ticket=""), 1)
                data = mutated(server.send(message, 1), dice)
                feed(talk, data, dice.randrange(len(data) + 1))
            elif kind == 7:
                data = mutated(hello, dice)
                feed(wire_samples.fresh()[1], data, dice.randrange(len(data) + 1))
            elif kind == 8:
                talk = wire_samples.fresh()[0]
                talk.hello()
                data = mutated(challenge, dice)
                feed(talk, data, dice.randrange(len(data) + 1))
            else:
                heartbeats.unpack(mutated(beat, dice), ring.node)
                trust.read_ticket(ring.ticket, mutated(ticket.encode(), dice).decode("latin-1"))
            name = "understood"
        except ALLOWED as e:
            e.message.encode()  # a refusal can be logged and sent
            name = type(e).__name__
        except Exception as e:
            raise AssertionError(f"{type(e).__name__} from mutation {number} of seed {seed}") from e
        counts[name] = counts.get(name, 0) + 1
    return counts


def test_garbage_is_refused_and_nothing_worse():
    counts = run(100_000, seed=20240229)
    assert counts.get("Misuse", 0) == 0
    assert counts["BadMessage"] > 20_000 and counts["BadFrame"] > 10_000


def test_random_bytes():
    dice = random.Random(5)
    for _ in range(2000):
        for talk in (wire_samples.fresh()[1], wire_samples.greeted()[1], wire_samples.greeted(None)[1]):
            talk.receive(dice.randbytes(dice.randrange(200)) if dice.random() < 0.5 else b"\x89DFS\1" + dice.randbytes(60))
            try:
                assert talk.next_message() is None
            except ALLOWED:
                pass


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
