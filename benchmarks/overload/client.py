"""Load generator: closed and open loops of requests over plain HTTP/1.1 connections.

It has a core next to that of the service and sends ten times as many requests as the service can do, so a request is
prebuilt bytes, and an answer is parsed no further than its status, its length and its Retry-After.
"""

import asyncio
import gc
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from benchmarks.overload.outcomes import BROKEN, NO_CONNECTION, TOO_LATE, Outcomes

#: Seconds after which an idle connection is closed instead of used: sooner than the service would close it.
MAX_IDLE_S = 30.0
#: Seconds after its time at which a request is no longer sent: the generator is too slow for the rate.
MAX_DELAY_S = 0.1
#: Seconds between two looks at the requests that are due.
TICK_S = 0.001
#: Seconds from the last request until all that is unanswered counts as lost: more than VAE_DEADLINE.
MAX_DRAIN_S = 90.0
#: Seconds that a client of a closed loop waits after a refusal.
BACKOFF_S = 0.1
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)

#: Receiver of an answer: connection, status, value of Retry-After.
Answered = Callable[["Connection", int, int | None], None]


class Connection(asyncio.Protocol):
    """One connection, for one request at a time. A broken connection answers with BROKEN."""

    def __init__(self, answered: Answered) -> None:
        self.answered = answered
        self.number = -1  # of the request under way, for the owner
        self.idle_since = 0.0
        self.closed = False
        self.busy = False
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._status = 0
        self._retry_after: int | None = None
        self._remaining = 0  # bytes of the body
        self._last = False  # the service closes the connection after this answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes) -> None:
        self.busy = True
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._remaining:
            self._remaining -= len(data)
        else:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._head, self._status = b"", int(data[9:12])
            length = LENGTH.search(data, 0, end)
            wait = RETRY_AFTER.search(data, 0, end) if self._status == 429 else None
            self._retry_after = int(wait[1]) if wait else None
            self._last = self._status >= 400 and b"\r\nconnection: close" in data[:end].lower()
            self._remaining = (int(length[1]) if length else 0) - (len(data) - end - 4)
        if not self._remaining:
            self.busy = False
            if self._last:
                self.close()
            self.answered(self, self._status, self._retry_after)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.busy:
            self.busy = False
            self.answered(self, BROKEN, None)


async def connect(port: int, answered: Answered) -> Connection:
    """Open a connection to the service."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
    return connection


class Pool:
    """At most `limit` connections. The one that has been idle longest is used first: a server may read it again."""

    def __init__(self, port: int, limit: int, answered: Answered) -> None:
        self._port = port
        self._limit = limit
        self._answered = answered
        self._idle: deque[Connection] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self.open = 0

    def take(self, now: float) -> Connection | None:
        """Return an idle connection, if there is one."""
        while self._idle:
            connection = self._idle.popleft()
            if not connection.closed and now - connection.idle_since < MAX_IDLE_S:
                return connection
            connection.close()
            self.open -= 1
        return None

    def give(self, connection: Connection) -> None:
        """Take a connection back."""
        if connection.closed:
            self.open -= 1
        else:
            connection.idle_since = time.perf_counter()
            self._idle.append(connection)

    def start_opening(self, number: int, request: bytes) -> bool:
        """Send a request over a new connection; return False if there are as many as may be."""
        if self.open >= self._limit:
            return False
        self.open += 1
        task = asyncio.get_running_loop().create_task(self._open(number, request))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return True

    async def _open(self, number: int, request: bytes) -> None:
        try:
            connection = await connect(self._port, self._answered)
        except OSError:
            connection = Connection(self._answered)
            connection.number, connection.closed = number, True
            self._answered(connection, BROKEN, None)
            return
        connection.number = number
        connection.send(request)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


class OpenLoop:
    """Requests at times of their own, whether or not earlier ones have been answered.

    Args:
        limit: number of connections; a request that finds none free is not sent.
    """

    def __init__(self, port: int, requests: Mapping[str, bytes], limit: int) -> None:
        self.outcomes = Outcomes()
        self._requests = requests
        self._pool = Pool(port, limit, self._answered)
        self._in_flight = 0
        self._drained = asyncio.Event()

    async def run(self, times: list[float], kinds: Iterator[str]) -> Outcomes:
        """Send a request at each of the times, in seconds from now; return when all are answered."""
        with collector_paused():
            outcomes = self.outcomes
            started = outcomes.started = time.perf_counter()
            position = 0
            while position < len(times):
                now = time.perf_counter() - started
                while position < len(times) and times[position] <= now:
                    self._send(next(kinds), started + times[position])
                    position += 1
                    if not position % 64:  # answers are read in between
                        break
                pause = times[position] - time.perf_counter() + started if position < len(times) else 0.0
                await asyncio.sleep(max(pause, TICK_S) if pause > 0 else 0)
            await self._drain()
        self._pool.close()
        return outcomes

    def _send(self, kind: str, due: float) -> None:
        now = time.perf_counter()
        delay, request = now - due, self._requests[kind]
        if delay > MAX_DELAY_S:
            self.outcomes.add(kind, due, delay, TOO_LATE)
            return
        number = self.outcomes.add(kind, due, delay)
        connection = self._pool.take(now)
        if connection is not None:
            connection.number = number
            connection.send(request)
        elif not self._pool.start_opening(number, request):
            self.outcomes.status[number] = NO_CONNECTION
            return
        self._in_flight += 1

    def _answered(self, connection: Connection, status: int, retry_after: int | None) -> None:
        self.outcomes.end(connection.number, status, retry_after)
        self._pool.give(connection)
        self._in_flight -= 1
        if not self._in_flight:
            self._drained.set()

    async def _drain(self) -> None:
        self._drained.clear()
        if self._in_flight:
            try:
                await asyncio.wait_for(self._drained.wait(), MAX_DRAIN_S)
            except TimeoutError:
                return


class ClosedLoop:
    """Clients that each send the next request when they have the answer to the last one."""

    def __init__(self, port: int, requests: Mapping[str, bytes]) -> None:
        self.outcomes = Outcomes()
        self.stopping = False
        self._port = port
        self._requests = requests

    async def run(self, clients: int, seconds: float, kinds: Iterator[str]) -> Outcomes:
        """Send requests for some seconds; return when all are answered."""
        with collector_paused():
            self.outcomes.started = time.perf_counter()
            until = self.outcomes.started + seconds
            await asyncio.gather(*(self._client(until, kinds) for _ in range(clients)))
        return self.outcomes

    async def _client(self, until: float, kinds: Iterator[str]) -> None:
        loop, outcomes = asyncio.get_running_loop(), self.outcomes
        connection: Connection | None = None
        answer: asyncio.Future[int]

        def answered(connection: Connection, status: int, retry_after: int | None) -> None:
            outcomes.end(connection.number, status, retry_after)
            if not answer.done():
                answer.set_result(status)

        while time.perf_counter() < until and not self.stopping:
            answer = loop.create_future()
            if connection is None or connection.closed:
                connection = await connect(self._port, answered)
            kind = next(kinds)
            connection.number = outcomes.add(kind, time.perf_counter())
            connection.send(self._requests[kind])
            if await answer == 429:
                await asyncio.sleep(BACKOFF_S)
        if connection is not None:
            connection.close()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector, which would stop the generator for some milliseconds."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
