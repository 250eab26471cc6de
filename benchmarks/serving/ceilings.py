"""What the model alone can do in one thread: the service's own calls, without a server. Prints JSON."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from app.inference.backends import Runtime
from app.inference.functions import ModelFunctions
from model import checkpoint

ROWS = (1, 8, 64, 128, 256)


def seconds(call: Callable[[], object]) -> float:
    """The median of as many calls as fit into a second."""
    times = []
    until = time.perf_counter() + 1
    while time.perf_counter() < until or len(times) < 3:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main(name: str, engine: str) -> None:
    torch.set_num_threads(1)
    loaded = checkpoint.load(Path(name))
    vae = loaded.vae
    runtime = Runtime(vae, engine=engine)  # type: ignore[arg-type]
    calls = ModelFunctions(loaded, runtime).build()
    random = np.random.default_rng(0)
    found: dict[str, object] = {"engine": runtime.backends["encode"].engine}
    for rows in ROWS:
        x = (random.integers(0, 256, (rows, *vae.config.data.shape)) / 255).astype(np.float32)
        z = random.standard_normal((rows, vae.config.latent)).astype(np.float32)
        found[f"encode {rows}"] = seconds(lambda x=x: calls["encode"](x))
        found[f"score {rows}"] = seconds(lambda x=x, z=z: calls["score"](x, z, np.abs(z) + 0.1, z))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
