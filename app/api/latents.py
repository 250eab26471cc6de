"""`/encode`, `/decode`, `/sample`, `/interpolate`, `/reconstruct`."""

import functools
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.dependencies import Context, CurrentModel, Inputs, Latents, ensure_within
from app.api.labels import label_index
from app.api.openapi import describe
from app.api.responses import choose_format, respond
from app.api.schemas import (
    Decoded,
    DecodeParams,
    Encoded,
    EncodeParams,
    Interpolated,
    InterpolateParams,
    Reconstructed,
    ReconstructParams,
    Sampled,
    SampleParams,
)
from app.codecs.encode import Value
from app.codecs.errors import Invalid

router = APIRouter(tags=["model"])


@router.post("/encode", **describe(Encoded, "json", "npz", body="inputs"))
async def encode(
    request: Request, params: Annotated[EncodeParams, Query()], model: CurrentModel, context: Context, inputs: Inputs
) -> Response:
    """Inputs to latent means and variances.

    The parameters of Q(z|x), a Gaussian with independent dimensions, for each input.
    """
    format = choose_format(request, params.format, model)
    x = await inputs.read(model, context, model.engine.encode_plan, strict=params.strict, depth=params.depth)
    mean, variance = await model.engine.encode(x, context)
    return await respond(request, format, {"mean": mean, "variance": variance}, context=context)


@router.post("/decode", **describe(Decoded, "json", "npz", "png", body="latents"))
async def decode(
    request: Request, params: Annotated[DecodeParams, Query()], model: CurrentModel, context: Context, latents: Latents
) -> Response:
    """Latents to data.

    The mean of P(x|z) for each latent, or with `noise=true` a draw from it.
    """
    format = choose_format(request, params.format, model, images=True)
    z = await latents.read(model, context, functools.partial(model.engine.decode_plan, noisy=params.noise))
    x = await model.engine.decode(z, context, noise_seed=params.seed if params.noise else None)
    return await respond(request, format, {"outputs": model.to_public(x)}, images=x, context=context)


@router.get("/sample", **describe(Sampled, "json", "npz", "png"))
async def sample(
    request: Request, params: Annotated[SampleParams, Query()], model: CurrentModel, context: Context
) -> Response:
    """Samples from the prior.

    epsilon ~ N(0, temperature^2 I), mapped to z by the prior and decoded. Row i takes the i-th draw of the seed's
    stream: the first n samples of a larger request are the same. Where the prior distinguishes labels, the label is
    drawn first, unless one is given.
    """
    format = choose_format(request, params.format, model, images=True)
    ensure_within("query.n", params.n, model.settings.max_rows)
    label = None if params.label is None else label_index(model, params.label, "query.label")
    context.rows = params.n
    sample = await model.engine.sample(
        params.n, params.seed, params.temperature, context, noisy=params.noise, label=label
    )
    fields: dict[str, Value] = {"outputs": model.to_public(sample.x), "latents": sample.latents}
    if sample.labels is not None:
        fields["labels"] = [model.labels[label] for label in sample.labels.tolist()]
    return await respond(request, format, fields, images=sample.x, context=context)


@router.post("/interpolate", **describe(Interpolated, "json", "npz", "png", body="ends"))
async def interpolate(
    request: Request,
    params: Annotated[InterpolateParams, Query()],
    model: CurrentModel,
    context: Context,
    inputs: Inputs,
    latents: Latents,
) -> Response:
    """From one input to another.

    The decoded means of `steps` latents on the way between those of two inputs, or with `of=latents` between two
    latents, which the body then holds as for `/decode`.
    """
    format = choose_format(request, params.format, model, images=True)
    ensure_within("query.steps", params.steps, model.settings.max_rows)
    encoded = params.of == "inputs"
    plan = functools.partial(model.engine.interpolate_plan, encoded=encoded, steps=params.steps, along=params.along)
    if encoded:
        ends = await inputs.read(model, context, plan, strict=params.strict, depth=params.depth)
    else:
        ends = await latents.read(model, context, plan)
    if len(ends) != 2:
        raise Invalid.at(params.of, f"has {len(ends):,} rows; send two, the first and the last")
    context.rows = params.steps
    z, x = await model.engine.interpolate(ends, context, encoded=encoded, steps=params.steps, along=params.along)
    return await respond(request, format, {"outputs": model.to_public(x), "latents": z}, images=x, context=context)


@router.post("/reconstruct", **describe(Reconstructed, "json", "npz", "png", body="inputs"))
async def reconstruct(
    request: Request,
    params: Annotated[ReconstructParams, Query()],
    model: CurrentModel,
    context: Context,
    inputs: Inputs,
) -> Response:
    """Inputs through the latent and back.

    The mean of P(x|z) at the mean of Q(z|x), for each input.
    """
    format = choose_format(request, params.format, model, images=True)
    x = await inputs.read(model, context, model.engine.reconstruct_plan, strict=params.strict, depth=params.depth)
    reconstruction = await model.engine.reconstruct(x, context)
    fields = {"outputs": model.to_public(reconstruction)}
    if params.inputs:
        fields["inputs"] = model.to_public(x)
    return await respond(request, format, fields, images=reconstruction, context=context)
