"""Datagrams there and back; each altered, cut, lengthened or foreign one is refused."""

import random

import pytest

from dfs_lib import errors
from dfs_lib.wire import heartbeats

KEY = bytes(range(32))


def random_beat(dice):
    return heartbeats.Heartbeat(dice.randbytes(8).hex(), dice.randbytes(16).hex(), *(dice.choice((0, (1 << 64) - 1, dice.randrange(1 << 50))) for _ in range(4)),
                                {dice.randrange(1, 65536): dice.randrange(65536) for _ in range(dice.randrange(17))})


def test_there_and_back():
    dice = random.Random(7)
    for _ in range(300):
        beat = random_beat(dice)
        data = heartbeats.pack(beat, KEY)
        assert heartbeats.unpack(data, KEY) == beat and len(data) <= heartbeats.MAX_SIZE <= 512


def test_any_change_is_noticed():
    data = heartbeats.pack(random_beat(random.Random(8)), KEY)
    for at in range(len(data)):
        for mask in (1, 128, 255):
            with pytest.raises((errors.BadFrame, errors.BadKey)):
                heartbeats.unpack(data[:at] + bytes((data[at] ^ mask,)) + data[at + 1:], KEY)
        with pytest.raises((errors.BadFrame, errors.BadKey)):
            heartbeats.unpack(data[:at], KEY)
    for other in (data + b"\0", b"", b"x" * 2000, data * 2):
        with pytest.raises((errors.BadFrame, errors.BadKey)):
            heartbeats.unpack(other, KEY)
    with pytest.raises(errors.BadKey):
        heartbeats.unpack(data, b"x" * 32)


@pytest.mark.parametrize("n_ports, n_given", [(17, 17), (2, 3), (3, 2), (255, 1)])
def test_signed_but_of_the_wrong_length(n_ports, n_given):
    """Even one who holds the key cannot make the receiver read past the end."""
    said = heartbeats._HEAD.pack(heartbeats.MAGIC, bytes(8), bytes(16), 1, 2, 3, 4, n_ports) + bytes(4 * n_given)
    data = said + heartbeats.trust.digest(KEY, b"dfs heartbeat\0" + said)[:16]
    with pytest.raises(errors.BadFrame):
        heartbeats.unpack(data, KEY)


def test_loads_over_the_field_are_capped():
    beat = random_beat(random.Random(9))._replace(loads={8000: 10**6})
    assert heartbeats.unpack(heartbeats.pack(beat, KEY), KEY).loads == {8000: 65535}
