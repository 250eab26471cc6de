"""MLServer: in-process (no pool of workers), adaptive batches of up to 64 that wait 1 ms for more."""

import asyncio
import os

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from session import Encoder


class Encode(MLModel):
    async def load(self) -> bool:
        self.encoder = Encoder()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        mean, variance = self.encoder(x)
        outputs = [NumpyCodec.encode_output("mean", mean), NumpyCodec.encode_output("variance", variance)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    port = int(os.environ["PORT"])
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_endpoint=None, parallel_workers=0, debug=False
    )
    model = ModelSettings(name="encode", implementation=Encode, max_batch_size=64, max_batch_time=0.001)
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
