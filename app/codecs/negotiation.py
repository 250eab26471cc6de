"""Choice of a response format: the `format` parameter, else the client's Accept header, else the default."""

from collections.abc import Sequence

from app.codecs.errors import NotAcceptable

#: Format -> media type.
MEDIA_TYPES = {"json": "application/json", "npz": "application/x-npz", "png": "image/png"}


def choose(accept: str, requested: str | None, available: Sequence[str]) -> str:
    """Choose one of the available formats, of which the first is the default.

    Args:
        accept: Accept header, empty if there is none.
        requested: `format` parameter, None if there is none. It overrides `accept`.

    Raises:
        NotAcceptable: the client accepts none of the available formats.
    """
    if requested is not None:
        if requested in available:
            return requested
        raise NotAcceptable(f"Cannot respond with format={requested}; available: {', '.join(available)}")
    if not accept or accept == "*/*":
        return available[0]
    for name in available:
        if accept == MEDIA_TYPES[name]:
            return name
    ranges = [parse_range(part) for part in accept.split(",")]
    qualities = {name: _quality(MEDIA_TYPES[name], ranges) for name in available}
    if not any(qualities.values()):
        media_types = ", ".join(MEDIA_TYPES[name] for name in available)
        raise NotAcceptable(f"Cannot respond with {accept:.120}; available: {media_types}")
    return max(available, key=qualities.__getitem__)


def parse_range(part: str) -> tuple[str, float]:
    """Parse one item of an Accept or Accept-Encoding header, such as `image/*;q=0.5`, to its name and quality."""
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media, min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return media, 0.0
    return media, 1.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Quality of a media type, by the most specific range that matches (RFC 9110, 12.5.1)."""
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if qualities := [quality for name, quality in ranges if name == pattern]:
            return max(qualities)
    return 0.0
