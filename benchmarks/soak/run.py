"""A service under mixed traffic for a long time: `make soak MINUTES=30`.

Clients ask for everything that it can do, send what is wrong, leave before they are answered, and send large bodies.
Every good answer is held against the model itself, called directly. `../SOAK.md` says what came of it. The exit status
is 1 where an answer was wrong, a request failed that should not, or memory grew by more than `MOST_GROWTH` an hour.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from app import __version__
from model import checkpoint, machine
from model import random as seeded
from model.likelihoods import Gaussian
from model.scoring.batches import estimate
from model.vae import VAE, to_tensor

HERE = Path(__file__).parent
#: How far an answer may be from the model, as a share of the largest magnitude of the array.
TOLERANCE = 1e-4
#: Megabytes an hour by which memory may grow after the first tenth of the time.
MOST_GROWTH = 30.0
INPUTS, SAMPLES = 32, 4
NPY, NPZ, JSON = "application/x-npy", "application/x-npz", "application/json"


@dataclass
class Known:
    """Inputs, and what the model makes of them."""

    x: np.ndarray
    outside: np.ndarray  # as clients send them
    z: np.ndarray
    answers: dict[str, np.ndarray]

    @classmethod
    def of(cls, vae: VAE) -> "Known":
        import torch

        with torch.inference_mode():
            z = to_tensor(seeded.normal(7, (INPUTS, vae.config.latent)))
            x = vae.decode(z).mean.clip(0, 1)
            x = ((255 * x).round() / 255).float()
            q = vae.encode(x)
            draws = to_tensor(seeded.normal(0, (SAMPLES, vae.config.latent)))
            scores = estimate(vae, x, Gaussian(q.mean, q.scale), draws)
            answers = {
                "mean": q.mean.numpy(),
                "variance": q.scale.square().numpy(),
                "decoded": vae.decode(z).mean.clip(0, 1)[:, 0].numpy(),
                "rebuilt": vae.decode(q.mean).mean.clip(0, 1)[:, 0].numpy(),
                "free_energy": scores.free_energy,
                "nlog_p_x": scores.nlog_p_x,
            }
        return cls(x.numpy(), x[:, 0].numpy(), z.numpy(), answers)


@dataclass
class Tally:
    """What has happened."""

    asked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    refused: int = 0  # with 429
    seconds: list[tuple[float, float]] = field(default_factory=list)  # of small requests: when, and how long
    memory: list[tuple[float, float]] = field(default_factory=list)  # when, MB

    def hold(self, what: str, found: Any, expected: np.ndarray) -> None:
        """An answer against what it should be."""
        array = np.asarray(found)
        scale = float(np.abs(expected).max())
        if array.shape != expected.shape or not np.abs(array - expected).max() <= TOLERANCE * scale:
            self.wrong.append(what)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class Client:
    """One after the other, requests of all kinds."""

    def __init__(self, port: int, known: Known, tally: Tally, seed: int) -> None:
        self.port = port
        self.known = known
        self.tally = tally
        self.random = random.Random(seed)  # noqa: S311
        self.http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (30, self.encode),
            (15, self.decode),
            (10, self.rebuild),
            (15, self.score),
            (8, self.sample),
            (2, self.large),
            (15, self.bad),
            (5, self.abandoned),
        ]

    async def go(self, until: float) -> None:
        weights = [weight for weight, _ in self.kinds]
        while time.monotonic() < until:
            _, kind = self.random.choices(self.kinds, weights)[0]
            self.tally.asked[kind.__name__] += 1
            try:
                await kind()
            except Exception as error:
                self.tally.failed.append(f"{kind.__name__}: {error!r}")
        await self.http.aclose()

    async def ask(self, path: str, body: bytes | None, content: str = NPY, accept: str = NPZ, status: int = 200) -> Any:
        """An answer as named arrays; None where there was no room for the request."""
        started = time.monotonic()
        headers = {"content-type": content, "accept": accept}
        method = "GET" if body is None else "POST"
        answer = await self.http.request(method, path, content=body, headers=headers)
        if answer.status_code == 429:
            self.tally.refused += 1
            await asyncio.sleep(0.1)
            return None
        if answer.status_code != status:
            raise RuntimeError(f"{method} {path} came to {answer.status_code}: {answer.text[:200]}")
        if len(answer.content) < 100_000 and status == 200:
            self.tally.seconds.append((started, time.monotonic() - started))
        if accept == NPZ and status == 200:
            return dict(np.load(io.BytesIO(answer.content)))
        return answer.content if accept == "image/png" else json.loads(answer.content)

    def some(self) -> np.ndarray:
        """Indices of a few inputs."""
        return np.array(self.random.sample(range(INPUTS), self.random.choice((1, 1, 1, 3))))

    async def encode(self) -> None:
        rows = self.some()
        if self.random.random() < 0.5:
            found = await self.ask("/encode", npy(self.known.outside[rows]))
        else:
            body = json.dumps({"inputs": self.known.outside[rows].tolist()}).encode()
            found = await self.ask("/encode", body, JSON, JSON)
        if found is not None:
            for name in ("mean", "variance"):
                self.tally.hold(f"encode {name}", found[name], self.known.answers[name][rows])

    async def decode(self) -> None:
        rows = self.some()
        found = await self.ask("/decode", npy(self.known.z[rows]))
        if found is not None:
            self.tally.hold("decode", found["outputs"], self.known.answers["decoded"][rows])

    async def rebuild(self) -> None:
        rows = self.some()
        found = await self.ask("/reconstruct", npy(self.known.outside[rows]))
        if found is not None:
            self.tally.hold("reconstruct", found["outputs"], self.known.answers["rebuilt"][rows])

    async def score(self) -> None:
        rows = self.some()
        found = await self.ask(f"/free-energy?samples={SAMPLES}", npy(self.known.outside[rows]))
        if found is not None:
            for name in ("free_energy", "nlog_p_x"):
                self.tally.hold(f"free-energy {name}", found[name], self.known.answers[name][rows])

    async def sample(self) -> None:
        if self.random.random() < 0.5:
            picture = await self.ask("/sample?n=4", None, accept="image/png")
            if picture is not None and not picture.startswith(b"\x89PNG"):
                self.tally.wrong.append("sample: no picture")
            return
        found = await self.ask("/sample?n=2&seed=7", None)
        if found is not None:
            self.tally.hold("sample", found["latents"], self.known.z[:2])

    async def large(self) -> None:
        rows = np.arange(1024) % INPUTS
        found = await self.ask("/encode", npy(self.known.outside[rows]))
        if found is not None:
            self.tally.hold("encode, large", found["mean"], self.known.answers["mean"][rows])

    async def bad(self) -> None:
        body = npy(self.known.outside[:1])
        content, path, said, status = self.random.choice(
            (
                (b"junk", "/encode", NPY, 400),
                (b'{"inputs": [[', "/encode", JSON, 400),
                (b'{"inputs": [[[2]]]}', "/encode", JSON, 422),
                (npy(self.known.outside[:1] + 5), "/free-energy", NPY, 422),
                (body, "/encode?strict=perhaps", NPY, 422),
                (body, "/free-energy?samples=1000000", NPY, 413),
                (npy(np.zeros((1, 3), np.float32)), "/decode", NPY, 422),
                (body, "/nowhere", NPY, 404),
                (body, "/encode", "text/plain", 415),
            )
        )
        await self.ask(path, content, said, JSON, status)

    async def abandoned(self) -> None:
        """Leave before the head, the body or the answer is complete."""
        body = npy(self.known.outside[np.arange(64) % INPUTS])
        lines = ["POST /free-energy?samples=16 HTTP/1.1", "Host: x", f"Content-Type: {NPY}"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        whole = head.encode() + body
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(whole[: self.random.choice((20, len(head) + 100, len(whole)))])
        await writer.drain()
        await asyncio.sleep(0.05 * self.random.random())
        writer.close()


def resident(pid: int) -> float:
    """The memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1e3


async def watch(pid: int, tally: Tally, until: float) -> None:
    """Note the service's memory once a second."""
    while time.monotonic() < until:
        tally.memory.append((time.monotonic(), resident(pid)))
        await asyncio.sleep(1)


async def drive(port: int, pid: int, known: Known, minutes: float, clients: int) -> Tally:
    tally, until = Tally(), time.monotonic() + 60 * minutes
    crowd = [Client(port, known, tally, seed).go(until) for seed in range(clients)]
    await asyncio.gather(watch(pid, tally, until), *crowd)
    return tally


def growth(memory: list[tuple[float, float]]) -> float:
    """Megabytes an hour, by least squares, after the first tenth of the time."""
    when, used = np.array(memory[len(memory) // 10 :]).T
    return float(np.polyfit((when - when[0]) / 3600, used, 1)[0])


def p99(seconds: list[tuple[float, float]], part: slice) -> float:
    """Milliseconds, of a part of the requests in their order."""
    return 1e3 * float(np.percentile([took for _, took in seconds[part]], 99))


def report(tally: Tally, model: str, minutes: float, clients: int) -> str:
    quarter = len(tally.seconds) // 4
    first, last = p99(tally.seconds, slice(quarter)), p99(tally.seconds, slice(-quarter, None))
    asked = sum(tally.asked.values())
    used = [megabytes for _, megabytes in tally.memory]
    rows = [
        ("requests", f"{asked:,}"),
        *((f"of them {kind}", f"{count:,}") for kind, count in tally.asked.most_common()),
        ("wrong answers", f"{len(tally.wrong):,}"),
        ("failures", f"{len(tally.failed):,}"),
        ("refused for want of room (429)", f"{tally.refused:,}"),
        ("memory at the start and at the end, MB", f"{used[0]:.0f}, {used[-1]:.0f}"),
        ("growth of memory after the first tenth, MB an hour", f"{growth(tally.memory):.1f}"),
        ("p99 of small requests, first and last quarter, ms", f"{first:.0f}, {last:.0f}"),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    head = (
        f"`make soak MINUTES={minutes:g}`: vae-server {__version__} serves {model} to {clients} clients that send "
        "requests "
        f"of all kinds, one after the other, on {machine.describe()}, Python {platform.python_version()}."
    )
    return f"# Soak\n\n{head}\n\n| what | |\n|---|---|\n{table}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--model", default="fashion-mnist-mlp")
    parser.add_argument("--report", type=Path, help="where to write what came of it")
    options = parser.parse_args()
    known = Known.of(checkpoint.load(Path(options.model)).vae)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from app.cli.main import main; main()",
        "serve",
        options.model,
        "--port",
        str(port),
    ]
    environ = {**os.environ, "VAE_LOG_LEVEL": "error", "VAE_GRACE": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as service:
        assert service.stdout is not None
        print(service.stdout.readline().strip(), flush=True)
        tally = asyncio.run(drive(port, service.pid, known, options.minutes, options.clients))
        service.terminate()
        stopped = service.wait(60)
    text = report(tally, options.model, options.minutes, options.clients)
    print(text)
    for problem in (tally.wrong + tally.failed)[:20]:
        print(problem, file=sys.stderr)
    if options.report:
        options.report.write_text(text)
    steady = growth(tally.memory) <= MOST_GROWTH or options.minutes < 10
    return int(bool(tally.wrong or tally.failed or stopped or not steady))


if __name__ == "__main__":
    sys.exit(main())
