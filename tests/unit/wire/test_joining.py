"""Join codes, pads and the role of a joiner: nothing of the other roles gets weaker by them."""

import pytest
import wire_samples

from dfs_lib import errors
from dfs_lib.wire import conversation, messages, trust

SECRET = bytes(range(16))
NAME = "0a1b2c3d"
RING = trust.Keyring.from_cluster_key(wire_samples.CLUSTER_KEY)


def joined(asker_secret=SECRET, known=True):
    def secret_for(role, identity):
        return trust.join_secret(NAME, SECRET) if known and (role, identity) == (trust.JOINER, NAME) else RING.secret_for(role, identity)

    credentials = trust.Credentials(trust.JOINER, NAME, trust.join_secret(NAME, asker_secret), "hmac")
    asker = conversation.Asker(credentials, 7000, "11" * 32)
    server = conversation.Server(secret_for, "hmac", "master", wire_samples.CLUSTER, 7000, "22" * 32)
    server.receive(asker.hello())
    asker.receive(server.challenge(server.next_message().message))
    server.receive(asker.prove(asker.next_message().message, "there"))
    server.accept(server.next_message().message)
    return asker, server


def test_keys_travel_under_a_pad_of_the_conversation():
    asker, server = joined()
    keys = RING.to_bytes()
    hidden, code = trust.wrap_keys(server.export(b"join pad", 96), server.export(b"join code", 32), keys)
    assert keys not in hidden and all(keys[at:at + 32] not in hidden for at in (0, 32, 64))
    mine = asker.export(b"join pad", 96), asker.export(b"join code", 32)
    assert trust.unwrap_keys(*mine, hidden, code) == keys
    again = trust.Keyring.from_bytes(keys)
    assert (again.node, again.ticket, again.clients, again.auth) == (RING.node, RING.ticket, RING.clients, "hmac")
    for at in range(96):
        with pytest.raises(errors.BadKey):
            trust.unwrap_keys(*mine, hidden[:at] + bytes([hidden[at] ^ 1]) + hidden[at + 1:], code)
    with pytest.raises(errors.BadKey):
        trust.unwrap_keys(*mine, hidden[:-1], code)
    assert len({server.export(label, 32) for label in (b"a", b"b", b"join code")}) == 3


@pytest.mark.parametrize("how", [{"asker_secret": b"x" * 16}, {"known": False}])
def test_without_the_code_nobody_joins(how):
    with pytest.raises(errors.BadKey):
        joined(**how)


def test_a_keyring_knows_no_joiner():
    for ring in (RING, trust.Keyring.from_cluster_key(None)):
        for role in (trust.JOINER, "", "user", "admin"):
            assert ring.secret_for(role, NAME) is None


def test_a_joiner_may_join_and_nothing_else():
    allowed = [cls for cls in messages.BY_CODE.values() if cls.kind in ("request", "notice", "continuation") and messages.JOINER in cls.who]
    assert allowed == [messages.Join] and messages.Join.who == {messages.JOINER}


def test_a_conversation_without_keys_exports_none():
    asker, server = wire_samples.greeted(None)
    for side in (asker, server, wire_samples.fresh()[0]):
        with pytest.raises(errors.Misuse):
            side.export(b"x", 32)


def test_codes():
    code = trust.join_code(NAME, SECRET)
    assert trust.read_join_code(f" {code.upper()}\n") == (NAME, SECRET)
    for bad in ("", code[:-1], code + "0", code.replace("-", ""), "x" + code[1:], code.replace("-", "_"), "é" + code[1:]):
        with pytest.raises(errors.BadJoinCode):
            trust.read_join_code(bad)


def test_covered_both_ways():
    key = bytes(range(32))
    hidden = trust.covered(b"s" * 32, "n", key)
    assert hidden != key and trust.covered(b"s" * 32, "n", hidden) == key
    assert trust.covered(b"s" * 32, "m", key) != hidden != trust.covered(b"t" * 32, "n", key)
