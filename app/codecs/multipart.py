"""Decoding of several images as multipart/form-data, the encoding of HTML forms and of `curl -F`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from app.codecs.errors import Invalid, Malformed, TooLarge
from app.codecs.images import IMAGE_ALIASES, IMAGE_FORMATS, HoldMemory, PixelBudget, decode_image, hold_any
from app.codecs.spec import Floats, InputSpec

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


def decode_multipart(body: bytes, content_type: str, spec: InputSpec, hold: HoldMemory = hold_any) -> Floats:
    """Decode each part named `inputs` as an image: n x channels x height x width, float32 in [0, 1].

    Raises:
        Malformed: the body is not multipart or is truncated, or a part is not an image.
        Invalid: there are no parts, or a part has another name.
        TooLarge: too many parts or pixels.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Malformed("multipart: the Content-Type has no boundary; let the HTTP client set this header")
    collector = _PartCollector(spec.max_rows)
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
    except FormParserError as error:
        raise Malformed(f"multipart: {error!s:.200}") from error
    if parser.state != MultipartState.END:
        raise Malformed("multipart: the body ends before its last boundary; send all of it")
    spec.check_count(len(collector.parts))
    budget = PixelBudget(spec.max_pixels, hold)
    return np.concatenate([_decode_part(index, part, spec, budget) for index, part in enumerate(collector.parts)])


@dataclass
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class _PartCollector:
    """Callbacks of the parser, which collect the parts of a body."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[_Part] = []
        self.max_parts = max_parts
        self._name = bytearray()
        self._value = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_part_data": lambda data, start, end: self.parts[-1].body.extend(data[start:end]),
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
        }

    def _begin_part(self) -> None:
        if len(self.parts) >= self.max_parts:
            raise TooLarge(f"multipart: more than {self.max_parts:,} parts, the limit of one request; send fewer")
        self.parts.append(_Part())

    def _end_header(self) -> None:
        self.parts[-1].headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()


def _decode_part(index: int, part: _Part, spec: InputSpec, budget: PixelBudget) -> Floats:
    place = f"part[{index}]"
    options = parse_options_header(part.headers.get("content-disposition", ""))[1]
    name = options.get(b"name", b"").decode("latin-1")
    if name != spec.name:
        raise Invalid.at(place, f"unknown name '{name:.60}'; name every image '{spec.name}'")
    media_type = parse_options_header(part.headers.get("content-type", ""))[0].decode("latin-1").lower()
    media_type = IMAGE_ALIASES.get(media_type, media_type)
    # A client that does not know the type of a file sends application/octet-stream. Any image format is then accepted.
    return decode_image(bytes(part.body), media_type if media_type in IMAGE_FORMATS else "image/*", spec, budget, place)
