"""Writing responses to connections."""

import asyncio


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
