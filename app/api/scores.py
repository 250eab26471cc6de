"""`/free-energy`."""

import functools
import math
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.dependencies import Context, CurrentModel, Inputs, ensure_within
from app.api.labels import label_index, require_labels
from app.api.openapi import describe
from app.api.responses import choose_format, respond
from app.api.schemas import FreeEnergies, FreeEnergyParams
from app.api.state import ServedModel
from app.codecs.encode import Value
from app.codecs.errors import Invalid, NotAcceptable
from app.codecs.json import RowLabels
from app.codecs.spec import Floats
from model.prior import Labels
from model.scoring.calibration import ScoringConfig
from model.scoring.program import LabelQuery

router = APIRouter(tags=["model"])


@router.post("/free-energy", **describe(FreeEnergies, "json", "npz", "png", body="labelled"))
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
    refine) alone. `p_values` say how rare a score is among inputs that neither fitted nor chose the model. Where the
    prior distinguishes labels, `label`, or `labels` beside the inputs in JSON, scores each input given its label, which
    has no p-values.
    """
    if params.format == "png" and not params.per_dimension:
        raise NotAcceptable("format=png is the map of nats per pixel; ask for per_dimension=true with it")
    format = choose_format(request, params.format, model, images=params.per_dimension)
    ensure_within("query.samples", params.samples, model.settings.max_samples)
    scoring = ScoringConfig(params.samples, params.refine, params.seed)
    given = None if params.label is None else label_index(model, params.label, "query.label")
    if params.label_probabilities:
        require_labels(model, "query.label_probabilities")
    asked, row_labels = given is not None or params.label_probabilities, RowLabels()
    plan = functools.partial(
        model.engine.free_energy_plan, scoring=scoring, per_dimension=params.per_dimension, labels=asked
    )
    x = await inputs.read(model, context, plan, strict=params.strict, depth=params.depth, labels=row_labels)
    labels = _labels_of_rows(model, row_labels, len(x), given)
    if params.per_dimension and (labels is not None or params.label_probabilities):
        raise Invalid.at("query.per_dimension", "is the same for every label; ask for it without labels")
    work = len(x) * params.samples * (1 + params.refine)
    ensure_within("rows x query.samples x (1 + query.refine)", work, model.settings.max_work)
    shares = [label.probability for label in model.engine.vae.prior.labels] if params.label_probabilities else None
    query = LabelQuery(labels, None if shares is None else np.log(shares))
    result = await model.engine.free_energy(x, scoring, context, per_dimension=params.per_dimension, labels=query)
    fields: dict[str, Value] = {
        "samples": params.samples,
        "refine": params.refine,
        "seed": params.seed,
        **vars(result.estimates),
        "regret": result.regret,
        "typicality": result.calibrated.typicality,
        "p_values": result.calibrated.p_values,
        "p_values_reason": result.calibrated.reason,
    }
    if labels is not None:
        fields["labels"] = [model.labels[label] for label in labels.tolist()]
    if result.label_probabilities is not None:
        fields["label_probabilities"] = result.label_probabilities
    if result.per_dimension is None:
        return await respond(request, format, fields, context=context)
    fields["per_dimension"] = model.data.to_public(result.per_dimension)
    images = to_heatmap(result.per_dimension) if format == "png" else None
    return await respond(request, format, fields, images=images, context=context)


def _labels_of_rows(model: ServedModel, rows: RowLabels, count: int, given: int | None) -> Labels | None:
    """The index of the label that each input is scored given; None if it is scored alone.

    Raises:
        Invalid: a label is unknown, or labels are given both in the query and in the body.
    """
    if rows.values is None:
        return None if given is None else np.full(count, given)
    if given is not None:
        raise Invalid.at("query.label", "the body has labels too; give one of them")
    return np.array([label_index(model, name, f"labels[{index}]") for index, name in enumerate(rows.values)])


def to_heatmap(nats: Floats) -> Floats:
    """Nats per pixel -> grey images in [0, 1], black at the least and white at the most of the whole response."""
    low, high = float(nats.min()), float(nats.max())
    grey = (nats - low) / max(high - low, math.ulp(1.0))
    mean: Floats = grey.mean(axis=1, keepdims=True)
    return mean
