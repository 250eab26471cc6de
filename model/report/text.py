"""What the figures of a report mean, in plain words."""

from typing import NamedTuple

from model.report.evaluation import Report

#: What each score is that tells outliers, by its name in the interface.
SCORES = {
    "typicality": "how far out a sample lies when its latent, its costs and its complexity are looked at together",
    "free_energy": "what a sample costs",
    "free_energy_two_sided": "how unusual that cost is, too low counting as much as too high",
    "distortion": "what is left to say of it when its latent is known",
    "rate": "what its latent costs",
    "cross_entropy": "the latent under the prior: rate and entropy together",
    "entropy": "how undecided Q is about the latent",
    "nlog_p_x": "the importance-weighted bound",
    "inference_gap": "what that gains over the free energy",
    "regret": "what gradient descent on Q saves, the encoder's Q being the start",
}


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    value: str
    meaning: str


def number(value: float) -> str:
    """As many digits as tell something: two behind the point."""
    return f"{value:,.2f}"


def short(value: float) -> str:
    """Four digits, or all before the point where there are not too many."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def figures(report: Report) -> list[Figure]:
    """The figures of a report, with what each means."""
    density = (
        ""
        if report.bits_per_dim is not None
        else " It is that of a density: it counts from a zero that depends on the units of the data, may be negative, "
        "and compares samples, and models, of this data alone."
    )
    found = [
        Figure(
            "Free energy",
            _with_error(report.free_energy, report.free_energy_standard_error, "nats"),
            "What one sample costs on average: an upper bound on nlog P(x), how improbable the model finds it. "
            f"Lower is better. ± is the standard error over the samples.{density}",
        ),
        Figure(
            "Distortion",
            f"{number(report.distortion)} nats",
            "The part of it that is left to say about a sample when its latent is known: what the "
            "reconstruction misses.",
        ),
        Figure(
            "Rate",
            f"{number(report.rate)} nats",
            "The other part: what it costs to say the latent, and so how much the latent tells of a sample.",
        ),
        Figure(
            f"nlog P(x), {report.draws} draws",
            f"{number(report.nlog_p_x)} nats",
            "The importance-weighted bound: closer to the true nlog P(x) the more draws it is made of. At "
            f"least what it lies below the free energy, {number(report.free_energy - report.nlog_p_x)} nats, is due to "
            "the encoder, whose Q does not fit each sample.",
        ),
    ]
    if report.bits_per_dim is not None:
        bits = _with_error(report.bits_per_dim, report.bits_per_dim_standard_error, "bits", digits=4)
        meaning = "The free energy as the length of a code, for each number of a sample."
        found.insert(1, Figure("Bits per dimension", bits, meaning))
    for codec, cost in report.codecs_bits_per_dim.items():
        streamed = "" if codec in {"png", "webp"} else ", all of them as one stream"
        meaning = f"What {codec} makes of the same images{streamed}: to hold the bits per dimension against."
        found.append(Figure(codec, f"{cost:.4f} bits per dimension", meaning))
    found.append(
        Figure(
            "Active dimensions",
            f"{report.active_units} of {report.latent}",
            "Dimensions of the latent whose mean differs from sample to sample, by a variance of more than 0.01. The "
            "others carry nothing.",
        )
    )
    if report.scales_at_floor is not None:
        meaning = (
            "The share of the noise's scales that lie at the least that is allowed: there the model would be surer."
        )
        found.append(Figure("Scales at their floor", f"{report.scales_at_floor:.2%}", meaning))
    return found


def _with_error(value: float, error: float | None, unit: str, digits: int = 2) -> str:
    said = f"{value:,.{digits}f}"
    return f"{said} {unit}" if error is None else f"{said} ± {error:,.{digits}f} {unit}"
