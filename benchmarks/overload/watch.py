"""Observation of the service during a load: its memory and its readiness."""

import asyncio
import re
import time
from pathlib import Path

from benchmarks.overload.arrangements import Deployment
from benchmarks.overload.client import connect
from benchmarks.overload.outcomes import Observed

#: Seconds after the end of a load in which the last checks of readiness must be answered.
READY_S = 5.0


def resident(pids: list[int]) -> float:
    """Return the resident memory of some processes in MB; pages that they share count for each."""
    total = 0.0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found = re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
        total += int(found[1]) / 1e3 if found else 0.0
    return total


class Watcher:
    """Observer of the memory of a deployment and its readiness, once a second."""

    REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: vae\r\nAccept: application/json\r\n\r\n"

    def __init__(self, deployment: Deployment) -> None:
        self.observed = Observed()
        self._deployment = deployment
        self._pending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Observe until cancelled."""
        pids = self._deployment.pids()
        while True:
            self.observed.memory.append(resident(pids))
            task = asyncio.create_task(self._ready())
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
            await asyncio.sleep(1)

    async def end(self) -> Observed:
        """Return what was observed; a late answer of /health/ready counts as none."""
        if self._pending:
            _, late = await asyncio.wait(self._pending, timeout=READY_S)
            self.observed.not_ready += len(late)
        self.observed.memory.append(resident(self._deployment.pids()))
        return self.observed

    async def _ready(self) -> None:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        try:
            connection = await connect(self._deployment.port, lambda _, status, __: answer.set_result(status))
        except OSError:
            self.observed.not_ready += 1
            return
        connection.send(self.REQUEST)
        if await answer == 200:
            self.observed.ready.append(time.perf_counter() - started)
        else:
            self.observed.not_ready += 1
        connection.close()
