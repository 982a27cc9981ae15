"""How copies of the catalog look on keepers: log records and a snapshot's head, bytes in and out.

Never opens a file and never looks into a row: the master builds records, keepers check and keep them as they came, a rebuild reads
them again.

    record    head, 60 B: 0  4  magic "dfsl"                    44 8  at: Unix seconds, a double
                          4  8  epoch     } of the row before   52 4  payload size
                          12 8  sequence  } (0, 0: none)        56 4  CRC-32 of the head up to here, then the payload
                          20 8  epoch     } of the last row
                          28 8  sequence  }
                          36 8  open_from
              payload: zlib of a JSON list of rows [epoch, sequence, at, name, op, body]
    snapshot  head, 84 B: 0  8  magic "dfssnap1"                40 8  size of the database
                          8  8  epoch     } of the last row     48 32 SHA-256 of all that follows the head
                          16 8  sequence  } in it               80 4  CRC-32 of the head up to here
                          24 8  open_from
                          32 8  at
              then zlib of the database file

open_from: every version below it was published by then or never will be; of those at or above it the rows tell only some. It is
read before the rows are, so that a version published in between is in the rows.
"""

from collections import namedtuple
import json
import struct
import zlib

from dfs_lib import errors

_RECORD = struct.Struct(">4sQQQQQdII")
_SNAPSHOT = struct.Struct(">8sQQQdQ32sI")
RECORD_HEAD, SNAPSHOT_HEAD = _RECORD.size, _SNAPSHOT.size
_RECORD_MAGIC, _SNAPSHOT_MAGIC = b"dfsl", b"dfssnap1"
# What a reader allocates for one record, packed and not. Records are far smaller, but one row alone may be a very large upload's.
MAX_PAYLOAD = 64 << 20
MAX_ROWS_SIZE = 256 << 20
# Little of the processor: the master packs in passing, and most of a row is random hex anyway.
_LEVEL = 1

# before, last: (epoch, sequence); size: bytes of head and payload
RecordHead = namedtuple("RecordHead", "before last open_from at payload_size size")
SnapshotHead = namedtuple("SnapshotHead", "last open_from at raw_size sha256")

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def build_record(before, rows, open_from, at):
    """The bytes of one record. before: (epoch, sequence) of the row before the first; rows: lists, at least one, in order."""
    payload = zlib.compress(_encode(rows).encode(), _LEVEL)
    if len(payload) > MAX_PAYLOAD:
        raise errors.Misuse(detail=f"{len(rows)} rows make a record of {len(payload)} bytes")
    epoch, sequence = rows[-1][:2]
    head = _RECORD.pack(_RECORD_MAGIC, *before, epoch, sequence, open_from, at, len(payload), 0)[:-4]
    return b"".join((head, zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "big"), payload))


def record_head(raw):
    """RecordHead of the first bytes of a record. Raises IntegrityError when they are none."""
    if len(raw) < RECORD_HEAD:
        raise errors.IntegrityError("a record of the catalog's log is cut short")
    magic, *numbers, at, payload_size, _crc = _RECORD.unpack_from(raw)
    if magic != _RECORD_MAGIC or payload_size > MAX_PAYLOAD:
        raise errors.IntegrityError("this is no record of the catalog's log")
    return RecordHead(tuple(numbers[0:2]), tuple(numbers[2:4]), numbers[4], at, payload_size, RECORD_HEAD + payload_size)


def check_record(raw):
    """RecordHead of a whole record, compared with its checksum. Raises IntegrityError."""
    head = record_head(raw)
    view = memoryview(raw)
    crc = zlib.crc32(view[RECORD_HEAD:], zlib.crc32(view[:RECORD_HEAD - 4]))
    if len(raw) != head.size or raw[RECORD_HEAD - 4:RECORD_HEAD] != crc.to_bytes(4, "big"):
        raise errors.IntegrityError("a record of the catalog's log does not match its checksum")
    return head


def rows_of(raw):
    """The rows of a whole record that `check_record` has found good. Raises IntegrityError."""
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(memoryview(raw)[RECORD_HEAD:], MAX_ROWS_SIZE)
        rows = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as e:
        raise errors.IntegrityError("a record of the catalog's log cannot be read") from e
    return rows


def read_records(source):
    """(RecordHead, bytes) of each record of a binary file from where it stands; ends at the first that is not whole and good.

    A crash, or a copy under way, leaves a torn one at the end: what stands before it is true.
    """
    while True:
        start = source.read(RECORD_HEAD)
        try:
            size = record_head(start).payload_size
            raw = start + source.read(size)
            yield check_record(raw), raw
        except errors.IntegrityError:
            return


def build_snapshot_head(last, open_from, at, raw_size, sha256):
    """The bytes of a snapshot's head. last: (epoch, sequence); sha256: 32 bytes."""
    head = _SNAPSHOT.pack(_SNAPSHOT_MAGIC, *last, open_from, at, raw_size, sha256, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "big")


def snapshot_head(raw):
    """SnapshotHead of a file's first bytes. Raises IntegrityError."""
    if len(raw) < SNAPSHOT_HEAD or zlib.crc32(raw[:SNAPSHOT_HEAD - 4]).to_bytes(4, "big") != raw[SNAPSHOT_HEAD - 4:SNAPSHOT_HEAD]:
        raise errors.IntegrityError("this is no snapshot of a catalog")
    magic, epoch, sequence, open_from, at, raw_size, sha256, _crc = _SNAPSHOT.unpack_from(raw)
    if magic != _SNAPSHOT_MAGIC:
        raise errors.IntegrityError("this is no snapshot of a catalog")
    return SnapshotHead((epoch, sequence), open_from, at, raw_size, sha256)
