"""Handshake, turns, seals: what a stranger, a recording and a cut stream can do, which is nothing."""

import random
import tracemalloc

import pytest
import wire_samples
from wire_samples import fresh, greeted

from dfs_lib import errors
from dfs_lib.wire import conversation, messages, trust

BLOCK = "ab" * 16
GET = messages.GetBlock(block=BLOCK, offset=0, count=5, ticket="t")


def reply(server, message, request_id, body=b""):
    return server.send(message, request_id, len(body)) + body


# -- handshake ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", [wire_samples.CLUSTER_KEY, None], ids=["keyed", "insecure"])
@pytest.mark.parametrize("role, identity", [("client", "admin"), ("keeper", BLOCK), ("master", "m ü\n")])
def test_handshake(key, role, identity):
    asker, server = greeted(key, role=role, identity=identity)
    assert asker.phase == server.phase == conversation.OPEN
    assert server.peer == (role, identity) and asker.peer.role == "master" and asker.cluster_id == wire_samples.CLUSTER
    for request_id in (1, 2, 3):
        server.receive(asker.send(messages.Ping(), request_id))
        assert server.next_message() == (messages.Ping(), request_id, 0)
        asker.receive(server.send(messages.Working(), request_id))
        asker.receive(server.send(messages.Done(), request_id))
        assert asker.next_message().message == messages.Working()
        assert asker.in_the_middle
        assert asker.next_message().message == messages.Done()
        assert not asker.in_the_middle


def test_request_right_behind_the_proof():
    asker, server = fresh()
    server.receive(asker.hello())
    asker.receive(server.challenge(server.next_message().message))
    server.receive(asker.prove(asker.next_message().message, "x") + asker.send(messages.Ping(), 1))
    server.accept(server.next_message().message)
    assert server.next_message().message == messages.Ping()


def test_wrong_key_shows_to_the_asker_before_he_says_more():
    asker, server = fresh(asker_key=b"x" * 32)
    server.receive(asker.hello())
    asker.receive(server.challenge(server.next_message().message))
    with pytest.raises(errors.BadKey, match="key of another cluster"):
        asker.prove(asker.next_message().message, "there:7000")


@pytest.mark.parametrize("key, asker_key, words", [
    (wire_samples.CLUSTER_KEY, None, "it wants a key and none was given"), (None, wire_samples.CLUSTER_KEY, "--insecure")])
def test_insecure_meets_keyed(key, asker_key, words):
    asker, server = fresh(key, asker_key=asker_key)
    server.receive(asker.hello())
    asker.receive(server.challenge(server.next_message().message))
    with pytest.raises(errors.BadKey, match=words):
        asker.prove(asker.next_message().message, "there:7000")
    # One who ignores that, and goes on without a key, is refused by the server.
    said = trust.transcript(asker._hello, server_challenge(server))
    server.receive(asker.send(messages.Proof(proof=trust.client_proof(trust.PUBLIC_SECRET, said)), 0))
    with pytest.raises(errors.BadKey):
        server.accept(server.next_message().message)


def server_challenge(server):
    return messages.Challenge(version=messages.PROTOCOL_VERSION, role="master", cluster_id=wire_samples.CLUSTER, auth=server._auth, nonce=server._nonce, proof="0" * 64)


def test_server_refuses_a_wrong_proof_and_its_log_cannot_be_forged():
    asker, server = fresh(identity="x\nERROR forged line \x1b[2J")
    server.receive(asker.hello())
    server.challenge(server.next_message().message)
    server.receive(asker.send(messages.Proof(proof="0" * 64), 0))
    with pytest.raises(errors.BadKey) as caught:
        server.accept(server.next_message().message)
    assert caught.value.message.isprintable()
    assert server.phase == conversation.CLOSED
    server.receive(asker.send(messages.Ping(), 1))
    with pytest.raises(errors.OutOfTurn):
        server.next_message()


def test_one_user_cannot_be_another():
    """A stolen client key opens neither another user nor a node."""
    ring = trust.Keyring.from_cluster_key(wire_samples.CLUSTER_KEY)
    stolen = ring.secret_for("client", "ann")
    for role, identity in (("client", "bob"), ("client", "admin"), ("keeper", "ann"), ("master", "ann")):
        asker = conversation.Asker(trust.Credentials(role, identity, stolen, "hmac"), wire_samples.PORT, wire_samples.ASKER_NONCE)
        _asker, server = fresh()
        server.receive(asker.hello())
        asker.receive(server.challenge(server.next_message().message))
        with pytest.raises(errors.BadKey):
            asker.prove(asker.next_message().message, "x")


def test_unknown_user_and_other_port():
    asker, _ = fresh()
    server = conversation.Server(lambda role, identity: None, "hmac", "master", wire_samples.CLUSTER, wire_samples.PORT, "33" * 32)
    server.receive(asker.hello())
    asker.receive(server.challenge(server.next_message().message))
    with pytest.raises(errors.BadKey, match="user was removed"):
        asker.prove(asker.next_message().message, "x")
    ring = trust.Keyring.from_cluster_key(wire_samples.CLUSTER_KEY)
    asker, _ = fresh()
    server = conversation.Server(ring.secret_for, "hmac", "master", wire_samples.CLUSTER, 7001, "33" * 32)
    server.receive(asker.hello())
    asker.receive(server.challenge(server.next_message().message))
    server.receive(asker.prove(asker.next_message().message, "x"))
    with pytest.raises(errors.BadKey):  # a handshake relayed from another port
        server.accept(server.next_message().message)


def test_challenge_of_another_version():
    asker, server = fresh()
    server.receive(asker.hello())
    challenge = messages.decode(2, server.challenge(server.next_message().message)[32:])
    challenge.version = 9
    with pytest.raises(errors.VersionMismatch, match=f"there:7000 speaks protocol 9, this program speaks {messages.PROTOCOL_VERSION}"):
        asker.prove(challenge, "there:7000")


# -- turns --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("message", wire_samples.corpus(1, 1), ids=lambda message: type(message).__name__)
def test_what_a_server_hears_out_of_turn(message):
    kind = type(message).kind
    for phase, talk in (("hello", fresh()[1]), ("open", greeted(None)[1]), ("continued", greeted(None)[1])):
        talk.continues(phase == "continued")
        speaker = greeted(None)[0]
        talk.receive(speaker.send(message, 0))
        fine = (phase, kind) in (("open", "request"), ("continued", "continuation")) or phase == "hello" and isinstance(message, messages.Hello)
        if fine:
            assert talk.next_message().message == message
        else:
            with pytest.raises(errors.ProtocolError):
                talk.next_message()
            talk.receive(speaker.send(messages.Ping(), 1))
            with pytest.raises(errors.ProtocolError):  # broken stays broken
                talk.next_message()


@pytest.mark.parametrize("message", wire_samples.corpus(2, 1), ids=lambda message: type(message).__name__)
def test_what_an_asker_hears_out_of_turn(message):
    for asked in (False, True):
        asker, server = greeted(None)
        if asked:
            asker.send(messages.Ping(), 1)
        asker.receive(server.send(message, 1))
        if asked and isinstance(message, (messages.Done, messages.Working, messages.Refused)):
            assert asker.next_message().message == message
        else:
            with pytest.raises(errors.ProtocolError):
                asker.next_message()


def test_answers_come_in_the_order_of_the_requests():
    asker, server = greeted(None)
    asker.send(messages.Ping(), 1)
    asker.send(GET, 2)
    asker.receive(server.send(messages.BlockData(size=0), 2))
    with pytest.raises(errors.OutOfTurn):
        asker.next_message()
    asker, server = greeted(None)
    asker.send(messages.Ping(), 1)
    asker.receive(server.send(messages.Done(), 2))
    with pytest.raises(errors.OutOfTurn):
        asker.next_message()


def test_handshake_frames_carry_request_id_zero():
    asker, server = fresh()
    data = bytearray(asker.hello())
    data[15] = 1
    server.receive(data)
    with pytest.raises(errors.OutOfTurn):
        server.next_message()


def test_a_body_must_be_taken_before_the_next_message():
    asker, server = greeted(None)
    asker.send(GET, 1)
    asker.receive(reply(server, messages.BlockData(size=5), 1, b"hello"))
    assert asker.next_message().body_length == 5
    with pytest.raises(errors.Misuse):
        asker.next_message()
    assert asker.take_body(2) == b"he" and asker.take_body(9) == b"llo" and asker.take_body(9) == b""
    assert asker.next_message() is None


def test_an_asker_that_never_pauses_does_not_make_the_buffer_grow():
    """Each read ends inside a message, so that there is never a moment at which everything was parsed."""
    asker, server = greeted(None)
    ping = asker.send(messages.Ping(), 1)
    server.receive(ping[:10])
    tracemalloc.start()
    for n in range(20_000):
        server.receive(ping[10:] + ping[:10])
        assert server.next_message() is not None and server.next_message() is None
    size, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(server._buffer) < 200 and size < 100_000


# -- seals --------------------------------------------------------------------------------------------------------------
def recorded():
    """A keyed session in both directions: ([bytes each asker's turn], [bytes each server's turn], how many bytes are bodies)."""
    asker, server = fresh()
    said, heard = [asker.hello()], []
    server.receive(said[-1])
    heard.append(server.challenge(server.next_message().message))
    asker.receive(heard[-1])
    said.append(asker.prove(asker.next_message().message, "x"))
    server.receive(said[-1])
    server.accept(server.next_message().message)
    for request_id, request, answer in ((1, messages.Ping(), messages.Done()), (2, GET, messages.BlockData(size=5)),
                                        (3, GET, messages.Refused(error="block_missing", message="no", facts={})), (4, messages.Ping(), messages.Done())):
        said.append(asker.send(request, request_id))
        server.receive(said[-1])
        server.next_message()
        heard.append(server.send(messages.Working(), request_id) + server.send(answer, request_id))
    return said, heard


def play_to_server(said):
    _asker, server = fresh()
    for data in said:
        server.receive(data)
        while (arrived := server.next_message()) is not None:
            if server.phase == conversation.HELLO:
                server.challenge(arrived.message)
            elif server.phase == conversation.PROOF:
                server.accept(arrived.message)
    if server.in_the_middle or server.phase != conversation.OPEN:
        raise errors.PeerGone(address="x", detail="in the middle")
    return server


def play_to_asker(heard):
    asker, _server = fresh()
    asker.hello()
    asker.receive(heard[0])
    arrived = asker.next_message()
    if arrived is None:
        raise errors.PeerGone(address="x", detail="in the middle")
    asker.prove(arrived.message, "x")
    for request_id, data in enumerate(heard[1:], 1):
        asker.send(messages.Ping() if request_id in (1, 4) else GET, request_id)
        asker.receive(data)
        while True:
            arrived = asker.next_message()
            if arrived is None:
                raise errors.PeerGone(address="x", detail="in the middle")
            if arrived.message != messages.Working():
                break
    if asker.next_message() is not None or asker.in_the_middle:
        raise errors.PeerGone(address="x", detail="in the middle")



@pytest.mark.parametrize("direction, play", [(0, play_to_server), (1, play_to_asker)], ids=["to the server", "to the asker"])
def test_a_flip_of_any_bit_of_a_recorded_session_is_noticed(direction, play):
    turns = recorded()[direction]
    play(turns)
    for turn, data in enumerate(turns):
        for at in range(len(data)):
            for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
                flipped = bytearray(data)
                flipped[at] ^= mask
                with pytest.raises((errors.ProtocolError, errors.NotPermitted, errors.PeerGone)):
                    play([*turns[:turn], bytes(flipped), *turns[turn + 1:]])


def small_instance(cls, dice):
    """The shortest of a few: the seal is over bytes, and knows no lists."""
    return min((wire_samples.instance(cls, dice) for _ in range(6)), key=lambda message: len(message.to_header()))


def flip_every_byte(talk, frame):
    """No flipped frame gives a message. Before each the side is put back to where it was: what it heard has changed nothing in it."""
    n_received = talk._n_received
    for at in range(len(frame)):
        for mask in (1 << at % 8, 255):
            flipped = bytearray(frame)
            flipped[at] ^= mask
            talk.receive(flipped)
            try:
                assert talk.next_message() is None and talk.in_the_middle, "it waits for more, which never comes"
            except errors.ProtocolError:
                assert talk.broken
            assert talk._n_received == n_received and not talk.body_left
            talk._buffer, talk._at = b"", 0
            talk.broken = False


@pytest.mark.parametrize("cls", [cls for cls in messages.BY_CODE.values() if cls.kind in ("request", "continuation")], ids=lambda cls: cls.__name__)
def test_a_flip_of_any_byte_of_any_control_message_is_noticed(cls):
    """Of each request, what follows it and each of its answers, whoever asks whom; the frame as it was is taken after all that."""
    dice = random.Random(cls.code)
    answers = {messages.Refused, messages.Working, *(cls.answers if isinstance(cls.answers, tuple) else (cls.answers,))} if cls.kind == "request" else ()
    for answer in sorted(answers, key=lambda each: each.code) or [None]:
        asker, server = greeted()
        server.continues(cls.kind == "continuation")
        said = small_instance(cls, dice)
        frame = asker.send(said, 1, 1 if cls.max_body else 0)
        if answer in (None, messages.Refused):
            flip_every_byte(server, frame)
        server.receive(frame)
        assert server.next_message().message == said
        if answer is not None:
            heard = small_instance(answer, dice)
            frame = server.send(heard, 1)
            flip_every_byte(asker, frame)
            asker.receive(frame)
            assert asker.next_message().message == heard


@pytest.mark.parametrize("direction, play", [(0, play_to_server), (1, play_to_asker)], ids=["to the server", "to the asker"])
def test_frames_left_out_repeated_or_swapped_are_noticed(direction, play):
    turns = recorded()[direction]
    first = 2 if direction == 0 else 1
    for at in range(first, len(turns) - 1):
        for changed in ([*turns[:at], *turns[at + 1:]], [*turns[:at], turns[at], *turns[at:]],
                        [*turns[:at], turns[at + 1], turns[at], *turns[at + 2:]]):
            with pytest.raises((errors.ProtocolError, errors.NotPermitted, errors.PeerGone)):
                play(changed)


def test_a_frame_does_not_work_in_the_other_direction():
    asker, server = greeted()
    asker.send(messages.Ping(), 1)
    ours = server.send(messages.Done(), 1)
    server.receive(ours)
    with pytest.raises(errors.BadFrame, match="seal is wrong"):
        server.next_message()
    asker.receive(asker.send(messages.Ping(), 2))
    with pytest.raises(errors.BadFrame, match="seal is wrong"):
        asker.next_message()


def test_a_recorded_session_opens_nothing_on_a_server_with_a_fresh_nonce():
    said, _heard = recorded()
    ring = trust.Keyring.from_cluster_key(wire_samples.CLUSTER_KEY)
    server = conversation.Server(ring.secret_for, "hmac", "master", wire_samples.CLUSTER, wire_samples.PORT, "44" * 32)
    server.receive(said[0])
    server.challenge(server.next_message().message)
    server.receive(said[1])
    with pytest.raises(errors.BadKey):
        server.accept(server.next_message().message)


def test_an_asker_cannot_be_answered_with_its_own_words():
    """Reflection: the server's proof is made from other words than the asker's, with the same secret."""
    ring = trust.Keyring.from_cluster_key(wire_samples.CLUSTER_KEY)
    asker = conversation.Asker(ring.credentials("keeper", BLOCK), 7000, "11" * 32)
    asker.hello()
    asker.receive(asker._hello and asker.send(asker._hello, 0))
    with pytest.raises(errors.OutOfTurn):
        asker.next_message()
    challenge = server_challenge(conversation.Server(ring.secret_for, "hmac", "master", wire_samples.CLUSTER, 7000, "22" * 32))
    secret, said = ring.secret_for("keeper", BLOCK), trust.transcript(asker._hello, challenge)
    challenge.proof = trust.client_proof(secret, said)
    with pytest.raises(errors.BadKey):
        asker.prove(challenge, "x")


def test_a_seal_where_none_is_due_and_none_where_one_is():
    keyed_asker, keyed_server = greeted()
    plain_asker, plain_server = greeted(None)
    keyed_server.receive(plain_asker.send(messages.Ping(), 1))
    with pytest.raises(errors.BadFrame, match="a seal is missing"):
        keyed_server.next_message()
    plain_server.receive(keyed_asker.send(messages.Ping(), 1))
    with pytest.raises(errors.BadFrame, match="a seal where none is due"):
        plain_server.next_message()


def test_bodies_are_not_sealed():
    """Known and documented: a body is covered by its length (sealed) and by chunk checksums, which find accidents, not malice."""
    asker, server = greeted()
    asker.send(GET, 1)
    asker.receive(reply(server, messages.BlockData(size=5), 1, b"hellO"))
    assert asker.next_message().body_length == 5 and asker.take_body(5) == b"hellO"
