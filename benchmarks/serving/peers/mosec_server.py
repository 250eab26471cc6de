"""mosec: a Rust front, one Python worker, batches of up to 64 that wait 1 ms for more."""

import os

import numpy as np
import orjson
from mosec import Server, Worker
from session import Encoder, from_npy, to_npz


class Encode(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.binary = os.environ["BODY"] == "npy"

    def deserialize(self, data: bytes) -> np.ndarray:
        return from_npy(data) if self.binary else np.array(orjson.loads(data)["inputs"], np.float32)

    def forward(self, data: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        mean, variance = self.encoder(np.concatenate(data))
        cuts = np.cumsum([len(x) for x in data])[:-1]
        return list(zip(np.split(mean, cuts), np.split(variance, cuts), strict=True))

    def serialize(self, data: tuple[np.ndarray, np.ndarray]) -> bytes:
        mean, variance = data
        if self.binary:
            return to_npz(mean, variance)
        return orjson.dumps({"mean": mean, "variance": variance}, option=orjson.OPT_SERIALIZE_NUMPY)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Encode, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
