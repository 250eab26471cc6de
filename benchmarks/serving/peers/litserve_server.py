"""LitServe: one worker, batches of up to 64 that wait 1 ms for more."""

import os

import litserve
import numpy as np
from session import Encoder


class Encode(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.encoder = Encoder()

    def decode_request(self, request: dict) -> np.ndarray:
        return np.array(request["inputs"], np.float32)[0]

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.encoder(x)

    def unbatch(self, output: tuple[np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(zip(*output, strict=True))

    def encode_response(self, output: tuple[np.ndarray, np.ndarray]) -> dict:
        mean, variance = output
        return {"mean": [mean.tolist()], "variance": [variance.tolist()]}


if __name__ == "__main__":
    api = Encode(max_batch_size=64, batch_timeout=0.001, api_path="/encode")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
