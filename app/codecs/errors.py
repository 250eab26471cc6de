"""Exceptions of the codecs. The caller maps each class to an HTTP status.

CodecError
├── Malformed         the body is not what its content type says
├── NotAcceptable     the client accepts none of the available formats
├── TooLarge          more rows, pixels or parts than the limit
├── UnsupportedMedia  a content type or content encoding that cannot be decoded
│   └── UnsupportedEncoding
└── Invalid           a well-formed body or parameter with wrong content
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class ErrorLocation:
    """Place of an error in a request, such as `inputs[3][0][7]` or `query.samples`, and its description."""

    place: str
    detail: str


class CodecError(Exception):
    """Error with a message for the client that names place and remedy, and with every place that is wrong, if any."""

    def __init__(self, detail: str, *locations: ErrorLocation) -> None:
        super().__init__(detail)
        self.detail = detail
        self.locations = locations


class Malformed(CodecError):
    """The body is not what its content type says."""


class NotAcceptable(CodecError):
    """The client accepts none of the available formats."""


class TooLarge(CodecError):
    """The request exceeds a limit on its size."""


class UnsupportedMedia(CodecError):
    """The content type or content encoding cannot be decoded."""


class UnsupportedEncoding(UnsupportedMedia):
    """The content encoding cannot be decoded."""


class Invalid(CodecError):
    """The request is well-formed, but its content is wrong."""

    @classmethod
    def at(cls, place: str, detail: str) -> Self:
        """Create an error with one location."""
        return cls(f"{place}: {detail}", ErrorLocation(place, detail))
