"""gzip of bodies: inflating requests step by step, and compressing responses (RFC 9110, 8.4 and 12.5.3)."""

import io
import zlib
from collections.abc import Iterator

from app.codecs.errors import Malformed, UnsupportedEncoding
from app.codecs.negotiation import parse_range

#: `wbits` of zlib for the gzip format.
GZIP_WBITS = 31
#: Effort from 1 to 9. On JSON of floats, 1 halves the size at 40 MB/s and pays below 150 Mbit/s; 6 saves 5 % more in 5
#: times as long.
GZIP_LEVEL = 1
#: Bytes of JSON from which on it is compressed: less fits into the first round trips of a connection.
MIN_GZIP_BYTES = 1 << 15
#: Bytes that zlib reads and writes at once.
READ_BYTES, WRITE_BYTES = 1 << 16, 1 << 16
#: Number of gzip files that one body may join: each costs time, even if it is empty.
MAX_MEMBERS = 4096


def is_gzip(content_encoding: str) -> bool:
    """True if a Content-Encoding header says gzip; False if it is empty or says identity.

    Raises:
        UnsupportedEncoding: it says anything else.
    """
    coding = content_encoding.strip().lower()
    if coding in {"", "identity"}:
        return False
    if coding in {"gzip", "x-gzip"}:
        return True
    raise UnsupportedEncoding(f"Content-Encoding '{coding:.40}' is not supported; send the body as gzip or unencoded")


class Inflater:
    """Inflates a gzip body in steps, so that its size can be limited and its time divided."""

    def __init__(self, body: bytes) -> None:
        self.size = 0  # bytes inflated so far
        self._inflated = io.BytesIO()
        self._pieces = _inflate(body)

    def advance(self, size: int) -> bool:
        """Inflate this many more bytes, to within `WRITE_BYTES`. Return False if the end was reached before.

        Raises:
            Malformed: the body is not gzip, is truncated or damaged, or is followed by other bytes.
        """
        end = self.size + size
        for piece in self._pieces:
            self.size += self._inflated.write(piece)
            if self.size >= end:
                return True
        return False

    def content(self) -> bytes:
        """The inflated bytes so far."""
        return self._inflated.getvalue()


def _inflate(body: bytes) -> Iterator[bytes]:
    members, stream = 1, zlib.decompressobj(GZIP_WBITS)
    try:
        for start in range(0, len(body), READ_BYTES):
            data = body[start : start + READ_BYTES]
            while data:
                if stream.eof:
                    members, stream = members + 1, zlib.decompressobj(GZIP_WBITS)
                    if members > MAX_MEMBERS:
                        raise Malformed(f"the body joins more than {MAX_MEMBERS:,} gzip files; compress it as one")
                yield stream.decompress(data, WRITE_BYTES)
                data = stream.unused_data if stream.eof else stream.unconsumed_tail
        while not stream.eof and (rest := stream.decompress(b"", WRITE_BYTES)):
            yield rest
    except zlib.error as error:
        raise Malformed(
            f"the body is not gzip, is damaged, or is followed by other bytes ({error!s:.80}); compress it again, or "
            "send it without Content-Encoding"
        ) from error
    if not stream.eof:
        raise Malformed("the gzip body ends too early; send all of it, or send it without Content-Encoding")


def accepts_gzip(accept_encoding: str) -> bool:
    """True if an Accept-Encoding header admits gzip, and does not prefer the unencoded form.

    >>> [accepts_gzip(header) for header in ("gzip, br", "*", "gzip;q=0", "identity, gzip;q=0.5", "")]
    [True, True, False, False, False]
    """
    qualities: dict[str, float] = {}
    for coding, quality in map(parse_range, accept_encoding.split(",")):
        name = "gzip" if coding == "x-gzip" else coding
        qualities[name] = max(quality, qualities.get(name, 0.0))
    gzip = qualities.get("gzip", qualities.get("*", 0.0))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def compress(body: bytes) -> bytes:
    """Compress a response as gzip; the same bytes give the same result."""
    return zlib.compress(body, GZIP_LEVEL, GZIP_WBITS)
