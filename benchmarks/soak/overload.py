"""Ten times as many requests as the service can do: `make overload`.

First clients that always wait for their answer find out how many requests a second it does, and how long each takes.
Then requests come at times of their own (a Poisson process), at ten times that rate, whether or not others have been
answered. `../OVERLOAD.md` says what became of them: how many were done, how long those took that were accepted, how
long it took to refuse the others, and what memory did.

The service has the first core, and what asks it another. Requests are such as one core can send ten times as many of
as the other computes: free energies, and several images to encode.
"""

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop
from run import npy, resident

from app import __version__
from model import checkpoint, machine
from model.datasets import open_dataset
from model.vae import to_tensor

#: Clients that wait for their answers, and how many times their rate comes then.
CLIENTS, TIMES = 64, 10
#: What is asked for, of how many images, and VAE_QUEUE_SECONDS.
CASES = (("/free-energy?samples=16", 1, 1.0), ("/encode", 8, 1.0), ("/encode", 8, 0.5))
#: Connections that may wait for an answer at once; requests beyond are counted as not sent.
MOST = 4000


@dataclass
class Told:
    """What became of requests: status, and seconds from when it was due to the end of its answer."""

    answers: list[tuple[int, float]] = field(default_factory=list)
    retry: list[int] = field(default_factory=list)  # seconds that a refusal names
    unsent: int = 0
    broken: int = 0
    memory: list[float] = field(default_factory=list)  # MB, each half second

    def times(self, status: int) -> list[float]:
        """Milliseconds of those with this status."""
        return [1e3 * seconds for found, seconds in self.answers if found == status]


def request(model: str, path: str, images: int) -> bytes:
    """Some images as npy."""
    data = checkpoint.load(Path(model)).vae.config.data
    samples = to_tensor(open_dataset("fashion-mnist:test").load()[:images]).numpy()
    body = npy(samples.reshape(images, *data.public_shape))
    head = [
        f"POST {path} HTTP/1.1",
        "Host: here",
        "Content-Type: application/x-npy",
        "Accept: application/x-npz",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


class Connection:
    """One to the service, for one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, sent: bytes, told: Told, due: float) -> None:
        try:
            if self.reader is None or self.writer is None:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.writer.write(sent)
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(_header(head, b"content-length"))
            await self.reader.readexactly(length)
        except (OSError, EOFError) as error:
            told.broken += 1
            print(repr(error), file=sys.stderr)
            self.reader = self.writer = None
            return
        status = int(head[9:12])
        told.answers.append((status, time.perf_counter() - due))
        if status == 429:
            told.retry.append(int(_header(head, b"retry-after")))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _header(head: bytes, name: bytes) -> bytes:
    return head.split(b"\r\n" + name + b": ", 1)[1].split(b"\r\n", 1)[0]


async def watch(pid: int, told: Told, until: float) -> None:
    while time.perf_counter() < until:
        told.memory.append(resident(pid))
        await asyncio.sleep(0.5)


async def closed(port: int, pid: int, sent: bytes, seconds: float) -> Told:
    """Each client asks again when it is answered."""
    told, until = Told(), time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(port)
        while (due := time.perf_counter()) < until:
            await connection.ask(sent, told, due)
        connection.close()

    await asyncio.gather(watch(pid, told, until), *(client() for _ in range(CLIENTS)))
    return told


async def opened(port: int, pid: int, sent: bytes, seconds: float, rate: float) -> Told:
    """Requests come at their own times, on whatever connection is free."""
    told, begun = Told(), time.perf_counter()
    chance = random.Random(0)  # noqa: S311
    free: deque[Connection] = deque()
    asking: set[asyncio.Task[None]] = set()
    seen = asyncio.create_task(watch(pid, told, begun + seconds))

    async def one(connection: Connection, due: float) -> None:
        await connection.ask(sent, told, due)
        free.appendleft(connection)

    due = begun
    while (due := due + chance.expovariate(rate)) < begun + seconds:
        if (wait := due - time.perf_counter()) > 0.001:
            await asyncio.sleep(wait)
        elif not len(told.answers) % 16:
            await asyncio.sleep(0)
        if len(asking) >= MOST:
            told.unsent += 1
            continue
        task = asyncio.create_task(one(free.popleft() if free else Connection(port), due))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(seen, *asking)
    for connection in free:
        connection.close()
    return told


@contextmanager
def serving(model: str, core: int, queue_seconds: float) -> Iterator[tuple[int, int]]:
    """Port and process of a service on this core."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from app.cli.main import main; main()", "serve", model, "--port", str(port)]
    environ = {**os.environ, "VAE_LOG_LEVEL": "error", "VAE_GRACE": "0", "VAE_QUEUE_SECONDS": str(queue_seconds)}
    command = ["taskset", "-c", str(core), *command, "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as service:
        assert service.stdout is not None
        print(service.stdout.readline().strip(), flush=True)
        yield port, service.pid
        service.terminate()


def percentile(values: list[float], share: float) -> str:
    return f"{np.percentile(values, share):,.1f}" if values else "none"


def column(full: Told, over: Told, seconds: float, asked: float) -> dict[str, str]:
    """What is to be told of one setting."""
    peak = len(full.times(200)) / seconds
    done, refused = over.times(200), over.times(429)
    others = len(over.answers) - len(done) - len(refused) + over.broken
    p99_full, p99_over = (float(np.percentile(times, 99)) for times in (full.times(200), done))
    return {
        "at full load: requests/s": f"{peak:,.0f}",
        "p50 and p99, ms": f"{percentile(full.times(200), 50)}, {percentile(full.times(200), 99)}",
        "at ten times: requests sent, a second": f"{(len(over.answers) + over.broken) / seconds:,.0f} of {asked:,.0f}",
        "accepted and done, a second": f"{len(done) / seconds:,.0f}",
        "over the rate at full load": f"{len(done) / seconds / peak:.2f}",
        "p50 and p99 of those, ms": f"{percentile(done, 50)}, {percentile(done, 99)}",
        "p99 over that at full load": f"{p99_over / p99_full:.2f}",
        "refused with 429, a second": f"{len(refused) / seconds:,.0f}",
        "p50 and p99 of a refusal, ms": f"{percentile(refused, 50)}, {percentile(refused, 99)}",
        "seconds in Retry-After": f"{min(over.retry, default=0)} to {max(over.retry, default=0)}",
        "anything else": f"{others:,}",
        "memory before, at most, after, MB": f"{over.memory[0]:.0f}, {max(over.memory):.0f}, {over.memory[-1]:.0f}",
    }


def text(columns: list[dict[str, str]], model: str, where: str, seconds: float) -> str:
    names = [
        f"{path}, {images} image{'s' if images > 1 else ''}, VAE_QUEUE_SECONDS={limit:g}"
        for path, images, limit in CASES
    ]
    rows = [f"| {what} | " + " | ".join(column[what] for column in columns) + " |" for what in columns[0]]
    head = (
        f"`make overload`: vae-server {__version__} serves {model} by one worker and thread on one core of {where}, "
        "and "
        f"another core asks it, with images as npy. Full load is {CLIENTS} clients that wait for their answers; then "
        f"requests come at {TIMES} times that rate, on times of their own (Poisson), and are timed from when they were "
        f"due. {seconds:g} s each."
    )
    table = "\n".join([f"| | {' | '.join(names)} |", "|---" * (1 + len(columns)) + "|", *rows])
    return f"# Overload\n\n{head}\n\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--model", default="fashion-mnist")
    parser.add_argument("--report", type=Path, help="where to write what came of it")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("one core for the service and another for the load are needed")
    where = machine.describe()
    os.sched_setaffinity(0, {cores[1]})
    columns = list[dict[str, str]]()
    for path, images, limit in CASES:
        sent = request(options.model, path, images)
        with serving(options.model, cores[0], limit) as (port, pid):
            uvloop.run(closed(port, pid, sent, 2))
            full = uvloop.run(closed(port, pid, sent, options.seconds))
            rate = TIMES * len(full.times(200)) / options.seconds
            over = uvloop.run(opened(port, pid, sent, options.seconds, rate))
        columns.append(column(full, over, options.seconds, rate))
    written = text(columns, options.model, where, options.seconds)
    print(written)
    if options.report:
        options.report.write_text(written)


if __name__ == "__main__":
    main()
