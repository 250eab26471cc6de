"""Errors of the interface itself.

    APIError
    ├── Unauthorized    401
    ├── Forbidden       403
    ├── NotFound        404
    ├── BodyTooSlow     408
    ├── LimitExceeded   413
    ├── ClientLeft      499
    ├── Overloaded      429
    └── Unavailable     503

`app.api.problems` maps these, and the errors of codecs, inference and `model`, to responses.
"""

from app.inference.errors import whole_wait

#: Of a request that a stopping service has no more time for.
STOPPED = "the service stopped before this request was done; send it again"


class APIError(Exception):
    """A request that is not answered as asked; the message is the problem's `detail` and names the remedy."""


class Unauthorized(APIError):
    """The request has no valid key."""


class Forbidden(APIError):
    """The key is valid but does not permit this call, or the settings do not allow the call."""


class NotFound(APIError):
    """The served model does not have what this call returns."""


class BodyTooSlow(APIError):
    """The body did not arrive within the time limit."""


class LimitExceeded(APIError):
    """The request asks for more bytes or more work than the settings allow."""


class ClientLeft(APIError):
    """The client closed the connection before its response; nobody reads it."""


class Overloaded(APIError):
    """The bodies of other requests fill the byte budget.

    Args:
        seconds: estimated wait until there is room.
    """

    def __init__(self, detail: str, seconds: float) -> None:
        self.retry_after = whole_wait(seconds)
        super().__init__(f"{detail}; retry after {self.retry_after} s")


class Unavailable(APIError):
    """The service is not ready, or is shutting down."""
