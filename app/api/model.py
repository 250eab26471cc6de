"""`/model`: the model card, and loading the model again."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import torch
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app import __version__
from app.api.dependencies import CurrentModel
from app.api.errors import Forbidden
from app.api.openapi import describe
from app.api.responses import GZIP, BytesResponse, wants_gzip
from app.api.schemas import CalibratedFor, CardWarning, Computed, Limits, ModelCard, NoParams, Reloaded
from app.api.state import ServedModel, state_of
from app.api.threads import run_in_thread
from app.codecs.compression import MIN_GZIP_BYTES, compress
from app.codecs.errors import Invalid
from model.config import ImageData
from model.images import CONVERSION
from model.warnings import checkpoint_warnings

router = APIRouter(tags=["model"])
reload_router = APIRouter(tags=["operations"])


@router.get("/model", **describe(ModelCard, "json", errors=()))
async def model_card(params: Annotated[NoParams, Query()], request: Request, model: CurrentModel) -> Response:
    """The model card.

    What is served, and its limits.
    """
    body = _card(model).model_dump_json().encode()
    gzip = len(body) >= MIN_GZIP_BYTES and wants_gzip(request)
    if gzip:
        body = await run_in_thread(compress, body)
    return BytesResponse(body, "application/json", (b"vary", b"accept-encoding"), *([GZIP] if gzip else []))


def _card(model: ServedModel) -> ModelCard:
    checkpoint = model.engine.checkpoint
    config, card = checkpoint.vae.config, checkpoint.card
    references = checkpoint.calibration.references if checkpoint.calibration else {}
    limits = {name: getattr(model.settings, name) for name in Limits.model_fields}
    return ModelCard(
        name=card.name,
        digest=checkpoint.digest,
        created=card.created,
        data=config.data.model_dump(mode="json"),
        conversion=CONVERSION if isinstance(config.data, ImageData) else None,
        latent=config.latent,
        network=config.network.model_dump(mode="json"),
        prior=config.prior.model_dump(mode="json"),
        labels=list(model.labels) or None,
        likelihood=config.likelihood.model_dump(mode="json"),
        weights=sum(weight.numel() for weight in checkpoint.vae.parameters()),
        discrete=checkpoint.vae.levels is not None,
        anomaly_score=card.anomaly_score,
        calibrations=[
            CalibratedFor(
                **protocol._asdict(),
                inputs=len(reference.free_energy),
                typicality_inputs=None if reference.typicality is None else len(reference.typicality),
            )
            for protocol, reference in references.items()
        ],
        training=card.training.model_dump(mode="json") if card.training else None,
        evaluation=card.evaluation,
        device=str(checkpoint.vae.device),
        threads=torch.get_num_threads(),
        computed={name: Computed(**asdict(info)) for name, info in model.engine.runtime.backends.items()},
        limits=Limits(**limits),
        warnings=[CardWarning(**warning._asdict()) for warning in checkpoint_warnings(checkpoint)],
        version=__version__,
    )


@reload_router.post("/model/reload", **describe(Reloaded, "json", errors=(403, 500)))
async def reload(params: Annotated[NoParams, Query()], request: Request, model: CurrentModel) -> Reloaded:
    """Load the model again.

    From where the service has it: loaded beside the model that is served, tried, and put in its place. If that fails,
    the previous model stays. Only where VAE_RELOAD is set.
    """
    if not model.settings.reload:
        raise Forbidden("this service does not reload models over HTTP; VAE_RELOAD=true would allow it")
    if model.settings.workers > 1:
        raise Invalid("each worker has a model of its own; send SIGHUP to the service, which replaces them one by one")
    reloaded = await asyncio.shield(state_of(request).reload())
    checkpoint = reloaded.engine.checkpoint
    return Reloaded(name=checkpoint.card.name, digest=checkpoint.digest, before=model.digest.decode())
