"""One eye on all requests under way: bodies that come too slowly, and clients that leave before their answer is ready.

Each is looked at a few times a second at most, together with all others. A timer and a task of its own for each would
cost as much as its row in the model.
"""

import asyncio

from starlette.requests import Request

#: Seconds between two looks. A request that takes less is not looked at.
INTERVAL = 0.1


class ClientLeft(Exception):
    """Nobody waits for this answer any more."""


class Entry:
    """A task that is cancelled when its time is up or, where it has a request, when the client of that leaves."""

    __slots__ = ("due", "over", "request", "task")

    def __init__(self, task: "asyncio.Task[object]", due: float, request: Request | None) -> None:
        self.task = task
        self.due = due
        self.request = request
        self.over = False

    def end(self) -> None:
        """Cancel the task."""
        self.over = True
        self.task.cancel()

    def recalled(self) -> bool:
        """Whether it was this watch that cancelled the task, which then goes on as if it had not been."""
        if self.over:
            self.task.uncancel()
        return self.over


class Watch:
    """Over the tasks of one event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entries: set[Entry] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def over_body(self, seconds: float) -> Entry:
        """Cancel the running task after so long, rounded up to the next look."""
        return self._add(seconds, None)

    def over_client(self, request: Request) -> Entry:
        """Cancel the running task when the client of a request leaves, whose body has been read."""
        return self._add(INTERVAL, request)

    def _add(self, seconds: float, request: Request | None) -> Entry:
        # Told of the loop, asyncio need not ask the system for it.
        task = asyncio.current_task(self._loop) if self._loop else None
        if task is None:
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
            assert task is not None
        loop = task.get_loop()
        entry = Entry(task, loop.time() + seconds, request)
        self._entries.add(entry)
        if self._timer is None:
            self._timer = loop.call_later(INTERVAL, self._ring, loop)
        return entry

    def forget(self, entry: Entry) -> None:
        """The task has done what it was watched for."""
        self._entries.discard(entry)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(INTERVAL, self._ring, loop) if self._entries else None
        due = [entry for entry in self._entries if loop.time() >= entry.due]
        if due and (self._looking is None or self._looking.done()):
            self._looking = loop.create_task(self._look(due))

    async def _look(self, due: list[Entry]) -> None:
        for entry in due:
            gone = entry.request is None or await entry.request.is_disconnected()
            # While others were asked it may have been answered.
            if gone and entry in self._entries:
                entry.end()
