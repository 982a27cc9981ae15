"""The trailer against golden bytes, and against every kind of damage there is to a run of bytes."""

import random
import struct
import zlib

import pytest

from dfs_lib import checksums, errors
from dfs_lib.keeper import block_format
from dfs_lib.keeper.block_format import FOOTER_SIZE, build_trailer, parse_footer, parse_trailer

BLOCK = bytes(range(16))
METADATA = {"path": "/ä b", "index": 0, "file_size": None, "last": True}
GOLDEN = bytes.fromhex(
    "7b2270617468223a222fc3a42062222c22696e646578223a302c2266696c655f73697a65223a6e756c6c2c226c617374223a747275657d"
    "bd835e6c" "646673626c6f636b" "00000001" "00000037" "00000004" "00100000" "0000000000000005"
    "000102030405060708090a0b0c0d0e0f" "3242bef3")


def parse(raw, size, block=BLOCK):
    """What a store does with a file's bytes: footer from the end, then the trailer before it."""
    footer = parse_footer(raw[-FOOTER_SIZE:], len(raw), block)
    return parse_trailer(raw[footer.size:], footer)


def test_golden_bytes():
    crcs = checksums.crc_table(BLOCK, b"hello")
    assert build_trailer(BLOCK, METADATA, 5, crcs).hex() == GOLDEN.hex()
    assert parse(b"hello" + GOLDEN, 5) == (METADATA, crcs)


def test_chunk_checksums_are_seeded_by_block_and_index():
    data = random.Random(1).randbytes(3 * 4096 + 7)
    table = checksums.crc_table(BLOCK, data, 4096)
    assert len(table) == 16
    for index in range(4):
        seed = zlib.crc32(BLOCK + struct.pack(">I", index))
        expected = zlib.crc32(data[index * 4096:(index + 1) * 4096], seed)
        assert checksums.chunk_seed(BLOCK, index) == seed
        assert checksums.chunk_crc(BLOCK, index, memoryview(data)[index * 4096:(index + 1) * 4096]) == expected
        assert checksums.crc_at(table, index) == expected
    same = b"x" * 4096
    assert checksums.chunk_crc(BLOCK, 0, same) != checksums.chunk_crc(BLOCK, 1, same)
    assert checksums.chunk_crc(BLOCK, 0, same) != checksums.chunk_crc(BLOCK[::-1], 0, same)
    assert len(checksums.crc_table(BLOCK, b"")) == 4


@pytest.mark.parametrize("size, n", [(0, 1), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (64 << 20, 64)])
def test_round_trip_at_the_edges_of_chunks(size, n):
    crcs = random.Random(size).randbytes(4 * n)
    trailer = build_trailer(BLOCK, METADATA, size, crcs)
    footer = parse_footer(trailer[-FOOTER_SIZE:], size + len(trailer), BLOCK)
    assert (footer.size, footer.n_chunks, footer.trailer_size, footer.block) == (size, n, len(trailer), BLOCK)
    assert parse_trailer(trailer, footer) == (METADATA, crcs)


def test_every_bit_of_the_trailer_matters():
    whole = b"hello" + GOLDEN
    for bit in range(5 * 8, len(whole) * 8):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(errors.IntegrityError):
            parse(bytes(raw), 5)


def test_every_truncation_and_growth_shows():
    whole = b"hello" + GOLDEN
    for length in range(len(whole)):
        with pytest.raises(errors.IntegrityError):
            parse(whole[:length], 5)
    for more in (b"\0", b"\0" * 4096, whole):
        with pytest.raises(errors.IntegrityError):
            parse(whole + more, 5)


def test_a_footer_is_believed_for_its_own_block_only():
    with pytest.raises(errors.IntegrityError, match="holds block 0001"):
        parse(b"hello" + GOLDEN, 5, bytes(16))


def refooted(metadata_text, **changes):
    """A trailer with an honest checksum around whatever a forger wishes."""
    crcs = checksums.crc_table(BLOCK, b"hello")
    fields = {"magic": b"dfsblock", "form": 1, "n_meta": len(metadata_text), "n_table": 4, "chunk": 1 << 20, "size": 5,
              "block": BLOCK, **changes}
    head = metadata_text + crcs + struct.pack(">8sIIIIQ16s", *fields.values())
    return b"hello" + head + zlib.crc32(head).to_bytes(4, "big")


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b"\xff{}", b'{"size":NaN}', b"[" * 60_000,
                                  b'{"n":' + b"9" * 5000 + b"}"])
def test_forged_metadata_is_damage_and_nothing_else(text):
    with pytest.raises(errors.IntegrityError):
        parse(refooted(text), 5)


@pytest.mark.parametrize("changes", [
    {"form": 2}, {"form": 0}, {"chunk": 0}, {"chunk": 1}, {"chunk": (1 << 32) - 1}, {"n_table": 8}, {"n_table": 0},
    {"size": 1 << 63}, {"n_meta": (1 << 32) - 1}, {"magic": b"dfsblocK"}])
def test_forged_footers_are_refused_before_anything_is_allocated(changes):
    raw = refooted(b"{}", **changes)
    with pytest.raises(errors.IntegrityError):
        parse_footer(raw[-FOOTER_SIZE:], len(raw), BLOCK)


def test_random_garbage_raises_integrity_errors_only():
    rng = random.Random(7)
    for _ in range(2000):
        raw = bytearray(rng.randbytes(rng.randrange(200)))
        if rng.random() < 0.5 and len(raw) >= FOOTER_SIZE:
            raw[-52:-40] = GOLDEN[-52:-40]
        with pytest.raises(errors.IntegrityError):
            parse(bytes(raw), 5)


def test_what_cannot_be_written_is_a_misuse():
    crcs = checksums.crc_table(BLOCK, b"hello")
    for metadata in ({"a": float("nan")}, {"a": b""}, {"path": "\ud800"}, {"path": "x" * block_format.MAX_METADATA_SIZE}):
        with pytest.raises(errors.Misuse):
            build_trailer(BLOCK, metadata, 5, crcs)
    for block, size, table in ((BLOCK, 5, crcs + crcs), (BLOCK, 1 << 21, crcs), (BLOCK[:-1], 5, crcs), (BLOCK, 5, b"")):
        with pytest.raises(errors.Misuse):
            build_trailer(block, {}, size, table)
