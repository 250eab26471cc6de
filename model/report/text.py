"""What the figures of a report mean, and what to be warned of, in plain words."""

from collections.abc import Sequence
from typing import NamedTuple

from model.checkpoint import Card
from model.report.evaluation import Report
from model.training.record import EpochRecord

#: The share of scales at their floor, and of the whole descent that held-out free energy climbs back, to be warned of.
HELD_UP, CLIMBED = 0.05, 0.02
#: Standard errors by which this data may cost more than what was held out in training.
FAR = 5


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


class Alarm(NamedTuple):
    """Something that is likely to be wrong with the model, and what to do."""

    title: str
    text: str


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


def warnings(report: Report, records: Sequence[EpochRecord], card: Card) -> list[Alarm]:
    """What holds of these figures and of this training."""
    found = [*_used(report)]
    if report.active_units == 0:
        found.append(
            Alarm(
                "The latent is collapsed",
                "No dimension of the latent tells anything of a sample: the decoder does without it, and "
                "reconstructions, maps and latents mean nothing. Train with a larger --auxiliary (for bytes), a "
                "smaller decoder, or longer.",
            )
        )
    elif report.active_units < report.latent:
        idle = report.latent - report.active_units
        found.append(
            Alarm(
                f"{idle} of {report.latent} dimensions of the latent are inactive",
                "They carry nothing, and do little harm beyond their cost: a smaller --latent would do as well.",
            )
        )
    if report.scales_at_floor is not None and report.scales_at_floor > HELD_UP:
        found.append(
            Alarm(
                f"{report.scales_at_floor:.0%} of the scales lie at their floor",
                "The model would be surer than it is allowed to be, so the floor decides much of the free energy. Look "
                "for columns or pixels that never vary or follow from others; where they are right, lower --min-scale.",
            )
        )
    if overfits(records):
        best = min(records, key=lambda record: record.free_energy)
        found.append(
            Alarm(
                "Training went on into overfitting",
                f"On the samples held out to choose the epoch, free energy was lowest after epoch {best.epoch} of "
                f"{records[-1].epoch} ({number(best.free_energy)} nats) and rose to "
                f"{number(records[-1].free_energy)}, while that in training fell. It cost time and nothing else: the "
                "best epoch is the one that was kept. A model that overfits later, with more data or a larger "
                "--weight-decay, may well be better.",
            )
        )
    found += _shifted(report, card)
    return found


def overfits(records: Sequence[EpochRecord]) -> bool:
    """Whether held-out free energy climbed from its lowest while that in training went on falling."""
    if not records:
        return False
    first, last, best = records[0], records[-1], min(records, key=lambda record: record.free_energy)
    climbed = last.free_energy - best.free_energy
    fell = first.free_energy - best.free_energy
    return climbed > CLIMBED * fell and climbed > 0 and last.train_free_energy < best.train_free_energy


def _used(report: Report) -> list[Alarm]:
    """What the training has done with these very samples."""
    if report.portion == "held_out":
        return [
            Alarm(
                "These samples have chosen the model",
                "They are of the data of the training itself, which set nothing aside: those that it held out to "
                "choose the best epoch by, so that the figures flatter the model a little. Judge it on other data, or "
                "train with --set-aside.",
            )
        ]
    areas = [by for one in report.detection for by in one.auroc.values()]
    touched = [name for name in ("typicality", "free_energy_two_sided") if any(name in by for by in areas)]
    if report.portion == "set_aside" and touched:
        return [
            Alarm(
                f"These very samples have calibrated {' and '.join(touched)}",
                "They are what the training set aside, and such scores are measured from theirs: they tell outliers "
                "from them a little better than from data that is new. Other figures are not touched by that.",
            )
        ]
    return []


def _shifted(report: Report, card: Card) -> list[Alarm]:
    before = card.training.held_out_scores.get("free_energy") if card.training else None
    error = report.free_energy_standard_error
    if before is None or error is None or report.free_energy - before <= FAR * error:
        return []
    return [
        Alarm(
            "This data costs more than the data that was held out in training",
            f"{number(report.free_energy)} against {number(before)} nats, more than {FAR} standard errors apart: it is "
            "not quite of the same kind, or holds samples that are not.",
        )
    ]


def unlearned(columns: Sequence[str]) -> list[Alarm]:
    """Columns of which the model knows nothing, where there are any."""
    if not columns:
        return []
    shown = ", ".join(columns[:5]) + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")
    return [
        Alarm(
            f"Nothing is learned of {len(columns)} column{'s' if len(columns) > 1 else ''}",
            f"Its mean over these samples would rebuild each of these as well: {shown}. Either nothing else tells of "
            "it, so that there is nothing to learn, or the latent is too small for it.",
        )
    ]
