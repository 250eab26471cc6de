"""Plots and images inside a page: SVG in the colours of the page, and small PNGs as data URLs."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.images import to_pil
from model.report.blocks import block
from model.report.plots import STYLE

#: Placeholder for the text colour of the page, which only the style sheet knows.
INK = "#010203"
#: Width and height of a plot in inches; its text stays legible on a phone.
SIZE = (5.2, 3.6)
#: Longest side of an image in the page, in pixels.
MAX_PIXELS = 256


def plot(name: str, caption: str, draw: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> Markup:
    """Draw a plot as a `figure` element with an `svg` element inside.

    Args:
        name: a word that is unique in the page; it prefixes the ids of the SVG.
        caption: the content of the plot in words, also for screen readers.
        draw: draws the plot on the axes.
        size: width and height in inches.
    """
    coloured: Any = {f"{part}.color": INK for part in ("text", "xtick", "ytick")}
    coloured |= {"axes.labelcolor": INK, "axes.edgecolor": INK, "svg.fonttype": "none", "svg.hashsalt": name}
    with mpl.rc_context({**STYLE, **coloured}):
        figure = Figure(figsize=size, layout="constrained", dpi=160)
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return block("figure", _inline(file.getvalue(), name, caption), caption)


def _inline(svg: str, name: str, label: str) -> Markup:
    """An SVG file as an element of a page, with ids that are unique there."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{escape(label)}" viewBox="{box[1]}">', svg, count=1)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # matplotlib escapes the text in its SVG.
    return Markup(svg.replace("xlink:href", "href").replace(INK, "currentColor"))  # noqa: S704


def image(sample: NDArray[Any], label: str) -> Markup:
    """An image (channels x height x width, bytes or floats in [0, 1]) as an `img` element."""
    picture = to_pil(sample)
    picture.thumbnail((MAX_PIXELS, MAX_PIXELS))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return block("image", f"data:image/png;base64,{data}", picture.width, picture.height, label)
