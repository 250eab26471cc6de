"""`/health/live`, `/health/ready`, `/metrics`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api.errors import Unavailable
from app.api.openapi import describe
from app.api.schemas import Health, NoParams
from app.api.state import state_of
from app.observability.metrics import MEDIA_TYPE

HANGS = "a call of the model hangs; restart the service"
router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])


@router.get("/health/live", **describe(Health, "json", errors=()))
async def live(params: Annotated[NoParams, Query()], request: Request) -> Health:
    """Alive.

    The process answers, and its model does not hang.
    """
    if state_of(request).model.hangs:
        raise Unavailable(HANGS)
    return Health(status="alive")


@router.get("/health/ready", **describe(Health, "json", errors=()))
async def ready(params: Annotated[NoParams, Query()], request: Request) -> Health:
    """Ready.

    The model is loaded, warm and answering, and the service is not about to stop.
    """
    state = state_of(request)
    if state.draining:
        raise Unavailable("the service is about to stop; send work elsewhere")
    if state.model.hangs:
        raise Unavailable(HANGS)
    if not state.model.ready:
        raise Unavailable("the model's worker has died; restart the service")
    return Health(status="ready")


@metrics_router.get("/metrics", **describe(None, errors=()), response_class=Response, name="metrics")
async def metrics(params: Annotated[NoParams, Query()], request: Request) -> Response:
    """Metrics.

    For Prometheus.
    """
    return Response(state_of(request).metrics.render(), media_type=MEDIA_TYPE)
