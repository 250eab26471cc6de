"""Several images as multipart/form-data, as a browser's form or `curl -F` sends them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.problems import Invalid, Malformed, TooLarge
from app.codecs.images import FORMATS, Pixels, from_picture
from app.codecs.spec import Expect, Floats

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


@dataclass
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class _Collector:
    """The parser's callbacks: what it hears, kept in parts."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[_Part] = []
        self.max_parts = max_parts
        self.ended = False
        self._name = bytearray()
        self._value = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self.parts[-1].body.extend(data[start:end]),
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self.max_parts:
            raise TooLarge(f"multipart: more than the {self.max_parts:,} parts that one request may have")
        self.parts.append(_Part())

    def _header(self) -> None:
        self.parts[-1].headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        self.ended = True


def from_multipart(body: bytes, content_type: str, expect: Expect) -> Floats:
    """Each part named `inputs` is an image, one row each, in order.

    Raises:
        Malformed: not multipart, cut off, or a part is not an image.
        Invalid: a part of another name, or none at all.
        TooLarge: too many parts, or an image with too many pixels.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Malformed("multipart: the Content-Type names no boundary; let your client set that header itself")
    collector = _Collector(expect.max_rows)
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Malformed(f"multipart: {error!s:.200}") from error
    if not collector.ended:
        raise Malformed("multipart: the body ends before its last boundary")
    expect.count(len(collector.parts))
    pixels = Pixels(expect.max_pixels)
    return np.concatenate([_row(index, part, expect, pixels) for index, part in enumerate(collector.parts)])


def _row(index: int, part: _Part, expect: Expect, pixels: Pixels) -> Floats:
    place = f"part[{index}]"
    options = parse_options_header(part.headers.get("content-disposition", ""))[1]
    name = options.get(b"name", b"").decode("latin-1")
    if name != expect.name:
        raise Invalid.at(place, f"is named '{name:.60}'; name every image '{expect.name}'")
    media = parse_options_header(part.headers.get("content-type", ""))[0].decode("latin-1").lower()
    # Clients that do not know a file's type say octet-stream; the bytes themselves then tell the format.
    return from_picture(bytes(part.body), media if media in FORMATS else "image/*", expect, pixels, place)
