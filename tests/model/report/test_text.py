"""Rows of the report: values, units and meanings."""

from dataclasses import replace
from typing import Any

import pytest

from model.report.evaluation import Report, evaluate
from model.report.text import SCORES, report_rows, short
from model.scoring import detection
from tests.support.data import Memory, rows, stripes
from tests.support.models import CONFIGS, build


def report(name: str, **changes: Any) -> Report:
    data = CONFIGS[name].data
    samples = rows(30) if data.kind == "vector" else stripes(30, data.shape)
    return replace(evaluate(build(name), Memory(samples), draws=2).report, **changes)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_have_values_units_and_meanings(name: str) -> None:
    evaluated = report(name)
    by_name = {row.name: row for row in report_rows(evaluated)}
    assert all(row.meaning.endswith(".") and row.value for row in by_name.values())
    assert (
        by_name["Free energy"].value
        == f"{evaluated.free_energy:,.2f} ± {evaluated.free_energy_standard_error:,.2f} nats"
    )
    assert by_name["Active dimensions"].value == f"{evaluated.active_units} of {evaluated.latent}"
    assert ("Bits per dimension" in by_name) == (CONFIGS[name].likelihood.name != "gaussian")
    assert ("Scales at their floor" in by_name) == (CONFIGS[name].likelihood.name != "bernoulli")
    assert ({"png", "webp", "gzip", "bz2", "xz"} <= by_name.keys()) == (CONFIGS[name].likelihood.name == "discretized")


def test_a_single_sample_has_no_error() -> None:
    rows = report_rows(report("table-mlp-gaussian", free_energy_standard_error=None))
    assert "±" not in rows[0].value


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.00020381, "0.0002038"), (69_676.2, "69,676"), (-12_345.6, "-12,346"), (3e9, "3e+09"), (0.0, "0")],
)
def test_short_has_four_digits(value: float, expected: str) -> None:
    assert short(value) == expected


def test_every_score_has_a_meaning() -> None:
    assert SCORES.keys() == set(detection.SCORES)
