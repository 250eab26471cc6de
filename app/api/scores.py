"""`/free-energy`."""

import functools
import math
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.dependencies import Context, CurrentModel, Inputs, ensure_within
from app.api.openapi import describe
from app.api.responses import choose_format, respond
from app.api.schemas import FreeEnergies, FreeEnergyParams
from app.codecs.errors import NotAcceptable
from app.codecs.spec import Floats
from model.scoring.calibration import ScoringConfig

router = APIRouter(tags=["model"])


@router.post("/free-energy", **describe(FreeEnergies, "json", "npz", "png", body="inputs"))
async def free_energy(
    request: Request,
    params: Annotated[FreeEnergyParams, Query()],
    model: CurrentModel,
    context: Context,
    inputs: Inputs,
) -> Response:
    """Variational free energy of each input.

    F(x) = E_Q[nlog P(x, z)] - H(Q) >= nlog P(x), in nats: a bound on how improbable an input is, and a code length.
    Higher is more anomalous. More `samples` estimate it more closely and tighten `nlog_p_x`; `refine` fits Q to each
    input, and `regret` is what that saves. The same draws serve every row, so a score depends on (x, seed, samples,
    refine) alone. `p_values` say how rare a score is among inputs that neither fitted nor chose the model.
    """
    if params.format == "png" and not params.per_dimension:
        raise NotAcceptable("format=png is the map of nats per pixel; ask for per_dimension=true with it")
    format = choose_format(request, params.format, model, images=params.per_dimension)
    ensure_within("query.samples", params.samples, model.settings.max_samples)
    scoring = ScoringConfig(params.samples, params.refine, params.seed)
    plan = functools.partial(model.engine.free_energy_plan, scoring=scoring, per_dimension=params.per_dimension)
    x = await inputs.read(model, context, plan, strict=params.strict, depth=params.depth)
    work = len(x) * params.samples * (1 + params.refine)
    ensure_within("rows x query.samples x (1 + query.refine)", work, model.settings.max_work)
    result = await model.engine.free_energy(x, scoring, context, per_dimension=params.per_dimension)
    fields = {
        "samples": params.samples,
        "refine": params.refine,
        "seed": params.seed,
        **vars(result.estimates),
        "regret": result.regret,
        "typicality": result.calibrated.typicality,
        "p_values": result.calibrated.p_values,
        "p_values_reason": result.calibrated.reason,
    }
    if result.per_dimension is None:
        return await respond(request, format, fields, context=context)
    fields["per_dimension"] = model.data.to_public(result.per_dimension)
    images = to_heatmap(result.per_dimension) if format == "png" else None
    return await respond(request, format, fields, images=images, context=context)


def to_heatmap(nats: Floats) -> Floats:
    """Nats per pixel -> grey images in [0, 1], black at the least and white at the most of the whole response."""
    low, high = float(nats.min()), float(nats.max())
    grey = (nats - low) / max(high - low, math.ulp(1.0))
    mean: Floats = grey.mean(axis=1, keepdims=True)
    return mean
