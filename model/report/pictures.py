"""Plots and samples as text that stands in a page: SVG in the page's own colours, and small PNGs as data URLs."""

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

#: Stands for the colour of the page's text, which only the page knows.
INK = "#010203"
#: Inches: on a phone its text is still as large as can be read.
SIZE = (5.2, 3.6)
#: The longest side of a sample in the page, in pixels.
LONGEST = 256


def plot(name: str, said: str, draw: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> Markup:
    """One plot as an `svg` element.

    Args:
        name: a word that no other plot of the page has.
        said: what it shows, for who cannot see it.
        draw: draws it.
    """
    coloured: Any = {f"{part}.color": INK for part in ("text", "xtick", "ytick")}
    coloured |= {"axes.labelcolor": INK, "axes.edgecolor": INK, "svg.fonttype": "none", "svg.hashsalt": name}
    with mpl.rc_context({**STYLE, **coloured}):
        figure = Figure(figsize=size, layout="constrained", dpi=160)
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), name, said)


def _inline(text: str, name: str, said: str) -> Markup:
    """An SVG file as an element of a page, whose ids are those of no other."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    text = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{escape(said)}" viewBox="{box[1]}">', text, count=1)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    # matplotlib escapes the text in its SVG.
    return Markup(text.replace("xlink:href", "href").replace(INK, "currentColor"))  # noqa: S704


def image(sample: NDArray[Any], said: str) -> Markup:
    """One image, channels x height x width in [0, 1] or of bytes, as an `img` element."""
    picture = to_pil(sample)
    picture.thumbnail((LONGEST, LONGEST))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return block("image", f"data:image/png;base64,{data}", picture.width, picture.height, said)
