"""Reading of base64 in the forms that clients send: plain, in a data URL, in lines, URL-safe, without padding."""

import binascii
import contextlib
import re
from urllib.parse import unquote_to_bytes

#: A data URL (RFC 2397) that declares base64, up to its data. Parameters such as `charset=` may come before `base64`.
DATA_URL = re.compile(r"data:[^,]*;\s*base64\s*,", re.IGNORECASE)
WHITESPACE = b" \t\r\n\f"
URL_SAFE = bytes.maketrans(b"-_", b"+/")


def read_base64(text: str) -> bytes:
    """Decode a base64 string or data URL.

    White space is ignored, as MIME breaks lines; padding may be missing; the alphabet may be the URL-safe one. The data
    of a URL may be percent-encoded.

    Raises:
        ValueError: something else is wrong; the message says what, and the remedy.
    """
    prefix = DATA_URL.match(text)
    if prefix is None and text[:5].lower() == "data:":
        declared = text.partition(",")[0]
        raise ValueError(f"the data URL '{declared:.60}' does not declare base64; write data:image/png;base64,...")
    data = text[prefix.end() if prefix else 0 :]
    try:
        encoded = data.encode("ascii")
    except UnicodeEncodeError as error:
        raise _wrong(f"'{data[error.start]}' is not in its alphabet") from None
    if len(encoded) % 4 == 0:
        with contextlib.suppress(binascii.Error):
            return binascii.a2b_base64(encoded, strict_mode=True)  # most are plain, and may be large
    return _read_unusual(unquote_to_bytes(encoded) if prefix else encoded)


def _read_unusual(encoded: bytes) -> bytes:
    compact = encoded.translate(None, WHITESPACE)
    letters = compact.rstrip(b"=")
    padding = len(compact) - len(letters)
    if any(letter in letters for letter in b"-_"):
        if any(letter in letters for letter in b"+/"):
            raise _wrong("it mixes '+' or '/' with '-' or '_', of another alphabet")
        letters = letters.translate(URL_SAFE)
    missing = -len(letters) % 4
    if missing == 3 or padding not in {0, missing}:
        raise _wrong(f"{len(letters):,} characters and {padding} of padding are not a whole number of bytes")
    try:
        return binascii.a2b_base64(letters + b"=" * missing, strict_mode=True)
    except binascii.Error as error:
        raise _wrong(str(error)) from None


def _wrong(reason: str) -> ValueError:
    return ValueError(f"not base64 ({reason}); send the bytes of an image file as base64")
