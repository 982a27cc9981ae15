"""A keeper's heartbeat: one signed datagram.

Never carries an address that is believed, and never authorises anything but "I live, this is my load".

    offset size
       0    4  magic 89 44 48 42 ("\\x89DHB")
       4    8  session: given by the master at registration, void when either side restarts
      12   16  keeper id
      28    8  number: grows by one each time; late, repeated and forged ones are dropped
      36    8  free bytes (reserve already taken off)
      44    8  used bytes
      52    8  blocks
      60    1  ports that follow, at most 16
      61   4n  for each port: port number (2), transfers under way (2)
    then 16  HMAC-SHA256 over all before, truncated, under the node key
"""

import struct
from collections import namedtuple

from dfs_lib import errors
from dfs_lib.wire import trust

MAGIC = b"\x89DHB"
MAX_PORTS = 16
_HEAD = struct.Struct(">4s8s16sQQQQB")
_PORT = struct.Struct(">HH")
_CODE_SIZE = 16
MAX_SIZE = _HEAD.size + MAX_PORTS * _PORT.size + _CODE_SIZE

# session 16 hex, keeper 32 hex, number, free and used in bytes, n_blocks, loads {port: transfers under way}
Heartbeat = namedtuple("Heartbeat", "session keeper number free used n_blocks loads")


def pack(heartbeat, key):
    """The datagram's bytes."""
    head = _HEAD.pack(MAGIC, bytes.fromhex(heartbeat.session), bytes.fromhex(heartbeat.keeper), heartbeat.number, heartbeat.free,
                      heartbeat.used, heartbeat.n_blocks, len(heartbeat.loads))
    said = head + b"".join(_PORT.pack(port, min(load, 0xFFFF)) for port, load in heartbeat.loads.items())
    return said + trust.digest(key, b"dfs heartbeat\0" + said)[:_CODE_SIZE]


def unpack(data, key):
    """The Heartbeat in a datagram, its code checked. Raises BadFrame or BadKey; the receiver counts and drops."""
    if len(data) < _HEAD.size + _CODE_SIZE or len(data) > MAX_SIZE or data[:4] != MAGIC:
        raise errors.BadFrame(detail="not a heartbeat")
    said, code = data[:-_CODE_SIZE], data[-_CODE_SIZE:]
    if not trust.compare_digest(code, trust.digest(key, b"dfs heartbeat\0" + said)[:_CODE_SIZE]):
        raise errors.BadKey(address="a heartbeat", detail="its code is wrong")
    _magic, session, keeper, number, free, used, n_blocks, n_ports = _HEAD.unpack_from(said)
    if len(said) != _HEAD.size + n_ports * _PORT.size or n_ports > MAX_PORTS:
        raise errors.BadFrame(detail="a heartbeat of the wrong length")
    return Heartbeat(session.hex(), keeper.hex(), number, free, used, n_blocks, dict(_PORT.iter_unpack(said[_HEAD.size:])))
