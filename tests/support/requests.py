"""Requests to a service and the values in its responses."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from model.vae import to_tensor
from tests.support.models import CONFIGS
from tests.support.services import Client

Serving = Callable[[str], Client]
IMAGES = [name for name in CONFIGS if not name.startswith("table")]
GREY = "grey-mlp-discretized"
every = pytest.mark.parametrize("name", CONFIGS)
#: Runs a test over ASGI alone: for arithmetic that does not depend on the transport.
over_asgi = pytest.mark.parametrize("transport", ["asgi"], indirect=True, scope="session")


def inputs(name: str, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random inputs in the layout of a request: images as bytes, channels last, or vectors in their units."""
    generator = np.random.default_rng(seed)
    data = CONFIGS[name].data
    if name in IMAGES:
        return generator.integers(0, 256, (count, *data.public_shape), np.uint8)
    return (generator.normal(size=(count, 3)) * [10, 0.1, 12] + [40, 1.7, 70]).astype(np.float32)


def inside(name: str, x: np.ndarray[Any, Any]) -> torch.Tensor:
    """Convert inputs of a request to the layout of the model."""
    if name not in IMAGES:
        return to_tensor(x)
    return to_tensor(np.ascontiguousarray(x.reshape(*x.shape[:3], -1).transpose(0, 3, 1, 2)))


def outside(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """Convert outputs of the model to the layout of a response."""
    array = x.numpy().clip(0, 1) if x.ndim == 4 else x.numpy()
    return (
        array.transpose(0, 2, 3, 1).squeeze(-1)
        if array.ndim == 4 and array.shape[1] == 1
        else (array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)
    )


def npy(array: Any) -> dict[str, Any]:
    file = io.BytesIO()
    np.save(file, array)
    return {"content": file.getvalue(), "headers": {"Content-Type": "application/x-npy"}}


def npz(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    return dict(np.load(io.BytesIO(content), allow_pickle=False))


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Assert equality up to a share of the largest magnitude."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * max(np.abs(a).max(), np.abs(b).max())


def scores(client: Client, x: np.ndarray[Any, Any], query: str) -> dict[str, Any]:
    """Response of /free-energy for these inputs, with arrays in place of lists."""
    response = client.post(f"/free-energy?{query}", **npy(x))
    assert response.status_code == 200, response.text
    return {key: np.array(value) if isinstance(value, list) else value for key, value in response.json().items()}
