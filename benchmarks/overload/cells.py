"""Cells: the requests of one measurement, the order of a mixture, and the times of Poisson arrivals."""

import io
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NPY, NPZ = "application/x-npy", "application/x-npz"


@dataclass(frozen=True)
class Kind:
    """One request.

    Args:
        rows: images in the body; 0 for a request without a body.
        clients: clients of the first closed loop from which the search for the capacity starts.
    """

    name: str
    path: str
    rows: int
    clients: int

    def encoded(self, shape: Sequence[int]) -> bytes:
        """Return the bytes of the request, with random images of the shape of the model."""
        method, body, headers = "GET", b"", ["Host: vae", f"Accept: {NPZ}"]
        if self.rows:
            pixels = np.random.default_rng(0).integers(0, 256, (self.rows, *shape), np.uint8)
            method, body = "POST", npy(pixels)
            headers += [f"Content-Type: {NPY}", f"Content-Length: {len(body)}"]
        return "\r\n".join([f"{method} {self.path} HTTP/1.1", *headers, "", ""]).encode() + body


def npy(array: np.ndarray) -> bytes:
    """Return an array as the bytes of an npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _score(rows: int, draws: int, clients: int) -> Kind:
    return Kind(f"{rows:,} x {draws}", f"/free-energy?samples={draws}", rows, clients)


KINDS = {
    "1x1": _score(1, 1, 64),
    "1x16": _score(1, 16, 64),
    "8x16": _score(8, 16, 8),
    "64x1": _score(64, 1, 4),
    "64x64": _score(64, 64, 1),
    "1024x1": _score(1024, 1, 1),
    "refine": Kind("4 x 16, refine 20", "/free-energy?samples=16&refine=20", 4, 4),
    "sample": Kind("sample 256", "/sample?n=256", 0, 4),
    "encode": Kind("encode 8", "/encode", 8, 32),
}
MIX = "mix"
CELLS = (*KINDS, MIX)
MIX_CLIENTS = 64


def kinds_of(cell: str) -> tuple[str, ...]:
    """Return the kinds of request that a cell sends."""
    return tuple(KINDS) if cell == MIX else (cell,)


def name_of(cell: str) -> str:
    return KINDS[cell].name if cell in KINDS else cell


def first_clients(cell: str) -> int:
    return KINDS[cell].clients if cell in KINDS else MIX_CLIENTS


def mixture(costs: Mapping[str, float]) -> dict[str, float]:
    """Return the probability of each kind that gives all kinds the same share of the work.

    Args:
        costs: seconds of the service per request, by kind.
    """
    total = sum(1 / cost for cost in costs.values())
    return {kind: 1 / cost / total for kind, cost in costs.items()}


def counts(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Return how many of `total` requests are of each kind, by the largest remainder.

    >>> counts({"small": 0.75, "large": 0.25}, 10)
    {'small': 8, 'large': 2}
    """
    found = {kind: int(share * total) for kind, share in shares.items()}
    remainders = sorted(shares, key=lambda kind: found[kind] - shares[kind] * total)
    for kind in remainders[: total - sum(found.values())]:
        found[kind] += 1
    return found


def order(shares: Mapping[str, float], total: int, seed: int) -> list[str]:
    """Return the kinds of `total` requests in random order. The shares are exact: the rarest kind has most work."""
    kinds = [kind for kind, count in counts(shares, total).items() for _ in range(count)]
    random.Random(seed).shuffle(kinds)  # noqa: S311
    return kinds


def endless(shares: Mapping[str, float], block: int) -> Iterator[str]:
    """Yield kinds without end, in blocks that have the shares."""
    for seed in itertools.count():
        yield from order(shares, block, seed)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the times of a Poisson process from 0 to `seconds`, in ascending order.

    Their number is the expected one: given its number of events, a Poisson process has them at independent uniform
    times.
    """
    generator = random.Random(seed)  # noqa: S311
    return sorted(generator.uniform(0, seconds) for _ in range(max(1, round(rate * seconds))))
