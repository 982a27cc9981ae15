"""Chunk checksums: what a client, the wire and a block file at rest all compare.

Knows no file, socket or clock. A chunk's checksum is a CRC-32 (zlib) that starts from a seed made of the block's id and
the chunk's index, so that the right bytes in the wrong place are as wrong as flipped ones:

    seed = crc32(block id, 16 bytes + chunk index, 4 bytes big-endian)
    crc  = crc32(the chunk's bytes, seed)
"""

from zlib import crc32

from dfs_lib.model import CHUNK_SIZE, n_chunks

# One checksum in a table, on disk and on the wire: unsigned, big-endian.
CRC_BYTES = 4


def chunk_seed(block_bytes, index):
    """The value a chunk's CRC starts from. block_bytes: the 16 bytes of the block id; index: 0 for the first chunk."""
    return crc32(block_bytes + index.to_bytes(4, "big"))


def chunk_crc(block_bytes, index, view):
    """Unsigned CRC-32 of the chunk `index` of a block; `view` holds the whole chunk."""
    return crc32(view, crc32(block_bytes + index.to_bytes(4, "big")))


def crc_table(block_bytes, data, chunk_size=CHUNK_SIZE):
    """The checksums of all chunks of a block whose bytes are in memory: 4 big-endian bytes a chunk."""
    view = memoryview(data)
    return b"".join(chunk_crc(block_bytes, index, view[index * chunk_size:(index + 1) * chunk_size]).to_bytes(CRC_BYTES, "big")
                    for index in range(n_chunks(len(view), chunk_size)))


def crc_at(crcs, index):
    """The checksum of chunk `index` out of a table."""
    return int.from_bytes(crcs[index * CRC_BYTES:(index + 1) * CRC_BYTES], "big")
