"""Warnings about a trained model, for the report and the service: what is likely to be wrong, and the remedy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from model.checkpoint import Checkpoint, Provenance
from model.record import EpochRecord

#: Share of the decoder's scales at their lower bound above which a model gets a warning.
MAX_SHARE_AT_FLOOR = 0.05
#: Rise of held-out free energy after its minimum that counts as overfitting, as a share of its fall before.
MAX_RELATIVE_RISE = 0.02
#: Difference in free energy, in standard errors, above which evaluated and held-out data are called different.
MAX_STANDARD_ERRORS = 5
#: Number of column names that a warning lists.
MAX_LISTED_COLUMNS = 5


class ModelWarning(NamedTuple):
    """One warning: a stable code for programs, a title and an explanation for people."""

    code: str
    title: str
    text: str


def checkpoint_warnings(checkpoint: Checkpoint) -> list[ModelWarning]:
    """Warnings about a loaded model, from its card, its calibration and its gallery."""
    card, gallery = checkpoint.card, checkpoint.gallery
    warnings = model_warnings(
        card.evaluation,
        gallery.learning if gallery is not None else (),
        latent=checkpoint.vae.config.latent,
        active_units=gallery.active_units if gallery is not None else None,
        training=card.training,
    )
    if checkpoint.calibration is None:
        text = "Scores have no p-values until vae calibrate has run."
        warnings.append(ModelWarning("not_calibrated", "The model is not calibrated", text))
    if card.evaluation is None:
        text = "Its quality on new data is unknown. Run vae evaluate --save to measure it."
        warnings.append(ModelWarning("not_evaluated", "The model has not been evaluated", text))
    return warnings


def model_warnings(
    evaluation: Mapping[str, Any] | None,
    epochs: Sequence[EpochRecord],
    *,
    latent: int,
    active_units: int | None = None,
    training: Provenance | None = None,
) -> list[ModelWarning]:
    """Warnings from a report as `Report.plain` gives it (its `active_units`, if None) and from a training history."""
    evaluation = evaluation or {}
    active_units = evaluation.get("active_units") if active_units is None else active_units
    return [
        *_evaluated_samples(evaluation),
        *_unused_capacity(active_units, latent, evaluation.get("scales_at_floor")),
        *_overfitting(epochs),
        *_worse_than_pca(evaluation.get("quality")),
        *_different_data(evaluation, training),
    ]


def _evaluated_samples(evaluation: Mapping[str, Any]) -> Iterator[ModelWarning]:
    """Warn if training has used the evaluated samples."""
    portion = evaluation.get("portion")
    if portion == "held_out":
        yield ModelWarning(
            "evaluated_on_held_out",
            "The evaluated samples also chose the best epoch",
            "Training set no samples aside, so the evaluation used those held out to choose the best epoch. Its "
            "figures are slightly too good. Evaluate on other data, or train with --set-aside.",
        )
    scores = {name for run in evaluation.get("detection") or () for areas in run["auroc"].values() for name in areas}
    calibrated = [name for name in ("typicality", "free_energy_two_sided") if name in scores]
    if portion == "set_aside" and calibrated:
        yield ModelWarning(
            "evaluated_on_calibration",
            f"The evaluated samples also calibrated {' and '.join(calibrated)}",
            "The evaluation used the samples that training set aside, which calibrate these scores. Detection of "
            "outliers by them is slightly too good; all other figures are unaffected.",
        )


def _unused_capacity(active_units: int | None, latent: int, at_floor: float | None) -> Iterator[ModelWarning]:
    if active_units == 0:
        yield ModelWarning(
            "collapsed_latent",
            "The latent has collapsed",
            "No latent dimension carries information about an input. The decoder ignores the latent, so "
            "reconstructions, the map and latents are meaningless. Train with a larger --auxiliary (for bytes), a "
            "smaller decoder, or longer.",
        )
    elif active_units is not None and active_units < latent:
        yield ModelWarning(
            "inactive_dimensions",
            f"{latent - active_units} of {latent} latent dimensions are inactive",
            "They carry no information and only cost time. A smaller --latent would do as well.",
        )
    if at_floor is not None and at_floor > MAX_SHARE_AT_FLOOR:
        yield ModelWarning(
            "scales_at_floor",
            f"{at_floor:.0%} of the decoder's scales are at their lower bound",
            "The lower bound decides much of the free energy. Look for columns or pixels that never vary or follow "
            "from others; if they are correct, lower --min-scale.",
        )


def _worse_than_pca(quality: Mapping[str, Any] | None) -> Iterator[ModelWarning]:
    """Warn if PCA with as many components reconstructs better."""
    if not quality or quality["pca_explained"] is None or quality["explained"] >= quality["pca_explained"]:
        return
    yield ModelWarning(
        "worse_than_pca",
        "Reconstructions are worse than those of PCA",
        f"They explain {quality['explained']:.1%} of the variance, and PCA with {quality['components']} components, "
        f"one for each latent dimension in use, {quality['pca_explained']:.1%}. The latent says little of what an "
        "input looks like, whatever the free energy. Train longer, or with a larger --auxiliary (for bytes).",
    )


def overfits(epochs: Sequence[EpochRecord]) -> bool:
    """True if held-out free energy rose after its minimum while the training free energy went on falling."""
    if not epochs:
        return False
    first, last, best = epochs[0], epochs[-1], min(epochs, key=lambda epoch: epoch.free_energy)
    rise, fall = last.free_energy - best.free_energy, first.free_energy - best.free_energy
    return rise > 0 and rise > MAX_RELATIVE_RISE * fall and last.train_free_energy < best.train_free_energy


def _overfitting(epochs: Sequence[EpochRecord]) -> Iterator[ModelWarning]:
    if overfits(epochs):
        last, best = epochs[-1], min(epochs, key=lambda epoch: epoch.free_energy)
        yield ModelWarning(
            "overfitting",
            "Training continued into overfitting",
            f"Free energy on the held-out samples was lowest after epoch {best.epoch} of {last.epoch} "
            f"({best.free_energy:,.2f} nats) and rose to {last.free_energy:,.2f}, while training free energy fell. "
            f"The saved model is that of epoch {best.epoch}, so only time was lost. More data or a larger "
            "--weight-decay may give a better model.",
        )


def _different_data(evaluation: Mapping[str, Any], training: Provenance | None) -> Iterator[ModelWarning]:
    """Warn if the evaluated data has a significantly higher free energy than the data held out in training."""
    held_out = training.held_out_scores.get("free_energy") if training else None
    mean, error = evaluation.get("free_energy"), evaluation.get("free_energy_standard_error")
    if held_out is None or mean is None or error is None or mean - held_out <= MAX_STANDARD_ERRORS * error:
        return
    yield ModelWarning(
        "different_data",
        "The evaluated data has a higher free energy than the data held out in training",
        f"{mean:,.2f} against {held_out:,.2f} nats, more than {MAX_STANDARD_ERRORS} standard errors apart. It differs "
        "in kind from the training data, or contains samples that do.",
    )


def unlearned_columns(columns: Sequence[str]) -> Iterator[ModelWarning]:
    """Warn about columns that a reconstruction predicts no better than their mean does."""
    if not columns:
        return
    rest = len(columns) - MAX_LISTED_COLUMNS
    listed = ", ".join(columns[:MAX_LISTED_COLUMNS]) + (f" and {rest} more" if rest > 0 else "")
    yield ModelWarning(
        "unlearned_columns",
        f"Nothing is learned about {len(columns)} column{'s' if len(columns) > 1 else ''}",
        f"The mean over these samples predicts each of these columns as well as the model does: {listed}. Either no "
        "other column is related to it, or the latent is too small.",
    )
