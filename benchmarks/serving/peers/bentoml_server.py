"""BentoML: one worker, adaptive batches of up to 64. `bentoml serve bentoml_server:Encode`."""

import bentoml
import numpy as np
from pydantic import BaseModel
from session import Encoder


class Encoded(BaseModel):
    mean: list[float]
    variance: list[float]


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1024}, metrics={"enabled": False})
class Encode:
    def __init__(self) -> None:
        self.encoder = Encoder()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000, route="/encode")
    def encode(self, inputs: np.ndarray) -> list[Encoded]:
        mean, variance = self.encoder(np.asarray(inputs, np.float32))
        return [Encoded(mean=m, variance=v) for m, v in zip(mean.tolist(), variance.tolist(), strict=True)]
