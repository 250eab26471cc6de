"""Every figure of a report has its unit and its meaning."""

from dataclasses import replace
from typing import Any

import pytest

from model.report import text as words
from model.report.evaluation import Report, evaluate
from model.report.text import figures, short
from model.scoring import detection
from tests.support.data import Memory, rows, stripes
from tests.support.models import CONFIGS, build


def report(name: str, **changes: Any) -> Report:
    data = CONFIGS[name].data
    samples = rows(30) if data.kind == "vector" else stripes(30, data.shape)
    return replace(evaluate(build(name), Memory(samples), draws=2).report, **changes)


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


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.00020381, "0.0002038"), (69_676.2, "69,676"), (-12_345.6, "-12,346"), (3e9, "3e+09"), (0.0, "0")],
)
def test_values_of_columns_are_short(value: float, said: str) -> None:
    assert short(value) == said


def test_every_score_has_a_meaning() -> None:
    assert words.SCORES.keys() == set(detection.SCORES)
