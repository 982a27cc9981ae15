"""Valid instances of every message, out of the field table itself, by seeded dice; and two sides that have shaken hands.

Reads the checks' closures (`text.<locals>.check` and the limits it holds): a new kind of field that this file does not
know fails loudly in `value_for`.
"""

import random

from dfs_lib.wire import conversation, fields, messages, trust

CLUSTER = "c1" * 16
CLUSTER_KEY = bytes(range(32))
ASKER_NONCE, SERVER_NONCE = "11" * 32, "22" * 32
PORT = 7000
_LETTERS = "abcXYZ019 _-./\\\"'{}[]:,\n\t\x00\x7fäöß€\u2028\U0001f600"


def value_for(call, dice):
    """A valid value for one field's check function; edges of its range come up often."""
    if call is fields._plain:
        return dice.choice([None, True, 0, -5, 1.5, "text ü", ["a", 1, [2]], {"k": "v", "n": {"m": None}}])
    held = dict(zip(call.__code__.co_freevars, (cell.cell_contents for cell in call.__closure__ or ())))
    kind = call.__qualname__.partition(".")[0]
    if kind == "text":
        n = dice.choice([0, 1, dice.randrange(40), held["max_characters"] if dice.random() < 0.1 else 3])
        return "".join(dice.choices(_LETTERS, k=min(n, held["max_characters"])))
    if kind == "hexadecimal":
        return "".join(dice.choices("0123456789abcdef", k=held["n_characters"]))
    if kind == "checksums":
        n = dice.choice([0, 1, 3, held["max_chunks"] if dice.random() < 0.05 else 2])
        return "".join(dice.choices("0123456789abcdef", k=8 * n))
    if kind == "integer":
        return dice.choice([held["low"], held["high"], dice.randint(held["low"], held["high"])])
    if kind == "number":
        return dice.choice([held["low"], held["high"], dice.uniform(held["low"], held["high"])])
    if kind == "boolean":
        return dice.random() < 0.5
    if kind == "one_of":
        return dice.choice(held["values"])
    if kind == "list_of":
        n = min(held["high"], max(held["low"], dice.choice([0, 1, 1, 2, 3])))
        return [value_for(held["call"], dice) for _ in range(n)]
    if kind == "mapping":
        return {value_for(held["key_check"], dice): value_for(held["call"], dice) for _ in range(min(held["max_entries"], dice.randrange(4)))}
    if kind == "record":
        return {name: None if is_optional and dice.random() < 0.4 else value_for(check, dice) for name, check, is_optional in held["rows"]}
    if kind == "row":
        return [None if is_optional and dice.random() < 0.4 else value_for(check, dice) for check, is_optional in held["checks"]]
    raise AssertionError(f"wire_samples does not know how to make a value for {call.__qualname__}")


def instance(cls, dice):
    """A valid message of this class."""
    values = {}
    for name, call, is_optional in cls.checks:
        value = None if is_optional and dice.random() < 0.4 else value_for(call, dice)
        if value is None and not is_optional:
            value = {}
        values[name] = value
    return cls(**values)


def corpus(seed, n_each=3):
    """Instances of every message there is."""
    dice = random.Random(seed)
    return [instance(cls, dice) for cls in messages.BY_CODE.values() for _ in range(n_each)]


def fresh(key=CLUSTER_KEY, role="client", identity="admin", asker_key=0):
    """(asker, server), nothing said yet. asker_key: when the asker holds another key."""
    ring = trust.Keyring.from_cluster_key(key)
    asker_ring = ring if asker_key == 0 else trust.Keyring.from_cluster_key(asker_key)
    asker = conversation.Asker(asker_ring.credentials(role, identity), PORT, ASKER_NONCE)
    server = conversation.Server(ring.secret_for, ring.auth, "master", CLUSTER, PORT, SERVER_NONCE)
    return asker, server


def greeted(key=CLUSTER_KEY, **more):
    """(asker, server) with the handshake behind them."""
    asker, server = fresh(key, **more)
    server.receive(asker.hello())
    asker.receive(server.challenge(server.next_message().message))
    server.receive(asker.prove(asker.next_message().message, "there:7000"))
    server.accept(server.next_message().message)
    return asker, server
