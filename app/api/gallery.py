"""`/model/gallery`: held-out inputs to look at, with their latents and scores, as they are kept with the model."""

import io
import math
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from PIL import Image
from starlette.responses import Response

from app.api.dependencies import Context, CurrentModel, Latents
from app.api.errors import NotFound
from app.api.openapi import MODEL_ERRORS, describe
from app.api.responses import choose_format, respond, wants_gzip
from app.api.schemas import Gallery as GalleryAnswer
from app.api.schemas import GalleryInput, GalleryInputParams, GalleryParams, Placed, PlaceParams
from app.api.state import CachedResponse, ServedModel
from app.api.threads import run_in_thread
from app.codecs import negotiation
from app.codecs.errors import Invalid
from app.inference.devices import trim_memory
from model.config import ImageData, VectorData
from model.gallery import Gallery
from model.images import to_pil
from model.projection import place
from model.vae import to_tensor

#: The longest side of a thumbnail, in pixels.
THUMBNAIL_PIXELS = 32
GALLERY_ERRORS = (*MODEL_ERRORS, 404)
router = APIRouter(tags=["model"])


@router.get("/model/gallery", **describe(GalleryAnswer, "json", "png", cacheable=True, errors=GALLERY_ERRORS))
async def gallery(params: Annotated[GalleryParams, Query()], request: Request, model: CurrentModel) -> Response:
    """Held-out inputs to look at.

    Inputs that neither fitted nor chose the model: the plane along which the means of their Q vary most, an embedding
    of these means, where each input lies on both, labels and scores; of all inputs that were set aside the histogram of
    free energies and the rate of each dimension; and the learning curves. As png their thumbnails, on one sheet.
    """
    available = ("json", "png") if model.is_image else ("json",)
    format = negotiation.choose(request.headers.get("accept", ""), params.format, available)
    held_out, data = _gallery_of(model), model.data
    plain = model.cached_responses.get(f"gallery.{format}")
    if plain is None:
        write = {"json": _json, "png": _thumbnail_sheet}[format]
        plain = CachedResponse(await run_in_thread(lambda: write(held_out, data)), negotiation.MEDIA_TYPES[format])
        model.cached_responses[f"gallery.{format}"] = plain
        trim_memory()
    # The same address has another response where another model is served: clients may keep it, but have to ask.
    gzip = format == "json" and wants_gzip(request)
    cached = await run_in_thread(lambda: plain.compressed) if gzip else plain
    headers = {"ETag": cached.etag, "Cache-Control": "no-cache", "Vary": "accept, accept-encoding"}
    tags = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if tags & {cached.etag, "*"}:
        return Response(status_code=304, headers=headers)
    coding = {"Content-Encoding": "gzip"} if gzip else {}
    return Response(cached.body, headers=headers | coding, media_type=cached.media_type)


@router.get("/model/gallery/input", **describe(GalleryInput, "json", "npz", "png", errors=GALLERY_ERRORS))
async def gallery_input(
    request: Request, params: Annotated[GalleryInputParams, Query()], model: CurrentModel
) -> Response:
    """One input of the gallery.

    The input itself, mean and variance of its Q, its label and its scores.
    """
    format = choose_format(request, params.format, model, images=True)
    gallery, index = _gallery_of(model), params.index
    if index >= len(gallery):
        raise Invalid.at("query.index", f"is {index}; the gallery has inputs 0 to {len(gallery) - 1}")
    row = slice(index, index + 1)
    x = to_tensor(gallery.inputs[row]).numpy()
    label = None if gallery.labels is None else int(gallery.labels[index])
    names = gallery.label_names
    fields = {
        "inputs": model.data.to_public(x),
        "mean": gallery.mean[row],
        "variance": gallery.variance[row],
        "label": label,
        "label_name": names[label] if names is not None and label is not None else None,
        "scores": {name: numbers[row] for name, numbers in gallery.scores.items()},
    }
    return await respond(request, format, fields, images=x if model.is_image else None)


@router.post("/model/gallery/place", **describe(Placed, "json", "npz", body="latents", errors=GALLERY_ERRORS))
async def place_on_map(
    request: Request, params: Annotated[PlaceParams, Query()], model: CurrentModel, context: Context, latents: Latents
) -> Response:
    """Latents to the map.

    Where means of Q, or other latents, lie among the inputs of the gallery: on the plane of principal components, and
    in the embedding at the weighted mean of their nearest neighbours there.
    """
    format = choose_format(request, params.format, model)
    gallery = _gallery_of(model)
    z = await latents.read(model, context, lambda _: ())
    embedding = gallery.embedding
    placed = None if embedding is None else await run_in_thread(lambda: place(z, gallery.mean, embedding))
    return await respond(request, format, {"projection": gallery.projection(z), "embedding": placed}, context=context)


def _gallery_of(model: ServedModel) -> Gallery:
    gallery = model.engine.checkpoint.gallery
    if gallery is None:
        raise NotFound("this model has no gallery; make one with vae gallery MODEL DATA")
    return gallery


def _json(gallery: Gallery, data: ImageData | VectorData) -> bytes:
    projection = gallery.projection
    thumbnails = None
    if isinstance(data, ImageData):
        width, height = _size(data)
        thumbnails = {"columns": _columns(len(gallery)), "width": width, "height": height}
    fields = {
        "inputs": len(gallery),
        "projection": {
            "method": "pca",
            "explained": projection.explained,
            "coordinates": gallery.coordinates,
            "origin": projection.origin,
            "axes": projection.axes,
        },
        "embedding": None if gallery.embedding is None else {"method": "tsne", "coordinates": gallery.embedding},
        "labels": gallery.labels,
        "label_names": gallery.label_names,
        "scores": gallery.scores,
        "kl_to_normal": gallery.kl_to_normal,
        "active_units": gallery.active_units,
        "histogram": {"edges": gallery.edges, "counts": gallery.counts},
        "learning": [epoch.model_dump() for epoch in gallery.learning],
        "thumbnails": thumbnails,
    }
    return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _size(data: ImageData) -> tuple[int, int]:
    """Width and height of a thumbnail: as the image's own where that is small enough."""
    scale = min(1.0, THUMBNAIL_PIXELS / max(data.width, data.height))
    return max(1, round(data.width * scale)), max(1, round(data.height * scale))


def _thumbnail_sheet(gallery: Gallery, data: ImageData | VectorData) -> bytes:
    """All thumbnails as one picture."""
    assert isinstance(data, ImageData)
    width, height = _size(data)
    columns = _columns(len(gallery))
    sheet = Image.new(
        "L" if data.channels == 1 else "RGB", (columns * width, math.ceil(len(gallery) / columns) * height)
    )
    for index, sample in enumerate(gallery.inputs):
        picture = to_pil(sample).resize((width, height), Image.Resampling.BOX)
        sheet.paste(picture, (index % columns * width, index // columns * height))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
