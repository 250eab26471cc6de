"""gzip of bodies: inflating in steps, damaged and hostile streams, and what Accept-Encoding admits."""

import gzip
import random
import time
import tracemalloc
import zlib

import pytest

from app.codecs.compression import (
    MAX_MEMBERS,
    READ_BYTES,
    WRITE_BYTES,
    Inflater,
    accepts_gzip,
    compress,
    is_gzip,
)
from app.codecs.errors import Malformed, UnsupportedEncoding

RANDOM = random.Random(0).randbytes(3 * READ_BYTES)
CONTENTS = [b"", b"a", b"abc" * 1000, bytes(5 * WRITE_BYTES + 7), RANDOM, RANDOM[:100] * 5000]


def inflate(body: bytes, step: int = 1 << 20) -> bytes:
    inflater = Inflater(body)
    while inflater.advance(step):
        pass
    return inflater.content()


@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.parametrize("step", [1, WRITE_BYTES, 1 << 20])
def test_bodies_of_every_size_are_inflated_in_steps_of_every_size(content: bytes, step: int) -> None:
    assert inflate(gzip.compress(content), step) == content
    assert inflate(compress(content), step) == content


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_joined_files_are_inflated_one_after_another(content: bytes) -> None:
    assert inflate(gzip.compress(content) + gzip.compress(b"") + gzip.compress(content)) == 2 * content


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_what_is_cut_off_is_refused(content: bytes) -> None:
    whole = gzip.compress(content)
    for length in {0, 1, 5, 10, 17, len(whole) // 2, len(whole) - 8, len(whole) - 1}:
        if length < len(whole):
            with pytest.raises(Malformed, match="ends too early; send all of it"):
                inflate(whole[:length])
            if length:
                with pytest.raises(Malformed, match="ends too early"):
                    inflate(whole + whole[:length])


@pytest.mark.parametrize("content", CONTENTS, ids=len)
@pytest.mark.parametrize("trailing", [b"\0", b"\0" * 600, b"garbage", b"\x1f\x8b\x08garbage"])
def test_other_bytes_after_the_end_are_refused(content: bytes, trailing: bytes) -> None:
    with pytest.raises(Malformed, match=r"other bytes|ends too early"):
        inflate(gzip.compress(content) + trailing)


def test_every_changed_byte_is_noticed_or_changes_nothing() -> None:
    content = b"variational autoencoder " * 20
    whole = gzip.compress(content)
    refused = 0
    for index in range(len(whole)):
        damaged = whole[:index] + bytes([whole[index] ^ 0x41]) + whole[index + 1 :]
        try:
            assert inflate(damaged) == content
        except Malformed:
            refused += 1
    assert refused > len(whole) - 10  # the header has fields without a meaning


@pytest.mark.parametrize("body", [b"{}", zlib.compress(b"abc"), b"PK\3\4", bytes(100)])
def test_other_formats_are_refused(body: bytes) -> None:
    with pytest.raises(Malformed, match="not gzip"):
        inflate(body)


def test_a_bomb_costs_no_more_than_what_is_asked_for() -> None:
    bomb = gzip.compress(bytes(1 << 28))
    tracemalloc.start()
    inflater = Inflater(bomb)
    assert inflater.advance(1 << 20)
    assert 1 << 20 <= inflater.size <= (1 << 20) + WRITE_BYTES
    assert tracemalloc.get_traced_memory()[1] < (1 << 20) * 1.5
    tracemalloc.stop()


def test_a_whole_body_is_not_held_twice() -> None:
    body = gzip.compress(bytes(1 << 24))
    tracemalloc.start()
    content = inflate(body)
    assert len(content) == 1 << 24
    assert tracemalloc.get_traced_memory()[1] < (1 << 24) * 1.3
    tracemalloc.stop()


def test_too_many_joined_files_are_refused() -> None:
    empty = gzip.compress(b"")
    assert inflate(empty * MAX_MEMBERS) == b""
    start = time.process_time()
    with pytest.raises(Malformed, match="joins more than 4,096 gzip files"):
        inflate(empty * (1 << 20))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("header", ["gzip", "GZIP", " x-gzip "])
def test_gzip_has_two_names(header: str) -> None:
    assert is_gzip(header)
    assert not is_gzip("identity")
    assert not is_gzip("")


@pytest.mark.parametrize("header", ["br", "deflate", "gzip, gzip", "gzip,identity", "zstd", "gzip;q=1", ","])
def test_other_codings_are_refused_with_the_one_that_is_supported(header: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="send the body as gzip or unencoded"):
        is_gzip(header)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("gzip;q=0.000", False),
        ("gzip; q=0", False),
        ("gzip;Q=0", False),
        ("deflate, br", False),
        ("br, *;q=0", False),
        ("identity", False),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip", True),
        ("identity;q=0, *", True),
        ("gzip;q=oops", False),
        ("gzipped", False),
    ],
)
def test_qualities_of_accept_encoding_are_heeded(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) == accepted


def test_compression_is_reproducible() -> None:
    assert compress(RANDOM) == compress(RANDOM)
    assert compress(RANDOM)[4:8] == bytes(4)  # no time stamp
