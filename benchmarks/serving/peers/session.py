"""What every peer serves: an encoder as an ONNX model, n x height x width to mean and variance of Q(z|x)."""

import io
import os

import numpy as np
import onnxruntime


class Encoder:
    """The model named by `MODEL`, on `THREADS` threads."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self(np.zeros((1, 28, 28), np.float32))

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """n x 28 x 28 -> mean, variance, both n x latent."""
        mean, variance = self.session.run(None, {"x": x})
        return mean, variance


def from_npy(body: bytes) -> np.ndarray:
    """One array of numbers in [0, 1], as a client saves it."""
    return np.load(io.BytesIO(body), allow_pickle=False).astype(np.float32, copy=False)


def to_npz(mean: np.ndarray, variance: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, mean=mean, variance=variance)
    return file.getvalue()
