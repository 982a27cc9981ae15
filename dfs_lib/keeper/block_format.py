"""The block file's byte layout: builds and parses the trailer that stands behind a block's bytes.

Never opens a file. `docs/block-format.md` tells the same for a reader without this program; a change here changes that
page, VERSION and the golden bytes in the tests together.

    0          size                                        file size - 52                    file size
    | data ... | metadata: JSON, UTF-8 | crc table: 4 B a chunk | footer: 52 B               |
                                                                |
    footer, big-endian:   0  8  magic "dfsblock"               24  8  data size
                          8  4  format version (1)             32 16  block id
                         12  4  metadata size                  48  4  CRC-32 of the trailer up to here:
                         16  4  table size                            metadata, table, footer's first 48 bytes
                         20  4  chunk size

The lengths stand at the very end, so that one read finds everything, and their sum must be the file's length: a file cut
short or grown shows before a byte of it is believed.
"""

import json
import struct
from collections import namedtuple
from zlib import crc32

from dfs_lib import errors
from dfs_lib.checksums import CRC_BYTES
from dfs_lib.model import CHUNK_SIZE, KIB, MIB, n_chunks
from dfs_lib.wire import json_text

MAGIC = b"dfsblock"
VERSION = 1
_FOOTER = struct.Struct(">8sIIIIQ16sI")
FOOTER_SIZE = _FOOTER.size
_CRC_AT = FOOTER_SIZE - 4
# A path has at most 4,096 bytes, JSON may write some as six: 64 KiB is far beyond any honest metadata, and little memory.
MAX_METADATA_SIZE = 64 * KIB
# What a reader allocates for one chunk: anything outside is damage, not a format to come.
MIN_CHUNK_SIZE, MAX_CHUNK_SIZE = 4 * KIB, 64 * MIB


class Footer(namedtuple("Footer", "block size metadata_size table_size chunk_size crc")):
    """A footer whose shape is right: block 16 bytes; size of the data and the rest in bytes; crc of the whole trailer."""

    __slots__ = ()

    @property
    def trailer_size(self):
        return self.metadata_size + self.table_size + FOOTER_SIZE

    @property
    def n_chunks(self):
        return self.table_size // CRC_BYTES


def build_trailer(block_bytes, metadata, size, crcs, chunk_size=CHUNK_SIZE):
    """The bytes that follow `size` bytes of data.

    block_bytes: the 16 bytes of the id; metadata: a dict of JSON values; crcs: 4 big-endian bytes a chunk.
    Raises Misuse when the table does not fit the size, or the metadata cannot be written or is over 64 KiB.
    """
    try:
        text = json_text.encode(metadata).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise errors.Misuse(detail=f"the metadata of a block cannot be written as JSON: {e}") from e
    if len(crcs) != CRC_BYTES * n_chunks(size, chunk_size) or len(block_bytes) != 16 or len(text) > MAX_METADATA_SIZE:
        raise errors.Misuse(detail=f"a trailer for {size} bytes of data with {len(crcs)} bytes of checksums "
                                   f"and {len(text)} of metadata makes no sense")
    footer = _FOOTER.pack(MAGIC, VERSION, len(text), len(crcs), chunk_size, size, block_bytes, 0)
    trailer = b"".join((text, crcs, footer[:_CRC_AT]))
    return trailer + crc32(trailer).to_bytes(4, "big")


def parse_footer(raw, file_size, block_bytes):
    """Footer of a block file, from its last FOOTER_SIZE bytes.

    file_size: the file's length; block_bytes: the id the file's name claims.
    Checks magic, version, id and that all lengths add up; `parse_trailer` checks the checksum, which covers more bytes.
    Raises IntegrityError and names what is wrong.
    """
    if len(raw) != FOOTER_SIZE:
        raise damaged(block_bytes, f"the file has only {file_size} bytes")
    magic, version, metadata_size, table_size, chunk_size, size, block, crc = _FOOTER.unpack(raw)
    if magic != MAGIC:
        raise damaged(block_bytes, "the footer is not one of a block file")
    if version != VERSION:
        raise damaged(block_bytes, f"format version {version} is unknown to this program")
    if block != block_bytes:
        raise damaged(block_bytes, f"the file holds block {block.hex()}")
    if not MIN_CHUNK_SIZE <= chunk_size <= MAX_CHUNK_SIZE or metadata_size > MAX_METADATA_SIZE \
            or table_size != CRC_BYTES * n_chunks(size, chunk_size):
        raise damaged(block_bytes, "the sizes in the footer make no sense")
    if size + metadata_size + table_size + FOOTER_SIZE != file_size:
        raise damaged(block_bytes, f"the file has {file_size} bytes, its footer tells of "
                                   f"{size + metadata_size + table_size + FOOTER_SIZE}")
    return Footer(block, size, metadata_size, table_size, chunk_size, crc)


def parse_trailer(raw, footer):
    """(metadata, crcs) of the whole trailer's bytes; `footer` came from the same file. Raises IntegrityError."""
    if len(raw) != footer.trailer_size or crc32(memoryview(raw)[:-4]) != footer.crc or raw[-4:] != footer.crc.to_bytes(4, "big"):
        raise damaged(footer.block, "the trailer does not match its checksum")
    try:
        metadata = json.loads(raw[:footer.metadata_size].decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise damaged(footer.block, "the metadata is not JSON") from e
    if not isinstance(metadata, dict):
        raise damaged(footer.block, "the metadata is not a JSON object")
    return metadata, bytes(raw[footer.metadata_size:footer.metadata_size + footer.table_size])


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


def damaged(block_bytes, detail):
    """The error for a block file whose trailer cannot be believed."""
    block = block_bytes.hex()
    return errors.IntegrityError(f"block {block} is damaged: {detail}", block=block, detail=detail)
