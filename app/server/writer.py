"""Writing responses to connections."""

import asyncio
import functools

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from app.middleware.request_state import HEADER
from app.middleware.response_headers import NO_SNIFF


class ResponseWriter:
    """Writes responses that become ready together in one go: their client is woken once for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, transport: asyncio.Transport, response: bytes, *, alone: bool) -> None:
        """Write in the next round of the loop; at once where no other response can become ready in this one."""
        self._pending.append((transport, response))
        if alone:
            self.flush()
        elif len(self._pending) == 1:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write all pending responses."""
        pending, self._pending = self._pending, []
        for transport, response in pending:
            transport.write(response)


def start_of_response(status: int, server: ServerState, request_id: bytes) -> tuple[bytes, ...]:
    """The parts of a response up to its request id."""
    common = _common_headers(tuple(server.default_headers))
    return STATUS_LINE[status], common, HEADER, b": ", request_id, b"\r\n"


@functools.lru_cache(maxsize=1)
def _common_headers(default: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in (*default, NO_SNIFF))
