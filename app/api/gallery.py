"""`/model/gallery`: held-out inputs to look at, with their latents and scores, as they are kept with the model."""

import io
import math
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from app.api.operation import Operation
from app.api.problems import Absent, Invalid
from app.api.request import Request
from app.api.schemas_gallery import Gallery, GalleryInput, GalleryInputQuery, GalleryQuery
from app.api.state import Kept, Service
from app.codecs import negotiation
from model.config import ImageData, VectorData
from model.gallery import Gallery as Held
from model.vae import to_tensor

#: The longest side of a thumbnail, in pixels.
THUMBNAIL = 32


async def gallery(request: Request, service: Service, query: GalleryQuery) -> Response:
    offers = ("json", "png") if service.images else ("json",)
    form = negotiation.choose(request.header(b"accept") or "", query.format, offers)
    found, data = _found(service), service.engine.vae.config.data
    write = {"json": _json, "png": _sheet}[form]
    return await service.keep(request, f"gallery.{form}", lambda: Kept(write(found, data), negotiation.MEDIA[form]))


async def gallery_input(request: Request, service: Service, query: GalleryInputQuery) -> Response:
    form = service.form(request, query.format, pictures=True)
    found, index = _found(service), query.index
    if index >= len(found):
        raise Invalid.at("query.index", f"is {index}; the gallery has inputs 0 to {len(found) - 1}")
    row = slice(index, index + 1)
    x = to_tensor(found.inputs[row]).numpy()
    label = None if found.labels is None else int(found.labels[index])
    answer = {
        "inputs": service.outside(x),
        "mean": found.mean[row],
        "variance": found.variance[row],
        "label": label,
        "label_name": found.label_names[label] if found.label_names is not None and label is not None else None,
        "scores": {name: numbers[row] for name, numbers in found.scores.items()},
    }
    return await service.answer(request, form, answer, x if service.images else None)


def _found(service: Service) -> Held:
    found = service.engine.checkpoint.gallery
    if found is None:
        raise Absent("this model has no gallery; make one with vae gallery MODEL DATA")
    return found


def _json(found: Held, data: ImageData | VectorData) -> bytes:
    plane = found.projection
    thumbnails = None
    if isinstance(data, ImageData):
        width, height = _size(data)
        thumbnails = {"columns": _columns(len(found)), "width": width, "height": height}
    answer = {
        "inputs": len(found),
        "projection": {
            "method": "pca",
            "explained": plane.explained,
            "coordinates": found.coordinates,
            "origin": plane.origin,
            "axes": plane.axes,
        },
        "labels": found.labels,
        "label_names": found.label_names,
        "scores": found.scores,
        "rate_per_dimension": found.rate_per_dimension,
        "active_units": found.active_units,
        "histogram": {"edges": found.edges, "counts": found.counts},
        "learning": [epoch.model_dump() for epoch in found.learning],
        "thumbnails": thumbnails,
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _size(data: ImageData) -> tuple[int, int]:
    """Width and height of a thumbnail: as the image's own where that is small enough."""
    scale = min(1.0, THUMBNAIL / max(data.width, data.height))
    return max(1, round(data.width * scale)), max(1, round(data.height * scale))


def _sheet(found: Held, data: ImageData | VectorData) -> bytes:
    """All thumbnails as one picture."""
    assert isinstance(data, ImageData)
    width, height = _size(data)
    columns = _columns(len(found))
    sheet = Image.new("L" if data.channels == 1 else "RGB", (columns * width, math.ceil(len(found) / columns) * height))
    for index, sample in enumerate(found.inputs):
        picture = Image.fromarray(_pixels(sample)).resize((width, height), Image.Resampling.BOX)
        sheet.paste(picture, (index % columns * width, index // columns * height))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _pixels(sample: NDArray[Any]) -> NDArray[np.uint8]:
    """One image as Pillow takes it."""
    inside = sample if sample.dtype == np.uint8 else np.rint(sample * 255).astype(np.uint8)
    return np.ascontiguousarray(inside[0] if len(inside) == 1 else inside.transpose(1, 2, 0))


GALLERY = Operation(
    "GET",
    "/model/gallery",
    "Held-out inputs to look at",
    "Inputs that neither fitted nor chose the model: the plane along which the means of their Q vary most, where each "
    "lies on it, labels and scores; and of all that were set aside the histogram of free energies and the rate of each "
    "dimension; and how the training went. As png their thumbnails, on one sheet.",
    GalleryQuery,
    gallery,
    Gallery,
    forms=("json", "png"),
    kept=True,
    problems=(404,),
)
GALLERY_INPUT = Operation(
    "GET",
    "/model/gallery/input",
    "One of these inputs",
    "The input itself, mean and variance of its Q, its label and its scores.",
    GalleryInputQuery,
    gallery_input,
    GalleryInput,
    forms=("json", "npz", "png"),
    problems=(404,),
)
