"""`/encode`, `/decode`, `/sample`, `/reconstruct`."""

from starlette.responses import Response

from app.api.operation import Operation
from app.api.request import Request
from app.api.schemas import (
    Decoded,
    DecodeQuery,
    Encoded,
    EncodeQuery,
    Reconstructed,
    ReconstructQuery,
    Sampled,
    SampleQuery,
)
from app.api.state import Service

PICTURES = ("json", "npz", "png")


async def encode(request: Request, service: Service, query: EncodeQuery) -> Response:
    form = service.form(request, query.format, pictures=False)
    x = await service.inputs(request, strict=query.strict)
    mean, variance = await request.work(service.watch, service.engine.encode(x, request.context))
    return await service.answer(request, form, {"mean": mean, "variance": variance})


async def decode(request: Request, service: Service, query: DecodeQuery) -> Response:
    form = service.form(request, query.format, pictures=True)
    z = await service.latents(request)
    seed = query.seed if query.noise else None
    x = await request.work(service.watch, service.engine.decode(z, request.context, noise_seed=seed))
    return await service.answer(request, form, {"outputs": service.outputs(x)}, x)


async def sample(request: Request, service: Service, query: SampleQuery) -> Response:
    form = service.form(request, query.format, pictures=True)
    service.limit("query.n", query.n, service.settings.max_rows)
    service.begin(request)
    request.rows = query.n
    drawn = service.engine.sample(query.n, query.seed, query.temperature, request.context, noisy=query.noise)
    z, x = await request.work(service.watch, drawn)
    return await service.answer(request, form, {"outputs": service.outputs(x), "latents": z}, x)


async def reconstruct(request: Request, service: Service, query: ReconstructQuery) -> Response:
    form = service.form(request, query.format, pictures=True)
    x = await service.inputs(request, strict=query.strict)
    rebuilt = await request.work(service.watch, service.engine.reconstruct(x, request.context))
    answer = {"outputs": service.outputs(rebuilt)}
    if query.inputs:
        answer["inputs"] = service.outside(x)
    return await service.answer(request, form, answer, rebuilt)


ENCODE = Operation(
    "POST",
    "/encode",
    "Inputs to latent means and variances",
    "The parameters of Q(z|x), a Gaussian with independent dimensions, for each input.",
    EncodeQuery,
    encode,
    Encoded,
    body="inputs",
    forms=("json", "npz"),
    deadline=True,
)
DECODE = Operation(
    "POST",
    "/decode",
    "Latents to data",
    "The mean of P(x|z) for each latent, or with `noise=true` a draw from it.",
    DecodeQuery,
    decode,
    Decoded,
    body="latents",
    forms=PICTURES,
    deadline=True,
)
SAMPLE = Operation(
    "GET",
    "/sample",
    "Samples from the prior",
    "z ~ N(0, temperature^2 I), decoded. Row i takes the i-th draw of the seed's stream: the first n samples of a "
    "larger request are the same.",
    SampleQuery,
    sample,
    Sampled,
    forms=PICTURES,
    deadline=True,
)
RECONSTRUCT = Operation(
    "POST",
    "/reconstruct",
    "Inputs through the latent and back",
    "The mean of P(x|z) at the mean of Q(z|x), for each input.",
    ReconstructQuery,
    reconstruct,
    Reconstructed,
    body="inputs",
    forms=PICTURES,
    deadline=True,
)
