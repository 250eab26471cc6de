"""Every figure has its meaning, and every warning is given where it holds and nowhere else."""

from dataclasses import replace
from typing import Any

import pytest

from model.checkpoint import Card
from model.report import text as words
from model.report.evaluation import Report, evaluate
from model.report.text import figures, overfits, short, unlearned, warnings
from model.scoring import detection
from model.scoring.detection import Detection
from model.training.record import EpochRecord
from tests.conftest import CONFIGS, build, epoch_record
from tests.model.conftest import Memory, provenance, rows, stripes

CARD = Card(name="x", created="2024-01-01")
RECORD = epoch_record(1, 10.0, 8.0, 2.0, None, 11.0, 1e-3, 1.0, 100.0)


def report(name: str, **changes: Any) -> Report:
    data = CONFIGS[name].data
    samples = rows(30) if data.kind == "vector" else stripes(30, data.shape)
    return replace(evaluate(build(name), Memory(samples), draws=2).report, **changes)


def trained(free_energy: float | None) -> Card:
    """The card of a model that had this on the data held out in training."""
    training = provenance(held_out_scores={"free_energy": free_energy})
    return CARD.model_copy(update={"training": training})


def course(*pairs: tuple[float, float]) -> list[EpochRecord]:
    """Epochs by free energy, held out and in training."""
    return [
        RECORD.model_copy(update={"epoch": epoch, "free_energy": float(held_out), "train_free_energy": float(fit)})
        for epoch, (held_out, fit) in enumerate(pairs, 1)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_figure_of_a_report_is_there_with_its_unit_and_meaning(name: str) -> None:
    found = report(name)
    said = {figure.name: figure for figure in figures(found)}
    assert all(figure.meaning.endswith(".") and figure.value for figure in said.values())
    assert said["Free energy"].value == f"{found.free_energy:,.2f} ± {found.free_energy_standard_error:,.2f} nats"
    assert said["Active dimensions"].value == f"{found.active_units} of {found.latent}"
    assert ("Bits per dimension" in said) == (CONFIGS[name].likelihood.name != "gaussian")
    assert ("Scales at their floor" in said) == (CONFIGS[name].likelihood.name != "bernoulli")
    assert ({"png", "webp", "gzip", "bz2", "xz"} <= said.keys()) == (CONFIGS[name].likelihood.name == "discretized")


def test_a_single_sample_has_no_error() -> None:
    found = report("table-mlp-gaussian", free_energy_standard_error=None)
    assert "±" not in figures(found)[0].value


SOUND = {"active_units": 4, "latent": 4, "scales_at_floor": 0.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"active_units": 0}, ["The latent is collapsed"]),
        ({"active_units": 3}, ["1 of 4 dimensions of the latent are inactive"]),
        ({"scales_at_floor": 0.04}, []),
        ({"scales_at_floor": 0.25}, ["25% of the scales lie at their floor"]),
        ({"scales_at_floor": None}, []),
        ({"active_units": 1, "scales_at_floor": 1.0}, ["3 of 4", "100% of the scales"]),
    ],
    ids=str,
)
def test_a_latent_or_a_scale_that_is_not_as_it_should_be_is_told(changes: dict[str, Any], said: list[str]) -> None:
    found = warnings(report("grey-mlp-discretized", **{**SOUND, **changes}), [], CARD)
    assert len(found) == len(said)
    for warning, title in zip(found, said, strict=True):
        assert title in warning.title and warning.text


@pytest.mark.parametrize(
    ("records", "over"),
    [
        ([], False),
        (course((100, 100)), False),
        (course((100, 100), (50, 50), (40, 40)), False),
        (course((100, 100), (50, 50), (60, 40)), True),
        # It climbs by less than a fiftieth of the way down; or in training too, which is chance and no overfitting.
        (course((100, 100), (50, 50), (50.5, 40)), False),
        (course((100, 100), (50, 50), (60, 60)), False),
        # Densities can be negative.
        (course((0, 0), (-50, -50), (-45, -60)), True),
        (course((5, 5), (6, 4)), True),
    ],
    ids=str,
)
def test_training_that_overfits_is_told(records: list[EpochRecord], over: bool) -> None:
    assert overfits(records) is over
    found = warnings(report("grey-mlp-discretized", **SOUND), records, CARD)
    assert [warning.title for warning in found] == ["Training went on into overfitting"] * over
    if over:
        assert f"after epoch {min(records, key=lambda r: r.free_energy).epoch} of {len(records)}" in found[0].text


@pytest.mark.parametrize(
    ("before", "error", "said"), [(90.0, 1.0, 1), (96.0, 1.0, 0), (120.0, 1.0, 0), (90.0, None, 0), (None, 1.0, 0)]
)
def test_data_that_costs_more_than_in_training_is_told(before: float | None, error: float | None, said: int) -> None:
    made = report("grey-mlp-discretized", **SOUND, free_energy=100.0, free_energy_standard_error=error)
    found = warnings(made, [], trained(before))
    assert len(found) == said
    if said:
        assert "100.00 against 90.00 nats" in found[0].text


def test_samples_that_the_training_has_used_are_warned_of() -> None:
    name = "table-mlp-gaussian"
    typical = Detection(1, 0, 0, 10, {"noise": 5}, {"noise": {"free_energy": 0.5, "typicality": 0.5}})
    plain = replace(typical, auroc={"noise": {"free_energy": 0.5}})

    def titles(**changes: Any) -> set[str]:
        return {alarm.title for alarm in warnings(report(name, **changes), [], CARD)}

    usual = titles()
    assert titles(portion="held_out") - usual == {"These samples have chosen the model"}
    assert titles(portion="set_aside", detection=[plain]) == usual
    assert titles(portion="set_aside", detection=[typical]) - usual == {"These very samples have calibrated typicality"}
    assert titles(detection=[typical]) == usual
    both = replace(typical, auroc={"noise": {"typicality": 0.5}, "flips": {"free_energy_two_sided": 0.5}})
    assert titles(portion="set_aside", detection=[both]) - usual == {
        "These very samples have calibrated typicality and free_energy_two_sided"
    }


def test_columns_of_which_nothing_is_learned_are_named() -> None:
    (alarm,) = unlearned(["age"])
    assert alarm.title == "Nothing is learned of 1 column" and "as well: age." in alarm.text
    (alarm,) = unlearned(list("abcdefgh"))
    assert alarm.title == "Nothing is learned of 8 columns" and "a, b, c, d, e and 3 more" in alarm.text
    assert unlearned([]) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.00020381, "0.0002038"), (69_676.2, "69,676"), (-12_345.6, "-12,346"), (3e9, "3e+09"), (0.0, "0")],
)
def test_values_of_columns_are_short(value: float, said: str) -> None:
    assert short(value) == said


def test_every_score_has_a_meaning() -> None:
    assert words.SCORES.keys() == set(detection.SCORES)
