"""Rows of the report's table of figures, each with its meaning in plain words."""

from typing import NamedTuple

from model.report.evaluation import Report
from model.report.quality import Quality

#: Meaning of each score that detects outliers, by its name in the interface.
SCORES = {
    "typicality": "how atypical the latent, the costs and the complexity of a sample are, taken together",
    "free_energy": "the cost of a sample",
    "free_energy_two_sided": "how unusual that cost is, whether too high or too low",
    "distortion": "the cost of a sample when its latent is known",
    "rate": "the cost of its latent",
    "cross_entropy": "the cost of its latent under the prior: rate plus entropy",
    "entropy": "the uncertainty of Q about the latent",
    "nlog_p_x": "the importance-weighted bound on the cost of a sample",
    "inference_gap": "the free energy minus that bound",
    "regret": "the free energy that gradient descent on Q saves, starting at the encoder's Q",
}


class ReportRow(NamedTuple):
    """One row of the table."""

    name: str
    value: str
    meaning: str


def number(value: float) -> str:
    """Format a score with two decimals.

    >>> number(1234.567)
    '1,234.57'
    """
    return f"{value:,.2f}"


def short(value: float) -> str:
    """Format a value of a column with four significant digits, or without decimals from 10,000 to 10 million.

    >>> short(0.123456), short(69_676.2)
    ('0.1235', '69,676')
    """
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def tiles(report: Report) -> list[tuple[str, str]]:
    """Name and value of the main figures."""
    bits = report.bits_per_dim
    return [
        ("Free energy, nats", number(report.free_energy)),
        *([] if bits is None else [("Bits per dimension", f"{bits:.4f}")]),
        ("Distortion, nats", number(report.distortion)),
        ("Rate, nats", number(report.rate)),
        ("Active dimensions", f"{report.active_units} of {report.latent}"),
    ]


def report_rows(report: Report) -> list[ReportRow]:
    """The figures of a report, with the meaning of each."""
    density = (
        ""
        if report.bits_per_dim is not None
        else " It is that of a density: its zero depends on the units of the data, so that it may be negative and "
        "compares only samples, and models, of this data."
    )
    rows = [
        ReportRow(
            "Free energy",
            _with_error(report.free_energy, report.free_energy_standard_error, "nats"),
            "Mean cost of a sample: an upper bound on nlog P(x), how improbable the model finds it. Lower is better. "
            f"± is the standard error over the samples.{density}",
        ),
        ReportRow(
            "Distortion",
            f"{number(report.distortion)} nats",
            "The part of the free energy that describes a sample when its latent is known: the details that the "
            "reconstruction lacks.",
        ),
        ReportRow(
            "Rate",
            f"{number(report.rate)} nats",
            "The other part: the cost of the latent, and so the information that it carries about a sample.",
        ),
        ReportRow(
            f"nlog P(x), {report.draws} draws",
            f"{number(report.nlog_p_x)} nats",
            "The importance-weighted bound: more draws bring it closer to the true nlog P(x). At least its distance "
            f"from the free energy, {number(report.free_energy - report.nlog_p_x)} nats, is due to the encoder, whose "
            "Q does not fit each sample.",
        ),
    ]
    if report.bits_per_dim is not None:
        bits = _with_error(report.bits_per_dim, report.bits_per_dim_standard_error, "bits", digits=4)
        rows.insert(1, ReportRow("Bits per dimension", bits, "Free energy as a code length for each number."))
    for codec, cost in report.codecs_bits_per_dim.items():
        stream = "" if codec in {"png", "webp"} else ", all of them as one stream"
        meaning = f"Size of the same images in {codec}{stream}, to compare with the bits per dimension."
        rows.append(ReportRow(codec, f"{cost:.4f} bits per dimension", meaning))
    meaning = (
        "Latent dimensions whose mean differs between samples, with a variance above 0.01. The others carry no "
        "information."
    )
    rows.append(ReportRow("Active dimensions", f"{report.active_units} of {report.latent}", meaning))
    if report.scales_at_floor is not None:
        meaning = "Share of the decoder's scales at their lower bound, where the model would predict more precisely."
        rows.append(ReportRow("Scales at their floor", f"{report.scales_at_floor:.2%}", meaning))
    return [*rows, *(quality_rows(report.quality) if report.quality else [])]


def quality_rows(quality: Quality) -> list[ReportRow]:
    """Quality of reconstructions and samples, with the meaning of each figure."""
    pca = f"PCA with {quality.components} components, one for each latent dimension in use (above 0.1 nats of KL),"
    rows = []
    if quality.psnr is not None:
        beside = "" if quality.pca_psnr is None else f" {pca} has {quality.pca_psnr:.1f} dB."
        meaning = f"Peak signal-to-noise ratio of reconstructions, mean over images; higher is closer.{beside}"
        rows.append(ReportRow("PSNR", f"{quality.psnr:.1f} dB", meaning))
    if quality.ssim is not None:
        meaning = "Structural similarity of images and reconstructions, from windows of 7 x 7 pixels; 1 is the same."
        rows.append(ReportRow("SSIM", f"{quality.ssim:.3f}", meaning))
    beside = "" if quality.pca_explained is None else f" {pca} explains {quality.pca_explained:.1%}."
    meaning = f"Share of the variance of the samples that their reconstructions explain.{beside}"
    rows.append(ReportRow("Variance explained", f"{quality.explained:.1%}", meaning))
    if quality.frechet is not None:
        meaning = (
            "Fréchet distance between draws of the prior and these samples, in the means that the model's own encoder "
            "gives to both. It compares priors of one encoder, not models."
        )
        rows.append(ReportRow("Fréchet distance", f"{quality.frechet:.3g}", meaning))
    if quality.precision is not None and quality.recall is not None:
        meaning = (
            "Precision: share of the prior's draws that lie among these samples. Recall: share of these samples that "
            "lie among the draws. By nearest neighbours of the same means."
        )
        rows.append(ReportRow("Precision, recall", f"{quality.precision:.1%}, {quality.recall:.1%}", meaning))
    if quality.gaussian_gain is not None:
        meaning = (
            "What a Gaussian fitted to the latents of these samples would save against the prior. Where it is clearly "
            "above 0, a flow would save as much at least: vae prior."
        )
        rows.append(ReportRow("Gaussian instead of the prior", f"{quality.gaussian_gain:+.2f} nats", meaning))
    return rows


def _with_error(value: float, error: float | None, unit: str, digits: int = 2) -> str:
    return f"{value:,.{digits}f}{'' if error is None else f' ± {error:,.{digits}f}'} {unit}"
