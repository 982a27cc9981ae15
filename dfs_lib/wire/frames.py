"""Bytes to frames and back: the one place that trusts no length.

Never allocates by a peer's word: a length is compared with its ceiling before anything is read or kept.

    offset size
       0    4  magic 89 44 46 53 ("\\x89DFS": not text, so that an HTTP peer answers with an error and not with patience)
       4    1  layout version of this fixed head: 1
       5    1  flags: bit 0 = sealed (a 16-byte code follows the header); all others 0
       6    2  message type
       8    8  request id: chosen by the asker, repeated in every answer
      16    4  header length: bytes of JSON that follow
      20    4  zero
      24    8  body length: raw bytes after header (and seal)
      32       header, UTF-8 JSON · seal if flagged · body

All integers are big-endian.
"""

import struct

from dfs_lib import errors
from dfs_lib.records import record

MAGIC = b"\x89DFS"
LAYOUT = 1
SEALED = 1
HEAD = struct.Struct(">4sBBHQIIQ")
SEAL_SIZE = 16
# Before the handshake is over a peer gets no more than this (F34).
MAX_HEADER_STRANGER = 4096
# The largest lists (a page of blocks with their checksums) stay well under this; pages are cut so that they do.
MAX_HEADER = 1 << 20
# Above any block size that settings allow; each message has its own, lower ceiling.
MAX_BODY = 1 << 30

Head = record("Head", "sealed type request_id header_length body_length")
_new = tuple.__new__  # straight, for what is made with each message: a record's own way is one call more


def pack(type_code, request_id, header_length, body_length, sealed):
    """The 32 bytes of a fixed head."""
    return HEAD.pack(MAGIC, LAYOUT, SEALED if sealed else 0, type_code, request_id, header_length, 0, body_length)


def parse(data, max_header, at=0):
    """The Head at offset `at` of `data` (at least HEAD.size bytes from there). Raises BadFrame for anything but a well-formed one."""
    magic, layout, flags, type_code, request_id, header_length, zero, body_length = HEAD.unpack_from(data, at)
    if magic != MAGIC:
        raise errors.BadFrame(detail=f"it starts with {bytes(magic)!r}", magic=False)
    if layout != LAYOUT or flags & ~SEALED or zero:
        raise errors.BadFrame(detail=f"layout {layout}, flags {flags}, reserved {zero}")
    if header_length > max_header:
        raise errors.BadFrame(detail=f"a header of {header_length} bytes, the ceiling is {max_header}")
    if body_length > MAX_BODY:
        raise errors.BadFrame(detail=f"a body of {body_length} bytes, the ceiling is {MAX_BODY}")
    return _new(Head, (flags == SEALED, type_code, request_id, header_length, body_length))
