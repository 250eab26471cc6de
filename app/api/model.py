"""What an operator calls: the card, health, metrics."""

from dataclasses import asdict

import orjson
import torch
from starlette.responses import Response

from app.api.operation import Operation
from app.api.problems import Forbidden, Invalid, Unavailable
from app.api.request import Request
from app.api.schemas import Answer, CalibratedFor, Computed, Health, Limits, ModelCard, NoQuery, Reloaded
from app.api.state import Service
from app.observability import metrics
from app.version import VERSION
from model.config import ImageData
from model.images import CONVERSION


async def card(request: Request, service: Service, query: NoQuery) -> Response:
    checkpoint = service.engine.checkpoint
    config, card = checkpoint.vae.config, checkpoint.card
    references = checkpoint.calibration.references if checkpoint.calibration else {}
    limits = {name: getattr(service.settings, name) for name in Limits.model_fields}
    return _json(
        ModelCard(
            name=card.name,
            digest=checkpoint.digest,
            created=card.created,
            data=config.data.model_dump(mode="json"),
            conversion=CONVERSION if isinstance(config.data, ImageData) else None,
            latent=config.latent,
            network=config.network.model_dump(mode="json"),
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
            computed={name: Computed(**asdict(made)) for name, made in service.engine.runtime.made.items()},
            limits=Limits(**limits),
            version=VERSION,
        )
    )


HANGS = "a call of the model hangs; restart the service"


async def reload(request: Request, service: Service, query: NoQuery) -> Response:
    if not service.settings.reload:
        raise Forbidden("this service does not load models anew when asked over HTTP; VAE_RELOAD=true would allow it")
    if service.settings.workers > 1:
        raise Invalid("each worker has a model of its own; send SIGHUP to the service, which replaces them one by one")
    assert service.process.reload is not None
    renewed = await service.process.reload()
    checkpoint = renewed.engine.checkpoint
    return _json(Reloaded(name=checkpoint.card.name, digest=checkpoint.digest, before=service.digest.decode()))


async def live(request: Request, service: Service, query: NoQuery) -> Response:
    if service.stuck:
        raise Unavailable(HANGS)
    return _json(Health(status="alive"))


async def ready(request: Request, service: Service, query: NoQuery) -> Response:
    if service.process.draining:
        raise Unavailable("the service is about to stop; send work elsewhere")
    if service.stuck:
        raise Unavailable(HANGS)
    if not service.ready:
        raise Unavailable("the model's worker has died; restart the service")
    return _json(Health(status="ready"))


async def scrape(request: Request, service: Service, query: NoQuery) -> Response:
    return Response(service.process.metrics.render(), media_type=metrics.MEDIA_TYPE)


def _json(answer: Answer) -> Response:
    return Response(orjson.dumps(answer.model_dump(mode="json")), media_type="application/json")


MODEL = Operation("GET", "/model", "The model card", "What is served, and its limits.", NoQuery, card, ModelCard)
RELOAD = Operation(
    "POST",
    "/model/reload",
    "Load the model anew",
    "From where the service has it: loaded beside the one that is served, tried, and taken in its place. Where that "
    "fails the old one stays. Only where VAE_RELOAD is set.",
    NoQuery,
    reload,
    Reloaded,
    tag="operations",
    access="administrators",
    problems=(403, 500),
)
LIVE = Operation(
    "GET",
    "/health/live",
    "Alive",
    "The process answers, and its model does not hang.",
    NoQuery,
    live,
    Health,
    tag="operations",
    access="everybody",
)
READY = Operation(
    "GET",
    "/health/ready",
    "Ready",
    "The model is loaded, warm and answering.",
    NoQuery,
    ready,
    Health,
    tag="operations",
    access="everybody",
)
METRICS = Operation(
    "GET",
    "/metrics",
    "Metrics",
    "For Prometheus.",
    NoQuery,
    scrape,
    None,
    forms=("text",),
    tag="operations",
    access="administrators",
)
