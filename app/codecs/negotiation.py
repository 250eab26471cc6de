"""Which form an answer takes: `?format=`, else the client's `Accept`, else JSON."""

from collections.abc import Sequence

from app.api.problems import NotAcceptable

MEDIA = {"json": "application/json", "npz": "application/x-npz", "png": "image/png"}


def choose(accept: str, wish: str | None, offers: Sequence[str]) -> str:
    """One of `offers`, which are keys of `MEDIA` with the default first.

    Args:
        accept: the Accept header, empty where there is none.
        wish: the `format` parameter, which overrules it.

    Raises:
        NotAcceptable: none of them is accepted.
    """
    if wish is not None:
        if wish in offers:
            return wish
        raise NotAcceptable(f"format={wish} is no form of this answer; it comes as {', '.join(offers)}")
    if not accept or accept == "*/*":
        return offers[0]
    for offer in offers:
        if accept == MEDIA[offer]:
            return offer
    ranges = [_parse(part) for part in accept.split(",")]
    ranked = [(-_quality(MEDIA[offer], ranges), index) for index, offer in enumerate(offers)]
    quality, index = min(ranked)
    if quality == 0:
        said = ", ".join(MEDIA[offer] for offer in offers)
        raise NotAcceptable(f"Accept: {accept:.120} leaves no form of this answer; it comes as {said}")
    return offers[index]


def _parse(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media, min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return media, 0.0
    return media, 1.0


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that matches (RFC 9110, 12.5.1)."""
    for pattern in (media, media.partition("/")[0] + "/*", "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0
