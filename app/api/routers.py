"""All routers of the interface, and who may call them."""

from collections.abc import Iterator

from fastapi import APIRouter
from fastapi.params import Depends as Dependency

from app.api import gallery, health, latents, model, scores
from app.api.keys import Access, Keys

ROUTERS: tuple[tuple[APIRouter, Access], ...] = (
    (latents.router, "user"),
    (scores.router, "user"),
    (model.router, "user"),
    (gallery.router, "user"),
    (model.reload_router, "admin"),
    (health.router, "public"),
    (health.metrics_router, "admin"),
)


def with_dependencies(keys: Keys) -> Iterator[tuple[APIRouter, list[Dependency]]]:
    """Each router with the dependencies that all of its endpoints share."""
    for router, access in ROUTERS:
        yield router, keys.dependencies(access)
