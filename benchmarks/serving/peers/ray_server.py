"""Ray Serve: one replica, batches of up to 64 that wait 1 ms for more."""

import os
import signal

import numpy as np
import orjson
import ray
from ray import serve
from session import Encoder
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0})
class Encode:
    def __init__(self) -> None:
        self.encoder = Encoder()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def encode(self, inputs: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        mean, variance = self.encoder(np.stack(inputs))
        return list(zip(mean, variance, strict=True))

    async def __call__(self, request: Request) -> Response:
        x = np.array(orjson.loads(await request.body())["inputs"], np.float32)[0]
        mean, variance = await self.encode(x)
        body = orjson.dumps({"mean": mean[None], "variance": variance[None]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


if __name__ == "__main__":
    environment = {name: os.environ[name] for name in ("MODEL", "THREADS", "PYTHONPATH")}
    ray.init(num_cpus=1, include_dashboard=False, runtime_env={"env_vars": environment}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Encode.bind(), route_prefix="/encode", name="encode")
    signal.pause()
