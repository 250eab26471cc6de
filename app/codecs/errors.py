"""Errors of reading a request body and of choosing a response format.

    CodecError
    ├── Malformed          not what its content type says
    ├── NotAcceptable      no response format that the client accepts
    ├── TooLarge           more rows, pixels or parts than the limit
    ├── UnsupportedMedia   a content type or encoding that is not read
    └── Invalid            well-formed but wrong
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorLocation:
    """A place in a request, as in `inputs[3][0][7]` or `query.samples`, and what is wrong there."""

    place: str
    detail: str


class CodecError(Exception):
    """A request that cannot be read; `detail` names the remedy."""

    def __init__(self, detail: str, *locations: ErrorLocation) -> None:
        super().__init__(detail)
        self.detail = detail
        self.locations = locations


class Malformed(CodecError):
    """The body is not what its content type says it is."""


class NotAcceptable(CodecError):
    """The client accepts none of the formats of the response."""


class TooLarge(CodecError):
    """More rows, pixels or parts than the limit."""


class UnsupportedMedia(CodecError):
    """A content type or encoding that is not read."""


class Invalid(CodecError):
    """Well-formed, but not what this call of this model takes."""

    @classmethod
    def at(cls, place: str, detail: str) -> "Invalid":
        """An error at one place of the request."""
        return cls(f"{place}: {detail}", ErrorLocation(place, detail))
