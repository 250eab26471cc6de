"""Input specifications and encoded images for the tests of the codecs."""

import io
from typing import Any

import numpy as np
from PIL import Image

from app.codecs.spec import input_spec
from model.config import ImageData, VectorData

GREY = input_spec(ImageData(height=4, width=5), max_rows=8, max_pixels=100)
RGB = input_spec(ImageData(height=4, width=5, channels=3), max_rows=8, max_pixels=100)
TABLE = input_spec(VectorData(columns=("a", "b"), mean=(0.0, 5.0), std=(1.0, 1e-3)), max_rows=8, max_pixels=1)
#: Images in the shape of `picture`.
PICTURE = input_spec(ImageData(height=8, width=6), max_rows=8, max_pixels=10_000)


def picture(kind: str = "PNG", size: tuple[int, int] = (6, 8), mode: str = "L", **options: Any) -> bytes:
    width, height = size
    ramp = np.linspace(0, 255, width * height).reshape(height, width).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).convert(mode).save(file, kind, **options)
    return file.getvalue()
