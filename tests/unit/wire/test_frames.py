"""The fixed head: ceilings, reserved bits, truncation."""

import pytest
import wire_samples

from dfs_lib import errors
from dfs_lib.wire import frames, messages

HEAD = frames.HEAD
LENGTHS = [0, 1, 1 << 31, (1 << 32) - 1]
BODIES = [*LENGTHS, 1 << 32, 1 << 63, (1 << 64) - 1]


def head(magic=frames.MAGIC, layout=1, flags=0, code=messages.Ping.code, request_id=1, header=2, zero=0, body=0):
    return HEAD.pack(magic, layout, flags, code, request_id, header, zero, body)


def test_there_and_back():
    for sealed in (False, True):
        data = frames.pack(94, (1 << 64) - 1, 7, 1 << 30, sealed)
        assert len(data) == 32
        assert frames.parse(data, 4096) == (sealed, 94, (1 << 64) - 1, 7, 1 << 30)
        assert frames.parse(b"xyz" + data, 4096, 3) == frames.parse(data, 4096)


@pytest.mark.parametrize("header", LENGTHS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("code", [messages.Ping.code, messages.PutBlock.code, messages.BlockData.code, 999])
def test_lengths_are_believed_up_to_their_ceilings_alone(header, body, code):
    """A length over its ceiling is refused from the 32 bytes of the head alone: nothing is waited for, nothing is kept."""
    _asker, server = wire_samples.greeted(None)
    data = head(header=header, body=body, code=code)
    server.receive(data)
    if header > frames.MAX_HEADER or body > frames.MAX_BODY:
        with pytest.raises(errors.BadFrame):
            server.next_message()
    elif header:
        assert server.next_message() is None
        server.receive(b"{}"[:header])
        with pytest.raises(errors.ProtocolError):
            server.next_message()
    else:
        with pytest.raises(errors.BadMessage):
            server.next_message()


@pytest.mark.parametrize("header, fine", [(4096, True), (4097, False), (1 << 20, False)])
def test_a_stranger_gets_four_kilobytes(header, fine):
    _asker, server = wire_samples.fresh()
    server.receive(head(code=messages.Hello.code, request_id=0, header=header))
    if fine:
        assert server.next_message() is None
    else:
        with pytest.raises(errors.BadFrame, match="ceiling"):
            server.next_message()


def test_a_body_over_the_messages_own_ceiling():
    _asker, server = wire_samples.greeted(None)
    server.receive(head(body=1) + b"{}")
    with pytest.raises(errors.BadFrame, match="Ping with a body of 1 bytes, at most 0"):
        server.next_message()


@pytest.mark.parametrize("data", [
    head(magic=b"\x89DFT"), head(layout=0), head(layout=2), head(flags=2), head(flags=255), head(zero=1), head(zero=1 << 31),
    head(flags=1), b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01", b"\0", b"\x89E", b"\x89DFX",
])
def test_refused_at_once(data):
    _asker, server = wire_samples.greeted(None)
    server.receive(data)
    with pytest.raises(errors.BadFrame):
        server.next_message()


def test_what_we_could_not_read_ourselves_is_not_sent():
    asker, server = wire_samples.greeted()
    with pytest.raises(errors.Misuse, match="header of"):
        server.send(messages.Refused(error="e", message="x" * (1 << 20), facts={}), 1)
    with pytest.raises(errors.Misuse, match="body of 1"):
        asker.send(messages.Ping(), 1, 1)
    asker.send(messages.PutBlock(**{name: 0 for name, _c, _o in messages.PutBlock.checks}), 1, 1 << 20)
    with pytest.raises(errors.Misuse):
        asker.send(messages.BlockChunk(crc=0), 1, (1 << 20) + 1)


def test_truncation_at_every_byte():
    """Whatever is cut off leaves the receiver in the middle of something; only whole messages are whole."""
    for key in (None, wire_samples.CLUSTER_KEY):
        asker, _server = wire_samples.greeted(key)
        data = asker.send(messages.Ping(), 1)
        for n in range(len(data)):
            _asker, server = wire_samples.greeted(key)
            server.receive(data[:n])
            assert server.next_message() is None
            assert server.in_the_middle == (n > 0)
        server.receive(data[n:])
        assert server.next_message().message == messages.Ping() and not server.in_the_middle
